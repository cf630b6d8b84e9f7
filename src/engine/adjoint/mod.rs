//! The adjoint engine: a model's operations in a fixed list and their mirror, by hand, over packed batches.
//!
//! No tape, and no allocation once the workspace has grown. An atom's state between two messages depends on nothing but its
//! own, so a *tile* of atoms goes from one message to the next while it is in the cache; only messages read other
//! tiles. Every number is computed in the same order whatever the tile, the batch and the number of threads, so results are
//! the same bits.
//!
//! `painn` is the list of one architecture. What any would use stands beside it: tiles and groups of atoms (`tiles`), their
//! pairs (`pairs`), arrays that threads share (`shared`), the threads (`crew`), who does what (`schedule`, `tickets`).

mod crew;
mod painn;
mod pairs;
mod schedule;
mod shared;
mod tickets;
mod tiles;
mod training;

use pulp::{Arch, Simd, WithSimd};

use crate::batch::PackedBatch;
use crate::clock::{Component, enter};
use crate::cpu::lanes::Lanes;
use crate::error::{Error, Result};
use crate::model::Model;
use crate::model::config::Architecture;
use crate::model::painn::Painn;
use crate::settings::Want;
pub use crew::Crew;
pub use painn::WeightSums;
pub use painn::Workspace;
use painn::{PainnStages, Weights};
pub use schedule::Threads;
pub use training::{Trainable, TrainingBuffers};

/// How filters are evaluated.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum FilterKind {
    /// f32: B-splines; f64: the radial basis.
    #[default]
    Auto,
    /// The radial basis times its weights.
    Basis,
    /// B-splines, if a table of them reaches the required accuracy.
    Table,
}

/// Vector instructions to use.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Instructions {
    /// The widest that this processor has: AVX-512, AVX2, NEON, or those that every processor of its kind has.
    #[default]
    Widest,
    /// AVX2 with fused multiply-add; [`Widest`](Instructions::Widest) where there is no AVX-512, which it replaces.
    Avx2,
    /// Those that every processor of its kind has.
    Portable,
}

impl Instructions {
    fn arch(self) -> Arch {
        match self {
            Instructions::Widest => Arch::new(),
            #[cfg(any(target_arch = "x86", target_arch = "x86_64"))]
            Instructions::Avx2 => pulp::x86::V3::try_new().map_or_else(Arch::new, Arch::V3),
            #[cfg(not(any(target_arch = "x86", target_arch = "x86_64")))]
            Instructions::Avx2 => Arch::new(),
            Instructions::Portable => Arch::Scalar,
        }
    }
}

/// A PaiNN ready to be evaluated, in f32 or f64.
pub struct Adjoint<T> {
    arch: Arch,
    weights: Weights<T>,
    energy_scale: f64,
    /// Lets the tasks of helpers panic.
    #[cfg(test)]
    pub(crate) helpers_fail: std::sync::atomic::AtomicBool,
}

impl<T> std::fmt::Debug for Adjoint<T> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Adjoint")
            .field("arch", &self.arch)
            .field("energy_scale", &self.energy_scale)
            .finish_non_exhaustive()
    }
}

impl<T: Lanes> Adjoint<T> {
    /// Packs a model's weights for this processor.
    ///
    /// # Errors
    /// `Error::Usage` if the model is not a PaiNN.
    pub fn new(model: &Model, filters: FilterKind) -> Result<Self> {
        Self::with_instructions(model, filters, Instructions::Widest)
    }

    /// Packs a model's weights for the vector instructions given; for tests and comparisons.
    ///
    /// # Errors
    /// As [`Adjoint::new`].
    pub fn with_instructions(model: &Model, filters: FilterKind, instructions: Instructions) -> Result<Self> {
        let config = model.config();
        let Architecture::Painn(painn) = &config.architecture else {
            return Err(Error::Usage(format!(
                "the adjoint engine evaluates PaiNN only, not {}; use the autograd engine",
                config.architecture_name()
            )));
        };
        let painn = Painn::new(config, painn, model.weights())?;
        let exact = match filters {
            FilterKind::Auto => size_of::<T>() > 4,
            FilterKind::Basis => true,
            FilterKind::Table => false,
        };
        let arch = instructions.arch();
        let weights = arch.dispatch(Pack { painn: &painn, exact });
        Ok(Self::from_parts(arch, weights, config.energy_scale))
    }

    fn from_parts(arch: Arch, weights: Weights<T>, energy_scale: f64) -> Self {
        Adjoint {
            arch,
            weights,
            energy_scale,
            #[cfg(test)]
            helpers_fail: false.into(),
        }
    }

    /// Evaluates a batch; results stand in the workspace.
    ///
    /// A panic of any thread, which only a defect of this crate can cause, comes out of here. The workspace can be used again
    /// afterwards.
    ///
    /// # Errors
    /// `Error::Usage` for a batch that was prepared for another model.
    pub fn evaluate(
        &self,
        batch: &PackedBatch,
        want: Want,
        threads: Threads,
        workspace: &mut Workspace<T>,
    ) -> Result<()> {
        // Its edges were checked when they were put there.
        batch.check(self.weights.n_species(), false)?;
        let virials = want.needs_virials(batch.volumes.iter().any(Option::is_some));
        let (n_atoms, n_threads) = (batch.n_atoms(), threads.count());
        let tile = tiles::tile_size(n_atoms, n_threads);
        enter(Component::Batch);
        workspace.begin();
        workspace.resize(&self.weights, batch, tile, n_threads, want.gradient(), virials);
        self.run(batch, want, threads, workspace);
        workspace.end();
        enter(Component::Results);
        workspace.results.collect(batch);
        Ok(())
    }

    /// Radial functions that are evaluated for a pair.
    pub fn radial_window(&self) -> usize {
        self.weights.radial.window()
    }

    /// Makes room for batches of the same atoms with up to `n_edges` edges.
    pub fn reserve(&self, batch: &PackedBatch, n_edges: usize, workspace: &mut Workspace<T>) {
        workspace.reserve(&self.weights, batch.n_atoms(), n_edges);
    }

    fn run(&self, batch: &PackedBatch, want: Want, threads: Threads, workspace: &mut Workspace<T>) {
        let n_tiles = workspace.n_tiles();
        let (list, scratch) = PainnStages::new(&self.weights, self.energy_scale, batch, want, workspace);
        threads.run(self.arch, &list, n_tiles, scratch, |thread| self.fail_where_asked(thread));
    }

    #[cfg(not(test))]
    #[inline(always)]
    fn fail_where_asked(&self, _thread: usize) {}

    /// Panics in a helper; its caller waits for one to come.
    #[cfg(test)]
    fn fail_where_asked(&self, thread: usize) {
        use std::sync::atomic::Ordering;
        assert!(thread == 0 || !self.helpers_fail.swap(false, Ordering::SeqCst), "a defect in a helper's task");
        while thread == 0 && self.helpers_fail.load(Ordering::SeqCst) {
            std::thread::yield_now();
        }
    }
}

struct Pack<'a, T> {
    painn: &'a Painn<T>,
    exact: bool,
}

impl<T: Lanes> WithSimd for Pack<'_, T> {
    type Output = Weights<T>;

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) -> Weights<T> {
        Weights::new(simd, self.painn, self.exact)
    }
}
