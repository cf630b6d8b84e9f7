use mlff::ops::readout::{readout, readout_vjp};

use crate::bench::{Element, Random, SMALL, check, wide};

fn case<T: Element>(ranges: &[std::ops::Range<usize>], n: usize) {
    let mut random = Random(3);
    let (outputs, references): (Vec<T>, Vec<f64>) = (random.array(n), random.array(n));
    let (grad_energies, start): (Vec<f64>, Vec<T>) = (random.array(ranges.len()), random.array(n));
    let mut energies = vec![0.0; ranges.len()];
    readout(-1.7, &outputs, &references, ranges, &mut energies);
    let mut grad_outputs = start.clone();
    readout_vjp(-1.7, ranges, &grad_energies, &mut grad_outputs);
    let grad_outputs = wide(&grad_outputs);
    let name = format!("readout {ranges:?}, {:?}", T::PRECISION);
    check::<T>(&name, SMALL, &[("energies", &energies), ("grad_outputs", &grad_outputs)], |bench| {
        let flat: Vec<u32> = ranges.iter().flat_map(|r| [r.start as u32, r.end as u32]).collect();
        let (outputs, references, of) = (bench.put(&outputs), bench.put(&references), bench.put(&flat));
        let (out, grad, grad_out) =
            (bench.put(&vec![f64::NAN; ranges.len()]), bench.put(&grad_energies), bench.put(&start));
        let launcher = bench.launcher::<T>();
        let n_structures = ranges.len() as u32;
        bench.run(&launcher.readout(n_structures, -1.7, outputs, references, of, out));
        bench.run(&launcher.readout_vjp(n_structures, -1.7, of, grad, grad_out));
        vec![bench.get::<f64>(out, ranges.len()), bench.get::<T>(grad_out, n)]
    });
}

#[test]
fn readout_cuda_matches_cpu() {
    // Padding atoms (3, 8), an empty structure, one of more atoms than a block has threads, no structure.
    for (ranges, n) in [(vec![0..3, 4..8, 8..8], 9), (vec![0..1, 2..400], 401), (vec![], 2)] {
        case::<f32>(&ranges, n);
        case::<f64>(&ranges, n);
    }
}
