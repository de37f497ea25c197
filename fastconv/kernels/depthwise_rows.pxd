from fastconv.kernels.depthwise_problem cimport Call, Problem
from fastconv.kernels.plan cimport Call as PlanCall


cdef inline Py_ssize_t row_segments(const Problem *p) noexcept nogil:
    """Taps along D and H."""
    return p.axis[0].kernel * p.axis[1].kernel


cdef inline Py_ssize_t all_rows(const Problem *p) noexcept nogil:
    return p.axis[0].size * p.axis[1].size


cdef Py_ssize_t rows_workspace(const Problem *p, bint turned) noexcept nogil
cdef void pack_weights(const Problem *p, const char *weight, const char *bias, char *packed) noexcept nogil
cdef void rows_task(const Problem *p, const Call *call, Py_ssize_t task, char *workspace) noexcept nogil
cdef void make_rows(const void *problem, const PlanCall *call, Py_ssize_t row, Py_ssize_t end,
                    char *workspace) noexcept nogil
cdef void turned_task(const Problem *p, const Call *call, Py_ssize_t task, char *workspace) noexcept nogil
