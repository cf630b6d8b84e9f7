//! Which inputs go into which outputs, and what is known to be wrong before anything is computed.

use std::ffi::OsString;
use std::path::{Path, PathBuf};

use mlff::xyz::{Item, Reader};
use mlff::{Error, Result};

use super::Args;
use crate::cli::output::{Files, Output, refuse_existing, unreadable};
use crate::cli::{complain, words};

/// One output file and the inputs that go into it.
pub struct Job {
    pub inputs: Vec<PathBuf>,
    pub output: PathBuf,
}

impl Job {
    /// An error of it, which may not name it.
    pub fn about(&self, error: &Error) -> String {
        let (text, name) = (words::message(error), self.name());
        if text.contains(&name) { text } else { format!("{name}: {text}") }
    }

    /// What people call it.
    pub fn name(&self) -> String {
        match &self.inputs[..] {
            [input] => input.display().to_string(),
            _ => self.output.display().to_string(),
        }
    }
}

/// What is to be done.
pub struct Plan {
    pub jobs: Vec<Job>,
    /// What cannot be done, and why.
    pub refused: Vec<(Job, Error)>,
    pub summary: Option<Output>,
}

impl Plan {
    /// How many outputs were asked for.
    pub fn n_jobs(&self) -> usize {
        self.jobs.len() + self.refused.len()
    }
}

/// Looks all files up.
///
/// # Errors
/// `Error::Usage` for a command that can do nothing as it is meant; whatever is wrong with the only output.
pub fn plan(args: &Args) -> Result<Plan> {
    if args.input.iter().filter(|i| i.as_os_str() == "-").count() > 1 {
        return Err(Error::Usage("standard input (-) can be read only once".into()));
    }
    if args.resume && args.input.iter().any(|i| i.as_os_str() == "-" || is_pipe(i)) {
        return Err(Error::Usage("--resume needs input files: standard input and pipes cannot be read again".into()));
    }
    let inputs = without_own_outputs(args);
    let jobs = match &args.output {
        Some(output) => vec![Job { inputs, output: output.clone() }],
        None => inputs.into_iter().map(|i| Job { output: output_of(args, &i), inputs: vec![i] }).collect(),
    };
    let mut files = Files::default();
    files.reads(jobs.iter().flat_map(|job| &job.inputs).map(PathBuf::as_path));
    files.reads_model(&args.model);
    for job in &jobs {
        if args.output.is_none() && jobs.iter().filter(|other| other.output == job.output).count() > 1 {
            return Err(Error::Usage(format!(
                "two inputs would be written to {}: give one output for all with -o, or run them one by one",
                job.output.display()
            )));
        }
        files.writes(&job.output)?;
    }
    if let Some(summary) = &args.summary {
        if summary.as_os_str() == "-" && jobs.iter().any(|job| job.output.as_os_str() == "-") {
            return Err(Error::Usage("frames and --summary cannot both go to standard output".into()));
        }
        files.writes_report(summary, replaces_summary(args, summary))?;
    }
    let mut plan = Plan { jobs: Vec::new(), refused: Vec::new(), summary: None };
    for job in jobs {
        match refuse(args, &job) {
            Ok(()) => plan.jobs.push(job),
            Err(error) => plan.refused.push((job, error)),
        }
    }
    if plan.n_jobs() == 1
        && let Some((_, error)) = plan.refused.pop()
    {
        return Err(error);
    }
    if let Some(folder) = args.output_dir.as_ref().filter(|_| !plan.jobs.is_empty()) {
        std::fs::create_dir_all(folder).map_err(|e| Error::io(folder, e))?;
    }
    plan.summary = args.summary.as_deref().map(|s| Output::create(s, replaces_summary(args, s))).transpose()?;
    Ok(plan)
}

/// What is wrong with one output, or an input of it.
fn refuse(args: &Args, job: &Job) -> Result<()> {
    let mut errors = unreadable(&job.inputs);
    if let Some(last) = errors.pop() {
        errors.iter().for_each(|error| complain(&format!("error: {}", words::message(error))));
        return Err(last);
    }
    if args.output.is_none()
        && let Some(pipe) = job.inputs.iter().find(|input| is_pipe(input))
    {
        return Err(Error::Usage(format!(
            "{} is a pipe or a device: its output has no name to go by, say where with -o (-o - is standard output)",
            pipe.display()
        )));
    }
    if args.resume { Ok(()) } else { refuse_existing(&job.output, args.overwrite) }
}

fn is_pipe(input: &Path) -> bool {
    std::fs::metadata(input).is_ok_and(|m| !m.is_file() && !m.is_dir())
}

/// A run that is taken up writes its summary again.
fn replaces_summary(args: &Args, summary: &Path) -> bool {
    let is_ours = || {
        let text = std::fs::read(summary).ok()?;
        let value: serde_json::Value = serde_json::from_slice(&text).ok()?;
        value.get("tool")?.as_str().map(|tool| tool.starts_with("mlff "))
    };
    args.overwrite || args.resume && is_ours() == Some(true)
}

/// The inputs without results of earlier runs of the same command, which a pattern such as `*.xyz` matches too. Where there
/// is nothing else, they are meant.
fn without_own_outputs(args: &Args) -> Vec<PathBuf> {
    let (own, others): (Vec<PathBuf>, Vec<PathBuf>) =
        args.input.iter().cloned().partition(|input| is_own_output(args, input));
    if own.is_empty() || others.is_empty() {
        return args.input.clone();
    }
    if !args.quiet {
        let mut names: Vec<String> = own.iter().take(5).map(|path| path.display().to_string()).collect();
        if own.len() > names.len() {
            names.push(format!("and {} more", own.len() - names.len()));
        }
        complain(&format!("passed over, as results of earlier runs: {}", names.join(", ")));
    }
    others
}

/// Whether this is what an input of this command is written to by default, or says that it was made from a file beside it.
fn is_own_output(args: &Args, input: &Path) -> bool {
    let is_written_here = |source: &PathBuf| source != input && beside(source) == input;
    if args.input.iter().any(is_written_here) {
        return true;
    }
    let Some(stem) = input.to_str().and_then(|name| name.strip_suffix(".mlff.xyz")) else { return false };
    let packed = ["", ".gz", ".bz2", ".xz", ".zst"];
    let has_source = [".xyz", ".extxyz", ""]
        .iter()
        .any(|end| packed.iter().any(|p| Path::new(&format!("{stem}{end}{p}")).is_file()));
    has_source && input.is_file() && has_record(input)
}

fn has_record(path: &Path) -> bool {
    let Ok(mut reader) = Reader::open(path) else { return false };
    matches!(reader.next_item(), Ok(Some(Item::Frame(frame))) if frame.made_by().is_some())
}

fn output_of(args: &Args, input: &Path) -> PathBuf {
    let beside = beside(input);
    match (&args.output_dir, beside.file_name()) {
        (Some(folder), Some(name)) if input.as_os_str() != "-" => folder.join(name),
        _ => beside,
    }
}

/// `NAME.mlff.xyz` beside the input; standard output for standard input.
fn beside(input: &Path) -> PathBuf {
    if input.as_os_str() == "-" {
        return input.to_path_buf();
    }
    let mut name = PathBuf::from(input.file_name().unwrap_or_default());
    for endings in [&["gz", "bz2", "xz", "zst"][..], &["xyz", "extxyz"]] {
        if name.extension().is_some_and(|e| endings.iter().any(|ending| e == *ending)) {
            name.set_extension("");
        }
    }
    // Whatever bytes a name has, it keeps them.
    let mut name = OsString::from(name);
    name.push(".mlff.xyz");
    input.with_file_name(name)
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
