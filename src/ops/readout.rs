//! `readout`: from the network's output per atom to the energy of each structure.

use super::Real;
use super::table::operation;

operation! {
    "readout":
    /// Sizes of the readout.
    ReadoutSizes {
        /// Atoms, padding included.
        n_atoms,
        /// Structures.
        n_structures,
    }
    /// Arrays of the readout and its VJP.
    ReadoutArrays {
        /// First atom of each structure, and one past its last; atoms of no structure are padding.
        Index U32 atoms_of [n_structures; 2] Both,
        /// Energies of the free atoms, eV.
        Constant F64 references [n_atoms; 1] Forward,
        Input Real outputs [n_atoms; 1] Forward,
        /// eV.
        Output F64 energies [n_structures; 1] Forward,
        Cotangent F64 grad_energies [n_structures; 1] Vjp,
        /// That of padding is left alone.
        Gradient Real grad_outputs [n_atoms; 1] Vjp,
    }
}

/// Scales, shifts and sums atomic outputs into energies, in f64.
///
/// `energies[s] = Σ (energy_scale · outputs[i] + references[i])` over the atoms of structure `s`, in their order.
///
/// IN  `outputs` `[n_atoms]`; `references` `[n_atoms]`, eV, energy of each free atom; `atoms_of` `[n_structures]`, ranges of
///     atoms (atoms in no range are padding).
/// OUT `energies` `[n_structures]`, eV, overwritten.
/// SAVED for the VJP: nothing.
pub fn readout<T: Real>(
    energy_scale: f64,
    outputs: &[T],
    references: &[f64],
    atoms_of: &[std::ops::Range<usize>],
    energies: &mut [f64],
) {
    for (energy, atoms) in energies.iter_mut().zip(atoms_of) {
        let sum: f64 = atoms.clone().map(|i| energy_scale * outputs[i].wide() + references[i]).sum();
        // The sum of nothing is -0.0.
        *energy = sum + 0.0;
    }
}

/// Pulls the cotangent of the energies back to the atomic outputs.
///
/// IN  `grad_energies` `[n_structures]`.   OUT `grad_outputs` `[n_atoms]`, accumulated; padding atoms are left alone.
pub fn readout_vjp<T: Real>(
    energy_scale: f64,
    atoms_of: &[std::ops::Range<usize>],
    grad_energies: &[f64],
    grad_outputs: &mut [T],
) {
    for (&grad, atoms) in grad_energies.iter().zip(atoms_of) {
        for out in &mut grad_outputs[atoms.clone()] {
            *out += T::of(energy_scale * grad);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{Random, assert_close, assert_vjp};

    #[test]
    fn readout_vjp_matches_finite_difference() {
        let references = Random::new(12).array(9, 5.0);
        // Two padding atoms (3, 8), an empty structure.
        let atoms_of = [0..3, 4..8, 8..8];
        let x = Random::new(13).array(9, 1.0);
        assert_vjp(
            &x,
            |x| {
                let mut out = vec![f64::NAN; 3];
                readout(-1.7, x, &references, &atoms_of, &mut out);
                out
            },
            |grad| {
                let mut out = vec![0.0; 9];
                readout_vjp(-1.7, &atoms_of, grad, &mut out);
                out
            },
        );
    }

    #[test]
    fn readout_sums_f32_outputs_in_f64() {
        let mut energy = [0.0];
        readout(1.0, &[1.0_f32, 1e-7], &[-1e5, 0.0], std::slice::from_ref(&(0..2)), &mut energy);
        assert_close("energy", &energy, &[1.0 - 1e5 + f64::from(1e-7_f32)], 1e-10, 0.0);
    }
}
