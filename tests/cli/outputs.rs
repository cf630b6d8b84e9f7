//! Files that are written: of one run, never over what is read or not to be replaced.

use std::io::Write;
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::process::{Child, Command};
use std::time::{Duration, Instant};

use super::resume::long_run;
use super::support::{Sandbox, predictions, water, waters};

pub fn mkfifo(sandbox: &Sandbox, name: &str) {
    let path = sandbox.path(name);
    assert!(Command::new("mkfifo").arg(&path).status().unwrap().success());
}

/// Waits until this is so.
#[track_caller]
pub fn wait_for(what: &str, mut is_so: impl FnMut() -> bool) {
    let started = Instant::now();
    while !is_so() {
        assert!(started.elapsed() < Duration::from_secs(120), "{what} did not come");
        std::thread::sleep(Duration::from_millis(2));
    }
}

/// A run that waits for its input, a pipe, and has begun its output.
pub fn waiting_run(sandbox: &Sandbox, args: &str, output: &str) -> (Child, std::fs::File) {
    mkfifo(sandbox, "pipe");
    let run = sandbox.command(&format!("predict pipe -o {output} {args}")).spawn().unwrap();
    let partial = sandbox.path(&format!(".{output}.mlff-part"));
    wait_for("the partial file", || partial.exists());
    let pipe = std::fs::OpenOptions::new().write(true).open(sandbox.path("pipe")).unwrap();
    (run, pipe)
}

#[test]
fn second_run_for_an_output_writes_nothing() {
    let sandbox = Sandbox::new();
    sandbox.write("in.xyz", waters(40));
    let (run, mut pipe) = waiting_run(&sandbox, "--overwrite", "out.xyz");
    for flags in ["", "--overwrite", "--resume"] {
        let ran = sandbox.run(&format!("predict in.xyz -o out.xyz {flags}")).expect(1);
        ran.says(&["error: out.xyz: another run is writing it", ".out.xyz.mlff-part"]);
        assert!(!sandbox.path("out.xyz").exists(), "{flags}");
    }
    // Under another name of the same file, too.
    symlink("out.xyz", sandbox.path("link.xyz")).unwrap();
    sandbox.run("predict in.xyz -o link.xyz").expect(1).says(&["link.xyz: another run is writing it"]);
    pipe.write_all(waters(3).as_bytes()).unwrap();
    drop(pipe);
    assert!(run.wait_with_output().unwrap().status.success());
    assert_eq!(predictions(&sandbox.path("out.xyz"), "MLFF_").len(), 3, "the first run's frames and no others");
    sandbox.run("predict in.xyz -o out.xyz --overwrite").expect(0);
    assert_eq!(sandbox.files(), ["in.xyz", "link.xyz", "out.xyz", "pipe"]);
}

/// What a dead run, or someone else, has put where unfinished output goes.
#[test]
fn what_stands_in_place_of_the_partial_file_is_not_written_through() {
    let sandbox = Sandbox::new();
    sandbox.write("in.xyz", waters(3));
    sandbox.write("victim", "precious");
    let partial = sandbox.path(".out.xyz.mlff-part");
    let output = sandbox.path("out.xyz");
    let put: [(&str, &dyn Fn()); 5] = [
        ("a link", &|| symlink("victim", &partial).unwrap()),
        ("a link to nothing", &|| symlink("nothing", &partial).unwrap()),
        ("another name of a file", &|| std::fs::hard_link(sandbox.path("victim"), &partial).unwrap()),
        ("a pipe", &|| mkfifo(&sandbox, ".out.xyz.mlff-part")),
        ("a dead run's file", &|| std::fs::write(&partial, "rubbish").unwrap()),
    ];
    for (what, put) in put {
        put();
        if !what.starts_with("a dead") {
            sandbox.run("predict in.xyz -o out.xyz --resume").expect(1).says(&["error: out.xyz: ", "move it away"]);
            assert!(!output.exists(), "{what}");
        }
        sandbox.run("predict in.xyz -o out.xyz").expect(0);
        assert_eq!((sandbox.text("victim").as_str(), output.is_symlink()), ("precious", false), "{what}");
        assert_eq!(predictions(&output, "MLFF_").len(), 3, "{what}");
        assert_eq!(sandbox.files(), ["in.xyz", "out.xyz", "victim"], "{what}");
        std::fs::remove_file(&output).unwrap();
    }
    std::fs::create_dir(&partial).unwrap();
    for flags in ["", "--resume"] {
        sandbox.run(&format!("predict in.xyz -o out.xyz {flags}")).expect(1).says(&["error: out.xyz: "]);
    }
    std::fs::remove_dir(&partial).unwrap();
    // The same for reports.
    symlink("victim", sandbox.path(".s.json.mlff-part")).unwrap();
    sandbox.run("predict in.xyz -o out.xyz --summary s.json").expect(0);
    assert_eq!((sandbox.text("victim").as_str(), sandbox.json("s.json")["n_frames"].as_u64()), ("precious", Some(3)));
    assert_eq!(sandbox.files(), ["in.xyz", "out.xyz", "s.json", "victim"]);
}

