//! The adjoint engine on CUDA: PaiNN's operations in a fixed list and their mirror, over packed batches.
//!
//! ```text
//! edges → [message, update with the next context] × L → readout and its VJP
//!       → [update_vjp with the context's, message_vjp] × L reversed → gradients
//! ```
//!
//! Two kernels a layer and direction, compiled for the model at hand: `message` walks edges, `update` carries a tile of atoms
//! through everything between two messages (`kernels/adjoint`). An evaluation is one copy to the device, the list, one copy
//! back; its arrays stand in one piece of memory that is kept. Every number is summed by one thread in one order, so
//! results are the same bits for any batch and on every run.

mod arrays;
mod launches;
mod list;
mod shape;
mod weights;

use std::sync::Arc;

use super::results::Results;
use crate::batch::PackedBatch;
use crate::clock::{Component, enter};
use crate::cuda::{Address, Arg, Backend, HostMemory, Launch, Limits};
use crate::error::{Error, Result};
use crate::model::painn::Painn;
use crate::ops::Real;
use crate::settings::Want;
use crate::structure::Mat3;
use arrays::{Layout, Sizes, at};
use list::ListArrays;
use shape::Shape;
pub use shape::{Tiling, Tuning};
use weights::Weights;

/// Type of a network on a device.
pub trait Scalar: Real + bytemuck::Pod {
    /// Its name in C++.
    const NAME: &'static str;
    /// As an argument of a kernel.
    fn arg(self) -> Arg;
}

impl Scalar for f32 {
    const NAME: &'static str = "float";
    fn arg(self) -> Arg {
        Arg::from(self)
    }
}

impl Scalar for f64 {
    const NAME: &'static str = "double";
    fn arg(self) -> Arg {
        Arg::from(self)
    }
}

/// A PaiNN packed for a kind of device: what all workers share.
#[derive(Debug)]
pub struct Plan<T> {
    shape: Shape,
    /// For few atoms.
    few: Option<Shape>,
    n_species: usize,
    nearest: Vec<f64>,
    weights: Weights<T>,
    limits: Limits,
    cutoff: f64,
    epsilon: f64,
    energy_scale: f64,
    by_pairs: Option<bool>,
}

impl<T: Scalar> Plan<T> {
    /// Packs a model; choices are made where `tuning` does not. `nearest` `[n_species, n_species]`, Å²: squares of the distances
    /// below which a pair of atoms marks its structure.
    ///
    /// # Errors
    /// `Error::Cuda` if the model is too wide for the device.
    pub fn new(painn: &Painn<T>, energy_scale: f64, nearest: &[f64], limits: Limits, tuning: Tuning) -> Result<Self> {
        let n_species = painn.embedding.len() / painn.n_features;
        if nearest.len() != n_species * n_species {
            let (expected, got) = (vec![n_species; 2], vec![nearest.len()]);
            return Err(Error::Shape { what: "nearest".into(), expected, got });
        }
        let nearest = nearest.to_vec();
        let shape = Shape::new(painn, limits, tuning)?;
        let weights = Weights::new(painn, &shape);
        let (cutoff, epsilon, by_pairs) = (painn.cutoff, painn.epsilon, tuning.by_pairs);
        Ok(Plan {
            few: shape.for_few(limits, tuning),
            shape,
            n_species,
            nearest,
            weights,
            limits,
            cutoff,
            epsilon,
            energy_scale,
            by_pairs,
        })
    }

    /// The programs that a backend must have.
    pub fn sources(&self) -> Vec<crate::cuda::KernelSource> {
        self.shape.sources(self.few.as_ref())
    }

    /// Atoms of the largest molecules whose messages can go pair by pair, which takes half the filters.
    pub fn pairs_atoms(&self) -> usize {
        // Three blocks a multiprocessor.
        self.limits.shared_bytes as usize * 3 / 10 / self.shape.pairs_bytes(1, true)
    }

