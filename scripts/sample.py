#!/usr/bin/env python3
"""Sample molecular geometries for distillation.

Picks molecules from a SMILES list, splits them by Murcko scaffold into train, valid and test, and
samples geometries of each: force-field Langevin dynamics, relaxations and Langevin dynamics with one
member of the teacher ensemble, random displacements, stretched and compressed bonds, random torsions
(near contacts), dimers from touching to apart, and a few tiny molecules.

Writes OUT/frames.npz (unlabelled) and OUT/molecules.json. `label.py` comes next.
Positions are in Angstrom, energies in eV, masses in atomic mass units, time in fs.
"""
import argparse
import json
import os
import sys
import time
from multiprocessing import get_context
from pathlib import Path

import numpy as np
from rdkit import Chem, RDLogger
from rdkit.Chem import AllChem
from rdkit.Chem.Scaffolds import MurckoScaffold

RDLogger.DisableLog("rdApp.*")
SPLITS = ("train", "valid", "test")
KINDS = ("relax", "force_field_md", "teacher_md", "displaced", "bond", "torsion", "dimer", "dimer_md", "tiny")
KCAL = 0.0433641                  # eV
KB = 8.617333e-5                  # eV/K
ACC = 9.6485332e-3                # eV/(Angstrom u) in Angstrom/fs^2
VDW = {1: 1.10, 6: 1.70, 7: 1.55, 8: 1.52, 9: 1.47, 16: 1.80, 17: 1.75}
MASS = {1: 1.008, 6: 12.011, 7: 14.007, 8: 15.999, 9: 18.998, 16: 32.06, 17: 35.45}
TINY = ["[H][H]", "O", "C", "N", "F", "Cl", "S", "C#C", "C=C", "CC", "CO", "C#N", "C=O", "O=C=O", "N#N", "[C-]#[O+]",
        "FF", "ClCl", "OO", "NN", "CF", "CCl", "CS", "CN", "O=CO", "NC=O", "OF", "OCl", "N=N", "COC", "CC=O", "C=S",
        "S=C=S", "O=C=S", "SS", "CSC", "CC#N", "NO", "FC(F)F", "ClC(Cl)Cl", "FC(F)(F)F", "CC(N)=O", "CC(=O)O"]
_teacher = None


def read_smiles(path):
    """(SMILES, source) pairs, duplicates removed."""
    seen, rows = set(), []
    for line in open(path):
        smiles, source = line.rstrip("\n").split("\t")[:2]
        if smiles not in seen:
            seen.add(smiles)
            rows.append((smiles, source))
    return rows


def select(rows, n_molecules, rng):
    """Choose molecules: small ones first, with more weight on the elements that are rare in the list."""
    keep, weight = [], []
    for smiles, source in rows:
        mol = Chem.MolFromSmiles(smiles)
        if mol is None:
            continue
        numbers = [a.GetAtomicNum() for a in mol.GetAtoms()]
        if not set(numbers) <= set(VDW):
            continue
        n = len(numbers)
        w = 1.0 if n <= 9 else 0.6 if n <= 12 else 0.30 if n <= 14 else 0.05 if n <= 18 else 0.02
        w *= 2.5 if {9, 16, 17} & set(numbers) else 1.0
        keep.append((smiles, source, n))
        weight.append(w)
    weight = np.array(weight)
    order = np.argsort(-np.log(rng.random(len(weight))) / weight)      # weighted sampling without replacement
    return [keep[k] for k in order[:n_molecules]]


def split_by_scaffold(molecules, fractions, rng):
    """Split name of each molecule. The unit is the Murcko scaffold; an acyclic molecule is its own unit.

    Scaffolds that hold more than 1 % of the molecules (benzene and such) always go to train.
    """
    units = {}
    for k, (smiles, _, _) in enumerate(molecules):
        scaffold = MurckoScaffold.MurckoScaffoldSmiles(smiles=smiles) or smiles
        units.setdefault(scaffold, []).append(k)
    split, scaffolds = [""] * len(molecules), [""] * len(molecules)
    for scaffold in sorted(units):
        members = units[scaffold]
        x = rng.random()
        name = "test" if x < fractions[1] else "valid" if x < sum(fractions) else "train"
        if len(members) > 0.01 * len(molecules):
            name = "train"
        for k in members:
            split[k], scaffolds[k] = name, scaffold
    return split, scaffolds


def embed(smiles, n_conformers, seed):
    """RDKit molecule with hydrogens and force-field-minimised conformers, or None."""
    mol = Chem.AddHs(Chem.MolFromSmiles(smiles))
    ids = list(AllChem.EmbedMultipleConfs(mol, n_conformers, randomSeed=seed, maxAttempts=20))
    if not ids:
        return None
    for c in ids:
        field = force_field(mol, c)
        if field is not None:
            field.Minimize(maxIts=200)
    return mol


