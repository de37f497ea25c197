"""What all passes of depthwise convolution share: the geometry as index maps and runs of taps, and its form.

Three forms: rows of pixels with channels across, turned planes, and planes with columns across (see depthwise.pyx).
"""

import math

import numpy as np

cimport numpy as cnp

from fastconv.kernels.arrays cimport hold
from fastconv.kernels.core cimport ceil_div, fastconv_tap_run, kernels, round_up, team
from fastconv.kernels.depthwise_blocks cimport packed_pitch, packed_rows, segment_count
from fastconv.kernels.depthwise_problem cimport (
    BLOCK_BYTES,
    MANY_TASKS,
    NEAR_BYTES,
    PLANES,
    ROWS,
    TASK_WORK,
    TURNED,
    WINDOW_COST,
    Axis,
    Phase,
    Problem,
    Run,
    Stream,
)
from fastconv.kernels.plan cimport RowKernel

from fastconv.sliding import backward_axis, forward_axis, lattice, links

cnp.import_array()

cdef enum:
    TURNED_PIXELS = 1024        # planes up to so many pixels are turned,
    TURNED_BYTES = 1024 * 1024  # and those of many channels while L2 keeps a vector of them and of results
    FAR_BYTES = 4096 * 1024     # of a destination that L2 does not keep


cdef class DepthwisePass(RowKernel):
    """What forward, backward_input and backward_weight share: the geometry as index maps and runs of taps."""

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
            return a.phases > 0 and a.step == 2 and a.tap_step == -2 and a.dilation == 1
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
