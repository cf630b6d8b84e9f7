//! The adjoint engine on CUDA, its whole list of kernels, against the one on the processor.

use std::sync::Arc;

use mlff::batch::{PackedBatch, Prepared, Preparer};
use mlff::cuda::{Backend, Device, KernelSource, Limits};
use mlff::engine::adjoint::{Adjoint, FilterKind, Threads, Workspace};
use mlff::engine::cuda::{EdgeSource, Plan, Scalar, Tiling, Tuning, Worker};
use mlff::model::Model;
use mlff::model::config::Architecture;
use mlff::model::painn::Painn;
use mlff::neighbors::{NeighborList, NeighborSearch};
use mlff::potential::Potential;
use mlff::structure::Structure;
use mlff::{BatchSize, DeviceKind, EngineKind, Precision};
use mlff::{Evaluation, Want};

use crate::bench::device;
use crate::common::expected::{F32, F64, load};
use crate::common::{Case, cases, reference, root, worst};
use crate::host::{Host, say};

const SMALL: Limits = Limits { multiprocessors: 2, shared_bytes: 99 * 1024, has_clusters: false };

fn plan<T: Scalar>(model: &Model, limits: Limits, tuning: Tuning) -> Arc<Plan<T>> {
    let config = model.config();
    let Architecture::Painn(painn) = &config.architecture else { panic!("a PaiNN") };
    let painn = Painn::<T>::new(config, painn, model.weights()).unwrap();
    let n_species = config.species.len();
    Arc::new(Plan::new(&painn, config.energy_scale, &vec![NEAREST; n_species * n_species], limits, tuning).unwrap())
}

/// Square of the distance below which a pair marks its structure, Å².
const NEAREST: f64 = 0.5;

/// The programs of a model on a device of middling size.
pub fn sources<T: Scalar>() -> Vec<KernelSource> {
    plan::<T>(
        &small_model(),
        Limits { multiprocessors: 108, shared_bytes: 163 * 1024, has_clusters: false },
        Tuning::default(),
    )
    .sources()
}

fn batch(model: &Model, structures: &[Structure]) -> PackedBatch {
    let (mut preparer, mut batch) = (Preparer::new(model), PackedBatch::default());
    for structure in structures {
        batch.push(&preparer.prepare(structure).unwrap()).unwrap();
    }
    batch
}

fn evaluations<T: Scalar, B: Backend>(
    worker: &mut Worker<T, B>,
    batch: &PackedBatch,
    edges: EdgeSource,
    want: Want,
) -> Vec<Evaluation> {
    worker.evaluate(batch, edges, want).unwrap();
    (0..batch.n_structures()).map(|s| worker.results.evaluation(batch, s, want)).collect()
}

/// Largest differences of energies, eV, forces, eV/Å, and stress, eV/Å³.
fn differences(got: &[Evaluation], want: &[Evaluation]) -> [f64; 3] {
    assert_eq!(got.len(), want.len());
    let mut most = [0.0_f64; 3];
    for (got, want) in got.iter().zip(want) {
        let [f, g] = [got, want].map(|e| e.forces.as_ref().unwrap().as_flattened().to_vec());
        let [s, t] = [got, want].map(|e| e.stress.map_or(Vec::new(), |s| s.as_flattened().to_vec()));
        assert_eq!((f.len(), s.len()), (g.len(), t.len()));
        let apart = |a: &[f64], b: &[f64]| {
            // NaN is no small difference.
            a.iter().zip(b).map(|(x, y)| (x - y).abs()).fold(0.0, |m, x| if x <= m { m } else { x })
        };
        let all = [apart(&[got.energy], &[want.energy]), apart(&f, &g), apart(&s, &t)];
        most = std::array::from_fn(|k| if all[k] <= most[k] { most[k] } else { all[k] });
    }
    most
}

fn molecules() -> Vec<Structure> {
    let water =
        Structure::molecule(vec![8, 1, 1], vec![[0.0, 0.0, 0.119], [0.0, 0.763, -0.477], [0.0, -0.763, -0.477]]);
    let lone = Structure::molecule(vec![1], vec![[0.3, 0.0, 0.0]]);
    let methanol = Structure::molecule(
        vec![6, 8, 1, 1, 1, 1],
        vec![
            [-0.047, 0.66, 0.0],
            [-0.047, -0.757, 0.03],
            [-1.092, 0.969, 0.0],
            [0.879, -1.07, 0.0],
            [0.437, 1.07, 0.891],
            [0.437, 1.07, -0.89],
        ],
    );
    [methanol, water, lone].map(Result::unwrap).to_vec()
}

