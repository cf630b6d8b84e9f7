//! What the writer writes, and that its files are complete, absent, or resumable.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::io::Cursor;
use std::path::Path;

use mlff::Precision;
use mlff::model::Outside;
use mlff::xyz::{Frame, Reader, Results, Texts, WriteOptions, Writer};
use proptest::prelude::*;

fn read(bytes: impl AsRef<[u8]>) -> Vec<Frame> {
    let reader = Reader::from_reader("t.xyz", Cursor::new(bytes.as_ref().to_vec())).unwrap();
    reader.collect::<mlff::Result<_>>().unwrap_or_else(|e| panic!("{e}"))
}

/// The text of one frame with these results.
fn written(frame: &Frame, results: Option<&Results<'_>>, prefix: &str) -> String {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("out.xyz");
    let mut writer = Writer::create(&path, false).unwrap();
    writer.write_frame(frame, results, &WriteOptions { key_prefix: prefix.into(), ..WriteOptions::default() }).unwrap();
    writer.finish().unwrap();
    std::fs::read_to_string(path).unwrap()
}

/// The text of a refused frame.
fn raw_texts(raw: &[u8]) -> Texts {
    let mut texts = Texts::default();
    texts.push_refused(raw, &WriteOptions::default());
    texts
}

const RESULTS: Results<'static> = Results {
    energy: -2.0,
    forces: Some(&[[1.0, -0.5, 1e-9], [0.1, 0.0, 3e20]]),
    stress: None,
    outside: Outside::NONE,
};

#[test]
fn frame_text_is_carried_through() {
    let text = "2\n b='x y'  Properties=\"id:I:1:species:S:1:pos:R:3\" a = 1\n 7\tH  0 0 0.10 \r\n 8\tH  0 0 0.740\n";
    assert_eq!(
        written(&read(text)[0], Some(&RESULTS), "MLFF_"),
        "2\nb='x y' Properties=id:I:1:species:S:1:pos:R:3:MLFF_forces:R:3 a = 1 pbc=\"F F F\" MLFF_energy=-2.0\n \
         7\tH  0 0 0.10 1.0 -0.5 1e-9\n 8\tH  0 0 0.740 0.1 0.0 3e+20\n"
    );
}

#[test]
fn frame_plain_becomes_extended() {
    let text = "2\nsay \"hi\", bob's \\ water\nH 0 0 0 0.1 a\nH 0 0 1 0.2 b\n";
    assert_eq!(
        written(&read(text)[0], None, "MLFF_"),
        "2\nProperties=species:S:1:pos:R:3:extra:S:2 comment=\"say \\\"hi\\\", bob's \\\\ water\" pbc=\"F F F\"\n\
         H 0 0 0 0.1 a\nH 0 0 1 0.2 b\n"
    );
    let frame = &read(written(&read(text)[0], None, ""))[0];
    assert_eq!(frame.info("comment").as_deref(), Some("say \"hi\", bob's \\ water"));
    let ragged = "2\n\nH 0 0 0\nH 0 0 1 #\n";
    let ragged = &read(ragged)[0];
    assert_eq!(ragged.warnings().len(), 1);
    assert!(written(ragged, None, "").ends_with(":extra:S:1 pbc=\"F F F\"\nH 0 0 0 -\nH 0 0 1 #\n"));
}

#[test]
fn results_of_an_earlier_run_are_replaced() {
    let text = "2\nProperties=species:S:1:MLFF_forces:R:3:pos:R:3:forces:R:3 MLFF_energy=7 energy=5 \
                MLFF_stress=\"1 1 1 1 1 1 1 1 1\" x\nH 9 9 9  0 0 0  4 4 4\nH 9 9 9  0 0 1  4 4 4\n";
    let frame = &read(text)[0];
    let once = written(frame, Some(&RESULTS), "MLFF_");
    assert_eq!(
        once,
        "2\nProperties=species:S:1:pos:R:3:forces:R:3:MLFF_forces:R:3 energy=5 x pbc=\"F F F\" MLFF_energy=-2.0\n\
         H  0 0 0  4 4 4 1.0 -0.5 1e-9\nH  0 0 1  4 4 4 0.1 0.0 3e+20\n"
    );
    assert_eq!(written(&read(&once)[0], Some(&RESULTS), "MLFF_"), once);
    let bare = written(frame, Some(&RESULTS), "");
    assert!(bare.contains(" energy=-2.0 free_energy=-2.0\n") && !bare.contains("energy=5"), "{bare}");
    assert!(bare.contains("MLFF_forces:R:3:pos:R:3:forces:R:3 "), "{bare}");
    assert_eq!(read(&bare)[0].labels("").unwrap().forces.as_deref(), RESULTS.forces);
    let energy_only = Results { forces: None, ..RESULTS };
    let kept = &read(written(frame, Some(&energy_only), ""))[0];
    assert_eq!(kept.labels("").unwrap().forces, None, "labels would pass for results");
}

