//! Many inputs: each that can be done is done, and each that cannot is named.

use super::support::{Sandbox, predictions, water, waters};

fn n_frames(sandbox: &Sandbox, name: &str) -> usize {
    predictions(&sandbox.path(name), "MLFF_").len()
}

#[test]
fn file_that_fails_does_not_stop_the_others() {
    let sandbox = Sandbox::new();
    sandbox.write("a.xyz", waters(2));
    sandbox.write("bad.xyz", water(0) + "1\n\nHe 0 0 0\n");
    sandbox.write("empty.xyz", "");
    sandbox.write("z.xyz", waters(3));
    let ran = sandbox.run("predict a.xyz gone.xyz bad.xyz empty.xyz z.xyz --summary s.json").expect(1);
    // What is missing is said before anything is computed; all of it is summed up at the end.
    let first = ran.err.lines().next().unwrap();
    assert!(first.contains("error: gone.xyz: No such file"), "{}", ran.err);
    let end = ran.err.split("3 of the files failed:\n").nth(1).unwrap();
    for (line, want) in
        end.lines().zip(["gone.xyz: No such", "bad.xyz: frame 1, line 6: element He", "empty.xyz: frame 0"])
    {
        assert!(line.contains(want), "{}", ran.err);
    }
    assert!(!ran.err.contains("are in the output without results"), "{}", ran.err);
    assert_eq!((n_frames(&sandbox, "a.mlff.xyz"), n_frames(&sandbox, "z.mlff.xyz")), (2, 3));
    assert_eq!(sandbox.files(), ["a.mlff.xyz", "a.xyz", "bad.xyz", "empty.xyz", "s.json", "z.mlff.xyz", "z.xyz"]);
    let summary = sandbox.json("s.json");
    let failed: Vec<&str> =
        summary["failed_files"].as_array().unwrap().iter().map(|f| f["file"].as_str().unwrap()).collect();
    assert_eq!(failed, ["gone.xyz", "bad.xyz", "empty.xyz"]);
    assert_eq!(summary["outputs"], serde_json::json!(["a.mlff.xyz", "z.mlff.xyz"]));
}

#[test]
fn short_file_fails_alone_under_an_index() {
    let sandbox = Sandbox::new();
    for (name, n) in [("a.xyz", 1), ("b.xyz", 3), ("c.xyz", 2)] {
        sandbox.write(name, waters(n));
    }
    let ran = sandbox.run("predict a.xyz b.xyz c.xyz --index 1:").expect(1);
    ran.says(&["error: --index selects no frame of a.xyz", "1 of the files failed:"]);
    assert_eq!((n_frames(&sandbox, "b.mlff.xyz"), n_frames(&sandbox, "c.mlff.xyz")), (2, 1));
    let ran = sandbox.run("predict a.xyz b.xyz --index 2 --overwrite").expect(1);
    ran.says(&["--index asks for a frame that a.xyz does not have: it has 1"]);
    assert_eq!(n_frames(&sandbox, "b.mlff.xyz"), 1);
    // Into one output: said, as nothing of it is there.
    sandbox
        .run("predict a.xyz b.xyz -o all.xyz --index 1:")
        .expect(0)
        .says(&["warning: --index selects no frame of a.xyz"]);
    assert_eq!(n_frames(&sandbox, "all.xyz"), 2);
    sandbox.run("predict a.xyz b.xyz -o one.xyz --index 2").expect(2).says(&["a.xyz does not have"]);
    assert!(!sandbox.path("one.xyz").exists());
}

#[test]
fn same_pattern_again_passes_over_its_outputs() {
    let sandbox = Sandbox::new();
    for (name, n) in [("a.xyz", 1), ("b.xyz", 3)] {
        sandbox.write(name, waters(n));
    }
    sandbox.run("predict a.xyz").expect(0);
    let passed = "passed over, as results of earlier runs: a.mlff.xyz\n";
    let ran = sandbox.run("predict a.mlff.xyz a.xyz b.xyz").expect(1);
    ran.says(&[passed, "error: a.xyz: a.mlff.xyz exists already", "written to b.mlff.xyz"]);
    let all = "predict a.mlff.xyz a.xyz b.mlff.xyz b.xyz";
    sandbox.run(&format!("{all} --resume")).expect(0).says(&["a.mlff.xyz is complete", "b.mlff.xyz is complete"]);
    let ran = sandbox.run(&format!("{all} --overwrite")).expect(0);
    assert_eq!(ran.err.matches("passed over").count(), 1, "{}", ran.err);
    assert_eq!(sandbox.files(), ["a.mlff.xyz", "a.xyz", "b.mlff.xyz", "b.xyz"]);
    // Known by what it says, where its source is not among the inputs.
    sandbox.run("predict a.mlff.xyz b.xyz --overwrite").expect(0).says(&[passed]);
    // Where there is nothing else, it is meant; and what is no output is never passed over.
    sandbox.run("predict a.mlff.xyz -o again.xyz").expect(0);
    sandbox.write("c.mlff.xyz", waters(2));
    sandbox.write("c.extxyz", waters(2));
    sandbox.run("predict c.mlff.xyz b.xyz -o both.xyz").expect(0);
    assert_eq!(n_frames(&sandbox, "both.xyz"), 5);
}

