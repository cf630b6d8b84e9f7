//! `mlff predict`: energies, forces and stress of every frame.

mod jobs;
mod part;
mod record;
mod resume;
mod summary;

use std::path::PathBuf;
use std::sync::mpsc::sync_channel;
use std::sync::{Mutex, PoisonError};
use std::time::Instant;

use clap::ValueEnum;
use indicatif::ProgressBar;
use mlff::EngineKind;
use mlff::Want;
use mlff::xyz::{Spares, Texts, WriteOptions, Writer};
use mlff::{Error, Potential, Result};
use rayon::prelude::*;

use super::model::ModelArgs;
use super::pipeline;
use super::reading::ReadArgs;
use super::trajectory::{self, ChunkSize, Evaluated, FrameSlice};
use super::{Outcome, complain, signals};
use jobs::{Job, Plan};
use part::Part;
use record::Record;
use resume::open_output;
pub use summary::outside_line;
use summary::{Summary, fail, progress_message, report, write_summary};

/// Predict energies, forces and stress of every frame of XYZ trajectories
///
/// Reads XYZ and extended XYZ, plain or packed (gz, bz2, xz, zst), and writes extended XYZ: all that the input has, plus
/// MLFF_energy (eV), MLFF_stress (eV/Å³, nine numbers) in the comment and MLFF_forces (eV/Å) as a column.
#[derive(clap::Args)]
pub struct Args {
    /// Trajectories; - is standard input
    #[arg(required = true)]
    input: Vec<PathBuf>,
    #[command(flatten)]
    model: ModelArgs,
    #[command(flatten)]
    reading: ReadArgs,
    /// Output file, packed by its extension, or - [default: NAME.mlff.xyz beside each input]
    #[arg(short, long, value_name = "FILE")]
    output: Option<PathBuf>,
    /// Folder for the outputs, NAME.mlff.xyz for each input; made if it is not there
    #[arg(long, value_name = "DIR", conflicts_with = "output")]
    output_dir: Option<PathBuf>,
    /// Frames to evaluate, as a Python slice: 5, :100, ::10, -3:
    #[arg(long, value_name = "SLICE", default_value = ":", allow_hyphen_values = true)]
    index: FrameSlice,
    /// Results to compute beside the energy
    #[arg(long, value_enum, value_delimiter = ',', default_value = "energy,forces,stress")]
    properties: Vec<Property>,
    /// Put before the names of the results; '' writes energy, free_energy, forces and stress, which ASE's
    /// calculator reads; what the input has under these names is left out
    #[arg(long, value_name = "PREFIX", default_value = "MLFF_")]
    key_prefix: String,
    /// What to do with a frame that cannot be evaluated: stop, or write it without results and go on (one that cannot
    /// even be read is carried through, its labels renamed where they would pass for results)
    #[arg(long, value_enum, default_value_t = OnError::Fail)]
    on_error: OnError,
    /// Replace output files and summaries that exist
    #[arg(long)]
    overwrite: bool,
    /// Go on where an interrupted run of the same command left off; refused where it was made with other options, another
    /// model or another input
    #[arg(long)]
    resume: bool,
    /// Write what was done, and how fast, as JSON
    #[arg(long, value_name = "FILE")]
    summary: Option<PathBuf>,
    /// Show no progress bar
    #[arg(long)]
    no_progress: bool,
    /// Print errors only
    #[arg(short, long)]
    quiet: bool,
    /// Print every failed frame and every warning
    #[arg(short, long, conflicts_with = "quiet")]
    verbose: bool,
}

#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Property {
    Energy,
    Forces,
    Stress,
}

#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
enum OnError {
    Fail,
    Skip,
}

/// Frames whose text is made by one thread: small chunks of large frames are shared too.
const FRAMES_PER_PART: usize = 32;