#[test]
fn names_up_to_the_limit_are_written() {
    let sandbox = Sandbox::new();
    sandbox.write("in.xyz", waters(3));
    let name = "n".repeat(251) + ".xyz";
    sandbox.run(&format!("predict in.xyz -o {name}")).expect(0);
    sandbox.run(&format!("predict in.xyz -o {name} --resume --summary {}.json", "s".repeat(250))).expect(0);
    assert_eq!(predictions(&sandbox.path(&name), "MLFF_").len(), 3);
    assert_eq!(sandbox.files().len(), 3);
    let ran = sandbox.run(&format!("predict in.xyz -o {}.xyz", "n".repeat(252))).expect(1);
    ran.says(&["name too long"]);
}

#[test]
fn replaced_file_hands_on_mode_and_links() {
    let sandbox = Sandbox::new();
    sandbox.write("in.xyz", waters(3));
    sandbox.write("out.xyz", "old");
    let mode = |name: &str| std::fs::metadata(sandbox.path(name)).unwrap().mode() & 0o7777;
    for bits in [0o600, 0o664, 0o444] {
        std::fs::set_permissions(sandbox.path("out.xyz"), std::fs::Permissions::from_mode(bits)).unwrap();
        sandbox.run("predict in.xyz -o out.xyz --overwrite").expect(0);
        assert_eq!(mode("out.xyz"), bits);
    }
    symlink("out.xyz", sandbox.path("link.xyz")).unwrap();
    symlink("new.xyz", sandbox.path("dangling.xyz")).unwrap();
    sandbox.run("predict in.xyz -o link.xyz").expect(2).says(&["link.xyz exists already"]);
    sandbox.run("predict in.xyz -o link.xyz --overwrite --index :1").expect(0);
    sandbox.run("predict in.xyz -o dangling.xyz").expect(0);
    assert!(sandbox.path("link.xyz").is_symlink() && sandbox.path("dangling.xyz").is_symlink());
    assert_eq!(predictions(&sandbox.path("out.xyz"), "MLFF_").len(), 1);
    assert_eq!(predictions(&sandbox.path("new.xyz"), "MLFF_").len(), 3);
}

