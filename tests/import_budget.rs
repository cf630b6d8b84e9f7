//! Memory that hostile weight files take. Alone in its file: the allocator counts for the whole process.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::alloc::{GlobalAlloc, Layout, System};
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};

use mlff::model::import::{ImportOptions, Source, import};

struct Counting;

static NOW: AtomicUsize = AtomicUsize::new(0);
static PEAK: AtomicUsize = AtomicUsize::new(0);

// SAFETY: passes everything on to the system's allocator; reallocation is the default, of the other two.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        let now = NOW.fetch_add(layout.size(), Relaxed) + layout.size();
        PEAK.fetch_max(now, Relaxed);
        // SAFETY: the caller's.
        unsafe { System.alloc(layout) }
    }
    unsafe fn dealloc(&self, ptr: *mut u8, layout: Layout) {
        NOW.fetch_sub(layout.size(), Relaxed);
        // SAFETY: the caller's.
        unsafe { System.dealloc(ptr, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

fn text(s: &str) -> Vec<u8> {
    [b"X".as_slice(), &(s.len() as u32).to_le_bytes(), s.as_bytes()].concat()
}

/// A tensor of `n` times the first number of a storage.
fn tensor(storage: usize, n: i32) -> Vec<u8> {
    [
        b"ctorch._utils\n_rebuild_tensor_v2\n((".to_vec(),
        text("storage"),
        b"ctorch\nFloatStorage\n".to_vec(),
        text(&storage.to_string()),
        text("cpu"),
        b"K\x01tQK\x00J".to_vec(),
        n.to_le_bytes().to_vec(),
        b"\x85K\x00\x85\x89}tR".to_vec(),
    ]
    .concat()
}

/// A state dict of `n_tensors`, each of another storage.
fn pickle(n_tensors: usize, n: i32) -> Vec<u8> {
    let entries: Vec<u8> = (0..n_tensors).flat_map(|k| [text(&format!("t{k}")), tensor(k, n)].concat()).collect();
    [b"\x80\x02}(".as_slice(), &entries, b"u."].concat()
}

/// An archive whose directory gives one stored record the names of `n` storages.
fn archive(pickle: &[u8], n: usize, storage: &[u8]) -> Vec<u8> {
    let (mut out, mut directory) = (Vec::new(), Vec::new());
    let fixed = |name: &str, data: &[u8]| {
        let mut crc = flate2::Crc::new();
        crc.update(data);
        let length = data.len() as u32;
        let numbers = [crc.sum(), length, length, name.len() as u32];
        [vec![0; 8], numbers.iter().flat_map(|x| x.to_le_bytes()).collect()].concat()
    };
    let mut local = |name: &str, data: &[u8]| {
        let at = out.len() as u32;
        out.extend([b"PK\x03\x04\x14\0".as_slice(), &fixed(name, data), name.as_bytes(), data].concat());
        at
    };
    let (pickle_at, storage_at) = (local("a/data.pkl", pickle), local("a/data/0", storage));
    let mut entry = |name: &str, data: &[u8], at: u32| {
        let head = [b"PK\x01\x02\x14\0\x14\0".as_slice(), &fixed(name, data), &[0; 10], &at.to_le_bytes()].concat();
        directory.extend([&head, name.as_bytes()].concat());
    };
    entry("a/data.pkl", pickle, pickle_at);
    (0..n).for_each(|k| entry(&format!("a/data/{k}"), storage, storage_at));
    let end = [out.len() as u32, directory.len() as u32];
    out.extend(&directory);
    out.extend(b"PK\x05\x06\0\0\0\0");
    out.extend([(n as u16 + 1).to_le_bytes(); 2].concat());
    out.extend([end[1].to_le_bytes(), end[0].to_le_bytes()].concat());
    out.extend([0; 2]);
    out
}

/// Message of the refusal, and the most memory that was held meanwhile.
fn refused(bytes: &[u8]) -> (String, usize) {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("x.pt");
    std::fs::write(&path, bytes).unwrap();
    std::fs::write(folder.path().join("config.json"), "{\"cutoff\": 5.0}").unwrap();
    let before = NOW.load(Relaxed);
    PEAK.store(before, Relaxed);
    let error = import(Source::SchNetPack, &path, &ImportOptions::default()).expect_err("taken").to_string();
    (error, PEAK.load(Relaxed) - before)
}

#[test]
fn weight_files_take_memory_by_their_size() {
    let storage = vec![0_u8; 2 << 20];
    // One record under 300 names: 600 MB, if each were read.
    let bytes = archive(&pickle(300, 1), 300, &storage);
    let (error, peak) = refused(&bytes);
    assert!(error.contains("larger than the file") && error.contains("overlap"), "{error}");
    assert!(peak < 6 * bytes.len(), "{peak} bytes for a file of {}", bytes.len());

    // One number repeated a thousand million times.
    let bytes = archive(&pickle(1, 1_000_000_000), 1, &storage);
    let (error, peak) = refused(&bytes);
    assert!(error.contains("larger than its file"), "{error}");
    assert!(peak < 6 * bytes.len(), "{peak} bytes for a file of {}", bytes.len());
}
