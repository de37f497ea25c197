"""Steps of a batch of tiles: transform a line of x's or of grad_y's, add up products of a point, and sums of a span; and transform them."""

from fastconv.kernels.winograd_weight cimport Gradients, Problem

cdef void x_line(const Problem *p, const Gradients *g, Py_ssize_t group, Py_ssize_t first, Py_ssize_t line,
                 Py_ssize_t chunk, char *own) noexcept nogil
cdef void y_line(const Problem *p, const Gradients *g, Py_ssize_t group, Py_ssize_t first, Py_ssize_t line,
                 Py_ssize_t chunk, char *own) noexcept nogil
cdef void add_products(const Problem *p, const Gradients *g, Py_ssize_t point, Py_ssize_t block, Py_ssize_t tiles,
                       bint first) noexcept nogil
cdef void add_span(const Problem *p, const Gradients *g, Py_ssize_t point, Py_ssize_t block, bint first) noexcept nogil
cdef void gradient_row(const Problem *p, const Gradients *g, Py_ssize_t group, Py_ssize_t row, char *own) noexcept nogil