fn box_of_water() -> Structure {
    let mut structure = molecules()[1].clone();
    structure.cell = Some([[4.0, 0.0, 0.0], [0.7, 4.2, 0.0], [0.0, 0.3, 4.1]]);
    structure.pbc = [true; 3];
    structure
}

fn on_the_processor(model: &Model, batch: &PackedBatch) -> Vec<Evaluation> {
    let engine = Adjoint::<f64>::new(model, FilterKind::Basis).unwrap();
    let mut workspace = Workspace::default();
    engine.evaluate(batch, Want::ALL, Threads::One, &mut workspace).unwrap();
    (0..batch.n_structures()).map(|s| workspace.results.evaluation(batch, s, Want::ALL)).collect()
}

fn compare<T: Scalar, B: Backend>(name: &str, model: &Model, worker: &mut Worker<T, B>, limits: [f64; 3]) {
    let search = EdgeSource::Search;
    for (what, structures, edges) in [
        ("molecules, searched", molecules(), search),
        ("molecules", molecules(), EdgeSource::Given),
        ("with a box", [molecules(), vec![box_of_water()]].concat(), EdgeSource::Given),
    ] {
        let batch = batch(model, &structures);
        let want = on_the_processor(model, &batch);
        let got = evaluations(worker, &batch, edges, Want::ALL);
        let apart = differences(&got, &want);
        say(&format!("{name}, {what}: {apart:?}\n"));
        assert!(apart.iter().zip(&limits).all(|(a, b)| a <= b), "{name}, {what}: {apart:?}");
        assert_eq!(got, evaluations(worker, &batch, edges, Want::ALL), "{name}: other bits in the second run");
        assert!(worker.close.iter().all(|close| !close));
    }
}

/// A list with a skin on the device, and the edges of it: the same bits.
fn compare_list<T: Scalar, B: Backend>(name: &str, model: &Model, worker: &mut Worker<T, B>) {
    for structure in [box_of_water(), molecules()[0].clone()] {
        let batch = batch(model, std::slice::from_ref(&structure));
        let want = evaluations(worker, &batch, EdgeSource::Given, Want::ALL);
        let mut list = NeighborList::default();
        NeighborSearch::new().search(&structure, model.config().cutoff + 0.7, &mut list).unwrap();
        assert!(worker.set_list(&list, structure.is_periodic()).unwrap());
        let cell = structure.cell.unwrap_or_default();
        let got = evaluations(worker, &batch, EdgeSource::Listed { cell }, Want::ALL);
        assert_eq!(got, want, "{name}: from a list");
        assert_eq!(worker.close, [false]);
        // Two atoms nearer than what marks a structure.
        let mut near = structure.clone();
        near.positions[0] = near.positions[1].map(|x| x + 0.3);
        evaluations(worker, &self::batch(model, &[near]), EdgeSource::Listed { cell }, Want::ALL);
        assert_eq!(worker.close, [true], "{name}");
        // Of another system.
        let other = self::batch(model, &molecules()[1..]);
        assert!(worker.evaluate(&other, EdgeSource::Listed { cell }, Want::ALL).is_err());
    }
}

fn on_host<T: Scalar>(model: &Model, tuning: Tuning, falling: bool) -> Option<Worker<T, Host>> {
    let plan = plan::<T>(model, SMALL, tuning);
    let mut host =
        Host::with(&plan.sources()).map_err(|why| say(&format!("\nSKIPPED: kernels on the host: {why}\n"))).ok()?;
    host.falling = falling;
    Some(Worker::new(plan, host).unwrap())
}

const SMALL_TILES: Tuning = Tuning {
    tiling: Some(Tiling { atoms: 16, warps: 2, blocks: 1, cluster: 1 }),
    few: None,
    message_threads: None,
    by_pairs: Some(false),
};

/// Pair by pair and edge by edge, whatever the number of molecules: the same bits.
fn compare_ways<T: Scalar, B: Backend>(name: &str, model: &Model, mut worker: impl FnMut(Tuning) -> Worker<T, B>) {
    let batch = batch(model, &molecules());
    let search = EdgeSource::Search;
    let [one, other] = [true, false].map(|by_pairs| {
        let tuning = Tuning { by_pairs: Some(by_pairs), ..SMALL_TILES };
        evaluations(&mut worker(tuning), &batch, search, Want::ALL)
    });
    assert_eq!(one, other, "{name}: pair by pair other bits than edge by edge");
}

