//! Runs that are killed, and taken up again.

use std::time::{Duration, Instant};

use super::common::random::Random;
use super::support::{Sandbox, predictions, water, waters};

/// About 4 MB of output from frames that cost little: parts of it are on disk long before the end. The text must not
/// shrink much when packed.
pub fn long_run(n: usize, bad: bool) -> String {
    let mut random = Random(1);
    let mut note = || format!("{:016x}", random.bits());
    (0..n)
        .map(|k| {
            let text: String = (0..60).map(|_| note()).collect();
            match k % 97 {
                5 if bad => format!("1\nframe={k} note={text}\nHe 0 0 0\n"),
                6 if bad => format!("1\nframe={k} note={text}\nH 0 0 x\n"),
                _ => format!("2\nframe={k} note={text}\nH 0 0 0\nH 0 0 0.7{k}\n"),
            }
        })
        .collect()
}

/// Kills the run when the partial file has this size; whether it was still running.
fn kill_at(sandbox: &Sandbox, args: &str, output: &str, size: u64) -> bool {
    let partial = sandbox.path(&format!(".{output}.mlff-part"));
    let mut child = sandbox.command(args).spawn().unwrap();
    let started = Instant::now();
    while child.try_wait().unwrap().is_none() {
        if std::fs::metadata(&partial).is_ok_and(|m| m.len() >= size) {
            child.kill().unwrap();
            break;
        }
        assert!(started.elapsed() < Duration::from_secs(300), "{args}: neither grows nor ends");
        std::thread::sleep(Duration::from_millis(1));
    }
    let killed = child.wait().unwrap().code().is_none();
    assert!(!killed || !sandbox.path(output).exists(), "an unfinished file has the name of a finished one");
    killed
}

fn killed_and_resumed(output: &str, flags: &str, bad: bool) {
    let sandbox = Sandbox::new();
    let n = 4000;
    sandbox.write("in.xyz", long_run(n, bad));
    let status = i32::from(bad);
    let args = format!("predict in.xyz -o {output} {flags} --summary s.json");
    sandbox.run(&args).expect(status);
    let want = sandbox.bytes(output);
    let want_summary = sandbox.json("s.json");
    assert!(want.len() > 2 << 20, "{} bytes are too few to be interrupted", want.len());
    let mut killed = 0;
    // Just begun, after the first part, and later, then again while it is being resumed.
    for moments in [&[0][..], &[1 << 20], &[2 << 20, 0], &[1, 1 << 20]] {
        std::fs::remove_file(sandbox.path(output)).unwrap();
        // A run that begins anew does not replace it unasked.
        std::fs::remove_file(sandbox.path("s.json")).unwrap();
        for (k, &size) in moments.iter().enumerate() {
            let resume = if k > 0 { " --resume" } else { "" };
            killed += usize::from(kill_at(&sandbox, &(args.clone() + resume), output, size));
        }
        sandbox.run(&(args.clone() + " --resume")).expect(status);
        assert!(sandbox.bytes(output) == want, "{output} {flags}: differs after kills at {moments:?}");
        assert_eq!(sandbox.files(), sorted(&["in.xyz", output, "s.json"]));
        let summary = sandbox.json("s.json");
        assert_eq!(
            (&summary["n_frames"], &summary["n_failed"]),
            (&want_summary["n_frames"], &want_summary["n_failed"])
        );
    }
    assert!(killed > 0, "every run was faster than its killer");
    // Once more: finished, and says so.
    let resumed = sandbox.run(&(args + " --resume")).expect(status).says(&["complete: nothing to resume"]);
    assert!(resumed.out.is_empty() && sandbox.bytes(output) == want);
    assert_eq!(sandbox.json("s.json")["n_resumed"], want_summary["n_frames"]);
}

fn sorted(names: &[&str]) -> Vec<String> {
    let mut names: Vec<String> = names.iter().map(|s| s.to_string()).collect();
    names.sort();
    names
}

#[test]
fn killed_run_resumes_to_the_same_bytes() {
    killed_and_resumed("out.xyz", "", false);
}

#[test]
fn killed_run_resumes_to_the_same_bytes_gzip() {
    killed_and_resumed("out.xyz.gz", "--batch 7", false);
}

