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
mod standard_output;
mod trajectory;
mod warnings;
mod words;

use std::borrow::Cow;
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
        complain(&format!("error: {}", words::message(error)));
    }
    match error {
        Error::Usage(_)
        | Error::NotBuilt { .. }
        | Error::Exists { .. }
        | Error::Model { .. }
        | Error::Calibration { .. } => ExitCode::from(2),
        _ => ExitCode::from(1),
    }
}

/// Writes a line to standard error, and does not mind if nobody is there. What comes from files cannot steer the terminal.
fn complain(message: &str) {
    let _ = writeln!(std::io::stderr(), "{}", harmless(message));
}

/// Writes text to standard output. What comes from files cannot steer the terminal.
fn print(text: &str) -> Result<()> {
    standard_output::check()?;
    let mut out = std::io::stdout().lock();
    out.write_all(harmless(text).as_bytes()).and_then(|()| out.flush()).map_err(|e| Error::io("standard output", e))
}

/// Text without characters that a terminal obeys, or that show text in another order than it has: these are written as
/// `\u{1b}`. Line ends and tabs stay.
fn harmless(text: &str) -> Cow<'_, str> {
    if !text.contains(is_harmful) {
        return Cow::Borrowed(text);
    }
    let mut out = String::with_capacity(text.len() + 16);
    for c in text.chars() {
        if is_harmful(c) { out.extend(c.escape_unicode()) } else { out.push(c) }
    }
    Cow::Owned(out)
}

/// A harmless text in one line: what a file says of itself must not look like another line of ours.
fn one_line(text: &str) -> String {
    let is_end = |c: char| matches!(c, '\n' | '\t');
    text.chars().flat_map(|c| if is_end(c) { c.escape_default().collect() } else { vec![c] }).collect()
}

/// Control characters, and those that override the direction or the lines of a text.
fn is_harmful(c: char) -> bool {
    let overrides =
        matches!(c, '\u{61c}' | '\u{200e}' | '\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}');
    overrides || (c.is_control() && !matches!(c, '\n' | '\t'))
}

/// Pretty JSON with a line end, in which everything that [`print`] would change is escaped as JSON has it.
fn json(value: &impl serde::Serialize) -> Result<String> {
    let text =
        serde_json::to_string_pretty(value).map_err(|e| Error::Usage(format!("cannot be written as JSON: {e}")))?;
    Ok(escape_json(&text) + "\n")
}

/// JSON whose texts hold no character that a terminal obeys. Outside of texts there are none.
fn escape_json(json: &str) -> String {
    let mut out = String::with_capacity(json.len());
    for c in json.chars() {
        // All of them are below U+10000.
        if is_harmful(c) { out += &format!("\\u{:04x}", u32::from(c)) } else { out.push(c) }
    }
    out
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

    #[test]
    fn text_that_steers_terminals_is_escaped() {
        for (text, want) in [
            ("plain, Å, \t\n", "plain, Å, \t\n"),
            ("a\u{1b}]0;x\u{7}b", "a\\u{1b}]0;x\\u{7}b"),
            ("\u{9b}2J\u{7f}\r\0", "\\u{9b}2J\\u{7f}\\u{d}\\u{0}"),
            ("\u{202e}x\u{2066}y\u{2028}", "\\u{202e}x\\u{2066}y\\u{2028}"),
        ] {
            assert_eq!(harmless(text), want);
        }
        assert_eq!(one_line("MIT\nelements Au\t"), "MIT\\nelements Au\\t");
    }

    #[test]
    fn json_stays_json_when_it_is_printed() {
        let value = serde_json::json!({"name\u{9b}": "a\u{1b}[2J\u{9b}\u{202e}\u{7f}Å\n"});
        let text = json(&value).unwrap();
        assert_eq!(harmless(&text), text);
        assert_eq!(serde_json::from_str::<serde_json::Value>(&text).unwrap(), value);
    }
}
