//! Every CUDA kernel on GPU 0, and the chains of elementary kernels beside those that fuse them, by the device's clock: time,
//! bytes/s and FLOP/s beside what a copy and a large matrix product reach in the same run. Prints a table; `--json FILE` writes the numbers too. Without a GPU it says so and ends well.
//!
//! Bytes are those that must pass between memory and chip at least once, of a chain those of the fused kernel; operations are counted from the formulas (an
//! exponential, root or division as one).

#![allow(clippy::unwrap_used, missing_docs)]

#[path = "cuda/workload.rs"]
mod workload;

use mlff::Precision;
use mlff::Result;
use mlff::cuda::unfused::scratch;
use mlff::cuda::{
    Address, Backend, DenseArrays, DenseChoice, DenseShape, DenseVjpArrays, Device, EdgeGeometryArrays,
    EdgeGeometryVjpArrays, EdgeList, GateArrays, Launcher, MessageArrays, MessageGradArrays, MessageShape,
    RadialBasisArrays, Step,
};
use mlff::ops::dense::Activation;
use workload::{CUTOFF, N_RBF, Workload};

const SAMPLES: usize = 7;
/// Seconds that a sample takes at least.
const SAMPLE: f64 = 0.01;

struct Row {
    name: String,
    seconds: f64,
    bytes: f64,
    flops: f64,
}

struct Bench {
    device: Device,
    launcher: Launcher,
    rows: Vec<Row>,
}

impl Bench {
    /// An array of `n` elements of f32, small numbers.
    fn put(&mut self, n: usize) -> Address {
        let values: Vec<f32> = (0..n).map(|k| (k * 7919 % 2003) as f32 / 2003.0 - 0.5).collect();
        self.put_all(&values)
    }

    fn put_all<T: bytemuck::Pod>(&mut self, values: &[T]) -> Address {
        self.device.upload(bytemuck::cast_slice(values)).unwrap()
    }

    fn free(&mut self, addresses: &[Address]) {
        // SAFETY: arrays of `put`, each freed once, after the work that used them.
        addresses.iter().for_each(|&address| unsafe { self.device.free(address) }.unwrap());
    }

    /// Median seconds of one round of `work`, queued so often that launching does not count.
    fn time(&mut self, mut work: impl FnMut(&mut Device) -> Result<()>) -> f64 {
        let mut round = |device: &mut Device, repeats: u32| {
            device.time(|device| (0..repeats).try_for_each(|_| work(device))).unwrap() / f64::from(repeats)
        };
        round(&mut self.device, 2);
        let repeats = (SAMPLE / round(&mut self.device, 3)).clamp(1.0, 10_000.0) as u32;
        let mut samples: Vec<f64> = (0..SAMPLES).map(|_| round(&mut self.device, repeats)).collect();
        samples.sort_by(f64::total_cmp);
        samples[SAMPLES / 2]
    }

    fn steps(&mut self, name: &str, bytes: f64, flops: f64, steps: &[Step]) {
        // SAFETY: arrays are made with the shapes that the kernels document.
        let seconds = self.time(|device| steps.iter().try_for_each(|step| unsafe { device.step(step) }));
        self.rows.push(Row { name: name.into(), seconds, bytes, flops });
        eprintln!("{name}: {:.2} µs", 1e6 * seconds);
    }

    fn copy(&mut self) {
        let n = 512 << 20;
        let (from, to) = (self.put_all(&vec![0_u8; n]), self.put_all(&vec![0_u8; n]));
        // SAFETY: two arrays of `n` bytes.
        let seconds = self.time(|device| unsafe { device.copy(from, to, n) });
        self.rows.push(Row { name: "copy".into(), seconds, bytes: 2.0 * n as f64, flops: 0.0 });
        self.free(&[from, to]);
    }

