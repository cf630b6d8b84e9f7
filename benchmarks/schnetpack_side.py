"""SchNetPack's side of compare_schnetpack.py: the model, its neighbour searches and its times.

It gets what a careful user would give it: frozen weights, the batch size that is fastest, eager or TorchScript and one
thread or all, whichever is faster, and the faster of two neighbour searches: SchNetPack's own MatScipyNeighborList, and
a filter in PyTorch over candidate pairs made beforehand (all pairs of a molecule; pairs within cutoff + 1 Å of a
periodic box, as NeighborListMD keeps them). Making the candidates, and seeing whether they still hold, is not counted.
glibc is told to keep freed memory and to ask for huge pages, without which page faults take up to half of the time.
"""

import ctypes
import functools
import sys
import time
import warnings
from pathlib import Path
from statistics import median
from typing import NamedTuple

import ase
import numpy as np
import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "scripts"))
import export_schnetpack  # noqa: E402  (needs the path)

warnings.filterwarnings("ignore")
try:
    spk = export_schnetpack.import_schnetpack()
except export_schnetpack.Refused as refused:
    raise ImportError(str(refused)) from refused
from matscipy.neighbours import neighbour_list  # noqa: E402  (SchNetPack brings it)
from schnetpack import properties as keys  # noqa: E402  (needs import_schnetpack first)
from schnetpack.interfaces.ase_interface import AtomsConverter  # noqa: E402

CUTOFF = 5.0
SHELL = 1.0
N_VARIANTS = 8
JITTER = 0.02
FILTER, MATSCIPY = "PyTorch filter", "MatScipyNeighborList"
EAGER, SCRIPT = "eager", "TorchScript"


def keep_freed_memory():
    """Tells glibc, where there is one, not to return freed memory to the system."""
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt:
        m_trim_threshold, m_mmap_max = -1, -4
        mallopt(m_mmap_max, 0)
        mallopt(m_trim_threshold, (1 << 31) - 1)


def return_freed_memory():
    """Returns to the system what the last workload left, which fragments."""
    malloc_trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if malloc_trim:
        malloc_trim(0)


def bytes_needed(n_features, n_atoms):
    """What a batch of molecules may take: 9 kB a feature and atom, measured, and what fragmentation adds."""
    return 1.5 * 9e3 * n_features * n_atoms


def build_model(n_features, stress=False):
    """A PaiNN with random f32 weights, the same for the same size, ready to predict energy, forces and stress."""
    painn = spk.representation.PaiNN(
        n_atom_basis=n_features,
        n_interactions=3,
        radial_basis=spk.nn.GaussianRBF(n_rbf=20, cutoff=CUTOFF),
        cutoff_fn=spk.nn.CosineCutoff(CUTOFF),
    )
    model = spk.model.NeuralNetworkPotential(
        representation=painn,
        input_modules=([spk.atomistic.Strain()] if stress else []) + [spk.atomistic.PairwiseDistances()],
        output_modules=[
            spk.atomistic.Atomwise(n_in=n_features, output_key="energy"),
            spk.atomistic.Forces(calc_forces=True, calc_stress=stress),
        ],
    )
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for p in model.parameters():
            # Biases too, so that the comparison of results misses no part of the network.
            p.copy_(torch.randn(p.shape, generator=generator) * (0.1 if p.dim() == 1 else 0.75 / p.shape[-1] ** 0.5))
    return model.eval().requires_grad_(False)


@functools.cache
def build_models(n_features, stress):
    """The same model in both modes; TorchScript keeps what it has compiled."""
    model = build_model(n_features, stress)
    return {EAGER: model, SCRIPT: torch.jit.script(model)}


def export(model, folder):
    """Writes the weights and config.json that `mlff import schnetpack` reads; returns the weight file."""
    tensors, config, _ = export_schnetpack.export_model(model)
    export_schnetpack.write(folder, tensors, config)
    return folder / "schnetpack_state_dict.safetensors"


def moved(atoms, seed):
    """A copy with every atom moved a little."""
    atoms = atoms.copy()
    atoms.positions += np.random.default_rng(seed).uniform(-JITTER, JITTER, atoms.positions.shape)
    return atoms


class Batch:
    """Structures that are evaluated together, at N_VARIANTS sets of slightly different positions."""

    def __init__(self, structures, dtype=torch.float32, seed=0):
        sizes = torch.tensor([len(atoms) for atoms in structures])
        rng = np.random.default_rng(seed)
        positions = np.concatenate([atoms.positions for atoms in structures])
        moved = [positions] + [positions + rng.uniform(-JITTER, JITTER, positions.shape) for _ in range(N_VARIANTS - 1)]
        self.positions = [torch.tensor(r, dtype=dtype) for r in moved]
        ends = sizes.cumsum(0).tolist()
        self.variants = [
            [ase.Atoms(a.numbers, r[end - len(a) : end], cell=a.cell, pbc=a.pbc) for a, end in zip(structures, ends)]
            for r in moved
        ]
        self.fixed = {
            keys.Z: torch.tensor(np.concatenate([atoms.numbers for atoms in structures])),
            keys.n_atoms: sizes,
            keys.idx_m: torch.repeat_interleave(torch.arange(len(structures)), sizes),
            keys.cell: torch.tensor(np.array([atoms.cell.array for atoms in structures]), dtype=dtype),
            keys.pbc: torch.tensor(np.array([atoms.pbc for atoms in structures])),
        }
        found = [candidates(atoms) for atoms in structures]
        starts = [0] + ends[:-1]
        self.receivers = torch.tensor(np.concatenate([i + start for (i, _, _), start in zip(found, starts)]))
        self.senders = torch.tensor(np.concatenate([j + start for (_, j, _), start in zip(found, starts)]))
        self.offsets = torch.tensor(np.concatenate([offsets for _, _, offsets in found]), dtype=dtype)
        self.converter = AtomsConverter(spk.transform.MatScipyNeighborList(CUTOFF), dtype=dtype)

    def inputs(self, variant, search):
        """What the model takes, neighbours included."""
        variant %= N_VARIANTS
        if search == MATSCIPY:
            return self.converter(self.variants[variant])
        r = self.positions[variant].clone()
        r_ij = r[self.senders] - r[self.receivers] + self.offsets
        near = torch.nonzero((r_ij * r_ij).sum(1) < CUTOFF * CUTOFF).squeeze(1)
        pairs = {keys.idx_i: self.receivers[near], keys.idx_j: self.senders[near], keys.offsets: self.offsets[near]}
        return {**self.fixed, keys.R: r, **pairs}


