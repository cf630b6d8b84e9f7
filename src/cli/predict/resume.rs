//! Outputs that are begun, taken up again, or found complete.

use std::path::Path;

use indicatif::ProgressBar;
use mlff::files::{Place, place};
use mlff::xyz::{Item, Reader, Spares, Texts, WriteOptions, Writer};
use mlff::{Error, Result};

use super::Args;
use super::jobs::Job;
use super::record::{Compared, Record};
use super::summary::Summary;
use crate::cli::complain;
use crate::cli::trajectory::{Chunk, ChunkSize, Entry, read_chunks};

/// Starts the output or takes up an interrupted one, with the number of frames already in it; `None` where it is
/// complete, since resuming twice is no error.
pub fn open_output(args: &Args, record: &Record, job: &Job, summary: &mut Summary) -> Result<Option<(Writer, usize)>> {
    if !args.resume {
        let mut writer = Writer::create(&job.output, args.overwrite)?;
        writer.record(&record.key(), &record.text())?;
        return Ok(Some((writer, 0)));
    }
    if matches!(place(&job.output)?, Place::File(file) if file.is_file()) && !args.overwrite {
        let earlier = Earlier::read(args, job, &job.output)?;
        earlier.check_complete(args, record, job)?;
        if !args.quiet {
            complain(&format!("{} is complete: nothing to resume", job.output.display()));
        }
        summary.n_frames += earlier.frames;
        summary.n_resumed += earlier.frames;
        summary.n_failed += earlier.failed;
        summary.outputs.push(job.output.display().to_string());
        return Ok(None);
    }
    let (mut writer, done) = Writer::resume(&job.output, args.overwrite)?;
    let mut has_record = false;
    if let Some(partial) = Writer::partial_path(&job.output)?.filter(|_| done > 0) {
        let earlier = Earlier::read(args, job, &partial)?;
        has_record = earlier.check_partial(record, job, &partial)?;
        summary.n_failed += earlier.failed;
    }
    if !has_record {
        writer.record(&record.key(), &record.text())?;
    }
    Ok(Some((writer, done)))
}

/// What an earlier run has written, compared with the input of this one.
struct Earlier {
    frames: usize,
    /// Frames without results: the exit status is about all frames.
    failed: usize,
    /// Whether there is a frame whose comment this program has made; the first one has the record.
    has_comments: bool,
    /// Prefix of the keys, and what it was made with.
    record: Option<(String, String)>,
    /// The first frame that is not the input's, and where the input's stands.
    mismatch: Option<String>,
    /// Frames that the input has, as far as it was read: one more than the output at most.
    input_frames: usize,
}

impl Earlier {
    /// Reads both, frame by frame.
    fn read(args: &Args, job: &Job, path: &Path) -> Result<Self> {
        // Frames that failed carry no energy under the names of results, not even the input's.
        let energy = format!("{}energy", args.key_prefix);
        // What an earlier run wrote was within the limits of its input.
        let mut output = Reader::open(path)?.with_max_frame(usize::MAX);
        let mut earlier =
            Earlier { frames: 0, failed: 0, has_comments: false, record: None, mismatch: None, input_frames: 0 };
        let size = ChunkSize::new(args.model.batch, &job.inputs, args.model.device_kind());
        let mut compare = |chunk: Chunk| {
            for entry in chunk.entries {
                earlier.input_frames += 1;
                // An error ends a file without frames.
                let Ok(Some(item)) = output.next_item() else { return false };
                earlier.add(&item, &energy);
                if earlier.mismatch.is_none() && !is_same(&entry, &item, &args.key_prefix) {
                    let frame = earlier.frames - 1;
                    let reason = format!("its frame {frame} is not the input's, {}", name(&entry, job));
                    earlier.mismatch = Some(reason);
                }
            }
            true
        };
        let (reading, spares) = (args.reading.reading(true), &Spares::default());
        read_chunks(&job.inputs, args.index, size, reading, &ProgressBar::hidden(), spares, &mut compare);
        while let Ok(Some(item)) = output.next_item() {
            earlier.add(&item, &energy);
        }
        Ok(earlier)
    }

