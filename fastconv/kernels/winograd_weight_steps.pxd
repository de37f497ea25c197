"""Steps of a batch: transform a line of tiles of x or grad_y, add up products of a point; add up and transform sums."""

from fastconv.kernels.winograd_weight cimport Gradients, Problem

cdef void x_line(const Problem *p, const Gradients *g, Py_ssize_t group, Py_ssize_t first, Py_ssize_t line,
                 Py_ssize_t chunk, char *own) noexcept nogil
cdef void y_line(const Problem *p, const Gradients *g, Py_ssize_t group, Py_ssize_t first, Py_ssize_t line,
                 Py_ssize_t chunk, char *own) noexcept nogil
cdef void add_products(const Problem *p, const Gradients *g, Py_ssize_t point, Py_ssize_t block, Py_ssize_t tiles,
                       bint first) noexcept nogil
cdef void add_span(const Problem *p, const Gradients *g, Py_ssize_t point, Py_ssize_t block, bint first) noexcept nogil
cdef void gradient_row(const Problem *p, const Gradients *g, Py_ssize_t group, Py_ssize_t row, char *own) noexcept nogil
