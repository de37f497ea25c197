"""Depthwise convolution: one input channel a group, any stride, padding, dilation and dimension, all three passes.

    y[n][c * ways + j][o] = clamp(bias + sum over taps t of  w[c * ways + j][t] * x[n][c][source(o, t)], lower, upper)

No GEMM: the microkernel (src/microkernels/depthwise.c) keeps a block of sums in registers and slides along a line.
The taps of an axis come as phases of runs (fastconv.sliding), so that forward and backward_input (the ways change
sides, one phase for each residue of the stride) are the same loops. Lines are rows of pixels (depthwise_rows:
channels_last, and small planes of channels_first turned to it) or run down the rows of a plane (depthwise_planes:
channels_first).

Where all taps are one 3x3 window, the microkernel sums tiles of rows and columns (depthwise_windows.pyx). Tasks and
blocks are functions of the geometry alone: no bit depends on the number of threads. The weight gradient is in
depthwise_weight.pyx, what all passes share in depthwise_pass.pyx.
"""

import numpy as np

from cython.parallel cimport parallel, threadid
from libc.math cimport INFINITY
cimport numpy as cnp

from fastconv.kernels.arrays cimport contiguous, data, packed_memory
from fastconv.kernels.core cimport (
    acquire,
    ceil_div,
    fastconv_tasks,
    fegetenv,
    fenv_t,
    fesetenv,
    release,
    round_up,
    share_tasks,
    take_task,
    team,
)
from fastconv.kernels.depthwise_pass cimport DepthwisePass
from fastconv.kernels.depthwise_planes cimport planes_task, planes_workspace
from fastconv.kernels.depthwise_problem cimport (
    BLOCK_BYTES,
    PLANES,
    ROWS,
    TURNED,
    WINDOW_COST,
    WINDOW_ROWS,
    Call,
    Form,
    Problem,
    clip,
)
from fastconv.kernels.depthwise_rows cimport make_rows, pack_weights, rows_task, rows_workspace, turned_task
from fastconv.kernels.finish cimport Finish
from fastconv.kernels.plan cimport RowMaker

from fastconv.kernels.plan import sizes_of_parts

cnp.import_array()


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
