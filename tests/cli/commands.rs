//! `eval`, `check`, `info`, `import` and `completions`.

use serde_json::{Map, Value, json};

use super::common;
use super::support::{Sandbox, predictions};

/// Water, hydrogen or methane.
fn molecule(k: usize) -> String {
    let d = (k * 7919 % 1000) as f64 * 1e-4;
    let atoms = match k % 3 {
        0 => format!("O 0.0 0.0 {}\nH 0.0 0.763 -0.477\nH 0.0 -0.763 -0.477\n", 0.119 + d),
        1 => format!("H 0.0 0.0 0.0\nH 0.0 {d} 0.74\n"),
        _ => format!(
            "C 0.0 0.0 0.0\nH 0.629 0.629 {}\nH -0.629 -0.629 0.629\nH -0.629 0.629 -0.629\nH 0.629 -0.629 -0.629\n",
            0.629 + d
        ),
    };
    format!("{}\nProperties=species:S:1:pos:R:3 step={k} pbc=\"F F F\"\n{atoms}", atoms.lines().count())
}

fn molecules(range: std::ops::Range<usize>) -> String {
    range.map(molecule).collect()
}

/// Water in a box.
fn periodic(k: usize) -> String {
    let d = (k * 7919 % 1000) as f64 * 1e-4;
    format!(
        "3\nLattice=\"6.0 0.0 0.0 0.5 6.5 0.0 0.0 0.0 7.0\" Properties=species:S:1:pos:R:3 step={k} pbc=\"T T T\"\n\
         O 5.9 0.1 {}\nH 0.1 0.863 6.6\nH 5.9 5.8 0.6\n",
        0.119 + d
    )
}

fn keys(value: &Value) -> Vec<&str> {
    value.as_object().unwrap().keys().map(String::as_str).collect()
}

/// A file labelled by the model itself, in f64.
fn labelled(place: &Sandbox, prefix: &str) {
    let frames: String = (0..9).map(|k| if k % 3 == 2 { periodic(k) } else { molecule(k) }).collect();
    place.write("in.xyz", frames);
    place.run(&format!("predict in.xyz -o labelled.xyz --dtype f64 --key-prefix {prefix}")).expect(0);
}

#[test]
fn eval_of_its_own_results_has_no_error() {
    for prefix in ["''", "REF_"] {
        let place = Sandbox::new();
        labelled(&place, prefix);
        let args = format!("eval labelled.xyz --dtype f64 --json --batch 2 --label-prefix {prefix}");
        let got = place.run(&args).expect(0).json();
        for (quantity, limit) in [("energy", 1e-9), ("energy_per_atom", 1e-9), ("forces", 1e-11), ("stress", 1e-11)] {
            for measure in ["mae", "rmse", "max"] {
                let value = got[quantity][measure].as_f64().unwrap();
                assert!((0.0..=limit).contains(&value), "{quantity} {measure}: {value}");
            }
        }
        for measure in ["r2", "cosine"] {
            assert!((got["forces"][measure].as_f64().unwrap() - 1.0).abs() < 1e-9, "{measure}");
        }
        assert_eq!((&got["n_frames"], &got["n_failed"], &got["n_atoms"]), (&9.into(), &0.into(), &24.into()));
    }
}

#[test]
fn eval_json_has_the_documented_keys() {
    let place = Sandbox::new();
    labelled(&place, "''");
    let got = place.run("eval labelled.xyz --json").expect(0).json();
    let counts = ["n_frames", "n_failed", "n_atoms", "n_outside", "outside"];
    let all = [&counts[..], &["energy", "energy_per_atom", "forces", "stress"]].concat();
    assert_eq!(keys(&got), all);
    for quantity in ["energy", "energy_per_atom", "stress"] {
        assert_eq!(keys(&got[quantity]), ["mae", "rmse", "max", "n_frames", "n_atoms"]);
    }
    assert_eq!(keys(&got["forces"]), ["mae", "rmse", "max", "r2", "cosine", "n_frames", "n_atoms"]);
    // Where there are no labels, there is no key.
    place.write("energy.xyz", "1\nenergy=-1.0\nO 0 0 0\n");
    let got = place.run("eval energy.xyz --json").expect(0).json();
    assert_eq!(keys(&got), all[..7]);
}

