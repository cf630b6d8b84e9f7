//! The record `mlff.calibration/1`: what was measured, on which machine. Its JSON Schema is
//! `mlff.calibration-1.schema.json`.

use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};
use crate::model::{files, json};
use crate::ops::choice::{Pattern, Size};
use crate::ops::cost_model::CostModel;
use crate::roofline::{Bound, Roofline};
use crate::settings::Precision;

/// Name and version of the format of a [`Calibration`].
pub const FORMAT: &str = "mlff.calibration/1";

/// Measurements on one machine, the record `mlff.calibration/1`. Serde writes it as JSON, [`Calibration::read`] reads
/// it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Calibration {
    /// Name and version of the format; [`FORMAT`].
    pub format: String,
    /// Name and version of the program.
    pub tool: String,
    /// The machine that was measured on.
    pub machine: Machine,
    /// Speed-up from which an operation is fused.
    pub threshold: f64,
    /// One entry for each pattern, device and precision.
    pub measurements: Vec<Measurement>,
}

/// A machine, as far as measurements depend on it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Machine {
    /// Name of the processor.
    pub cpu: String,
    /// Architecture, and the widest vector instructions that are used.
    pub instruction_set: String,
    /// Number of cores that the process could use.
    pub cores: usize,
}

impl Machine {
    /// The machine that this program runs on.
    pub fn this() -> Self {
        // Such as `V4(..)`.
        let vectors = format!("{:?}", pulp::Arch::new());
        let vectors = vectors.split('(').next().unwrap_or_default().to_lowercase();
        Machine {
            cpu: crate::roofline::processor_name(),
            instruction_set: format!("{}-{vectors}", std::env::consts::ARCH),
            cores: std::thread::available_parallelism().map_or(1, usize::from),
        }
    }

    /// Whether measurements on one hold on the other. All are of one thread, and how many cores a process may use changes
    /// from run to run.
    fn is_like(&self, other: &Machine) -> bool {
        (&self.cpu, &self.instruction_set) == (&other.cpu, &other.instruction_set)
    }
}

impl std::fmt::Display for Machine {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} ({})", self.cpu, self.instruction_set)
    }
}

/// Kind of a device.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Kind {
    /// A processor.
    Cpu,
    /// An NVIDIA GPU.
    Cuda,
}

/// The device that computed. Its rates, of one thread or of the GPU, were measured in the same run.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DeviceInfo {
    /// Kind of the device.
    pub kind: Kind,
    /// Name of the processor or GPU.
    pub name: String,
    /// CUDA version of the driver of a GPU; `None` for a processor.
    pub driver: Option<String>,
    /// Rate of a large matrix product in the precision of the run, FLOP/s.
    pub peak_flops: f64,
    /// Rate of a copy between large arrays, bytes/s; bytes read and bytes written both count.
    pub peak_bytes_s: f64,
}

/// Measurements of one pattern on one device in one precision.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Measurement {
    /// The pattern.
    pub pattern: Pattern,
    /// The device that computed.
    pub device: DeviceInfo,
    /// Precision of the network.
    pub dtype: Precision,
    /// Number of threads of the processor that computed, or queued work for the GPU.
    pub threads: usize,
    /// One entry for each size.
    pub points: Vec<Point>,
}

/// Measurements at one size, of a forward and a backward pass together.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Point {
    /// Number of rows; see [`Pattern`].
    pub rows: usize,
    /// Number of values in a row; see [`Pattern`].
    pub width: usize,
    /// Number of times that each variant was measured.
    pub repeats: usize,
    /// Number of floating-point operations of the unfused chain, those that its backward pass repeats included.
    pub flops: f64,
    /// The chain of elementary operations.
    pub unfused: Measured,
    /// The fused operation.
    pub fused: Measured,
    /// Time of the unfused chain, divided by that of the fused operation.
    pub speedup: f64,
    /// Bytes of the unfused chain, divided by those of the fused operation.
    pub memory_reduction: f64,
}

impl Point {
    /// The size, of `rows` and `width`.
    pub fn size(&self) -> Size {
        Size { rows: self.rows, width: self.width }
    }
}

/// Measurements of one variant.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Measured {
    /// Median time, s.
    pub seconds: f64,
    /// Number of bytes read and written, from the sizes of the arrays.
    pub bytes: f64,
    /// Floating-point operations per second, FLOP/s.
    pub flops_s: f64,
    /// Comparison with the rates of the device.
    pub roofline: Roofline,
}

/// What [`Calibration::read`] found in a file.
#[derive(Debug, Clone, PartialEq)]
pub enum Reading {
    /// Measurements on this machine, by this version of the program.
    Usable(Calibration),
    /// A calibration of another machine or another version, which cannot be used here. The text says which.
    Unusable(String),
}

/// Largest file that is read; what `mlff calibrate` writes has some 100 kB.
const MAX_BYTES: u64 = 16 << 20;

