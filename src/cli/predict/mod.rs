//! `mlff predict`: energies, forces and stress of every frame.

mod part;
mod summary;

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::mpsc::sync_channel;
use std::sync::{Mutex, PoisonError};
use std::time::Instant;

use clap::ValueEnum;
use indicatif::ProgressBar;
use mlff::engine::Want;
use mlff::potential::EngineKind;
use mlff::xyz::{Item, Reader, Spares, Texts, WriteOptions, Writer};
use mlff::{Error, Potential, Result};
use rayon::prelude::*;

use super::model::ModelArgs;
use super::pipeline;
use super::trajectory::{self, ChunkSize, Evaluated, FrameSlice};
use super::{Outcome, complain};
use part::Part;
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
    /// Output file, packed by its extension, or - [default: NAME.mlff.xyz beside each input]
    #[arg(short, long, value_name = "FILE")]
    output: Option<PathBuf>,
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
    /// Replace an output file that exists
    #[arg(long)]
    overwrite: bool,
    /// Go on where an interrupted run of the same command left off
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

/// One output file and the inputs that go into it.
struct Job {
    inputs: Vec<PathBuf>,
    output: PathBuf,
}

/// Frames whose text is made by one thread: small chunks of large frames are shared too.
const FRAMES_PER_PART: usize = 32;

pub fn run(args: &Args) -> Result<Outcome> {
    let options = WriteOptions { key_prefix: args.key_prefix.clone(), precision: args.model.dtype.into() };
    options.validate()?;
    let jobs = jobs(args)?;
    let potential = args.model.potential()?;
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
    let outcome = jobs.iter().try_for_each(|job| run_job(args, &options, &potential, job, &progress, &mut summary));
    progress.finish_and_clear();
    summary.wall_s = start.elapsed().as_secs_f64();
    let computed = summary.n_computed() as f64;
    summary.structures_per_s = computed / summary.wall_s;
    summary.atoms_per_s = summary.n_atoms as f64 / summary.wall_s;
    let summarised = args.summary.as_ref().map_or(Ok(()), |path| write_summary(path, &summary));
    // What stopped the run comes first; a summary that cannot be written is the lesser trouble.
    outcome?;
    report(args, &summary);
    summarised?;
    Ok(if summary.n_failed > 0 { Outcome::SomeFailed } else { Outcome::Done })
}

fn jobs(args: &Args) -> Result<Vec<Job>> {
    let jobs: Vec<Job> = match &args.output {
        Some(output) => vec![Job { inputs: args.input.clone(), output: output.clone() }],
        None => args.input.iter().map(|i| Job { inputs: vec![i.clone()], output: beside(i) }).collect(),
    };
    if args.input.iter().filter(|i| i.as_os_str() == "-").count() > 1 {
        return Err(Error::Usage("standard input (-) can be read only once".into()));
    }
    if args.resume && args.input.iter().any(|i| i.as_os_str() == "-") {
        return Err(Error::Usage("--resume needs input files: standard input cannot be read again".into()));
    }
    let mut outputs: Vec<&Path> = jobs.iter().map(|job| job.output.as_path()).collect();
    let mut seen = BTreeSet::new();
    for output in &outputs {
        if output.as_os_str() != "-" && !seen.insert(output) {
            return Err(Error::Usage(format!(
                "two inputs would be written to {}: give one output for all with -o",
                output.display()
            )));
        }
        // Known now rather than after hours of computing.
        if output.is_file() && !args.overwrite && !args.resume {
            return Err(Error::Usage(format!("{} exists already; --overwrite replaces it", output.display())));
        }
    }
    if let Some(summary) = &args.summary {
        if summary.as_os_str() == "-" && outputs.iter().any(|o| o.as_os_str() == "-") {
            return Err(Error::Usage("frames and --summary cannot both go to standard output".into()));
        }
        outputs.push(summary);
    }
    for input in args.input.iter().filter(|i| i.as_os_str() != "-") {
        std::fs::metadata(input).map_err(|e| Error::io(input, e))?;
        let same = |a: &Path, b: &Path| matches!((a.canonicalize(), b.canonicalize()), (Ok(a), Ok(b)) if a == b);
        if outputs.iter().any(|output| same(input, output)) {
            return Err(Error::Usage(format!("{} is both input and output", input.display())));
        }
    }
    Ok(jobs)
}

/// `NAME.mlff.xyz` beside the input; standard output for standard input.
fn beside(input: &Path) -> PathBuf {
    if input.as_os_str() == "-" {
        return input.to_path_buf();
    }
    let mut name = input.file_name().unwrap_or_default().to_string_lossy().into_owned();
    for endings in [&[".gz", ".bz2", ".xz", ".zst"][..], &[".xyz", ".extxyz"]] {
        let stripped = endings.iter().find_map(|end| name.strip_suffix(end)).filter(|stem| !stem.is_empty());
        if let Some(stem) = stripped {
            name = stem.to_string();
        }
    }
    input.with_file_name(name + ".mlff.xyz")
}

