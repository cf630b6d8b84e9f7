#!/usr/bin/env python3
"""Writes tests/data/import: small models with random weights, and what their own projects say of them in f64.

SchNetPack evaluates its models, with neighbours from ASE; the MLFF-Distiller student is evaluated by the few lines
below, written from its formulas. `--check-distiller FOLDER` compares these lines with that project's own results.
Weights are f32. Energies in eV, forces in eV/Å, stress (1/V) dE/dstrain in eV/Å³.
"""

import argparse
import contextlib
import copy
import json
import shutil
import subprocess
import sys
import warnings
from pathlib import Path

import ase
import ase.build
import ase.neighborlist
import numpy as np
import torch
import torch.nn.functional as F
from safetensors.torch import load_file, save_file

from export_schnetpack import EV_PER_UNIT, import_schnetpack

warnings.filterwarnings("ignore")
spk = import_schnetpack()
from schnetpack import properties as keys  # noqa: E402  (needs import_schnetpack first)

HERE = Path(__file__).resolve().parent
OUT = HERE.parent / "tests/data/import"


def structures():
    """Perturbed ethanol, water, an isolated atom, and a triclinic cell that is smaller than the cutoff."""
    rng = np.random.default_rng(11)
    ethanol, water = ase.build.molecule("CH3CH2OH"), ase.build.molecule("H2O")
    cell = [[3.1, 0.0, 0.0], [0.7, 3.3, 0.0], [-0.4, 0.9, 3.6]]
    crystal = ase.Atoms("OHC", scaled_positions=[[0.1, 0.2, 0.1], [0.3, 0.3, 0.25], [0.6, 0.65, 0.7]], cell=cell, pbc=True)
    out = [ethanol, water, ase.Atoms("O"), crystal]
    for atoms in out:
        atoms.positions += rng.normal(0.0, 0.06, atoms.positions.shape)
    return out


def neighbours(atoms, cutoff):
    return ase.neighborlist.primitive_neighbor_list("ijS", atoms.pbc, atoms.cell, atoms.positions, cutoff)


def case(atoms, energy, forces, stress, n_edges):
    """One entry of expected.json."""
    return {
        "energy": float(energy),
        "forces": np.asarray(forces, dtype=float).tolist(),
        "stress": np.asarray(stress, dtype=float).tolist() if atoms.pbc.all() else None,
        "n_edges": int(n_edges),
        "symbols": atoms.get_chemical_symbols(),
        "positions": atoms.positions.tolist(),
        "cell": atoms.cell.tolist(),
        "pbc": atoms.pbc.tolist(),
    }


def randomize(module, seed):
    """Random f32 weights of a size that keeps every part of the network in play."""
    generator = torch.Generator().manual_seed(seed)
    done = set()
    with torch.no_grad():
        for _, p in module.named_parameters():
            if id(p) not in done:
                done.add(id(p))
                scale = 0.1 if p.dim() == 1 else 0.75 / p.shape[-1] ** 0.5
                p.copy_(torch.randn(p.shape, generator=generator) * scale)
    return module


def painn(n_interactions, n_rbf, basis, cutoff, seed, postprocessors=(), **options):
    """A random PaiNN as SchNetPack trains it, in f32."""
    radial_basis = {"gaussian": spk.nn.GaussianRBF, "bessel": spk.nn.BesselRBF}[basis](n_rbf, cutoff)
    representation = spk.representation.PaiNN(
        n_atom_basis=8,
        n_interactions=n_interactions,
        radial_basis=radial_basis,
        cutoff_fn=spk.nn.CosineCutoff(cutoff),
        **options,
    )
    model = spk.model.NeuralNetworkPotential(
        representation,
        input_modules=[spk.atomistic.Strain(), spk.atomistic.PairwiseDistances()],
        output_modules=[
            spk.atomistic.Atomwise(n_in=8, output_key="energy"),
            spk.atomistic.Forces(calc_forces=True, calc_stress=True),
        ],
        postprocessors=list(postprocessors),
    )
    return randomize(model, seed).eval()


@contextlib.contextmanager
def double():
    """SchNetPack makes its vectors in the default type."""
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


