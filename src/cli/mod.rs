//! The command line: flags as plain data, one thin file a subcommand.

mod calibrate;
mod check;
mod eval;
mod import;
mod info;
mod metrics;
mod model;
mod output;
mod pipeline;
mod plot;
mod predict;
mod profile;
mod reading;
mod signals;
mod trajectory;
mod warnings;

use std::io::Write;
use std::process::ExitCode;

use clap::{CommandFactory, Parser, Subcommand};
use mlff::{Error, Result};

/// Evaluates distilled molecular force fields: energies, conservative forces and stress of XYZ trajectories.
#[derive(Parser)]
#[command(name = "mlff", version, max_term_width = 100)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    Predict(predict::Args),
    Eval(eval::Args),
    Check(check::Args),
    Info(info::Args),
    Import(import::Args),
    Profile(profile::Args),
    Calibrate(calibrate::Args),
    /// Print a completion script for a shell
    Completions {
        /// Shell to complete in
        shell: clap_complete::Shell,
    },
}

/// Runs the command; exit status 0: all done, 1: some or all failed, 2: wrong use.
pub fn main() -> ExitCode {
    // candle shares out elementwise work through one pool whose threads spin; batches are already spread over all
    // cores here, and with the pool they wait for each other: measured 2.2 times slower on two cores.
    if std::env::var_os("CANDLE_NUM_THREADS").is_none() {
        // SAFETY: no other thread exists yet that could read the environment at the same time.
        unsafe { std::env::set_var("CANDLE_NUM_THREADS", "1") };
    }
    let command = Cli::parse();
    signals::install();
    let outcome = match command.command {
        Command::Predict(args) => predict::run(&args),
        Command::Eval(args) => eval::run(&args),
        Command::Check(args) => check::run(&args),
        Command::Info(args) => info::run(&args),
        Command::Import(args) => import::run(&args),
        Command::Profile(args) => profile::run(&args),
        Command::Calibrate(args) => calibrate::run(&args),
        Command::Completions { shell } => completions(shell),
    };
    match outcome {
        Ok(Outcome::Done) => ExitCode::SUCCESS,
        Ok(Outcome::SomeFailed) => ExitCode::from(1),
        Err(error) => report(&error),
    }
}

/// How a command ended that could do its work.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// All of it.
    Done,
    /// Some or all frames failed, and were reported.
    SomeFailed,
}

fn report(error: &Error) -> ExitCode {
    // Whoever reads our output has seen enough, as with `mlff check … | head`: nothing to say, but not all was done.
    if !matches!(error, Error::Io { source, .. } if source.kind() == std::io::ErrorKind::BrokenPipe) {
        complain(&format!("error: {error}"));
    }
    match error {
        Error::Usage(_) | Error::Model { .. } | Error::Calibration { .. } => ExitCode::from(2),
        _ => ExitCode::from(1),
    }
}

/// Writes a line to standard error, and does not mind if nobody is there.
fn complain(message: &str) {
    let _ = writeln!(std::io::stderr(), "{message}");
}

/// Writes text to standard output.
fn print(text: &str) -> Result<()> {
    let mut out = std::io::stdout().lock();
    out.write_all(text.as_bytes()).and_then(|()| out.flush()).map_err(|e| Error::io("standard output", e))
}

/// Pretty JSON with a line end.
fn json(value: &impl serde::Serialize) -> Result<String> {
    let text =
        serde_json::to_string_pretty(value).map_err(|e| Error::Usage(format!("cannot be written as JSON: {e}")))?;
    Ok(text + "\n")
}

/// Seconds in a unit that suits them.
fn seconds(seconds: f64) -> String {
    let (scale, unit) = match seconds {
        s if s < 1e-3 => (1e6, "µs"),
        s if s < 1.0 => (1e3, "ms"),
        _ => (1.0, "s"),
    };
    format!("{:.3} {unit}", seconds * scale)
}

fn completions(shell: clap_complete::Shell) -> Result<Outcome> {
    let mut script = Vec::new();
    clap_complete::generate(shell, &mut Cli::command(), "mlff", &mut script);
    print(&String::from_utf8_lossy(&script))?;
    Ok(Outcome::Done)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn command_line_is_consistent() {
        Cli::command().debug_assert();
    }
}
