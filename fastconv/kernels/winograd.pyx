"""Winograd convolution: F(m, r) with mostly 6 points an axis, for 2 to 5 taps of stride 1, or of a stride's component.

    y = A' (sum over channels c of (G w[row][c]) * (B' x[c])),  tile by tile of m = points + 1 - r outputs an axis

F(4, 3) in two dimensions spends 36 multiplications on 16 outputs of 9 taps each: a quarter. There both axes may have 5
points, F(6 - r, r), where outputs come by threes; in three dimensions the first axis may have 4, F(5 - r, r), which
round less (`fastconv.choice.winograd_points`).

Tiles are numbered over all images; a batch of them goes through three steps, each of which a thread may do alone or a
team together:

    input     points[point][channel][tile] (channels_first) or [point][tile][channel] (channels_last) from the source
    products  sums[point] = weight[point] x points[point]: a dense matrix product a point, by the GEMM microkernel
    output    the destination from sums, with bias and clamp

With dilation d the positions i, i + d, ... of an axis are a grid of their own; its tiles are numbered with the others.

With stride s the taps fall on components, each a convolution of stride 1 of every s-th source, which are more channels
of the same points (`AxisSources.components`): 3 taps of stride 2 are 2 and 1. A component of one tap less has zeros in
the last points of its weight, which are left out: 11 multiplications an axis for 5 outputs of 3 taps.

Lanes are neighbouring tiles of a line (channels_first) or channels (channels_last), so that nothing is transposed. The
transformed weight is read once a batch. Where a team has batches enough, each thread takes whole ones, which fit L2 if
channels are few; else the team shares every step of a batch, so that the weight is read once for all of them.

Sums run over the channels of a group in order, in chains that the geometry alone fixes: how batches are cut changes no
bit. An output that is infinite or NaN may be so because of a neighbour, so then the whole call is done again by the
direct kernel.

winograd_planes.pyx and winograd_pixels.pyx are the three steps of either layout; here they are shared out and planned.

Source: Lavin, Gray, "Fast algorithms for convolutional neural networks", 2016, section 4.
"""

import numpy as np

from cython.parallel cimport parallel, prange, threadid

from fastconv.choice import INPUT_OUTPUT, winograd_points

from fastconv.kernels.core cimport (
    CACHE_LINE,
    ceil_div,
    even_part,
    fastconv_run,
    fastconv_winograd_weight,
    fegetenv,
    fenv_t,
    fesetenv,
    kernels,
    round_up,
    team,
)
from fastconv.kernels.plan cimport Call, ConvolutionPlan, Scratch, place_sizes, scratch_bytes
from fastconv.kernels.winograd_pixels cimport pixels_in, pixels_out, tiles_by_panels
from fastconv.kernels.winograd_planes cimport planes_in, planes_out, rows_by_tiles
from fastconv.kernels.winograd_problem cimport (
    CHAIN,
    CHAIN_FOUR,
    CHAIN_SIX,
    IN_VECTORS,
    LINE,
    MOST_PARTS,
    MOST_VALUES,
    POINTS,
    Batch,
    Cut,
    Phase,
    Problem,
    has_point,
    place_phase,
    weight_stride,
)

from fastconv.kernels.plan import sizes_of_parts

cdef enum:
    OWN_BYTES = 400 * 1024        # points, then sums of a batch of one thread: L2 keeps them beside some weights
    SHARED_BYTES = 8 * 1024 * 1024  # points and sums of a batch of a team
    FEWEST_TILES = 48             # a batch, so that the weight is read seldom
    MOST_TILES = 240
    CHUNK = 64                    # channels of a unit of work, in channels_first
    FEW_CHANNELS = 16             # and where units are few
    UNITS = 4                     # a thread that are not few
    READ = 2                      # what a part of a product reads, in rows of register tiles


# ------------------------------------------------------------------------------------------------ steps of a batch

cdef inline Py_ssize_t transform_units(const Problem *p, const Cut *cut, Py_ssize_t tiles,
                                       Py_ssize_t channels) noexcept nogil:
    """Units of work of the transforms of so many tiles and channels."""
    if p.channels_last:
        return tiles
    return ceil_div(tiles, p.kernels.vlen) * ceil_div(channels, cut.channels)


