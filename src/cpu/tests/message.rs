//! Edges, pairs, filters and messages: atoms in groups, molecules and structures with images.

use std::ops::Range;

use proptest::prelude::*;
use pulp::Simd;

use super::{Check, blank, everywhere, narrow, near, numbers, padded, zero_padded};
use crate::cpu::dense::Padding;
use crate::cpu::filters::{Filters, Radial};
use crate::cpu::geometry::{Edges, geometry_vjp};
use crate::cpu::lanes::{Buffer, Lanes, vectorize};
use crate::cpu::message::{Cotangents, Group, Nodes, message, message_vjp};
use crate::cpu::pairs::{Pair, PairCounts, Pairs, PairsMut};
use crate::neighbors::{neighbor_list, translation};
use crate::ops::Topology;
use crate::ops::dense::Linear;
use crate::ops::edge_geometry::{edge_geometry, edge_geometry_vjp};
use crate::ops::message::{MessageGrads, MessageInputs, message as readable, message_vjp as readable_vjp};
use crate::ops::radial_basis::{RadialBasis, cosine_envelope, radial_basis, radial_basis_vjp};
use crate::structure::{Mat3, Structure, Vec3};
use crate::testing::{Random, assert_close};

const CUTOFF: f64 = 3.0;

#[derive(Debug, Clone)]
struct Case {
    structure: Structure,
    /// F.
    f: usize,
    n_rbf: usize,
    bessel: bool,
    /// Radial functions themselves, not splines fitted to them.
    exact: bool,
    /// The first layer: contexts by species, no vectors.
    first: bool,
    n_groups: usize,
    seed: u64,
}

/// Atoms on a jittered grid, alone or with images, of which some are an atom's own.
fn structures() -> impl Strategy<Value = Structure> {
    (0..15usize, any::<[bool; 3]>(), any::<u64>()).prop_map(|(n_atoms, pbc, seed)| {
        let mut random = Random::new(seed);
        let place = |k: usize, random: &mut Random| -> Vec3 {
            [k / 9, k / 3 % 3, k % 3].map(|site| 1.35 * site as f64 + 0.25 * random.next())
        };
        let sites = random.order(18);
        let positions = (0..n_atoms).map(|k| place(sites[k], &mut random)).collect();
        let mut cell = [[2.75, 0.0, 0.0], [0.0, 4.1, 0.0], [0.0, 0.0, 4.1]];
        cell.iter_mut().flatten().for_each(|x| *x += 0.1 * random.next());
        let cell = pbc.contains(&true).then_some(cell);
        Structure::new(vec![1; n_atoms], positions, cell, pbc).unwrap()
    })
}

fn cases() -> impl Strategy<Value = Case> {
    (structures(), 1..40usize, 1..7usize, any::<[bool; 3]>(), 1..4usize, any::<u64>()).prop_map(
        |(structure, f, n_rbf, [bessel, exact, first], n_groups, seed)| Case {
            structure,
            f,
            n_rbf,
            bessel,
            exact,
            first,
            n_groups,
            seed,
        },
    )
}

/// Edges in f64 as the operations have them.
struct Reference {
    topology: Topology,
    offsets: Vec<Vec3>,
    geometry: Vec<[f64; 4]>,
    functions: RadialBasis,
    basis: Vec<f64>,
}

