//! What can be run, by name.

use mlff::model::import::{ImportOptions, Source, import_bytes};

use crate::{calibration, compression, model, session, weights, xyz};

/// Changes an input as a seed says.
pub type Mutate = fn(&[u8], u32) -> Vec<u8>;

/// What to do with an input, how to change one, and bytes that it may take beside 50 a byte of input.
pub struct Target {
    pub name: &'static str,
    pub run: fn(&[u8]),
    pub mutate: Option<Mutate>,
    pub memory: usize,
}

const MIB: usize = 1 << 20;

static TARGETS: [Target; 7] = [
    Target { name: "xyz", run: plain_xyz, mutate: Some(|data, seed| xyz::mutate(data, seed.into())), memory: 4 * MIB },
    // A few bytes may hold much text; what a frame may take is bounded by tests of the reader.
    Target { name: "compression", run: compression::compression, mutate: None, memory: 1 << 30 },
    Target { name: "model", run: model::model, mutate: Some(mutate_model), memory: 80 * MIB },
    Target {
        name: "safetensors",
        run: weights::safetensors,
        mutate: Some(weights::mutate_safetensors),
        memory: 80 * MIB,
    },
    Target { name: "pickle", run: weights::pickle, mutate: Some(weights::mutate_pickle), memory: 80 * MIB },
    Target {
        name: "calibration",
        run: calibration::calibration,
        mutate: Some(calibration::mutate_calibration),
        memory: MIB,
    },
    // Cells that are thin or full are searched with up to some 26 MB of points.
    Target { name: "session", run: |data| _ = session::steps(data), mutate: None, memory: 400 * MIB },
];

impl Target {
    /// The target that is called so.
    pub fn of_name(name: &str) -> &'static Target {
        TARGETS.iter().find(|target| target.name == name).unwrap_or_else(|| {
            let names: Vec<&str> = TARGETS.iter().map(|target| target.name).collect();
            panic!("the target is \"{name}\", expected one of {}", names.join(", "))
        })
    }

    /// Runs an input; panics where something is wrong with what comes of it.
    pub fn execute(&self, data: &[u8]) {
        crate::memory::bounded(self.name, data.len(), self.memory, || (self.run)(data));
    }
}

/// As [`xyz::xyz`], of plain text: unpackers take some MB for a few bytes, and have a target of their own.
fn plain_xyz(data: &[u8]) {
    let packed: [&[u8]; 4] = [b"\x1f\x8b", b"BZh", b"\xfd7zXZ", b"\x28\xb5\x2f\xfd"];
    let is_skippable = data.get(1..4) == Some(b"\x2a\x4d\x18");
    if !is_skippable && !packed.iter().any(|start| data.starts_with(start)) {
        xyz::xyz(data);
    }
}

/// As [`model::mutate_model`]; what is too short to be a model becomes one of the test data.
fn mutate_model(data: &[u8], seed: u32) -> Vec<u8> {
    macro_rules! imported {
        ($source:expr, $folder:literal, $weights:literal) => {{
            let weights = include_bytes!(concat!("../../tests/data/import/", $folder, "/", $weights));
            let config = include_bytes!(concat!("../../tests/data/import/", $folder, "/config.json"));
            let import = import_bytes($source, weights, Some(config), &ImportOptions::default());
            let [config, weights] = import.expect("test data").model.to_bytes().expect("test data");
            model::join(&config, &weights)
        }};
    }
    if data.len() > 8 {
        return model::mutate_model(data, seed);
    }
    match seed % 3 {
        0 => imported!(Source::SchNetPack, "shared-both", "schnetpack_state_dict.safetensors"),
        1 => imported!(Source::SchNetPack, "one-interaction", "schnetpack_state_dict.safetensors"),
        _ => imported!(Source::Distiller, "distiller", "model.safetensors"),
    }
}
