//! Tests of the reader of PyTorch's files.

use std::io::Write;

use super::*;

/// A file as torch.save lays it out, with one storage `0`.
fn archive(pickle: &[u8], storage: &[u8]) -> tempfile::NamedTempFile {
    let file = tempfile::NamedTempFile::new().unwrap();
    let mut zip = zip::ZipWriter::new(file.reopen().unwrap());
    let stored = zip::write::SimpleFileOptions::default().compression_method(zip::CompressionMethod::Stored);
    for (name, bytes) in [("x/data.pkl", pickle), ("x/byteorder", b"little"), ("x/data/0", storage)] {
        zip.start_file(name, stored).unwrap();
        zip.write_all(bytes).unwrap();
    }
    zip.finish().unwrap();
    file
}

fn text(s: &str) -> Vec<u8> {
    [b"X".as_slice(), &(s.len() as u32).to_le_bytes(), s.as_bytes()].concat()
}

fn int(n: i32) -> Vec<u8> {
    [b"J".as_slice(), &n.to_le_bytes()].concat()
}

fn tuple(items: &[i32]) -> Vec<u8> {
    [b"(".to_vec(), items.iter().flat_map(|&n| int(n)).collect(), b"t".to_vec()].concat()
}

/// `{"w": tensor}`.
fn state_dict(class: &str, offset: i32, shape: &[i32], strides: &[i32]) -> Vec<u8> {
    let storage = [
        b"(".to_vec(),
        text("storage"),
        format!("ctorch\n{class}\n").into_bytes(),
        text("0"),
        text("cpu"),
        int(6),
        b"tQ".to_vec(),
    ]
    .concat();
    [
        b"\x80\x02}".to_vec(),
        text("w"),
        b"ctorch._utils\n_rebuild_tensor_v2\n(".to_vec(),
        storage,
        int(offset),
        tuple(shape),
        tuple(strides),
        b"\x89}tRs.".to_vec(),
    ]
    .concat()
}

fn numbers() -> Vec<u8> {
    (0..6).flat_map(|k| (k as f32).to_le_bytes()).collect()
}

fn read_bytes(pickle: &[u8], storage: &[u8]) -> Result<Checkpoint> {
    read(&std::fs::read(archive(pickle, storage).path()).unwrap())
}

#[test]
fn pickle_views_count_elements_not_bytes() {
    let view = |offset, shape: &[i32], strides: &[i32]| {
        let read = read_bytes(&state_dict("FloatStorage", offset, shape, strides), &numbers()).unwrap();
        read.tensors["w"].clone()
    };
    assert_eq!(view(0, &[2, 3], &[3, 1]).data, [0.0, 1.0, 2.0, 3.0, 4.0, 5.0]);
    assert_eq!(view(0, &[3, 2], &[1, 3]).data, [0.0, 3.0, 1.0, 4.0, 2.0, 5.0]);
    assert_eq!(view(1, &[2], &[3]).data, [1.0, 4.0]);
    assert_eq!(view(4, &[2, 1], &[1, 1]), Array { shape: vec![2, 1], data: vec![4.0, 5.0] });
    assert_eq!(view(5, &[], &[]), Array { shape: vec![], data: vec![5.0] });
    assert_eq!(view(2, &[3], &[0]).data, [2.0, 2.0, 2.0]);
    assert_eq!(view(0, &[0, 3], &[3, 1]), Array { shape: vec![0, 3], data: vec![] });
}

#[test]
fn pickle_views_beyond_their_storage_are_refused() {
    let refused = |offset, shape: &[i32], strides: &[i32]| {
        read_bytes(&state_dict("FloatStorage", offset, shape, strides), &numbers()).unwrap_err()
    };
    for (offset, shape, strides) in
        [(5, vec![2], vec![1]), (0, vec![2], vec![6]), (i32::MAX, vec![1], vec![1]), (0, vec![2], vec![i32::MAX])]
    {
        assert!(refused(offset, &shape, &strides).contains("does not fit"), "{offset} {shape:?} {strides:?}");
    }
    let m = i32::MAX;
    assert!(refused(0, &[m, m], &[0, 0]).contains("larger than its file"));
    assert!(refused(0, &[m, m, m, m], &[0; 4]).contains("does not fit"));
    assert!(refused(-1, &[1], &[1]).contains("unknown way"));
    assert!(refused(0, &[2], &[1, 1]).contains("unknown way"));
    let wrong = read_bytes(&state_dict("LongStorage", 0, &[1], &[1]), &numbers()).unwrap_err();
    assert!(wrong.contains("torch.LongStorage"), "{wrong}");
}

#[test]
fn pickle_depth_does_not_overflow_the_stack() {
    let nested = |code: u8| [b"\x80\x02N".to_vec(), vec![code; 2_000_000], b".".to_vec()].concat();
    assert!(read_bytes(&nested(0x85), &[]).unwrap_err().contains("a list"));
    let deep = [
        b"\x80\x02}".to_vec(),
        text("config"),
        b"N".to_vec(),
        vec![0x85; 100_000],
        b"s".to_vec(),
        text("state_dict"),
        b"}s.".to_vec(),
    ]
    .concat();
    assert!(read_bytes(&deep, &[]).unwrap_err().contains("no tensors"));
}

#[test]
fn pickle_repetition_does_not_blow_up() {
    // Each list holds the one before it twice: 2^60 items if it were copied.
    let mut laughs = b"\x80\x02}".to_vec();
    laughs.extend(text("config"));
    laughs.extend(b"]q\x00");
    for _ in 0..60 {
        laughs.extend(b"](h\x00h\x00eq\x00");
    }
    laughs.extend(vec![b'0'; 60]);
    laughs.extend(b"s");
    laughs.extend([text("state_dict"), b"}s.".to_vec()].concat());
    assert!(read_bytes(&laughs, &[]).unwrap_err().contains("no tensors"));
    // A text that claims 4 GiB.
    let error = read_bytes(b"\x80\x02X\xff\xff\xff\xffabc", &[]).unwrap_err();
    assert!(error.contains("ends early"), "{error}");
}

#[test]
fn pickle_of_an_object_is_named() {
    let error = read_bytes(b"\x80\x02cschnetpack.model.base\nNeuralNetworkPotential\n)\x81}b.", &[]).unwrap_err();
    assert!(error.contains("schnetpack.model.base.NeuralNetworkPotential"), "{error}");
}

#[test]
fn pickle_damage_never_panics() {
    let whole = state_dict("FloatStorage", 1, &[2, 2], &[2, 1]);
    assert!(read_bytes(&whole, &numbers()).is_ok());
    // Damage inside the pickle, with checksums that hold, so that it reaches the parser.
    for n in 0..whole.len() {
        assert!(read_bytes(&whole[..n], &numbers()).is_err(), "the first {n} bytes");
    }
    for at in 0..whole.len() {
        for value in [0, 0x28, 0x2e, 0x4b, 0x51, 0x52, 0x65, 0x73, 0x74, 0x75, 0x7d, 0x80, 0x85, 0x8a, 0xff] {
            let mut damaged = whole.clone();
            damaged[at] = value;
            let _ = read_bytes(&damaged, &numbers());
        }
    }
    // Damage of the archive.
    let bytes = std::fs::read(archive(&whole, &numbers()).path()).unwrap();
    for at in 0..bytes.len() {
        for flip in [0x01, 0x80, 0xff] {
            let mut damaged = bytes.clone();
            damaged[at] ^= flip;
            let _ = read(&damaged);
        }
        assert!(read(&bytes[..at]).is_err(), "the first {at} bytes");
    }
}
