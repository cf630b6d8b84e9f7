use mlff::cuda::unfused::scratch;
use mlff::cuda::{DenseChoice, DenseShape, Launcher};
use mlff::ops::dense::{
    Activation, DenseArrays, LayerSizes, Linear, activation_dense, activation_dense_vjp, dense, dense_vjp,
};
use mlff::ops::example::Example;
use mlff::ops::example::cases::Results;
use mlff::ops::{Real, Topology};

use crate::bench::{Element, Random, SMALL, check, check_example, device, example, wide};
use crate::host::say;

/// SiLU and its derivative, from the definition.
fn silu(z: f64) -> (f64, f64) {
    let s = 1.0 / (1.0 + (-z).exp());
    (z * s, s * (1.0 + z * (1.0 - s)))
}

#[derive(Debug, Clone, Copy)]
struct Case {
    rows: usize,
    n_in: usize,
    n_out: usize,
    bias: bool,
    activation: Activation,
    /// Activation of the argument, which the CPU op does not have.
    before: Activation,
    /// A second summand, which the CPU op does not have.
    residual: bool,
    save_slope: bool,
    choice: DenseChoice,
}

impl Case {
    fn launcher(&self, launcher: Launcher) -> Launcher {
        let mut launcher = launcher;
        launcher.dense_sizes.wide_from_tiles = if self.choice == DenseChoice::Wide { 0.0 } else { f64::INFINITY };
        launcher.dense_sizes.library_from = 1;
        launcher.has_library = self.choice == DenseChoice::Library;
        launcher
    }

    fn run<T: Element>(&self) {
        let Case { rows, n_in, n_out, .. } = *self;
        let mut random = Random(5);
        let weight = random.array::<T>(n_in * n_out);
        let layer = Linear { weight, bias: self.bias.then(|| random.array::<T>(n_out)), n_in, n_out };
        let x: Vec<T> = random.array(rows * n_in);
        let residual: Vec<T> = if self.residual { random.array(rows * n_out) } else { Vec::new() };
        let grad_y: Vec<T> = random.array(rows * n_out);
        let (start, start_residual): (Vec<T>, Vec<T>) = (random.array(rows * n_in), random.array(rows * n_out));

        // The CPU op between what it does not have. Its arithmetic is T's; what surrounds it is rounded once.
        let t = <T as Real>::of;
        let argument: Vec<T> =
            if self.before == Activation::Silu { x.iter().map(|x| t(silu(x.wide()).0)).collect() } else { x.clone() };
        let mut z = vec![T::zero(); rows * n_out];
        dense(&layer, Activation::Identity, &argument, &mut z, None);
        residual.iter().zip(&mut z).for_each(|(&r, z)| *z += r);
        let active = self.activation == Activation::Silu;
        let y: Vec<f64> = z.iter().map(|z| if active { silu(z.wide()).0 } else { z.wide() }).collect();
        let slope: Vec<f64> = z.iter().map(|z| if active { silu(z.wide()).1 } else { 1.0 }).collect();
        let saved: Vec<f64> = if self.save_slope && active { slope.clone() } else { wide(&z) };
        let mut product = vec![T::zero(); rows * n_in];
        dense_vjp(&layer, self.activation, &z, &grad_y, &mut product);
        let grad_x: Vec<f64> = (0..rows * n_in)
            .map(|k| {
                let factor = if self.before == Activation::Silu { silu(x[k].wide()).1 } else { 1.0 };
                start[k].wide() + factor * product[k].wide()
            })
            .collect();
        let grad_residual: Vec<f64> =
            (0..rows * n_out).map(|k| start_residual[k].wide() + grad_y[k].wide() * slope[k]).collect();

        let mut want: Vec<(&str, &[f64])> = vec![("y", &y), ("y again", &y), ("saved", &saved), ("grad_x", &grad_x)];
        if self.residual {
            want.push(("grad_residual", &grad_residual));
        }
        let [n_rows, n_in_, n_out_] = [rows, n_in, n_out].map(|n| n as u32);
        let shape = DenseShape {
            sizes: LayerSizes { n_rows, n_in: n_in_, n_out: n_out_ },
            before: self.before,
            activation: self.activation,
            save_slope: self.save_slope,
        };
        check::<T>(&format!("{self:?}, {:?}", T::PRECISION), SMALL, &want, |bench| {
            let launcher = self.launcher(bench.launcher::<T>());
            let nan = vec![T::nan(); rows * n_out];
            let (y, saved) = (bench.put(&nan), bench.put(&nan));
            let mut arrays = DenseArrays {
                x: bench.put(&x),
                weight: bench.put(&layer.weight),
                bias: layer.bias.as_ref().map_or(0, |b| bench.put(b)),
                residual: bench.put(&residual),
                y,
                saved,
                ..DenseArrays::default()
            };
            bench.steps(&launcher.dense_steps(&shape, &arrays));
            let first = bench.get::<T>(y, rows * n_out);
            // Nothing saved: the same result.
            arrays.saved = 0;
            bench.steps(&launcher.dense_steps(&shape, &arrays));
            let again = bench.get::<T>(y, rows * n_out);
            // The library makes no product whose argument the identity is to save.
            if self.choice != DenseChoice::Library {
                assert_eq!(again, first);
            }

            let grads = DenseArrays {
                grad_y: bench.put(&grad_y),
                saved: if active { saved } else { 0 },
                grad_x: bench.put(&start),
                grad_residual: if self.residual { bench.put(&start_residual) } else { 0 },
                grad_z: bench.put(&nan),
                ..arrays
            };
            bench.steps(&launcher.dense_vjp_steps(&shape, &grads));
            let mut out =
                vec![first, again, bench.get::<T>(saved, rows * n_out), bench.get::<T>(grads.grad_x, rows * n_in)];
            if self.residual {
                out.push(bench.get::<T>(grads.grad_residual, rows * n_out));
            }
            out
        });
    }
}

