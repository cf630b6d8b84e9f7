//! Compiled kernels, kept on disk.
//!
//! An entry is one file, named by a hash of everything that decides its content: source, header, options (with the
//! architecture) and compiler version. It is written beside its place and renamed, so a reader sees a whole entry or none
//! and processes that compile the same kernel at once only do the work twice. It carries the length and a checksum of its
//! content: one that is damaged is compiled anew. A folder that cannot be written costs time, never a failure.

use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

use super::{HEADERS, KernelSource};
use crate::error::CudaError;
use crate::error::Result;

/// What kernels are compiled for: a compute capability, 10 · major + minor.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Target {
    /// Machine code.
    Binary(u32),
    /// Code that a newer driver translates for a GPU that the compiler does not know.
    Ptx(u32),
}

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Target::Binary(capability) => write!(f, "sm_{capability}"),
            Target::Ptx(capability) => write!(f, "compute_{capability}"),
        }
    }
}

/// Something that compiles kernels.
pub trait Compiler {
    /// Its version.
    fn version(&self) -> String;

    /// Compute capabilities that it makes code for, rising.
    fn architectures(&self) -> &[u32];

    /// Options that it compiles with; part of an entry's identity.
    fn options(&self, target: Target) -> Vec<String>;

    /// Compiles a file of kernels.
    ///
    /// # Errors
    /// `CudaError::Compilation` with the compiler's log.
    fn compile(&self, source: &KernelSource, target: Target) -> Result<Vec<u8>>;

    /// What to compile for a device: machine code of the newest architecture that runs on it, which is one of the same
    /// major number that is not newer; else the newest intermediate code that is not newer than the device.
    ///
    /// # Errors
    /// `CudaError::GpuTooOld`.
    fn target(&self, capability: u32) -> Result<Target> {
        let known = self.architectures().iter().copied().filter(|&a| a <= capability).max();
        match known {
            Some(a) if a / 10 == capability / 10 => Ok(Target::Binary(a)),
            Some(a) => Ok(Target::Ptx(a)),
            None => {
                let oldest = self.architectures().iter().copied().min().unwrap_or(0);
                Err(CudaError::GpuTooOld { capability, oldest, compiler: self.version() }.into())
            }
        }
    }
}

/// A folder of compiled kernels.
#[derive(Debug, Clone)]
pub struct Cache {
    folder: Option<PathBuf>,
}

/// First line of an entry; another format is another line.
const MAGIC: &str = "mlff compiled kernels 1";

impl Cache {
    /// The user's: `$MLFF_CACHE`, else `mlff` in `$XDG_CACHE_HOME` or `~/.cache`; none where none of them is set.
    pub fn of_user() -> Self {
        Cache { folder: crate::user_cache::folder() }
    }

    /// In a given folder, made when first needed.
    pub fn in_folder(folder: &Path) -> Self {
        Cache { folder: Some(folder.to_path_buf()) }
    }

    /// Compiled kernels, from disk if they are there and whole.
    ///
    /// # Errors
    /// `CudaError::Compilation`.
    pub fn get(&self, compiler: &dyn Compiler, source: &KernelSource, target: Target) -> Result<Vec<u8>> {
        let head = head(compiler, source, target);
        let path = self.folder.as_ref().map(|folder| folder.join(file_name(&head, source, target)));
        if let Some(code) = path.as_ref().and_then(|path| whole(&std::fs::read(path).ok()?, &head)) {
            return Ok(code);
        }
        let code = compiler.compile(source, target)?;
        if let Some(path) = path {
            // Without the entry the next process compiles again, which is all that is lost.
            let _ = write(&path, &head, &code);
        }
        Ok(code)
    }
}

/// Everything that decides the content, as text.
fn head(compiler: &dyn Compiler, source: &KernelSource, target: Target) -> String {
    let headers = HEADERS.map(|(_, text)| text).concat();
    let text = hash([source.defines.as_bytes(), source.text.as_bytes(), headers.as_bytes()]);
    let options = compiler.options(target).join(" ");
    format!("{MAGIC}\n{} {text:032x}\n{target} {} {options}\n", source.name, compiler.version())
}

