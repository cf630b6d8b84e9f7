//! Packed text, damaged: gz, bz2, xz, zst.

use std::io::Cursor;

use mlff::xyz::Reader;

/// Reads whatever comes out; the first items are enough, as text has a target of its own.
pub fn compression(data: &[u8]) {
    // Opening looks at the first bytes only; damage shows as an error of reading.
    let Ok(mut reader) = Reader::from_reader("x", Cursor::new(data.to_vec())) else { return };
    for _ in 0..10_000 {
        match reader.next_item() {
            Ok(Some(_)) => {}
            Ok(None) => return,
            Err(error) => {
                assert!(!error.to_string().is_empty());
                return;
            }
        }
    }
}
