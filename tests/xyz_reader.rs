//! What the reader makes of files that are nearly right, damaged, or no XYZ at all.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::io::{Cursor, Read, Write};

use mlff::xyz::{Frame, Item, Reader, Spares, Texts, WriteOptions, Writer};
use proptest::prelude::*;

const WATER: &str = "3\n\nO 0 0 0\nH 0 1 0\nH 1 0 0\n";

fn reader(bytes: impl AsRef<[u8]>) -> Reader {
    Reader::from_reader("t.xyz", Cursor::new(bytes.as_ref().to_vec())).unwrap()
}

fn read(bytes: impl AsRef<[u8]>) -> mlff::Result<Vec<Frame>> {
    reader(bytes).collect()
}

fn refusal(bytes: impl AsRef<[u8]>) -> String {
    read(bytes).expect_err("accepted").to_string()
}

/// The text of a refused frame.
fn raw_texts(raw: &[u8]) -> Texts {
    let mut texts = Texts::default();
    texts.push_refused(raw, &WriteOptions::default());
    texts
}

/// A frame of two atoms with this comment.
fn with_comment(comment: &str) -> String {
    format!("2\n{comment}\nH 0 0 0\nH 0 0 0.74\n")
}

#[test]
fn header_refusals_say_why() {
    for (text, place, why) in [
        ("-3\n\n", "frame 0, line 1", "atom count is negative: found \"-3\""),
        ("3.0\n\n", "frame 0, line 1", "atom count is not a whole number: found \"3.0\""),
        ("1e3\n\n", "frame 0, line 1", "atom count is not a whole number"),
        ("99999999999999999999\n\n", "frame 0, line 1", "larger than any file"),
        ("18446744073709551615\n\n", "frame 0, line 1", "larger than any file"),
        ("\n\n three\n", "frame 0, line 3", "found \"three\""),
        ("O 0 0 0\n", "frame 0, line 1", "atom count"),
        ("", "frame 0, line 1", "empty file"),
        (" \n\t\n", "frame 0, line 1", "only blank lines"),
        ("1\n\nH 0 0 0\nVEC1 1 0 0\n", "frame 1, line 4", "VEC lines"),
        ("1\n\nH 0 0 0\nH 0 0 1\n", "frame 1, line 4", "frame 0 may hold more atoms than its count of 1"),
        ("1\n\nH 0 0 0\nEND\n", "frame 1, line 4", "frame header expected"),
    ] {
        let error = refusal(text);
        assert!(error.contains(place) && error.contains(why), "{text:?}: {error}");
    }
    assert_eq!(read(WATER.replacen('3', "+3", 1)).unwrap()[0].structure.n_atoms(), 3);
    assert_eq!(read(WATER.replacen('3', "003", 1)).unwrap()[0].structure.n_atoms(), 3);
}

#[test]
fn other_formats_are_named() {
    for (bytes, why) in [
        (&b"<!DOCTYPE html>\n"[..], "HTML"),
        (b"{\"a\": 1}\n", "JSON"),
        (b"HEADER    PROTEIN\nATOM      1  N\n", "PDB"),
        (b"ATOM      1  N   ALA A   1\n", "PDB"),
        (b"data_quartz\n", "CIF"),
        (b"ITEM: TIMESTEP\n0\n", "LAMMPS"),
        (b"\x89HDF\r\n\x1a\n\0\0\0", "HDF5"),
        (b"PK\x03\x04\x14\0\0\0", "zip archive"),
        (b"\xff\xfe3\0\n\0\n\0", "UTF-16"),
        (b"\xfe\xff\x003\0\n", "UTF-16"),
        (b"3\0\n\0\n\0O\0", "NUL byte"),
        (b"\x7fELF\x02\x01\x01\0\n", "a program"),
        (b"%PDF-1.4\n", "PDF"),
    ] {
        let error = refusal(bytes);
        assert!(error.contains(why) && error.contains("frame 0, line 1"), "{error}");
    }
    assert!(refusal(vec![b'x'; 1 << 20]).contains("this is no XYZ file"));
}

