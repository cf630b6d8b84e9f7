//! Arrays with plausible values, for calibrations, tests and benchmarks.

pub mod cases;

use super::table::{Array, Element, Operation};
use super::{Real, Topology, count};
use crate::settings::Precision;

/// Edges that an atom receives, in a molecule of some 20 atoms within 5 Å.
pub const EDGES_PER_ATOM: usize = 16;

/// Number `k` of a sequence that is the same in every run, between -0.5 and 0.5.
pub fn small(k: usize) -> f64 {
    (k * 7919 % 2003) as f64 / 2003.0 - 0.5
}

/// Atoms on a ring, each with [`EDGES_PER_ATOM`] edges to the nearest, more than once around a ring that is small, as in a
/// small periodic cell.
pub fn ring(n_edges: usize) -> Topology {
    let n = n_edges.div_ceil(EDGES_PER_ATOM);
    let mut out = Topology { edge_ptr: vec![0], ..Topology::default() };
    for i in 0..n {
        for k in 0..EDGES_PER_ATOM {
            let distance = k / 2 + 1;
            let j = if k % 2 == 0 { (i + distance) % n } else { (i + n * distance - distance) % n };
            out.receivers.push(count(i));
            out.senders.push(count(j));
            out.reverse_edge.push(count(j * EDGES_PER_ATOM + (k ^ 1)));
        }
        out.edge_ptr.push(count(out.receivers.len()));
    }
    out
}

/// An operation's arrays on the host.
#[derive(Debug, Clone)]
pub struct Example<O> {
    /// Its sizes.
    pub sizes: O,
    values: Vec<(Array, Vec<f64>)>,
}

impl<O: Operation> Example<O> {
    /// `fill` may give the values of an array; no values stand for an absent one. Otherwise indices are those of `topology`,
    /// all others zero, and numbers [`small`].
    pub fn new(sizes: O, topology: &Topology, mut fill: impl FnMut(&Array) -> Option<Vec<f64>>) -> Self {
        let of_topology = |name: &str| match name {
            "edge_ptr" => Some(&topology.edge_ptr),
            "receivers" => Some(&topology.receivers),
            "senders" => Some(&topology.senders),
            "reverse_edge" => Some(&topology.reverse_edge),
            _ => None,
        };
        let mut values_of = |array: &Array| match (fill(array), array.element) {
            (Some(values), _) => values,
            (None, Element::U32) => match of_topology(array.name) {
                Some(indices) => indices.iter().map(|&x| f64::from(x)).collect(),
                None => vec![0.0; array.len()],
            },
            (None, _) => (0..array.len()).map(small).collect(),
        };
        let values = sizes.table().into_iter().map(|array| (array, values_of(&array))).collect();
        Example { sizes, values }
    }

    /// Values of an array in f64; none where it is absent.
    pub fn get(&self, name: &str) -> &[f64] {
        self.values.iter().find(|(array, _)| array.name == name).map_or(&[], |(_, values)| values)
    }

    /// Values of an array, rounded.
    pub fn numbers<T: Real>(&self, name: &str) -> Vec<T> {
        self.get(name).iter().map(|&x| T::of(x)).collect()
    }

    /// Puts every array somewhere: `put` gets its bytes, and says where they are. Absent ones have the address 0.
    ///
    /// # Errors
    /// Those of `put`.
    pub fn upload<E>(
        &self,
        precision: Precision,
        mut put: impl FnMut(&[u8]) -> Result<u64, E>,
    ) -> Result<O::Arrays<u64>, E> {
        let bytes = |(array, values): &(Array, Vec<f64>)| -> Vec<u8> {
            let values = values.iter();
            match (array.element, precision) {
                (Element::U32, _) => values.flat_map(|&x| (x as u32).to_ne_bytes()).collect(),
                (Element::Real, Precision::F32) => values.flat_map(|&x| (x as f32).to_ne_bytes()).collect(),
                _ => values.flat_map(|&x| x.to_ne_bytes()).collect(),
            }
        };
        let mut at = Vec::with_capacity(self.values.len());
        for array in &self.values {
            at.push(if array.1.is_empty() { 0 } else { put(&bytes(array))? });
        }
        let mut at = at.into_iter();
        Ok(self.sizes.arrays(|_| at.next().unwrap_or_default()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn example_edges_are_sorted_and_have_their_reverse() {
        for n_edges in [16, 64, 1024] {
            let t = ring(n_edges);
            for e in 0..t.n_edges() {
                let r = t.reverse_edge[e] as usize;
                assert_eq!((t.receivers[e], t.senders[e]), (t.senders[r], t.receivers[r]));
                assert!(t.edges_of(t.receivers[e] as usize).contains(&e) && t.reverse_edge[r] as usize == e);
            }
        }
    }
}