cdef void input_unit(const Problem *p, const Phase *f, const Cut *cut, const Call *call, const Batch *b,
                     Py_ssize_t unit, char *lists) noexcept nogil:
    """A unit of work of any component."""
    cdef Py_ssize_t vectors = ceil_div(b.tiles, p.kernels.vlen), channel
    cdef int component = <int> (unit % f.components)
    unit //= f.components
    channel = unit // vectors * cut.channels
    if p.channels_last:
        pixels_in(p, f, component, cut, call, b, unit)
    else:
        planes_in(p, f, component, cut, call, b, unit % vectors, channel, min(p.kin, channel + cut.channels), lists)


cdef inline Py_ssize_t rows_of_part(const Problem *p, Py_ssize_t parts) noexcept nogil:
    """Rows, or columns in whole panels, that one of so many parts of a product has."""
    cdef Py_ssize_t unit = p.kernels.nr if p.channels_last else p.kernels.mr
    return round_up(ceil_div(p.kout, parts), unit)


cdef Py_ssize_t parts_of_product(const Problem *p, const Phase *f, int threads) noexcept nogil:
    """Parts of the product of one point, with which the busiest thread of a team has least to do."""
    cdef Py_ssize_t unit = p.kernels.nr if p.channels_last else p.kernels.mr, rows, time, least = 0, best = 1, parts
    for parts in range(1, 1 + min(ceil_div(p.kout, unit), ceil_div(UNITS * threads, f.points))):
        rows = rows_of_part(p, parts)
        time = ceil_div(f.points * ceil_div(p.kout, rows), threads) * (rows + READ * p.kernels.mr)
        if least == 0 or time < least:
            best, least = parts, time
    return ceil_div(p.kout, rows_of_part(p, best))


cdef void product_unit(const Problem *p, const Phase *f, const Cut *cut, const Call *call, const Batch *b,
                       Py_ssize_t unit, Py_ssize_t parts) noexcept nogil:
    cdef Py_ssize_t rows = rows_of_part(p, parts), point = unit // parts, row = unit % parts * rows
    if p.channels_last:
        tiles_by_panels(p, f, cut, call, b, point, row, min(p.kout, row + rows))
    else:
        rows_by_tiles(p, f, cut, call, b, point, row, min(p.kout, row + rows))


cdef void output_unit(const Problem *p, const Phase *f, const Cut *cut, const Call *call, const Batch *b,
                      Py_ssize_t unit, char *lists) noexcept nogil:
    cdef Py_ssize_t vectors = ceil_div(b.tiles, p.kernels.vlen), row = unit // vectors * cut.channels
    if p.channels_last:
        pixels_out(p, f, cut, call, b, unit)
    else:
        planes_out(p, f, cut, call, b, unit % vectors, row, min(p.kout, row + cut.channels), lists)


cdef Batch batch_of(const Problem *p, const Phase *f, const Cut *cut, Py_ssize_t index, char *buffers) noexcept nogil:
    cdef Batch b
    b.group, b.first = index // cut.batches, index % cut.batches * cut.tiles
    b.tiles = min(cut.tiles, f.tiles * p.batch - b.first)
    b.sums = buffers
    b.points = buffers + (f.points if cut.together else 1) * cut.stride
    return b


cdef void run_batch(const Problem *p, const Phase *f, const Cut *cut, const Call *call, Py_ssize_t index,
                    char *own) noexcept nogil:
    """All steps by one thread."""
    cdef char *lists = own + cut.buffers
    cdef Batch b = batch_of(p, f, cut, index, own)
    cdef Py_ssize_t unit
    for unit in range(f.components * transform_units(p, cut, b.tiles, p.kin)):
        input_unit(p, f, cut, call, &b, unit, lists)
    for unit in range(f.points):
        product_unit(p, f, cut, call, &b, unit, 1)
    for unit in range(transform_units(p, cut, b.tiles, p.kout)):
        output_unit(p, f, cut, call, &b, unit, lists)


