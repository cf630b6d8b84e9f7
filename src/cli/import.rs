//! `mlff import`: other projects' weights become a model directory.

use std::path::PathBuf;

use clap::ValueEnum;
use mlff::model::import::{EnergyUnit, Import, ImportOptions, LengthUnit, Source, import_with_notes};
use mlff::structure::atomic_number;
use mlff::{Error, Result};

use super::{Outcome, complain, words};

/// Turn another project's weights into a model directory
///
/// SRC is a weight file (.safetensors, or PyTorch's .pt) with config.json beside it. Keys for SchNetPack: n_atom_basis,
/// n_interactions, n_rbf, radial_basis (gaussian, bessel), cutoff, shared_filters, shared_interactions, epsilon,
/// output_scale, mean (an atom), atomic_energies ({"6": -1036.7, …}), species, energy_unit, length_unit; a pickled SchNetPack model becomes such
/// files by scripts/export_schnetpack.py. Keys for MLFF-Distiller: hidden_dim, num_interactions, num_rbf, cutoff, max_z,
/// energy_unit, length_unit; its checkpoints bring their own.
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
    /// Unit of the energies that the model was trained on, and of those in its configuration [default: as configured, else eV]
    #[arg(long, value_name = "UNIT", value_parser = parse_energy_unit)]
    energy_unit: Option<EnergyUnit>,
    /// Unit of the positions that the model was trained on, and of its cutoff [default: as configured, else angstrom]
    #[arg(long, value_name = "UNIT", value_parser = parse_length_unit)]
    length_unit: Option<LengthUnit>,
}

fn parse_energy_unit(text: &str) -> std::result::Result<EnergyUnit, String> {
    parse_unit(&EnergyUnit::ALL, EnergyUnit::name, text)
}

fn parse_length_unit(text: &str) -> std::result::Result<LengthUnit, String> {
    parse_unit(&LengthUnit::ALL, LengthUnit::name, text)
}

fn parse_unit<U: Copy>(all: &[U], name: fn(U) -> &'static str, text: &str) -> std::result::Result<U, String> {
    let names: Vec<&str> = all.iter().map(|&u| name(u)).collect();
    let found = all.iter().copied().find(|&u| name(u).eq_ignore_ascii_case(text));
    found.ok_or_else(|| format!("expected one of {}", names.join(", ")))
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
    let options = ImportOptions {
        config: args.config.clone(),
        species,
        energy_unit: args.energy_unit,
        length_unit: args.length_unit,
    };
    let Import { model, notes, .. } = import_with_notes(source, &args.src, &options)?;
    for note in notes {
        complain(&format!("note: {}", words::in_flags(&note)));
    }
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
    atomic_number(symbol)
        .ok_or_else(|| Error::Usage(format!("--species: {symbol} is no element, expected such as H,C,N,O")))
}
