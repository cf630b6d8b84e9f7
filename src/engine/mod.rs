//! How a model runs: engines over batches of structures.

pub mod adjoint;
pub mod autograd;
pub mod cuda;
mod results;

use crate::model::Outside;
use crate::structure::{Mat3, Vec3};
pub use results::Results;

/// Results for one structure.
#[derive(Debug, Clone, PartialEq)]
pub struct Evaluation {
    /// Energy, eV.
    pub energy: f64,
    /// Energy of each atom, eV, `[n_atoms]`; they sum to `energy`.
    pub atomic_energies: Vec<f64>,
    /// Forces, eV/Å, `[n_atoms]`.
    pub forces: Option<Vec<Vec3>>,
    /// Stress, eV/Å³, symmetric; only for structures periodic in three directions.
    pub stress: Option<Mat3>,
    /// In which ways structure and results lie outside of what the model was trained on.
    pub outside: Outside,
}

impl Evaluation {
    /// Names the first result that is not finite.
    pub fn non_finite(&self) -> Option<&'static str> {
        if !self.energy.is_finite() {
            Some("the energy")
        } else if self.forces.iter().flatten().flatten().any(|x| !x.is_finite()) {
            Some("a force")
        } else if self.stress.iter().flatten().flatten().any(|x| !x.is_finite()) {
            Some("the stress")
        } else {
            None
        }
    }
}