/// Without a prefix, labels have the names of results.
#[test]
fn labels_never_pass_for_results() {
    let cell = "Lattice=\"9 0 0 0 9 0 0 0 9\"";
    let text = format!(
        "1\nProperties=species:S:1:force:R:3:pos:R:3:forces:R:3 {cell} energy=1 free_energy=2 stress=\"1 0 0 0 1 0 0 0 1\" \
         virial=\"1 0 0 0 1 0 0 0 1\" virials=\"1 1 1 0 0 0\" REF_energy=3\nH 7 7 7 0 0 0 8 8 8\n"
    );
    let frame = &read(text)[0];
    let failed = format!("1\nProperties=species:S:1:pos:R:3 {cell} REF_energy=3\nH 0 0 0\n");
    assert_eq!(written(frame, None, ""), failed);
    assert!(written(frame, None, "MLFF_").contains(" energy=1 free_energy=2 stress="), "they stay beside a prefix");
    let energy = Results { energy: -2.0, forces: None, stress: None, outside: mlff::model::Outside::NONE };
    let got = read(written(frame, Some(&energy), "")).remove(0).labels("").unwrap();
    assert_eq!((got.energy, got.forces, got.stress), (Some(-2.0), None, None));
}

/// A cell that the input has under another name is one that other programs can read, in the output.
#[test]
fn cell_of_another_name_is_written_as_lattice() {
    let frame = &read("1\nunit_cell=\"9 8 7\" x=1\nH 0 0 0\n")[0];
    assert_eq!(
        written(frame, None, "MLFF_"),
        "1\nProperties=species:S:1:pos:R:3 unit_cell=\"9 8 7\" x=1 Lattice=\"9.0 0.0 0.0 0.0 8.0 0.0 0.0 0.0 7.0\" \
         pbc=\"T T T\"\nH 0 0 0\n"
    );
    let again = &read(written(frame, None, "MLFF_"))[0];
    assert_eq!((&again.structure, again.warnings().len()), (&frame.structure, 0));
}

/// What ASE 3.29 misreads is spelled so that it does not; see `normalize.rs`.
#[test]
fn entries_that_ase_misreads_are_respelled() {
    let cell = "Lattice=\"9.0 0.0 0.0 0.0 8.0 0.0 0.0 0.0 7.0\"";
    for (entry, want) in [
        ("lattice=\"9 0 0 0 8 0 0 0 7\"", cell),
        ("Lattice=[[9, 0, 0], [0, 8, 0], [0, 0, 7]]", cell),
        ("Lattice=\"9D0 0 0 0 8 0 0 0 7\"", cell),
        ("Lattice=\"9 0 0 0 8 0 0 0 7\"", "Lattice=\"9 0 0 0 8 0 0 0 7\""),
        ("Lattice=[9, 0, 0, 0, 8, 0, 0, 0, 7]", "Lattice=[9, 0, 0, 0, 8, 0, 0, 0, 7]"),
        ("pbc=F F F", "pbc=\"F F F\""),
        ("PBC=[f, F, 0]", "pbc=\"F F F\""),
        ("pbc=[F, F, F]", "pbc=[F, F, F]"),
        ("note= x=1", "note=\" \" x=1"),
        ("note=\"\" x=1", "note=\" \" x=1"),
        ("smiles=C[C@H]\\C", "smiles=\"C[C@H]\\\\C\""),
        ("smiles=[H]O[H] x=1", "smiles=\"[H]O[H]\" x=1"),
        ("title=bob's", "title=\"bob's\""),
        ("x=1 bob's", "x=1 \"bob's\""),
        ("stress=\"1 2 3 4 5 6\"", "stress=\"1.0 6.0 5.0 6.0 2.0 4.0 5.0 4.0 3.0\""),
        ("virial=[[1,2,3],[2,4,5],[3,5,6]]", "virial=\"1.0 2.0 3.0 2.0 4.0 5.0 3.0 5.0 6.0\""),
        ("a=[[1, 2], [3, 4]]", "a=\"_JSON [[1, 2], [3, 4]]\""),
        ("a=\"_JSON {bad\"", "a=\" _JSON {bad\""),
        ("a=\"_JSON {\\\"b\\\": [1, NaN]}\"", "a=\"_JSON {\\\"b\\\": [1, NaN]}\""),
        ("energy=-1.5D+01", "energy=\"-15.0\""),
        ("name=1D66", "name=1D66"),
        ("'my \"key\"'=[[1]]", "\"my \\\"key\\\"\"=\"_JSON [[1]]\""),
        ("a\\b=1", "\"a\\\\b\"=\"1\""),
        ("a=\"it's\" b='\"' c={1 2} d", "a=\"it's\" b='\"' c={1 2} d"),
    ] {
        let text = written(&read(format!("1\n{entry}\nH 0 0 0\n"))[0], None, "MLFF_");
        let comment = text.lines().nth(1).unwrap();
        let got = comment.strip_prefix("Properties=species:S:1:pos:R:3 ").unwrap();
        let got = if want.starts_with("pbc") { got } else { got.trim_end_matches(" pbc=\"F F F\"") };
        assert_eq!(got, want, "{entry}");
        assert_eq!(written(&read(&text)[0], None, "MLFF_"), text, "writing again changes nothing");
    }
}

