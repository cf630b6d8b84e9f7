//! Batches: several structures with their edges in one set of arrays.
//!
//! A structure's positions go one way: checked, searched, looked through for atoms that are too close, and written to where the
//! engine reads them, all by [`Preparer`].

mod check;
mod contacts;
mod packed;
mod padded;
mod prepare;

pub(crate) use check::{check, check_edges};
pub use contacts::MIN_DISTANCE;
pub(crate) use contacts::{Contacts, check_images};
pub use packed::PackedBatch;
pub use padded::{PaddedBatch, size_buckets};
pub use prepare::{Prepared, Preparer};