    fn add(&mut self, item: &Item, energy: &str) {
        self.frames += 1;
        match item {
            Item::Frame(frame) => {
                self.failed += usize::from(frame.info(energy).is_none());
                if !std::mem::replace(&mut self.has_comments, true) {
                    self.record = frame.made_by();
                }
            }
            Item::Bad(_) => self.failed += 1,
        }
    }

    /// Returns whether the record is in it.
    fn check_partial(&self, record: &Record, job: &Job, partial: &Path) -> Result<bool> {
        let refuse = |reason: &str| {
            Err(Error::Usage(format!(
                "--resume: {}, which an interrupted run has left of {}, {reason}",
                partial.display(),
                job.output.display()
            )))
        };
        let anew = "give the same options and files, or begin anew without --resume";
        match &self.record {
            None if self.has_comments => {
                return refuse(
                    "does not say what it was made with, as files of earlier versions of mlff: finish it with the \
                     version that began it, or begin anew without --resume",
                );
            }
            None => {}
            Some((prefix, text)) => match record.compare(prefix, text) {
                Compared::Same => {}
                Compared::OtherVersion(version) => {
                    let this = env!("CARGO_PKG_VERSION");
                    return refuse(&format!("was made with mlff {version}, this is {this}: {anew}"));
                }
                Compared::Different(what) => return refuse(&format!("was made with {what}: {anew}")),
            },
        }
        if self.frames > self.input_frames {
            let n = self.frames - self.input_frames;
            return refuse(&format!("holds {n} frames more than the input: {anew}"));
        }
        match &self.mismatch {
            Some(mismatch) => refuse(&format!("was made from another input: {mismatch}: {anew}")),
            None => Ok(self.record.is_some()),
        }
    }

    /// Nothing is mixed in a file that is complete. So what cannot be known of it is said and no more.
    fn check_complete(&self, args: &Args, record: &Record, job: &Job) -> Result<()> {
        let output = job.output.display();
        let refuse = |reason: String| {
            Err(Error::Usage(format!(
                "--resume: {output} is complete, but {reason}: --overwrite replaces it, -o names another"
            )))
        };
        match &self.record {
            Some((prefix, text)) => match record.compare(prefix, text) {
                Compared::Different(what) => return refuse(format!("was made with {what}")),
                Compared::OtherVersion(version) if !args.quiet => {
                    complain(&format!("warning: {output} was made with mlff {version}"));
                }
                _ => {}
            },
            None => complain(&format!("warning: {output} does not say what it was made with: it is left as it is")),
        }
        if let Some(mismatch) = &self.mismatch {
            return refuse(format!("was made from another input: {mismatch}"));
        }
        match self.frames.abs_diff(self.input_frames) {
            0 => Ok(()),
            n if self.frames > self.input_frames => refuse(format!("holds {n} frames more than the input")),
            _ => refuse(format!("the input has more frames than its {}", self.frames)),
        }
    }
}

fn name(entry: &Entry, job: &Job) -> String {
    match entry {
        Entry::Frame(frame, path) => format!("{}: frame {}", path.display(), frame.index),
        Entry::Bad(bad) => format!("{}: frame {}", job.name(), bad.index),
    }
}

/// Whether an output's frame was made from this one of an input.
fn is_same(entry: &Entry, item: &Item, key_prefix: &str) -> bool {
    match (entry, item) {
        (Entry::Frame(input, _), Item::Frame(output)) => input.structure == output.structure,
        (Entry::Bad(input), Item::Bad(output)) => {
            let options = WriteOptions { key_prefix: key_prefix.into(), ..WriteOptions::default() };
            let mut written = Texts::default();
            written.push_refused(&input.raw, &options);
            written.text().trim_ascii_end() == output.raw.trim_ascii_end()
        }
        _ => false,
    }
}