/// What would make kernels read beyond their arrays is refused before they run.
#[test]
fn painn_engine_refuses_batches_that_do_not_fit() {
    let model = small_model();
    let Some(mut worker) = on_host::<f32>(&model, SMALL_TILES, false) else { return };
    let good = Preparer::new(&model).prepare(&molecules()[0]).unwrap();
    let mut refused = |prepared: &Prepared, edges: EdgeSource| {
        let mut batch = PackedBatch::default();
        let done = batch.push(prepared).and_then(|()| worker.evaluate(&batch, edges, Want::ALL));
        done.is_err()
    };
    assert!(!refused(&good, EdgeSource::Given) && !refused(&good, EdgeSource::Search));
    let mut bad = vec![good.clone(); 4];
    bad[0].species[1] = 60_000;
    bad[1].positions.pop();
    bad[2].edges.edge_ptr[1] = u32::MAX;
    bad[3].edges.edge_ptr.swap(1, 2);
    for (k, bad) in bad.iter().enumerate() {
        assert!(refused(bad, EdgeSource::Given), "{k}");
        assert!(k > 1 || refused(bad, EdgeSource::Search), "{k}");
    }
    let mut list = NeighborList::default();
    NeighborSearch::new().search(&molecules()[0], 3.0, &mut list).unwrap();
    assert!(worker.set_list(&list, false).unwrap());
    list.senders[0] = 77;
    assert!(worker.set_list(&list, false).is_err());
}

fn small_model() -> Model {
    Model::load(std::path::Path::new("ani2x-painn-64")).unwrap()
}

#[test]
fn painn_engine_matches_cpu() {
    let model = small_model();
    for falling in [false, true] {
        let Some(mut worker) = on_host::<f32>(&model, SMALL_TILES, falling) else { return };
        compare("f32 on the host", &model, &mut worker, F32);
        compare_list("f32 on the host", &model, &mut worker);
        compare_ways("f32 on the host", &model, |tuning| on_host::<f32>(&model, tuning, falling).unwrap());
    }
    // Blocks that share a tile.
    let cluster = Tiling { atoms: 16, warps: 2, blocks: 1, cluster: 2 };
    let tuning = Tuning { tiling: Some(cluster), ..SMALL_TILES };
    for falling in [false, true] {
        let Some(mut worker) = on_host::<f32>(&model, tuning, falling) else { return };
        compare("f32 on the host, in clusters", &model, &mut worker, F32);
    }
    if let Some(mut worker) = on_host::<f64>(&model, SMALL_TILES, false) {
        compare("f64 on the host", &model, &mut worker, F64);
        compare_ways("f64 on the host", &model, |tuning| on_host::<f64>(&model, tuning, false).unwrap());
    }
}

/// Reference cases of a model, the smallest ones where not all are to be run.
fn reference_cases(name: &str, n: usize) -> (Arc<Model>, Vec<Case>) {
    let folder = reference(name).unwrap();
    let mut cases = cases(&folder);
    cases.sort_by_key(|case| case.symbols.len());
    cases.truncate(n);
    (load(&folder), cases)
}

/// The whole engine against SchNetPack's results.
fn hold<T: Scalar, B: Backend>(name: &str, model: &Model, cases: &[Case], worker: &mut Worker<T, B>) {
    let limits = if T::PRECISION == Precision::F64 { F64 } else { F32 };
    let structures: Vec<Structure> = cases.iter().map(Case::structure).collect();
    let got = evaluations(worker, &batch(model, &structures), EdgeSource::Given, Want::ALL);
    let mut beyond = Vec::new();
    for (case, got) in cases.iter().zip(got) {
        // In f64 the limit scales with the energy, in f32 it is absolute.
        let scale = if T::PRECISION == Precision::F64 { case.energy.abs().max(1.0) } else { 1.0 };
        let energy = (got.energy - case.energy).abs() / scale;
        let forces = worst(got.forces.as_ref().unwrap().as_flattened(), case.forces.as_flattened());
        let stress = match (&got.stress, &case.stress) {
            (Some(got), Some(want)) => worst(got.as_flattened(), want.as_flattened()),
            _ => 0.0,
        };
        let off = [energy, forces, stress];
        let figures = off.map(|x| format!("{x:.1e}")).join(", ");
        let what = format!("{name} {:?}, {}: off by {figures}", T::PRECISION, case.symbols.concat());
        say(&format!("{what}\n"));
        // NaN is beyond every limit.
        if !off.iter().zip(&limits).all(|(off, limit)| off <= limit) {
            beyond.push(what);
        }
    }
    assert!(beyond.is_empty(), "{beyond:#?}");
}

#[test]
fn painn_engine_on_host_matches_schnetpack() {
    // Both kinds of radial functions; the smallest cases, as the host is slow.
    for (name, n) in [("painn-f64-bessel", 9), ("painn-f128-gaussian", 3)] {
        let (model, cases) = reference_cases(name, n);
        let Some(mut worker) = on_host::<f32>(&model, SMALL_TILES, false) else { return };
        hold(name, &model, &cases, &mut worker);
    }
}

