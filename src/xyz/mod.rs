//! Streaming reader and writer for XYZ and extended XYZ.
//!
//! A file is a series of frames: a line with the number of atoms, a comment line, and one line for each atom. In
//! *extended* XYZ the comment holds `key=value` entries. Of these, `Lattice`, `Properties` and `pbc` (in any case) say
//! how to read the frame. All others are kept as text, and are written again with the frame.
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
//! | containers | plain text, gzip, bzip2, xz, zstd, told apart by their first bytes; several members or streams in a row; `-` is standard input |
//! | padding | zeros after gzip and bzip2 data; zeros in multiples of four after xz data |
//! | line ends | LF, CRLF, CR; the last one may be missing, with a warning; byte order marks before frames are skipped |
//! | blank lines | before, between and after frames, not inside them |
//! | numbers | C, Fortran and Mathematica spellings (`1.5D+01`, `7.6*^-6`, `.5`, `5.`, `+1`) |
//! | elements | symbols in any case, atomic numbers, `D` and `T` as hydrogen; in columns `species`/`symbols` or `Z`/`numbers`, else `element`/`elements`/`symbol` |
//! | column types | in any case; a column whose content does not fit its declared type is read as what it holds, with a warning |
//! | `Lattice` | nine numbers, Å, in quotes or `[…]`, flat or 3×3, one lattice vector after another; nine zeros mean no cell |
//! | other cells | `cell`, `box`, `unit_cell` and the like as nine, six or three numbers, with a warning; i-PI's `CELL(…)` |
//! | units | Å; i-PI's `positions{atomic_unit}` is converted, with a warning; `units=` of another length is refused |
//! | `pbc` | `T`/`F`, `true`/`false`, `1`/`0`; one for all directions, or three. Default: `T T T` with a cell, else `F F F` |
//! | no `Properties` | each line begins with element and position; further columns are kept |
//! | GDB-9 (QM9) | the three lines after the atoms are left out, with a warning |
//! | size | up to 256 MiB of text and 2^23 atoms per frame; [`Reader::with_max_frame`] changes this |
//!
//! Everything else is refused, with a message that has the frame (from 0), the line (from 1), what was found and what
//! was expected.

mod atoms;
mod cell;
mod columns;
mod comment;
mod compression;
mod format;
mod frame;
mod header;
mod input;
mod labels;
mod normalize;
mod number;
mod reader;
mod seen;
mod spares;
mod state;
mod tail;
mod units;
mod writer;

pub use columns::{Column, ColumnType};
pub use format::{Results, Texts, WriteOptions};
pub use frame::{Frame, formula};
pub use labels::{LabelKeys, LabelKind, Labels};
pub use reader::{BadFrame, Item, Reader};
pub use spares::Spares;
pub use writer::Writer;
