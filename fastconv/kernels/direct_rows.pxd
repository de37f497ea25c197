"""Rows of channels_last that lie equally far apart."""

from fastconv.kernels.core cimport fastconv_gemm_rows
from fastconv.kernels.direct_problem cimport Phase, Problem
from fastconv.kernels.plan cimport Call

cdef const char *panel_at(const Problem *p, const Phase *f, const Call *call, Py_ssize_t group, Py_ssize_t column,
                          Py_ssize_t channel) noexcept nogil
cdef void sum_rows(const Problem *p, const Phase *f, const Call *call, fastconv_gemm_rows *r, Py_ssize_t channel,
                   bint first) noexcept nogil
