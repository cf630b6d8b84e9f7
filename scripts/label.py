#!/usr/bin/env python3
"""Label sampled geometries with the ANI-2x ensemble.

Reads DIR/frames.npz and DIR/molecules.json (from `sample.py`) and writes DIR/train.npz, DIR/valid.npz,
DIR/test.npz and DIR/label.json (counts and filters). Energies in eV, forces in eV/Angstrom: the mean of
the eight members, computed from exactly the float32 positions that are stored. Dropped are frames

- whose energy spread exceeds `--max-energy-std` eV times sqrt(atoms),
- in which the spread of any atom's force exceeds 0.5 eV/Angstrom + 0.25 |force|,
- with a force component above `--max-force` eV/Angstrom.
"""
import argparse
import json
import os
import sys
import time
from multiprocessing import get_context
from pathlib import Path

import numpy as np

_teacher = None


def start(teacher_dir):
    global _teacher
    import torch
    torch.set_num_threads(1)
    sys.path.insert(0, str(teacher_dir))
    import ani2x_teacher
    _teacher = ani2x_teacher.Teacher()


def label_part(part):
    numbers, positions, batch = part
    return _teacher.label(numbers, positions, batch)


def take(ptr, frames):
    """Atom indices of the given frames, and their new atom_ptr."""
    count = np.diff(ptr)[frames]
    new = np.concatenate([[0], np.cumsum(count)])
    return np.repeat(ptr[:-1][frames] - new[:-1], count) + np.arange(new[-1]), new


def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("dir", type=Path)
    p.add_argument("--teacher", type=Path, default=os.environ.get("MLFF_TEACHER"),
                   required="MLFF_TEACHER" not in os.environ)
    p.add_argument("--max-energy-std", type=float, default=0.015)
    p.add_argument("--max-force", type=float, default=18.0)
    p.add_argument("--processes", type=int, default=2)
    args = p.parse_args()

    f = dict(np.load(args.dir / "frames.npz"))
    meta = json.loads((args.dir / "molecules.json").read_text())
    split_of = np.array([m["split"] for m in meta["molecules"]])
    order = np.lexsort((f["molecule"], np.diff(f["atom_ptr"])))          # equal sizes side by side
    atoms, ptr = take(f["atom_ptr"], order)
    numbers, positions = f["numbers"][atoms].astype(np.int64), f["positions"][atoms]
    molecule, kind, n_atoms = f["molecule"][order], f["kind"][order], np.diff(ptr)

    cuts = np.arange(0, len(order) + 400, 400).clip(max=len(order))
    parts = [(numbers[ptr[a]:ptr[b]], positions[ptr[a]:ptr[b]], np.repeat(np.arange(b - a), n_atoms[a:b]))
             for a, b in zip(cuts[:-1], cuts[1:]) if b > a]
    out, t0 = [], time.time()
    with get_context("spawn").Pool(args.processes, start, (args.teacher,)) as pool:
        for k, r in enumerate(pool.imap(label_part, parts), 1):
            out.append(r)
            if k % 25 == 0:
                print(f"{k}/{len(parts)} parts, {time.time() - t0:.0f} s", flush=True)
    energies, forces, energy_std, force_std = (np.concatenate(x) for x in zip(*out))

    size = np.linalg.norm(forces, axis=1)
    worst = np.maximum.reduceat(force_std - 0.25 * size, ptr[:-1])
    largest = np.maximum.reduceat(np.abs(forces).max(1), ptr[:-1])
    bad = {"energy_std": energy_std > args.max_energy_std * np.sqrt(n_atoms), "force_std": worst > 0.5,
           "max_force": largest > args.max_force, "non_finite": ~np.isfinite(energies + largest)}
    keep = ~np.any(list(bad.values()), axis=0)
    report = dict(frames=len(keep), kept=int(keep.sum()), dropped={k: int(v.sum()) for k, v in bad.items()},
                  kept_by_kind={n: f"{int(keep[kind == k].sum())} of {int((kind == k).sum())}"
                                for k, n in enumerate(meta["kinds"])},
                  max_energy_std=args.max_energy_std, max_force=args.max_force, splits={})
    for name in ("train", "valid", "test"):
        chosen = np.nonzero(keep & (split_of[molecule] == name))[0]
        a, new = take(ptr, chosen)
        np.savez(args.dir / f"{name}.npz", molecule=molecule[chosen], kind=kind[chosen], atom_ptr=new,
                 numbers=numbers[a].astype(np.uint8), positions=positions[a], energies=energies[chosen],
                 forces=forces[a].astype(np.float32), energy_std=energy_std[chosen], force_std=force_std[a].astype(np.float32))
        report["splits"][name] = dict(frames=len(chosen), atoms=int(new[-1]), molecules=len(np.unique(molecule[chosen])))
    (args.dir / "label.json").write_text(json.dumps(report, indent=1))
    print(json.dumps(report, indent=1))


if __name__ == "__main__":
    main()