#[test]
fn killed_run_resumes_to_the_same_bytes_with_bad_frames() {
    killed_and_resumed("out.xyz", "--on-error skip --batch 30", true);
}

#[test]
fn killed_run_resumes_to_the_same_bytes_with_index() {
    killed_and_resumed("out.xyz", "--index 100:-50 --properties energy", false);
}

/// `--resume` cuts off what is no whole frame, wherever the file ends.
#[test]
fn resume_takes_up_any_partial_file() {
    let sandbox = Sandbox::new();
    sandbox.write("in.xyz", waters(30));
    sandbox.run("predict in.xyz -o out.xyz").expect(0);
    let want = sandbox.bytes("out.xyz");
    for cut in [0, 1, 2, 40, want.len() / 3, want.len() / 2 + 1, want.len() - 1, want.len()] {
        std::fs::remove_file(sandbox.path("out.xyz")).unwrap();
        sandbox.write(".out.xyz.mlff-part", &want[..cut]);
        sandbox.run("predict in.xyz -o out.xyz --resume --summary s.json").expect(0);
        assert!(sandbox.bytes("out.xyz") == want, "cut at {cut}");
        assert_eq!(sandbox.json("s.json")["n_frames"], 30);
    }
    // Without --resume, a run starts anew.
    std::fs::remove_file(sandbox.path("out.xyz")).unwrap();
    sandbox.write(".out.xyz.mlff-part", "rubbish");
    sandbox.run("predict in.xyz -o out.xyz").expect(0);
    assert!(sandbox.bytes("out.xyz") == want);
}

#[test]
fn resume_refuses_another_input() {
    let sandbox = Sandbox::new();
    sandbox.write("long.xyz", waters(30));
    sandbox.write("short.xyz", waters(10));
    sandbox.run("predict long.xyz -o out.xyz").expect(0);
    std::fs::rename(sandbox.path("out.xyz"), sandbox.path(".out.xyz.mlff-part")).unwrap();
    let part = sandbox.bytes(".out.xyz.mlff-part");
    let ran = sandbox.run("predict short.xyz -o out.xyz --resume --summary s.json");
    ran.expect(2).says(&["holds 20 frames more than the input"]);
    assert!(!sandbox.path("out.xyz").exists() && sandbox.bytes(".out.xyz.mlff-part") == part, "nothing is lost");
    sandbox.run("predict long.xyz -o out.xyz --resume").expect(0);
    assert_eq!(predictions(&sandbox.path("out.xyz"), "MLFF_").len(), 30);
}

/// What is done stays when a run fails that can be resumed.
#[test]
fn failed_resumable_run_keeps_its_frames() {
    let sandbox = Sandbox::new();
    let bad = "1\nframe=1500\nHe 0 0 0\n";
    sandbox.write("in.xyz", waters(1500) + bad + &waters(20));
    sandbox.run("predict in.xyz -o out.xyz --resume").expect(1).says(&["frame 1500", "element He"]);
    assert_eq!(sandbox.files(), [".out.xyz.mlff-part", "in.xyz"]);
    sandbox.write("in.xyz", waters(1500) + &bad.replace("He", "H") + &waters(20));
    let ran = sandbox.run("predict in.xyz -o out.xyz --resume").expect(0);
    ran.says(&["structures were there from an earlier run"]);
    assert_eq!(predictions(&sandbox.path("out.xyz"), "MLFF_").len(), 1521);
}

