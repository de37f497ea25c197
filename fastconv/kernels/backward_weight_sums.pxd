from fastconv.kernels.backward_weight_problem cimport Call, Problem, Workspace

cdef Workspace workspace_at(const Problem *p, char *start) noexcept nogil
cdef void prepare(const Problem *p, const Workspace *w) noexcept nogil
cdef void sum_unit(const Problem *p, const Call *call, Py_ssize_t unit, const Workspace *w,
                   char *partial) noexcept nogil
cdef void add_parts(const Problem *p, const Call *call, Py_ssize_t number, Py_ssize_t row, const char *partial,
                    char *sum) noexcept nogil
