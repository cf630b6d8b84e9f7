#!/usr/bin/env python3
"""Writes link libraries that load NVIDIA's libraries at the first call instead of at the program's start.

    scripts/delay_load.py CUDARC_SOURCE OUT_DIR

candle links libcuda, libcublas, libcublasLt, libcurand and libnvrtc, so its programs do not start without them. For each of
them this writes OUT_DIR/libNAME.a, which the linker takes in its place: every function that the crate cudarc declares is a
jump through a table, whose entry is filled by dlopen and dlsym when it is first used. x86-64 Linux. A program asks first
whether a library is there (mlff does, with a message); a call of one that is missing ends it.
"""

import pathlib
import re
import subprocess
import sys
import tempfile

# Module of cudarc, name for the linker, files in the order in which they are tried.
LIBRARIES = [
    ("driver", "cuda", ["libcuda.so.1"]),
    ("cublas", "cublas", ["libcublas.so.13", "libcublas.so.12"]),
    ("cublaslt", "cublasLt", ["libcublasLt.so.13", "libcublasLt.so.12"]),
    ("curand", "curand", ["libcurand.so.10"]),
    ("nvrtc", "nvrtc", ["libnvrtc.so.13", "libnvrtc.so.12"]),
]

# The slow way saves every register that may carry an argument; the stack is aligned at the call.
SOURCE = r"""
#include <dlfcn.h>
#include <stdio.h>
#include <stdlib.h>

static const char *const files[] = {@FILES@, 0};
static const char *const names[] = {@NAMES@};
__attribute__((visibility("hidden"))) void *delayed_table_@LIB@[@COUNT@];

__attribute__((visibility("hidden"), used)) void *delayed_resolve_@LIB@(unsigned index) {
    static void *library;
    for (const char *const *file = files; *file && !library; file++) library = dlopen(*file, RTLD_NOW | RTLD_GLOBAL);
    void *function = library ? dlsym(library, names[index]) : 0;
    if (!function) {
        fprintf(stderr, "error: %s was called, but %s\n", names[index], library ? "the library found has no such function" : dlerror());
        abort();
    }
    return delayed_table_@LIB@[index] = function;
}

__asm__(
    ".text\n"
    "delayed_slow_@LIB@:\n"
    "  push %rdi; push %rsi; push %rdx; push %rcx; push %r8; push %r9; push %rax\n"
    "  sub $128, %rsp\n"
    "  movups %xmm0, (%rsp); movups %xmm1, 16(%rsp); movups %xmm2, 32(%rsp); movups %xmm3, 48(%rsp)\n"
    "  movups %xmm4, 64(%rsp); movups %xmm5, 80(%rsp); movups %xmm6, 96(%rsp); movups %xmm7, 112(%rsp)\n"
    "  mov %r11d, %edi\n"
    "  call delayed_resolve_@LIB@\n"
    "  mov %rax, %r11\n"
    "  movups (%rsp), %xmm0; movups 16(%rsp), %xmm1; movups 32(%rsp), %xmm2; movups 48(%rsp), %xmm3\n"
    "  movups 64(%rsp), %xmm4; movups 80(%rsp), %xmm5; movups 96(%rsp), %xmm6; movups 112(%rsp), %xmm7\n"
    "  add $128, %rsp\n"
    "  pop %rax; pop %r9; pop %r8; pop %rcx; pop %rdx; pop %rsi; pop %rdi\n"
    "  jmp *%r11\n"
    ".macro delayed name, index\n"
    ".globl \\name\n"
    ".type \\name, @function\n"
    "\\name:\n"
    "  mov delayed_table_@LIB@+8*\\index(%rip), %r11\n"
    "  test %r11, %r11\n"
    "  jz 1f\n"
    "  jmp *%r11\n"
    "1: mov $\\index, %r11d\n"
    "  jmp delayed_slow_@LIB@\n"
    ".endm\n"
@CALLS@
    ".purgem delayed\n");
"""


def main():
    cudarc, out = map(pathlib.Path, sys.argv[1:])
    out.mkdir(parents=True, exist_ok=True)
    for module, library, files in LIBRARIES:
        text = (cudarc / "src" / module / "sys" / "mod.rs").read_text()
        names = sorted(set(re.findall(r'load::<_F>\("(\w+)"\)', text)))
        if not names:
            sys.exit(f"{cudarc}: no functions found in {module}: this script reads the sources of cudarc 0.19")
        quoted = lambda words: ", ".join(f'"{word}"' for word in words)
        calls = "\n".join(f'    "delayed {name}, {index}\\n"' for index, name in enumerate(names))
        source = SOURCE.replace("@FILES@", quoted(files)).replace("@NAMES@", quoted(names))
        source = source.replace("@LIB@", library).replace("@COUNT@", str(len(names))).replace("@CALLS@", calls)
        a = out / f"lib{library}.a"
        with tempfile.TemporaryDirectory(dir=out) as folder:
            c, o, new = (pathlib.Path(folder) / f"{library}{suffix}" for suffix in (".c", ".o", ".a"))
            c.write_text(source)
            subprocess.run(["cc", "-O1", "-fPIC", "-c", str(c), "-o", str(o)], check=True)
            subprocess.run(["ar", "rcs", str(new), str(o)], check=True)
            new.replace(a)
        print(f"{a}: {len(names)} functions of {' or '.join(files)}")


main()
