//! MLFF-Distiller students: which tensors they have, and their weights ready for an engine.
//!
//! Source: github.com/atfrank/MLFF-Distiller (MIT). Its filters are a two-layer network of the enveloped basis, its
//! messages have no context network, and its update mixes Cartesian components by a 3×3 matrix.

use std::sync::Arc;

use crate::error::{Error, Result};
use crate::ops::Real;
use crate::ops::dense::Linear;
use crate::ops::radial_basis::RadialBasis;

use super::config::{DistillerConfig, ModelConfig};
use super::painn;
use super::weights::Weights;

/// Names and shapes of all tensors of an MLFF-Distiller student's model directory.
pub fn tensors(config: &ModelConfig, distiller: &DistillerConfig) -> Vec<(String, Vec<usize>)> {
    let (f, n_rbf) = (distiller.n_features, distiller.radial_basis.n);
    let mut out = vec![("embedding".to_string(), vec![config.species.len(), f])];
    out.extend(painn::radial_basis_tensors(distiller.radial_basis.kind, n_rbf));
    let mut linear = |name: String, n_out: usize, n_in: usize| {
        out.push((format!("{name}.weight"), vec![n_out, n_in]));
        out.push((format!("{name}.bias"), vec![n_out]));
    };
    for l in 0..distiller.n_interactions {
        linear(format!("interactions.{l}.filters.0"), f, n_rbf);
        linear(format!("interactions.{l}.filters.1"), 3 * f, f);
        linear(format!("interactions.{l}.update.0"), f, 2 * f);
        linear(format!("interactions.{l}.update.1"), 3 * f, f);
    }
    let mut n_in = f;
    for (k, &n_out) in distiller.readout_hidden.iter().chain(&[1]).enumerate() {
        linear(format!("readout.{k}"), n_out, n_in);
        n_in = n_out;
    }
    // The last layer's vectors do not reach the energy, so it has no mixing matrix.
    out.extend((0..distiller.n_interactions - 1).map(|l| (format!("interactions.{l}.update.mixing"), vec![3, 3])));
    out
}

/// Weights of an MLFF-Distiller student in the type of an evaluation. F is the number of features.
#[derive(Debug, Clone)]
pub struct Distiller<T> {
    /// F.
    pub n_features: usize,
    /// Cutoff, Å.
    pub cutoff: f64,
    /// Added to the distance when directions are normalised, Å.
    pub direction_epsilon: f64,
    /// Initial scalars of each species, `[n_species, F]`.
    pub embedding: Vec<T>,
    /// Radial basis.
    pub radial_basis: RadialBasis,
    /// Layers.
    pub layers: Vec<DistillerLayer<T>>,
    /// Readout's layers, SiLU between them.
    pub readout: Vec<Arc<Linear<T>>>,
}

/// Weights of one layer of an MLFF-Distiller student.
#[derive(Debug, Clone)]
pub struct DistillerLayer<T> {
    /// Filters: n_rbf + 1 → F, SiLU, F → 3F (scalars, directions, vectors). The envelope's column, which
    /// the basis brings along, has zero weight.
    pub filters: [Arc<Linear<T>>; 2],
    /// Intra-atomic context: 2F → F, SiLU, F → 3F (scalars, vectors, mixed vectors).
    pub update: [Arc<Linear<T>>; 2],
    /// Acts on Cartesian components, row-major; absent in the last layer.
    pub mixing: Option<Vec<T>>,
}

impl<T: Real> Distiller<T> {
    /// Converts validated weights.
    ///
    /// # Errors
    /// `Error::Usage` if a tensor is missing, which validation excludes.
    pub fn new(config: &ModelConfig, distiller: &DistillerConfig, weights: &Weights) -> Result<Self> {
        let RadialBasis::Gaussian { centers, widths } = painn::radial_basis(distiller.radial_basis.kind, weights)?
        else {
            return Err(Error::Usage("mlff-distiller needs a Gaussian basis".into()));
        };
        let layers = (0..distiller.n_interactions)
            .map(|l| {
                let linear = |name: &str| weights.linear(&format!("interactions.{l}.{name}")).map(Arc::new);
                let mixing = format!("interactions.{l}.update.mixing");
                Ok(DistillerLayer {
                    filters: [Arc::new(with_zero_column(&*linear("filters.0")?)), linear("filters.1")?],
                    update: [linear("update.0")?, linear("update.1")?],
                    mixing: if weights.0.contains_key(&mixing) { Some(weights.cast(&mixing)?) } else { None },
                })
            })
            .collect::<Result<_>>()?;
        Ok(Distiller {
            n_features: distiller.n_features,
            cutoff: config.cutoff,
            direction_epsilon: distiller.direction_epsilon,
            embedding: weights.cast("embedding")?,
            // exp(−(d − µ)²/w²) = exp(−½ ((d − µ) / (w/√2))²)
            radial_basis: RadialBasis::Gaussian {
                centers,
                widths: widths.iter().map(|w| w * std::f64::consts::FRAC_1_SQRT_2).collect(),
            },
            layers,
            readout: painn::readout(distiller.readout_hidden.len(), weights)?,
        })
    }
}

fn with_zero_column<T: Real>(layer: &Linear<T>) -> Linear<T> {
    let mut weight = Vec::with_capacity(layer.n_out * (layer.n_in + 1));
    for row in layer.weight.chunks_exact(layer.n_in) {
        weight.extend_from_slice(row);
        weight.push(T::zero());
    }
    Linear { weight, bias: layer.bias.clone(), n_in: layer.n_in + 1, n_out: layer.n_out }
}
