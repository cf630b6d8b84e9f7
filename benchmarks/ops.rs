//! Time of each CPU kernel in f32 on one thread: `cargo bench --bench ops`.
//!
//! 64 atoms of a droplet with about 18 edges each, in one group, at 64 and 128 features.
//! Buffers are warm. An *item* of the printed rate is, for dense layers, a floating-point operation (Gitem/s are GFLOP/s);
//! for filters, one filter of a pair, with its derivative where there is one; for messages, a feature of an edge; for
//! updates, a feature of an atom; for the others, an edge or a pair.

#![allow(clippy::expect_used)] // a benchmark that cannot run should stop

use std::ops::Range;

use divan::counter::ItemsCount;
use divan::{Bencher, black_box};
use mlff::cpu::dense::{Layer, Padding};
use mlff::cpu::filters::{Filters, Pairs, Radial};
use mlff::cpu::geometry::{Edges, geometry, geometry_vjp};
use mlff::cpu::lanes::{Buffer, Lanes};
use mlff::cpu::message::{Group, Nodes, message, message_vjp};
use mlff::cpu::update::{Gates, MixedVjp as MixedInputs, gate, gate_vjp, invariants, mixed_vjp};
use mlff::ops::dense::Linear;
use mlff::ops::radial_basis::RadialBasis;
use mlff::{NeighborList, Structure, neighbor_list};
use pulp::{Arch, Simd, WithSimd};

const CUTOFF: f64 = 5.0;
const N_ATOMS: usize = 64;
const N_RBF: usize = 20;
const N_SPECIES: usize = 7;

macro_rules! kernels {
    ($($name:ident),*) => {
        #[derive(Debug, Clone, Copy)]
        enum Kernel { $($name),* }
        const KERNELS: &[Kernel] = &[$($name),*];
    };
}

kernels! {
    Linear, LinearSilu, Vjp, VjpAdd, VjpSilu,
    Geometry, GeometryVjp, PrepareTable, PrepareBasis,
    FiltersTable, FiltersTableSlopes, FiltersBasis, FiltersBasisSlopes,
    MessageFirst, Message, MessageVjpFirst, MessageVjp,
    Invariants, Gate, GateVjp, MixedVjp
}

use Kernel::*;

fn items(kernel: Kernel, s: &Setup) -> usize {
    let (n, n_edges) = (s.n, s.list.n_edges());
    let n_pairs: usize = s.groups.iter().map(|group| group.pair_distances.len()).sum();
    match kernel {
        Linear | VjpSilu => 2 * N_ATOMS * n * 3 * n,
        LinearSilu | Vjp => 2 * N_ATOMS * 2 * n * n,
        VjpAdd => 2 * 3 * N_ATOMS * n * 2 * n,
        Geometry | GeometryVjp => n_edges,
        PrepareTable | PrepareBasis => n_pairs,
        FiltersTable | FiltersTableSlopes | FiltersBasis | FiltersBasisSlopes => 3 * n * n_pairs,
        MessageFirst | Message | MessageVjpFirst | MessageVjp => n * n_edges,
        Invariants | Gate | GateVjp | MixedVjp => n * N_ATOMS,
    }
}

fn main() {
    divan::main();
}

#[divan::bench(consts = [64, 128], args = KERNELS)]
fn features<const F: usize>(bencher: Bencher, kernel: Kernel) {
    let arch = Arch::new();
    let mut setup = arch.dispatch(Prepare(F, matches!(kernel, PrepareBasis | FiltersBasis | FiltersBasisSlopes)));
    let n_items = ItemsCount::new(items(kernel, &setup));
    bencher.counter(n_items).bench_local(|| arch.dispatch(Run(kernel, &mut setup)));
}

/// Linear congruential generator. Knuth, The Art of Computer Programming 2, 3.3.4.
struct Random(u64);

impl Random {
    /// Uniform in [-0.5, 0.5).
    fn uniform(&mut self) -> f64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 11) as f64 / (1u64 << 53) as f64 - 0.5
    }

    fn fill(&mut self, len: usize) -> Buffer<f32> {
        let mut out = Buffer::zeros(len);
        out.iter_mut().for_each(|x| *x = self.uniform() as f32);
        out
    }

    fn linear(&mut self, n_in: usize, n_out: usize) -> Linear<f32> {
        Linear { weight: self.fill(n_in * n_out).to_vec(), bias: Some(self.fill(n_out).to_vec()), n_in, n_out }
    }
}

/// A jittered grid.
fn droplet() -> Structure {
    let (spacing, mut random) = (2.5, Random(1));
    let positions =
        (0..N_ATOMS).map(|i| [i / 16, i / 4 % 4, i % 4].map(|k| spacing * (k as f64 + 0.4 * random.uniform())));
    Structure::molecule(vec![6; N_ATOMS], positions.collect()).expect("a valid structure")
}

