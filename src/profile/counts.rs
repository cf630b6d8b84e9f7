//! Floating-point operations and bytes of each component, from the shapes.
//!
//! FLOP: a multiply-add is two, a root, a quotient or an exponential one. Bytes: arguments are read once, results and what
//! is kept for the backward are written once, weights are read once a call, from whatever cache holds them. Unfused
//! bytes are those of the same work as a chain of tensor operations that each read and write whole arrays.

use crate::clock::{Component, Part};
use crate::model::config::{Architecture, ModelConfig};
use crate::ops::message::{MessageArrays, MessageSizes};
use crate::ops::unfused::chains;
use crate::ops::unfused::counting::{Counting, There, count_with};
use crate::potential::Potential;
use crate::settings::{DeviceKind, EngineKind, Precision};

/// Which kernels run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kernels {
    /// The adjoint engine's.
    Adjoint,
    /// Batched autograd's on the processor.
    Autograd,
    /// Batched autograd's on a GPU.
    AutogradCuda,
}

impl Kernels {
    /// Those of a potential.
    pub fn of(potential: &Potential) -> Self {
        match (potential.engine(), potential.device()) {
            (EngineKind::Autograd, DeviceKind::Cpu) => Kernels::Autograd,
            (EngineKind::Autograd, DeviceKind::Cuda(_)) => Kernels::AutogradCuda,
            _ => Kernels::Adjoint,
        }
    }
}

/// Shapes that decide.
#[derive(Debug, Clone, PartialEq)]
pub struct Shapes {
    /// Atoms.
    pub n_atoms: f64,
    /// Directed edges.
    pub n_edges: f64,
    /// Times that an operation is called for all of them: batches, or tiles of large ones.
    pub n_calls: f64,
    /// Features, F.
    pub n_features: f64,
    /// Layers.
    pub n_layers: usize,
    /// Radial functions and the envelope.
    pub n_functions: f64,
    /// Functions that are evaluated for a pair: fewer where filters are splines.
    pub window: f64,
    /// Widths of the readout, input and output included.
    pub readout: Vec<f64>,
    /// Bytes of a number.
    pub number: f64,
    /// What runs.
    pub kernels: Kernels,
}

impl Shapes {
    /// Of a model; atoms, edges and calls are to be filled in. `None` for architectures that are not counted.
    pub fn new(config: &ModelConfig, kernels: Kernels, precision: Precision, window: Option<usize>) -> Option<Self> {
        let Architecture::Painn(painn) = &config.architecture else { return None };
        let n_functions = painn.radial_basis.n + 1;
        let hidden = painn.readout_hidden.iter().map(|&n| n as f64);
        Some(Shapes {
            n_atoms: 0.0,
            n_edges: 0.0,
            n_calls: 0.0,
            n_features: painn.n_features as f64,
            n_layers: painn.n_interactions,
            n_functions: n_functions as f64,
            window: window.unwrap_or(n_functions) as f64,
            readout: std::iter::once(painn.n_features as f64).chain(hidden).chain([1.0]).collect(),
            number: if precision == Precision::F32 { 4.0 } else { 8.0 },
            kernels,
        })
    }
}

/// Work of a part.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Counts {
    /// Floating-point operations.
    pub flops: f64,
    /// Bytes read and written.
    pub bytes: f64,
    /// Bytes that the unfused chain would move; 0 where nothing is fused.
    pub unfused_bytes: f64,
}

impl std::ops::AddAssign for Counts {
    fn add_assign(&mut self, other: Counts) {
        self.flops += other.flops;
        self.bytes += other.bytes;
        self.unfused_bytes += other.unfused_bytes;
    }
}

/// Work of a part in one evaluation of forces; `None` where it is not arithmetic on arrays of known shape.
pub fn counts(s: &Shapes, part: Part) -> Option<Counts> {
    let layer = usize::from(part.layer.unwrap_or(0));
    let out = match (part.component, s.kernels == Kernels::Adjoint) {
        (Component::EdgeGeometry, true) => s.pairs(),
        (Component::EdgeGeometry, false) => Counts { flops: 18.0 * s.n_edges, bytes: 104.0 * s.n_edges, ..s.none() },
        (Component::EdgeGeometryVjp, true) => s.pairs_vjp(),
        (Component::EdgeGeometryVjp, false) => Counts { flops: 40.0 * s.n_edges, bytes: 112.0 * s.n_edges, ..s.none() },
        (Component::RadialBasis, _) => s.radial_basis(),
        (Component::RadialBasisVjp, _) => s.radial_basis_vjp(),
        (Component::Context, _) => s.context(),
        (Component::ContextVjp, _) => s.context_vjp(),
        (Component::Filters, _) => s.filters(1.0),
        // Computed by receiver and by sender again; then their cotangents meet the weights.
        (Component::FiltersVjp, _) => s.filters(3.0),
        (Component::Message, true) => s.fused_message(layer),
        (Component::Message, false) if s.kernels == Kernels::AutogradCuda => s.cuda_message(),
        (Component::Message, false) => s.message(),
        (Component::MessageVjp, true) => s.fused_message_vjp(layer),
        (Component::MessageVjp, false) if s.kernels == Kernels::AutogradCuda => s.cuda_message_vjp(),
        (Component::MessageVjp, false) => s.message_vjp(),
        (Component::Update, _) => s.update(layer),
        (Component::UpdateVjp, _) => s.update_vjp(layer),
        (Component::Readout, _) => s.readout(),
        (Component::ReadoutVjp, _) => s.readout_vjp(),
        _ => return None,
    };
    Some(out)
}