    /// Bytes of the device that an atom takes, but for its edges.
    pub fn bytes_per_atom(&self) -> usize {
        self.bytes(1, 0)
    }

    /// Bytes of the device that an edge takes.
    pub fn bytes_per_edge(&self) -> usize {
        self.bytes(0, 1 << 10) >> 10
    }

    fn bytes(&self, n_atoms: usize, n_edges: usize) -> usize {
        let sizes = Sizes {
            n_structures: 0,
            n_atoms,
            max_atoms: 0,
            n_edges,
            edges_given: true,
            periodic: true,
            listed: false,
            virials: true,
        };
        self.layout(&sizes).n_bytes
    }

    fn layout(&self, sizes: &Sizes) -> Layout {
        let tiles = self.shape.feature_tiles();
        Layout::new(sizes, self.shape.n, self.weights.layers.len(), tiles, size_of::<T>())
    }
}

/// Where a batch's edges come from.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum EdgeSource {
    /// The batch has them.
    Given,
    /// The device finds them, every atom of a structure against every other: for small structures without periodicity.
    /// Structures with a pair of atoms that is nearer than the plan's `nearest` says are marked.
    Search,
    /// They are those of the list that [`Worker::set_list`] left on the device that are within the cutoff. The batch has one
    /// structure, the list's.
    Listed {
        /// Lattice vectors that the list's shifts count, Å; anything where nothing is periodic.
        cell: Mat3,
    },
}

/// A backend with weights and memory: what evaluates one batch at a time.
pub struct Worker<T, B: Backend> {
    plan: Arc<Plan<T>>,
    backend: B,
    weights: Address,
    nearest: Address,
    memory: Memory,
    list: ListArrays,
    inputs: Staging,
    outputs: Staging,
    /// Results of the batch evaluated last.
    pub results: Results,
    /// Structures of that batch with atoms that are near each other, where the device searched.
    pub close: Vec<bool>,
}

impl<T, B: Backend> std::fmt::Debug for Worker<T, B> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Worker").field("memory", &self.memory).finish_non_exhaustive()
    }
}

/// The arrays of a batch.
#[derive(Debug, Default)]
struct Memory {
    base: Address,
    n_bytes: usize,
}

/// Memory of the host for one direction.
#[derive(Default)]
struct Staging {
    memory: Option<Box<dyn HostMemory>>,
    n_bytes: usize,
}

impl Staging {
    fn bytes(&mut self, backend: &mut impl Backend, n_bytes: usize) -> Result<&mut [u8]> {
        if n_bytes > self.n_bytes || self.memory.is_none() {
            // Half as much again: batches of a kind differ a little.
            let room = n_bytes + n_bytes / 2;
            self.memory = Some(backend.host_memory(room)?);
            self.n_bytes = room;
        }
        Ok(self.memory.as_mut().map_or(&mut [][..], |memory| &mut memory.bytes()[..n_bytes]))
    }
}

impl<T: Scalar, B: Backend> Worker<T, B> {
    /// Compiles the kernels and copies the weights.
    ///
    /// # Errors
    /// What the backend reports.
    pub fn new(plan: Arc<Plan<T>>, mut backend: B) -> Result<Self> {
        backend.load(&plan.sources())?;
        let weights = backend.upload(bytemuck::cast_slice(&plan.weights.values))?;
        let nearest = backend.upload(bytemuck::cast_slice(&plan.nearest))?;
        backend.wait()?;
        Ok(Worker {
            plan,
            backend,
            weights,
            nearest,
            memory: Memory::default(),
            list: ListArrays::default(),
            inputs: Staging::default(),
            outputs: Staging::default(),
            results: Results::default(),
            close: Vec::new(),
        })
    }

    /// The backend.
    pub fn backend(&mut self) -> &mut B {
        &mut self.backend
    }

