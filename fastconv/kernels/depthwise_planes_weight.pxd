from fastconv.kernels.depthwise_problem cimport Gradient, Problem

cdef Py_ssize_t planes_weight_workspace(const Problem *p) noexcept nogil
cdef void planes_weight_task(const Problem *p, const Gradient *g, Py_ssize_t task, char *memory) noexcept nogil
cdef void add_parts(const Problem *p, const Gradient *g) noexcept nogil