#[test]
fn comment_refusals_say_why() {
    for (comment, why) in [
        ("Lattice=\"1 2 3 4 5 6 7 8 x\" Properties=species:S:1:pos:R:3", "\"x\" is not a number"),
        ("Lattice=\"9 0 0 0 9 0 0 0 nan\"", "Lattice is not finite"),
        ("Lattice=\"9 0 0 0 9 0 0 0 9 1\"", "Lattice needs 9 numbers, found 10"),
        ("Lattice=10 0 0 0 10 0 0 0 10", "put them in quotes"),
        ("Lattice= Properties=species:S:1:pos:R:3", "Lattice needs 9 numbers, found 0"),
        ("Lattice=\"\"", "Lattice needs 9 numbers, found 0"),
        ("Lattice=[[9,0,0],[0,9,0]]", "Lattice needs 9 numbers, found 6"),
        ("Lattice=\"9 0 0 0 9 0 9 9 0\"", "not independent"),
        ("Lattice=\"9 0 0 0 9 0 0 0 0\"", "lattice vector c is zero"),
        ("Lattice=\"9 0 0 0 9 0 0 0 0\" pbc=\"T F T\"", "lattice vector c is zero"),
        ("Lattice=\"0 0 0 0 0 0 0 0 0\" pbc=\"T T T\"", "Lattice is all zeros"),
        ("Properties=species:S:1:pos:R:3 pbc=\"T F F\"", "Lattice is missing"),
        ("pbc=\"T T\"", "pbc needs one or three"),
        ("pbc=\"x y z\"", "pbc needs one or three"),
        ("pbc=", "pbc needs one or three"),
        ("Lattice=\"9 0 0 0 9 0 0 0 9\" lattice=\"9 0 0 0 9 0 0 0 9\"", "duplicate Lattice"),
        ("pbc=F pbc=F", "duplicate pbc"),
        ("Properties=species:S:1:pos:R:3 properties=species:S:1:pos:R:3", "duplicate Properties"),
        ("Properties=", "Properties is empty"),
        ("Lattice=\"9 0 0 0 9 0 0 0 9 Properties=species:S:1:pos:R:3", "unbalanced quote"),
        ("Properties=pos:R:3", "neither a species nor a Z"),
        ("Properties=species:S:1", "no pos column"),
    ] {
        let error = refusal(with_comment(comment));
        assert!(error.contains("frame 0, line 2") && error.contains(why), "{comment}: {error}");
    }
}

#[test]
fn comment_structure_keys_read_in_any_style() {
    let cell = Some([[9.0, 0.0, 0.0], [0.0, 8.0, 0.0], [0.0, 0.0, 7.0]]);
    for (comment, pbc) in [
        ("LATTICE=\"9 0 0 0 8 0 0 0 7\" PROPERTIES=species:S:1:pos:R:3 PBC=\"T F T\"", [true, false, true]),
        ("lattice = \"9 0 0 0 8 0 0 0 7\" pbc = \"F F F\"", [false; 3]),
        ("Lattice={9 0 0 0 8 0 0 0 7}", [true; 3]),
        ("Lattice=\"9,0,0,0,8,0,0,0,7\"", [true; 3]),
        ("Lattice=\"9.0D0 0 0 0 8.d+00 0 0 0 7\" pbc=[true,false,false]", [true, false, false]),
        ("Lattice=[[9, 0, 0],[0, 8, 0],[0, 0, 7]] pbc=[1, 0, 1]", [true, false, true]),
    ] {
        let frames = read(with_comment(comment)).unwrap_or_else(|e| panic!("{comment}: {e}"));
        assert_eq!((frames[0].structure.cell, frames[0].structure.pbc), (cell, pbc), "{comment}");
    }
    let slab = read(with_comment("Lattice=\"9 0 0 0 8 0 0 0 0\" pbc=\"T T F\"")).unwrap();
    assert_eq!(slab[0].structure.pbc, [true, true, false]);
}

#[test]
fn line_ends_and_byte_order_mark_do_not_matter() {
    let text = format!("{WATER}{WATER}");
    let want: Vec<_> = read(&text).unwrap().into_iter().map(|f| f.structure).collect();
    for variant in
        [text.replace('\n', "\r\n"), text.replace('\n', "\r"), format!("\u{feff}{text}"), format!("\n\n{text}\n \n")]
    {
        let got: Vec<_> = read(&variant).unwrap().into_iter().map(|f| f.structure).collect();
        assert_eq!(got, want, "{variant:?}");
    }
}

