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
mod list;
mod shape;
mod weights;

use std::sync::Arc;

use super::Want;
use super::results::Results;
use crate::batch::PackedBatch;
use crate::cuda::{Address, Arg, Backend, HostMemory, Launch, Limits};
use crate::error::{Error, Result};
use crate::model::painn::Painn;
use crate::ops::Real;
use crate::potential::Precision;
use crate::profile::clock::{Component, Part, enter};
use crate::structure::Mat3;
use arrays::{Layout, Sizes, at};
use list::ListArrays;
use shape::Shape;
pub use shape::{Tiling, Tuning};
use weights::Weights;

/// Type of a network on a device.
pub trait Scalar: Real + bytemuck::Pod {
    /// Its precision.
    const PRECISION: Precision;
    /// Its name in C++.
    const NAME: &'static str;
    /// As an argument of a kernel.
    fn arg(self) -> Arg;
}

impl Scalar for f32 {
    const PRECISION: Precision = Precision::F32;
    const NAME: &'static str = "float";
    fn arg(self) -> Arg {
        Arg::from(self)
    }
}

impl Scalar for f64 {
    const PRECISION: Precision = Precision::F64;
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
    weights: Weights<T>,
    limits: Limits,
    cutoff: f64,
    epsilon: f64,
    energy_scale: f64,
    by_pairs: Option<bool>,
}

impl<T: Scalar> Plan<T> {
    /// Packs a model; choices are made where `tuning` does not.
    ///
    /// # Errors
    /// `Error::Cuda` if the model is too wide for the device.
    pub fn new(painn: &Painn<T>, energy_scale: f64, limits: Limits, tuning: Tuning) -> Result<Self> {
        let shape = Shape::new(painn, limits, tuning)?;
        let weights = Weights::new(painn, &shape);
        let (cutoff, epsilon, by_pairs) = (painn.cutoff, painn.epsilon, tuning.by_pairs);
        Ok(Plan { few: shape.for_few(limits, tuning), shape, weights, limits, cutoff, epsilon, energy_scale, by_pairs })
    }

