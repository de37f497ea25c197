"""Pixels of few channels, whose taps lie side by side in padded lines."""

from fastconv.kernels.direct_problem cimport Phase, Problem
from fastconv.kernels.plan cimport Call

cdef bint has_few_channels(const Problem *p, const Phase *f) noexcept nogil
cdef bint copies_lines(const Problem *p, const Phase *f) noexcept nogil
cdef Py_ssize_t lines_block(const Problem *p, const Phase *f, Py_ssize_t most) noexcept nogil
cdef Py_ssize_t lines_bytes(const Problem *p, const Phase *f) noexcept nogil
cdef void sum_lines(const Problem *p, const Phase *f, const Call *call, Py_ssize_t q, Py_ssize_t pixels,
                    Py_ssize_t column, Py_ssize_t stop, char *workspace) noexcept nogil
