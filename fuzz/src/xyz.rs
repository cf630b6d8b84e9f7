//! XYZ text: what holds for any bytes, and mutations that keep to the structure of the format.

use std::io::Cursor;

use mlff::model::Outside;
use mlff::xyz::{Frame, Item, Reader, Results, Texts, WriteOptions};

use super::random::Random;

/// What a reader makes of a text.
struct Reading {
    frames: Vec<Frame>,
    refused: usize,
    /// The error that ended it.
    end: Option<String>,
}

fn reader(text: &[u8]) -> Reader {
    Reader::from_reader("x", Cursor::new(text.to_vec())).expect("memory can be read")
}

fn read(text: &[u8]) -> Reading {
    let mut reader = reader(text);
    let mut reading = Reading { frames: Vec::new(), refused: 0, end: None };
    loop {
        match reader.next_item() {
            Ok(None) => return reading,
            Ok(Some(Item::Frame(frame))) => reading.frames.push(frame),
            Ok(Some(Item::Bad(bad))) => {
                reading.refused += 1;
                assert!(!bad.error.to_string().is_empty());
            }
            Err(error) => {
                reading.end = Some(error.to_string());
                return reading;
            }
        }
    }
}

fn write(frames: &[Frame], results: bool, prefix: &str) -> Vec<u8> {
    let options = WriteOptions { key_prefix: prefix.into(), ..WriteOptions::default() };
    let mut texts = Texts::default();
    for frame in frames {
        let forces = vec![[0.25, -1.5, 1e-3]; frame.structure.n_atoms()];
        let stress = frame.structure.volume().map(|_| [[0.5; 3]; 3]);
        let all = Results { energy: -1.25, forces: Some(&forces), stress, outside: Outside::NONE };
        texts.push_frame(frame, results.then_some(&all), &options).expect("one force an atom");
    }
    texts.text().to_vec()
}

fn lossy(text: &[u8]) -> String {
    String::from_utf8_lossy(text).into_owned()
}

/// Panics where bytes are read, passed over or written in a way that breaks a promise: nothing panics; as many frames
/// are passed over as are read; what is written is read again, as the same structures, with its results; and writing it
/// again changes nothing.
pub fn xyz(data: &[u8]) {
    let first = read(data);
    if first.end.is_none() {
        let mut reader = reader(data);
        while reader.skip_frame().expect("what can be read can be passed over") {}
        assert_eq!(reader.frames(), first.frames.len() + first.refused, "frames passed over, and read");
    }
    for frame in &first.frames {
        for key in frame.keys().take(20) {
            let _ = frame.info(&key);
        }
        let _ = (frame.charge(), frame.spin_multiplicity(), frame.labels(""), frame.labels("REF_"), frame.warnings());
        frame.structure.validate().expect("a frame's structure is valid");
    }
    if first.frames.is_empty() {
        return;
    }
    for (results, prefix) in [(false, "MLFF_"), (true, "MLFF_"), (true, "")] {
        let text = write(&first.frames, results, prefix);
        let again = read(&text);
        assert!(again.refused == 0 && again.end.is_none(), "refused: {:?}\n{}", again.end, lossy(&text));
        assert_eq!(again.frames.len(), first.frames.len(), "{}", lossy(&text));
        for (was, is) in first.frames.iter().zip(&again.frames) {
            same_structure(was, is, &text);
            // What may be cut is cut no more, what is no part of the format is gone, and words are words.
            let ours = |w: &&String| {
                ["the last line", "three lines", "column ", "atom lines"].iter().any(|s| w.starts_with(s))
            };
            assert_eq!(is.warnings().iter().find(ours), None, "{}", lossy(&text));
            if results {
                let labels = is.labels(prefix).unwrap_or_else(|e| panic!("{e}\n{}", lossy(&text)));
                assert_eq!(labels.energy, Some(-1.25), "{}", lossy(&text));
                assert_eq!(labels.forces.map(|f| f.len()), Some(is.structure.n_atoms()), "{}", lossy(&text));
            } else {
                keys_are_kept(was, is, &text);
            }
        }
        let twice = write(&again.frames, results, prefix);
        assert!(twice == text, "writing again changes\n{}\nto\n{}", lossy(&text), lossy(&twice));
    }
}

fn same_structure(was: &Frame, is: &Frame, text: &[u8]) {
    let (a, b) = (&was.structure, &is.structure);
    assert_eq!((&a.atomic_numbers, a.pbc, a.cell), (&b.atomic_numbers, b.pbc, b.cell), "{}", lossy(text));
    let bits = |frame: &Frame| frame.structure.positions.as_flattened().iter().map(|x| x.to_bits()).collect::<Vec<_>>();
    assert_eq!(bits(was), bits(is), "{}", lossy(text));
}

fn keys_are_kept(was: &Frame, is: &Frame, text: &[u8]) {
    for key in was.keys().take(20) {
        let ours = key.starts_with("MLFF_") || ["lattice", "pbc", "properties"].contains(&&*key.to_lowercase());
        // Escaped and spelled anew, or read as Latin-1.
        let respelled = !key.is_ascii() || key.contains(['\\', '"', '\'']);
        assert!(ours || respelled || is.info(&key).is_some(), "{key:?} is lost:\n{}", lossy(text));
    }
}

