//! Flags that choose a model and how it is run, shared by the commands that evaluate.

use std::io::IsTerminal;
use std::path::PathBuf;
use std::sync::Arc;

use clap::ValueEnum;
use mlff::calibration::{Calibration, CostModel, Kind, Reading};
use mlff::{BatchSize, DeviceKind, EngineKind, Precision};
use mlff::{Error, Model, Potential, Result, threads};

use super::{complain, words};

/// Model and engine.
#[derive(clap::Args)]
pub struct ModelArgs {
    /// Model directory, or name of a built-in model
    #[arg(short, long, value_name = "MODEL", default_value = mlff::model::default_name())]
    pub model: PathBuf,
    /// Where to compute: auto (the processor, as yet), cpu, cuda or cuda:N (an NVIDIA GPU; batched autograd runs there in
    /// programs built with scripts/build_candle_cuda.sh only)
    #[arg(long, default_value = "auto", value_parser = parse_device)]
    pub device: DeviceName,
    /// How to compute [default: adjoint for PaiNN, else autograd]
    #[arg(long, value_enum)]
    pub engine: Option<EngineName>,
    /// Precision of the network; positions and energy sums are always f64
    #[arg(long, value_enum, default_value_t = Dtype::F32)]
    pub dtype: Dtype,
    /// Structures per batch: a number, or auto (by atoms and memory)
    #[arg(long, value_name = "auto|N", default_value = "auto", value_parser = parse_batch)]
    pub batch: BatchSize,
    /// Threads to compute with, up to four for each core [default: all cores]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..))]
    pub threads: Option<u16>,
    /// What `mlff calibrate` measured, for batched autograd to choose by: a file, or none [default: the user's, where there
    /// is one]
    #[arg(long, value_name = "FILE|none")]
    pub calibration: Option<PathBuf>,
}

/// A device by name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DeviceName {
    /// The best there is.
    Auto,
    /// Processor.
    Cpu,
    /// NVIDIA GPU of that number.
    Cuda(usize),
}

/// An engine by name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum EngineName {
    /// Hand-written adjoint over packed batches (PaiNN)
    Adjoint,
    /// Batched autograd over padded batches (every architecture)
    Autograd,
}

/// Precision by name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Dtype {
    /// Single precision
    F32,
    /// Double precision
    F64,
}

impl From<Dtype> for Precision {
    fn from(dtype: Dtype) -> Self {
        match dtype {
            Dtype::F32 => Precision::F32,
            Dtype::F64 => Precision::F64,
        }
    }
}

impl std::fmt::Display for DeviceName {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            DeviceName::Auto => f.write_str("auto"),
            DeviceName::Cpu => f.write_str("cpu"),
            DeviceName::Cuda(n) => write!(f, "cuda:{n}"),
        }
    }
}

pub fn parse_device(text: &str) -> std::result::Result<DeviceName, String> {
    match text {
        "auto" => Ok(DeviceName::Auto),
        "cpu" => Ok(DeviceName::Cpu),
        "cuda" => Ok(DeviceName::Cuda(0)),
        _ => text
            .strip_prefix("cuda:")
            .and_then(|n| n.parse().ok())
            .map(DeviceName::Cuda)
            .ok_or_else(|| "expected auto, cpu, cuda or cuda:N".into()),
    }
}

fn parse_batch(text: &str) -> std::result::Result<BatchSize, String> {
    match text.parse() {
        _ if text == "auto" => Ok(BatchSize::Auto),
        Ok(n) if n > 0 => Ok(BatchSize::Structures(n)),
        _ => Err("expected auto or a positive number".into()),
    }
}

impl ModelArgs {
    /// Starts the threads and makes the model ready.
    ///
    /// # Errors
    /// `Error::Usage` for a device that this program cannot use, too many threads or none, and everything that loading a model refuses.
    pub fn potential(&self) -> Result<Potential> {
        let device = self.device_kind();
        self.start_threads()?;
        let model = Arc::new(Model::load(&self.model)?);
        let engine = match self.engine {
            None => EngineKind::Auto,
            Some(EngineName::Adjoint) => EngineKind::Adjoint,
            Some(EngineName::Autograd) => EngineKind::Autograd,
        };
        let potential = Potential::builder(model).precision(self.dtype.into()).engine(engine).device(device).build();
        let refused = |e: Error| match device {
            DeviceKind::Cpu => e,
            _ => Error::Usage(format!("--device {}: {}", self.device, words::message(&e))),
        };
        let potential = potential.map_err(refused)?.with_batch_size(self.batch);
        match self.cost_model(&potential)? {
            Some(cost_model) => Ok(potential.with_cost_model(cost_model)),
            None => Ok(potential),
        }
    }

