//! Flags that choose a model and how it is run, shared by the commands that evaluate.

use std::path::PathBuf;
use std::sync::Arc;

use clap::ValueEnum;
use mlff::potential::{BatchSize, DeviceKind, EngineKind, Precision};
use mlff::{Error, Model, Potential, Result};

/// Model and engine.
#[derive(clap::Args)]
pub struct ModelArgs {
    /// Model directory, or name of a built-in model
    #[arg(short, long, value_name = "MODEL", default_value = mlff::model::default_name())]
    pub model: PathBuf,
    /// Where to compute: auto (the processor, as yet), cpu, cuda or cuda:N. GPUs need a program built with
    /// scripts/build_candle_cuda.sh and run batched autograd only
    #[arg(long, default_value = "auto", value_parser = parse_device)]
    pub device: DeviceName,
    /// How to compute [default: adjoint for PaiNN on the processor, else autograd]
    #[arg(long, value_enum)]
    pub engine: Option<EngineName>,
    /// Precision of the network; positions and energy sums are always f64
    #[arg(long, value_enum, default_value_t = Dtype::F32)]
    pub dtype: Dtype,
    /// Structures per batch: a number, or auto (by atoms and memory)
    #[arg(long, value_name = "auto|N", default_value = "auto", value_parser = parse_batch)]
    pub batch: BatchSize,
    /// Threads to compute with [default: all cores]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..))]
    pub threads: Option<u16>,
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

fn parse_device(text: &str) -> std::result::Result<DeviceName, String> {
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
    /// `Error::Usage` for a device that this program cannot use, and everything that loading a model refuses.
    pub fn potential(&self) -> Result<Potential> {
        let device = match self.device {
            DeviceName::Auto | DeviceName::Cpu => DeviceKind::Cpu,
            DeviceName::Cuda(ordinal) => DeviceKind::Cuda(ordinal),
        };
        if let Some(n) = self.threads {
            // Fails only where a pool exists already, which nothing before this call starts.
            rayon::ThreadPoolBuilder::new()
                .num_threads(n.into())
                .build_global()
                .map_err(|e| Error::Usage(format!("--threads {n}: {e}")))?;
        }
        let model = Arc::new(Model::load(&self.model)?);
        let engine = match self.engine {
            None => EngineKind::Auto,
            Some(EngineName::Adjoint) => EngineKind::Adjoint,
            Some(EngineName::Autograd) => EngineKind::Autograd,
        };
        let potential = Potential::on_device(model, self.dtype.into(), engine, device);
        let refused = |e: Error| match device {
            DeviceKind::Cpu => e,
            DeviceKind::Cuda(_) => Error::Usage(format!("--device {}: {e}", self.device)),
        };
        Ok(potential.map_err(refused)?.with_batch_size(self.batch))
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