    /// A dense layer each way that there is; `kind` names what is fused.
    fn dense(&mut self, kind: &str, [n_rows, n_in, n_out]: [usize; 3], before: Activation, residual: bool) {
        let activation =
            if before == Activation::Silu || kind == "linear" { Activation::Identity } else { Activation::Silu };
        let shape = DenseShape {
            n_rows: n_rows as u32,
            n_in: n_in as u32,
            n_out: n_out as u32,
            before,
            activation,
            save_slope: true,
        };
        let x = self.put(n_rows * n_in);
        let (weight, bias) = (self.put(n_in * n_out), self.put(n_out));
        let outputs: Vec<Address> = (0..5).map(|_| self.put(n_rows * n_out)).collect();
        let grad_x = self.put(n_rows * n_in);
        let silu = activation == Activation::Silu;
        let residual_in = if residual { outputs[0] } else { 0 };
        let saved = if silu { outputs[2] } else { 0 };
        let arrays = DenseArrays { x, weight, bias, residual: residual_in, y: outputs[1], saved: 0 };
        let grads = DenseVjpArrays { grad_y: outputs[3], saved, weight, x, grad_x, grad_residual: 0 };
        let flops = 2.0 * (n_rows * n_in) as f64 * n_out as f64;
        let wide = |n: usize| 4.0 * n as f64;
        let [ins, outs, weights] = [n_rows * n_in, n_rows * n_out, n_in * n_out].map(wide);
        for choice in [DenseChoice::Narrow, DenseChoice::Wide, DenseChoice::Library] {
            let mut launcher = self.launcher.clone();
            launcher.dense_sizes.wide_from_tiles = if choice == DenseChoice::Narrow { f64::INFINITY } else { 0.0 };
            launcher.dense_sizes.library_from = if choice == DenseChoice::Library { 1 } else { u64::MAX };
            if choice == DenseChoice::Library && !launcher.dense_uses_library(&shape) {
                continue;
            }
            let name = format!("{kind} {n_rows}x{n_in}x{n_out} {choice:?}").to_lowercase();
            let bytes = ins + weights + outs * (1.0 + f64::from(u8::from(residual)));
            self.steps(&name, bytes, flops, &launcher.dense_steps(&shape, &arrays));
            let bytes = 2.0 * ins + weights + outs * (1.0 + f64::from(u8::from(silu)));
            let steps = launcher.dense_vjp_steps(&shape, &grads, outputs[4]);
            self.steps(&format!("{name} vjp"), bytes, flops, &steps);
        }
        self.free(&[x, weight, bias, grad_x]);
        self.free(&outputs);
    }

