"""Tasks of channels_first, and the weights of a group as they read them."""

from fastconv.kernels.grouped_problem cimport Phase, Problem
from fastconv.kernels.plan cimport Call

cdef Py_ssize_t planes_workspace(const Problem *p, const Phase *f) noexcept nogil
cdef void planes_task(const Problem *p, const Phase *f, const Call *call, Py_ssize_t index, char *memory) noexcept nogil
cdef void planes_weights(const Problem *p, const Phase *f, const char *weight, char *packed,
                         Py_ssize_t group) noexcept nogil
