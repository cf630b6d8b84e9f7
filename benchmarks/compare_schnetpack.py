#!/usr/bin/env python3
"""Compares mlff's CPU engine with SchNetPack 2: same weights, same run, one after the other in turns.

    python benchmarks/compare_schnetpack.py            # about ten minutes; prints tables and writes results/
    python benchmarks/compare_schnetpack.py --quick    # about two

PaiNN with random weights, 3 layers, 20 radial functions, 5 Å, energies and forces in f32, neighbour search included:

batch    mixed organic molecules of 9 to 60 atoms, SchNetPack at its best batch size
step     one molecule of 22 atoms, step after step
box      periodic water, step after step, with stress
sizes    mlff alone: molecules of mixed sizes against molecules of one size
scaling  mlff alone: time and memory an atom against the number of molecules and the size of a periodic box

Both must give the same energies, forces and stress, in f32 and in f64, or nothing is timed. How SchNetPack is run, and
what is done in its favour: schnetpack_side.py. Absolute times drift; the ratios are those of neighbouring turns.
"""

import argparse
import os
import platform
import random
import subprocess
import sys
import tempfile
import time
from datetime import date
from pathlib import Path
from statistics import median

HERE = Path(__file__).resolve().parent
PACKAGES = "torch schnetpack==2.1.1 ase matscipy safetensors numpy"
ANGSTROM3_PER_WATER = 29.9
# PyTorch's idle threads spin for a moment after their work.
PAUSE = 0.1


class Settings:
    """How much is measured."""

    def __init__(self, quick):
        self.rounds = 3 if quick else 5
        self.minimum = 0.1 if quick else 0.5
        self.n_batch = 32 if quick else 256
        self.n_sweep = 16 if quick else 64
        self.batch_sizes = (1, 4, 16, 32) if quick else (1, 4, 16, 64, 128, 256)
        self.box_waters = (64,) if quick else (64, 512)
        self.n_sizes = 1000 if quick else 10_000
        self.decades = range(0, 4) if quick else range(0, 6)
        self.longest = 3.0 if quick else 60.0


class Bench:
    """Everything that one measurement after another needs."""

    def __init__(self, args, folder):
        import ase.io
        import mlff_side
        import schnetpack_side

        self.args, self.folder = args, folder
        self.load = os.getloadavg()[0]
        if self.load > 0.5:
            note(f"load average {self.load:.1f}: other programs run; PyTorch on several threads suffers from them most")
        self.settings = Settings(args.quick)
        self.mlff, self.schnetpack, self.ase_io = mlff_side, schnetpack_side, ase.io
        self.driver_program, mlff_program = mlff_side.build()
        self.molecules = ase.io.read(HERE / "data/molecules.xyz", ":")
        # The file is sorted by size; any number of these is a fair sample.
        shuffled = random.Random(1).sample(self.molecules, len(self.molecules))
        self.mixed_file, _ = self.write_structures("mixed", shuffled)
        self.checked = set()
        self.models = {}
        for f in args.features:
            weights = schnetpack_side.export(schnetpack_side.build_model(f), folder / f"schnetpack-{f}")
            self.models[f] = mlff_side.import_model(mlff_program, weights, folder / f"mlff-{f}")
        self.lines = []

    def driver(self, f, threads, precision="f32"):
        return self.mlff.Driver(self.driver_program, self.models[f], precision, threads)

    def write_structures(self, name, structures):
        """Writes an XYZ file; returns its path and the structures as they read from it, digits cut off."""
        path = self.folder / f"{name}.xyz"
        self.ase_io.write(path, structures, format="extxyz")
        return path, self.ase_io.read(path, ":")

    def say(self, line=""):
        """Prints a line of the report."""
        print(line, flush=True)
        self.lines.append(line)

    def table(self, title, header, rows):
        self.say(f"\n## {title}\n")
        self.say("| " + " | ".join(header) + " |")
        self.say("|" + "---|" * len(header))
        for row in rows:
            self.say("| " + " | ".join(str(cell) for cell in row) + " |")


def note(text):
    """Says on standard error what goes on."""
    print(text, file=sys.stderr, flush=True)


