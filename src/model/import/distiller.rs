//! MLFF-Distiller: `StudentForceField`.

use serde::Deserialize;

use super::{ImportOptions, agree, move_linear, move_readout, refuse_leftovers, select_species, units};
use crate::error::{Error, Result};
use crate::model::Model;
use crate::model::config::*;
use crate::model::weights::{Array, Weights};

/// Hyperparameters, named as MLFF-Distiller names them.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Config {
    hidden_dim: Option<usize>,
    num_interactions: Option<usize>,
    num_rbf: Option<usize>,
    cutoff: f64,
    max_z: Option<usize>,
    /// Units of the training.
    energy_unit: Option<String>,
    length_unit: Option<String>,
    #[expect(dead_code, reason = "part of the files that are read, without meaning for the model")]
    learnable_rbf: Option<bool>,
    #[expect(dead_code, reason = "part of the files that are read, without meaning for the model")]
    use_torch_cluster: Option<bool>,
}

pub(super) fn convert(
    mut state: Weights,
    config: Config,
    options: &ImportOptions,
    notes: &mut Vec<String>,
) -> Result<Model> {
    let mut weights = Weights::default();
    let embedding = state.0.remove("embedding.weight").ok_or_else(|| {
        Error::Usage(format!(
            "no MLFF-Distiller student: tensor embedding.weight is missing; there are {}",
            state.some_names()
        ))
    })?;
    if let Some(rows) = embedding.shape.first() {
        agree("max_z", config.max_z, rows.saturating_sub(1))?;
    }
    let (species, embedding) = select_species(&embedding, options.species.as_deref(), notes)?;
    let f = agree("hidden_dim", config.hidden_dim, embedding.shape[1])?;
    weights.put("embedding", embedding);
    let mut n_rbf = 0;
    for name in ["centers", "widths"] {
        let array = state
            .0
            .remove(&format!("rbf.{name}"))
            .ok_or_else(|| Error::Usage(format!("tensor rbf.{name} is missing")))?;
        n_rbf = array.data.len();
        weights.put(format!("radial_basis.{name}"), array);
    }
    let n_rbf = agree("num_rbf", config.num_rbf, n_rbf)?;

    let n_layers =
        (0..).take_while(|l| state.0.contains_key(&format!("interactions.{l}.update.update_mlp.0.weight"))).count();
    let n_interactions = agree("num_interactions", config.num_interactions, n_layers)?;
    for l in 0..n_layers {
        let from = format!("interactions.{l}");
        move_linear(
            &mut state,
            &format!("{from}.message.rbf_to_scalar.0"),
            &mut weights,
            &format!("{from}.filters.0"),
        )?;
        move_linear(
            &mut state,
            &format!("{from}.message.rbf_to_scalar.2"),
            &mut weights,
            &format!("{from}.filters.1"),
        )?;
        for part in ["weight", "bias"] {
            if let Some(array) = weights.0.get_mut(&format!("{from}.filters.1.{part}")) {
                swap_gates(array, f);
            }
        }
        move_linear(&mut state, &format!("{from}.update.update_mlp.0"), &mut weights, &format!("{from}.update.0"))?;
        move_linear(&mut state, &format!("{from}.update.update_mlp.2"), &mut weights, &format!("{from}.update.1"))?;
        match state.0.remove(&format!("{from}.update.mixing_matrix")) {
            Some(mixing) if l + 1 < n_layers => weights.put(format!("{from}.update.mixing"), mixing),
            // The last layer's vectors do not reach the energy.
            Some(_) => {}
            None if l + 1 < n_layers => {
                return Err(Error::Usage(format!("tensor {from}.update.mixing_matrix is missing")));
            }
            None => {}
        }
    }
    let readout_hidden = move_readout(&mut state, "energy_head", 2, &mut weights)?;
    refuse_leftovers(&state)?;
    let mut model = ModelConfig {
        format_version: FORMAT_VERSION,
        name: None,
        architecture: Architecture::Distiller(DistillerConfig {
            n_features: f,
            n_interactions,
            radial_basis: RadialBasisConfig { kind: RadialBasisKind::Gaussian, n: n_rbf },
            envelope: Envelope::Cosine,
            direction_epsilon: 1e-8,
            readout_hidden,
        }),
        cutoff: config.cutoff,
        species,
        atomic_energies: Default::default(),
        energy_scale: 1.0,
        units: Units::default(),
        charge: 0,
        spin_multiplicity: 1,
        training_range: None,
        training: serde_json::Value::Null,
        metrics: serde_json::Value::Null,
        license: None,
    };
    let said = [config.energy_unit.as_deref(), config.length_unit.as_deref()];
    units::convert(&mut model, &mut weights, options, said, notes)?;
    Model::new(model, weights, String::new())
}

/// Their filters gate scalars, vectors, directions; ours scalars, directions, vectors.
fn swap_gates(array: &mut Array, f: usize) {
    let width = array.data.len() / array.shape.first().copied().unwrap_or(1).max(1);
    let block = f * width;
    if array.data.len() == 3 * block {
        let (left, right) = array.data[block..].split_at_mut(block);
        left.swap_with_slice(right);
    }
}
