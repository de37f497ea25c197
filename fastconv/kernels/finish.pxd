"""What is done to finished rows of a destination where no register tile's epilogue does it."""

from fastconv.kernels.core cimport fastconv_kernels

cdef struct Finish:            # y = activation(clamp(y + residual, lower, upper))
    const char *destination
    const char *residual       # of the destination's shape; or NULL: nothing is added, and clamped neither
    double lower, upper
    int activation             # of table.h, or -1
    double alpha


cdef inline bint finishes(const Finish *f) noexcept nogil:
    """Whether there is anything to do."""
    return f.residual != NULL or f.activation >= 0


cdef inline void finish_row(const fastconv_kernels *kernels, const Finish *f, char *y, Py_ssize_t n) noexcept nogil:
    """`n` neighbouring elements of the destination."""
    if f.residual != NULL:
        kernels.add_clamped(y, y, f.residual + (y - f.destination), n, f.lower, f.upper)
    if f.activation >= 0:
        kernels.activate(f.activation, f.alpha, y, y, n)
