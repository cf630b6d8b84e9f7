//! Processes made by `fork`: they evaluate and step as their parent does. Alone in its file, as it decides when the parent's
//! threads start.

#![cfg(unix)]
#![allow(clippy::unwrap_used, clippy::panic)]

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use mlff::Want;
use mlff::{EngineKind, Precision};
use mlff::{Error, Potential, Structure};

/// Waters in a row.
fn waters(n: usize) -> Structure {
    let water = [[0.0, 0.0, 0.119], [0.0, 0.763, -0.477], [0.0, -0.763, -0.477]];
    let positions = (0..n).flat_map(|k| water.map(|r| [r[0] + 2.9 * k as f64, r[1], r[2]])).collect();
    Structure::molecule([8, 1, 1].repeat(n), positions).unwrap()
}

/// Runs `f` in a child; panics if it panics there, dies, or hangs.
#[track_caller]
fn in_child(what: &str, f: impl FnOnce()) {
    // SAFETY: the child runs `f`, which is what is to be tested, and leaves.
    let child = unsafe { libc::fork() };
    assert!(child >= 0, "{what}: fork");
    if child == 0 {
        let status = i32::from(catch_unwind(AssertUnwindSafe(f)).is_err());
        // SAFETY: leaves at once, without running what belongs to the parent.
        unsafe { libc::_exit(status) };
    }
    let (start, mut status) = (Instant::now(), 0);
    loop {
        // SAFETY: the child is ours, and not waited for yet.
        if unsafe { libc::waitpid(child, &raw mut status, libc::WNOHANG) } == child {
            assert_eq!(status, 0, "{what}: a panic or a signal in the child");
            return;
        }
        if start.elapsed() > Duration::from_secs(120) {
            // SAFETY: as above.
            unsafe {
                libc::kill(child, libc::SIGKILL);
                libc::waitpid(child, &raw mut status, 0);
            }
            panic!("{what}: the child hangs");
        }
        std::thread::sleep(Duration::from_millis(1));
    }
}

#[test]
fn forked_processes_evaluate_and_step_as_their_parent_does() {
    let potential = Potential::load("ani2x-painn-64").unwrap();
    let (small, large) = (waters(6), waters(350));
    let many = vec![small.clone(); 40];
    let want = potential.evaluate_one(&small, Want::ALL).unwrap();
    let is_right = |potential: &Potential| {
        let all = potential.evaluate(&many, Want::ALL);
        assert!(all.iter().all(|got| got.as_ref().unwrap() == &want));
    };
    let mut forces = vec![[0.0; 3]; small.n_atoms()];
    in_child("many structures, before the parent's pool", || is_right(&potential));

    is_right(&potential);
    let of_large = potential.evaluate_one(&large, Want::ALL).unwrap();
    for _ in 0..3 {
        in_child("one structure", || assert_eq!(potential.evaluate_one(&small, Want::ALL).unwrap(), want));
        in_child("many structures", || is_right(&potential));
        in_child("many structures, twice", || (0..2).for_each(|_| is_right(&potential)));
        in_child("a large structure", || assert_eq!(potential.evaluate_one(&large, Want::ALL).unwrap(), of_large));
        in_child("a child of a child", || {
            is_right(&potential);
            in_child("below", || is_right(&potential));
            is_right(&potential);
        });
        in_child("threads of the child", || {
            std::thread::scope(|scope| (0..3).for_each(|_| drop(scope.spawn(|| is_right(&potential)))));
        });
        in_child("a potential of the child", || is_right(&Potential::load("ani2x-painn-64").unwrap()));
        in_child("the potential dropped", || drop(potential.clone()));
    }
    let pool = rayon::ThreadPoolBuilder::new().num_threads(2).build().unwrap();
    pool.install(|| {
        is_right(&potential);
        in_child("forked by a thread of a pool", || is_right(&potential));
    });
    in_child("a pool of the child's own", || {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(2).build().unwrap();
        pool.install(|| is_right(&potential));
    });

    let session = |n| potential.session(&small).unwrap().with_threads(n).unwrap().with_stress(true);
    for n_threads in [1, 3] {
        let mut kept = session(n_threads);
        assert_eq!(kept.compute(&small.positions, None, &mut forces).unwrap(), want.energy);
        for asleep in [false, true] {
            if asleep {
                std::thread::sleep(Duration::from_millis(20));
            }
            in_child("a session steps", || {
                let mut forces = vec![[0.0; 3]; small.n_atoms()];
                for _ in 0..20 {
                    assert_eq!(kept.compute(&small.positions, None, &mut forces).unwrap(), want.energy);
                    assert_eq!(&forces, want.forces.as_ref().unwrap());
                }
                assert_eq!(kept.n_threads(), 1);
            });
        }
        let dropped = session(n_threads);
        in_child("a session is dropped", || drop(dropped));
        let kept_on = session(n_threads);
        in_child("a session gets other threads", || {
            let mut forces = vec![[0.0; 3]; small.n_atoms()];
            let mut other = kept_on.with_threads(2).unwrap();
            assert_eq!(other.n_threads(), 2);
            assert_eq!(other.compute(&small.positions, None, &mut forces).unwrap(), want.energy);
        });
        in_child("a session of the child", || {
            let mut forces = vec![[0.0; 3]; small.n_atoms()];
            let mut new = session(2);
            assert_eq!(new.compute(&small.positions, None, &mut forces).unwrap(), want.energy);
        });
        // The parent has lost nothing by it.
        assert_eq!(
            (kept.compute(&small.positions, None, &mut forces).unwrap(), kept.n_threads()),
            (want.energy, n_threads)
        );
    }
    is_right(&potential);
}

