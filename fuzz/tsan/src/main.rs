//! Layers of rows that tiles write and read as the engine does, by crews of several sizes; equal to one thread's.
#![allow(dead_code)]

#[path = "../../../src/engine/adjoint/crew.rs"]
mod crew;
#[path = "../../../src/engine/adjoint/shared.rs"]
mod shared;
#[path = "../../../src/engine/adjoint/tickets.rs"]
mod tickets;

/// No process forks here.
mod fork {
    pub fn watch() {}
    pub fn generation() -> u32 {
        0
    }
}

mod engine {
    use std::sync::Mutex;

    use super::crew::Crew;
    use super::shared::Rows;
    use super::tickets::Tickets;

    /// A number made of all that the tiles wrote.
    pub fn evaluate(crew: &mut Crew, n_tiles: usize, n_stages: usize, seed: u64) -> u64 {
        let (n_rows, width) = (n_tiles * 4, 3);
        let mut layers = vec![seed; 2 * n_rows * width];
        let mut scratch: Vec<Mutex<Vec<u64>>> = (0..crew.n_threads()).map(|_| Mutex::default()).collect();
        {
            let (rows, tickets, scratch) = (Rows::new(&mut layers, n_rows, width), Tickets::default(), &scratch);
            crew.run(&|thread| {
                let mut sums = scratch[thread].lock().unwrap();
                tickets.work(n_stages, n_tiles, |stage, tile| {
                    // SAFETY: a stage reads one layer and writes own rows of the other.
                    let (from, to) = unsafe {
                        (rows.layer(stage % 2), rows.write((stage + 1) % 2, &(tile * 4..tile * 4 + 4)))
                    };
                    sums.push(from.iter().fold(0, |sum, x| x.wrapping_add(sum)));
                    for (k, x) in to.iter_mut().enumerate() {
                        *x = from[(tile * 7 + k * 5) % from.len()].wrapping_mul(3).wrapping_add(k as u64);
                    }
                });
            });
            assert!(tickets.are_done(n_stages * n_tiles));
        }
        let n_tasks: usize = scratch.iter_mut().map(|sums| sums.get_mut().unwrap().len()).sum();
        n_tasks as u64 + layers.iter().fold(0_u64, |hash, x| hash.wrapping_mul(31).wrapping_add(*x))
    }
}

fn main() {
    let n_rounds: usize = std::env::args().nth(1).map_or(2000, |n| n.parse().unwrap());
    let (mut crew, mut alone) = (crew::Crew::new(3).unwrap(), crew::Crew::new(0).unwrap());
    for k in 0..n_rounds {
        let evaluate = |crew: &mut crew::Crew| engine::evaluate(crew, 1 + k % 7, 1 + k % 9, k as u64);
        assert_eq!(evaluate(&mut crew), evaluate(&mut alone));
        if k % 97 == 0 {
            // Long enough for helpers to fall asleep.
            std::thread::sleep(std::time::Duration::from_millis(3));
        }
        if k % 50 == 0 {
            crew = crew::Crew::new(1 + k % 4).unwrap();
        }
    }
    std::thread::scope(|scope| {
        for t in 0..4 {
            scope.spawn(move || {
                for k in 0..n_rounds / 20 {
                    engine::evaluate(&mut crew::Crew::new(1 + (k + t) % 3).unwrap(), 3, 3, k as u64);
                }
            });
        }
    });
    println!("{n_rounds} rounds, equal to one thread's");
}
