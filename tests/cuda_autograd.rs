//! Batched autograd on a GPU: each custom operation against the same one on the processor, whole models against the processor
//! and against reference results. Without a GPU the tests skip themselves and say so.

#![cfg(feature = "candle-cuda")]
#![allow(clippy::unwrap_used, clippy::panic, missing_docs)]

mod common;

use std::io::Write;
use std::sync::{Arc, OnceLock};

use candle_core::Tensor;
use common::deviation;
use common::random::{Random, Shape, crystals, molecules, random_model};
use mlff::Want;
use mlff::batch::{PaddedBatch, Preparer};
use mlff::calibration::{CostModel, Pattern, Size};
use mlff::engine::autograd::ops::{Basis, Custom, Dense, EdgeGeometry, Message, Readout, UpdateGate, UpdateInvariants};
use mlff::engine::autograd::{Element, Place, Run};
use mlff::ops::Real;
use mlff::ops::dense::{Activation, Linear};
use mlff::ops::radial_basis::RadialBasis;
use mlff::profile::{Names, Options, measure};
use mlff::{BatchSize, DeviceKind, EngineKind, Precision};
use mlff::{Error, Model, Potential, Structure};
use proptest::prelude::*;
use proptest::strategy::ValueTree;
use proptest::test_runner::TestRunner;

const GPU: DeviceKind = DeviceKind::Cuda(0);

/// Whether there is a GPU; says once why not.
fn gpu() -> bool {
    static THERE: OnceLock<bool> = OnceLock::new();
    *THERE.get_or_init(|| match Place::<f32>::open(GPU) {
        Ok(_) => true,
        Err(Error::Cuda(reason)) => {
            let _ = writeln!(std::io::stderr(), "\nSKIPPED: autograd on the GPU: {reason}\n");
            false
        }
        Err(error) => panic!("{error}"),
    })
}

fn sample<T>(strategy: impl Strategy<Value = T>) -> T {
    strategy.new_tree(&mut TestRunner::deterministic()).unwrap().current()
}

fn model(n_features: usize, bessel: bool) -> Arc<Model> {
    let shape = Shape {
        n_features,
        n_interactions: 3,
        n_rbf: 9,
        bessel,
        shared_filters: false,
        shared_interactions: false,
        epsilon: 1e-2,
    };
    random_model(shape, 7)
}

/// Molecules of several sizes, an isolated atom, a crystal.
fn structures() -> Vec<Structure> {
    let mut structures = sample(prop::collection::vec(molecules(14), 5));
    structures.push(sample(molecules(1)));
    structures.extend(sample(prop::collection::vec(crystals(), 4)));
    structures
}

fn batch(model: &Model) -> PaddedBatch {
    let mut preparer = Preparer::new(model);
    let prepared: Vec<_> = structures().iter().map(|s| preparer.prepare(s).unwrap()).collect();
    PaddedBatch::new(&prepared.iter().collect::<Vec<_>>()).unwrap()
}

fn values(tensor: &Tensor) -> Vec<f64> {
    tensor.flatten_all().unwrap().to_dtype(candle_core::DType::F64).unwrap().to_vec1().unwrap()
}

/// An argument: its shape, and numbers for it.
type Argument = (Vec<usize>, Vec<f64>);

fn random(shape: &[usize], seed: u64) -> Argument {
    let mut random = Random(seed);
    (shape.to_vec(), (0..shape.iter().product()).map(|_| random.next()).collect())
}

