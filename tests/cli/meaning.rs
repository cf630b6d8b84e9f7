//! What a file means: charge, spin, units, cells, elements. What is seen and not used is said.

use serde_json::Value;

use super::support::{Sandbox, predictions};

fn hydroxyl(comment: &str) -> String {
    format!("2\nProperties=species:S:1:pos:R:3 pbc=\"F F F\" {comment}\nO 0.0 0.0 0.0\nH 0.0 0.0 0.97\n")
}

fn water(comment: &str) -> String {
    format!("3\n{comment}\nO 0.0 0.0 0.119\nH 0.0 0.763 -0.477\nH 0.0 -0.763 -0.477\n")
}

/// (comment, part of the message, or "" where the frame is evaluated)
const STATES: [(&str, &str); 12] = [
    ("Charge=-1", "frame 0, line 1: total charge is -1, but this model describes only 0"),
    ("NET_CHARGE=1.0", "total charge is 1, but"),
    ("charge=0 total_charge=-1", "frame 0, line 2: charge=0 and total_charge=-1 contradict each other"),
    ("charge=0.5", "line 2: charge is not a whole number: 0.5"),
    ("total_charge=-2.7e-17", ""),
    ("total_charge=0 total_spin=2", "spin multiplicity is 2, but this model describes only 1"),
    ("uhf=1", "spin multiplicity is 2, but"),
    ("multiplicity=1 mult=2", "multiplicity=1 and mult=2 contradict each other"),
    ("spin=1", "spin=1 is unclear where the atoms have an odd number of electrons"),
    ("multiplicity=1", ""),
    ("spin_multiplicity=2", "spin multiplicity is 2, but"),
    ("", ""),
];

#[test]
fn charge_and_spin_are_understood_in_every_command() {
    let place = Sandbox::new();
    for (comment, message) in STATES {
        place.write("in.xyz", hydroxyl(&format!("{comment} energy=-1.0")));
        let (predict, eval) = (place.run("predict in.xyz -o -"), place.run("eval in.xyz"));
        if message.is_empty() {
            predict.expect(0).says(&["odd number of electrons"]);
            eval.expect(0).says(&["odd number of electrons"]);
        } else {
            predict.expect(1).says(&["error: in.xyz: ", message]);
            eval.expect(1).says(&["failed: in.xyz: ", message]);
        }
    }
    // Without a model there is nothing that it does not describe, but there are contradictions.
    place.write("in.xyz", hydroxyl("charge=0 total_charge=-1"));
    place.run("check in.xyz").expect(1).says(&["error: in.xyz: frame 0, line 2: charge=0 and total_charge=-1"]);
    place.write("in.xyz", hydroxyl("Charge=-1 uhf=0"));
    let line: Value = serde_json::from_str(place.run("check --json in.xyz").expect(0).text().trim()).unwrap();
    assert_eq!((&line["charge"], &line["spin_multiplicity"]), (&(-1.0).into(), &1.0.into()));
}

#[test]
fn odd_number_of_electrons_is_said_once_for_all_frames() {
    let place = Sandbox::new();
    place.write("in.xyz", water("energy=-1.0") + &hydroxyl("energy=-1.0").repeat(3));
    let warning =
        "warning: in.xyz: frame 1: an odd number of electrons: this model describes closed shells only (and 2 more";
    let ran = place.run("predict in.xyz -o out.xyz --summary s.json").expect(0).says(&[warning]);
    assert_eq!(ran.err.matches("warning").count(), 1, "{}", ran.err);
    let summary = place.json("s.json");
    assert_eq!(summary["n_warnings"], 3);
    let kind = &summary["warnings"][0];
    assert_eq!((&kind["file"], &kind["frame"], &kind["count"]), (&"in.xyz".into(), &1.into(), &3.into()));
    assert_eq!(predictions(&place.path("out.xyz"), "MLFF_").iter().filter(|p| p.energy.is_some()).count(), 4);
    let all = place.run("predict in.xyz -o - -v").expect(0);
    assert_eq!(all.err.matches("warning: in.xyz: frame ").count(), 3, "{}", all.err);
    assert!(!place.run("predict in.xyz -o - -q").expect(0).err.contains("warning"), "-q prints errors only");
    let got = place.run("eval in.xyz --json").expect(0).says(&[warning]).json();
    assert_eq!(got["warnings"][0]["count"], 3);
    place
        .run("check in.xyz")
        .expect(0)
        .says(&["frame 1: an odd number of electrons, and no spin multiplicity said (and 2 more"]);
    place.write(
        "even.xyz",
        water("energy=-1.0") + &hydroxyl("energy=-1.0 charge=0").replace("H 0", "F 0").replace("O 0", "H 0"),
    );
    for command in ["predict even.xyz -o -", "eval even.xyz", "check even.xyz"] {
        assert!(!place.run(command).expect(0).err.contains("electrons"), "{command}");
    }
}

#[test]
fn charges_of_atoms_that_are_not_used_are_said() {
    let place = Sandbox::new();
    let frame = "2\nProperties=species:S:1:pos:R:3:initial_charges:R:1\nH 0 0 0 0\nF 0 0 0.92 -1\n";
    place.write("in.xyz", frame);
    for command in ["predict in.xyz -o -", "check in.xyz"] {
        place.run(command).expect(0).says(&["the column initial_charges sums to -1.00, which is not used"]);
    }
    place.write(
        "in.xyz",
        frame.replace("0 -1\n", "0.0 1\n").replace(" 0 0\nF", " 0 -1\nF").replace("0.92 -1", "0.92 1"),
    );
    assert!(!place.run("predict in.xyz -o -").expect(0).err.contains("warning"));
}