/// What is computed together under a part's name.
pub fn fused(component: Component, kernels: Kernels) -> &'static [&'static str] {
    match (component, kernels) {
        (_, Kernels::Autograd) => &[],
        (Component::EdgeGeometry, Kernels::Adjoint) => &["edge_geometry", "radial_basis"],
        (Component::Message, _) => &["filters", "message"],
        (Component::MessageVjp, Kernels::Adjoint) => &["filters", "filters_vjp", "message_vjp", "radial_basis_vjp"],
        (Component::MessageVjp, Kernels::AutogradCuda) => &["filters", "filters_vjp", "message_vjp"],
        _ => &[],
    }
}

impl Shapes {
    fn none(&self) -> Counts {
        Counts::default()
    }

    fn is_last(&self, layer: usize) -> bool {
        self.kernels == Kernels::Adjoint && layer + 1 == self.n_layers
    }

    /// Products of `rows` of `n_in` numbers, arrays left out.
    fn dense(&self, rows: f64, n_in: f64, n_out: f64) -> Counts {
        let bytes = self.n_calls * n_in * n_out * self.number;
        Counts { flops: 2.0 * rows * n_in * n_out, bytes, unfused_bytes: 0.0 }
    }

    /// Adds element-wise operations and numbers moved, both by atom and feature.
    fn by_feature(&self, mut counts: Counts, flops: f64, numbers: f64) -> Counts {
        counts.flops += flops * self.n_atoms * self.n_features;
        counts.bytes += numbers * self.n_atoms * self.n_features * self.number;
        counts
    }

    /// Geometry and radial functions of every pair, each pair once.
    fn pairs(&self) -> Counts {
        let n_pairs = self.n_edges / 2.0;
        let is_spline = self.window < self.n_functions;
        // Splines by Horner's scheme with their derivatives: 5 steps of 2 multiply-adds for each.
        let functions = if is_spline { 22.0 * self.window } else { 12.0 * self.n_functions };
        let written = 16.0 + (3.0 + 2.0 * self.window) * self.number;
        Counts {
            flops: n_pairs * (17.0 + functions),
            bytes: n_pairs * (48.0 + written) + 12.0 * self.n_edges,
            // By edge: geometry written and read, each function and its derivative written.
            unfused_bytes: self.n_edges * (104.0 + 32.0 + (1.0 + 2.0 * self.n_functions) * self.number),
        }
    }

    fn pairs_vjp(&self) -> Counts {
        let bytes = self.n_edges * (4.0 + 4.0 * self.number + 48.0) + 24.0 * self.n_atoms;
        Counts { flops: 40.0 * self.n_edges, bytes, unfused_bytes: 0.0 }
    }

    fn radial_basis(&self) -> Counts {
        let flops = 8.0 * self.n_edges * self.n_functions;
        Counts { flops, bytes: self.n_edges * (1.0 + self.n_functions) * self.number, unfused_bytes: 0.0 }
    }

    fn radial_basis_vjp(&self) -> Counts {
        let flops = 12.0 * self.n_edges * self.n_functions;
        Counts { flops, bytes: self.n_edges * (2.0 + self.n_functions) * self.number, unfused_bytes: 0.0 }
    }

    fn context(&self) -> Counts {
        let f = self.n_features;
        let mut out = self.dense(self.n_atoms, f, f);
        out += self.dense(self.n_atoms, f, 3.0 * f);
        // SiLU and its slope; scalars in, slopes and context out.
        self.by_feature(out, 8.0, 5.0)
    }

    fn context_vjp(&self) -> Counts {
        let f = self.n_features;
        let mut out = self.dense(self.n_atoms, 3.0 * f, f);
        out += self.dense(self.n_atoms, f, f);
        // Context's cotangents and slopes in, scalars' in and out.
        self.by_feature(out, 2.0, 6.0)
    }

