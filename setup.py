"""What pyproject.toml cannot say: one static library an ISA, and the extensions above them."""

import os
import platform
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

import numpy
from Cython.Build import cythonize
from setuptools import Extension, setup
from setuptools.command.build_clib import build_clib
from setuptools.modified import newer_group

X86 = {"avx512": "-march=x86-64-v4", "avx2": "-march=x86-64-v3", "baseline": "-march=x86-64"}
ARM = {"neon": "-march=armv8-a"}
ISAS = ARM if platform.machine() in ("aarch64", "arm64") else X86  # name -> what its microkernels are compiled for

STRICT = ["-Wall", "-Wextra", "-Werror"] if os.environ.get("FASTCONV_STRICT") else []
# Which sanitizers to build for, e.g. "address,undefined"; see CONTRIBUTING.md.
SANITIZE = os.environ.get("FASTCONV_SANITIZE")
CHECKS = [f"-fsanitize={SANITIZE}", "-fno-sanitize-recover=all", "-g", "-O1", "-DFASTCONV_SANITIZE"] if SANITIZE else []
DEBUG = "-g" if SANITIZE else "-g0"  # kernels take a quarter to a half of their compile time to describe
# FMA contraction stays on in the ISO modes too; -fno-math-errno changes no value.
CFLAGS = ["-O3", "-std=gnu11", "-ffp-contract=fast", "-fno-math-errno", "-fPIC", *CHECKS]
INCLUDES = ["src/isa", "src/runtime"]
CPUS = len(os.sched_getaffinity(0))
C_HEADERS = [str(p) for folder in ("isa", "microkernels", "runtime") for p in sorted(Path("src", folder).glob("*.h"))]
MICROKERNELS = ["src/isa/tables.c", *(str(p) for p in sorted(Path("src/microkernels").glob("*.c")))]


def isa_library(name: str, march: str) -> tuple[str, dict]:
    return f"fastconv_{name}", {"sources": MICROKERNELS, "cflags": [*CFLAGS, *STRICT, DEBUG, march, f"-DISA={name}"]}


class build_isas(build_clib):
    """Every family of microkernels once an ISA, as many at a time as there are CPUs."""

    def build_libraries(self, libraries: list[tuple[str, dict]]) -> None:
        with ThreadPoolExecutor(CPUS) as pool:
            objects = []
            for name, info in libraries:
                compiled = partial(self.compile, folder=Path(self.build_temp, name), cflags=info["cflags"])
                objects.append(pool.map(compiled, info["sources"]))
            for (name, _), compiled in zip(libraries, objects, strict=True):
                self.compiler.create_static_lib(list(compiled), name, output_dir=self.build_clib)

    def compile(self, source: str, folder: Path, cflags: list[str]) -> str:
        (object_file,) = self.compiler.object_filenames([source], output_dir=str(folder))
        if newer_group([source, *C_HEADERS], object_file):
            self.compiler.compile([source], output_dir=str(folder), include_dirs=INCLUDES, extra_postargs=cflags)
        return object_file


def macro_kernel(name: str, sources: tuple[str, ...] = (), **extra) -> Extension:
    return Extension(
        f"fastconv.kernels.{name}",
        [f"fastconv/kernels/{name}.pyx", *sources],
        depends=[*C_HEADERS, *extra.pop("depends", [])],
        include_dirs=[*INCLUDES, numpy.get_include()],
        define_macros=[("NPY_NO_DEPRECATED_API", "NPY_2_0_API_VERSION"), *extra.pop("define_macros", [])],
        extra_compile_args=[*CFLAGS, DEBUG, "-fopenmp"],
        extra_link_args=["-fopenmp", *CHECKS],
        **extra,
    )


def macro_kernels() -> list[Extension]:
    core = macro_kernel(
        "core",
        ("src/isa/isas.c", "src/runtime/threads.c", "src/runtime/workspace.c"),
        define_macros=[("FASTCONV_ISAS", " ".join(f"ISA({name})" for name in ISAS))],
        depends=MICROKERNELS,  # it holds the libraries of all ISAs, and is linked again when one of them changes
    )
    others = sorted(p.stem for p in Path("fastconv/kernels").glob("*.pyx") if p.stem != "core")
    return cythonize(
        [core, *(macro_kernel(name) for name in others)],
        nthreads=CPUS,
        build_dir="build",
        compiler_directives={
            "language_level": 3,
            "boundscheck": False,
            "wraparound": False,
            "cdivision": True,
            "initializedcheck": False,
            "freethreading_compatible": True,
        },
    )


if __name__ == "__main__":  # not in the processes that Cython may start
    setup(
        cmdclass={"build_clib": build_isas},
        options={"build_ext": {"parallel": CPUS}},
        libraries=[isa_library(name, march) for name, march in ISAS.items()],
        ext_modules=macro_kernels(),
    )
