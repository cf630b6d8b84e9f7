//! How a model runs: engines over batches of structures.

pub mod adjoint;
#[cfg(feature = "autograd")]
pub mod autograd;
#[cfg(feature = "cuda")]
pub mod cuda;
pub(crate) mod results;

use crate::model::Outside;
use crate::structure::{Mat3, Vec3};
pub use results::Results;

/// Results for one structure. Those that [`Want`](crate::Want) did not ask for are `None`.
///
/// Signs: forces are `-dE/dpositions`, the stress is `(1/V) dE/dstrain`, and the virial is `-dE/dstrain`, so that
/// `virial = -V * stress`.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub struct Evaluation {
    /// Energy, eV.
    pub energy: f64,
    /// Energy of each atom, eV, `[n_atoms]`. Their sum is `energy`.
    pub atomic_energies: Vec<f64>,
    /// Force on each atom, eV/Å, `[n_atoms]`.
    pub forces: Option<Vec<Vec3>>,
    /// Stress, eV/Å³, symmetric. `None` for structures that are not periodic in three directions.
    pub stress: Option<Mat3>,
    /// Virial, eV, symmetric, of any structure.
    pub virial: Option<Mat3>,
    /// Share of each atom in the virial, eV, `[n_atoms]`: half of the outer product of displacement and force of each
    /// of its pairs. A share need not be symmetric; the sum of all is the virial, up to rounding.
    pub atomic_virials: Option<Vec<Mat3>>,
    /// In which ways the structure and its results lie outside of what the model was trained on.
    pub outside: Outside,
}

impl Evaluation {
    /// Name of the first result that is NaN or infinite; `None` if all are finite.
    pub fn non_finite(&self) -> Option<&'static str> {
        if !self.energy.is_finite() {
            Some("the energy")
        } else if self.forces.iter().flatten().flatten().any(|x| !x.is_finite()) {
            Some("a force")
        } else if self.stress.iter().flatten().flatten().any(|x| !x.is_finite()) {
            Some("the stress")
        } else if self
            .virial
            .iter()
            .chain(self.atomic_virials.iter().flatten())
            .flatten()
            .flatten()
            .any(|x| !x.is_finite())
        {
            Some("the virial")
        } else {
            None
        }
    }
}