#[test]
fn damaged_frames_say_why() {
    for (text, place, why) in [
        ("3\n\nO 0 0 0\nH 0 1 0\n", "frame 0, line 4", "truncated frame: the file ends after 2 of 3 atoms"),
        ("3", "frame 0, line 1", "truncated frame: the file ends after no comment line"),
        ("3\n\n", "frame 0, line 2", "truncated frame: the file ends after 0 of 3 atoms"),
        (
            "3\n\nO 0 0 0\nH 0 1 0\n2\n\nH 0 0 0\nH 0 0 1\n",
            "frame 0, line 5",
            "looks like the next atom count, after 2 of 3",
        ),
        ("2\n\nO 0 0 0\n\nH 0 1 0\n", "frame 0, line 4", "blank line inside a frame"),
        ("2\n\nO 0 0 0\nH 0 1\n", "frame 0, line 4", "too few columns: 3 in \"H 0 1\""),
        ("1\n\nO 0 0 abc\n", "frame 0, line 3", "position z is not a number: \"abc\""),
        ("1\ncom\0ment\nO 0 0 0\n", "frame 0, line 2", "NUL byte"),
        ("2\n\nO 0 0 0\nO 0 0 0 a\0b\n", "frame 0, line 4", "NUL byte"),
        ("2\r\n\r\nO 0 0 0\r\nO 0 0 0 a\0b\r\n", "frame 0, line 4", "NUL byte"),
    ] {
        let error = refusal(text);
        assert!(error.contains(place) && error.contains(why), "{text:?}: {error}");
    }
}

#[test]
fn reader_goes_on_behind_bad_frames() {
    let bad = "2\nkept\nH 0 0 zero\nXx 0 0 1 \n";
    let mut reader = reader(format!("{WATER}\n{bad}\n{WATER}"));
    assert!(matches!(reader.next_item().unwrap(), Some(Item::Frame(_))));
    let Some(Item::Bad(refused)) = reader.next_item().unwrap() else { panic!("not refused") };
    assert_eq!((refused.index, refused.line, refused.raw.as_slice()), (1, 7, bad.as_bytes()));
    assert!(refused.error.to_string().contains("frame 1, line 9: position z is not a number"), "{}", refused.error);
    assert!(reader.recoverable());
    let Some(Item::Frame(last)) = reader.next_item().unwrap() else { panic!("no third frame") };
    assert_eq!((last.index, last.line), (2, 12));
    assert!(reader.next_item().unwrap().is_none());
}

#[test]
fn reader_is_done_when_boundaries_are_lost() {
    let mut reader = reader(format!("4\n\nO 0 0 0\nH 0 1 0\nH 1 0 0\n{WATER}"));
    assert!(reader.next_frame().is_err());
    assert!(!reader.recoverable());
    assert!(reader.next_frame().unwrap().is_none());
    assert!(!reader.skip_frame().unwrap());
}

#[test]
fn skip_frame_agrees_with_next_frame() {
    let text = format!("{WATER}\n{}{WATER}", with_comment("energy=1"));
    let mut reader = reader(&text);
    assert!(reader.skip_frame().unwrap());
    let frame = reader.next_frame().unwrap().unwrap();
    assert_eq!((frame.index, frame.line, frame.labels("").unwrap().energy), (1, 7, Some(1.0)));
    assert!(reader.skip_frame().unwrap());
    assert!(!reader.skip_frame().unwrap());
    assert_eq!(reader.frames(), 3);
}

/// A count that the file does not live up to must cost nothing: this would be 24 TB of positions.
#[test]
fn spares_leave_no_trace_in_later_frames() {
    // One after another as different as they can be: every pair of kinds follows each other.
    let kinds = [
        WATER.to_string(),
        "4\nProperties=species:S:1:pos:R:3:f:R:3 Lattice=\"9 0 0 0 9 0 0 0 9\" charge=1 a=b c=d e=\"f g\"\n"
            .to_string()
            + &"C 0 0 0 1 2 3\n".repeat(4),
        with_comment("free text"),
        "1\nPBC=F\nD 0 0 0 9 9\n".to_string(),
    ];
    let order = [0, 0, 1, 1, 2, 2, 3, 3, 0, 2, 0, 1, 3, 1, 2, 1, 0, 3, 2, 3, 0];
    let text: String = order.iter().map(|&k| kinds[k].as_str()).collect();
    let spares = Spares::default();
    let mut reusing = reader(&text);
    reusing.reuse(&spares);
    let mut n_frames = 0;
    for want in reader(&text) {
        let (want, got) = (want.unwrap(), reusing.next_frame().unwrap().unwrap());
        assert_eq!(format!("{got:?}"), format!("{want:?}"));
        spares.give([got]);
        n_frames += 1;
    }
    assert_eq!(n_frames, order.len());
}

