//! What training minimises: softened absolute errors of energies and forces.
//!
//! `√(x² + δ²) − δ` is quadratic below δ and linear above, so that a few wrong labels do not decide everything.

use crate::structure::Vec3;

/// The loss of a batch: `forces + energy_weight · energies`.
#[derive(Debug, Clone, Copy, PartialEq)]
#[non_exhaustive]
pub struct Loss {
    /// Weight of the energies' part, √atom Å.
    pub energy_weight: f64,
    /// Error of an energy over the root of its number of atoms up to which the loss is quadratic, eV.
    pub energy_softness: f64,
    /// Error of a force up to which the loss is quadratic, eV/Å.
    pub force_softness: f64,
}

impl Default for Loss {
    fn default() -> Self {
        Loss { energy_weight: 0.1, energy_softness: 0.01, force_softness: 0.05 }
    }
}

/// Parts of a loss, and mean errors.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
#[non_exhaustive]
pub struct Losses {
    /// Mean over structures of the softened error of the energy over the root of the number of atoms, eV.
    pub energy: f64,
    /// Mean over atoms of the softened length of the force's error, eV/Å.
    pub force: f64,
    /// Mean absolute error of energies per atom, eV.
    pub energy_per_atom: f64,
    /// Mean absolute error of the forces' components, eV/Å.
    pub force_component: f64,
}

impl Losses {
    /// Adds another one, of other structures of the same batch.
    pub(super) fn add(&mut self, other: &Self) {
        self.energy += other.energy;
        self.force += other.force;
        self.energy_per_atom += other.energy_per_atom;
        self.force_component += other.force_component;
    }
}

/// Structures and atoms of a whole batch, which means are taken over.
#[derive(Debug, Clone, Copy)]
pub(super) struct Counts {
    pub structures: usize,
    pub atoms: usize,
}

impl Loss {
    /// A structure's part of the batch's loss, and its cotangents: returns that of the energy, 1/eV; writes those of the
    /// forces, Å/eV.
    pub(super) fn of_structure(
        &self,
        [energy, label]: [f64; 2],
        (forces, labels): (impl Iterator<Item = Vec3>, &[Vec3]),
        counts: Counts,
        losses: &mut Losses,
        grad_forces: &mut Vec<Vec3>,
    ) -> f64 {
        let (n_atoms, n_structures) = (labels.len() as f64, counts.structures as f64);
        for (force, label) in forces.zip(labels) {
            let error: Vec3 = std::array::from_fn(|k| force[k] - label[k]);
            let square: f64 = error.iter().map(|x| x * x).sum();
            let root = (square + self.force_softness * self.force_softness).sqrt();
            losses.force += (root - self.force_softness) / counts.atoms as f64;
            losses.force_component += error.iter().map(|x| x.abs()).sum::<f64>() / (3 * counts.atoms) as f64;
            grad_forces.push(error.map(|x| x / (root * counts.atoms as f64)));
        }
        if n_atoms == 0.0 {
            return 0.0;
        }
        let error = energy - label;
        let root = (error * error / n_atoms + self.energy_softness * self.energy_softness).sqrt();
        losses.energy += (root - self.energy_softness) / n_structures;
        losses.energy_per_atom += error.abs() / (n_atoms * n_structures);
        self.energy_weight * error / (n_atoms * root * n_structures)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cotangents_equal_finite_differences() {
        let loss = Loss { energy_weight: 0.3, ..Loss::default() };
        let (forces, labels) = ([[0.1, -0.2, 0.02], [1.0, 0.3, -0.7]], [[0.0, 0.05, 0.01], [0.9, 0.31, -0.6]]);
        let counts = Counts { structures: 3, atoms: 7 };
        let value = |energy: f64, forces: &[Vec3]| {
            let (mut losses, mut grads) = (Losses::default(), Vec::new());
            let grad =
                loss.of_structure([energy, 1.2], (forces.iter().copied(), &labels), counts, &mut losses, &mut grads);
            (losses.force + loss.energy_weight * losses.energy, grad, grads)
        };
        let (_, grad, grads) = value(1.23, &forces);
        let (h, slope) = (1e-6, |above: f64, below: f64| (above - below) / 2e-6);
        approx::assert_abs_diff_eq!(
            grad,
            slope(value(1.23 + h, &forces).0, value(1.23 - h, &forces).0),
            epsilon = 1e-8
        );
        for i in 0..2 {
            for k in 0..3 {
                let at = |h: f64| {
                    let mut moved = forces;
                    moved[i][k] += h;
                    value(1.23, &moved).0
                };
                approx::assert_abs_diff_eq!(grads[i][k], slope(at(h), at(-h)), epsilon = 1e-8);
            }
        }
    }
}