def evaluate_schnetpack(model, unit=1.0):
    """What SchNetPack says of the structures, in f64."""
    model = copy.deepcopy(model).double()
    cutoff = float(model.representation.cutoff_fn.cutoff)
    out = []
    with double():
        for atoms in structures():
            i, j, shifts = neighbours(atoms, cutoff)
            inputs = {
                keys.Z: torch.tensor(atoms.numbers),
                keys.R: torch.tensor(atoms.positions),
                keys.cell: torch.tensor(atoms.cell.array)[None],
                keys.offsets: torch.tensor(shifts @ atoms.cell.array),
                keys.idx_i: torch.tensor(i),
                keys.idx_j: torch.tensor(j),
                keys.idx_m: torch.zeros(len(atoms), dtype=torch.long),
                keys.n_atoms: torch.tensor([len(atoms)]),
            }
            got = model(inputs)
            numbers = [got[key].detach().numpy() * unit for key in ("energy", "forces", "stress")]
            out.append(case(atoms, numbers[0][0], numbers[1], numbers[2][0], len(i)))
    return out


def check_derivatives(model, cases):
    """Finite differences of SchNetPack's energy along one random displacement and strain of the crystal."""
    atoms = structures()[3]
    rng = np.random.default_rng(5)
    move, strain = rng.normal(size=(len(atoms), 3)), rng.normal(size=(3, 3))
    strain = strain + strain.T
    model = copy.deepcopy(model).double()
    cutoff = float(model.representation.cutoff_fn.cutoff)

    def energy(h_move, h_strain):
        moved = atoms.copy()
        deformation = np.eye(3) + h_strain * strain
        moved.set_cell(moved.cell.array @ deformation)
        moved.positions = (moved.positions + h_move * move) @ deformation
        i, j, shifts = neighbours(moved, cutoff)
        inputs = {
            keys.Z: torch.tensor(moved.numbers),
            keys.Rij: torch.tensor(moved.positions[j] - moved.positions[i] + shifts @ moved.cell.array),
            keys.idx_i: torch.tensor(i),
            keys.idx_j: torch.tensor(j),
            keys.idx_m: torch.zeros(len(moved), dtype=torch.long),
        }
        return float(model.output_modules[0](model.representation(inputs))["energy"][0])

    h = 1e-4
    with double(), torch.no_grad():
        along_move = (energy(h, 0) - energy(-h, 0)) / (2 * h)
        along_strain = (energy(0, h) - energy(0, -h)) / (2 * h)
    want = cases[3]
    assert abs(along_move + np.sum(np.array(want["forces"]) * move)) < 1e-5 * (1 + abs(along_move))
    assert abs(along_strain / atoms.get_volume() - np.sum(np.array(want["stress"]) * strain)) < 1e-5


def write_json(path, value, indent=None):
    path.write_text(json.dumps(value, indent=indent) + "\n")


def fresh(name):
    folder = OUT / name
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    return folder


def network_tensors(model):
    """State dict without the postprocessors, each tensor with memory of its own."""
    state = model.state_dict()
    return {name: t.clone().contiguous() for name, t in state.items() if not name.startswith("postprocessors.")}


def write_painn(name, config, **options):
    """State dict and config.json written as a user of SchNetPack would by hand."""
    folder = fresh(name)
    shared = {k: config[k] for k in ("shared_filters", "shared_interactions") if k in config}
    sizes = [config[k] for k in ("n_interactions", "n_rbf", "radial_basis", "cutoff")]
    model = painn(*sizes, **shared, **options)
    save_file(network_tensors(model), folder / "schnetpack_state_dict.safetensors")
    write_json(folder / "config.json", {"n_atom_basis": 8} | config, indent=1)
    cases = evaluate_schnetpack(model)
    check_derivatives(model, cases)
    write_json(folder / "expected.json", cases)
    return model


def write_exported():
    """A whole model in Hartree, pickled and exported by scripts/export_schnetpack.py."""
    scale = spk.transform.ScaleProperty(input_key="energy", scale=torch.tensor([0.125]))
    force_scale = spk.transform.ScaleProperty(input_key="forces", scale=torch.tensor([0.125]))
    stress_scale = spk.transform.ScaleProperty(input_key="stress", scale=torch.tensor([0.125]))
    offsets = spk.transform.AddOffsets("energy", add_mean=True, add_atomrefs=True)
    offsets.mean = torch.tensor([-0.4375])
    offsets.atomref = torch.zeros(100)
    offsets.atomref[[1, 6, 8]] = torch.tensor([-0.5, -37.75, -75.0625])
    postprocessors = [spk.transform.CastTo64(), scale, force_scale, stress_scale, offsets]
    model = painn(2, 6, "gaussian", 4.5, seed=4, postprocessors=postprocessors)
    folder = fresh("exported-hartree")
    folder.rmdir()
    pickled = OUT / "best_model"
    torch.save(model, pickled)
    script = [sys.executable, "-W", "ignore", HERE / "export_schnetpack.py", pickled, "-o", folder]
    subprocess.run([*script, "--energy-unit", "Hartree"], check=True)
    pickled.unlink()
    write_json(folder / "expected.json", evaluate_schnetpack(model, EV_PER_UNIT["Hartree"]))


