#!/usr/bin/env python3
"""PyTorch's unfused tensor operations beside the CUDA kernels of mlff, on the same GPU and sizes.

    cargo bench --bench cuda -- --json kernels.json && python benchmarks/cuda_unfused.py kernels.json

f32, TF32 off, forward only, eager, CUDA events, median of 7. Prints a table: the best kernel of mlff for each operation.
"""

import json
import math
import sys

import torch
import torch.nn.functional as F

CUTOFF, N_RBF = 5.0, 20


def seconds(work):
    for _ in range(3):
        work()
    samples = []
    for _ in range(7):
        start, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
        start.record()
        for _ in range(50):
            work()
        end.record()
        torch.cuda.synchronize()
        samples.append(start.elapsed_time(end) * 1e-3 / 50)
    return sorted(samples)[3]


def edges(n_structures, n_atoms, n_edges):
    size, reach = n_atoms // n_structures, n_edges // n_atoms // 2
    atoms = torch.arange(n_atoms, device="cuda")
    shifts = torch.tensor([s for k in range(1, reach + 1) for s in (k, -k)], device="cuda")
    senders = ((atoms % size)[:, None] + shifts).remainder(size) + (atoms // size * size)[:, None]
    return atoms.repeat_interleave(2 * reach), senders.sort(1).values.reshape(-1)


def operations(data):
    n_atoms, n_edges = data["n_atoms"], data["n_edges"]
    receivers, senders = edges(data["n_structures"], n_atoms, n_edges)
    positions = torch.rand(n_atoms, 3, device="cuda") * 5
    distances = torch.rand(n_edges, device="cuda") * 4 + 0.9
    centers = torch.arange(N_RBF, device="cuda") * (CUTOFF / N_RBF)

    def edge_geometry():
        r = positions[senders] - positions[receivers]
        d = torch.linalg.vector_norm(r, dim=1, keepdim=True)
        return torch.cat([d, r / d], 1)

    def radial_basis():
        x = (distances[:, None] - centers) / 0.26
        envelope = 0.5 * (torch.cos(distances * (math.pi / CUTOFF)) + 1.0) * (distances < CUTOFF)
        return torch.cat([torch.exp(-0.5 * x * x) * envelope[:, None], envelope[:, None]], 1)

    yield "edge_geometry", edge_geometry
    yield "radial_basis", radial_basis
    basis, geometry = radial_basis(), edge_geometry()
    for n in (64, 128):
        nodes, weight = torch.randn(n_atoms, 6 * n, device="cuda"), torch.randn(3 * n, N_RBF + 1, device="cuda")

        def message():
            w = (basis @ weight.T) * nodes[senders, : 3 * n]
            vectors = nodes[senders, 3 * n :].reshape(-1, 3, n)
            q, along, gate = w.split(n, 1)
            mu = along[:, None] * geometry[:, 1:, None] + gate[:, None] * vectors
            sums = torch.zeros(n_atoms, 4 * n, device="cuda")
            return sums.index_add_(0, receivers, torch.cat([q, mu.reshape(-1, 3 * n)], 1))

        yield f"message F={n}", message
    for n in (128, 1024):
        x, weight, residual = (torch.randn(n, n, device="cuda") for _ in range(3))
        bias = torch.randn(n, device="cuda")
        yield f"linear_residual_silu {n}x{n}x{n}", lambda: F.silu(F.linear(x, weight, bias) + residual)
        yield f"silu_linear {n}x{n}x{n}", lambda: F.linear(F.silu(x), weight, bias)


def main():
    with open(sys.argv[1]) as file:
        data = json.load(file)
    torch.backends.cuda.matmul.allow_tf32 = False
    ours = {}
    for row in data["rows"]:
        name = row["name"].rsplit(" ", 1)[0] if row["name"].endswith(("narrow", "wide", "library")) else row["name"]
        ours[name] = min(row["seconds"], ours.get(name, math.inf))
    print(f"PyTorch {torch.__version__}, eager\n\n| operation | PyTorch, µs | mlff, µs | ratio |\n|---|---|---|---|")
    with torch.no_grad():
        for name, work in operations(data):
            theirs = seconds(work)
            print(f"| {name} | {1e6 * theirs:.2f} | {1e6 * ours[name]:.2f} | {theirs / ours[name]:.2f} |")


main()
