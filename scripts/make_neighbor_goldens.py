#!/usr/bin/env python3
"""Writes tests/data/neighbors/ase.json.gz: neighbour lists by ASE, the oracle of tests/neighbors_golden.rs.

Needs ase and numpy. `--reference DIR` adds the structures of DIR/painn-*/expected.json with their cutoffs and edge
counts; without it those of the present file are kept.

The file is a list of {name, cutoff, positions, cell, pbc, n_edges, edges, distances}: `edges` are flat
[i, j, s0, s1, s2, ...] sorted, `distances` in Å to 12 decimals. `n_edges` is the count given by the reference where
there is one (SchNetPack's neighbour list), else null.
"""

import argparse
import gzip
import json
from pathlib import Path

import numpy as np
from ase import Atoms
from ase.build import bulk, fcc111, graphene, molecule, nanotube
from ase.neighborlist import neighbor_list

OUTPUT = Path(__file__).resolve().parent.parent / "tests/data/neighbors/ase.json.gz"
CUTOFFS = {"painn-f128-gaussian": 5.0, "painn-f64-bessel": 4.0}


def case(name, cutoff, atoms, n_edges=None):
    """One entry. Refuses structures with a pair too close to the cutoff for rounding to agree."""
    near = neighbor_list("d", atoms, cutoff + 1e-7, self_interaction=False)
    assert not np.any(np.abs(near - cutoff) < 1e-7), f"{name}: a pair lies at the cutoff"
    i, j, d, s = neighbor_list("ijdS", atoms, cutoff, self_interaction=False)
    order = np.lexsort((s[:, 2], s[:, 1], s[:, 0], j, i))
    edges = np.column_stack((i, j, s))[order]
    return {
        "name": name,
        "cutoff": cutoff,
        "positions": atoms.positions.tolist(),
        "cell": np.asarray(atoms.cell).tolist(),
        "pbc": [bool(p) for p in atoms.pbc],
        "n_edges": n_edges,
        "edges": edges.ravel().tolist(),
        "distances": np.round(d[order], 12).tolist(),
    }


def reference_cases(directory):
    for model, cutoff in CUTOFFS.items():
        for k, entry in enumerate(json.loads((directory / model / "expected.json").read_text())):
            atoms = Atoms(entry["symbols"], entry["positions"], cell=entry["cell"], pbc=entry["pbc"])
            yield case(f"{model}/{k}", cutoff, atoms, entry["n_edges"])


def kept_cases():
    with gzip.open(OUTPUT, "rt") as file:
        return [entry for entry in json.load(file) if entry["name"].startswith(tuple(CUTOFFS))]


def generated_cases():
    rng = np.random.default_rng(20240607)
    for name in ["CH3CH2OH", "C6H6", "CH3CH2NH2"]:
        yield case(f"molecule {name}", 3.1, molecule(name))
    yield case("molecule in a box that does not repeat", 2.9, molecule("C6H6", cell=[20, 20, 20], pbc=False))
    yield case("copper, primitive", 5.3, bulk("Cu", "fcc", a=3.61))
    yield case("copper, long cutoff", 9.5, bulk("Cu", "fcc", a=3.61))
    yield case("magnesium, hexagonal", 6.1, bulk("Mg", "hcp", a=3.21, c=5.21))
    yield case("silicon, cubic", 6.2, bulk("Si", "diamond", a=5.43, cubic=True))
    yield case("caesium chloride", 6.6, bulk("CsCl", "cesiumchloride", a=4.12))
    slab = fcc111("Al", (2, 2, 3), a=4.05, vacuum=8.0)
    slab.pbc = (True, True, False)
    yield case("aluminium slab", 5.1, slab)
    sheet = graphene(size=(2, 2, 1))
    sheet.cell[2] = 0.0
    sheet.pbc = (True, True, False)
    yield case("graphene, third lattice vector zero", 4.0, sheet)
    tube = nanotube(5, 0, length=1)
    tube.pbc = (False, False, True)
    yield case("nanotube, two lattice vectors zero", 4.5, tube)
    chain = Atoms("H2", [[0, 0, 0], [0.4, 0.3, 0.2]], cell=[[0, 0, 0], [0, 1.3, 0.4], [0, 0, 0]], pbc=(False, True, False))
    yield case("chain along a tilted second lattice vector", 4.0, chain)
    yield case("one atom in a small box", 6.05, Atoms("Ar", [[0.1, 0.2, 0.3]], cell=[2.1, 2.3, 2.7], pbc=True))
    for k, pbc in enumerate(np.ndindex(2, 2, 2)):
        cell = rng.uniform(-1.5, 1.5, (3, 3)) + np.diag([6.0, 5.0, 7.0]) * (1 if k % 2 else -1)
        fractional = rng.uniform(-2.0, 3.0, (12, 3))
        yield case(f"random triclinic, pbc {pbc}", 4.3, Atoms("C12", fractional @ cell, cell=cell, pbc=pbc))
    thin = np.array([[6.0, 0, 0], [5.0, 1.6, 0], [4.0, 0.7, 2.2]])
    yield case("thin cell", 5.2, Atoms("C3", rng.uniform(-1, 2, (3, 3)) @ thin, cell=thin, pbc=True))
    left = np.array([[0, 5.1, 0.3], [5.4, 0.2, 0], [0.1, 0, 4.7]])
    yield case("left-handed cell", 6.0, Atoms("C5", rng.uniform(0, 1, (5, 3)) @ left, cell=left, pbc=True))
    box = np.diag([16.0, 15.0, 17.0])
    yield case("liquid, linked cells", 4.5, Atoms("O300", rng.uniform(0, 1, (300, 3)) @ box, cell=box, pbc=True))
    yield case("droplet, linked cells", 3.5, Atoms("O300", rng.uniform(0, 1, (300, 3)) @ box))
    yield case("far images", 5.0, Atoms("O6", rng.uniform(0, 6, (6, 3)) + rng.integers(-9, 9, (6, 3)) * 6.0, cell=[6, 6, 6], pbc=True))


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--reference", type=Path, help="directory with painn-*/expected.json")
    arguments = parser.parse_args()
    cases = list(reference_cases(arguments.reference)) if arguments.reference else kept_cases()
    cases += generated_cases()
    OUTPUT.parent.mkdir(parents=True, exist_ok=True)
    text = "[\n" + ",\n".join(json.dumps(entry, separators=(",", ":")) for entry in cases) + "\n]\n"
    OUTPUT.write_bytes(gzip.compress(text.encode(), mtime=0))
    print(f"{len(cases)} structures, {sum(len(c['distances']) for c in cases)} edges, {OUTPUT.stat().st_size} bytes")


if __name__ == "__main__":
    main()
