//! A directory to run the program in, and trajectories to run it on.

use std::fmt::Write as _;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use mlff::xyz::{Item, Reader};

/// How a run ended and what it printed.
pub struct Ran {
    pub status: Option<i32>,
    pub out: Vec<u8>,
    pub err: String,
}

impl Ran {
    /// Standard output of a run that must have ended with this status.
    #[track_caller]
    pub fn expect(self, status: i32) -> Self {
        assert_eq!(self.status, Some(status), "{}", self.err);
        assert!(!self.err.contains("panicked"), "{}", self.err);
        self
    }

    pub fn text(&self) -> String {
        String::from_utf8(self.out.clone()).unwrap()
    }

    pub fn json(&self) -> serde_json::Value {
        serde_json::from_slice(&self.out).unwrap()
    }

    #[track_caller]
    pub fn says(self, parts: &[&str]) -> Self {
        for part in parts {
            assert!(self.err.contains(part), "\"{part}\" is not in: {}", self.err);
        }
        self
    }
}

/// A directory of its own; paths given to the program are relative to it.
pub struct Sandbox(tempfile::TempDir);

impl Sandbox {
    pub fn new() -> Self {
        Sandbox(tempfile::tempdir().unwrap())
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    pub fn write(&self, name: &str, content: impl AsRef<[u8]>) {
        std::fs::write(self.path(name), content).unwrap();
    }

    pub fn bytes(&self, name: &str) -> Vec<u8> {
        std::fs::read(self.path(name)).unwrap_or_else(|e| panic!("{name}: {e}"))
    }

    pub fn text(&self, name: &str) -> String {
        String::from_utf8(self.bytes(name)).unwrap()
    }

    pub fn json(&self, name: &str) -> serde_json::Value {
        serde_json::from_slice(&self.bytes(name)).unwrap()
    }

    /// Names of all files, hidden ones too.
    pub fn files(&self) -> Vec<String> {
        let entries = std::fs::read_dir(self.0.path()).unwrap();
        let mut names: Vec<String> = entries.map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        names
    }

    pub fn command(&self, args: &str) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_mlff"));
        command.current_dir(self.0.path()).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        // Not the user's, whose calibration decides what runs.
        command.env("MLFF_CACHE", self.path("cache"));
        // Words end at spaces; '' is the empty word, as in a shell.
        command.args(args.split_whitespace().map(|word| if word == "''" { "" } else { word }));
        heed_signals(&mut command);
        command
    }

    pub fn run(&self, args: &str) -> Ran {
        self.run_on(args, b"")
    }

    /// Runs with this on standard input.
    pub fn run_on(&self, args: &str, input: &[u8]) -> Ran {
        let mut child = self.command(args).stdin(Stdio::piped()).spawn().unwrap();
        let mut stdin = child.stdin.take().unwrap();
        let output = std::thread::scope(|scope| {
            // A program that refuses its arguments reads nothing.
            scope.spawn(move || {
                let _ = stdin.write_all(input);
            });
            child.wait_with_output().unwrap()
        });
        let err = String::from_utf8(output.stderr).unwrap();
        Ran { status: output.status.code(), out: output.stdout, err }
    }
}

/// Water with one O–H bond of another length in each frame, so that each frame has another energy.
pub fn water(k: usize) -> String {
    let y = 0.7 + 0.001 * (k % 400) as f64;
    format!("3\nframe={k}\nO 0 0 0.119\nH 0 {y:.4} -0.477\nH 0 -0.763 -0.477\n")
}

pub fn waters(n: usize) -> String {
    (0..n).map(water).collect()
}

