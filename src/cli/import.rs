//! `mlff import`: other projects' weights become a model directory.

use std::path::PathBuf;

use clap::ValueEnum;
use mlff::model::import::{ImportOptions, Source, import};
use mlff::structure::SYMBOLS;
use mlff::{Error, Result};

use super::{Outcome, complain};

/// Turn another project's weights into a model directory
///
/// SRC is a weight file (.safetensors, or PyTorch's .pt) with config.json beside it. Keys for SchNetPack: n_atom_basis,
/// n_interactions, n_rbf, radial_basis (gaussian, bessel), cutoff, shared_filters, shared_interactions, epsilon,
/// output_scale (eV), mean (eV an atom), atomic_energies ({"6": eV, …}), species; a pickled SchNetPack model becomes such
/// files by scripts/export_schnetpack.py. Keys for MLFF-Distiller: hidden_dim, num_interactions, num_rbf, cutoff, max_z;
/// its checkpoints bring their own.
#[derive(clap::Args)]
pub struct Args {
    /// Where the weights come from
    #[arg(value_enum)]
    source: SourceName,
    /// Weight file
    src: PathBuf,
    /// Model directory to write
    #[arg(short, long, value_name = "DIR")]
    output: PathBuf,
    /// Configuration, if it does not lie beside the weights as config.json
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Elements that the model was trained on, such as H,C,N,O [default: as configured, else all]
    #[arg(long, value_delimiter = ',', value_name = "SYMBOLS")]
    species: Option<Vec<String>>,
}

#[derive(Clone, Copy, ValueEnum)]
enum SourceName {
    /// SchNetPack 2: PaiNN with an Atomwise output
    Schnetpack,
    /// MLFF-Distiller student
    MlffDistiller,
}

pub fn run(args: &Args) -> Result<Outcome> {
    let source = match args.source {
        SourceName::Schnetpack => Source::SchNetPack,
        SourceName::MlffDistiller => Source::Distiller,
    };
    let species = args.species.as_ref().map(|symbols| symbols.iter().map(|s| element(s)).collect()).transpose()?;
    let model = import(source, &args.src, &ImportOptions { config: args.config.clone(), species })?;
    model.save(&args.output)?;
    let config = model.config();
    complain(&format!(
        "written to {}: {}, {} features, {} interactions, {} elements, cutoff {} Å",
        args.output.display(),
        config.architecture_name(),
        config.n_features(),
        config.n_interactions(),
        config.species.len(),
        config.cutoff,
    ));
    if let Some(caveat) = config.caveat() {
        complain(&format!("warning: {caveat}"));
    }
    Ok(Outcome::Done)
}

fn element(symbol: &str) -> Result<u8> {
    let z = SYMBOLS.iter().position(|s| *s == symbol).filter(|&z| z > 0);
    z.map(|z| z as u8)
        .ok_or_else(|| Error::Usage(format!("--species: {symbol} is no element, expected such as H,C,N,O")))
}