#[test]
fn forked_processes_do_not_wait_for_locks_of_their_parents_threads() {
    let potential = Potential::load("ani2x-painn-64").unwrap();
    let hydrogen = Structure::molecule(vec![1], vec![[0.0; 3]]).unwrap();
    let want = potential.evaluate_one(&hydrogen, Want::ENERGY).unwrap();
    let is_over = AtomicBool::new(false);
    std::thread::scope(|scope| {
        for _ in 0..2 {
            // At the lock as often as can be.
            scope.spawn(|| {
                while !is_over.load(Ordering::Relaxed) {
                    assert_eq!(potential.evaluate_one(&hydrogen, Want::ENERGY).unwrap(), want);
                }
            });
        }
        let outcome = catch_unwind(AssertUnwindSafe(|| {
            for _ in 0..60 {
                in_child("one structure while others are evaluated", || {
                    assert_eq!(potential.evaluate_one(&hydrogen, Want::ENERGY).unwrap(), want);
                });
            }
        }));
        is_over.store(true, Ordering::Relaxed);
        outcome.unwrap();
    });
}

#[test]
fn forked_processes_refuse_batched_autograd_where_its_threads_are_lost() {
    let model = Arc::new(mlff::Model::load("ani2x-painn-64").unwrap());
    let autograd = Potential::builder(model).precision(Precision::F64).engine(EngineKind::Autograd).build().unwrap();
    let many = vec![waters(2); 3];
    let energies = || autograd.evaluate(&many, Want::ENERGY).into_iter().map(|got| got.map(|got| got.energy));
    in_child("before its first use", || assert!(energies().all(|energy| energy.is_ok())));
    let want: Vec<f64> = energies().map(Result::unwrap).collect();
    in_child("after its first use", || {
        if std::env::var("CANDLE_NUM_THREADS").is_ok_and(|n| n == "1") {
            assert_eq!(energies().map(Result::unwrap).collect::<Vec<_>>(), want);
        } else {
            assert!(
                energies()
                    .all(|got| matches!(got, Err(Error::Usage(reason)) if reason.contains("CANDLE_NUM_THREADS=1")))
            );
        }
    });
}
