#!/usr/bin/env python3
"""Train the PaiNN student on labelled frames (`label.py`), on the CPU, in a given number of minutes.

Data-parallel over single-threaded processes whose gradients are averaged at every step, which on a CPU
beats threads inside an operation. A batch holds molecules of one size. The learning rate and the weight of
the energies follow the elapsed time, so the run anneals exactly by its deadline. An exponential moving
average of the weights is validated, checkpointed and exported. The energy of a structure is

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

import painn

SPECIES = [1, 6, 7, 8, 9, 16, 17]


def load(path, atomic_energies=None):
    """Frames grouped by size: [(species [M, n], positions, energies less atomic ones, forces, index)], atomic energies."""
    f = np.load(path)
    ptr, count = f["atom_ptr"], np.diff(f["atom_ptr"])
    row = np.full(120, -1)
    row[SPECIES] = np.arange(len(SPECIES))
    species = row[f["numbers"]]
    composition = np.zeros((len(count), len(SPECIES)))
    np.add.at(composition, (np.repeat(np.arange(len(count)), count), species), 1)
    if atomic_energies is None:
        weight = 1 / np.sqrt(count)[:, None]
        atomic_energies = np.linalg.lstsq(composition * weight, f["energies"] * weight[:, 0], rcond=None)[0]
    residual = f["energies"] - composition @ atomic_energies
    groups = []
    for n in np.unique(count):
        idx = np.nonzero(count == n)[0]
        atoms = (ptr[idx][:, None] + np.arange(n)).ravel()
        shape = lambda a: torch.from_numpy(np.ascontiguousarray(a.reshape(len(idx), n, *a.shape[1:])))
        groups.append((shape(species[atoms]), shape(f["positions"][atoms]).float(),
                       torch.from_numpy(residual[idx]).float(), shape(f["forces"][atoms]).float(), idx))
    return groups, atomic_energies


def batches(groups, pairs, max_batch, rng):
    """One epoch: (group, rows) in random order, each of about `pairs` atom pairs."""
    out = []
    for g, (species, *_) in enumerate(groups):
        size = int(min(max(1, pairs // species.shape[1] ** 2), max_batch))
        rows = torch.from_numpy(rng.permutation(len(species)))
        out += [(g, rows[a:a + size]) for a in range(0, len(rows), size)]
    return [out[k] for k in rng.permutation(len(out))]


def softened(x2, delta):
    """sqrt(x^2 + delta^2) - delta: quadratic below delta, linear above."""
    return torch.sqrt(x2 + delta * delta) - delta


def losses(params, args, scale, species, positions, energies, forces):
    """Force loss (eV/Angstrom) and energy loss (eV per sqrt(atom)) of a batch."""
    e, f = painn.energy_forces(params, args.config, args.cutoff, scale, species, positions, create_graph=True)
    force = softened(((f - forces) ** 2).sum(-1), 0.05).mean()
    return force, softened((e - energies) ** 2 / positions.shape[1], 0.01).mean()


def errors(params, args, scale, groups, pairs=8000):
    """Mean absolute errors over whole groups: energy per structure and per atom (eV), force components (eV/Angstrom)."""
    e_sum = ea_sum = f_sum = 0.0
    frames = components = 0
    for species, positions, energies, forces, _ in groups:
        n = species.shape[1]
        for k in range(0, len(species), max(1, pairs // n ** 2)):
            s = slice(k, k + max(1, pairs // n ** 2))
            e, f = painn.energy_forces(params, args.config, args.cutoff, scale, species[s], positions[s])
            e_sum += (e - energies[s]).abs().sum().item()
            ea_sum += (e - energies[s]).abs().sum().item() / n
            f_sum += (f - forces[s]).abs().sum().item()
            frames, components = frames + len(e), components + f.numel()
    return dict(energy_mae=e_sum / frames, energy_per_atom_mae=ea_sum / frames, force_mae=f_sum / components)


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
    groups, atomic = load(args.dir / "train.npz")
    scale = float(torch.cat([g[3].ravel() for g in groups]).square().mean().sqrt())
    valid = load(args.dir / "valid.npz", atomic)[0]
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
        epoch = batches(groups, args.pairs, args.max_batch, np.random.default_rng((args.seed, state["epoch"], state["step"])))
        for k in range(rank, len(epoch) - len(epoch) % args.processes, args.processes):
            lr, energy_weight = schedule(shared.item(), args)
            g, rows = epoch[k]
            force, energy = losses(params, args, scale, *(a[rows] for a in groups[g][:4]))
            optimizer.zero_grad(set_to_none=False)
            (force + energy_weight * energy).backward()
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
    p.add_argument("--pairs", type=int, default=6000, help="atom pairs in a batch of one process")
    p.add_argument("--max-batch", type=int, default=32, help="frames in a batch of one process, at most")
    p.add_argument("--features", type=int, default=64)
    p.add_argument("--cutoff", type=float, default=5.0)
    p.add_argument("--lr", type=float, default=2e-3)
    p.add_argument("--weight-decay", type=float, default=1e-4)
    p.add_argument("--energy-weight", type=float, nargs=2, default=(0.1, 1.0), metavar=("EARLY", "LATE"))
    p.add_argument("--clip", type=float, default=5.0)
    p.add_argument("--ema", type=float, default=0.999)
    p.add_argument("--validate-minutes", type=float, default=3.0)
    p.add_argument("--seed", type=int, default=0)
    args = p.parse_args()
    args.config = painn.default_config() | {"n_features": args.features, "readout_hidden": [args.features // 2]}
    args.out.mkdir(parents=True, exist_ok=True)
    (args.out / "rendezvous").unlink(missing_ok=True)
    mp.spawn(worker, (args,), nprocs=args.processes)


if __name__ == "__main__":
    main()
