"""Matrices transposed, as layouts of channels are changed: tiles that fit L1 on both sides.

Arrays are C-contiguous, aligned, of one dtype, and checked by the caller.
"""

from cython.parallel cimport prange
cimport numpy as cnp

from fastconv.kernels.arrays cimport data, kernels_of
from fastconv.kernels.core cimport ceil_div, fastconv_kernels, team

cnp.import_array()

cdef enum:
    RUN = 256       # bytes of a row of a tile of x: a stream for each row would be too many
    ROWS = 512      # of a tile
    FEW_ROWS = 4    # of a small matrix, which are interleaved,
    SHORT = 1024    # bytes of them


def transpose(cnp.ndarray x, cnp.ndarray y, Py_ssize_t matrices, Py_ssize_t rows, Py_ssize_t columns):
    """y[m, c, r] = x[m, r, c]."""
    cdef const fastconv_kernels *k = kernels_of(x)
    cdef const char *from_ = data(x)
    cdef char *to = data(y)
    cdef Py_ssize_t size = cnp.PyArray_ITEMSIZE(x), run = RUN // size, down = ceil_div(rows, ROWS)
    cdef Py_ssize_t across = ceil_div(columns, run), tile
    cdef int threads = team(cnp.PyArray_NBYTES(x) / 2.)
    if 1 < rows <= FEW_ROWS and columns * size <= SHORT:
        for tile in prange(matrices, nogil=True, num_threads=threads, schedule="static"):
            k.interleave(to + tile * rows * columns * size, from_ + tile * rows * columns * size, columns, rows,
                         rows * columns)
        return
    for tile in prange(matrices * across * down, nogil=True, num_threads=threads, schedule="static"):
        transpose_tile(k, from_, to, size, rows, columns, tile // (across * down), tile // down % across * run,
                       tile % down * ROWS)


cdef void transpose_tile(const fastconv_kernels *k, const char *x, char *y, Py_ssize_t size, Py_ssize_t rows,
                         Py_ssize_t columns, Py_ssize_t matrix, Py_ssize_t column, Py_ssize_t row) noexcept nogil:
    """The tile that begins at a row and column of a matrix of x."""
    cdef Py_ssize_t width = min(columns - column, RUN // size), height = min(rows - row, <Py_ssize_t> ROWS)
    cdef Py_ssize_t first = matrix * rows * columns
    k.copy_matrix(y + (first + column * rows + row) * size, rows, x + (first + row * columns + column) * size, 1,
                  columns, width, height)