def write_exported_shared():
    """Shared filters and interactions, exported: the shared layer is stored once."""
    model = painn(3, 7, "bessel", 4.25, seed=3, shared_filters=True, shared_interactions=True, epsilon=1e-6)
    folder = fresh("shared-both")
    folder.rmdir()
    pickled = OUT / "best_model"
    torch.save(model, pickled)
    script = [sys.executable, "-W", "ignore", HERE / "export_schnetpack.py", pickled, "-o", folder]
    subprocess.run([*script, "--species", "H,C,O"], check=True)
    pickled.unlink()
    cases = evaluate_schnetpack(model)
    check_derivatives(model, cases)
    write_json(folder / "expected.json", cases)


def write_lightning():
    """What Lightning writes during training: the weights are one entry among others."""
    folder = fresh("lightning")
    model = painn(2, 5, "gaussian", 4.5, seed=6)
    state = model.state_dict()
    for name in list(state):
        state["model." + name] = state.pop(name)
    weight = next(iter(model.parameters()))
    checkpoint = {
        "epoch": 3,
        "global_step": 1200,
        "pytorch-lightning_version": "2.6.0",
        "state_dict": state,
        "loops": {"fit_loop": {"state_dict": {}, "epoch_progress": {"total": {"ready": 4, "started": 4}}}},
        "callbacks": {},
        "optimizer_states": [
            {
                "state": {0: {"step": torch.tensor(1200.0), "exp_avg": torch.zeros(3)}},
                "param_groups": [{"lr": 5e-4, "betas": (0.9, 0.999), "amsgrad": False, "params": [0]}],
            }
        ],
        "hparams_name": "kwargs",
        "hyper_parameters": {"warmup_steps": 0, "tied": weight[:1]},
    }
    torch.save(checkpoint, folder / "checkpoint.pt")
    config = {"n_atom_basis": 8, "n_interactions": 2, "n_rbf": 5, "radial_basis": "gaussian", "cutoff": 4.5}
    write_json(folder / "config.json", config, indent=1)
    write_json(folder / "expected.json", evaluate_schnetpack(model))


def distiller_energy(w, config, z, r):
    """Energy of an MLFF-Distiller student from the vectors r[i, j, r_j − r_i] of its edges.

    IN `w` weights by the project's names; `z` atomic numbers; `r` = (receivers, senders, vectors [n_edges, 3]).
    """
    receivers, senders, vectors_ij = r
    linear = lambda name, x: F.linear(x, w[f"{name}.weight"], w[f"{name}.bias"])
    network = lambda name, x: linear(f"{name}.2", F.silu(linear(f"{name}.0", x)))
    d = vectors_ij.norm(dim=1)
    u = vectors_ij / (d + 1e-8)[:, None]
    basis = torch.exp(-((d[:, None] - w["rbf.centers"]) ** 2) / w["rbf.widths"] ** 2)
    basis = basis * (0.5 * (torch.cos(torch.pi * d / config["cutoff"]) + 1.0))[:, None]
    s = w["embedding.weight"][z]
    n_features = s.shape[1]
    v = torch.zeros(len(z), 3, n_features, dtype=s.dtype)
    for l in range(config["num_interactions"]):
        f_s, f_v1, f_v2 = network(f"interactions.{l}.message.rbf_to_scalar", basis).split(n_features, dim=1)
        s_new = s.index_add(0, receivers, s[senders] * f_s)
        v = v.index_add(0, receivers, v[senders] * f_v1[:, None, :] + u[:, :, None] * f_v2[:, None, :])
        s = s_new
        norms = torch.where((v != 0).any(1), v.pow(2).sum(1), 1.0).sqrt() * (v != 0).any(1)
        ds, g1, g2 = network(f"interactions.{l}.update.update_mlp", torch.cat([s, norms], 1)).split(n_features, dim=1)
        s = s + ds
        mixing = w.get(f"interactions.{l}.update.mixing_matrix")
        if mixing is not None:
            v = v * g1[:, None, :] + torch.einsum("xy,nyf->nxf", mixing, v) * g2[:, None, :]
    x = F.silu(linear("energy_head.0", s))
    x = F.silu(linear("energy_head.2", x))
    return linear("energy_head.4", x).sum()


