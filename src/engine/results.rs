//! Results of a batch, as the adjoint engines leave them.

use super::Evaluation;
use crate::batch::PackedBatch;
use crate::model::Outside;
use crate::settings::Want;
use crate::structure::{Mat3, Vec3};

/// Results of the batch evaluated last.
#[derive(Debug, Default)]
pub struct Results {
    /// Energy of each structure, eV.
    pub energies: Vec<f64>,
    /// Energy of each atom, eV.
    pub atomic_energies: Vec<f64>,
    /// Gradient of the energy with respect to positions, eV/Å; forces are its negative.
    pub gradients: Vec<Vec3>,
    /// Derivative of each structure's energy with respect to strain, eV; where asked for.
    pub strain_gradients: Vec<Mat3>,
    /// Each atom's share of it, not symmetric; where asked for.
    pub virials: Vec<Mat3>,
}

impl Results {
    /// Results of one structure.
    pub fn evaluation(&self, batch: &PackedBatch, s: usize, want: Want) -> Evaluation {
        let atoms = batch.atoms_of(s);
        // 0 − x, not −x: an isolated atom's force reads 0, not -0.
        let force = |gradient: &Vec3| gradient.map(|x| 0.0 - x);
        Evaluation {
            energy: self.energies[s],
            atomic_energies: self.atomic_energies[atoms.clone()].to_vec(),
            forces: want.forces.then(|| self.gradients[atoms.clone()].iter().map(force).collect()),
            stress: self.stress(batch, s).filter(|_| want.stress),
            virial: self.virial(s).filter(|_| want.virial),
            atomic_virials: want.atomic_virials.then(|| self.virials[atoms].iter().map(negative).collect()),
            outside: Outside::default(),
        }
    }

    /// Stress, eV/Å³, of one structure, where it was asked for and is defined.
    pub fn stress(&self, batch: &PackedBatch, s: usize) -> Option<Mat3> {
        let volume = batch.volumes[s]?;
        self.strain_gradients.get(s).map(|strain| strain.map(|row| row.map(|x| x / volume)))
    }

    /// Virial, eV, of one structure, where it was asked for.
    pub fn virial(&self, s: usize) -> Option<Mat3> {
        self.strain_gradients.get(s).map(negative)
    }

    /// Makes room for what the atoms contribute.
    pub(super) fn resize(&mut self, n_atoms: usize, gradients: bool, virials: bool) {
        self.atomic_energies.resize(n_atoms, 0.0);
        self.gradients.resize(if gradients { n_atoms } else { 0 }, [0.0; 3]);
        self.virials.resize(if virials { n_atoms } else { 0 }, [[0.0; 3]; 3]);
    }

    /// Sums what the atoms contributed, in their order.
    pub(super) fn collect(&mut self, batch: &PackedBatch) {
        self.energies.resize(batch.n_structures(), 0.0);
        self.strain_gradients.resize(if self.virials.is_empty() { 0 } else { batch.n_structures() }, [[0.0; 3]; 3]);
        for (s, energy) in self.energies.iter_mut().enumerate() {
            // The sum of nothing is -0.0.
            *energy = self.atomic_energies[batch.atoms_of(s)].iter().sum::<f64>() + 0.0;
        }
        for (s, strain) in self.strain_gradients.iter_mut().enumerate() {
            let mut sum = [[0.0; 3]; 3];
            for virial in &self.virials[batch.atoms_of(s)] {
                for (sum, row) in sum.iter_mut().zip(virial) {
                    for (sum, x) in sum.iter_mut().zip(row) {
                        *sum += x;
                    }
                }
            }
            // The derivative along a symmetric strain.
            *strain = std::array::from_fn(|a| std::array::from_fn(|b| 0.5 * (sum[a][b] + sum[b][a])));
        }
    }
}

/// A virial of its derivative; zeros keep their sign.
pub(crate) fn negative(gradient: &Mat3) -> Mat3 {
    gradient.map(|row| row.map(|x| 0.0 - x))
}