/// What a partial and a complete output were made with is compared with what is asked for, and a difference named.
#[test]
fn resume_refuses_other_options_by_name() {
    for output in ["out.xyz", "out.xyz.gz", "out.xyz.bz2", "out.xyz.xz", "out.xyz.zst"] {
        let plain = output == "out.xyz";
        let sandbox = Sandbox::new();
        mlff::Model::load(mlff::model::default_name()).unwrap().save(sandbox.path("other")).unwrap();
        let mut config = sandbox.json("other/config.json");
        config["atomic_energies"]["1"] = (-13.0).into();
        config["name"] = "my other model".into();
        sandbox.write("other/config.json", config.to_string());
        sandbox.write("in.xyz", waters(30));
        let partial = format!(".{output}.mlff-part");
        sandbox.run(&format!("predict in.xyz -o {output}")).expect(0);
        let whole = sandbox.bytes(output);
        let cases = [
            ("-m other", "model ani2x-painn-64 sha256:", "asked for is my_other_model sha256:"),
            ("--key-prefix B_", "key prefix 'MLFF_', asked for is 'B_'", ""),
            ("--index ::2", "index :, asked for is ::2", ""),
            ("--properties energy", "properties energy,forces,stress, asked for is energy", ""),
            ("--dtype f64", "dtype f32, asked for is f64", ""),
            ("--engine autograd", "engine adjoint, asked for is autograd", "batch not said, asked for is auto"),
        ];
        for (flags, was, is) in cases.into_iter().take(if plain { 6 } else { 1 }) {
            let args = format!("predict in.xyz -o {output} --resume {flags}");
            let ran = sandbox.run(&args).expect(2);
            ran.says(&["--resume: ", output, "is complete, but was made with", was, is, "--overwrite replaces it"]);
            assert!(sandbox.bytes(output) == whole, "{flags}");
            std::fs::rename(sandbox.path(output), sandbox.path(&partial)).unwrap();
            sandbox.run(&args).expect(2).says(&["--resume: ", &partial, "was made with", was, is, "without --resume"]);
            assert!(sandbox.bytes(&partial) == whole && !sandbox.path(output).exists(), "{flags}");
            std::fs::rename(sandbox.path(&partial), sandbox.path(output)).unwrap();
        }
        // What changes no byte is no difference.
        std::fs::rename(sandbox.path(output), sandbox.path(&partial)).unwrap();
        sandbox.run(&format!("predict in.xyz -o {output} --resume --threads 1 --batch 7 --on-error skip")).expect(0);
        assert!(sandbox.bytes(output) == whole);
    }
}

#[test]
fn resume_refuses_an_input_that_has_changed() {
    let sandbox = Sandbox::new();
    sandbox.write("in.xyz", waters(30));
    sandbox.run("predict in.xyz -o out.xyz").expect(0);
    let whole = sandbox.bytes("out.xyz");
    let changed = [
        ("another atom", waters(30).replacen("O 0 0 0.119", "S 0 0 0.119", 1), "frame 0 is not the input's"),
        (
            "another position",
            waters(30).replacen("0.7290", "0.7291", 1),
            "frame 29 is not the input's, in.xyz: frame 29",
        ),
        ("another order", water(1) + &water(0) + &waters(30)[2 * water(0).len()..], "frame 0"),
    ];
    for (what, text, message) in changed {
        sandbox.write("in.xyz", text);
        sandbox
            .run("predict in.xyz -o out.xyz --resume")
            .expect(2)
            .says(&["is complete, but was made from another", message]);
        std::fs::rename(sandbox.path("out.xyz"), sandbox.path(".out.xyz.mlff-part")).unwrap();
        sandbox.run("predict in.xyz -o out.xyz --resume").expect(2).says(&["was made from another input", message]);
        std::fs::rename(sandbox.path(".out.xyz.mlff-part"), sandbox.path("out.xyz")).unwrap();
        assert!(sandbox.bytes("out.xyz") == whole, "{what}");
    }
    // More frames behind: a partial file goes on, a complete one was complete for another input.
    sandbox.write("in.xyz", waters(40));
    sandbox.run("predict in.xyz -o out.xyz --resume").expect(2).says(&["the input has more frames than its 30"]);
    std::fs::rename(sandbox.path("out.xyz"), sandbox.path(".out.xyz.mlff-part")).unwrap();
    sandbox.run("predict in.xyz -o out.xyz --resume").expect(0);
    assert_eq!(predictions(&sandbox.path("out.xyz"), "MLFF_").len(), 40);
}

