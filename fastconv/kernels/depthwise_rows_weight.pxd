from fastconv.kernels.depthwise_problem cimport Gradient, Problem

cdef Py_ssize_t rows_weight_workspace(const Problem *p, bint turned) noexcept nogil
cdef void rows_weight_task(const Problem *p, const Gradient *g, Py_ssize_t task, char *workspace) noexcept nogil
cdef void turned_weight_task(const Problem *p, const Gradient *g, Py_ssize_t task, char *workspace) noexcept nogil
cdef void unpack_weights(const Problem *p, const Gradient *g) noexcept nogil
