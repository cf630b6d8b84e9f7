//! Errors of predictions against labels, accumulated frame by frame.

use serde::Serialize;

/// Mean absolute, root-mean-square and largest absolute error of a stream of numbers.
#[derive(Default, Clone, Copy)]
pub struct Errors {
    n: usize,
    n_frames: usize,
    n_atoms: usize,
    absolute: f64,
    squared: f64,
    max: f64,
}

/// What [`Errors`] come to.
#[derive(Serialize, Clone, Copy, PartialEq, Debug)]
pub struct ErrorSummary {
    pub mae: f64,
    pub rmse: f64,
    pub max: f64,
    /// Frames that have the label.
    pub n_frames: usize,
    /// Their atoms.
    pub n_atoms: usize,
}

impl Errors {
    /// Adds one prediction.
    pub fn add(&mut self, got: f64, want: f64) {
        let error = (got - want).abs();
        self.n += 1;
        self.absolute += error;
        self.squared += error * error;
        self.max = self.max.max(error);
    }

    /// Counts a frame whose predictions were added.
    pub fn count(&mut self, n_atoms: usize) {
        self.n_frames += 1;
        self.n_atoms += n_atoms;
    }

    /// Frames counted.
    pub fn n_frames(&self) -> usize {
        self.n_frames
    }

    /// `None` if nothing was added.
    pub fn summary(&self) -> Option<ErrorSummary> {
        let n = self.n as f64;
        (self.n > 0).then(|| ErrorSummary {
            mae: self.absolute / n,
            rmse: (self.squared / n).sqrt(),
            max: self.max,
            n_frames: self.n_frames,
            n_atoms: self.n_atoms,
        })
    }
}

/// Errors of vectors: of their components, and of their directions.
#[derive(Default, Clone, Copy)]
pub struct ForceErrors {
    components: Errors,
    sum: f64,
    sum_squared: f64,
    cosines: f64,
    n_cosines: usize,
}

/// What [`ForceErrors`] come to.
#[derive(Serialize, Clone, Copy, PartialEq, Debug)]
pub struct ForceSummary {
    pub mae: f64,
    pub rmse: f64,
    pub max: f64,
    /// `1 − Σ (got − want)² / Σ (want − mean)²` over all components; null where all labels are the same.
    pub r2: Option<f64>,
    /// Mean cosine of the angle between prediction and label, over atoms where both are longer than 1e-3 eV/Å.
    pub cosine: Option<f64>,
    /// Frames that have the label.
    pub n_frames: usize,
    /// Their atoms.
    pub n_atoms: usize,
}

/// Forces shorter than this have no direction worth comparing, eV/Å.
const MIN_FORCE: f64 = 1e-3;

impl ForceErrors {
    /// Counts a frame whose atoms were added.
    pub fn count(&mut self, n_atoms: usize) {
        self.components.count(n_atoms);
    }

    /// Frames counted.
    pub fn n_frames(&self) -> usize {
        self.components.n_frames
    }

    /// Adds one atom.
    pub fn add(&mut self, got: [f64; 3], want: [f64; 3]) {
        for (&g, &w) in got.iter().zip(&want) {
            self.components.add(g, w);
            self.sum += w;
            self.sum_squared += w * w;
        }
        let norm = |v: [f64; 3]| v.iter().map(|x| x * x).sum::<f64>().sqrt();
        let (a, b) = (norm(got), norm(want));
        if a >= MIN_FORCE && b >= MIN_FORCE {
            self.cosines += got.iter().zip(&want).map(|(g, w)| g * w).sum::<f64>() / (a * b);
            self.n_cosines += 1;
        }
    }

    /// `None` if nothing was added.
    pub fn summary(&self) -> Option<ForceSummary> {
        let ErrorSummary { mae, rmse, max, n_frames, n_atoms } = self.components.summary()?;
        let n = self.components.n as f64;
        let variance = self.sum_squared - self.sum * self.sum / n;
        Some(ForceSummary {
            mae,
            rmse,
            max,
            r2: (variance > 0.0).then(|| 1.0 - self.components.squared / variance),
            cosine: (self.n_cosines > 0).then(|| self.cosines / self.n_cosines as f64),
            n_frames,
            n_atoms,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn errors_of_known_numbers() {
        let mut errors = Errors::default();
        assert!(errors.summary().is_none());
        for (got, want) in [(1.0, 0.0), (-2.0, 1.0), (5.0, 5.0)] {
            errors.add(got, want);
        }
        errors.count(3);
        let got = errors.summary().unwrap();
        assert_eq!((got.mae, got.max), (4.0 / 3.0, 3.0));
        assert_eq!((got.n_frames, got.n_atoms), (1, 3));
        approx::assert_relative_eq!(got.rmse, (10.0_f64 / 3.0).sqrt());
    }

    #[test]
    fn force_errors_of_known_vectors() {
        let mut errors = ForceErrors::default();
        errors.add([1.0, 0.0, 0.0], [0.0, 2.0, 0.0]);
        errors.add([0.0, 0.0, -1.0], [0.0, 0.0, -3.0]);
        errors.add([1.0, 0.0, 0.0], [0.0, 0.0, 0.0]);
        let got = errors.summary().unwrap();
        assert_eq!(got.cosine, Some(0.5));
        assert_eq!(got.mae, 6.0 / 9.0);
        // Σ e² = 1 + 4 + 4 + 1, Σ (w − mean)² = 13 − 1/9.
        approx::assert_relative_eq!(got.r2.unwrap(), 1.0 - 10.0 / (13.0 - 1.0 / 9.0));
    }

    #[test]
    fn perfect_predictions_have_r2_one() {
        let mut errors = ForceErrors::default();
        errors.add([1.0, -2.0, 3.0], [1.0, -2.0, 3.0]);
        let got = errors.summary().unwrap();
        assert_eq!((got.r2, got.max), (Some(1.0), 0.0));
        approx::assert_relative_eq!(got.cosine.unwrap(), 1.0);
    }
}
