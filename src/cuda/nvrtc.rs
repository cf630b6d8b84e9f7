//! NVRTC, the library that compiles kernels, found and loaded at run time.

use std::ffi::{CStr, CString, c_char, c_int, c_void};
use std::path::{Path, PathBuf};
use std::ptr::null_mut;

use libloading::Library;

use super::cache::{Compiler, Target};
pub use super::library::python_folders;
use super::{HEADERS, KernelSource, library};
use crate::error::CudaError;
use crate::error::Result;

/// Options that every kernel is compiled with. No fast mathematics: division, roots and exponentials stay accurate.
/// Functions without a mark are the device's, which generic lambdas need.
const OPTIONS: [&str; 2] = ["--std=c++17", "--device-as-default-execution-space"];

type Program = *mut c_void;

/// The functions of NVRTC that are called here; NVRTC 11.2 has all of them.
struct Calls {
    version: unsafe extern "C" fn(*mut c_int, *mut c_int) -> c_int,
    n_architectures: unsafe extern "C" fn(*mut c_int) -> c_int,
    architectures: unsafe extern "C" fn(*mut c_int) -> c_int,
    create: unsafe extern "C" fn(
        *mut Program,
        *const c_char,
        *const c_char,
        c_int,
        *const *const c_char,
        *const *const c_char,
    ) -> c_int,
    compile: unsafe extern "C" fn(Program, c_int, *const *const c_char) -> c_int,
    destroy: unsafe extern "C" fn(*mut Program) -> c_int,
    log_size: unsafe extern "C" fn(Program, *mut usize) -> c_int,
    log: unsafe extern "C" fn(Program, *mut c_char) -> c_int,
    cubin_size: unsafe extern "C" fn(Program, *mut usize) -> c_int,
    cubin: unsafe extern "C" fn(Program, *mut c_char) -> c_int,
    ptx_size: unsafe extern "C" fn(Program, *mut usize) -> c_int,
    ptx: unsafe extern "C" fn(Program, *mut c_char) -> c_int,
    error_string: unsafe extern "C" fn(c_int) -> *const c_char,
}

/// A loaded NVRTC.
pub struct Nvrtc {
    calls: Calls,
    version: (i32, i32),
    architectures: Vec<u32>,
    // Behind `calls`, which points into it; and what it opens by name while it compiles.
    _library: Library,
    _builtins: Option<Library>,
}

impl std::fmt::Debug for Nvrtc {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Nvrtc").field("version", &self.version).finish_non_exhaustive()
    }
}

impl Nvrtc {
    /// Finds NVRTC: `$MLFF_NVRTC` (a file or a folder; nothing else is searched then), the system's loader, `$CUDA_HOME`,
    /// `$CUDA_PATH`, `/usr/local/cuda`, and the packages of the active Python environment.
    ///
    /// # Errors
    /// `CudaError::NoNvrtc` with what was searched, `CudaError::BadNvrtc`.
    pub fn find() -> Result<Self> {
        let mut searched = Vec::new();
        let named = std::env::var_os("MLFF_NVRTC").map(PathBuf::from);
        let folders = match &named {
            Some(path) if path.is_file() => return Self::open(path),
            Some(folder) => vec![folder.clone()],
            None => {
                for name in ["libnvrtc.so.13", "libnvrtc.so.12", "libnvrtc.so.11.2", "libnvrtc.so"] {
                    // SAFETY: as in `open`.
                    if unsafe { Library::new(name) }.is_ok() {
                        return Self::open(Path::new(name));
                    }
                    searched.push(name.to_owned());
                }
                library::usual_folders()
            }
        };
        for folder in folders {
            if let Some(file) = library::file_in(&folder, "libnvrtc.so") {
                return Self::open(&file);
            }
            searched.push(folder.display().to_string());
        }
        Err(CudaError::NoNvrtc { searched }.into())
    }

    /// Loads one library.
    ///
    /// # Errors
    /// `CudaError::BadNvrtc`.
    pub fn open(path: &Path) -> Result<Self> {
        let bad = |reason: String| CudaError::BadNvrtc { path: path.to_path_buf(), reason };
        // NVRTC opens its builtins by name. Python's packages keep both in one folder that the loader does not search, but
        // it takes a library that is already there.
        let builtins = path.parent().and_then(|folder| library::file_in(folder, "libnvrtc-builtins.so"));
        // SAFETY: loading runs the libraries' initialisers. They are NVIDIA's, found under NVIDIA's names in places that the
        // user or the system's loader chose.
        let builtins = builtins.and_then(|path| unsafe { Library::new(path) }.ok());
        let library = unsafe { Library::new(path) }.map_err(|e| bad(e.to_string()))?;
        // SAFETY: names and signatures are those of nvrtc.h; they have not changed since NVRTC 11.2.
        let calls = unsafe {
            Calls {
                version: symbol(&library, path, "nvrtcVersion")?,
                n_architectures: symbol(&library, path, "nvrtcGetNumSupportedArchs")?,
                architectures: symbol(&library, path, "nvrtcGetSupportedArchs")?,
                create: symbol(&library, path, "nvrtcCreateProgram")?,
                compile: symbol(&library, path, "nvrtcCompileProgram")?,
                destroy: symbol(&library, path, "nvrtcDestroyProgram")?,
                log_size: symbol(&library, path, "nvrtcGetProgramLogSize")?,
                log: symbol(&library, path, "nvrtcGetProgramLog")?,
                cubin_size: symbol(&library, path, "nvrtcGetCUBINSize")?,
                cubin: symbol(&library, path, "nvrtcGetCUBIN")?,
                ptx_size: symbol(&library, path, "nvrtcGetPTXSize")?,
                ptx: symbol(&library, path, "nvrtcGetPTX")?,
                error_string: symbol(&library, path, "nvrtcGetErrorString")?,
            }
        };
        let mut nvrtc =
            Nvrtc { calls, version: (0, 0), architectures: Vec::new(), _library: library, _builtins: builtins };
        let (mut major, mut minor, mut n) = (0, 0, 0);
        // SAFETY: the pointers are to live integers, the last one to as many as NVRTC said it writes.
        unsafe {
            nvrtc.check((nvrtc.calls.version)(&mut major, &mut minor)).map_err(bad)?;
            nvrtc.check((nvrtc.calls.n_architectures)(&mut n)).map_err(bad)?;
            let mut list = vec![0; usize::try_from(n).unwrap_or(0)];
            nvrtc.check((nvrtc.calls.architectures)(list.as_mut_ptr())).map_err(bad)?;
            nvrtc.architectures = list.into_iter().filter_map(|a| u32::try_from(a).ok()).collect();
        }
        nvrtc.version = (major, minor);
        nvrtc.architectures.sort_unstable();
        Ok(nvrtc)
    }

