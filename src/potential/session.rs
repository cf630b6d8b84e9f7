//! [`Session`]: one system, step after step.

#[cfg(feature = "cuda")]
mod on_gpu;
mod steps;
mod system;

use super::Potential;
use crate::engine::adjoint::Crew;
use crate::error::{Error, Result};
use crate::model::Outside;
use crate::neighbors::NeighborSearch;
use crate::structure::{Mat3, Structure, Vec3};
use crate::threads;
#[cfg(feature = "cuda")]
pub(crate) use on_gpu::CudaStepper;
pub(crate) use steps::{Stepper, Steps};
pub(crate) use system::{Last, System};

/// Skin of the neighbour list unless [`Session::with_skin`] says otherwise, Å.
pub const DEFAULT_SKIN: f64 = 0.5;

/// Atoms for which another thread pays: below, waiting for each other costs more than the work saved.
const ATOMS_PER_THREAD: usize = 8;

/// One system evaluated step after step, as molecular dynamics and minimisers need it.
///
/// Keeps the neighbour list (a Verlet list with a skin, searched anew before it could miss a pair), the batch and all
/// buffers: after the first step nothing is allocated as long as the number of neighbours does not grow much. Results
/// are those of [`Potential::evaluate_one`], bit for bit. `Send`, so that it can be moved to the thread that steps.
///
/// A step that fails changes nothing that can be seen: the cell, [`stress`](Session::stress) and
/// [`atomic_energies`](Session::atomic_energies) stay those of the last step that succeeded, and the next step is what it
/// would have been. (Neighbours may be searched once more.) So it is after a panic, which only a defect of this crate can
/// cause, on whichever thread, and which comes out of [`compute`](Session::compute).
///
/// In a process made by `fork` a session goes on with one thread; [`with_threads`](Session::with_threads) starts others.
///
/// Batched autograd, which keeps nothing from call to call, evaluates each step from nothing: the same results, and neither
/// its speed nor its memory.
///
/// A session of 36 atoms takes about 1.5 MB. Programs that make and drop hundreds of them will see much of that stay with
/// the process: glibc's allocator keeps small pieces for the next ones, which take them up again.
///
/// ```
/// use mlff::{Potential, Structure};
///
/// let water = Structure::molecule(vec![8, 1, 1], vec![[0.0, 0.0, 0.119], [0.0, 0.763, -0.477], [0.0, -0.763, -0.477]])?;
/// let mut session = Potential::load("ani2x-painn-64")?.session(&water)?;
///
/// let mut positions = water.positions.clone();
/// let mut forces = vec![[0.0; 3]; 3];
/// for _ in 0..10 {
///     let energy = session.compute(&positions, None, &mut forces)?;
///     for (r, f) in positions.iter_mut().zip(&forces) {
///         for k in 0..3 {
///             r[k] += 0.005 * f[k]; // downhill
///         }
///     }
///     # let _ = energy;
/// }
/// # Ok::<(), mlff::Error>(())
/// ```
pub struct Session {
    steps: Box<dyn Steps>,
    crew: Option<Crew>,
    system: System,
    last: Last,
    /// Whether a step has begun and not ended: by a panic, if another one begins.
    in_step: bool,
}

impl std::fmt::Debug for Session {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Session")
            .field("n_atoms", &self.system.batch.n_atoms())
            .field("n_threads", &self.n_threads())
            .field("n_searches", &self.n_searches())
            .finish_non_exhaustive()
    }
}

impl Potential {
    /// Starts a session for one system; its elements and periodic directions stay those of `structure`.
    ///
    /// # Errors
    /// As [`Potential::evaluate_one`].
    pub fn session(&self, structure: &Structure) -> Result<Session> {
        let steps = self.driver.clone().steps(&self.model, &self.cost_model)?;
        let system = System::new(&self.model, structure, DEFAULT_SKIN)?;
        let last = Last::new(structure);
        let most = if steps.takes_crew() { threads::n_cores() } else { 1 };
        let n_threads = most.min(structure.n_atoms() / ATOMS_PER_THREAD).max(1);
        // Nobody asked for helpers: where there are none to be had, one thread does it.
        let crew = (n_threads > 1).then(|| Crew::new(n_threads - 1).ok()).flatten();
        Ok(Session { steps, crew, system, last, in_step: false })
    }
}