    fn edges(&mut self, w: &Workload) {
        let (n, n_atoms, k) = (w.n_edges(), w.n_atoms(), N_RBF + 1);
        let (edges, atoms) = (n as f64, n_atoms as f64);
        let [receivers, senders, edge_ptr, reverse_edge] =
            [&w.receivers, &w.senders, &w.edge_ptr, &w.reverse_edge].map(|array| self.put_all(array));
        let positions = self.put_all(&w.positions);
        let (grad_positions, virials) =
            (self.put_all(&vec![0.0_f64; 3 * n_atoms]), self.put_all(&vec![0.0_f64; 9 * n_atoms]));
        let (geometry, grad_geometry) = (self.put(4 * n), self.put(4 * n));
        let launcher = self.launcher.clone();
        let forward = EdgeGeometryArrays { receivers, senders, positions, geometry, ..EdgeGeometryArrays::default() };
        let launch = launcher.edge_geometry(n as u32, 0.0, &forward);
        self.steps("edge_geometry", 24.0 * edges + 24.0 * atoms, 15.0 * edges, &[Step::Kernel(launch)]);
        let vjp = EdgeGeometryVjpArrays { edge_ptr, reverse_edge, geometry, grad_geometry, grad_positions, virials };
        let launch = launcher.edge_geometry_vjp(n_atoms as u32, 0.0, &vjp);
        self.steps("edge_geometry vjp", 36.0 * edges + 120.0 * atoms, 60.0 * edges, &[Step::Kernel(launch)]);

        let centers: Vec<f32> = (0..N_RBF).map(|c| (CUTOFF * c as f64 / N_RBF as f64) as f32).collect();
        let (first, widths) = (self.put_all(&centers), self.put_all(&[0.26_f32; N_RBF]));
        let (basis, grad_basis) = (self.put(n * k), self.put(n * k));
        let distances = self.put_all(&w.distances);
        let grad_distances = self.put(n);
        let arrays = RadialBasisArrays { first, widths, distances, stride: 1 };
        let rbf = N_RBF as f64;
        let launch = launcher.radial_basis(n as u32, N_RBF as u32, CUTOFF, &arrays, basis);
        let bytes = (4 + 4 * k) as f64 * edges;
        self.steps("radial_basis", bytes, 6.0 * rbf * edges, &[Step::Kernel(launch)]);
        let room = self.put(scratch::radial_basis_vjp(n, N_RBF));
        let chain = launcher.unfused_radial_basis(n as u32, N_RBF as u32, CUTOFF, &arrays, basis, room);
        self.steps("radial_basis unfused", bytes, 6.0 * rbf * edges, &chain);
        let launch = launcher.radial_basis_vjp(n as u32, N_RBF as u32, CUTOFF, &arrays, grad_basis, grad_distances);
        let bytes = (12 + 4 * k) as f64 * edges;
        self.steps("radial_basis vjp", bytes, 10.0 * rbf * edges, &[Step::Kernel(launch)]);
        let (count, n_rbf) = (n as u32, N_RBF as u32);
        let chain = launcher.unfused_radial_basis_vjp(count, n_rbf, CUTOFF, &arrays, grad_basis, grad_distances, room);
        self.steps("radial_basis vjp unfused", bytes, 10.0 * rbf * edges, &chain);
        self.free(&[room]);

        for f in [64, 128] {
            let (nodes, sums) = (self.put(n_atoms * 6 * f), self.put(n_atoms * 4 * f));
            let weight = self.put(3 * f * k);
            let shape = MessageShape { n_atoms: n_atoms as u32, n_features: f as u32, n_edge_features: k as u32 };
            let arrays =
                MessageArrays { edge_ptr, senders, reverse_edge, nodes, edges: basis, geometry, weight, bias: 0 };
            let (fs, ks) = (f as f64, k as f64);
            let bytes = atoms * 40.0 * fs + edges * (4.0 * ks + 16.0 + 4.0);
            let filters = edges * 6.0 * fs * ks;
            let launch = launcher.message(&shape, &arrays, sums).unwrap();
            let flops = filters + 17.0 * edges * fs;
            self.steps(&format!("message F={f}"), bytes, flops, &[Step::Kernel(launch)]);
            let (list, room) =
                (EdgeList { n_edges: n as u32, receivers }, self.put(scratch::message_vjp(n_atoms, n, f)));
            let chain = launcher.unfused_message(&shape, &list, &arrays, sums, room);
            self.steps(&format!("message F={f} unfused"), bytes, flops, &chain);
            let grad_nodes = self.put(n_atoms * 6 * f);
            let grads = MessageGradArrays { nodes: grad_nodes, edges: grad_basis, geometry: grad_geometry };
            let launch = launcher.message_vjp(&shape, &arrays, sums, &grads).unwrap();
            let bytes = atoms * 88.0 * fs + edges * (12.0 * ks + 48.0 + 8.0);
            let flops = 2.0 * filters + 45.0 * edges * fs;
            self.steps(&format!("message vjp F={f}"), bytes, flops, &[Step::Kernel(launch)]);
            let chain = launcher.unfused_message_vjp(&shape, &list, &arrays, sums, &grads, room);
            self.steps(&format!("message vjp F={f} unfused"), bytes, flops, &chain);
            self.free(&[nodes, sums, weight, grad_nodes, room]);
        }
        self.free(&[receivers, senders, edge_ptr, reverse_edge, positions, grad_positions, virials, geometry]);
        self.free(&[grad_geometry, first, widths, basis, grad_basis, distances, grad_distances]);
    }

    fn update(&mut self, n_atoms: usize, f: usize) {
        let launcher = self.launcher.clone();
        let arrays = |bench: &mut Bench| GateArrays {
            gates: bench.put(n_atoms * 3 * f),
            mixed: bench.put(n_atoms * 6 * f),
            invariants: bench.put(n_atoms * 2 * f),
        };
        let (a, g) = (arrays(self), arrays(self));
        let change = self.put(n_atoms * 4 * f);
        let (rows, n, elements) = (n_atoms as u32, f as u32, (n_atoms * f) as f64);
        let room = self.put(scratch::update_invariants_vjp(n_atoms, f));
        let (mixed, norms) = (a.mixed, a.invariants);
        let variants = [
            (
                "update_invariants",
                (32.0, 12.0),
                launcher.update_invariants(rows, n, 1e-8, mixed, norms),
                launcher.unfused_update_invariants(rows, n, 1e-8, mixed, norms, room),
            ),
            (
                "update_invariants vjp",
                (88.0, 25.0),
                launcher.update_invariants_vjp(rows, n, mixed, norms, g.invariants, g.mixed),
                launcher.unfused_update_invariants_vjp(rows, n, mixed, norms, g.invariants, g.mixed, room),
            ),
            (
                "update_gate",
                (44.0, 5.0),
                launcher.update_gate(rows, n, &a, change),
                launcher.unfused_update_gate(rows, n, &a, change, room),
            ),
            (
                "update_gate vjp",
                (100.0, 17.0),
                launcher.update_gate_vjp(rows, n, &a, change, &g),
                launcher.unfused_update_gate_vjp(rows, n, &a, change, &g, room),
            ),
        ];
        for (name, (bytes, flops), launch, chain) in variants {
            let (bytes, flops) = (bytes * elements, flops * elements);
            self.steps(&format!("{name} F={f}"), bytes, flops, &[Step::Kernel(launch)]);
            self.steps(&format!("{name} F={f} unfused"), bytes, flops, &chain);
        }
        self.free(&[room, a.gates, a.mixed, a.invariants, g.gates, g.mixed, g.invariants, change]);
    }

