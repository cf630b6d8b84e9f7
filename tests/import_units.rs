//! Imports whose units, elements and precision are said, assumed, or contradicted.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs)]

mod common;

use std::fs;
use std::path::PathBuf;
use std::sync::Arc;

use common::data;
use mlff::Precision;
use mlff::Want;
use mlff::model::import::{EnergyUnit, ImportOptions, LengthUnit, Source, import_with_notes};
use mlff::model::weights::Weights;
use mlff::{Model, Potential, Structure};
use serde_json::{Value, json};
use tempfile::TempDir;

fn fixture(name: &str) -> PathBuf {
    data("import").join(name)
}

/// A weight file and a configuration beside it.
struct Place(TempDir, &'static str);

impl Place {
    fn new(name: &str, config: &Value) -> Self {
        let (from, file) = match name {
            "lightning" => (fixture(name).join("checkpoint.pt"), "checkpoint.pt"),
            "distiller" => (fixture(name).join("model.safetensors"), "sd.safetensors"),
            _ if name.ends_with(".safetensors") => (fixture(name), "sd.safetensors"),
            _ => (fixture(name).join("schnetpack_state_dict.safetensors"), "sd.safetensors"),
        };
        let place = Place(TempDir::new().unwrap(), file);
        fs::copy(from, place.weights()).unwrap();
        fs::write(place.0.path().join("config.json"), config.to_string()).unwrap();
        place
    }

    /// As its fixture has it, without units and with one key more.
    fn with(name: &str, key: &str, value: Value) -> Self {
        let mut config = without_units(name);
        config[key] = value;
        Place::new(name, &config)
    }

    fn weights(&self) -> PathBuf {
        self.0.path().join(self.1)
    }

    fn source(&self) -> Source {
        let config = fs::read_to_string(self.0.path().join("config.json")).unwrap();
        if config.contains("hidden_dim") { Source::Distiller } else { Source::SchNetPack }
    }

    fn import(&self, options: &ImportOptions) -> mlff::Result<(Model, Vec<String>)> {
        import_with_notes(self.source(), &self.weights(), options).map(|i| (i.model, i.notes))
    }

    #[track_caller]
    fn refused(&self, options: &ImportOptions, words: &[&str]) {
        let error = self.import(options).expect_err("taken").to_string();
        for word in words {
            assert!(error.contains(word), "{error}: {word}");
        }
    }
}

/// Configuration of a fixture that does not say its units.
fn without_units(name: &str) -> Value {
    let mut config: Value = serde_json::from_slice(&fs::read(fixture(name).join("config.json")).unwrap()).unwrap();
    for key in ["energy_unit", "length_unit"] {
        config.as_object_mut().unwrap().remove(key);
    }
    config
}

fn energy_unit(unit: EnergyUnit) -> ImportOptions {
    ImportOptions { energy_unit: Some(unit), ..ImportOptions::default() }
}

fn length_unit(unit: LengthUnit) -> ImportOptions {
    ImportOptions { length_unit: Some(unit), ..ImportOptions::default() }
}

/// Positions in units of `unit` Å.
fn ethanol_like(unit: f64) -> Structure {
    let positions = [[0.0, 0.0, 0.1], [1.4, 0.1, 0.0], [-0.6, 0.9, -0.3], [1.9, -0.8, 0.2]];
    Structure::molecule(vec![8, 6, 1, 1], positions.iter().map(|r| r.map(|x| x * unit)).collect()).unwrap()
}

fn evaluate(model: Model, structure: &Structure) -> (f64, Vec<f64>) {
    let e = Potential::builder(Arc::new(model))
        .precision(Precision::F64)
        .build()
        .unwrap()
        .evaluate_one(structure, Want::ALL)
        .unwrap();
    (e.energy, e.forces.unwrap().concat())
}

#[test]
fn energies_are_converted_from_the_unit_said() {
    let (plain, _) = Place::with("shared-filters", "output_scale", json!(2.0)).import(&Default::default()).unwrap();
    let (energy, forces) = evaluate(plain, &ethanol_like(1.0));
    for (unit, factor) in [
        (EnergyUnit::ElectronVolt, 1.0),
        (EnergyUnit::MilliElectronVolt, 1e-3),
        (EnergyUnit::KcalPerMol, 0.043_364_104),
        (EnergyUnit::KjPerMol, 0.010_364_269_7),
        (EnergyUnit::Hartree, 27.211_386_246),
    ] {
        let by_flag = Place::with("shared-filters", "output_scale", json!(2.0)).import(&energy_unit(unit)).unwrap().0;
        let mut config =
            json!({"output_scale": 2.0, "energy_unit": unit.name().to_uppercase(), "length_unit": "Angstrom"});
        for (key, value) in [("n_interactions", json!(3)), ("cutoff", json!(4.5)), ("shared_filters", json!(true))] {
            config[key] = value;
        }
        let (by_config, notes) = Place::new("shared-filters", &config).import(&Default::default()).unwrap();
        assert!(notes.iter().all(|n| !n.contains("units")), "{notes:?}");
        assert_eq!(by_flag, by_config);
        let (e, f) = evaluate(by_flag, &ethanol_like(1.0));
        assert!((e - factor * energy).abs() < 1e-7 * energy.abs().max(1.0) * factor.max(1.0), "{unit:?}: {e} {energy}");
        for (a, b) in f.iter().zip(&forces) {
            assert!((a - factor * b).abs() < 1e-7 * factor.max(1.0) * b.abs().max(1.0), "{unit:?}");
        }
    }
}

/// Atomic energies and the mean are in the model's unit, too.
#[test]
fn energies_of_atoms_are_converted_with_the_output() {
    let atoms = json!({"1": -313.5, "6": -23620.0, "8": -47000.0});
    let mut config = without_units("exported-hartree");
    config["atomic_energies"] = atoms;
    config["mean"] = json!(-2.0);
    let place = Place::new("exported-hartree", &config);
    // Taken as eV they are refused, and the unit is named.
    place.refused(
        &ImportOptions::default(),
        &["free atoms in kcal/mol", "ImportOptions::energy_unit kcal/mol", "O: -4700"],
    );
    place.refused(&energy_unit(EnergyUnit::KcalPerMol).tap(|o| o.species = Some(vec![99, 200])), &["200"]);
    let (model, notes) = place.import(&energy_unit(EnergyUnit::KcalPerMol)).unwrap();
    assert!(notes.iter().all(|n| !n.contains("eV (")), "{notes:?}");
    assert!((model.config().atomic_energies[&1] - 0.043_364_104 * -315.5).abs() < 1e-4);
    // Whoever insists is believed, and told.
    let (_, notes) = place.import(&energy_unit(EnergyUnit::ElectronVolt)).unwrap();
    assert!(notes.iter().any(|n| n.contains("kcal/mol")), "{notes:?}");
}

trait Tap: Sized {
    fn tap(mut self, change: impl FnOnce(&mut Self)) -> Self {
        change(&mut self);
        self
    }
}

impl Tap for ImportOptions {}

/// A mean that all the electrons of the elements do not have: the data set's energies in another unit.
#[test]
fn means_below_all_electrons_are_refused() {
    let place = Place::with("shared-both", "mean", json!(-10800.0));
    place.refused(&ImportOptions::default(), &["-10800 eV", "kcal/mol or kJ/mol", "ImportOptions::energy_unit"]);
    assert!(place.import(&energy_unit(EnergyUnit::KcalPerMol)).is_ok());
    for mean in [-468.0, -5.0, 0.0, 3.0] {
        assert!(Place::with("shared-both", "mean", json!(mean)).import(&ImportOptions::default()).is_ok(), "{mean}");
    }
    // Energies of valence electrons only are those of no unit that could be told.
    let valence = json!({"1": -12.5, "6": -147.2, "8": -431.9});
    assert!(Place::with("shared-both", "atomic_energies", valence).import(&ImportOptions::default()).is_ok());
}

#[test]
fn lengths_are_converted_from_the_unit_said() {
    for name in ["shared-filters", "shared-both", "shared-interactions", "distiller"] {
        let place = Place::new(name, &without_units(name));
        let plain = place.import(&ImportOptions::default()).unwrap().0;
        let (energy, forces) = evaluate(plain.clone(), &ethanol_like(1.0));
        for (unit, angstrom) in [(LengthUnit::Bohr, 0.529_177_210_544), (LengthUnit::Nanometer, 10.0)] {
            let model = place.import(&length_unit(unit)).unwrap().0;
            assert!((model.config().cutoff - angstrom * plain.config().cutoff).abs() < 1e-12);
            // The same numbers of another unit: the same energy, and forces per that unit.
            let (e, f) = evaluate(model, &ethanol_like(angstrom));
            assert!((e - energy).abs() < 1e-9 * energy.abs().max(1.0), "{name} {unit:?}: {e} {energy}");
            for (a, b) in f.iter().zip(&forces) {
                assert!((a * angstrom - b).abs() < 1e-8 * b.abs().max(1.0), "{name} {unit:?}: {a} {b}");
            }
        }
    }
}

#[test]
fn units_that_contradict_each_other_are_refused() {
    let place = Place::with("shared-both", "energy_unit", json!("kcal/mol"));
    place.refused(&energy_unit(EnergyUnit::Hartree), &["energy_unit = kcal/mol", "Hartree was asked for"]);
    assert!(place.import(&energy_unit(EnergyUnit::KcalPerMol)).is_ok());
    let place = Place::with("distiller", "length_unit", json!("furlong"));
    place.refused(&ImportOptions::default(), &["length_unit = \"furlong\"", "angstrom, bohr, nm"]);
}

#[test]
fn what_is_assumed_is_said() {
    let notes = |name: &str, options: &ImportOptions| {
        let (source, file) = match name {
            "distiller" => (Source::Distiller, "model.safetensors"),
            _ => (Source::SchNetPack, "schnetpack_state_dict.safetensors"),
        };
        import_with_notes(source, &fixture(name).join(file), options).unwrap().notes
    };
    let all = notes("shared-filters", &ImportOptions::default());
    assert!(all.iter().any(|n| {
        n.contains("energies in eV (ImportOptions::energy_unit), lengths in angstrom (ImportOptions::length_unit)")
    }));
    assert!(all.iter().any(|n| n.contains("all 99 rows") && n.contains("ImportOptions::species")), "{all:?}");
    let told = ImportOptions {
        species: Some(vec![1, 8]),
        energy_unit: Some(EnergyUnit::ElectronVolt),
        length_unit: Some(LengthUnit::Angstrom),
        ..ImportOptions::default()
    };
    assert_eq!(notes("shared-filters", &told), [""; 0]);
    // Exports say all of it.
    assert_eq!(notes("exported-hartree", &ImportOptions::default()), [""; 0]);
    let all = notes("distiller", &ImportOptions::default());
    assert!(all.iter().any(|n| n.contains("all 20 rows")) && all.len() == 2, "{all:?}");
}

/// Weights and cutoff in half precision are widened; 3.7 is what half precision keeps of it, as it was trained.
#[test]
fn half_precision_is_taken_with_the_cutoff_it_keeps() {
    let place = Place::new("half-precision.safetensors", &json!({"cutoff": 3.7}));
    let (model, _) = place.import(&ImportOptions::default()).unwrap();
    assert_eq!(model.config().cutoff, 3.69921875);
    evaluate(model, &ethanol_like(1.0));
    let none = Place::new("half-precision.safetensors", &json!({}));
    assert_eq!(none.import(&ImportOptions::default()).unwrap().0.config().cutoff, 3.69921875);
    let other = Place::new("half-precision.safetensors", &json!({"cutoff": 3.71}));
    other.refused(&ImportOptions::default(), &["cutoff = 3.71", "say 3.69921875"]);
}

/// The buffer counts, to its last bit, wherever the configuration means the same number.
#[test]
fn cutoff_is_the_one_of_the_weights() {
    let place = Place::with("shared-filters", "cutoff", json!(3.7));
    let mut weights = Weights::from_safetensors(&place.weights(), &fs::read(place.weights()).unwrap()).unwrap();
    let buffer = weights.0.get_mut("representation.cutoff_fn.cutoff").unwrap();
    buffer.data = vec![f64::from(3.7_f32)];
    fs::write(place.weights(), weights.to_safetensors(&place.weights()).unwrap()).unwrap();
    let cutoff = place.import(&ImportOptions::default()).unwrap().0.config().cutoff;
    assert_eq!(cutoff, f64::from(3.7_f32));
    assert_ne!(cutoff, 3.7);
}

#[test]
fn scale_zero_is_refused() {
    let place = Place::with("shared-filters", "output_scale", json!(0.0));
    place.refused(&ImportOptions::default(), &["output_scale = 0"]);
    // A model directory that has it, too.
    let (good, _) = Place::with("shared-filters", "output_scale", json!(1.0)).import(&Default::default()).unwrap();
    let mut config = good.config().clone();
    config.energy_scale = 0.0;
    let error = Model::new(config, good.weights().clone(), String::new()).unwrap_err().to_string();
    assert!(error.contains("energy_scale is 0") && error.contains("other than 0"), "{error}");
}

#[test]
fn schnet_is_named() {
    let place = Place::new("schnet.safetensors", &json!({"cutoff": 5.0}));
    place.refused(&ImportOptions::default(), &["these are the weights of a SchNet of SchNetPack", "only its PaiNN"]);
}
