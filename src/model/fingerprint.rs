//! A hash of all that decides what a model says.

use sha2::{Digest, Sha256};

use super::Model;
use crate::error::{Error, Result};

impl Model {
    /// SHA-256 of the configuration and the weights, in hexadecimal. It is the same for a built-in model and its copy
    /// on disk, and does not depend on whether the same weights are stored in f32 or in f64. The card is left out.
    ///
    /// # Errors
    /// `Error::Usage` for a configuration that cannot be written as JSON.
    pub fn sha256(&self) -> Result<String> {
        let config = serde_json::to_vec(&self.config)
            .map_err(|e| Error::Usage(format!("config.json cannot be written: {e}")))?;
        let mut hash = Sha256::new();
        let mut add = |bytes: &[u8]| {
            hash.update((bytes.len() as u64).to_le_bytes());
            hash.update(bytes);
        };
        add(&config);
        for (name, array) in &self.weights.0 {
            add(name.as_bytes());
            add(&array.shape.iter().flat_map(|&n| (n as u64).to_le_bytes()).collect::<Vec<u8>>());
            add(&array.data.iter().flat_map(|x| x.to_le_bytes()).collect::<Vec<u8>>());
        }
        Ok(hash.finalize().iter().map(|byte| format!("{byte:02x}")).collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hash_is_that_of_content() {
        let model = Model::load(super::super::default_name()).unwrap();
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("copy");
        model.save(&path).unwrap();
        assert_eq!(Model::load(&path).unwrap().sha256().unwrap(), model.sha256().unwrap());
        let mut other = model.clone();
        other.card.push('x');
        assert_eq!(other.sha256().unwrap(), model.sha256().unwrap());
        let mut other = model.clone();
        other.weights.0.values_mut().next().unwrap().data[0] += 1e-9;
        assert_ne!(other.sha256().unwrap(), model.sha256().unwrap());
        let mut other = model.clone();
        *other.config.atomic_energies.get_mut(&1).unwrap() += 1.0;
        assert_ne!(other.sha256().unwrap(), model.sha256().unwrap());
    }
}
