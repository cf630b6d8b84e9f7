#!/usr/bin/env python3
"""Measure what a training set covers, for `training_range` of a model's config.json.

Reads labelled frames: extended XYZ (`energy=` in eV, column `forces:R:3` in eV/Angstrom, positions in Angstrom) or the .npz files
of `label.py`. Prints JSON:

- min_distances: the smallest distance of each pair of elements, Angstrom, for pairs that come closer than the cutoff;
- max_force: the largest force on an atom, eV/Angstrom;
- energy_per_atom: smallest and largest energy an atom of a frame, less the model's atomic energies, eV;
- measured_on: what was read, or --note.

With `--write`, puts it into the model's config.json. `mlff` marks results outside of it and refuses those far outside.
Periodic frames need ASE for their neighbours.
"""
import argparse
import json
import re
import sys
from pathlib import Path

import numpy as np

SYMBOLS = (
    "X H He Li Be B C N O F Ne Na Mg Al Si P S Cl Ar K Ca Sc Ti V Cr Mn Fe Co Ni Cu Zn Ga Ge As Se Br Kr Rb Sr Y Zr Nb Mo Tc Ru "
    "Rh Pd Ag Cd In Sn Sb Te I Xe Cs Ba La Ce Pr Nd Pm Sm Eu Gd Tb Dy Ho Er Tm Yb Lu Hf Ta W Re Os Ir Pt Au Hg Tl Pb Bi Po At Rn "
    "Fr Ra Ac Th Pa U Np Pu Am Cm Bk Cf Es Fm Md No Lr Rf Db Sg Bh Hs Mt Ds Rg Cn Nh Fl Mc Lv Ts Og"
).split()


class Range:
    """What the frames so far cover."""

    def __init__(self, cutoff, atomic_energies):
        self.cutoff, self.atomic = cutoff, atomic_energies
        self.nearest = np.full((len(SYMBOLS), len(SYMBOLS)), np.inf)
        self.max_force, self.low, self.high, self.n_frames, self.n_atoms = 0.0, np.inf, -np.inf, 0, 0

    def add(self, numbers, positions, energy, forces, cell=None, pbc=(False,) * 3):
        """Takes a frame."""
        i, j, d = pairs(positions, cell, pbc, self.cutoff)
        np.minimum.at(self.nearest, (numbers[i], numbers[j]), d)
        per_atom = (energy - self.atomic[numbers].sum()) / len(numbers)
        self.low, self.high = min(self.low, per_atom), max(self.high, per_atom)
        self.max_force = max(self.max_force, np.linalg.norm(forces, axis=1).max())
        self.n_frames += 1
        self.n_atoms += len(numbers)

    def report(self):
        """As config.json has it, rounded outwards."""
        distances = {}
        for a, b in zip(*np.nonzero(np.isfinite(np.minimum(self.nearest, self.nearest.T)))):
            if a <= b:
                d = min(self.nearest[a, b], self.nearest[b, a])
                distances[f"{SYMBOLS[a]}-{SYMBOLS[b]}"] = np.floor(1000 * d) / 1000
        return {
            "min_distances": distances,
            "max_force": np.ceil(1000 * self.max_force) / 1000,
            "energy_per_atom": [np.floor(1e4 * self.low) / 1e4, np.ceil(1e4 * self.high) / 1e4],
        }


def pairs(positions, cell, pbc, cutoff):
    """Atoms i, j and distances of all pairs within the cutoff."""
    if any(pbc):
        from ase.neighborlist import primitive_neighbor_list

        return primitive_neighbor_list("ijd", pbc, cell, positions, cutoff)
    i, j = np.triu_indices(len(positions), 1)
    d = np.linalg.norm(positions[i] - positions[j], axis=1)
    near = d <= cutoff
    return i[near], j[near], d[near]


def read_xyz(path):
    """Frames of an extended XYZ file."""
    lines, at = Path(path).read_text().splitlines(), 0
    while at < len(lines):
        if not lines[at].strip():
            at += 1
            continue
        n, comment = int(lines[at]), lines[at + 1]
        energy = re.search(r"(?:^|\s)energy=(\S+)", comment)
        properties = re.search(r"Properties=(\S+)", comment)
        where, first = {}, 0
        columns = properties.group(1).split(":") if properties else []
        for name, count in zip(columns[::3], columns[2::3]):
            where[name], first = (first, first + int(count)), first + int(count)
        if not energy or not {"species", "pos", "forces"} <= set(where):
            raise SystemExit(f"{path}, line {at + 2}: expected energy= and columns species, pos and forces")
        rows = [line.split() for line in lines[at + 2 : at + 2 + n]]
        column = lambda key: np.array([[float(x) for x in row[slice(*where[key])]] for row in rows])
        numbers = np.array([SYMBOLS.index(row[where["species"][0]]) for row in rows])
        lattice = re.search(r'Lattice="([^"]*)"', comment)
        cell = np.array(lattice.group(1).split(), float).reshape(3, 3) if lattice else None
        said = re.search(r'pbc="([^"]*)"', comment)
        pbc = [x.upper().startswith("T") for x in said.group(1).split()] if said else [lattice is not None] * 3
        yield numbers, column("pos"), float(energy.group(1)), column("forces"), cell, pbc
        at += n + 2


def read_npz(path):
    """Frames of a file of label.py."""
    f = np.load(path)
    numbers, positions, forces = f["numbers"].astype(int), f["positions"].astype(float), f["forces"].astype(float)
    for energy, a, b in zip(f["energies"], f["atom_ptr"][:-1], f["atom_ptr"][1:]):
        yield numbers[a:b], positions[a:b], float(energy), forces[a:b]


def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("model", type=Path, help="model directory, for its cutoff and atomic energies")
    p.add_argument("frames", type=Path, nargs="+", help="labelled frames, .xyz or .npz")
    p.add_argument("--note", help="what the frames are")
    p.add_argument("--write", action="store_true", help="put it into the model's config.json")
    args = p.parse_args()
    path = args.model / "config.json"
    config = json.loads(path.read_text())
    atomic = np.zeros(len(SYMBOLS))
    for z, energy in config.get("atomic_energies", {}).items():
        atomic[int(z)] = energy
    found = Range(config["cutoff"], atomic)
    for frames in args.frames:
        for frame in read_npz(frames) if frames.suffix == ".npz" else read_xyz(frames):
            found.add(*frame)
    report = found.report()
    report["measured_on"] = args.note or f"{found.n_frames} frames of {', '.join(f.name for f in args.frames)}"
    print(json.dumps(report, indent=2))
    summary = f"{found.n_frames} frames, {found.n_atoms} atoms"
    if args.write:
        out = {}
        for key, value in config.items():
            if key == "training":
                out["training_range"] = report
            if key != "training_range":
                out[key] = value
        out.setdefault("training_range", report)
        path.write_text(json.dumps(out, indent=2) + "\n")
        summary += f"; written to {path}"
    print(summary, file=sys.stderr)


if __name__ == "__main__":
    main()