    fn readout(&mut self, w: &Workload) {
        let n_atoms = w.n_atoms();
        let (outputs, references) = (self.put(n_atoms), self.put_all(&vec![0.0_f64; n_atoms]));
        let (atoms_of, energies) = (self.put_all(&w.atoms_of), self.put_all(&vec![0.0_f64; w.atoms_of.len() / 2]));
        let (n, atoms) = ((w.atoms_of.len() / 2) as u32, n_atoms as f64);
        let launch = self.launcher.readout(n, 1.0, outputs, references, atoms_of, energies);
        self.steps("readout", 12.0 * atoms, 3.0 * atoms, &[Step::Kernel(launch)]);
        let launch = self.launcher.readout_vjp(n, 1.0, atoms_of, energies, outputs);
        self.steps("readout vjp", 8.0 * atoms, 2.0 * atoms, &[Step::Kernel(launch)]);
        self.free(&[outputs, references, atoms_of, energies]);
    }
}

fn main() {
    let args: Vec<String> = std::env::args().collect();
    let json = args.iter().position(|arg| arg == "--json").and_then(|at| args.get(at + 1));
    let mut device = match Device::open(0) {
        Ok(device) => device,
        Err(error) => {
            eprintln!("nothing measured: {error}");
            std::process::exit(1);
        }
    };
    let library = device.load_library();
    let has_library = library.is_ok();
    let library = library.map_or_else(|e| format!("no library: {e}"), |v| format!("cuBLASLt {v}"));
    let machine = format!("{}; {library}", device.describe().unwrap());
    let launcher = Launcher { has_library, ..Launcher::new(Precision::F32, device.limits()) };
    let mut bench = Bench { device, launcher, rows: Vec::new() };

    bench.copy();
    bench.dense("linear", [4096, 4096, 4096], Activation::Identity, false);
    let w = Workload::new(4096, 20);
    bench.edges(&w);
    for f in [64, 128] {
        bench.update(w.n_atoms(), f);
        bench.dense("linear", [w.n_atoms() * 3, f, 2 * f], Activation::Identity, false);
        bench.dense("linear", [w.n_atoms(), f, 3 * f], Activation::Identity, false);
        bench.dense("linear_silu", [w.n_atoms(), f, f], Activation::Identity, false);
        bench.dense("linear_silu", [22, f, f], Activation::Identity, false);
    }
    for n in [128, 1024] {
        bench.dense("linear_residual_silu", [n; 3], Activation::Identity, true);
        bench.dense("silu_linear", [n; 3], Activation::Silu, false);
    }
    bench.readout(&w);

    let best = |rate: fn(&Row) -> f64, which: &str| {
        bench.rows.iter().filter(|row| row.name.starts_with(which)).map(rate).fold(0.0, f64::max)
    };
    let copy = best(|row| row.bytes / row.seconds, "copy");
    let product = best(|row| row.flops / row.seconds, "linear 4096x4096x4096");
    println!("{machine}\n{} molecules, {} atoms, {} edges, f32\n", w.atoms_of.len() / 2, w.n_atoms(), w.n_edges());
    println!("| kernel | µs | GB/s | of copy | GFLOP/s | of the best product |\n|---|---|---|---|---|---|");
    for row in &bench.rows {
        let (bytes, flops) = (row.bytes / row.seconds, row.flops / row.seconds);
        println!(
            "| {} | {:.2} | {:.0} | {:.0} % | {:.0} | {:.0} % |",
            row.name,
            1e6 * row.seconds,
            1e-9 * bytes,
            100.0 * bytes / copy,
            1e-9 * flops,
            100.0 * flops / product
        );
    }
    if let Some(path) = json {
        let rows = bench.rows.iter().map(
            |row| serde_json::json!({"name": row.name, "seconds": row.seconds, "bytes": row.bytes, "flops": row.flops}),
        );
        let all = serde_json::json!({
            "machine": machine, "n_structures": w.atoms_of.len() / 2, "n_atoms": w.n_atoms(), "n_edges": w.n_edges(),
            "rows": rows.collect::<Vec<_>>(),
        });
        std::fs::write(path, all.to_string()).unwrap();
    }
}
