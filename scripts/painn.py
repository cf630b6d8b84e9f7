"""The student in plain PyTorch: canonical PaiNN (Schuett, Unke, Gastegger, ICML 2021).

Numerically the same as SchNetPack 2's `representation.PaiNN` followed by `atomistic.Atomwise`. Parameters
are a flat dictionary with the names and shapes of an mlff model directory, so that export copies them.

The layout is dense: molecules of one size side by side, every atom pair of a molecule present, the envelope
zero for pairs that are not neighbours. For small molecules that costs less than gathering and scattering
edges. Index i is the receiver, j the sender, r_ij = x_j - x_i.
"""
import math

import torch
from torch.nn.functional import linear, silu


def default_config():
    return {
        "n_features": 64, "n_interactions": 3, "radial_basis": {"type": "gaussian", "n": 20}, "envelope": "cosine",
        "shared_filters": False, "shared_interactions": False, "activation": "silu", "epsilon": 1e-8,
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


def atom_energies(params, config, cutoff, species, positions):
    """Network outputs e_i. IN species [B, n] rows of the embedding, positions [B, n, 3]. OUT [B, n]."""
    n_layers, f = config["n_interactions"], config["n_features"]
    n = positions.shape[1]
    r = positions[:, None, :, :] - positions[:, :, None, :]                      # [B, i, j, 3]
    eye = torch.eye(n, dtype=r.dtype, device=r.device)
    d = torch.sqrt((r * r).sum(-1) + eye)                                        # the diagonal must be differentiable
    u = r / d[..., None]
    inside = (d < cutoff) & (eye == 0)
    envelope = torch.where(inside, 0.5 * (torch.cos(d * (math.pi / cutoff)) + 1), 0.0)[..., None]
    x = (d[..., None] - params["radial_basis.centers"]) / params["radial_basis.widths"]
    # W = (basis . weight + bias) * envelope, with the envelope drawn into the sum: one pass over the pairs less.
    basis = torch.cat([torch.exp(-0.5 * x * x), torch.ones_like(d)[..., None]], -1) * envelope
    filter_weight = torch.cat([params["filters.weight"], params["filters.bias"][:, None]], 1)
    u = u.transpose(2, 3)                                                        # [B, i, 3, j]

    q, mu = params["embedding"], None                                            # layer 0: one row a species
    for l in range(n_layers):
        p = f"interactions.{l}."
        # Three narrow products instead of one wide and a split: contiguous operands are much faster.
        parts = [slice(k * f, (k + 1) * f) for k in range(3)]
        h = silu(linear(q, params[p + "message.0.weight"], params[p + "message.0.bias"]))
        context = [linear(h, params[p + "message.1.weight"][s], params[p + "message.1.bias"][s]) for s in parts]
        if l == 0:
            q, context = q[species], [c[species] for c in context]
        w = filter_weight[l * 3 * f:(l + 1) * 3 * f]
        q = q + (linear(basis, w[parts[0]]) * context[0][:, None]).sum(2)
        dmu = (u @ (linear(basis, w[parts[1]]) * context[1][:, None])).transpose(1, 2)   # [B, 3, i, F]
        if mu is None:                                                           # vectors start at zero
            mu = dmu
        else:
            v = (context[2][:, None] * mu)[:, :, None]                           # [B, 3, 1, j, F]
            mu = mu + dmu + (linear(basis, w[parts[2]])[:, None] * v).sum(3)

        mix = params[p + "update.mix.weight"]
        mu_v, mu_w = linear(mu, mix[:f]), linear(mu, mix[f:])
        # eps inside the root: |v| is not differentiable at v = 0, where isolated atoms sit.
        norm = torch.sqrt((mu_v * mu_v).sum(1) + config["epsilon"])
        h = silu(linear(torch.cat([q, norm], -1), params[p + "update.0.weight"], params[p + "update.0.bias"]))
        aq, amu, aqmu = (linear(h, params[p + "update.1.weight"][s], params[p + "update.1.bias"][s]) for s in parts)
        q = q + aq + aqmu * (mu_v * mu_w).sum(1)
        if l + 1 < n_layers:                                                     # the last vectors are not read
            mu = mu + amu[:, None] * mu_w
    h = silu(linear(q, params["readout.0.weight"], params["readout.0.bias"]))
    return linear(h, params["readout.1.weight"], params["readout.1.bias"])[..., 0]


def energy_forces(params, config, cutoff, energy_scale, species, positions, create_graph=False):
    """Energies [B] without the atomic energies, and forces [B, n, 3] = -dE/dx by autograd."""
    positions = positions.detach().requires_grad_(True)
    energy = energy_scale * atom_energies(params, config, cutoff, species, positions).sum(1)
    grad, = torch.autograd.grad(energy.sum(), positions, create_graph=create_graph)
    return (energy, -grad) if create_graph else (energy.detach(), -grad)
