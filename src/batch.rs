//! Batches: several structures with their edges in one set of arrays.
//!
//! A structure's positions go one way: checked, searched, looked through for atoms that are too close, and written to where the
//! engine reads them, all by [`Preparer`].

mod contacts;
mod packed;
mod padded;
mod prepare;
mod prepared;

pub use contacts::MIN_DISTANCE;
pub(crate) use contacts::{Contacts, check_images};
pub use packed::PackedBatch;
pub use padded::{PaddedBatch, size_buckets};
pub use prepare::Preparer;
pub use prepared::Prepared;
#[cfg(feature = "cuda")]
pub(crate) use prepared::check_edges;
