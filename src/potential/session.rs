//! [`Session`]: one system, step after step.

#[cfg(feature = "cuda")]
mod on_gpu;
mod steps;

use std::sync::Arc;

use super::Potential;
use crate::batch::{Contacts, PackedBatch, Preparer, check_images};
use crate::engine::Evaluation;
use crate::engine::Results;
use crate::engine::adjoint::Crew;
use crate::engine::results::negative;
use crate::error::{Error, Result};
use crate::model::Outside;
use crate::model::limits::Limits;
use crate::neighbors::{Algorithm, NeighborList, NeighborSearch, translation};
use crate::settings::Want;
use crate::structure::{Mat3, Structure, Vec3, check_cell, complete_cell, displacement, dot, inverse, product, times};
use crate::threads;
#[cfg(feature = "cuda")]
pub(crate) use on_gpu::CudaStepper;
pub(crate) use steps::{Stepper, Steps};

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

/// What the last step that succeeded found. Apart from what a step works on, which one that fails leaves half done.
pub(crate) struct Last {
    /// The structure's own before the first step.
    cell: Option<Mat3>,
    atomic_energies: Vec<f64>,
    stress: Option<Mat3>,
    virial: Option<Mat3>,
    atomic_virials: Vec<Mat3>,
    outside: Outside,
}

/// What does not depend on the precision.
pub(crate) struct System {
    limits: Arc<Limits>,
    /// Whether atoms are closer now than what the model was trained on.
    contacts: Outside,
    /// Energy of all atoms if they were free, eV.
    references: f64,
    cutoff: f64,
    skin: f64,
    /// The system at the last search.
    reference: Structure,
    search: NeighborSearch,
    /// All pairs within cutoff + `list_skin` of the reference.
    list: NeighborList,
    /// The skin, or none where what is within it is more than a search can take.
    list_skin: f64,
    /// `shift · cell` of the list's edges, Å, for the cell at hand; empty for molecules.
    offsets: Vec<Vec3>,
    offsets_cell: Option<Mat3>,
    /// Number of each edge of the list in the batch.
    numbers: Vec<u32>,
    batch: PackedBatch,
    want: Want,
    /// Whether `list` is that of `reference`.
    is_searched: bool,
    n_searches: u64,
}