/// Whether large products can go to the device's library; on the host they can.
pub fn has_library() -> bool {
    let Some(device) = device() else { return true };
    let loaded = device.lock().unwrap_or_else(|poisoned| poisoned.into_inner()).load_library();
    loaded.map_err(|why| say(&format!("\nSKIPPED: dense by the library: {why}\n"))).is_ok()
}

/// Products by the dense kernels and, in f32, by the library.
pub fn launchers<T: Element>() -> Vec<bool> {
    if T::PRECISION == mlff::Precision::F32 && has_library() { vec![false, true] } else { vec![false] }
}

/// A layer behind SiLU as a chain.
fn activation_case<T: Element>(rows: usize, n_in: usize, n_out: usize) {
    let sizes = LayerSizes { n_rows: rows as u32, n_in: n_in as u32, n_out: n_out as u32 };
    let absent = ["residual", "saved", "grad_residual", "grad_z"];
    let of: Example<LayerSizes> = example(sizes, &Topology::default(), 5, |array| {
        (absent.contains(&array.name) || (array.name == "bias" && rows == 1)).then(Vec::new)
    });
    let numbers = |name: &str| of.numbers::<T>(name);
    let bias = Some(numbers("bias")).filter(|bias| !bias.is_empty());
    let layer = Linear { weight: numbers("weight"), bias, n_in, n_out };
    let (x, mut y, mut grad_x) = (numbers("x"), numbers("y"), numbers("grad_x"));
    activation_dense(&layer, Activation::Silu, &x, &mut y);
    activation_dense_vjp(&layer, Activation::Silu, &x, &numbers("grad_y"), &mut grad_x);
    let want: Results = vec![("y", wide(&y)), ("grad_x", wide(&grad_x))];
    for has_library in launchers::<T>() {
        let name = format!("unfused behind SiLU, {rows} x {n_in} x {n_out}");
        check_example::<T, _>(&name, SMALL, &of, &want, |bench, launcher, a| {
            let launcher = Launcher { has_library, ..launcher.clone() };
            let room = bench.room::<T>(scratch::activation_dense(&sizes));
            bench.steps(&launcher.unfused_activation_dense(&sizes, a, room));
            let room = bench.room::<T>(scratch::activation_dense_vjp(&sizes));
            bench.steps(&launcher.unfused_activation_dense_vjp(&sizes, a, room));
        });
    }
}

#[test]
fn unfused_activation_dense_cuda_matches_cpu() {
    for (rows, n_in, n_out) in [(0, 4, 4), (1, 5, 2), (70, 20, 33)] {
        activation_case::<f32>(rows, n_in, n_out);
        activation_case::<f64>(rows, n_in, n_out);
    }
}

#[test]
fn dense_cuda_matches_cpu() {
    use Activation::{Identity, Silu};
    // (before, activation, residual, saved slope): the layers of a model, then the fused ones.
    let kinds = [
        (Identity, Identity, false, false),
        (Identity, Silu, false, false),
        (Identity, Silu, false, true),
        (Identity, Silu, true, true),
        (Silu, Identity, false, false),
        (Silu, Silu, true, false),
    ];
    let sizes = [(0, 4, 4), (1, 1, 1), (3, 5, 2), (70, 20, 33), (65, 36, 68), (17, 64, 32)];
    let library = has_library();
    for (k, (before, activation, residual, save_slope)) in kinds.into_iter().enumerate() {
        for (rows, n_in, n_out) in sizes {
            for choice in [DenseChoice::Narrow, DenseChoice::Wide] {
                let bias = k % 2 == 0;
                let case = Case { rows, n_in, n_out, bias, activation, before, residual, save_slope, choice };
                case.run::<f32>();
                // The rest of what f64 instantiates is the same text.
                if rows < 70 {
                    case.run::<f64>();
                }
            }
            if library {
                let (bias, choice) = (k % 2 == 0, DenseChoice::Library);
                Case { rows, n_in, n_out, bias, activation, before, residual, save_slope, choice }.run::<f32>();
            }
        }
    }
}