/// i-PI's file in atomic units, and the same in Å as extended XYZ.
#[test]
fn ipi_in_bohr_gives_the_results_of_the_same_in_angstrom() {
    let place = Sandbox::new();
    place.write(
        "ipi.xyz",
        "3\n# CELL(abcABC):   18.89726    18.89726    18.89726    90.00000    90.00000    90.00000  Step:          0  \
         Bead:       0 positions{atomic_unit}  cell{atomic_unit}\n       O  0.00000e+00  0.00000e+00  2.24877e-01\n       \
         H  0.00000e+00  1.44186e+00 -9.01399e-01\n       H  0.00000e+00 -1.44186e+00 -9.01399e-01\n",
    );
    place.write("ase.xyz", water("Lattice=\"10 0 0 0 10 0 0 0 10\" Properties=species:S:1:pos:R:3"));
    let ran = place.run("predict ipi.xyz -o ipi.out.xyz --dtype f64").expect(0);
    ran.says(&["frame 0: i-PI's positions{atomic_unit} and cell are converted: the output is in Å"]);
    place.run("predict ase.xyz -o ase.out.xyz --dtype f64").expect(0);
    let (got, want) =
        (predictions(&place.path("ipi.out.xyz"), "MLFF_"), predictions(&place.path("ase.out.xyz"), "MLFF_"));
    assert!((got[0].energy.unwrap() - want[0].energy.unwrap()).abs() < 1e-4);
    assert!(got[0].stress.is_some());
    // The output says nothing of atomic units, and is the same structure to whoever reads it.
    let out = place.text("ipi.out.xyz");
    assert!(!out.contains("atomic_unit") && out.contains("Lattice=\"") && out.contains("pbc=\"T T T\""), "{out}");
    let again = place.run("predict ipi.out.xyz -o again.xyz --dtype f64").expect(0);
    assert!(!again.err.contains("warning"), "{}", again.err);
    assert_eq!(predictions(&place.path("again.xyz"), "MLFF_"), got);
    let line: Value = serde_json::from_str(place.run("check --json ipi.xyz").expect(0).text().trim()).unwrap();
    assert_eq!(line["pbc"], serde_json::json!([true, true, true]));
    assert!(line["warnings"][0].as_str().unwrap().contains("converted"));
}

#[test]
fn cell_under_another_name_is_used_and_said() {
    let place = Sandbox::new();
    place.write("cell.xyz", water("cell=\"9 0 0 0 9 0 0 0 9\" Properties=species:S:1:pos:R:3"));
    place.write("lattice.xyz", water("Lattice=\"9 0 0 0 9 0 0 0 9\" Properties=species:S:1:pos:R:3"));
    place.run("predict cell.xyz -o a.xyz").expect(0).says(&["warning: cell.xyz: frame 0: cell= is read as the cell"]);
    place.run("predict lattice.xyz -o b.xyz").expect(0);
    assert_eq!(predictions(&place.path("a.xyz"), "MLFF_"), predictions(&place.path("b.xyz"), "MLFF_"));
    assert!(place.text("a.xyz").contains("Lattice=\"9.0 0.0"));
    let ran = place.run("check cell.xyz").expect(0).says(&["cell= is read as the cell"]);
    assert!(ran.text().contains("1 periodic"), "{}", ran.text());
}

#[test]
fn atom_types_of_lammps_are_refused() {
    let place = Sandbox::new();
    place.write("in.xyz", "2\nAtoms. Timestep: 0\n1 0 0 0\n1 0 0 2.35\n");
    let message =
        "in.xyz: frame 0, line 3: \"1\" is an atom type of LAMMPS, not an element: write the file with dump_modify";
    for command in ["predict in.xyz -o out.xyz", "eval in.xyz", "check in.xyz"] {
        place.run(command).expect(1).says(&[message]);
    }
    place.run("predict in.xyz -o out.xyz --on-error skip").expect(1).says(&[message]);
    assert!(!place.text("out.xyz").contains("MLFF_energy"));
    place.write("in.xyz", "2\nx\n1 0 0 0\n1 0 0 0.74\n");
    place.run("predict in.xyz -o -").expect(0).says(&["elements are given as numbers (\"1\")"]);
}

#[test]
fn units_of_length_are_never_ignored() {
    let place = Sandbox::new();
    place.write("in.xyz", water("units=bohr energy=-1.0"));
    for command in ["predict in.xyz -o -", "eval in.xyz", "check in.xyz"] {
        place.run(command).expect(1).says(&["in.xyz: frame 0, line 2: units=bohr: positions and cells are read in Å"]);
    }
}

#[test]
fn what_is_seen_and_not_used_is_said_by_every_command() {
    let place = Sandbox::new();
    let frames = water("dft_charge=-1 energy=-1.0") + &water("dft_charge=2 energy=-1.0") + &water("box=12 energy=-1.0");
    place.write("in.xyz", frames);
    let parts = [
        "warning: in.xyz: frame 0: dft_charge=-1 may be a total charge and is not used: say charge= (and 1 more",
        "warning: in.xyz: frame 2: box= may be a cell, but it has 1 numbers where 9, 6 or 3 are expected: it is not used",
    ];
    for command in ["predict in.xyz -o -", "eval in.xyz", "check in.xyz"] {
        place.run(command).expect(0).says(&parts);
    }
    let lines = place.run("check --json in.xyz").expect(0).text();
    let warned = lines.lines().filter(|line| line.contains("\"warnings\":[\"")).count();
    assert_eq!(warned, 3, "{lines}");
}
