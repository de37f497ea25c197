"""Tasks of channels_last, and the workspace they need."""

from fastconv.kernels.direct_problem cimport Cut, Phase, Problem
from fastconv.kernels.plan cimport Call

cdef Py_ssize_t rows_bytes(const Problem *p, const Phase *f) noexcept nogil
cdef Py_ssize_t first_pixel(const Problem *p, const Phase *f, Py_ssize_t block) noexcept nogil
cdef void pixels_task(const Problem *p, const Phase *f, Cut cut, const Call *call, Py_ssize_t index, Py_ssize_t part,
                      char *workspace) noexcept nogil
cdef void pixels_rows(const void *problem, const Call *call, Py_ssize_t row, Py_ssize_t end,
                      char *workspace) noexcept nogil
