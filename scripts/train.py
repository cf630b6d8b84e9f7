#!/usr/bin/env python3
"""Train the PaiNN student on labelled frames (`label.py`), on the CPU, in a given number of minutes.

Data-parallel over single-threaded processes whose gradients are averaged at every step, which on a CPU
beats threads inside an operation. A batch holds about `--edges` neighbour pairs. The message is the compiled
one of `message.py`, or with `--plain` the one of `painn.py`. The learning rate and the weight of the energies
follow the elapsed time, so the run anneals exactly by its deadline. An exponential moving average of the
weights is validated, checkpointed and exported. The energy of a structure is

    E = sum_i (energy_scale * e_i + atomic_energies[Z_i]),

atomic_energies by least squares over the training set.

    train.py DIR --out RUN --minutes 75        DIR holds train.npz and valid.npz
"""
import argparse
import json
import math
import os
import time
from datetime import timedelta
from pathlib import Path

import numpy as np
import torch
import torch.distributed as dist
import torch.multiprocessing as mp

import message
import painn

SPECIES = [1, 6, 7, 8, 9, 16, 17]


class Frames:
    """Labelled frames with their neighbour lists, all packed one after another."""

    def __init__(self, path, cutoff, atomic_energies=None):
        f = np.load(path)
        self.ptr, count = f["atom_ptr"], np.diff(f["atom_ptr"])
        row = np.full(120, -1)
        row[SPECIES] = np.arange(len(SPECIES))
        self.species, self.positions, self.forces = row[f["numbers"]], f["positions"], f["forces"]
        frame_of = np.repeat(np.arange(len(count)), count)
        composition = np.zeros((len(count), len(SPECIES)))
        np.add.at(composition, (frame_of, self.species), 1)
        if atomic_energies is None:
            weight = 1 / np.sqrt(count)[:, None]
            atomic_energies = np.linalg.lstsq(composition * weight, f["energies"] * weight[:, 0], rcond=None)[0]
        self.atomic_energies = atomic_energies
        self.energies = (f["energies"] - composition @ atomic_energies).astype(np.float32)
        parts = []
        for a in range(0, len(count), 1000):                             # neighbours, a thousand frames at a time
            first, last = self.ptr[a], self.ptr[min(a + 1000, len(count))]
            i, j = painn.neighbors(self.positions[first:last], frame_of[first:last] - a, cutoff)
            parts.append((i + first, j + first))
        receivers, senders = (np.concatenate(x) for x in zip(*parts))
        base = self.ptr[frame_of[receivers]]
        self.receivers, self.senders = (receivers - base).astype(np.int16), (senders - base).astype(np.int16)
        self.edge_ptr = np.searchsorted(receivers, self.ptr)

    def __len__(self):
        return len(self.energies)

    def batches(self, edges, rng):
        """One epoch: lists of frames of about `edges` edges each, in random order."""
        order = rng.permutation(len(self))
        total = np.cumsum(np.diff(self.edge_ptr)[order])
        return np.split(order, np.searchsorted(total, np.arange(edges, total[-1], edges)))

    def batch(self, frames):
        """Tensors of some frames: the arguments of `painn.energy_forces`, energies and forces."""
        atoms, n_atoms = ranges(self.ptr, frames)
        edges, n_edges = ranges(self.edge_ptr, frames)
        shift = np.repeat(np.cumsum(n_atoms) - n_atoms, n_edges)
        model = (self.species[atoms], self.positions[atoms], np.repeat(np.arange(len(frames)), n_atoms), len(frames),
                 self.receivers[edges] + shift, self.senders[edges] + shift)
        tensor = lambda a: torch.from_numpy(a) if isinstance(a, np.ndarray) else a
        return [tensor(a) for a in model], tensor(self.energies[frames]), tensor(self.forces[atoms]), tensor(n_atoms)


def ranges(ptr, rows):
    """Indices ptr[k], ptr[k] + 1, .. of every row k one after another, and how many each has."""
    count = ptr[rows + 1] - ptr[rows]
    start = np.cumsum(count) - count
    return np.repeat(ptr[rows] - start, count) + np.arange(count.sum()), count


