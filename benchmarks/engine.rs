//! Time of whole evaluations with the built-in student on one thread: `cargo bench --bench engine`.
//!
//! `batch`: 20 structures of examples/data/trajectory.xyz (408 atoms); `training`: a training step of them; `step`: one
//! molecule, step after step as in dynamics. An item is an atom.

#![allow(clippy::expect_used)] // a benchmark that cannot run should stop

use std::sync::Arc;

use divan::counter::ItemsCount;
use divan::{Bencher, black_box};
use mlff::Want;
use mlff::batch::{PackedBatch, Preparer};
use mlff::engine::adjoint::{FilterKind, Trainable, TrainingBuffers};
use mlff::xyz::{Reader, formula};
use mlff::{EngineKind, Precision};
use mlff::{Model, Potential, Structure};

const PATH: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/examples/data/trajectory.xyz");
const FORCES: Want = Want::FORCES;

fn main() {
    // SAFETY: no other thread runs yet. candle's own threads would compete with the one that is measured.
    unsafe { std::env::set_var("CANDLE_NUM_THREADS", "1") };
    divan::main();
}

/// Every `step`-th frame.
fn frames(step: usize) -> Vec<Structure> {
    let mut reader = Reader::open(PATH).expect("the example trajectory");
    let mut out = Vec::new();
    while let Some(frame) = reader.next_frame().expect("a readable frame") {
        if frame.index % step == 0 {
            out.push(frame.structure);
        }
    }
    out
}

fn potential(engine: EngineKind, precision: Precision) -> Potential {
    let model = Model::load(mlff::model::default_name()).expect("the built-in student");
    Potential::builder(Arc::new(model)).precision(precision).engine(engine).build().expect("a PaiNN")
}

/// What to evaluate a batch with, as it is printed.
struct Case(EngineKind, Precision, Want);

impl std::fmt::Display for Case {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{:?} {:?} {}", self.0, self.1, if self.2.forces { "forces" } else { "energy" })
    }
}

fn cases() -> Vec<Case> {
    let engines = [EngineKind::Adjoint, EngineKind::Autograd];
    let precisions = [Precision::F32, Precision::F64];
    let all = engines.into_iter().flat_map(|e| precisions.map(|p| [Want::ENERGY, FORCES].map(|w| Case(e, p, w))));
    all.flatten().collect()
}

#[divan::bench(args = cases())]
fn batch(bencher: Bencher, &Case(engine, precision, want): &Case) {
    let (potential, structures) = (potential(engine, precision), frames(25));
    let n_atoms: usize = structures.iter().map(Structure::n_atoms).sum();
    let pool = rayon::ThreadPoolBuilder::new().num_threads(1).build().expect("a thread");
    let evaluate = || {
        let results = potential.evaluate(black_box(&structures), want);
        assert!(results.iter().all(Result::is_ok));
        results
    };
    bencher.counter(ItemsCount::new(n_atoms)).bench_local(|| pool.install(evaluate));
}

/// Parts of a training step.
#[derive(Debug)]
enum Part {
    /// Energies and forces.
    Forces,
    /// The gradient of a loss of energies and forces.
    Gradients,
    /// Weights packed, forces, gradients by the names of tensors.
    Step,
}

#[divan::bench(args = [Part::Forces, Part::Gradients, Part::Step])]
fn training(bencher: Bencher, part: &Part) {
    let model = Model::load(mlff::model::default_name()).expect("the built-in student");
    let (structures, mut preparer) = (frames(25), Preparer::new(&model));
    let n_atoms: usize = structures.iter().map(Structure::n_atoms).sum();
    // Packed as the engine packs them.
    let mut batches = vec![PackedBatch::default()];
    for structure in &structures {
        if batches[batches.len() - 1].n_atoms() + structure.n_atoms() > 110 {
            batches.push(PackedBatch::default());
        }
        let last = batches.len() - 1;
        preparer.pack(structure, &mut batches[last]).expect("a molecule");
    }
    let cotangents: Vec<(Vec<f64>, Vec<[f64; 3]>)> = batches
        .iter()
        .map(|b| (vec![0.1; b.n_structures()], (0..b.n_atoms()).map(|i| [0.1, -0.2, f64::sin(i as f64)]).collect()))
        .collect();
    let pack = || Trainable::<f32>::new(model.config(), model.weights(), FilterKind::Auto).expect("a PaiNN");
    let (mut trainable, mut buffers) = (pack(), TrainingBuffers::default());
    let mut sums = trainable.zeros();
    bencher.counter(ItemsCount::new(n_atoms)).bench_local(|| {
        if matches!(part, Part::Step) {
            trainable = pack();
        }
        for (batch, (energies, forces)) in batches.iter_mut().zip(&cotangents) {
            if !matches!(part, Part::Gradients) {
                black_box(trainable.evaluate(batch, &mut buffers).expect("forces"));
            }
            if !matches!(part, Part::Forces) {
                trainable.add_loss_gradients(batch, energies, forces, &mut buffers, &mut sums).expect("gradients");
            }
        }
        if matches!(part, Part::Step) {
            black_box(trainable.tensors(&sums));
            sums.clear();
        }
    });
}

/// A molecule, printed by its formula.
struct Molecule(Structure);

impl std::fmt::Display for Molecule {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} ({} atoms)", formula(&self.0.atomic_numbers), self.0.n_atoms())
    }
}

/// The first frame of each.
fn molecules() -> Vec<Molecule> {
    frames(100).into_iter().map(Molecule).collect()
}

/// Energy and forces by a session, neighbours included: atoms swing by 0.03 Å in each direction, within the neighbour list's skin.
#[divan::bench(args = molecules())]
fn step(bencher: Bencher, Molecule(structure): &Molecule) {
    let session = potential(EngineKind::Adjoint, Precision::F32).session(structure);
    let mut session = session.and_then(|session| session.with_threads(1)).expect("a session");
    let mut forces = vec![[0.0; 3]; structure.n_atoms()];
    let mut positions = structure.positions.clone();
    let mut step = 0.0;
    bencher.counter(ItemsCount::new(structure.n_atoms())).bench_local(|| {
        step += 1.0;
        for (i, (r, r0)) in positions.iter_mut().zip(&structure.positions).enumerate() {
            *r = r0.map(|x| x + 0.03 * f64::sin(step + i as f64));
        }
        session.compute(black_box(&positions), None, &mut forces).expect("an evaluated step")
    });
}