    /// The device that is computed on.
    pub fn device_kind(&self) -> DeviceKind {
        match self.device {
            DeviceName::Auto | DeviceName::Cpu => DeviceKind::Cpu,
            DeviceName::Cuda(ordinal) => DeviceKind::Cuda(ordinal),
        }
    }

    /// Starts the threads to compute with: as many as the system gives, with a warning where these are fewer.
    fn start_threads(&self) -> Result<()> {
        let wanted = self.threads.map_or_else(threads::default_number, usize::from);
        threads::check(wanted).map_err(|e| Error::Usage(format!("--threads: {}", words::message(&e))))?;
        // The reader's and the writer's, and the progress bar's.
        let spare = 2 + usize::from(std::io::stderr().is_terminal());
        let remedy = "raise the limit of processes (`ulimit -u`, or pids.max of the container)";
        match threads::start_pool(wanted, spare) {
            Ok((_, None)) => Ok(()),
            Ok((n, Some(e))) => {
                complain(&format!(
                    "warning: {n} threads instead of {wanted}, as the system gives no more ({e}): {remedy}"
                ));
                Ok(())
            }
            Err(e) => Err(Error::Usage(format!("the {} threads needed cannot be started ({e}): {remedy}", spare + 1))),
        }
    }

    /// What the calibration says of this potential. One that is the user's by default and cannot be used is ignored with a
    /// warning; the adjoint engine, which takes no choice, reads only a file that was named.
    fn cost_model(&self, potential: &Potential) -> Result<Option<CostModel>> {
        let path = match &self.calibration {
            Some(path) if path.as_os_str() == "none" => return Ok(None),
            Some(path) => path.clone(),
            None if potential.engine() == EngineKind::Adjoint => return Ok(None),
            None => match Calibration::user_file().filter(|path| path.exists()) {
                Some(path) => path,
                None => return Ok(None),
            },
        };
        let ignored = |reason: String| {
            complain(&format!(
                "warning: {reason}: ignored; `mlff calibrate` measures anew, --calibration none does without"
            ));
            Ok(None)
        };
        let calibration = match Calibration::read(&path) {
            Ok(Reading::Usable(calibration)) => calibration,
            Ok(Reading::Unusable(reason)) => return ignored(format!("{}: {reason}", path.display())),
            Err(error) if self.calibration.is_none() => return ignored(error.to_string()),
            Err(error) => return Err(error),
        };
        let gpu: Option<(String, String)> = match potential.device() {
            #[cfg(feature = "cuda")]
            DeviceKind::Cuda(ordinal) => Some(mlff::cuda::Device::open(ordinal)?.identity()?),
            _ => None,
        };
        let gpu = gpu.as_ref().map(|(name, driver)| (name.as_str(), driver.as_str()));
        if let Some((name, driver)) = gpu
            && let Some(other) = calibration.measurements.iter().find(|m| m.device.kind == Kind::Cuda)
            && (other.device.name.as_str(), other.device.driver.as_deref()) != (name, Some(driver))
        {
            return ignored(format!(
                "{}: found measurements of {} with a driver for CUDA {}, expected those of {name} with CUDA {driver}",
                path.display(),
                other.device.name,
                other.device.driver.as_deref().unwrap_or("?")
            ));
        }
        Ok(Some(calibration.cost_model(gpu, potential.precision())))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn devices_are_parsed() {
        assert_eq!(parse_device("cuda:3"), Ok(DeviceName::Cuda(3)));
        assert_eq!(parse_device("cuda"), Ok(DeviceName::Cuda(0)));
        for bad in ["cuda:", "cuda:-1", "gpu", ""] {
            assert!(parse_device(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn batches_are_parsed() {
        assert_eq!(parse_batch("auto"), Ok(BatchSize::Auto));
        assert_eq!(parse_batch("7"), Ok(BatchSize::Structures(7)));
        for bad in ["0", "-1", "x", ""] {
            assert!(parse_batch(bad).is_err(), "{bad}");
        }
    }
}