impl Case {
    fn reference(&self) -> Reference {
        let list = neighbor_list(&self.structure, CUTOFF).unwrap();
        let topology = Topology {
            receivers: list.receivers.clone(),
            senders: list.senders.clone(),
            edge_ptr: list.edge_ptr.clone(),
            reverse_edge: list.reverse_edge.clone(),
        };
        let cell = self.structure.cell.unwrap_or_default();
        let offsets: Vec<Vec3> = list.shifts.iter().map(|&shift| translation(shift, &cell)).collect();
        let mut geometry = vec![[f64::NAN; 4]; list.n_edges()];
        let of = vec![0; list.n_edges()];
        edge_geometry(&topology, &self.structure.positions, &offsets, &[[[0.0; 3]; 3]], &of, 0.0, &mut geometry);
        let scale = CUTOFF / self.n_rbf as f64;
        let functions = if self.bessel {
            RadialBasis::Bessel {
                frequencies: (1..=self.n_rbf).map(|k| k as f64 * std::f64::consts::PI / CUTOFF).collect(),
            }
        } else {
            let centers = (0..self.n_rbf).map(|k| k as f64 * scale).collect();
            RadialBasis::Gaussian { centers, widths: vec![0.4 + 0.5 * scale; self.n_rbf] }
        };
        let distances: Vec<f64> = geometry.iter().map(|g| g[0]).collect();
        let mut basis = vec![f64::NAN; list.n_edges() * (self.n_rbf + 1)];
        radial_basis(&functions, CUTOFF, &distances, &mut basis);
        Reference { topology, offsets, geometry, functions, basis }
    }

    /// Consecutive atoms, as equal in number as can be.
    fn groups(&self) -> Vec<Range<usize>> {
        let (n, k) = (self.structure.n_atoms(), self.n_groups);
        (0..k).map(|g| n * g / k..n * (g + 1) / k).filter(|atoms| !atoms.is_empty()).collect()
    }
}

impl Reference {
    /// Largest derivative of a filter, 1/Å.
    fn largest_slope(&self, weight: &[f64]) -> f64 {
        let k = self.functions.len();
        let slope = |row: &[f64], d: f64| -> f64 {
            let (envelope, falls) = cosine_envelope(d, CUTOFF);
            let of = |(w, k): (&f64, usize)| {
                let (value, slope) = self.functions.at(k, d);
                w * (slope * envelope + value * falls)
            };
            row[..k].iter().zip(0..).map(of).sum::<f64>() + row[k] * falls
        };
        let at = |d: f64| weight.chunks_exact(k + 1).map(move |row| slope(row, d).abs()).fold(0.0, f64::max);
        (1..60).map(|step| at(CUTOFF * f64::from(step) / 60.0)).fold(0.0, f64::max)
    }
}

/// Whether an edge is its pair as seen from the lower atom.
fn is_lower(topology: &Topology, e: usize) -> bool {
    let (i, j) = (topology.receivers[e], topology.senders[e]);
    i < j || (i == j && e < topology.reverse_edge[e] as usize)
}

/// The pairs of a group and what was found with them.
struct Found<T> {
    atoms: Range<usize>,
    pairs: Vec<Pair<T>>,
    values: Vec<T>,
    outside: Vec<u32>,
    pair_of_edge: Vec<u32>,
}

impl<T: Lanes> Found<T> {
    fn new<S: Simd>(simd: S, atoms: Range<usize>, edges: &Edges, positions: &[Vec3], radial: &Radial) -> Self {
        let n_edges = edges.of_all(&atoms).len();
        let width = 2 * radial.window();
        let mut pairs = vec![Pair::default(); n_edges];
        let mut values = vec![T::nan(); n_edges * width];
        let mut outside = vec![u32::MAX; n_edges];
        let mut pair_of_edge = vec![u32::MAX; n_edges];
        let mut row_of = vec![u32::MAX; positions.len()];
        let mut room =
            PairsMut { pairs: &mut pairs, values: &mut values, outside: &mut outside, pair_of_edge: &mut pair_of_edge };
        let mut counts = PairCounts::default();
        vectorize!(simd, counts = room.find(edges, positions, &atoms, radial, &mut row_of));
        assert!(row_of.iter().all(|&row| row == u32::MAX), "left as it was");
        pairs.truncate(counts.n_pairs);
        values.truncate(counts.n_pairs * width);
        outside.truncate(counts.n_outside);
        Found { atoms, pairs, values, outside, pair_of_edge }
    }

