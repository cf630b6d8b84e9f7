//! What `mlff predict` writes, read back with ASE and compared with what this library computes itself.
//!
//! Needs a Python that has ASE: `$MLFF_PYTHON`, `./.venv/bin/python` or `python3`. If none has, `./.venv` is made from
//! `tests/requirements.txt`, unless `MLFF_NO_INSTALL` is set; if that fails, the test is skipped and says so.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Arc;

use mlff::Precision;
use mlff::Want;
use mlff::xyz::Reader;
use mlff::{Model, Potential};
use serde_json::{Value, json};

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn has_ase(python: &Path) -> bool {
    let script = "import ase, numpy; v = tuple(map(int, ase.__version__.split('.')[:2])); assert (3, 29) <= v < (4,)";
    let mut command = Command::new(python);
    command.args(["-c", script]).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    command.status().is_ok_and(|status| status.success())
}

fn run_quietly(program: &Path, args: &[&str]) -> Result<(), String> {
    let output = Command::new(program).args(args).current_dir(root()).stdin(Stdio::null()).output();
    let output = output.map_err(|e| format!("{}: {e}", program.display()))?;
    if output.status.success() {
        return Ok(());
    }
    Err(format!("{} {}: {}", program.display(), args.join(" "), String::from_utf8_lossy(&output.stderr).trim()))
}

/// A Python with ASE, or why there is none.
fn python() -> Result<PathBuf, String> {
    let own = root().join(".venv/bin/python");
    let named = std::env::var_os("MLFF_PYTHON").map(PathBuf::from);
    if let Some(found) = named.into_iter().chain([own.clone(), "python3".into()]).find(|python| has_ase(python)) {
        return Ok(found);
    }
    if std::env::var_os("MLFF_NO_INSTALL").is_some() {
        return Err("no Python with ASE found, and MLFF_NO_INSTALL is set".into());
    }
    if !own.exists() {
        run_quietly(Path::new("python3"), &["-m", "venv", ".venv"])?;
    }
    let pip = ["-m", "pip", "install", "-q", "--timeout", "20", "--retries", "1", "-r", "tests/requirements.txt"];
    run_quietly(&own, &pip)?;
    if has_ase(&own) { Ok(own) } else { Err("ASE was installed into .venv but cannot be imported".into()) }
}

/// Molecules and periodic frames with columns and comment entries of many kinds, and what ASE makes of the latter.
fn rich() -> (String, Value) {
    let text = "3\n\
        Properties=id:I:1:species:S:1:pos:R:3:charges:R:1:tag:S:1:shift:R:2:moved:L:1 name=\"water one\" step=3 \
        note=\"\" weight=-1.5D+01 smiles=[H]O[H] converged=T list=\"1 2 3\" REF_energy=-7.5\n\
        7 O 0 0 0.119 -0.8 a 1 2 T\n8 H 0 0.763 -0.477 0.4 b 3 4 F\n9 H 0 -0.763 -0.477 0.4 c 5 6.5 T\n\
        2\n\
        Lattice=\"5 0 0 0.4 5 0 0 -0.3 6\" Properties=species:S:1:pos:R:3:forces:R:3 energy=-1.0 \
        stress=\"1 2 3 4 5 6\" title='bob''s'\n\
        N 0.1 0 0 1 2 3\nN 0 0 1.1 -1 -2 -3\n\
        2\n\
        Lattice=\"5 0 0 0 5 0 0 0 6\" pbc=\"T F F\" Properties=species:S:1:pos:R:3 step=5\n\
        C 0 0 0\nO 4.9 0 1.13\n\
        3\nplain text, it's no key\nO 0 0 0.1 5 x\nH 0 0.7 -0.4 6 y\nH 0 -0.7 -0.4 7 z\n\
        1\ncharge=0 spin_multiplicity=1 step=8\nCl 0 0 0\n";
    let extra = json!([
        {
            "info": {"name": "water one", "step": 3, "weight": -15.0, "smiles": "[H]O[H]", "converged": true,
                "list": [1, 2, 3], "REF_energy": -7.5},
            "arrays": {"id": [7, 8, 9], "charges": [-0.8, 0.4, 0.4], "tag": ["a", "b", "c"],
                "shift": [[1, 2], [3, 4], [5, 6.5]], "moved": [true, false, true]},
        },
        // With a prefix, labels stay what they were; without, they make way.
        {"info": {}, "arrays": {}, "labels": {"energy": -1.0, "forces": [[1, 2, 3], [-1, -2, -3]],
            "stress": [[1, 6, 5], [6, 2, 4], [5, 4, 3]]}},
        {"info": {"step": 5}, "arrays": {}},
        {"info": {"comment": "plain text, it's no key"}, "arrays": {"extra": [["5", "x"], ["6", "y"], ["7", "z"]]}},
        {"info": {"charge": 0, "spin_multiplicity": 1, "step": 8}, "arrays": {}},
    ]);
    (text.into(), extra)
}