fn on_device<T: Scalar>(model: &Model, tuning: Tuning) -> Worker<T, Device> {
    let device = Device::open(0).unwrap();
    Worker::new(plan::<T>(model, device.limits(), tuning), device).unwrap()
}

#[test]
fn cuda_painn_engine_matches_cpu() {
    if device().is_none() {
        return;
    }
    let model = small_model();
    for tuning in [Tuning::default(), SMALL_TILES] {
        compare("f32 on the device", &model, &mut on_device::<f32>(&model, tuning), F32);
    }
    compare_list("f32 on the device", &model, &mut on_device::<f32>(&model, Tuning::default()));
    compare_ways("f32 on the device", &model, |tuning| on_device::<f32>(&model, tuning));
    compare("f64 on the device", &model, &mut on_device::<f64>(&model, Tuning::default()), F64);
    compare_ways("f64 on the device", &model, |tuning| on_device::<f64>(&model, tuning));
}

#[test]
fn cuda_painn_engine_matches_schnetpack() {
    if device().is_none() {
        return;
    }
    for name in ["painn-f64-bessel", "painn-f128-gaussian"] {
        let (model, cases) = reference_cases(name, usize::MAX);
        hold(name, &model, &cases, &mut on_device::<f32>(&model, Tuning::default()));
        hold(name, &model, &cases, &mut on_device::<f64>(&model, Tuning::default()));
    }
}

/// Whole potentials: batches of many molecules, sessions, structures that cannot be evaluated, the same bits for any batch.
#[test]
fn cuda_painn_potential_matches_cpu() {
    if device().is_none() {
        return;
    }
    let model = Arc::new(small_model());
    let on = |device| Potential::builder(model.clone()).engine(EngineKind::Adjoint).device(device).build().unwrap();
    let (gpu, cpu) = (on(DeviceKind::Cuda(0)), on(DeviceKind::Cpu));
    let mut frames = mlff::xyz::Reader::open(root().join("examples/data/trajectory.xyz")).unwrap();
    let mut structures = Vec::new();
    while let Some(frame) = frames.next_frame().unwrap() {
        structures.push(frame.structure);
    }
    // Atoms on top of each other, an element that is not known, and a box, among molecules.
    let mut twice = structures[3].clone();
    twice.positions[1] = twice.positions[0];
    structures.insert(7, twice);
    structures.insert(9, Structure::molecule(vec![79], vec![[0.0; 3]]).unwrap());
    structures.insert(11, box_of_water());
    let (got, want) = (gpu.evaluate(&structures, Want::ALL), cpu.evaluate(&structures, Want::ALL));
    for (k, (got, want)) in got.iter().zip(&want).enumerate() {
        match (got, want) {
            (Ok(got), Ok(want)) => {
                let apart = differences(std::slice::from_ref(got), std::slice::from_ref(want));
                // Two f32 engines, each within its limit of the truth.
                assert!(apart.iter().zip(&F32).all(|(a, b)| *a <= 2.0 * b), "structure {k}: {apart:?}");
                assert_eq!(got.outside, want.outside, "structure {k}");
            }
            (Err(got), Err(want)) => assert_eq!(got.to_string(), want.to_string(), "structure {k}"),
            _ => panic!("structure {k}: {got:?} on the GPU, {want:?} on the processor"),
        }
    }
    assert!(got[7].is_err() && got[9].is_err() && got[11].is_ok());
    let alone = gpu.clone().with_batch_size(BatchSize::Structures(3));
    for (k, (one, other)) in alone.evaluate(&structures, Want::ALL).iter().zip(&got).enumerate() {
        assert_eq!(one.as_ref().ok(), other.as_ref().ok(), "structure {k}: other bits in another batch");
    }
    for structure in [&structures[0], &structures[11]] {
        let mut session = gpu.session(structure).unwrap().with_stress(true);
        let (mut moved, mut forces) = (structure.clone(), vec![[0.0; 3]; structure.n_atoms()]);
        for step in 0..40 {
            let energy = session.compute(&moved.positions, None, &mut forces).unwrap();
            let want = gpu.evaluate_one(&moved, Want::ALL).unwrap();
            assert_eq!((energy, Some(&forces)), (want.energy, want.forces.as_ref()), "step {step}");
            assert_eq!((session.stress(), session.outside()), (want.stress, want.outside), "step {step}");
            for (k, x) in moved.positions.iter_mut().flatten().enumerate() {
                *x += 0.01 * ((k * 7 + step * 13) % 11) as f64 / 11.0;
            }
        }
        assert!(session.n_searches() > 1);
    }
}
