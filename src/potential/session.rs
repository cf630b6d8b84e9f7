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

/// Default [skin](Session::with_skin) of the neighbour list of a session, Å.
pub const DEFAULT_SKIN: f64 = 0.5;

/// Atoms for which another thread pays: below, waiting for each other costs more than the work saved.
const ATOMS_PER_THREAD: usize = 8;

/// One system that is evaluated step after step, as in molecular dynamics or a minimisation. It is made by
/// [`Potential::session`].
///
/// A session keeps the neighbour list and all buffers. The list reaches farther than the cutoff, by a *skin*, and is
/// searched again before a pair could be missing (a Verlet list). After the first step no memory is allocated, unless
/// the number of neighbours grows much. Results are the same as those of [`Potential::evaluate_one`], bit for bit. A
/// session is `Send`: it can be moved to the thread that makes the steps.
///
/// Steps compute energies and forces; [`with_stress`](Session::with_stress), [`with_virial`](Session::with_virial) and
/// [`with_atomic_virials`](Session::with_atomic_virials) add to them.
///
/// # Failures
///
/// A step that fails leaves the session as it was: the cell, [`stress`](Session::stress),
/// [`atomic_energies`](Session::atomic_energies) and all else are still those of the last step that succeeded, and the
/// next step gives the same results as without the failure. Only [`n_searches`](Session::n_searches) may differ. The
/// same is true after a panic, which only a bug in this crate can cause; a panic of any thread comes out of
/// [`compute`](Session::compute).
///
/// # Processes, engines and memory
///
/// In a process made by `fork`, a session continues with one thread; [`with_threads`](Session::with_threads) starts
/// others. A session on a GPU cannot be used there.
///
/// Batched autograd keeps nothing from step to step: it gives the same results, but without the speed described here.
///
/// A session of 36 atoms takes about 1.5 MB. If a program makes and drops hundreds of them, much of that memory stays
/// with the process: glibc's allocator keeps small pieces, and uses them again for the next sessions.
///
/// # Example
///
/// ```
/// use mlff::{Potential, Structure};
///
/// let positions = vec![[0.0, 0.0, 0.119], [0.0, 0.763, -0.477], [0.0, -0.763, -0.477]];
/// let water = Structure::molecule(vec![8, 1, 1], positions)?;
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
    /// Starts a session for one system. Its elements, its charge and its periodic directions stay those of `structure`;
    /// positions and cell may change in each step. Nothing is evaluated yet.
    ///
    /// # Errors
    /// `Error::Structure`, `Error::Shape`, `Error::UnknownElement` and `Error::ChargeOrSpin`, as
    /// [`Potential::evaluate`]; `Error::Cuda` if the GPU fails.
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
    /// Chooses how far the neighbour list reaches beyond the cutoff, Å; [`DEFAULT_SKIN`] by default. With a larger skin
    /// neighbours are searched less often, but every step looks at more pairs.
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

    /// Chooses how many threads, the calling one included, share a step. Between steps the others watch for work for a
    /// while before they sleep, so cores that have other work are better left out.
    ///
    /// By default there is one thread for every 8 atoms, but not more than there are cores, and only the calling thread
    /// if the system cannot start others. The choice has no effect with batched autograd or on a GPU.
    ///
    /// # Errors
    /// `Error::Usage` if the system cannot start the threads, or if there are far more of them than cores.
    pub fn with_threads(mut self, n_threads: usize) -> Result<Self> {
        threads::check(n_threads)?;
        self.crew = None;
        if n_threads > 1 && self.steps.takes_crew() {
            let refused = |e| Error::Usage(format!("{n_threads} threads cannot be started: {e}"));
            self.crew = Some(Crew::new(n_threads - 1).map_err(refused)?);
        }
        Ok(self)
    }

    /// Number of threads that share a step, the calling one included.
    pub fn n_threads(&self) -> usize {
        self.crew.as_ref().filter(|crew| crew.is_alive()).map_or(1, Crew::n_threads)
    }

    /// Chooses whether steps compute the stress, for [`Session::stress`]. By default they do not.
    #[must_use]
    pub fn with_stress(mut self, stress: bool) -> Self {
        self.system.want.stress = stress;
        self
    }

    /// Chooses whether steps compute the virial, for [`Session::virial`]. By default they do not.
    #[must_use]
    pub fn with_virial(mut self, virial: bool) -> Self {
        self.system.want.virial = virial;
        self
    }

    /// Chooses whether steps compute each atom's share of the virial, for [`Session::atomic_virials`]. By default they
    /// do not. With batched autograd, which does not have them, every step returns `Error::Usage`.
    #[must_use]
    pub fn with_atomic_virials(mut self, atomic_virials: bool) -> Self {
        self.system.want.atomic_virials = atomic_virials;
        self
    }

    /// Makes a step: evaluates the system at these positions, returns its energy (eV) and writes the forces.
    ///
    /// * `positions`: Å, `[n_atoms]`.
    /// * `cell`: Å, the rows are the lattice vectors. `None` keeps the cell of the last step that succeeded, or, before
    ///   the first step, that of the structure.
    /// * `forces`: eV/Å, `[n_atoms]`, overwritten. If an error is returned, they are left as they were.
    ///
    /// # Errors
    /// `Error::Shape` for slices of the wrong length. Otherwise the errors are those of [`Potential::evaluate`]:
    /// `Error::Structure` for positions or a cell that cannot be used, `Error::Overlap` for atoms on top of each other,
    /// `Error::OutOfRange` for a structure or a result that is far outside of what the model was trained on,
    /// `Error::NonFinite` for a result that is not a number, and what the engine or the device reports. All of them
    /// leave the session as it was.
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

    /// In which ways the last step that succeeded lies outside of what the model was trained on. Drivers should look at
    /// this now and then.
    pub fn outside(&self) -> Outside {
        self.last.outside
    }

    /// Stress of the last step that succeeded, eV/Å³, positive under tension. `None` without [`Session::with_stress`],
    /// before the first step, and for systems that are not periodic in three directions.
    pub fn stress(&self) -> Option<Mat3> {
        self.last.stress
    }

    /// Virial of the last step that succeeded, eV: minus the derivative of the energy with respect to a symmetric
    /// strain, for molecules too. `None` without [`Session::with_virial`] and before the first step.
    pub fn virial(&self) -> Option<Mat3> {
        self.last.virial
    }

    /// Share of each atom in the virial of the last step that succeeded, eV, `[n_atoms]`; see
    /// [`Evaluation::atomic_virials`](crate::Evaluation::atomic_virials). Empty without
    /// [`Session::with_atomic_virials`] and before the first step.
    pub fn atomic_virials(&self) -> &[Mat3] {
        &self.last.atomic_virials
    }

    /// Energy of each atom in the last step that succeeded, eV, `[n_atoms]`; empty before the first step.
    pub fn atomic_energies(&self) -> &[f64] {
        &self.last.atomic_energies
    }

    /// How often neighbours have been searched so far. A number that grows in most steps calls for a larger skin.
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
