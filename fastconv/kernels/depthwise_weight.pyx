"""The weight gradient of depthwise convolution, and of groups of few channels whose taps are 3x3 windows.

It sums over lines, or windows, in registers, then over blocks of them in the workspace, then over numbered parts of the
batch. Blocks and parts are functions of the geometry alone: no bit depends on the number of threads.
"""

import numpy as np

from cython.parallel cimport parallel, prange, threadid
cimport numpy as cnp

from fastconv.kernels.arrays cimport contiguous, data, hold
from fastconv.kernels.core cimport acquire, ceil_div, fegetenv, fenv_t, fesetenv, release, round_up, team
from fastconv.kernels.depthwise_pass cimport DepthwisePass
from fastconv.kernels.depthwise_planes_weight cimport add_parts, planes_weight_task, planes_weight_workspace
from fastconv.kernels.depthwise_problem cimport (
    MANY_TASKS,
    PART_BYTES,
    PLANES,
    ROWS,
    TURNED,
    WINDOW_COST,
    WINDOW_ROWS,
    Form,
    Gradient,
    Problem,
    clip,
)
from fastconv.kernels.depthwise_rows_weight cimport (
    rows_weight_task,
    rows_weight_workspace,
    turned_weight_task,
    unpack_weights,
)

cnp.import_array()

cdef enum:
    LINE_BYTES = 16 * 1024      # a vector of channels of the rows whose weight gradient stays in registers: half of L1
    SUM_BYTES = 24 * 1024       # of a chunk of groups of several channels: half of L1
    SHUFFLED_BYTES = 32         # vectors from so many bytes on have a shuffle by any index


