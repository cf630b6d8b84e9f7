//! Runs that are killed, and taken up again.

use std::time::{Duration, Instant};

use super::support::{Sandbox, predictions, waters};

/// About 4 MB of output from frames that cost little: parts of it are on disk long before the end. The text must not
/// shrink much when packed.
fn long_run(n: usize, bad: bool) -> String {
    let mut state = 1_u64;
    let mut note = || {
        state = state.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
        format!("{:016x}", state)
    };
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
