//! What the integration tests share.
#![allow(dead_code, clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs)]

pub mod expected;
pub mod random;

use std::path::{Path, PathBuf};

use mlff::Structure;
use mlff::structure::{Mat3, SYMBOLS, Vec3};

/// This repository: where cargo runs the tests, else where they were built.
pub fn root() -> PathBuf {
    std::env::var_os("CARGO_MANIFEST_DIR").map_or_else(|| env!("CARGO_MANIFEST_DIR").into(), PathBuf::from)
}

pub fn data(name: &str) -> PathBuf {
    root().join("tests/data").join(name)
}

/// A folder of the reference results: the copy of this repository, else the one kept beside it, where there is one.
pub fn reference(name: &str) -> Option<PathBuf> {
    let root = root();
    [root.join("tests/data/reference").join(name), root.join("../shared/reference").join(name)]
        .into_iter()
        .find(|path| path.exists())
}

#[derive(serde::Deserialize)]
pub struct Case {
    pub symbols: Vec<String>,
    pub positions: Vec<Vec3>,
    pub cell: Option<Mat3>,
    #[serde(default)]
    pub pbc: [bool; 3],
    pub energy: f64,
    pub forces: Vec<Vec3>,
    #[serde(default)]
    pub stress: Option<Mat3>,
    #[serde(default)]
    pub n_edges: Option<usize>,
}

impl Case {
    pub fn structure(&self) -> Structure {
        let z = |s: &String| SYMBOLS.iter().position(|x| x == s).unwrap() as u8;
        let cell = self.cell.filter(|_| self.pbc.contains(&true));
        Structure::new(self.symbols.iter().map(z).collect(), self.positions.clone(), cell, self.pbc).unwrap()
    }
}

pub fn cases(folder: &Path) -> Vec<Case> {
    serde_json::from_slice(&std::fs::read(folder.join("expected.json")).unwrap()).unwrap()
}

/// Largest absolute difference; NaN counts as infinite.
pub fn worst<'a>(got: impl IntoIterator<Item = &'a f64>, want: impl IntoIterator<Item = &'a f64>) -> f64 {
    let (got, want): (Vec<_>, Vec<_>) = (got.into_iter().collect(), want.into_iter().collect());
    assert_eq!(got.len(), want.len());
    got.iter()
        .zip(want)
        .map(|(g, w)| (*g - w).abs())
        .map(|d| if d.is_nan() { f64::INFINITY } else { d })
        .fold(0.0, f64::max)
}

/// Largest difference over one and the largest wanted number; infinite where there is a NaN. Random models have forces of any size.
pub fn deviation<'a>(got: impl IntoIterator<Item = &'a f64>, want: impl IntoIterator<Item = &'a f64>) -> f64 {
    let want: Vec<&f64> = want.into_iter().collect();
    let largest = want.iter().fold(0.0_f64, |m, x| m.max(x.abs()));
    worst(got, want) / (1.0 + largest)
}
