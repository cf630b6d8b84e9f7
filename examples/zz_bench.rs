use mlff::{Potential, Structure, engine::Want, potential::*};
use std::time::Instant;
fn main() {
    let args: Vec<String> = std::env::args().collect();
    let model = &args[1];
    let file = &args[2];
    let threads: usize = args[3].parse().unwrap();
    rayon::ThreadPoolBuilder::new().num_threads(threads).build_global().unwrap();
    let t = Instant::now();
    let p = Potential::load(model).unwrap();
    println!("load {:.1} ms", t.elapsed().as_secs_f64() * 1e3);
    let mut r = mlff::xyz::Reader::open(std::path::Path::new(file)).unwrap();
    let mut s: Vec<Structure> = vec![];
    while let Ok(Some(item)) = r.next_item() {
        if let mlff::xyz::Item::Frame(f) = item {
            s.push(f.structure);
        }
    }
    let n: usize = s.iter().map(|s| s.n_atoms()).sum();
    let f = p.model().config().n_features() as f64;
    let mut best = f64::MAX;
    let reps: usize = args.get(4).map_or(10, |x| x.parse().unwrap());
    for _ in 0..reps {
        let t = Instant::now();
        let out = p.evaluate(&s, Want::ALL);
        assert!(out[0].is_ok());
        best = best.min(t.elapsed().as_secs_f64());
    }
    println!(
        "F={f} {} structures {n} atoms: {:.2} us/atom, {:.0} structures/s, {:.1} GFLOP/s by 160F2",
        s.len(),
        best / n as f64 * 1e6,
        s.len() as f64 / best,
        160.0 * f * f * n as f64 / best * 1e-9
    );
    // single
    let one = s.iter().find(|s| s.n_atoms() == 22).unwrap_or(&s[0]).clone();
    let mut ts: Vec<f64> = (0..500)
        .map(|_| {
            let t = Instant::now();
            p.evaluate_one(&one, Want::ALL).unwrap();
            t.elapsed().as_secs_f64()
        })
        .collect();
    ts.sort_by(f64::total_cmp);
    println!("single {} atoms: median {:.1} us min {:.1}", one.n_atoms(), ts[250] * 1e6, ts[0] * 1e6);
}