cdef Py_ssize_t even_batch(const Problem *p, Py_ssize_t all, Py_ssize_t most) noexcept nogil:
    """Tiles of a batch, at most about so many: whole register tiles if there are more, else whole vectors."""
    cdef Py_ssize_t unit = p.kernels.mr if p.channels_last else p.kernels.nr
    if not p.channels_last and all < unit:
        unit = p.kernels.vlen
    most = max(unit, most // unit * unit)
    return even_part(all, most, unit)


cdef Py_ssize_t busiest(Py_ssize_t all, Py_ssize_t tiles, int threads) noexcept nogil:
    """Tiles of the thread with most to do, in batches of so many; the last batch has fewer."""
    cdef Py_ssize_t whole = all // tiles
    return ceil_div(whole, threads) * tiles + (all % tiles if whole % threads == 0 else 0)


cdef Cut cut_for(const Problem *p, const Phase *f, int threads) noexcept nogil:
    """Batches as large as their buffers may be, but small enough for all threads to have some."""
    cdef Py_ssize_t channels = max(f.components * p.kin, p.kout), all = max(1, f.tiles * p.batch), most
    cdef Py_ssize_t bytes = f.points * channels * p.itemsize
    cdef Cut cut
    most = max(FEWEST_TILES, min(MOST_TILES, OWN_BYTES // bytes))
    cut.together = threads > 1 and p.groups * ceil_div(all, most) < 2 * threads
    if cut.together:
        most = max(FEWEST_TILES, min(4 * MOST_TILES, SHARED_BYTES // (2 * bytes)))
    cut.tiles = even_batch(p, all, most)
    if p.channels_last and p.groups == 1 and not cut.together:
        most = round_up(ceil_div(all, round_up(ceil_div(all, cut.tiles), threads)), p.kernels.mr)
        if busiest(all, most, threads) < busiest(all, cut.tiles, threads):
            cut.tiles = most
    cut.channels = CHUNK
    if cut.together:
        cut.channels = min(p.kin, p.kout) * ceil_div(cut.tiles, p.kernels.vlen) // (UNITS * threads)
        cut.channels = max(FEW_CHANNELS, min(CHUNK, round_up(cut.channels, FEW_CHANNELS)))
    cut.batches = ceil_div(f.tiles * p.batch, cut.tiles)  # an empty batch has none
    cut.stride = cut.tiles * channels * p.itemsize + LINE
    cut.buffers = (2 * f.points if cut.together else f.points + 1) * cut.stride
    cut.own = 0
    if not p.channels_last:
        cut.own = MOST_PARTS * MOST_VALUES // POINTS * sizeof(Py_ssize_t)
        cut.own += f.points // f.axis[2].points * IN_VECTORS * p.kernels.vlen * <Py_ssize_t> sizeof(fastconv_run)
        cut.own = round_up(cut.own, CACHE_LINE)
    return cut


cdef void run_alone(const Problem *p, const Call *call, char *own) noexcept nogil:
    cdef Py_ssize_t i, index
    cdef Cut cut
    for i in range(p.phases):
        cut = cut_for(p, &p.phase[i], 1)
        for index in range(p.groups * cut.batches):
            run_batch(p, &p.phase[i], &cut, call, index, own)


cdef void run(const Problem *p, const Call *call, char *shared, int threads) noexcept nogil:
    """By a team, whose workers round as their caller does."""
    cdef fenv_t environment
    cdef const Phase *f = NULL
    cdef Py_ssize_t i = 0, index = 0, unit, parts = 1
    cdef Cut cut
    cdef Batch b
    cdef char *lists = NULL
    fegetenv(&environment)
    with parallel(num_threads=threads):
        fesetenv(&environment)
        for i in range(p.phases):
            f = &p.phase[i]
            cut = cut_for(p, f, threads)
            if not cut.together:
                for unit in prange(p.groups * cut.batches, schedule="dynamic"):
                    run_batch(p, f, &cut, call, unit, shared + threadid() * (cut.buffers + cut.own))
            lists = shared + cut.buffers + threadid() * cut.own
            parts = parts_of_product(p, f, threads)
            for index in range(p.groups * cut.batches if cut.together else 0):
                b = batch_of(p, f, &cut, index, shared)
                for unit in prange(f.components * transform_units(p, &cut, b.tiles, p.kin), schedule="dynamic"):
                    input_unit(p, f, &cut, call, &b, unit, lists)
                for unit in prange(f.points * parts, schedule="dynamic"):
                    product_unit(p, f, &cut, call, &b, unit, parts)
                for unit in prange(transform_units(p, &cut, b.tiles, p.kout), schedule="dynamic"):
                    output_unit(p, f, &cut, call, &b, unit, lists)


# ------------------------------------------------------------------------------------------------------ weights

cdef void transform_row(const Problem *p, const Phase *f, const char *weight, char *packed, Py_ssize_t group,
                        Py_ssize_t row) noexcept nogil:
    """packed[group][point][row][component][kin] of one row, or of one channel of all panels:
    [group][point][panel][component][kin][NR].
    """
    cdef Py_ssize_t row_stride = p.kernel_taps if p.backward else p.kin * p.kernel_taps, isz = p.itemsize, panel = 0
    cdef Py_ssize_t stride = p.kout * p.kernel_taps if p.backward else p.kernel_taps, nr = p.kernels.nr
    cdef const char *source = weight + group * p.kin * p.kout * p.kernel_taps * isz
    cdef char *to = packed + f.weight_offset + group * f.points * weight_stride(p, f)
    cdef Py_ssize_t channels = f.components * p.kin
    cdef fastconv_winograd_weight w
    cdef int i
    w.axes, w.depth, w.edge, w.point_stride = p.axes, f.axis[0].points, f.axis[2].points, weight_stride(p, f)
    w.stride = row_stride if p.channels_last else stride
    for i in range(3):
        w.taps[i] = f.taps[i]
    for i in range(f.components):
        w.offsets, panel = f.component[i].weight_taps, 0
        if not p.channels_last:
            p.kernels.winograd_weight(&w, source + row * row_stride * isz, to + (row * channels + i * p.kin) * isz,
                                      p.kin)
        while p.channels_last and panel < p.kout:
            p.kernels.winograd_weight(&w, source + (row * stride + panel * row_stride) * isz,
                                      to + (panel * channels + (i * p.kin + row) * nr) * isz, min(nr, p.kout - panel))
            panel += nr


# -------------------------------------------------------------------------------------------------------- plans

cdef class WinogradPlan(ConvolutionPlan):
    """A convolution by Winograd's algorithm, of phases that fastconv.choice found to fit.

    `direct` is the same convolution's plan for what is infinite or NaN.
    """

    cdef Problem problem
    cdef readonly ConvolutionPlan direct
    rereads_weight = True         # by the direct kernel

    def __init__(self, ConvolutionPlan direct not None, int dtype, bint channels_last, bint backward, Py_ssize_t batch,
                 Py_ssize_t groups, Py_ssize_t kin, Py_ssize_t kout, source_size, destination_size, sources, kernel):
        cdef Problem *p = &self.problem
        cdef int i
        self.direct, self.channels_last = direct, channels_last
        p.kernels = kernels(dtype)
        p.axes, p.channels_last, p.backward = len(kernel), channels_last, backward
        p.batch, p.groups, p.kin, p.kout, p.itemsize = batch, groups, kin, kout, p.kernels.storage_bytes
        p.source_plane = place_sizes(p.source_size, source_size)
        p.destination_plane = place_sizes(p.destination_size, destination_size)
        p.kernel_taps = np.prod(kernel)
        p.phases, p.phase = len(sources), <Phase *> self._hold(np.zeros(len(sources) * sizeof(Phase), np.uint8))
        self.zeros = <const char *> self._hold(np.zeros(groups * kin * p.itemsize if channels_last else 0, np.uint8))
        for i in range(p.phases):
            self._describe(&p.phase[i], sources[i], kernel)
        self.work = self.multiply_adds

    cdef _describe(self, Phase *f, axes, kernel):
        kin, missing = self.problem.kin, 3 - len(axes)
        place_phase(f, self.keep, axes, kernel, winograd_points(axes, kin))
        f.part = kin if missing else even_part(kin, CHAIN, 1)
        f.chain = even_part(f.part, CHAIN if missing else CHAIN_FOUR if f.axis[0].points == 4 else CHAIN_SIX, 1)
        f.weight_offset = self.packed_bytes
        self.packed_bytes += self.problem.groups * f.points * weight_stride(&self.problem, f)
        self.multiply_adds += <double> self.problem.groups * self.problem.batch * f.tiles * self._products(f)

    cdef _components_of_points(self, const Phase *f):
        """How many components each point of a tile has."""
        cdef Py_ssize_t point
        cdef int i
        has = np.zeros(f.points)
        for point in range(f.points):
            for i in range(f.components):
                has[point] += has_point(f, &f.component[i], point)
        return has

    cdef double _products(self, const Phase *f):
        """Multiply-adds of a group's channels in one tile."""
        return <double> self.problem.kin * self.problem.kout * self._components_of_points(f).sum()

    @property
    def packing(self):
        return ("tiles",) * self.problem.phases

    @property
    def points(self):
        """Of a tile along each axis, phase by phase."""
        cdef int axes = self.problem.axes
        return tuple(tuple(self.problem.phase[i].axis[a].points for a in range(3 - axes, 3))
                     for i in range(self.problem.phases))

    cdef Scratch _scratch(self, int threads) noexcept nogil:
        cdef Py_ssize_t i
        cdef Cut cut
        cdef Scratch most = [0, 0], phase
        for i in range(self.problem.phases):
            cut = cut_for(&self.problem, &self.problem.phase[i], threads)
            phase = [cut.own, cut.buffers] if cut.together else [cut.own + cut.buffers, 0]
            if scratch_bytes(phase, threads) > scratch_bytes(most, threads):
                most = phase
        return most

    def tasks(self, int threads):
        """See `ConvolutionPlan.tasks`: all batches are a step, or those of a team three each."""
        cdef const Problem *p = &self.problem
        cdef const Phase *f
        cdef Cut cut
        cdef Py_ssize_t i
        cdef double each
        steps = []
        for i in range(p.phases):
            f = &p.phase[i]
            cut = cut_for(p, f, threads)
            batches = np.tile(sizes_of_parts(f.tiles * p.batch, cut.tiles), p.groups)
            if cut.together:
                for tiles in batches:
                    steps += self._steps_of_batch(f, tiles, cut.channels, parts_of_product(p, f, threads))
            else:
                each = f.points * <double> INPUT_OUTPUT[p.channels_last] * (f.components * p.kin + p.kout)
                steps.append(batches * (each + self._products(f)))
        return steps

    cdef _steps_of_batch(self, const Phase *f, Py_ssize_t tiles, Py_ssize_t channels, Py_ssize_t parts):
        """The costs of units of work on its input, products and output."""
        cdef const Problem *p = &self.problem
        cdef double point = f.points * <double> INPUT_OUTPUT[p.channels_last]
        products = sizes_of_parts(p.kout, rows_of_part(p, parts)) * (<double> tiles * p.kin)
        lanes = np.ones(tiles) if p.channels_last else sizes_of_parts(tiles, p.kernels.vlen)
        inputs, outputs = ([n] if p.channels_last else sizes_of_parts(n, channels) for n in (p.kin, p.kout))
        return [
            np.repeat(np.outer(inputs, lanes).ravel() * point, f.components),
            np.outer(self._components_of_points(f), products).ravel(),
            np.outer(outputs, lanes).ravel() * point,
        ]

    cdef void _pack(self, const char *weight, char *packed) except *:
        cdef const Problem *p = &self.problem
        cdef const Phase *f = NULL
        cdef int i, threads = team(<double> self.packed_bytes)
        cdef Py_ssize_t unit, units = p.kin if p.channels_last else p.kout
        for i in range(p.phases):
            f = &p.phase[i]
            if threads == 1:
                for unit in range(p.groups * units):
                    transform_row(p, f, weight, packed, unit // units, unit % units)
            else:
                for unit in prange(p.groups * units, nogil=True, num_threads=threads, schedule="static"):
                    transform_row(p, f, weight, packed, unit // units, unit % units)

    cdef int _convolve(self, Call *call) except -1:
        cdef int wrong = 0
        call.wrong = &wrong
        ConvolutionPlan._convolve(self, call)
        if wrong:
            call.weight = NULL  # transformed: the direct kernel packs another
            call.epilogue.per_row, call.zeros = not self.direct.channels_last, self.direct.zeros
            self.direct._convolve(call)
        elif call.activation >= 0:
            activate(&self.problem, call, team(self.work))
        return 0

    cdef void _run(self, const Call *call, char *scratch, int threads) noexcept nogil:
        if threads == 1:
            run_alone(&self.problem, call, scratch)
        else:
            run(&self.problem, call, scratch, threads)


cdef void activate(const Problem *p, const Call *call, int threads) noexcept:
    """destination = activation(destination), plane by plane or pixel by pixel."""
    cdef Py_ssize_t channels = p.groups * p.kout, i
    cdef Py_ssize_t n = channels if p.channels_last else p.destination_plane
    cdef Py_ssize_t rows = p.batch * (p.destination_plane if p.channels_last else channels)
    cdef char *to = call.destination
    for i in prange(rows, nogil=True, num_threads=threads, schedule="static"):
        p.kernels.activate(call.activation, call.alpha, to + i * n * p.itemsize, to + i * n * p.itemsize, n)
