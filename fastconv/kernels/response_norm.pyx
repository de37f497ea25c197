"""Local response normalization and its gradient: neighbouring channels meet in L1.

    channels_first  x[N][C][S]: a thread takes some columns of an image through all channels; neighbours lie S apart
    channels_last   x[M][C]: a thread takes pixels; a pixel's channels are copied between zeros, where neighbours that
                    do not exist then lie

The gradient's terms, of all channels of the columns or of the pixel, are scratch. Each element is written by one thread
from sums in the order of the channels, so the bits do not depend on the number of threads. Arrays are C-contiguous,
aligned, of one dtype, and checked by the caller.
"""

from cython.parallel cimport parallel, prange, threadid
from libc.string cimport memcpy, memset
cimport numpy as cnp

from fastconv.kernels.arrays cimport data, kernels_of
from fastconv.kernels.core cimport (
    acquire,
    ceil_div,
    fastconv_kernels,
    fastconv_response,
    fegetenv,
    fenv_t,
    fesetenv,
    release,
    round_up,
    team,
)

cnp.import_array()

cdef enum:
    COLUMNS = 1024             # of a block forward: some rows of them stay in L1
    TERMS = 16384              # elements of the gradient's terms, which stay in L2
    PIXELS = 64                # that a thread takes at a time
    WORK = 16                  # a power of s costs about as much as so many multiply-adds


cdef struct Problem:
    Py_ssize_t channels, back, ahead, size, itemsize   # `size` columns of an image, or pixels
    fastconv_response response
    const fastconv_kernels *kernels
    const char *grad_y         # NULL forward
    const char *x
    char *out


cdef fastconv_response within(const Problem *p, Py_ssize_t c, Py_ssize_t back, Py_ssize_t ahead,
                              Py_ssize_t *first) noexcept nogil:
    """The runs of channels c - back .. c + ahead that exist, and the first of them."""
    cdef fastconv_response r = p.response
    first[0] = max(0, c - back)
    r.count = min(p.channels, c + ahead + 1) - first[0]
    return r


cdef void columns_task(const Problem *p, Py_ssize_t image, Py_ssize_t column, Py_ssize_t n, char *terms) noexcept nogil:
    """channels_first: n columns of an image; `terms`, [channel][column], for the gradient alone."""
    cdef Py_ssize_t row = p.size * p.itemsize, start = image * p.channels * row + column * p.itemsize
    cdef Py_ssize_t run = n * p.itemsize, c, first
    cdef const char *x = p.x + start
    cdef char *out = p.out + start
    cdef fastconv_response r
    for c in range(p.channels):
        r = within(p, c, p.back, p.ahead, &first)
        if p.grad_y == NULL:
            p.kernels.response_norm(out + c * row, x + c * row, x + first * row, &r, n)
        else:
            p.kernels.response_terms(out + c * row, terms + c * run, p.grad_y + start + c * row, x + c * row,
                                     x + first * row, &r, n)
    if p.grad_y == NULL:
        return
    for c in range(p.channels):
        r = within(p, c, p.ahead, p.back, &first)
        r.stride = n
        p.kernels.response_sum(out + c * row, x + c * row, terms + first * run, &r, n)


cdef Py_ssize_t padded(const Problem *p) noexcept nogil:
    """Bytes of a pixel between zeros."""
    return round_up((p.channels + p.back + p.ahead) * p.itemsize, 64)


cdef void pixel_task(const Problem *p, Py_ssize_t pixel, char *between) noexcept nogil:
    """channels_last: a pixel; `between`, and behind it a second one for the gradient, are zeros around their channels.
    """
    cdef Py_ssize_t row = p.channels * p.itemsize
    cdef const char *x = p.x + pixel * row
    cdef char *out = p.out + pixel * row
    cdef char *terms = between + padded(p)
    cdef fastconv_response r = p.response
    memcpy(between + p.back * p.itemsize, x, row)
    if p.grad_y == NULL:
        p.kernels.response_norm(out, x, between, &r, p.channels)
        return
    p.kernels.response_terms(out, terms + p.ahead * p.itemsize, p.grad_y + pixel * row, x, between, &r, p.channels)
    p.kernels.response_sum(out, x, terms, &r, p.channels)


def response_norm(cnp.ndarray grad_y, cnp.ndarray x, Py_ssize_t images, Py_ssize_t channels, bint channels_last,
                  Py_ssize_t size, double alpha, double beta, double k, cnp.ndarray out):
    """out = x / (k + alpha / size * sum of squares)^beta or, unless grad_y is None, its gradient."""
    cdef Problem p
    cdef Py_ssize_t total = cnp.PyArray_SIZE(x), block = COLUMNS, blocks, own, task
    cdef char *scratch
    cdef int threads = team(<double> total * (size + WORK))
    cdef fenv_t environment
    p.kernels = kernels_of(x)
    p.channels, p.itemsize, p.size = channels, p.kernels.storage_bytes, total // (images * channels)
    p.back, p.ahead = min(size // 2, channels - 1), min((size - 1) // 2, channels - 1)
    p.grad_y, p.x, p.out = data(grad_y), data(x), data(out)
    p.response = fastconv_response(alpha / size, beta, k, p.back + p.ahead + 1, 1 if channels_last else p.size)
    if channels_last:
        block, own = PIXELS, 2 * padded(&p)
    else:
        if grad_y is not None:
            block = max(p.kernels.vlen, TERMS // channels // p.kernels.vlen * p.kernels.vlen)
        block = min(block, p.size)
        own = round_up(channels * block * p.itemsize, 64) if grad_y is not None else 0
    blocks = ceil_div(p.size, block)
    scratch = acquire(threads * own + 64, 1)
    if channels_last:
        memset(scratch, 0, threads * own)
    try:
        fegetenv(&environment)
        with nogil, parallel(num_threads=threads):
            fesetenv(&environment)
            for task in prange(images * blocks, schedule="static"):
                run_task(&p, task // blocks, task % blocks * block, block, channels_last, scratch + threadid() * own)
    finally:
        release(scratch)


cdef void run_task(const Problem *p, Py_ssize_t image, Py_ssize_t first, Py_ssize_t block, bint channels_last,
                   char *own) noexcept nogil:
    cdef Py_ssize_t stop = min(p.size, first + block), pixel
    if not channels_last:
        columns_task(p, image, first, stop - first, own)
        return
    for pixel in range(first, stop):
        pixel_task(p, image * p.size + pixel, own)