const NUMBERS: [&str; 36] = [
    "0",
    "1",
    "-1",
    "2",
    "3",
    "9",
    "65536",
    "2147483647",
    "2147483648",
    "-2147483648",
    "4294967295",
    "18446744073709551615",
    "9223372036854775807",
    "1e308",
    "-1e308",
    "1e-308",
    "5e-324",
    "1e400",
    "NaN",
    "inf",
    "-Infinity",
    "1.5D+01",
    "7.6*^-6",
    "+1",
    ".5",
    "5.",
    "1e",
    "0x10",
    "1_0",
    "1,5",
    "****",
    "-0.0",
    "0.1",
    "1e16",
    "1.2.3",
    "-",
];

const WORDS: [&str; 58] = [
    "Lattice=\"9 0 0 0 9 0 0 0 9\"",
    "Lattice=\"5 0 0 -10000 5.2 0 5000 0 5.4\"",
    "Lattice=[[9,0,0],[0,9,0],[0,0,9]]",
    "lattice = {9 0 0 0 9 0 0 0 9}",
    "Lattice=",
    "pbc=\"T T F\"",
    "pbc=T T F",
    "pbc=F",
    "pbc=[1, 0, 1]",
    "PBC='t f .true.'",
    "Properties=species:S:1:pos:R:3",
    "Properties=Z:I:1:pos:R:3:forces:R:3",
    "Properties=species:S:1:pos:R:3:MLFF_forces:R:3:extra:S:1",
    "Properties=\"species:S:1:pos:R:3:a\\\\b:R:1\"",
    "properties=pos:R:3:symbols:S:1",
    "properties=element:s:1:pos:r:3:move:l:1:tags:i:1",
    ":R:1",
    ":S:1",
    ":I:3",
    ":L:1",
    "energy=-1.5",
    "MLFF_energy=2",
    "free_energy=3",
    "stress=\"1 2 3 4 5 6\"",
    "virial=[[1,2,3],[4,5,6],[7,8,9]]",
    "stress=\"1.D0 2 3 4 5 6 7 8 9\"",
    "comment=\"1.5D+01\"",
    "note=",
    "note=\"\"",
    "a={1 {2} 3}",
    "b=[[1,2],[3]]",
    "c=\"_JSON {\\\"a\\\": 1}\"",
    "_JSON [1,",
    "d=\"he \\\"said\\\"\"",
    "a=[x]yLattice=",
    "b={p}Properties=",
    "\\",
    "\"",
    "'",
    "{",
    "}",
    "[",
    "]",
    "=",
    "\t",
    "charge=0",
    "spin=1",
    "H",
    "D",
    "17",
    "Xx",
    "T",
    "false",
    "1600.0\t3700.0\t3800.0",
    "O\tO",
    "InChI=1\tInChI=1",
    "\u{e9}\u{fffd}",
    "\u{feff}",
];

const ENDS: [&str; 8] = ["\n", "\r\n", "\r", "\n\n", "\n\r", "", "\0\n", "\u{feff}"];

/// The text with some of its lines, words and characters changed; the same for the same seed.
pub fn mutate(data: &[u8], seed: u64) -> Vec<u8> {
    let mut random = Random(seed);
    let mut lines: Vec<Vec<u8>> = data.split(|&c| c == b'\n').map(<[u8]>::to_vec).collect();
    for _ in 0..1 + random.below(4) {
        mutate_lines(&mut lines, &mut random);
    }
    lines.join(&b'\n')
}

fn mutate_lines(lines: &mut Vec<Vec<u8>>, random: &mut Random) {
    let n = lines.len();
    let k = random.below(n);
    match random.below(12) {
        0 => {
            let line = lines[random.below(n)].clone();
            lines.insert(k, line);
        }
        1 if n > 1 => {
            lines.remove(k);
        }
        2 => lines.swap(k, random.below(n)),
        3 => lines[k] = random.pick(&NUMBERS).as_bytes().to_vec(),
        4 => insert(&mut lines[k], random, &ENDS),
        // The count fits the lines behind it, or nearly.
        5 => lines[k] = n.saturating_sub(k + 2 + random.below(3)).to_string().into_bytes(),
        6 | 7 => mutate_words(&mut lines[k], random),
        8 => insert(&mut lines[k], random, &WORDS),
        9 if !lines[k].is_empty() => {
            let at = random.below(lines[k].len());
            let odd = b"\"'\\[]{}=,: \tdDeE+-.0\0\r\x0b\xff*^";
            lines[k][at] = odd[random.below(odd.len())];
        }
        10 => {
            // A second file behind the first.
            let all = lines.clone();
            lines.extend(all);
            lines.truncate(400);
        }
        _ => {
            lines[k].push(b' ');
            lines[k].extend_from_slice(random.pick(&NUMBERS).as_bytes());
        }
    }
}

fn insert(line: &mut Vec<u8>, random: &mut Random, words: &[&str]) {
    let at = random.below(line.len() + 1);
    line.splice(at..at, random.pick(words).bytes());
}

fn mutate_words(line: &mut Vec<u8>, random: &mut Random) {
    let mut words: Vec<Vec<u8>> = line.split(|&c| c == b' ').map(<[u8]>::to_vec).collect();
    let at = random.below(words.len());
    match random.below(5) {
        0 => words[at] = random.pick(&NUMBERS).as_bytes().to_vec(),
        1 => words[at] = random.pick(&WORDS).as_bytes().to_vec(),
        2 => words.insert(at, random.pick(&WORDS).as_bytes().to_vec()),
        3 => {
            words.remove(at);
        }
        _ => words.swap(at, random.below(at + 1)),
    }
    *line = words.join(&b' ');
}
