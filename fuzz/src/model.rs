//! Target `model`: config.json and model.safetensors of a model directory. Beside it belong `shared.rs` and `weights.rs`.
//!
//! Input: length of config.json in 4 bytes, little-endian, config.json, model.safetensors. A model that is accepted must be the
//! same after it was saved and loaded, and evaluate without a panic, alike by all engines.

use mlff::Model;

use super::random::Random;
use super::shared::{evaluate, mutate_json_text};
use super::weights::mutate_safetensors_with;

fn split(data: &[u8]) -> Option<(&[u8], &[u8])> {
    let (length, rest) = data.split_first_chunk()?;
    rest.split_at_checked(u32::from_le_bytes(*length) as usize)
}

/// One input from a model directory's files.
pub fn join(config: &[u8], weights: &[u8]) -> Vec<u8> {
    [&(config.len() as u32).to_le_bytes()[..], config, weights].concat()
}

/// Runs one input.
pub fn model(data: &[u8]) {
    let Some((config, weights)) = split(data) else { return };
    match Model::from_bytes(config, weights) {
        Err(error) => assert!(!error.to_string().is_empty()),
        Ok(model) => {
            let [config, weights] = model.to_bytes().expect("what was read can be written");
            let again = Model::from_bytes(&config, &weights).expect("what was written can be read");
            assert!(again == model, "saving changes the model");
            evaluate(model, "model");
        }
    }
}

/// Changes JSON by its structure, and weights by theirs.
pub fn mutate_model(data: &[u8], seed: u32) -> Vec<u8> {
    let Some((config, weights)) = split(data) else { return data.to_vec() };
    let mut r = Random::new(seed.into());
    let (mut config, mut weights) = (config.to_vec(), weights.to_vec());
    for _ in 0..1 + r.below(2) {
        match r.below(2) {
            0 => config = mutate_json_text(&config, &mut r),
            _ => weights = mutate_safetensors_with(&weights, &mut r),
        }
    }
    join(&config, &weights)
}