    fn check(&self, code: c_int) -> std::result::Result<(), String> {
        if code == 0 {
            return Ok(());
        }
        // SAFETY: NVRTC returns a static string for every code.
        let text = unsafe { CStr::from_ptr((self.calls.error_string)(code)) };
        Err(text.to_string_lossy().into_owned())
    }

    /// Reads one of a program's byte arrays: its log, its code.
    fn bytes(
        &self,
        program: &Open,
        size: unsafe extern "C" fn(Program, *mut usize) -> c_int,
        get: unsafe extern "C" fn(Program, *mut c_char) -> c_int,
    ) -> std::result::Result<Vec<u8>, String> {
        let mut n = 0;
        // SAFETY: the program is open, and `get` writes as many bytes as `size` said.
        unsafe {
            self.check(size(program.handle, &mut n))?;
            let mut bytes = vec![0_u8; n];
            self.check(get(program.handle, bytes.as_mut_ptr().cast()))?;
            Ok(bytes)
        }
    }

    fn run(&self, source: &KernelSource, target: Target) -> std::result::Result<Vec<u8>, String> {
        let text = |s: &str| CString::new(s).map_err(|e| e.to_string());
        let (code, name) = (text(&format!("{}{}", source.defines, source.text))?, text(source.name)?);
        let headers: Vec<CString> = HEADERS.iter().map(|h| text(h.1)).collect::<std::result::Result<_, _>>()?;
        let header_names: Vec<CString> = HEADERS.iter().map(|h| text(h.0)).collect::<std::result::Result<_, _>>()?;
        let mut program = Open { handle: null_mut(), nvrtc: self };
        let [headers, names] = [&headers, &header_names].map(|all| all.iter().map(|s| s.as_ptr()).collect::<Vec<_>>());
        // SAFETY: all strings outlive the call, and NVRTC copies them.
        let created = unsafe {
            let (n, headers, names) = (headers.len() as c_int, headers.as_ptr(), names.as_ptr());
            (self.calls.create)(&mut program.handle, code.as_ptr(), name.as_ptr(), n, headers, names)
        };
        self.check(created)?;
        let options = self.options(target);
        let options: Vec<CString> = options.iter().map(|s| text(s)).collect::<std::result::Result<_, _>>()?;
        let pointers: Vec<*const c_char> = options.iter().map(|s| s.as_ptr()).collect();
        // SAFETY: the program is open; the options outlive the call.
        let compiled = unsafe { (self.calls.compile)(program.handle, pointers.len() as c_int, pointers.as_ptr()) };
        if let Err(reason) = self.check(compiled) {
            let log = self.bytes(&program, self.calls.log_size, self.calls.log).unwrap_or_default();
            let log = String::from_utf8_lossy(&log);
            return Err(format!("{reason}\n{}", log.trim_end_matches(['\0', '\n'])));
        }
        match target {
            Target::Binary(_) => self.bytes(&program, self.calls.cubin_size, self.calls.cubin),
            Target::Ptx(_) => self.bytes(&program, self.calls.ptx_size, self.calls.ptx),
        }
    }
}

impl Compiler for Nvrtc {
    fn version(&self) -> String {
        format!("{}.{}", self.version.0, self.version.1)
    }

    fn architectures(&self) -> &[u32] {
        &self.architectures
    }

    fn options(&self, target: Target) -> Vec<String> {
        let architecture = format!("--gpu-architecture={target}");
        OPTIONS.iter().map(|s| s.to_string()).chain([architecture]).collect()
    }

    fn compile(&self, source: &KernelSource, target: Target) -> Result<Vec<u8>> {
        self.run(source, target).map_err(|log| {
            CudaError::Compilation { source_name: source.name.into(), target: target.to_string(), log }.into()
        })
    }
}

/// A program that is destroyed with this value.
struct Open<'a> {
    handle: Program,
    nvrtc: &'a Nvrtc,
}

impl Drop for Open<'_> {
    fn drop(&mut self) {
        if !self.handle.is_null() {
            // SAFETY: created by NVRTC and not destroyed before.
            unsafe { (self.nvrtc.calls.destroy)(&mut self.handle) };
        }
    }
}

/// # Safety
/// `F` is the signature of the function.
unsafe fn symbol<F: Copy>(library: &Library, path: &Path, name: &str) -> Result<F> {
    let found = unsafe { library.get::<F>(name) };
    found.map(|f| *f).map_err(|_| {
        let reason = format!("it has no {name}; NVRTC 11.2 or newer does");
        CudaError::BadNvrtc { path: path.to_path_buf(), reason }.into()
    })
}
