//! Target `calibration`: the file of `mlff calibrate`. Beside it belongs `shared.rs`.
//!
//! What is accepted must give a cost model that answers at any size, and be accepted again after merging and writing.

use mlff::Precision;
use mlff::calibration::{Calibration, Pattern, Reading, Size};
use serde_json::{Value, json};

use super::random::Random;
use super::shared::mutate_json_text;

/// A file of this machine, which a run can start from: two patterns at two sizes.
fn sample() -> Vec<u8> {
    let point = |rows: usize, speedup: f64| {
        let measured = json!({"seconds": 1e-5, "bytes": 1e4, "flops_s": 1e9,
            "roofline": {"intensity": 1.0, "bound": "compute", "fraction": 0.1}});
        json!({"rows": rows, "width": 64, "repeats": 3, "flops": 1e6, "unfused": measured, "fused": measured,
            "speedup": speedup, "memory_reduction": 2.0})
    };
    let measurements: Vec<Value> = ["message", "linear_silu"]
        .map(|pattern| {
            json!({"pattern": pattern, "dtype": "f32", "threads": 1, "points": [point(64, 1.5), point(4096, 1.1)],
                "device": {"kind": "cpu", "name": "a", "driver": null, "peak_flops": 1e11, "peak_bytes_s": 1e10}})
        })
        .into();
    let mut file = serde_json::to_value(Calibration::new(1.2)).expect("a calibration can be written");
    file["measurements"] = measurements.into();
    serde_json::to_vec(&file).expect("JSON can be written")
}

/// Runs one input.
pub fn calibration(data: &[u8]) {
    let sound = match Calibration::from_bytes(data) {
        Ok(Reading::Usable(calibration)) => calibration,
        Ok(Reading::Unusable(reason)) | Err(reason) => return assert!(!reason.is_empty()),
    };
    for precision in [Precision::F32, Precision::F64] {
        let model = sound.cost_model(None, precision);
        for pattern in Pattern::ALL {
            for rows in [0, 1, 17, 1 << 20, usize::MAX] {
                for width in [0, 1, 64, usize::MAX] {
                    let size = Size { rows, width };
                    let _ = model.should_fuse(pattern, size);
                    assert!(model.speedup(pattern, size).is_none_or(|s| !s.is_nan()), "{pattern:?} {size:?}");
                }
            }
        }
    }
    let mut merged = sound.clone();
    merged.merge(sound);
    let text = serde_json::to_vec(&merged).expect("what was read can be written");
    assert!(matches!(Calibration::from_bytes(&text), Ok(Reading::Usable(_))), "merged and written, it is refused");
}

/// Changes JSON by its structure; what is none becomes a file of this machine.
pub fn mutate_calibration(data: &[u8], seed: u32) -> Vec<u8> {
    if data.first() != Some(&b'{') {
        return sample();
    }
    mutate_json_text(data, &mut Random::new(seed.into()))
}
