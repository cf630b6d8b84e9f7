//! Runs that are stopped: what they say, what they leave, how they end.

use std::process::{Child, Command};

use super::common::random::Random;
use super::outputs::{mkfifo, wait_for, waiting_run};
use super::resume::long_run;
use super::support::{Sandbox, predictions, water, waters};

fn send(signal: &str, run: &Child) {
    let kill = format!("kill -{signal} {}", run.id());
    assert!(Command::new("sh").args(["-c", &kill]).status().unwrap().success());
}

fn ended(mut run: Child) -> (Option<i32>, String) {
    let started = std::time::Instant::now();
    while run.try_wait().unwrap().is_none() {
        if started.elapsed() > std::time::Duration::from_secs(120) {
            run.kill().unwrap();
            panic!("it goes on after the signal");
        }
        std::thread::sleep(std::time::Duration::from_millis(2));
    }
    let output = run.wait_with_output().unwrap();
    (output.status.code(), String::from_utf8(output.stderr).unwrap())
}

const SIGNALS: [(&str, i32); 3] = [("INT", 130), ("TERM", 143), ("HUP", 129)];

#[test]
fn stopped_run_leaves_nothing_unfinished() {
    for (signal, status) in SIGNALS {
        let sandbox = Sandbox::new();
        let (run, _pipe) = waiting_run(&sandbox, "--summary s.json", "out.xyz");
        send(signal, &run);
        let (code, err) = ended(run);
        assert_eq!(code, Some(status), "{signal}: {err}");
        assert_eq!(err.lines().count(), 1, "{err}");
        for part in [&format!("stopped by SIG{signal}"), "the unfinished out.xyz was removed", "--resume"] {
            assert!(err.contains(part), "{part}: {err}");
        }
        assert_eq!(sandbox.files(), ["pipe"], "{signal}");
    }
    let sandbox = Sandbox::new();
    mkfifo(&sandbox, "pipe");
    let run = sandbox.command("check pipe").spawn().unwrap();
    let pipe = std::fs::OpenOptions::new().write(true).open(sandbox.path("pipe")).unwrap();
    send("TERM", &run);
    assert_eq!(ended(run), (Some(143), "stopped by SIGTERM: this run leaves no unfinished file\n".into()));
    drop(pipe);
}

/// An abort is how Rust ends where there is no memory or no stack.
#[test]
fn aborted_run_leaves_nothing_unfinished() {
    let sandbox = Sandbox::new();
    let (run, _pipe) = waiting_run(&sandbox, "", "out.xyz");
    send("ABRT", &run);
    let (code, err) = ended(run);
    assert!(code.is_none() && err.contains("error: aborted") && err.contains("out.xyz was removed"), "{err}");
    assert_eq!(sandbox.files(), ["pipe"]);
}

/// Killed by any signal, at any moment, again and again: the bytes of a run that was left alone.
#[test]
fn stopped_run_resumes_to_the_same_bytes() {
    let sandbox = Sandbox::new();
    sandbox.write("in.xyz", long_run(2000, false));
    let (mut random, mut stopped) = (Random(1), 0);
    // How packed files are cut and taken up is tested for every packer beside the writer; xz and bzip2 take long.
    for output in ["out.xyz", "out.xyz.gz", "out.xyz.zst"] {
        sandbox.run(&format!("predict in.xyz -o {output}")).expect(0);
        let want = sandbox.bytes(output);
        std::fs::remove_file(sandbox.path(output)).unwrap();
        let args = format!("predict in.xyz -o {output} --resume");
        let partial = sandbox.path(&format!(".{output}.mlff-part"));
        for _ in 0..4 {
            let size = random.below(want.len()) as u64;
            let mut run = sandbox.command(&args).spawn().unwrap();
            wait_for("the moment", || {
                let is_there = std::fs::metadata(&partial).is_ok_and(|m| m.len() >= size);
                is_there || run.try_wait().unwrap().is_some()
            });
            let (signal, status) =
                [("KILL", None), ("INT", Some(130)), ("TERM", Some(143)), ("HUP", Some(129))][random.below(4)];
            // One that has ended meanwhile is nobody's to stop.
            if run.try_wait().unwrap().is_none() {
                send(signal, &run);
            }
            let (code, err) = ended(run);
            if code == Some(0) {
                break;
            }
            // Or at once, where it had not even begun.
            assert!(code == status || (code.is_none() && err.is_empty()), "{code:?}, not {status:?}: {err}");
            stopped += 1;
            if code.is_some() {
                // Or nothing of it, where it had not come to its output yet.
                let says = ["frames of out.xyz", "begins anew", "this run leaves no unfinished file"];
                assert!(says.iter().any(|text| err.contains(text)), "{err}");
                assert_eq!(err.lines().count(), 1, "{err}");
            }
        }
        sandbox.run(&args).expect(0);
        assert!(sandbox.bytes(output) == want, "{output}");
        assert_eq!(sandbox.files(), ["in.xyz", output]);
        std::fs::remove_file(sandbox.path(output)).unwrap();
    }
    assert!(stopped > 0, "every run was faster than what was to stop it");
}

