//! What was done: counted, written by `--summary`, reported.

use std::collections::BTreeMap;

use indicatif::{HumanCount, ProgressBar};
use mlff::{Error, Result};
use serde::Serialize;

use super::jobs::Job;
use super::{Args, OnError};
use crate::cli::output::Output;
use crate::cli::warnings::Warnings;
use crate::cli::words::{in_flags, message};
use crate::cli::{complain, json};

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
    /// Inputs whose output could not be made, and why.
    pub failed_files: Vec<FailedFile>,
    /// Failed frames whose file has no output.
    #[serde(skip)]
    pub n_failed_without_output: usize,
    /// Each kind once.
    #[serde(serialize_with = "kinds")]
    pub warnings: Warnings,
    /// Frames outside of what the model was trained on, and how many in which way.
    pub n_outside: usize,
    pub outside: BTreeMap<&'static str, usize>,
    /// The first failures.
    pub failures: Vec<Failure>,
}

#[derive(Serialize)]
pub struct FailedFile {
    file: String,
    reason: String,
}

#[derive(Serialize)]
pub struct Failure {
    file: String,
    frame: Option<usize>,
    line: Option<usize>,
    reason: String,
}

fn kinds<S: serde::Serializer>(warnings: &Warnings, serializer: S) -> std::result::Result<S::Ok, S::Error> {
    warnings.kinds().serialize(serializer)
}

impl Summary {
    /// A run that ends early may not have passed all frames that were there already.
    pub fn n_computed(&self) -> usize {
        self.n_frames.saturating_sub(self.n_resumed)
    }

    /// Names a file that cannot be done, while others can.
    pub fn fail_file(&mut self, job: &Job, error: &Error) {
        let reason = job.about(error);
        complain(&format!("error: {reason}"));
        self.failed_files.push(FailedFile { file: job.name(), reason });
    }
}

/// Failures kept for the summary; all are counted.
const FAILURES_KEPT: usize = 100;

pub fn fail(args: &Args, summary: &mut Summary, error: &Error) -> Result<()> {
    summary.n_failed += 1;
    let failure = match error {
        Error::Xyz { path, frame, line, reason } => Failure {
            file: path.display().to_string(),
            frame: Some(*frame),
            line: Some(*line),
            reason: in_flags(reason),
        },
        other => Failure { file: String::new(), frame: None, line: None, reason: message(other) },
    };
    if summary.failures.len() < FAILURES_KEPT {
        summary.failures.push(failure);
    }
    if args.on_error == OnError::Fail {
        // Stops everything; the message is the error itself.
        return Err(match error.clone() {
            Error::Xyz { path, frame, line, reason } => {
                let reason = format!("{reason} (--on-error skip goes on without such frames)");
                Error::Xyz { path, frame, line, reason }
            }
            other => other,
        });
    }
    if args.verbose {
        complain(&format!("failed: {}", message(error)));
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

pub fn write_summary(file: Output, summary: &Summary) -> Result<()> {
    file.write(&json(summary)?)
}

pub fn report(args: &Args, summary: &Summary) {
    let s = summary;
    if args.quiet {
        return report_failures(args, s);
    }
    if s.n_frames == 0 {
        return report_failures(args, s);
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
    if !args.verbose {
        s.warnings.say("; -v shows all");
    }
    if s.n_outside > 0 {
        let shown = if args.verbose { "" } else { " (-v shows each)" };
        complain(&format!("{}{shown}", outside_line(s.n_outside, &s.outside)));
    }
    for output in s.outputs.iter().filter(|o| *o != "-") {
        complain(&format!("written to {output}"));
    }
    report_failures(args, s);
}

/// Says how many structures are outside of what the model was trained on, and in which ways.
pub fn outside_line(n: usize, by_word: &BTreeMap<&'static str, usize>) -> String {
    let words: Vec<String> = by_word.iter().map(|(word, n)| format!("{word} {}", HumanCount(*n as u64))).collect();
    let (n, s) = (HumanCount(n as u64), if n == 1 { " is" } else { "s are" });
    format!("{n} structure{s} outside of what the model was trained on: {}", words.join(", "))
}

fn report_failures(args: &Args, s: &Summary) {
    let in_output = s.n_failed - s.n_failed_without_output;
    if in_output > 0 {
        complain(&format!(
            "{} failed; those that could be read are in the output without results:",
            HumanCount(in_output as u64)
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
    if !s.failed_files.is_empty() {
        // Said once where nothing else was said in between.
        let (n, again) = (HumanCount(s.failed_files.len() as u64), s.n_frames > 0);
        complain(&format!("{n} of the files failed{}", if again { ":" } else { "" }));
        s.failed_files.iter().filter(|_| again).for_each(|failed| complain(&format!("  {}", failed.reason)));
    }
}
