//! Training of a PaiNN on energies and forces of a teacher.
//!
//! [`Trainer::step`] takes labelled structures and changes the weights; which structures, with which learning rate and for how
//! long is the caller's. A step gives the same bits for any number of threads.

mod loss;
mod optimizer;
mod step;

pub use loss::{Loss, Losses};
pub use optimizer::Optimizer;
pub use step::{Sample, Trainer};
