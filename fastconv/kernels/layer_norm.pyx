"""Layer normalization: rows brought to mean 0 and variance 1 one by one, and the gradients.

Those of weight and bias are sums over rows: each part of the rows, whose number geometry fixes, has sums of its own,
which are added in order, so that the bits do not depend on the number of threads. Arrays are C-contiguous, aligned, of
one dtype, and checked by the caller.
"""

from cython.parallel cimport parallel, prange
from libc.string cimport memset
cimport numpy as cnp

from fastconv.kernels.arrays cimport data, kernels_of
from fastconv.kernels.core cimport (
    acquire,
    ceil_div,
    fastconv_kernels,
    fegetenv,
    fenv_t,
    fesetenv,
    release,
    team,
)

cnp.import_array()

cdef enum:
    BLOCK = 8192               # elements of the rows that a thread takes at a time
    PARTS = 64                 # of the rows at most, each with sums of its own


def layer_norm(cnp.ndarray x, Py_ssize_t n, cnp.ndarray weight, cnp.ndarray bias, double eps, cnp.ndarray out):
    """out = (x - mean) / sqrt(var + eps) * weight + bias for rows of n."""
    cdef const fastconv_kernels *k = kernels_of(x)
    cdef Py_ssize_t size = n * k.storage_bytes, rows = cnp.PyArray_SIZE(x) // n, block = max(1, BLOCK // n), b, row
    cdef char *dst = data(out)
    cdef const char *src = data(x)
    cdef const char *w = data(weight)
    cdef const char *shift = data(bias)
    cdef int threads = team(2. * cnp.PyArray_SIZE(x))
    cdef fenv_t environment
    fegetenv(&environment)
    with nogil, parallel(num_threads=threads):
        fesetenv(&environment)
        for b in prange(ceil_div(rows, block), schedule="static"):
            for row in range(b * block, min(rows, (b + 1) * block)):
                k.layer_norm(dst + row * size, src + row * size, w, shift, eps, n)


def layer_norm_backward(cnp.ndarray grad_y, cnp.ndarray x, Py_ssize_t n, cnp.ndarray weight, double eps,
                        cnp.ndarray grad_x, cnp.ndarray grad_weight, cnp.ndarray grad_bias):
    """grad_x; and grad_weight and grad_bias, unless None, which are zeros before."""
    cdef const fastconv_kernels *k = kernels_of(x)
    cdef Py_ssize_t size = n * k.storage_bytes, rows = cnp.PyArray_SIZE(x) // n, parts = min(rows, PARTS), part, row
    cdef Py_ssize_t sums = (grad_weight is not None) + (grad_bias is not None)
    cdef char *dst = data(grad_x)
    cdef const char *g = data(grad_y)
    cdef const char *src = data(x)
    cdef const char *w = data(weight)
    cdef char *of_parts = acquire(parts * sums * size + 64, 1)
    cdef char *of_weight = of_parts if grad_weight is not None else NULL
    cdef char *of_bias = of_parts + (sums - 1) * parts * size if grad_bias is not None else NULL
    cdef int threads = team(4. * cnp.PyArray_SIZE(x))
    cdef fenv_t environment
    fegetenv(&environment)
    memset(of_parts, 0, parts * sums * size)
    try:
        with nogil, parallel(num_threads=threads):
            fesetenv(&environment)
            for part in prange(parts, schedule="static"):
                for row in range(part * rows // parts, (part + 1) * rows // parts):
                    k.layer_norm_backward(dst + row * size, g + row * size, src + row * size, w, eps,
                                          of_weight + part * size if of_weight != NULL else NULL,
                                          of_bias + part * size if of_bias != NULL else NULL, n)
        if of_weight != NULL:
            k.sum_rows(data(grad_weight), of_weight, n, parts, n)
        if of_bias != NULL:
            k.sum_rows(data(grad_bias), of_bias, n, parts, n)
    finally:
        release(of_parts)
