//! SchNetPack 2: `representation.PaiNN` + `atomistic.Atomwise`, with scale and offsets.

use std::collections::BTreeMap;

use serde::Deserialize;

use super::{ImportOptions, agree, move_linear, move_readout, move_tensor, refuse_leftovers, scalar, select_species};
use crate::error::{Error, Result};
use crate::model::Model;
use crate::model::config::*;
use crate::model::weights::{Array, Weights};

/// Hyperparameters, named as SchNetPack names them, and what a state dict does not hold.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Config {
    n_atom_basis: Option<usize>,
    n_interactions: Option<usize>,
    n_rbf: Option<usize>,
    radial_basis: Option<RadialBasisKind>,
    cutoff: Option<f64>,
    cutoff_fn: Option<Envelope>,
    shared_filters: Option<bool>,
    shared_interactions: Option<bool>,
    activation: Option<ActivationName>,
    epsilon: Option<f64>,
    /// Factor on the output, eV (SchNetPack's `ScaleProperty`, and the model's energy unit).
    output_scale: Option<f64>,
    /// Added to each atom's energy, eV (SchNetPack's `AddOffsets`, `add_mean`).
    #[serde(default)]
    mean: f64,
    /// Energy of each free atom, eV (SchNetPack's `AddOffsets`, `add_atomrefs`).
    #[serde(default)]
    atomic_energies: BTreeMap<u8, f64>,
    species: Option<Vec<u8>>,
    license: Option<String>,
    #[serde(default)]
    training: serde_json::Value,
    #[expect(dead_code, reason = "part of the files that are read, without meaning for the model")]
    seed: Option<i64>,
}

pub(super) fn convert(mut state: Weights, config: Config, options: &ImportOptions) -> Result<Model> {
    strip_prefix(&mut state)?;
    if state.0.keys().any(|name| name.starts_with("postprocessors.")) {
        return Err(Error::Usage(
            "the state dict holds SchNetPack postprocessors (scale, mean, atomrefs), whose units it does not say: \
             convert the saved model with scripts/export_schnetpack.py, which writes them in eV"
                .into(),
        ));
    }
    let mut weights = Weights::default();
    let embedding = state
        .0
        .remove("representation.embedding.weight")
        .ok_or_else(|| Error::Usage(format!("no PaiNN of SchNetPack: there are {}", state.some_names())))?;
    let from_energies: Vec<u8> = config.atomic_energies.keys().copied().collect();
    let chosen = options
        .species
        .as_deref()
        .or(config.species.as_deref())
        .or((!from_energies.is_empty()).then_some(from_energies.as_slice()));
    let (species, embedding) = select_species(&embedding, chosen)?;
    let f = agree("n_atom_basis", config.n_atom_basis, embedding.shape[1])?;
    weights.put("embedding", embedding);

    let cutoff = match state.0.remove("representation.cutoff_fn.cutoff") {
        Some(array) => {
            let found = scalar(&array, "cutoff_fn.cutoff")?;
            match config.cutoff {
                // The buffer is f32; the configuration has the number that was meant.
                Some(meant) if (meant - found).abs() <= 1e-6 * meant.abs() => meant,
                other => agree("cutoff", other, found)?,
            }
        }
        None => config.cutoff.ok_or_else(|| Error::Usage("its configuration has no cutoff".into()))?,
    };
    let (kind, n_rbf) = radial_basis(&mut state, &mut weights)?;
    let n_rbf = agree("n_rbf", config.n_rbf, n_rbf)?;
    if config.radial_basis.is_some_and(|k| k != kind) {
        return Err(Error::Usage(format!("its configuration says another radial basis than its tensors ({kind:?})")));
    }

    let n_layers =
        (0..).take_while(|l| state.0.contains_key(&format!("representation.mixing.{l}.mu_channel_mix.weight"))).count();
    let shared_interactions = config.shared_interactions.unwrap_or(false);
    let n_interactions = match config.n_interactions {
        Some(n) if shared_interactions && n_layers == 1 => n,
        other => agree("n_interactions", other, n_layers)?,
    };
    move_layers(&mut state, &mut weights, n_layers, shared_interactions)?;
    move_linear(&mut state, "representation.filter_net", &mut weights, "filters")?;
    let filter_rows = weights.get("filters.weight")?.shape.first().copied().unwrap_or(0);
    let shared_filters = agree("shared_filters", config.shared_filters, filter_rows == 3 * f && n_interactions > 1)
        .or_else(|e| if n_interactions == 1 { Ok(config.shared_filters.unwrap_or(false)) } else { Err(e) })?;
    let readout_hidden = move_readout(&mut state, "output_modules.0.outnet", 1, &mut weights)?;
    refuse_leftovers(&state)?;

    let mut atomic_energies = config.atomic_energies;
    if config.mean != 0.0 {
        for &z in &species {
            *atomic_energies.entry(z).or_default() += config.mean;
        }
    }
    atomic_energies.retain(|z, _| species.contains(z));
    let model = ModelConfig {
        format_version: FORMAT_VERSION,
        name: None,
        architecture: Architecture::Painn(PainnConfig {
            n_features: f,
            n_interactions,
            radial_basis: RadialBasisConfig { kind, n: n_rbf },
            envelope: config.cutoff_fn.unwrap_or_default(),
            shared_filters,
            shared_interactions,
            activation: config.activation.unwrap_or_default(),
            epsilon: config.epsilon.unwrap_or(1e-8),
            readout_hidden,
        }),
        cutoff,
        species,
        atomic_energies,
        energy_scale: config.output_scale.unwrap_or(1.0),
        units: Units::default(),
        charge: 0,
        spin_multiplicity: 1,
        training: config.training,
        metrics: serde_json::Value::Null,
        license: config.license,
    };
    Model::new(model, weights, String::new())
}