/// Written by a version that did not say what made a file: nothing is mixed, nothing complete is lost.
#[test]
fn resume_takes_no_partial_file_of_unknown_origin() {
    let sandbox = Sandbox::new();
    sandbox.write("in.xyz", waters(30));
    sandbox.run("predict in.xyz -o out.xyz").expect(0);
    let text = sandbox.text("out.xyz");
    let record = text.find(" MLFF_made_by=").unwrap();
    let old = [&text[..record], &text[record + text[record..].find('\n').unwrap()..]].concat();
    sandbox.write("out.xyz", &old);
    sandbox
        .run("predict in.xyz -o out.xyz --resume")
        .expect(0)
        .says(&["warning: out.xyz does not say what it was made with", "complete: nothing to resume"]);
    assert_eq!(sandbox.text("out.xyz"), old);
    std::fs::rename(sandbox.path("out.xyz"), sandbox.path(".out.xyz.mlff-part")).unwrap();
    sandbox.run("predict in.xyz -o out.xyz --resume").expect(2).says(&["does not say what it was made with"]);
    assert_eq!(sandbox.text(".out.xyz.mlff-part"), old);
    // Of another version: a partial file is not gone on with, a complete one is what was asked for.
    let this = format!("mlff {};", env!("CARGO_PKG_VERSION"));
    sandbox.write(".out.xyz.mlff-part", text.replacen(&this, "mlff 0.0.9;", 1));
    sandbox.run("predict in.xyz -o out.xyz --resume").expect(2).says(&["was made with mlff 0.0.9, this is "]);
    std::fs::rename(sandbox.path(".out.xyz.mlff-part"), sandbox.path("out.xyz")).unwrap();
    sandbox.run("predict in.xyz -o out.xyz --resume").expect(0).says(&["warning: out.xyz was made with mlff 0.0.9"]);
}

#[test]
fn output_says_what_made_it_once() {
    let sandbox = Sandbox::new();
    sandbox.write("in.xyz", waters(3));
    sandbox.run("predict in.xyz -o a.xyz").expect(0);
    let record = |name: &str| {
        let text = sandbox.text(name);
        let comments: Vec<&str> = text.lines().skip(1).step_by(5).collect();
        let found: Vec<usize> = (0..comments.len()).filter(|&k| comments[k].contains("made_by=")).collect();
        assert_eq!(found, [0], "{text}");
        assert_eq!(text.matches("made_by=").count(), 1, "{text}");
        let value = comments[0].split("made_by=\"").nth(1).unwrap();
        value[..value.find('"').unwrap()].to_string()
    };
    let made_by = record("a.xyz");
    let start = format!("mlff {}; model ani2x-painn-64 sha256:", env!("CARGO_PKG_VERSION"));
    let end = "; device cpu; engine adjoint; dtype f32; properties energy,forces,stress; index :";
    assert!(made_by.starts_with(&start) && made_by.ends_with(end), "{made_by}");
    // Its own output, and two joined, as input: the record is this run's.
    sandbox.write("joined.xyz", sandbox.text("a.xyz") + &sandbox.text("a.xyz"));
    for (args, end) in [
        ("a.xyz -o b.xyz --dtype f64", "dtype f64; properties energy,forces,stress; index :"),
        ("joined.xyz -o c.xyz --properties energy", "properties energy; index :"),
        ("a.xyz -o d.xyz --engine autograd --batch 2", "index :; batch 2; calibration none"),
    ] {
        sandbox.run(&format!("predict {args}")).expect(0);
        let output = args.split("-o ").nth(1).unwrap().split(' ').next().unwrap();
        let made_by = record(output);
        assert!(made_by.ends_with(end), "{made_by}");
    }
    // Without a prefix too, and a first frame that cannot be read has none.
    sandbox.run("predict joined.xyz -o e.xyz --key-prefix '' --overwrite").expect(0);
    assert_eq!(sandbox.text("e.xyz").matches(" made_by=\"mlff ").count(), 1);
    sandbox.run("predict e.xyz -o f.xyz --key-prefix ''").expect(0);
    assert_eq!(sandbox.text("f.xyz").matches(" made_by=\"mlff ").count(), 1);
    sandbox.write("bad.xyz", "1\n\nH 0 0 x\n".to_string() + &waters(2));
    sandbox.run("predict bad.xyz -o g.xyz --on-error skip").expect(1);
    let text = sandbox.text("g.xyz");
    assert!(text.starts_with("1\n\nH 0 0 x\n3\n") && text.lines().nth(4).unwrap().contains("MLFF_made_by="), "{text}");
    let bytes = sandbox.bytes("g.xyz");
    for cut in [10, 200, 500] {
        std::fs::remove_file(sandbox.path("g.xyz")).unwrap();
        sandbox.write(".g.xyz.mlff-part", &bytes[..cut]);
        sandbox.run("predict bad.xyz -o g.xyz --on-error skip --resume").expect(1);
        assert!(sandbox.bytes("g.xyz") == bytes, "cut at {cut}");
    }
}
