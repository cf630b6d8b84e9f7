//! Some frames of a chunk: their text, and what there is to say about them.

use std::path::Path;
use std::sync::Arc;

use mlff::model::Outside;
use mlff::xyz::{Results, Spares, Texts, WriteOptions};
use mlff::{Error, Result};

use super::Args;
use super::summary::{Summary, fail};
use crate::cli::complain;
use crate::cli::trajectory::{Entry, Evaluated};

/// What is kept of some frames.
pub struct Part {
    /// What the output has of them.
    pub texts: Texts,
    n_atoms: usize,
    /// In the order of the frames.
    notes: Vec<Note>,
}

enum Note {
    Warning(Arc<Path>, usize, String),
    /// Index of the frame, and its file.
    Outside(Outside, usize, Arc<Path>),
    Failure(Error),
}

impl Part {
    /// `texts` is emptied before; its memory is used. The frames become `spares`.
    pub fn new(results: Vec<Evaluated>, options: &WriteOptions, mut texts: Texts, spares: &Spares) -> Result<Self> {
        // What is read, and three numbers an atom and a comment's entries more.
        let room = |e: &Evaluated| match &e.entry {
            Entry::Frame(frame, _) => frame.raw().len() + 256 + 72 * frame.structure.n_atoms(),
            Entry::Bad(bad) => bad.raw.len() + 1,
        };
        texts.clear();
        texts.reserve(results.iter().map(room).sum());
        let mut part = Part { texts, n_atoms: 0, notes: Vec::new() };
        let mut used = Vec::with_capacity(results.len());
        for Evaluated { entry, outcome } in results {
            match entry {
                Entry::Bad(bad) => part.texts.push_refused(&bad.raw, options),
                Entry::Frame(frame, path) => {
                    part.n_atoms += frame.structure.n_atoms();
                    let warning = |w: &String| Note::Warning(path.clone(), frame.index, w.clone());
                    part.notes.extend(frame.warnings().iter().map(warning));
                    let results = outcome.as_ref().ok().map(|e| Results {
                        energy: e.energy,
                        forces: e.forces.as_deref(),
                        stress: e.stress,
                        outside: e.outside,
                    });
                    if let Some(results) = results.filter(|r| !r.outside.is_empty()) {
                        part.notes.push(Note::Outside(results.outside, frame.index, path));
                    }
                    part.texts.push_frame(&frame, results.as_ref(), options)?;
                    used.push(*frame);
                }
            }
            if let Err(error) = outcome {
                part.notes.push(Note::Failure(error));
            }
        }
        spares.give(used);
        Ok(part)
    }

    /// Counts frames and failures; stops at the first failure unless failures are to be skipped.
    pub fn tally(&self, args: &Args, summary: &mut Summary) -> Result<()> {
        summary.n_atoms += self.n_atoms;
        for note in &self.notes {
            match note {
                // No fault of the frame: what failed once fails again.
                Note::Failure(error) if !error.is_of_structure() => return Err(error.clone()),
                Note::Failure(error) => fail(args, summary, error)?,
                Note::Outside(outside, frame, path) => {
                    summary.n_outside += 1;
                    for word in outside.words() {
                        *summary.outside.entry(word).or_default() += 1;
                    }
                    if args.verbose {
                        let path = path.display();
                        complain(&format!(
                            "outside of what the model was trained on: {path}: frame {frame}: {outside}"
                        ));
                    }
                }
                Note::Warning(path, frame, warning) => {
                    summary.n_warnings += 1;
                    summary.warnings.add(path, Some(*frame), warning);
                    if args.verbose {
                        complain(&format!("warning: {}: frame {frame}: {warning}", path.display()));
                    }
                }
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use mlff::xyz::Reader;

    use super::*;
    use crate::cli::trajectory::locate;

    #[derive(clap::Parser)]
    struct Command {
        #[command(flatten)]
        args: Args,
    }

    fn evaluated(error: Error) -> Evaluated {
        let mut reader = Reader::from_reader("in.xyz", std::io::Cursor::new("1\n\nH 0 0 0\n")).unwrap();
        let frame = reader.next_frame().unwrap().unwrap();
        let entry = Entry::Frame(Box::new(frame), Path::new("in.xyz").into());
        let outcome = Err(locate(&entry, error));
        Evaluated { entry, outcome }
    }

    #[test]
    fn failures_that_are_no_frames_fault_end_a_run_that_skips_bad_frames() {
        let Command { args } = clap::Parser::parse_from(["predict", "in.xyz", "--on-error", "skip"]);
        let tally = |error: Error| {
            let frames = vec![evaluated(error)];
            let part = Part::new(frames, &WriteOptions::default(), Texts::default(), &Spares::default()).unwrap();
            let mut summary = Summary::default();
            part.tally(&args, &mut summary).map(|()| summary.n_failed)
        };
        let memory = mlff::error::CudaError::OutOfMemory { asked: 1, free: 0 };
        for error in [Error::Tensor("no memory".into()), memory.into(), Error::Usage("a batch is too large".into())] {
            let ended = tally(error.clone()).unwrap_err();
            assert_eq!((ended.code(), ended.to_string()), (error.code(), error.to_string()));
        }
        let overlap = Error::Overlap { i: 0, j: 1, distance: 0.0, minimum: 0.1 };
        assert_eq!(tally(overlap).unwrap(), 1);
    }
}
