//! What the command line says of frames outside of what the model was trained on.

use serde_json::json;

use super::support::{Sandbox, water, waters};

/// Hydrogen, its bond compressed to `d` Å.
fn hydrogen(d: f64) -> String {
    format!("2\nProperties=species:S:1:pos:R:3 pbc=\"F F F\"\nH 0 0 0\nH 0 0 {d}\n")
}

#[test]
fn outside_frames_are_marked_counted_and_told() {
    let place = Sandbox::new();
    place.write("in.xyz", water(0) + &hydrogen(0.45) + &water(1) + &hydrogen(0.4));
    for engine in ["adjoint", "autograd"] {
        let ran = place.run(&format!("predict in.xyz -o out.xyz --overwrite --summary s.json --engine {engine}"));
        ran.expect(0)
            .says(&["2 structures are outside of what the model was trained on: close_contact 2", "-v shows each"]);
        let comments: Vec<String> =
            place.text("out.xyz").lines().filter(|l| l.contains("MLFF_energy")).map(String::from).collect();
        let marked: Vec<bool> = comments.iter().map(|c| c.contains(" MLFF_outside=close_contact")).collect();
        assert_eq!(marked, [false, true, false, true]);
        let summary = place.json("s.json");
        assert_eq!(summary["n_outside"], 2);
        assert_eq!(summary["outside"]["close_contact"], 2);
        assert_eq!(summary["n_failed"], 0);
    }
    let ran = place.run("predict in.xyz -o - -v").expect(0);
    ran.says(&["in.xyz: frame 1: close_contact", "in.xyz: frame 3: close_contact"]);
    let quiet = place.run("predict in.xyz -o - -q").expect(0);
    assert_eq!(quiet.err, "");
    assert!(quiet.text().contains("MLFF_outside="));
}

#[test]
fn ordinary_frames_say_nothing_of_it() {
    let place = Sandbox::new();
    place.write("in.xyz", waters(5));
    let ran = place.run("predict in.xyz -o out.xyz --summary s.json -v").expect(0);
    assert!(!ran.err.contains("outside") && !place.text("out.xyz").contains("outside"), "{}", ran.err);
    assert_eq!((&place.json("s.json")["n_outside"], &place.json("s.json")["outside"]), (&json!(0), &json!({})));
}

/// The mark of an earlier run goes with its results.
#[test]
fn outside_mark_of_an_earlier_run_is_replaced() {
    let place = Sandbox::new();
    place.write("in.xyz", water(0).replace("frame=0", "frame=0 MLFF_outside=energy outside=mine"));
    place.run("predict in.xyz -o out.xyz").expect(0);
    let text = place.text("out.xyz");
    assert!(!text.contains("MLFF_outside") && text.contains(" outside=mine"), "{text}");
    place.run("predict in.xyz -o bare.xyz --key-prefix ''").expect(0);
    assert!(!place.text("bare.xyz").contains(" outside="), "{}", place.text("bare.xyz"));
}

#[test]
fn absurd_frames_fail_with_advice() {
    let place = Sandbox::new();
    let cases = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/outside");
    for (name, words) in [
        ("benzene_twice_0.3A_apart.xyz", ["frame 0, line 1", "distance of atoms 0 (C) and 12 (C) is 0.300 Å"]),
        ("ethane_in_nm.xyz", ["frame 0, line 1", "distance of atoms 0 (C) and 1 (C) is 0.152 Å"]),
    ] {
        place.write("in.xyz", std::fs::read(cases.join(name)).unwrap());
        for engine in ["adjoint", "autograd"] {
            let ran = place.run(&format!("predict in.xyz -o out.xyz --engine {engine}")).expect(1);
            ran.says(&words).says(&["are positions and cell in Å", "--on-error skip"]);
            assert_eq!(place.files(), ["in.xyz"]);
        }
        let skipped = place.run("predict in.xyz -o - --on-error skip").expect(1).says(&words);
        assert!(!skipped.text().contains("MLFF_energy"), "{}", skipped.text());
    }
    // One frame does not take others with it.
    place.write("in.xyz", water(0) + &hydrogen(0.2) + &water(1));
    let ran = place.run("predict in.xyz -o - --on-error skip").expect(1).says(&["frame 1, line 6", "0.200 Å"]);
    assert_eq!(ran.text().matches("MLFF_energy").count(), 2);
}

#[test]
fn eval_counts_frames_outside() {
    let place = Sandbox::new();
    let labelled = water(0).replace("frame=0", "frame=0 energy=-2079.0");
    place.write("in.xyz", labelled + &hydrogen(0.45).replace("pbc=", "energy=-30.0 pbc="));
    let got = place.run("eval in.xyz --json").expect(0).json();
    assert_eq!(
        (&got["n_frames"], &got["n_outside"], &got["outside"]["close_contact"]),
        (&2.into(), &1.into(), &1.into())
    );
    let table = place.run("eval in.xyz").expect(0);
    assert!(table.text().contains("1 structure is outside of what the model was trained on: close_contact 1"));
}

#[test]
fn info_shows_the_range_of_training() {
    let place = Sandbox::new();
    let text = place.run("info").expect(0).text();
    for part in ["trained on", "eV an atom, less free atoms'", "forces of up to", "C-H", "measured on"] {
        assert!(text.replace("H-C", "C-H").contains(part), "{part}: {text}");
    }
    let range = &place.run("info --json").expect(0).json()["training_range"];
    assert!(range["min_distances"].is_object() && range["energy_per_atom"].is_array(), "{range}");
}
