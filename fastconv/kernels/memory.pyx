"""Arrays for results: the caller's, or in memory that is kept for the next ones.

Kept memory costs no page faults, and no vector in it lies across cache lines.
"""

cimport numpy as cnp
from cpython.ref cimport Py_INCREF

from fastconv.kernels.core cimport acquire, release

cnp.import_array()

cdef enum:
    POOLED = 32 * 1024  # bytes from which on a block of the workspace is worth its own object


def is_pooled(Py_ssize_t bytes) -> bool:
    """Whether the memory of a result of so many bytes is kept for the next one."""
    return bytes >= POOLED


cdef class Block:
    """Keeps its memory while an array looks into it, and then gives it back to the workspace."""

    cdef char *data

    def __dealloc__(self):
        release(self.data)


def empty(tuple shape, cnp.dtype dtype):
    """What np.empty gives, on 64-byte boundaries from 32 KB on.

    Raises
    ------
    MemoryError
        If there is no memory.
    """
    cdef cnp.npy_intp size[cnp.NPY_MAXDIMS]
    cdef Py_ssize_t bytes = dtype.itemsize
    cdef int ndim = <int> len(shape), i
    cdef Block block
    cdef cnp.ndarray array
    for i in range(ndim):
        size[i] = shape[i]
        bytes *= size[i]
    if bytes < POOLED:
        return cnp.PyArray_EMPTY(ndim, size, dtype.type_num, 0)
    block = Block.__new__(Block)
    block.data = acquire(bytes, 1)
    array = cnp.PyArray_SimpleNewFromData(ndim, size, dtype.type_num, block.data)
    Py_INCREF(block)  # the base that the array takes over
    cnp.PyArray_SetBaseObject(array, block)
    return array


def fits(out, tuple shape, cnp.dtype dtype, tuple inputs) -> bool:
    """Whether `out` is a C array of this shape and dtype beside the inputs, as far as a glance tells.

    False leaves it open: inputs that are not C-contiguous, and classes of arrays, take a closer look.
    """
    cdef cnp.ndarray array
    cdef char *begin
    cdef char *end
    cdef char *start
    cdef int i
    if not cnp.PyArray_CheckExact(out):
        return False
    array = out
    if not cnp.PyArray_ISCARRAY(array) or cnp.PyArray_TYPE(array) != dtype.type_num:
        return False
    if cnp.PyArray_NDIM(array) != len(shape):
        return False
    for i in range(cnp.PyArray_NDIM(array)):
        if cnp.PyArray_DIM(array, i) != <Py_ssize_t> shape[i]:
            return False
    begin = <char *> cnp.PyArray_DATA(array)
    end = begin + cnp.PyArray_NBYTES(array)
    for other in inputs:
        if other is None:
            continue
        if not cnp.PyArray_CheckExact(other) or not cnp.PyArray_IS_C_CONTIGUOUS(other):
            return False
        array = other
        start = <char *> cnp.PyArray_DATA(array)
        if start < end and begin < start + cnp.PyArray_NBYTES(array):
            return False
    return True
