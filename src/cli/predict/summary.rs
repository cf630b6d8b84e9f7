//! What was done: counted, written by `--summary`, reported.

use std::collections::BTreeMap;
use std::path::Path;

use indicatif::{HumanCount, ProgressBar};
use mlff::{Error, Result};
use serde::Serialize;

use super::{Args, OnError};
use crate::cli::{complain, json, print, trajectory};

/// What `--summary` writes.
#[derive(Default, Serialize)]
pub struct Summary {
    pub tool: String,
    pub model: String,
    pub device: String,
    pub engine: String,
    pub dtype: String,
    pub threads: usize,
    pub inputs: Vec<String>,
    pub outputs: Vec<String>,
    pub n_frames: usize,
    pub n_failed: usize,
    pub n_atoms: usize,
    /// Frames that were already in the output, and were not computed again.
    pub n_resumed: usize,
    pub wall_s: f64,
    pub structures_per_s: f64,
    pub atoms_per_s: f64,
    pub n_warnings: usize,
    /// Frames outside of what the model was trained on, and how many in which way.
    pub n_outside: usize,
    pub outside: BTreeMap<&'static str, usize>,
    /// The first failures.
    pub failures: Vec<Failure>,
}

#[derive(Serialize)]
pub struct Failure {
    file: String,
    frame: Option<usize>,
    line: Option<usize>,
    reason: String,
}

impl Summary {
    /// A run that ends early may not have passed all frames that were there already.
    pub fn n_computed(&self) -> usize {
        self.n_frames.saturating_sub(self.n_resumed)
    }
}

/// Failures kept for the summary; all are counted.
const FAILURES_KEPT: usize = 100;

pub fn fail(args: &Args, summary: &mut Summary, error: &Error) -> Result<()> {
    summary.n_failed += 1;
    let failure = match error {
        Error::Xyz { path, frame, line, reason } => {
            Failure { file: path.display().to_string(), frame: Some(*frame), line: Some(*line), reason: reason.clone() }
        }
        other => Failure { file: String::new(), frame: None, line: None, reason: other.to_string() },
    };
    if summary.failures.len() < FAILURES_KEPT {
        summary.failures.push(failure);
    }
    if args.on_error == OnError::Fail {
        // Stops everything; the message is the error itself.
        return Err(match trajectory::restate(error) {
            Error::Xyz { path, frame, line, reason } => {
                let reason = format!("{reason} (--on-error skip goes on without such frames)");
                Error::Xyz { path, frame, line, reason }
            }
            other => other,
        });
    }
    if args.verbose {
        complain(&format!("failed: {error}"));
    }
    Ok(())
}

pub fn progress_message(progress: &ProgressBar, summary: &Summary) {
    if progress.is_hidden() {
        return;
    }
    let seconds = progress.elapsed().as_secs_f64().max(1e-3);
    let rate = |n: usize| HumanCount((n as f64 / seconds) as u64);
    progress.set_message(format!(
        "{} structures, {} structures/s, {} atoms/s",
        HumanCount(summary.n_frames as u64),
        rate(summary.n_computed()),
        rate(summary.n_atoms)
    ));
}

pub fn write_summary(path: &Path, summary: &Summary) -> Result<()> {
    let text = json(summary)?;
    if path.as_os_str() == "-" {
        return print(&text);
    }
    std::fs::write(path, text).map_err(|e| Error::io(path, e))
}

pub fn report(args: &Args, summary: &Summary) {
    let s = summary;
    if args.quiet {
        return report_failures(args, s);
    }
    if s.n_frames == 0 {
        return;
    }
    complain(&format!(
        "{} structures, {} atoms in {:.2} s ({:.0} structures/s, {:.0} atoms/s) with {} in {} on {} threads",
        HumanCount(s.n_computed() as u64),
        HumanCount(s.n_atoms as u64),
        s.wall_s,
        s.structures_per_s,
        s.atoms_per_s,
        s.model,
        s.dtype,
        s.threads,
    ));
    if s.n_resumed > 0 {
        complain(&format!("{} structures were there from an earlier run", HumanCount(s.n_resumed as u64)));
    }
    report_failures(args, s);
    if s.n_warnings > 0 && !args.verbose {
        complain(&format!("{} warnings (-v shows them)", s.n_warnings));
    }
    if s.n_outside > 0 {
        let shown = if args.verbose { "" } else { " (-v shows each)" };
        complain(&format!("{}{shown}", outside_line(s.n_outside, &s.outside)));
    }
    for output in s.outputs.iter().filter(|o| *o != "-") {
        complain(&format!("written to {output}"));
    }
}

/// Says how many structures are outside of what the model was trained on, and in which ways.
pub fn outside_line(n: usize, by_word: &BTreeMap<&'static str, usize>) -> String {
    let words: Vec<String> = by_word.iter().map(|(word, n)| format!("{word} {}", HumanCount(*n as u64))).collect();
    let (n, s) = (HumanCount(n as u64), if n == 1 { " is" } else { "s are" });
    format!("{n} structure{s} outside of what the model was trained on: {}", words.join(", "))
}

fn report_failures(args: &Args, s: &Summary) {
    if s.n_failed > 0 {
        complain(&format!(
            "{} failed; those that could be read are in the output without results:",
            HumanCount(s.n_failed as u64)
        ));
        for failure in s.failures.iter().take(if args.verbose { 0 } else { 5 }) {
            let place = match (failure.frame, failure.line) {
                (Some(frame), Some(line)) => format!("{}: frame {frame}, line {line}: ", failure.file),
                _ => String::new(),
            };
            complain(&format!("  {place}{}", failure.reason));
        }
        if s.failures.len() > 5 && !args.verbose {
            complain("  … (-v shows all)");
        }
    }
}