def evaluate_distiller(weights, config, atoms_list):
    w = {name: t.double() for name, t in weights.items()}
    out = []
    for atoms in atoms_list:
        i, j, shifts = neighbours(atoms, config["cutoff"])
        positions = torch.tensor(atoms.positions, requires_grad=True)
        strain = torch.zeros(3, 3, dtype=torch.float64, requires_grad=True)
        i, j = torch.tensor(i), torch.tensor(j)
        vectors = positions[j] - positions[i] + torch.tensor(shifts @ atoms.cell.array)
        vectors = vectors + vectors @ (0.5 * (strain + strain.T))
        energy = distiller_energy(w, config, torch.tensor(atoms.numbers), (i, j, vectors))
        gradients = torch.autograd.grad(energy, [positions, strain], allow_unused=True)
        forces, virial = (torch.zeros_like(x) if g is None else g for g, x in zip(gradients, (positions, strain)))
        volume = atoms.get_volume() if atoms.pbc.all() else 1.0
        out.append(case(atoms, energy.detach(), -forces.numpy(), virial.numpy() / volume, len(i)))
    return out


def write_distiller():
    folder = fresh("distiller")
    f, n_layers, n_rbf, max_z = 8, 3, 6, 20
    shapes = {"embedding.weight": (max_z + 1, f), "rbf.centers": (n_rbf,), "rbf.widths": (n_rbf,)}

    def dense(name, n_out, n_in):
        shapes[f"{name}.weight"], shapes[f"{name}.bias"] = (n_out, n_in), (n_out,)

    for l in range(n_layers):
        dense(f"interactions.{l}.message.rbf_to_scalar.0", f, n_rbf)
        dense(f"interactions.{l}.message.rbf_to_scalar.2", 3 * f, f)
        dense(f"interactions.{l}.update.update_mlp.0", f, 2 * f)
        dense(f"interactions.{l}.update.update_mlp.2", 3 * f, f)
        shapes[f"interactions.{l}.update.mixing_matrix"] = (3, 3)
    for k, (n_out, n_in) in zip((0, 2, 4), ((f // 2, f), (f // 4, f // 2), (1, f // 4))):
        dense(f"energy_head.{k}", n_out, n_in)
    generator = torch.Generator().manual_seed(7)
    weights = {}
    for name, shape in shapes.items():
        scale = 0.2 if len(shape) == 1 else 0.6 / shape[-1] ** 0.5
        weights[name] = torch.randn(shape, generator=generator) * scale
    config = {"hidden_dim": f, "num_interactions": n_layers, "num_rbf": n_rbf, "cutoff": 4.5, "max_z": max_z}
    weights["rbf.centers"] = torch.linspace(0.0, config["cutoff"], n_rbf)
    weights["rbf.widths"] = torch.full((n_rbf,), config["cutoff"] / n_rbf)
    save_file(weights, folder / "model.safetensors")
    write_json(folder / "config.json", config, indent=1)
    torch.save(
        {
            "model_state_dict": weights,
            "config": config | {"use_torch_cluster": True},
            "num_parameters": sum(t.numel() for t in weights.values()),
        },
        folder / "checkpoint.pt",
    )
    write_json(folder / "expected.json", evaluate_distiller(weights, config, structures()))


def check_distiller(folder):
    """Compares the lines above with the results of MLFF-Distiller's own code."""
    expected = json.loads((folder / "expected.json").read_text())
    atoms = [ase.Atoms(c["symbols"], positions=c["positions"], cell=c.get("cell"), pbc=c.get("pbc")) for c in expected]
    config = json.loads((folder / "config.json").read_text())
    got = evaluate_distiller(load_file(folder / "model.safetensors"), config, atoms)
    energy = max(abs(g["energy"] - e["energy"]) for g, e in zip(got, expected))
    forces = max(np.abs(np.subtract(g["forces"], e["forces"])).max() for g, e in zip(got, expected))
    print(f"{len(got)} structures: largest difference {energy:.1e} eV, {forces:.1e} eV/Å")
    assert energy < 1e-9 and forces < 1e-9


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check-distiller", type=Path, metavar="FOLDER")
    args = parser.parse_args()
    torch.set_num_threads(1)
    if args.check_distiller:
        return check_distiller(args.check_distiller)
    sizes = lambda n_interactions, n_rbf, basis, cutoff, **more: {
        "n_interactions": n_interactions,
        "n_rbf": n_rbf,
        "radial_basis": basis,
        "cutoff": cutoff,
        **more,
    }
    write_painn("shared-filters", sizes(3, 8, "gaussian", 4.5, shared_filters=True), seed=1)
    write_painn("shared-interactions", sizes(3, 6, "bessel", 4.0, shared_interactions=True), seed=2)
    write_exported_shared()
    write_exported()
    write_painn("one-interaction", sizes(1, 5, "gaussian", 5.0), seed=5)
    write_lightning()
    write_distiller()


if __name__ == "__main__":
    main()
