//! The side of mlff in `compare_schnetpack.py`, which starts it: reads commands from standard input, one line of JSON
//! each, and answers each with one line of JSON; what failed is answered with `{"error": …}`.
//!
//! A process of its own gives each measurement its own thread pool and its own peak of memory.

#[path = "../src/testing/random.rs"]
mod random;

use std::error::Error;
use std::hint::black_box;
use std::io::{BufRead as _, Write as _};
use std::path::PathBuf;
use std::sync::{Arc, Barrier};
use std::time::Instant;

use mlff::Precision;
use mlff::structure::Vec3;
use mlff::{Evaluation, Want};
use mlff::{Model, Potential, Structure};
use random::Random;
use serde::Deserialize;
use serde_json::{Value, json};

type Outcome<T> = Result<T, Box<dyn Error + Send + Sync>>;

#[derive(Deserialize)]
#[serde(tag = "command", rename_all = "snake_case", deny_unknown_fields)]
enum Command {
    /// Loads a model directory and starts the thread pool. `precision`: f32 or f64.
    Load { model: PathBuf, precision: String, threads: usize },
    /// Reads an XYZ file; `n` asks for that many structures, which are its frames over and over, and `jitter` moves
    /// every atom by up to so much, Å.
    Structures { path: PathBuf, n: Option<usize>, jitter: Option<f64> },
    /// Counts the directed edges of all structures.
    Edges,
    /// Energy, forces and stress of every structure.
    EnergiesForces,
    /// Evaluates all structures at once, `repeats` times and for at least `minimum` seconds.
    Batch { repeats: usize, minimum: f64, stress: bool },
    /// Evaluates the first structure `steps` times, each time with atoms moved by up to `jitter` Å from the file's
    /// positions.
    Step { steps: usize, jitter: f64, stress: bool },
    /// Rate of f32 matrix products, one running on each thread.
    Sgemm,
    /// Peak and present resident memory, kB.
    Memory,
}

#[derive(Default)]
struct Driver {
    potential: Option<Potential>,
    structures: Vec<Structure>,
}

fn main() -> Outcome<()> {
    let mut driver = Driver::default();
    let mut out = std::io::stdout().lock();
    for line in std::io::stdin().lock().lines() {
        let answer = serde_json::from_str(&line?).map_err(Into::into).and_then(|command| driver.run(command));
        let answer = answer.unwrap_or_else(|error| json!({ "error": error.to_string() }));
        writeln!(out, "{answer}")?;
        out.flush()?;
    }
    Ok(())
}

impl Driver {
    fn run(&mut self, command: Command) -> Outcome<Value> {
        match command {
            Command::Load { model, precision, threads } => {
                rayon::ThreadPoolBuilder::new().num_threads(threads).build_global()?;
                let precision = match precision.as_str() {
                    "f32" => Precision::F32,
                    "f64" => Precision::F64,
                    other => return Err(format!("precision is {other}, expected f32 or f64").into()),
                };
                self.potential = Some(Potential::builder(Arc::new(Model::load(model)?)).precision(precision).build()?);
                Ok(json!({}))
            }
            Command::Structures { path, n, jitter } => {
                self.structures = structures(&path, n, jitter.unwrap_or(0.0))?;
                let n_atoms: usize = self.structures.iter().map(Structure::n_atoms).sum();
                Ok(json!({ "n_structures": self.structures.len(), "n_atoms": n_atoms }))
            }
            Command::Edges => {
                let cutoff = self.potential()?.model().config().cutoff;
                let mut n_edges = 0;
                for structure in &self.structures {
                    n_edges += mlff::neighbor_list(structure, cutoff)?.n_edges();
                }
                Ok(json!({ "n_edges": n_edges }))
            }
            Command::EnergiesForces => {
                let mut results = Vec::new();
                for evaluation in self.potential()?.evaluate(&self.structures, Want::ALL) {
                    let Evaluation { energy, forces, stress, .. } = evaluation?;
                    results.push(json!({ "energy": energy, "forces": forces, "stress": stress }));
                }
                Ok(json!({ "results": results }))
            }
            Command::Batch { repeats, minimum, stress } => {
                Ok(json!({ "seconds": self.batch(repeats, minimum, Want::FORCES.with_stress(stress))? }))
            }
            Command::Step { steps, jitter, stress } => {
                let structure = self.structures.first().ok_or("no structure is loaded")?;
                Ok(json!({ "seconds": step(self.potential()?, structure, steps, jitter, stress)? }))
            }
            Command::Sgemm => Ok(json!({ "gflops": sgemm() })),
            Command::Memory => memory(),
        }
    }

    fn potential(&self) -> Outcome<&Potential> {
        self.potential.as_ref().ok_or_else(|| "no model is loaded".into())
    }

