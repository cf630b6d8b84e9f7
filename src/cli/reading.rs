//! How files are read: limits, and what is kept of what is refused.

use std::path::Path;

use mlff::Result;
use mlff::xyz::Reader;

/// Flags of every command that reads trajectories.
#[derive(clap::Args, Clone, Copy, Debug)]
pub struct ReadArgs {
    /// Most text of one frame, and 32 bytes an atom; larger frames are refused, as a small packed file may hold one of
    /// any size. Bytes, or with K, M, G or T, times 1024
    #[arg(long, value_name = "SIZE", default_value = "256M", value_parser = size)]
    max_frame: usize,
}

impl ReadArgs {
    /// For a command whose user writes the text of refused frames, or does not.
    pub fn reading(self, keep_refused: bool) -> Reading {
        Reading { max_frame: Some(self.max_frame), keep_refused }
    }
}

/// How frames are read.
#[derive(Clone, Copy, Default)]
pub struct Reading {
    max_frame: Option<usize>,
    keep_refused: bool,
}

impl Reading {
    /// Opens a file so.
    ///
    /// # Errors
    /// `Error::Io`.
    pub fn open(self, path: &Path) -> Result<Reader> {
        Reader::open(path).map(|reader| self.set(reader))
    }

    /// The reader, to read so.
    pub fn set(self, reader: Reader) -> Reader {
        let reader = reader.keep_refused(self.keep_refused);
        match self.max_frame {
            Some(bytes) => reader.with_max_frame(bytes),
            None => reader,
        }
    }
}

/// A number of bytes: `1000`, `64M`, `2G`, `1.5GiB`.
fn size(text: &str) -> std::result::Result<usize, String> {
    let refuse = || format!("\"{text}\" is no size: expected a number of bytes such as 500M or 2G");
    let upper = text.trim().to_ascii_uppercase();
    let digits = upper.trim_end_matches(|c: char| c.is_ascii_alphabetic());
    let power = match &upper[digits.len()..] {
        "" | "B" => 0,
        "K" | "KB" | "KIB" => 1,
        "M" | "MB" | "MIB" => 2,
        "G" | "GB" | "GIB" => 3,
        "T" | "TB" | "TIB" => 4,
        _ => return Err(refuse()),
    };
    let number: f64 = digits.trim().parse().map_err(|_| refuse())?;
    let bytes = number * 1024_f64.powi(power);
    // Beyond 2^53 bytes nothing has a limit.
    if !(1.0..=9e15).contains(&bytes) {
        return Err(refuse());
    }
    #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)] // bounded just above
    Ok(bytes as usize)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn size_reads_units() {
        for (text, want) in
            [("1000", 1000), ("64M", 64 << 20), ("2G", 2 << 30), ("1.5GiB", 3 << 29), ("16 kb", 16 << 10)]
        {
            assert_eq!(size(text), Ok(want), "{text}");
        }
        for text in ["", "G", "-1", "0", "1Q", "1e30", "nan", "1 G 2"] {
            assert!(size(text).is_err(), "{text}");
        }
    }
}
