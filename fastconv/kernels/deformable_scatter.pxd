"""What a block of channels of one image gives to grad_x, by one thread."""

from fastconv.kernels.deformable_chunk cimport Call, Chunk
from fastconv.kernels.deformation cimport Problem, Segment

cdef Py_ssize_t scatter_bytes(const Problem *p) noexcept nogil
cdef void scatter(const Problem *p, const Call *call, const Chunk *c, Py_ssize_t n, const Segment *block,
                  char *workspace) noexcept nogil
