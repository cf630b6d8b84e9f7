#!/usr/bin/env python3
"""Inputs to begin with, from the test data: `fuzz/seeds.py FOLDER`, one folder a target. Standard library only."""

import bz2
import gzip
import lzma
import random
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
DATA = ROOT / "tests/data"
LARGEST = 4096


def write(folder, target, name, data):
    place = folder / target
    place.mkdir(parents=True, exist_ok=True)
    (place / name).write_bytes(data)


def main():
    folder = Path(sys.argv[1])
    texts = {}
    for path in sorted((DATA / "xyz-corpus/files").iterdir()):
        data = path.read_bytes()
        if data[:2] == b"\x1f\x8b" or len(data) > LARGEST:
            continue
        texts[path.name] = data
        write(folder, "xyz", path.name, data)
    for path in sorted(DATA.glob("**/*.xyz")):
        if path.stat().st_size <= LARGEST:
            write(folder, "xyz", f"{path.parent.name}-{path.name}", path.read_bytes())
    for name, data in list(texts.items())[::4]:
        write(folder, "compression", name + ".gz", gzip.compress(data, mtime=0))
        write(folder, "compression", name + ".bz2", bz2.compress(data))
        write(folder, "compression", name + ".xz", lzma.compress(data))
    for path in sorted(DATA.glob("**/*.zst")):
        if path.stat().st_size <= LARGEST:
            write(folder, "compression", path.name, path.read_bytes())
    for path in sorted((DATA / "import").glob("*/*.safetensors")):
        write(folder, "safetensors", path.parent.name, path.read_bytes())
    for path in sorted((DATA / "import").glob("*.safetensors")):
        write(folder, "safetensors", path.stem, path.read_bytes())
    for path in sorted((ROOT / "fuzz/seeds/pickle").iterdir()):
        write(folder, "pickle", path.stem, path.read_bytes())
    # These targets make their first inputs themselves: of the machine that they run on, of the test data.
    for target in ["calibration", "model"]:
        write(folder, target, "none", b"-")
    numbers = random.Random(1)
    for k in range(40):
        write(folder, "session", f"{k}", bytes(numbers.randrange(256) for _ in range(numbers.choice([20, 60, 120, 200]))))


if __name__ == "__main__":
    main()
