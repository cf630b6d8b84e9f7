//! The adjoint engine on GPU 0: whole evaluations by the clock on the wall, and every kernel by the device's, for random
//! models of 64 and 128 features and several ways to cut atoms into tiles. `--json FILE` writes the numbers too. Without a
//! GPU it says so and ends well. `--model DIR`, once or several times, compares whole
//! potentials of those models beside the one that ships, on the GPU and on the processor. `--once F` evaluates one batch of 1024 molecules once, for a profiler of kernels;
//! `--compile` compiles for an H100 or H200 where there is none, into the user's cache.

#![allow(clippy::unwrap_used, missing_docs)]

#[path = "../src/testing/random.rs"]
mod random;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Instant;

use mlff::Want;
use mlff::batch::{PackedBatch, Prepared};
use mlff::cuda::cache::{Cache, Target};
use mlff::cuda::nvrtc::Nvrtc;
use mlff::cuda::{Backend, Device, Limits};
use mlff::engine::cuda::{EdgeSource, Plan, Tiling, Tuning, Worker};
use mlff::model::painn::{Painn, PainnLayer};
use mlff::neighbors::NeighborSearch;
use mlff::ops::dense::Linear;
use mlff::ops::radial_basis::RadialBasis;
use mlff::structure::Structure;
use mlff::xyz::Reader;
use mlff::{DeviceKind, EngineKind};
use mlff::{Model, Potential};
use random::Random;

const CUTOFF: f64 = 5.0;

fn linear(r: &mut Random, n_in: usize, n_out: usize, bias: bool) -> Arc<Linear<f32>> {
    let scale = (3.0 / n_in as f64).sqrt();
    Arc::new(Linear {
        weight: (0..n_in * n_out).map(|_| (scale * r.next()) as f32).collect(),
        bias: bias.then(|| (0..n_out).map(|_| (0.1 * r.next()) as f32).collect()),
        n_in,
        n_out,
    })
}

fn painn(f: usize) -> Painn<f32> {
    let mut r = Random(f as u64);
    let n_rbf = 20;
    let width = CUTOFF / (n_rbf - 1) as f64;
    let layer = |r: &mut Random| PainnLayer {
        message: [linear(r, f, f, true), linear(r, f, 3 * f, true)],
        mix: linear(r, f, 2 * f, false),
        update: [linear(r, 2 * f, f, true), linear(r, f, 3 * f, true)],
    };
    Painn {
        n_features: f,
        cutoff: CUTOFF,
        epsilon: 1e-8,
        embedding: (0..4 * f).map(|_| r.next() as f32).collect(),
        radial_basis: RadialBasis::Gaussian {
            centers: (0..n_rbf).map(|k| k as f64 * width).collect(),
            widths: vec![width; n_rbf],
        },
        filters: (0..3).map(|_| linear(&mut r, n_rbf + 1, 3 * f, false)).collect(),
        layers: (0..3).map(|_| layer(&mut r)).collect(),
        n_interactions: 3,
        readout: vec![linear(&mut r, f, f / 2, true), linear(&mut r, f / 2, 1, true)],
    }
}

/// Compact clusters of `n` atoms on a distorted lattice, about 16 neighbours an atom at 20 atoms.
fn molecules(n_molecules: usize, n: usize, edges: bool) -> PackedBatch {
    let mut r = Random(7);
    let mut points: Vec<[f64; 3]> = Vec::new();
    for k in 0..12 * 12 * 12 {
        points.push([k % 12, k / 12 % 12, k / 144].map(|x| f64::from(x) - 5.5));
    }
    let norm = |p: &[f64; 3]| p.iter().map(|x| x * x).sum::<f64>();
    points.sort_by(|a, b| norm(a).total_cmp(&norm(b)));
    let (mut search, mut batch) = (NeighborSearch::new(), PackedBatch::default());
    for _ in 0..n_molecules {
        let positions: Vec<[f64; 3]> = points[..n].iter().map(|p| p.map(|x| 1.9 * x + 0.35 * r.next())).collect();
        let structure = Structure::molecule(vec![6; n], positions.clone()).unwrap();
        let mut prepared = Prepared {
            species: (0..n).map(|_| (2.0 + 2.0 * r.next()).clamp(0.0, 3.0) as u16).collect(),
            references: vec![0.0; n],
            positions,
            ..Prepared::default()
        };
        if edges {
            search.search(&structure, CUTOFF, &mut prepared.edges).unwrap();
        }
        if edges { batch.push(&prepared).unwrap() } else { batch.push_atoms(&prepared).unwrap() }
    }
    batch
}

fn median(mut x: Vec<f64>) -> f64 {
    x.sort_by(f64::total_cmp);
    x[x.len() / 2]
}

