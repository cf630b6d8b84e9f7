//! Files that are odd but clear are read, with a warning where something is passed over; and what is written of them is
//! read again and written again as the same bytes.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::io::{Cursor, Write};
use std::path::Path;

use mlff::Structure;
use mlff::xyz::{ColumnType, Frame, Reader, Texts, WriteOptions};

fn read(bytes: impl AsRef<[u8]>) -> mlff::Result<Vec<Frame>> {
    Reader::from_reader("t.xyz", Cursor::new(bytes.as_ref().to_vec())).unwrap().collect()
}

fn odd(name: &str) -> Vec<Frame> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/xyz-odd").join(name);
    Reader::open(path).unwrap().collect::<mlff::Result<_>>().unwrap_or_else(|e| panic!("{e}"))
}

fn written(frames: &[Frame]) -> String {
    let mut texts = Texts::default();
    frames.iter().for_each(|frame| texts.push_frame(frame, None, &WriteOptions::default()).unwrap());
    String::from_utf8(texts.text().to_vec()).unwrap()
}

/// The text of one frame, which reading and writing again does not change.
#[track_caller]
fn stable(text: impl AsRef<[u8]>) -> String {
    let once = written(&read(text).unwrap());
    assert_eq!(written(&read(&once).unwrap()), once, "writing again changes it");
    once
}

fn water() -> Structure {
    Structure::molecule(vec![8, 1, 1], vec![[0.0, 0.0, 0.119], [0.0, 0.763, -0.477], [0.0, -0.763, -0.477]]).unwrap()
}

#[test]
fn odd_lower_case_properties_are_read() {
    let frames = odd("lower_case_properties.xyz");
    assert_eq!(frames[0].structure, water());
    assert!(written(&frames).starts_with("3\nProperties=species:S:1:pos:R:3 pbc=\"F F F\"\no 0 0 0.119\n"));
}

#[test]
fn odd_element_column_is_read_as_species() {
    let frames = odd("element_column.xyz");
    assert_eq!(frames[0].structure, water());
    assert!(written(&frames).contains("Properties=species:S:1:pos:R:3 "), "as ASE knows it");
    // Beside species it is a column like all others.
    let text = "1\nProperties=species:S:1:pos:R:3:element:S:1 pbc=\"F F F\"\nH 0 0 0 C_3\n";
    assert_eq!(stable(text), text);
}

#[test]
fn odd_column_of_another_type_is_read_as_what_it_is() {
    let frames = odd("column_tags_not_integer.xyz");
    assert_eq!(frames[0].structure, water());
    assert_eq!(frames[0].warnings(), ["column tags:I holds \"1.5\" in line 3: read and written as R"]);
    let text = written(&frames);
    assert!(text.contains("tags:R:1 ") && text.contains("O 0 0 0.119 1.5\n"), "{text}");
    assert_eq!(read(&text).unwrap()[0].warnings(), [""; 0]);
    for (declared, fields, now) in [
        ("I", ["1", "2"], ColumnType::Integer),
        ("I", ["1", "2e0"], ColumnType::Real),
        ("I", ["2147483648", "1"], ColumnType::Real),
        ("I", ["1.5", "x"], ColumnType::String),
        ("R", ["1", "nan"], ColumnType::Real),
        ("R", ["1", "1.5D+01"], ColumnType::Real),
        ("R", ["-", "1"], ColumnType::String),
        ("R", ["1", "e5"], ColumnType::String),
        ("R", [".5", "-.5"], ColumnType::Real),
        ("R", ["1", "."], ColumnType::String),
        ("R", ["1", "1.2.3"], ColumnType::String),
        ("R", ["1", "none"], ColumnType::String),
        ("L", ["T", "yes"], ColumnType::String),
        ("L", ["t", "1"], ColumnType::Logical),
        ("S", ["1", "yes"], ColumnType::String),
    ] {
        for (before, behind) in
            [("", format!(":a:{declared}:1")), (":", String::new()), ("", format!(":w:S:1:a:{declared}:1"))]
        {
            let lead = if before.is_empty() { String::new() } else { format!("a:{declared}:1:") };
            let properties = format!("{lead}species:S:1:pos:R:3{behind}");
            let line = |field: &str| match (before, behind.contains("w:S")) {
                (":", _) => format!("{field} H 0 0 0\n"),
                (_, true) => format!("H 0 0 0 w {field}\n"),
                _ => format!("H 0 0 0 {field}\n"),
            };
            let text = format!("2\nProperties={properties}\n{}{}", line(fields[0]), line(fields[1]));
            let frame = &read(&text).unwrap()[0];
            let column = frame.columns().iter().find(|c| c.name == "a").unwrap();
            assert_eq!(column.kind, now, "{text}");
            let declared = column.kind.letter().to_string() == *declared;
            assert_eq!(frame.warnings().is_empty(), declared, "{text}: {:?}", frame.warnings());
            stable(&text);
        }
    }
    // What ASE takes for false, silently.
    let text = "2\nProperties=species:S:1:pos:R:3:move:L:1 pbc=\"F F F\"\nH 0 0 0 1\nH 0 0 1 .false.\n";
    assert!(stable(text).ends_with("H 0 0 0 T\nH 0 0 1 F\n"));
    let text = "1\nProperties=species:S:1:pos:I:3\nH 0 0 0.5\n";
    assert!(stable(text).contains("pos:R:3"));
}