def force_field(mol, conformer):
    """MMFF94 where its parameters exist, else UFF, else None."""
    props = AllChem.MMFFGetMoleculeProperties(mol)
    if props is not None:
        return AllChem.MMFFGetMoleculeForceField(mol, props, confId=conformer)
    if AllChem.UFFHasAllMoleculeParams(mol):
        return AllChem.UFFGetMoleculeForceField(mol, confId=conformer)
    return None


def field_force(conformer, field):
    """Forces of the force field as a function of positions, eV/Angstrom."""
    def force(x):
        # CalcGrad(positions) mixes in distances cached earlier: move the conformer and drop the cache.
        conformer.SetPositions(np.ascontiguousarray(x))
        field.Initialize()
        return -KCAL * np.array(field.CalcGrad()).reshape(-1, 3)
    return force


def langevin(force, x, masses, temperature, n_steps, save, dt, rng, friction=0.02):
    """BAOAB Langevin dynamics. `temperature` per atom, K; returns the positions at the steps in `save`."""
    m = masses[:, None]
    sigma = np.sqrt(KB * temperature[:, None] / m * ACC)
    c = np.exp(-friction * dt)
    v = sigma * rng.standard_normal(x.shape)
    f, out = force(x), []
    for step in range(1, n_steps + 1):
        v = v + 0.5 * dt * ACC * np.clip(f, -30, 30) / m
        x = x + 0.5 * dt * v
        v = c * v + np.sqrt(1 - c * c) * sigma * rng.standard_normal(x.shape)
        x = x + 0.5 * dt * v
        f = force(x)
        v = v + 0.5 * dt * ACC * np.clip(f, -30, 30) / m
        if step in save:
            out.append(x.copy())
    return out


def descend(force, x, n_steps, save):
    """Steepest descent with capped steps: enough to leave the force field's bond lengths."""
    out = []
    for step in range(1, n_steps + 1):
        move = 0.012 * force(x)
        x = x + np.clip(move, -0.05, 0.05)
        if step in save:
            out.append(x.copy())
    return out


class Systems:
    """Several molecules side by side, for batched teacher calls."""

    def __init__(self, items):
        self.numbers = np.concatenate([z for z, _ in items])
        self.x = np.concatenate([x for _, x in items])
        self.count = np.array([len(z) for z, _ in items])
        self.batch = np.repeat(np.arange(len(items)), self.count)
        self.masses = np.array([MASS[z] for z in self.numbers])

    def force(self, x):
        return _teacher.label(self.numbers, x, self.batch, force_spread=False)[1]

    def pieces(self, x):
        return np.split(x, np.cumsum(self.count)[:-1])


def side_of_bond(mol, i, j):
    """Atoms on j's side of bond i-j, or only j where the bond is in a ring."""
    if mol.GetBondBetweenAtoms(i, j).IsInRing():
        return [j]
    seen, todo = {i, j}, [j]
    while todo:
        for a in mol.GetAtomWithIdx(todo.pop()).GetNeighbors():
            if a.GetIdx() not in seen:
                seen.add(a.GetIdx())
                todo.append(a.GetIdx())
    return sorted(seen - {i})


def scale_bond(mol, x, rng):
    """One bond stretched or compressed."""
    bond = mol.GetBondWithIdx(int(rng.integers(mol.GetNumBonds())))
    i, j = bond.GetBeginAtomIdx(), bond.GetEndAtomIdx()
    if rng.random() < 0.5:
        i, j = j, i
    x = x.copy()
    x[side_of_bond(mol, i, j)] += (x[j] - x[i]) * (rng.uniform(0.78, 1.40) - 1)
    return x


def rotation(rng):
    q, r = np.linalg.qr(rng.standard_normal((3, 3)))
    q *= np.sign(np.diag(r))
    return q * np.sign(np.linalg.det(q))


def twist(mol, x, rng):
    """Acyclic single bonds turned at random: crowded geometries and near contacts."""
    bonds = [b for b in mol.GetBonds() if not b.IsInRing() and min(b.GetBeginAtom().GetDegree(),
             b.GetEndAtom().GetDegree()) > 1 and b.GetBondTypeAsDouble() == 1.0]
    if not bonds:
        return None
    x = x.copy()
    for b in bonds:
        if rng.random() < 0.6:
            i, j = b.GetBeginAtomIdx(), b.GetEndAtomIdx()
            k = (x[j] - x[i]) / np.linalg.norm(x[j] - x[i])
            a, s = rng.uniform(-np.pi, np.pi), side_of_bond(mol, i, j)
            d = x[s] - x[j]
            x[s] = x[j] + d * np.cos(a) + np.cross(k, d) * np.sin(a) + np.outer(d @ k, k) * (1 - np.cos(a))
    return x


