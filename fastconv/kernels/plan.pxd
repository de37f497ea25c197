"""What the plans of dense convolutions (direct, grouped, winograd) share: a call, and how its memory comes and goes."""

cimport numpy as cnp

from fastconv.kernels.core cimport fastconv_epilogue

cdef struct Call:
    const char *source
    const char *end            # of source
    const char *unpacked       # weight, of PyTorch's shape
    const char *weight         # packed
    const char *zeros          # as long as a pixel of all channels
    const char *background     # what a pixel holds that no tap meets, channel by channel; or NULL if there is none
    char *destination
    const char *residual       # of the destination's shape, or NULL
    fastconv_epilogue epilogue
    int activation             # of table.h, or -1
    double alpha
    int *wrong                 # where to note that an output is not finite
    bint near                  # the destination is scratch memory, to be read while it is in a near cache

cdef struct Scratch:           # memory that a call works in, in bytes
    Py_ssize_t own             # a thread
    Py_ssize_t shared          # of the whole team


ctypedef void (*rows_t)(const void *problem, const Call *call, Py_ssize_t row, Py_ssize_t end,
                        char *scratch) noexcept nogil

cdef struct RowMaker:          # how rows `row` .. `end` - 1 of an image of the destination are made by one thread
    rows_t make                # NULL: rows are not made apart from others
    const void *problem
    Py_ssize_t scratch         # bytes
    const char *zeros          # see Call


cdef class RowKernel:
    cdef RowMaker _rows(self)


cdef class ConvolutionPlan(RowKernel):
    cdef list keep             # arrays that pointers look into
    cdef const char *zeros     # see Call; of kernels that read them
    cdef double work           # multiply-adds, and outputs that are only filled
    cdef readonly double multiply_adds
    cdef readonly bint channels_last
    cdef readonly bint stretches
    cdef bint adds_in_place    # whether the residual may lie in the destination
    cdef readonly Py_ssize_t packed_bytes

    cdef void *_hold(self, array) except NULL
    cdef Scratch _scratch(self, int threads) noexcept nogil
    cdef void _pack(self, const char *weight, char *packed) except *
    cdef void _run(self, const Call *call, char *scratch, int threads) noexcept nogil
    cdef int _convolve(self, Call *call) except -1


cdef inline Py_ssize_t scratch_bytes(Scratch s, int threads) noexcept nogil:
    return s.shared + threads * s.own


cdef Py_ssize_t place_sizes(Py_ssize_t *to, sizes) except -1
