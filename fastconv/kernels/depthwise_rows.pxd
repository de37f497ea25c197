from fastconv.kernels.depthwise_problem cimport Call, Gradient, Problem
from fastconv.kernels.plan cimport Call as PlanCall

cdef Py_ssize_t rows_workspace(const Problem *p, bint turned) noexcept nogil
cdef void pack_weights(const Problem *p, const char *weight, const char *bias, char *packed) noexcept nogil
cdef void rows_task(const Problem *p, const Call *call, Py_ssize_t task, char *workspace) noexcept nogil
cdef void make_rows(const void *problem, const PlanCall *call, Py_ssize_t row, Py_ssize_t end,
                    char *workspace) noexcept nogil
cdef void turned_task(const Problem *p, const Call *call, Py_ssize_t task, char *workspace) noexcept nogil

cdef Py_ssize_t rows_weight_workspace(const Problem *p, bint turned) noexcept nogil
cdef void rows_weight_task(const Problem *p, const Gradient *g, Py_ssize_t task, char *workspace) noexcept nogil
cdef void turned_weight_task(const Problem *p, const Gradient *g, Py_ssize_t task, char *workspace) noexcept nogil
cdef void unpack_weights(const Problem *p, const Gradient *g) noexcept nogil