#[test]
fn odd_labels_that_are_no_numbers_are_named() {
    let text = "2\nProperties=species:S:1:pos:R:3:forces:R:3\nH 0 0 0 1 2 3\nH 0 0 1 1 x 3\n";
    let error = read(text).unwrap()[0].labels("").unwrap_err().to_string();
    assert!(error.contains("frame 0, line 4: forces is not a finite number: \"x\""), "{error}");
}

#[test]
fn odd_mathematica_exponents_are_read() {
    let frames = odd("star_exponent.xyz");
    assert_eq!(frames[0].structure.positions[0], [0.11, 0.02, 7.6e-6]);
    assert!(written(&frames).contains("O\t 0.11\t 0.02\t 7.6e-6\t-0.5\n"), "{}", written(&frames));
    let frame = &read("1\nenergy=-1.5*^1\nH 0 0 0\n").unwrap()[0];
    assert_eq!(frame.labels("").unwrap().energy, Some(-15.0));
}

#[test]
fn odd_gdb9_tails_are_left_out_with_a_warning() {
    let path = "tests/data/xyz-odd/three_molecules_trailing_lines.xyz";
    let frames = odd("three_molecules_trailing_lines.xyz");
    assert_eq!(frames.iter().map(|f| (f.index, f.line)).collect::<Vec<_>>(), [(0, 1), (1, 9), (2, 17)]);
    for frame in &frames {
        assert_eq!(frame.warnings().len(), 1);
        assert!(frame.warnings()[0].contains("as in GDB-9"), "{:?}", frame.warnings());
        assert_eq!(frame.comment(), format!("own {}\t1.0\t2.0\t", frame.index).as_bytes());
    }
    let mut reader = Reader::open(path).unwrap();
    while reader.skip_frame().unwrap() {}
    assert_eq!(reader.frames(), 3);
    // A frame that cannot be used, or is passed over, has its tail left out too.
    let text = std::fs::read_to_string(path).unwrap();
    let mut reader = Reader::from_reader("t", Cursor::new(text.replacen("0.11", "x", 1).into_bytes())).unwrap();
    assert!(matches!(reader.next_item().unwrap(), Some(mlff::xyz::Item::Bad(_))));
    assert!(reader.skip_frame().unwrap());
    assert_eq!(reader.next_frame().unwrap().unwrap().line, 17);
    // Other lines are refused, where they are.
    for (from, to) in [("1600.0\t3700.0\t", "1600.0\t"), ("O\tO", "O"), ("owntail\towntail", "own tail of words")] {
        let error = read(text.replacen(from, to, 1)).unwrap_err().to_string();
        assert!(error.contains("frame 1, line 6: frame header expected"), "{error}");
    }
    assert_eq!(read(written(&frames)).unwrap().len(), 3);
}

/// A stream that says nothing more until what it gave was used: looking ahead in it would wait for ever.
#[test]
fn odd_tails_are_looked_for_only_where_they_may_be() {
    struct Live(Cursor<Vec<u8>>);
    impl std::io::Read for Live {
        fn read(&mut self, out: &mut [u8]) -> std::io::Result<usize> {
            let n = self.0.read(out)?;
            assert!(n > 0, "read beyond the frame");
            Ok(n)
        }
    }
    for text in ["1\n\nH 0 0 0 0.1\n", "1\na\tb\nH 0 0 0\n", "1\na=\t\nH 0 0 0 0.1\n"] {
        let mut reader = Reader::from_reader("-", Live(Cursor::new(text.into()))).unwrap();
        assert!(reader.next_frame().unwrap().is_some());
    }
}