    /// The programs that a backend must have.
    pub fn sources(&self) -> Vec<crate::cuda::Source> {
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
        let sizes = Sizes { n_structures: 0, n_atoms, max_atoms: 0, n_edges, edges_given: true, periodic: true, listed: false, virials: true };
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
    /// Structures with atoms nearer than this, Å², are marked.
    Search {
        /// Square of the distance below which a structure is marked, Å².
        nearest: f64,
    },
    /// They are those of the list that [`Worker::set_list`] left on the device that are within the cutoff. The batch has one
    /// structure, the list's.
    Listed {
        /// As above.
        nearest: f64,
        /// Lattice vectors that the list's shifts count, Å; anything where nothing is periodic.
        cell: Mat3,
    },
}

/// A backend with weights and memory: what evaluates one batch at a time.
pub struct Worker<T, B: Backend> {
    plan: Arc<Plan<T>>,
    backend: B,
    weights: Address,
    memory: Memory,
    list: ListArrays,
    inputs: Staging,
    outputs: Staging,
    /// Results of the batch evaluated last.
    pub results: Results,
    /// Structures of that batch with atoms that are near each other, where the device searched.
    pub close: Vec<bool>,
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
        backend.wait()?;
        Ok(Worker {
            plan,
            backend,
            weights,
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
        let layout = self.plan.layout(&sizes);
        self.reserve(layout.n_bytes)?;
        if sizes.n_atoms > 0 {
            enter(Component::Batch);
            let bytes = self.inputs.bytes(&mut self.backend, layout.n_in)?;
            fill(bytes, &layout, batch, &sizes);
            if let EdgeSource::Listed { cell, .. } = &edges {
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
        self.close.extend(bytemuck::cast_slice::<u8, u32>(array(layout.close, 4 * sizes.n_structures)).iter().map(|&c| c != 0));
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
            EdgeSource::Search { .. } => {
                (0..batch.n_structures()).map(|s| atoms_of(s) * atoms_of(s).saturating_sub(1)).sum()
            }
            // The kernels rely on it.
            EdgeSource::Listed { .. } if batch.n_structures() != 1 || batch.n_atoms() != self.list.n_atoms => {
                return Err(Error::Usage("the neighbour list on the device is not that of the batch".into()));
            }
            EdgeSource::Listed { .. } => self.list.n_edges,
        };
        if u32::try_from(n_edges).is_err() {
            return Err(Error::Usage(format!("a batch of {n_edges} edges is too large: use --batch")));
        }
        Ok(Sizes {
            n_structures: batch.n_structures(),
            n_atoms: batch.n_atoms(),
            max_atoms: (0..batch.n_structures()).map(atoms_of).max().unwrap_or(0),
            n_edges,
            edges_given: edges == EdgeSource::Given,
            periodic: edges == EdgeSource::Given && !batch.edges().offsets.is_empty(),
            listed: matches!(edges, EdgeSource::Listed { .. }),
            virials: want.stress && batch.volumes.iter().any(Option::is_some),
        })
    }

    fn weight(&self, place: weights::Place) -> Address {
        at(self.weights, place * size_of::<T>())
    }

    /// The engine's list.
    fn launches(&self, layout: &Layout, sizes: &Sizes, edges: EdgeSource, want: Want) -> Vec<(Part, Launch)> {
        let list = List { worker: self, layout, sizes, base: self.memory.base };
        let n_layers = self.plan.weights.layers.len();
        let mut out: Vec<(Part, Launch)> =
            list.edges(edges).into_iter().map(|launch| (Component::EdgeGeometry.into(), launch)).collect();
        for l in 0..n_layers {
            out.push((Part::layer(Component::Message, l), list.message(l)));
            out.push((Part::layer(Component::Update, l), list.update(l)));
        }
        out.push((Component::Readout.into(), list.readout(want.gradient())));
        if want.gradient() {
            for l in (0..n_layers).rev() {
                out.push((Part::layer(Component::UpdateVjp, l), list.update_vjp(l)));
                out.push((Part::layer(Component::MessageVjp, l), list.message_vjp(l)));
            }
            out.push((Component::EdgeGeometryVjp.into(), list.gradients()));
        }
        out
    }
}

impl<T, B: Backend> Drop for Worker<T, B> {
    fn drop(&mut self) {
        let _ = self.backend.wait();
        for address in [self.weights, self.memory.base, self.list.base] {
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

/// Makes the launches of one batch.
struct List<'a, T, B: Backend> {
    worker: &'a Worker<T, B>,
    layout: &'a Layout,
    sizes: &'a Sizes,
    base: Address,
}

const THREADS: u32 = 256;
const WARP: usize = 32;
/// As `LANES_PER_ATOM` in `kernels/adjoint/edges.cu`.
const LANES_PER_ATOM: usize = 16;

macro_rules! args {
    ($($x:expr),* $(,)?) => { vec![$(Arg::from($x)),*] };
}

impl<T: Scalar, B: Backend> List<'_, T, B> {
    fn at(&self, offset: usize) -> Address {
        at(self.base, offset)
    }

    fn n_atoms(&self) -> u32 {
        // A batch has no more than 32 bits count.
        self.sizes.n_atoms as u32
    }

    fn real(&self, x: f64) -> Arg {
        T::of(x).arg()
    }

    fn is_last(&self, l: usize) -> bool {
        l + 1 == self.layout.layers.len()
    }

    fn launch(&self, kernel: &str, grid: [usize; 2], block: u32, shared_bytes: usize, args: Vec<Arg>) -> Launch {
        let [x, y] = grid.map(|n| u32::try_from(n).unwrap_or(u32::MAX));
        Launch { kernel: kernel.into(), grid: [x, y, 1], block, cluster: 1, shared_bytes: shared_bytes as u32, args }
    }

    /// With so many threads for each atom.
    fn per_atom(&self, kernel: &str, lanes: usize, args: Vec<Arg>) -> Launch {
        self.launch(kernel, [(self.sizes.n_atoms * lanes).div_ceil(THREADS as usize), 1], THREADS, 0, args)
    }

    fn edges(&self, edges: EdgeSource) -> Vec<Launch> {
        let (a, n) = (self.layout, self.n_atoms());
        let [edge_ptr, senders, reverse_edge, geometry, positions] =
            [a.edge_ptr, a.senders, a.reverse_edge, a.geometry, a.positions].map(|x| self.at(x));
        let nearest = match edges {
            EdgeSource::Search { nearest } => nearest,
            EdgeSource::Listed { nearest, .. } => return self.listed_edges(nearest),
            EdgeSource::Given => {
                let offsets = if self.sizes.periodic { self.at(a.offsets) } else { 0 };
                let args = args![n, edge_ptr, senders, positions, offsets, geometry];
                return vec![self.per_atom("painn_edge_geometry", LANES_PER_ATOM, args)];
            }
        };
        let limit = self.worker.plan.cutoff * self.worker.plan.cutoff;
        let [structure_of, atom_ptr, counts, higher, pair_ptr, pairs, close] =
            [a.structure_of, a.atom_ptr, a.counts, a.higher, a.pair_ptr, a.pairs, a.close].map(|x| self.at(x));
        vec![
            self.per_atom("painn_count_edges", WARP, args![n, limit, structure_of, atom_ptr, positions, counts, higher]),
            self.launch("painn_scan_edges", [2, 1], 1024, 0, args![n, counts, higher, edge_ptr, pair_ptr]),
            self.per_atom(
                "painn_fill_edges",
                WARP,
                args![
                    n,
                    limit,
                    nearest,
                    structure_of,
                    atom_ptr,
                    positions,
                    edge_ptr,
                    pair_ptr,
                    senders,
                    reverse_edge,
                    geometry,
                    pairs,
                    close
                ],
            ),
        ]
    }

    /// Those of the list that are within the cutoff.
    fn listed_edges(&self, nearest: f64) -> Vec<Launch> {
        let (a, n, list) = (self.layout, self.n_atoms(), &self.worker.list);
        let limit = self.worker.plan.cutoff * self.worker.plan.cutoff;
        let [positions, cell, counts, edge_ptr, senders, geometry, numbers, reverse_edge, close] = [
            a.positions,
            a.cell,
            a.counts,
            a.edge_ptr,
            a.senders,
            a.geometry,
            a.pairs,
            a.reverse_edge,
            a.close,
        ]
        .map(|x| self.at(x));
        let listed = args![list.ptr, list.senders, list.shifts, positions, cell];
        let count = [args![n, limit], listed.clone(), args![counts]].concat();
        let fill = [args![n, limit, nearest], listed, args![edge_ptr, senders, geometry, numbers, close]].concat();
        let blocks = list.n_edges.div_ceil(THREADS as usize);
        let link = args![list.n_edges as u32, list.reverse, numbers, reverse_edge];
        vec![
            self.per_atom("painn_count_listed", WARP, count),
            self.launch("painn_scan_edges", [1, 1], 1024, 0, args![n, counts, counts, edge_ptr, edge_ptr]),
            self.per_atom("painn_fill_listed", WARP, fill),
            self.launch("painn_link_listed", [blocks, 1], THREADS, 0, link),
        ]
    }

    /// Whether messages go pair by pair, a block a molecule: the same bits, and half the filters, where there are
    /// molecules for all multiprocessors and they fit.
    fn by_pairs(&self) -> bool {
        let (plan, sizes) = (&self.worker.plan, self.sizes);
        let fits = sizes.max_atoms <= plan.pairs_atoms();
        let many = sizes.n_structures >= 2 * plan.limits.multiprocessors as usize;
        !sizes.edges_given && !sizes.listed && fits && plan.by_pairs.unwrap_or(many)
    }

    /// `message` or its VJP: over pairs of molecules, or over edges by the atoms of one end.
    fn over_edges(&self, kernel: [&str; 2], l: usize, vjp: bool, first: Vec<Arg>, last: Vec<Arg>) -> Launch {
        let (a, plan) = (self.layout, &self.worker.plan);
        let tiles = plan.shape.feature_tiles();
        let (name, grid, shared_bytes, mut args) = if self.by_pairs() {
            let mut args = if vjp { args![self.n_atoms()] } else { Vec::new() };
            args.extend(first);
            args.extend([a.atom_ptr, a.pair_ptr, a.pairs, a.senders].map(|x| Arg::from(self.at(x))));
            if vjp {
                args.push(Arg::from(self.at(a.reverse_edge)));
            }
            // The first layer's VJP ends at the edges: it sums nothing of atoms.
            let atoms = if vjp && l == 0 { 0 } else { self.sizes.max_atoms };
            (kernel[1], [self.sizes.n_structures, tiles], plan.shape.pairs_bytes(atoms, vjp), args)
        } else {
            // A block reads the filter's weights once for all its atoms: few blocks where there is work for several rounds
            // of them, an atom a block where that is what fills the device.
            let atoms = (self.sizes.n_atoms / (8 * plan.limits.multiprocessors.max(1) as usize)).clamp(1, 16);
            let mut args = args![self.n_atoms(), atoms as u32];
            args.extend(first);
            args.extend([a.edge_ptr, a.senders].map(|x| Arg::from(self.at(x))));
            (kernel[0], [self.sizes.n_atoms.div_ceil(atoms), tiles], 0, args)
        };
        args.push(Arg::from(self.at(a.geometry)));
        args.extend([plan.weights.radial, plan.weights.layers[l].filter].map(|x| Arg::from(self.worker.weight(x))));
        args.extend(last);
        let name = format!("{name}{}", if l == 0 { "_first" } else { "" });
        self.launch(&name, grid, plan.shape.message_threads(), shared_bytes, args)
    }

    /// What messages of layer `l` read of atoms: contexts and vectors.
    fn nodes(&self, l: usize) -> [Address; 2] {
        match l.checked_sub(1) {
            None => [self.worker.weight(self.worker.plan.weights.first_context), 0],
            Some(before) => [self.layout.layers[before].contexts, self.layout.layers[before].vectors].map(|x| self.at(x)),
        }
    }

    fn message(&self, l: usize) -> Launch {
        let (a, plan) = (self.layout, &self.worker.plan);
        let [contexts, vectors] = self.nodes(l);
        let mut last = args![contexts, self.at(a.species), self.worker.weight(plan.weights.embedding), vectors];
        last.extend([a.scalars, a.moved].map(|x| Arg::from(self.at(x))));
        let kernels = ["painn_message_forward", "painn_message_pairs_forward"];
        self.over_edges(kernels, l, false, vec![self.real(plan.cutoff)], last)
    }

    fn message_vjp(&self, l: usize) -> Launch {
        let (a, plan) = (self.layout, &self.worker.plan);
        let [contexts, vectors] = self.nodes(l);
        let mut last = args![contexts, self.at(a.species), vectors];
        let rest = [a.grad_scalars, a.grad_vectors, a.grad_contexts, a.moved, a.cotangents];
        last.extend(rest.map(|x| Arg::from(self.at(x))));
        let first = vec![Arg::from(u32::from(!self.is_last(l))), self.real(plan.cutoff)];
        self.over_edges(["painn_message_vjp", "painn_message_pairs_vjp"], l, true, first, last)
    }

    /// A kernel over tiles of atoms, smaller ones where larger ones would leave multiprocessors idle.
    fn over_tiles(&self, kernel: &str, in_clusters: bool, shared_bytes: impl Fn(&Shape) -> usize, args: Vec<Arg>) -> Launch {
        let plan = &self.worker.plan;
        let tiles = |shape: &Shape| self.sizes.n_atoms.div_ceil(shape.tile_atoms());
        let few = plan.few.as_ref().filter(|_| tiles(&plan.shape) < plan.limits.multiprocessors as usize);
        let (shape, suffix) = few.map_or((&plan.shape, ""), |few| (few, "_few"));
        let cluster = if in_clusters { shape.cluster() } else { 1 };
        let (name, grid) = (format!("{kernel}{suffix}"), [tiles(shape) * cluster, 1]);
        let launch = self.launch(&name, grid, shape.tile_threads(), shared_bytes(shape), args);
        Launch { cluster: cluster as u32, ..launch }
    }

    fn suffix(&self, l: usize) -> &'static str {
        if self.is_last(l) { "_last" } else { "" }
    }

    fn update(&self, l: usize) -> Launch {
        let (a, plan) = (self.layout, &self.worker.plan);
        let (weights, kept) = (&plan.weights.layers[l], &a.layers[l]);
        let [first, second] = &weights.context;
        let mut args = args![self.n_atoms()];
        args.push(self.real(plan.epsilon));
        args.push(Arg::from(self.at(a.moved)));
        let products = [&weights.hidden, &weights.gates, first, second].map(|p| [p.weight, p.bias]);
        let places = std::iter::once(weights.mix).chain(products.into_iter().flatten());
        args.extend(places.map(|x| Arg::from(self.worker.weight(x))));
        let out =
            [a.scalars, kept.mixed, kept.slopes, kept.gates, kept.vectors, kept.context_slopes, kept.contexts];
        args.extend(out.map(|x| Arg::from(self.at(x))));
        self.over_tiles(&format!("painn_update_forward{}", self.suffix(l)), true, Shape::update_bytes, args)
    }

    fn update_vjp(&self, l: usize) -> Launch {
        let (a, plan) = (self.layout, &self.worker.plan);
        let (weights, kept) = (&plan.weights.layers[l], &a.layers[l]);
        let [first, second] = &weights.context;
        let mut args = args![self.n_atoms()];
        args.push(self.real(plan.epsilon));
        args.extend([a.moved, a.grad_contexts, kept.context_slopes].map(|x| Arg::from(self.at(x))));
        args.extend([second.transposed, first.transposed].map(|x| Arg::from(self.worker.weight(x))));
        args.extend([kept.mixed, kept.slopes, kept.gates].map(|x| Arg::from(self.at(x))));
        let places = [weights.gates.transposed, weights.hidden.transposed, weights.mix_transposed];
        args.extend(places.map(|x| Arg::from(self.worker.weight(x))));
        args.extend([a.grad_scalars, a.grad_vectors].map(|x| Arg::from(self.at(x))));
        self.over_tiles(&format!("painn_update_vjp{}", self.suffix(l)), true, Shape::update_vjp_bytes, args)
    }

    fn readout(&self, gradient: bool) -> Launch {
        let (a, plan) = (self.layout, &self.worker.plan);
        let weights = &plan.weights.readout;
        let mut args = args![self.n_atoms(), u32::from(gradient)];
        args.push(self.real(plan.energy_scale));
        args.push(Arg::from(self.at(a.scalars)));
        let places = [weights.weights, weights.biases, weights.transposed, weights.last_row];
        args.extend(places.map(|x| Arg::from(self.worker.weight(x))));
        args.extend([a.outputs, a.grad_scalars].map(|x| Arg::from(self.at(x))));
        self.over_tiles("painn_readout", false, Shape::readout_bytes, args)
    }

    fn gradients(&self) -> Launch {
        let a = self.layout;
        let tiles = self.worker.plan.shape.feature_tiles() as u32;
        let virials = if self.sizes.virials { self.at(a.virials) } else { 0 };
        let mut args = args![self.n_atoms(), tiles];
        args.extend([a.edge_ptr, a.reverse_edge, a.geometry, a.cotangents].map(|x| Arg::from(self.at(x))));
        args.extend(args![self.at(a.gradients), virials]);
        self.per_atom("painn_gradients", LANES_PER_ATOM, args)
    }
}
