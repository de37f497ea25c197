"""The weight gradient of a convolution, and its bias gradient in the same pass.

    grad_weight[co][ci][t] = sum over images n, outputs p of  grad_y[n][co][p] * x[n][ci][source(p, t)]

A product of matrices whose long side, the pixels, is summed. A task sums a block of output channels x input channels x
taps of one group over one part of the pixels, block by block (weight_blocks.py decides all sizes): it packs

    grad_y  as [tile of MR channels][pixel][MR]     once a block,
    x       as [panel of NR channels][position][NR] once a block, for all taps: each tap is a list of pairs (pixel,
            position) that leaves out what lies in padding, so every stride, dilation, padding mode and dimension is
            the same loop; whole vectors of channels that lie side by side are read in place if there is one tap,

and runs the register tile over them. With so few input channels that vectors would be mostly empty, either a bundle of
groups is treated as one dense group, of which only the diagonal blocks are kept, or x is packed as [position][channel],
each pixel's patch [tap][channel] is copied into panels [pixel][NR], and vectors run along the patch.

backward_weight_panels.pyx packs, backward_weight_sums.pyx sums and adds parts up; here work is shared out and planned.
"""

from math import prod

import numpy as np

from cython.parallel cimport parallel, prange, threadid
cimport numpy as cnp

from fastconv.kernels.arrays cimport contiguous, data, hold
from fastconv.kernels.backward_weight_problem cimport Axis, Call, Layout, Problem, Workspace
from fastconv.kernels.backward_weight_sums cimport add_parts, prepare, sum_unit, workspace_at
from fastconv.kernels.core cimport (
    CACHE_LINE,
    acquire,
    ceil_div,
    fastconv_pair,
    fastconv_piece,
    fegetenv,
    fenv_t,
    fesetenv,
    kernels,
    release,
    round_up,
    team,
)

from fastconv.kernels.weight_blocks import Tile, patch_pieces, weight_blocks

cnp.import_array()