fn run_job(
    args: &Args,
    options: &WriteOptions,
    potential: &Potential,
    job: &Job,
    progress: &ProgressBar,
    summary: &mut Summary,
) -> Result<()> {
    let Some((mut writer, done)) = open_output(args, job, summary)? else { return Ok(()) };
    let want = Want {
        forces: args.properties.contains(&Property::Forces),
        stress: args.properties.contains(&Property::Stress),
    };
    let to_stream = Writer::partial_path(&job.output)?.is_none();
    summary.n_resumed += done;
    let failed_before = summary.n_failed;
    let size = ChunkSize::new(args.model.batch, &job.inputs);
    // Memory goes round: giving it back to the system and getting it again takes longer than to write it.
    let spares = &Spares::default();
    let source = pipeline::Job { inputs: &job.inputs, slice: args.index, size, want, skip: done, spares };
    let written = Mutex::new(Vec::<Texts>::new());
    let written = || written.lock().unwrap_or_else(PoisonError::into_inner);
    let written = &written;
    let complete = std::thread::scope(|scope| -> Result<bool> {
        // One chunk is written while others are read and evaluated; more in between would only take memory.
        let (to_writer, chunks) = sync_channel::<Vec<Texts>>(0);
        let writing = scope.spawn(move || -> Result<Writer> {
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
        });
        let mut n_frames = 0;
        let make = |results: Vec<Evaluated>| {
            let used = || written().pop().unwrap_or_default();
            let parts = results.into_par_iter().chunks(FRAMES_PER_PART);
            parts.map(|frames| Part::new(frames, options, used(), spares)).collect::<Result<Vec<_>>>()
        };
        let computing = pipeline::run(potential, source, progress, make, |chunk| {
            n_frames += chunk.n_frames;
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
            Ok(to_writer.send(texts).is_ok())
        });
        drop(to_writer);
        // The first cause wins: a full disk ends the computing too.
        let writer = writing.join().unwrap_or_else(|_| Err(pipeline::defect()))?;
        computing?;
        if n_frames < done {
            return Err(Error::Usage(format!(
                "--resume: {} holds {} frames more than the input: not a result of this command",
                Writer::partial_path(&job.output)?.unwrap_or_default().display(),
                done - n_frames
            )));
        }
        match writer.frames() {
            0 if summary.n_failed == failed_before => Err(Error::Usage("--index selects no frame".into())),
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

/// Starts the output or takes up an interrupted one, with the number of frames already in it; `None` where it is
/// complete, since resuming twice is no error.
fn open_output(args: &Args, job: &Job, summary: &mut Summary) -> Result<Option<(Writer, usize)>> {
    if !args.resume {
        return Ok(Some((Writer::create(&job.output, args.overwrite)?, 0)));
    }
    if job.output.is_file() && !args.overwrite {
        if !args.quiet {
            complain(&format!("{} is complete: nothing to resume", job.output.display()));
        }
        let (frames, failed) = earlier_results(&job.output, args)?;
        summary.n_frames += frames;
        summary.n_resumed += frames;
        summary.n_failed += failed;
        summary.outputs.push(job.output.display().to_string());
        return Ok(None);
    }
    let (writer, done) = Writer::resume(&job.output, args.overwrite)?;
    if let Some(partial) = Writer::partial_path(&job.output)?.filter(|_| done > 0) {
        summary.n_failed += earlier_results(&partial, args)?.1;
    }
    Ok(Some((writer, done)))
}

/// Frames of an earlier run's output, and how many of them are without results: the exit status is about all frames.
///
/// Without a prefix, an input's own `energy` looks like a result; `free_energy`, which few inputs have, tells them apart.
fn earlier_results(path: &Path, args: &Args) -> Result<(usize, usize)> {
    let energy = if args.key_prefix.is_empty() { "free_energy".into() } else { format!("{}energy", args.key_prefix) };
    let mut reader = Reader::open(path)?;
    let mut failed = 0;
    // An error ends a file without frames.
    while let Ok(Some(item)) = reader.next_item() {
        failed += usize::from(!matches!(item, Item::Frame(frame) if frame.info(&energy).is_some()));
    }
    Ok((reader.frames(), failed))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn output_stands_beside_the_input() {
        for (input, want) in [
            ("a/run.xyz", "a/run.mlff.xyz"),
            ("run.extxyz.gz", "run.mlff.xyz"),
            ("run.log", "run.log.mlff.xyz"),
            (".xyz", ".xyz.mlff.xyz"),
            ("-", "-"),
        ] {
            assert_eq!(beside(Path::new(input)), Path::new(want));
        }
    }
}
