//! `mlff eval`: errors against the labels in a file.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use mlff::xyz::{Frame, LabelKeys, LabelKind, Spares};
use mlff::{Error, Potential, Result};
use mlff::{Evaluation, Want};
use serde::Serialize;

use super::metrics::{ErrorSummary, Errors, ForceErrors, ForceSummary};
use super::model::ModelArgs;
use super::output::{Files, Output, refuse_unreadable};
use super::pipeline::{self, Done, Input};
use super::plot::{Panel, Points, parity};
use super::predict::outside_line;
use super::reading::ReadArgs;
use super::trajectory::{self, ChunkSize, Entry, Evaluated, FrameSlice};
use super::warnings::{Kind, Warnings};
use super::{Outcome, complain, json, print, signals, words};

/// Compare a model with the energies, forces and stresses in files
#[derive(clap::Args)]
pub struct Args {
    /// Labelled trajectories; - is standard input
    #[arg(required = true)]
    input: Vec<PathBuf>,
    #[command(flatten)]
    model: ModelArgs,
    #[command(flatten)]
    reading: ReadArgs,
    /// Frames to evaluate, as a Python slice
    #[arg(long, value_name = "SLICE", default_value = ":", allow_hyphen_values = true)]
    index: FrameSlice,
    /// What stands before energy, forces and stress in the file, such as REF_
    #[arg(long, value_name = "PREFIX", default_value = "")]
    label_prefix: String,
    /// Key of the energy (eV), in place of the prefix and energy
    #[arg(long, value_name = "KEY")]
    energy_key: Option<String>,
    /// Column of the forces (eV/Å)
    #[arg(long, value_name = "COLUMN")]
    forces_key: Option<String>,
    /// Key of the stress (eV/Å³, tension positive)
    #[arg(long, value_name = "KEY")]
    stress_key: Option<String>,
    /// Key of the virial (eV, −volume times stress), compared as stress
    #[arg(long, value_name = "KEY", conflicts_with = "stress_key")]
    virial_key: Option<String>,
    /// Print JSON
    #[arg(long)]
    json: bool,
    /// Draw predictions against labels
    #[arg(long, value_name = "FILE.svg")]
    plot: Option<PathBuf>,
    /// Replace a plot that exists
    #[arg(long)]
    overwrite: bool,
    /// Show no progress bar
    #[arg(long)]
    no_progress: bool,
}

/// Errors so far.
#[derive(Default)]
struct Tally {
    n_frames: usize,
    n_failed: usize,
    n_atoms: usize,
    n_outside: usize,
    outside: BTreeMap<&'static str, usize>,
    energy: Errors,
    energy_per_atom: Errors,
    forces: ForceErrors,
    stress: Errors,
    energy_points: Points,
    force_points: Points,
    stress_points: Points,
    warnings: Warnings,
    lacking: Lacking,
}

/// Labels that frames do not have, or have under names that were not asked for.
#[derive(Default)]
struct Lacking {
    /// The first frame that lacks its energy, and the first that lacks its forces.
    first: [Option<(PathBuf, usize)>; 2],
    /// What looks like a label and was not compared: its name, the first place, and how often.
    unread: Vec<(LabelKind, String, PathBuf, usize, usize)>,
}

/// Names that are kept of what was not compared.
const UNREAD_KEPT: usize = 50;

/// What `--json` prints.
#[derive(Serialize)]
struct Report {
    n_frames: usize,
    n_failed: usize,
    n_atoms: usize,
    /// Frames outside of what the model was trained on, and how many in which way.
    n_outside: usize,
    outside: BTreeMap<&'static str, usize>,
    #[serde(skip_serializing_if = "Option::is_none")]
    energy: Option<ErrorSummary>,
    #[serde(skip_serializing_if = "Option::is_none")]
    energy_per_atom: Option<ErrorSummary>,
    #[serde(skip_serializing_if = "Option::is_none")]
    forces: Option<ForceSummary>,
    #[serde(skip_serializing_if = "Option::is_none")]
    stress: Option<ErrorSummary>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    warnings: Vec<Kind>,
}

