//! What the cases share: arrays on a backend, comparison, topologies.

use std::sync::{Mutex, OnceLock};

use mlff::Precision;
use mlff::cuda::{Address, Backend, Device, Launch, Launcher, Limits, Step};
use mlff::ops::example::Example;
use mlff::ops::example::cases::Results;
use mlff::ops::table::{Array, Element as Of, Operation, Role};
use mlff::ops::{Real, Topology};

use crate::host::{Host, say};

/// Type of a kernel's elements.
pub trait Element: Real + bytemuck::Pod {
    /// Allowed error, relative.
    const TOLERANCE: f64;
}

impl Element for f32 {
    const TOLERANCE: f64 = 1e-5;
}

impl Element for f64 {
    const TOLERANCE: f64 = 1e-12;
}

/// One run of a case: a backend and the arrays that the run put there.
pub struct Bench<'a> {
    backend: &'a mut dyn Backend,
    arrays: Vec<Address>,
    limits: Limits,
}

impl Bench<'_> {
    pub fn put<T: bytemuck::Pod>(&mut self, values: &[T]) -> Address {
        let address = self.backend.upload(bytemuck::cast_slice(values)).unwrap();
        self.arrays.push(address);
        address
    }

    pub fn get<T: Element>(&mut self, address: Address, n: usize) -> Vec<f64> {
        let mut values = vec![T::zero(); n];
        // SAFETY: the cases ask for arrays of the length that they put there.
        unsafe { self.backend.download(address, bytemuck::cast_slice_mut(&mut values)).unwrap() };
        values.iter().map(|x| x.wide()).collect()
    }

    pub fn run(&mut self, launch: &Launch) {
        // SAFETY: launches come from a `Launcher`, arrays are made by the case with the shapes of the CPU op.
        unsafe { self.backend.launch(launch).unwrap() };
    }

    pub fn steps(&mut self, steps: &[Step]) {
        for step in steps {
            // SAFETY: as in `run`.
            unsafe { self.backend.step(step).unwrap() };
        }
    }

    /// So many elements, not one more, in which nothing may be relied on.
    pub fn room<T: Element>(&mut self, n: usize) -> Address {
        self.put(&vec![T::nan(); n])
    }

    pub fn launcher<T: Element>(&self) -> Launcher {
        Launcher::new(T::PRECISION, self.limits)
    }
}

impl Drop for Bench<'_> {
    fn drop(&mut self) {
        for &address in self.arrays.iter().filter(|&&address| address != 0) {
            // SAFETY: allocated by `put`, freed once.
            let _ = unsafe { self.backend.free(address) };
        }
    }
}

/// Multiprocessors and shared memory that launches on the host are made for. A small device, so that small cases have
/// several atoms a block and both tiles of dense; little memory, so that features are cut into tiles.
pub const SMALL: Limits = Limits { multiprocessors: 2, shared_bytes: 48 * 1024, has_clusters: false };

/// Runs `case` on every backend, twice, and compares what it returns, by name, with `want`.
pub fn check<T: Element>(
    name: &str,
    limits: Limits,
    want: &[(&str, &[f64])],
    case: impl Fn(&mut Bench) -> Vec<Vec<f64>>,
) {
    let compare = |backend: &str, runs: [Vec<Vec<f64>>; 2]| {
        for ((what, want), got) in want.iter().zip(&runs[0]) {
            assert_close::<T>(&format!("{name} on the {backend}: {what}"), got, want);
        }
        let bits = |run: &[Vec<f64>]| run.concat().iter().map(|x| x.to_bits()).collect::<Vec<u64>>();
        assert_eq!(runs[0].len(), want.len());
        assert!(bits(&runs[0]) == bits(&runs[1]), "{name} on the {backend}: other bits in the second run");
    };
    match Host::start() {
        Ok(mut host) => {
            let runs = [false, true].map(|falling| {
                host.falling = falling;
                case(&mut Bench { backend: &mut host, arrays: Vec::new(), limits })
            });
            compare("host", runs);
        }
        Err(why) => skip_host(&why),
    }
    if let Some(device) = device() {
        let mut device = device.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
        let limits = Limits { shared_bytes: limits.shared_bytes.min(device.limits().shared_bytes), ..limits };
        compare("device", [0, 1].map(|_| case(&mut Bench { backend: &mut *device, arrays: Vec::new(), limits })));
    }
}

/// An example with random numbers; what the operation overwrites is NaN. `fill` as for [`Example::new`].
pub fn example<O: Operation>(
    sizes: O,
    topology: &Topology,
    seed: u64,
    mut fill: impl FnMut(&Array) -> Option<Vec<f64>>,
) -> Example<O> {
    let mut random = Random(seed);
    Example::new(sizes, topology, |array| {
        fill(array).or_else(|| match (array.role, array.element) {
            (Role::Index, _) | (_, Of::U32) => None,
            (Role::Output | Role::Room, _) => Some(vec![f64::NAN; array.len()]),
            _ => Some(random.array(array.len())),
        })
    })
}

/// Runs what `run` launches on an example's arrays, on every backend, and compares the arrays named in `want`.
pub fn check_example<T: Element, O: Operation>(
    name: &str,
    limits: Limits,
    example: &Example<O>,
    want: &Results,
    run: impl Fn(&mut Bench, &Launcher, &O::Arrays<Address>),
) {
    check_skewed::<T, O>(name, limits, 0, example, want, run);
}

