//! What `Device::open` says about drivers that cannot be used, on any machine: the driver is a stand-in of four functions,
//! built with the C compiler and found before the real one. Without a compiler the test is skipped and says so.

#![cfg(target_os = "linux")]
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::io::Write;
use std::path::Path;
use std::process::Command;

const STAND_IN: &str = r#"
#include <stdlib.h>
static int number(const char* name) { const char* text = getenv(name); return text ? atoi(text) : 0; }
int cuDriverGetVersion(int* version) { *version = number("FAKE_VERSION"); return 0; }
int cuInit(unsigned flags) { return number("FAKE_INIT"); }
int cuDeviceGetCount(int* count) { *count = number("FAKE_COUNT"); return 0; }
int cuGetErrorString(int error, const char** text) { *text = "words of the stand-in"; return 0; }
"#;

/// Builds the stand-in; false where there is no compiler.
fn build(folder: &Path) -> bool {
    let source = folder.join("stand_in.c");
    std::fs::write(&source, STAND_IN).unwrap();
    let compilers = std::env::var_os("CC").into_iter().chain(["cc".into(), "gcc".into(), "clang".into()]);
    let library = folder.join("libcuda.so.1");
    compilers.into_iter().any(|compiler| {
        let mut command = Command::new(compiler);
        command.args(["-shared", "-fPIC", "-w", "-o"]).arg(&library).arg(&source);
        command.status().is_ok_and(|status| status.success())
    })
}

/// Opens the device in a process of its own, as libraries are searched where the process started with; prints the error.
#[test]
#[ignore = "run by the test below"]
fn open_device() {
    println!("says: {}", mlff::cuda::Device::open(2).err().unwrap());
}

fn message(folder: &Path, version: &str, init: &str, count: &str) -> String {
    let mut command = Command::new(std::env::current_exe().unwrap());
    command.args(["--ignored", "--exact", "open_device", "--nocapture"]).env("LD_LIBRARY_PATH", folder);
    command.envs([("FAKE_VERSION", version), ("FAKE_INIT", init), ("FAKE_COUNT", count)]);
    let output = command.output().unwrap();
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(output.status.success(), "{text}{}", String::from_utf8_lossy(&output.stderr));
    text
}

#[test]
fn device_says_what_is_wrong_with_the_driver() {
    let folder = tempfile::tempdir().unwrap();
    if !build(folder.path()) {
        let skipped =
            "\nSKIPPED: device_says_what_is_wrong_with_the_driver: no C compiler found: set CC, or install gcc\n";
        let _ = std::io::stderr().write_all(skipped.as_bytes());
        return;
    }
    // (version, result of cuInit, number of GPUs) and what is said; 100 is CUDA_ERROR_NO_DEVICE, 34 CUDA_ERROR_STUB_LIBRARY.
    let cases = [
        (("11040", "0", "1"), "supports CUDA 11.4, this program needs CUDA 12.0: install driver 525 or newer"),
        (("12020", "100", "0"), "there is no GPU number 2: the NVIDIA driver sees 0"),
        (("13000", "0", "2"), "there is no GPU number 2: the NVIDIA driver sees 2"),
        (("12020", "34", "0"), "no NVIDIA driver found"),
        (("12020", "999", "0"), "does not start (CUDA_ERROR_UNKNOWN: words of the stand-in)"),
    ];
    for ((version, init, count), want) in cases {
        let text = message(folder.path(), version, init, count);
        assert!(text.contains(want), "{text}");
    }
    // A file that is no library at all is no driver.
    std::fs::write(folder.path().join("libcuda.so.1"), b"not a library").unwrap();
    let text = message(folder.path(), "0", "0", "0");
    assert!(text.contains("no NVIDIA driver found") || mlff::cuda::Device::open(0).is_ok(), "{text}");
}
