//! `mlff calibrate`: the record, what reads it, and what is said where something is wrong.

use serde_json::{Value, json};

use super::support::{Sandbox, assert_same, mixed, predictions};

const FILE: &str = "cache/calibration.json";
const PREDICT: &str = "predict in.xyz -o out.xyz --overwrite --engine autograd --dtype f64";

#[track_caller]
fn assert_fits_schema(record: &Value) {
    let schema = include_str!("../../src/calibration/mlff.calibration-1.schema.json");
    let schema: Value = serde_json::from_str(schema).unwrap();
    jsonschema::meta::validate(&schema).unwrap();
    let validator = jsonschema::validator_for(&schema).unwrap();
    let errors: Vec<String> =
        validator.iter_errors(record).map(|e| format!("{} at {}", e, e.instance_path())).collect();
    assert!(errors.is_empty(), "{errors:?}");
}

/// Trajectory and measurements of one pattern.
fn calibrated() -> Sandbox {
    let sandbox = Sandbox::new();
    sandbox.write("in.xyz", mixed(9));
    sandbox.run("calibrate --quick --patterns radial_basis --dtype f64").expect(0);
    sandbox
}

/// The same measurement of every pattern, which favours one variant.
fn favour(sandbox: &Sandbox, speedup: f64) {
    let mut record = sandbox.json(FILE);
    let mut one = record["measurements"][0].clone();
    for point in one["points"].as_array_mut().unwrap() {
        point["speedup"] = speedup.into();
    }
    let patterns = ["radial_basis", "edge_geometry", "linear_silu", "mlp", "message", "update"];
    let all = patterns.map(|pattern| {
        one["pattern"] = pattern.into();
        one.clone()
    });
    record["measurements"] = all.to_vec().into();
    assert_fits_schema(&record);
    sandbox.write(FILE, record.to_string());
}

fn variants(profile: &Value) -> Vec<&str> {
    profile["components"].as_array().unwrap().iter().filter_map(|c| c["variant"].as_str()).collect()
}

#[test]
fn calibrate_writes_a_record_and_keeps_what_it_did_not_measure() {
    let sandbox = Sandbox::new();
    let ran = sandbox.run("calibrate --quick --patterns radial_basis --plot p.svg").expect(0).says(&[FILE]);
    for word in ["radial_basis", "speed-up", "GFLOP/s in a matrix product", "limited by"] {
        assert!(ran.text().contains(word), "{word}: {}", ran.text());
    }
    assert!(sandbox.text("p.svg").contains("radial_basis"));
    let first = sandbox.json(FILE);
    assert_fits_schema(&first);
    let printed =
        sandbox.run("calibrate --quick --patterns edge_geometry,update --threshold 1.5 --json").expect(0).json();
    assert_fits_schema(&printed);
    let both = sandbox.json(FILE);
    assert_fits_schema(&both);
    let names: Vec<&Value> = both["measurements"].as_array().unwrap().iter().map(|m| &m["pattern"]).collect();
    assert_eq!(names, ["radial_basis", "edge_geometry", "update"]);
    assert_eq!(both["measurements"][0], first["measurements"][0]);
    assert_eq!(both["threshold"], 1.5);
    for point in first["measurements"][0]["points"].as_array().unwrap() {
        let number = |value: &Value| value.as_f64().unwrap();
        let speedup = number(&point["unfused"]["seconds"]) / number(&point["fused"]["seconds"]);
        approx::assert_relative_eq!(speedup, number(&point["speedup"]), max_relative = 1e-9);
    }
    assert_eq!(sandbox.files(), ["cache", "p.svg"]);
}

#[test]
fn calibration_decides_what_runs_and_results_stay() {
    let sandbox = calibrated();
    sandbox.run(&format!("{PREDICT} --calibration none")).expect(0);
    let want = predictions(&sandbox.path("out.xyz"), "MLFF_");
    let profile = "profile in.xyz --engine autograd --dtype f64 --repeats 1 --warmup 1 --json";
    for (speedup, variant) in [(0.5, "unfused"), (5.0, "fused")] {
        favour(&sandbox, speedup);
        assert_eq!(sandbox.run(PREDICT).expect(0).err.matches("warning").count(), 0);
        assert_same(&predictions(&sandbox.path("out.xyz"), "MLFF_"), &want, 1e-10);
        let profile = sandbox.run(profile).expect(0).json();
        assert!(variants(&profile).iter().all(|&v| v == variant), "{profile}");
        assert!(variants(&profile).len() > 8);
    }
    favour(&sandbox, 0.5);
    let table = sandbox.run("profile in.xyz --engine autograd --dtype f64 --repeats 1").expect(0).text();
    assert!(table.lines().any(|line| line.starts_with("message") && line.ends_with(" unfused")), "{table}");
    let adjoint = sandbox.run("profile in.xyz --engine adjoint --repeats 1 --json").expect(0).json();
    assert!(variants(&adjoint).iter().all(|&v| v == "fused"));
}

