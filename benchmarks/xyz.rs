//! Speed of the XYZ reader and writer, MB/s of text on one core.
//!
//! `cargo bench --bench xyz` generates a file in the temporary directory and prints the best of three passes;
//! `cargo bench --bench xyz -- FILE` measures reading of that file.

#[path = "../src/testing/random.rs"]
mod random;

use std::io::Write as _;
use std::path::Path;
use std::time::Instant;

use mlff::xyz::{Reader, Results, WriteOptions, Writer};
use random::Random;

fn main() -> mlff::Result<()> {
    let given = std::env::args().skip(1).find(|a| !a.starts_with("--"));
    if let Some(path) = given {
        return measure(Path::new(&path), "given");
    }
    let directory = tempfile::tempdir().map_err(|e| mlff::Error::io(std::env::temp_dir(), e))?;
    for (name, n_atoms, with_forces) in [
        ("positions, 1000 atoms", 1000, false),
        ("positions + forces, 1000 atoms", 1000, true),
        ("positions + forces, 20 atoms", 20, true),
    ] {
        let path = directory.path().join("bench.extxyz");
        generate(&path, n_atoms, with_forces).map_err(|e| mlff::Error::io(&path, e))?;
        measure(&path, name)?;
    }
    Ok(())
}

/// Writes about 120 MB, as ASE formats it.
fn generate(path: &Path, n_atoms: usize, with_forces: bool) -> std::io::Result<()> {
    let mut file = std::io::BufWriter::new(std::fs::File::create(path)?);
    let mut generator = Random(1);
    let mut random = || generator.uniform();
    let columns = if with_forces { ":forces:R:3" } else { "" };
    let bytes_per_atom = if with_forces { 107 } else { 58 };
    for _ in 0..120_000_000 / (bytes_per_atom * n_atoms) {
        writeln!(file, "{n_atoms}")?;
        writeln!(
            file,
            "Lattice=\"30.0 0.0 0.0 0.0 30.0 0.0 0.0 0.0 30.0\" Properties=species:S:1:pos:R:3{columns} \
             energy={:.8} pbc=\"T T T\"",
            -random() * 1e4
        )?;
        for _ in 0..n_atoms {
            let species = ["H", "C", "N", "O"][(random() * 4.0) as usize];
            write!(file, "{species:<2}")?;
            for _ in 0..3 {
                write!(file, " {:>16.8}", random() * 30.0)?;
            }
            for _ in 0..if with_forces { 3 } else { 0 } {
                write!(file, " {:>15.8}", random() * 4.0 - 2.0)?;
            }
            writeln!(file)?;
        }
    }
    file.flush()
}

fn measure(path: &Path, name: &str) -> mlff::Result<()> {
    let size = std::fs::metadata(path).map_err(|e| mlff::Error::io(path, e))?.len() as f64 / 1e6;
    println!("{name}: {size:.0} MB");
    pass("read", size, || {
        let mut reader = Reader::open(path)?;
        let mut n_atoms = 0;
        while let Some(frame) = reader.next_frame()? {
            n_atoms += frame.structure.n_atoms();
        }
        Ok(n_atoms)
    })?;
    pass("read with labels", size, || {
        let mut reader = Reader::open(path)?;
        let mut n_atoms = 0;
        while let Some(frame) = reader.next_frame()? {
            n_atoms += frame.labels("")?.forces.map_or(1, |f| f.len());
        }
        Ok(n_atoms)
    })?;
    pass("skip", size, || {
        let mut reader = Reader::open(path)?;
        while reader.skip_frame()? {}
        Ok(reader.frames())
    })?;
    // Formatting alone: frames are read before, and the text goes nowhere.
    let frames: Vec<_> = Reader::open(path)?.take(200).collect::<mlff::Result<_>>()?;
    let options = WriteOptions::default();
    let repeats = (1e8 / frames.iter().map(|f| f.raw().len() as f64).sum::<f64>()).ceil() as usize;
    let mut written = 0.0;
    let start = Instant::now();
    let counter = Counter::default();
    let mut writer = Writer::from_writer("-", counter.clone());
    for _ in 0..repeats {
        for frame in &frames {
            let forces = &frame.structure.positions;
            let results = Results { energy: -1.2345678901234, forces: Some(forces), ..Results::default() };
            writer.write_frame(frame, Some(&results), &options)?;
        }
    }
    writer.finish()?;
    written += counter.0.load(std::sync::atomic::Ordering::Relaxed) as f64 / 1e6;
    println!("  {:<18} {:>8.0} MB/s of output", "write", written / start.elapsed().as_secs_f64());
    Ok(())
}

fn pass(name: &str, size: f64, run: impl Fn() -> mlff::Result<usize>) -> mlff::Result<()> {
    let mut best = f64::INFINITY;
    for _ in 0..3 {
        let start = Instant::now();
        std::hint::black_box(run()?);
        best = best.min(start.elapsed().as_secs_f64());
    }
    println!("  {name:<18} {:>8.0} MB/s", size / best);
    Ok(())
}

#[derive(Clone, Default)]
struct Counter(std::sync::Arc<std::sync::atomic::AtomicUsize>);

impl std::io::Write for Counter {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.fetch_add(bytes.len(), std::sync::atomic::Ordering::Relaxed);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}
