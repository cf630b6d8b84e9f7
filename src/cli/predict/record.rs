//! What made an output: written into it, and compared when it is taken up again.

use clap::ValueEnum;
use mlff::calibration::{Calibration, Reading};
use mlff::{BatchSize, EngineKind};
use mlff::{Error, Potential, Result};
use sha2::{Digest, Sha256};

use super::{Args, Property};
use crate::cli::trajectory::FrameSlice;

/// All that results, and the bytes that hold them, depend on besides the input.
pub struct Record {
    prefix: String,
    /// Name and value, in the order in which they are written.
    parts: Vec<(&'static str, String)>,
}

/// What an earlier output was made with.
#[derive(Debug, PartialEq, Eq)]
pub enum Compared {
    Same,
    /// By another version of this program, all else the same.
    OtherVersion(String),
    /// What it was and what is asked for, by name.
    Different(String),
}

impl Record {
    /// # Errors
    /// `Error::Usage` for a model that cannot be written.
    pub fn new(args: &Args, potential: &Potential) -> Result<Self> {
        let model = potential.model();
        let fallback = || args.model.model.file_name().unwrap_or_default().to_string_lossy().into_owned();
        let name = model.config().name.clone().unwrap_or_else(fallback);
        let autograd = potential.engine() == EngineKind::Autograd;
        let device = potential.device().to_string();
        let dtype = args.model.dtype.to_possible_value().map(|v| v.get_name().to_string()).unwrap_or_default();
        let mut parts = vec![
            ("mlff", env!("CARGO_PKG_VERSION").to_string()),
            ("model", format!("{} sha256:{}", word(&name), &model.sha256()?[..DIGITS])),
            // Which of several GPUs does not matter.
            ("device", device.split(':').next().unwrap_or(&device).to_string()),
            ("engine", if autograd { "autograd" } else { "adjoint" }.to_string()),
            ("dtype", dtype),
            ("properties", properties(&args.properties)),
            ("index", slice(args.index)),
        ];
        // The adjoint engine gives the same bits whatever the batch, and takes no choice of operations.
        if autograd {
            let batch = match args.model.batch {
                BatchSize::Structures(n) => n.to_string(),
                _ => "auto".to_string(),
            };
            parts.extend([("batch", batch), ("calibration", calibration(args)?)]);
        }
        Ok(Record { prefix: args.key_prefix.clone(), parts })
    }

    /// Key in the comment.
    pub fn key(&self) -> String {
        format!("{}made_by", self.prefix)
    }

    /// Value of it: `mlff 0.1.0; model NAME sha256:…; …`.
    pub fn text(&self) -> String {
        let parts: Vec<String> = self.parts.iter().map(|(name, value)| format!("{name} {value}")).collect();
        parts.join("; ")
    }

    /// Compares the record of an earlier output, found under `prefix`.
    pub fn compare(&self, prefix: &str, earlier: &str) -> Compared {
        let earlier: Vec<(&str, &str)> =
            earlier.split("; ").map(|part| part.split_once(' ').unwrap_or((part, ""))).collect();
        let value_of = |name: &str| earlier.iter().find(|(other, _)| *other == name).map(|(_, value)| *value);
        let mut differences = Vec::new();
        if prefix != self.prefix {
            differences.push(format!("key prefix '{prefix}', asked for is '{}'", self.prefix));
        }
        let ours = |name: &str| self.parts.iter().find(|(other, _)| *other == name).map(|(_, value)| value.as_str());
        let names = self.parts.iter().map(|(name, _)| *name);
        let theirs = earlier.iter().map(|(name, _)| *name).filter(|name| ours(name).is_none());
        for name in names.chain(theirs).filter(|name| *name != "mlff") {
            let (was, is) = (value_of(name).unwrap_or("not said"), ours(name).unwrap_or("not said"));
            if was != is {
                differences.push(format!("{name} {was}, asked for is {is}"));
            }
        }
        let version = value_of("mlff").unwrap_or("of no version");
        if !differences.is_empty() {
            Compared::Different(differences.join("; "))
        } else if Some(version) != ours("mlff") {
            Compared::OtherVersion(version.to_string())
        } else {
            Compared::Same
        }
    }
}

/// Digits of a hash that are written: enough to tell models apart that nobody has made to look alike.
const DIGITS: usize = 16;

/// A name without what would need quotes or look like another part of a record.
fn word(name: &str) -> String {
    let plain = |c: char| if c.is_ascii_alphanumeric() || "-_.+".contains(c) { c } else { '_' };
    name.chars().take(64).map(plain).collect()
}

fn properties(asked: &[Property]) -> String {
    let has = |property: Property| asked.contains(&property);
    let names = [("energy", true), ("forces", has(Property::Forces)), ("stress", has(Property::Stress))];
    let names: Vec<&str> = names.into_iter().filter(|(_, there)| *there).map(|(name, _)| name).collect();
    names.join(",")
}

fn slice(index: FrameSlice) -> String {
    let text = |k: Option<i64>| k.map(|k| k.to_string()).unwrap_or_default();
    match index {
        FrameSlice::One(k) => k.to_string(),
        FrameSlice::Range { start, stop, step: 1 } => format!("{}:{}", text(start), text(stop)),
        FrameSlice::Range { start, stop, step } => format!("{}:{}:{step}", text(start), text(stop)),
    }
}

/// By its bytes, where there is one: it decides which operations are fused, and so how results are rounded.
fn calibration(args: &Args) -> Result<String> {
    let path = args.model.calibration.clone().or_else(|| Calibration::user_file().filter(|path| path.exists()));
    let Some(path) = path.filter(|path| path.as_os_str() != "none") else { return Ok("none".into()) };
    // One that is ignored decides nothing.
    if !matches!(Calibration::read(&path), Ok(Reading::Usable(_))) {
        return Ok("none".into());
    }
    let bytes = std::fs::read(&path).map_err(|e| Error::io(&path, e))?;
    let hash: String = Sha256::digest(&bytes).iter().map(|byte| format!("{byte:02x}")).collect();
    Ok(format!("sha256:{}", &hash[..DIGITS]))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn records_are_compared_by_name() {
        let record = Record {
            prefix: "MLFF_".into(),
            parts: vec![("mlff", "0.1.0".into()), ("model", "a sha256:1".into()), ("dtype", "f32".into())],
        };
        assert_eq!(record.text(), "mlff 0.1.0; model a sha256:1; dtype f32");
        let compare = |earlier: &str| record.compare("MLFF_", earlier);
        assert_eq!(compare(&record.text()), Compared::Same);
        assert_eq!(compare("mlff 0.2.0; model a sha256:1; dtype f32"), Compared::OtherVersion("0.2.0".into()));
        for (earlier, want) in [
            ("mlff 0.1.0; model b sha256:2; dtype f32", "model b sha256:2, asked for is a sha256:1"),
            ("mlff 0.1.0; model a sha256:1", "dtype not said, asked for is f32"),
            ("mlff 0.1.0; model a sha256:1; dtype f32; batch 7", "batch 7, asked for is not said"),
        ] {
            assert_eq!(compare(earlier), Compared::Different(want.into()));
        }
        assert!(matches!(record.compare("", &record.text()), Compared::Different(text) if text.contains("key prefix")));
        assert_eq!(word("my model; \"x\"\n"), "my_model___x__");
    }
}
