//! Models and files from strangers: nothing in them steers the terminal, is read elsewhere, or waits for ever.

use std::os::unix::fs::symlink;
use std::process::Command;

use mlff::Model;

use super::support::{Sandbox, water};

/// Text that would clear the screen, change the window's title, and turn the line around.
const HOSTILE: &str = "a\u{1b}]0;owned\u{7}\u{1b}[2J\u{9b}31m\u{202e}\u{2066}\r\u{7f}";

#[track_caller]
fn harmless(text: &str) {
    let bad = |c: char| {
        (c.is_control() && c != '\n' && c != '\t') || matches!(c, '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
    };
    assert!(!text.contains(bad), "{text:?}");
}

/// The built-in model as a directory `m`, its configuration edited.
fn model(place: &Sandbox, edit: impl FnOnce(&mut serde_json::Value)) {
    if !place.path("m").exists() {
        Model::load(mlff::model::default_name()).unwrap().save(place.path("m")).unwrap();
    }
    let mut config = place.json("m/config.json");
    edit(&mut config);
    place.write("m/config.json", config.to_string());
}

#[test]
fn info_shows_hostile_models_harmlessly() {
    let place = Sandbox::new();
    model(&place, |config| {
        config["name"] = format!("nice{HOSTILE}\nlicense MIT").into();
        config["license"] = HOSTILE.into();
        config["training_range"]["measured_on"] = HOSTILE.into();
    });
    place.write("m/README.md", format!("# Card\n\tkept\n{HOSTILE}\n"));
    let ran = place.run("info m").expect(0);
    harmless(&ran.text());
    for part in ["nicea\\u{1b}]0;owned\\u{7}", "\\nlicense MIT\n", "# Card\n\tkept\n", "\\u{202e}"] {
        assert!(ran.text().contains(part), "{part}: {}", ran.text());
    }
    // Without a card, training is shown.
    std::fs::remove_file(place.path("m/README.md")).unwrap();
    model(&place, |config| config["training"] = serde_json::json!({HOSTILE: HOSTILE}));
    harmless(&place.run("info m").expect(0).text());
    let json = place.run("info m --json").expect(0);
    harmless(&json.text());
    assert_eq!(json.json()["license"], HOSTILE, "JSON says the same");
}

#[test]
fn errors_show_hostile_text_harmlessly() {
    let place = Sandbox::new();
    model(&place, |config| drop(config.as_object_mut().unwrap().insert(HOSTILE.into(), 1.into())));
    let ran = place.run("info m").expect(2).says(&["unknown field", "\\u{1b}]0;owned"]);
    harmless(&ran.err);
    place.write("column.xyz", format!("1\nProperties=species:S:1:pos:R:3:\"{HOSTILE}\":Q:1\nH 0 0 0 1\n"));
    place.write("element.xyz", format!("1\n\n{HOSTILE} 0 0 0\n"));
    place.write("key.xyz", format!("1\n{HOSTILE}=1 charge={HOSTILE}\nH 0 0 0\n"));
    let named = "evil\u{1b}[2J.xyz";
    place.write(named, "1\n\nQq 0 0 0\n");
    for file in ["column.xyz", "element.xyz", "key.xyz", named] {
        for command in ["predict -o - ", "check ", "eval ", "predict -o - -v --on-error skip "] {
            let ran = place.run(&format!("{command}{file}"));
            harmless(&ran.err);
            assert!(!ran.err.is_empty(), "{command}{file}");
        }
    }
    harmless(&place.run("check --json key.xyz").text());
}

#[test]
fn model_folders_read_nothing_elsewhere() {
    let place = Sandbox::new();
    place.write("secret", "not for others");
    model(&place, |_| {});
    std::fs::remove_file(place.path("m/README.md")).unwrap();
    symlink(place.path("secret"), place.path("m/README.md")).unwrap();
    let ran = place.run("info m").expect(2).says(&["m/README.md", "link", "outside of the model directory"]);
    assert!(!ran.text().contains("not for others") && !ran.err.contains("not for others"));
    // Within the folder links are fine, and a folder may be a link itself.
    std::fs::remove_file(place.path("m/README.md")).unwrap();
    place.write("m/card.md", "the card");
    symlink("card.md", place.path("m/README.md")).unwrap();
    symlink("m", place.path("link")).unwrap();
    for folder in ["m", "link"] {
        assert!(place.run(&format!("info {folder}")).expect(0).text().contains("the card"));
    }
    for (file, target) in [("model.safetensors", "/dev/zero"), ("config.json", "/dev/zero")] {
        std::fs::rename(place.path("m").join(file), place.path("kept")).unwrap();
        symlink(target, place.path("m").join(file)).unwrap();
        place.run("info m").expect(2).says(&[file, "outside of the model directory"]);
        std::fs::remove_file(place.path("m").join(file)).unwrap();
        std::fs::rename(place.path("kept"), place.path("m").join(file)).unwrap();
    }
}

#[test]
fn pipes_and_devices_are_no_models() {
    let place = Sandbox::new();
    place.write("water.xyz", water(0));
    for file in ["model.safetensors", "config.json", "README.md"] {
        model(&place, |_| {});
        std::fs::remove_file(place.path("m").join(file)).unwrap();
        let made = Command::new("mkfifo").arg(place.path("m").join(file)).status();
        assert!(made.unwrap().success());
        for command in ["info m", "predict -m m water.xyz -o -"] {
            place.run(command).expect(2).says(&[file, "is a pipe or a device, expected a regular file"]);
        }
        std::fs::remove_dir_all(place.path("m")).unwrap();
    }
    for path in ["/dev/zero", "m.pipe"] {
        if path == "m.pipe" {
            assert!(Command::new("mkfifo").arg(place.path(path)).status().unwrap().success());
        }
        place.run(&format!("import schnetpack {path} -o out")).expect(2).says(&[path, "a pipe or a device"]);
        let ran = place.run(&format!("predict water.xyz -o - --calibration {path}"));
        ran.expect(2).says(&[path, "a pipe or a device"]);
    }
}

#[test]
fn files_that_are_too_large_are_not_read() {
    let place = Sandbox::new();
    for (file, bytes) in [("model.safetensors", 1_u64 << 42), ("config.json", 2 << 20), ("README.md", 2 << 20)] {
        model(&place, |_| {});
        // Sparse: no room is taken.
        let opened = std::fs::OpenOptions::new().write(true).open(place.path("m").join(file)).unwrap();
        opened.set_len(bytes).unwrap();
        place.run("info m").expect(2).says(&[file, &format!("has {bytes} bytes or more")]);
        std::fs::remove_dir_all(place.path("m")).unwrap();
    }
}

#[test]
fn layers_are_bounded() {
    let place = Sandbox::new();
    model(&place, |config| {
        config["architecture"]["shared_interactions"] = true.into();
        config["architecture"]["n_interactions"] = 6000.into();
    });
    place.run("info m").expect(2).says(&["n_interactions is 6000, expected 1 to 64"]);
    model(&place, |config| {
        config["architecture"]["n_interactions"] = 3.into();
        config["architecture"]["readout_hidden"] = vec![1; 64].into();
    });
    place.run("info m").expect(2).says(&["number of layers in readout_hidden is 65, expected 1 to 64"]);
}

#[test]
fn keys_given_twice_are_refused() {
    let place = Sandbox::new();
    model(&place, |_| {});
    let sound = place.text("m/config.json");
    for (key, extra) in [("cutoff", "\"cutoff\":3.0,"), ("energy_scale", "\"energy_scale\":1.0,")] {
        place.write("m/config.json", sound.replacen('{', &format!("{{{extra}"), 1));
        place.run("info m").expect(2).says(&["config.json", &format!("\"{key}\" is given twice")]);
    }
    place.write("m/config.json", sound.replace("\"n_features\":64", "\"n_features\":64,\"n_features\":64"));
    place.run("info m").expect(2).says(&["\"architecture.n_features\" is given twice"]);
    place.write("m/config.json", sound.replace("\"8\":", "\"08\":"));
    place.run("info m").expect(2).says(&["the key \"08\"", "8 is written \"8\""]);
    place.write("m/config.json", sound.replace("\"8\":", "\"O\":"));
    place.run("info m").expect(2).says(&["the key \"O\"", "O is \"8\""]);
    // The same of weights and of calibrations.
    place.write("m/config.json", &sound);
    let bytes = place.bytes("m/model.safetensors");
    let length = u64::from_le_bytes(bytes[..8].try_into().unwrap()) as usize;
    let header = String::from_utf8(bytes[8..8 + length].to_vec()).unwrap();
    let first = header.find("\"embedding\":").unwrap();
    let end = first + header[first..].find('}').unwrap() + 1;
    let header = format!("{{{},{}", &header[first..end], &header[1..]);
    let twice = [&(header.len() as u64).to_le_bytes()[..], header.as_bytes(), &bytes[8 + length..]].concat();
    place.write("m/model.safetensors", twice);
    place.run("info m").expect(2).says(&["model.safetensors", "\"embedding\" is given twice"]);
    let calibration = serde_json::to_string(&mlff::calibration::Calibration::new(1.2)).unwrap();
    place.write("c.json", calibration.replacen("\"threshold\":1.2", "\"threshold\":1.2,\"threshold\":9.0", 1));
    place.write("water.xyz", water(0));
    let ran = place.run("predict water.xyz -o - --calibration c.json").expect(2);
    ran.says(&["c.json", "\"threshold\" is given twice"]);
}
