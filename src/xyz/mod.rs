//! Streaming reader and writer for XYZ and extended XYZ.
//!
//! A file is a series of frames: a line with the atom count, a comment line, one line an atom. In *extended* XYZ the
//! comment holds `key=value` entries, of which `Lattice`, `Properties` and `pbc` (spelled in any case) say how to read
//! the frame; everything else is carried along as text.
//!
//! ```no_run
//! # fn main() -> mlff::Result<()> {
//! let mut reader = mlff::xyz::Reader::open("trajectory.extxyz.gz")?;
//! let mut writer = mlff::xyz::Writer::create("out.extxyz.zst", false)?;
//! let options = mlff::xyz::WriteOptions::default();
//! while let Some(frame) = reader.next_frame()? {
//!     let results = mlff::xyz::Results { energy: -1.0, ..Default::default() };
//!     writer.write_frame(&frame, Some(&results), &options)?;
//! }
//! writer.finish()
//! # }
//! ```
//!
//! # What is read
//!
//! | | |
//! |---|---|
//! | containers | plain, gzip, bzip2, xz, zstd, by their first bytes; several members or streams in a row; `-` is standard input |
//! | line ends | LF, CRLF, CR; the last one may be missing; UTF-8 byte order mark skipped |
//! | blank lines | before, between and after frames, not inside them |
//! | numbers | C and Fortran spellings (`1.5D+01`, `.5`, `5.`, `+1`) |
//! | elements | symbols in any case, atomic numbers, `D` and `T` as hydrogen; `species`/`symbols` or `Z`/`numbers` columns |
//! | `Lattice` | nine numbers, quoted or `[…]`, flat or 3×3; nine zeros mean no cell |
//! | `pbc` | `T`/`F`, `true`/`false`, `1`/`0`; one for all directions or three. Default: `T T T` with a lattice, else `F F F` |
//! | no `Properties` | element and position first, further columns carried through |
//!
//! All else is refused with the frame (from 0), the line (from 1), what was found and what was expected.

mod atoms;
mod columns;
mod comment;
mod compression;
mod format;
mod frame;
mod input;
mod labels;
mod normalize;
mod number;
mod reader;
mod spares;
mod writer;

pub use columns::{Column, ColumnType};
pub use format::{Results, Texts, WriteOptions};
pub use frame::{Frame, formula};
pub use labels::Labels;
pub use reader::{BadFrame, Item, Reader};
pub use spares::Spares;
pub use writer::Writer;
