//! Reference results by SchNetPack and MLFF-Distiller in f64.

#![allow(clippy::unwrap_used)]

mod common;

use std::path::Path;
use std::sync::Arc;

use common::{Case, cases, reference, worst};
use mlff::engine::{Evaluation, Want};
use mlff::model::import::{ImportOptions, Source, import};
use mlff::potential::{BatchSize, Precision};
use mlff::{Model, Potential, Structure};

fn load(folder: &Path) -> Arc<Model> {
    let (source, file) = if folder.join("schnetpack_state_dict.safetensors").exists() {
        (Source::SchNetPack, "schnetpack_state_dict.safetensors")
    } else {
        (Source::Distiller, "model.safetensors")
    };
    Arc::new(import(source, &folder.join(file), &ImportOptions::default()).unwrap())
}

fn evaluate(model: &Arc<Model>, precision: Precision, batch: usize, structures: &[Structure]) -> Vec<Evaluation> {
    let potential = Potential::new(model.clone(), precision).unwrap().with_batch_size(BatchSize::Structures(batch));
    potential.evaluate(structures, Want::ALL).into_iter().map(Result::unwrap).collect()
}

fn check(name: &str, precision: Precision, [energy, force, stress]: [f64; 3]) {
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
        for (k, (case, got)) in cases.iter().zip(evaluate(&model, precision, batch, &structures)).enumerate() {
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

const F64: [f64; 3] = [1e-9, 1e-8, 1e-9];
const F32: [f64; 3] = [2e-5, 1e-4, 1e-5];

#[test]
fn painn_gaussian_f64_matches_schnetpack() {
    check("painn-f128-gaussian", Precision::F64, F64);
}

#[test]
fn painn_gaussian_f32_matches_schnetpack() {
    check("painn-f128-gaussian", Precision::F32, F32);
}

#[test]
fn painn_bessel_f64_matches_schnetpack() {
    check("painn-f64-bessel", Precision::F64, F64);
}

#[test]
fn painn_bessel_f32_matches_schnetpack() {
    check("painn-f64-bessel", Precision::F32, F32);
}

#[test]
fn distiller_f64_matches_mlff_distiller() {
    check("mlff-distiller-student", Precision::F64, F64);
}

#[test]
fn distiller_f32_matches_mlff_distiller() {
    check("mlff-distiller-student", Precision::F32, F32);
}

#[test]
fn neighbor_counts_match_ase() {
    for name in ["painn-f128-gaussian", "painn-f64-bessel"] {
        let folder = reference(name).unwrap();
        let cutoff = load(&folder).config().cutoff;
        for case in cases(&folder) {
            let n = mlff::neighbor_list(&case.structure(), cutoff).unwrap().n_edges();
            assert_eq!(Some(n), case.n_edges, "{name}: {}", case.symbols.concat());
        }
    }
}

#[test]
fn batches_do_not_change_results() {
    for name in ["painn-f128-gaussian", "painn-f64-bessel"] {
        let folder = reference(name).unwrap();
        let model = load(&folder);
        let structures: Vec<Structure> = cases(&folder).iter().map(Case::structure).collect();
        let alone = evaluate(&model, Precision::F64, 1, &structures);
        for (a, b) in alone.iter().zip(evaluate(&model, Precision::F64, structures.len(), &structures)) {
            assert!((a.energy - b.energy).abs() <= 1e-10);
            let forces = |e: &Evaluation| e.forces.clone().unwrap().into_flattened();
            assert!(worst(&forces(a), &forces(&b)) <= 1e-10);
            assert_eq!(a.stress.is_some(), b.stress.is_some());
            if let (Some(a), Some(b)) = (&a.stress, &b.stress) {
                assert!(worst(a.as_flattened(), b.as_flattened()) <= 1e-10);
            }
        }
    }
}

#[test]
fn import_reads_pt_and_safetensors_alike() {
    let folder = reference("painn-f64-bessel").unwrap();
    let from = |file: &str| import(Source::SchNetPack, &folder.join(file), &ImportOptions::default()).unwrap();
    assert_eq!(from("schnetpack_state_dict.pt"), from("schnetpack_state_dict.safetensors"));
}