/// Seconds of an evaluation by the wall's clock, and of each kernel by the device's, by name.
fn measure(worker: &mut Worker<f32, Device>, batch: &PackedBatch) -> (f64, BTreeMap<String, f64>) {
    let search = EdgeSource::Search;
    let mut evaluate = || {
        let start = Instant::now();
        worker.evaluate(batch, search, Want::FORCES).unwrap();
        start.elapsed().as_secs_f64()
    };
    for _ in 0..3 {
        evaluate();
    }
    let n = (0.15 / evaluate()).clamp(5.0, 500.0) as usize;
    let wall = median((0..n).map(|_| evaluate()).collect());
    let mut kernels = BTreeMap::new();
    let repeats = if batch.n_atoms() > 1000 { 3 } else { 50 };
    worker
        .evaluate_by(batch, search, Want::FORCES, |device, launch| {
            // SAFETY: the launch is the engine's; done again it takes as long.
            let mut time = |n: u32| device.time(|d| (0..n).try_for_each(|_| unsafe { d.launch(launch) }));
            time(1)?;
            *kernels.entry(launch.kernel.clone()).or_insert(0.0) += time(repeats)? / f64::from(repeats);
            Ok(())
        })
        .unwrap();
    (wall, kernels)
}

/// Evaluations of 4000 molecules of 20 atoms on average, from structures to forces.
fn many(model: &str, potential: &Potential, device: &str) -> serde_json::Value {
    // From the root of the repository, where cargo runs it.
    let mut frames = Reader::open("examples/data/trajectory.xyz").unwrap();
    let mut structures = Vec::new();
    while let Some(frame) = frames.next_frame().unwrap() {
        structures.push(frame.structure);
    }
    let structures: Vec<Structure> = structures.iter().cycle().take(4000).cloned().collect();
    let atoms: usize = structures.iter().map(Structure::n_atoms).sum();
    let want = Want::FORCES;
    let time = || {
        let start = Instant::now();
        potential.evaluate(&structures, want).into_iter().for_each(|result| drop(result.unwrap()));
        start.elapsed().as_secs_f64()
    };
    (0..3).for_each(|_| _ = time());
    let seconds = median((0..7).map(|_| time()).collect());
    println!(
        "{model}, {device}: 4000 structures, {atoms} atoms: {:.2} ms, {:.2} M atoms/s",
        1e3 * seconds,
        atoms as f64 / seconds * 1e-6
    );
    serde_json::json!({ "model": model, "device": device, "what": "4000 molecules", "atoms": atoms, "seconds": seconds })
}

/// Steps of a periodic box of water, whose atoms move by some thousandths of an Å; with one or seven, of molecules alone.
fn session(model: &str, potential: &Potential, device: &str, n_waters: usize) -> serde_json::Value {
    let mut r = Random(3);
    let side = (n_waters as f64).cbrt().ceil() as usize;
    let (spacing, water) = (3.105, [[0.0, 0.0, 0.119], [0.0, 0.763, -0.477], [0.0, -0.763, -0.477]]);
    let place = |k: usize| [k % side, k / side % side, k / side / side].map(|x| x as f64 * spacing);
    let mut positions: Vec<[f64; 3]> = Vec::new();
    for origin in (0..n_waters).map(place) {
        // Turned by swaps of axes.
        let turn = (1.5 + 1.5 * r.next()) as usize % 3;
        positions.extend(water.map(|w| std::array::from_fn(|k| origin[k] + w[(k + turn) % 3])));
    }
    let edge = side as f64 * spacing;
    let is_box = n_waters > 7;
    let cell = is_box.then_some([[edge, 0.0, 0.0], [0.0, edge, 0.0], [0.0, 0.0, edge]]);
    let structure = Structure::new([8, 1, 1].repeat(n_waters), positions.clone(), cell, [is_box; 3]).unwrap();
    let mut session = potential.session(&structure).unwrap();
    let mut forces = vec![[0.0; 3]; positions.len()];
    let mut step = |positions: &mut Vec<[f64; 3]>| {
        for x in positions.iter_mut().flatten() {
            *x += 0.002 * r.next();
        }
        let start = Instant::now();
        session.compute(positions, None, &mut forces).unwrap();
        start.elapsed().as_secs_f64()
    };
    let n = if device == "gpu" { (3_000_000 / positions.len()).clamp(20, 1000) } else { 20 };
    (0..5).for_each(|_| _ = step(&mut positions));
    let seconds = median((0..n).map(|_| step(&mut positions)).collect());
    let (atoms, searches) = (positions.len(), session.n_searches());
    println!(
        "{model}, {device}, session of {atoms} atoms: {:.1} µs a step, {:.2} M atoms/s; {searches} searches",
        1e6 * seconds,
        atoms as f64 / seconds * 1e-6
    );
    serde_json::json!({ "model": model, "device": device, "what": "session", "atoms": atoms, "seconds": seconds })
}

const HOPPER: Limits = Limits { multiprocessors: 132, shared_bytes: 227 * 1024, has_clusters: true };

/// Puts everything into the user's cache that a later run on an H100 or H200 compiles.
fn compile_for_hopper(tunings: &[Tuning]) {
    let (compiler, cache) = (Nvrtc::find().unwrap(), Cache::of_user());
    for f in [64, 128] {
        for &tuning in tunings {
            match Plan::new(&painn(f), 1.0, &[0.01; 16], HOPPER, tuning) {
                Ok(plan) => {
                    for source in plan.sources() {
                        cache.get(&compiler, &source, Target::Binary(90)).unwrap();
                    }
                }
                Err(error) => println!("F = {f}, {tuning:?}: {error}"),
            }
        }
    }
}

