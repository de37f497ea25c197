"""The current ISA's table of microkernels, the number of threads and the workspace, shared by all macro-kernels."""

cdef extern from "isas.h" nogil:
    int fastconv_isa_count()
    const char *fastconv_isa_name(int index)
    int fastconv_isa_supported(int index)
    const fastconv_kernels *fastconv_isa_kernels(int index)
    int fastconv_streams()

cdef extern from "threads.h" nogil:
    void fastconv_set_threads(int count)
    int fastconv_get_threads()
    int fastconv_team(double work)
    void fastconv_share_tasks(fastconv_tasks *tasks, Py_ssize_t count, int threads)
    Py_ssize_t fastconv_take_task(fastconv_tasks *tasks)
    int fastconv_openmp_is_llvm()
    void fastconv_install_fork_handler()

cdef extern from "workspace.h" nogil:
    void *fastconv_workspace_acquire(size_t bytes)
    void fastconv_workspace_release(void *block)
    size_t fastconv_workspace_idle()
    void fastconv_workspace_trim()

cdef extern from *:
    """
    #if defined(__clang__)
    #define FASTCONV_COMPILER "Clang " __clang_version__
    #else
    #define FASTCONV_COMPILER "GCC " __VERSION__
    #endif
    """
    const char *FASTCONV_COMPILER

cdef extern from "<omp.h>" nogil:
    int _OPENMP

cdef const fastconv_kernels *current = NULL
cdef int index = -1

cdef const fastconv_kernels *kernels(int dtype) noexcept nogil:
    return &current[dtype]

cdef int team(double work) noexcept nogil:
    return fastconv_team(work)


cdef bint streams() noexcept nogil:
    return fastconv_streams()


cdef void share_tasks(fastconv_tasks *tasks, Py_ssize_t count, int threads) noexcept nogil:
    fastconv_share_tasks(tasks, count, threads)


cdef Py_ssize_t take_task(fastconv_tasks *tasks) noexcept nogil:
    return fastconv_take_task(tasks)

cdef char *acquire(size_t bytes_per_thread, int threads) except NULL:
    cdef char *block = <char *> fastconv_workspace_acquire(bytes_per_thread * <size_t> threads)
    if block == NULL:
        raise MemoryError(f"no memory for {threads} workspaces of {bytes_per_thread} bytes")
    return block

cdef void release(char *block) noexcept nogil:
    fastconv_workspace_release(block)


def built_isas() -> tuple[str, ...]:
    """Names of the ISAs that this build holds, widest first."""
    return tuple([fastconv_isa_name(i).decode() for i in range(fastconv_isa_count())])


def supported_isas() -> tuple[str, ...]:
    """Those of them that this machine can run."""
    return tuple([name for i, name in enumerate(built_isas()) if fastconv_isa_supported(i)])


def use_isa(name: str) -> None:
    """Make every macro-kernel call this ISA's microkernels from now on. The caller checks that it is supported."""
    global current, index
    for i, built in enumerate(built_isas()):
        if built == name:
            current, index = fastconv_isa_kernels(i), i
            return
    raise ValueError(f"isa must be one of {built_isas()}, got {name!r}")


def isa_index() -> int:
    """Where the current ISA stands in `built_isas()`: the part of a plan's key that names it."""
    return index


def current_isa() -> str:
    return fastconv_isa_name(index).decode()


def set_threads(int count) -> None:
    fastconv_set_threads(count)


def get_threads() -> int:
    return fastconv_get_threads()


def team_of(double work) -> int:
    """How many threads a call of so many multiply-adds takes now."""
    return fastconv_team(work)


def register_tile(str dtype) -> dict[str, int]:
    """Rows, columns and vector length of the current ISA's register tile: what tests and tables of tasks need."""
    cdef const fastconv_kernels *k = kernels(1 if dtype == "float64" else 0)
    return {"mr": k.mr, "nr": k.nr, "vlen": k.vlen}


def pairs_tile(str dtype) -> dict[str, int]:
    """The same of the register tile of weight gradients."""
    cdef const fastconv_kernels *k = kernels(1 if dtype == "float64" else 0)
    return {"mr": k.pairs_mr, "nr": k.pairs_nr, "vlen": k.vlen}


def idle_workspace_bytes() -> int:
    return fastconv_workspace_idle()


def trim_workspace() -> None:
    fastconv_workspace_trim()


def build_info() -> dict[str, str]:
    """Compiler, OpenMP specification date (yyyymm) and the OpenMP runtime found in this process."""
    return {
        "compiler": FASTCONV_COMPILER.decode(),
        "openmp": str(_OPENMP),
        "openmp_runtime": "LLVM libomp" if fastconv_openmp_is_llvm() else "GNU libgomp",
    }


fastconv_install_fork_handler()
use_isa(supported_isas()[0])