#[test]
fn atom_lines_that_ase_misreads_are_respelled() {
    let frame = |text: &str| written(&read(text)[0], None, "");
    assert!(
        frame("2\n\nD 0 0 1.0D0\n8 .5 0 -2.d-01\n")
            .ends_with("Properties=species:S:1:pos:R:3:Z:I:1 pbc=\"F F F\"\nD 0 0 1.0 1\n8 .5 0 -0.2 8\n")
    );
    assert!(frame("1\nProperties=SPECIES:S:1:Pos:R:3\nCd 0 0 1\n").contains("Properties=species:S:1:pos:R:3 "));
    assert!(
        frame("1\nProperties=symbols:I:1:positions:R:3\n8 0 0 1\n")
            .ends_with(":pos:R:3:Z:I:1 pbc=\"F F F\"\n8 0 0 1 8\n")
    );
}

#[test]
fn latin1_text_becomes_utf8() {
    let frame = read(b"1\ncaf\xe9 10 \xc5\nH 0 0 0\n")[0].clone();
    assert_eq!(frame.comment(), b"caf\xe9 10 \xc5");
    assert!(written(&frame, None, "").contains("comment=\"café 10 Å\""));
}

#[test]
fn results_of_wrong_length_are_refused() {
    let frame = &read("1\n\nH 0 0 0\n")[0];
    let mut writer = Writer::from_writer("-", std::io::sink());
    let error = writer.write_frame(frame, Some(&RESULTS), &WriteOptions::default()).unwrap_err();
    assert!(matches!(error, mlff::Error::Shape { .. }));
    assert_eq!(writer.frames(), 0);
}

#[test]
fn prefixes_that_need_quotes_are_refused() {
    for prefix in ["a b", "a=", "\"", "1x", "é", "a:"] {
        assert!(WriteOptions { key_prefix: prefix.into(), ..WriteOptions::default() }.validate().is_err(), "{prefix}");
    }
    for prefix in ["", "MLFF_", "my-model.v2_"] {
        WriteOptions { key_prefix: prefix.into(), ..WriteOptions::default() }.validate().unwrap();
    }
}

#[test]
fn file_is_complete_or_absent() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("out.xyz");
    let listing = || std::fs::read_dir(directory.path()).unwrap().count();
    let mut writer = Writer::create(&path, false).unwrap();
    writer.write_texts(&raw_texts(b"1\n\nH 0 0 0\n")).unwrap();
    assert!(!path.exists());
    assert!(Writer::partial_path(&path).unwrap().unwrap().exists());
    drop(writer);
    assert_eq!(listing(), 0);
    let mut writer = Writer::create(&path, false).unwrap();
    writer.write_texts(&raw_texts(b"1\r\n\r\nH 0 0 0")).unwrap();
    writer.finish().unwrap();
    assert_eq!(std::fs::read(&path).unwrap(), b"1\n\nH 0 0 0\n");
    assert_eq!(listing(), 1);
    assert!(Writer::create(&path, false).err().unwrap().to_string().contains("exists already"));
    drop(Writer::create(&path, true).unwrap());
    assert!(path.exists(), "an interrupted overwrite leaves the old file");
    let missing = directory.path().join("no/out.xyz");
    assert!(Writer::create(missing, false).err().unwrap().to_string().contains("no/out.xyz: "));
    assert!(Writer::create(directory.path(), false).is_err());
}

