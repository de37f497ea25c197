from fastconv.kernels.core cimport fastconv_depthwise_windows
from fastconv.kernels.depthwise_problem cimport Call, Problem

cdef fastconv_depthwise_windows find_windows(const Problem *p, Py_ssize_t row, Py_ssize_t rows,
                                             Py_ssize_t channels) noexcept nogil
cdef void sum_windows(const Problem *p, const Call *call, Py_ssize_t row, Py_ssize_t rows, Py_ssize_t channel,
                      Py_ssize_t channels, const char *x, char *y) noexcept nogil
