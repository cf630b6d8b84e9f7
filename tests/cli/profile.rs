//! `mlff profile`: the record, the pictures, and what is said where something is wrong.

use serde_json::Value;

use super::support::{Sandbox, mixed, waters};

const QUICK: &str = "--repeats 2 --warmup 1";

fn schema() -> jsonschema::Validator {
    let schema: Value = serde_json::from_str(include_str!("../../src/profile/mlff.profile-1.schema.json")).unwrap();
    jsonschema::meta::validate(&schema).unwrap();
    jsonschema::validator_for(&schema).unwrap()
}

fn number(value: &Value) -> f64 {
    value.as_f64().unwrap_or_else(|| panic!("{value} is not a number"))
}

fn share_of(components: &[&Value]) -> f64 {
    components.iter().map(|c| number(&c["share"])).sum()
}

/// The record, which must fit its schema and add up.
#[track_caller]
fn profile(sandbox: &Sandbox, args: &str) -> Value {
    let profile = sandbox.run(&format!("profile {args} {QUICK} --json")).expect(0).json();
    let errors: Vec<String> =
        schema().iter_errors(&profile).map(|e| format!("{} at {}", e, e.instance_path())).collect();
    assert!(errors.is_empty(), "{errors:?}");
    let components: Vec<&Value> = profile["components"].as_array().unwrap().iter().collect();
    let (top, layers): (Vec<&Value>, Vec<&Value>) = components.into_iter().partition(|c| c["parent"].is_null());
    let rest = number(&profile["derived"]["unattributed_share"]);
    approx::assert_relative_eq!(share_of(&top) + rest, 1.0, epsilon = 1e-9);
    for parent in top {
        let own: Vec<&Value> = layers.iter().copied().filter(|c| c["parent"] == parent["id"]).collect();
        if !own.is_empty() {
            approx::assert_relative_eq!(share_of(&own), number(&parent["share"]), epsilon = 1e-9);
        }
    }
    profile
}

fn ids(profile: &Value) -> Vec<&str> {
    let components = profile["components"].as_array().unwrap();
    components.iter().filter(|c| c["parent"].is_null()).map(|c| c["id"].as_str().unwrap()).collect()
}

#[test]
fn profile_of_the_adjoint_engine_fits_its_schema() {
    let sandbox = Sandbox::new();
    sandbox.write("in.xyz", mixed(9));
    let profile = profile(&sandbox, "in.xyz --structures 5 --engine adjoint --sweep 4,1,2");
    assert_eq!(
        ids(&profile),
        [
            "neighbor_search",
            "batch",
            "edge_geometry",
            "context",
            "message",
            "update",
            "readout",
            "readout_vjp",
            "update_vjp",
            "message_vjp",
            "context_vjp",
            "edge_geometry_vjp",
            "results"
        ]
    );
    assert_eq!((&profile["workload"]["structures"], &profile["run"]["engine"]), (&5.into(), &"adjoint".into()));
    let sizes: Vec<&Value> = profile["derived"]["sweep"].as_array().unwrap().iter().map(|p| &p["batch"]).collect();
    assert_eq!(sizes, [1, 2, 4]);
    assert_eq!(profile["derived"]["sweep"][0]["speedup"], 1.0);
}

#[test]
fn profile_of_the_autograd_engine_fits_its_schema() {
    let profile = profile(&Sandbox::new(), "--molecule water --structures 3 --engine autograd --dtype f64 --batch 2");
    for id in ["filters", "filters_vjp", "radial_basis", "radial_basis_vjp", "tensor_operations_vjp", "update_vjp"] {
        assert!(ids(&profile).contains(&id), "{id}");
    }
    let backward = profile["components"].as_array().unwrap().iter().filter(|c| c["phase"] == "backward");
    let backward: Vec<&Value> = backward.filter(|c| c["parent"].is_null()).collect();
    approx::assert_relative_eq!(share_of(&backward), number(&profile["derived"]["autograd_share"]), epsilon = 1e-9);
    assert_eq!((&profile["workload"]["dtype"], &profile["run"]["batch"]), (&"f64".into(), &2.into()));
    // On the processor nothing is copied to a device.
    assert!(!ids(&profile).contains(&"transfers"));
    assert_eq!((&profile["device"]["kind"], &profile["run"]["timer"]), (&"cpu".into(), &"monotonic".into()));
}