#[test]
fn output_folder_is_made_and_names_do_not_collide() {
    let sandbox = Sandbox::new();
    std::fs::create_dir(sandbox.path("run")).unwrap();
    sandbox.write("a.xyz", waters(1));
    sandbox.write("run/a.xyz", waters(2));
    sandbox.write("run/b.extxyz", waters(3));
    sandbox.run("predict a.xyz run/b.extxyz --output-dir new/folder").expect(0).says(&["new/folder/a.mlff.xyz"]);
    assert_eq!((n_frames(&sandbox, "new/folder/a.mlff.xyz"), n_frames(&sandbox, "new/folder/b.mlff.xyz")), (1, 3));
    let ran = sandbox.run("predict a.xyz run/a.xyz --output-dir other").expect(2);
    ran.says(&["two inputs would be written to other/a.mlff.xyz"]);
    assert!(!sandbox.path("other").exists(), "nothing is made for what is refused");
    sandbox.run("predict a.xyz --output-dir a.xyz").expect(1).says(&["a.xyz"]);
}

#[test]
fn eval_names_missing_files_before_it_computes() {
    let sandbox = Sandbox::new();
    let labelled = |n: usize| waters(n).replace("frame=", "energy=-2078.6 frame=");
    sandbox.write("a.xyz", labelled(2) + "1\nenergy=1\nHe 0 0 0\n");
    sandbox.write("b.xyz", labelled(1));
    let ran = sandbox.run("eval a.xyz gone.xyz nowhere.xyz").expect(1);
    assert!(ran.out.is_empty() && !ran.err.contains("He"), "{}", ran.err);
    ran.says(&["error: gone.xyz: No such file", "error: nowhere.xyz: No such file"]);
    // A file that has not the frame is one failure; the others count.
    let ran = sandbox.run("eval b.xyz a.xyz --index 1 --json").expect(1);
    assert_eq!((&ran.json()["n_frames"], &ran.json()["n_failed"]), (&1.into(), &1.into()));
    ran.says(&["--index asks for a frame that b.xyz does not have"]);
    let ran = sandbox.run("eval a.xyz b.xyz --json").expect(1);
    assert_eq!((&ran.json()["n_frames"], &ran.json()["n_failed"]), (&3.into(), &1.into()));
}

#[cfg(unix)]
#[test]
fn pipe_without_an_output_name_is_told_what_to_do() {
    let sandbox = Sandbox::new();
    super::outputs::mkfifo(&sandbox, "pipe");
    sandbox.run("predict pipe").expect(2).says(&["pipe is a pipe or a device", "-o"]);
    sandbox.write("a.xyz", waters(1));
    sandbox.run("predict pipe a.xyz").expect(1).says(&["pipe is a pipe", "written to a.mlff.xyz"]);
    sandbox.run("predict pipe -o out.xyz --resume").expect(2).says(&["--resume needs input files"]);
}

#[cfg(target_os = "linux")]
#[test]
fn names_that_are_no_text_keep_their_bytes() {
    use std::ffi::OsStr;
    use std::os::unix::ffi::OsStrExt;
    let sandbox = Sandbox::new();
    let at = |name: &[u8]| sandbox.path("").join(OsStr::from_bytes(name));
    for name in [b"caf\xe9.xyz", b"caf\xe8.xyz"] {
        std::fs::write(at(name), waters(1)).unwrap();
    }
    let names = [b"caf\xe9.xyz", b"caf\xe8.xyz"].map(|name| OsStr::from_bytes(name));
    let output = sandbox.command("predict").args(names).output().unwrap();
    assert_eq!(output.status.code(), Some(0), "{}", String::from_utf8_lossy(&output.stderr));
    assert!(at(b"caf\xe9.mlff.xyz").is_file() && at(b"caf\xe8.mlff.xyz").is_file());
}
