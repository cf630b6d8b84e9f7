//! Every CUDA kernel on GPU 0, and the chains of elementary kernels beside those that fuse them, by the device's clock: time,
//! bytes/s and FLOP/s beside what a copy and a large matrix product reach in the same run. Prints a table; `--json FILE` writes the numbers too. Without a GPU it says so and ends well.
//!
//! Bytes are those that must pass between memory and chip at least once (`ops::table`), of a chain those of the fused kernel; operations are counted from the formulas (an
//! exponential, root or division as one).

#![allow(clippy::unwrap_used, missing_docs)]

#[path = "cuda/workload.rs"]
mod workload;

use mlff::Precision;
use mlff::Result;
use mlff::cuda::unfused::scratch;
use mlff::cuda::{Address, Backend, DenseChoice, DenseShape, Device, Launcher, Step};
use mlff::ops::Topology;
use mlff::ops::dense::{Activation, LayerSizes};
use mlff::ops::edge_geometry::EdgeGeometrySizes;
use mlff::ops::example::Example;
use mlff::ops::message::MessageSizes;
use mlff::ops::radial_basis::RadialBasisSizes;
use mlff::ops::readout::ReadoutSizes;
use mlff::ops::table::{Array, Operation, bytes_moved};
use mlff::ops::update::{GateSizes, InvariantsSizes};
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
    /// `n` elements of f32 for what lies between the steps of a chain.
    fn room(&mut self, n: usize) -> Address {
        self.put_all(&vec![0_f32; n])
    }

    fn put_all<T: bytemuck::Pod>(&mut self, values: &[T]) -> Address {
        self.device.upload(bytemuck::cast_slice(values)).unwrap()
    }

    /// The arrays of an example in f32; `fill` as for [`Example::new`].
    fn put<O: Operation>(
        &mut self,
        sizes: O,
        topology: &Topology,
        fill: impl FnMut(&Array) -> Option<Vec<f64>>,
    ) -> O::Arrays<Address> {
        let example = Example::new(sizes, topology, fill);
        example.upload(Precision::F32, |bytes| self.device.upload(bytes)).unwrap()
    }

    fn free(&mut self, addresses: &[Address]) {
        // SAFETY: arrays of `put` and `room`, each freed once, after the work that used them.
        addresses.iter().filter(|&&at| at != 0).for_each(|&at| unsafe { self.device.free(at) }.unwrap());
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

    /// Times a fused launch or its chain.
    fn operation<O: Operation>(
        &mut self,
        name: &str,
        sizes: &O,
        absent: &[&str],
        vjp: bool,
        flops: f64,
        steps: &[Step],
    ) {
        let bytes = bytes_moved(sizes, 4, vjp, |array| !absent.contains(&array));
        self.steps(name, bytes as f64, flops, steps);
    }

    /// A dense layer each way that there is; `kind` names what is fused.
    fn dense(&mut self, kind: &str, [n_rows, n_in, n_out]: [usize; 3], before: Activation, residual: bool) {
        let activation =
            if before == Activation::Silu || kind == "linear" { Activation::Identity } else { Activation::Silu };
        let sizes = LayerSizes { n_rows: n_rows as u32, n_in: n_in as u32, n_out: n_out as u32 };
        let shape = DenseShape { before, activation, save_slope: true, ..DenseShape::linear(sizes) };
        let mut absent = vec!["grad_residual", "grad_z"];
        if !residual {
            absent.push("residual");
        }
        if activation == Activation::Identity {
            absent.push("saved");
        }
        let none = Topology::default();
        let a = self.put(sizes, &none, |array| (array.name != "grad_z" && absent.contains(&array.name)).then(Vec::new));
        let flops = 2.0 * (n_rows * n_in) as f64 * n_out as f64;
        for choice in [DenseChoice::Narrow, DenseChoice::Wide, DenseChoice::Library] {
            let mut launcher = self.launcher.clone();
            launcher.dense_sizes.wide_from_tiles = if choice == DenseChoice::Narrow { f64::INFINITY } else { 0.0 };
            launcher.dense_sizes.library_from = if choice == DenseChoice::Library { 1 } else { u64::MAX };
            if choice == DenseChoice::Library && !launcher.dense_uses_library(&shape) {
                continue;
            }
            let name = format!("{kind} {n_rows}x{n_in}x{n_out} {choice:?}").to_lowercase();
            // A forward alone saves nothing.
            let forward = launcher.dense_steps(&shape, &mlff::ops::dense::DenseArrays { saved: 0, ..a });
            self.operation(&name, &sizes, &[&absent[..], &["saved"]].concat(), false, flops, &forward);
            let vjp = launcher.dense_vjp_steps(&shape, &a);
            self.operation(&format!("{name} vjp"), &sizes, &absent, true, flops, &vjp);
        }
        self.free(&LayerSizes::in_order(&a));
    }

    fn edges(&mut self, w: &Workload) {
        let (n, n_atoms, k) = (w.n_edges(), w.n_atoms(), N_RBF + 1);
        let [atoms, edges, structures] = [n_atoms, n, w.atoms_of.len() / 2].map(|n| n as u32);
        let count = n as f64;
        let topology = Topology {
            receivers: w.receivers.clone(),
            senders: w.senders.clone(),
            edge_ptr: w.edge_ptr.clone(),
            reverse_edge: w.reverse_edge.clone(),
        };
        let launcher = self.launcher.clone();
        let s = EdgeGeometrySizes { n_atoms: atoms, n_edges: edges, n_structures: structures };
        // Positions are f64 in any precision.
        let absent = ["offsets", "strain", "grad_strain"];
        let a = self.put(s, &topology, |array| match array.name {
            "positions" => Some(w.positions.clone()),
            name => absent.contains(&name).then(Vec::new),
        });
        let launch = launcher.edge_geometry(&s, 0.0, &a);
        self.operation("edge_geometry", &s, &absent, false, 15.0 * count, &[Step::Kernel(launch)]);
        let launch = launcher.edge_geometry_vjp(&s, 0.0, &a);
        self.operation("edge_geometry vjp", &s, &absent, true, 60.0 * count, &[Step::Kernel(launch)]);
        self.free(&EdgeGeometrySizes::in_order(&a));

        let s = RadialBasisSizes { n_edges: edges, n_rbf: N_RBF as u32, stride: 1 };
        let a = self.put(s, &topology, |array| match array.name {
            "first" => Some((0..N_RBF).map(|c| CUTOFF * c as f64 / N_RBF as f64).collect()),
            "widths" => Some(vec![0.26; N_RBF]),
            "distances" => Some(w.distances.iter().map(|&d| f64::from(d)).collect()),
            _ => None,
        });
        let (room, rbf) = (self.room(scratch::radial_basis_vjp(&s)), N_RBF as f64);
        let variants = [
            ("", false, vec![Step::Kernel(launcher.radial_basis(&s, CUTOFF, &a))]),
            (" unfused", false, launcher.unfused_radial_basis(&s, CUTOFF, &a, room)),
            (" vjp", true, vec![Step::Kernel(launcher.radial_basis_vjp(&s, CUTOFF, &a))]),
            (" vjp unfused", true, launcher.unfused_radial_basis_vjp(&s, CUTOFF, &a, room)),
        ];
        for (name, vjp, steps) in variants {
            let flops = if vjp { 10.0 } else { 6.0 } * rbf * count;
            self.operation(&format!("radial_basis{name}"), &s, &[], vjp, flops, &steps);
        }
        self.free(&RadialBasisSizes::in_order(&a));
        self.free(&[room]);

        for f in [64, 128] {
            let s = MessageSizes { n_atoms: atoms, n_edges: edges, n_features: f as u32, n_edge_features: k as u32 };
            let a = self.put(s, &topology, |array| (array.name == "bias").then(Vec::new));
            let room = self.room(scratch::message_vjp(&s));
            let filters = count * 6.0 * (f * k) as f64;
            let variants = [
                ("", false, vec![Step::Kernel(launcher.message(&s, &a).unwrap())]),
                (" unfused", false, launcher.unfused_message(&s, &a, room)),
                (" vjp", true, vec![Step::Kernel(launcher.message_vjp(&s, &a).unwrap())]),
                (" vjp unfused", true, launcher.unfused_message_vjp(&s, &a, room)),
            ];
            for (name, vjp, steps) in variants {
                let flops =
                    if vjp { 2.0 * filters + 45.0 * count * f as f64 } else { filters + 17.0 * count * f as f64 };
                let what = name.trim_end_matches(" unfused");
                let rest = &name[what.len()..];
                self.operation(&format!("message{what} F={f}{rest}"), &s, &["bias"], vjp, flops, &steps);
            }
            self.free(&MessageSizes::in_order(&a));
            self.free(&[room]);
        }
    }

    fn update(&mut self, n_atoms: usize, f: usize) {
        let (launcher, none) = (self.launcher.clone(), Topology::default());
        let (n_rows, n_features, elements) = (n_atoms as u32, f as u32, (n_atoms * f) as f64);
        let s = InvariantsSizes { n_atoms: n_rows, n_features };
        let (a, room) = (self.put(s, &none, |_| None), self.room(scratch::update_invariants_vjp(&s)));
        let variants = [
            (
                "",
                12.0,
                launcher.update_invariants(&s, 1e-8, &a),
                launcher.unfused_update_invariants(&s, 1e-8, &a, room),
            ),
            (
                " vjp",
                25.0,
                launcher.update_invariants_vjp(&s, &a),
                launcher.unfused_update_invariants_vjp(&s, &a, room),
            ),
        ];
        for (what, flops, launch, chain) in variants {
            let (name, vjp) = (format!("update_invariants{what} F={f}"), !what.is_empty());
            self.operation(&name, &s, &[], vjp, flops * elements, &[Step::Kernel(launch)]);
            self.operation(&format!("{name} unfused"), &s, &[], vjp, flops * elements, &chain);
        }
        self.free(&InvariantsSizes::in_order(&a));

        let s = GateSizes { n_atoms: n_rows, n_features };
        let a = self.put(s, &none, |_| None);
        let variants = [
            ("", 5.0, launcher.update_gate(&s, &a), launcher.unfused_update_gate(&s, &a, room)),
            (" vjp", 17.0, launcher.update_gate_vjp(&s, &a), launcher.unfused_update_gate_vjp(&s, &a, room)),
        ];
        for (what, flops, launch, chain) in variants {
            let (name, vjp) = (format!("update_gate{what} F={f}"), !what.is_empty());
            self.operation(&name, &s, &[], vjp, flops * elements, &[Step::Kernel(launch)]);
            self.operation(&format!("{name} unfused"), &s, &[], vjp, flops * elements, &chain);
        }
        self.free(&GateSizes::in_order(&a));
        self.free(&[room]);
    }

    fn readout(&mut self, w: &Workload) {
        let (n_atoms, n_structures) = (w.n_atoms() as u32, (w.atoms_of.len() / 2) as u32);
        let s = ReadoutSizes { n_atoms, n_structures };
        let of = || w.atoms_of.iter().map(|&x| f64::from(x)).collect();
        let a = self.put(s, &Topology::default(), |array| (array.name == "atoms_of").then(of));
        let atoms = f64::from(n_atoms);
        let launch = self.launcher.readout(&s, 1.0, &a);
        self.operation("readout", &s, &[], false, 3.0 * atoms, &[Step::Kernel(launch)]);
        let launch = self.launcher.readout_vjp(&s, 1.0, &a);
        self.operation("readout vjp", &s, &[], true, 2.0 * atoms, &[Step::Kernel(launch)]);
        self.free(&ReadoutSizes::in_order(&a));
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
