//! Imports of other projects' models: results by their own code, and refusals. Fixtures: scripts/make_import_fixtures.py.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs)]

mod common;

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use common::random::Random;
use common::{Case, cases, data, worst};
use mlff::Precision;
use mlff::Want;
use mlff::model::import::{ImportOptions, Source, import};
use mlff::model::weights::{Array, Weights};
use mlff::{Model, Potential, Structure};
use serde_json::{Value, json};
use tempfile::TempDir;

const SAFETENSORS: &str = "schnetpack_state_dict.safetensors";

fn folder(name: &str) -> PathBuf {
    data("import").join(name)
}

/// Every weight file among the fixtures.
fn sources() -> Vec<(Source, PathBuf)> {
    let painn = ["shared-filters", "shared-interactions", "shared-both", "exported-hartree", "one-interaction"];
    let mut out: Vec<_> = painn.iter().map(|name| (Source::SchNetPack, folder(name).join(SAFETENSORS))).collect();
    out.push((Source::SchNetPack, folder("lightning").join("checkpoint.pt")));
    out.push((Source::Distiller, folder("distiller").join("model.safetensors")));
    out.push((Source::Distiller, folder("distiller").join("checkpoint.pt")));
    out
}

fn check(precision: Precision, [energy, force, stress]: [f64; 3]) {
    for (source, path) in sources() {
        let model = Arc::new(import(source, &path, &ImportOptions::default()).unwrap());
        let potential = Potential::builder(model).precision(precision).build().unwrap();
        let cases = cases(path.parent().unwrap());
        assert_eq!(cases.len(), 4);
        let structures: Vec<Structure> = cases.iter().map(Case::structure).collect();
        let mut summary = [0.0_f64; 3];
        for (case, got) in cases.iter().zip(potential.evaluate(&structures, Want::ALL)) {
            let got = got.unwrap();
            let what = format!("{}, {}", path.display(), case.symbols.concat());
            let error = (got.energy - case.energy).abs() / case.energy.abs().max(1.0);
            assert!(error <= energy, "{what}: energy {} instead of {}", got.energy, case.energy);
            let forces = worst(got.forces.as_ref().unwrap().as_flattened(), case.forces.as_flattened());
            assert!(forces <= force, "{what}: forces off by {forces:e}");
            assert_eq!(got.stress.is_some(), case.stress.is_some(), "{what}");
            let mut stress_error = 0.0;
            if let (Some(got), Some(want)) = (&got.stress, &case.stress) {
                stress_error = worst(got.as_flattened(), want.as_flattened());
                assert!(stress_error <= stress, "{what}: stress off by {stress_error:e}");
            }
            for (s, x) in summary.iter_mut().zip([error, forces, stress_error]) {
                *s = s.max(x);
            }
        }
        println!("{precision:?} {}: {:.1e} {:.1e} {:.1e}", path.display(), summary[0], summary[1], summary[2]);
    }
}

#[test]
fn import_f64_matches_the_projects_own_results() {
    check(Precision::F64, [1e-9, 1e-8, 1e-9]);
}

#[test]
fn import_f32_matches_the_projects_own_results() {
    check(Precision::F32, [2e-5, 1e-4, 2e-5]);
}

#[test]
fn import_then_save_then_load_is_the_same_model() {
    for (source, path) in sources() {
        let model = import(source, &path, &ImportOptions::default()).unwrap();
        let tmp = TempDir::new().unwrap();
        let out = tmp.path().join("new/model");
        model.save(&out).unwrap();
        assert_eq!(Model::load(&out).unwrap(), model, "{}", path.display());
        assert_eq!(listing(&tmp.path().join("new")), ["model"]);
        assert_eq!(listing(&out), ["README.md", "config.json", "model.safetensors"]);
    }
}

#[test]
fn import_reads_checkpoint_and_safetensors_of_distiller_alike() {
    let from =
        |file: &str| import(Source::Distiller, &folder("distiller").join(file), &ImportOptions::default()).unwrap();
    assert_eq!(from("checkpoint.pt"), from("model.safetensors"));
}

