"""The student in plain PyTorch: canonical PaiNN (Schuett, Unke, Gastegger, ICML 2021).

Numerically the same as SchNetPack 2's `representation.PaiNN` followed by `atomistic.Atomwise`. Parameters
are a flat dictionary with the names and shapes of an mlff model directory, so that export copies them.

Edge e is one directed neighbour pair: receiver i sums, sender j sends, r_ij = x_j - x_i. Structures are packed
one after another; nothing is padded.
"""
import math

import numpy as np
import torch
from torch.nn.functional import linear, silu


def default_config():
    return {
        "n_features": 64, "n_interactions": 3, "radial_basis": {"type": "gaussian", "n": 20}, "envelope": "cosine",
        "shared_filters": False, "shared_interactions": False, "activation": "silu", "epsilon": 1e-4,
        "readout_hidden": [32],
    }


def shapes(config, n_species):
    """Name -> shape of every tensor of the model, in the order of the file."""
    f, n_rbf, hidden = config["n_features"], config["radial_basis"]["n"], config["readout_hidden"][0]
    n_layers = config["n_interactions"]
    out = {"embedding": (n_species, f), "radial_basis.centers": (n_rbf,), "radial_basis.widths": (n_rbf,),
           "filters.weight": (n_layers * 3 * f, n_rbf), "filters.bias": (n_layers * 3 * f,)}
    for l in range(n_layers):
        p = f"interactions.{l}."
        out |= {p + "message.0.weight": (f, f), p + "message.0.bias": (f,),
                p + "message.1.weight": (3 * f, f), p + "message.1.bias": (3 * f,),
                p + "update.mix.weight": (2 * f, f),
                p + "update.0.weight": (f, 2 * f), p + "update.0.bias": (f,),
                p + "update.1.weight": (3 * f, f), p + "update.1.bias": (3 * f,)}
    return out | {"readout.0.weight": (hidden, f), "readout.0.bias": (hidden,),
                  "readout.1.weight": (1, hidden), "readout.1.bias": (1,)}


def initialise(config, n_species, cutoff, seed):
    """Xavier-uniform weights, zero biases, normal embedding, evenly spaced Gaussians as wide as their spacing."""
    g = torch.Generator().manual_seed(seed)
    params = {}
    for name, shape in shapes(config, n_species).items():
        if name == "embedding":
            params[name] = torch.randn(shape, generator=g)
        elif name == "radial_basis.centers":
            params[name] = torch.linspace(0, cutoff, shape[0])
        elif name == "radial_basis.widths":
            params[name] = torch.full(shape, cutoff / (shape[0] - 1))
        elif len(shape) == 1:
            params[name] = torch.zeros(shape)
        else:
            # A stacked matrix is several layers: its fan-out is one layer's.
            fan_out = shape[0] // config["n_interactions"] if name.startswith("filters") else shape[0]
            params[name] = (torch.rand(shape, generator=g) * 2 - 1) * math.sqrt(6 / (fan_out + shape[1]))
    return params


FIXED = ("radial_basis.centers", "radial_basis.widths")


def message(receivers, senders, w, x, u, mu):
    """Messages summed over the senders of each receiver.

    IN  w [E, 3F] filters, x [N, 3F] context, u [E, 3] unit vectors, mu [N, 3, F] or None (zero).
    OUT q [N, F] and m [N, 3, F], to be added to the scalars and vectors.
    """
    f = w.shape[1] // 3
    q, r, v = (w * x[senders]).split(f, 1)
    m = r[:, None] * u[:, :, None]
    if mu is not None:
        m = m + v[:, None] * mu[senders]
    n = len(x)
    return (torch.zeros(n, f, dtype=w.dtype).index_add(0, receivers, q),
            torch.zeros(n, 3, f, dtype=w.dtype).index_add(0, receivers, m))


def atom_energies(params, config, cutoff, species, positions, receivers, senders, message=message):
    """Network outputs e_i [N]. IN species [N] rows of the embedding, positions [N, 3], neighbour pairs [E]."""
    n_layers, f = config["n_interactions"], config["n_features"]
    r = positions[senders] - positions[receivers]
    d = torch.sqrt((r * r).sum(1, keepdim=True))
    u = r / d
    envelope = torch.where(d < cutoff, 0.5 * (torch.cos(d * (math.pi / cutoff)) + 1), 0.0)
    x = (d - params["radial_basis.centers"]) / params["radial_basis.widths"]
    # W = (basis . weight + bias) * envelope, with the envelope drawn into the sum: one pass over the edges less.
    basis = torch.cat([torch.exp(-0.5 * x * x), torch.ones_like(d)], 1) * envelope
    filter_weight = torch.cat([params["filters.weight"], params["filters.bias"][:, None]], 1)

    q, mu = params["embedding"], None                                            # layer 0: one row a species
    for l in range(n_layers):
        p = f"interactions.{l}."
        context = linear(silu(linear(q, params[p + "message.0.weight"], params[p + "message.0.bias"])),
                         params[p + "message.1.weight"], params[p + "message.1.bias"])
        if l == 0:
            q, context = q[species], context[species]
        w = linear(basis, filter_weight[l * 3 * f:(l + 1) * 3 * f])
        dq, dmu = message(receivers, senders, w, context, u, mu)
        q, mu = q + dq, dmu if mu is None else mu + dmu                          # vectors start at zero

        mu_v, mu_w = linear(mu, params[p + "update.mix.weight"]).split(f, -1)
        # eps inside the root: |v| is not differentiable at v = 0, where isolated atoms sit, and its curvature there is
        # 1/sqrt(eps), which molecular dynamics feels: with 1e-8 the energy jumps where a vector passes by zero.
        norm = torch.sqrt((mu_v * mu_v).sum(1) + config["epsilon"])
        h = silu(linear(torch.cat([q, norm], -1), params[p + "update.0.weight"], params[p + "update.0.bias"]))
        aq, amu, aqmu = linear(h, params[p + "update.1.weight"], params[p + "update.1.bias"]).split(f, -1)
        q = q + aq + aqmu * (mu_v * mu_w).sum(1)
        if l + 1 < n_layers:                                                     # the last vectors are not read
            mu = mu + amu[:, None] * mu_w
    h = silu(linear(q, params["readout.0.weight"], params["readout.0.bias"]))
    return linear(h, params["readout.1.weight"], params["readout.1.bias"])[:, 0]


def neighbors(positions, batch, cutoff):
    """Ordered pairs of different atoms of one structure closer than the cutoff, sorted by receiver (numpy)."""
    count = np.bincount(batch)
    start = np.cumsum(count) - count
    width = count[batch]
    receivers = np.repeat(np.arange(len(batch)), width)
    first = np.cumsum(width) - width
    senders = start[batch[receivers]] + np.arange(len(receivers)) - first[receivers]
    d2 = ((positions[senders] - positions[receivers]) ** 2).sum(1)
    keep = (d2 < cutoff * cutoff) & (receivers != senders)
    return receivers[keep], senders[keep]


def energy_forces(params, config, cutoff, energy_scale, species, positions, batch, n_structures, receivers, senders,
                  create_graph=False, message=message):
    """Energies [M] without the atomic energies, and forces [N, 3] = -dE/dx by autograd."""
    positions = positions.detach().requires_grad_(True)
    e = atom_energies(params, config, cutoff, species, positions, receivers, senders, message)
    energy = energy_scale * torch.zeros(n_structures, dtype=e.dtype).index_add(0, batch, e)
    grad, = torch.autograd.grad(energy.sum(), positions, create_graph=create_graph)
    return (energy, -grad) if create_graph else (energy.detach(), -grad)
