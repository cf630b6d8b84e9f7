//! Small files that could unpack to anything are read, or refused, in bounded memory. Alone in its file: the allocator
//! counts for the whole process.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::alloc::{GlobalAlloc, Layout, System};
use std::io::Read;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};

use mlff::xyz::{Item, Reader, Texts, WriteOptions};

struct Counting;

static NOW: AtomicUsize = AtomicUsize::new(0);
static PEAK: AtomicUsize = AtomicUsize::new(0);

fn add(bytes: usize) {
    PEAK.fetch_max(NOW.fetch_add(bytes, Relaxed) + bytes, Relaxed);
}

// SAFETY: passes everything on to the system's allocator.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        add(layout.size());
        // SAFETY: the caller's.
        unsafe { System.alloc(layout) }
    }
    unsafe fn dealloc(&self, ptr: *mut u8, layout: Layout) {
        NOW.fetch_sub(layout.size(), Relaxed);
        // SAFETY: the caller's.
        unsafe { System.dealloc(ptr, layout) }
    }
    unsafe fn realloc(&self, ptr: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        NOW.fetch_sub(layout.size(), Relaxed);
        add(size);
        // SAFETY: the caller's.
        unsafe { System.realloc(ptr, layout, size) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

const MIB: usize = 1 << 20;

/// A beginning, and then the same again and again, up to a length: what a bomb unpacks to.
struct Bomb {
    start: &'static [u8],
    again: &'static [u8],
    at: usize,
    length: usize,
}

impl Read for Bomb {
    fn read(&mut self, out: &mut [u8]) -> std::io::Result<usize> {
        let n = out.len().min(self.length - self.at);
        for byte in &mut out[..n] {
            *byte = match self.at.checked_sub(self.start.len()) {
                None => self.start[self.at],
                Some(k) => self.again[k % self.again.len()],
            };
            self.at += 1;
        }
        Ok(n)
    }
}

fn bomb(start: &'static str, again: &'static str, length: usize) -> Reader {
    let bomb = Bomb { start: start.as_bytes(), again: again.as_bytes(), at: 0, length };
    Reader::from_reader("bomb.xyz", bomb).unwrap()
}

/// What `f` gives, which may take so many bytes at a time.
#[track_caller]
fn within<X>(bytes: usize, f: impl FnOnce() -> X) -> X {
    let before = NOW.load(Relaxed);
    PEAK.store(before, Relaxed);
    let out = f();
    let used = PEAK.load(Relaxed) - before;
    assert!(used <= bytes, "{:.1} MiB, more than {:.1}", used as f64 / MIB as f64, bytes as f64 / MIB as f64);
    out
}

#[track_caller]
fn refusal(mut reader: Reader) -> String {
    match reader.next_item() {
        Ok(Some(Item::Bad(bad))) => bad.error.to_string(),
        other => other.expect_err("read").to_string(),
    }
}

/// One test: others at the same time would be counted too.
#[test]
fn xyz_memory_is_bounded_whatever_unpacks() {
    const ATOMS: &str = "100000000\n\n";
    let limit = 4 * MIB;

    let error = within(24 * MIB, || refusal(bomb(ATOMS, "H 0 0 0\n", 64 * MIB).with_max_frame(limit)));
    assert!(error.contains("larger than 131072 atoms") && error.contains("with_max_frame"), "{error}");

    let wide = "H 0 0 0 0123456789012345678901234567890123456789012345678901234567890123456789012345678\n";
    let error = within(24 * MIB, || refusal(bomb(ATOMS, wide, 64 * MIB).with_max_frame(limit)));
    assert!(error.contains("larger than 4 MiB") && error.contains("with_max_frame"), "{error}");

    // Refused in its third line: nothing of it is kept, up to its end.
    let bad = "8000000\n\nQq 0 0 0\n";
    let mut reader = bomb(bad, "H 0 0 0\n", bad.len() + 8 * 7_999_999).keep_refused(false);
    within(2 * MIB, || {
        let Ok(Some(Item::Bad(bad))) = reader.next_item() else { panic!("not refused") };
        assert!(bad.raw.is_empty() && bad.error.to_string().contains("Qq"));
        assert!(reader.recoverable() && reader.next_item().unwrap().is_none());
    });
    let error = within(24 * MIB, || refusal(bomb(bad, "H 0 0 0\n", 64 * MIB).with_max_frame(limit)));
    assert!(error.contains("line 3: unknown element \"Qq\"") && error.contains("larger than 4 MiB"), "{error}");

    // One line, blank lines, a comment.
    let error = within(24 * MIB, || refusal(bomb("1\n\nH ", "x", 64 * MIB).with_max_frame(limit)));
    assert!(error.contains("larger than 4 MiB"), "{error}");
    let error = within(MIB, || refusal(bomb("", "\n", 32 * MIB)));
    assert!(error.contains("only blank lines"), "{error}");
    let mut long = b"1\n".to_vec();
    long.extend(b"a=1 ".repeat(2 * MIB));
    long.extend(b"\nH 0 0 0\n");
    let error = within(70 * MIB, || refusal(Reader::from_reader("x", std::io::Cursor::new(long)).unwrap()));
    assert!(error.contains("more than 65536 words and entries"), "{error}");

    // The text of a large frame is held once, however it is cut from the stream; room that is set aside may double.
    let length = "1000000\n\n".len() + 40_000_000;
    let mut reader = bomb("1000000\n\n", "H 0.123456789 0.123456789 0.1234567 567\n", length);
    let frame = within(130 * MIB, || reader.next_frame().unwrap().unwrap());
    assert_eq!((frame.structure.n_atoms(), frame.raw().len()), (1_000_000, length));
    drop(frame);

    // One line with many more columns than the others, which would be padded to as many.
    let n = 30_000;
    let mut ragged = format!("{n}\n\nH 0 0 0{}\n", " 1".repeat(n));
    (1..n).for_each(|k| ragged.push_str(&format!("H {} 0 0\n", 3 * k)));
    let error = within(4 * MIB, || refusal(Reader::from_reader("x", std::io::Cursor::new(ragged)).unwrap()));
    assert!(error.contains("atom lines have from 4 to 30004 columns, too different"), "{error}");
    let mut notes = String::from("200\n\nH 0 0 0 # the first atom has a note of some words\n");
    (1..200).for_each(|k| notes.push_str(&format!("H {} 0 0\n", 3 * k)));
    let frame = Reader::from_reader("x", std::io::Cursor::new(notes)).unwrap().next_frame().unwrap().unwrap();
    let mut texts = Texts::default();
    texts.push_frame(&frame, None, &WriteOptions::default()).unwrap();
    assert_eq!(frame.warnings(), ["atom lines have from 4 to 14 columns"]);
}
