//! `mlff eval`: errors against the labels in a file.

use std::collections::BTreeMap;
use std::path::PathBuf;

use mlff::engine::{Evaluation, Want};
use mlff::xyz::{Frame, Spares};
use mlff::{Error, Potential, Result};
use serde::Serialize;

use super::metrics::{ErrorSummary, Errors, ForceErrors, ForceSummary};
use super::model::ModelArgs;
use super::pipeline::{self, Done, Job};
use super::plot::{Panel, Points, parity};
use super::predict::outside_line;
use super::trajectory::{self, ChunkSize, Entry, Evaluated, FrameSlice};
use super::{Outcome, complain, json, print};

/// Compare a model with the energies, forces and stresses in files
#[derive(clap::Args)]
pub struct Args {
    /// Labelled trajectories; - is standard input
    #[arg(required = true)]
    input: Vec<PathBuf>,
    #[command(flatten)]
    model: ModelArgs,
    /// Frames to evaluate, as a Python slice
    #[arg(long, value_name = "SLICE", default_value = ":", allow_hyphen_values = true)]
    index: FrameSlice,
    /// What stands before energy, forces and stress in the file, such as REF_
    #[arg(long, value_name = "PREFIX", default_value = "")]
    label_prefix: String,
    /// Print JSON
    #[arg(long)]
    json: bool,
    /// Draw predictions against labels
    #[arg(long, value_name = "FILE.svg")]
    plot: Option<PathBuf>,
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
}

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
}

pub fn run(args: &Args) -> Result<Outcome> {
    let potential = args.model.potential()?;
    let progress = trajectory::progress_bar(&args.input, !args.no_progress);
    let mut tally = Tally::default();
    let size = ChunkSize::new(args.model.batch, &args.input);
    let job =
        Job { inputs: &args.input, slice: args.index, size, want: Want::ALL, skip: 0, spares: &Spares::default() };
    pipeline::run(
        &potential,
        job,
        &progress,
        |results| results,
        |done| {
            compare(&potential, args, done, &mut tally);
            Ok(true)
        },
    )?;
    progress.finish_and_clear();
    let report = tally.report();
    let has_labels = report.energy.is_some() || report.forces.is_some() || report.stress.is_some();
    // Where frames failed, that is what is wrong.
    if !has_labels && report.n_failed > 0 {
        return Ok(Outcome::SomeFailed);
    }
    if !has_labels {
        return Err(Error::Usage(format!(
            "found no labels: expected {0}energy= in the comment or a column {0}forces (--label-prefix says what \
             stands before the names)",
            args.label_prefix
        )));
    }
    print(&if args.json { json(&report)? } else { table(&report) })?;
    if let Some(path) = &args.plot {
        draw(path, &tally, &report)?;
    }
    Ok(if tally.n_failed > 0 { Outcome::SomeFailed } else { Outcome::Done })
}

fn compare(potential: &Potential, args: &Args, done: Done<Vec<Evaluated>>, tally: &mut Tally) {
    for Evaluated { entry, outcome } in done.made {
        match (entry, outcome) {
            (Entry::Frame(frame, _), Ok(evaluation)) => {
                let numbers = &frame.structure.atomic_numbers;
                let atomic = numbers.iter().filter_map(|z| potential.model().config().atomic_energies.get(z)).sum();
                if let Err(error) = tally.add(&frame, &evaluation, &args.label_prefix, atomic) {
                    tally.fail(&error);
                }
            }
            (_, Err(error)) => tally.fail(&error),
            (Entry::Bad(_), Ok(_)) => {}
        }
    }
    if let Some(error) = done.end {
        tally.fail(&error);
    }
}

impl Tally {
    fn fail(&mut self, error: &Error) {
        self.n_failed += 1;
        complain(&format!("failed: {error}"));
    }

    /// `atomic` is the sum of the model's atomic energies, eV: shown energies are less that, or elements would be all
    /// that a plot shows.
    fn add(&mut self, frame: &Frame, got: &Evaluation, prefix: &str, atomic: f64) -> Result<()> {
        let labels = frame.labels(prefix)?;
        let n_atoms = frame.structure.n_atoms();
        self.n_frames += 1;
        self.n_atoms += n_atoms;
        self.n_outside += usize::from(!got.outside.is_empty());
        for word in got.outside.words() {
            *self.outside.entry(word).or_default() += 1;
        }
        if let Some(want) = labels.energy {
            self.energy.add(got.energy, want);
            if n_atoms > 0 {
                let n = n_atoms as f64;
                self.energy_per_atom.add(got.energy / n, want / n);
                self.energy_points.add((want - atomic) / n, (got.energy - atomic) / n);
            }
        }
        if let (Some(want), Some(got)) = (&labels.forces, &got.forces) {
            for (want, got) in want.iter().zip(got) {
                self.forces.add(*got, *want);
                (0..3).for_each(|k| self.force_points.add(want[k], got[k]));
            }
        }
        if let (Some(want), Some(got)) = (&labels.stress, &got.stress) {
            let pairs = want.as_flattened().iter().zip(got.as_flattened());
            pairs.for_each(|(&want, &got)| {
                self.stress.add(got, want);
                self.stress_points.add(want, got);
            });
        }
        Ok(())
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
        }
    }
}

fn draw(path: &std::path::Path, tally: &Tally, report: &Report) -> Result<()> {
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
    parity(path, &panels)
}

fn table(report: &Report) -> String {
    let mut out = format!("{} structures, {} atoms", report.n_frames, report.n_atoms);
    if report.n_failed > 0 {
        out += &format!(", {} failed", report.n_failed);
    }
    out += &format!("\n{:<18} {:>12} {:>12} {:>12}\n", "", "MAE", "RMSE", "max");
    let mut row = |name: &str, e: Option<ErrorSummary>, unit: &str| {
        if let Some(e) = e {
            out += &format!("{name:<18} {:>12.6} {:>12.6} {:>12.6}  {unit}\n", e.mae, e.rmse, e.max);
        }
    };
    row("energy", report.energy, "eV");
    row("energy per atom", report.energy_per_atom, "eV");
    let forces = report.forces.map(|f| ErrorSummary { mae: f.mae, rmse: f.rmse, max: f.max });
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