/// Labels shifted by known amounts: the errors are the shifts.
#[test]
fn eval_errors_are_differences_to_the_labels() {
    let place = Sandbox::new();
    place.write("in.xyz", molecules(0..2));
    place.run("predict in.xyz -o out.xyz --dtype f64").expect(0);
    let shifted: String = (0..2)
        .zip(predictions(&place.path("out.xyz"), "MLFF_"))
        .map(|(k, labels)| {
            let energy = labels.energy.unwrap() - [0.5, 1.5][k];
            molecule(k).replace("step=", &format!("REF_energy={energy} step="))
        })
        .collect();
    place.write("shifted.xyz", shifted);
    let args = "eval shifted.xyz --dtype f64 --json --label-prefix REF_";
    let got = place.run(args).expect(0).json();
    let close = |got: &Value, want: f64| assert!((got.as_f64().unwrap() - want).abs() < 1e-6, "{got}, not {want}");
    close(&got["energy"]["mae"], 1.0);
    close(&got["energy"]["rmse"], 1.25_f64.sqrt());
    close(&got["energy"]["max"], 1.5);
    close(&got["energy_per_atom"]["mae"], (0.5 / 3.0 + 1.5 / 2.0) / 2.0);
    // What people read has the same numbers.
    let table = place.run("eval shifted.xyz --dtype f64 --label-prefix REF_").expect(0);
    for part in ["2 structures, 5 atoms", "1.000000", "1.118034", "1.500000"] {
        assert!(table.text().contains(part), "{}", table.text());
    }
}

#[test]
fn eval_without_labels_is_wrong_use() {
    let place = Sandbox::new();
    place.write("in.xyz", molecules(0..2));
    place.run("eval in.xyz").expect(2).says(&["no labels", "--label-prefix"]);
    place.write("labelled.xyz", "1\nenergy=-1.0\nH 0 0 0\n");
    place.run("eval labelled.xyz --label-prefix REF_").expect(2).says(&["REF_energy", "REF_forces"]);
}

#[test]
fn eval_counts_frames_that_fail() {
    let place = Sandbox::new();
    place.write("in.xyz", "1\nenergy=-1.0\nH 0 0 0\n1\nenergy=-1.0\nXe 0 0 0\n1\nenergy=-1.0\nH 0 0 q\n");
    let run = place.run("eval in.xyz --json").expect(1);
    assert_eq!((&run.json()["n_frames"], &run.json()["n_failed"]), (&1.into(), &2.into()));
    run.says(&["in.xyz: frame 1, line 4", "Xe", "in.xyz: frame 2, line 9"]);
    place.write("bad.xyz", "1\nenergy=-1.0\nXe 0 0 0\n");
    place.run("eval bad.xyz --json").expect(1).says(&["Xe"]);
}

#[test]
fn eval_plots_whatever_labels_there_are() {
    let place = Sandbox::new();
    labelled(&place, "''");
    place.write("energy.xyz", "1\nenergy=-1.0\nH 0 0 0\n");
    let stress = periodic(0).replace("step=", "stress=\"0 0 0 0 0 0 0 0 0\" step=");
    place.write("stress.xyz", stress);
    let panels = ["energy per atom", "force components", "stress components"];
    for (input, want) in [("labelled.xyz", &panels[..]), ("energy.xyz", &panels[..1]), ("stress.xyz", &panels[2..])] {
        place.run(&format!("eval {input} --plot parity.svg")).expect(0);
        let svg = String::from_utf8(place.bytes("parity.svg")).unwrap();
        assert!(svg.starts_with("<svg") && svg.trim_end().ends_with("</svg>"), "{input}");
        let shown: Vec<&str> = panels.into_iter().filter(|panel| svg.contains(panel)).collect();
        assert_eq!(shown, want, "{input}");
        assert!(!svg.contains("NaN") && !svg.contains("inf"), "{input}");
        std::fs::remove_file(place.path("parity.svg")).unwrap();
    }
    place.run("eval labelled.xyz --plot no/such/parity.svg").expect(1).says(&["no/such/parity.svg"]);
}

