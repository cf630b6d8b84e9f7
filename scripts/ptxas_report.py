"""Compiles kernels/*.cu to PTX with NVRTC, assembles it with ptxas and prints what each kernel takes.

Called by ptxas_report.sh, which installs what it needs. The options are those of src/cuda/nvrtc.rs.
"""

import ctypes
import glob
import pathlib
import re
import subprocess
import sys
import tempfile

OPTIONS = ["--std=c++17", "--device-as-default-execution-space"]
ROOT = pathlib.Path(__file__).resolve().parent.parent
NVIDIA = f"{sys.prefix}/lib/python3*/site-packages/nvidia/*"


def only(pattern):
    found = sorted(path for path in glob.glob(f"{NVIDIA}/{pattern}") if ".alt." not in path)
    if not found:
        sys.exit(f"{pattern} is not in {NVIDIA}")
    return found[-1]


class Nvrtc:
    def __init__(self):
        # NVRTC opens its builtins by name, which finds a library that is already loaded.
        self.builtins = ctypes.CDLL(only("lib/libnvrtc-builtins.so*"))
        self.calls = ctypes.CDLL(only("lib/libnvrtc.so*"))

    def text(self, program, name):
        size = ctypes.c_size_t()
        getattr(self.calls, f"nvrtcGet{name}Size")(program, ctypes.byref(size))
        text = ctypes.create_string_buffer(size.value)
        getattr(self.calls, f"nvrtcGet{name}")(program, text)
        return text.value

    def ptx(self, path, capability):
        program = ctypes.c_void_p()
        header = ((ctypes.c_char_p * 1)((path.parent / "common.cuh").read_bytes()), (ctypes.c_char_p * 1)(b"common.cuh"))
        self.calls.nvrtcCreateProgram(ctypes.byref(program), path.read_bytes(), path.name.encode(), 1, *header)
        options = [o.encode() for o in OPTIONS + [f"--gpu-architecture=compute_{capability}"]]
        failed = self.calls.nvrtcCompileProgram(program, len(options), (ctypes.c_char_p * len(options))(*options))
        if failed:
            sys.exit(self.text(program, "ProgramLog").decode())
        ptx = self.text(program, "PTX")
        self.calls.nvrtcDestroyProgram(ctypes.byref(program))
        return ptx


def kernels(ptx, capability):
    """(name, registers, stack, spilled bytes, static shared bytes) of each kernel."""
    with tempfile.NamedTemporaryFile(suffix=".ptx") as file:
        file.write(ptx)
        file.flush()
        command = [only("bin/ptxas"), "-v", f"-arch=sm_{capability}", file.name, "-o", "/dev/null"]
        report = subprocess.run(command, capture_output=True, text=True, check=True).stderr
    for part in report.split("Compiling entry function ")[1:]:

        def number(pattern, text=part):
            found = re.search(pattern, text)
            return int(found[1]) if found else 0

        spilled = number(r"(\d+) bytes spill stores") + number(r"(\d+) bytes spill loads")
        name = part.split("'")[1]
        yield name, number(r"Used (\d+) registers"), number(r"(\d+) bytes stack"), spilled, number(r"(\d+) bytes smem")


def main():
    capabilities = [int(arg) for arg in sys.argv[1:] if arg] or [75, 80, 86, 89, 90, 100]
    nvrtc = Nvrtc()
    rows = {}
    for capability in capabilities:
        for path in sorted((ROOT / "kernels").glob("*.cu")):
            for name, *numbers in kernels(nvrtc.ptx(path, capability), capability):
                rows.setdefault(name, {})[capability] = numbers
    print("registers / bytes spilled / bytes of stack / bytes of static shared memory")
    print(f"{'kernel':32}" + "".join(f"{f'sm_{c}':>18}" for c in capabilities))
    spills = []
    for name, columns in sorted(rows.items()):
        cells = []
        for capability in capabilities:
            registers, stack, spilled, shared = columns[capability]
            cells.append(f"{registers}/{spilled}/{stack}/{shared}")
            spills += [f"{name} for sm_{capability}"] * (spilled > 0)
        print(f"{name:32}" + "".join(f"{cell:>18}" for cell in cells))
    if spills:
        sys.exit("registers spilled: " + ", ".join(spills))


main()