/// What every version of the format says first.
#[derive(Deserialize)]
struct Head {
    format: String,
    tool: String,
}

impl Calibration {
    /// A calibration of this machine, without any measurements.
    pub fn new(threshold: f64) -> Self {
        let (format, tool) = (FORMAT.into(), this_tool());
        Calibration { format, tool, machine: Machine::this(), threshold, measurements: Vec::new() }
    }

    /// The user's own calibration file, whether it exists or not: `calibration.json` in the folder `$MLFF_CACHE`, else
    /// `$XDG_CACHE_HOME/mlff`, else `~/.cache/mlff`. `None` if none of these is set.
    pub fn user_file() -> Option<PathBuf> {
        crate::user_cache::folder().map(|folder| folder.join("calibration.json"))
    }

    /// Reads a calibration from a file.
    ///
    /// # Errors
    /// `Error::Io` if the file cannot be read; `Error::Calibration` if it is not a calibration, or is damaged;
    /// `Error::Model` if it is not a regular file, or too large.
    pub fn read(path: &Path) -> Result<Reading> {
        let text = files::read(path, MAX_BYTES)?;
        Self::parse(&text, &Machine::this())
            .map_err(|reason| Error::Calibration { path: path.into(), reason: format!("not a calibration: {reason}") })
    }

    /// As [`Calibration::read`], of a file's content; for tests.
    ///
    /// # Errors
    /// What is wrong with it, in words.
    #[doc(hidden)]
    pub fn from_bytes(text: &[u8]) -> std::result::Result<Reading, String> {
        Self::parse(text, &Machine::this())
    }

    fn parse(text: &[u8], machine: &Machine) -> std::result::Result<Reading, String> {
        let value = json::parse(text)?;
        let head = Head::deserialize(&value).map_err(|e| e.to_string())?;
        if !head.format.starts_with("mlff.calibration/") {
            return Err(format!("found the format {:?}, expected {FORMAT:?}", head.format));
        }
        for (what, found, expected) in
            [("format", head.format, FORMAT.to_string()), ("program", head.tool, this_tool())]
        {
            if found != expected {
                return Ok(Reading::Unusable(format!("found the {what} {found}, expected {expected}")));
            }
        }
        let calibration: Calibration = serde_json::from_value(value).map_err(|e| e.to_string())?;
        if !calibration.machine.is_like(machine) {
            let found = &calibration.machine;
            return Ok(Reading::Unusable(format!("found measurements of {found}, expected those of {machine}")));
        }
        let positive = |x: f64| x > 0.0 && x.is_finite();
        let points = calibration.measurements.iter().flat_map(|m| &m.points);
        let is_sound = |p: &Point| p.rows > 0 && p.width > 0 && positive(p.speedup);
        if !positive(calibration.threshold) || !points.clone().all(is_sound) {
            return Err("found a size, a speed-up or a threshold that is not positive".into());
        }
        Ok(Reading::Usable(calibration))
    }

    /// Adds measurements. They replace those of the same pattern, kind of device and precision; the newer threshold and
    /// machine replace the older ones.
    pub fn merge(&mut self, newer: Calibration) {
        let key = |m: &Measurement| (m.pattern, m.device.kind, m.dtype);
        self.measurements.retain(|old| newer.measurements.iter().all(|new| key(new) != key(old)));
        self.measurements.extend(newer.measurements);
        self.measurements.sort_by_key(|m| (m.device.kind, m.dtype == Precision::F64, m.pattern));
        (self.threshold, self.machine) = (newer.threshold, newer.machine);
    }

    /// A cost model for one device in one precision.
    ///
    /// `gpu` is `None` for the processor. For a GPU it is [`DeviceInfo::name`] and [`DeviceInfo::driver`]; only
    /// measurements on a GPU of this name, with this driver, count.
    pub fn cost_model(&self, gpu: Option<(&str, &str)>, precision: Precision) -> CostModel {
        let is_of = |device: &DeviceInfo| match gpu {
            None => device.kind == Kind::Cpu,
            Some((name, driver)) => {
                device.kind == Kind::Cuda && device.name == name && device.driver.as_deref() == Some(driver)
            }
        };
        let measured = self.measurements.iter().filter(|m| is_of(&m.device) && m.dtype == precision);
        let points = measured.flat_map(|m| m.points.iter().map(|p| (m.pattern, p.size(), p.speedup)));
        CostModel::new(self.threshold, points)
    }
}

impl Point {
    /// From times and counts; `None` where no time was seen.
    pub(super) fn new(
        size: Size,
        repeats: usize,
        work: super::counts::Work,
        [unfused, fused]: [f64; 2],
        peaks: crate::roofline::Peaks,
    ) -> Option<Self> {
        let measured = |seconds: f64, bytes: f64| {
            let roofline = Roofline::new(peaks, work.flops, bytes, seconds)?;
            Some(Measured { seconds, bytes, flops_s: work.flops / seconds, roofline })
        };
        Some(Point {
            rows: size.rows,
            width: size.width,
            repeats,
            flops: work.flops,
            unfused: measured(unfused, work.unfused_bytes)?,
            fused: measured(fused, work.fused_bytes)?,
            speedup: unfused / fused,
            memory_reduction: work.unfused_bytes / work.fused_bytes,
        })
    }

