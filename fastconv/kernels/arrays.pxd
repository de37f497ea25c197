"""NumPy arrays as the macro-kernels take them: C-contiguous memory of one dtype, which the callers have checked."""

cimport numpy as cnp

from fastconv.kernels.core cimport CACHE_LINE, fastconv_kernels, kernels


cdef inline char *data(cnp.ndarray array) noexcept nogil:
    """Where the array's memory starts; NULL for None."""
    return NULL if array is None else <char *> cnp.PyArray_DATA(array)


cdef inline const fastconv_kernels *kernels_of(cnp.ndarray array) noexcept:
    """The microkernels of the current ISA for the array's dtype."""
    return kernels(cnp.PyArray_TYPE(array) == cnp.NPY_FLOAT64)


cdef inline cnp.ndarray contiguous(cnp.ndarray array):
    """The array or, if it is not C-contiguous and aligned, such a copy; None for None."""
    if array is None or cnp.PyArray_ISCARRAY_RO(array):
        return array
    return cnp.PyArray_FROM_OF(array, cnp.NPY_ARRAY_CARRAY_RO)


cdef inline void *hold(list keep, array) except NULL:
    """Where the elements of an array, in C order, lie as long as `keep` does."""
    cdef cnp.ndarray held = cnp.PyArray_FROM_OF(array, cnp.NPY_ARRAY_CARRAY_RO)
    keep.append(held)
    return cnp.PyArray_DATA(held)


cdef inline cnp.ndarray packed_memory(Py_ssize_t size):
    """So many bytes from the start of a cache line on: whole vectors in them cross none."""
    cdef cnp.npy_intp room = size + CACHE_LINE - 1
    cdef cnp.ndarray memory = cnp.PyArray_EMPTY(1, &room, cnp.NPY_UINT8, 0)
    cdef Py_ssize_t start = -<Py_ssize_t> cnp.PyArray_DATA(memory) & (CACHE_LINE - 1)
    return memory[start:start + size]
