"""Steps of a batch of channels_last: transform a component of a tile, multiply some tiles, transform back."""

from fastconv.kernels.plan cimport Call
from fastconv.kernels.winograd_problem cimport Batch, Cut, Phase, Problem

cdef void pixels_in(const Problem *p, const Phase *f, int component, const Cut *cut, const Call *call, const Batch *b,
                    Py_ssize_t tile) noexcept nogil
cdef void pixels_out(const Problem *p, const Phase *f, const Cut *cut, const Call *call, const Batch *b,
                     Py_ssize_t tile) noexcept nogil
cdef void tiles_by_panels(const Problem *p, const Phase *f, const Cut *cut, const Call *call, const Batch *b,
                          Py_ssize_t point, Py_ssize_t column, Py_ssize_t stop) noexcept nogil
