//! Where NVIDIA's libraries are: the system's loader, the toolkit's folders, the packages of a Python environment.

use std::path::{Path, PathBuf};

use libloading::Library;

/// Loads the first library that is there: `names` by the system's loader, then files that begin with `prefix` in the usual
/// folders. A library that is loaded is found by its name from then on.
///
/// # Errors
/// The names and folders that were searched.
pub(super) fn find(names: &[&str], prefix: &str) -> std::result::Result<Library, Vec<String>> {
    let files = usual_folders().into_iter().filter_map(|folder| file_in(&folder, prefix));
    for name in names.iter().map(PathBuf::from).chain(files) {
        // SAFETY: loading runs the library's initialisers. It is NVIDIA's, found under NVIDIA's name in places that the user
        // or the system's loader chose.
        if let Ok(library) = unsafe { Library::new(&name) } {
            return Ok(library);
        }
    }
    let folders = usual_folders().into_iter().map(|folder| folder.display().to_string());
    Err(names.iter().map(|name| (*name).to_owned()).chain(folders).collect())
}

/// Loads what candle's CUDA calls beside the driver, for as long as the program runs.
///
/// # Errors
/// `CudaError::NoLibrary`.
#[cfg(feature = "candle-cuda")]
pub(crate) fn require_libraries() -> crate::Result<()> {
    let needed: [(&'static str, &'static str, &[&str], &str); 2] = [
        ("cuBLAS", "nvidia-cublas", &["libcublas.so.13", "libcublas.so.12"], "libcublas.so"),
        ("cuRAND", "nvidia-curand", &["libcurand.so.10"], "libcurand.so"),
    ];
    for (name, package, names, prefix) in needed {
        let missing = |searched| crate::error::CudaError::NoLibrary { name, package, searched };
        // Never unloaded: candle calls into it.
        std::mem::forget(find(names, prefix).map_err(missing)?);
    }
    Ok(())
}

/// The file of a library in a folder, the last by name if there are several versions.
pub(super) fn file_in(folder: &Path, prefix: &str) -> Option<PathBuf> {
    let is_it = |path: &PathBuf| {
        let name = path.file_name().map(|n| n.to_string_lossy().into_owned()).unwrap_or_default();
        // `.alt` is a second build of NVRTC with the same functions.
        name.starts_with(prefix) && !name.contains(".alt.")
    };
    std::fs::read_dir(folder).ok()?.filter_map(|entry| Some(entry.ok()?.path())).filter(is_it).max()
}

/// `lib64` of `$CUDA_HOME`, `$CUDA_PATH` and `/usr/local/cuda`, and the packages of the active Python environment.
pub(super) fn usual_folders() -> Vec<PathBuf> {
    let roots = ["CUDA_HOME", "CUDA_PATH"].iter().filter_map(std::env::var_os).map(PathBuf::from);
    let mut folders: Vec<PathBuf> = roots.chain(["/usr/local/cuda".into()]).map(|root| root.join("lib64")).collect();
    if let Some(environment) = std::env::var_os("VIRTUAL_ENV") {
        folders.extend(python_folders(Path::new(&environment)));
    }
    folders
}

/// Where Python's packages of CUDA libraries keep them in an environment.
pub fn python_folders(environment: &Path) -> Vec<PathBuf> {
    let entries = |folder: &Path| -> Vec<PathBuf> {
        let list = std::fs::read_dir(folder).into_iter().flatten();
        list.filter_map(|entry| Some(entry.ok()?.path())).collect()
    };
    let mut folders: Vec<PathBuf> = entries(&environment.join("lib"))
        .iter()
        .flat_map(|python| entries(&python.join("site-packages/nvidia")))
        .map(|package| package.join("lib"))
        .collect();
    folders.sort();
    folders
}
