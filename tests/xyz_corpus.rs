//! Every file of the corpus of awkward XYZ files is read, or refused, as its `expected.json` says.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::path::{Path, PathBuf};

use mlff::xyz::{Frame, Item, Reader, Results, WriteOptions, Writer, formula};
use serde_json::Value;

fn corpus() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/xyz-corpus")
}

fn expected() -> serde_json::Map<String, Value> {
    let text = std::fs::read_to_string(corpus().join("expected.json")).unwrap();
    serde_json::from_str(&text).unwrap()
}

fn read(path: &Path) -> mlff::Result<Vec<Frame>> {
    Reader::open(path)?.collect()
}

/// Frames of a corpus file that must be accepted.
fn frames(name: &str) -> Vec<Frame> {
    read(&corpus().join("files").join(name)).unwrap_or_else(|e| panic!("{e}"))
}

fn assert_matches(name: &str, frame: &Frame, want: &Value) {
    let structure = &frame.structure;
    assert_eq!(structure.n_atoms() as u64, want["n_atoms"].as_u64().unwrap(), "{name}");
    assert_eq!(formula(&structure.atomic_numbers), want["formula"].as_str().unwrap(), "{name}");
    let pbc: String = structure.pbc.iter().map(|p| if *p { 'T' } else { 'F' }).collect();
    assert_eq!(pbc, want["pbc"].as_str().unwrap(), "{name}");
    let cell: Option<[[f64; 3]; 3]> = serde_json::from_value(want["cell"].clone()).unwrap();
    assert_eq!(structure.cell, cell, "{name}");
}

#[test]
fn corpus_every_file_has_an_expectation() {
    let mut files: Vec<String> = std::fs::read_dir(corpus().join("files"))
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    files.sort();
    let mut names: Vec<String> = expected().keys().cloned().collect();
    names.sort();
    assert_eq!(files, names);
    assert_eq!(files.len(), 74);
}

#[test]
fn corpus_accepted_files_match_expected_json() {
    for (name, want) in expected().iter().filter(|(_, want)| want["accept"] == true) {
        let got = frames(name);
        let want = want["frames"].as_array().unwrap();
        assert_eq!(got.len(), want.len(), "{name}");
        for (frame, want) in got.iter().zip(want) {
            assert_matches(name, frame, want);
        }
    }
}

#[test]
fn corpus_refused_files_say_why_and_where() {
    for (name, want) in expected().iter().filter(|(_, want)| want["accept"] == false) {
        let path = corpus().join("files").join(name);
        let error = read(&path).expect_err(name).to_string();
        let why = want["why"].as_str().unwrap();
        assert!(error.contains(why), "{name}: \"{error}\" does not say \"{why}\"");
        let place = error.strip_prefix(&format!("{}: frame ", path.display())).unwrap_or_else(|| panic!("{error}"));
        let lines = [
            ("86_", "1, line 5"),
            ("115_", "0, line 4"),
            ("42_", "0, line 3"),
            ("44_", "0, line 3"),
            ("52_", "0, line 3"),
            ("57_", "0, line 3"),
            ("96_", "0, line 3"),
            ("22_", "0, line 2"),
            ("61_", "0, line 2"),
            ("89_", "0, line 1"),
            ("92_", "0, line 1"),
            ("93_", "0, line 1"),
        ];
        if let Some((_, want)) = lines.iter().find(|(prefix, _)| name.starts_with(prefix)) {
            assert_eq!(place.split(':').next(), Some(*want), "{error}");
        }
    }
}

#[test]
fn corpus_notes_hold() {
    assert_eq!(frames("16_pbc_unquoted.extxyz")[0].warnings().len(), 1);
    assert_eq!(frames("38_fortran_D_info.extxyz")[0].labels("").unwrap().energy, Some(-15.0));
    assert_eq!(frames("51_isotope_D.extxyz")[0].structure.atomic_numbers, [8, 1, 1]);
    assert_eq!(frames("39_fortran_D_pos.extxyz")[0].structure.positions[1], [0.0, 0.76, -0.47]);
    assert_eq!(frames("41_dot_floats.extxyz")[0].structure.positions[0], [0.5, 1.0, 0.5]);
    for name in ["107_empty_value.extxyz", "108_empty_quoted.extxyz"] {
        let frame = &frames(name)[0];
        assert_eq!(frame.info("note").as_deref(), Some(""), "{name}");
        assert_eq!(frame.labels("").unwrap().energy, Some(-1.0), "{name}");
    }
    let prefixed = &frames("112_prefixed.extxyz")[0];
    assert_eq!(prefixed.labels("").unwrap(), Default::default());
    assert_eq!(prefixed.labels("REF_").unwrap().energy, Some(-2.0));
    assert_eq!(prefixed.labels("MACE_").unwrap().forces, Some(vec![[1.0, 2.0, 3.0]; 3]));
    assert_eq!(frames("111_free_energy.extxyz")[0].labels("").unwrap().energy, Some(-1.0));
    assert_eq!(frames("32_escaped_quotes.extxyz")[0].info("name").as_deref(), Some("he said \"hi\""));
    assert_eq!(frames("33_value_with_eq.extxyz")[0].info("path").as_deref(), Some("a=b"));
    assert_eq!(frames("30_bare_flag.extxyz")[0].info("converged").as_deref(), Some("T"));
}

