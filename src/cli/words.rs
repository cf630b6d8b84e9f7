//! Errors of the library in the words of the command line: settings that they name have flags here.

use mlff::Error;

/// What the library calls a setting, and its flag.
const FLAGS: [(&str, &str); 8] = [
    ("BatchSize", "--batch"),
    ("DeviceKind::Cpu", "--device cpu"),
    ("ImportOptions::config", "--config"),
    ("ImportOptions::energy_unit", "--energy-unit"),
    ("ImportOptions::length_unit", "--length-unit"),
    ("ImportOptions::species", "--species"),
    ("Reader::with_max_frame", "--max-frame"),
    ("Writer::resume", "--resume"),
];

/// What is wrong and what to do, for people at a command line.
pub fn message(error: &Error) -> String {
    let text = in_flags(&error.to_string());
    if matches!(error, Error::Exists { .. }) { text + "; --overwrite replaces it" } else { text }
}

/// A text of the library with flags in place of its settings.
pub fn in_flags(text: &str) -> String {
    FLAGS.iter().fold(
        text.to_string(),
        |text, (setting, flag)| {
            if text.contains(setting) { text.replace(setting, flag) } else { text }
        },
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn errors_name_flags_in_place_of_settings() {
        let said = |error: Error| message(&error);
        assert_eq!(said(Error::Exists { path: "out.xyz".into() }), "out.xyz exists already; --overwrite replaces it");
        assert!(said(mlff::error::CudaError::NoDriver.into()).ends_with("without one use --device cpu"));
        assert!(said(mlff::error::CudaError::OutOfMemory { asked: 1, free: 0 }.into()).contains("a smaller --batch,"));
        assert_eq!(said(Error::Structure("nothing to say".into())), "nothing to say");
    }
}