def place(a, b, ratio, rng):
    """Put b beside a in a random direction so that the closest pair is at ratio * (sum of vdW radii)."""
    (za, xa), (zb, xb) = a, b
    xa = (xa - xa.mean(0)) @ rotation(rng)
    xb = (xb - xb.mean(0)) @ rotation(rng)
    u = rng.standard_normal(3)
    u /= np.linalg.norm(u)
    radii = np.array([VDW[z] for z in za])[:, None] + np.array([VDW[z] for z in zb])
    near = lambda t: (np.linalg.norm(xa[:, None] - (xb + t * u)[None], axis=2) / radii).min() - ratio
    t = 30.0
    while near(t) > 0 and t > 0:                                       # come closer until the first contact
        t -= 0.05
    return np.concatenate([za, zb]), np.concatenate([xa, xb + t * u])


def too_close(x, limit=0.55):
    d = np.linalg.norm(x[:, None] - x[None], axis=2)
    return d[np.triu_indices(len(x), 1)].min() < limit


def start(teacher_dir):
    global _teacher
    import torch
    torch.set_num_threads(1)
    sys.path.insert(0, str(teacher_dir))
    import ani2x_teacher
    _teacher = ani2x_teacher.Teacher(members=[0])


def sample_chunk(task):
    """Frames (molecule id, kind, numbers, positions) of some molecules of one split."""
    seed, molecules, tiny = task
    rng = np.random.default_rng(seed)
    frames, mols, items, ids = [], [], [], []
    add = lambda k, kind, z, x: None if too_close(x) else frames.append((k, KINDS.index(kind), z, x))

    for k, smiles in molecules:
        mol = embed(smiles, 2, int(rng.integers(1 << 30)))
        if mol is None:
            continue
        z = np.array([a.GetAtomicNum() for a in mol.GetAtoms()])
        xs = [c.GetPositions() for c in mol.GetConformers()]
        mols.append(mol), items.append((z, xs[0])), ids.append(k)
        if tiny:
            for _ in range(25):
                add(k, "tiny", z, xs[0] + rng.standard_normal(xs[0].shape) * np.exp(rng.uniform(np.log(.01), np.log(.2))))
                add(k, "tiny", z, scale_bond(mol, xs[0], rng))
            continue
        field = force_field(mol, 0)
        if field is not None:
            masses = np.array([MASS[a] for a in z])
            force = field_force(mol.GetConformer(0), field)
            kelvin = np.full(len(z), rng.choice([200., 400., 700., 1000.]))
            for x in langevin(force, xs[-1], masses, kelvin, 160, (80, 160), 1.0, rng):
                add(k, "force_field_md", z, x)

    if not items:
        return frames
    s = Systems(items)
    relaxed = descend(s.force, s.x, 40, (8, 40))
    for x in relaxed:
        for k, z, p in zip(ids, [z for z, _ in items], s.pieces(x)):
            add(k, "tiny" if tiny else "relax", z, p)
    kelvin = np.repeat(rng.choice([100., 200., 300., 400., 500., 700., 1000.], len(items)), s.count)
    n_steps, save = (1200, range(40, 1201, 40)) if tiny else (100, (20, 40, 60, 80, 100))
    last = relaxed[-1]
    for x in langevin(s.force, last, s.masses, kelvin, n_steps, set(save), 0.5 if tiny else 1.0, rng):
        for k, z, p in zip(ids, [z for z, _ in items], s.pieces(x)):
            if np.ptp(p, axis=0).max() < 25:
                add(k, "tiny" if tiny else "teacher_md", z, p)
        last = x

    minima, hot = s.pieces(relaxed[-1]), s.pieces(last)
    if not tiny:
        for k, mol, (z, _), x0, x1 in zip(ids, mols, items, minima, hot):
            sigma = np.exp(rng.uniform(np.log(0.02), np.log(0.10)))
            add(k, "displaced", z, x0 + sigma * rng.standard_normal(x0.shape))
            add(k, "bond", z, scale_bond(mol, x1 if rng.random() < 0.5 else x0, rng))
            x = twist(mol, x1, rng)
            if x is not None and rng.random() < 0.5 and not too_close(x, 0.9):
                add(k, "torsion", z, x)

    # Dimers of molecules in this chunk; every second one with a tiny molecule, water most often.
    small = [n for n in range(len(items)) if len(items[n][0]) <= 20]
    pairs = []
    for a in small:
        for _ in range(4 if tiny else 2):
            if rng.random() < 0.5:
                name = "O" if rng.random() < 0.4 else TINY[int(rng.integers(1, len(TINY)))]
                mol = embed(name, 1, 7)
                if mol is None:
                    continue
                b = (np.array([c.GetAtomicNum() for c in mol.GetAtoms()]), mol.GetConformer().GetPositions())
            else:
                n = int(rng.choice(small))
                b = (items[n][0], hot[n])
            near = rng.uniform(0.45, 0.85) if rng.random() < 0.4 else rng.uniform(0.75, 1.5)
            pairs.append((ids[a], place((items[a][0], hot[a]), b, near, rng)))
    for k, (z, x) in pairs:
        add(k, "dimer", z, x)
    moving = [p for p in pairs if not too_close(p[1][1], 1e-3)][::4]
    if moving:
        s = Systems([p[1] for p in moving])
        x = descend(s.force, s.x, 30, (15, 30))
        kelvin = np.repeat(rng.choice([100., 300., 500.], len(moving)), s.count)
        for y in [x[0]] + langevin(s.force, x[-1], s.masses, kelvin, 80, {40, 80}, 1.0, rng):
            for (k, (z, _)), p in zip(moving, s.pieces(y)):
                add(k, "dimer_md", z, p)
    return frames


