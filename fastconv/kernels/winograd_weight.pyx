"""The weight gradient of a convolution of stride 1 by Winograd's filtering: F(r, m), grad_y's tiles being the kernels.

    grad_w = A' (sum over tiles of (G grad_y) * (B' x)),  m = points + 1 - r outputs an axis give that of r taps

F(3, 4) in two dimensions spends 36 multiplications on 16 outputs of 9 taps each: a quarter. Tiles, tables and all three
transforms are those of the convolution (winograd.pyx), with taps and outputs in each other's place.

Lines of tiles, numbered over all images, go batch by batch through two steps that a team shares:

    points    x_points[point][block][tile][columns] and y_points[point][block][tile][rows], blocks of channels
    products  sums[point][row][channel] += y_points x x_points, sums of outer products by the GEMM microkernel of pairs

and a third at the end turns sums into the gradient. A batch is as large as its points may be, because the sums, which
many channels make larger than any cache, are read and written once a batch. Those of some batches, a span, are added up
by themselves, or they would round too coarsely. The geometry alone cuts batches, so that the number of threads changes
no bit. An element that is infinite or NaN may be so because of a neighbour: then the gradient is computed again
directly, as the bias gradient always is.

Source: Lavin, Gray, "Fast algorithms for convolutional neural networks", 2016, section 4.3.
"""

from math import prod

import numpy as np

from cython.parallel cimport parallel, prange, threadid
cimport numpy as cnp

from fastconv.choice import gradient_points

