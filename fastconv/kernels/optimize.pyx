"""Steps of optimizers: one pass over the elements of a weight, its gradient and its state.

Arrays are C-contiguous, aligned, of one dtype, and checked by the caller. A thread takes a run of elements.
"""

from cython.parallel cimport parallel, prange
cimport numpy as cnp

from fastconv.kernels.arrays cimport data, kernels_of
from fastconv.kernels.core cimport fastconv_kernels, fegetenv, fenv_t, fesetenv, team

cnp.import_array()

cdef enum:
    BLOCK = 8192               # elements that a thread takes at a time


def sgd(double lr, double momentum, double gain, double weight_decay, bint nesterov, cnp.ndarray weight,
        cnp.ndarray gradient, cnp.ndarray velocity):
    """A step of `fastconv.optim.SGD` in place: v = momentum * v + gain * g; velocity None is for no momentum."""
    cdef const fastconv_kernels *k = kernels_of(weight)
    cdef Py_ssize_t n = cnp.PyArray_SIZE(weight), size = k.storage_bytes, start
    cdef char *w = data(weight)
    cdef const char *g = data(gradient)
    cdef char *v = data(velocity)
    cdef int threads = team(n), moves = velocity is not None
    cdef fenv_t environment
    fegetenv(&environment)
    with nogil, parallel(num_threads=threads):
        fesetenv(&environment)
        for start in prange(0, n, BLOCK, schedule="static"):
            k.sgd(lr, momentum, gain, weight_decay, nesterov, w + start * size, g + start * size,
                  v + start * size * moves, min(<Py_ssize_t> BLOCK, n - start))


def adam(double rate, double beta1, double beta2, double correction, double eps, double weight_decay,
         cnp.ndarray weight, cnp.ndarray gradient, cnp.ndarray mean, cnp.ndarray square):
    """A step of `fastconv.optim.Adam` in place: w -= rate * m / (sqrt(v) * correction + eps)."""
    cdef const fastconv_kernels *k = kernels_of(weight)
    cdef Py_ssize_t n = cnp.PyArray_SIZE(weight), size = k.storage_bytes, start
    cdef char *w = data(weight)
    cdef const char *g = data(gradient)
    cdef char *m = data(mean)
    cdef char *v = data(square)
    cdef int threads = team(n)
    cdef fenv_t environment
    fegetenv(&environment)
    with nogil, parallel(num_threads=threads):
        fesetenv(&environment)
        for start in prange(0, n, BLOCK, schedule="static"):
            k.adam(rate, beta1, beta2, correction, eps, weight_decay, w + start * size, g + start * size,
                   m + start * size, v + start * size, min(<Py_ssize_t> BLOCK, n - start))