def load(path):
    """The frames of an earlier run."""
    f = dict(np.load(path))
    cut = f["atom_ptr"][1:-1]
    return list(zip(f["molecule"].tolist(), f["kind"].tolist(), np.split(f["numbers"], cut), np.split(f["positions"], cut)))


def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--teacher", type=Path, default=os.environ.get("MLFF_TEACHER"),
                   required="MLFF_TEACHER" not in os.environ)
    p.add_argument("--smiles", type=Path, help="SMILES, tab, source (default: TEACHER/molecules.smi)")
    p.add_argument("--out", type=Path, required=True)
    p.add_argument("--molecules", type=int, default=8000)
    p.add_argument("--fractions", type=float, nargs=2, default=(0.04, 0.08), metavar=("VALID", "TEST"))
    p.add_argument("--minutes", type=float, default=1e9, help="stop sampling after this long and keep what is there")
    p.add_argument("--processes", type=int, default=2)
    p.add_argument("--resume", action="store_true", help="add to OUT/frames.npz: same list, same seed, chunks not yet done")
    p.add_argument("--seed", type=int, default=1)
    args = p.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)

    rng = np.random.default_rng(args.seed)
    rows = read_smiles(args.smiles or Path(args.teacher) / "molecules.smi")
    molecules = select(rows, args.molecules, rng)
    split, scaffolds = split_by_scaffold(molecules, args.fractions, rng)
    n = len(molecules)
    tiny = {Chem.CanonSmiles(s) for s in TINY}                         # partners of every split's dimers
    split = ["train" if Chem.CanonSmiles(m[0]) in tiny else s for m, s in zip(molecules, split)]
    molecules += [(s, "tiny", 0) for s in TINY]
    split += ["train"] * len(TINY)
    scaffolds += TINY
    print({s: split.count(s) for s in SPLITS}, flush=True)

    tasks = []
    for name in SPLITS:
        members = [(k, molecules[k][0]) for k in range(n) if split[k] == name]
        tasks += [(members[a:a + 32], False) for a in range(0, len(members), 32)]
    tiny = [(n + k, s) for k, s in enumerate(TINY)]
    tasks += [(tiny[a:a + 12], True) for a in range(0, len(tiny), 12)]
    order = rng.permutation(len(tasks))                                # a partial run is a fair sample, too
    tasks = [((args.seed, int(k)), *tasks[k]) for k in order]

    frames, t0 = load(args.out / "frames.npz") if args.resume else [], time.time()
    seen = {f[0] for f in frames}
    tasks = [t for t in tasks if not seen & {k for k, _ in t[1]}]
    with get_context("spawn").Pool(args.processes, start, (args.teacher,)) as pool:
        for done, part in enumerate(pool.imap(sample_chunk, tasks), 1):
            frames += part
            if done % 10 == 0 or done == len(tasks):
                print(f"{done}/{len(tasks)} chunks, {len(frames)} frames, {time.time() - t0:.0f} s", flush=True)
            if time.time() - t0 > 60 * args.minutes:
                pool.terminate()
                break
    frames.sort(key=lambda f: (f[0], f[1]))
    np.savez(args.out / "frames.npz",
             molecule=np.array([f[0] for f in frames], np.int32), kind=np.array([f[1] for f in frames], np.uint8),
             numbers=np.concatenate([f[2] for f in frames]).astype(np.uint8),
             positions=np.concatenate([f[3] for f in frames]).astype(np.float32),
             atom_ptr=np.concatenate([[0], np.cumsum([len(f[2]) for f in frames])]).astype(np.int64))
    table = [dict(smiles=m[0], source=m[1], split=s, scaffold=c) for m, s, c in zip(molecules, split, scaffolds)]
    (args.out / "molecules.json").write_text(json.dumps(dict(kinds=KINDS, seed=args.seed, molecules=table), indent=0))
    print(f"{len(frames)} frames of {len(set(f[0] for f in frames))} molecules")


if __name__ == "__main__":
    main()
