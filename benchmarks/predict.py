"""How much of the engine's throughput `mlff predict` keeps when it reads and writes a file.

    python benchmarks/predict.py [--frames 30000] [--threads 2] [--turns 7]

Takes turns: `mlff predict` on the example trajectory, repeated to the number of frames, and the engine alone on the same
structures in memory, before and after: the machine's speed drifts. Prints both and the ratio of each turn. Needs Python's
standard library only.
"""

import argparse
import subprocess
import sys
import tempfile
from pathlib import Path
from statistics import median
from time import perf_counter

from mlff_side import ROOT, Driver, Failed, build

EXAMPLE = ROOT / "examples/data/trajectory.xyz"


def repeated(frames, path):
    """Writes the example's frames over and over."""
    lines = EXAMPLE.read_text().splitlines(keepends=True)
    starts = [0]
    while starts[-1] < len(lines):
        starts.append(starts[-1] + int(lines[starts[-1]]) + 2)
    texts = ["".join(lines[a:b]) for a, b in zip(starts, starts[1:])]
    with path.open("w") as out:
        for k in range(frames):
            out.write(texts[k % len(texts)])


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--frames", type=int, default=30000)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--turns", type=int, default=7)
    parser.add_argument("--model", default=ROOT / "models/ani2x-painn-64")
    args = parser.parse_args()
    driver, mlff = build()
    with tempfile.TemporaryDirectory() as folder:
        source, output = Path(folder) / "long.xyz", Path(folder) / "out.xyz"
        repeated(args.frames, source)
        command = [mlff, "predict", source, "-o", output, "--quiet"]
        command += ["--threads", str(args.threads), "--model", args.model]
        shares = []
        with Driver(driver, args.model, "f32", args.threads) as engine:
            engine.ask("structures", path=str(EXAMPLE), n=args.frames)

            def engine_alone():
                return median(engine.ask("batch", repeats=1, minimum=0.0, stress=True)["seconds"])

            before = engine_alone()
            for turn in range(args.turns):
                output.unlink(missing_ok=True)
                start = perf_counter()
                subprocess.run(command, check=True)
                predict = perf_counter() - start
                after = engine_alone()
                alone, before = (before + after) / 2, after
                shares.append(alone / predict)
                print(f"predict {predict:.3f} s ({args.frames / predict:.0f} structures/s), engine {alone:.3f} s: "
                      f"{100 * shares[-1]:.1f} %", flush=True)
        print(f"median {100 * median(shares):.1f} % ({100 * min(shares):.1f} to {100 * max(shares):.1f})")


if __name__ == "__main__":
    try:
        main()
    except Failed as error:
        sys.exit(f"error: {error}")