#[cfg(unix)]
#[test]
fn file_behind_a_link_is_replaced_not_the_link() {
    let directory = tempfile::tempdir().unwrap();
    let (target, link) = (directory.path().join("target.xyz"), directory.path().join("link.xyz"));
    std::fs::write(&target, "old").unwrap();
    std::os::unix::fs::symlink(&target, &link).unwrap();
    Writer::create(&link, true).unwrap().finish().unwrap();
    assert!(link.is_symlink());
    assert_eq!(std::fs::read(&target).unwrap(), b"");
    Writer::create("/dev/null", false).unwrap().finish().unwrap();
}

/// About 2.5 MB in frames of different sizes, so that packed files have several members.
fn long_run() -> Vec<Vec<u8>> {
    (0..110)
        .map(|i| {
            let n = 200 + i * 37 % 1500;
            let atoms: String = (0..n).map(|k| format!("H {}.{} {k}.25 -{i}.125 {}\n", k % 10, k * i, k ^ i)).collect();
            format!("{n}\nframe {i}\n{atoms}").into_bytes()
        })
        .collect()
}

#[test]
fn texts_of_many_frames_are_written_as_single_frames_are() {
    let frames = read(long_run().concat());
    let results = Results { energy: -2.0, ..Results::default() };
    let options = WriteOptions::default();
    let directory = tempfile::tempdir().unwrap();
    for name in ["a.xyz", "a.xyz.gz"] {
        let path = directory.path().join(name);
        let mut writer = Writer::create(&path, false).unwrap();
        frames.iter().for_each(|frame| writer.write_frame(frame, Some(&results), &options).unwrap());
        writer.finish().unwrap();
        let want = std::fs::read(&path).unwrap();
        let mut writer = Writer::create(&path, true).unwrap();
        for some in frames.chunks(7) {
            let mut texts = Texts::default();
            some.iter().for_each(|frame| texts.push_frame(frame, Some(&results), &options).unwrap());
            writer.write_texts(&texts).unwrap();
        }
        assert_eq!(writer.frames(), frames.len());
        writer.finish().unwrap();
        assert!(std::fs::read(&path).unwrap() == want, "{name}");
    }
}

/// In the first frame that is not carried through unread, and nowhere else, however frames are handed over.
#[test]
fn record_is_in_the_first_comment_of_a_file() {
    let frames = read(long_run().concat());
    let results = Results { energy: -2.0, forces: None, stress: None, outside: mlff::model::Outside::NONE };
    let options = WriteOptions::default();
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("a.xyz");
    let mut written = Vec::new();
    for size in [0, 1, 7, 110] {
        let mut writer = Writer::create(&path, true).unwrap();
        writer.record("MLFF_made_by", "mlff 1; x").unwrap();
        writer.write_texts(&raw_texts(b"1\n\nH 0 0 x\n")).unwrap();
        if size == 0 {
            frames.iter().for_each(|frame| writer.write_frame(frame, Some(&results), &options).unwrap());
        } else {
            for some in frames.chunks(size) {
                let mut texts = Texts::default();
                some.iter().for_each(|frame| texts.push_frame(frame, Some(&results), &options).unwrap());
                writer.write_texts(&texts).unwrap();
            }
        }
        writer.finish().unwrap();
        written.push(std::fs::read_to_string(&path).unwrap());
    }
    let lines: Vec<&str> = written[0].lines().collect();
    assert!(lines[4].ends_with(" MLFF_energy=-2.0 MLFF_made_by=\"mlff 1; x\""), "{}", lines[4]);
    assert_eq!(written[0].matches("made_by").count(), 1);
    assert!(written.iter().all(|text| text == &written[0]));
    let frame = read(written[0].split_once("x\n").unwrap().1)[0].clone();
    assert_eq!(frame.made_by(), Some(("MLFF_".into(), "mlff 1; x".into())));
    assert!(Writer::from_writer("-", std::io::sink()).record("a", "\"").is_err());
}

