//! SchNetPack 2: `representation.PaiNN` + `atomistic.Atomwise`, with scale and offsets.

use std::collections::BTreeMap;

use serde::Deserialize;

use super::{
    ImportOptions, agree, move_linear, move_readout, move_tensor, refuse_leftovers, scalar, select_species, units,
};
use crate::error::{Error, Result};
use crate::model::Model;
use crate::model::config::*;
use crate::model::json::by_atomic_number;
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
    /// Unit of all energies here and of the network's output; of lengths: of the cutoff and the radial basis.
    energy_unit: Option<String>,
    length_unit: Option<String>,
    /// Factor on the output (SchNetPack's `ScaleProperty`).
    output_scale: Option<f64>,
    /// Added to each atom's energy (SchNetPack's `AddOffsets`, `add_mean`).
    #[serde(default)]
    mean: f64,
    /// Energy of each free atom (SchNetPack's `AddOffsets`, `add_atomrefs`).
    #[serde(default, deserialize_with = "by_atomic_number")]
    atomic_energies: BTreeMap<u8, f64>,
    species: Option<Vec<u8>>,
    license: Option<String>,
    #[serde(default)]
    training: serde_json::Value,
    #[expect(dead_code, reason = "part of the files that are read, without meaning for the model")]
    seed: Option<i64>,
}

pub(super) fn convert(
    mut state: Weights,
    config: Config,
    options: &ImportOptions,
    notes: &mut Vec<String>,
) -> Result<Model> {
    strip_prefix(&mut state)?;
    refuse_other_networks(&state)?;
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
    let (species, embedding) = select_species(&embedding, chosen, notes)?;
    let f = agree("n_atom_basis", config.n_atom_basis, embedding.shape[1])?;
    weights.put("embedding", embedding);

    let buffer = state.0.remove("representation.cutoff_fn.cutoff");
    let trained = buffer.map(|array| scalar(&array, "cutoff_fn.cutoff")).transpose()?;
    let cutoff = match (trained, config.cutoff) {
        // What the network was trained with, to the last bit.
        (Some(trained), Some(said)) if is_rounded(said, trained) => trained,
        (Some(trained), said) => agree("cutoff", said, trained)?,
        (None, said) => said.ok_or_else(|| Error::Usage("its configuration has no cutoff".into()))?,
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
    let output_scale = config.output_scale.unwrap_or(1.0);
    if output_scale == 0.0 {
        return Err(Error::Usage(
            "its configuration says output_scale = 0: every structure would have the energy of its free atoms".into(),
        ));
    }
    let mut model = ModelConfig {
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
        energy_scale: output_scale,
        units: Units::default(),
        charge: 0,
        spin_multiplicity: 1,
        training_range: None,
        training: config.training,
        metrics: serde_json::Value::Null,
        license: config.license,
    };
    let said = [config.energy_unit.as_deref(), config.length_unit.as_deref()];
    units::convert(&mut model, &mut weights, options, said, notes)?;
    Model::new(model, weights, String::new())
}

/// Whether `stored` is what half, single or double precision keeps of `said`, or close to it: the configuration of an export
/// has six to seven digits.
fn is_rounded(said: f64, stored: f64) -> bool {
    (said - stored).abs() <= 1e-6 * said.abs()
        || half::f16::from_f64(said).to_f64() == stored
        || half::bf16::from_f64(said).to_f64() == stored
}

/// Names the other networks of SchNetPack, whose tensors would only seem to be missing.
fn refuse_other_networks(state: &Weights) -> Result<()> {
    let has = |part: &str| state.0.keys().any(|name| name.contains(part));
    let found = match () {
        () if has(".filter_net.") || has(".intraatomic_context_net.") => return Ok(()),
        () if has("representation.field_") || has(".external_fields") => "FieldSchNet",
        () if has(".in2f.") || has(".f2out.") || has(".filter_network.") => "SchNet",
        () if has(".so3convs.") || has(".so3product") => "SO3net",
        () => return Ok(()),
    };
    Err(Error::Usage(format!("these are the weights of a {found} of SchNetPack; only its PaiNN can be imported")))
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
