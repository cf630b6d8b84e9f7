//! `mlff check`: read without a model.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use mlff::xyz::{Frame, Item, LabelKeys, LabelKind, formula};
use mlff::{Error, Result};
use serde::Serialize;

use super::reading::ReadArgs;
use super::warnings::Warnings;
use super::{Outcome, complain, escape_json, print, words};

/// Read trajectories without a model: say what is in them, or what is wrong and where
#[derive(clap::Args)]
pub struct Args {
    /// Trajectories; - is standard input
    #[arg(required = true)]
    file: Vec<PathBuf>,
    #[command(flatten)]
    reading: ReadArgs,
    /// Print one JSON object a frame
    #[arg(long)]
    json: bool,
}

/// One frame, as `--json` prints it.
#[derive(Serialize)]
struct FrameReport<'a> {
    #[serde(skip_serializing_if = "Option::is_none")]
    file: Option<&'a Path>,
    frame: usize,
    n_atoms: usize,
    formula: String,
    pbc: [bool; 3],
    cell: Option<[[f64; 3]; 3]>,
    columns: Vec<String>,
    labels: Vec<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    charge: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    spin_multiplicity: Option<f64>,
    #[serde(skip_serializing_if = "<[String]>::is_empty")]
    warnings: &'a [String],
}

/// What a file holds.
#[derive(Default)]
struct Contents {
    frames: usize,
    atoms: Option<(usize, usize)>,
    total_atoms: usize,
    formulas: BTreeMap<String, usize>,
    periodic: usize,
    labels: BTreeMap<&'static str, usize>,
}

pub fn run(args: &Args) -> Result<Outcome> {
    let mut failed = false;
    for file in &args.file {
        failed |= check(args, file)?;
    }
    Ok(if failed { Outcome::SomeFailed } else { Outcome::Done })
}

/// Returns whether anything was wrong.
fn check(args: &Args, path: &Path) -> Result<bool> {
    let mut contents = Contents::default();
    let mut warnings = Warnings::default();
    let mut errors = 0;
    let mut complain_about = |error: &Error| {
        errors += 1;
        complain(&format!("error: {}", words::message(error)));
    };
    match args.reading.reading(false).open(path) {
        Err(error) => complain_about(&error),
        Ok(mut reader) => loop {
            match reader.next_item() {
                Ok(None) => break,
                Ok(Some(Item::Frame(mut frame))) => {
                    // Labels and charges that cannot be read are errors of the file, though its structures are fine.
                    let labels = labels(&mut frame).unwrap_or_else(|error| {
                        complain_about(&error);
                        Vec::new()
                    });
                    match frame.state_warnings() {
                        Ok(found) => found.into_iter().for_each(|warning| frame.warn(warning)),
                        Err(error) => complain_about(&error),
                    }
                    if args.json {
                        let file = (args.file.len() > 1).then_some(path);
                        print(&(line(&frame, file, labels)? + "\n"))?;
                    } else {
                        frame.warnings().iter().for_each(|w| warnings.add(path, Some(frame.index), w));
                        contents.add(&frame, &labels);
                    }
                }
                Ok(Some(Item::Bad(bad))) => complain_about(&bad.error),
                Err(error) => {
                    complain_about(&error);
                    break;
                }
            }
        },
    }
    warnings.say("; --json shows all");
    if !args.json && contents.frames > 0 {
        print(&contents.describe(path))?;
    }
    Ok(errors > 0)
}

/// Labels that a frame has; warns of what looks like one and has another name.
fn labels(frame: &mut Frame) -> Result<Vec<&'static str>> {
    let keys = LabelKeys::with_prefix("");
    let labels = frame.labels_of(&keys)?;
    for (kind, name) in frame.unread_labels(&keys, &labels) {
        if kind == LabelKind::Stress && frame.structure.volume().is_none() {
            frame.warn(format!("{name} is no label: only frames that are periodic in three directions have a stress"));
            continue;
        }
        let kind = match kind {
            LabelKind::Energy => "energy",
            LabelKind::Forces => "forces",
            LabelKind::Stress => "stress",
        };
        frame.warn(format!("{name} may be a label and is not read as one: mlff eval --{kind}-key {name} takes it"));
    }
    let there =
        [("energy", labels.energy.is_some()), ("forces", labels.forces.is_some()), ("stress", labels.stress.is_some())];
    Ok(there.into_iter().filter(|(_, there)| *there).map(|(name, _)| name).collect())
}

fn line(frame: &Frame, file: Option<&Path>, labels: Vec<&'static str>) -> Result<String> {
    let s = &frame.structure;
    let report = FrameReport {
        file,
        frame: frame.index,
        n_atoms: s.n_atoms(),
        formula: formula(&s.atomic_numbers),
        pbc: s.pbc,
        cell: s.cell,
        columns: frame.columns().iter().map(|c| format!("{}:{}:{}", c.name, c.kind.letter(), c.width)).collect(),
        labels,
        // What cannot be read has been said.
        charge: frame.charge().unwrap_or_default(),
        spin_multiplicity: frame.spin_multiplicity().unwrap_or_default(),
        warnings: frame.warnings(),
    };
    serde_json::to_string(&report).map(|text| escape_json(&text)).map_err(|e| Error::Usage(e.to_string()))
}

impl Contents {
    fn add(&mut self, frame: &Frame, labels: &[&'static str]) {
        let n = frame.structure.n_atoms();
        self.frames += 1;
        self.total_atoms += n;
        self.atoms = Some(self.atoms.map_or((n, n), |(low, high)| (low.min(n), high.max(n))));
        self.periodic += usize::from(frame.structure.is_periodic());
        // Memory does not grow with the number of different molecules.
        let formula = formula(&frame.structure.atomic_numbers);
        if self.formulas.len() < 1000 || self.formulas.contains_key(&formula) {
            *self.formulas.entry(formula).or_default() += 1;
        }
        labels.iter().for_each(|label| *self.labels.entry(label).or_default() += 1);
    }

    fn describe(&self, path: &Path) -> String {
        let (low, high) = self.atoms.unwrap_or_default();
        let sizes = if low == high { format!("{low}") } else { format!("{low} to {high}") };
        let mut formulas: Vec<(&String, &usize)> = self.formulas.iter().collect();
        formulas.sort_by_key(|(name, n)| (std::cmp::Reverse(**n), name.as_str()));
        let mut shown: Vec<String> = formulas.iter().take(6).map(|(name, n)| format!("{name} ({n})")).collect();
        if formulas.len() > shown.len() {
            shown.push("…".into());
        }
        let labels: Vec<String> = self
            .labels
            .iter()
            .map(|(name, &n)| if n == self.frames { (*name).to_string() } else { format!("{name} (in {n})") })
            .collect();
        let labels = if labels.is_empty() { "none".into() } else { labels.join(", ") };
        format!(
            "{}: {} frames, {} atoms, {sizes} a frame; {} periodic; labels: {labels}; {}\n",
            path.display(),
            self.frames,
            self.total_atoms,
            if self.periodic == 0 { "none".to_string() } else { self.periodic.to_string() },
            shown.join(", "),
        )
    }
}
