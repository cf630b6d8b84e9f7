//! The errors that the shipped model's card states are those that `mlff eval` finds.

#![allow(clippy::unwrap_used)]

use std::process::Command;

use serde_json::Value;

fn json(args: &[&str]) -> Value {
    let output =
        Command::new(env!("CARGO_BIN_EXE_mlff")).args(args).current_dir(env!("CARGO_MANIFEST_DIR")).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    serde_json::from_slice(&output.stdout).unwrap()
}

#[test]
fn eval_reproduces_the_model_card() {
    // Written by scripts/evaluate.py, which evaluates the model in PyTorch.
    let card = &json(&["info", "--json"])["metrics"]["example"];
    let example = "examples/data/trajectory.xyz";
    // The largest relative difference allowed: rounding of the network in f32 shows in small errors.
    for (dtype, tolerance) in [("f64", 1e-7), ("f32", 1e-3)] {
        let found = json(&["eval", example, "--json", "--dtype", dtype]);
        for (quantity, measures) in [
            ("energy", &["mae", "rmse", "max"][..]),
            ("energy_per_atom", &["mae", "rmse", "max"]),
            ("forces", &["mae", "rmse", "max", "r2", "cosine"]),
        ] {
            for measure in measures {
                let number = |value: &Value| value[quantity][measure].as_f64().unwrap();
                approx::assert_relative_eq!(number(&found), number(card), max_relative = tolerance);
            }
        }
        assert_eq!((&found["n_frames"], &found["n_atoms"]), (&card["n_frames"], &card["n_atoms"]));
    }
    let text =
        std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/models/ani2x-painn-64/README.md")).unwrap();
    let mae = card["energy"]["mae"].as_f64().unwrap();
    assert!(text.contains(&format!("{:.1} / ", 1000.0 * mae)), "the card does not state the energy's MAE");
}
