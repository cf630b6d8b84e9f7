"""Evaluates and steps in processes that multiprocessing makes by fork. Argument: the library of library.rs."""
import ctypes
import multiprocessing
import sys

library = ctypes.CDLL(sys.argv[1])
library.mlff_test_energies.restype = library.mlff_test_step.restype = ctypes.c_double
library.mlff_test_energies.argtypes = [ctypes.c_size_t]


def evaluate(n):
    return library.mlff_test_energies(n)


def step(k):
    energies = {library.mlff_test_step() for _ in range(5)}
    if k % 2:
        library.mlff_test_drop()
    energies.add(library.mlff_test_step())
    return energies


energies, energy = evaluate(40), library.mlff_test_step()
assert energies < 0 and energy < 0, (energies, energy)
fork = multiprocessing.get_context("fork")
for _ in range(2):
    with fork.Pool(2) as pool:
        assert pool.map(evaluate, [40] * 6, chunksize=1) == [energies] * 6
        assert pool.map(step, range(6), chunksize=1) == [{energy}] * 6
    assert (evaluate(40), library.mlff_test_step()) == (energies, energy)
process = fork.Process(target=library.mlff_test_drop)
process.start()
process.join()
assert process.exitcode == 0, process.exitcode
print("same energies in", 4, "workers")
