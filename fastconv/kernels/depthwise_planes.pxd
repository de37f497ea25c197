from fastconv.kernels.depthwise_problem cimport Call, Problem

cdef Py_ssize_t planes_workspace(const Problem *p) noexcept nogil
cdef void planes_task(const Problem *p, const Call *call, Py_ssize_t task, char *memory) noexcept nogil
