//! Target `calibration`: the file of `mlff calibrate`. Beside it belongs `shared.rs`.
//!
//! What is accepted must give a cost model that answers at any size, and be accepted again after merging and writing.

use mlff::calibration::{Calibration, Pattern, Reading, Size};
use mlff::potential::Precision;

use super::shared::{Random, mutate_json_text};

/// A file of this machine, which a run can start from: without measurements, as those are easy to add.
pub fn empty() -> Vec<u8> {
    serde_json::to_vec(&Calibration::new(1.2)).expect("a calibration can be written")
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

/// Changes JSON by its structure.
pub fn mutate_calibration(data: &[u8], seed: u32) -> Vec<u8> {
    mutate_json_text(data, &mut Random::new(seed))
}