#[test]
fn import_takes_atomic_energies_and_species_of_the_export() {
    let model = import(Source::SchNetPack, &folder("exported-hartree").join(SAFETENSORS), &ImportOptions::default());
    let model = model.unwrap();
    let hartree = 27.211386245981;
    assert_eq!(model.config().species, [1, 6, 8]);
    for (z, energy) in [(1, -0.5), (6, -37.75), (8, -75.0625)] {
        let got = model.config().atomic_energies[&z];
        assert!((got - hartree * (energy - 0.4375)).abs() < 1e-9, "{z}: {got}");
    }
    assert!((model.config().energy_scale - 0.125 * hartree).abs() < 1e-12);
}

fn listing(folder: &Path) -> Vec<String> {
    let entries = fs::read_dir(folder).unwrap();
    let mut names: Vec<String> = entries.map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

/// A copy of a fixture that a test may damage.
struct Copy {
    tmp: TempDir,
    source: Source,
    file: &'static str,
}

impl Copy {
    fn new(name: &str) -> Self {
        let (source, file) = match name {
            "distiller" => (Source::Distiller, "model.safetensors"),
            "lightning" => (Source::SchNetPack, "checkpoint.pt"),
            _ => (Source::SchNetPack, SAFETENSORS),
        };
        let tmp = TempDir::new().unwrap();
        for file in [file, "config.json"] {
            fs::copy(folder(name).join(file), tmp.path().join(file)).unwrap();
        }
        Copy { tmp, source, file }
    }

    fn path(&self) -> PathBuf {
        self.tmp.path().join(self.file)
    }

    fn edit_config(&self, edit: impl FnOnce(&mut Value)) {
        let path = self.tmp.path().join("config.json");
        let mut config = serde_json::from_slice(&fs::read(&path).unwrap()).unwrap();
        edit(&mut config);
        fs::write(path, config.to_string()).unwrap();
    }

    fn edit_weights(&self, edit: impl FnOnce(&mut Weights)) {
        let mut weights = Weights::from_safetensors(&self.path(), &fs::read(self.path()).unwrap()).unwrap();
        edit(&mut weights);
        fs::write(self.path(), weights.to_safetensors(&self.path()).unwrap()).unwrap();
    }

    fn import(&self) -> mlff::Result<Model> {
        import(self.source, &self.path(), &ImportOptions::default())
    }

    #[track_caller]
    fn refuses(&self, words: &[&str]) {
        refused(self.import(), words);
    }
}

/// Checks that an error says all these words.
#[track_caller]
fn refused<T>(result: mlff::Result<T>, words: &[&str]) {
    let Err(error) = result else { panic!("not refused; expected a message with {words:?}") };
    let message = error.to_string();
    for word in words {
        assert!(message.contains(word), "the message {message:?} does not say {word:?}");
    }
}

#[test]
fn import_refuses_missing_tensors() {
    for name in ["shared-filters", "one-interaction", "distiller"] {
        let copy = Copy::new(name);
        let bytes = fs::read(copy.path()).unwrap();
        let names: Vec<String> = Weights::from_safetensors(&copy.path(), &bytes).unwrap().0.keys().cloned().collect();
        for tensor in &names {
            fs::write(copy.path(), &bytes).unwrap();
            copy.edit_weights(|w| drop(w.0.remove(tensor)));
            // The configuration has the cutoff too, and the last mixing matrix has no effect.
            let optional = ["representation.cutoff_fn.cutoff", "interactions.2.update.mixing_matrix"];
            assert_eq!(copy.import().is_ok(), optional.contains(&tensor.as_str()), "{name} without {tensor}");
        }
        for tensor in ["representation.interactions.0.interatomic_context_net.1.bias", "energy_head.2.weight"] {
            if names.iter().any(|n| n == tensor) {
                fs::write(copy.path(), &bytes).unwrap();
                copy.edit_weights(|w| drop(w.0.remove(tensor)));
                copy.refuses(&[copy.file, tensor.trim_end_matches("energy_head.2.weight")]);
            }
        }
    }
}

#[test]
fn import_refuses_wrong_shapes() {
    for name in ["shared-interactions", "exported-hartree", "distiller"] {
        let copy = Copy::new(name);
        let bytes = fs::read(copy.path()).unwrap();
        let weights = Weights::from_safetensors(&copy.path(), &bytes).unwrap();
        for (tensor, array) in &weights.0 {
            if tensor == "interactions.2.update.mixing_matrix" || tensor.starts_with("representation.cutoff_fn") {
                continue;
            }
            let mut longer = array.shape.clone();
            longer[0] += 1;
            for shape in [vec![], vec![0], vec![0, 0], vec![1, 1, 1], longer] {
                // Other numbers of species are another model, not a wrong one.
                if tensor.ends_with("embedding.weight") && shape.len() == 2 && shape[0] > 0 && name != "distiller" {
                    continue;
                }
                fs::write(copy.path(), &bytes).unwrap();
                let data = vec![0.5; shape.iter().product()];
                copy.edit_weights(|w| w.put(tensor.clone(), Array { shape: shape.clone(), data }));
                assert!(copy.import().is_err(), "{name}: {tensor} of shape {shape:?} was taken");
            }
        }
    }
    let copy = Copy::new("shared-interactions");
    copy.edit_weights(|w| {
        let array = Array { shape: vec![8, 9], data: vec![0.5; 72] };
        w.put("representation.interactions.0.interatomic_context_net.0.weight", array);
    });
    copy.edit_config(|c| c["shared_interactions"] = json!(false));
    copy.refuses(&["interactions.0.message.0.weight", "[8, 8]", "[8, 9]"]);
}

#[test]
fn import_refuses_weights_that_are_not_finite() {
    for (name, tensor) in [
        ("shared-filters", "representation.filter_net.weight"),
        ("one-interaction", "representation.radial_basis.offsets"),
        ("distiller", "energy_head.0.bias"),
    ] {
        for (value, word) in [(f64::NAN, "NaN"), (f64::INFINITY, "inf")] {
            let copy = Copy::new(name);
            copy.edit_weights(|w| w.0.get_mut(tensor).unwrap().data[1] = value);
            copy.refuses(&[copy.file, word, "element 1", "damaged or the training diverged"]);
        }
    }
}

#[test]
fn import_refuses_tensors_that_it_does_not_know() {
    for name in ["shared-filters", "distiller"] {
        let copy = Copy::new(name);
        copy.edit_weights(|w| w.put("charge_head.0.weight", Array { shape: vec![1], data: vec![1.0] }));
        copy.refuses(&["does not know what to do with", "charge_head.0.weight"]);
    }
    let copy = Copy::new("shared-filters");
    copy.edit_weights(|w| w.put("postprocessors.0.scale", Array { shape: vec![1], data: vec![1.0] }));
    copy.refuses(&["postprocessors", "scripts/export_schnetpack.py"]);
}

#[test]
fn import_refuses_widths_that_are_not_positive() {
    for width in [0.0, -0.5] {
        for (name, tensor) in [("shared-filters", "representation.radial_basis.widths"), ("distiller", "rbf.widths")] {
            let copy = Copy::new(name);
            copy.edit_weights(|w| w.0.get_mut(tensor).unwrap().data[2] = width);
            copy.refuses(&["widths", "not positive"]);
        }
    }
}

#[test]
fn import_refuses_a_configuration_that_disagrees_with_the_tensors() {
    let huge = json!(1_000_000_000_000_u64);
    for (name, key, value, words) in [
        ("shared-filters", "n_atom_basis", json!(16), vec!["n_atom_basis = 16", "say 8"]),
        ("shared-filters", "n_rbf", json!(9), vec!["n_rbf = 9", "say 8"]),
        ("shared-filters", "cutoff", json!(5.0), vec!["cutoff = 5", "say 4.5"]),
        ("shared-filters", "shared_filters", json!(false), vec!["shared_filters = false", "say true"]),
        ("exported-hartree", "shared_filters", json!(true), vec!["shared_filters = true", "say false"]),
        ("exported-hartree", "shared_interactions", json!(true), vec!["shared_interactions", "layer 1 differs"]),
        ("exported-hartree", "n_interactions", json!(3), vec!["n_interactions = 3", "say 2"]),
        ("exported-hartree", "n_interactions", json!(0), vec!["n_interactions = 0", "say 2"]),
        ("exported-hartree", "radial_basis", json!("bessel"), vec!["radial basis", "Gaussian"]),
        ("exported-hartree", "radial_basis", json!("chebyshev"), vec!["chebyshev", "gaussian", "bessel"]),
        ("exported-hartree", "activation", json!("tanh"), vec!["tanh", "silu"]),
        ("exported-hartree", "cutoff_fn", json!("mollifier"), vec!["mollifier", "cosine"]),
        ("exported-hartree", "cutof", json!(4.5), vec!["cutof", "expected one of", "n_atom_basis"]),
        ("exported-hartree", "species", json!([1, 6, 6]), vec!["species", "6 twice"]),
        ("exported-hartree", "species", json!([1, 110]), vec!["element 110 has no row", "has 100"]),
        ("exported-hartree", "species", json!([0, 1]), vec!["species holds 0", "1 to 118"]),
        ("exported-hartree", "species", json!([1, 300]), vec!["300"]),
        ("exported-hartree", "species", json!([]), vec!["species is empty"]),
        ("exported-hartree", "atomic_energies", json!({"Fe": 1.0}), vec!["configuration", "Fe is \"26\""]),
        ("exported-hartree", "epsilon", json!(-1e-8), vec!["epsilon", "0 to 1"]),
        ("shared-both", "n_interactions", huge.clone(), vec!["n_interactions is 1000000000000", "1 to 64"]),
        ("shared-both", "n_atom_basis", huge.clone(), vec!["n_atom_basis = 1000000000000", "say 8"]),
        ("shared-both", "cutoff", json!(1e300), vec!["cutoff", "say 4.25"]),
        ("distiller", "hidden_dim", json!(16), vec!["hidden_dim = 16", "say 8"]),
        ("distiller", "num_rbf", huge, vec!["num_rbf = 1000000000000", "say 6"]),
        ("distiller", "num_interactions", json!(2), vec!["num_interactions = 2", "say 3"]),
        ("distiller", "max_z", json!(100), vec!["max_z = 100", "say 20"]),
        ("distiller", "cutoff", json!(-1.0), vec!["cutoff is -1", "0.1 to 100"]),
        ("distiller", "cutoff", json!(1e300), vec!["cutoff is", "0.1 to 100"]),
        ("distiller", "n_atom_basis", json!(8), vec!["n_atom_basis", "expected one of", "hidden_dim"]),
    ] {
        let copy = Copy::new(name);
        copy.edit_config(|c| c[key] = value.clone());
        println!("{name} with {key} = {value}: {}", copy.import().err().map_or("taken".into(), |e| e.to_string()));
        copy.refuses(&words);
    }
    let copy = Copy::new("distiller");
    copy.edit_config(|c| drop(c.as_object_mut().unwrap().remove("cutoff")));
    copy.refuses(&["cutoff"]);
}

#[test]
fn import_says_what_is_missing_beside_the_weights() {
    let copy = Copy::new("shared-filters");
    let config = copy.tmp.path().join("config.json");
    fs::write(&config, "{\"n_rbf\": ").unwrap();
    copy.refuses(&["config.json", "not JSON"]);
    fs::remove_file(&config).unwrap();
    copy.refuses(&[SAFETENSORS, "put config.json beside it", "ImportOptions::config"]);
    let elsewhere =
        ImportOptions { config: Some(folder("shared-filters").join("config.json")), ..ImportOptions::default() };
    assert!(import(Source::SchNetPack, &copy.path(), &elsewhere).is_ok());
    let nowhere = ImportOptions { config: Some("no-such-file.json".into()), ..ImportOptions::default() };
    refused(import(Source::SchNetPack, &copy.path(), &nowhere), &["no-such-file.json"]);
    refused(import(Source::SchNetPack, Path::new("no-such-file"), &elsewhere), &["no-such-file"]);
    refused(import(Source::SchNetPack, copy.tmp.path(), &elsewhere), &["directory"]);
    let distiller = folder("distiller").join("model.safetensors");
    refused(
        import(Source::SchNetPack, &distiller, &elsewhere),
        &["representation.embedding.weight", "embedding.weight"],
    );
    let options = ImportOptions { config: Some(folder("distiller").join("config.json")), ..ImportOptions::default() };
    refused(import(Source::Distiller, &copy.path(), &options), &["no MLFF-Distiller student", "representation."]);
}

#[test]
fn import_checks_the_species_that_it_is_told() {
    let path = folder("exported-hartree").join(SAFETENSORS);
    let with = |species: &[u8]| {
        import(
            Source::SchNetPack,
            &path,
            &ImportOptions { species: Some(species.to_vec()), ..ImportOptions::default() },
        )
    };
    assert_eq!(with(&[8, 1]).unwrap().config().species, [8, 1]);
    refused(with(&[1, 8, 1]), &["1 twice"]);
    refused(with(&[118]), &["element 118 has no row"]);
    refused(with(&[]), &["species is empty"]);
}

/// A model directory that a test may damage.
fn saved(name: &str) -> (TempDir, PathBuf) {
    let copy = Copy::new(name);
    let tmp = TempDir::new().unwrap();
    let path = tmp.path().join("model");
    copy.import().unwrap().save(&path).unwrap();
    (tmp, path)
}

#[test]
fn load_refuses_configurations_that_it_cannot_evaluate() {
    let (_tmp, path) = saved("shared-filters");
    let file = path.join("config.json");
    let original: Value = serde_json::from_slice(&fs::read(&file).unwrap()).unwrap();
    let huge = json!(1_000_000_000_000_u64);
    for (pointer, value, words) in [
        ("/format_version", json!(2), vec!["format_version is 2", "reads 1", "newer"]),
        ("/format_version", json!("1"), vec!["format_version is \"1\""]),
        ("/architecture/type", json!("schnet"), vec!["schnet", "painn", "mlff-distiller"]),
        ("/architecture/type", json!("mlff-distiller"), vec!["shared_filters"]),
        ("/architecture/n_features", huge.clone(), vec!["n_features is 1000000000000", "1 to 16384"]),
        ("/architecture/n_features", json!(16384), vec!["embedding", "16384"]),
        ("/architecture/n_features", json!(0), vec!["n_features is 0"]),
        ("/architecture/n_features", json!(-8), vec!["-8"]),
        ("/architecture/n_features", json!(8.5), vec!["8.5"]),
        ("/architecture/n_interactions", huge.clone(), vec!["n_interactions is 1000000000000"]),
        ("/architecture/n_interactions", json!(2), vec!["interactions.2"]),
        ("/architecture/n_interactions", json!(0), vec!["n_interactions is 0"]),
        ("/architecture/radial_basis/n", huge.clone(), vec!["radial_basis.n"]),
        ("/architecture/radial_basis/type", json!("bessel"), vec!["radial_basis.frequencies"]),
        ("/architecture/readout_hidden", json!([huge]), vec!["readout_hidden"]),
        ("/architecture/readout_hidden", json!([]), vec!["readout.0.weight"]),
        ("/architecture/envelope", json!("polynomial"), vec!["polynomial", "cosine"]),
        ("/architecture/activation", json!("relu"), vec!["relu", "silu"]),
        ("/architecture/epsilon", json!(2.0), vec!["epsilon is 2"]),
        ("/cutoff", json!(0.0), vec!["cutoff is 0"]),
        ("/cutoff", json!(1e6), vec!["cutoff is 1000000"]),
        ("/species", json!([1, 1]), vec!["1 twice"]),
        ("/species", json!([1, 119]), vec!["119", "1 to 118"]),
        ("/species", json!([]), vec!["species is empty"]),
        ("/atomic_energies", json!({"119": 1.0}), vec!["119"]),
        ("/units/energy", json!("Hartree"), vec!["units", "eV"]),
    ] {
        let mut config = original.clone();
        *config.pointer_mut(pointer).unwrap() = value.clone();
        fs::write(&file, config.to_string()).unwrap();
        println!("{pointer} = {value}: {}", Model::load(&path).err().map_or("taken".into(), |e| e.to_string()));
        refused(Model::load(&path), &words);
    }
    for pointer in ["", "/architecture", "/units", "/architecture/radial_basis"] {
        let mut config = original.clone();
        config.pointer_mut(pointer).unwrap()["colour"] = json!("blue");
        fs::write(&file, config.to_string()).unwrap();
        refused(Model::load(&path), &["config.json", "colour"]);
    }
    let mut config = original.clone();
    drop(config.as_object_mut().unwrap().remove("format_version"));
    fs::write(&file, config.to_string()).unwrap();
    refused(Model::load(&path), &["no format_version", "mlff import"]);
    let text = original.to_string();
    for end in 0..text.len() - 1 {
        fs::write(&file, &text[..end]).unwrap();
        refused(Model::load(&path), &["config.json", "not JSON"]);
    }
    fs::remove_file(&file).unwrap();
    refused(Model::load(&path), &["has no config.json", "mlff import"]);
    refused(Model::load(path.join("model.safetensors")), &["is a file", "mlff import"]);
    refused(Model::load(path.join("nothing")), &["no such model directory", "built in"]);
}

#[test]
fn save_refuses_what_is_there_already() {
    let model = Copy::new("one-interaction").import().unwrap();
    let tmp = TempDir::new().unwrap();
    let [full, empty, file] = ["full", "empty", "file"].map(|name| tmp.path().join(name));
    fs::create_dir(&full).unwrap();
    fs::write(full.join("notes.txt"), "mine").unwrap();
    fs::create_dir(&empty).unwrap();
    fs::write(&file, "mine").unwrap();
    refused(model.save(&full), &["full", "exists already", "choose a new directory"]);
    refused(model.save(&file), &["file", "exists already"]);
    assert_eq!(listing(&full), ["notes.txt"]);
    assert_eq!(fs::read_to_string(&file).unwrap(), "mine");
    assert!(model.save(file.join("below")).is_err());
    assert_eq!(listing(tmp.path()), ["empty", "file", "full"]);
    model.save(&empty).unwrap();
    assert_eq!(Model::load(&empty).unwrap(), model);
    refused(model.save(&empty), &["exists already"]);
    assert_eq!(listing(tmp.path()), ["empty", "file", "full"]);
}

/// Whatever happens to the bytes: an error, or a model of finite weights.
fn survive(copy: &Copy, bytes: &[u8]) -> bool {
    fs::write(copy.path(), bytes).unwrap();
    match copy.import() {
        Ok(model) => {
            assert!(model.weights().0.values().all(|a| a.data.iter().all(|x| x.is_finite())));
            true
        }
        Err(error) => {
            assert!(error.to_string().contains(copy.file), "{error}");
            false
        }
    }
}

#[test]
fn import_survives_truncated_files() {
    for (name, stride) in [("one-interaction", 37), ("distiller", 61), ("lightning", 53)] {
        let copy = Copy::new(name);
        let bytes = fs::read(copy.path()).unwrap();
        for end in (0..64).chain((64..bytes.len()).step_by(stride)).chain([bytes.len() - 1]) {
            assert!(!survive(&copy, &bytes[..end]), "{name} cut at {end} was taken");
        }
        assert!(survive(&copy, &bytes));
    }
}

#[test]
fn import_survives_flipped_bytes() {
    for name in ["one-interaction", "distiller", "lightning"] {
        let copy = Copy::new(name);
        let original = fs::read(copy.path()).unwrap();
        let (mut random, mut refused) = (Random(1), 0);
        for round in 0..800 {
            let mut bytes = original.clone();
            // Half of them in the first part, where the names and shapes are.
            let range = if round % 2 == 0 { bytes.len() } else { bytes.len().min(2500) };
            for _ in 0..1 + round % 3 {
                bytes[random.below(range)] ^= 1 << random.below(8);
            }
            refused += usize::from(!survive(&copy, &bytes));
        }
        // A flip in a weight is nobody's to see; one in a name or a shape is.
        assert!((100..800).contains(&refused), "{name}: {refused} of 800 refused");
    }
}

/// A pickle that is damaged inside an archive whose checksums hold, as a faulty writer would leave it.
#[test]
fn import_survives_damaged_pickles() {
    let copy = Copy::new("lightning");
    let original = fs::read(copy.path()).unwrap();
    let mut archive = zip::ZipArchive::with_config(
        zip::read::Config { archive_offset: zip::read::ArchiveOffset::Known(0) },
        std::io::Cursor::new(&original),
    )
    .unwrap();
    let mut entries: Vec<(String, Vec<u8>)> = Vec::new();
    for k in 0..archive.len() {
        let mut entry = archive.by_index(k).unwrap();
        let mut bytes = Vec::new();
        std::io::Read::read_to_end(&mut entry, &mut bytes).unwrap();
        entries.push((entry.name().unwrap().into_owned(), bytes));
    }
    let archive_with = |pickle: &[u8]| {
        let mut writer = zip::ZipWriter::new(std::io::Cursor::new(Vec::new()));
        let options = zip::write::SimpleFileOptions::default().compression_method(zip::CompressionMethod::Stored);
        for (name, bytes) in &entries {
            writer.start_file(name.clone(), options).unwrap();
            let bytes = if name.ends_with("data.pkl") { pickle } else { bytes };
            std::io::Write::write_all(&mut writer, bytes).unwrap();
        }
        writer.finish().unwrap().into_inner()
    };
    let pickle = entries.iter().find(|(name, _)| name.ends_with("data.pkl")).unwrap().1.clone();
    assert!(survive(&copy, &archive_with(&pickle)));
    for end in (0..pickle.len()).step_by(29) {
        assert!(!survive(&copy, &archive_with(&pickle[..end])), "cut at {end}");
    }
    let (mut random, mut refused) = (Random(2), 0);
    for _ in 0..1500 {
        let mut bytes = pickle.clone();
        bytes[random.below(pickle.len())] = random.bits() as u8;
        refused += usize::from(!survive(&copy, &archive_with(&bytes)));
    }
    assert!((300..1500).contains(&refused), "{refused} of 1500 refused");
    // A tensor's tuple with too few entries: REDUCE of _rebuild_tensor_v2 with an empty tuple.
    let short = b"\x80\x02}q\x00(X\x01\x00\x00\x00actorch._utils\n_rebuild_tensor_v2\n)Ru.";
    fs::write(copy.path(), archive_with(short)).unwrap();
    copy.refuses(&["checkpoint.pt", "pickle is damaged", "save it anew"]);
    // A number of more bytes than the reader has bits for.
    let long = [b"\x80\x02\x8a\xff".as_slice(), &[1; 255], b"."].concat();
    assert!(!survive(&copy, &archive_with(&long)));
}

#[test]
fn import_says_how_to_save_anew_what_it_cannot_read() {
    let copy = Copy::new("one-interaction");
    fs::write(copy.path(), b"\x80\x02}q\x00.............").unwrap();
    copy.refuses(&["pickle", "torch.save(model.state_dict()", "scripts/export_schnetpack.py"]);
    fs::write(copy.path(), b"not weights at all").unwrap();
    copy.refuses(&["not a readable safetensors file"]);
    fs::write(copy.path(), b"").unwrap();
    copy.refuses(&["not a readable safetensors file"]);
}