    /// Each pair once, in the place that its edges say, with its direction.
    fn check(&self, topology: &Topology, geometry: &[[f64; 4]]) {
        let first = topology.edge_ptr[self.atoms.start] as usize;
        let mut seen = vec![false; self.pairs.len()];
        for (k, &p) in self.pair_of_edge.iter().enumerate() {
            let (e, pair) = (first + k, &self.pairs[p as usize]);
            let ends = [topology.receivers[e], topology.senders[e]];
            let sign = if is_lower(topology, e) { 1.0 } else { -1.0 };
            let [lower, upper] = if sign > 0.0 { ends } else { [ends[1], ends[0]] };
            assert_eq!(pair.atoms.map(|row| self.atom(row as usize)), [lower as usize, upper as usize]);
            let direction: Vec<f64> = geometry[e][1..].iter().map(|u| sign * u).collect();
            near::<T>("direction", &pair.direction.map(|x| x.wide()), &direction, 2.0);
            seen[p as usize] = true;
        }
        assert!(seen.iter().all(|&seen| seen), "a pair without edges");
    }

    fn atom(&self, row: usize) -> usize {
        row.checked_sub(self.atoms.len()).map_or(self.atoms.start + row, |k| self.outside[k] as usize)
    }

    fn group<'a>(&'a self, radial: &'a Radial, filters: &'a Filters<T>) -> Group<'a, T> {
        let pairs = Pairs { pairs: &self.pairs, values: &self.values, outside: &self.outside };
        Group { atoms: &self.atoms, pairs, radial, filters }
    }
}