/// A chain of hydrocarbons, waters and periodic frames of various sizes.
pub fn mixed(n: usize) -> String {
    let mut out = String::new();
    for k in 0..n {
        let stretch = 1.0 + 0.002 * (k % 50) as f64;
        match k % 4 {
            0 => out += &water(k),
            1 => writeln!(out, "2\nframe={k}\nH 0 0 0\nH 0 0 {:.4}", 0.74 * stretch).unwrap(),
            2 => {
                writeln!(
                    out,
                    "5\nframe={k} Lattice=\"6 0 0 0.5 6 0 0 0 7\" Properties=species:S:1:pos:R:3 pbc=\"T T T\"\nC 0 0 0\n\
                     H {0:.4} {0:.4} {0:.4}\nH -{0:.4} -{0:.4} {0:.4}\nH -{0:.4} {0:.4} -{0:.4}\nH {0:.4} -{0:.4} -{0:.4}",
                    0.63 * stretch
                )
                .unwrap();
            }
            _ => writeln!(
                out,
                "2\nframe={k} Lattice=\"4 0 0 0 4 0 0 0 9\" pbc=\"T T F\"\nN 0 0 0\nN 0 0 {:.4}",
                1.1 * stretch
            )
            .unwrap(),
        }
    }
    out
}

/// One frame of an output.
#[derive(Debug, Clone, PartialEq)]
pub struct Predicted {
    /// `frame=` of the comment.
    pub frame: Option<usize>,
    pub energy: Option<f64>,
    pub forces: Option<Vec<[f64; 3]>>,
    pub stress: Option<[[f64; 3]; 3]>,
}

/// Results in a file, packed or not; a frame that is unreadable has none.
pub fn predictions(path: &Path, prefix: &str) -> Vec<Predicted> {
    read(Reader::open(path).unwrap(), prefix)
}

pub fn predictions_in(text: &[u8], prefix: &str) -> Vec<Predicted> {
    read(Reader::from_reader("output", std::io::Cursor::new(text.to_vec())).unwrap(), prefix)
}

fn read(mut reader: Reader, prefix: &str) -> Vec<Predicted> {
    let mut out = Vec::new();
    while let Some(item) = reader.next_item().unwrap() {
        out.push(match item {
            Item::Bad(_) => Predicted { frame: None, energy: None, forces: None, stress: None },
            Item::Frame(frame) => {
                let labels = frame.labels(prefix).unwrap();
                let number = frame.info("frame").and_then(|k| k.parse().ok());
                Predicted { frame: number, energy: labels.energy, forces: labels.forces, stress: labels.stress }
            }
        });
    }
    out
}

/// Compares results of two runs.
#[track_caller]
pub fn assert_same(got: &[Predicted], want: &[Predicted], tolerance: f64) {
    assert_eq!(got.len(), want.len());
    let flat = |p: &Predicted| -> Vec<f64> {
        let forces = p.forces.iter().flatten().flatten();
        p.energy.iter().chain(forces).chain(p.stress.iter().flatten().flatten()).copied().collect()
    };
    for (k, (g, w)) in got.iter().zip(want).enumerate() {
        assert_eq!(g.frame, w.frame, "frame {k}");
        let (a, b) = (flat(g), flat(w));
        assert_eq!(a.len(), b.len(), "frame {k}: {g:?}, {w:?}");
        for (x, y) in a.iter().zip(&b) {
            assert!((x - y).abs() <= tolerance * y.abs().max(1.0), "frame {k}: {x} and {y}");
        }
    }
}

/// Signals act on the program also where the tests themselves ignore them, as under `nohup` and in a shell's background.
fn heed_signals(command: &mut Command) {
    #[cfg(unix)]
    {
        use std::os::unix::process::CommandExt;
        // SAFETY: between fork and exec only `signal` is called, which may be there, with numbers.
        unsafe {
            command.pre_exec(|| {
                for signal in [libc::SIGINT, libc::SIGTERM, libc::SIGHUP, libc::SIGPIPE] {
                    libc::signal(signal, libc::SIG_DFL);
                }
                Ok(())
            });
        }
    }
    #[cfg(not(unix))]
    let _ = command;
}