def check_equal(bench, f, path, structures, stress):
    """Raises Failed unless both give the same results; once for each file and number of features."""
    import numpy as np
    import torch

    if (f, path) in bench.checked:
        return
    bench.checked.add((f, path))
    limits = {"f32": (torch.float32, 1e-5, 1e-4), "f64": (torch.float64, 1e-9, 1e-8)}
    for precision, (dtype, energy_limit, limit) in limits.items():
        expected = bench.schnetpack.results_one_by_one(f, structures, stress, dtype)
        with bench.driver(f, max(bench.args.threads), precision) as driver:
            driver.load_structures(path)
            results = driver.ask("energies_forces")["results"]
        if len(results) != len(expected):
            raise bench.mlff.Failed(f"{len(results)} results for {len(expected)} structures")
        worst = np.zeros(3)
        for got, (energy, forces, want_stress) in zip(results, expected):
            # Random weights give forces of any size; the limits are meant for some of 1 eV/Å.
            scale = float(np.sqrt((forces**2).mean()))
            worst[0] = max(worst[0], abs(got["energy"] - float(energy)) / len(forces) / scale)
            worst[1] = max(worst[1], np.abs(np.array(got["forces"]) - forces).max() / scale)
            if stress:
                worst[2] = max(worst[2], np.abs(np.array(got["stress"]) - want_stress).max() / scale)
        text = f"{path.stem}, F = {f}, {precision}: "
        text += "energy per atom {:.1e}, forces {:.1e}, stress {:.1e}".format(*worst)
        note(f"{text} off, for forces of 1")
        if not (worst <= (energy_limit, limit, limit)).all():
            raise bench.mlff.Failed(f"results differ, nothing is timed: {text} off, for forces of 1")


HEADER = (
    "",
    "features",
    "threads",
    "SchNetPack, ms",
    "without search, ms",
    "mlff, ms",
    "SchNetPack / mlff",
    "without search / mlff",
    "mlff, µs/atom",
    "GFLOP/s",
    "of sgemm",
    "SchNetPack ran",
)


def take_turns(bench, driver, evaluator, mlff_seconds, f, n_atoms, n_structures):
    """Measures both in turns; returns the cells of a row from the times on."""
    settings = bench.settings
    turns, rate = [], driver.ask("sgemm")["gflops"]
    for _ in range(settings.rounds):
        whole, bare = evaluator.seconds(settings.minimum), evaluator.model_seconds(settings.minimum)
        time.sleep(PAUSE)
        turns.append((whole, bare, mlff_seconds()))
    wholes, bares, mlffs = zip(*turns)
    gflops = 160e-9 * f * f * n_atoms / median(mlffs)
    rate = max(rate, driver.ask("sgemm")["gflops"])
    ms = lambda times: f"{1e3 * median(times) / n_structures:.3g}"
    return [
        ms(wholes),
        ms(bares),
        ms(mlffs),
        spread([whole / own for whole, _, own in turns]),
        spread([bare / own for _, bare, own in turns]),
        f"{1e6 * median(mlffs) / n_atoms:.3g}",
        f"{gflops:.1f}",
        f"{100 * gflops / rate:.1f} % of {rate:.0f}",
    ]


def spread(values):
    """Median, least and largest."""
    return f"**{median(values):.1f}** ({min(values):.1f}–{max(values):.1f})"


def each_case(bench):
    """Every number of features and threads."""
    return ((f, threads) for f in bench.args.features for threads in bench.args.threads)


