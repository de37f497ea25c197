"""Grouped convolution in channels_last: few channels a group, any stride, padding, dilation and dimension.

    y[n][g * kout + j][p] = clamp(bias + sum over taps t, channels i < kin of
                                  w[g * kout + j][i][t] * x[n][g * kin + i][source(p, t)], lower, upper)

A GEMM a group would leave lanes empty, and packing its source tap by tap costs as much as its few products. Instead a
block of source lines is packed once, padding and strides resolved, and read by all taps. With stride s along an axis
its positions are packed as s parts, so that outputs and taps go by whole steps.

grouped_pixels.pyx packs such blocks and sums over them, lanes being output channels; here blocks are planned and shared
out. In channels_first lanes are pixels, and the direct kernel does the same with the GEMM's tiles.

The sum of an output is one chain, in an order that the geometry fixes, however tasks are cut: bits do not depend on
the number of threads.
"""

import numpy as np

from cython.parallel cimport parallel, prange, threadid

from fastconv.sources import parts_of

from fastconv.kernels.core cimport (
    CACHE_LINE,
    FASTCONV_BROADCAST,
    FASTCONV_PERMUTED,
    FASTCONV_SPREAD,
    acquire,
    ceil_div,
    even_part,
    fegetenv,
    fenv_t,
    fesetenv,
    kernels,
    release,
    round_up,
    team,
)
from fastconv.kernels.grouped_pixels cimport pixels_task, pixels_weights, pixels_workspace
from fastconv.kernels.grouped_problem cimport Axis, Part, Phase, Problem, Run, Task, task_of
from fastconv.kernels.plan cimport Call, ConvolutionPlan, Scratch, place_sizes

cdef enum:
    LINE_BYTES = 16 * 1024      # packed lines that a call of the microkernel reads: most of L1
    WEIGHT_BYTES = 256 * 1024   # weights of a task's units: a quarter of L2
    ROWS = 8                    # lines a task: with 3x3 taps, two more are packed
    WIDE = 448                  # and outputs of a line
    MANY_TASKS = 64
    TASK_WORK = 100 * 1000      # multiply-adds that are worth a task of their own
    SHUFFLED_BYTES = 32         # vectors from so many bytes on have a shuffle by any index
    RUN_TAPS = 3                # of a run at most, see table.h