#[test]
fn header_claims_allocate_nothing() {
    assert!(refusal("999999999999\n\nH 0 0 0\n").contains("truncated frame"));
    assert!(refusal("18446744073709551612\n\nH 0 0 0\n").contains("truncated frame"));
    let mut skipping = reader("999999999999\n\nH 0 0 0\n");
    assert!(skipping.skip_frame().unwrap_err().to_string().contains("truncated frame"));
}

/// An endless stream of one-atom frames, to be read without keeping them.
struct Endless(usize);

impl Read for Endless {
    fn read(&mut self, out: &mut [u8]) -> std::io::Result<usize> {
        const FRAME: &[u8] = b"1\n\nH 0 0 0\n";
        for byte in out.iter_mut() {
            *byte = FRAME[self.0 % FRAME.len()];
            self.0 += 1;
        }
        Ok(out.len())
    }
}

#[test]
fn reader_streams_without_an_end() {
    let mut reader = Reader::from_reader("-", Endless(0)).unwrap();
    for index in 0..50_000 {
        assert_eq!(reader.next_frame().unwrap().unwrap().index, index);
    }
}

#[test]
fn labels_refusals_say_why() {
    for (comment, why) in [
        ("energy=nan", "energy is not finite"),
        ("energy=abc", "energy is not a number: \"abc\""),
        ("energy energy_unit=eV", "energy has no value"),
        ("energy=\"1 2\"", "energy has 2 numbers"),
        ("energy=1 energy=2", "energy is given twice"),
        ("Lattice=\"9 0 0 0 9 0 0 0 9\" stress=\"1 2 3\"", "stress has 3 numbers, expected nine"),
        ("Properties=species:S:1:pos:R:3 virial=x Lattice=\"9 0 0 0 9 0 0 0 9\"", "virial is not a number"),
    ] {
        let error = read(with_comment(comment)).unwrap()[0].labels("").unwrap_err().to_string();
        assert!(error.contains("frame 0, line 2") && error.contains(why), "{comment}: {error}");
    }
    let text = "2\nProperties=species:S:1:pos:R:3:forces:R:3\nH 0 0 0 1 2 3\nH 0 0 1 1 nan 3\n";
    let error = read(text).unwrap()[0].labels("").unwrap_err().to_string();
    assert!(error.contains("frame 0, line 4: forces is not a finite number: \"nan\""), "{error}");
    let text = "1\nProperties=species:S:1:pos:R:3:forces:R:1\nH 0 0 0 1\n";
    let error = read(text).unwrap()[0].labels("").unwrap_err().to_string();
    assert!(error.contains("forces:R:1"), "{error}");
}

#[test]
fn charge_and_spin_read_their_keys() {
    let frame = |comment: &str| read(with_comment(comment)).unwrap().remove(0);
    assert_eq!(frame("charge=-1 spin=2").charge().unwrap(), Some(-1.0));
    assert_eq!(frame("total_charge=+2").charge().unwrap(), Some(2.0));
    assert_eq!(frame("plain").charge().unwrap(), None);
    assert_eq!(frame("spin_multiplicity=3 spin=1").spin_multiplicity().unwrap(), Some(3.0));
    assert_eq!(frame("multiplicity=2").spin_multiplicity().unwrap(), Some(2.0));
    assert_eq!(frame("spin=0").spin_multiplicity().unwrap(), Some(1.0));
    assert!(frame("charge=neutral").charge().is_err());
}

fn packed(name: &str, text: &str) -> Vec<u8> {
    let path = std::env::temp_dir().join(format!("mlff-packed-{}-{name}", std::process::id()));
    let mut writer = Writer::create(&path, true).unwrap();
    writer.write_texts(&raw_texts(text.as_bytes())).unwrap();
    writer.finish().unwrap();
    let bytes = std::fs::read(&path).unwrap();
    std::fs::remove_file(path).unwrap();
    bytes
}

#[test]
fn packed_members_in_a_row_are_all_read() {
    for name in ["a.gz", "a.bz2", "a.xz", "a.zst"] {
        let member = packed(name, WATER);
        assert_ne!(member, WATER.as_bytes());
        assert_eq!(read([&member[..], &member, &member].concat()).unwrap().len(), 3, "{name}");
    }
}