    /// Evaluates a batch; results stand in `results`.
    ///
    /// # Errors
    /// What the backend reports. The worker can be used again unless the device is lost.
    pub fn evaluate(&mut self, batch: &PackedBatch, edges: EdgeSource, want: Want) -> Result<()> {
        // SAFETY: arguments and arrays are those that the kernels document, of the sizes of the layout.
        self.evaluate_by(batch, edges, want, |backend, launch| unsafe { backend.launch(launch) })
    }

    /// As [`Worker::evaluate`], with every launch made by `run`, which may time it or repeat it.
    ///
    /// # Errors
    /// As [`Worker::evaluate`].
    pub fn evaluate_by(
        &mut self,
        batch: &PackedBatch,
        edges: EdgeSource,
        want: Want,
        mut run: impl FnMut(&mut B, &Launch) -> Result<()>,
    ) -> Result<()> {
        let sizes = self.sizes(batch, edges, want)?;
        batch.check(self.plan.n_species, edges == EdgeSource::Given)?;
        let layout = self.plan.layout(&sizes);
        self.reserve(layout.n_bytes)?;
        if sizes.n_atoms > 0 {
            enter(Component::Batch);
            let bytes = self.inputs.bytes(&mut self.backend, layout.n_in)?;
            fill(bytes, &layout, batch, &sizes);
            if let EdgeSource::Listed { cell } = &edges {
                bytes[layout.cell..][..72].copy_from_slice(bytemuck::cast_slice(cell));
            }
            enter(Component::Transfers);
            // SAFETY: the memory is as long as the layout, and `inputs` is left alone until the wait below.
            unsafe { self.backend.write(self.memory.base, bytes)? };
            for (part, launch) in self.launches(&layout, &sizes, edges, want) {
                enter(part);
                run(&mut self.backend, &launch)?;
            }
        }
        self.collect(batch, &layout, &sizes, want)
    }

    /// Makes room on the device.
    fn reserve(&mut self, n_bytes: usize) -> Result<()> {
        if n_bytes <= self.memory.n_bytes {
            return Ok(());
        }
        let old = std::mem::take(&mut self.memory);
        self.backend.wait()?;
        // SAFETY: allocated below, and nothing that was queued uses it any more.
        unsafe { self.backend.free(old.base)? };
        let room = n_bytes + n_bytes / 8;
        // Without the room to spare if that is all there is.
        let (base, n_bytes) = match self.backend.allocate(room) {
            Ok(base) => (base, room),
            Err(_) => (self.backend.allocate(n_bytes)?, n_bytes),
        };
        self.memory = Memory { base, n_bytes };
        Ok(())
    }

    /// Copies results back and sums them.
    fn collect(&mut self, batch: &PackedBatch, layout: &Layout, sizes: &Sizes, want: Want) -> Result<()> {
        let n_bytes = layout.out_end - layout.close;
        enter(Component::Transfers);
        let bytes = self.outputs.bytes(&mut self.backend, n_bytes)?;
        if sizes.n_atoms > 0 {
            // SAFETY: the memory is as long as the layout; `bytes` are used after the wait.
            unsafe { self.backend.read(at(self.memory.base, layout.close), bytes)? };
        }
        self.backend.wait()?;
        enter(Component::Results);
        let array = |offset: usize, n_bytes: usize| &bytes[offset - layout.close..][..n_bytes];
        self.close.clear();
        self.close.extend(
            bytemuck::cast_slice::<u8, u32>(array(layout.close, 4 * sizes.n_structures)).iter().map(|&c| c != 0),
        );
        let results = &mut self.results;
        results.atomic_energies.clear();
        let outputs: &[T] = bytemuck::cast_slice(array(layout.outputs, size_of::<T>() * sizes.n_atoms));
        let energy = |(output, reference): (&T, &f64)| self.plan.energy_scale * output.wide() + reference;
        results.atomic_energies.extend(outputs.iter().zip(&batch.references).map(energy));
        results.gradients.clear();
        results.virials.clear();
        if want.gradient() {
            results.gradients.extend_from_slice(bytemuck::cast_slice(array(layout.gradients, 24 * sizes.n_atoms)));
        }
        if sizes.virials {
            results.virials.extend_from_slice(bytemuck::cast_slice(array(layout.virials, 72 * sizes.n_atoms)));
        }
        results.collect(batch);
        Ok(())
    }