#[test]
fn odd_byte_order_marks_of_joined_files_are_skipped() {
    let frames = odd("two_files_with_bom_joined.xyz");
    assert_eq!(frames.len(), 2);
    assert_eq!(frames[0].structure, frames[1].structure);
    assert_eq!((frames[1].raw()[0], frames[1].line), (b'2', 5));
    let mut reader = Reader::open("tests/data/xyz-odd/two_files_with_bom_joined.xyz").unwrap();
    assert!(reader.skip_frame().unwrap() && reader.skip_frame().unwrap() && !reader.skip_frame().unwrap());
}

#[test]
fn odd_zeros_behind_packed_data_are_skipped() {
    assert_eq!(odd("zero_padded.xyz.gz").len(), 1);
    let text = "1\n\nH 0 0 0\n";
    let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    gzip.write_all(text.as_bytes()).unwrap();
    let mut bzip2 = bzip2::write::BzEncoder::new(Vec::new(), bzip2::Compression::fast());
    bzip2.write_all(text.as_bytes()).unwrap();
    let mut xz = liblzma::write::XzEncoder::new(Vec::new(), 1);
    xz.write_all(text.as_bytes()).unwrap();
    for (name, member) in
        [("gz", gzip.finish().unwrap()), ("bz2", bzip2.finish().unwrap()), ("xz", xz.finish().unwrap())]
    {
        let zeros = vec![0; 10_240];
        for whole in [
            [&member[..], &zeros].concat(),
            [&member[..], &zeros, &member, &zeros[..8]].concat(),
            [&member[..], &member].concat(),
        ] {
            let n = whole.windows(member.len()).filter(|w| *w == member).count();
            assert_eq!(read(&whole).unwrap_or_else(|e| panic!("{name}: {e}")).len(), n, "{name}");
        }
        let error = read([&member[..], &zeros, b"garbage garbage"].concat()).unwrap_err().to_string();
        assert!(error.contains("truncated or corrupt"), "{name}: {error}");
    }
}

#[test]
fn odd_last_line_without_its_end_is_warned_of() {
    let warned = |text: &str| read(text).unwrap().iter().map(|f| f.warnings().len()).collect::<Vec<_>>();
    let whole = "2\n\nH 0 0 0\nH 0 0 0.79\n2\n\nH 0 0 0\nH 0 0 0.7414";
    assert_eq!(warned(whole), [0, 1]);
    assert!(read(whole).unwrap()[1].warnings()[0].contains("may lack digits"));
    for end in ["\n", "\r\n", "\r", " ", "\t"] {
        assert_eq!(warned(&format!("{whole}{end}")), [0, 0], "{end:?}");
    }
    assert_eq!(warned("0\nenergy=1"), [1]);
}

#[test]
fn odd_numbers_in_free_text_are_never_respelled() {
    let once = stable("1\n 1.5D+01\nH 0 0 0\n");
    assert!(once.contains(" comment=\"1.5D+01\" "), "{once}");
    assert!(stable("1\ncomment=1.5D+01 x=1.5D+01\nH 0 0 0\n").contains("comment=1.5D+01 x=\"15.0\""));
    // Found by mutation: a list that is no array is text, which the second writing takes for what it is.
    assert!(stable("1\nb=[[0,2.D0 2 3 ],[3]]\nH 0 0 0\n").contains("b=\"[[0,2.D0 2 3 ],[3]]\""));
    stable("1\n1}\"tress=\"1.D0 2 \\3 4\"\nH 0 0 0\n");
    assert!(stable("1\nc=\"[1.D0, 2]\"\nH 0 0 0\n").contains("c=\"[1.D0, 2]\""));
}

