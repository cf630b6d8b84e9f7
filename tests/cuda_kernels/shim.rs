//! The host in place of a device finds the faults that it is there to find.

use mlff::cuda::{Arg, Backend, Launch};

use crate::host::{Host, say};

/// What one faulty kernel writes with the threads in rising and in falling order, or the error.
fn run(kernel: &str) -> Option<Vec<mlff::Result<Vec<u8>>>> {
    let outputs = [false, true].map(|falling| {
        let mut host = Host::start().map_err(|why| say(&format!("\nSKIPPED: {kernel}: {why}\n"))).ok()?;
        host.falling = falling;
        let mut bytes = vec![0; 256];
        let address = host.upload(&bytes).unwrap();
        let launch = Launch {
            kernel: kernel.into(),
            grid: [1; 3],
            block: 64,
            cluster: 1,
            shared_bytes: 256,
            args: vec![Arg::Word(address)],
        };
        // SAFETY: the kernels are written to do harm, in a process of their own.
        let done = unsafe { host.launch(&launch).and_then(|()| host.download(address, &mut bytes)) };
        Some(done.map(|()| bytes))
    });
    outputs.into_iter().collect()
}

#[test]
fn host_shows_a_missing_barrier() {
    let Some(outputs) = run("faulty_race") else { return };
    assert_ne!(outputs[0].as_ref().unwrap(), outputs[1].as_ref().unwrap());
}

#[test]
fn host_refuses_a_barrier_that_some_threads_miss() {
    let Some(outputs) = run("faulty_barrier") else { return };
    for output in outputs {
        let text = output.unwrap_err().to_string();
        assert!(text.contains("faulty_barrier: a barrier or a shuffle was not reached by all threads"), "{text}");
    }
}

#[test]
fn host_ends_at_accesses_outside_arrays() {
    for kernel in ["faulty_shared", "faulty_array"] {
        let Some(outputs) = run(kernel) else { return };
        assert!(outputs.iter().all(|output| output.is_err()), "{kernel}");
    }
}