impl Check for Case {
    fn check<T: Lanes, S: Simd>(&self, simd: S) {
        let reference = self.reference();
        let Reference { topology, offsets, geometry, functions, basis } = &reference;
        let (n_atoms, n_edges, f, k) = (topology.n_atoms(), topology.n_edges(), self.f, self.n_rbf + 1);
        let (positions, n) = (&self.structure.positions, Padding::new::<T>(f).padded);
        let edges = Edges {
            edge_ptr: &topology.edge_ptr,
            senders: &topology.senders,
            reverse_edge: &topology.reverse_edge,
            offsets: if self.structure.is_periodic() { offsets } else { &[] },
        };
        let mut random = Random::new(self.seed);
        let weight = numbers::<T>(&mut random, 3 * f * k);
        let narrowed = Linear::<T> { weight: narrow(&weight), bias: None, n_in: k, n_out: 3 * f };
        let filter = Linear { weight, bias: None, n_in: k, n_out: 3 * f };
        // What splines are fitted to f32 for is f32.
        let exact = self.exact || size_of::<T>() > 4;
        let (radial, filters) = Radial::new(simd, functions, CUTOFF, &[&narrowed], n, exact);
        assert_eq!(matches!(radial, Radial::Basis { .. }), exact, "{functions:?}");
        let groups: Vec<Found<T>> =
            self.groups().into_iter().map(|atoms| Found::new(simd, atoms, &edges, positions, &radial)).collect();

        // Contexts of two species in the first layer, of each atom in later ones.
        let species: Vec<u16> = (0..n_atoms).map(|_| random.below(2) as u16).collect();
        let rows = if self.first { 2 } else { n_atoms };
        let context = numbers::<T>(&mut random, rows * 3 * f);
        let mut vectors = numbers::<T>(&mut random, n_atoms * 3 * f);
        if self.first {
            vectors.fill(0.0);
        }
        let nodes: Vec<f64> = (0..n_atoms)
            .flat_map(|i| {
                let row = if self.first { usize::from(species[i]) } else { i };
                [&context[row * 3 * f..][..3 * f], &vectors[i * 3 * f..][..3 * f]].concat()
            })
            .collect();
        let flat: Vec<f64> = geometry.iter().flatten().copied().collect();
        let inputs = MessageInputs { n_features: f, nodes: &nodes, edges: basis, geometry: &flat, filter: &filter };
        let mut sums = vec![f64::NAN; n_atoms * 4 * f];
        readable(topology, &inputs, &mut sums);

        let (context, vectors_padded) = (padded::<T>(&context, f), padded::<T>(&vectors, f));
        let of_nodes = match self.first {
            true => Nodes::First { context: &context, species: &species },
            false => Nodes::Later { context: &context, vectors: &vectors_padded },
        };
        let scalars = numbers::<T>(&mut random, n_atoms * f);
        let scalars_padded = padded::<T>(&scalars, f);
        let mut buffers: [Buffer<T>; 3] = Default::default();
        let (mut got_scalars, mut got_vectors) = (Vec::new(), Vec::new());
        for found in &groups {
            found.check(topology, geometry);
            let (group, atoms) = (found.group(&radial, &filters[0]), &found.atoms);
            let (mut out, mut sums) = (blank::<T>(atoms.len() * 2 * n), blank::<T>(atoms.len() * 3 * n));
            let before = &scalars_padded[atoms.start * n..atoms.end * n];
            vectorize!(simd, message(simd, n, &group, of_nodes, before, &mut out, &mut sums, &mut buffers));
            for row in out.chunks_exact(2 * n) {
                got_scalars.extend(zero_padded(&row[..n], f));
                assert!(row[n..].iter().all(|x| x.is_nan()), "the second half is not the message's");
            }
            got_vectors.extend(zero_padded(&sums, f));
        }
        let part = |i: usize, range: Range<usize>| sums[i * 4 * f..][..4 * f][range].to_vec();
        let add = |a: Vec<f64>, b: &[f64]| -> Vec<f64> { a.iter().zip(b).map(|(a, b)| a + b).collect() };
        let want = add((0..n_atoms).flat_map(|i| part(i, 0..f)).collect(), &scalars);
        near::<T>("scalars", &got_scalars, &want, ROUNDINGS);
        let want = add((0..n_atoms).flat_map(|i| part(i, f..4 * f)).collect(), &vectors);
        near::<T>("vectors", &got_vectors, &want, ROUNDINGS);

        // Back: to atoms, and to the pairs' distances and directions.
        let (grad_q, grad_mu) = (numbers::<T>(&mut random, n_atoms * f), numbers::<T>(&mut random, n_atoms * 3 * f));
        let grad_sums: Vec<f64> =
            grad_q.chunks_exact(f).zip(grad_mu.chunks_exact(3 * f)).flat_map(|(q, mu)| [q, mu].concat()).collect();
        let (mut of_atoms, mut of_basis) = (vec![0.0; nodes.len()], vec![0.0; basis.len()]);
        let mut of_geometry = vec![0.0; n_edges * 4];
        let grads = &mut MessageGrads { nodes: &mut of_atoms, edges: &mut of_basis, geometry: &mut of_geometry };
        readable_vjp(topology, &inputs, &grad_sums, grads);
        let distances: Vec<f64> = geometry.iter().map(|g| g[0]).collect();
        let mut of_distances = vec![0.0; n_edges];
        radial_basis_vjp(functions, CUTOFF, &distances, &of_basis, &mut of_distances);
        let (scalars, vectors) = (padded::<T>(&grad_q, f), padded::<T>(&grad_mu, f));
        let gradients = Cotangents { scalars: &scalars, vectors: &vectors };
        let (mut grad_context, mut grad_sent) = (Vec::new(), Vec::new());
        let (mut got, mut want) = ([Vec::new(), Vec::new()], [Vec::new(), Vec::new()]);
        for found in &groups {
            let (group, rows) = (found.group(&radial, &filters[0]), found.atoms.len() * 3 * n);
            let (mut context, mut sent) = (blank::<T>(rows), blank::<T>(rows));
            let mut cotangents = vec![[T::one(); 4]; found.pairs.len()];
            let (context_out, sent_out, out) = (&mut context[..], &mut sent[..], &mut cotangents[..]);
            vectorize!(
                simd,
                message_vjp(simd, n, &group, of_nodes, gradients, context_out, sent_out, out, &mut buffers)
            );
            if self.first {
                assert!(context.iter().chain(&*sent).all(|x| x.is_nan()), "nobody reads them");
            } else {
                grad_context.extend(zero_padded(&context, f));
                grad_sent.extend(zero_padded(&sent, f));
            }
            let first = topology.edge_ptr[found.atoms.start] as usize;
            for (e, &p) in (first..).zip(&found.pair_of_edge) {
                let [lower, upper] = match (e, topology.reverse_edge[e] as usize) {
                    (e, reverse) if is_lower(topology, e) => [e, reverse],
                    (e, reverse) => [reverse, e],
                };
                let [d, u @ ..] = cotangents[p as usize].map(|x| x.wide() - 1.0);
                got[0].push(d);
                got[1].extend(u);
                want[0].push(of_distances[lower] + of_distances[upper]);
                want[1].extend((1..4).map(|a| of_geometry[4 * lower + a] - of_geometry[4 * upper + a]));
            }
        }
        // Each is a sum of 10 F products of numbers in (-1, 1), which may cancel. Derivatives of splines are fitted to within
        // 2.5e-6 of the largest one; these errors add up as those of chance do.
        let slope = reference.largest_slope(&filter.weight) * (f as f64).sqrt();
        let fitted = if exact { 0.0 } else { 4.0 * 2.5e-6 * slope };
        let largest = want[0].iter().fold(slope.max(0.1), |m: f64, x| m.max(x.abs()));
        assert_close("distances", &got[0], &want[0], ROUNDINGS * T::epsilon().wide() * largest + fitted, 0.0);
        near::<T>("directions", &got[1], &want[1], ROUNDINGS);
        if !self.first {
            let of = |range: Range<usize>| -> Vec<f64> {
                of_atoms.chunks_exact(6 * f).flat_map(|row| row[range.clone()].to_vec()).collect()
            };
            near::<T>("grad_context", &grad_context, &of(0..3 * f), ROUNDINGS);
            near::<T>("grad_sent", &grad_sent, &add(of(3 * f..6 * f), &grad_mu), ROUNDINGS);
        }

        // From pairs to positions and the virial.
        let mut of_edges = vec![[0.0; 4]; n_edges];
        for e in (0..n_edges).filter(|&e| is_lower(topology, e)) {
            let [d, x, y, z] = numbers::<T>(&mut random, 4)[..] else { unreachable!() };
            of_edges[e] = [d, x, y, z];
        }
        let (mut want, mut strain) = (vec![[0.0; 3]; n_atoms], [[[0.0; 3]; 3]]);
        edge_geometry_vjp(topology, geometry, &vec![0; n_edges], 0.0, &of_edges, &mut want, &mut strain);
        let (mut got, mut virial): (Vec<Vec3>, Mat3) = (Vec::new(), Default::default());
        for found in &groups {
            let first = topology.edge_ptr[found.atoms.start] as usize;
            let mut cotangents = vec![[T::nan(); 4]; found.pairs.len()];
            for (e, &p) in (first..).zip(&found.pair_of_edge) {
                let lower = if is_lower(topology, e) { e } else { topology.reverse_edge[e] as usize };
                cotangents[p as usize] = of_edges[lower].map(T::of);
            }
            for i in found.atoms.clone() {
                let range = edges.of(i);
                let own = &found.pair_of_edge[range.start - first..range.end - first];
                got.push(geometry_vjp(&edges, positions, i, own, &cotangents, Some(&mut virial)));
            }
        }
        near::<f64>("gradient", got.as_flattened(), want.as_flattened(), ROUNDINGS);
        near::<f64>("virial", virial.as_flattened(), strain[0].as_flattened(), ROUNDINGS);
    }
}

/// Of the largest result; sums have up to a hundred terms.
const ROUNDINGS: f64 = 16.0;

proptest! {
    #![proptest_config(ProptestConfig { cases: 100, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn message_kernels_equal_the_operation(case in cases()) {
        everywhere(&case);
    }
}
