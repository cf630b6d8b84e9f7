//! `mlff profile`: where the time of evaluations goes.

mod chart;
mod table;
mod workload;

use std::path::{Path, PathBuf};

use mlff::profile::{Component, Names, Options, measure, trace};
use mlff::{Error, Result};

use super::model::ModelArgs;
use super::output::{Files, Output, refuse_unreadable};
use super::trajectory::FrameSlice;
use super::{Outcome, complain, json, print};
use workload::Molecule;

/// Time the components of an engine: shares, FLOP and bytes, batch sizes
///
/// Evaluates a file or a generated workload on one thread, in turn with and without the profiler. Without INPUT,
/// --molecule or --atoms, the workload is benzene.
///
/// On a GPU the boundaries between components are CUDA events on its stream: a component's time is what the stream did
/// for it, and how long it stood idle because the thread was at it.
#[derive(clap::Args)]
pub struct Args {
    /// Trajectory to take structures from, evenly spaced; - is standard input
    input: Option<PathBuf>,
    #[command(flatten)]
    model: ModelArgs,
    /// Frames to take structures from, as a Python slice: the first ones of it
    #[arg(long, value_name = "SLICE", allow_hyphen_values = true, requires = "input")]
    index: Option<FrameSlice>,
    /// Generate copies of a molecule, each distorted a little
    #[arg(long, value_enum, conflicts_with_all = ["input", "atoms"])]
    molecule: Option<Molecule>,
    /// Generate clusters of so many atoms, in no order that chemistry knows, as dense as a liquid
    #[arg(long, value_name = "N", conflicts_with = "input", value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    atoms: Option<u32>,
    /// Structures to evaluate [default: 64, or 1 with --atoms]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=100_000))]
    structures: Option<u32>,
    /// Evaluations of all structures that count
    #[arg(long, value_name = "N", default_value_t = 20, value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    repeats: u32,
    /// Evaluations before the first that counts
    #[arg(long, value_name = "N", default_value_t = 3, value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    warmup: u32,
    /// Batch sizes to compare, such as 1,4,16,64
    #[arg(long, value_name = "N,…", value_delimiter = ',', value_parser = clap::value_parser!(u32).range(1..=100_000))]
    sweep: Vec<u32>,
    /// Components to show in the table and the chart, such as message,message_vjp [default: all]
    #[arg(long, value_name = "NAME,…", value_delimiter = ',', value_parser = parse_component)]
    components: Vec<Component>,
    /// Print JSON (mlff.profile/1) in place of the table, or write it to FILE beside it; every component, whatever is shown
    #[arg(long, value_name = "FILE", num_args = 0..=1, require_equals = true, default_missing_value = "-")]
    json: Option<PathBuf>,
    /// Write one evaluation as a time line for chrome://tracing or ui.perfetto.dev
    #[arg(long, value_name = "FILE.json")]
    trace: Option<PathBuf>,
    /// Draw shares, and times by batch size
    #[arg(long, value_name = "FILE.svg")]
    plot: Option<PathBuf>,
    /// Replace files that exist
    #[arg(long)]
    overwrite: bool,
}

fn parse_component(text: &str) -> std::result::Result<Component, String> {
    let shown = || Component::ALL.into_iter().filter(|&c| c != Component::Unattributed);
    shown().find(|c| c.name() == text).ok_or_else(|| {
        let names: Vec<&str> = shown().map(Component::name).collect();
        format!("no such component: expected some of {}", names.join(", "))
    })
}

pub fn run(args: &Args) -> Result<Outcome> {
    if let Some(n) = args.model.threads.filter(|&n| n != 1) {
        return Err(Error::Usage(format!(
            "--threads {n}: mlff profile times one thread, as threads that wait for each other have no clear shares"
        )));
    }
    // Before a minute is spent on what cannot be written.
    refuse_unreadable(&args.input)?;
    let mut files = Files::default();
    files.reads(args.input.as_deref());
    files.reads_model(&args.model);
    // Standard output has the table or the record, never both.
    let json_path = args.json.as_deref().filter(|path| path.as_os_str() != "-");
    let reports = [json_path, args.trace.as_deref(), args.plot.as_deref()];
    reports.iter().flatten().try_for_each(|path| files.writes_report(path, args.overwrite))?;
    let create = |path: Option<&Path>| path.map(|path| Output::create(path, args.overwrite)).transpose();
    let [json_file, trace_file, plot_file] = [create(reports[0])?, create(reports[1])?, create(reports[2])?];
    let potential = args.model.potential()?;
    if let Some(caveat) = potential.model().config().caveat() {
        complain(&format!("warning: {caveat}"));
    }
    let workload = workload::workload(args, &potential)?;
    let options = Options {
        warmup: args.warmup as usize,
        repeats: args.repeats as usize,
        sweep: args.sweep.iter().map(|&n| n as usize).collect(),
        batch: args.model.batch,
    };
    let names = Names { model: args.model.model.display().to_string(), workload: workload.name };
    let (profile, spans) = measure(&potential, &workload.structures, &options, names)?;
    let shown = |id: &str| {
        let name = id.split('.').next().unwrap_or(id);
        args.components.is_empty() || args.components.iter().any(|c| c.name() == name)
    };
    match (&args.json, json_file) {
        (Some(_), None) => print(&json(&profile)?)?,
        (_, Some(file)) => {
            file.write(&json(&profile)?)?;
            print(&table::table(&profile, shown))?;
        }
        (None, None) => print(&table::table(&profile, shown))?,
    }
    if let Some(file) = trace_file {
        file.write(&json(&trace(&spans, &format!("{} {}", profile.tool, profile.run.engine)))?)?;
    }
    if let Some(file) = plot_file {
        let svg = chart::chart(&profile, shown);
        file.write(&svg.map_err(|e| Error::Usage(format!("the chart cannot be drawn: {e}")))?)?;
    }
    Ok(Outcome::Done)
}