fn file_name(head: &str, source: &KernelSource, target: Target) -> String {
    format!("{}-{target}-{:032x}.kernels", source.name.trim_end_matches(".cu"), hash([head.as_bytes()]))
}

/// The content of an entry, if it is whole and the one that was asked for.
fn whole(entry: &[u8], head: &str) -> Option<Vec<u8>> {
    let rest = entry.strip_prefix(head.as_bytes())?;
    let (length, rest) = rest.split_first_chunk::<8>()?;
    let (checksum, code) = rest.split_first_chunk::<16>()?;
    let sound = u64::from_le_bytes(*length) == code.len() as u64 && u128::from_le_bytes(*checksum) == hash([code]);
    sound.then(|| code.to_vec())
}

fn write(path: &Path, head: &str, code: &[u8]) -> std::io::Result<()> {
    static COUNT: AtomicU64 = AtomicU64::new(0);
    let mut entry = head.as_bytes().to_vec();
    entry.extend((code.len() as u64).to_le_bytes());
    entry.extend(hash([code]).to_le_bytes());
    entry.extend(code);
    if let Some(folder) = path.parent() {
        std::fs::create_dir_all(folder)?;
    }
    // A name that no other process or thread uses.
    let beside = path.with_extension(format!("{}.{}.new", std::process::id(), COUNT.fetch_add(1, Ordering::Relaxed)));
    let done = std::fs::write(&beside, entry).and_then(|()| std::fs::rename(&beside, path));
    if done.is_err() {
        let _ = std::fs::remove_file(&beside);
    }
    done
}

