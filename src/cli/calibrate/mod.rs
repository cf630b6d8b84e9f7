//! `mlff calibrate`: fused against unfused, measured, for dispatch to read.

mod chart;
mod table;

use std::path::{Path, PathBuf};

use indicatif::{ProgressBar, ProgressStyle};
use mlff::calibration::{Calibration, Options, Pattern, Reading, THRESHOLD, measure};
use mlff::{Error, Result};

use super::model::{DeviceName, Dtype, parse_device};
use super::output::{Files, Output};
use super::{Outcome, complain, json, print};

/// Measure which operations are worth fusing on this machine
///
/// Times every operation fused and as a chain of elementary ones, over a grid of sizes, on one thread. Batched autograd reads the
/// result from the user's cache and runs what is faster; the adjoint engine is fused by construction. A run for some patterns,
/// a device or a precision leaves the others' measurements in the file.
#[derive(clap::Args)]
pub struct Args {
    /// Fewer sizes and repeats: less than two minutes
    #[arg(long)]
    quick: bool,
    /// Patterns to measure, such as message,update [default: all]
    #[arg(long, value_name = "NAME,…", value_delimiter = ',', value_parser = parse_pattern)]
    patterns: Vec<Pattern>,
    /// Where to measure: auto (the processor), cpu, cuda or cuda:N. On a GPU, layers (f32 only) against cuBLASLt and the other
    /// patterns against chains of elementary kernels
    #[arg(long, default_value = "auto", value_parser = parse_device)]
    device: DeviceName,
    /// Precision of the operations
    #[arg(long, value_enum, default_value_t = Dtype::F32)]
    dtype: Dtype,
    /// Speed-up from which an operation is fused
    #[arg(long, value_name = "X", default_value_t = THRESHOLD, value_parser = parse_threshold)]
    threshold: f64,
    /// File to write or to add to [default: calibration.json in the user's cache]
    #[arg(short, long, value_name = "FILE")]
    output: Option<PathBuf>,
    /// Print the record (mlff.calibration/1) in place of the table
    #[arg(long)]
    json: bool,
    /// Draw speed-ups by size
    #[arg(long, value_name = "FILE.svg")]
    plot: Option<PathBuf>,
    /// Replace a plot that exists, and a calibration of another machine or version
    #[arg(long)]
    overwrite: bool,
    /// Show no progress bar
    #[arg(long)]
    no_progress: bool,
}

fn parse_pattern(text: &str) -> std::result::Result<Pattern, String> {
    Pattern::ALL.into_iter().find(|p| p.name() == text).ok_or_else(|| {
        let names: Vec<&str> = Pattern::ALL.into_iter().map(Pattern::name).collect();
        format!("no such pattern: expected some of {}", names.join(", "))
    })
}

fn parse_threshold(text: &str) -> std::result::Result<f64, String> {
    let number = text.parse().ok().filter(|&x: &f64| x > 0.0 && x.is_finite());
    number.ok_or_else(|| "expected a positive number".into())
}

pub fn run(args: &Args) -> Result<Outcome> {
    // Before a minute is spent on what cannot be written.
    let path = path(args)?;
    let mut files = Files::default();
    files.writes(&path)?;
    if let Some(plot) = &args.plot {
        files.writes_report(plot, args.overwrite)?;
    }
    // It is there anew with what it held before; from here on no other run writes it.
    let file = Output::create(&path, true)?;
    let earlier = earlier(&path, args)?;
    let plot_file = args.plot.as_deref().map(|path| Output::create(path, args.overwrite)).transpose()?;
    let patterns = if args.patterns.is_empty() { Pattern::ALL.to_vec() } else { args.patterns.clone() };
    let options = Options { patterns, precision: args.dtype.into(), quick: args.quick, threshold: args.threshold };
    let bar = progress_bar(!args.no_progress);
    let mut progress = |done: usize, total: usize, pattern: Pattern| {
        bar.set_length(total as u64);
        bar.set_position(done as u64);
        bar.set_message(pattern.name());
    };
    let measured = match args.device {
        DeviceName::Auto | DeviceName::Cpu => measure(&options, &mut progress)?,
        #[cfg(feature = "cuda")]
        DeviceName::Cuda(ordinal) => mlff::calibration::measure_cuda(ordinal, &options, &mut progress)
            .map_err(|e| Error::Usage(format!("--device {}: {}", args.device, super::words::message(&e))))?,
        #[cfg(not(feature = "cuda"))]
        DeviceName::Cuda(_) => {
            return Err(Error::NotBuilt { what: "what measures GPUs", feature: "cuda" });
        }
    };
    bar.finish_and_clear();
    let mut all = earlier.unwrap_or_else(|| Calibration::new(args.threshold));
    all.merge(measured.clone());
    file.write(&json(&all)?)?;
    if args.json {
        print(&json(&measured)?)?;
    } else {
        print(&table::table(&measured))?;
        complain(&format!("written to {}", path.display()));
    }
    if let Some(file) = plot_file {
        let svg = chart::chart(&measured);
        file.write(&svg.map_err(|e| Error::Usage(format!("the chart cannot be drawn: {e}")))?)?;
    }
    Ok(Outcome::Done)
}

/// Where to write; the cache's folder is made.
fn path(args: &Args) -> Result<PathBuf> {
    if let Some(path) = &args.output {
        return Ok(path.clone());
    }
    let path = Calibration::user_file().ok_or_else(|| {
        Error::Usage("no cache to write to: neither MLFF_CACHE nor XDG_CACHE_HOME nor HOME is set; use -o FILE".into())
    })?;
    if let Some(folder) = path.parent() {
        std::fs::create_dir_all(folder).map_err(|e| Error::io(folder, e))?;
    }
    Ok(path)
}

/// What the file holds already, where it is of use. A file that was named and is no calibration is not written over; one of
/// another machine only where that is asked for. The user's own in the cache makes way.
fn earlier(path: &Path, args: &Args) -> Result<Option<Calibration>> {
    if !path.is_file() {
        return Ok(None);
    }
    let was_named = args.output.is_some();
    match Calibration::read(path) {
        Ok(Reading::Usable(calibration)) => Ok(Some(calibration)),
        Ok(Reading::Unusable(reason)) if was_named && !args.overwrite => Err(Error::Usage(format!(
            "{} exists already and cannot be added to ({reason}); --overwrite replaces it",
            path.display()
        ))),
        Ok(Reading::Unusable(reason)) => {
            complain(&format!("warning: {}: {reason}: it is replaced", path.display()));
            Ok(None)
        }
        Err(error @ Error::Calibration { .. }) if !was_named => {
            complain(&format!("warning: {error}: it is replaced"));
            Ok(None)
        }
        Err(error) => Err(error),
    }
}

fn progress_bar(show: bool) -> ProgressBar {
    use std::io::IsTerminal;
    if !show || !std::io::stderr().is_terminal() {
        return ProgressBar::hidden();
    }
    let bar = ProgressBar::new(0);
    if let Ok(style) = ProgressStyle::with_template("{bar:30} {pos}/{len}  {msg}  {eta} left") {
        bar.set_style(style);
    }
    bar.enable_steady_tick(std::time::Duration::from_millis(200));
    bar
}
