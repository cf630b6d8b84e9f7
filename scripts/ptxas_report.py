"""Compiles kernels/*.cu, and kernels/adjoint/*.cu for two sizes of models, to PTX with NVRTC, assembles it with ptxas and prints what each kernel takes.

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

    def ptx(self, path, capability, defines=""):
        program = ctypes.c_void_p()
        headers = sorted((ROOT / "kernels").rglob("*.cuh"))
        texts = (ctypes.c_char_p * len(headers))(*[h.read_bytes() for h in headers])
        names = (ctypes.c_char_p * len(headers))(*[h.name.encode() for h in headers])
        text = defines.encode() + path.read_bytes()
        self.calls.nvrtcCreateProgram(ctypes.byref(program), text, path.name.encode(), len(headers), texts, names)
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


def of_models():
    """(name, file, macros): what src/engine/cuda/shape.rs makes of models in f32 on an H100, and for few atoms."""
    for features, many, few_atoms in ((64, (16, 8, 3), (16, 16, 1)), (128, (32, 8, 2), (16, 4, 1))):
        for few, tiling in (("", many), (", few atoms", few_atoms)):
            macros = {
                "REAL": "float", "FEATURES": features, "RADIAL": 20, "FUNCTIONS": "GAUSSIAN", "TILE_ATOMS": tiling[0],
                "WARPS": tiling[1], "BLOCKS": tiling[2], "FORWARD_THREADS": 512, "VJP_THREADS": 384,
                "READOUT_WIDTHS": f"{features}, {features // 2}, 16", "FORWARD": "", "BACKWARD": "",
            }  # fmt: skip
            defines = "".join(f"#define MLFF_{name} {value}\n" for name, value in macros.items())
            for path in sorted((ROOT / "kernels/adjoint").glob("*.cu")):
                if not few or path.name in ("update.cu", "readout.cu"):
                    yield f" F={features}{few}", path, defines


def main():
    capabilities = [int(arg) for arg in sys.argv[1:] if arg] or [75, 80, 86, 89, 90, 100]
    nvrtc = Nvrtc()
    rows = {}
    for capability in capabilities:
        plain = [("", path, "") for path in sorted((ROOT / "kernels").glob("*.cu"))]
        for suffix, path, defines in plain + list(of_models()):
            for name, *numbers in kernels(nvrtc.ptx(path, capability, defines), capability):
                rows.setdefault(name + suffix, {})[capability] = numbers
    print("registers / bytes spilled / bytes of stack / bytes of static shared memory")
    print(f"{'kernel':56}" + "".join(f"{f'sm_{c}':>18}" for c in capabilities))
    spills = []
    for name, columns in sorted(rows.items()):
        cells = []
        for capability in capabilities:
            registers, stack, spilled, shared = columns[capability]
            cells.append(f"{registers}/{spilled}/{stack}/{shared}")
            spills += [f"{name} for sm_{capability}"] * (spilled > 0)
        print(f"{name:56}" + "".join(f"{cell:>18}" for cell in cells))
    if spills:
        sys.exit("registers spilled: " + ", ".join(spills))


main()