    /// `n` products of edge features and filter weights.
    fn filters(&self, n: f64) -> Counts {
        let (k, f) = (self.n_functions, self.n_features);
        let weights = self.n_calls * 3.0 * f * k;
        let flops = 2.0 * n * self.n_edges * k * 3.0 * f;
        Counts { flops, bytes: n * (self.n_edges * (k + 3.0 * f) + weights) * self.number, unfused_bytes: 0.0 }
    }

    /// By edge and feature 16 operations; 3 filters, and by atom 6 numbers in and 4 out.
    fn message(&self) -> Counts {
        let by_edge = self.n_edges * (3.0 * self.n_features + 3.0) * self.number;
        let out = Counts { flops: 16.0 * self.n_edges * self.n_features, bytes: by_edge, unfused_bytes: 0.0 };
        self.by_feature(out, 0.0, 10.0)
    }

    fn message_vjp(&self) -> Counts {
        // Two passes, by edge and by sender: each reads filters; cotangents of filters are written.
        let by_edge = self.n_edges * (9.0 * self.n_features + 10.0) * self.number;
        let out = Counts { flops: 48.0 * self.n_edges * self.n_features, bytes: by_edge, unfused_bytes: 0.0 };
        self.by_feature(out, 0.0, 16.0)
    }

    /// Filters and both directions of every pair. The first layer has no vectors and two filters.
    fn fused_message(&self, layer: usize) -> Counts {
        let (n_pairs, f) = (self.n_edges / 2.0, self.n_features);
        let (filters, direction, nodes) = if layer == 0 { (2.0, 9.0, 7.0) } else { (3.0, 16.0, 11.0) };
        let out = Counts {
            flops: n_pairs * f * (2.0 * filters * self.window + 2.0 * direction),
            bytes: n_pairs * (12.0 + (3.0 + self.window) * self.number),
            unfused_bytes: self.unfused(chains::message),
        };
        self.by_feature(out, 0.0, nodes)
    }

    fn fused_message_vjp(&self, layer: usize) -> Counts {
        let (n_pairs, f) = (self.n_edges / 2.0, self.n_features);
        // Filters and their derivatives; by direction the cotangents of context, vectors, distance and direction.
        let (filters, direction, nodes) = if layer == 0 { (2.0, 18.0, 6.0) } else { (3.0, 48.0, 16.0) };
        let out = Counts {
            flops: n_pairs * f * (4.0 * filters * self.window + 2.0 * direction),
            bytes: n_pairs * (12.0 + (11.0 + 2.0 * self.window) * self.number),
            unfused_bytes: self.unfused(chains::message_vjp),
        };
        self.by_feature(out, 0.0, nodes)
    }

    /// Bytes of a message's chain of elementary operations, forward or VJP: what an atom, an edge and a call add to it.
    fn unfused(&self, chain: fn(&mut Counting, &MessageSizes, &MessageArrays<There>)) -> f64 {
        let [n_features, n_edge_features] = [self.n_features, self.n_functions].map(|n| n as u32);
        let numbers = |n_atoms, n_edges| {
            let s = MessageSizes { n_atoms, n_edges, n_features, n_edge_features };
            count_with(&s, |array| array.name != "bias", chain).numbers
        };
        let call = numbers(0, 0);
        let [atom, edge] = [numbers(1, 0), numbers(0, 1)].map(|one| one - call);
        (self.n_atoms * atom + self.n_edges * edge + self.n_calls * call) * self.number
    }

    /// By edge, with the filter in registers: basis and geometry in, a sender's number.
    fn cuda_message(&self) -> Counts {
        let (k, f) = (self.n_functions, self.n_features);
        let weights = self.n_calls * 3.0 * f * k;
        let out = Counts {
            flops: self.n_edges * f * (6.0 * k + 16.0),
            bytes: 4.0 * self.n_edges + (self.n_edges * (k + 4.0) + weights) * self.number,
            unfused_bytes: self.unfused(chains::message),
        };
        self.by_feature(out, 0.0, 10.0)
    }

    /// The filter once more, and its cotangent times the weights; cotangents of basis and geometry out.
    fn cuda_message_vjp(&self) -> Counts {
        let (k, f) = (self.n_functions, self.n_features);
        let weights = self.n_calls * 3.0 * f * k;
        let out = Counts {
            flops: self.n_edges * f * (12.0 * k + 48.0),
            bytes: 8.0 * self.n_edges + (self.n_edges * (2.0 * k + 8.0) + weights) * self.number,
            unfused_bytes: self.unfused(chains::message_vjp),
        };
        self.by_feature(out, 0.0, 16.0)
    }

