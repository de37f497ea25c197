"""Operators that work on elements or rows alone: sums, activations, dropout, softmax, cross entropy.

Arrays are C-contiguous, aligned, of one dtype, and checked by the caller. A thread takes a run of elements or of rows;
nothing is summed across rows, so the bits cannot depend on the number of threads.
"""

from cython.parallel cimport parallel, prange
from libc.math cimport INFINITY
cimport numpy as cnp

from fastconv.kernels.arrays cimport data, kernels_of
from fastconv.kernels.core cimport (
    FASTCONV_ELU,
    FASTCONV_GELU,
    FASTCONV_GELU_TANH,
    FASTCONV_HARDSWISH,
    FASTCONV_LEAKY_RELU,
    FASTCONV_RELU,
    FASTCONV_RELU6,
    FASTCONV_SIGMOID,
    FASTCONV_SILU,
    FASTCONV_TANH,
    fastconv_kernels,
    fegetenv,
    fenv_t,
    fesetenv,
    team,
)

cnp.import_array()

RELU, RELU6, LEAKY_RELU = FASTCONV_RELU, FASTCONV_RELU6, FASTCONV_LEAKY_RELU
ELU, SIGMOID, TANH = FASTCONV_ELU, FASTCONV_SIGMOID, FASTCONV_TANH
GELU, GELU_TANH, SILU, HARDSWISH = FASTCONV_GELU, FASTCONV_GELU_TANH, FASTCONV_SILU, FASTCONV_HARDSWISH

cdef enum:
    SMALL_BLOCK = 2048  # of elements that are gone over more than once, so that they stay in L1
    BLOCK = 8192       # elements that a thread takes at a time: a source and a destination of doubles fill half of L2
    EXP_WORK = 8       # an exp costs about as much as moving so many elements


cdef inline double cost(int kind) noexcept:
    if kind in (FASTCONV_RELU, FASTCONV_RELU6, FASTCONV_LEAKY_RELU, FASTCONV_HARDSWISH):
        return 1
    return EXP_WORK


def activate(int kind, double alpha, cnp.ndarray x, cnp.ndarray out):
    """out = f(x)."""
    cdef const fastconv_kernels *k = kernels_of(x)
    cdef Py_ssize_t n = cnp.PyArray_SIZE(x), size = k.storage_bytes, start
    cdef char *dst = data(out)
    cdef const char *src = data(x)
    cdef int threads = team(n * cost(kind))
    cdef fenv_t environment
    if threads == 1:
        with nogil:
            k.activate(kind, alpha, dst, src, n)
        return
    fegetenv(&environment)
    with nogil, parallel(num_threads=threads):
        fesetenv(&environment)
        for start in prange(0, n, BLOCK, schedule="static"):
            k.activate(kind, alpha, dst + start * size, src + start * size, min(<Py_ssize_t> BLOCK, n - start))


def activate_backward(int kind, double alpha, cnp.ndarray grad_y, cnp.ndarray saved, cnp.ndarray out):
    """out = grad_y * f', from y for relu, relu6, sigmoid and tanh, from x for all others."""
    cdef const fastconv_kernels *k = kernels_of(saved)
    cdef Py_ssize_t n = cnp.PyArray_SIZE(saved), size = k.storage_bytes, start
    cdef char *dst = data(out)
    cdef const char *g = data(grad_y)
    cdef const char *s = data(saved)
    cdef int threads = team(n * (1 if kind in (FASTCONV_SIGMOID, FASTCONV_TANH) else cost(kind)))
    cdef fenv_t environment
    if threads == 1:
        with nogil:
            k.activate_backward(kind, alpha, dst, g, s, n)
        return
    fegetenv(&environment)
    with nogil, parallel(num_threads=threads):
        fesetenv(&environment)
        for start in prange(0, n, BLOCK, schedule="static"):
            k.activate_backward(kind, alpha, dst + start * size, g + start * size, s + start * size,
                                min(<Py_ssize_t> BLOCK, n - start))


def add(int kind, double alpha, cnp.ndarray x, cnp.ndarray residual, cnp.ndarray out):
    """out = f(x + residual), kind -1 being the identity."""
    cdef const fastconv_kernels *k = kernels_of(x)
    cdef Py_ssize_t n = cnp.PyArray_SIZE(x), size = k.storage_bytes, start
    cdef char *dst = data(out)
    cdef const char *a = data(x)
    cdef const char *b = data(residual)
    cdef int threads = team(n * (1 if kind < 0 else cost(kind)))
    cdef fenv_t environment
    fegetenv(&environment)
    with nogil, parallel(num_threads=threads):
        fesetenv(&environment)
        for start in prange(0, n, SMALL_BLOCK, schedule="static"):
            add_block(k, kind, alpha, dst + start * size, a + start * size, b + start * size,
                      min(<Py_ssize_t> SMALL_BLOCK, n - start))


cdef void add_block(const fastconv_kernels *k, int kind, double alpha, char *dst, const char *a, const char *b,
                    Py_ssize_t n) noexcept nogil:
    k.add_clamped(dst, a, b, n, -INFINITY, INFINITY)
    if kind >= 0:
        k.activate(kind, alpha, dst, dst, n)