/// Nothing that is read is written, nothing twice, and nothing that exists unasked, whatever it is called.
#[test]
fn reports_replace_nothing_unasked() {
    let sandbox = Sandbox::new();
    let labelled = water(0).replace("frame=", "energy=-2078.6 frame=");
    sandbox.write("in.xyz", &labelled);
    sandbox.write("notes", "a year of notes");
    std::fs::hard_link(sandbox.path("in.xyz"), sandbox.path("hard")).unwrap();
    symlink("in.xyz", sandbox.path("soft")).unwrap();
    mlff::Model::load(mlff::model::default_name()).unwrap().save(sandbox.path("model")).unwrap();
    let config = sandbox.text("model/config.json");
    let profile = "profile in.xyz --repeats 1 --warmup 1";
    for (args, message) in [
        ("eval in.xyz --plot in.xyz", "in.xyz is both input and output"),
        ("eval in.xyz --plot ./in.xyz --overwrite", "in.xyz is both input and output"),
        ("eval in.xyz --plot hard --overwrite", "in.xyz is both input and output"),
        ("eval in.xyz --plot soft --overwrite", "in.xyz is both input and output"),
        ("eval in.xyz --plot notes", "notes exists already; --overwrite"),
        ("eval in.xyz -m model --plot model/config.json --overwrite", "model/config.json is both input and output"),
        ("PROFILE --json=in.xyz", "in.xyz is both input and output"),
        ("PROFILE --trace in.xyz --overwrite", "in.xyz is both input and output"),
        ("PROFILE --plot in.xyz", "in.xyz is both input and output"),
        ("PROFILE --json=notes", "notes exists already"),
        ("PROFILE --json=r --trace ./r", "two outputs would be written to r and ./r, which are one file"),
        ("calibrate --quick --plot notes -o c.json", "notes exists already"),
        ("calibrate --quick --plot c.json -o c.json", "two outputs would be written to c.json"),
        ("predict in.xyz -o out.xyz --summary out.xyz", "two outputs would be written to out.xyz"),
        ("predict in.xyz -o out.xyz --summary ./out.xyz", "two outputs would be written to"),
        ("predict in.xyz -o out.xyz --summary in.xyz --overwrite", "in.xyz is both input and output"),
        ("predict in.xyz -o out.xyz --summary notes", "notes exists already"),
        ("predict in.xyz -o out.xyz --summary notes --resume", "notes exists already"),
        ("predict in.xyz -o hard --overwrite", "in.xyz is both input and output"),
        ("predict in.xyz -m model -o model/model.safetensors --overwrite", "both input and output"),
        ("predict in.xyz -o - --summary -", "standard output"),
    ] {
        let ran = sandbox.run(&args.replace("PROFILE", profile)).expect(2).says(&[message]);
        assert!(ran.out.is_empty(), "{args}");
        assert_eq!(
            (sandbox.text("in.xyz"), sandbox.text("notes").as_str()),
            (labelled.clone(), "a year of notes"),
            "{args}"
        );
        assert_eq!(sandbox.files(), ["hard", "in.xyz", "model", "notes", "soft"], "{args}");
    }
    assert_eq!(sandbox.text("model/config.json"), config);
    sandbox.run("eval in.xyz --plot notes --overwrite").expect(0);
    assert!(sandbox.text("notes").starts_with("<svg"));
    // A run that is taken up writes its own summary again, as does one that may replace files.
    sandbox.run("predict in.xyz -o out.xyz --summary s.json").expect(0);
    sandbox.run("predict in.xyz -o out.xyz --summary s.json --resume").expect(0);
    sandbox.run("predict in.xyz -o out.xyz --summary s.json --overwrite").expect(0);
    assert_eq!(sandbox.files(), ["hard", "in.xyz", "model", "notes", "out.xyz", "s.json", "soft"]);
    // Devices take what comes.
    sandbox.run("eval in.xyz --plot /dev/null").expect(0);
    sandbox.run("predict in.xyz -o /dev/null --summary /dev/null").expect(0);
    assert!(!std::fs::metadata("/dev/null").unwrap().is_file());
}

/// As `cat` refuses `cat a >> a`: it would be read for ever.
#[test]
fn standard_output_into_the_input_is_refused() {
    let sandbox = Sandbox::new();
    sandbox.write("in.xyz", waters(3));
    let append = std::fs::OpenOptions::new().append(true).open(sandbox.path("in.xyz")).unwrap();
    let output = sandbox.command("predict in.xyz -o -").stdout(append).output().unwrap();
    let err = String::from_utf8(output.stderr).unwrap();
    assert!(output.status.code() == Some(2) && err.contains("in.xyz is both input and output"), "{err}");
    assert_eq!(sandbox.text("in.xyz"), waters(3));
}