#[test]
fn second_writer_of_a_file_is_refused_while_the_first_lives() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("out.xyz");
    let first = Writer::create(&path, true).unwrap();
    for error in [Writer::create(&path, true).err(), Writer::resume(&path, true).map(|_| ()).err()] {
        assert!(error.unwrap().to_string().contains("another run is writing it"));
    }
    drop(first);
    let (mut first, _) = Writer::resume(&path, true).unwrap();
    first.write_texts(&raw_texts(b"1\n\nH 0 0 0\n")).unwrap();
    assert!(Writer::create(&path, true).is_err());
    drop(first);
    let (second, kept) = Writer::resume(&path, true).unwrap();
    assert_eq!(kept, 1);
    second.finish().unwrap();
    assert_eq!(std::fs::read(&path).unwrap(), b"1\n\nH 0 0 0\n");
}

#[test]
fn single_precision_gets_its_own_digits() {
    let forces = [[0.1_f32, -1.0 / 3.0, 16_777_216.0], [1e-30, 0.0, f32::MAX]].map(|f| f.map(f64::from));
    let stress = Some([[f64::from(0.3_f32); 3]; 3]);
    let frame = &read("2\nLattice=\"9 0 0 0 9 0 0 0 9\"\nH 0 0 0\nH 0 0 1\n")[0];
    let results = Results { energy: -1.0 / 3.0, forces: Some(&forces), stress, ..Results::default() };
    let mut texts = Texts::default();
    let options = WriteOptions { precision: Precision::F32, ..WriteOptions::default() };
    texts.push_frame(frame, Some(&results), &options).unwrap();
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("out.xyz");
    let mut writer = Writer::create(&path, false).unwrap();
    writer.write_texts(&texts).unwrap();
    writer.finish().unwrap();
    let text = std::fs::read_to_string(path).unwrap();
    assert!(text.contains(" 0.1 -0.33333334 16777216"), "{text}");
    assert!(text.contains("MLFF_stress=\"0.3 0.3 0.3 "), "{text}");
    let labels = read(&text)[0].labels("MLFF_").unwrap();
    assert_eq!(labels.energy, Some(-1.0 / 3.0));
    let single = |forces: &[[f64; 3]]| forces.iter().map(|f| f.map(|x| x as f32)).collect::<Vec<_>>();
    assert_eq!(single(&labels.forces.unwrap()), single(&forces));
}

fn write_all(path: &Path, frames: &[Vec<u8>]) -> Vec<u8> {
    let mut writer = Writer::create(path, true).unwrap();
    frames.iter().for_each(|frame| writer.write_texts(&raw_texts(frame)).unwrap());
    writer.finish().unwrap();
    std::fs::read(path).unwrap()
}

#[test]
fn resumed_file_has_the_bytes_of_an_uninterrupted_one() {
    let frames = long_run();
    let directory = tempfile::tempdir().unwrap();
    for (name, cuts) in [("r.xyz", 25), ("r.xyz.gz", 5), ("r.xyz.bz2", 4), ("r.xyz.xz", 3), ("r.xyz.zst", 8)] {
        let path = directory.path().join(name);
        let whole = write_all(&path, &frames);
        std::fs::remove_file(&path).unwrap();
        let partial = Writer::partial_path(&path).unwrap().unwrap();
        let mut most_kept = 0;
        for k in 0..=cuts {
            let cut = if k == cuts { whole.len() } else { (k * 7919 + 13) * whole.len() / (cuts * 7919 + 17) };
            std::fs::write(&partial, &whole[..cut]).unwrap();
            let (mut writer, kept) = Writer::resume(&path, false).unwrap();
            assert!(kept <= frames.len() && writer.frames() == kept);
            most_kept = most_kept.max(if k < cuts { kept } else { 0 });
            // Interrupted once more, after a few frames.
            frames[kept..].iter().take(3).for_each(|frame| writer.write_texts(&raw_texts(frame)).unwrap());
            drop(writer);
            let (mut writer, kept) = Writer::resume(&path, false).unwrap();
            frames[kept..].iter().for_each(|frame| writer.write_texts(&raw_texts(frame)).unwrap());
            writer.finish().unwrap();
            assert!(std::fs::read(&path).unwrap() == whole, "{name} cut at {cut}");
            std::fs::remove_file(&path).unwrap();
        }
        assert!(most_kept > 10, "{name}: {most_kept}");
    }
}