/// [`check_example`] with so many elements before each array: it does not start where packs of four may be read.
pub fn check_skewed<T: Element, O: Operation>(
    name: &str,
    limits: Limits,
    skew: usize,
    example: &Example<O>,
    want: &Results,
    run: impl Fn(&mut Bench, &Launcher, &O::Arrays<Address>),
) {
    let name = format!("{} {name}, {:?}", O::NAME, T::PRECISION);
    let table = example.sizes.table();
    let of = |what: &str| table.iter().position(|array| array.name == what).unwrap();
    let want: Vec<(&str, &[f64])> = want.iter().map(|(name, values)| (*name, values.as_slice())).collect();
    check::<T>(&name, limits, &want, |bench| {
        let skew = skew * size_of::<T>();
        let put = |bytes: &[u8]| Ok::<_, mlff::Error>(bench.put(&[&vec![0; skew], bytes].concat()) + skew as u64);
        let arrays = example.upload(T::PRECISION, put).unwrap();
        let launcher = bench.launcher::<T>();
        run(bench, &launcher, &arrays);
        let at = O::in_order(&arrays);
        let get = |&(what, _): &(&str, &[f64])| {
            let (array, address) = (table[of(what)], at[of(what)]);
            if array.element == Of::F64 && T::PRECISION == Precision::F32 {
                bench.get::<f64>(address, array.len())
            } else {
                bench.get::<T>(address, array.len())
            }
        };
        want.iter().map(get).collect()
    });
}

/// Says once that there is no host, and why.
fn skip_host(why: &str) {
    static SAID: OnceLock<()> = OnceLock::new();
    SAID.get_or_init(|| say(&format!("\nSKIPPED: kernels on the host: {why}\n")));
}

/// The first GPU, opened once; says once why there is none.
pub fn device() -> Option<&'static Mutex<Device>> {
    static DEVICE: OnceLock<Option<Mutex<Device>>> = OnceLock::new();
    let open = || match Device::open(0) {
        Ok(device) => Some(Mutex::new(device)),
        Err(error) => {
            say(&format!("\nSKIPPED: kernels on the device: {error}\n"));
            None
        }
    };
    DEVICE.get_or_init(open).as_ref()
}

/// Panics unless each value is within the tolerance, relative to itself plus the array's typical size: sums of terms
/// that cancel have the error of the terms. NaN is close to nothing.
fn assert_close<T: Element>(what: &str, got: &[f64], want: &[f64]) {
    assert_eq!(got.len(), want.len(), "{what}: length");
    let typical = (want.iter().map(|x| x * x).sum::<f64>() / want.len().max(1) as f64).sqrt();
    for (k, (&g, &w)) in got.iter().zip(want).enumerate() {
        let allowed = T::TOLERANCE * (w.abs() + typical);
        let close = (g - w).abs() <= allowed;
        assert!(close, "{what}[{k}]: got {g:e}, expected {w:e}, difference {:e}, allowed {allowed:e}", g - w);
    }
}

/// SplitMix64, numbers in (-1, 1).
pub struct Random(pub u64);

impl Random {
    pub fn next(&mut self) -> f64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        ((z ^ (z >> 31)) >> 11) as f64 / (1_u64 << 52) as f64 - 1.0
    }

    pub fn array<T: Real>(&mut self, n: usize) -> Vec<T> {
        (0..n).map(|_| T::of(self.next())).collect()
    }
}

pub fn wide<T: Real>(values: &[T]) -> Vec<f64> {
    values.iter().map(|x| x.wide()).collect()
}

/// Pairs of `n` atoms, each kept with probability `density`; some atoms (every `isolated`-th) have none.
pub fn topology(n: usize, density: f64, isolated: usize, seed: u64) -> Topology {
    let mut random = Random(seed);
    let mut pairs = Vec::new();
    for i in 0..n {
        for j in 0..i {
            if 0.5 * (random.next() + 1.0) < density && i % isolated != 1 && j % isolated != 1 {
                pairs.extend([(i as u32, j as u32), (j as u32, i as u32)]);
            }
        }
    }
    pairs.sort_unstable();
    let number = |pair: (u32, u32)| pairs.binary_search(&pair).unwrap() as u32;
    Topology {
        receivers: pairs.iter().map(|p| p.0).collect(),
        senders: pairs.iter().map(|p| p.1).collect(),
        edge_ptr: (0..=n as u32).map(|i| pairs.partition_point(|p| p.0 < i) as u32).collect(),
        reverse_edge: pairs.iter().map(|&(i, j)| number((j, i))).collect(),
    }
}

/// Topologies that every op over edges must survive: none at all, no edge, one pair, isolated atoms, a crowd.
pub fn topologies() -> Vec<Topology> {
    [(0, 0.0, 3), (5, 0.0, 3), (2, 1.0, 9), (23, 0.3, 4), (40, 0.8, 7)]
        .into_iter()
        .enumerate()
        .map(|(k, (n, density, isolated))| topology(n, density, isolated, 100 + k as u64))
        .collect()
}