#[test]
fn profile_of_generated_clusters_counts_edges_twice() {
    let one = profile(&Sandbox::new(), "--atoms 20");
    assert_eq!((&one["workload"]["structures"], &one["workload"]["atoms"]), (&1.into(), &20.into()));
    assert!(one["workload"]["edges"].as_u64().is_some_and(|n| n > 20 && n % 2 == 0));
}

#[test]
fn table_shows_the_components_asked_for() {
    let sandbox = Sandbox::new();
    let all = sandbox.run(&format!("profile --molecule methane --structures 2 {QUICK}")).expect(0).text();
    let some = format!("profile --molecule methane --structures 2 {QUICK} --components message,readout_vjp");
    let some = sandbox.run(&some).expect(0).text();
    for (text, words, shown) in [
        (&all, ["  message.0", "update_vjp", "unattributed", "energy alone"], true),
        (&some, ["  message.0", "readout_vjp", "unattributed", "energy alone"], true),
        (&some, ["message_vjp", "update", "context", "results"], false),
    ] {
        words.iter().for_each(|word| assert_eq!(text.contains(word), shown, "{word}\n{text}"));
    }
}

#[test]
fn trace_and_chart_are_written() {
    let sandbox = Sandbox::new();
    sandbox
        .run(&format!(
            "profile --molecule water --structures 2 {QUICK} --trace t.json --plot p.svg --json=r.json --sweep 1,2"
        ))
        .expect(0);
    assert_eq!(sandbox.files(), ["p.svg", "r.json", "t.json"]);
    assert!(schema().is_valid(&sandbox.json("r.json")));
    let trace = sandbox.json("t.json");
    let events: Vec<&Value> = trace["traceEvents"].as_array().unwrap().iter().filter(|e| e["ph"] == "X").collect();
    assert!(events.iter().any(|e| e["name"] == "message.0" && e["cat"] == "forward"));
    for pair in events.windows(2) {
        // One thread: nothing overlaps. Times are µs, rounded to ns.
        assert!(number(&pair[0]["ts"]) + number(&pair[0]["dur"]) <= number(&pair[1]["ts"]) + 1e-3);
    }
    let svg = sandbox.text("p.svg");
    for word in ["message_vjp", "unattributed", "backward", "structures in a batch"] {
        assert!(svg.contains(word), "{word}");
    }
}

#[test]
fn bad_input_gets_one_message() {
    let sandbox = Sandbox::new();
    sandbox.write("empty.xyz", "");
    sandbox.write("in.xyz", waters(2));
    sandbox.write("bad.xyz", waters(1) + "1\n\nHe 0 0 0\n");
    std::fs::create_dir(sandbox.path("folder")).unwrap();
    for (args, status, parts) in [
        ("--components filter", 2, &["no such component", "neighbor_search, batch"][..]),
        ("empty.xyz", 1, &["empty.xyz: frame 0, line 1: empty file"]),
        ("in.xyz --index 5:", 2, &["in.xyz: found no frame to profile"]),
        ("none.xyz", 1, &["none.xyz"]),
        ("bad.xyz", 1, &["bad.xyz: frame 1, line 6", "element He"]),
        ("in.xyz --trace nowhere/t.json", 1, &["nowhere/t.json"]),
        ("in.xyz --json=nowhere/r.json", 1, &["nowhere/r.json"]),
        ("in.xyz --plot folder", 2, &["folder: expected the name of a file"]),
        ("in.xyz --threads 2", 2, &["--threads 2", "one thread"]),
        ("in.xyz --molecule water", 2, &["cannot be used with"]),
        ("in.xyz --sweep 0", 2, &["0 is not in 1.."]),
        ("in.xyz --index 5", 2, &["--index asks for a frame"]),
    ] {
        let ran = sandbox.run(&format!("profile {args} {QUICK}")).expect(status);
        assert_eq!(ran.err.matches("error: ").count(), 1, "{args}: {}", ran.err);
        ran.says(parts);
        assert_eq!(sandbox.files(), ["bad.xyz", "empty.xyz", "folder", "in.xyz"], "{args}");
    }
}