#[test]
fn resumed_number_without_its_last_digits_is_not_kept() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("r.xyz");
    let partial = Writer::partial_path(&path).unwrap().unwrap();
    std::fs::write(&partial, "1\n\nH 0 0 0.5\n1\n\nH 0 0 0.7").unwrap();
    let (writer, kept) = Writer::resume(&path, false).unwrap();
    assert_eq!(kept, 1);
    drop(writer);
    assert_eq!(std::fs::read(&partial).unwrap(), b"1\n\nH 0 0 0.5\n");
    assert!(Writer::resume("-", false).is_err());
}

fn word() -> impl Strategy<Value = String> {
    "[A-Za-z_][A-Za-z0-9_-]{0,7}"
}

fn value() -> impl Strategy<Value = String> {
    prop_oneof![
        "[ -~]{0,12}".prop_map(|text| format!("\"{}\"", text.replace('\\', "\\\\").replace('"', "\\\""))),
        "[!#-&(-<>-Z^-z|~]{1,8}",
        any::<f64>().prop_map(|x| format!("{x:?}")),
        Just(String::new()),
        Just("[1, 2, 3]".to_string()),
        Just("[[1.5, 2], [3, 4]]".to_string()),
    ]
}

prop_compose! {
    fn frame_text()(
        n in 0usize..6,
        entries in prop::collection::vec((word(), value()), 0..5),
        extra in prop::collection::vec(word(), 0..3),
        species_first: bool,
        lattice: bool,
        numbers in prop::collection::vec((1u8..=118, prop::num::f64::NORMAL, prop::num::f64::ANY), 6),
    ) -> (String, Vec<(u8, f64)>) {
        let mut columns = if species_first { "species:S:1:pos:R:3".to_string() } else { "pos:R:3:species:S:1".into() };
        let reserved = |name: &str| ["z", "pos", "species", "numbers", "symbols", "positions", "lattice", "pbc", "properties"]
            .contains(&name.to_ascii_lowercase().as_str());
        let mut names: Vec<&String> = extra.iter().filter(|name| !reserved(name)).collect();
        names.dedup();
        names.truncate(1);
        names.iter().for_each(|name| columns.push_str(&format!(":{name}:R:1")));
        let mut text = format!("{n}\nProperties={columns}");
        if lattice {
            text.push_str(" Lattice=\"9 0 0 0.125 9 0 1e-300 0 9\"");
        }
        for (key, value) in entries.iter().filter(|(key, _)| !reserved(key)) {
            text.push_str(&format!(" {key}={value}"));
        }
        text.push('\n');
        let mut atoms = Vec::new();
        for &(z, x, other) in &numbers[..n] {
            let symbol = mlff::structure::symbol(z).unwrap();
            let position = format!("{x:?} 0.0 -1");
            text.push_str(&if species_first { format!("{symbol} {position}") } else { format!("{position} {symbol}") });
            names.iter().for_each(|_| text.push_str(&format!(" {other:?}")));
            text.push('\n');
            atoms.push((z, x));
        }
        (text, atoms)
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn written_frames_read_back_bit_exact((text, atoms) in frame_text(), energy in prop::num::f64::NORMAL, bare: bool) {
        let frame = &read(&text)[0];
        for (k, (z, x)) in atoms.iter().enumerate() {
            prop_assert_eq!(frame.structure.atomic_numbers[k], *z);
            prop_assert_eq!(frame.structure.positions[k][0].to_bits(), x.to_bits());
        }
        let forces: Vec<[f64; 3]> = atoms.iter().map(|(_, x)| [*x, -x, energy]).collect();
        let prefix = if bare { "" } else { "MLFF_" };
        let stress = frame.structure.volume().map(|_| [[energy; 3]; 3]);
        let out = written(frame, Some(&Results { energy, forces: Some(&forces), stress, ..Results::default() }), prefix);
        let back = &read(&out)[0];
        prop_assert_eq!(&back.structure, &frame.structure);
        let labels = back.labels(prefix).unwrap();
        prop_assert_eq!(labels.energy.map(f64::to_bits), Some(energy.to_bits()));
        prop_assert_eq!(labels.forces, Some(forces));
        prop_assert_eq!(labels.stress, stress);
        for key in frame.keys().filter(|k| !matches!(&**k, "Lattice" | "Properties" | "energy" | "free_energy" | "stress")) {
            let meaning = |f: &Frame| f.info(&key).map(|v| v.trim().trim_start_matches("_JSON ").trim_matches(['[', ']']).to_owned());
            prop_assert_eq!(meaning(back), meaning(frame), "{} in {}", key, out);
        }
    }
}
