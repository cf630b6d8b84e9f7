//! Floating-point operations and bytes of a forward and a VJP, from the shapes.
//!
//! Those of the unfused chain are counted by the chain itself ([`crate::ops::unfused::counting`]); what its VJP computes anew is
//! counted again. A fused operation reads its arguments and writes its results once. Weights are read once a product. Indices
//! are left out.

use crate::ops::choice::{Pattern, Size};
use crate::ops::dense::{Activation, LayerSizes};
use crate::ops::edge_geometry::EdgeGeometrySizes;
use crate::ops::example::EDGES_PER_ATOM;
use crate::ops::message::MessageSizes;
use crate::ops::radial_basis::RadialBasisSizes;
use crate::ops::table::Operation as _;
use crate::ops::unfused::chains;
use crate::ops::unfused::counting::{self, There, count, count_with};
use crate::ops::update::{GateSizes, InvariantsSizes};

/// Radial functions of a message, and the envelope.
pub const EDGE_FEATURES: usize = 21;

/// Work of both variants.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Work {
    /// Floating-point operations of the chain.
    pub flops: f64,
    /// Bytes of the fused operation.
    pub fused_bytes: f64,
    /// Bytes of the chain.
    pub unfused_bytes: f64,
}

impl Work {
    /// `number` is the bytes of one.
    pub fn new(pattern: Pattern, size: Size, number: f64) -> Self {
        let number = if pattern == Pattern::EdgeGeometry { 8.0 } else { number };
        let chain = chain(pattern, size);
        Work {
            flops: chain.flops,
            fused_bytes: number * fused_numbers(pattern, size),
            unfused_bytes: number * chain.numbers,
        }
    }
}

/// Numbers that the fused operation moves.
fn fused_numbers(pattern: Pattern, size: Size) -> f64 {
    let (rows, w) = (size.rows as f64, size.width as f64);
    let dense = |square: f64, by_row: f64| rows * by_row * w + square * w * w;
    match pattern {
        Pattern::RadialBasis => rows * (2.0 * w + 6.0),
        Pattern::EdgeGeometry => rows * 33.0,
        Pattern::LinearSilu => dense(2.0, 7.0),
        Pattern::LinearResidualActivation => dense(2.0, 10.0),
        Pattern::ActivationLinear => dense(2.0, 6.0),
        // To three times the width.
        Pattern::Mlp => dense(8.0, 11.0),
        Pattern::Message => {
            let (k, atoms) = (EDGE_FEATURES as f64, 1.0 / EDGES_PER_ATOM as f64);
            rows * (32.0 * w * atoms + 4.0 * k + 16.0)
        }
        Pattern::Update => rows * 64.0 * w,
    }
}

/// Work of the chain, forward and VJP, on the example of a pattern.
fn chain(pattern: Pattern, size: Size) -> counting::Work {
    let [rows, w, by_atom, n_edge_features] =
        [size.rows, size.width, EDGES_PER_ATOM, EDGE_FEATURES].map(crate::ops::count);
    let n_atoms = rows.div_ceil(by_atom);
    let (n_edges, silu) = (n_atoms * by_atom, Activation::Silu);
    let layer = LayerSizes { n_rows: rows, n_in: w, n_out: w };
    match pattern {
        Pattern::RadialBasis => count(&RadialBasisSizes { n_edges: rows, n_rbf: w, stride: 1 }, |c, s, a| {
            chains::radial_basis(c, s, 0.0, a);
            chains::radial_basis_vjp(c, s, 0.0, a);
        }),
        Pattern::EdgeGeometry => count(&EdgeGeometrySizes { n_atoms, n_edges, n_structures: 1 }, |c, s, a| {
            chains::edge_geometry(c, s, 0.0, a);
            chains::edge_geometry_vjp(c, s, 0.0, a);
        }),
        Pattern::LinearSilu | Pattern::LinearResidualActivation => {
            let has_residual = pattern == Pattern::LinearResidualActivation;
            count_with(
                &layer,
                |array| has_residual || !array.name.ends_with("residual"),
                |c, s, a| {
                    chains::dense(c, s, silu, a);
                    chains::dense_vjp(c, s, silu, a);
                },
            )
        }
        Pattern::ActivationLinear => count(&layer, |c, s, a| {
            chains::activation_dense(c, s, a);
            chains::activation_dense_vjp(c, s, a);
        }),
        Pattern::Mlp => {
            let second = LayerSizes { n_out: 3 * w, ..layer };
            count_with(
                &layer,
                |array| !array.name.ends_with("residual"),
                |c, s, a| {
                    let last = second.arrays(|array| There(!array.optional || array.name == "bias"));
                    chains::mlp(c, [s, &second], [a, &last]);
                    chains::mlp_vjp(c, [s, &second], [a, &last]);
                },
            )
        }
        Pattern::Message => count_with(
            &MessageSizes { n_atoms, n_edges, n_features: w, n_edge_features },
            |array| array.name != "bias",
            |c, s, a| {
                chains::message(c, s, a);
                chains::message_vjp(c, s, a);
            },
        ),
        Pattern::Update => {
            let invariants = count(&InvariantsSizes { n_atoms: rows, n_features: w }, |c, s, a| {
                chains::update_invariants(c, s, 0.0, a);
                chains::update_invariants_vjp(c, s, a);
            });
            let gates = count(&GateSizes { n_atoms: rows, n_features: w }, |c, s, a| {
                chains::update_gate(c, s, a);
                chains::update_gate_vjp(c, s, a);
            });
            invariants + gates
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fusing_saves_bytes_and_work_grows_with_rows() {
        for pattern in Pattern::ALL {
            // Whole atoms of edges.
            let [one, ten] = [160, 1600].map(|rows| Work::new(pattern, Size { rows, width: 64 }, 4.0));
            assert!(one.fused_bytes < one.unfused_bytes && one.flops > 0.0, "{pattern:?}");
            approx::assert_relative_eq!(ten.flops, 10.0 * one.flops, max_relative = 1e-12);
        }
    }

    #[test]
    fn layer_of_known_size_is_counted() {
        // Two products of 3 × 2 × 2; x, y, saved; grad, saved, grad_x twice; weights twice.
        let work = Work::new(Pattern::LinearSilu, Size { rows: 3, width: 2 }, 4.0);
        assert_eq!(work.flops, 2.0 * 24.0 + 3.0 * 2.0 * 13.0);
        assert_eq!(work.fused_bytes, 4.0 * (3.0 * 7.0 * 2.0 + 8.0));
    }
}