/// A group of atoms whose filters are evaluated together.
struct GroupData {
    atoms: Range<usize>,
    directions: Vec<[f32; 3]>,
    distances: Vec<f64>,
    pair_distances: Vec<f64>,
    pair_ranks: Vec<u32>,
    ranks: Vec<u32>,
    values: Vec<f32>,
    starts: Vec<u32>,
}

impl GroupData {
    fn new(list: &NeighborList, positions: &[[f64; 3]], radial: &Radial, atoms: Range<usize>) -> Self {
        let range = list.edge_ptr[atoms.start] as usize..list.edge_ptr[atoms.end] as usize;
        let (mut directions, mut distances) = (vec![[0.0; 3]; range.len()], vec![0.0; range.len()]);
        geometry(&edges(list), positions, atoms.clone(), &mut directions, &mut distances);
        // A pair of which both atoms belong to the group has one filter.
        let (mut pair_of_edge, mut pair_distances) = (Vec::new(), Vec::new());
        for (e, &reverse) in list.reverse_edge[range.clone()].iter().enumerate() {
            let reverse = (reverse as usize).wrapping_sub(range.start);
            pair_of_edge.push(if reverse < e { pair_of_edge[reverse] } else { pair_distances.len() });
            if reverse >= e {
                pair_distances.push(distances[e]);
            }
        }
        let mut values = vec![0.0; range.len() * radial.values_per_pair()];
        let (mut starts, mut pair_ranks) = (vec![0; radial.n_starts()], vec![0; pair_distances.len()]);
        radial.prepare(&pair_distances, &mut values, &mut starts, &mut pair_ranks);
        let ranks = pair_of_edge.iter().map(|&pair| pair_ranks[pair]).collect();
        GroupData { atoms, directions, distances, pair_distances, pair_ranks, ranks, values, starts }
    }

    fn view<'a>(&'a self, edges: &'a Edges, radial: &'a Radial) -> Group<'a, f32> {
        let GroupData { atoms, directions, ranks, values, starts, .. } = self;
        Group { edges, atoms, directions, ranks, pairs: Pairs { values, starts }, radial }
    }
}

fn edges(list: &NeighborList) -> Edges<'_> {
    Edges { edge_ptr: &list.edge_ptr, senders: &list.senders, reverse_edge: &list.reverse_edge, offsets: &[] }
}

/// Weights, an input of every shape (`xk` has k·n numbers an atom) and room for results.
struct Setup {
    n: usize,
    positions: Vec<[f64; 3]>,
    list: NeighborList,
    radial: Radial,
    weights: Filters<f32>,
    groups: Vec<GroupData>,
    /// F → 2F, 2F → F, F → 3F.
    mix: Layer<f32>,
    hidden: Layer<f32>,
    gates: Layer<f32>,
    species: Vec<u16>,
    x1: Buffer<f32>,
    x2: Buffer<f32>,
    x3: Buffer<f32>,
    x6: Buffer<f32>,
    out: [Buffer<f32>; 2],
    cotangents: Vec<[f32; 4]>,
    buffers: [Buffer<f32>; 2],
}

/// Features; whether filters are products of the basis.
struct Prepare(usize, bool);

impl WithSimd for Prepare {
    type Output = Setup;

    fn with_simd<S: Simd>(self, simd: S) -> Setup {
        let (Prepare(n, exact), mut random) = (self, Random(2));
        let structure = droplet();
        let list = neighbor_list(&structure, CUTOFF).expect("neighbours of a droplet");
        let width = CUTOFF / (N_RBF - 1) as f64;
        let centers = (0..N_RBF).map(|k| k as f64 * width).collect();
        let functions = RadialBasis::Gaussian { centers, widths: vec![width; N_RBF] };
        let weights = random.linear(N_RBF + 1, 3 * n);
        let (radial, mut filters) = Radial::new(simd, &functions, CUTOFF, &[&weights], n, exact);
        assert_eq!(exact, matches!(radial, Radial::Basis { .. }), "another kind of filters than the one measured");
        let pad = Padding::new::<f32>(n);
        let mut layer = |n_in, n_out| Layer::new(simd, &random.linear(n_in, n_out), pad, pad);
        let (mix, hidden, gates) = (layer(n, 2 * n), layer(2 * n, n), layer(n, 3 * n));
        let mut rows = |width: usize| random.fill(N_ATOMS * width * n);
        Setup {
            n,
            groups: vec![GroupData::new(&list, &structure.positions, &radial, 0..N_ATOMS)],
            cotangents: vec![[0.5; 4]; list.n_edges()],
            positions: structure.positions,
            list,
            radial,
            weights: filters.remove(0),
            mix,
            hidden,
            gates,
            species: (0..N_ATOMS).map(|i| (i % N_SPECIES) as u16).collect(),
            x1: rows(1),
            x2: rows(2),
            x3: rows(3),
            x6: rows(6),
            out: [rows(6), rows(6)],
            buffers: [Buffer::default(), Buffer::default()],
        }
    }
}