def run_batch(bench):
    settings, spk = bench.settings, bench.schnetpack
    n, sizes = settings.n_batch, settings.batch_sizes
    chosen = [bench.molecules[k * len(bench.molecules) // n % len(bench.molecules)] for k in range(n)]
    # Where molecules are there several times, so are their atoms, at other places.
    path, structures = bench.write_structures("batch", [spk.moved(atoms, k) for k, atoms in enumerate(chosen)])
    some_path, some = bench.write_structures("some", structures[:: n // 16])
    rows, sweep_rows = [], []
    for f, threads in each_case(bench):
        check_equal(bench, f, some_path, some, stress=False)
        models = spk.build_models(f, stress=False)
        few = spk.Evaluator(models, some, len(some))
        few.choose(threads, 0.0)
        sweep = {}
        spk.return_freed_memory()
        for size in sizes:
            if spk.bytes_needed(f, sum(map(len, structures[:size]))) > 0.7e3 * available_kb():
                note(f"batch, F = {f}: no memory for {size} at a time")
                continue
            part = spk.Evaluator(models, structures[:: max(1, n // max(settings.n_sweep, size))], size, few.way)
            # The first time touches new memory, and sometimes the second.
            sweep[size] = min(part.seconds(0.0) for _ in range(3)) / part.n_atoms
            note(f"batch, F = {f}, threads {threads}: {size} at a time, {1e6 * sweep[size]:.0f} µs/atom")
        best = min(sweep, key=sweep.get)
        part = spk.Evaluator(models, structures[: max(settings.n_sweep, best)], best)
        part.choose(threads, 0.0)
        evaluator = spk.Evaluator(models, structures, best, part.way)
        with bench.driver(f, threads) as driver:
            driver.load_structures(path)
            seconds = lambda: driver.batch_seconds(settings.minimum)
            cells = take_turns(bench, driver, evaluator, seconds, f, evaluator.n_atoms, n)
        rows.append([f"{n} molecules", f, threads, *cells, f"{best} at a time, {evaluator.way}"])
        times = (f"{1e6 * sweep[size]:.0f}" if size in sweep else "no memory" for size in sizes)
        sweep_rows.append([f, threads, *times])
    n_atoms = sum(map(len, structures))
    bench.table(f"Batch: {n} molecules of 9 to 60 atoms, {n_atoms} atoms; times for a molecule", HEADER, rows)
    header = ["features", "threads", *(f"{size} at a time" for size in sizes)]
    bench.table("SchNetPack's batch size, µs/atom", header, sweep_rows)


def run_steps(bench, title, named_structures, stress):
    """Step after step of each structure."""
    settings, spk = bench.settings, bench.schnetpack
    rows = []
    for name, atoms in named_structures:
        path, (atoms,) = bench.write_structures(name.replace(" ", "-"), [atoms])
        for f, threads in each_case(bench):
            check_equal(bench, f, path, [atoms], stress)
            evaluator = spk.Evaluator(spk.build_models(f, stress), [atoms])
            evaluator.choose(threads, settings.minimum)
            note(f"{name}, F = {f}, threads {threads}: {evaluator.way}")
            with bench.driver(f, threads) as driver:
                driver.load_structures(path)
                seconds = lambda: driver.step_seconds(settings.minimum, spk.JITTER, stress)
                cells = take_turns(bench, driver, evaluator, seconds, f, len(atoms), 1)
            rows.append([name, f, threads, *cells, evaluator.way])
    bench.table(title, HEADER, rows)


def run_step(bench):
    atoms = next(atoms for atoms in bench.molecules if len(atoms) == 22)
    run_steps(bench, "One molecule, step after step", [("22 atoms", atoms)], stress=False)


def run_box(bench):
    boxes = [(f"water {3 * n}", water_box(n)) for n in bench.settings.box_waters]
    run_steps(bench, "Periodic water, step after step, with stress", boxes, stress=True)


def water_box(n_waters):
    """Water of 1 g/cm³: molecules on a grid, turned at random."""
    import ase
    import numpy as np
    from ase.build import molecule

    rng = np.random.default_rng(n_waters)
    length = (n_waters * ANGSTROM3_PER_WATER) ** (1 / 3)
    per_side = int(np.ceil(n_waters ** (1 / 3) - 1e-9))
    water = molecule("H2O")
    water.positions -= water.positions[0]
    positions = []
    for k in range(n_waters):
        site = k * per_side**3 // n_waters
        corner = np.array([site // per_side**2, site // per_side % per_side, site % per_side])
        turn, _ = np.linalg.qr(rng.normal(size=(3, 3)))
        positions.append((corner + 0.5) * length / per_side + water.positions @ turn)
    return ase.Atoms(water.get_chemical_symbols() * n_waters, np.concatenate(positions), cell=[length] * 3, pbc=True)


def run_sizes(bench):
    import numpy as np

    settings, molecules = bench.settings, bench.molecules
    # The one size is that with as many edges an atom as all together have, for edges cost time too.
    n_atoms = np.array([len(atoms) for atoms in molecules])
    n_edges = np.array([bench.schnetpack.count_edges(atoms) for atoms in molecules])
    per_size = {size: n_edges[n_atoms == size].sum() / n_atoms[n_atoms == size].sum() for size in sorted(set(n_atoms))}
    one_size = min(per_size, key=lambda size: abs(per_size[size] - n_edges.sum() / n_atoms.sum()))
    files = {"mixed": bench.mixed_file}
    files["one"], _ = bench.write_structures("one-size", [atoms for atoms in molecules if len(atoms) == one_size])
    rows = []
    for f, threads in each_case(bench):
        with bench.driver(f, threads) as mixed, bench.driver(f, threads) as one:
            drivers = {"mixed": mixed, "one": one}
            trial = one.load_structures(files["one"], n=100)
            affordable = settings.longest / 12 / one.batch_seconds(0.2) * trial / n_atoms.mean()
            n = {"mixed": min(settings.n_sizes, int(affordable))}
            n["one"] = round(n["mixed"] * n_atoms.mean() / one_size)
            atoms = {k: d.load_structures(files[k], n=n[k], jitter=0.05) for k, d in drivers.items()}
            edges = {k: d.ask("edges")["n_edges"] / atoms[k] for k, d in drivers.items()}
            turns = []
            for _ in range(2 if bench.args.quick else 3):
                turns.append({k: d.batch_seconds(0.0, repeats=2) / atoms[k] for k, d in drivers.items()})
        note(f"sizes, F = {f}, threads {threads}: done")
        ratio = spread([100 * turn["one"] / turn["mixed"] for turn in turns])
        times = {k: 1e6 * median(turn[k] for turn in turns) for k in drivers}
        cells = [f"{n[k]}; {atoms[k]}; {edges[k]:.1f}; {times[k]:.3g} µs/atom" for k in drivers]
        rows.append([f, threads, *cells, ratio])
    what = "molecules; atoms; edges/atom; time"
    header = ["features", "threads", f"mixed sizes: {what}", f"one size: {what}", "throughput, mixed of one size, %"]
    bench.table(f"mlff: molecules of 9 to 60 atoms against molecules of {one_size}", header, rows)


def run_scaling(bench):
    threads = max(bench.args.threads)
    rows = []
    boxes = [bench.write_structures(f"box{k}", [water_box(10**k // 3)])[0] for k in bench.settings.decades if k >= 2]
    molecules = [(bench.mixed_file, 10**k) for k in bench.settings.decades]
    for f in bench.args.features:
        for kind, files in (("molecules", molecules), ("periodic box", [(path, 1) for path in boxes])):
            per_atom, kb = 0.0, 0.0
            for path, n in files:
                with bench.driver(f, threads) as driver:
                    empty = driver.ask("memory")["resident"]
                    n_atoms = driver.load_structures(path, n=n, jitter=0.05)
                    label = [kind, f, n if kind == "molecules" else "", n_atoms]
                    if 2 * per_atom * n_atoms > bench.settings.longest or kb * n_atoms > 0.5 * available_kb():
                        needed = f"{per_atom * n_atoms:.0f} s, {1e-6 * kb * n_atoms:.1f} GB"
                        rows.append([*label, f"left out: {needed}", ""])
                        continue
                    per_atom = driver.batch_seconds(0.2, repeats=2) / n_atoms
                    kb = (driver.ask("memory")["peak"] - empty) / n_atoms
                    rows.append([*label, f"{1e6 * per_atom:.3g}", f"{kb:.2f}"])
                note(f"scaling, F = {f}: {n} × {path.stem} done")
    header = ["", "features", "molecules", "atoms", "µs/atom", "peak memory above the idle process, kB/atom"]
    bench.table(f"mlff: scaling, each size in a process of its own, threads: {threads}", header, rows)


WORKLOADS = {"batch": run_batch, "step": run_step, "box": run_box, "sizes": run_sizes, "scaling": run_scaling}


def available_kb():
    """Memory that can be had without swapping."""
    line = next(line for line in Path("/proc/meminfo").read_text().splitlines() if line.startswith("MemAvailable"))
    return int(line.split()[1])


def describe(bench):
    """Says what was measured where."""
    import schnetpack
    import torch

    cpu = {}
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        key, _, value = line.partition(":")
        cpu.setdefault(key.strip(), value.strip())
    avx512 = "with" if "avx512f" in cpu.get("flags", "").split() else "without"
    git = ["git", "describe", "--always", "--dirty", "--exclude=*"]
    commit = subprocess.run(git, cwd=HERE, capture_output=True, text=True).stdout.strip() or "unknown"
    rates = []
    for threads in bench.args.threads:
        torch.set_num_threads(threads)
        rates.append(f"{bench.schnetpack.sgemm_rate():.0f} GFLOP/s (threads: {threads})")
    command = " ".join(["python benchmarks/compare_schnetpack.py", *sys.argv[1:]])
    model = cpu.get("model name", platform.machine())
    bench.say(f"""# mlff and SchNetPack 2 on the CPU

`{command}`, {date.today()}, commit {commit}.
{model}, {available_cores()} cores, {avx512} AVX-512, load average before it {bench.load:.1f}.
SchNetPack {schnetpack.__version__}, PyTorch {torch.__version__}, all in f32.

Times are medians over turns; ratios are medians (least–largest) over turns of both in one run, with the same weights.
GFLOP/s of mlff by the count 160·F² an atom, against the best sgemm (crate gemm, one product on each thread) in the same
process. Neighbour search is in both times; "without search" is SchNetPack without it. SchNetPack may use fewer threads
where that is faster. PyTorch's sgemm: {", ".join(rates)}.""")


def available_cores():
    return len(os.sched_getaffinity(0))


def numbers(text):
    """Turns 64,128 into numbers."""
    values = [int(part) for part in text.split(",")]
    if min(values) < 1:
        raise argparse.ArgumentTypeError(f"{text}: expected positive numbers")
    return values


def workloads(text):
    values = text.split(",")
    unknown = [value for value in values if value not in WORKLOADS]
    if unknown:
        raise argparse.ArgumentTypeError(f"{', '.join(unknown)}: expected some of {', '.join(WORKLOADS)}")
    return values


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--features", type=numbers, default=[64, 128], metavar="F,…", help="features [64,128]")
    parser.add_argument("--threads", type=numbers, default=[1, 2], metavar="N,…", help="threads [1,2]")
    parser.add_argument("--quick", action="store_true", help="fewer turns, smaller systems")
    parser.add_argument("--only", type=workloads, default=list(WORKLOADS), metavar="NAME,…", help="workloads [all]")
    parser.add_argument("--default-malloc", action="store_true", help="leave SchNetPack's memory to glibc's defaults")
    output = HERE / "results/compare_schnetpack.md"
    parser.add_argument("-o", "--output", type=Path, default=output, metavar="FILE", help=f"report [{output.name}]")
    args = parser.parse_args()
    if not args.output.parent.is_dir():
        parser.error(f"no directory {args.output.parent} for the report")
    if not args.default_malloc and "GLIBC_TUNABLES" not in os.environ:
        # glibc reads it when a process starts.
        os.environ["GLIBC_TUNABLES"] = "glibc.malloc.hugetlb=1"
        os.execv(sys.executable, sys.orig_argv)
    try:
        import mlff_side
        import schnetpack_side
    except ImportError as error:
        sys.exit(f"compare_schnetpack.py: {error}\n  pip install {PACKAGES}")
    if not args.default_malloc:
        schnetpack_side.keep_freed_memory()
    begin = time.perf_counter()
    try:
        with tempfile.TemporaryDirectory(prefix="mlff-compare-") as folder:
            bench = Bench(args, Path(folder))
            describe(bench)
            for name in args.only:
                WORKLOADS[name](bench)
                schnetpack_side.return_freed_memory()
    except mlff_side.Failed as error:
        sys.exit(f"compare_schnetpack.py: {error}")
    args.output.write_text("\n".join(bench.lines) + "\n")
    note(f"written to {args.output} after {time.perf_counter() - begin:.0f} s")


if __name__ == "__main__":
    main()
