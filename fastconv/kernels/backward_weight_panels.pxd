from fastconv.kernels.backward_weight_problem cimport Block, Problem, Task

cdef void pack_y(const Problem *p, const Task *t, const Block *b, const char *y, char *to) noexcept nogil
cdef void pack_x(const Problem *p, const Task *t, const Block *b, const char *x, char *to) noexcept nogil
cdef void pack_patches(const Problem *p, const Task *t, const Block *b, const char *x, char *to) noexcept nogil
