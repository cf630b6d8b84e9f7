//! PaiNN: which tensors it has, and its weights ready for an engine.

use std::sync::Arc;

use crate::error::Result;
use crate::ops::Real;
use crate::ops::dense::{Activation, Linear, dense};
use crate::ops::radial_basis::RadialBasis;

use super::config::{ModelConfig, PainnConfig, RadialBasisKind};
use super::weights::Weights;

/// Names and shapes of all tensors of a PaiNN's model directory.
pub fn tensors(config: &ModelConfig, painn: &PainnConfig) -> Vec<(String, Vec<usize>)> {
    let (f, n_rbf) = (painn.n_features, painn.radial_basis.n);
    let n_layers = if painn.shared_interactions { 1 } else { painn.n_interactions };
    let n_filters = if painn.shared_filters { 1 } else { painn.n_interactions };
    let mut out = vec![("embedding".to_string(), vec![config.species.len(), f])];
    out.extend(radial_basis_tensors(painn.radial_basis.kind, n_rbf));
    let mut linear = |name: String, n_out: usize, n_in: usize, bias: bool| {
        out.push((format!("{name}.weight"), vec![n_out, n_in]));
        if bias {
            out.push((format!("{name}.bias"), vec![n_out]));
        }
    };
    linear("filters".into(), n_filters * 3 * f, n_rbf, true);
    for l in 0..n_layers {
        linear(format!("interactions.{l}.message.0"), f, f, true);
        linear(format!("interactions.{l}.message.1"), 3 * f, f, true);
        linear(format!("interactions.{l}.update.mix"), 2 * f, f, false);
        linear(format!("interactions.{l}.update.0"), f, 2 * f, true);
        linear(format!("interactions.{l}.update.1"), 3 * f, f, true);
    }
    let mut n_in = f;
    for (k, &n_out) in painn.readout_hidden.iter().chain(&[1]).enumerate() {
        linear(format!("readout.{k}"), n_out, n_in, true);
        n_in = n_out;
    }
    out
}

/// Tensors of a radial basis.
pub(super) fn radial_basis_tensors(kind: RadialBasisKind, n: usize) -> Vec<(String, Vec<usize>)> {
    let names: &[&str] = match kind {
        RadialBasisKind::Gaussian => &["radial_basis.centers", "radial_basis.widths"],
        RadialBasisKind::Bessel => &["radial_basis.frequencies"],
    };
    names.iter().map(|name| (name.to_string(), vec![n])).collect()
}

/// The radial basis of a validated model.
pub(super) fn radial_basis(kind: RadialBasisKind, weights: &Weights) -> Result<RadialBasis> {
    Ok(match kind {
        RadialBasisKind::Gaussian => RadialBasis::Gaussian {
            centers: weights.cast("radial_basis.centers")?,
            widths: weights.cast("radial_basis.widths")?,
        },
        RadialBasisKind::Bessel => RadialBasis::Bessel { frequencies: weights.cast("radial_basis.frequencies")? },
    })
}

/// The readout's layers of a validated model.
pub(super) fn readout<T: Real>(n_hidden: usize, weights: &Weights) -> Result<Vec<Arc<Linear<T>>>> {
    (0..=n_hidden).map(|k| Ok(Arc::new(weights.linear(&format!("readout.{k}"))?))).collect()
}

/// Weights of a PaiNN in the type of an evaluation. F is the number of features.
#[derive(Debug, Clone)]
pub struct Painn<T> {
    /// F.
    pub n_features: usize,
    /// Cutoff, Å.
    pub cutoff: f64,
    /// Added under the root of the vectors' norm.
    pub epsilon: f64,
    /// Initial scalars of each species, `[n_species, F]`.
    pub embedding: Vec<T>,
    /// Radial basis.
    pub radial_basis: RadialBasis,
    /// For each layer the weights of its filters over (basis · envelope, envelope), `[3F, n_rbf + 1]`; the bias is the
    /// last column. With shared filters there is one entry.
    pub filters: Vec<Arc<Linear<T>>>,
    /// Layers; one entry when shared.
    pub layers: Vec<PainnLayer<T>>,
    /// Number of layers that are run.
    pub n_interactions: usize,
    /// Readout's layers, SiLU between them.
    pub readout: Vec<Arc<Linear<T>>>,
}

/// Weights of one PaiNN layer.
#[derive(Debug, Clone)]
pub struct PainnLayer<T> {
    /// Interaction context: F → F, SiLU, F → 3F.
    pub message: [Arc<Linear<T>>; 2],
    /// Mixture of the vectors' channels: F → 2F, no bias.
    pub mix: Arc<Linear<T>>,
    /// Intra-atomic context: 2F → F, SiLU, F → 3F.
    pub update: [Arc<Linear<T>>; 2],
}

impl<T: Real> Painn<T> {
    /// Converts validated weights.
    ///
    /// # Errors
    /// `Error::Usage` if a tensor is missing, which validation excludes.
    pub fn new(config: &ModelConfig, painn: &PainnConfig, weights: &Weights) -> Result<Self> {
        let f = painn.n_features;
        let all: Linear<T> = weights.linear("filters")?;
        let filters = (0..all.n_out / (3 * f)).map(|l| Arc::new(filter_rows(&all, l * 3 * f, 3 * f))).collect();
        let n_layers = if painn.shared_interactions { 1 } else { painn.n_interactions };
        let layers = (0..n_layers)
            .map(|l| {
                let linear = |name: &str| weights.linear(&format!("interactions.{l}.{name}")).map(Arc::new);
                Ok(PainnLayer {
                    message: [linear("message.0")?, linear("message.1")?],
                    mix: linear("update.mix")?,
                    update: [linear("update.0")?, linear("update.1")?],
                })
            })
            .collect::<Result<_>>()?;
        Ok(Painn {
            n_features: f,
            cutoff: config.cutoff,
            epsilon: painn.epsilon,
            embedding: weights.cast("embedding")?,
            radial_basis: radial_basis(painn.radial_basis.kind, weights)?,
            filters,
            layers,
            n_interactions: painn.n_interactions,
            readout: readout(painn.readout_hidden.len(), weights)?,
        })
    }

    /// Filters of layer `l`.
    pub fn filter(&self, l: usize) -> &Arc<Linear<T>> {
        &self.filters[l % self.filters.len()]
    }

    /// The interaction context of layer 0 for every species, `[n_species, 3F]`: it depends on nothing else.
    pub fn first_context(&self) -> Vec<T> {
        let n_species = self.embedding.len() / self.n_features;
        let [first, second] = &self.layer(0).message;
        let mut hidden = vec![T::zero(); n_species * first.n_out];
        let mut context = vec![T::zero(); n_species * second.n_out];
        dense(first, Activation::Silu, &self.embedding, &mut hidden, None);
        dense(second, Activation::Identity, &hidden, &mut context, None);
        context
    }

    /// Weights of layer `l`.
    pub fn layer(&self, l: usize) -> &PainnLayer<T> {
        &self.layers[l % self.layers.len()]
    }
}

/// Rows `first..first + n` with the bias as last column, to be applied to (basis · envelope, envelope).
fn filter_rows<T: Real>(all: &Linear<T>, first: usize, n: usize) -> Linear<T> {
    let mut weight = Vec::with_capacity(n * (all.n_in + 1));
    for row in first..first + n {
        weight.extend_from_slice(&all.weight[row * all.n_in..][..all.n_in]);
        weight.push(all.bias.as_ref().map_or(T::zero(), |bias| bias[row]));
    }
    Linear { weight, bias: None, n_in: all.n_in + 1, n_out: n }
}
