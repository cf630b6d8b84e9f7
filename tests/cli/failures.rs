//! `mlff predict` where something is wrong: what is said, what is left behind, how it ends.

use std::io::{BufRead, BufReader};

use super::support::{Sandbox, assert_same, predictions, predictions_in, water, waters};

/// (what is wrong, frame, line counted from the frame's first, part of the message)
const BAD_FRAMES: [(&str, &str, usize, &str); 7] = [
    ("unknown element", "1\nframe=1\nHe 0 0 0\n", 0, "element He (Z = 2, atom 0) is not known"),
    ("charge", "1\nframe=1 charge=1\nO 0 0 0\n", 0, "total charge is 1, but"),
    ("spin", "1\nframe=1 spin_multiplicity=3\nO 0 0 0\n", 0, "spin multiplicity is 3, but"),
    ("charge that is none", "1\nframe=1 charge=one\nO 0 0 0\n", 1, "charge"),
    ("overlap", "2\nframe=1\nH 0 0 0\nH 0 0 0.01\n", 0, "atoms 0 and 1 overlap: 0.0100 Å apart"),
    ("bad number", "2\nframe=1\nH 0 0 0\nH 0 0 0.7x4\n", 3, "0.7x4"),
    ("bad cell", "1\nframe=1 Lattice=\"1 2 3\"\nH 0 0 0\n", 1, "Lattice needs 9 numbers"),
];

#[test]
fn bad_frame_fails_the_run_and_leaves_nothing() {
    let sandbox = Sandbox::new();
    for (what, frame, line, message) in BAD_FRAMES {
        sandbox.write("in.xyz", water(0) + frame + &water(2));
        let ran = sandbox.run("predict in.xyz -o out.xyz").expect(1);
        let place = format!("error: in.xyz: frame 1, line {}: ", 6 + line);
        assert_eq!(ran.err.matches("error").count(), 2, "{what}: {}", ran.err);
        ran.says(&[&place, message, "--on-error skip"]);
        assert_eq!(sandbox.files(), ["in.xyz"], "{what}");
        sandbox.write("out.xyz", "old");
        sandbox.run("predict in.xyz -o out.xyz --overwrite").expect(1);
        assert_eq!(sandbox.text("out.xyz"), "old", "{what}: a run that fails replaces nothing");
        std::fs::remove_file(sandbox.path("out.xyz")).unwrap();
    }
}

#[test]
fn bad_frame_is_skipped() {
    let sandbox = Sandbox::new();
    sandbox.write("good.xyz", water(0) + &water(2));
    sandbox.run("predict good.xyz -o good.out.xyz --dtype f64").expect(0);
    let want = predictions(&sandbox.path("good.out.xyz"), "MLFF_");
    for (what, frame, line, message) in BAD_FRAMES {
        sandbox.write("in.xyz", water(0) + frame + &water(2));
        let ran = sandbox.run("predict in.xyz -o out.xyz --overwrite --on-error skip --summary s.json --dtype f64");
        let place = format!("in.xyz: frame 1, line {}: ", 6 + line);
        ran.expect(1).says(&["3 structures", "1 failed", &place, message]);
        let mut got = predictions(&sandbox.path("out.xyz"), "MLFF_");
        let bad = got.remove(1);
        assert_eq!((bad.energy, bad.forces, bad.stress), (None, None, None), "{what}");
        assert_same(&got, &want, 1e-9);
        assert_eq!((&sandbox.json("s.json")["n_failed"], &sandbox.json("s.json")["n_frames"]), (&1.into(), &3.into()));
        let quiet = sandbox.run("predict in.xyz -o - -q --on-error skip");
        assert!(!quiet.err.contains("3 structures"), "{what}: -q prints errors only");
        quiet.expect(1).says(&[&place, message]);
        sandbox.run("predict in.xyz -o - -v --on-error skip").expect(1).says(&["failed: ", &place]);
    }
}

/// Results of an earlier run must not pass for those of this one.
#[test]
fn skipped_frame_loses_stale_results() {
    let sandbox = Sandbox::new();
    let stale = "1\nProperties=species:S:1:pos:R:3:MLFF_forces:R:3 energy=-3 MLFF_energy=-4\nHe 0 0 0 1 2 3\n";
    sandbox.write("in.xyz", stale);
    sandbox.run("predict in.xyz -o out.xyz --on-error skip").expect(1);
    let text = sandbox.text("out.xyz");
    let want = "1\nProperties=species:S:1:pos:R:3 energy=-3 pbc=\"F F F\" MLFF_made_by=\"mlff ";
    assert!(text.starts_with(want) && text.ends_with("\"\nHe 0 0 0\n") && text.lines().count() == 3, "{text}");
}