def candidates(atoms):
    """Receivers, senders and offsets of the pairs that may come within the cutoff."""
    if atoms.pbc.any():
        i, j, shifts = neighbour_list("ijS", atoms, CUTOFF + SHELL)
        return i.astype(np.int64), j.astype(np.int64), shifts @ atoms.cell.array
    i, j = np.nonzero(~np.eye(len(atoms), dtype=bool))
    return i, j, np.zeros((len(i), 3))


def count_edges(atoms):
    """Pairs within the cutoff of a molecule, both directions."""
    return int((atoms.get_all_distances() < CUTOFF).sum()) - len(atoms)


class Way(NamedTuple):
    """How SchNetPack is run."""

    mode: str = EAGER
    search: str = FILTER
    threads: int = 1

    def __str__(self):
        return f"{self.mode}, {self.search}, threads {self.threads}"


class Evaluator:
    """Evaluates structures in batches of one size, in their order, in the fastest way that `choose` finds."""

    def __init__(self, models, structures, batch_size=1, way=Way()):
        self.models = models
        self.batches = [Batch(structures[k : k + batch_size]) for k in range(0, len(structures), batch_size)]
        self.n_atoms = sum(len(atoms) for atoms in structures)
        self.way = way
        self.calls = 0

    def run(self):
        """Evaluates everything once, at other positions than the time before."""
        self.calls += 1
        for batch in self.batches:
            self.models[self.way.mode](batch.inputs(self.calls, self.way.search))

    def seconds(self, minimum):
        """Median seconds of `run`, repeated for at least `minimum` seconds."""
        torch.set_num_threads(self.way.threads)
        return median(all_seconds(self.run, minimum))

    def model_seconds(self, minimum):
        """The same without any search: neighbours are those of the first positions."""
        torch.set_num_threads(self.way.threads)
        ready = [batch.inputs(0, self.way.search) for batch in self.batches]

        def run():
            for inputs in ready:
                # The model adds to its input and asks for gradients of it.
                self.models[self.way.mode]({**inputs, keys.R: inputs[keys.R].detach().clone()})

        return median(all_seconds(run, minimum))

    def choose(self, threads, minimum):
        """Settles on the faster search, then mode, then number of threads; returns the least seconds of `run`."""
        found = {}

        def try_way(way):
            if way not in found:
                self.way = way
                torch.set_num_threads(way.threads)
                # TorchScript compiles in its first calls.
                for _ in range(4 if way.mode == SCRIPT and len(self.batches) == 1 else 1):
                    self.run()
                found[way] = min(all_seconds(self.run, minimum))

        try_way(Way(threads=threads))
        for change in ({"search": MATSCIPY}, {"mode": SCRIPT}, {"threads": 1}):
            try_way(min(found, key=found.get)._replace(**change))
        self.way = min(found, key=found.get)
        return found[self.way]


def all_seconds(run, minimum):
    """Seconds of each call, repeated for at least `minimum` seconds."""
    times = []
    begin = time.perf_counter()
    while not times or time.perf_counter() - begin < minimum:
        start = time.perf_counter()
        run()
        times.append(time.perf_counter() - start)
    return times


def results_one_by_one(n_features, structures, stress, dtype):
    """Energy, forces and stress (None without) of each structure, computed in `dtype`, as float64 arrays."""
    model = build_model(n_features, stress).to(dtype)
    out = []
    # SchNetPack makes some tensors of the default type.
    torch.set_default_dtype(dtype)
    for atoms in structures:
        results = model(Batch([atoms], dtype).inputs(0, FILTER))
        arrays = (results[keys.energy][0], results[keys.forces], results[keys.stress][0] if stress else None)
        out.append(tuple(None if a is None else a.detach().double().numpy() for a in arrays))
    torch.set_default_dtype(torch.float32)
    return out


def sgemm_rate(minimum=0.3):
    """Best GFLOP/s of PyTorch's f32 matrix product."""
    best = 0.0
    for m, n, k in ((768, 768, 768), (1024, 512, 512)):
        a, b, out = torch.randn(m, k), torch.randn(k, n), torch.empty(m, n)
        begin = time.perf_counter()
        while time.perf_counter() - begin < minimum:
            start = time.perf_counter()
            torch.mm(a, b, out=out)
            best = max(best, 2e-9 * m * n * k / (time.perf_counter() - start))
    return best
