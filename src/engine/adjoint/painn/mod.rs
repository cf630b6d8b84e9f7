//! PaiNN for the adjoint engine: its weights, what it keeps, and its list of operations.
//!
//! ```text
//! edge_geometry → radial_basis → filters → [message, update] × L → readout
//! readout_vjp → [update_vjp, message_vjp] × L reversed → edge_geometry_vjp
//! ```
//!
//! Work saved: the first layer's interaction context is a table of the species, its vectors are zero, and the last layer's
//! vectors are not updated.

mod gradients;
mod stages;
mod sums;
mod weights;
mod workspace;

pub use gradients::GradientWorkspace;
pub(super) use gradients::weight_gradients;
pub(super) use stages::PainnStages;
pub use sums::WeightSums;
pub(super) use weights::Weights;
pub use workspace::Workspace;