impl Session {
    /// Chooses how far beyond the cutoff neighbours are kept, Å: a larger skin is searched less often, but every step
    /// looks at more pairs.
    ///
    /// # Errors
    /// `Error::Usage` for a skin that is negative or not finite.
    pub fn with_skin(mut self, skin: f64) -> Result<Self> {
        if !(skin.is_finite() && skin >= 0.0) {
            return Err(Error::Usage(format!("skin is {skin} Å, expected 0 or more")));
        }
        self.system.skin = skin;
        self.system.is_searched = false;
        Ok(self)
    }

    /// Chooses how many threads share a step; they wait for work between steps, so one that is busy elsewhere is
    /// better left out. Without a choice: one for every 8 atoms, as far as there are cores, and the calling one alone where
    /// the system has none to give. Steps of batched autograd and of a GPU are shared by none of them.
    ///
    /// # Errors
    /// `Error::Usage` if the system cannot start them, or for far more than there are cores.
    pub fn with_threads(mut self, n_threads: usize) -> Result<Self> {
        threads::check(n_threads)?;
        self.crew = None;
        if n_threads > 1 && self.steps.takes_crew() {
            let refused = |e| Error::Usage(format!("{n_threads} threads cannot be started: {e}"));
            self.crew = Some(Crew::new(n_threads - 1).map_err(refused)?);
        }
        Ok(self)
    }

    /// Threads that share a step, the caller's included.
    pub fn n_threads(&self) -> usize {
        self.crew.as_ref().filter(|crew| crew.is_alive()).map_or(1, Crew::n_threads)
    }

    /// Chooses whether steps compute the stress, which [`Session::stress`] then has.
    #[must_use]
    pub fn with_stress(mut self, stress: bool) -> Self {
        self.system.want.stress = stress;
        self
    }

    /// Chooses whether steps compute the virial, which [`Session::virial`] then has.
    #[must_use]
    pub fn with_virial(mut self, virial: bool) -> Self {
        self.system.want.virial = virial;
        self
    }

    /// Chooses whether steps compute each atom's share of the virial, which [`Session::atomic_virials`] then has.
    #[must_use]
    pub fn with_atomic_virials(mut self, atomic_virials: bool) -> Self {
        self.system.want.atomic_virials = atomic_virials;
        self
    }

    /// Evaluates the system.
    ///
    /// IN  `positions` (Å) `[n_atoms]`; `cell` (Å, rows are lattice vectors), or `None` for that of the last step that
    ///     succeeded, before the first the structure's own.
    /// OUT `forces` (eV/Å) `[n_atoms]`, overwritten; left as they were when an error is returned.
    /// Returns the energy, eV.
    ///
    /// # Errors
    /// `Error::Shape` for slices of the wrong length, `Error::Structure` for positions or a cell that cannot be used,
    /// `Error::Overlap` for atoms on top of each other, `Error::OutOfRange` for structures and results that are far outside of
    /// what the model was trained on, `Error::NonFinite` if a result is not a number. They are those of
    /// [`Potential::evaluate_one`], and leave the session as it was.
    pub fn compute(&mut self, positions: &[Vec3], cell: Option<&Mat3>, forces: &mut [Vec3]) -> Result<f64> {
        let n_atoms = self.system.batch.n_atoms();
        for (what, got) in [("positions", positions.len()), ("forces", forces.len())] {
            if got != n_atoms {
                return Err(Error::Shape { what: what.into(), expected: vec![n_atoms, 3], got: vec![got, 3] });
            }
        }
        if self.in_step {
            self.start_anew();
        }
        if self.crew.as_ref().is_some_and(|crew| !crew.is_alive()) {
            self.crew = None;
        }
        self.in_step = true;
        let outcome = self.step(positions, cell.copied().or(self.last.cell), forces);
        self.in_step = false;
        outcome
    }

    fn step(&mut self, positions: &[Vec3], cell: Option<Mat3>, forces: &mut [Vec3]) -> Result<f64> {
        self.system.update(positions, cell)?;
        let (system, crew, last) = (&mut self.system, self.crew.as_mut(), &mut self.last);
        let energy = self.steps.step(system, crew, forces, last)?;
        self.last.cell = cell;
        Ok(energy)
    }

    /// Leaves what a panic may have left half done.
    #[cold]
    fn start_anew(&mut self) {
        self.steps.start_anew();
        self.system.search = NeighborSearch::new();
        self.system.is_searched = false;
    }

