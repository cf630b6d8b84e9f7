//! Reference results by SchNetPack and MLFF-Distiller in f64.

#![allow(clippy::unwrap_used)]

mod common;

use std::sync::Arc;

use common::expected::{self, load};
use common::{Case, cases, reference, worst};
use mlff::model::import::{ImportOptions, Source, import};
use mlff::{BatchSize, Precision};
use mlff::{Evaluation, Want};
use mlff::{Model, Potential, Structure};

fn evaluate(model: &Arc<Model>, precision: Precision, batch: usize, structures: &[Structure]) -> Vec<Evaluation> {
    let potential = Potential::builder(model.clone())
        .precision(precision)
        .build()
        .unwrap()
        .with_batch_size(BatchSize::Structures(batch));
    potential.evaluate(structures, Want::ALL).into_iter().map(Result::unwrap).collect()
}

fn check(name: &str, precision: Precision) {
    expected::check(name, precision, |model| Potential::builder(model.clone()).precision(precision).build().unwrap());
}

#[test]
fn painn_gaussian_f64_matches_schnetpack() {
    check("painn-f128-gaussian", Precision::F64);
}

#[test]
fn painn_gaussian_f32_matches_schnetpack() {
    check("painn-f128-gaussian", Precision::F32);
}

#[test]
fn painn_bessel_f64_matches_schnetpack() {
    check("painn-f64-bessel", Precision::F64);
}

#[test]
fn painn_bessel_f32_matches_schnetpack() {
    check("painn-f64-bessel", Precision::F32);
}

#[cfg(feature = "autograd")]
#[test]
fn distiller_f64_matches_mlff_distiller() {
    check("mlff-distiller-student", Precision::F64);
}

#[cfg(feature = "autograd")]
#[test]
fn distiller_f32_matches_mlff_distiller() {
    check("mlff-distiller-student", Precision::F32);
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