pub fn run(args: &Args) -> Result<Outcome> {
    let options = WriteOptions { key_prefix: args.key_prefix.clone(), precision: args.model.dtype.into() };
    options.validate()?;
    let Plan { jobs, refused, summary: summary_file } = jobs::plan(args)?;
    let n_jobs = jobs.len() + refused.len();
    let potential = args.model.potential()?;
    let record = Record::new(args, &potential)?;
    let mut summary = Summary {
        tool: format!("mlff {}", env!("CARGO_PKG_VERSION")),
        model: args.model.model.display().to_string(),
        device: potential.device().to_string(),
        engine: match potential.engine() {
            EngineKind::Autograd => "autograd".into(),
            _ => "adjoint".into(),
        },
        dtype: args.model.dtype.to_possible_value().map(|v| v.get_name().to_string()).unwrap_or_default(),
        threads: rayon::current_num_threads(),
        inputs: args.input.iter().map(|p| p.display().to_string()).collect(),
        ..Summary::default()
    };
    if let Some(caveat) = potential.model().config().caveat().filter(|_| !args.quiet) {
        complain(&format!("warning: {caveat}"));
    }
    let progress = trajectory::progress_bar(&args.input, !args.no_progress && !args.quiet);
    let start = Instant::now();
    refused.iter().for_each(|(job, error)| summary.fail_file(job, error));
    let mut outcome = Ok(());
    for job in &jobs {
        let failed_before = summary.n_failed;
        let done = run_job(args, &options, &record, &potential, job, &progress, &mut summary);
        match done {
            Ok(()) => {}
            Err(error) if n_jobs == 1 => outcome = Err(error),
            // The others are not to blame.
            Err(error) => {
                summary.n_failed_without_output += summary.n_failed - failed_before;
                progress.suspend(|| summary.fail_file(job, &error));
            }
        }
    }
    progress.finish_and_clear();
    summary.wall_s = start.elapsed().as_secs_f64();
    let computed = summary.n_computed() as f64;
    summary.structures_per_s = computed / summary.wall_s;
    summary.atoms_per_s = summary.n_atoms as f64 / summary.wall_s;
    let summarised = summary_file.map_or(Ok(()), |file| write_summary(file, &summary));
    // What stopped the run comes first; a summary that cannot be written is the lesser trouble.
    outcome?;
    report(args, &summary);
    summarised?;
    Ok(if summary.n_failed > 0 || !summary.failed_files.is_empty() { Outcome::SomeFailed } else { Outcome::Done })
}

fn run_job(
    args: &Args,
    options: &WriteOptions,
    record: &Record,
    potential: &Potential,
    job: &Job,
    progress: &ProgressBar,
    summary: &mut Summary,
) -> Result<()> {
    let Some((mut writer, done)) = open_output(args, record, job, summary)? else { return Ok(()) };
    let asks = |property| args.properties.contains(&property);
    let want = Want::ENERGY.with_forces(asks(Property::Forces)).with_stress(asks(Property::Stress));
    let to_stream = Writer::partial_path(&job.output)?.is_none();
    summary.n_resumed += done;
    let failed_before = summary.n_failed;
    let size = ChunkSize::new(args.model.batch, &job.inputs, args.model.device_kind());
    // Memory goes round: giving it back to the system and getting it again takes longer than to write it.
    let spares = &Spares::default();
    let reading = args.reading.reading(args.on_error == OnError::Skip);
    let source = pipeline::Input { inputs: &job.inputs, slice: args.index, size, reading, want, skip: done, spares };
    let written = Mutex::new(Vec::<Texts>::new());
    let written = || written.lock().unwrap_or_else(PoisonError::into_inner);
    let written = &written;
    let complete = std::thread::scope(|scope| -> Result<bool> {
        // One chunk is written while others are read and evaluated; more in between would only take memory.
        let (to_writer, chunks) = sync_channel::<Vec<Texts>>(0);
        let write = move || -> Result<Writer> {
            for chunk in chunks {
                for texts in chunk {
                    writer.write_texts(&texts)?;
                    written().push(texts);
                }
                // Someone may be waiting at the other end of the pipe.
                if to_stream {
                    writer.flush()?;
                }
            }
            Ok(writer)
        };
        let writing = std::thread::Builder::new().name("mlff-writer".into()).spawn_scoped(scope, write);
        let writing = writing.map_err(|e| pipeline::no_thread("write", &e))?;
        let make = |results: Vec<Evaluated>| {
            let used = || written().pop().unwrap_or_default();
            let parts = results.into_par_iter().chunks(FRAMES_PER_PART);
            parts.map(|frames| Part::new(frames, options, used(), spares)).collect::<Result<Vec<_>>>()
        };
        let computing = pipeline::run(potential, source, progress, make, |chunk| {
            summary.n_frames += chunk.n_frames;
            let mut texts = Vec::new();
            for part in chunk.made? {
                part.tally(args, summary)?;
                texts.push(part.texts);
            }
            if let Some(error) = chunk.end {
                summary.n_frames += 1;
                fail(args, summary, &error)?;
            }
            progress_message(progress, summary);
            signals::frames_done(summary.n_computed());
            Ok(to_writer.send(texts).is_ok())
        });
        drop(to_writer);
        // The first cause wins: a full disk ends the computing too.
        let writer = writing.join().unwrap_or_else(|_| Err(pipeline::defect()))?;
        computing?;
        match writer.frames() {
            0 if summary.n_failed == failed_before => {
                let names: Vec<String> = job.inputs.iter().map(|input| input.display().to_string()).collect();
                Err(Error::Usage(format!("--index selects no frame of {}", names.join(", "))))
            }
            // An input whose first frame is cut off: an empty file would look like a result.
            0 => Ok(false),
            _ => writer.finish().map(|()| true),
        }
    })?;
    if complete {
        summary.outputs.push(job.output.display().to_string());
    }
    Ok(())
}