#[test]
fn odd_values_that_name_lattice_are_written_so_that_they_are_read() {
    for text in ["a=[x]yLattice=", "a=b'cProperties=", "a=it'sLattice=5", "b={p}lattice= c=1", "a\\Lattice=1"] {
        let text = format!("1\n{text}\nH 0 0 0\n");
        let frame = &read(&text).unwrap()[0];
        let again = &read(stable(&text)).unwrap()[0];
        for key in frame.keys().filter(|k| !k.contains('\\')) {
            assert_eq!(again.info(&key), frame.info(&key), "{text}");
        }
    }
}

/// Found by mutation: the words around an entry that makes way for results.
#[test]
fn odd_words_are_not_joined_when_what_is_between_them_goes() {
    let frame = &read("1\nLattice=\"9 0 0 0 9 0 0 0 9\" pbc=T T MLFF_energy=1 F\nH 0 0 0\n").unwrap()[0];
    assert_eq!(read(written(std::slice::from_ref(frame))).unwrap()[0].structure, frame.structure);
    stable("1\n18\nH 0 0 0\x0b \n");
}

/// ASE ends with an error where NumPy makes no array of them.
#[test]
fn odd_lists_of_different_lengths_are_text() {
    let once = stable("1\nb=[[1,2],[3]] c=\"_JSON [[1],[]]\" d=[[1,2],[3,4]] e=[[{\"a\": [1]}, 2]]\nH 0 0 0\n");
    assert!(once.contains(r#" b="[[1,2],[3]]" c=" _JSON [[1],[]]" d="_JSON [[1,2],[3,4]]" "#), "{once}");
}

#[test]
fn odd_column_names_are_unescaped_as_they_are_escaped() {
    let name = |text: &str| read(text).unwrap()[0].columns()[2].name.clone();
    let text = "1\nProperties=species:S:1:pos:R:3:a\\b\"c:R:1\nH 0 0 0 5\n";
    assert_eq!(name(text), "a\\b\"c");
    let once = stable(text);
    assert!(once.contains(r#"Properties="species:S:1:pos:R:3:a\\b\"c:R:1""#), "{once}");
    assert_eq!(name(&once), "a\\b\"c");
    assert_eq!(name("1\nProperties='species:S:1:pos:R:3:a\\\\b:R:1'\nH 0 0 0 5\n"), "a\\b");
    let latin1 = written(&read(b"1\nProperties=species:S:1:pos:R:3:\xe9:R:1\nH 0 0 0 5\n").unwrap());
    assert!(latin1.contains(":é:R:1"), "{latin1}");
}

#[test]
fn odd_thin_cell_of_an_ordinary_lattice_is_read() {
    let (thin, short) = (&odd("skewed_equivalent_cell.xyz")[0], &odd("skewed_reduced_cell.xyz")[0]);
    assert_eq!(thin.structure.positions, short.structure.positions);
    assert_eq!(thin.structure.cell.unwrap()[1], [-10000.0, 5.2, 0.0]);
    for (lattice, why) in [
        ("9 0 0 0 9 0 9 9 0", "not independent"),
        ("9 0 0 0 9 0 9 9 1e-9", "not independent"),
        ("9 0 0 3.7 1e-9 0 0 0 9", "not independent"),
    ] {
        let error = read(format!("1\nLattice=\"{lattice}\"\nH 0 0 0\n")).unwrap_err().to_string();
        assert!(error.starts_with("t.xyz: frame 0, line 2: ") && error.contains(why), "{lattice}: {error}");
    }
}

#[test]
fn odd_frames_within_the_limit_are_read() {
    let text = "2\n\nH 0 0 0\nH 0 0 0.74\n";
    let reader = |most: usize| Reader::from_reader("t", Cursor::new(text)).unwrap().with_max_frame(most);
    assert!(reader(64).next_frame().unwrap().is_some(), "two atoms of 32 bytes");
    let error = reader(63).next_frame().unwrap_err().to_string();
    assert!(error.contains("line 4: the frame is larger than 1 atoms") && error.contains("with_max_frame"), "{error}");
    let text = format!("1\n{}\nH 0 0 0\n", "x".repeat(100));
    let reader = |most: usize| Reader::from_reader("t", Cursor::new(text.clone())).unwrap().with_max_frame(most);
    assert!(reader(text.len()).next_frame().unwrap().is_some());
    let mut refusing = reader(text.len() - 1);
    let error = refusing.next_frame().unwrap_err().to_string();
    assert!(error.contains("larger than 110 bytes"), "{error}");
    assert!(!refusing.recoverable());
}
