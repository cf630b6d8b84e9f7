//! What the tests of this crate share: comparison, finite differences, reproducible numbers, small topologies.

mod random;

use crate::ops::Topology;
pub use random::Random;

/// Panics unless every `got` is within `absolute + relative * |want|` of `want`; NaN is never close to anything.
///
/// Prints the worst element with both values.
#[track_caller]
pub fn assert_close(what: &str, got: &[f64], want: &[f64], absolute: f64, relative: f64) {
    if let Some(message) = difference(what, got, want, absolute, relative) {
        panic!("{message}");
    }
}

fn difference(what: &str, got: &[f64], want: &[f64], absolute: f64, relative: f64) -> Option<String> {
    if got.len() != want.len() {
        return Some(format!("{what}: {} values, expected {}", got.len(), want.len()));
    }
    let excess = |g: f64, w: f64| {
        let excess = (g - w).abs() - (absolute + relative * w.abs());
        if excess.is_nan() { f64::INFINITY } else { excess }
    };
    let worst = (0..got.len()).max_by(|&a, &b| excess(got[a], want[a]).total_cmp(&excess(got[b], want[b])))?;
    (excess(got[worst], want[worst]) > 0.0).then(|| {
        format!(
            "{what}[{worst}]: got {:e}, expected {:e}, difference {:e}, allowed {:e}",
            got[worst],
            want[worst],
            got[worst] - want[worst],
            absolute + relative * want[worst].abs()
        )
    })
}

/// Checks a VJP in f64 against central finite differences, with a random cotangent.
#[track_caller]
pub fn assert_vjp(x: &[f64], forward: impl Fn(&[f64]) -> Vec<f64>, vjp: impl Fn(&[f64]) -> Vec<f64>) {
    let n_out = forward(x).len();
    let cotangent = Random::new(77).array(n_out, 1.0);
    let got = vjp(&cotangent);
    let step = 1e-5;
    let mut shifted = x.to_vec();
    let want: Vec<f64> = (0..x.len())
        .map(|k| {
            let mut contract = |delta: f64| -> f64 {
                shifted[k] = x[k] + delta;
                let out = forward(&shifted);
                shifted[k] = x[k];
                out.iter().zip(&cotangent).map(|(a, b)| a * b).sum()
            };
            // Five points: the error of the quotient is O(step⁴).
            let (far, near) = (contract(2.0 * step) - contract(-2.0 * step), contract(step) - contract(-step));
            (8.0 * near - far) / (12.0 * step)
        })
        .collect();
    assert_close("vjp", &got, &want, 2e-8, 2e-8);
}

/// Every atom of a ring sends to its two neighbours; 2 atoms share two edges.
pub fn ring(n_atoms: usize) -> Topology {
    let n = n_atoms as u32;
    let mut pairs: Vec<(u32, u32)> = (0..n).map(|i| (i, (i + 1) % n)).filter(|(i, j)| i != j).collect();
    pairs.extend(pairs.clone().iter().map(|&(i, j)| (j, i)));
    pairs.sort_unstable();
    pairs.dedup();
    of_edges(n_atoms, &pairs)
}

/// `n_pairs` random pairs among `n_atoms` atoms, at most one between any two; some atoms have none.
pub fn random_topology(n_atoms: usize, n_pairs: usize, seed: u64) -> Topology {
    let (n, mut random) = (n_atoms as u32, Random::new(seed));
    let mut atom = || ((0.5 * random.next() + 0.5) * f64::from(n)) as u32 % n;
    let mut edges: Vec<(u32, u32)> =
        (0..n_pairs).map(|_| (atom(), atom())).filter(|(i, j)| i != j).flat_map(|(i, j)| [(i, j), (j, i)]).collect();
    edges.sort_unstable();
    edges.dedup();
    of_edges(n_atoms, &edges)
}

/// Of (receiver, sender), sorted, each with its reverse.
fn of_edges(n_atoms: usize, edges: &[(u32, u32)]) -> Topology {
    let reverse = |&(i, j): &(u32, u32)| edges.binary_search(&(j, i)).unwrap_or(0) as u32;
    Topology {
        receivers: edges.iter().map(|e| e.0).collect(),
        senders: edges.iter().map(|e| e.1).collect(),
        edge_ptr: (0..=n_atoms as u32).map(|i| edges.partition_point(|e| e.0 < i) as u32).collect(),
        reverse_edge: edges.iter().map(reverse).collect(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn assert_close_refuses_what_it_should() {
        assert!(difference("", &[-1.0], &[-1.0 - 1e-9], 0.0, 1e-8).is_none());
        for (got, want) in [(-1.0, -1.1), (-1.0, 1.0), (f64::NAN, 1.0), (1.0, f64::NAN), (f64::INFINITY, 1.0)] {
            assert!(difference("", &[got], &[want], 1e-8, 1e-8).is_some(), "{got} {want}");
        }
        assert!(difference("", &[1.0], &[1.0, 2.0], 1.0, 1.0).is_some());
        let message = difference("x", &[0.0, -3.0, 0.1], &[0.0, -1.0, 0.0], 0.0, 0.0).unwrap();
        assert!(message.starts_with("x[1]: got -3"), "{message}");
    }
}