pub fn run(args: &Args) -> Result<Outcome> {
    // Before anything is computed for what cannot be read or written.
    refuse_unreadable(&args.input)?;
    let mut files = Files::default();
    files.reads(args.input.iter().map(PathBuf::as_path));
    files.reads_model(&args.model);
    if let Some(plot) = &args.plot {
        files.writes_report(plot, args.overwrite)?;
    }
    let plot_file = args.plot.as_deref().map(|path| Output::create(path, args.overwrite)).transpose()?;
    let potential = args.model.potential()?;
    let progress = trajectory::progress_bar(&args.input, !args.no_progress);
    let mut tally = Tally::default();
    let keys = args.label_keys();
    let size = ChunkSize::new(args.model.batch, &args.input, args.model.device_kind());
    let (reading, spares) = (args.reading.reading(false), &Spares::default());
    let job = Input { inputs: &args.input, slice: args.index, size, reading, want: Want::ALL, skip: 0, spares };
    pipeline::run(
        &potential,
        job,
        &progress,
        |results| results,
        |done| {
            compare(&potential, &keys, done, &mut tally)?;
            signals::frames_done(tally.n_frames + tally.n_failed);
            Ok(true)
        },
    )?;
    progress.finish_and_clear();
    tally.warn_of_lacking_labels();
    let report = tally.report();
    tally.warnings.say("");
    let has_labels = report.energy.is_some() || report.forces.is_some() || report.stress.is_some();
    // Where all frames failed, that is what is wrong.
    if !has_labels && report.n_frames == 0 && report.n_failed > 0 {
        return Ok(Outcome::SomeFailed);
    }
    if !has_labels {
        return Err(Error::Usage(format!(
            "found no labels in {} frames: expected {}= in the comment or a column {} (--label-prefix says what stands \
             before the names, --energy-key, --forces-key, --stress-key and --virial-key name them one by one)",
            report.n_frames,
            keys.energy.first().map_or("", String::as_str),
            keys.forces.first().map_or("", String::as_str),
        )));
    }
    print(&if args.json { json(&report)? } else { table(&report) })?;
    if let Some(file) = plot_file {
        file.write(&draw(&tally, &report)?)?;
    }
    Ok(if tally.n_failed > 0 { Outcome::SomeFailed } else { Outcome::Done })
}

impl Args {
    /// Names of the labels: those that are named one by one, and for the others the prefix.
    fn label_keys(&self) -> LabelKeys {
        let mut keys = LabelKeys::with_prefix(&self.label_prefix);
        let one = |key: &Option<String>, names: &mut Vec<String>| {
            if let Some(key) = key {
                *names = vec![key.clone()];
            }
        };
        one(&self.energy_key, &mut keys.energy);
        one(&self.forces_key, &mut keys.forces);
        one(&self.stress_key, &mut keys.stress);
        one(&self.virial_key, &mut keys.virial);
        // The one that is asked for is the one that is compared.
        if self.virial_key.is_some() {
            keys.stress.clear();
        }
        if self.stress_key.is_some() {
            keys.virial.clear();
        }
        keys
    }
}

/// # Errors
/// What is no fault of a frame, and ends the run.
fn compare(potential: &Potential, keys: &LabelKeys, done: Done<Vec<Evaluated>>, tally: &mut Tally) -> Result<()> {
    for Evaluated { entry, outcome } in done.made {
        match (entry, outcome) {
            (Entry::Frame(frame, path), Ok(evaluation)) => {
                let numbers = &frame.structure.atomic_numbers;
                let atomic = numbers.iter().filter_map(|z| potential.model().config().atomic_energies.get(z)).sum();
                if let Err(error) = tally.add(&frame, &path, &evaluation, keys, atomic) {
                    tally.fail(&error);
                }
            }
            (_, Err(error)) if error.is_of_structure() => tally.fail(&error),
            (_, Err(error)) => return Err(error),
            (Entry::Bad(_), Ok(_)) => {}
        }
    }
    if let Some(error) = done.end {
        tally.fail(&error);
    }
    Ok(())
}

impl Lacking {
    fn add(&mut self, kind: LabelKind, name: String, path: &Path, frame: usize) {
        if let Some((.., count)) = self.unread.iter_mut().find(|(k, n, ..)| *k == kind && *n == name) {
            *count += 1;
        } else if self.unread.len() < UNREAD_KEPT {
            self.unread.push((kind, name, path.to_path_buf(), frame, 1));
        }
    }
}

impl Tally {
    fn fail(&mut self, error: &Error) {
        self.n_failed += 1;
        complain(&format!("failed: {}", words::message(error)));
    }

    /// `atomic` is the sum of the model's atomic energies, eV: shown energies are less that, or elements would be all
    /// that a plot shows.
    fn add(&mut self, frame: &Frame, path: &Path, got: &Evaluation, keys: &LabelKeys, atomic: f64) -> Result<()> {
        for warning in frame.warnings() {
            self.warnings.add(path, Some(frame.index), warning);
        }
        let labels = frame.labels_of(keys)?;
        let n_atoms = frame.structure.n_atoms();
        self.n_frames += 1;
        self.n_atoms += n_atoms;
        let lacks = [labels.energy.is_none(), labels.forces.is_none() && n_atoms > 0];
        for (first, _) in self.lacking.first.iter_mut().zip(lacks).filter(|(first, lacks)| first.is_none() && *lacks) {
            *first = Some((path.to_path_buf(), frame.index));
        }
        for (kind, name) in frame.unread_labels(keys, &labels) {
            if kind == LabelKind::Stress && frame.structure.volume().is_none() {
                let why = "only frames that are periodic in three directions have a stress";
                self.warnings.add(path, Some(frame.index), &format!("{name} is not compared: {why}"));
            } else {
                self.lacking.add(kind, name, path, frame.index);
            }
        }
        self.n_outside += usize::from(!got.outside.is_empty());
        for word in got.outside.words() {
            *self.outside.entry(word).or_default() += 1;
        }
        if let Some(want) = labels.energy {
            self.energy.add(got.energy, want);
            self.energy.count(n_atoms);
            if n_atoms > 0 {
                let n = n_atoms as f64;
                self.energy_per_atom.add(got.energy / n, want / n);
                self.energy_per_atom.count(n_atoms);
                self.energy_points.add((want - atomic) / n, (got.energy - atomic) / n);
            }
        }
        if let (Some(want), Some(got)) = (&labels.forces, &got.forces) {
            self.forces.count(n_atoms);
            for (want, got) in want.iter().zip(got) {
                self.forces.add(*got, *want);
                (0..3).for_each(|k| self.force_points.add(want[k], got[k]));
            }
        }
        if let (Some(want), Some(got)) = (&labels.stress, &got.stress) {
            self.stress.count(n_atoms);
            let pairs = want.as_flattened().iter().zip(got.as_flattened());
            pairs.for_each(|(&want, &got)| {
                self.stress.add(got, want);
                self.stress_points.add(want, got);
            });
        }
        Ok(())
    }

