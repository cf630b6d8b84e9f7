//! Evaluations against the results that came with a model's weights.

use std::path::Path;
use std::sync::Arc;

use mlff::Want;
use mlff::model::import::{ImportOptions, Source, import};
use mlff::{BatchSize, Precision};
use mlff::{Model, Potential, Structure};

use super::{Case, cases, reference, worst};

/// Largest errors of energy (eV; relative to larger ones in f64), forces (eV/Å) and stress (eV/Å³).
pub const F64: [f64; 3] = [1e-9, 1e-8, 1e-9];
/// The same in f32, absolute.
pub const F32: [f64; 3] = [2e-5, 1e-4, 1e-5];

pub fn load(folder: &Path) -> Arc<Model> {
    let (source, file) = if folder.join("schnetpack_state_dict.safetensors").exists() {
        (Source::SchNetPack, "schnetpack_state_dict.safetensors")
    } else {
        (Source::Distiller, "model.safetensors")
    };
    Arc::new(import(source, &folder.join(file), &ImportOptions::default()).unwrap())
}

/// Holds every case of a model, alone and in one batch, to the limits for the precision.
pub fn check(name: &str, precision: Precision, make: impl Fn(&Arc<Model>) -> Potential) {
    let [energy, force, stress] = if precision == Precision::F64 { F64 } else { F32 };
    let Some(folder) = reference(name) else {
        eprintln!("SKIPPED: the weights of {name} are another project's and are not in this repository");
        return;
    };
    let model = load(&folder);
    let cases: Vec<Case> = cases(&folder);
    assert!(cases.len() >= 15, "{name} has {} cases", cases.len());
    let structures: Vec<Structure> = cases.iter().map(Case::structure).collect();
    let mut summary = [0.0_f64; 3];
    for batch in [1, structures.len()] {
        let potential = make(&model).with_batch_size(BatchSize::Structures(batch));
        for (k, (case, got)) in cases.iter().zip(potential.evaluate(&structures, Want::ALL)).enumerate() {
            let got = got.unwrap();
            let what = format!("{name}, case {k} ({}), batch {batch}", case.symbols.concat());
            let error = (got.energy - case.energy).abs();
            // In f64 the limit scales with the energy, in f32 it is absolute.
            let scale = if precision == Precision::F64 { case.energy.abs().max(1.0) } else { 1.0 };
            assert!(error <= energy * scale, "{what}: energy off by {error:e}");
            let forces = worst(got.forces.as_ref().unwrap().as_flattened(), case.forces.as_flattened());
            assert!(forces <= force, "{what}: forces off by {forces:e}");
            assert_eq!(got.stress.is_some(), case.pbc == [true; 3], "{what}");
            let mut stress_error = 0.0;
            if let (Some(got), Some(want)) = (&got.stress, &case.stress) {
                stress_error = worst(got.as_flattened(), want.as_flattened());
                assert!(stress_error <= stress, "{what}: stress off by {stress_error:e}");
            }
            for (s, x) in summary.iter_mut().zip([error / scale, forces, stress_error]) {
                *s = s.max(x);
            }
        }
    }
    println!(
        "{name} {precision:?}: largest errors: energy {:.1e} eV, forces {:.1e} eV/Å, stress {:.1e} eV/Å³",
        summary[0], summary[1], summary[2]
    );
}
