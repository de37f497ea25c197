"""Arrays joined along an axis, and one taken apart: runs of memory are copied as wholes.

The whole is rows[part], a part's run being what it has of the axis and of those behind it. A thread takes a stretch of
the whole, wherever in a run that begins. Arrays are C-contiguous, aligned, of one dtype, and checked by the caller.
"""

import numpy as np

from cython.parallel cimport prange
from libc.string cimport memcpy
cimport numpy as cnp

from fastconv.kernels.arrays cimport data
from fastconv.kernels.core cimport ceil_div, team

cnp.import_array()

cdef enum:
    STRETCH = 256 * 1024       # bytes: some hundred runs of pixels, and enough of them for all threads


cdef struct Part:
    char *data
    Py_ssize_t begin, end      # bytes of a row of the whole


cdef void copy_stretch(const Part *part, char *whole, Py_ssize_t row, Py_ssize_t begin, Py_ssize_t end,
                       bint apart) noexcept nogil:
    """Bytes begin .. end - 1 of the whole, whose rows have `row` bytes."""
    cdef Py_ssize_t n = begin // row, at = begin % row, i = 0, run
    cdef char *of_part
    while begin < end:
        while at >= part[i].end:
            i += 1
        run = min(part[i].end - at, end - begin)
        of_part = part[i].data + n * (part[i].end - part[i].begin) + at - part[i].begin
        if apart:
            memcpy(of_part, whole + begin, run)
        else:
            memcpy(whole + begin, of_part, run)
        begin += run
        at += run
        if at == row:
            n, at, i = n + 1, 0, 0


def copy_parts(list parts, cnp.ndarray whole, Py_ssize_t rows, bint apart):
    """The parts to the whole, or, `apart`, the whole to the parts."""
    cdef Py_ssize_t bytes = cnp.PyArray_NBYTES(whole), row = bytes // max(1, rows), at = 0, i, stretch
    cdef cnp.ndarray runs = np.empty(len(parts) * sizeof(Part), np.uint8)
    cdef Part *part = <Part *> data(runs)
    cdef char *to = data(whole)
    cdef int threads = team(bytes / 4.)
    for i in range(len(parts)):
        part[i].data, part[i].begin = data(parts[i]), at
        at += cnp.PyArray_NBYTES(parts[i]) // max(1, rows)
        part[i].end = at
    for stretch in prange(ceil_div(bytes, STRETCH), nogil=True, num_threads=threads, schedule="static"):
        copy_stretch(part, to, row, stretch * STRETCH, min(bytes, (stretch + 1) * STRETCH), apart)