fn main() {
    let args: Vec<String> = std::env::args().collect();
    let value_of = |flag: &str| args.iter().position(|a| a == flag).and_then(|k| args.get(k + 1)).cloned();
    let compile = args.iter().any(|a| a == "--compile");
    let (json, once) = (value_of("--json"), value_of("--once").and_then(|f| f.parse().ok()));
    let limits = match Device::open(0) {
        _ if compile => HOPPER,
        Ok(device) => {
            println!("{}\n", device.describe().unwrap());
            device.limits()
        }
        Err(error) => return println!("no benchmark without a GPU: {error}"),
    };
    let few =
        |warps, cluster| Tuning { few: Some(Tiling { atoms: 16, warps, blocks: 1, cluster }), ..Tuning::default() };
    let none = Tuning::default();
    let tiling = |atoms, warps, blocks| Tuning { tiling: Some(Tiling { atoms, warps, blocks, cluster: 1 }), ..none };
    let large = [none, Tuning { by_pairs: Some(false), ..none }, tiling(64, 8, 1), tiling(16, 8, 3)];
    let small = [none, few(16, 1), few(4, 4)];
    if compile {
        return compile_for_hopper(&[&large[..], &small].concat());
    }
    if let Some(f) = once {
        // For a profiler of kernels: little else runs.
        let (device, batch) = (Device::open(0).unwrap(), molecules(1024, 20, false));
        let plan = Plan::new(&painn(f), 1.0, &[0.01; 16], limits, none).unwrap();
        let mut worker = Worker::new(Arc::new(plan), device).unwrap();
        worker.evaluate(&batch, EdgeSource::Search, Want::FORCES).unwrap();
        return;
    }
    let mut rows = Vec::new();
    for f in [64, 128] {
        let painn = painn(f);
        for (n_molecules, n) in [(4096, 20), (1, 22), (128, 20)] {
            let batch = molecules(n_molecules, n, false);
            let tunings: &[Tuning] = match n_molecules {
                4096 => &large,
                1 => &small,
                _ => &[none],
            };
            for &tuning in tunings {
                let device = Device::open(0).unwrap();
                let plan = match Plan::new(&painn, 1.0, &[0.01; 16], limits, tuning) {
                    Ok(plan) => Arc::new(plan),
                    Err(error) => {
                        println!("F = {f}, {tuning:?}: {error}\n");
                        continue;
                    }
                };
                let start = Instant::now();
                let mut worker = match Worker::new(plan, device) {
                    Ok(worker) => worker,
                    Err(error) => {
                        println!("F = {f}, {tuning:?}: {error}\n");
                        continue;
                    }
                };
                let compiled = start.elapsed().as_secs_f64();
                let (wall, kernels) = measure(&mut worker, &batch);
                let sum: f64 = kernels.values().sum();
                println!(
                    "F = {f}, {n_molecules} x {n} atoms, {tuning:?}: {:.3} ms, {:.2} M atoms/s; kernels {:.3} ms; ready in {compiled:.2} s",
                    1e3 * wall,
                    batch.n_atoms() as f64 / wall * 1e-6,
                    1e3 * sum
                );
                for (name, seconds) in &kernels {
                    println!("    {name:32} {:10.1} µs", 1e6 * seconds);
                }
                println!();
                rows.push(serde_json::json!({
                    "features": f, "molecules": n_molecules, "atoms": batch.n_atoms(), "tuning": format!("{tuning:?}"),
                    "wall_s": wall, "ready_s": compiled, "kernels_s": kernels,
                }));
            }
        }
    }
    let models = args.iter().enumerate().filter(|(_, a)| *a == "--model").filter_map(|(k, _)| args.get(k + 1));
    for name in std::iter::once("ani2x-painn-64").chain(models.map(String::as_str)) {
        let model = Arc::new(Model::load(name).unwrap());
        let on = |device| Potential::builder(model.clone()).engine(EngineKind::Adjoint).device(device).build().unwrap();
        let start = Instant::now();
        let gpu = on(DeviceKind::Cuda(0));
        println!("{name}: ready in {:.2} s", start.elapsed().as_secs_f64());
        let cpu = on(DeviceKind::Cpu);
        for (potential, device) in [(&gpu, "gpu"), (&cpu, "cpu")] {
            rows.push(many(name, potential, device));
        }
        for n in [1, 7, 333, 3333, 33_333] {
            for (potential, device) in [(&gpu, "gpu"), (&cpu, "cpu")] {
                if device == "gpu" || n <= 3333 {
                    rows.push(session(name, potential, device, n));
                }
            }
        }
        println!();
    }
    if let Some(path) = json {
        std::fs::write(path, serde_json::to_string_pretty(&rows).unwrap()).unwrap();
    }
}