impl Setup {
    #[inline(always)]
    fn filters<S: Simd, const SLOPES: bool>(&mut self, simd: S) {
        let (edges, width) = (edges(&self.list), if SLOPES { 6 } else { 3 });
        for group in &self.groups {
            self.buffers[0].resize(group.pair_distances.len() * width * f32::lanes::<S>());
            let w = f32::vectors_mut::<S>(&mut self.buffers[0]);
            let pairs = group.view(&edges, &self.radial).pairs;
            for v in 0..self.n / f32::lanes::<S>() {
                pairs.filters::<S, 3, SLOPES>(simd, &self.radial, &self.weights, v, w, width);
            }
        }
    }

    #[inline(always)]
    fn message<S: Simd, const FIRST: bool>(&mut self, simd: S) {
        let (n, edges, [context, sums]) = (self.n, edges(&self.list), &mut self.out);
        let nodes = nodes::<FIRST>(n, &self.x3, &self.species);
        for group in &self.groups {
            let (group, scalars) = (&group.view(&edges, &self.radial), &self.x1[..group.atoms.len() * n]);
            let (weights, buffer) = (&self.weights, &mut self.buffers[0]);
            message::<_, S, FIRST>(simd, n, group, weights, nodes, scalars, context, sums, buffer);
        }
    }

    #[inline(always)]
    fn message_vjp<S: Simd, const FIRST: bool>(&mut self, simd: S) {
        let (n, edges, [context, sent]) = (self.n, edges(&self.list), &mut self.out);
        let nodes = nodes::<FIRST>(n, &self.x3, &self.species);
        for group in &self.groups {
            let (group, weights, buffers) = (&group.view(&edges, &self.radial), &self.weights, &mut self.buffers);
            let (gq, gmu, out) = (&self.x1, &self.x3, &mut self.cotangents[edges.of_all(group.atoms)]);
            message_vjp::<_, S, FIRST>(simd, n, group, weights, nodes, gq, gmu, context, sent, out, buffers);
        }
    }
}

fn nodes<'a, const FIRST: bool>(n: usize, x3: &'a [f32], species: &'a [u16]) -> Nodes<'a, f32> {
    Nodes { context: if FIRST { &x3[..N_SPECIES * 3 * n] } else { x3 }, vectors: x3, species }
}

struct Run<'a>(Kernel, &'a mut Setup);

impl WithSimd for Run<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        let Run(kernel, s) = self;
        let (n, edges, [out, second]) = (s.n, edges(&s.list), &mut s.out);
        let inputs = Gates { gates: &s.x3, mixed: &s.x6, products: &s.x1, last: false };
        match kernel {
            Linear => s.gates.linear(simd, &s.x1, out),
            LinearSilu => s.hidden.linear_silu(simd, &s.x2, out, second),
            Vjp => s.hidden.vjp(simd, &s.x1, out),
            VjpAdd => s.mix.vjp_add(simd, &s.x6, out),
            VjpSilu => s.gates.vjp_silu(simd, &s.x3, &s.x1, out),
            Geometry => {
                for g in &mut s.groups {
                    geometry(&edges, &s.positions, g.atoms.clone(), &mut g.directions, &mut g.distances);
                }
            }
            GeometryVjp => {
                for i in 0..N_ATOMS {
                    black_box(geometry_vjp(&edges, &s.positions, i, &s.cotangents, None));
                }
            }
            PrepareTable | PrepareBasis => {
                for g in &mut s.groups {
                    s.radial.prepare(&g.pair_distances, &mut g.values, &mut g.starts, &mut g.pair_ranks);
                }
            }
            FiltersTable | FiltersBasis => s.filters::<S, false>(simd),
            FiltersTableSlopes | FiltersBasisSlopes => s.filters::<S, true>(simd),
            MessageFirst => s.message::<S, true>(simd),
            Message => s.message::<S, false>(simd),
            MessageVjpFirst => s.message_vjp::<S, true>(simd),
            MessageVjp => s.message_vjp::<S, false>(simd),
            Invariants => invariants(simd, n, 1e-8, &s.x6, out, &mut second[..N_ATOMS * n]),
            Gate => gate(simd, n, inputs, &s.x2, &mut out[..N_ATOMS * n], &mut second[..N_ATOMS * 3 * n]),
            GateVjp => gate_vjp(simd, n, inputs, &s.x1, &s.x3, &mut out[..N_ATOMS * 3 * n]),
            MixedVjp => {
                let g = MixedInputs { context: &s.x2, grad_context: &s.x2, grad_scalars: &s.x1, grad_vectors: &s.x3 };
                mixed_vjp(simd, n, inputs, g, out, &mut second[..N_ATOMS * n]);
            }
        }
    }
}
