//! libFuzzer targets; `scripts/fuzz.sh` builds and runs them.
#![no_main]

mod compression;
mod memory;

use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    memory::bounded("x", data.len(), 1<<30, || compression::compression(data));
});