def masked(double scale, cnp.ndarray x, cnp.ndarray mask, cnp.ndarray out):
    """out = x * scale where the bool mask is True, else 0."""
    cdef const fastconv_kernels *k = kernels_of(x)
    cdef Py_ssize_t n = cnp.PyArray_SIZE(x), size = k.storage_bytes, start
    cdef char *dst = data(out)
    cdef const char *src = data(x)
    cdef const char *m = data(mask)
    cdef int threads = team(n)
    cdef fenv_t environment
    fegetenv(&environment)
    with nogil, parallel(num_threads=threads):
        fesetenv(&environment)
        for start in prange(0, n, BLOCK, schedule="static"):
            k.masked(scale, dst + start * size, src + start * size, m + start, min(<Py_ssize_t> BLOCK, n - start))


def softmax(bint logarithm, double scale, cnp.ndarray x, cnp.ndarray out):
    """out = scale * softmax of each row of x[rows][n], or its logarithm."""
    cdef const fastconv_kernels *k = kernels_of(x)
    cdef Py_ssize_t rows = cnp.PyArray_DIM(x, 0), n = cnp.PyArray_DIM(x, 1), size = n * k.storage_bytes, row
    cdef char *dst = data(out)
    cdef const char *src = data(x)
    cdef int threads = team(<double> rows * n * EXP_WORK)
    cdef fenv_t environment
    fegetenv(&environment)
    with nogil, parallel(num_threads=threads):
        fesetenv(&environment)
        for row in prange(rows, schedule="static"):
            k.softmax(logarithm, scale, dst + row * size, src + row * size, n)


def softmax_backward(bint logarithm, cnp.ndarray grad_y, cnp.ndarray y, cnp.ndarray out):
    """out = the gradient of softmax, or of its logarithm, from its result y[rows][n]."""
    cdef const fastconv_kernels *k = kernels_of(y)
    cdef Py_ssize_t rows = cnp.PyArray_DIM(y, 0), n = cnp.PyArray_DIM(y, 1), size = n * k.storage_bytes, row
    cdef char *dst = data(out)
    cdef const char *g = data(grad_y)
    cdef const char *p = data(y)
    cdef int threads = team(<double> rows * n * (EXP_WORK if logarithm else 1))
    cdef fenv_t environment
    fegetenv(&environment)
    with nogil, parallel(num_threads=threads):
        fesetenv(&environment)
        for row in prange(rows, schedule="static"):
            k.softmax_backward(logarithm, dst + row * size, g + row * size, p + row * size, n)


def cross_entropy(cnp.ndarray logits, cnp.ndarray target, cnp.ndarray out):
    """out[row] = log sum exp(logits[row]) - logits[row][target[row]] in double; target holds checked intp."""
    cdef const fastconv_kernels *k = kernels_of(logits)
    cdef Py_ssize_t rows = cnp.PyArray_DIM(logits, 0), n = cnp.PyArray_DIM(logits, 1), size = n * k.storage_bytes, row
    cdef const char *src = data(logits)
    cdef const Py_ssize_t *classes = <const Py_ssize_t *> data(target)
    cdef double *loss = <double *> data(out)
    cdef int threads = team(<double> rows * n * EXP_WORK)
    cdef fenv_t environment
    fegetenv(&environment)
    with nogil, parallel(num_threads=threads):
        fesetenv(&environment)
        for row in prange(rows, schedule="static"):
            loss[row] = row_loss(k, src + row * size, n, classes[row])


def cross_entropy_backward(cnp.ndarray logits, cnp.ndarray target, double scale, cnp.ndarray out):
    """out[row] = scale * (softmax(logits[row]) - [c = target[row]]); target holds checked intp."""
    cdef const fastconv_kernels *k = kernels_of(logits)
    cdef Py_ssize_t rows = cnp.PyArray_DIM(logits, 0), n = cnp.PyArray_DIM(logits, 1), size = n * k.storage_bytes, row
    cdef const char *src = data(logits)
    cdef const Py_ssize_t *classes = <const Py_ssize_t *> data(target)
    cdef char *dst = data(out)
    cdef int threads = team(<double> rows * n * EXP_WORK)
    cdef fenv_t environment
    fegetenv(&environment)
    with nogil, parallel(num_threads=threads):
        fesetenv(&environment)
        for row in prange(rows, schedule="static"):
            k.softmax(False, scale, dst + row * size, src + row * size, n)
            subtract(k, dst + row * size, classes[row], scale)


cdef double row_loss(const fastconv_kernels *k, const char *logits, Py_ssize_t n, Py_ssize_t target) noexcept nogil:
    cdef double peak, log_sum, logit
    k.log_sum_exp(logits, n, &peak, &log_sum)
    logit = (<const float *> logits)[target] if k.storage_bytes == 4 else (<const double *> logits)[target]
    return log_sum - (logit - peak)


cdef void subtract(const fastconv_kernels *k, char *row, Py_ssize_t i, double value) noexcept nogil:
    if k.storage_bytes == 4:
        (<float *> row)[i] -= <float> value
    else:
        (<double *> row)[i] -= value
