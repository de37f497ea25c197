"""The units of work that the sums and the orders of a deformable convolution's weights are shared out in."""

from fastconv.kernels.deformable_chunk cimport Call, Chunk
from fastconv.kernels.deformation cimport Problem

cdef Py_ssize_t pack_units(const Problem *p, const Chunk *c) noexcept nogil
cdef void pack_weight(const Problem *p, const Call *call, Py_ssize_t unit) noexcept nogil
cdef Py_ssize_t unpack_units(const Problem *p, const Call *call) noexcept nogil
cdef void unpack_weight(const Problem *p, const Call *call, Py_ssize_t unit) noexcept nogil
cdef Py_ssize_t weight_units(const Problem *p) noexcept nogil
cdef void sum_weight(const Problem *p, const Call *call, const Chunk *c, Py_ssize_t unit,
                     char *workspace) noexcept nogil
cdef void sum_bias(const Problem *p, const Call *call, const Chunk *c, Py_ssize_t group,
                   char *workspace) noexcept nogil