    fn update(&self, layer: usize) -> Counts {
        let (a, f) = (self.n_atoms, self.n_features);
        let n_gates = if self.is_last(layer) { 2.0 } else { 3.0 };
        let mut out = self.dense(3.0 * a, f, 2.0 * f);
        out += self.dense(a, 2.0 * f, f);
        out += self.dense(a, f, n_gates * f);
        // Norms and products 12, SiLU 8, gates 8; scalars and vectors in and out, mixed vectors, norms, products, slopes
        // and gates kept.
        self.by_feature(out, 28.0, 8.0 + 6.0 + 3.0 + n_gates)
    }

    fn update_vjp(&self, layer: usize) -> Counts {
        let (a, f) = (self.n_atoms, self.n_features);
        let n_gates = if self.is_last(layer) { 2.0 } else { 3.0 };
        let mut out = self.dense(a, n_gates * f, f);
        out += self.dense(a, f, 2.0 * f);
        out += self.dense(3.0 * a, 2.0 * f, f);
        self.by_feature(out, 50.0, 8.0 + 6.0 + 3.0 + n_gates)
    }

    fn readout(&self) -> Counts {
        let mut out = self.none();
        for layer in self.readout.windows(2) {
            out += self.dense(self.n_atoms, layer[0], layer[1]);
            out.bytes += self.n_atoms * layer[1] * self.number;
        }
        self.by_feature(out, 0.0, 1.0)
    }

    fn readout_vjp(&self) -> Counts {
        self.readout()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shapes(kernels: Kernels) -> Shapes {
        Shapes {
            n_atoms: 10.0,
            n_edges: 120.0,
            n_calls: 2.0,
            n_features: 128.0,
            n_layers: 3,
            n_functions: 21.0,
            window: 6.0,
            readout: vec![128.0, 64.0, 1.0],
            number: 4.0,
            kernels,
        }
    }

    fn flops(s: &Shapes, component: Component, layers: std::ops::Range<usize>) -> f64 {
        layers.filter_map(|l| counts(s, Part::layer(component, l))).map(|c| c.flops).sum()
    }

    /// 80 F² an atom in each direction: the first layer's context is a table, the last one's vectors are not updated.
    #[test]
    fn dense_layers_of_the_adjoint_engine_take_160_flop_an_atom_and_squared_feature() {
        let s = shapes(Kernels::Adjoint);
        let square = s.n_atoms * s.n_features * s.n_features;
        for (context, update) in
            [(Component::Context, Component::Update), (Component::ContextVjp, Component::UpdateVjp)]
        {
            let got = flops(&s, context, 1..3) + flops(&s, update, 0..3);
            assert!((80.0..84.0).contains(&(got / square)), "{}", got / square);
        }
    }

    #[test]
    fn work_by_edge_grows_with_edges_and_fusing_saves_bytes() {
        let (s, mut twice) = (shapes(Kernels::Adjoint), shapes(Kernels::Adjoint));
        twice.n_edges *= 2.0;
        for component in [Component::EdgeGeometry, Component::Message, Component::MessageVjp] {
            let (one, two) = (counts(&s, component.into()).unwrap(), counts(&twice, component.into()).unwrap());
            assert!(two.flops == 2.0 * one.flops && one.unfused_bytes > 2.0 * one.bytes, "{component:?}: {one:?}");
        }
        assert!(counts(&s, Component::NeighborSearch.into()).is_none());
    }

    /// What the CUDA kernel fuses is what the processor's operations do under two names.
    #[test]
    fn message_on_a_gpu_is_filters_and_message_in_one() {
        let (cpu, gpu) = (shapes(Kernels::Autograd), shapes(Kernels::AutogradCuda));
        let count = |s: &Shapes, component: Component| counts(s, component.into()).unwrap();
        let parts = [count(&cpu, Component::Filters), count(&cpu, Component::Message)];
        let message = count(&gpu, Component::Message);
        approx::assert_relative_eq!(message.flops, parts[0].flops + parts[1].flops);
        assert!(message.bytes < parts[0].bytes + parts[1].bytes && message.unfused_bytes > 2.0 * message.bytes);
        // The processor computes filters twice in the backward.
        let parts = [count(&cpu, Component::FiltersVjp), count(&cpu, Component::MessageVjp)];
        let vjp = count(&gpu, Component::MessageVjp);
        approx::assert_relative_eq!(vjp.flops, parts[0].flops * 2.0 / 3.0 + parts[1].flops);
        assert!(vjp.bytes < parts[0].bytes + parts[1].bytes);
        assert!(fused(Component::Message, Kernels::Autograd).is_empty());
        assert_eq!(fused(Component::Message, Kernels::AutogradCuda), ["filters", "message"]);
    }
}
