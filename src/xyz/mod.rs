//! Streaming reader and writer for XYZ and extended XYZ.
