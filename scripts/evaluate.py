#!/usr/bin/env python3
"""Evaluate a model directory in PyTorch, in f64, against the labels of an extended XYZ file.

Prints JSON: n_frames, n_atoms, energy {mae, rmse, max} (eV a structure), energy_per_atom {mae, rmse, max}
(eV), forces {mae, rmse, max, r2, cosine} (eV/Angstrom). Independent of mlff, so it can be its oracle.

- mae, rmse and max (the largest absolute error) of forces run over all components of all atoms of all frames.
- r2 = 1 - sum (predicted - label)^2 / sum (label - mean label)^2 over the same components, one mean for all.
- cosine is the mean, over atoms, of the cosine of the angle between predicted and label force; atoms with
  either of the two shorter than 1e-3 eV/Angstrom are left out.

Structures are taken as isolated molecules; labels are `energy=` and the column `forces:R:3`.
"""
import argparse
import json
import re
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_file

import painn

SYMBOLS = {"H": 1, "C": 6, "N": 7, "O": 8, "F": 9, "S": 16, "Cl": 17}


class Model:
    """A model directory in f64."""

    def __init__(self, directory):
        c = json.loads((Path(directory) / "config.json").read_text())
        self.config, self.cutoff, self.scale, self.species = c["architecture"], c["cutoff"], c["energy_scale"], c["species"]
        self.params = {k: v.double() for k, v in load_file(Path(directory) / "model.safetensors").items()}
        for name, shape in painn.shapes(self.config, len(self.species)).items():
            if tuple(self.params[name].shape) != shape:
                raise ValueError(f"{name}: shape {tuple(self.params[name].shape)}, expected {shape}")
        self.row = np.full(120, -1)
        self.row[self.species] = np.arange(len(self.species))
        self.atomic = np.zeros(120)
        for z, e in c["atomic_energies"].items():
            self.atomic[int(z)] = e

    def __call__(self, frames):
        """Energies [M] and a list of forces [n, 3] of (numbers, positions) structures."""
        numbers, positions = (np.concatenate(x) for x in zip(*frames))
        count = np.array([len(z) for z, _ in frames])
        batch = np.repeat(np.arange(len(frames)), count)
        receivers, senders = painn.neighbors(positions, batch, self.cutoff)
        tensor = torch.from_numpy
        e, f = painn.energy_forces(self.params, self.config, self.cutoff, self.scale, tensor(self.row[numbers]),
                                   tensor(positions), tensor(batch), len(frames), tensor(receivers), tensor(senders))
        e = e.numpy() + np.bincount(batch, self.atomic[numbers], len(frames))
        return e, np.split(f.numpy(), np.cumsum(count)[:-1])


def predict(model, frames, chunk=32):
    """Energies and a list of forces of any number of frames."""
    parts = [model(frames[k:k + chunk]) for k in range(0, len(frames), chunk)]
    return np.concatenate([e for e, _ in parts]), [f for _, forces in parts for f in forces]


def read_xyz(path):
    """Frames (numbers, positions, energy, forces) of a labelled extended XYZ file."""
    lines, at, out = Path(path).read_text().splitlines(), 0, []
    while at < len(lines):
        n, comment = int(lines[at]), lines[at + 1]
        energy = float(re.search(r"(?:^|\s)energy=(\S+)", comment).group(1))
        columns, where = re.search(r"Properties=(\S+)", comment).group(1).split(":"), {}
        for name, count in zip(columns[::3], columns[2::3]):
            start = sum(c for _, c in where.values())
            where[name] = (start, int(count))
        rows = [line.split() for line in lines[at + 2:at + 2 + n]]
        numbers = lambda key: np.array([[float(x) for x in r[where[key][0]:sum(where[key])]] for r in rows])
        z = np.array([SYMBOLS[r[where["species"][0]]] for r in rows])
        out.append((z, numbers("pos"), energy, numbers("forces")))
        at += n + 2
    return out


def summary(n_atoms, energies, energy_labels, forces, force_labels):
    """The numbers described at the head of this file."""
    stats = lambda x: dict(mae=float(np.abs(x).mean()), rmse=float(np.sqrt((x ** 2).mean())), max=float(np.abs(x).max()))
    e, f = energies - energy_labels, forces - force_labels
    a, b = np.linalg.norm(forces, axis=1), np.linalg.norm(force_labels, axis=1)
    long = (a >= 1e-3) & (b >= 1e-3)
    cosine = (forces * force_labels).sum(1)[long] / (a * b)[long]
    r2 = 1 - (f ** 2).sum() / ((force_labels - force_labels.mean()) ** 2).sum()
    return dict(n_frames=len(n_atoms), n_atoms=int(np.sum(n_atoms)), energy=stats(e), energy_per_atom=stats(e / n_atoms),
                forces=dict(**stats(f), r2=float(r2), cosine=float(cosine.mean())))


def evaluate(model, path):
    frames = read_xyz(path)
    energies, forces = predict(model, [f[:2] for f in frames])
    return summary(np.array([len(f[0]) for f in frames]), energies, np.array([f[2] for f in frames]),
                   np.concatenate(forces), np.concatenate([f[3] for f in frames]))


def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("model", type=Path)
    p.add_argument("xyz", type=Path)
    args = p.parse_args()
    print(json.dumps(evaluate(Model(args.model), args.xyz), indent=1))


if __name__ == "__main__":
    main()