#[test]
fn check_reads_the_corpus_as_expected() {
    let corpus = common::data("xyz-corpus");
    let expected: Map<String, Value> =
        serde_json::from_slice(&std::fs::read(corpus.join("expected.json")).unwrap()).unwrap();
    assert!(expected.len() >= 70);
    let place = Sandbox::new();
    // Arguments end at spaces, which the path of this directory may hold.
    std::os::unix::fs::symlink(corpus.join("files"), place.path("files")).unwrap();
    for (name, want) in &expected {
        let run = place.run(&format!("check --json files/{name}"));
        if want["accept"] == false {
            run.expect(1).says(&[name, want["why"].as_str().unwrap(), "frame "]);
            continue;
        }
        let run = run.expect(0);
        let got: Vec<Value> = run.text().lines().map(|line| serde_json::from_str(line).unwrap()).collect();
        let want = want["frames"].as_array().unwrap();
        assert_eq!(got.len(), want.len(), "{name}");
        for (k, (got, want)) in got.iter().zip(want).enumerate() {
            assert_eq!(got["frame"], k, "{name}");
            assert_eq!(got["n_atoms"], want["n_atoms"], "{name}");
            assert_eq!(got["formula"], want["formula"], "{name}");
            let pbc: Vec<bool> = want["pbc"].as_str().unwrap().chars().map(|c| c == 'T').collect();
            assert_eq!(got["pbc"], json!(pbc), "{name}");
            let cell = |v: &Value| serde_json::from_value::<Option<[[f64; 3]; 3]>>(v.clone()).unwrap();
            assert_eq!(cell(&got["cell"]), cell(&want["cell"]), "{name}");
            assert!(got["columns"].is_array() && got["labels"].is_array(), "{name}");
        }
    }
}

#[test]
fn check_says_what_is_in_a_file() {
    let place = Sandbox::new();
    let labelled = "1\nProperties=species:S:1:pos:R:3:forces:R:3 energy=-1.0\nH 0 0 0 1 2 3\n";
    place.write("in.xyz", molecules(0..3) + &periodic(3) + labelled);
    let run = place.run("check in.xyz").expect(0);
    for part in ["in.xyz: 5 frames, 14 atoms", "1 to 5 a frame", "1 periodic", "energy (in 1)", "H2O (2)", "CH4"] {
        assert!(run.text().contains(part), "{}", run.text());
    }
    let run = place.run("check --json in.xyz").expect(0);
    let last: Value = serde_json::from_str(run.text().lines().last().unwrap()).unwrap();
    assert_eq!(last["labels"], json!(["energy", "forces"]));
    assert_eq!(last["columns"], json!(["species:S:1", "pos:R:3", "forces:R:3"]));
    let piped = place.run_on("check --json -", &place.bytes("in.xyz")).expect(0);
    assert_eq!(piped.out, run.out);
    // All that is wrong is said, not only the first.
    place.write("bad.xyz", format!("1\n\nH 0 0 a\n{}1\n\nH 0 0 b\n", molecule(0)));
    let run = place.run("check in.xyz bad.xyz missing.xyz").expect(1);
    let run = run.says(&["bad.xyz: frame 0, line 3", "bad.xyz: frame 2, line 11", "missing.xyz"]);
    assert!(run.text().contains("in.xyz: 5 frames") && run.text().contains("bad.xyz: 1 frames"), "{}", run.text());
}

