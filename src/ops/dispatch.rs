//! The operations in either variant. What chooses is the caller's cost model.

#![allow(clippy::too_many_arguments)] // those of the operations, and the variant

use super::dense::{Activation, Linear};
use super::message::{MessageGrads, MessageInputs};
use super::radial_basis::RadialBasis;
use super::update::{GateGrads, GateInputs};
use super::{Real, Topology, unfused};
use crate::ops::choice::Variant;
use crate::structure::{Mat3, Vec3};

macro_rules! either {
    ($($module:ident::$name:ident $(<$t:ident>)? ($($arg:ident: $type:ty),* $(,)?);)*) => { $(
        #[doc = concat!("See [`crate::ops::", stringify!($module), "::", stringify!($name), "`].")]
        pub fn $name $(<$t: Real>)? (variant: Variant, $($arg: $type),*) {
            match variant {
                Variant::Fused => super::$module::$name($($arg),*),
                Variant::Unfused => unfused::$name($($arg),*),
            }
        }
    )* };
}

either! {
    radial_basis::radial_basis<T>(functions: &RadialBasis, cutoff: f64, distances: &[T], basis: &mut [T]);
    radial_basis::radial_basis_vjp<T>(
        functions: &RadialBasis,
        cutoff: f64,
        distances: &[T],
        grad_basis: &[T],
        grad_distances: &mut [T],
    );
    edge_geometry::edge_geometry(
        topology: &Topology,
        positions: &[Vec3],
        offsets: &[Vec3],
        strain: &[Mat3],
        structure_of: &[u32],
        epsilon: f64,
        geometry: &mut [[f64; 4]],
    );
    edge_geometry::edge_geometry_vjp(
        topology: &Topology,
        geometry: &[[f64; 4]],
        structure_of: &[u32],
        epsilon: f64,
        grad_geometry: &[[f64; 4]],
        grad_positions: &mut [Vec3],
        grad_strain: &mut [Mat3],
    );
    dense::dense<T>(
        layer: &Linear<T>,
        activation: Activation,
        x: &[T],
        y: &mut [T],
        pre_activation: Option<&mut [T]>,
    );
    dense::dense_vjp<T>(
        layer: &Linear<T>,
        activation: Activation,
        pre_activation: &[T],
        grad_y: &[T],
        grad_x: &mut [T],
    );
    dense::dense_residual<T>(
        layer: &Linear<T>,
        activation: Activation,
        x: &[T],
        residual: &[T],
        y: &mut [T],
        pre_activation: &mut [T],
    );
    dense::dense_residual_vjp<T>(
        layer: &Linear<T>,
        activation: Activation,
        pre_activation: &[T],
        grad_y: &[T],
        grad_x: &mut [T],
        grad_residual: &mut [T],
    );
    dense::activation_dense<T>(layer: &Linear<T>, activation: Activation, x: &[T], y: &mut [T]);
    dense::activation_dense_vjp<T>(
        layer: &Linear<T>,
        activation: Activation,
        x: &[T],
        grad_y: &[T],
        grad_x: &mut [T],
    );
    dense::mlp<T>(layers: [&Linear<T>; 2], x: &[T], y: &mut [T], pre_activation: Option<&mut [T]>);
    dense::mlp_vjp<T>(layers: [&Linear<T>; 2], pre_activation: &[T], grad_y: &[T], grad_x: &mut [T]);
    message::message<T>(topology: &Topology, inputs: &MessageInputs<T>, sums: &mut [T]);
    message::message_vjp<T>(
        topology: &Topology,
        inputs: &MessageInputs<T>,
        grad_sums: &[T],
        grads: &mut MessageGrads<T>,
    );
    update::update_invariants<T>(n_features: usize, epsilon: f64, mixed: &[T], invariants: &mut [T]);
    update::update_invariants_vjp<T>(
        n_features: usize,
        mixed: &[T],
        invariants: &[T],
        grad_invariants: &[T],
        grad_mixed: &mut [T],
    );
    update::update_gate<T>(inputs: &GateInputs<T>, change: &mut [T]);
    update::update_gate_vjp<T>(inputs: &GateInputs<T>, grad_change: &[T], grads: &mut GateGrads<T>);
}