    /// Says which labels only some frames have, and what was seen that may be the others.
    fn warn_of_lacking_labels(&mut self) {
        let have = [("energies", "energy", self.energy.n_frames()), ("forces", "forces", self.forces.n_frames())];
        for ((plural, name, n), first) in have.into_iter().zip(&self.lacking.first) {
            if let Some((path, frame)) = first.as_ref().filter(|_| n > 0) {
                let warning = format!("no {name} label: {plural} are compared in {n} of {} frames", self.n_frames);
                self.warnings.add_many(path, Some(*frame), &warning, self.n_frames - n);
            }
        }
        for (kind, name, path, frame, count) in std::mem::take(&mut self.lacking.unread) {
            let warning = match kind {
                LabelKind::Energy => {
                    format!("{name} is not compared: --energy-key {name} takes it for the energy, in eV")
                }
                LabelKind::Forces => {
                    format!("column {name} is not compared: --forces-key {name} takes it for the forces, in eV/Å")
                }
                LabelKind::Stress => format!(
                    "{name} is not compared: --stress-key {name} takes it for the stress, in eV/Å³, --virial-key {name} \
                     for the virial, in eV"
                ),
            };
            self.warnings.add_many(&path, Some(frame), &warning, count);
        }
    }

    fn report(&self) -> Report {
        Report {
            n_frames: self.n_frames,
            n_failed: self.n_failed,
            n_atoms: self.n_atoms,
            n_outside: self.n_outside,
            outside: self.outside.clone(),
            energy: self.energy.summary(),
            energy_per_atom: self.energy_per_atom.summary(),
            forces: self.forces.summary(),
            stress: self.stress.summary(),
            warnings: self.warnings.kinds().to_vec(),
        }
    }
}

fn draw(tally: &Tally, report: &Report) -> Result<String> {
    let mut panels = Vec::new();
    if let Some(e) = report.energy_per_atom {
        let note = format!("MAE {:.4}", e.mae);
        panels.push(Panel { title: "energy per atom, less atomic energies (eV)", points: &tally.energy_points, note });
    }
    if let Some(e) = report.forces {
        let note = format!("MAE {:.4}", e.mae);
        panels.push(Panel { title: "force components (eV/Å)", points: &tally.force_points, note });
    }
    if let Some(e) = report.stress {
        let note = format!("MAE {:.4}", e.mae);
        panels.push(Panel { title: "stress components (eV/Å³)", points: &tally.stress_points, note });
    }
    parity(&panels)
}

fn table(report: &Report) -> String {
    let mut out = format!("{} structures, {} atoms", report.n_frames, report.n_atoms);
    if report.n_failed > 0 {
        out += &format!(", {} failed", report.n_failed);
    }
    out += &format!("\n{:<18} {:>12} {:>12} {:>12} {:>9} {:>10}\n", "", "MAE", "RMSE", "max", "frames", "atoms");
    let mut row = |name: &str, e: Option<ErrorSummary>, unit: &str| {
        if let Some(e) = e {
            let ErrorSummary { mae, rmse, max, n_frames, n_atoms } = e;
            out += &format!("{name:<18} {mae:>12.6} {rmse:>12.6} {max:>12.6} {n_frames:>9} {n_atoms:>10}  {unit}\n");
        }
    };
    row("energy", report.energy, "eV");
    row("energy per atom", report.energy_per_atom, "eV");
    let forces = report.forces.map(|f| {
        let ForceSummary { mae, rmse, max, n_frames, n_atoms, .. } = f;
        ErrorSummary { mae, rmse, max, n_frames, n_atoms }
    });
    row("forces", forces, "eV/Å, components");
    row("stress", report.stress, "eV/Å³, components");
    if let Some(f) = report.forces {
        let text = |x: Option<f64>| x.map_or_else(|| "-".into(), |x| format!("{x:.6}"));
        out += &format!("forces: R² {}, mean cosine {}\n", text(f.r2), text(f.cosine));
    }
    if report.n_outside > 0 {
        out += &format!("{}\n", outside_line(report.n_outside, &report.outside));
    }
    out
}