impl Potential {
    /// Starts a session for one system; its elements and periodic directions stay those of `structure`.
    ///
    /// # Errors
    /// As [`Potential::evaluate_one`].
    pub fn session(&self, structure: &Structure) -> Result<Session> {
        let steps = self.driver.clone().steps(&self.model, &self.cost_model)?;
        // Elements, shapes, periodicity.
        let mut batch = PackedBatch::default();
        Preparer::new(&self.model).describe(structure, &mut batch)?;
        let references = batch.references.iter().sum();
        let system = System {
            limits: self.model.limits().clone(),
            contacts: Outside::default(),
            references,
            cutoff: self.model.config().cutoff,
            skin: DEFAULT_SKIN,
            reference: structure.clone(),
            search: NeighborSearch::new(),
            list: NeighborList::default(),
            list_skin: 0.0,
            offsets: Vec::new(),
            offsets_cell: None,
            numbers: Vec::new(),
            batch,
            want: Want::FORCES,
            is_searched: false,
            n_searches: 0,
        };
        let last = Last {
            cell: structure.cell,
            atomic_energies: Vec::with_capacity(structure.n_atoms()),
            stress: None,
            virial: None,
            atomic_virials: Vec::new(),
            outside: Outside::NONE,
        };
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

impl Last {
    /// Keeps all but the forces; returns the energy, eV.
    pub fn take(&mut self, evaluation: Evaluation) -> f64 {
        let Evaluation { energy, atomic_energies, stress, virial, atomic_virials, outside, .. } = evaluation;
        (self.stress, self.virial, self.outside) = (stress, virial, outside);
        self.atomic_energies = atomic_energies;
        self.atomic_virials = atomic_virials.unwrap_or_default();
        energy
    }
}

impl System {
    /// The system at the positions and in the cell at hand.
    pub fn now(&self) -> Structure {
        let positions = self.batch.positions.clone();
        Structure { positions, cell: self.offsets_cell, ..self.reference.clone() }
    }

    /// What steps compute.
    pub fn want(&self) -> Want {
        self.want
    }

    /// Checks what an evaluation led to, and hands it on. Returns the energy.
    fn take_results(&self, results: &Results, forces: &mut [Vec3], last: &mut Last) -> Result<f64> {
        let refuse = |what: &str| Err(Error::NonFinite { what: what.into() });
        if !results.energies[0].is_finite() {
            return refuse("the energy");
        }
        if !results.gradients.iter().flatten().all(|x| x.is_finite()) {
            return refuse("a force");
        }
        if !results.strain_gradients.iter().flatten().flatten().all(|x| x.is_finite()) {
            return refuse(if self.want.stress { "the stress" } else { "the virial" });
        }
        let energy = results.energies[0];
        let outside = self.contacts
            | self.limits.energy(energy, self.references, self.batch.n_atoms())?
            | self.limits.forces(&results.gradients)?;
        for (force, gradient) in forces.iter_mut().zip(&results.gradients) {
            *force = gradient.map(|x| 0.0 - x);
        }
        last.atomic_energies.clear();
        last.atomic_energies.extend_from_slice(&results.atomic_energies);
        last.stress = results.stress(&self.batch, 0).filter(|_| self.want.stress);
        last.virial = results.virial(0).filter(|_| self.want.virial);
        last.atomic_virials.clear();
        if self.want.atomic_virials {
            last.atomic_virials.extend(results.virials.iter().map(negative));
        }
        last.outside = outside;
        Ok(energy)
    }

    /// Takes new positions and the cell to go with them. Refuses what an evaluation from nothing would.
    fn update(&mut self, positions: &[Vec3], cell: Option<Mat3>) -> Result<()> {
        // The cell at hand has passed; one with a NaN never equals it.
        let (pbc, is_new) = (self.reference.pbc, !self.is_searched || cell != self.offsets_cell);
        if is_new {
            check_images(positions.len(), cell.as_ref(), pbc)?;
        }
        if let Some((atom, r)) = positions.iter().enumerate().find(|(_, r)| !r.iter().all(|x| x.is_finite())) {
            return Err(Error::Structure(format!("position of atom {atom} is not finite: {r:?}")));
        }
        if is_new {
            check_cell(cell.as_ref(), pbc)?;
        }
        if !self.is_searched || self.is_stale(positions, cell.as_ref()) {
            self.search(positions, cell)?;
        }
        if cell != self.offsets_cell {
            self.set_cell(cell);
        }
        self.batch.positions.copy_from_slice(positions);
        Ok(())
    }

    /// Whether a pair within the cutoff may be missing from the list.
    ///
    /// With the cell's deformation F since the search, a pair was at r·F⁻¹ then, up to the two atoms' own
    /// displacements: it is in the list if ‖F⁻¹‖ (cutoff + 2 δ) ≤ cutoff + skin.
    fn is_stale(&self, positions: &[Vec3], cell: Option<&Mat3>) -> bool {
        let (mut deformation, mut stretch) = (None, 1.0);
        if let (true, Some(now), Some(then)) = (self.reference.is_periodic(), cell, &self.reference.cell)
            && now != then
        {
            let (now, then) = (complete_cell(now, self.reference.pbc), complete_cell(then, self.reference.pbc));
            deformation = Some(product(&inverse(&then), &now));
            stretch = norm_bound(&product(&inverse(&now), &then));
        }
        let moved = |(r, from): (&Vec3, &Vec3)| -> f64 {
            let from = deformation.as_ref().map_or(*from, |f| times(*from, f));
            let d: Vec3 = std::array::from_fn(|k| r[k] - from[k]);
            dot(d, d)
        };
        let farthest = positions.iter().zip(&self.reference.positions).map(moved).fold(0.0, f64::max).sqrt();
        if farthest == 0.0 && stretch == 1.0 {
            return false;
        }
        // A little less than the skin, against rounding. NaN, from a cell that cannot be inverted, counts as stale.
        let holds = stretch * (self.cutoff + 2.0 * farthest) < (self.cutoff + self.list_skin) * (1.0 - 1e-12);
        !holds
    }

    fn search(&mut self, positions: &[Vec3], cell: Option<Mat3>) -> Result<()> {
        self.is_searched = false;
        self.reference.positions.copy_from_slice(positions);
        self.reference.cell = cell;
        self.list_skin = self.skin;
        // Positions and cell have passed `update`, all else does not change.
        let (search, auto) = (&mut self.search, Algorithm::Auto);
        if search.search_valid(auto, &self.reference, self.cutoff + self.skin, &mut self.list).is_err() {
            // What an evaluation from nothing says counts: it looks no farther than the cutoff.
            self.list_skin = 0.0;
            search.search_valid(auto, &self.reference, self.cutoff, &mut self.list)?;
        }
        self.set_cell(cell);
        self.numbers.resize(self.list.n_edges(), 0);
        self.is_searched = true;
        self.n_searches += 1;
        Ok(())
    }

    /// Puts the list into a cell that has been checked.
    fn set_cell(&mut self, cell: Option<Mat3>) {
        self.offsets.clear();
        if let (true, Some(cell)) = (self.reference.is_periodic(), cell) {
            self.offsets.extend(self.list.shifts.iter().map(|&s| translation(s, &cell)));
        }
        let volume = Structure { cell, atomic_numbers: vec![], positions: vec![], ..self.reference }.volume();
        self.batch.volumes[0] = volume;
        self.offsets_cell = cell;
    }

    /// Fills the batch with the list's edges that are within the cutoff now.
    fn take_edges(&mut self) -> Result<()> {
        let (list, offsets, numbers) = (&self.list, &self.offsets, &mut self.numbers);
        // Out of the way of the edges that are written beside them.
        let positions = std::mem::take(&mut self.batch.positions);
        let taken = Self::edges_within(&positions, self.cutoff, &self.limits, list, offsets, numbers, &mut self.batch);
        self.batch.positions = positions;
        self.contacts = taken?;
        Ok(())
    }

    /// What [`take_edges`](System::take_edges) does; returns whether atoms are closer than what the model was trained on.
    fn edges_within(
        positions: &[Vec3],
        cutoff: f64,
        limits: &Limits,
        list: &NeighborList,
        offsets: &[Vec3],
        numbers: &mut [u32],
        batch: &mut PackedBatch,
    ) -> Result<Outside> {
        let mut edges = batch.start_edges(list.n_edges(), !offsets.is_empty());
        let limit = cutoff * cutoff;
        let mut contacts = Contacts::new(limits);
        for i in 0..positions.len() {
            for e in list.edges_of(i) {
                let j = list.senders[e] as usize;
                let r = displacement(&positions[i], &positions[j], offsets.get(e));
                let square = dot(r, r);
                if square <= limit {
                    if square < contacts.nearest() {
                        contacts.look([i, j], edges.rows([i, j]), square)?;
                    }
                    numbers[e] = edges.push(list.senders[e], list.reverse_edge[e], offsets.get(e));
                } else {
                    numbers[e] = u32::MAX;
                }
            }
            edges.close_row();
        }
        // Both edges of a pair have the same length, so neither is there without the other.
        edges.renumber_reverse(numbers);
        contacts.outside()
    }
}

/// A bound of the spectral norm, exactly one for the identity: √(‖m‖₁ ‖m‖∞).
fn norm_bound(m: &Mat3) -> f64 {
    let rows = m.iter().map(|row| row.iter().map(|x| x.abs()).sum::<f64>()).fold(0.0, f64::max);
    let columns = (0..3).map(|k| m.iter().map(|row| row[k].abs()).sum::<f64>()).fold(0.0, f64::max);
    (rows * columns).sqrt()
}

#[cfg(test)]
mod tests {
    use std::panic::{AssertUnwindSafe, catch_unwind};
    use std::sync::atomic::Ordering;

    use super::*;

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
