//! Memory does not grow with the length of a trajectory.

#![cfg(target_os = "linux")]

use std::fmt::Write as _;
use std::io::Write as _;
use std::process::Stdio;
use std::time::Duration;

use super::common::random::Random;
use super::support::Sandbox;

/// Three to nine atoms of three waters, shaken a little from a fixed seed.
fn trajectory(n: usize) -> String {
    let mut generator = Random(7);
    let mut random = || 0.03 * generator.next();
    let atoms: [(&str, [f64; 3]); 9] = [
        ("O", [0.0, 0.0, 0.119]),
        ("H", [0.0, 0.763, -0.477]),
        ("H", [0.0, -0.763, -0.477]),
        ("O", [0.0, 0.0, 3.0]),
        ("H", [0.0, 0.763, 3.6]),
        ("H", [0.0, -0.763, 3.6]),
        ("O", [3.0, 0.0, 0.119]),
        ("H", [3.0, 0.763, -0.477]),
        ("H", [3.0, -0.763, -0.477]),
    ];
    let mut out = String::new();
    for k in 0..n {
        let count = 3 + k * 7 % 7;
        writeln!(out, "{count}\nframe={k}").unwrap();
        for (symbol, [x, y, z]) in &atoms[..count] {
            writeln!(out, "{symbol} {:.5} {:.5} {:.5}", x + random(), y + random(), z + random()).unwrap();
        }
    }
    out
}

/// Largest resident size of a run, KiB, as the system counts it.
fn peak(sandbox: &Sandbox, args: &str) -> u64 {
    let mut child = sandbox.command(args).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
    let status = format!("/proc/{}/status", child.id());
    let mut peak = 0;
    loop {
        let text = std::fs::read_to_string(&status).unwrap_or_default();
        let line = text.lines().find_map(|line| line.strip_prefix("VmHWM:"));
        peak = line.and_then(|l| l.trim().trim_end_matches(" kB").parse().ok()).unwrap_or(0).max(peak);
        if let Some(status) = child.try_wait().unwrap() {
            assert!(status.success(), "{args}");
            assert!(peak > 0, "{args} ended before its memory could be read");
            return peak;
        }
        std::thread::sleep(Duration::from_millis(2));
    }
}

fn assert_flat(short: usize, long: usize, command: &str) {
    let sandbox = Sandbox::new();
    for (name, n) in [("short.xyz", short), ("long.xyz", long)] {
        std::fs::File::create(sandbox.path(name)).unwrap().write_all(trajectory(n).as_bytes()).unwrap();
    }
    // How threads take turns decides how many chunks are there at once; a long run meets the worst case, a short one may.
    let short_peak = (0..3).map(|_| peak(&sandbox, &command.replace("IN", "short.xyz"))).max().unwrap();
    let long_peak = peak(&sandbox, &command.replace("IN", "long.xyz"));
    println!("{command}: {short} frames {short_peak} KiB, {long} frames {long_peak} KiB");
    assert!(10 * long_peak <= 11 * short_peak, "{short} frames: {short_peak} KiB, {long} frames: {long_peak} KiB");
}

#[test]
fn memory_of_predict_does_not_grow() {
    assert_flat(10_000, 100_000, "predict IN -o out.xyz --overwrite --threads 2");
}

#[test]
fn memory_of_check_does_not_grow() {
    // Long enough to be seen: a thousand frames are read within a millisecond.
    assert_flat(20_000, 200_000, "check IN");
}
