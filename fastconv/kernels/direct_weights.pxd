"""Units of work that pack the weights of a phase."""

from fastconv.kernels.direct_problem cimport Phase, Problem

cdef Py_ssize_t weight_units(const Problem *p, const Phase *f, bint channels_last) noexcept nogil
cdef bint packs_phases(const Problem *p, bint channels_last, bint backward) noexcept nogil
cdef void pack_unit(const Problem *p, const Phase *f, const char *weight, char *packed, bint channels_last,
                    Py_ssize_t group, Py_ssize_t unit, bint backward) noexcept nogil
