//! Warnings, each kind said once: with its first place, and how many more there are of it.

use std::path::Path;

use serde::Serialize;

use super::complain;

/// Kinds kept; all warnings are counted.
const KINDS_KEPT: usize = 50;

/// Warnings of a run.
#[derive(Default)]
pub struct Warnings {
    kinds: Vec<Kind>,
    total: usize,
}

/// A kind of warning: texts that differ in numbers and in what they quote only.
#[derive(Serialize, Clone)]
pub struct Kind {
    #[serde(skip)]
    pattern: String,
    /// The first of the kind.
    pub warning: String,
    /// Where that is.
    pub file: String,
    /// Its frame, from 0.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub frame: Option<usize>,
    /// How many there are.
    pub count: usize,
}

impl Warnings {
    /// Counts one; `frame` is `None` where it is about a whole file or run.
    pub fn add(&mut self, file: &Path, frame: Option<usize>, warning: &str) {
        self.add_many(file, frame, warning, 1);
    }

    /// Counts `count` of a kind.
    pub fn add_many(&mut self, file: &Path, frame: Option<usize>, warning: &str, count: usize) {
        self.total += count;
        let pattern = pattern(warning);
        if let Some(kind) = self.kinds.iter_mut().find(|kind| kind.pattern == pattern) {
            kind.count += count;
        } else if self.kinds.len() < KINDS_KEPT {
            let (warning, file) = (warning.to_string(), file.display().to_string());
            self.kinds.push(Kind { pattern, warning, file, frame, count });
        }
    }

    /// The kinds, in the order in which they came up.
    pub fn kinds(&self) -> &[Kind] {
        &self.kinds
    }

    /// Says each kind on standard error. `hint` tells how to see all of a kind.
    pub fn say(&self, hint: &str) {
        for kind in &self.kinds {
            let frame = kind.frame.map_or_else(String::new, |frame| format!("frame {frame}: "));
            let file = if kind.file.is_empty() { String::new() } else { format!("{}: ", kind.file) };
            let more = match kind.count {
                0 | 1 => String::new(),
                n => format!(" (and {} more{hint})", n - 1),
            };
            complain(&format!("warning: {file}{frame}{}{more}", kind.warning));
        }
        let kept: usize = self.kinds.iter().map(|kind| kind.count).sum();
        if kept < self.total {
            complain(&format!("warning: {} more of other kinds", self.total - kept));
        }
    }
}

/// A warning without its numbers and without what it quotes.
fn pattern(warning: &str) -> String {
    let mut quoted = false;
    let keep = |c: &char| {
        if *c == '"' {
            quoted = !quoted;
        }
        !(quoted || c.is_ascii_digit() || matches!(c, '.' | '-' | '+'))
    };
    warning.chars().filter(keep).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn warnings_of_one_kind_are_counted_together() {
        let mut warnings = Warnings::default();
        let file = Path::new("a.xyz");
        for (frame, text) in [
            (3, "q=1 is not used"),
            (5, "q=-2.5 is not used"),
            (5, "the comment \"9 9\" may hold a cell"),
            (6, "the comment \"box 9\" may hold a cell"),
            (7, "r=1 is not used"),
        ] {
            warnings.add(file, Some(frame), text);
        }
        let got: Vec<(usize, Option<usize>)> = warnings.kinds().iter().map(|k| (k.count, k.frame)).collect();
        assert_eq!((got, warnings.total), (vec![(2, Some(3)), (2, Some(5)), (1, Some(7))], 5));
        // However many kinds there are.
        (0..1000).for_each(|k| warnings.add(file, None, &"x".repeat(k)));
        assert_eq!((warnings.kinds().len(), warnings.total), (KINDS_KEPT, 1005));
    }
}