cdef void run_alone(const Problem *p, const Call *call, char *memory, Py_ssize_t thread_bytes) noexcept nogil:
    """What a team of one does, without a team."""
    cdef Workspace w = workspace_at(p, memory)
    cdef Py_ssize_t unit
    prepare(p, &w)
    for unit in range(p.parts * p.tasks):
        sum_unit(p, call, unit, &w, memory + thread_bytes)
    for unit in range(p.tasks * p.co_task if p.parts > 1 else 0):
        add_parts(p, call, unit // p.co_task, unit % p.co_task, memory + thread_bytes, w.sums)


cdef void run(const Problem *p, const Call *call, char *memory, Py_ssize_t thread_bytes, int threads) noexcept nogil:
    """All tasks by a team, whose workers round as their caller does."""
    cdef fenv_t environment
    cdef Workspace w
    cdef Py_ssize_t unit
    cdef char *partial = memory + threads * thread_bytes
    fegetenv(&environment)
    with parallel(num_threads=threads):
        fesetenv(&environment)
        w = workspace_at(p, memory + threadid() * thread_bytes)
        prepare(p, &w)
        for unit in prange(p.parts * p.tasks, schedule="dynamic"):
            sum_unit(p, call, unit, &w, partial)
        if p.parts > 1:
            for unit in prange(p.tasks * p.co_task, schedule="dynamic", chunksize=4):
                add_parts(p, call, unit // p.co_task, unit % p.co_task, partial, w.sums)


cdef class BackwardWeightPlan:
    """Everything that backward_weight can know before it sees an array; made for the ISA in use.

    Parameters
    ----------
    geometry: ConvGeometry of the forward convolution
    dtype: numpy.dtype, float32 or float64
    padding_mode: "zeros" (default), "reflect", "replicate" or "circular"
    """

    cdef Problem problem
    cdef double work
    cdef Py_ssize_t thread_bytes
    cdef readonly Py_ssize_t partial_bytes
    cdef readonly object blocks
    cdef list keep             # arrays that pointers look into

    def __init__(self, geometry, dtype, str padding_mode="zeros"):
        cdef Problem *p = &self.problem
        cdef Py_ssize_t i
        g = geometry
        self.keep = []
        p.kernels = kernels(dtype == np.float64)
        p.itemsize = p.kernels.storage_bytes
        tile = Tile(p.kernels.pairs_mr, p.kernels.pairs_nr, p.kernels.vlen, p.itemsize)
        self.blocks = blocks = weight_blocks(g, padding_mode, tile)
        p.batch, p.groups, p.taps = g.batch, g.groups // blocks.bundle, prod(g.kernel)
        p.group_co, p.group_ci = g.out_channels // g.groups, g.in_channels // g.groups
        p.co, p.ci = p.group_co * blocks.bundle, p.group_ci * blocks.bundle
        p.x = layout_of(g.in_channels, (1,) * (3 - g.ndim) + g.in_size, g.channels_last)
        p.y = layout_of(g.out_channels, (1,) * (3 - g.ndim) + g.out_size, g.channels_last)
        p.patches, p.images, p.part_blocks, p.parts = blocks.patches, blocks.images, blocks.part_blocks, blocks.parts
        p.co_task, p.ci_task, p.taps_task = blocks.task.co, blocks.task.ci, blocks.task.taps
        p.tasks = p.groups * ceil_div(p.co, p.co_task) * ceil_div(p.ci, p.ci_task) * ceil_div(p.taps, p.taps_task)
        kernel = (1,) * (3 - g.ndim) + g.kernel
        p.pixels, p.positions, p.blocks = p.images, p.images, ceil_div(p.batch, p.images)
        for i in range(3):
            self._set_axis(i, blocks.axes[i], kernel[i])
            p.pixels *= p.axis[i].length
            p.positions *= p.axis[i].positions
            p.blocks *= p.axis[i].count
        # Whole vectors of channels that lie side by side, at offsets that a pair can hold
        p.in_place = p.taps == 1 and g.channels_last and not p.patches and p.ci % p.kernels.vlen == 0
        p.in_place = p.in_place and p.images * p.x.image * p.itemsize < 2 ** 31
        self._set_sizes()
        if p.patches:
            self._set_pieces()
        self.work = <double> g.batch * prod(g.out_size) * g.out_channels * p.group_ci * p.taps

    cdef _set_axis(self, int i, blocks, Py_ssize_t kernel):
        cdef Axis *a = &self.problem.axis[i]
        a.kernel, a.length, a.count, a.out = kernel, blocks.length, blocks.count, self.problem.y.size[i]
        a.positions, a.step = blocks.positions, blocks.step
        a.shift, a.first, a.stop = self._table(blocks.shift), self._table(blocks.first), self._table(blocks.stop)
        a.sources, a.runs = self._table(blocks.sources), self._table(blocks.runs)
        a.first_run = self._table(blocks.first_run)

    cdef const Py_ssize_t *_table(self, values) except NULL:
        return <const Py_ssize_t *> hold(self.keep, np.asarray(values, np.intp))

    cdef _set_sizes(self):
        cdef Problem *p = &self.problem
        cdef Py_ssize_t isz = p.itemsize, vlen = p.kernels.vlen, mr = p.kernels.pairs_mr, nr = p.kernels.pairs_nr
        cdef Py_ssize_t panels = ceil_div(p.taps_task * p.ci if p.patches else p.ci_task, nr)
        if p.patches:
            p.columns = round_up(p.taps_task * p.ci, vlen)
            p.panel = round_up((p.pixels * nr + vlen) * isz, CACHE_LINE)
            p.x_bytes = round_up((p.positions * p.ci + vlen) * isz, CACHE_LINE)
            p.patch_bytes = panels * p.panel
        else:
            p.columns = p.taps_task * round_up(p.ci_task, vlen)
            p.panel = nr * isz if p.in_place else round_up(p.positions * nr * isz, CACHE_LINE)
            p.x_bytes = 0 if p.in_place else panels * p.panel
        p.columns += (1 - p.columns * isz // 64 % 2) * 64 // isz  # odd numbers of lines apart, rows share no cache set
        p.sum_bytes = round_up(p.co_task * (p.columns + 1) * isz, CACHE_LINE)
        p.pair_bytes = round_up(p.pixels * sizeof(fastconv_pair), CACHE_LINE)
        p.y_bytes = round_up(ceil_div(p.co_task, mr) * p.pixels * mr * isz, CACHE_LINE)
        if max(p.y_bytes, p.x_bytes, p.patch_bytes) >= 2 ** 31:
            raise ValueError(f"kernel of {p.taps} taps is too large for {p.ci} channels a group")
        self.thread_bytes = p.pair_bytes + p.y_bytes + p.x_bytes + p.patch_bytes
        self.thread_bytes += p.sum_bytes if p.parts == 1 else round_up(p.columns * isz, CACHE_LINE)
        self.partial_bytes = 0 if p.parts == 1 else p.parts * p.tasks * p.sum_bytes

    cdef _set_pieces(self):
        """A patch's copies: from a line of the kernel at a time, or from a tap if taps are apart."""
        cdef Problem *p = &self.problem
        d, h, w = [a.shift for a in self.blocks.axes]
        taps = 1
        if w.tolist() == list(range(len(w))):
            w, taps = w[:1], len(w)
        starts = (d[:, None, None] * p.axis[1].positions + h[:, None]) * p.axis[2].positions + w
        starts = (starts * p.ci).ravel()
        each = p.taps_task // taps
        pieces = [patch_pieces(starts[i:i + each], taps * p.ci, p.kernels.pairs_nr, p.panel // p.itemsize)
                  for i in range(0, len(starts), each)]
        p.first_piece = self._table(np.cumsum([0, *map(len, pieces)]))
        p.pieces = <const fastconv_piece *> self._table(np.concatenate(pieces))

    @property
    def threads(self):
        """How many a call takes now."""
        return self._threads()

    cdef int _threads(self) noexcept:
        return <int> min(<Py_ssize_t> team(self.work), self.problem.tasks * self.problem.parts)

    @property
    def packing(self):
        """What fills vectors: "channels" of x, packed or "in place", "patches" of it, or a "bundle" of groups."""
        if self.problem.in_place:
            return ("in place",)
        return ("patches" if self.blocks.patches else "bundle" if self.blocks.bundle > 1 else "channels",)

    def task_count(self, int threads):
        return self.problem.tasks * self.problem.parts

    @property
    def multiply_adds(self):
        return self.work

    def workspace_bytes(self, int threads):
        """Scratch memory of a call with so many threads: of each, and what they share beside partial sums."""
        return self.thread_bytes, 0

    def __call__(self, cnp.ndarray grad_y, cnp.ndarray x, cnp.ndarray out_weight, cnp.ndarray out_bias):
        """Write the weight gradient and the bias gradient, or only one of them if the other is None.

        The arrays are of one dtype and checked by the caller; inputs that are not C-contiguous are copied.
        """
        cdef Problem *p = &self.problem
        cdef Call call
        cdef char *memory = NULL
        cdef int threads = self._threads()
        grad_y, x = contiguous(grad_y), contiguous(x)
        call.y, call.x, call.weight, call.bias = data(grad_y), data(x), data(out_weight), data(out_bias)
        memory = acquire(threads * self.thread_bytes + self.partial_bytes, 1)
        with nogil:
            if threads == 1:
                run_alone(p, &call, memory, self.thread_bytes)
            else:
                run(p, &call, memory, self.thread_bytes, threads)
        release(memory)


cdef Layout layout_of(Py_ssize_t channels, size, bint channels_last):
    cdef Layout a
    cdef Py_ssize_t i
    for i in range(3):
        a.size[i] = size[i]
    a.image = channels * a.size[0] * a.size[1] * a.size[2]
    a.channel = 1 if channels_last else a.image // channels
    a.pixel = channels if channels_last else 1
    return a