#[test]
fn unusable_calibrations_are_ignored_with_one_warning() {
    let sandbox = calibrated();
    favour(&sandbox, 0.5);
    let sound = sandbox.json(FILE);
    sandbox.run(&format!("{PREDICT} --calibration none")).expect(0);
    let want = sandbox.bytes("out.xyz");
    let with = |path: &[&str], value: Value| {
        let mut record = sound.clone();
        let mut place = &mut record;
        for key in path {
            place = &mut place[key];
        }
        *place = value;
        record.to_string()
    };
    for (text, part) in [
        (with(&["machine", "cpu"], json!("Another 9000")), "found measurements of Another 9000"),
        (with(&["tool"], json!("mlff 99.0.0")), "found the program mlff 99.0.0, expected mlff "),
        (with(&["format"], json!("mlff.calibration/99")), "found the format mlff.calibration/99"),
        (sound.to_string()[..100].to_string(), "not a calibration"),
        ("?".to_string(), "not a calibration"),
    ] {
        sandbox.write(FILE, &text);
        let ran = sandbox.run(PREDICT).expect(0);
        assert_eq!(ran.err.matches("warning: ").count(), 1, "{}", ran.err);
        ran.says(&["calibration.json", part, "ignored", "mlff calibrate"]);
        assert_eq!(sandbox.bytes("out.xyz"), want);
        // The default engine has nothing to choose, and says nothing.
        assert!(!sandbox.run("predict in.xyz -o a.xyz --overwrite").expect(0).err.contains("warning: "));
        sandbox
            .run("calibrate --quick --patterns edge_geometry")
            .expect(0)
            .says(&["calibration.json", "it is replaced"]);
        assert_fits_schema(&sandbox.json(FILE));
    }
    sandbox.write("other.json", with(&["tool"], json!("mlff 99.0.0")));
    sandbox.run(&format!("{PREDICT} --calibration other.json")).expect(0).says(&[
        "other.json",
        "mlff 99.0.0",
        "ignored",
    ]);
}

#[test]
fn bad_input_gets_one_message() {
    let sandbox = Sandbox::new();
    sandbox.write("in.xyz", mixed(3));
    sandbox.write("bad.json", "{\"format\": 1}");
    std::fs::create_dir(sandbox.path("folder")).unwrap();
    for (args, status, parts) in [
        ("calibrate --patterns mesage", 2, &["no such pattern", "radial_basis, edge_geometry"][..]),
        ("calibrate --threshold 0", 2, &["--threshold", "expected a positive number"]),
        ("calibrate --threshold nan", 2, &["expected a positive number"]),
        ("calibrate --quick -o nowhere/c.json", 1, &["nowhere/c.json"]),
        ("calibrate --quick -o folder", 2, &["folder: expected the name of a file"]),
        ("calibrate --quick -o in.xyz", 2, &["in.xyz: not a calibration"]),
        ("calibrate --quick -o c.json --plot nowhere/p.svg", 1, &["nowhere/p.svg"]),
        ("calibrate --device gpu", 2, &["expected auto, cpu, cuda or cuda:N"]),
        ("predict in.xyz --calibration bad.json", 2, &["bad.json: not a calibration"]),
        ("predict in.xyz --engine autograd --calibration none.json", 1, &["none.json"]),
    ] {
        let ran = sandbox.run(args).expect(status);
        assert_eq!(ran.err.matches("error: ").count(), 1, "{args}: {}", ran.err);
        ran.says(parts);
        assert_eq!(sandbox.files(), ["bad.json", "folder", "in.xyz"], "{args}");
    }
    std::fs::write(sandbox.path("cache"), "").unwrap();
    sandbox.run("calibrate --quick").expect(1).says(&["cache"]);
}

#[test]
fn calibrate_without_a_gpu_says_what_is_missing() {
    let ran = Sandbox::new().run("calibrate --quick --device cuda --patterns linear_silu");
    // With a GPU it measures.
    if ran.status != Some(0) {
        ran.expect(2).says(&["--device cuda:0", "NVIDIA"]);
    }
}