#[test]
fn output_folder_or_partial_file_that_goes_away_is_an_error() {
    for what in ["folder removed", "folder moved", "partial file removed", "partial file replaced"] {
        let sandbox = Sandbox::new();
        std::fs::create_dir(sandbox.path("to")).unwrap();
        mkfifo(&sandbox, "pipe");
        let run = sandbox.command("predict pipe -o to/out.xyz").spawn().unwrap();
        let partial = sandbox.path("to/.out.xyz.mlff-part");
        wait_for("the partial file", || partial.exists());
        let mut pipe = std::fs::OpenOptions::new().write(true).open(sandbox.path("pipe")).unwrap();
        match what {
            "folder removed" => std::fs::remove_dir_all(sandbox.path("to")).unwrap(),
            "folder moved" => std::fs::rename(sandbox.path("to"), sandbox.path("away")).unwrap(),
            _ => std::fs::remove_file(&partial).unwrap(),
        }
        if what == "partial file replaced" {
            std::fs::write(&partial, "of someone else").unwrap();
        }
        pipe.write_all(waters(3).as_bytes()).unwrap();
        drop(pipe);
        let output = run.wait_with_output().unwrap();
        let err = String::from_utf8(output.stderr).unwrap();
        assert!(output.status.code() == Some(1) && err.contains("error: to/out.xyz: "), "{what}: {err}");
        assert!(!sandbox.path("to/out.xyz").exists(), "{what}");
        if what == "partial file replaced" {
            assert_eq!(sandbox.text("to/.out.xyz.mlff-part"), "of someone else");
        }
    }
}

/// Unmounts when dropped.
struct Mounted(std::path::PathBuf);

impl Drop for Mounted {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg(&self.0).status();
    }
}

#[cfg(target_os = "linux")]
#[test]
fn disk_that_fills_up_leaves_nothing_or_what_can_be_resumed() {
    let sandbox = Sandbox::new();
    let full = sandbox.path("full");
    std::fs::create_dir(&full).unwrap();
    let mount = |options: &str| {
        let args = ["-t", "tmpfs", "-o", options, "none"];
        Command::new("mount").args(args).arg(&full).output().is_ok_and(|o| o.status.success())
    };
    if !mount("size=1m") {
        eprintln!("SKIPPED: disk_that_fills_up: this user may not mount a small file system");
        return;
    }
    let _mounted = Mounted(full.clone());
    sandbox.write("in.xyz", long_run(3000, false));
    sandbox.run("predict in.xyz -o want.xyz").expect(0);
    let is_empty = || std::fs::read_dir(&full).unwrap().next().is_none();
    for output in ["full/out.xyz", "full/out.xyz.gz"] {
        sandbox.run(&format!("predict in.xyz -o {output}")).expect(1).says(&[output, "No space left"]);
        assert!(is_empty(), "{output}");
    }
    sandbox.run("predict in.xyz -o full/out.xyz --resume").expect(1).says(&["No space left"]);
    assert!(!is_empty());
    assert!(mount("remount,size=20m"));
    sandbox.run("predict in.xyz -o full/out.xyz --resume").expect(0).says(&["were there from an earlier run"]);
    assert!(sandbox.bytes("full/out.xyz") == sandbox.bytes("want.xyz"));
}

#[test]
fn import_writes_a_folder_of_its_own_or_nothing() {
    let sandbox = Sandbox::new();
    let model = mlff::Model::load(mlff::model::default_name()).unwrap();
    // What a dead run has left, or someone has put there.
    std::fs::create_dir(sandbox.path(".model.mlff-part")).unwrap();
    sandbox.write(".model.mlff-part/config.json", "rubbish");
    model.save(sandbox.path("model")).unwrap();
    std::fs::create_dir(sandbox.path("victim")).unwrap();
    sandbox.write("victim/config.json", "precious");
    symlink("victim", sandbox.path(".second.mlff-part")).unwrap();
    model.save(sandbox.path("second")).unwrap();
    assert_eq!(sandbox.text("victim/config.json"), "precious");
    assert_eq!(sandbox.files(), ["model", "second", "victim"]);
    // A link to an empty folder stays one.
    std::fs::create_dir(sandbox.path("empty")).unwrap();
    symlink("empty", sandbox.path("link")).unwrap();
    model.save(sandbox.path("link")).unwrap();
    assert!(sandbox.path("link").is_symlink() && sandbox.path("empty/config.json").is_file());
    assert!(model.save(sandbox.path("model")).unwrap_err().to_string().contains("exists already"));
}
