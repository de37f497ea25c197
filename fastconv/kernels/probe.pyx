"""The ceilings of this machine, measured with the microkernels' own vectors: what benchmarks hold rates against."""

import time

from cython.parallel cimport prange
cimport numpy as cnp

from fastconv.kernels.core cimport fastconv_kernels, kernels

cnp.import_array()


def fma_rate(str dtype="float32", int threads=1, Py_ssize_t steps=200_000) -> float:
    """Floating-point operations a second of independent multiply-adds in registers, all threads together."""
    cdef const fastconv_kernels *k = kernels(dtype == "float64")
    cdef double operations = 0
    cdef int _i
    start = time.perf_counter()
    for _i in prange(threads, nogil=True, num_threads=threads, schedule="static"):
        operations += k.probe_fma(steps)
    return operations / (time.perf_counter() - start)


def copy_rate(cnp.ndarray destination, cnp.ndarray source, int threads=1, int times=1, bint stream=False) -> float:
    """Bytes read and written a second when `source` is copied to `destination` (float32, C-contiguous, same size).

    With `stream` by stores around the caches, for which `destination` must be aligned to 64 bytes.
    """
    cdef const fastconv_kernels *k = kernels(0)
    cdef char *to = <char *> cnp.PyArray_DATA(destination)
    cdef const char *data = <const char *> cnp.PyArray_DATA(source)
    cdef Py_ssize_t part = cnp.PyArray_SIZE(source) // (64 * threads) * 64
    cdef int i, _t
    if stream and <size_t> to % 64:
        raise ValueError("destination must be aligned to 64 bytes")
    start = time.perf_counter()
    for i in prange(threads, nogil=True, num_threads=threads, schedule="static"):
        for _t in range(times):
            if stream:
                k.probe_stream(to + i * part * 4, data + i * part * 4, part)
            else:
                k.probe_copy(to + i * part * 4, data + i * part * 4, part)
    return 2.0 * part * 4 * threads * times / (time.perf_counter() - start)