def softened(x2, delta):
    """sqrt(x^2 + delta^2) - delta: quadratic below delta, linear above."""
    return torch.sqrt(x2 + delta * delta) - delta


def losses(params, args, scale, inputs, energies, forces, n_atoms):
    """Force loss (eV/Angstrom) and energy loss (eV per sqrt(atom)) of a batch."""
    e, f = painn.energy_forces(params, args.config, args.cutoff, scale, *inputs, create_graph=True, message=args.message)
    force = softened(((f - forces) ** 2).sum(-1), 0.05).mean()
    return force, softened((e - energies) ** 2 / n_atoms, 0.01).mean()


def errors(params, args, scale, data):
    """Mean absolute errors: energy per structure and per atom (eV), force components (eV/Angstrom)."""
    total, counts = np.zeros(3), np.zeros(3)
    for frames in data.batches(args.edges, np.random.default_rng(0)):
        inputs, energies, forces, n_atoms = data.batch(frames)
        e, f = painn.energy_forces(params, args.config, args.cutoff, scale, *inputs, message=args.message)
        error = (e - energies).abs()
        total += error.sum().item(), (error / n_atoms).sum().item(), (f - forces).abs().sum().item()
        counts += len(e), len(e), f.numel()
    return dict(zip(("energy_mae", "energy_per_atom_mae", "force_mae"), (total / counts).tolist()))


def schedule(x, args):
    """Learning rate and energy weight at the elapsed fraction x: short warm-up, cosine to zero."""
    lr = args.lr * min(1.0, x / 0.01 + 0.05) * (0.5 + 0.5 * math.cos(math.pi * x)) + 1e-7
    energy = args.energy_weight[0] + (args.energy_weight[1] - args.energy_weight[0]) * max(0.0, min(1.0, (x - 0.4) / 0.4))
    return lr, energy


def worker(rank, args):
    torch.set_num_threads(1)
    torch.manual_seed(args.seed)
    dist.init_process_group("gloo", init_method=f"file://{args.out.resolve()}/rendezvous", rank=rank,
                            world_size=args.processes, timeout=timedelta(hours=2))
    args.message = painn.message if args.plain else message.message
    data = Frames(args.dir / "train.npz", args.cutoff)
    atomic = data.atomic_energies
    scale = float(np.sqrt(np.mean(data.forces.astype(float) ** 2)))
    valid = Frames(args.dir / "valid.npz", args.cutoff, atomic)
    params = painn.initialise(args.config, len(SPECIES), args.cutoff, args.seed)
    names = [k for k in params if k not in painn.FIXED]
    state = dict(step=0, epoch=0, elapsed=0.0, best=float("inf"))
    saved = torch.load(args.out / "last.pt", weights_only=False) if (args.out / "last.pt").exists() else None
    if saved:
        params, state = saved["params"], saved["state"]
    ema = {k: v.clone() for k, v in (saved["ema"] if saved else params).items()}
    for k in names:
        params[k].requires_grad_(True)
    weights = [params[k] for k in names]
    decay = [w for w in weights if w.dim() > 1]
    optimizer = torch.optim.AdamW([dict(params=decay, weight_decay=args.weight_decay),
                                   dict(params=[w for w in weights if w.dim() == 1], weight_decay=0.0)], lr=args.lr)
    if saved:
        optimizer.load_state_dict(saved["optimizer"])

    begin, validated = time.time() - state["elapsed"], time.time()
    budget = 60 * args.minutes
    if args.deadline:
        budget = args.deadline - begin
    shared = torch.zeros(1)                                            # elapsed fraction, agreed by all processes
    log = open(args.out / "log.jsonl", "a") if rank == 0 else None
    running, seen = np.zeros(2), 0

    def validate():
        nonlocal running, seen, validated
        result = errors(ema, args, scale, valid)
        score = result["force_mae"] + 5 * result["energy_per_atom_mae"]
        record = dict(elapsed=round(time.time() - begin, 1), fraction=round(shared.item(), 4), step=state["step"],
                      epoch=state["epoch"], train_force_loss=running[0] / max(seen, 1),
                      train_energy_loss=running[1] / max(seen, 1), **result)
        print(json.dumps(record), file=log, flush=True)
        state["elapsed"] = time.time() - begin
        model = dict(params=ema, config=args.config, cutoff=args.cutoff, species=SPECIES, energy_scale=scale,
                     atomic_energies=atomic.tolist(), state=dict(state), valid=result,
                     arguments={k: str(v) for k, v in vars(args).items()})
        if score < state["best"]:
            state["best"] = score
            torch.save(model, args.out / "best.tmp")
            os.replace(args.out / "best.tmp", args.out / "best.pt")
        torch.save(dict(params={k: v.detach() for k, v in params.items()}, ema=ema, state=state,
                        optimizer=optimizer.state_dict()), args.out / "last.tmp")
        os.replace(args.out / "last.tmp", args.out / "last.pt")
        running, seen, validated = np.zeros(2), 0, time.time()

    while shared.item() < 1:
        # Every process draws the same epoch and takes every n-th batch of it.
        epoch = data.batches(args.edges, np.random.default_rng((args.seed, state["epoch"], state["step"])))
        for k in range(rank, len(epoch) - len(epoch) % args.processes, args.processes):
            lr, energy_weight = schedule(shared.item(), args)
            force, energy = losses(params, args, scale, *data.batch(epoch[k]))
            optimizer.zero_grad()
            # `inputs` leaves out the positions, whose second derivatives nobody needs.
            torch.autograd.backward(force + energy_weight * energy, inputs=weights)
            flat = torch.cat([w.grad.ravel() for w in weights] + [torch.tensor([(time.time() - begin) / budget])])
            dist.all_reduce(flat)
            flat /= args.processes
            shared = flat[-1:].clone()
            norm = flat[:-1].norm()
            if not torch.isfinite(norm):
                continue
            flat *= min(1.0, args.clip / (norm.item() + 1e-9))
            at = 0
            for w in weights:
                w.grad.copy_(flat[at:at + w.numel()].view_as(w))
                at += w.numel()
            for group in optimizer.param_groups:
                group["lr"] = lr
            optimizer.step()
            state["step"] += 1
            beta = min(args.ema, (1 + state["step"]) / (10 + state["step"]))
            with torch.no_grad():
                torch._foreach_lerp_([ema[k] for k in names], weights, 1 - beta)
            running += force.item(), energy.item()
            seen += 1
            if rank == 0 and time.time() - validated > 60 * args.validate_minutes:
                validate()
            if shared.item() >= 1:
                break
        state["epoch"] += 1
    if rank == 0:
        validate()
    dist.destroy_process_group()