#[test]
fn truncated_file_gives_the_frames_that_are_whole() {
    let sandbox = Sandbox::new();
    let truncated = "3\n\nO 0 0 0\nH 0 0 1\n";
    sandbox.write("in.xyz", waters(2) + truncated);
    let message = "in.xyz: frame 2, line 14: truncated frame: the file ends after 2 of 3 atoms";
    sandbox.run("predict in.xyz -o out.xyz").expect(1).says(&[message]);
    assert_eq!(sandbox.files(), ["in.xyz"]);
    sandbox.run("predict in.xyz -o out.xyz --on-error skip").expect(1).says(&["1 failed", message]);
    assert_eq!(predictions(&sandbox.path("out.xyz"), "MLFF_").len(), 2);
    sandbox.write("only.xyz", truncated);
    sandbox.run("predict only.xyz -o only.out.xyz --on-error skip").expect(1).says(&["only.xyz: frame 0, line 4"]);
    let mut packed = zstd::encode_all(waters(2000).as_bytes(), 1).unwrap();
    packed.truncate(packed.len() / 2);
    sandbox.write("cut.xyz.zst", packed);
    sandbox.run("predict cut.xyz.zst -o cut.out.xyz").expect(1).says(&["cut.xyz.zst", "truncated or corrupt"]);
}

/// Energies of free atoms so large that two of them are infinite.
#[test]
fn results_that_are_not_finite_are_failures() {
    let sandbox = Sandbox::new();
    mlff::Model::load(mlff::model::default_name()).unwrap().save(sandbox.path("model")).unwrap();
    let mut config = sandbox.json("model/config.json");
    config["atomic_energies"]["1"] = 1e308.into();
    sandbox.write("model/config.json", config.to_string());
    sandbox.write("in.xyz", "1\n\nO 0 0 0\n2\n\nH 0 0 0\nH 0 0 0.74\n");
    let message = "in.xyz: frame 1, line 4: the energy is not finite";
    sandbox.run("predict in.xyz -m model -o out.xyz").expect(1).says(&[message]);
    sandbox.run("predict in.xyz -m model -o out.xyz --on-error skip").expect(1).says(&[message]);
    let got = predictions(&sandbox.path("out.xyz"), "MLFF_");
    assert!(got[0].energy.is_some() && got[1].energy.is_none());
}

#[test]
fn inputs_that_are_none() {
    let sandbox = Sandbox::new();
    std::fs::create_dir(sandbox.path("dir")).unwrap();
    sandbox.write("empty.xyz", "");
    sandbox.write("good.xyz", water(0));
    for (input, message) in [
        ("empty.xyz", "empty.xyz: frame 0, line 1: empty file"),
        ("missing.xyz", "missing.xyz: No such file"),
        ("dir", "dir: is a directory, expected a file"),
    ] {
        sandbox.run(&format!("predict {input} -o out.xyz")).expect(1).says(&["error: ", message]);
        sandbox.run(&format!("eval {input}")).expect(1).says(&[message]);
        sandbox.run(&format!("check {input}")).expect(1).says(&[message]);
        // Nothing is computed for an output that will not be there in the end.
        sandbox.run(&format!("predict good.xyz {input} -o out.xyz")).expect(1).says(&[message]);
    }
    sandbox.run("predict empty.xyz -o out.xyz --on-error skip").expect(1).says(&["empty file"]);
    sandbox.run_on("predict -", b"").expect(1).says(&["-: frame 0, line 1: empty file"]);
}

#[test]
fn files_are_not_overwritten_unasked() {
    let sandbox = Sandbox::new();
    for name in ["a.xyz", "b.xyz"] {
        sandbox.write(name, water(0));
    }
    sandbox.write("b.mlff.xyz", "old");
    sandbox.run("predict b.xyz").expect(2).says(&["b.mlff.xyz exists already; --overwrite"]);
    sandbox.run("predict a.xyz b.xyz").expect(1).says(&["b.mlff.xyz exists already", "written to a.mlff.xyz"]);
    assert_eq!(sandbox.text("b.mlff.xyz"), "old", "the others are done, this one is left");
    sandbox.run("predict a.xyz b.xyz --overwrite").expect(0);
    assert!(sandbox.text("b.mlff.xyz").contains("MLFF_energy"));
    for args in ["a.xyz -o a.xyz", "a.xyz b.xyz -o ./b.xyz", "a.xyz -o c.xyz --summary a.xyz"] {
        sandbox.run(&format!("predict {args} --overwrite")).expect(2).says(&["is both input and output"]);
    }
    assert_eq!((sandbox.text("a.xyz"), sandbox.text("b.xyz")), (water(0), water(0)));
}

