"""Depthwise convolution: one input channel a group, any stride, padding, dilation and dimension, all three passes.

    y[n][c * ways + j][o] = clamp(bias + sum over taps t of  w[c * ways + j][t] * x[n][c][source(o, t)], lower, upper)

No GEMM: the microkernel (src/microkernels/depthwise.c) keeps a block of sums in registers and slides along a line.
The taps of an axis come as phases of runs (fastconv.sliding), so that forward and backward_input (the ways change
sides, one phase for each residue of the stride) are the same loops. Lines are rows of pixels (depthwise_rows:
channels_last, and small planes of channels_first turned to it) or run down the rows of a plane (depthwise_planes:
channels_first).

The weight gradient sums over lines in registers, then over blocks of lines in the workspace, then over numbered parts
of the batch. Tasks, blocks and parts are functions of the geometry alone: no bit depends on the number of threads.
"""

import math

import numpy as np

from cython.parallel cimport parallel, prange, threadid
from libc.math cimport INFINITY
cimport numpy as cnp

from fastconv.kernels.arrays cimport contiguous, data, hold, packed_memory
from fastconv.kernels.core cimport (
    acquire,
    ceil_div,
    fastconv_tap_run,
    fastconv_tasks,
    fegetenv,
    fenv_t,
    fesetenv,
    kernels,
    release,
    round_up,
    share_tasks,
    take_task,
    team,
)
from fastconv.kernels.depthwise_blocks cimport packed_pitch, packed_rows, segment_count
from fastconv.kernels.depthwise_planes cimport planes_task, planes_workspace
from fastconv.kernels.depthwise_planes_weight cimport add_parts, planes_weight_task, planes_weight_workspace
from fastconv.kernels.depthwise_problem cimport (
    BLOCK_BYTES,
    MANY_TASKS,
    NEAR_BYTES,
    PART_BYTES,
    TASK_WORK,
    Axis,
    Call,
    Gradient,
    Phase,
    Problem,
    Run,
    Stream,
    clip,
)
from fastconv.kernels.depthwise_rows cimport (
    make_rows,
    pack_weights,
    rows_task,
    rows_weight_task,
    rows_weight_workspace,
    rows_workspace,
    turned_task,
    turned_weight_task,
    unpack_weights,
)
from fastconv.kernels.finish cimport Finish

from fastconv.kernels.plan cimport RowKernel, RowMaker

from fastconv.kernels.plan import sizes_of_parts
from fastconv.sliding import backward_axis, forward_axis, lattice, links

cnp.import_array()

cdef enum:
    LINE_BYTES = 16 * 1024      # a vector of channels of the rows whose weight gradient stays in registers: half of L1
    TURNED_PIXELS = 1024        # planes up to so many pixels are turned,
    TURNED_BYTES = 1024 * 1024  # and those of many channels while L2 keeps a vector of them and of results
    FAR_BYTES = 4096 * 1024     # of a destination that L2 does not keep
    WINDOW_ROWS = 4             # that windows are summed by: a multiple of what their blocks have in any ISA
    SUM_BYTES = 24 * 1024       # of a chunk of groups of several channels: half of L1
    SHUFFLED_BYTES = 32         # vectors from so many bytes on have a shuffle by any index
    WINDOW_COST = 3             # of a multiply-add of a window, in those of a register tile

cdef enum Form:
    ROWS, TURNED, PLANES


