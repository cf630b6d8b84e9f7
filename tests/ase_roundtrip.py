"""Read files that mlff has written with ASE and compare them with a list of what they must hold.

Usage: ase_roundtrip.py EXPECTED.json, as tests/ase_roundtrip.rs writes it: for each file its path, the prefix of the
results, and for each frame the structure, the results (null where there are none), and entries that were carried through.
"""

import json
import sys
import traceback

import numpy as np
from ase.io import read

# Batches of other sizes add up in another order; the text itself has all digits.
TOLERANCE = dict(rtol=1e-10, atol=1e-10)


def check_close(what, got, want):
    got, want = np.asarray(got, dtype=float), np.asarray(want, dtype=float)
    assert got.shape == want.shape, f"{what}: shape {got.shape}, expected {want.shape}"
    assert np.allclose(got, want, **TOLERANCE), f"{what}: {got}, expected {want}"


def check_equal(what, got, want):
    got, want = np.asarray(got), np.asarray(want)
    assert np.array_equal(got, want), f"{what}: {got!r}, expected {want!r}"


def check_structure(atoms, want):
    n_atoms = len(want["numbers"])
    check_equal("numbers", atoms.numbers, np.array(want["numbers"], dtype=int))
    check_equal("positions", atoms.positions, np.array(want["positions"], dtype=float).reshape(n_atoms, 3))
    check_equal("cell", np.array(atoms.cell), np.zeros((3, 3)) if want["cell"] is None else want["cell"])
    check_equal("pbc", atoms.pbc, want["pbc"])


def check_prefixed(atoms, prefix, want):
    """Results in `info` and `arrays`; what the file had of its own is in the calculator, as ASE does with labels."""
    info = dict(atoms.info)
    for name in ("energy", "stress"):
        assert (prefix + name in info) == (want[name] is not None), f"{prefix}{name} in {sorted(info)}"
    assert (prefix + "forces" in atoms.arrays) == (want["forces"] is not None), sorted(atoms.arrays)
    assert prefix + "free_energy" not in info
    if want["energy"] is not None:
        check_close("energy", info[prefix + "energy"], want["energy"])
        check_close("forces", atoms.arrays[prefix + "forces"], np.reshape(want["forces"], (len(atoms), 3)))
    if want["stress"] is not None:
        # ASE makes a matrix of nine numbers, by columns; symmetric, so it does not matter.
        check_close("stress", np.reshape(info[prefix + "stress"], (3, 3)), want["stress"])
    if "labels" in want:
        labels = want["labels"]
        check_equal("label energy", atoms.get_potential_energy(), labels["energy"])
        check_equal("label forces", atoms.get_forces(apply_constraint=False), labels["forces"])
        check_equal("label stress", atoms.get_stress(voigt=False), labels["stress"])


def check_calculator(atoms, want):
    """Results under the names that ASE's calculator answers with."""
    if want["energy"] is None:
        return
    results = atoms.calc.results
    check_close("energy", atoms.get_potential_energy(), want["energy"])
    check_close("free energy", atoms.get_potential_energy(force_consistent=True), want["energy"])
    check_close("forces", atoms.get_forces(apply_constraint=False), np.reshape(want["forces"], (len(atoms), 3)))
    if want["stress"] is None:
        assert "stress" not in results or not all(want["pbc"]), "stress of a frame that is not periodic"
    else:
        check_close("stress", atoms.get_stress(voigt=False), want["stress"])


def check_carried(atoms, want):
    for key, value in want.get("info", {}).items():
        check_equal(f"info[{key}]", atoms.info[key], value)
    for name, value in want.get("arrays", {}).items():
        # ASE takes some columns, such as charges, for results of a calculator.
        got = atoms.arrays[name] if name in atoms.arrays else atoms.calc.results[name]
        check_equal(f"column {name}", got, value)


def check_file(entry):
    frames = read(entry["file"], index=":", format="extxyz")
    assert len(frames) == len(entry["frames"]), f"{len(frames)} frames, expected {len(entry['frames'])}"
    for k, (atoms, want) in enumerate(zip(frames, entry["frames"])):
        try:
            check_structure(atoms, want)
            check_carried(atoms, want)
            if entry["prefix"]:
                check_prefixed(atoms, entry["prefix"], want)
            else:
                check_calculator(atoms, want)
        except Exception as e:
            raise AssertionError(f"frame {k}: {e}") from e
    return len(frames)


def main():
    with open(sys.argv[1]) as file:
        entries = json.load(file)
    n_frames = n_failed = 0
    for entry in entries:
        try:
            n_frames += check_file(entry)
        except Exception as e:
            n_failed += 1
            print(f"{entry['source']}, prefix '{entry['prefix']}': {e}")
            if not isinstance(e, AssertionError):
                traceback.print_exc()
    print(f"ASE read {n_frames} frames in {len(entries)} files; {n_failed} files are wrong")
    sys.exit(1 if n_failed else 0)


if __name__ == "__main__":
    main()
