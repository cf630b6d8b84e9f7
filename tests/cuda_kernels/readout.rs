use mlff::ops::Topology;
use mlff::ops::example::cases::Results;
use mlff::ops::readout::{ReadoutSizes, readout, readout_vjp};

use crate::bench::{Element, SMALL, check_example, example, wide};

fn case<T: Element>(ranges: &[std::ops::Range<usize>], n: usize) {
    let sizes = ReadoutSizes { n_atoms: n as u32, n_structures: ranges.len() as u32 };
    let flat = || ranges.iter().flat_map(|r| [r.start as f64, r.end as f64]).collect();
    let example = example(sizes, &Topology::default(), 3, |array| (array.name == "atoms_of").then(flat));
    let mut energies = vec![f64::NAN; ranges.len()];
    readout(-1.7, &example.numbers::<T>("outputs"), example.get("references"), ranges, &mut energies);
    let mut grad = example.numbers::<T>("grad_outputs");
    readout_vjp(-1.7, ranges, example.get("grad_energies"), &mut grad);
    let want: Results = vec![("energies", energies), ("grad_outputs", wide(&grad))];
    check_example::<T, _>(&format!("{ranges:?}"), SMALL, &example, &want, |bench, launcher, a| {
        bench.run(&launcher.readout(&sizes, -1.7, a));
        bench.run(&launcher.readout_vjp(&sizes, -1.7, a));
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