#[test]
fn wrong_use_ends_with_2() {
    let sandbox = Sandbox::new();
    sandbox.write("in.xyz", water(0));
    sandbox.write("no-model", "");
    for args in [
        "",
        "nonsense",
        "predict",
        "predict in.xyz --nonsense",
        "predict in.xyz --batch 0",
        "predict in.xyz --threads 0",
        "predict in.xyz --dtype f16",
        "predict in.xyz --device gpu",
        "predict in.xyz --device cuda:99",
        "predict in.xyz --device cuda --engine adjoint",
        "predict in.xyz --properties charges",
        "predict in.xyz --on-error ignore",
        "predict in.xyz -q -v",
        "predict in.xyz -m no-such-model",
        "predict in.xyz -m no-model",
        "predict - --resume",
        "predict in.xyz --output-dir d -o out.xyz",
        "predict in.xyz -o folder-that-is-none/",
        "predict in.xyz -o - --resume",
        "predict - - -o out.xyz",
        "eval in.xyz",
        "info no-such-model",
        "import schnetpack",
        "completions cobol",
    ] {
        let ran = sandbox.run(args).expect(2);
        assert!(!ran.err.is_empty() && ran.out.is_empty(), "{args}");
        assert_eq!(sandbox.files(), ["in.xyz", "no-model"], "{args}");
    }
    for args in ["--help", "--version", "predict --help", "check --help"] {
        assert!(!sandbox.run(args).expect(0).out.is_empty(), "{args}");
    }
}

/// On any machine: where there is a GPU, it is hidden.
#[test]
fn gpu_that_is_not_there_is_named() {
    let sandbox = Sandbox::new();
    sandbox.write("in.xyz", water(0));
    for args in [
        "predict in.xyz --device cuda",
        "predict in.xyz --device cuda:0 --engine autograd",
        "predict in.xyz --device cuda --engine adjoint --on-error skip",
        "eval in.xyz --device cuda",
        "profile in.xyz --device cuda --json=r.json",
    ] {
        let output = sandbox.command(args).env("CUDA_VISIBLE_DEVICES", "").output().unwrap();
        let err = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(2), "{args}: {err}");
        let known = ["no NVIDIA driver found", "there is no GPU number 0", "does not start"];
        assert!(err.contains("--device cuda:0: ") && known.iter().any(|text| err.contains(text)), "{args}: {err}");
        assert_eq!(err.trim_end().lines().count(), 1, "{err}");
    }
    assert_eq!(sandbox.files(), ["in.xyz"]);
}

/// As with `| head -1`: nothing is said, but the status tells that not all was written.
#[test]
fn reader_that_leaves_early_gets_no_message() {
    let sandbox = Sandbox::new();
    let text: String = (0..4000).map(|k| format!("1\nframe={k} note={:0>300}\nH 0 0 0\n", k)).collect();
    sandbox.write("in.xyz", text);
    for args in
        ["check --json in.xyz", "predict -q in.xyz -o -", "predict -q in.xyz -o - --properties energy --batch 7"]
    {
        let mut child = sandbox.command(args).spawn().unwrap();
        let mut line = String::new();
        BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
        assert!(!line.is_empty());
        let output = child.wait_with_output().unwrap();
        assert_eq!(
            (output.status.code(), String::from_utf8(output.stderr).unwrap()),
            (Some(1), String::new()),
            "{args}"
        );
    }
}

#[cfg(target_os = "linux")]
#[test]
fn full_disk_is_an_error() {
    let sandbox = Sandbox::new();
    sandbox.write("in.xyz", waters(50));
    for args in ["predict in.xyz -o /dev/full", "predict in.xyz -o out.xyz --summary /dev/full"] {
        sandbox.run(args).expect(1).says(&["error: /dev/full: No space left"]);
    }
    let full = || std::fs::OpenOptions::new().write(true).open("/dev/full").unwrap();
    for args in ["predict in.xyz -o -", "check in.xyz", "check --json in.xyz", "info"] {
        let output = sandbox.command(args).stdout(full()).output().unwrap();
        let err = String::from_utf8(output.stderr).unwrap();
        assert!(output.status.code() == Some(1) && err.contains("No space left") && !err.contains("panicked"), "{err}");
    }
    // Nobody reads the messages: no reason to stop.
    let output = sandbox.command("predict in.xyz -o ok.xyz").stderr(full()).output().unwrap();
    assert_eq!(output.status.code(), Some(0));
    assert_eq!(predictions_in(&sandbox.bytes("ok.xyz"), "MLFF_").len(), 50);
}