#[test]
fn info_describes_a_model() {
    let place = Sandbox::new();
    let name = mlff::model::default_name();
    let run = place.run(&format!("info {name}")).expect(0);
    for part in ["architecture", "cutoff", "elements", "parameters", "license"] {
        assert!(run.text().contains(part), "{}", run.text());
    }
    assert_eq!(place.run("info").expect(0).text(), run.text());
    let got = place.run(&format!("info {name} --json")).expect(0).json();
    for key in ["format_version", "architecture", "cutoff", "species", "n_parameters"] {
        assert!(!got[key].is_null(), "{key}");
    }
    assert_eq!(got["architecture"]["type"], "painn");
}

/// Weights of SchNetPack, through files only: what predict writes is what SchNetPack computed.
#[test]
fn imported_model_reproduces_schnetpack_through_files() {
    let folder = common::data("reference/painn-f64-bessel");
    let cases = common::cases(&folder);
    let place = Sandbox::new();
    let mut text = String::new();
    for case in &cases {
        let flags = case.pbc.map(|p| if p { "T" } else { "F" }).join(" ");
        text += &format!("{}\nProperties=species:S:1:pos:R:3 pbc=\"{flags}\"", case.symbols.len());
        if let Some(cell) = case.cell.filter(|_| case.pbc.contains(&true)) {
            let numbers: Vec<String> = cell.as_flattened().iter().map(f64::to_string).collect();
            text += &format!(" Lattice=\"{}\"", numbers.join(" "));
        }
        text.push('\n');
        // Display of f64 gives all the digits that tell it from its neighbours.
        for (symbol, [x, y, z]) in case.symbols.iter().zip(&case.positions) {
            text += &format!("{symbol} {x} {y} {z}\n");
        }
    }
    place.write("in.xyz", text);
    for weights in ["schnetpack_state_dict.safetensors", "schnetpack_state_dict.pt"] {
        let source = folder.join(weights);
        let model = weights.rsplit('.').next().unwrap();
        place.run(&format!("import schnetpack {} -o {}", source.to_str().unwrap(), model)).expect(0).says(&["painn"]);
        place.run(&format!("predict in.xyz -o out.xyz -m {model} --dtype f64 --overwrite")).expect(0);
        let results = predictions(&place.path("out.xyz"), "MLFF_");
        assert_eq!(results.len(), cases.len());
        for (k, (got, want)) in results.iter().zip(&cases).enumerate() {
            assert!((got.energy.unwrap() - want.energy).abs() <= 1e-9 * want.energy.abs().max(1.0), "case {k}");
            let forces = got.forces.as_ref().unwrap();
            assert!(common::worst(forces.as_flattened(), want.forces.as_flattened()) <= 1e-8, "case {k}");
            assert_eq!(got.stress.is_some(), want.pbc == [true; 3], "case {k}");
            if let (Some(got), Some(want)) = (&got.stress, &want.stress) {
                assert!(common::worst(got.as_flattened(), want.as_flattened()) <= 1e-9, "case {k}");
            }
        }
    }
    let source = folder.join("schnetpack_state_dict.safetensors");
    // A directory with something in it is not replaced.
    place.run(&format!("import schnetpack {} -o pt", source.to_str().unwrap())).expect(2).says(&["exists"]);
    let run = place.run(&format!("import schnetpack {} -o x --species H,Qq", source.to_str().unwrap()));
    run.expect(2).says(&["Qq"]);
    assert!(!place.path("x").exists());
}

#[test]
fn completions_are_written_for_every_shell() {
    let place = Sandbox::new();
    for shell in ["bash", "zsh", "fish"] {
        let run = place.run(&format!("completions {shell}")).expect(0);
        assert!(run.text().contains("mlff") && run.text().contains("predict"), "{shell}");
    }
}
