//! Time of each CPU kernel in f32 on one thread: `cargo bench --bench ops`.
//!
//! 64 atoms of a droplet with about 18 edges each, in one group, at 64 and 128 features.
//! Buffers are warm. An *item* of the printed rate is, for dense layers, a floating-point operation (Gitem/s are GFLOP/s);
//! for messages, a feature of a pair, both directions; for updates, a feature of an atom; for the others, an edge or a pair.
//! `Pairs` is geometry with the radial functions; `…Basis` is with filters over the radial basis, everything else with
//! splines.

#![allow(clippy::expect_used)] // a benchmark that cannot run should stop

use std::ops::Range;

use divan::counter::ItemsCount;
use divan::{Bencher, black_box};
use mlff::cpu::dense::{Layer, Padding};
use mlff::cpu::filters::{Filters, Radial};
use mlff::cpu::geometry::{Edges, geometry_vjp};
use mlff::cpu::lanes::Buffer;
use mlff::cpu::message::{Cotangents, Group, Nodes, message, message_vjp};
use mlff::cpu::pairs::{self, Pair, PairCounts, PairsMut};
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
    Pairs, PairsBasis, GeometryVjp,
    MessageFirst, Message, MessageBasis, MessageVjpFirst, MessageVjp, MessageVjpBasis,
    Invariants, Gate, GateVjp, MixedVjp
}

use Kernel::*;

fn items(kernel: Kernel, s: &Setup) -> usize {
    let (n, n_edges) = (s.n, s.list.n_edges());
    let n_pairs = n_edges / 2;
    match kernel {
        Linear | VjpSilu => 2 * N_ATOMS * n * 3 * n,
        LinearSilu | Vjp => 2 * N_ATOMS * 2 * n * n,
        VjpAdd => 2 * 3 * N_ATOMS * n * 2 * n,
        GeometryVjp => n_edges,
        Pairs | PairsBasis => n_pairs,
        MessageFirst | Message | MessageBasis | MessageVjpFirst | MessageVjp | MessageVjpBasis => n * n_pairs,
        Invariants | Gate | GateVjp | MixedVjp => n * N_ATOMS,
    }
}

fn main() {
    divan::main();
}

#[divan::bench(consts = [64, 128], args = KERNELS)]
fn features<const F: usize>(bencher: Bencher, kernel: Kernel) {
    let arch = Arch::new();
    let mut setup = arch.dispatch(Prepare(F, matches!(kernel, PairsBasis | MessageBasis | MessageVjpBasis)));
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

/// Room for the pairs of all atoms.
struct PairData {
    pairs: Vec<Pair<f32>>,
    values: Vec<f32>,
    outside: Vec<u32>,
    pair_of_edge: Vec<u32>,
    counts: PairCounts,
    row_of: Vec<u32>,
}

impl PairData {
    fn new(list: &NeighborList, positions: &[[f64; 3]], radial: &Radial) -> Self {
        let n_edges = list.n_edges();
        let mut data = PairData {
            pairs: vec![Pair::default(); n_edges],
            values: vec![0.0; n_edges * 2 * radial.window()],
            outside: vec![0; n_edges],
            pair_of_edge: vec![0; n_edges],
            counts: PairCounts::default(),
            row_of: vec![u32::MAX; N_ATOMS],
        };
        data.find(list, positions, radial);
        data
    }

    #[inline(always)]
    fn find(&mut self, list: &NeighborList, positions: &[[f64; 3]], radial: &Radial) {
        let PairData { pairs, values, outside, pair_of_edge, .. } = self;
        let mut room = PairsMut { pairs, values, outside, pair_of_edge };
        self.counts = room.find(&edges(list), positions, &ATOMS, radial, &mut self.row_of);
    }

    fn group<'a>(&'a self, radial: &'a Radial, filters: &'a Filters<f32>) -> Group<'a, f32> {
        let PairCounts { n_pairs, n_outside } = self.counts;
        let values = &self.values[..n_pairs * 2 * radial.window()];
        let pairs = pairs::Pairs { pairs: &self.pairs[..n_pairs], values, outside: &self.outside[..n_outside] };
        Group { atoms: &ATOMS, pairs, radial, filters }
    }
}

const ATOMS: Range<usize> = 0..N_ATOMS;

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
    pairs: PairData,
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
    buffers: [Buffer<f32>; 3],
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
            pairs: PairData::new(&list, &structure.positions, &radial),
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
            buffers: std::array::from_fn(|_| Buffer::default()),
        }
    }
}

impl Setup {
    #[inline(always)]
    fn message<S: Simd>(&mut self, simd: S, first: bool) {
        let (n, [context, sums]) = (self.n, &mut self.out);
        let group = &self.pairs.group(&self.radial, &self.weights);
        let nodes = nodes(n, first, &self.x3, &self.species);
        message(simd, n, group, nodes, &self.x1, context, sums, &mut self.buffers);
    }

    #[inline(always)]
    fn message_vjp<S: Simd>(&mut self, simd: S, first: bool) {
        let (n, [context, sent]) = (self.n, &mut self.out);
        let group = &self.pairs.group(&self.radial, &self.weights);
        let nodes = nodes(n, first, &self.x3, &self.species);
        let gradients = Cotangents { scalars: &self.x1, vectors: &self.x3 };
        let cotangents = &mut self.cotangents[..group.pairs.pairs.len()];
        message_vjp(simd, n, group, nodes, gradients, context, sent, cotangents, &mut self.buffers);
    }
}

fn nodes<'a>(n: usize, first: bool, x3: &'a [f32], species: &'a [u16]) -> Nodes<'a, f32> {
    if first {
        Nodes::First { context: &x3[..N_SPECIES * 3 * n], species }
    } else {
        Nodes::Later { context: x3, vectors: x3 }
    }
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
            Pairs | PairsBasis => s.pairs.find(&s.list, &s.positions, &s.radial),
            GeometryVjp => {
                for i in ATOMS {
                    let pairs = &s.pairs.pair_of_edge[edges.of(i)];
                    black_box(geometry_vjp(&edges, &s.positions, i, pairs, &s.cotangents, None));
                }
            }
            MessageFirst => s.message(simd, true),
            Message | MessageBasis => s.message(simd, false),
            MessageVjpFirst => s.message_vjp(simd, true),
            MessageVjp | MessageVjpBasis => s.message_vjp(simd, false),
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