/// Applies an operation here and on the GPU, fused and as its chain of elementary kernels; compares its result and the gradient of every argument under one cotangent.
fn compare<T: Element>(
    name: &str,
    f64_arguments: bool,
    arguments: &[Argument],
    apply: impl Fn(&Arc<Run<T>>, &[Tensor]) -> candle_core::Result<Tensor>,
) {
    let limit = if size_of::<T>() == 8 { 1e-12 } else { 2e-5 };
    let run = |device, cost_model: &Arc<CostModel>| {
        let run = Place::<T>::open(device).unwrap().run(batch(&model(20, false)), true, cost_model).unwrap();
        let dtype = if f64_arguments { candle_core::DType::F64 } else { T::DTYPE };
        let tensors: Vec<Tensor> = arguments
            .iter()
            .map(|(shape, numbers)| {
                let tensor = Tensor::from_vec(numbers.clone(), shape.as_slice(), &run.device).unwrap();
                candle_core::Var::from_tensor(&tensor.to_dtype(dtype).unwrap()).unwrap().as_tensor().clone()
            })
            .collect();
        let result = apply(&run, &tensors).unwrap();
        let (_, cotangent) = random(result.dims(), 99);
        let cotangent = Tensor::from_vec(cotangent, result.shape(), &run.device).unwrap();
        let loss = (&result * cotangent.to_dtype(result.dtype()).unwrap()).unwrap().sum_all().unwrap();
        let gradients = loss.backward().unwrap();
        let gradients = tensors.iter().map(|tensor| values(gradients.get(tensor).unwrap()));
        std::iter::once(values(&result)).chain(gradients).collect::<Vec<_>>()
    };
    let want = run(DeviceKind::Cpu, &Arc::default());
    let slow = Pattern::ALL.map(|pattern| (pattern, Size { rows: 1, width: 1 }, 0.5));
    for (variant, cost_model) in [("fused", CostModel::default()), ("unfused", CostModel::new(1.2, slow))] {
        for (k, (got, want)) in run(GPU, &Arc::new(cost_model)).iter().zip(&want).enumerate() {
            let error = deviation(got, want);
            assert!(error <= limit, "{name}, {variant}, {}: array {k} is off by {error:e}", T::DTYPE.as_str());
        }
    }
}

fn linear<T: Element>(n_in: usize, n_out: usize, bias: bool) -> Arc<Linear<T>> {
    let numbers = |n, seed| random(&[n], seed).1.into_iter().map(<T as Real>::of).collect::<Vec<T>>();
    Arc::new(Linear { weight: numbers(n_in * n_out, 5), bias: bias.then(|| numbers(n_out, 6)), n_in, n_out })
}

fn ops<T: Element>() {
    let batch = batch(&model(20, false));
    let (rows, edges, structures, n) = (batch.n_rows(), batch.topology.n_edges(), batch.n_structures(), 20);
    assert!(edges > 0);
    let positions = (vec![rows, 3], batch.positions.concat());
    for epsilon in [0.0, 1e-8] {
        // The VJP is that of zero strain.
        let strain = (vec![structures, 3, 3], vec![0.0; 9 * structures]);
        compare::<T>("edge_geometry", true, &[positions.clone(), strain], |run, x| {
            x[0].apply_op2(&x[1], Custom(EdgeGeometry { run: run.clone(), epsilon }))
        });
    }
    let distances: Argument = (vec![edges], random(&[edges], 1).1.iter().map(|x| 2.2 + 1.8 * x).collect());
    let gaussian = RadialBasis::Gaussian { centers: vec![0.5, 1.5, 2.5], widths: vec![0.5, 0.6, 0.7] };
    for functions in [gaussian, RadialBasis::Bessel { frequencies: vec![0.9, 1.8] }] {
        compare::<T>("radial_basis", false, std::slice::from_ref(&distances), |run, x| {
            x[0].apply_op1(Custom(Basis { functions: functions.clone(), cutoff: 3.5, run: run.clone() }))
        });
    }
    for (activation, bias) in [(Activation::Identity, false), (Activation::Silu, true)] {
        let layer = linear::<T>(n, 33, bias);
        compare::<T>("dense", false, &[random(&[rows, 3, n], 2)], |run, x| {
            let (run, layer, saved) = (run.clone(), layer.clone(), OnceLock::new());
            x[0].apply_op1(Dense { run, layer, activation, saved })
        });
    }
    let filter = linear::<T>(5, 3 * n, true);
    let arguments = [random(&[rows, 6 * n], 3), random(&[edges, 5], 4), random(&[edges, 4], 5)];
    compare::<T>("message", false, &arguments, |run, x| {
        let op = Message { run: run.clone(), n_features: n, filter: filter.clone() };
        x[0].apply_op3(&x[1], &x[2], Custom(op))
    });
    compare::<T>("update_invariants", false, &[random(&[rows, 3, 2 * n], 6)], |run, x| {
        x[0].apply_op1(Custom(UpdateInvariants { n_features: n, epsilon: 1e-2, run: run.clone() }))
    });
    let arguments = [random(&[rows, 3 * n], 7), random(&[rows, 3, 2 * n], 8), random(&[rows, 2 * n], 9)];
    compare::<T>("update_gate", false, &arguments, |run, x| {
        x[0].apply_op3(&x[1], &x[2], Custom(UpdateGate { n_features: n, run: run.clone() }))
    });
    compare::<T>("readout", false, &[random(&[rows, 1], 10)], |run, x| {
        x[0].apply_op1(Custom(Readout { run: run.clone(), energy_scale: -1.7 }))
    });
}

