from fastconv.kernels.depthwise_problem cimport Call, Gradient, Problem

cdef Py_ssize_t planes_workspace(const Problem *p, bint gradient) noexcept nogil
cdef Py_ssize_t packed_rows(const Problem *p, Py_ssize_t first, Py_ssize_t end) noexcept nogil
cdef bint thin(const Problem *p) noexcept nogil
cdef Py_ssize_t segment_count(const Problem *p) noexcept nogil
cdef void planes_task(const Problem *p, const Call *call, Py_ssize_t task, char *workspace) noexcept nogil
cdef void planes_weight_task(const Problem *p, const Gradient *g, Py_ssize_t task, char *workspace) noexcept nogil
cdef void add_parts(const Problem *p, const Gradient *g) noexcept nogil