cdef class DepthwiseWeight(DepthwisePass):
    """backward_weight: the gradients of weight and bias, where `runs` is set.

    Groups may have several channels, as many in as out, where vectors hold whole groups and taps are 3x3 windows.
    """

    cdef readonly bint runs

    def __init__(self, geometry, dtype, padding_mode):
        cdef Problem *p = &self.problem
        self._describe(geometry, dtype, padding_mode, False)
        self.runs = p.kin == 1
        if self._form == PLANES:
            self._cut_planes()
            p.part_bytes = round_up(p.channels * p.ways * (p.taps + 1) * p.itemsize, 64)
            p.parts = self._parts(p.batch * p.cuts[0] * p.cuts[1] * p.cuts[2], p.channels)
            p.tasks, p.workspace = p.parts * p.channels, planes_weight_workspace(p)
            return
        p.padded, p.across = p.vector, p.ways * (p.kin * p.taps + 1) * p.vector
        self._place_runs()
        self._find_windows()
        if p.kin > 1:
            self._find_groups()
        self._cut_channels()
        p.workspace = rows_weight_workspace(p, self._form == TURNED)

    cdef _find_groups(self):
        """Lanes meet the first channels of their groups; those as large as a vector are better off as dense ones."""
        cdef Problem *p = &self.problem
        lanes = np.arange(p.kernels.vlen)
        fits = p.kernels.vlen % p.kin == 0 and 2 * p.kin <= p.kernels.vlen
        self.runs = p.windows and fits and p.vector >= SHUFFLED_BYTES
        p.index = <const char *> hold(self.keep, (lanes // p.kin * p.kin).astype(f"i{p.itemsize}"))

    cdef Py_ssize_t _parts(self, Py_ssize_t items, Py_ssize_t chunks):
        """Partial sums: enough to keep many threads busy, but bounded in bytes."""
        cdef Py_ssize_t most = max(1, PART_BYTES // self.problem.part_bytes)
        return clip(ceil_div(self.many_tasks, chunks), 1, max(1, min(items, most)))

    cdef _cut_channels(self):
        """Parts of all rows (turned: of all images) and chunks of channels; rows whose sums stay in registers."""
        cdef Problem *p = &self.problem
        cdef Py_ssize_t image = p.axis[0].size * p.axis[1].size, vlen = p.kernels.vlen, vectors
        cdef Py_ssize_t row = (p.axis[2].source_size * p.axis[1].stride + p.axis[2].size) * p.vector
        p.rows = clip(LINE_BYTES // row, 1, min(image, 8))
        p.part_bytes = ceil_div(p.channels, vlen) * p.across
        if self._form == TURNED:
            vectors = ceil_div(p.channels, vlen)
            p.chunk = clip(p.batch * vectors // self.many_tasks, 1, vectors) * vlen
            p.parts = self._parts(p.batch, ceil_div(p.channels, p.chunk))
        else:
            p.parts = self._parts(p.batch * image // self._rows_of_part(), 1)
            p.chunk = round_up(ceil_div(p.channels, ceil_div(self.many_tasks, p.parts)), 2 * vlen)
            if p.windows and 2 * p.parts >= self.many_tasks:  # a pixel's channels are read at once
                p.chunk = p.channels
        if p.kin > 1:
            near = SUM_BYTES // (p.kin * p.taps * p.vector) * vlen
            p.chunk = max(vlen, min(p.chunk, near))
        p.chunks = ceil_div(p.channels, p.chunk)
        p.tasks = p.parts * p.chunks

    cdef Py_ssize_t _rows_of_part(self):
        """At least: of windows whole images, or whole blocks of rows."""
        cdef Problem *p = &self.problem
        cdef Py_ssize_t image = p.axis[0].size * p.axis[1].size
        if not p.windows:
            return 8
        return image if image <= 4 * WINDOW_ROWS else round_up(ceil_div(p.batch * image, MANY_TASKS), WINDOW_ROWS)

    @property
    def partial_bytes(self):
        """Of all partial sums."""
        return self.problem.parts * self.problem.part_bytes

    def __call__(self, cnp.ndarray grad_y, cnp.ndarray x, cnp.ndarray weight, cnp.ndarray bias):
        """Write the gradients of the weight and the bias, both C-contiguous, or None where not wanted."""
        cdef Problem *p = &self.problem
        cdef Gradient g
        cdef char *workspace = NULL
        cdef int threads = team(WINDOW_COST * self.work)
        if p.batch == 0 or not (p.axis[0].phases and p.axis[1].phases and p.axis[2].phases):  # every tap meets padding
            if weight is not None:
                weight[...] = 0
            if bias is not None:
                shape = (p.volume, p.channels * p.ways) if self._form == ROWS else (p.channels * p.ways, p.volume)
                np.sum(grad_y.reshape(p.batch, *shape), (0, 1 if self._form == ROWS else 2), out=bias)
            return
        grad_y, x = contiguous(grad_y), contiguous(x)
        g.y, g.x, g.weight, g.shift, g.parts = data(grad_y), data(x), data(weight), data(bias), NULL
        try:
            g.parts = acquire(p.parts * p.part_bytes, 1)
            workspace = acquire(p.workspace, threads)
            with nogil:
                run_weight(p, &g, self._form, workspace, threads)
        finally:
            release(workspace)
            release(g.parts)


cdef void run_weight(const Problem *p, Gradient *g, Form form, char *workspace, int threads) noexcept nogil:
    """All tasks, then the parts in the order of their numbers."""
    cdef fenv_t environment
    cdef Py_ssize_t task
    fegetenv(&environment)
    with parallel(num_threads=threads):
        fesetenv(&environment)
        for task in prange(p.tasks, schedule="dynamic"):
            if form == ROWS:
                rows_weight_task(p, g, task, workspace + threadid() * p.workspace)
            elif form == TURNED:
                turned_weight_task(p, g, task, workspace + threadid() * p.workspace)
            else:
                planes_weight_task(p, g, task, workspace + threadid() * p.workspace)
    if form == PLANES:
        add_parts(p, g)
    else:
        unpack_weights(p, g)
