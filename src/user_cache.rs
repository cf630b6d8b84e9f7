//! Where the user's cache is: compiled kernels, calibrations.

use std::path::PathBuf;

/// `$MLFF_CACHE`, else `mlff` in `$XDG_CACHE_HOME` or `~/.cache`; none where none of them is set.
pub(crate) fn folder() -> Option<PathBuf> {
    let variable = |name: &str| std::env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
    variable("MLFF_CACHE")
        .or_else(|| variable("XDG_CACHE_HOME").map(|base| base.join("mlff")))
        .or_else(|| variable("HOME").map(|home| home.join(".cache/mlff")))
}
