//! The engine's list of kernels for one batch.

use super::arrays::{Layout, Sizes, at};
use super::shape::Shape;
use super::{EdgeSource, Scalar, Worker};
use crate::clock::{Component, Part};
use crate::cuda::{Address, Arg, Backend, Launch};
use crate::settings::Want;

impl<T: Scalar, B: Backend> Worker<T, B> {
    /// The engine's list.
    pub(super) fn launches(
        &self,
        layout: &Layout,
        sizes: &Sizes,
        edges: EdgeSource,
        want: Want,
    ) -> Vec<(Part, Launch)> {
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
        match edges {
            EdgeSource::Search => {}
            EdgeSource::Listed { .. } => return self.listed_edges(),
            EdgeSource::Given => {
                let offsets = if self.sizes.periodic { self.at(a.offsets) } else { 0 };
                let args = args![n, edge_ptr, senders, positions, offsets, geometry];
                return vec![self.per_atom("painn_edge_geometry", LANES_PER_ATOM, args)];
            }
        }
        let (species, n_species) = (self.at(a.species), self.worker.plan.n_species as u32);
        let limit = self.worker.plan.cutoff * self.worker.plan.cutoff;
        let [structure_of, atom_ptr, counts, higher, pair_ptr, pairs, close] =
            [a.structure_of, a.atom_ptr, a.counts, a.higher, a.pair_ptr, a.pairs, a.close].map(|x| self.at(x));
        vec![
            self.per_atom(
                "painn_count_edges",
                WARP,
                args![n, limit, structure_of, atom_ptr, positions, counts, higher],
            ),
            self.launch("painn_scan_edges", [2, 1], 1024, 0, args![n, counts, higher, edge_ptr, pair_ptr]),
            self.per_atom(
                "painn_fill_edges",
                WARP,
                args![
                    n,
                    n_species,
                    limit,
                    species,
                    self.worker.nearest,
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
    fn listed_edges(&self) -> Vec<Launch> {
        let (a, n, list) = (self.layout, self.n_atoms(), &self.worker.list);
        let limit = self.worker.plan.cutoff * self.worker.plan.cutoff;
        let [positions, cell, counts, edge_ptr, senders, geometry, numbers, reverse_edge, close] =
            [a.positions, a.cell, a.counts, a.edge_ptr, a.senders, a.geometry, a.pairs, a.reverse_edge, a.close]
                .map(|x| self.at(x));
        let listed = args![list.ptr, list.senders, list.shifts, positions, cell];
        let count = [args![n, limit], listed.clone(), args![counts]].concat();
        let n_species = self.worker.plan.n_species as u32;
        let first = args![n, n_species, limit, self.at(a.species), self.worker.nearest];
        let fill = [first, listed, args![edge_ptr, senders, geometry, numbers, close]].concat();
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
            Some(before) => {
                [self.layout.layers[before].contexts, self.layout.layers[before].vectors].map(|x| self.at(x))
            }
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
    fn over_tiles(
        &self,
        kernel: &str,
        in_clusters: bool,
        shared_bytes: impl Fn(&Shape) -> usize,
        args: Vec<Arg>,
    ) -> Launch {
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
        let out = [a.scalars, kept.mixed, kept.slopes, kept.gates, kept.vectors, kept.context_slopes, kept.contexts];
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
