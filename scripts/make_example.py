#!/usr/bin/env python3
"""Make the example trajectory: molecular dynamics of held-out molecules with the teacher.

Langevin dynamics on the mean of the eight ANI-2x networks, 0.5 fs a step, after equilibration, a frame every
`--stride` steps, the molecules one after another. The labels `energy=` (eV) and `forces` (eV/Angstrom) belong
to exactly the positions written (rounded to seven decimals). With `--data`, refuses molecules whose scaffold
is outside the test split of `sample.py`.
"""
import argparse
import json
import os
import sys
from pathlib import Path

import numpy as np
from rdkit.Chem.Scaffolds import MurckoScaffold

import sample

MOLECULES = [
    ("6-fluorouracil", "O=c1cc(F)[nH]c(=O)[nH]1"),
    ("2-methylbutane-1,4-diol", "CC(CO)CCO"),
    ("2,4-dimethylpyrrolo[1,2-a]pyrimidine", "Cc1cc(C)n2cccc2n1"),
    ("1-(benzimidazol-2-yl)-2-chloroethanol", "OC(CCl)c1nc2ccccc2[nH]1"),
    ("2-(3-methylphenoxy)-N-(1,3,4-thiadiazol-2-yl)acetamide", "Cc1cccc(OCC(=O)Nc2nncs2)c1"),
]
SYMBOL = {1: "H", 6: "C", 7: "N", 8: "O", 9: "F", 16: "S", 17: "Cl"}


def check_held_out(data):
    """Raise unless every molecule's scaffold is in the test split, or unknown to the data."""
    table = json.loads((data / "molecules.json").read_text())["molecules"]
    split = {m["scaffold"]: m["split"] for m in table}
    for name, smiles in MOLECULES:
        scaffold = MurckoScaffold.MurckoScaffoldSmiles(smiles=smiles) or smiles
        if split.get(scaffold, "test") != "test":
            raise SystemExit(f"{name}: scaffold {scaffold} is in the {split[scaffold]} split")


def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--teacher", type=Path, default=os.environ.get("MLFF_TEACHER"),
                   required="MLFF_TEACHER" not in os.environ)
    p.add_argument("--data", type=Path, help="directory of molecules.json, to check that the molecules are held out")
    p.add_argument("--out", type=Path, default="examples/data/trajectory.xyz")
    p.add_argument("--frames", type=int, default=100, help="frames a molecule")
    p.add_argument("--stride", type=int, default=30, help="steps of 0.5 fs between frames")
    p.add_argument("--equilibrate", type=int, default=2000, help="steps before the first frame")
    p.add_argument("--temperature", type=float, default=300.0)
    p.add_argument("--seed", type=int, default=11)
    args = p.parse_args()
    if args.data:
        check_held_out(args.data)
    import torch
    torch.set_num_threads(1)
    sys.path.insert(0, str(args.teacher))
    import ani2x_teacher
    sample._teacher = teacher = ani2x_teacher.Teacher()

    items = []
    for _, smiles in MOLECULES:
        mol = sample.embed(smiles, 1, args.seed)
        items.append((np.array([a.GetAtomicNum() for a in mol.GetAtoms()]), mol.GetConformer().GetPositions()))
    s = sample.Systems(items)
    kelvin = np.full(len(s.x), args.temperature)
    x = sample.descend(s.force, s.x, 100, {100})[0]
    steps = {args.equilibrate + k * args.stride for k in range(args.frames)}
    frames = sample.langevin(s.force, x, s.masses, kelvin, max(steps), steps, 0.5,
                             np.random.default_rng(args.seed), friction=0.005)

    blocks = [[] for _ in items]
    worst = np.zeros(len(items))
    for k, x in enumerate(frames):
        centre = np.repeat([p.mean(0) for p in s.pieces(x)], s.count, axis=0)
        x = np.array([[float(f"{c:.7f}") for c in row] for row in x - centre])
        energy, force, spread, _ = teacher.label(s.numbers, x, s.batch)
        worst = np.maximum(worst, spread / np.sqrt(s.count))
        for m, (z, r, f) in enumerate(zip(s.pieces(s.numbers), s.pieces(x), s.pieces(force))):
            head = (f'Properties=species:S:1:pos:R:3:forces:R:3 energy={energy[m]:.8f} pbc="F F F" '
                    f'molecule="{MOLECULES[m][0]}" smiles="{MOLECULES[m][1]}" time_fs={0.5 * k * args.stride:.1f}')
            rows = [f"{SYMBOL[a]:<2} " + " ".join(f"{c:12.7f}" for c in p) + " " + " ".join(f"{c:10.6f}" for c in q)
                    for a, p, q in zip(z, r, f)]
            blocks[m].append("\n".join([str(len(z)), head] + rows) + "\n")
    args.out.parent.mkdir(parents=True, exist_ok=True)
    args.out.write_text("".join("".join(b) for b in blocks))
    for (name, _), n, w in zip(MOLECULES, s.count, worst):
        print(f"{name}: {n} atoms, {args.frames} frames, largest energy std {w:.4f} eV sqrt(atoms)")


if __name__ == "__main__":
    main()