    /// Which rate of the device limits the unfused and the fused variant, in this order.
    pub fn bounds(&self) -> [Bound; 2] {
        [self.unfused.roofline.bound, self.fused.roofline.bound]
    }
}

fn this_tool() -> String {
    format!("mlff {}", env!("CARGO_PKG_VERSION"))
}

#[cfg(test)]
mod tests {
    use super::super::counts::Work;
    use super::*;
    use crate::roofline::Peaks;

    fn calibration(pattern: Pattern, dtype: Precision, speedup: f64) -> Calibration {
        let peaks = Peaks { flops: 1e9, bytes_s: 1e9 };
        let work = Work { flops: 10.0, fused_bytes: 5.0, unfused_bytes: 40.0 };
        let point = Point::new(Size { rows: 8, width: 4 }, 3, work, [speedup, 1.0], peaks).unwrap();
        let device = DeviceInfo {
            kind: Kind::Cpu,
            name: "x".into(),
            driver: None,
            peak_flops: peaks.flops,
            peak_bytes_s: peaks.bytes_s,
        };
        let measurement = Measurement { pattern, device, dtype, threads: 1, points: vec![point] };
        Calibration { measurements: vec![measurement], ..Calibration::new(1.2) }
    }

    #[test]
    fn point_says_what_limits_before_and_after() {
        let point = calibration(Pattern::Mlp, Precision::F32, 2.0).measurements[0].points[0];
        assert_eq!((point.speedup, point.memory_reduction), (2.0, 8.0));
        assert_eq!(point.bounds(), [Bound::Memory, Bound::Compute]);
        assert_eq!((point.unfused.flops_s, point.fused.roofline.intensity), (5.0, 2.0));
    }

    #[test]
    fn record_survives_json_and_is_refused_where_it_should_be() {
        let sound = calibration(Pattern::Mlp, Precision::F32, 2.0);
        let text = serde_json::to_string(&sound).unwrap();
        let machine = Machine::this();
        assert_eq!(Calibration::parse(text.as_bytes(), &machine), Ok(Reading::Usable(sound.clone())));
        let other = Machine { cpu: "other".into(), ..machine.clone() };
        let fewer_cores = Machine { cores: 1000, ..machine.clone() };
        assert!(matches!(Calibration::parse(text.as_bytes(), &fewer_cores), Ok(Reading::Usable(_))));
        for (text, machine, want) in [
            (text.clone(), &other, "expected those of other"),
            (text.replace(FORMAT, "mlff.calibration/9"), &machine, "format mlff.calibration/9"),
            (text.replace("mlff 0.", "mlff 99."), &machine, "program mlff 99."),
        ] {
            match Calibration::parse(text.as_bytes(), machine) {
                Ok(Reading::Unusable(reason)) => assert!(reason.contains(want), "{reason}"),
                other => panic!("{other:?}"),
            }
        }
        for bad in ["", "{}", "[1]", &text[..text.len() / 2], &text.replace("\"mlp\"", "\"mlq\"")] {
            assert!(Calibration::parse(bad.as_bytes(), &machine).is_err(), "{bad}");
        }
        let mut negative = sound;
        negative.measurements[0].points[0].speedup = -1.0;
        assert!(Calibration::parse(serde_json::to_string(&negative).unwrap().as_bytes(), &machine).is_err());
    }

    #[test]
    fn merging_replaces_what_was_measured_again() {
        let mut all = calibration(Pattern::Mlp, Precision::F32, 1.0);
        all.merge(calibration(Pattern::Message, Precision::F32, 3.0));
        all.merge(calibration(Pattern::Mlp, Precision::F64, 4.0));
        all.merge(Calibration { threshold: 1.5, ..calibration(Pattern::Mlp, Precision::F32, 2.0) });
        assert_eq!((all.measurements.len(), all.threshold), (3, 1.5));
        let speedup = |pattern, precision, gpu| {
            all.cost_model(gpu, precision).speedup(pattern, Size { rows: 1, width: 1 }).map(f64::round)
        };
        assert_eq!(speedup(Pattern::Mlp, Precision::F32, None), Some(2.0));
        assert_eq!(speedup(Pattern::Mlp, Precision::F64, None), Some(4.0));
        assert_eq!(speedup(Pattern::Message, Precision::F32, None), Some(3.0));
        assert_eq!(speedup(Pattern::Message, Precision::F64, None), None);
        assert_eq!(speedup(Pattern::Mlp, Precision::F32, Some(("x", "12.4"))), None);
    }
}