    /// In which ways the last step that succeeded lies outside of what the model was trained on: a driver does well to look at
    /// it now and then.
    pub fn outside(&self) -> Outside {
        self.last.outside
    }

    /// Stress of the last step that succeeded, eV/Å³: with [`Session::with_stress`], for systems periodic in three directions.
    pub fn stress(&self) -> Option<Mat3> {
        self.last.stress
    }

    /// Virial of the last step that succeeded, eV, minus the derivative along a symmetric strain: with
    /// [`Session::with_virial`], for molecules too.
    pub fn virial(&self) -> Option<Mat3> {
        self.last.virial
    }

    /// Share of each atom in the virial of the last step that succeeded, eV, `[n_atoms]`: of each of its pairs half, the
    /// product of displacement and force. Empty before the first step, and without [`Session::with_atomic_virials`].
    pub fn atomic_virials(&self) -> &[Mat3] {
        &self.last.atomic_virials
    }

    /// Energy of each atom in the last step that succeeded, eV; empty before the first.
    pub fn atomic_energies(&self) -> &[f64] {
        &self.last.atomic_energies
    }

    /// How often neighbours have been searched.
    pub fn n_searches(&self) -> u64 {
        self.system.n_searches
    }
}

#[cfg(test)]
mod tests {
    use std::panic::{AssertUnwindSafe, catch_unwind};
    use std::sync::atomic::Ordering;

    use super::*;
    use crate::settings::Want;

    /// Waters in a row, enough for several tiles.
    fn waters(n: usize) -> Structure {
        let water = [[0.0, 0.0, 0.119], [0.0, 0.763, -0.477], [0.0, -0.763, -0.477]];
        let positions = (0..n).flat_map(|k| water.map(|r| [r[0] + 2.9 * k as f64, r[1], r[2]])).collect();
        let cell = [[2.9 * n as f64, 0.0, 0.0], [0.0, 9.0, 0.0], [0.0, 0.0, 9.0]];
        Structure::new([8, 1, 1].repeat(n), positions, Some(cell), [true; 3]).unwrap()
    }

    #[test]
    fn session_hands_on_the_panic_of_a_helper_and_can_be_used_again() {
        let structure = waters(8);
        let potential = Potential::load("ani2x-painn-64").unwrap();
        let want = potential.evaluate_one(&structure, Want::ALL).unwrap();
        let mut session = potential.session(&structure).unwrap().with_threads(2).unwrap().with_stress(true);
        let helpers_fail = potential.driver.helpers_fail().unwrap();
        let mut forces = vec![[0.0; 3]; structure.n_atoms()];
        let mut moved = structure.positions.clone();
        moved[0][2] += 0.05;
        for round in 0..5 {
            if round > 0 {
                assert_eq!(session.compute(&structure.positions, None, &mut forces).unwrap(), want.energy);
                assert_eq!(&forces, want.forces.as_ref().unwrap());
            }
            helpers_fail.store(true, Ordering::SeqCst);
            let untouched = forces.clone();
            let outcome = catch_unwind(AssertUnwindSafe(|| session.compute(&moved, None, &mut forces)));
            assert!(outcome.is_err(), "round {round}: {outcome:?}");
            assert_eq!(forces, untouched);
            if round > 0 {
                assert_eq!((session.atomic_energies(), session.stress()), (&want.atomic_energies[..], want.stress));
            }
        }
        // Nor is anything left behind by the panic for what comes after.
        let other =
            potential.evaluate_one(&Structure { positions: moved.clone(), ..structure.clone() }, Want::ALL).unwrap();
        assert_eq!(session.compute(&moved, None, &mut forces).unwrap(), other.energy);
        assert_eq!((&forces, session.stress()), (other.forces.as_ref().unwrap(), other.stress));
    }

    #[test]
    fn session_of_default_threads_runs_where_there_are_none() {
        let structure = waters(8);
        let potential = Potential::load("ani2x-painn-64").unwrap();
        let session = potential.session(&structure).unwrap();
        assert_eq!(session.n_threads(), threads::n_cores().min(3));
        assert_eq!(session.with_threads(1).unwrap().n_threads(), 1);
        let refused = potential.session(&structure).unwrap().with_threads(threads::most() + 1).unwrap_err();
        assert!(matches!(&refused, Error::Usage(reason) if reason.contains("cores")), "{refused}");
    }
}
