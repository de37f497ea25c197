"""Steps of a batch of channels_first: transform some channels of a component, multiply some rows, transform back."""

from fastconv.kernels.plan cimport Call
from fastconv.kernels.winograd_problem cimport Batch, Cut, Phase, Problem

cdef void planes_in(const Problem *p, const Phase *f, int component, const Cut *cut, const Call *call, const Batch *b,
                    Py_ssize_t vector, Py_ssize_t channel, Py_ssize_t stop, char *lists) noexcept nogil
cdef void planes_out(const Problem *p, const Phase *f, const Cut *cut, const Call *call, const Batch *b,
                     Py_ssize_t vector, Py_ssize_t row, Py_ssize_t stop, char *lists) noexcept nogil
cdef void rows_by_tiles(const Problem *p, const Phase *f, const Cut *cut, const Call *call, const Batch *b,
                        Py_ssize_t point, Py_ssize_t row, Py_ssize_t stop) noexcept nogil