#[test]
fn corpus_tensor_labels_match_by_hand() {
    let volume = 10.0 * 11.0 * 12.0;
    let stress = [[1.0, 6.0, 5.0], [6.0, 2.0, 4.0], [5.0, 4.0, 3.0]];
    let label = |name| frames(name)[0].labels("").unwrap().stress.unwrap();
    assert_eq!(label("68_stress9.extxyz"), stress);
    let virial = stress.map(|row| row.map(|x| -x / volume));
    assert_eq!(label("70_virial9.extxyz"), virial);
    assert_eq!(label("71_virial6.extxyz"), virial);
    for name in ["54_forces_col.extxyz", "55_force_singular.extxyz"] {
        assert_eq!(frames(name)[0].labels("").unwrap().forces, Some(vec![[1.0, 2.0, 3.0]; 3]), "{name}");
    }
}

/// Writes every frame with made-up results, once with a prefix and once without, and reads it back.
#[test]
fn corpus_written_with_results_reads_back() {
    let directory = tempfile::tempdir().unwrap();
    for (name, want) in expected().iter().filter(|(_, want)| want["accept"] == true) {
        for prefix in ["MLFF_", ""] {
            let path = directory.path().join(format!("{prefix}{name}"));
            let options = WriteOptions { key_prefix: prefix.into(), ..WriteOptions::default() };
            let mut writer = Writer::create(&path, true).unwrap();
            for frame in frames(name) {
                let n = frame.structure.n_atoms();
                let forces: Vec<_> = (0..n).map(|i| [i as f64, 0.1, -1e-7]).collect();
                let stress = frame.structure.volume().map(|_| [[1.0, 0.5, 0.25], [0.5, 2.0, 0.0], [0.25, 0.0, 3.0]]);
                let results = Results { energy: -1.25, forces: Some(&forces), stress, ..Results::default() };
                writer.write_frame(&frame, Some(&results), &options).unwrap();
            }
            writer.finish().unwrap();
            let got = read(&path).unwrap_or_else(|e| panic!("{e}"));
            for ((frame, before), want) in got.iter().zip(frames(name)).zip(want["frames"].as_array().unwrap()) {
                assert_matches(name, frame, want);
                assert_eq!(frame.structure, before.structure, "{name}");
                let labels = frame.labels(prefix).unwrap();
                assert_eq!(labels.energy, Some(-1.25), "{name}");
                let forces = labels.forces.unwrap();
                assert_eq!(forces.len(), frame.structure.n_atoms(), "{name}");
                assert!(forces.iter().enumerate().all(|(i, f)| *f == [i as f64, 0.1, -1e-7]), "{name}");
                assert_eq!(labels.stress.is_some(), frame.structure.volume().is_some(), "{name}");
                let kept: Vec<_> = before.keys().map(|k| k.into_owned()).collect();
                for key in kept.iter().filter(|k| !["energy", "free_energy", "stress"].contains(&k.as_str())) {
                    let value = before.info(key).map(|v| v.trim().to_owned());
                    let skip = ["Lattice", "Properties", "pbc", "virial"].contains(&key.as_str());
                    assert!(skip || frame.info(key).map(|v| v.trim().to_owned()) == value, "{name}: {key}");
                }
            }
        }
    }
}

#[test]
fn corpus_refused_frames_keep_their_text() {
    let path = corpus().join("files/42_nan_pos.extxyz");
    let Some(Item::Bad(bad)) = Reader::open(&path).unwrap().next_item().unwrap() else { panic!("not refused") };
    assert_eq!(bad.raw, std::fs::read(&path).unwrap());
}
