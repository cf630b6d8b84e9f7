//! What a build has and lacks, by its cargo features: each says what it is without, and evaluates with what it has.

#![allow(clippy::unwrap_used)]

use std::io::Write as _;

use mlff::xyz::Reader;
use mlff::{DeviceKind, EngineKind, Error, Model, Potential, Structure, Want};

fn water() -> Structure {
    Structure::molecule(vec![8, 1, 1], vec![[0.0, 0.0, 0.119], [0.0, 0.763, -0.477], [0.0, -0.763, -0.477]]).unwrap()
}

fn build(engine: EngineKind, device: DeviceKind) -> mlff::Result<Potential> {
    Potential::builder(Model::load("ani2x-painn-64").unwrap()).engine(engine).device(device).build()
}

/// The feature that an error says is missing.
fn missing(error: &Error) -> Option<&'static str> {
    match error {
        Error::NotBuilt { feature, .. } => Some(feature),
        _ => None,
    }
}

#[test]
fn every_build_evaluates_on_the_processor() {
    let potential = build(EngineKind::Auto, DeviceKind::Cpu).unwrap();
    let evaluation = potential.evaluate_one(&water(), Want::ALL).unwrap();
    let mut forces = vec![[0.0; 3]; 3];
    let energy = potential.session(&water()).unwrap().compute(&water().positions, None, &mut forces).unwrap();
    assert_eq!((energy, Some(forces)), (evaluation.energy, evaluation.forces));
}

#[test]
fn batched_autograd_is_there_or_said_to_be_missing() {
    let built = build(EngineKind::Autograd, DeviceKind::Cpu);
    if cfg!(feature = "autograd") {
        assert_eq!(built.unwrap().engine(), EngineKind::Autograd);
    } else {
        let error = built.unwrap_err();
        assert_eq!((missing(&error), error.code()), (Some("autograd"), "not_built"));
        assert!(error.to_string().contains("without the batched autograd engine"), "{error}");
    }
}

#[test]
fn gpus_are_looked_for_or_said_to_be_missing() {
    for engine in [EngineKind::Adjoint, EngineKind::Autograd] {
        // No machine has as many.
        let error = build(engine, DeviceKind::Cuda(4096)).unwrap_err();
        match (engine, cfg!(feature = "cuda"), cfg!(feature = "autograd")) {
            (EngineKind::Autograd, _, false) => assert_eq!(missing(&error), Some("autograd")),
            (EngineKind::Autograd, false, true) => assert_eq!(missing(&error), Some("candle-cuda")),
            (_, false, _) => assert_eq!(missing(&error), Some("cuda")),
            (_, true, _) => assert_eq!(error.code(), "cuda"),
        }
    }
}

#[test]
fn packed_trajectories_are_read_or_said_to_need_a_feature() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("water.xyz.gz");
    // `1\n\nH 0 0 0\n`, by gzip.
    let packed: &[u8] = &[
        0x1f, 0x8b, 0x08, 0x00, 0x00, 0x00, 0x00, 0x00, 0x02, 0x03, 0x33, 0xe4, 0xe2, 0xf2, 0x50, 0x30, 0x00, 0x41,
        0x2e, 0x00, 0xa6, 0x96, 0xe4, 0x07, 0x0b, 0x00, 0x00, 0x00,
    ];
    std::fs::File::create(&path).unwrap().write_all(packed).unwrap();
    let frames = Reader::open(&path).and_then(|reader| reader.collect::<mlff::Result<Vec<_>>>());
    if cfg!(feature = "compression") {
        assert_eq!(frames.unwrap()[0].structure.atomic_numbers, [1]);
    } else {
        let text = frames.unwrap_err().to_string();
        assert!(
            text.contains("water.xyz.gz") && text.contains("built without gzip") && text.contains("`compression`"),
            "{text}"
        );
    }
}

/// The command of a build with nothing else.
#[cfg(feature = "cli")]
mod command {
    fn run(args: &[&str]) -> (Option<i32>, String) {
        let path = tempfile::tempdir().unwrap();
        let file = path.path().join("water.xyz");
        std::fs::write(&file, "3\n\nO 0 0 0.119\nH 0 0.763 -0.477\nH 0 -0.763 -0.477\n").unwrap();
        let out = std::process::Command::new(env!("CARGO_BIN_EXE_mlff"))
            .args(args.iter().map(|arg| if *arg == "FILE" { file.to_str().unwrap() } else { arg }))
            .args(["--no-progress"])
            .env("MLFF_CACHE", path.path())
            .output()
            .unwrap();
        let text = [out.stdout, out.stderr].concat();
        (out.status.code(), String::from_utf8(text).unwrap())
    }

    #[test]
    fn command_predicts_and_says_what_it_is_without() {
        let (code, text) = run(&["predict", "FILE", "-o", "-"]);
        assert!(code == Some(0) && text.contains("energy="), "{text}");
        let lacks = |feature: &str| format!("cargo feature `{feature}`");
        if !cfg!(feature = "autograd") {
            let (code, text) = run(&["predict", "FILE", "-o", "-", "--engine", "autograd"]);
            assert!(code == Some(2) && text.contains(&lacks("autograd")), "{code:?} {text}");
        }
        if !cfg!(feature = "cuda") {
            let (code, text) = run(&["predict", "FILE", "-o", "-", "--device", "cuda"]);
            assert!(code == Some(2) && text.contains(&lacks("cuda")), "{code:?} {text}");
            let (code, text) = run(&["calibrate", "--quick", "--device", "cuda"]);
            assert!(code == Some(2) && text.contains(&lacks("cuda")), "{code:?} {text}");
        }
    }
}