/// FNV-1a with 128 bits over the parts and their lengths. It finds damage and tells sources apart; it does not defend
/// against someone who can write the user's files.
fn hash<const N: usize>(parts: [&[u8]; N]) -> u128 {
    let mut h: u128 = 0x6c62_272e_07bb_0142_62b8_2175_6295_c58d;
    let mut add = |bytes: &[u8]| {
        for &byte in bytes {
            h = (h ^ u128::from(byte)).wrapping_mul(0x0000_0000_0100_0000_0000_0000_0000_013b);
        }
    };
    for part in parts {
        add(&(part.len() as u64).to_le_bytes());
        add(part);
    }
    h
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::AtomicUsize;

    use super::*;

    /// Makes "code" of source, version and target, and counts how often.
    struct Fake {
        version: &'static str,
        compiled: AtomicUsize,
    }

    impl Fake {
        fn new(version: &'static str) -> Self {
            Fake { version, compiled: AtomicUsize::new(0) }
        }
        fn count(&self) -> usize {
            self.compiled.load(Ordering::SeqCst)
        }
    }

    impl Compiler for Fake {
        fn version(&self) -> String {
            self.version.into()
        }
        fn architectures(&self) -> &[u32] {
            &[75, 80, 86, 90, 100]
        }
        fn options(&self, target: Target) -> Vec<String> {
            vec![format!("--for={target}")]
        }
        fn compile(&self, source: &KernelSource, target: Target) -> Result<Vec<u8>> {
            self.compiled.fetch_add(1, Ordering::SeqCst);
            if source.text == "bad" {
                let (source_name, target) = (source.name.into(), target.to_string());
                return Err(CudaError::Compilation { source_name, target, log: "line 1".into() }.into());
            }
            let code = format!("{}|{}|{target}", source.text, self.version);
            Ok(code.repeat(1000).into_bytes())
        }
    }

    fn source(text: &'static str) -> KernelSource {
        KernelSource { name: "test.cu", defines: String::new(), text, kernels: &[] }
    }

    fn entries(folder: &Path) -> Vec<PathBuf> {
        std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()).collect()
    }

    #[test]
    fn cache_compiles_once_and_again_for_what_differs() {
        let folder = tempfile::tempdir().unwrap();
        let cache = Cache::in_folder(&folder.path().join("made/when/needed"));
        let compiler = Fake::new("12.4");
        let (a, target) = (source("a"), Target::Binary(90));
        let first = cache.get(&compiler, &a, target).unwrap();
        assert_eq!(cache.get(&compiler, &a, target).unwrap(), first);
        assert_eq!(compiler.count(), 1);
        for (text, target) in [("b", Target::Binary(90)), ("a", Target::Binary(80)), ("a", Target::Ptx(90))] {
            assert_ne!(cache.get(&compiler, &source(text), target).unwrap(), first);
        }
        assert_eq!(compiler.count(), 4);
        let newer = Fake::new("13.0");
        assert_ne!(cache.get(&newer, &a, target).unwrap(), first);
        assert_eq!(newer.count(), 1);
        assert_eq!(cache.get(&compiler, &a, target).unwrap(), first);
        assert_eq!(compiler.count(), 4);
    }

    #[test]
    fn cache_recompiles_damaged_entries() {
        let folder = tempfile::tempdir().unwrap();
        let cache = Cache::in_folder(folder.path());
        let compiler = Fake::new("12.4");
        let (a, target) = (source("a"), Target::Binary(90));
        let code = cache.get(&compiler, &a, target).unwrap();
        let path = &entries(folder.path())[0];
        let good = std::fs::read(path).unwrap();
        let mut flipped = good.clone();
        *flipped.last_mut().unwrap() ^= 1;
        let mut in_head = good.clone();
        in_head[3] ^= 1;
        let longer = [&good[..], b"x"].concat();
        let damages = [vec![], good[..10].to_vec(), good[..good.len() - 1].to_vec(), flipped, in_head, longer];
        for (k, damage) in damages.iter().enumerate() {
            std::fs::write(path, damage).unwrap();
            assert_eq!(cache.get(&compiler, &a, target).unwrap(), code);
            assert_eq!(compiler.count(), k + 2);
            assert_eq!(std::fs::read(path).unwrap(), good, "the entry is whole again");
        }
    }

    #[test]
    fn cache_serves_many_at_once() {
        let folder = tempfile::tempdir().unwrap();
        let compiler = Fake::new("12.4");
        let target = Target::Binary(90);
        let want = compiler.compile(&source("a"), target).unwrap();
        std::thread::scope(|scope| {
            for _ in 0..8 {
                scope.spawn(|| {
                    for round in 0..20 {
                        // Each its own view of the folder, as processes have; some meet damage and missing entries.
                        let cache = Cache::in_folder(folder.path());
                        assert_eq!(cache.get(&compiler, &source("a"), target).unwrap(), want);
                        for path in entries(folder.path()).iter().filter(|p| p.extension().unwrap() == "kernels") {
                            match round % 5 {
                                3 => drop(std::fs::remove_file(path)),
                                4 => drop(std::fs::write(path, b"damage")),
                                _ => {}
                            }
                        }
                    }
                });
            }
        });
        let left: Vec<PathBuf> = entries(folder.path());
        assert!(left.iter().all(|p| p.extension().unwrap() == "kernels"), "nothing half-written is left: {left:?}");
    }

    #[test]
    fn cache_does_without_a_folder() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("file");
        std::fs::write(&file, b"").unwrap();
        let compiler = Fake::new("12.4");
        for cache in [Cache { folder: None }, Cache::in_folder(&file), Cache::in_folder(&file.join("below"))] {
            assert!(!cache.get(&compiler, &source("a"), Target::Binary(90)).unwrap().is_empty());
        }
        assert_eq!(compiler.count(), 3);
    }

    #[test]
    fn cache_keeps_no_failure() {
        let folder = tempfile::tempdir().unwrap();
        let cache = Cache::in_folder(folder.path());
        let error = cache.get(&Fake::new("1"), &source("bad"), Target::Ptx(75)).unwrap_err().to_string();
        assert_eq!(error, "test.cu does not compile for compute_75:\nline 1");
        assert!(entries(folder.path()).is_empty());
    }

    #[test]
    fn compiler_targets_what_runs_on_the_device() {
        let compiler = Fake::new("13.0");
        for (capability, want) in [(75, "sm_75"), (89, "sm_86"), (90, "sm_90"), (103, "sm_100"), (120, "compute_100")] {
            assert_eq!(compiler.target(capability).unwrap().to_string(), want);
        }
        let error = compiler.target(70).unwrap_err().to_string();
        assert_eq!(error, "GPU of compute capability 7.0: NVRTC 13.0 makes code from 7.5 on");
    }
}