/// `nohup`, and shells that put a run in the background, have signals ignored: they stay ignored.
#[test]
fn ignored_signal_does_not_stop_a_run() {
    let sandbox = Sandbox::new();
    mkfifo(&sandbox, "pipe");
    let script = format!("trap '' HUP; exec {} predict pipe -o out.xyz", env!("CARGO_BIN_EXE_mlff"));
    let mut command = Command::new("sh");
    command.args(["-c", &script]).current_dir(sandbox.path("")).stderr(std::process::Stdio::piped());
    let run = command.spawn().unwrap();
    wait_for("the partial file", || sandbox.path(".out.xyz.mlff-part").exists());
    send("HUP", &run);
    std::fs::write(sandbox.path("pipe"), waters(2)).unwrap();
    let (code, err) = ended(run);
    assert_eq!(code, Some(0), "{err}");
    assert_eq!(predictions(&sandbox.path("out.xyz"), "MLFF_").len(), 2);
}

/// Where memory ends, whenever that is: a message, and no file that looks like work in progress.
#[cfg(target_os = "linux")]
#[test]
fn run_without_memory_leaves_nothing_unfinished() {
    let sandbox = Sandbox::new();
    sandbox.write("in.xyz", long_run(1500, false));
    let mut failed = 0;
    for limit in [60_000, 70_000, 80_000, 100_000, 120_000, 150_000] {
        let script =
            format!("ulimit -v {limit}; exec {} predict in.xyz -o out.xyz --threads 2", env!("CARGO_BIN_EXE_mlff"));
        let output = Command::new("sh").args(["-c", &script]).current_dir(sandbox.path("")).output().unwrap();
        let err = String::from_utf8_lossy(&output.stderr);
        if output.status.success() {
            std::fs::remove_file(sandbox.path("out.xyz")).unwrap();
        } else {
            failed += 1;
            assert!(!err.trim().is_empty(), "{limit} kB: {:?} without a word", output.status);
        }
        assert_eq!(sandbox.files(), ["in.xyz"], "{limit} kB: {:?}: {err}", output.status);
    }
    if failed == 0 {
        eprintln!("SKIPPED: run_without_memory: there was enough at every limit");
    }
}

#[test]
#[cfg(target_os = "linux")]
fn closed_standard_output_loses_nothing_silently() {
    let place = Sandbox::new();
    place.write("in.xyz", water(0));
    for command in ["predict in.xyz -o -", "info", "check in.xyz"] {
        let program = env!("CARGO_BIN_EXE_mlff");
        let mut shell = std::process::Command::new("sh");
        shell.args(["-c", &format!("exec {program} {command} >&-")]).current_dir(place.path(""));
        let output = shell.output().unwrap();
        let said = String::from_utf8(output.stderr).unwrap();
        assert!(!output.status.success() && said.contains("standard output: is closed"), "{command}: {said}");
    }
    // A file needs none.
    let mut shell = std::process::Command::new("sh");
    let line = format!("exec {} predict in.xyz -o out.xyz -q >&-", env!("CARGO_BIN_EXE_mlff"));
    assert!(shell.args(["-c", &line]).current_dir(place.path("")).status().unwrap().success());
}