def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("dir", type=Path)
    p.add_argument("--out", type=Path, required=True, help="run directory; a run found there is resumed")
    p.add_argument("--minutes", type=float, default=75)
    p.add_argument("--deadline", type=float, help="end at this Unix time instead")
    p.add_argument("--processes", type=int, default=2)
    p.add_argument("--edges", type=int, default=6000, help="neighbour pairs in a batch of one process")
    p.add_argument("--plain", action="store_true", help="do without the compiled message")
    p.add_argument("--features", type=int, default=64)
    p.add_argument("--cutoff", type=float, default=5.0)
    p.add_argument("--lr", type=float, default=1.5e-3)
    p.add_argument("--weight-decay", type=float, default=1e-4)
    p.add_argument("--energy-weight", type=float, nargs=2, default=(0.1, 1.0), metavar=("EARLY", "LATE"))
    p.add_argument("--clip", type=float, default=5.0)
    p.add_argument("--ema", type=float, default=0.999)
    p.add_argument("--validate-minutes", type=float, default=3.0)
    p.add_argument("--seed", type=int, default=0)
    args = p.parse_args()
    args.config = painn.default_config() | {"n_features": args.features, "readout_hidden": [args.features // 2]}
    # Keep freed memory: otherwise every large tensor is mapped, zeroed and unmapped by the kernel again.
    os.environ.setdefault("MALLOC_MMAP_THRESHOLD_", str(4 << 30))
    os.environ.setdefault("MALLOC_TRIM_THRESHOLD_", str(8 << 30))
    args.out.mkdir(parents=True, exist_ok=True)
    (args.out / "rendezvous").unlink(missing_ok=True)
    mp.spawn(worker, (args,), nprocs=args.processes)


if __name__ == "__main__":
    main()
