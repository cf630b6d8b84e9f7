//! Model of a session's threads: a task is done once, all are done when `run` returns, and a helper's panic reaches the caller.
#![allow(dead_code)]

#[path = "../../../src/engine/adjoint/crew.rs"]
mod crew;

/// No process forks here.
mod fork {
    pub fn watch() {}
    pub fn generation() -> u32 {
        0
    }
}

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::time::Duration;

use loom::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

/// Tries what `n_helpers` do in `n_jobs`, with up to `preemptions` at places where nobody has to wait.
fn check(what: &str, n_helpers: usize, preemptions: usize, job: impl Fn(&mut crew::Crew) + Send + Sync + 'static) {
    let mut model = loom::model::Builder::new();
    model.preemption_bound = Some(preemptions);
    model.max_branches = 100_000;
    model.max_duration = Some(Duration::from_secs(20));
    let (count, counted) = (Arc::new(AtomicU64::new(0)), std::sync::atomic::Ordering::Relaxed);
    let executions = count.clone();
    model.check(move || {
        executions.fetch_add(1, counted);
        job(&mut crew::Crew::new(n_helpers).unwrap());
    });
    println!("{what}, {n_helpers} helpers: {} executions", count.load(counted));
}

fn every_task_once(crew: &mut crew::Crew, n_jobs: usize) {
    for _ in 0..n_jobs {
        let (next, done) = (AtomicUsize::new(0), AtomicUsize::new(0));
        crew.run(&|_| {
            while next.fetch_add(1, Ordering::Relaxed) < 2 {
                done.fetch_add(1, Ordering::Release);
            }
        });
        assert_eq!(done.load(Ordering::Acquire), 2);
    }
}

fn panic_arrives(crew: &mut crew::Crew) {
    let panicked = AtomicBool::new(false);
    let outcome = catch_unwind(AssertUnwindSafe(|| {
        crew.run(&|k| {
            if k > 0 {
                panicked.store(true, Ordering::Release);
                // Without the hook, which would print it each time.
                std::panic::resume_unwind(Box::new("a helper's part fails"));
            }
        });
    }));
    assert_eq!(outcome.is_err(), panicked.load(Ordering::Acquire));
    every_task_once(crew, 1);
}

fn main() {
    for n_jobs in 1..=3 {
        check(&format!("{n_jobs} jobs"), 1, 3, move |crew| every_task_once(crew, n_jobs));
    }
    check("1 jobs", 2, 2, |crew| every_task_once(crew, 1));
    check("a panic", 1, 3, panic_arrives);
    check("a panic", 2, 2, panic_arrives);
}
