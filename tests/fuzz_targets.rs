//! The fuzz targets of models, weights and calibrations, a few hundred steps from their seeds each: that they run, and that nothing
//! near the seeds is wrong.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, dead_code, missing_docs)]

#[path = "../fuzz/src/calibration.rs"]
mod calibration;
mod common;
#[path = "../fuzz/src/model.rs"]
mod model;
#[path = "../fuzz/src/shared.rs"]
mod shared;
#[path = "../fuzz/src/weights.rs"]
mod weights;

use common::{data, random};
use mlff::model::import::{ImportOptions, Source, import, import_bytes};

/// Runs the seed, and chains of mutations that start from it.
fn walk(seed: &[u8], run: impl Fn(&[u8]), mutate: impl Fn(&[u8], u32) -> Vec<u8>) {
    run(seed);
    let mut input = seed.to_vec();
    for k in 0..200_u32 {
        input = if k % 4 == 0 { mutate(seed, k) } else { mutate(&input, k) };
        run(&input);
    }
}

#[test]
fn model_target_runs_from_its_seed() {
    let file = data("import/shared-both/schnetpack_state_dict.safetensors");
    let [config, weights] = import(Source::SchNetPack, &file, &ImportOptions::default()).unwrap().to_bytes().unwrap();
    walk(&model::join(&config, &weights), model::model, model::mutate_model);
}

#[test]
fn safetensors_target_runs_from_its_seed() {
    let seed = std::fs::read(data("import/half-precision.safetensors")).unwrap();
    walk(&seed, weights::safetensors, weights::mutate_safetensors);
}

#[test]
fn pickle_target_runs_from_its_seeds() {
    for (name, source) in [("lightning", Source::SchNetPack), ("distiller", Source::Distiller)] {
        let seed = std::fs::read(common::root().join("fuzz/seeds/pickle").join(name).with_extension("pkl")).unwrap();
        let config = Some(&b"{\"cutoff\": 4.5}"[..]);
        let accepted = import_bytes(source, &weights::archive(&seed), config, &ImportOptions::default());
        accepted.expect("the seed is a model, or the target would not reach far");
        walk(&seed, weights::pickle, weights::mutate_pickle);
    }
}

#[test]
fn calibration_target_runs_from_its_seed() {
    walk(&calibration::mutate_calibration(b"-", 0), calibration::calibration, calibration::mutate_calibration);
}