    fn sizes(&self, batch: &PackedBatch, edges: EdgeSource, want: Want) -> Result<Sizes> {
        let atoms_of = |s| batch.atoms_of(s).len();
        let n_edges = match edges {
            EdgeSource::Given => batch.n_edges(),
            EdgeSource::Search => (0..batch.n_structures()).map(|s| atoms_of(s) * atoms_of(s).saturating_sub(1)).sum(),
            // The kernels rely on it.
            EdgeSource::Listed { .. } if batch.n_structures() != 1 || batch.n_atoms() != self.list.n_atoms => {
                return Err(Error::Usage("the neighbour list on the device is not that of the batch".into()));
            }
            EdgeSource::Listed { .. } => self.list.n_edges,
        };
        if u32::try_from(n_edges).is_err() {
            return Err(Error::Usage(format!("a batch of {n_edges} edges is too large: use a smaller BatchSize")));
        }
        Ok(Sizes {
            n_structures: batch.n_structures(),
            n_atoms: batch.n_atoms(),
            max_atoms: (0..batch.n_structures()).map(atoms_of).max().unwrap_or(0),
            n_edges,
            edges_given: edges == EdgeSource::Given,
            periodic: edges == EdgeSource::Given && !batch.edges().offsets.is_empty(),
            listed: matches!(edges, EdgeSource::Listed { .. }),
            virials: want.needs_virials(batch.volumes.iter().any(Option::is_some)),
        })
    }

    fn weight(&self, place: weights::Place) -> Address {
        at(self.weights, place * size_of::<T>())
    }
}

impl<T, B: Backend> Drop for Worker<T, B> {
    fn drop(&mut self) {
        let _ = self.backend.wait();
        for address in [self.weights, self.nearest, self.memory.base, self.list.base] {
            // SAFETY: allocated by this worker, and nothing uses it any more. What cannot be freed goes with the context.
            let _ = unsafe { self.backend.free(address) };
        }
    }
}

/// Copies what the device is given.
fn fill(bytes: &mut [u8], layout: &Layout, batch: &PackedBatch, sizes: &Sizes) {
    let mut put = |offset: usize, from: &[u8]| bytes[offset..offset + from.len()].copy_from_slice(from);
    put(layout.positions, bytemuck::cast_slice(&batch.positions));
    let edges = batch.edges();
    if sizes.periodic {
        put(layout.offsets, bytemuck::cast_slice(edges.offsets));
    }
    if sizes.edges_given {
        put(layout.edge_ptr, bytemuck::cast_slice(edges.edge_ptr));
        put(layout.senders, bytemuck::cast_slice(edges.senders));
        put(layout.reverse_edge, bytemuck::cast_slice(edges.reverse_edge));
    }
    let atom_ptr = words(bytes, layout.atom_ptr, sizes.n_structures + 1);
    for (s, start) in atom_ptr.iter_mut().enumerate() {
        *start = if s == 0 { 0 } else { batch.atoms_of(s - 1).end as u32 };
    }
    let structure_of = words(bytes, layout.structure_of, sizes.n_atoms);
    for s in 0..sizes.n_structures {
        structure_of[batch.atoms_of(s)].fill(s as u32);
    }
    let species = words(bytes, layout.species, sizes.n_atoms);
    for (out, &s) in species.iter_mut().zip(&batch.species) {
        *out = u32::from(s);
    }
    bytes[layout.close..][..4 * sizes.n_structures].fill(0);
}

fn words(bytes: &mut [u8], offset: usize, n: usize) -> &mut [u32] {
    bytemuck::cast_slice_mut(&mut bytes[offset..][..4 * n])
}
