//! `mlff info`: what a model is.

use std::path::PathBuf;

use mlff::model::TrainingRange;
use mlff::structure::symbol;
use mlff::{Error, Model, Result};
use serde_json::{Value, json};

use super::{Outcome, one_line, print};

/// Say what a model is, where it comes from, and what it must not be used for
#[derive(clap::Args)]
pub struct Args {
    /// Model directory, or name of a built-in model
    #[arg(default_value = mlff::model::default_name())]
    model: PathBuf,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

pub fn run(args: &Args) -> Result<Outcome> {
    let model = Model::load(&args.model)?;
    let config = model.config();
    if args.json {
        let mut value = serde_json::to_value(config).map_err(|e| Error::Usage(e.to_string()))?;
        if let Value::Object(map) = &mut value {
            map.insert("n_parameters".into(), json!(model.n_parameters()));
            map.insert("caveat".into(), json!(config.caveat()));
            map.insert("built_in".into(), json!(mlff::model::built_in_names()));
        }
        print(&super::json(&value)?)?;
        return Ok(Outcome::Done);
    }
    let elements: Vec<&str> = config.species.iter().filter_map(|&z| symbol(z)).collect();
    let basis = config.radial_basis();
    let name = config.name.clone().unwrap_or_else(|| args.model.display().to_string());
    let mut out = format!("{}\n", one_line(&name));
    let mut line = |key: &str, value: String| out += &format!("  {key:<14} {value}\n");
    line(
        "architecture",
        format!(
            "{}, {} features, {} interactions, {} {} basis functions",
            config.architecture_name(),
            config.n_features(),
            config.n_interactions(),
            basis.n,
            format!("{:?}", basis.kind).to_lowercase()
        ),
    );
    line("cutoff", format!("{} Å", config.cutoff));
    line("elements", elements.join(" "));
    line("state", format!("charge {}, spin multiplicity {}", config.charge, config.spin_multiplicity));
    if let Some(range) = &config.training_range {
        line("trained on", trained_on(range));
    }
    line("parameters", model.n_parameters().to_string());
    line("license", config.license.as_deref().map_or_else(|| "not stated".into(), one_line));
    for (key, value) in [("training", &config.training), ("metrics", &config.metrics)] {
        // A card says the same in tables.
        if let Value::Object(map) = value
            && model.card().is_empty()
        {
            let text: Vec<String> = map.iter().map(|(k, v)| one_line(&format!("{k}: {}", short(v)))).collect();
            line(key, text.join("\n                 "));
        }
    }
    if let Some(caveat) = config.caveat() {
        out += &format!("warning: {caveat}\n");
    }
    if !model.card().is_empty() {
        out += &format!("\n{}", model.card());
    }
    print(&out)?;
    Ok(Outcome::Done)
}

/// The range of the training data, in a few lines.
fn trained_on(range: &TrainingRange) -> String {
    let mut parts = Vec::new();
    if let Some([low, high]) = range.energy_per_atom {
        parts.push(format!("energies of {low:.3} to {high:.3} eV an atom, less free atoms'"));
    }
    if let Some(force) = range.max_force {
        parts.push(format!("forces of up to {force:.2} eV/Å"));
    }
    let distances: Vec<String> = range.min_distances.iter().map(|(pair, d)| format!("{pair} {d:.2}")).collect();
    for (k, some) in distances.chunks(8).enumerate() {
        parts.push(format!("{}{}", if k == 0 { "distances (Å) from " } else { "  " }, some.join(", ")));
    }
    parts.extend(range.measured_on.iter().map(|text| format!("measured on {}", one_line(text))));
    parts.join("\n                 ")
}

fn short(value: &Value) -> String {
    match value {
        Value::String(text) => text.clone(),
        other => other.to_string(),
    }
}