from fastconv.kernels.arrays cimport contiguous, data, hold
from fastconv.kernels.core cimport (
    CACHE_LINE,
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
from fastconv.kernels.plan cimport place_sizes
from fastconv.kernels.winograd_problem cimport LINE, place_phase
from fastconv.kernels.winograd_weight_steps cimport add_products, add_span, gradient_row, x_line, y_line

cnp.import_array()

cdef enum:
    POINTS_BYTES = 8 * 1024 * 1024  # of x's and grad_y's points of a batch, about
    MOST_TILES = 512              # a batch, in 1-D and 2-D
    FEWEST_TILES = 128            # and in 3-D; so that sums are read and written seldom, unless points then exceed
    MOST_BYTES = 15 * 1024 * 1024
    CHAIN = 64                    # most tiles summed in one chain
    CHAIN_3D = 24
    SPAN = 6                      # most batches a span
    SPAN_3D = 3


cdef inline Py_ssize_t chunks_of(const Problem *p, Py_ssize_t channels) noexcept nogil:
    return 1 if p.channels_last else ceil_div(channels, CHUNK)


cdef inline Py_ssize_t units_of_lines(const Problem *p, Py_ssize_t lines) noexcept nogil:
    """Units of work of a batch's transforms, x's first."""
    return lines * (chunks_of(p, p.kin) + chunks_of(p, p.kout))


cdef inline Py_ssize_t lines_of_batch(const Problem *p, Py_ssize_t batch) noexcept nogil:
    return min(p.lines, p.batch * p.phase.tiles // p.phase.axis[2].tiles - batch * p.lines)


cdef void transform_unit(const Problem *p, const Gradients *g, Py_ssize_t group, Py_ssize_t batch, Py_ssize_t unit,
                         char *own) noexcept nogil:
    cdef Py_ssize_t chunks = chunks_of(p, p.kin), lines = lines_of_batch(p, batch)
    if unit < lines * chunks:
        x_line(p, g, group, batch * p.lines, unit // chunks, unit % chunks, own)
        return
    unit -= lines * chunks
    chunks = chunks_of(p, p.kout)
    y_line(p, g, group, batch * p.lines, unit // chunks, unit % chunks, own)


cdef void product_unit(const Problem *p, const Gradients *g, Py_ssize_t batch, Py_ssize_t unit) noexcept nogil:
    cdef Py_ssize_t blocks = ceil_div(p.kout, p.rows), tiles = lines_of_batch(p, batch) * p.phase.axis[2].tiles
    add_products(p, g, unit // blocks, unit % blocks, tiles, batch % p.span == 0)
    if p.batches > p.span and (batch % p.span == p.span - 1 or batch == p.batches - 1):
        add_span(p, g, unit // blocks, unit % blocks, batch < p.span)


cdef void run_alone(const Problem *p, const Gradients *g, char *own) noexcept nogil:
    cdef Py_ssize_t group, batch, unit
    for group in range(p.groups):
        for batch in range(p.batches):
            for unit in range(units_of_lines(p, lines_of_batch(p, batch))):
                transform_unit(p, g, group, batch, unit, own)
            for unit in range(p.phase.points * ceil_div(p.kout, p.rows)):
                product_unit(p, g, batch, unit)
        for unit in range(p.kout):
            gradient_row(p, g, group, unit, own)


cdef void run(const Problem *p, const Gradients *g, char *own, Py_ssize_t own_bytes, int threads) noexcept nogil:
    """By a team, whose workers round as their caller does."""
    cdef fenv_t environment
    cdef Py_ssize_t group = 0, batch = 0, unit
    cdef char *mine = NULL
    fegetenv(&environment)
    with parallel(num_threads=threads):
        fesetenv(&environment)
        mine = own + threadid() * own_bytes
        for group in range(p.groups):
            for batch in range(p.batches):
                for unit in prange(units_of_lines(p, lines_of_batch(p, batch)), schedule="dynamic"):
                    transform_unit(p, g, group, batch, unit, mine)
                for unit in prange(p.phase.points * ceil_div(p.kout, p.rows), schedule="dynamic"):
                    product_unit(p, g, batch, unit)
            for unit in prange(p.kout, schedule="dynamic", chunksize=4):
                gradient_row(p, g, group, unit, mine)


cdef class WinogradWeightPlan:
    """Everything that such a gradient can know before it sees an array; made for the ISA in use.

    Parameters
    ----------
    direct: BackwardWeightPlan, the same gradient summed directly
    geometry: ConvGeometry of the forward convolution
    dtype: numpy.dtype, float32 or float64
    sources: the one phase of `fastconv.sources.forward_sources`
    """

    cdef Problem problem
    cdef double work
    cdef list keep             # arrays that pointers look into
    cdef const char *zeros
    cdef readonly object direct

    def __init__(self, direct, geometry, dtype, sources):
        cdef Problem *p = &self.problem
        g = geometry
        self.direct, self.keep = direct, []
        p.kernels = kernels(dtype == np.float64)
        p.axes, p.channels_last, p.itemsize = g.ndim, g.channels_last, p.kernels.storage_bytes
        p.batch, p.groups, p.taps = g.batch, g.groups, prod(g.kernel)
        p.kin, p.kout = g.in_channels // g.groups, g.out_channels // g.groups
        p.x_plane, p.y_plane = place_sizes(p.x_size, g.in_size), place_sizes(p.y_size, g.out_size)
        place_phase(&p.phase, self.keep, sources[0], g.kernel, gradient_points(sources[0]))
        self.zeros = <const char *> hold(self.keep, np.zeros(p.kin * p.itemsize, np.uint8))
        self._set_sizes()
        self.work = self.multiply_adds

    cdef _set_sizes(self):
        cdef Problem *p = &self.problem
        cdef Py_ssize_t isz = p.itemsize, across = p.phase.axis[2].tiles, all = p.batch * p.phase.tiles // across
        cdef Py_ssize_t most, each
        each = p.phase.points * (round_up(p.kin, p.kernels.pairs_nr) + round_up(p.kout, 4 * p.kernels.vlen)) * isz
        most = max(min(FEWEST_TILES, MOST_BYTES // each),
                   min(POINTS_BYTES // each, FEWEST_TILES if p.axes == 3 else MOST_TILES))
        p.lines = even_part(max(1, all), max(1, most // across), 1)
        p.batches, p.tiles, p.chain = ceil_div(all, p.lines), p.lines * across, CHAIN_3D if p.axes == 3 else CHAIN
        p.span = even_part(max(1, p.batches), SPAN_3D if p.axes == 3 else SPAN, 1)
        p.columns, p.rows = p.kernels.pairs_nr, 4 * p.kernels.vlen
        p.x_stride = round_up(p.kin, p.columns) * p.tiles * isz + LINE
        p.y_stride = round_up(p.kout, p.rows) * p.tiles * isz + LINE
        p.sum_row = round_up(p.kin, p.columns) * isz
        p.sum_row += (1 - p.sum_row // 64 % 2) * 64  # odd numbers of lines apart, rows share no cache set
        p.sum_stride = p.kout * p.sum_row + LINE
        p.taps_bytes = p.taps * p.sum_row
        p.lines_bytes = 0
        if not p.channels_last:
            p.lines_bytes = (p.phase.points // p.phase.axis[2].points) * CHUNK * isz * max(p.x_size[2], p.y_size[2])
        offsets = np.arange(p.tiles)[:, None] * np.array([p.rows, p.columns]) * isz
        p.pairs = <const fastconv_pair *> hold(self.keep, offsets.astype(np.int32))

    cdef Py_ssize_t _own(self) noexcept:
        return round_up(max(self.problem.lines_bytes, self.problem.taps_bytes), CACHE_LINE)

    @property
    def threads(self):
        """How many a call takes now."""
        return team(self.work)

    @property
    def packing(self):
        return ("tiles",)

    @property
    def points(self):
        """Of a tile along each axis."""
        return (tuple(self.problem.phase.axis[i].points for i in range(3 - self.problem.axes, 3)),)

    @property
    def multiply_adds(self):
        cdef const Problem *p = &self.problem
        return <double> p.groups * p.kin * p.kout * p.phase.points * p.batch * p.phase.tiles

    @property
    def partial_bytes(self):
        """The sums of a group, and those of its spans, whatever the batch."""
        return self.problem.phase.points * self.problem.sum_stride * (1 + (self.problem.batches > self.problem.span))

    def task_count(self, int threads):
        cdef const Problem *p = &self.problem
        cdef Py_ssize_t batch, count = 0
        for batch in range(p.batches):
            count += units_of_lines(p, lines_of_batch(p, batch)) + p.phase.points * ceil_div(p.kout, p.rows)
        return p.groups * (count + p.kout)

    def workspace_bytes(self, int threads):
        """Scratch memory of a call with so many threads: of each, and what they share beside the sums."""
        return self._own(), self.problem.phase.points * (self.problem.x_stride + self.problem.y_stride)

    def __call__(self, cnp.ndarray grad_y, cnp.ndarray x, cnp.ndarray out_weight, cnp.ndarray out_bias):
        """Write the weight gradient and the bias gradient, or only one of them if the other is None.

        The arrays are of one dtype and checked by the caller; inputs that are not C-contiguous are copied.
        """
        cdef int wrong = self.problem.batches == 0  # nothing is summed
        grad_y, x = contiguous(grad_y), contiguous(x)
        if out_weight is not None and not wrong:
            wrong = self._differentiate(grad_y, x, out_weight)
        if wrong or out_bias is not None:
            self.direct(grad_y, x, out_weight if wrong else None, out_bias)

    cdef int _differentiate(self, cnp.ndarray grad_y, cnp.ndarray x, cnp.ndarray out_weight) except -1:
        cdef Problem *p = &self.problem
        cdef Py_ssize_t points = p.phase.points, own = self._own()
        cdef int wrong = 0, threads = team(self.work)
        cdef char *memory = acquire(points * (p.x_stride + p.y_stride) + self.partial_bytes + threads * own, 1)
        cdef Gradients g
        g.x, g.y, g.zeros, g.weight, g.wrong = data(x), data(grad_y), self.zeros, data(out_weight), &wrong
        g.x_points = memory
        g.y_points = g.x_points + points * p.x_stride
        g.sums = g.y_points + points * p.y_stride
        g.totals = g.sums + (points * p.sum_stride if p.batches > p.span else 0)
        memory = g.totals + points * p.sum_stride
        with nogil:
            if threads == 1:
                run_alone(p, &g, memory)
            else:
                run(p, &g, memory, own, threads)
        release(g.x_points)
        return wrong
