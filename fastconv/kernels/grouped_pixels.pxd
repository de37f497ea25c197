"""Tasks of channels_last, and the weights of a unit of channels as they read them."""

from fastconv.kernels.grouped_problem cimport Phase, Problem
from fastconv.kernels.plan cimport Call

cdef Py_ssize_t pixels_workspace(const Problem *p, const Phase *f) noexcept nogil
cdef void pixels_task(const Problem *p, const Phase *f, const Call *call, Py_ssize_t index, char *memory) noexcept nogil
cdef void pixels_weights(const Problem *p, const Phase *f, const char *weight, char *packed, Py_ssize_t unit,
                         char *scratch) noexcept nogil
