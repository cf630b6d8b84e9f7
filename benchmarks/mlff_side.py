"""mlff's side of compare_schnetpack.py: the driver process, built from benchmarks/driver.rs."""

import json
import os
import subprocess
from pathlib import Path
from statistics import median

ROOT = Path(__file__).resolve().parents[1]


class Failed(Exception):
    """What went wrong, in words for the person who runs the benchmark."""


def build():
    """Builds the driver and the command line; returns the paths of both programs."""
    command = ["cargo", "build", "--release", "--locked", "--bench", "driver"]
    command += ["--message-format", "json-render-diagnostics"]
    try:
        done = subprocess.run(command, cwd=ROOT, stdout=subprocess.PIPE, text=True)
    except FileNotFoundError as error:
        raise Failed("cargo is needed, see https://rustup.rs") from error
    if done.returncode != 0:
        raise Failed("the driver does not build, see above")
    messages = [json.loads(line) for line in done.stdout.splitlines()]
    programs = {m["target"]["name"]: m["executable"] for m in messages if m.get("executable")}
    return programs["driver"], programs["mlff"]


def import_model(mlff, weights, folder):
    """Makes a model directory of exported SchNetPack weights."""
    done = subprocess.run([mlff, "import", "schnetpack", weights, "-o", folder], capture_output=True, text=True)
    if done.returncode != 0:
        raise Failed(f"mlff import: {done.stderr.strip()}")
    return folder


class Driver:
    """One driver process with one model."""

    def __init__(self, program, model, precision, threads):
        # As the command line does: candle's own threads spin, and batches wait for each other in them.
        environment = {**os.environ, "CANDLE_NUM_THREADS": "1"}
        # What compare_schnetpack.py sets for PyTorch; mlff runs as anyone runs it.
        environment.pop("GLIBC_TUNABLES", None)
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
        self.process = subprocess.Popen([program], env=environment, text=True, **pipes)
        self.ask("load", model=str(model), precision=precision, threads=threads)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.process.stdin.close()
        self.process.wait()
        self.process.stdout.close()

    def ask(self, command, **arguments):
        """Sends a command, waits for its answer."""
        try:
            self.process.stdin.write(json.dumps({"command": command, **arguments}) + "\n")
            self.process.stdin.flush()
            line = self.process.stdout.readline()
        except BrokenPipeError:
            line = ""
        if not line:
            raise Failed(f"the driver died at {command}, exit status {self.process.wait()}")
        answer = json.loads(line)
        if "error" in answer:
            raise Failed(f"driver, {command}: {answer['error']}")
        return answer

    def load_structures(self, path, n=None, jitter=None):
        """Returns the number of atoms."""
        return self.ask("structures", path=str(path), n=n, jitter=jitter)["n_atoms"]

    def batch_seconds(self, minimum, repeats=4):
        """Median seconds of evaluating all structures, the first time left out."""
        return median(self.ask("batch", repeats=repeats, minimum=minimum, stress=False)["seconds"][1:])

    def step_seconds(self, minimum, jitter, stress):
        """Median seconds of a step of the first structure."""
        step = median(self.ask("step", steps=10, jitter=jitter, stress=stress)["seconds"])
        steps = max(3, round(minimum / step))
        return median(self.ask("step", steps=steps, jitter=jitter, stress=stress)["seconds"])