    fn batch(&self, repeats: usize, minimum: f64, want: Want) -> Outcome<Vec<f64>> {
        let potential = self.potential()?;
        let mut times = Vec::new();
        let begin = Instant::now();
        while times.len() < repeats || begin.elapsed().as_secs_f64() < minimum {
            let start = Instant::now();
            let results = black_box(potential.evaluate(black_box(&self.structures), want));
            times.push(start.elapsed().as_secs_f64());
            // A structure that is refused costs no time, which would look like speed.
            results.into_iter().collect::<mlff::Result<Vec<_>>>()?;
        }
        Ok(times)
    }
}

/// Seconds of each step of something like molecular dynamics; moving the atoms is not counted.
fn step(potential: &Potential, structure: &Structure, steps: usize, jitter: f64, stress: bool) -> Outcome<Vec<f64>> {
    let mut random = Random(2);
    let mut session = potential.session(structure)?.with_threads(rayon::current_num_threads())?.with_stress(stress);
    let mut positions = structure.positions.clone();
    let mut forces = vec![[0.0; 3]; positions.len()];
    let mut times = Vec::with_capacity(steps);
    for _ in 0..steps {
        for (to, from) in positions.iter_mut().zip(&structure.positions) {
            *to = near(&mut random, *from, jitter);
        }
        let start = Instant::now();
        black_box(session.compute(black_box(&positions), None, &mut forces)?);
        times.push(start.elapsed().as_secs_f64());
    }
    Ok(times)
}

/// Frames of a file, over and over until there are `n`, with atoms moved.
fn structures(path: &PathBuf, n: Option<usize>, jitter: f64) -> Outcome<Vec<Structure>> {
    let mut reader = mlff::xyz::Reader::open(path)?;
    let mut frames = Vec::new();
    while let Some(frame) = reader.next_frame()? {
        frames.push(frame.structure);
    }
    if frames.is_empty() {
        return Err(format!("{} has no frame", path.display()).into());
    }
    let mut random = Random(1);
    let n = n.unwrap_or(frames.len());
    let mut out: Vec<Structure> = frames.iter().cycle().take(n).cloned().collect();
    for position in out.iter_mut().flat_map(|s| &mut s.positions).filter(|_| jitter > 0.0) {
        *position = near(&mut random, *position, jitter);
    }
    Ok(out)
}

/// GFLOP/s of all threads together, each multiplying matrices of its own; the best of some sizes and tries.
fn sgemm() -> f64 {
    const SIZES: [[usize; 3]; 2] = [[768, 768, 768], [1024, 512, 512]];
    let barrier = Barrier::new(rayon::current_num_threads());
    let mut best = 0.0_f64;
    for [m, n, k] in SIZES {
        for _ in 0..3 {
            let rates = rayon::broadcast(|_| {
                let (a, b) = (vec![0.5_f32; m * k], vec![0.25_f32; k * n]);
                let mut out = vec![0.0_f32; m * n];
                multiply([m, n, k], &a, &b, &mut out);
                barrier.wait();
                let begin = Instant::now();
                let mut calls = 0;
                while begin.elapsed().as_secs_f64() < 0.1 {
                    multiply([m, n, k], &a, &b, black_box(&mut out));
                    calls += 1;
                }
                2e-9 * (m * n * k * calls) as f64 / begin.elapsed().as_secs_f64()
            });
            best = best.max(rates.iter().sum());
        }
    }
    best
}

/// `out[m, n] = a[m, k] · b[k, n]`, all by rows.
fn multiply([m, n, k]: [usize; 3], a: &[f32], b: &[f32], out: &mut [f32]) {
    assert_eq!((out.len(), a.len(), b.len()), (m * n, m * k, k * n), "shapes");
    let [n_stride, k_stride] = [n as isize, k as isize];
    // SAFETY: the slices hold exactly m·n, m·k and k·n elements (asserted above), by rows as the strides say; `out` is
    // borrowed mutably, so it overlaps neither `a` nor `b`.
    unsafe {
        gemm::gemm(
            m,
            n,
            k,
            out.as_mut_ptr(),
            1,
            n_stride,
            false,
            a.as_ptr(),
            1,
            k_stride,
            b.as_ptr(),
            1,
            n_stride,
            0.0,
            1.0,
            false,
            false,
            false,
            gemm::Parallelism::None,
        );
    }
}

/// What Linux says of this process.
fn memory() -> Outcome<Value> {
    let status = std::fs::read_to_string("/proc/self/status")?;
    let field = |name: &str| -> Outcome<u64> {
        let line = status.lines().find_map(|line| line.strip_prefix(name)).ok_or("not in /proc/self/status")?;
        Ok(line.trim_start_matches(':').trim().trim_end_matches("kB").trim().parse()?)
    };
    Ok(json!({ "peak": field("VmHWM")?, "resident": field("VmRSS")? }))
}

/// A point with each coordinate within `jitter` of that of `point`.
fn near(random: &mut Random, point: Vec3, jitter: f64) -> Vec3 {
    point.map(|x| x + jitter * (2.0 * random.uniform() - 1.0))
}
