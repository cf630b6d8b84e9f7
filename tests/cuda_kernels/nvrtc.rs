//! Every kernel through NVRTC for every architecture, without a GPU.
//!
//! Needs NVRTC: where `Nvrtc::find` finds none, `./.venv` is asked, and `nvidia-cuda-nvrtc` is installed there unless
//! `MLFF_NO_INSTALL` is set; if that fails, the test is skipped and says so.

use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::{Mutex, PoisonError};

use mlff::cuda::SOURCES;
use mlff::cuda::cache::{Cache, Compiler, Target};
use mlff::cuda::nvrtc::{Nvrtc, python_folders};

use crate::host::say;

const PACKAGE: &str = "nvidia-cuda-nvrtc==13.0.*";

fn run(program: &Path, args: &[&str]) -> Result<(), String> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let output = Command::new(program).args(args).current_dir(root).stdin(Stdio::null()).output();
    let output = output.map_err(|e| format!("{}: {e}", program.display()))?;
    if output.status.success() { Ok(()) } else { Err(String::from_utf8_lossy(&output.stderr).trim().into()) }
}

fn in_environment(environment: &Path) -> Option<Nvrtc> {
    let file = |folder: &Path| -> Option<std::path::PathBuf> {
        let names = std::fs::read_dir(folder).ok()?.filter_map(|entry| Some(entry.ok()?.path()));
        let mut found: Vec<_> = names.filter(|p| p.to_string_lossy().contains("libnvrtc.so")).collect();
        found.sort();
        found.pop()
    };
    python_folders(environment).iter().find_map(|folder| Nvrtc::open(&file(folder)?).ok())
}

/// One test at a time: a library that another one is still installing must not be opened.
static INSTALLING: Mutex<()> = Mutex::new(());

fn nvrtc() -> Result<Nvrtc, String> {
    let _guard = INSTALLING.lock().unwrap_or_else(PoisonError::into_inner);
    let missing = match Nvrtc::find() {
        Ok(nvrtc) => return Ok(nvrtc),
        Err(error) => error.to_string(),
    };
    let environment = Path::new(env!("CARGO_MANIFEST_DIR")).join(".venv");
    if let Some(nvrtc) = in_environment(&environment) {
        return Ok(nvrtc);
    }
    if std::env::var_os("MLFF_NO_INSTALL").is_some() {
        return Err(format!("{missing}; and MLFF_NO_INSTALL is set"));
    }
    let python = environment.join("bin/python");
    if !python.exists() {
        run(Path::new("python3"), &["-m", "venv", ".venv"])?;
    }
    run(&python, &["-m", "pip", "install", "-q", "--timeout", "20", "--retries", "1", PACKAGE])?;
    in_environment(&environment).ok_or_else(|| format!("{PACKAGE} was installed but holds no library that loads"))
}

#[test]
fn kernels_compile_for_every_architecture() {
    let nvrtc = match nvrtc() {
        Ok(nvrtc) => nvrtc,
        Err(why) => return say(&format!("\nSKIPPED: kernels_compile_for_every_architecture: {why}\n")),
    };
    // An NVRTC drops old architectures and does not know those that are newer than itself.
    let known = |capability: &u32| nvrtc.architectures().contains(capability);
    let compiled: Vec<u32> = [75, 80, 86, 89, 90, 100].into_iter().filter(known).collect();
    // What was compiled for the same text before need not be again.
    let cache = Cache::in_folder(&Path::new(env!("CARGO_TARGET_TMPDIR")).join("nvrtc"));
    // Those of a model too: in f32 for one architecture of each generation, in f64 for one.
    let [single, double] = [crate::painn::sources::<f32>(), crate::painn::sources::<f64>()];
    let compile = |capability: u32| {
        assert_eq!(nvrtc.target(capability).unwrap(), Target::Binary(capability));
        let of_models = single.iter().filter(|_| [75, 80, 90, 100].contains(&capability));
        let of_models = of_models.chain(double.iter().filter(|_| capability == 90));
        for source in SOURCES.iter().chain(of_models) {
            let code = cache.get(&nvrtc, source, Target::Binary(capability)).unwrap();
            assert!(code.starts_with(b"\x7fELF"), "{} for {capability}", source.name);
            for name in source.kernels {
                let there = code.windows(name.len()).any(|w| w == name.as_bytes());
                assert!(there, "{name} is not in {}", source.name);
            }
        }
    };
    std::thread::scope(|scope| {
        for half in compiled.chunks(3) {
            scope.spawn(|| half.iter().copied().for_each(compile));
        }
    });
    say(&format!("\nNVRTC {}: all kernels compile for {compiled:?}\n", nvrtc.version()));
    assert!(compiled.len() >= 4, "{compiled:?}");
    // As for a GPU that is newer than the compiler.
    let newest = *nvrtc.architectures().last().unwrap();
    let ptx = nvrtc.compile(&SOURCES[0], Target::Ptx(newest)).unwrap();
    assert!(String::from_utf8_lossy(&ptx).contains(".entry edge_geometry_forward_f32"));
}

#[test]
fn nvrtc_says_what_is_wrong_with_a_kernel() {
    let Ok(nvrtc) = nvrtc() else { return };
    let source = mlff::cuda::KernelSource {
        name: "wrong.cu",
        defines: String::new(),
        text: "__global__ void f() { nothing(); }",
        kernels: &[],
    };
    let error = nvrtc.compile(&source, Target::Binary(90)).unwrap_err().to_string();
    assert!(error.contains("wrong.cu does not compile for sm_90") && error.contains("nothing"), "{error}");
}

#[test]
fn sources_name_their_kernels() {
    for source in &SOURCES {
        for name in source.kernels {
            let (op, _) = name.rsplit_once('_').unwrap();
            // `NAME_##suffix(`, or the name itself where there is one precision; dense has its tile in the name.
            let op = op.trim_end_matches("_wide").trim_end_matches("_narrow");
            assert!(source.text.contains(&format!("{op}_##")) || source.text.contains(&format!("{name}(")), "{name}");
        }
    }
}