#[test]
fn ops_f32_gpu_matches_cpu() {
    if gpu() {
        ops::<f32>();
    }
}

#[test]
fn ops_f64_gpu_matches_cpu() {
    if gpu() {
        ops::<f64>();
    }
}

#[test]
fn models_gpu_matches_cpu() {
    if !gpu() {
        return;
    }
    let structures = structures();
    for (precision, limit) in [(Precision::F64, 1e-10), (Precision::F32, 2e-4)] {
        for (n_features, bessel) in [(17, false), (64, true), (128, false)] {
            let model = model(n_features, bessel);
            let on = |device| {
                let potential = Potential::builder(model.clone())
                    .precision(precision)
                    .engine(EngineKind::Autograd)
                    .device(device)
                    .build()
                    .unwrap();
                potential.evaluate(&structures, Want::ALL)
            };
            for (got, want) in on(GPU).into_iter().zip(on(DeviceKind::Cpu)) {
                let (got, want) = (got.unwrap(), want.unwrap());
                let flat = |e: &mlff::Evaluation| {
                    let stress = e.stress.iter().flatten().flatten().copied();
                    let forces = e.forces.iter().flatten().flatten().copied();
                    std::iter::once(e.energy).chain(forces).chain(stress).collect::<Vec<_>>()
                };
                let error = deviation(&flat(&got), &flat(&want));
                assert!(error <= limit, "F = {n_features} in {precision:?}: off by {error:e}");
            }
        }
    }
}

#[test]
fn models_gpu_gives_the_same_bits_again() {
    if !gpu() {
        return;
    }
    let structures = structures();
    let potential = Potential::builder(model(64, false)).engine(EngineKind::Autograd).device(GPU).build().unwrap();
    let run = || potential.evaluate(&structures, Want::ALL).into_iter().map(Result::unwrap).collect::<Vec<_>>();
    assert!(run() == run());
}

/// By events on the stream: the parts add up to what a clock outside shows.
#[test]
fn profile_gpu_adds_up() {
    if !gpu() {
        return;
    }
    let options = Options { warmup: 3, repeats: 5, sweep: vec![1, 4], batch: BatchSize::Auto };
    for (model, precision) in [(model(64, false), Precision::F32), (model(20, true), Precision::F64)] {
        let potential =
            Potential::builder(model).precision(precision).engine(EngineKind::Autograd).device(GPU).build().unwrap();
        let names = Names { model: "random".into(), workload: "random".into() };
        let (profile, spans) = measure(&potential, &structures(), &options, names).unwrap();
        let top = profile.components.iter().filter(|c| c.parent.is_none());
        let sum = top.map(|c| c.share).sum::<f64>() + profile.derived.unattributed_share;
        assert!((sum - 1.0).abs() < 1e-9, "{sum}");
        for id in
            ["neighbor_search", "batch", "transfers", "message", "message_vjp", "tensor_operations_vjp", "results"]
        {
            assert!(profile.components.iter().any(|c| c.id == id && c.time.median > 0.0), "{id}");
        }
        assert_eq!((profile.device.kind, profile.run.timer), ("cuda", "cuda_events"));
        // A small workload is mostly launches, which events slow down.
        let outside = profile.run.profiler.sum_over_unprofiled;
        assert!((0.8..2.0).contains(&outside), "{outside}");
        for pair in spans.windows(2) {
            assert_eq!(pair[0].start + pair[0].time, pair[1].start);
        }
    }
}

/// Reference results, all cases alone and in one batch.
#[test]
fn reference_gpu_matches() {
    if !gpu() {
        return;
    }
    for name in ["painn-f128-gaussian", "painn-f64-bessel", "mlff-distiller-student"] {
        for precision in [Precision::F64, Precision::F32] {
            common::expected::check(name, precision, |model| {
                Potential::builder(model.clone())
                    .precision(precision)
                    .engine(EngineKind::Autograd)
                    .device(GPU)
                    .build()
                    .unwrap()
            });
        }
    }
}
