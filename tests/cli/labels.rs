//! Labels: what is compared, on how much it rests, and that it never passes for a result.

use super::support::{Sandbox, predictions, water};

/// Ethanol in a cell, labelled by the model itself in f64.
fn labelled(place: &Sandbox) -> String {
    place.write(
        "in.xyz",
        "9\nLattice=\"8 0 0 0 8.5 0 0 0 9\" Properties=species:S:1:pos:R:3\nC 1.168181 -0.400382 0.0\nC 0.0 0.559462 0.0\n\
         O -1.190083 -0.227669 0.0\nH -1.946623 0.381525 0.0\nH 0.042557 1.207508 0.886933\nH 0.042557 1.207508 -0.886933\n\
         H 2.115891 0.1448 0.0\nH 1.128599 -1.037234 0.885881\nH 1.128599 -1.037234 -0.885881\n",
    );
    place.run("predict in.xyz -o l.xyz --dtype f64 --key-prefix '' --overwrite").expect(0);
    place.text("l.xyz")
}

const VOLUME: f64 = 8.0 * 8.5 * 9.0;

#[test]
fn failed_frames_carry_no_labels_as_results() {
    let place = Sandbox::new();
    place.write(
        "in.xyz",
        "2\nProperties=species:S:1:pos:R:3:forces:R:3 energy=-111.0 free_energy=-111.0 stress=\"1 0 0 0 1 0 0 0 1\" \
         pbc=\"T T F\" Lattice=\"9 0 0 0 9 0 0 0 30\"\nO 0.0 0.0 0.0 7 7 7\nH 0.0 0.0 0.97 -7 -7 -7\n\
         2\nProperties=species:S:1:pos:R:3:forces:R:3 energy=-222.0 pbc=\"F F F\" charge=-1\nO 0.0 0.0 0.0 8 8 8\n\
         H 0.0 0.0 0.97 -8 -8 -8\n\
         2\nProperties=species:S:1:pos:R:3:forces:R:3 energy=-333.0 free_energy=-333.0 pbc=\"F F F\" charge=-1\n\
         O 0.0 0.0 0.0 9 9 9\nH 0.0 0.0 0.97 -9 -9 -9\n",
    );
    place.run("predict in.xyz -o out.xyz --key-prefix '' --on-error skip").expect(1).says(&["2 failed"]);
    let got = predictions(&place.path("out.xyz"), "");
    assert!(got[0].energy.is_some_and(|e| e != -111.0) && got[0].forces.is_some());
    for failed in &got[1..] {
        assert_eq!((failed.energy, &failed.forces, failed.stress), (None, &None, None));
    }
    let text = place.text("out.xyz");
    for stale in ["-111", "-222", "-333", "stress=", " 9 9 9", " 7 7 7"] {
        assert!(!text.contains(stale), "{stale} in {text}");
    }
    place.run("eval in.xyz").expect(1).says(&["frame 0: stress is not compared: only frames that are periodic"]);
    // The frames without results are counted again when there is nothing to resume.
    place.run("predict in.xyz -o out.xyz --key-prefix '' --on-error skip --resume").expect(1);
    place.run("predict in.xyz -o e.xyz --key-prefix '' --on-error skip --properties energy").expect(1);
    assert!(predictions(&place.path("e.xyz"), "").iter().all(|p| p.forces.is_none() && p.stress.is_none()));
}

/// What refuses a frame here need not keep another program from reading it.
#[test]
fn refused_frames_carry_no_labels_as_results() {
    let place = Sandbox::new();
    let frame = "2\nProperties=species:S:1:pos:R:3:forces:R:3 energy=-111.0 free_energy = -111.0 REF_energy=3 \
                 stress=\"1 0 0 0 1 0 0 0 1\" units=bohr note=\"energy\"\nH 0 0 0 7 7 7\nH 0 0 0.74 -7 -7 -7\n";
    place.write("in.xyz", frame.repeat(2));
    place.run("predict in.xyz -o out.xyz --key-prefix '' --on-error skip").expect(1).says(&["2 failed", "units=bohr"]);
    let want = frame
        .replace(":forces:", ":input_forces:")
        .replace(" energy=-", " input_energy=-")
        .replace(" free_energy", " input_free_energy")
        .replace(" stress", " input_stress");
    assert_eq!(place.text("out.xyz"), want.repeat(2));
    // With a prefix, only results of an earlier run have such names.
    let stale = frame.replace(" energy=", " MLFF_energy=");
    place.write("in.xyz", &stale);
    place.run("predict in.xyz -o out.xyz --on-error skip --overwrite").expect(1);
    assert_eq!(place.text("out.xyz"), stale.replace(" MLFF_energy", " input_MLFF_energy"));
}