#[test]
fn packed_damage_is_an_error_not_an_end() {
    let text: String =
        (0..400).map(|i| format!("2\nn={i}\nH 0 0 {}\nH 1 {} 0\n", i * 7919 % 1009, i * 104729 % 997)).collect();
    for name in ["b.gz", "b.bz2", "b.xz", "b.zst"] {
        let whole = packed(name, &text);
        assert_eq!(read(&whole).unwrap().len(), 400);
        for cut in [whole.len() / 2, whole.len() - 1, 12] {
            let error = refusal(&whole[..cut]);
            assert!(
                error.contains("truncated or corrupt") && error.starts_with("t.xyz"),
                "{name} cut at {cut}: {error}"
            );
        }
        let mut flipped = whole.clone();
        flipped[whole.len() / 2] ^= 0x10;
        assert!(read(&flipped).is_err(), "{name}");
    }
}

#[test]
fn packed_and_plain_are_told_apart_by_content() {
    let directory = tempfile::tempdir().unwrap();
    let plain = directory.path().join("plain.xyz.gz");
    std::fs::write(&plain, WATER).unwrap();
    assert_eq!(Reader::open(&plain).unwrap().count(), 1);
    let packed_as_plain = directory.path().join("packed.xyz");
    std::fs::write(&packed_as_plain, packed("c.zst", WATER)).unwrap();
    assert_eq!(Reader::open(&packed_as_plain).unwrap().count(), 1);
    assert!(refusal(packed("d.gz", "")).contains("empty file"));
}

#[test]
fn missing_files_and_directories_are_named() {
    assert!(Reader::open("no/such.xyz").err().unwrap().to_string().contains("no/such.xyz"));
    assert!(Reader::open("src").err().unwrap().to_string().contains("directory"));
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn damaged_bytes_never_panic(flips in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..8), cut: prop::sample::Index) {
        let text = format!(
            "{WATER}2\nLattice=\"9 0 0 0 9 0 0 0 9\" Properties=species:S:1:pos:R:3:forces:R:3 energy=-1.5D0 a=[1, 2] \
             note=\"x \\\" y\" pbc=\"T T F\"\nH 0 0 0 1 2 3\nH 0 0 0.74 1 2 3\n"
        );
        let mut bytes = text.into_bytes();
        for (at, value) in flips {
            let at = at.index(bytes.len());
            bytes[at] = value;
        }
        bytes.truncate(cut.index(bytes.len() + 1));
        let mut writer = Writer::from_writer("-", std::io::sink());
        let mut reader = reader(&bytes);
        while let Ok(Some(item)) = reader.next_item() {
            match item {
                Item::Frame(frame) => {
                    let _ = (frame.labels(""), frame.charge(), frame.spin_multiplicity(), frame.warnings());
                    writer.write_frame(&frame, None, &Default::default()).unwrap();
                }
                Item::Bad(bad) => writer.write_texts(&raw_texts(&bad.raw)).unwrap(),
            }
        }
        prop_assert!(!reader.recoverable());
    }

    #[test]
    fn random_bytes_never_panic(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
        let _ = read(&bytes);
        let _ = read([b"1\n", &bytes[..], b"\nH 0 0 0\n"].concat());
    }

    #[test]
    fn block_borders_do_not_matter(sizes in prop::collection::vec(1usize..7, 1..60)) {
        struct Trickle { bytes: Cursor<Vec<u8>>, sizes: Vec<usize>, k: usize }
        impl Read for Trickle {
            fn read(&mut self, out: &mut [u8]) -> std::io::Result<usize> {
                self.k += 1;
                let n = self.sizes[self.k % self.sizes.len()].min(out.len());
                self.bytes.read(&mut out[..n])
            }
        }
        let text = format!("{WATER}\n{WATER}").replace('\n', "\r\n");
        let stream = Trickle { bytes: Cursor::new(text.clone().into_bytes()), sizes, k: 0 };
        let got: Vec<Frame> = Reader::from_reader("-", stream).unwrap().collect::<mlff::Result<_>>().unwrap();
        let want = read(&text).unwrap();
        prop_assert_eq!(got.len(), 2);
        for (got, want) in got.iter().zip(&want) {
            prop_assert_eq!((got.index, got.line, got.raw(), &got.structure), (want.index, want.line, want.raw(), &want.structure));
        }
    }
}

#[test]
fn gzip_by_other_tools_reads() {
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    encoder.write_all(WATER.as_bytes()).unwrap();
    assert_eq!(read(encoder.finish().unwrap()).unwrap().len(), 1);
}
