#!/usr/bin/env python3
"""Check a model directory in PyTorch, f64: forces, rotation, and energy conservation in NVE dynamics.

Prints JSON: the largest difference of the forces from central finite differences (step 1e-4 Angstrom, first
frame of every molecule of the file) and of the energy under a random rotation and a permutation of the atoms;
for every molecule, an NVE run (velocity Verlet) from its first frame with velocities drawn at `--temperature`:
drift is the slope of a straight line through the total energy, per atom and ps; noise its standard deviation
about that line, per atom; mean kinetic temperature; longest bond stretch.
"""
import argparse
import json
import time
from pathlib import Path

import numpy as np

import evaluate
import sample


def static_checks(model, frames, rng):
    worst = dict(force_vs_finite_difference=0.0, energy_under_rotation=0.0, energy_under_permutation=0.0, force_sum=0.0)
    step = 1e-4
    for z, x in frames:
        e, f = model([(z, x)])
        moved = []
        for k in range(x.size):
            for sign in (1, -1):
                y = x.copy().ravel()
                y[k] += sign * step
                moved.append((z, y.reshape(x.shape)))
        energies, _ = evaluate.predict(model, moved)
        numeric = -(energies[::2] - energies[1::2]).reshape(x.shape) / (2 * step)
        order = rng.permutation(len(z))
        for key, value in (("force_vs_finite_difference", np.abs(numeric - f[0]).max()),
                           ("energy_under_rotation", abs(model([(z, x @ sample.rotation(rng))])[0][0] - e[0])),
                           ("energy_under_permutation", abs(model([(z[order], x[order])])[0][0] - e[0])),
                           ("force_sum", np.abs(f[0].sum(0)).max())):
            worst[key] = max(worst[key], float(value))
    return worst


def nve(model, frames, temperature, n_steps, dt, rng, every=20):
    """Velocity Verlet for all molecules side by side; (time fs, total energies [T, M], temperatures [T, M], stretch [M])."""
    s = sample.Systems(frames)
    m = s.masses[:, None]
    x, v = s.x.copy(), np.sqrt(sample.KB * temperature / m * sample.ACC) * rng.standard_normal(s.x.shape)
    cut = np.cumsum(s.count)[:-1]
    v = np.concatenate([p - (q * p).sum(0) / q.sum() for p, q in zip(np.split(v, cut), np.split(m, cut))])
    bonds = [np.argwhere(np.triu(np.linalg.norm(p[:, None] - p[None], axis=2) < 1.25 * reach(z), 1)) for z, p in frames]
    length = lambda p, b: np.linalg.norm(p[b[:, 0]] - p[b[:, 1]], axis=1)
    rest = [length(p, b) for (_, p), b in zip(frames, bonds)]

    def evaluate_at(x):
        e, f = model([(z, p) for (z, _), p in zip(frames, np.split(x, cut))])
        return e, np.concatenate(f)

    e, f = evaluate_at(x)
    t, total, kelvin, stretch = [], [], [], np.zeros(len(frames))
    for step in range(n_steps + 1):
        if step % every == 0:
            kinetic = np.array([k.sum() for k in np.split(0.5 * m * v * v / sample.ACC, cut)])
            t.append(step * dt)
            total.append(e + kinetic)
            kelvin.append(2 * kinetic / (3 * s.count - 3) / sample.KB)
            stretch = np.maximum(stretch, [(length(p, b) / r).max() for p, b, r in zip(np.split(x, cut), bonds, rest)])
        v += 0.5 * dt * sample.ACC * f / m
        x += dt * v
        e, f = evaluate_at(x)
        v += 0.5 * dt * sample.ACC * f / m
    return np.array(t), np.array(total), np.array(kelvin), stretch


def reach(z):
    """Rough sums of covalent radii, to tell bonds."""
    radius = {1: 0.31, 6: 0.76, 7: 0.71, 8: 0.66, 9: 0.57, 16: 1.05, 17: 1.02}
    r = np.array([radius[a] for a in z])
    return r[:, None] + r[None]


def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("model", type=Path)
    p.add_argument("xyz", type=Path)
    p.add_argument("--ps", type=float, default=10.0)
    p.add_argument("--dt", type=float, default=0.5, help="fs")
    p.add_argument("--temperature", type=float, default=300.0)
    p.add_argument("--seed", type=int, default=5)
    args = p.parse_args()
    import torch
    torch.set_num_threads(1)
    model, rng = evaluate.Model(args.model), np.random.default_rng(args.seed)
    frames, last = [], None
    for z, x, _, _ in evaluate.read_xyz(args.xyz):
        if last is None or len(z) != len(last) or (z != last).any():
            frames.append((z, x))
        last = z
    out = dict(static=static_checks(model, frames, rng))
    t0 = time.time()
    t, total, kelvin, stretch = nve(model, frames, args.temperature, round(1000 * args.ps / args.dt), args.dt, rng)
    out["nve"] = dict(ps=args.ps, dt_fs=args.dt, seconds=round(time.time() - t0), molecules=[])
    for k, (z, _) in enumerate(frames):
        line = np.polyfit(t / 1000, total[:, k], 1)
        rest = total[:, k] - np.polyval(line, t / 1000)
        out["nve"]["molecules"].append(dict(
            atoms=len(z), drift_mev_per_atom_ps=1000 * line[0] / len(z), noise_mev_per_atom=1000 * rest.std() / len(z),
            mean_temperature=kelvin[:, k].mean(), longest_bond_stretch=stretch[k]))
    print(json.dumps(out, indent=1, default=float))


if __name__ == "__main__":
    main()