cdef class DepthwisePass(RowKernel):
    """What forward, backward_input and backward_weight share: the geometry as index maps and runs of taps."""

    cdef Problem problem
    cdef list keep              # arrays that the pointers of `problem` look into
    cdef Form _form
    cdef double work            # multiply-adds
    cdef Py_ssize_t many_tasks

    @property
    def form(self):
        """How the arrays are gone through: "rows", "turned" or "planes"."""
        return ("rows", "turned", "planes")[<int> self._form]

    @property
    def packing(self):
        return (self.form,)

    @property
    def multiply_adds(self):
        return self.work

    @property
    def threads(self):
        """How many a call takes now."""
        return team(WINDOW_COST * self.work)

    def task_count(self, int threads):
        return self.problem.tasks

    def workspace_bytes(self, int threads):
        """Scratch memory of a call with so many threads: of each, and what they share."""
        return self.problem.workspace, 0

    cdef _describe(self, geometry, dtype, padding_mode, bint backward):
        cdef Problem *p = &self.problem
        cdef int i, missing = 3 - geometry.ndim
        self.keep = []
        p.kernels = kernels(np.dtype(dtype) == np.float64)
        p.itemsize, p.vector = p.kernels.storage_bytes, p.kernels.storage_bytes * p.kernels.vlen
        p.batch, p.channels, p.backward = geometry.batch, geometry.in_channels, backward
        p.ways, p.taps = geometry.out_channels // geometry.in_channels, math.prod(geometry.kernel)
        p.kin, p.index = geometry.in_channels // geometry.groups, NULL
        p.ins = p.ways if backward else 1
        p.outs = 1 if backward else p.ways
        mode = padding_mode if any(map(any, geometry.padding)) else "zeros"
        in_size, out_size, kernel, stride, dilation = (
            (1,) * missing + values
            for values in (geometry.in_size, geometry.out_size, geometry.kernel, geometry.stride, geometry.dilation))
        padding = ((0, 0),) * missing + geometry.padding
        for i in range(3):
            self._describe_axis(&p.axis[i], backward, in_size[i], out_size[i], kernel[i], stride[i], padding[i][0],
                                dilation[i], mode, along=i == 2)
        p.source_plane = p.axis[1].source_size * p.axis[2].source_size
        p.source_volume = p.axis[0].source_size * p.source_plane
        p.volume = p.axis[0].size * p.axis[1].size * p.axis[2].size
        p.far = p.batch * p.channels * p.outs * p.volume * p.itemsize > FAR_BYTES
        self.work = <double> p.batch * p.channels * p.ways * p.kin * math.prod(out_size) * p.taps
        self.many_tasks = <Py_ssize_t> max(1.0, min(<double> MANY_TASKS, self.work / TASK_WORK))
        self._choose_form(geometry.channels_last)

    cdef _choose_form(self, bint channels_last):
        """A plane fills vectors poorly and costs some microseconds to set up, a turned one its transposition."""
        cdef Problem *p = &self.problem
        cdef Py_ssize_t x = p.source_volume * p.ins, y = p.volume * p.outs, lanes = round_up(p.channels, p.kernels.vlen)
        self._form = PLANES
        if channels_last and p.channels * p.ways > 1:  # a single channel is a plane in either layout
            self._form = ROWS
        elif 2 * p.channels >= p.kernels.vlen and max(x, y) <= TURNED_PIXELS:
            self._form = TURNED
        elif 4 * p.channels > 3 * lanes and (x + y) * p.vector <= TURNED_BYTES:
            self._form = TURNED
        width = p.kernels.vlen if self._form == TURNED else p.channels
        p.source_pixel, p.pixel = width * p.ins * p.itemsize, width * p.outs * p.itemsize
        p.padded, p.across = round_up(p.channels * p.ins, p.kernels.vlen) * p.itemsize, p.vector

    cdef _describe_axis(self, Axis *a, bint backward, Py_ssize_t in_size, Py_ssize_t out_size, Py_ssize_t kernel,
                        Py_ssize_t stride, Py_ssize_t before, Py_ssize_t dilation, mode, bint along):
        """`along`: of the axis along rows, which may be long, runs are enough; of the others, what a position meets."""
        a.kernel, a.source_size, a.size = kernel, in_size, out_size
        if backward:
            a.source_size, a.size = out_size, in_size
            axis = backward_axis(in_size, out_size, kernel, stride, before, dilation)
        else:
            axis = forward_axis(in_size, out_size, kernel, stride, before, dilation, mode)
        a.step, a.stride, a.dilation, a.tap_step = axis.step, axis.stride, axis.dilation, axis.tap_step
        a.before = before
        a.longest, a.sparse = ceil_div(a.size, a.step), len(axis.phases) < min(a.size, a.step)
        self._describe_phases(a, axis.phases, not along or mode != "zeros")
        self._describe_streams(a, axis.phases, mode)
        if not along:
            ends, taps, sources = links(axis, a.size)
            a.ends, a.tap, a.source = self._positions(ends), self._positions(taps), self._positions(sources)
        a.wrapped = NULL
        if mode != "zeros":
            runs = axis.phases[0].runs
            a.lowest = min(run.origin for run in runs)
            highest = max(run.origin + (len(run.table) - 1) * stride for run in runs)
            a.wrapped = self._positions(lattice(a.lowest, highest - a.lowest + 1, 1, in_size, mode))

    cdef void *_zeros(self, Py_ssize_t size) except NULL:
        return hold(self.keep, np.zeros(size, np.uint8))

    cdef const Py_ssize_t *_positions(self, values) except NULL:
        return <const Py_ssize_t *> hold(self.keep, np.asarray(values, np.intp))

    cdef _describe_phases(self, Axis *a, phases, bint tables):
        cdef Phase *phase
        cdef Run *to
        a.phases, a.runs = len(phases), sum(len(phase.runs) for phase in phases)
        a.phase = <Phase *> self._zeros(a.phases * sizeof(Phase))
        to = <Run *> self._zeros(a.runs * sizeof(Run))
        for i, described in enumerate(phases):
            phase = &a.phase[i]
            phase.start, phase.count, phase.runs, phase.run = described.start, described.count, len(described.runs), to
            for run in described.runs:
                to.tap, to.taps, to.origin, to.first, to.end = run.tap, run.taps, run.origin, run.first, run.end
                to.table = self._positions(run.table) if tables else NULL
                to += 1

    cdef _describe_streams(self, Axis *a, phases, mode):
        """The columns to be packed: runs whose origins are a multiple of the stride apart share them."""
        cdef Stream *stream
        cdef Run *to
        cdef Py_ssize_t i, k
        spans = {}
        for phase in phases:
            for run in phase.runs:
                low, high = spans.get(run.origin % a.stride, (run.origin, run.origin))
                end = run.origin + len(run.table) * a.stride
                spans[run.origin % a.stride] = min(low, run.origin), max(high, end)
        a.streams, a.extent = len(spans), 0
        a.stream = <Stream *> self._zeros(a.streams * sizeof(Stream))
        for i, (low, high) in enumerate(spans.values()):
            stream = &a.stream[i]
            stream.origin, stream.length = low, (high - low) // a.stride
            stream.first = min(max(0, -(low // a.stride)), stream.length)
            stream.end = max(stream.first, min(stream.length, (a.source_size - 1 - low) // a.stride + 1))
            stream.table = NULL
            if mode != "zeros":
                stream.table = self._positions(lattice(low, stream.length, a.stride, a.source_size, mode))
        for i, phase in enumerate(phases):
            for k, run in enumerate(phase.runs):
                to = &a.phase[i].run[k]
                to.stream = list(spans).index(run.origin % a.stride)  # Python's remainder: origins may be negative
                to.column = (to.origin - a.stream[to.stream].origin) // a.stride
                a.extent = max(a.extent, to.column + (to.taps - 1) * a.dilation)

    cdef _place_runs(self):
        """The runs along W as they lie in a row of pixels (rows and turned planes)."""
        cdef Problem *p = &self.problem
        cdef Axis *width = &p.axis[2]
        cdef fastconv_tap_run *runs = <fastconv_tap_run *> self._zeros(width.runs * sizeof(fastconv_tap_run))
        cdef Py_ssize_t i, k
        cdef Run *run
        p.runs = runs
        for i in range(width.phases):
            for k in range(width.phase[i].runs):
                run = &width.phase[i].run[k]
                runs.x, runs.w, runs.taps = run.origin * p.source_pixel, run.tap * p.padded, run.taps
                runs.first, runs.end, runs.at = run.first, run.end, run.table if width.wrapped != NULL else NULL
                runs += 1

    cdef _find_windows(self):
        """Whether rows may be summed as 3x3 windows: of one stride, or the gradients of those of stride 2."""
        cdef Problem *p = &self.problem
        p.windows = p.ways == 1 and p.axis[0].size == p.axis[0].kernel == 1 and p.axis[2].wrapped == NULL
        p.spread = p.backward and p.axis[2].step == 2
        for i in range(1, 3):
            p.windows = p.windows and p.axis[i].kernel == 3 and self._in_windows(&p.axis[i])

    cdef bint _in_windows(self, const Axis *a):
        """Taps are neighbours, none of them left out; as along W, so along H."""
        cdef Problem *p = &self.problem
        if p.spread:
            return a.step == 2 and a.tap_step == -2 and a.dilation == 1
        taps = [a.phase.run[k].taps for k in range(a.runs)] if a.phases == a.step == 1 else []
        return (a.dilation == 1 and a.stride == p.axis[2].stride and a.size > 1
                and taps == ([3] if a.stride == 1 else [2, 1]))

    cdef _cut_planes(self):
        """Blocks of planes that fit the workspace, many enough for many threads, and channels a task."""
        cdef Problem *p = &self.problem
        cdef Py_ssize_t vlen = p.kernels.vlen, work
        p.block = [min(p.axis[0].size, 16), p.axis[1].longest, p.axis[2].longest]
        while p.block[0] > 1 and self._packed_bytes() > BLOCK_BYTES:
            p.block[0] = ceil_div(p.block[0], 2)
        while p.block[1] > 16 and (self._packed_bytes() > BLOCK_BYTES or self._plane_tasks() < self.many_tasks):
            p.block[1] = ceil_div(p.block[1], 2)
        while p.block[2] > 16 * vlen and (self._packed_bytes() > BLOCK_BYTES or self._plane_tasks() < self.many_tasks):
            p.block[2] = round_up(ceil_div(p.block[2], 2), vlen)
        if p.block[1] < p.axis[1].longest:
            p.block[1] = max(1, p.block[1] // p.kernels.depthwise_outputs) * p.kernels.depthwise_outputs
        while p.block[2] > 16 * vlen and self._packed_bytes() > NEAR_BYTES:
            p.block[2] = round_up(ceil_div(p.block[2], 2), vlen)
        self._packed_bytes()
        work = max(1, p.ways * p.taps * p.block[0] * p.block[1] * p.block[2])
        p.chunk = max(1, min(p.channels, ceil_div(TASK_WORK, work), self._plane_tasks() // self.many_tasks))
        p.chunks = ceil_div(p.channels, p.chunk)
        p.segments = segment_count(p)

    cdef Py_ssize_t _plane_tasks(self):
        cdef Problem *p = &self.problem
        return max(1, p.batch) * p.channels * p.cuts[0] * p.cuts[1] * p.cuts[2]

    cdef Py_ssize_t _packed_bytes(self):
        """Of the largest block; settles the number of cuts, packed slices and rows, too."""
        cdef Problem *p = &self.problem
        cdef Axis *depth = &p.axis[0]
        cdef Py_ssize_t i, end
        p.cuts = [ceil_div(depth.size, p.block[0]), ceil_div(p.axis[1].longest, p.block[1]),
                  ceil_div(p.axis[2].longest, p.block[2])]
        p.slots = p.packed_rows = 0
        for i in range(p.cuts[0]):
            end = min((i + 1) * p.block[0], depth.size)
            p.slots = max(p.slots, len({depth.source[e] for e in range(depth.ends[i * p.block[0]], depth.ends[end])}))
        for i in range(p.cuts[1]):
            end = min((i + 1) * p.block[1], p.axis[1].longest)
            p.packed_rows = max(p.packed_rows, packed_rows(p, i * p.block[1], end))
        return (p.slots * p.ins * p.axis[2].streams * p.packed_rows * packed_pitch(p, p.block[2] + p.axis[2].extent))


cdef class DepthwiseLines(DepthwisePass):
    """forward (from x to y) or, for zeros as padding, backward_input (from grad_y to grad_x)."""

    cdef readonly Py_ssize_t packed_bytes  # of weight and bias in whole vectors, in every call
    stretches = True            # see ConvolutionPlan

    def __init__(self, geometry, dtype, padding_mode, bint backward):
        cdef Problem *p = &self.problem
        self._describe(geometry, dtype, padding_mode, backward)
        if self._form == PLANES:
            self._cut_planes()
            p.workspace = planes_workspace(p)
            p.tasks = p.batch * p.chunks * p.cuts[0] * p.cuts[1] * p.cuts[2]
            return
        self._place_runs()
        self._find_windows()
        if self._form == ROWS:
            self._cut_rows()
        else:
            self._cut_turned()
        p.workspace = rows_workspace(p, self._form == TURNED)
        self.packed_bytes = p.outs * (p.taps + 1) * p.padded

    cdef _cut_rows(self):
        """Rows whose sources stay in L2 while the channels pass over them, and chunks of channels."""
        cdef Problem *p = &self.problem
        cdef Py_ssize_t rows = p.axis[0].size * p.axis[1].size, unit = 2 * p.kernels.vlen
        cdef Py_ssize_t row = (p.axis[2].source_size * p.axis[1].stride * p.ins
                               + p.axis[2].size * p.axis[1].step * p.outs) * p.itemsize
        p.chunk = round_up(clip(2 * BLOCK_BYTES // (row * p.axis[1].kernel), unit, p.channels), unit)
        p.rows = clip(BLOCK_BYTES // (row * p.chunk), 1, rows)
        p.blocks = ceil_div(rows, p.rows)
        if p.batch * p.blocks * ceil_div(p.channels, p.chunk) < self.many_tasks:
            p.chunk = round_up(ceil_div(p.channels, ceil_div(self.many_tasks, max(1, p.batch * p.blocks))), unit)
        p.chunks = ceil_div(p.channels, p.chunk)
        if p.batch * p.blocks * p.chunks < self.many_tasks:
            p.rows = max(min(p.rows, 4), ceil_div(rows, ceil_div(self.many_tasks, max(1, p.batch * p.chunks))))
        p.rows = ceil_div(rows, ceil_div(rows, p.rows))
        if p.windows:
            p.rows = round_up(p.rows, WINDOW_ROWS)
        p.blocks = ceil_div(rows, p.rows)
        p.tasks = p.batch * p.blocks * p.chunks

    cdef _cut_turned(self):
        cdef Problem *p = &self.problem
        cdef Py_ssize_t vectors = ceil_div(p.channels, p.kernels.vlen)
        p.rows, p.blocks = p.axis[0].size * p.axis[1].size, 1
        p.chunk = max(1, max(1, p.batch) * vectors // self.many_tasks) * p.kernels.vlen
        p.chunk = min(p.chunk, vectors * p.kernels.vlen)
        p.chunks = ceil_div(p.channels, p.chunk)
        p.tasks = p.batch * p.chunks

    cdef RowMaker _rows(self):
        cdef const Problem *p = &self.problem
        if self._form != ROWS or p.batch * p.axis[0].size != 1:
            return RowMaker(NULL, NULL, 0, NULL)
        return RowMaker(make_rows, p, p.workspace, NULL)

    def pack_rows(self, cnp.ndarray weight, cnp.ndarray bias):
        cdef cnp.ndarray packed = packed_memory(self.packed_bytes)
        weight, bias = contiguous(weight), contiguous(bias)
        pack_weights(&self.problem, data(weight), data(bias), data(packed))
        return packed

    def tasks(self, int threads):
        """As `ConvolutionPlan.tasks`: one step, cut by the geometry alone."""
        cdef const Problem *p = &self.problem
        cdef Py_ssize_t rows = p.axis[0].size * p.axis[1].size
        cdef double each = <double> p.ways * p.taps
        channels = sizes_of_parts(p.channels, p.chunk)
        if self._form == PLANES:
            lengths = (p.axis[0].size, p.axis[1].longest, p.axis[2].longest)
            d, h, w = (sizes_of_parts(n, p.block[i]) for i, n in enumerate(lengths))
            outputs = np.outer(channels, np.outer(np.outer(d, h), w)) * (p.axis[1].step * p.axis[2].step)
        elif self._form == ROWS:
            outputs = np.outer(sizes_of_parts(rows, p.rows), channels) * p.axis[2].size
        else:
            outputs = channels * (rows * p.axis[2].size)
        return [np.tile(outputs.ravel() * each, p.batch)]

    def __call__(self, cnp.ndarray source, cnp.ndarray weight, cnp.ndarray bias, cnp.ndarray destination,
                 double lower=-INFINITY, double upper=INFINITY, int activation=-1, double alpha=0,
                 cnp.ndarray residual=None):
        """destination = activation(clamp(sums + bias + residual, lower, upper)).

        `activation` is one of table.h, or -1 for none. The arrays are of one dtype and checked by the caller, `bias`
        and `residual` may be None, and the residual the destination itself; inputs that are not C-contiguous are
        copied.
        """
        cdef Problem *p = &self.problem
        cdef Call call
        cdef char *packed = NULL
        cdef char *workspace = NULL
        cdef int threads = team(WINDOW_COST * self.work)
        source, weight, bias, residual = contiguous(source), contiguous(weight), contiguous(bias), contiguous(residual)
        if residual is destination:
            residual = residual.copy()
        call.source, call.weight, call.shift = data(source), data(weight), data(bias)
        call.destination = data(destination)
        call.lower, call.upper = lower, upper
        if residual is not None:
            call.lower, call.upper = -INFINITY, INFINITY
        call.finish = Finish(data(destination), data(residual), lower, upper, activation, alpha)
        call.threads = threads
        try:
            if self._form != PLANES:
                packed = acquire(self.packed_bytes, 1)
                pack_weights(p, call.weight, call.shift, packed)
                call.weight, call.shift = packed, packed + p.outs * p.taps * p.padded if bias is not None else NULL
            workspace = acquire(p.workspace, threads)
            with nogil:
                run_lines(p, &call, self._form, workspace, threads)
        finally:
            release(workspace)
            release(packed)


cdef void run_lines(const Problem *p, const Call *call, Form form, char *workspace, int threads) noexcept nogil:
    """All tasks; workers round as their caller does."""
    cdef fenv_t environment
    cdef fastconv_tasks tasks
    share_tasks(&tasks, p.tasks, threads)
    fegetenv(&environment)
    with parallel(num_threads=threads):
        fesetenv(&environment)
        take_tasks(p, call, form, &tasks, workspace + threadid() * p.workspace)


cdef void take_tasks(const Problem *p, const Call *call, Form form, fastconv_tasks *tasks, char *own) noexcept nogil:
    cdef Py_ssize_t task = take_task(tasks)
    while task >= 0:
        if form == ROWS:
            rows_task(p, call, task, own)
        elif form == TURNED:
            turned_task(p, call, task, own)
        else:
            planes_task(p, call, task, own)
        task = take_task(tasks)


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