cdef class GroupedPlan(ConvolutionPlan):
    """A convolution from packed lines, of phases that cover the destination."""

    cdef Problem problem
    rereads_weight = False

    def __init__(self, int dtype, bint backward, Py_ssize_t batch, Py_ssize_t groups, Py_ssize_t kin, Py_ssize_t kout,
                 source_size, destination_size, sources, kernel):
        cdef Problem *p = &self.problem
        cdef Phase *f
        cdef int i
        self.channels_last = True
        p.kernels = kernels(dtype)
        p.batch, p.groups, p.kin, p.kout, p.itemsize = batch, groups, kin, kout, p.kernels.storage_bytes
        p.backward, p.vector = backward, p.kernels.vlen * p.itemsize
        p.source_plane = place_sizes(p.source_size, source_size)
        p.destination_plane = place_sizes(p.destination_size, destination_size)
        p.kernel_taps = np.prod(kernel)
        p.source_pixel, p.destination_pixel = groups * kin * p.itemsize, groups * kout * p.itemsize
        self._choose_kind()
        p.phases, p.phase = len(sources), <Phase *> self._hold(np.zeros(len(sources) * sizeof(Phase), np.uint8))
        for i in range(p.phases):
            f = &p.phase[i]
            self._describe(f, sources[i], kernel)
            self._cut_pixels(f)
            f.weight_offset = self.packed_bytes
            self.packed_bytes += f.units * f.unit_bytes
            self.multiply_adds += <double> batch * groups * kout * kin * f.all_taps * f.axis[0].count \
                * f.axis[1].count * f.axis[2].count
        self.work = self.multiply_adds

    cdef _choose_kind(self):
        """Which source channels the lanes of each vector meet, counted from the first lane's group on."""
        cdef Problem *p = &self.problem
        cdef Py_ssize_t vlen = p.kernels.vlen, channels = p.groups * p.kout
        p.kind, p.pitch = FASTCONV_BROADCAST, round_up(p.kin, vlen) * p.itemsize
        if p.kout % vlen == 0:
            return
        lanes = np.minimum(np.arange(round_up(channels, vlen)), channels - 1).reshape(-1, vlen) // p.kout
        index = (lanes - lanes[:, :1]) * p.kin
        p.index = <const char *> self._hold(index.astype(np.int32 if p.itemsize == 4 else np.int64))
        p.elements = <const Py_ssize_t *> self._hold(index.max(1).astype(np.intp) + 1)
        p.kind, p.pitch = FASTCONV_SPREAD, p.vector
        if p.vector >= SHUFFLED_BYTES and index.max() + p.kin <= vlen:
            p.kind = FASTCONV_PERMUTED

    cdef _describe(self, Phase *f, axes, kernel):
        """The axes of a phase, the missing leading ones with one tap and position."""
        cdef Axis *a
        cdef Py_ssize_t i, missing = 3 - len(axes)
        f.all_taps = 1
        taps = np.zeros(1, np.intp)
        for i in range(3):
            a = &f.axis[i]
            a.count, a.offset, a.step, a.taps, a.reach, a.stride, first, tap_step = 1, 0, 1, 1, 0, 1, 0, 1
            table = np.zeros(1, np.intp)
            if i >= missing:
                axis = axes[i - missing]
                a.count, a.offset, a.step, a.stride = axis.count, axis.start, axis.step, axis.stride
                table, tap_step, a.taps = axis.table, axis.tap_step, len(axis.taps)
                a.reach, first = (a.taps - 1) * abs(tap_step), axis.first + min(0, (a.taps - 1) * tap_step)
            a.table = (<const Py_ssize_t *> self._hold(table)) + <Py_ssize_t> first
            shift = np.arange(a.taps) * tap_step
            shift -= shift.min()
            a.shift = <const Py_ssize_t *> self._hold(shift)
            parts, runs, order = parts_of(shift.tolist(), a.stride, RUN_TAPS)
            a.parts, a.runs = len(parts), len(runs)
            a.part = <const Part *> self._hold(np.array(parts, np.intp))
            a.run = <const Run *> self._hold(np.array(runs, np.intp))
            f.all_taps *= a.taps
            if i >= missing:
                order = np.array(axis.taps, np.intp)[order if i == 2 else slice(None)]
                taps = (taps[:, None] * kernel[i - missing] + order).ravel()
        f.weight_taps = <const Py_ssize_t *> self._hold(taps)

    cdef _cut_pixels(self, Phase *f):
        """Units, lines that are packed and called at once, and tasks."""
        cdef Problem *p = &self.problem
        cdef const Axis *axis = &f.axis[0]
        cdef Py_ssize_t vlen = p.kernels.vlen, i
        cdef bint narrow = axis[2].count < p.kernels.grouped_outputs[0][0]
        f.vectors = 2 if p.kind == FASTCONV_BROADCAST and narrow and p.kout % (2 * vlen) == 0 else 1
        f.units = ceil_div(p.groups * p.kout, f.vectors * vlen)
        f.unit_bytes = f.all_taps * p.kin * f.vectors * p.vector
        f.columns = 0
        for i in range(axis[2].parts):
            f.columns += p.kernels.grouped_outputs[f.vectors - 1][0] + axis[2].part[i].more
        f.slot_bytes = f.columns * p.pitch * (p.kin if p.kind == FASTCONV_SPREAD else 1)
        f.slot_bytes = round_up(f.slot_bytes, CACHE_LINE)
        f.lines = max(1, min(ROWS, (LINE_BYTES // f.slot_bytes - axis[1].reach - 1) // axis[1].stride + 1))
        f.ring = axis[1].reach + 1 + (f.lines - 1) * axis[1].stride
        f.rows = even_part(axis[1].count, ROWS, 1)
        f.row_blocks = ceil_div(axis[1].count, f.rows)
        f.wide = even_part(axis[2].count, WIDE, p.kernels.grouped_outputs[f.vectors - 1][0])
        self._cut_units(f)

    cdef _cut_units(self, Phase *f):
        """Chunks of units: large, as long as there are tasks enough."""
        cdef Problem *p = &self.problem
        cdef const Axis *axis = &f.axis[0]
        f.wide_blocks = ceil_div(axis[2].count, f.wide)
        cdef Py_ssize_t tasks = max(1, p.batch) * axis[0].count * f.row_blocks * f.wide_blocks
        cdef double work = <double> tasks * p.groups * p.kout * p.kin * f.all_taps * f.rows * f.wide
        many = max(1, min(MANY_TASKS, <Py_ssize_t> (work / TASK_WORK)))
        f.chunk = max(1, min(f.units, WEIGHT_BYTES // f.unit_bytes, f.units * tasks // many))
        f.chunk = even_part(f.units, f.chunk, 1)
        f.chunks = ceil_div(f.units, f.chunk)

    @property
    def packing(self):
        return ("lines",) * self.problem.phases

    cdef Scratch _scratch(self, int threads) noexcept nogil:
        return [workspace(&self.problem), 0]

    def tasks(self, int threads):
        """See `ConvolutionPlan.tasks`: a step a phase, cut by the geometry alone."""
        cdef const Problem *p = &self.problem
        cdef const Phase *f
        cdef Task t
        cdef Py_ssize_t i, index
        steps = []
        for i in range(p.phases):
            f = &p.phase[i]
            outputs = np.zeros(tasks_of(p, f))
            for index in range(len(outputs)):
                t = task_of(f, index)
                outputs[index] = (t.stop - t.row) * (t.right - t.left) * (t.end - t.unit)
            steps.append(outputs * (f.vectors * p.kernels.vlen * p.kin * f.all_taps))
        return steps

    cdef void _pack(self, const char *weight, char *packed) except *:
        cdef const Problem *p = &self.problem
        cdef const Phase *f = NULL
        cdef int i, threads = team(<double> self.packed_bytes / 4)
        cdef Py_ssize_t unit, bytes = p.kin * p.kernel_taps * 2 * p.vector
        cdef char *scratch = acquire(bytes, threads)
        for i in range(p.phases):
            f = &p.phase[i]
            if threads == 1:
                for unit in range(f.units):
                    pixels_weights(p, f, weight, packed, unit, scratch)
            else:
                for unit in prange(f.units, nogil=True, num_threads=threads, schedule="static"):
                    pixels_weights(p, f, weight, packed, unit, scratch + threadid() * bytes)
        release(scratch)

    cdef void _run(self, const Call *call, char *scratch, int threads) noexcept nogil:
        if threads == 1:
            run_alone(&self.problem, call, scratch)
        else:
            run(&self.problem, call, scratch, threads)


cdef inline Py_ssize_t tasks_of(const Problem *p, const Phase *f) noexcept nogil:
    return f.chunks * p.batch * f.axis[0].count * f.row_blocks * f.wide_blocks


cdef Py_ssize_t workspace(const Problem *p) noexcept nogil:
    """Bytes a thread."""
    cdef Py_ssize_t i, most = 0
    for i in range(p.phases):
        most = max(most, pixels_workspace(p, &p.phase[i]))
    return most


cdef void run_alone(const Problem *p, const Call *call, char *own) noexcept nogil:
    cdef Py_ssize_t i, task
    for i in range(p.phases):
        for task in range(tasks_of(p, &p.phase[i])):
            pixels_task(p, &p.phase[i], call, task, own)


cdef void run(const Problem *p, const Call *call, char *scratch, int threads) noexcept nogil:
    """By a team, whose workers round as their caller does."""
    cdef fenv_t environment
    cdef const Phase *f = NULL
    cdef Py_ssize_t i = 0, task, bytes = workspace(p)
    fegetenv(&environment)
    with parallel(num_threads=threads):
        fesetenv(&environment)
        for i in range(p.phases):
            f = &p.phase[i]
            for task in prange(tasks_of(p, f), schedule="dynamic"):
                pixels_task(p, f, call, task, scratch + threadid() * bytes)
