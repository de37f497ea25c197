"""Tasks of channels_first, and the panels that a team packs together."""

from fastconv.kernels.direct_problem cimport Cut, Phase, Problem
from fastconv.kernels.plan cimport Call

cdef Py_ssize_t block_bytes(const Problem *p, const Phase *f) noexcept nogil
cdef Py_ssize_t planes_tasks(const Phase *f) noexcept nogil
cdef void pack_shared(const Problem *p, const Phase *f, Py_ssize_t pieces, const Call *call, Py_ssize_t first,
                      Py_ssize_t unit, char *panels, char *workspace) noexcept nogil
cdef void planes_task(const Problem *p, const Phase *f, Cut cut, const Call *call, Py_ssize_t index, Py_ssize_t part,
                      const char *shared, char *workspace) noexcept nogil