/// Lightning checkpoints and wrapped models put a prefix before every name.
fn strip_prefix(state: &mut Weights) -> Result<()> {
    let anchor = "representation.embedding.weight";
    let Some(prefix) = state.0.keys().find_map(|name| name.strip_suffix(anchor)).map(str::to_string) else {
        return Err(Error::Usage(format!(
            "no PaiNN of SchNetPack 2: tensor {anchor} is missing; there are {}",
            state.some_names()
        )));
    };
    if !prefix.is_empty() {
        state.0 = std::mem::take(&mut state.0)
            .into_iter()
            .map(|(name, array)| (name.strip_prefix(&prefix).map(str::to_string).unwrap_or(name), array))
            .collect();
    }
    Ok(())
}

fn radial_basis(state: &mut Weights, weights: &mut Weights) -> Result<(RadialBasisKind, usize)> {
    let mut take = |name: &str| state.0.remove(&format!("representation.radial_basis.{name}"));
    let (kind, arrays): (_, Vec<(&str, Array)>) = match (take("freqs"), take("offsets"), take("widths")) {
        (Some(freqs), None, None) => (RadialBasisKind::Bessel, vec![("frequencies", freqs)]),
        (None, Some(offsets), Some(widths)) => {
            (RadialBasisKind::Gaussian, vec![("centers", offsets), ("widths", widths)])
        }
        _ => {
            return Err(Error::Usage(
                "no known radial basis: expected representation.radial_basis.freqs (Bessel) or .offsets and .widths \
                 (Gaussian)"
                    .into(),
            ));
        }
    };
    let n = arrays[0].1.data.len();
    for (name, array) in arrays {
        weights.put(format!("radial_basis.{name}"), array);
    }
    Ok((kind, n))
}

fn move_layers(state: &mut Weights, weights: &mut Weights, n_layers: usize, shared: bool) -> Result<()> {
    for l in 0..n_layers {
        let message = format!("representation.interactions.{l}.interatomic_context_net");
        let mixing = format!("representation.mixing.{l}");
        let first = if shared { 0 } else { l };
        let mut layer = Weights::default();
        for (name, ours) in [
            (format!("{message}.0"), "message.0"),
            (format!("{message}.1"), "message.1"),
            (format!("{mixing}.intraatomic_context_net.0"), "update.0"),
            (format!("{mixing}.intraatomic_context_net.1"), "update.1"),
        ] {
            move_linear(state, &name, &mut layer, &format!("interactions.{first}.{ours}"))?;
        }
        let mix = format!("interactions.{first}.update.mix.weight");
        move_tensor(state, &format!("{mixing}.mu_channel_mix.weight"), &mut layer, &mix)?;
        // A module that several layers share stands in the state dict once for each of them.
        for (name, array) in layer.0 {
            if shared && l > 0 && weights.0.get(&name) != Some(&array) {
                return Err(Error::Usage(format!(
                    "its configuration says shared_interactions, but layer {l} differs from layer 0 in {name}"
                )));
            }
            weights.put(name, array);
        }
    }
    Ok(())
}
