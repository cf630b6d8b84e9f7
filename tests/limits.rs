//! Documented limits: what is as large as allowed is taken, what is one larger is refused by name.

#![allow(clippy::unwrap_used, clippy::panic)]

use std::fs;
use std::io::Cursor;

use mlff::model::config::ModelConfig;
use mlff::neighbors::MAX_NEIGHBORS;
use mlff::structure::MAX_LATTICE_VECTOR;
use mlff::xyz::{Frame, Reader};
use mlff::{Model, Structure, neighbor_list};
use serde_json::{Value, json};

fn chain(spacing: f64) -> Structure {
    let cell = [[spacing, 0.0, 0.0], [0.0; 3], [0.0; 3]];
    Structure::new(vec![1], vec![[0.0; 3]], Some(cell), [true, false, false]).unwrap()
}

#[test]
fn neighbors_of_an_atom_are_limited() {
    // As many images to either side, the last ones at the cutoff itself; all of it in binary fractions.
    let half = (MAX_NEIGHBORS / 2) as f64;
    let list = neighbor_list(&chain(0.125), 0.125 * half).unwrap();
    assert_eq!(list.n_edges(), MAX_NEIGHBORS);
    let error = neighbor_list(&chain(0.125), 0.125 * (half + 1.0)).unwrap_err().to_string();
    assert!(error.contains("neighbours within 625.125 Å, more than 10000"), "{error}");
}

#[test]
fn lattice_vectors_are_limited() {
    let cell = |length: f64| [[length, 0.0, 0.0], [0.0, 9.0, 0.0], [0.0, 0.0, 9.0]];
    let periodic = |length| Structure::new(vec![1], vec![[0.0; 3]], Some(cell(length)), [true; 3]);
    assert!(periodic(MAX_LATTICE_VECTOR).is_ok());
    let error = periodic(MAX_LATTICE_VECTOR.next_up()).unwrap_err().to_string();
    assert!(error.contains("more than 1e8"), "{error}");
}

/// The configuration of a network, with one value changed.
fn config(path: &str, value: Value) -> Result<(), String> {
    let mut config = json!({
        "format_version": 1,
        "architecture": {
            "type": "painn", "n_features": 8, "n_interactions": 2, "radial_basis": {"type": "gaussian", "n": 4},
            "readout_hidden": [4], "epsilon": 1e-8,
        },
        "cutoff": 5.0,
        "species": [1, 8],
    });
    *config.pointer_mut(path).unwrap() = value;
    serde_json::from_value::<ModelConfig>(config).unwrap().validate().map_err(|e| e.to_string())
}

#[test]
fn sizes_of_networks_are_limited() {
    let sizes = |n: usize| json!(vec![4; n]);
    let cases = [
        ("/architecture/n_features", json!(1), json!(0), "n_features is 0, expected 1 to 16384"),
        ("/architecture/n_features", json!(16_384), json!(16_385), "n_features is 16385, expected 1 to 16384"),
        ("/architecture/n_interactions", json!(1), json!(0), "n_interactions is 0, expected 1 to 64"),
        ("/architecture/n_interactions", json!(64), json!(65), "n_interactions is 65, expected 1 to 64"),
        ("/architecture/radial_basis/n", json!(16_384), json!(16_385), "radial_basis.n is 16385"),
        ("/architecture/readout_hidden", sizes(63), sizes(64), "layers in readout_hidden is 65, expected 1 to 64"),
        ("/architecture/readout_hidden", json!([16_384]), json!([16_385]), "readout_hidden is 16385"),
        ("/architecture/epsilon", json!(0.0), json!(-1e-300), "expected 0 to 1"),
        ("/architecture/epsilon", json!(1.0_f64.next_down()), json!(1.0), "epsilon is 1, expected 0 to 1"),
        ("/cutoff", json!(0.1), json!(0.1_f64.next_down()), "expected 0.1 to 100 Å"),
        ("/cutoff", json!(100.0), json!(100.0_f64.next_up()), "expected 0.1 to 100 Å"),
    ];
    for (path, most, more, words) in cases {
        assert_eq!(config(path, most), Ok(()), "{path}");
        let error = config(path, more).unwrap_err();
        assert!(error.contains(words), "{path}: {error}");
    }
}

#[test]
fn files_of_models_are_limited() {
    const MIB: usize = 1 << 20;
    let folder = tempfile::tempdir().unwrap();
    let model = Model::load("ani2x-painn-64").unwrap();
    let path = folder.path().join("model");
    model.save(&path).unwrap();
    for (file, padding) in [("config.json", " "), ("README.md", "x")] {
        let file = path.join(file);
        let text = fs::read_to_string(&file).unwrap();
        let padded = text.clone() + &padding.repeat(MIB - text.len());
        fs::write(&file, &padded).unwrap();
        assert_eq!(Model::load(&path).unwrap().config(), model.config());
        fs::write(&file, padded + padding).unwrap();
        let error = Model::load(&path).unwrap_err().to_string();
        assert!(error.contains("1048577 bytes or more, expected 1048576 at most"), "{error}");
        fs::write(&file, text).unwrap();
    }
    assert_eq!(Model::load(&path).unwrap(), model);
}

fn read(text: String) -> mlff::Result<Option<Frame>> {
    Reader::from_reader("t.xyz", Cursor::new(text)).unwrap().next_frame()
}

#[test]
fn xyz_comments_and_columns_are_limited() {
    let words = |n: usize| format!("1\n{}\nH 0 0 0\n", "a ".repeat(n).trim_end());
    assert!(read(words(65_536)).unwrap().is_some());
    let error = read(words(65_537)).unwrap_err().to_string();
    assert!(error.contains("more than 65536 words and entries"), "{error}");

    // Two columns for element and position, the others of one field each.
    let columns = |n: usize| {
        let names: String = (2..n).map(|k| format!(":c{k}:I:1")).collect();
        format!("1\nProperties=species:S:1:pos:R:3{names}\nH 0 0 0{}\n", " 7".repeat(n - 2))
    };
    assert_eq!(read(columns(1024)).unwrap().unwrap().columns().len(), 1024);
    let error = read(columns(1025)).unwrap_err().to_string();
    assert!(error.contains("1025 columns, expected at most 1024"), "{error}");

    let fields = |n: usize| format!("1\nProperties=species:S:1:pos:R:3:c:I:{}\nH 0 0 0{}\n", n - 4, " 7".repeat(n - 4));
    assert!(read(fields(1 << 20)).unwrap().is_some());
    let error = read(fields((1 << 20) + 1)).unwrap_err().to_string();
    assert!(error.contains("1048577 fields, expected at most 1048576"), "{error}");
}
