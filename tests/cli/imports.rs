//! `mlff import`: units, elements and notes.

use super::support::Sandbox;

const WEIGHTS: &str = "tests/data/import/shared-filters/schnetpack_state_dict.safetensors";

fn place(config: &str) -> Sandbox {
    let place = Sandbox::new();
    place
        .write("w.safetensors", std::fs::read(std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join(WEIGHTS)).unwrap());
    place.write("config.json", config);
    place
}

#[test]
fn import_says_what_it_assumed() {
    let place = place("{\"n_atom_basis\": 8}");
    let ran = place.run("import schnetpack w.safetensors -o m").expect(0).says(&[
        "note: nothing says which units",
        "energies in eV (--energy-unit), lengths in angstrom (--length-unit)",
        "note: nothing says which elements",
        "all 99 rows",
        "--species",
    ]);
    assert!(ran.err.contains("99 elements"), "{}", ran.err);
    let told =
        place.run("import schnetpack w.safetensors -o told --energy-unit KCAL/MOL --length-unit bohr --species H,C,O");
    assert!(!told.expect(0).err.contains("note"));
    let config = place.json("told/config.json");
    assert!((config["energy_scale"].as_f64().unwrap() - 0.043_364_104).abs() < 1e-9);
    assert!((config["cutoff"].as_f64().unwrap() - 4.5 * 0.529_177_210_544).abs() < 1e-9);
    assert_eq!(config["units"]["energy"], "eV");
}

#[test]
fn import_refuses_units_that_are_none() {
    let place = place("{}");
    let ran = place.run("import schnetpack w.safetensors -o m --energy-unit cal").expect(2);
    ran.says(&["eV, kcal/mol, kJ/mol, Hartree, meV"]);
    place.run("import schnetpack w.safetensors -o m --length-unit pm").expect(2).says(&["angstrom, bohr, nm"]);
    assert_eq!(place.files(), ["config.json", "w.safetensors"]);
}

#[test]
fn import_names_the_likely_unit() {
    let place = place("{\"atomic_energies\": {\"1\": -313.5, \"6\": -23620.0, \"8\": -47000.0}}");
    let ran = place.run("import schnetpack w.safetensors -o m").expect(2);
    ran.says(&["free atoms in kcal/mol (O: -47000)", "--energy-unit kcal/mol"]);
    place.run("import schnetpack w.safetensors -o m --energy-unit kcal/mol").expect(0);
}

#[test]
fn import_refuses_keys_given_twice_and_scale_zero() {
    let twice = place("{\"cutoff\": 4.5, \"cutoff\": 4.5}");
    twice.run("import schnetpack w.safetensors -o m").expect(2).says(&["config.json", "\"cutoff\" is given twice"]);
    let zero = place("{\"n_atom_basis\": 8, \"output_scale\": 0.0}");
    zero.run("import schnetpack w.safetensors -o m").expect(2).says(&["output_scale = 0"]);
}