/// Frames of a file, and what the library computes for them; null where it refuses.
fn expected(potential: &Potential, input: &Path) -> Vec<Value> {
    Reader::open(input)
        .unwrap()
        .map(|frame| {
            let frame = frame.unwrap();
            let s = &frame.structure;
            let mut value = json!({
                "numbers": s.atomic_numbers, "positions": s.positions, "cell": s.cell, "pbc": s.pbc,
                "energy": null, "forces": null, "stress": null,
            });
            let neutral = [None, Some(0.0)].contains(&frame.charge().unwrap());
            if let Some(e) = potential.evaluate_one(s, Want::ALL).ok().filter(|_| neutral) {
                value["energy"] = json!(e.energy);
                value["forces"] = json!(e.forces);
                value["stress"] = json!(e.stress);
            }
            value
        })
        .collect()
}

#[test]
fn ase_reads_what_predict_writes() {
    let python = match python() {
        Ok(python) => python,
        Err(why) => {
            // Beside the harness, which keeps the output of tests that pass to itself.
            let message = format!(
                "\nSKIPPED: ase_reads_what_predict_writes: {why}\n  set MLFF_PYTHON to a Python that has ASE, or run \
                 python3 -m venv .venv && .venv/bin/pip install -r tests/requirements.txt\n"
            );
            let _ = std::io::Write::write_all(&mut std::io::stderr(), message.as_bytes());
            return;
        }
    };
    let directory = tempfile::tempdir().unwrap();
    let (text, extra) = rich();
    let rich = directory.path().join("rich.xyz");
    std::fs::write(&rich, text).unwrap();
    let corpus = root().join("tests/data/xyz-corpus");
    let listed: serde_json::Map<String, Value> =
        serde_json::from_slice(&std::fs::read(corpus.join("expected.json")).unwrap()).unwrap();
    let accepted = listed.iter().filter(|(_, want)| want["accept"] == true);
    let mut odd: Vec<PathBuf> =
        std::fs::read_dir(root().join("tests/data/xyz-odd")).unwrap().map(|entry| entry.unwrap().path()).collect();
    odd.sort();
    let corpus = accepted.map(|(name, _)| corpus.join("files").join(name));
    let inputs: Vec<PathBuf> = std::iter::once(rich).chain(corpus).chain(odd).collect();
    assert!(inputs.len() > 60);

    let model = Arc::new(Model::load(mlff::model::default_name()).unwrap());
    let potential = Potential::builder(model).precision(Precision::F64).build().unwrap();
    let mut outputs = Vec::new();
    for (k, input) in inputs.iter().enumerate() {
        let mut frames = expected(&potential, input);
        if k == 0 {
            for (frame, extra) in frames.iter_mut().zip(extra.as_array().unwrap()) {
                frame.as_object_mut().unwrap().extend(extra.as_object().unwrap().clone());
                assert!(!frame["energy"].is_null(), "every frame of this file can be evaluated");
            }
        }
        let failed = frames.iter().any(|frame| frame["energy"].is_null());
        for (prefix, ending) in [("MLFF_", ""), ("", if k % 2 == 0 { ".gz" } else { "" })] {
            let output = directory.path().join(format!("{k}{prefix}.xyz{ending}"));
            let run = Command::new(env!("CARGO_BIN_EXE_mlff"))
                .args(["predict", "--dtype", "f64", "--on-error", "skip", "--key-prefix", prefix, "-o"])
                .args([&output, input])
                .output()
                .unwrap();
            let said = String::from_utf8_lossy(&run.stderr);
            assert_eq!(run.status.code(), Some(i32::from(failed)), "{}: {said}", input.display());
            outputs.push(json!({"source": input, "file": output, "prefix": prefix, "frames": &frames}));
        }
    }
    let list = directory.path().join("expected.json");
    std::fs::write(&list, serde_json::to_vec(&outputs).unwrap()).unwrap();
    let script = root().join("tests/ase_roundtrip.py");
    let run = Command::new(&python).arg(script).arg(list).output().unwrap();
    let (out, err) = (String::from_utf8_lossy(&run.stdout), String::from_utf8_lossy(&run.stderr));
    assert!(run.status.success(), "{}:\n{out}{err}", python.display());
    print!("{out}");
}