#[test]
fn eval_takes_labels_by_their_names() {
    let place = Sandbox::new();
    let other = labelled(&place)
        .replace(" free_energy=", " other=")
        .replace(" energy=", " TotEnergy=")
        .replace("stress=", "my_stress=");
    place.write("named.xyz", other.replace(":forces:", ":f_dft:"));
    let args = "eval named.xyz --dtype f64 --json --energy-key TotEnergy --forces-key f_dft --stress-key my_stress";
    let got = place.run(args).expect(0).json();
    for (label, n_atoms) in [("energy", 9), ("energy_per_atom", 9), ("forces", 9), ("stress", 9)] {
        assert!(got[label]["max"].as_f64().unwrap() < 1e-9, "{label}");
        assert_eq!((&got[label]["n_frames"], &got[label]["n_atoms"]), (&1.into(), &n_atoms.into()), "{label}");
    }
    assert!(got["warnings"].is_null(), "{got}");
    // `force` is found by itself; the energy is not, and is named.
    place.write("named.xyz", other.replace(":forces:", ":force:"));
    let ran = place.run("eval named.xyz --dtype f64 --json").expect(0).says(&[
        "warning: named.xyz: frame 0: TotEnergy is not compared: --energy-key TotEnergy takes it for the energy, in eV",
        "my_stress is not compared: --stress-key my_stress",
    ]);
    let got = ran.json();
    assert!(got["energy"].is_null() && got["forces"]["max"].as_f64().unwrap() < 1e-9);
    assert_eq!(got["warnings"].as_array().unwrap().len(), 2, "{got}");
    place.run("check named.xyz").expect(0).says(&["TotEnergy may be a label and is not read as one"]);
    place.run("eval named.xyz --stress-key a --virial-key b").expect(2);
}

/// stress = −virial/volume.
#[test]
fn eval_compares_virials_as_stress() {
    let place = Sandbox::new();
    let text = labelled(&place);
    let stress = predictions(&place.path("l.xyz"), "")[0].stress.unwrap();
    let virial: Vec<String> = stress.as_flattened().iter().map(|x| (-x * VOLUME).to_string()).collect();
    let (before, rest) = text.split_once(" stress=\"").unwrap();
    let after = rest.split_once('"').unwrap().1;
    for (key, flags) in [("virial", ""), ("virials", ""), ("dft_w", "--virial-key dft_w")] {
        place.write("v.xyz", format!("{before} {key}=\"{}\"{after}", virial.join(" ")));
        let got = place.run(&format!("eval v.xyz --dtype f64 --json {flags}")).expect(0).json();
        assert!(got["stress"]["max"].as_f64().unwrap() < 1e-12, "{key}: {got}");
        assert_eq!(got["stress"]["n_frames"], 1);
    }
}

#[test]
fn eval_says_on_how_many_frames_each_error_rests() {
    let place = Sandbox::new();
    let text = labelled(&place);
    let energy = predictions(&place.path("l.xyz"), "")[0].energy.unwrap();
    let strip =
        |text: &str| text.replace(&format!(" energy={energy}"), "").replace(&format!(" free_energy={energy}"), "");
    assert_ne!(strip(&text), text);
    place.write("some.xyz", text.clone() + &strip(&text) + &text);
    let ran = place.run("eval some.xyz --dtype f64 --json").expect(0);
    let warning = "warning: some.xyz: frame 1: no energy label: energies are compared in 2 of 3 frames";
    let got = ran.says(&[warning]).json();
    for (label, n) in [("energy", 2), ("energy_per_atom", 2), ("forces", 3), ("stress", 3)] {
        assert_eq!((&got[label]["n_frames"], &got[label]["n_atoms"]), (&n.into(), &(9 * n).into()), "{label}");
    }
    assert_eq!((&got["warnings"][0]["frame"], &got["warnings"][0]["count"]), (&1.into(), &1.into()));
    let table = place.run("eval some.xyz --dtype f64").expect(0).text();
    let row = |name: &str| -> Vec<String> {
        let line = table.lines().find(|line| line.starts_with(name)).unwrap();
        line.split_whitespace().map(str::to_string).collect()
    };
    assert_eq!(row("energy  ")[4..], ["2", "18", "eV"], "{table}");
    assert_eq!(row("forces  ")[4..6], ["3", "27"], "{table}");
}

#[test]
fn eval_says_that_there_are_no_labels_beside_a_bad_frame() {
    let place = Sandbox::new();
    let water = "3\nwater\nO 0.0 0.0 0.119\nH 0.0 0.763 -0.477\nH 0.0 -0.763 -0.477\n";
    place.write("in.xyz", water.repeat(2) + "2\nHe\nHe 0 0 0\nHe 0 0 3\n");
    let ran = place.run("eval in.xyz").expect(2);
    ran.says(&["failed: in.xyz: frame 2, line 11: element He", "error: found no labels in 2 frames", "--energy-key"]);
    place.write("in.xyz", water.replace("water", "TotEnergy=-1"));
    place.run("eval in.xyz").expect(2).says(&["TotEnergy is not compared", "found no labels"]);
}

#[test]
fn results_of_this_program_are_not_taken_for_labels() {
    let place = Sandbox::new();
    place.write("in.xyz", water(0));
    place.run("predict in.xyz -o out.xyz").expect(0);
    let ran = place.run("check out.xyz").expect(0);
    assert_eq!(ran.err, "");
}
