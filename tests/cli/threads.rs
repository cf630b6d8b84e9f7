//! Threads: too many asked for, and too few to be had.

use std::process::Command;

use super::support::{Sandbox, waters};

#[test]
fn threads_far_beyond_the_cores_are_refused() {
    let sandbox = Sandbox::new();
    sandbox.write("in.xyz", waters(3));
    for n in [4096, 65535] {
        let ran = sandbox.run(&format!("predict in.xyz -o out.xyz --threads {n}")).expect(2);
        ran.says(&["--threads", &n.to_string(), "cores", "at most"]);
    }
    assert_eq!(sandbox.files(), ["in.xyz"]);
    sandbox.run("predict in.xyz -o out.xyz --threads 64").expect(0);
}

/// Linux counts threads by user, and not those of root: needs root, to become a user who has none.
#[cfg(target_os = "linux")]
#[test]
fn threads_that_cannot_be_started_are_a_warning_or_an_error() {
    use std::os::unix::fs::PermissionsExt;
    let sandbox = Sandbox::new();
    sandbox.write("in.xyz", waters(300));
    let open = std::fs::Permissions::from_mode(0o777);
    std::fs::set_permissions(sandbox.path("."), open).unwrap();
    let limited = |n: usize, args: &str| {
        let program = sandbox.command(args);
        let mut command = Command::new("prlimit");
        command.arg(format!("--nproc={n}")).args(["setpriv", "--reuid", "65533", "--clear-groups"]);
        command.arg(program.get_program()).args(program.get_args()).current_dir(sandbox.path("."));
        command.output()
    };
    if !limited(1, "--version").is_ok_and(|output| output.status.success()) {
        eprintln!("SKIPPED: a limit of threads needs root, prlimit and setpriv, and a program that all may run");
        return;
    }
    sandbox.run("predict in.xyz -o want.xyz --threads 1").expect(0);
    let (mut n_refused, mut n_warned, mut n_done) = (0, 0, 0);
    for n in 1..=9 {
        for args in ["--threads 4", "--threads 4 --engine autograd", ""] {
            let output = limited(n, &format!("predict in.xyz -o out-{n}.xyz --overwrite {args}")).unwrap();
            let said = String::from_utf8_lossy(&output.stderr);
            assert!(!said.contains("panicked"), "{n} threads, {args}: {said}");
            match output.status.code() {
                Some(0) => {
                    n_done += 1;
                    n_warned += usize::from(said.contains("warning") && said.contains("threads instead of"));
                    if !args.contains("autograd") {
                        assert!(
                            sandbox.bytes(&format!("out-{n}.xyz")) == sandbox.bytes("want.xyz"),
                            "{n} threads, {args}"
                        );
                    }
                }
                Some(2) => {
                    n_refused += 1;
                    assert!(n < 4 && said.contains("ulimit -u"), "{n} threads, {args}: {said}");
                }
                status => panic!("{n} threads, {args}: {status:?}: {said}"),
            }
        }
    }
    assert!(n_refused > 0 && n_warned > 0 && n_done > n_warned, "{n_refused} {n_warned} {n_done}");
}
