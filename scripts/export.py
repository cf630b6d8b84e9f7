#!/usr/bin/env python3
"""Write a training checkpoint as an mlff model directory: config.json and model.safetensors (f32).

The checkpoint's weights are the averaged ones (EMA) of the best validation. Errors on held-out frames
(DIR/test.npz) are measured here, in f64, and go into config.json under `metrics`; `--example` adds those
on an extended XYZ file. A README.md that is there is left alone.
"""
import argparse
import json
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import save_file

import evaluate
import train


def describe_data(directory):
    """One sentence on the training data, from the files of `sample.py` and `label.py`."""
    label = json.loads((directory / "label.json").read_text())
    t, v, s = (label["splits"][k] for k in ("train", "valid", "test"))
    return (f"{t['frames']} frames of {t['molecules']} molecules (and dimers of them) for training, {v['frames']} of "
            f"{v['molecules']} for validation, {s['frames']} of {s['molecules']} for testing, split by Murcko scaffold; "
            "force-field and teacher dynamics, relaxations, displacements, stretched bonds, torsions, dimers; "
            f"frames on which the ensemble disagrees (energy std > {label['max_energy_std']} eV sqrt(N)) dropped")


def test_errors(model, directory):
    """Errors on DIR/test.npz, overall, by kind of geometry, by element and by size."""
    f = np.load(directory / "test.npz")
    kinds = json.loads((directory / "molecules.json").read_text())["kinds"]
    ptr, n_atoms = f["atom_ptr"], np.diff(f["atom_ptr"])
    frames = [(f["numbers"][a:b].astype(int), f["positions"][a:b].astype(float)) for a, b in zip(ptr[:-1], ptr[1:])]
    energies, forces = evaluate.predict(model, frames)
    forces, label = np.concatenate(forces), f["forces"].astype(float)
    out = evaluate.summary(n_atoms, energies, f["energies"], forces, label)
    mae = lambda x: round(float(np.abs(x).mean()), 5)
    kind_of, size_of = np.repeat(f["kind"], n_atoms), np.repeat(n_atoms, n_atoms)
    error = forces - label
    out["forces_mae_by_kind"] = {n: mae(error[kind_of == k]) for k, n in enumerate(kinds) if (f["kind"] == k).any()}
    out["forces_rms_label"] = round(float(np.sqrt((label ** 2).mean())), 4)
    out["energy_per_atom_mae_by_kind"] = {n: mae((energies - f["energies"])[f["kind"] == k] / n_atoms[f["kind"] == k])
                                          for k, n in enumerate(kinds) if (f["kind"] == k).any()}
    out["forces_mae_by_element"] = {str(z): mae(error[f["numbers"] == z]) for z in model.species}
    edges = [(2, 10), (11, 15), (16, 20), (21, 30), (31, 200)]
    out["forces_mae_by_atoms"] = {f"{a}-{b}": mae(error[(size_of >= a) & (size_of <= b)]) for a, b in edges
                                  if ((size_of >= a) & (size_of <= b)).any()}
    return out


def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("checkpoint", type=Path, help="RUN/best.pt")
    p.add_argument("--out", type=Path, required=True, help="model directory, for instance models/ani2x-painn-64")
    p.add_argument("--name", help="default: the directory's name")
    p.add_argument("--data", type=Path, help="directory of test.npz, label.json and molecules.json")
    p.add_argument("--example", type=Path, help="labelled extended XYZ file")
    p.add_argument("--epsilon", type=float, help="inside the norm of the vectors, in place of the one trained with")
    args = p.parse_args()
    saved = torch.load(args.checkpoint, weights_only=False)
    args.out.mkdir(parents=True, exist_ok=True)
    save_file({k: v.detach().float().contiguous() for k, v in saved["params"].items()}, args.out / "model.safetensors")

    if args.epsilon is not None:
        saved["config"]["epsilon"] = args.epsilon
    state, arguments = saved["state"], saved["arguments"]
    config = {
        "format_version": 1, "name": args.name or args.out.resolve().name,
        "architecture": {"type": "painn", **saved["config"]}, "cutoff": saved["cutoff"], "species": saved["species"],
        "atomic_energies": {str(z): e for z, e in zip(saved["species"], saved["atomic_energies"])},
        "energy_scale": saved["energy_scale"], "units": {"length": "angstrom", "energy": "eV"},
        "charge": 0, "spin_multiplicity": 1,
        "training": {
            "teacher": "ANI-2x, mean of 8 networks (Devereux et al., J. Chem. Theory Comput. 2020, 16, 4192; wB97X/6-31G(d))",
            "data": describe_data(args.data) if args.data else "",
            "method": f"AdamW, peak learning rate {arguments['lr']}, cosine to zero over elapsed time, softened absolute "
                      f"errors of forces and energies, averaged weights (EMA {arguments['ema']}), {state['step']} steps, "
                      f"{state['epoch']} epochs, {state['elapsed'] / 60:.0f} minutes on {arguments['processes']} CPU cores"},
        "metrics": {}, "license": "MIT"}
    write = lambda: (args.out / "config.json").write_text(json.dumps(config, indent=2) + "\n")
    write()
    model = evaluate.Model(args.out)
    if args.data:
        config["metrics"]["test"] = test_errors(model, args.data)
    if args.example:
        config["metrics"]["example"] = {"file": args.example.name, **evaluate.evaluate(model, args.example)}
    write()
    print(json.dumps(config["metrics"], indent=1))


if __name__ == "__main__":
    main()
