//! Targets `safetensors` and `pickle`: weight files to be imported. Beside it belongs `shared.rs`.
//!
//! Input of `safetensors` is a file; of `pickle` the data.pkl of an archive of PyTorch, whose checksums are made right and
//! whose storages, named 0 to 47, all hold the same numbers. What is accepted must evaluate without a panic, alike by all
//! engines.

use std::sync::OnceLock;

use mlff::model::import::{ImportOptions, Source, import_bytes};

use super::random::Random;
use super::shared::{evaluate, mutate_json_text};

/// What the imports are told; those that bring their own configuration use that as well.
const CONFIG: &[u8] = br#"{"cutoff": 4.5}"#;

fn import(data: &[u8]) {
    for source in [Source::SchNetPack, Source::Distiller] {
        for config in [None, Some(CONFIG)] {
            match import_bytes(source, data, config, &ImportOptions::default()) {
                Err(error) => assert!(!error.to_string().is_empty()),
                Ok(import) => evaluate(import.model, "import"),
            }
        }
    }
}

/// Runs one input.
pub fn safetensors(data: &[u8]) {
    import(data);
}

/// Runs one input.
pub fn pickle(data: &[u8]) {
    import(&archive(data));
}

/// Changes the header by its structure, or makes single weights odd.
pub fn mutate_safetensors(data: &[u8], seed: u32) -> Vec<u8> {
    mutate_safetensors_with(data, &mut Random::new(seed.into()))
}

pub fn mutate_safetensors_with(data: &[u8], r: &mut Random) -> Vec<u8> {
    let Some((length, rest)) = data.split_first_chunk() else { return data.to_vec() };
    let length = usize::try_from(u64::from_le_bytes(*length)).unwrap_or(usize::MAX);
    let Some((header, body)) = rest.split_at_checked(length) else { return data.to_vec() };
    let mut body = body.to_vec();
    let header = match r.below(4) {
        0 if body.len() >= 4 => {
            let k = r.below(body.len() / 4) * 4;
            let odd = [0.0, -0.0, f32::MAX, f32::MIN_POSITIVE, 1e-45, 1e30, -1.0, f32::NAN, f32::INFINITY];
            body[k..k + 4].copy_from_slice(&r.pick(&odd).to_le_bytes());
            header.to_vec()
        }
        1 => {
            let changes = [
                ("F32", "F64"),
                ("F32", "F16"),
                ("F32", "BF16"),
                ("F32", "I32"),
                ("F32", "F8_E4M3"),
                ("weight", "bias"),
                ("[", "[1,"),
                ("64", "0"),
            ];
            let (from, to) = *r.pick(&changes);
            String::from_utf8_lossy(header).replacen(from, to, 1 + r.below(3)).into_bytes()
        }
        _ => mutate_json_text(header, r),
    };
    [&(header.len() as u64).to_le_bytes()[..], &header, &body].concat()
}

/// Changes instructions, counts and pieces.
pub fn mutate_pickle(data: &[u8], seed: u32) -> Vec<u8> {
    let (mut out, mut r) = (data.to_vec(), Random::new(seed.into()));
    const CODES: &[u8] = b"NKMJGXcqrhj(01)]}aesutRQb.\x81\x85\x86\x87\x88\x89\x8a\x80";
    const PIECES: [&[u8]; 16] = [
        b"J\xff\xff\xff\xff",
        b"J\xff\xff\xff\x7f",
        b"\x8a\x08\xff\xff\xff\xff\xff\xff\xff\x7f",
        b"K\x00",
        b"h\x00",
        b"h\x05",
        b"ctorch\nHalfStorage\n",
        b"ctorch\nDoubleStorage\n",
        b"ctorch._utils\n_rebuild_parameter\n",
        b"(",
        b"t",
        b"\x85",
        b"R",
        b"}",
        b"]",
        b"Q",
    ];
    for _ in 0..1 + r.below(3) {
        let at = r.below(out.len());
        let piece = |n: usize| at..(at + n).min(out.len());
        match r.below(5) {
            _ if out.is_empty() => {}
            0 => out[at] = *r.pick(CODES),
            1 => drop(out.splice(at..at, r.pick(&PIECES).iter().copied())),
            2 => {
                let copied = out[piece(r.below(40))].to_vec();
                let to = r.below(out.len() + 1);
                out.splice(to..to, copied);
            }
            3 => drop(out.drain(piece(r.below(12)))),
            _ => {
                // A small number after K: shapes, strides, offsets.
                let after: Vec<usize> = (1..out.len()).filter(|&k| out[k - 1] == b'K').collect();
                if !after.is_empty() {
                    out[*r.pick(&after)] = *r.pick(&[0, 1, 2, 3, 8, 16, 255]);
                }
            }
        }
    }
    out
}

const N_STORAGES: usize = 48;
const STORAGE_BYTES: usize = 4096;

/// The archive that holds a data.pkl: local records, the directory behind them.
pub fn archive(pickle: &[u8]) -> Vec<u8> {
    static STORAGES: OnceLock<(Vec<u8>, u32)> = OnceLock::new();
    let (storage, checksum) = STORAGES.get_or_init(|| {
        // A cutoff first, and else small positive numbers, which widths of Gaussians may be.
        let number = |k: usize| if k == 0 { 4.5 } else { 0.02 + 0.3 * (k * 37 % 101) as f32 / 101.0 };
        let bytes: Vec<u8> = (0..STORAGE_BYTES / 4).flat_map(|k| number(k).to_le_bytes()).collect();
        let checksum = crc32(&bytes);
        (bytes, checksum)
    });
    let (mut out, mut directory) = (Vec::new(), Vec::new());
    let mut add = |name: &str, data: &[u8], checksum: u32| {
        let (at, length) = (out.len() as u32, data.len() as u32);
        let mut fixed = vec![0; 8];
        // The name's length in two bytes, and no extra field in the two behind.
        for number in [checksum, length, length, name.len() as u32] {
            fixed.extend(number.to_le_bytes());
        }
        out.extend(b"PK\x03\x04\x14\x00");
        out.extend(&fixed);
        out.extend(name.as_bytes());
        out.extend(data);
        directory.extend(b"PK\x01\x02\x14\x00\x14\x00");
        directory.extend(&fixed);
        directory.extend([0; 10]);
        directory.extend(at.to_le_bytes());
        directory.extend(name.as_bytes());
    };
    add("a/data.pkl", pickle, crc32(pickle));
    for k in 0..N_STORAGES {
        add(&format!("a/data/{k}"), storage, *checksum);
    }
    let (n, at, length) = (N_STORAGES as u16 + 1, out.len() as u32, directory.len() as u32);
    out.extend(&directory);
    out.extend(b"PK\x05\x06\0\0\0\0");
    out.extend([n.to_le_bytes(), n.to_le_bytes()].concat());
    out.extend([length.to_le_bytes(), at.to_le_bytes()].concat());
    out.extend([0; 2]);
    out
}

/// CRC-32 as zip has it; inputs are short.
fn crc32(data: &[u8]) -> u32 {
    let step = |crc: u32| if crc & 1 == 1 { crc >> 1 ^ 0xedb8_8320 } else { crc >> 1 };
    !data.iter().fold(!0, |crc: u32, &byte| (0..8).fold(crc ^ u32::from(byte), |crc, _| step(crc)))
}
