"""Direct convolution: a batch-reduce GEMM over the taps, for any stride, padding, dilation, groups and dimension.

    y[n][row][p] = epilogue( sum over channels c, taps t of  w[row][c][t] * x[n][c][source(p, t)] )

One macro-kernel for forward (destination y, source x) and for backward_input and transposed convolution (destination
grad_x, source grad_y, a phase per stride residue: see fastconv.sources). A register tile is MR rows by NR columns of
sums; direct_planes.pyx (channels_first) and direct_pixels.pyx (channels_last) say what they are. Here work is shared
out and planned.

Taps x channels are cut into blocks (KC channels) so that a panel keeps to half of L2; the destination holds the partial
sums between blocks. That cut depends on the geometry alone, and it alone decides the order of the additions; how rows
and pixels are shared out does not, so direct_cut.pyx may follow the number of threads without a bit changing.
"""

import numpy as np

from cython.parallel cimport parallel, prange, threadid
from libc.string cimport memcpy
cimport numpy as cnp

from fastconv.choice import turned, zoned
from fastconv.sources import AxisSources, parts_of, places_of, shared_padding

from fastconv.kernels.core cimport (
    CACHE_LINE,
    ceil_div,
    even_part,
    fastconv_tasks,
    fegetenv,
    fenv_t,
    fesetenv,
    kernels,
    round_up,
    share_tasks,
    streams,
    take_task,
    team,
)
from fastconv.kernels.direct_blocks cimport PIECE, TAPS_AT_ONCE
from fastconv.kernels.direct_cut cimport cut_for
from fastconv.kernels.direct_few cimport copies_lines, has_few_channels, lines_block
from fastconv.kernels.direct_planes cimport (
    block_bytes,
    pack_shared,
    planes_task,
    planes_tasks,
)
from fastconv.kernels.direct_pixels cimport first_pixel, pixels_rows, pixels_task, rows_bytes
from fastconv.kernels.direct_problem cimport Cut, Lines, Part, PartSegment, Phase, Problem, Segment
from fastconv.kernels.direct_weights cimport pack_unit, packs_phases, weight_units
from fastconv.kernels.plan cimport Call, ConvolutionPlan, RowMaker, Scratch, place_sizes, scratch_bytes

from fastconv.kernels.plan import sizes_of_parts

cnp.import_array()

ALONE = AxisSources(0, 1, 1, (0,), np.zeros(1, np.intp), 0, 1, 1)  # an axis that the convolution does not have

cdef enum:
    PANEL_BYTES = 256 * 1024   # one packed panel [taps][KC][NR]: a quarter of a 1 MB L2
    BLOCK_BYTES = 512 * 1024   # the panels of one block of pixels packed as columns
    LINES_BYTES = 320 * 1024   # the same packed as lines
    FEW_BYTES = 64 * 1024      # and what of them L1 keeps, by and large
    LINE_COLUMNS = 512         # of a block of lines: then the lines that two blocks pack are few
    SCRATCH_BYTES = 64 * 1024  # finished rows of a block before they are copied out, while they are in L1 or L2
    BLOCK_TILES = 4            # register tiles of a block packed as columns
    BLOCK_PIXELS = 240         # pixels a block, channels_last: 40 register tiles
    TASK_WORK = 500 * 1000     # multiply-adds that are worth a task of their own, where
    MANY_TASKS = 64            # there are so many
    STREAM_BYTES = 32 * 1024 * 1024  # of a destination that no cache holds
    COPIED = 15                # steps of k that copying an output from scratch is worth

cdef double[4] PACKED = [0, 7, 10, 40]  # cycles to pack a vector, by stride
cdef double[2] SPLIT = [1.05, 1.2]  # what vectors across cache lines cost, over whole ones: from about L1, from L2


cdef class DirectPlan(ConvolutionPlan):
    """A convolution by the direct kernel."""

    cdef Problem problem
    cdef readonly bint backward
    cdef readonly bint covered  # whether every destination pixel belongs to a phase
    cdef readonly bint zoned    # whether phases are zones of a larger one, see fastconv.choice.zoned
    rereads_weight = False

    def __init__(self, int dtype, bint channels_last, bint backward, Py_ssize_t batch, Py_ssize_t groups,
                 Py_ssize_t kin, Py_ssize_t kout, source_size, destination_size, sources, kernel):
        cdef Problem *p = &self.problem
        cdef Phase *f
        cdef int i
        p.kernels = kernels(dtype)
        p.turned = channels_last and turned(sources, groups, kout, p.kernels.vlen)
        channels_last = channels_last and not p.turned
        self.channels_last, self.backward, self.adds_in_place = channels_last, backward, True
        p.batch, p.groups, p.kin, p.kout, p.itemsize = batch, groups, kin, kout, p.kernels.storage_bytes
        p.source_plane = place_sizes(p.source_size, source_size)
        p.destination_plane = place_sizes(p.destination_size, destination_size)
        p.kernel_taps = np.prod(kernel)
        p.streams = streams() and <double> batch * groups * kout * p.destination_plane * p.itemsize > STREAM_BYTES
        zones = sources if channels_last or p.turned else zoned(sources, batch, kin, p.kernels.vlen)
        self.zoned, sources = zones is not sources, zones
        p.phases, p.phase = len(sources), <Phase *> self._hold(np.zeros(len(sources) * sizeof(Phase), np.uint8))
        self.zeros = <const char *> self._hold(np.zeros(groups * kin * p.itemsize if channels_last else 0, np.uint8))
        covered = 0
        for i in range(p.phases):
            f = &p.phase[i]
            self._describe(f, sources[i], kernel)
            f.pointwise = f.pixels == p.source_plane == p.destination_plane and all(a.is_identity for a in sources[i])
            self._block(f, sources[i])
            self.multiply_adds += <double> batch * groups * kout * kin * f.pixels * f.all_taps
            covered += f.pixels
        self._cut()
        self.work, self.covered = self.multiply_adds, covered == p.destination_plane
        self.stretches = channels_last and p.phases == 1 and self.covered
        if not self.covered:
            self.work += <double> batch * groups * kout * p.destination_plane

    @property
    def packing(self):
        """How each phase's source is packed: as "lines" or "columns", or for channels_last "turned" to lines or read
        in place, as "pixels"."""
        cdef const Phase *f = self.problem.phase
        if self.problem.turned:
            return ("turned",) * self.problem.phases
        names = ("pixels", "pixels") if self.channels_last else ("columns", "lines")
        return tuple(names[f[i].as_lines] for i in range(self.problem.phases))

    cdef _describe(self, Phase *f, axes, kernel):
        """Copy an AxisSources a spatial axis into the phase, the missing leading axes as ones."""
        cdef int i, missing = 3 - len(axes)
        f.all_taps, f.pixels = 1, 1
        taps = np.zeros(1, np.intp)
        for i in range(3):
            axis = axes[i - missing] if i >= missing else ALONE
            if i >= missing:
                taps = (taps[:, None] * kernel[i - missing] + np.array(axis.taps, np.intp)).ravel()
            f.offset[i], f.step[i], f.count[i], f.taps[i] = axis.start, axis.step, axis.count, len(axis.taps)
            f.table[i] = (<const Py_ssize_t *> self._hold(axis.table)) + <Py_ssize_t> axis.first
            f.tap_step[i], f.stride[i] = axis.tap_step, axis.stride
            f.all_taps *= f.taps[i]
            f.pixels *= f.count[i]
        f.weight_taps = <const Py_ssize_t *> self._hold(taps)
        segments, first = axis.segments()
        f.segments = <const Segment *> self._hold(segments)
        f.first_segment = <const Py_ssize_t *> self._hold(first)

    cdef _block(self, Phase *f, axes):
        """Blocks of channels and of pixels; a function of the geometry and the register tile alone."""
        f.weight_offset = self.packed_bytes
        if self.channels_last:
            self._block_pixels(f, axes)
        elif self.zoned:
            f.apart = True
            self._block_columns(f)
        else:
            self._block_columns(f)
            self._block_lines(f, axes)
        self.packed_bytes = round_up(self.packed_bytes, CACHE_LINE)

    cdef _block_pixels(self, Phase *f, axes):
        cdef Problem *p = &self.problem
        cdef Py_ssize_t nr = p.kernels.nr, rows = f.pixels * p.batch
        f.kc = p.kin
        if not has_few_channels(p, f):
            f.kc = even_part(p.kin, max(1, PANEL_BYTES // (f.all_taps * nr * p.itemsize)), 1)
        f.block = even_part(max(1, rows), BLOCK_PIXELS, p.kernels.mr)
        if rows > 0 and copies_lines(p, f):
            f.block = lines_block(p, f, rows)
        f.blocks, f.slices = ceil_div(rows, f.block), p.groups
        self.packed_bytes += p.groups * round_up(p.kout, nr) * f.all_taps * p.kin * p.itemsize

    cdef _block_columns(self, Phase *f):
        cdef Problem *p = &self.problem
        cdef Py_ssize_t taps = f.all_taps, nr = p.kernels.nr, columns, tiles
        f.kc = even_part(p.kin, max(1, PANEL_BYTES // (taps * nr * p.itemsize)), 1)
        f.as_lines, f.chunk = False, 1
        f.scratch = f.pixels != p.destination_plane or (p.batch > 1 and wastes_columns(p, f))
        columns = f.pixels * p.batch if f.scratch else f.pixels
        tiles = max(1, min(<Py_ssize_t> BLOCK_TILES, BLOCK_BYTES // (taps * f.kc * nr * p.itemsize)))
        f.block = min(tiles, ceil_div(max(1, columns), nr)) * nr
        f.blocks, f.slices = ceil_div(columns, f.block), p.groups * (1 if f.scratch else p.batch)
        f.plane, f.scratch_columns = nr * (1 if f.apart else taps), f.block
        f.most_runs = min(taps, <Py_ssize_t> TAPS_AT_ONCE) * nr
        f.panels, f.panel_bytes = f.block // nr, (taps * f.kc * nr + p.kernels.vlen) * p.itemsize
        self._block_rows(f, np.arange(1 if f.apart else taps) * nr)
        if f.apart:
            f.weight_offset, self.packed_bytes = 0, p.groups * p.kout * p.kernel_taps * p.kin * p.itemsize
        else:
            self.packed_bytes += p.groups * p.kout * taps * p.kin * p.itemsize

    cdef _block_rows(self, Phase *f, offsets):
        """Destination channels of tiles and of scratch; and where the taps of a channel are in a panel."""
        cdef Problem *p = &self.problem
        f.tile_rows, f.rows = even_part(p.kout, p.kernels.mr, 1), p.kout
        if f.scratch and f.kc == p.kin:  # else the panels would have to be packed again for the next rows
            f.rows = min(p.kout, max(1, SCRATCH_BYTES // (f.scratch_columns * p.itemsize * f.tile_rows)) * f.tile_rows)
        offsets = (np.arange(f.kc)[:, None] * f.plane + offsets).ravel() * p.itemsize
        f.b_offsets = <const Py_ssize_t *> self._hold(offsets.astype(np.intp))

    cdef _block_lines(self, Phase *f, axes):
        """Pack lines instead where that costs less."""
        cdef Problem *p = &self.problem
        cdef Phase lines = f[0]
        if (f.all_taps == 1 and not p.turned) or f.pixels == 0 or p.batch == 0:
            return
        h, w = ALONE if len(axes) == 1 else axes[len(axes) - 2], axes[len(axes) - 1]
        h_parts, h_shift = self._parts(h, &lines.lines.h_part)
        w_parts, w_shift = self._parts(w, &lines.lines.w_part)
        lines.lines.h_parts, lines.lines.w_parts = len(h_parts), len(w_parts)
        lines.lines.h_low = min(0, (f.taps[1] - 1) * f.tap_step[1])
        lines.lines.more = max(more for _, more in h_parts)
        segments = [w.part_segments(part) for part in w_parts]
        rows = [(i, *row) for i, part in enumerate(segments) for row in part]
        lines.lines.segments, lines.lines.segment = len(rows), <const PartSegment *> self._hold(np.array(rows, np.intp))
        cut_lines(p, &lines, max(more for _, more in w_parts), shared_padding(segments, w_parts))
        if not p.turned and not lines_pay(p, f, &lines):
            return
        places = np.zeros(1, np.intp)
        for taps in (np.arange(f.taps[0]) * (len(h_parts) * len(w_parts) * lines.lines.part),
                     places_of(h_shift, f.stride[1], h_parts, len(w_parts) * lines.lines.part, lines.lines.pitch),
                     places_of(w_shift, f.stride[2], w_parts, lines.lines.part, 1)):
            places = (places[:, None] + taps).ravel()
        self._block_rows(&lines, places)
        f[0] = lines

    cdef _parts(self, axis, const Part **part):
        """The parts that an axis is packed as, and the shift of every tap against the lowest."""
        shift = np.arange(len(axis.taps)) * axis.tap_step
        shift -= shift.min()
        parts = parts_of(shift.tolist(), axis.stride, 1)[0]
        part[0] = <const Part *> self._hold(np.array(parts, np.intp))
        return parts, shift

    cdef Scratch _scratch(self, int threads) noexcept nogil:
        cdef Py_ssize_t i
        cdef Cut cut
        cdef Scratch most = [0, 0], phase
        for i in range(self.problem.phases):
            cut = cut_for(&self.problem, &self.problem.phase[i], self.channels_last, threads)
            phase = [cut.workspace, cut.shared]
            if scratch_bytes(phase, threads) > scratch_bytes(most, threads):
                most = phase
        return most

    cdef RowMaker _rows(self):
        cdef const Problem *p = &self.problem
        alone = self.channels_last and self.covered and p.batch * p.groups * p.phases == 1
        if not alone or p.phase.count[0] > 1:
            return RowMaker(NULL, NULL, 0, NULL)
        return RowMaker(pixels_rows, p, rows_bytes(p, p.phase), self.zeros)

    def tasks(self, int threads):
        """See `ConvolutionPlan.tasks`; a team that shares panels packs a stretch of blocks, then sums over it."""
        cdef const Problem *p = &self.problem
        cdef const Phase *f
        cdef Cut cut
        cdef Py_ssize_t i, first
        steps = []
        for i in range(p.phases):
            cut = cut_for(p, &p.phase[i], self.channels_last, threads)
            f = &cut.phase
            rows = sizes_of_parts(p.kout, cut.part)
            blocks = self._block_outputs(f) * <double> (f.all_taps * p.kin)
            for first in range(0, len(blocks), max(1, cut.stretch or len(blocks))):
                stretch = blocks[first:first + (cut.stretch or len(blocks))]
                if cut.stretch:
                    steps.append(np.tile(self._packing_costs(&cut), len(stretch)))
                steps.append(np.outer(stretch, rows).ravel())
        return steps

    cdef _block_outputs(self, const Phase *f):
        """Outputs, of one destination channel, of every block or chunk of blocks, in the order of tasks."""
        cdef const Problem *p = &self.problem
        if f.as_lines:
            places = np.outer(sizes_of_parts(f.count[1], f.lines.high), sizes_of_parts(f.count[2], f.lines.wide))
            return np.outer(np.tile(places.ravel(), f.count[0]), sizes_of_parts(f.slices, f.chunk)).ravel()
        if self.channels_last:
            sizes = np.diff([first_pixel(p, f, i) for i in range(f.blocks + 1)] if f.blocks > 0 else [0])
        else:
            sizes = sizes_of_parts(f.pixels * p.batch * p.groups // max(1, f.slices), f.block)
        return np.tile(sizes, f.slices)

    cdef _packing_costs(self, const Cut *cut):
        """Of the pieces of one block's panels, in multiply-adds: a cycle does two vectors of them."""
        cdef const Problem *p = &self.problem
        cdef const Phase *f = &cut.phase
        cdef double panel = <double> f.plane / (f.panels if f.as_lines else cut.pieces)
        each = np.repeat(sizes_of_parts(p.kin, f.kc), f.panels * cut.pieces)
        return each * (panel * 2 * PACKED[min(f.stride[2], 3)])

    cdef _cut(self):
        """Cut all phases for the team that would run them now."""
        cdef Problem *p = &self.problem
        cdef int i, threads = team(self.multiply_adds)
        cdef Cut *cut = <Cut *> self._hold(np.zeros(p.phases * sizeof(Cut), np.uint8))
        for i in range(p.phases):
            cut[i] = cut_for(p, &p.phase[i], self.channels_last, threads)
        p.cut, p.cut_threads = cut, threads

    cdef void _pack(self, const char *weight, char *packed) except *:
        cdef const Problem *p = &self.problem
        cdef const Phase *f = NULL
        cdef int i, threads = team(<double> self.packed_bytes / 4)
        cdef Py_ssize_t unit, units
        cdef bint channels_last = self.channels_last, backward = self.backward
        for i in range(1 if self.zoned or packs_phases(p, channels_last, backward) else p.phases):
            f = &p.phase[i]
            units = weight_units(p, f, channels_last)
            if threads == 1:
                for unit in range(p.groups * units):
                    pack_unit(p, f, weight, packed, channels_last, unit // units, unit % units, backward)
            else:
                for unit in prange(p.groups * units, nogil=True, num_threads=threads, schedule="static"):
                    pack_unit(p, f, weight, packed, channels_last, unit // units, unit % units, backward)

    cdef int _convolve(self, Call *call) except -1:
        if not self.covered:
            background = self._background(call)
            call.background = <const char *> cnp.PyArray_DATA(background)
        return ConvolutionPlan._convolve(self, call)

    cdef _background(self, const Call *call):
        """A pixel of the destination that no tap meets."""
        cdef const Problem *p = &self.problem
        cdef cnp.npy_intp channels = p.groups * p.kout
        cdef int dtype = cnp.NPY_FLOAT64 if p.itemsize == 8 else cnp.NPY_FLOAT32
        cdef cnp.ndarray value = cnp.PyArray_ZEROS(1, &channels, dtype, 0)
        cdef char *to = <char *> cnp.PyArray_DATA(value)
        if call.epilogue.shift != NULL:
            value += cnp.PyArray_SimpleNewFromData(1, &channels, dtype, <void *> call.epilogue.shift)
        np.clip(value, call.epilogue.lower, call.epilogue.upper, out=value)
        if call.activation >= 0:
            p.kernels.activate(call.activation, call.alpha, to, to, channels)
        return value

    cdef void _run(self, const Call *call, char *scratch, int threads) noexcept nogil:
        if threads == 1:
            run_alone(&self.problem, call, self.channels_last, scratch)
        elif self.channels_last and self.problem.phases == 1 and call.background == NULL:
            run_pixels(&self.problem, call, scratch, threads)
        else:
            run(&self.problem, call, self.channels_last, scratch, threads)


cdef cut_lines(const Problem *p, Phase *f, Py_ssize_t more, Py_ssize_t shared):
    """Outputs, lines and channels of a block: whole lines and all channels, if LINES_BYTES hold enough of them."""
    cdef Lines *s = &f.lines
    cdef Py_ssize_t parts = f.taps[0] * s.h_parts * s.w_parts, vlen = p.kernels.vlen, limit, joined
    cdef double work
    s.wide = even_part(f.count[2], max(LINE_COLUMNS, 4 * more), vlen) if f.count[2] > LINE_COLUMNS else f.count[2]
    s.wide_blocks = ceil_div(f.count[2], s.wide)
    s.pitch = max(1, s.wide + more - (shared if s.wide_blocks == 1 else 0))  # a line may be all padding
    s.high = min(f.count[1], ceil_div(p.kernels.nr * BLOCK_TILES, s.pitch))
    limit = LINES_BYTES // p.itemsize
    f.kc = even_part(p.kin, max(1, limit // (parts * (s.high + s.more) * s.pitch)), 1)
    limit = min(limit // (f.kc * parts * s.pitch) - s.more, LINE_COLUMNS // s.pitch)
    s.high = even_part(f.count[1], max(s.high, limit), 1)
    s.high_blocks = ceil_div(f.count[1], s.high)
    s.part = (s.high + s.more - 1) * s.pitch + s.wide + more
    f.as_lines, f.plane = True, parts * s.part
    joined = (s.high - 1) * s.pitch + s.wide
    f.runs_on = f.step[2] != 1 or (s.high * tile_vectors(p, s.wide)
                                   > (1 + <double> COPIED / (f.all_taps * p.kin)) * tile_vectors(p, joined))
    f.scratch = f.runs_on
    if f.step[1] == f.step[2] == 1 and s.pitch == s.wide == p.destination_size[2]:  # they run on in the destination
        f.runs_on, f.scratch = True, False
    if p.turned:
        f.runs_on, f.scratch = True, True
    f.scratch_columns = round_up(joined, vlen)
    f.blocks, f.slices = f.count[0] * s.high_blocks * s.wide_blocks, p.groups * p.batch
    f.panels = ceil_div(f.kc, PIECE)
    f.panel_bytes = round_up(ceil_div((f.kc * f.plane + p.kernels.nr + vlen) * p.itemsize, f.panels), CACHE_LINE)
    f.most_runs = f.taps[0] * s.h_parts * (s.high + s.more) * s.segments
    work = <double> p.kin * p.kout * f.all_taps * f.scratch_columns
    if p.groups > 1 and work < TASK_WORK:
        f.chunk = max(1, min(f.slices, <Py_ssize_t> (TASK_WORK / work), f.blocks * f.slices // MANY_TASKS))


cdef bint lines_pay(const Problem *p, const Phase *columns, const Phase *lines) noexcept nogil:
    """Whether products, with the junk among them, and packing cost less for lines, in cycles a tap of a channel."""
    cdef double tile = 0.5 * p.kout, vectors = <double> columns.pixels / p.kernels.vlen, packed
    cdef double each = PACKED[min(columns.stride[2], <Py_ssize_t> 3)]
    cdef const Lines *s = &lines.lines
    if not columns.scratch:
        vectors = tile_vectors(p, columns.pixels)
    packed = vectors * (tile + each)
    if lines.runs_on:
        vectors = lines.blocks * tile_vectors(p, (s.high - 1) * s.pitch + s.wide)
    else:
        vectors = lines.blocks * s.high * tile_vectors(p, s.wide)
    each *= lines.blocks * <double> lines.plane / p.kernels.vlen / lines.all_taps
    return vectors * tile * SPLIT[lines.kc * lines.plane * p.itemsize > FEW_BYTES] + each < packed


cdef double tile_vectors(const Problem *p, Py_ssize_t columns) noexcept nogil:
    """What the tiles of so many columns cost, in vectors of a full one: the last, with fewer vectors, is dearer."""
    cdef Py_ssize_t rest = columns % p.kernels.nr
    cdef double last = min(p.kernels.nr // p.kernels.vlen, ceil_div(rest, p.kernels.vlen) + 0.6) if rest else 0
    return columns // p.kernels.nr * (p.kernels.nr // p.kernels.vlen) + last


cdef bint wastes_columns(const Problem *p, const Phase *f) noexcept nogil:
    """Whether an image's last register tile costs more than it does to let columns run across images and copy out
    those of tiles of two."""
    cdef double pieces = min(1., 2. * p.kernels.nr / max(1, f.pixels))  # a tile of two images is copied in two
    return tile_vectors(p, f.pixels) * p.kernels.vlen > (1 + pieces * COPIED / (f.all_taps * p.kin)) * f.pixels


cdef void run_alone(const Problem *p, const Call *call, bint channels_last, char *own) noexcept nogil:
    """All phases by the calling thread, without the price of a team."""
    cdef const Phase *f
    cdef Py_ssize_t i, unit
    cdef bint pixels = channels_last or p.turned
    cdef Cut cut
    if call.background != NULL:
        for unit in range(p.batch * (p.destination_plane if pixels else p.groups * p.kout)):
            fill(p, call, pixels, unit)
    for i in range(p.phases):
        cut = cut_for(p, &p.phase[i], channels_last, 1)
        f = &cut.phase
        for unit in range(f.slices * f.blocks if channels_last else planes_tasks(f)):
            if channels_last:
                pixels_task(p, f, cut, call, unit, 0, own)
            else:
                planes_task(p, f, cut, call, unit, 0, NULL, own)


cdef void run_pixels(const Problem *p, const Call *call, char *shared, int threads) noexcept nogil:
    """The only phase of channels_last by a team, whose workers round as their caller does."""
    cdef fenv_t environment
    cdef Cut cut = cut_for(p, &p.phase[0], True, threads)
    cdef fastconv_tasks tasks
    share_tasks(&tasks, cut.phase.slices * cut.phase.blocks * cut.parts, threads)
    fegetenv(&environment)
    with parallel(num_threads=threads):
        fesetenv(&environment)
        take_pixels(p, cut, call, &tasks, shared + threadid() * cut.workspace)


cdef void take_pixels(const Problem *p, Cut cut, const Call *call, fastconv_tasks *tasks, char *own) noexcept nogil:
    cdef Py_ssize_t unit = take_task(tasks)
    while unit >= 0:
        pixels_task(p, &cut.phase, cut, call, unit // cut.parts, unit % cut.parts, own)
        unit = take_task(tasks)


cdef void run(const Problem *p, const Call *call, bint channels_last, char *shared, int threads) noexcept nogil:
    """All phases by a team, whose workers round as their caller does."""
    cdef fenv_t environment
    cdef const Phase *f = NULL
    cdef char *own = NULL
    cdef Py_ssize_t i = 0, s = 0, first = 0, count = 0, panels = 0, unit
    cdef bint pixels = channels_last or p.turned
    cdef Cut cut
    fegetenv(&environment)
    with parallel(num_threads=threads):
        fesetenv(&environment)
        if call.background != NULL:
            for unit in prange(p.batch * (p.destination_plane if pixels else p.groups * p.kout)):
                fill(p, call, pixels, unit)
        for i in range(p.phases):
            cut = cut_for(p, &p.phase[i], channels_last, threads)
            f = &cut.phase
            own = shared + cut.shared + threadid() * cut.workspace
            if channels_last:
                for unit in prange(f.slices * f.blocks * cut.parts, schedule="dynamic"):
                    pixels_task(p, f, cut, call, unit // cut.parts, unit % cut.parts, own)
            elif cut.stretch == 0:
                for unit in prange(planes_tasks(f), schedule="dynamic"):
                    planes_task(p, f, cut, call, unit, 0, NULL, own)
            else:
                panels = f.panels * ceil_div(p.kin, f.kc) * cut.pieces
                for s in range(ceil_div(f.slices * f.blocks, cut.stretch)):
                    first = s * cut.stretch
                    count = min(cut.stretch, f.slices * f.blocks - first)
                    for unit in prange(count * panels, schedule="dynamic"):
                        pack_shared(p, f, cut.pieces, call, first, unit, shared, own)
                    for unit in prange(count * cut.parts, schedule="dynamic"):
                        planes_task(p, f, cut, call, first + unit // cut.parts, unit % cut.parts,
                                    shared + unit // cut.parts * block_bytes(p, f), own)


cdef void fill(const Problem *p, const Call *call, bint channels_last, Py_ssize_t unit) noexcept nogil:
    """The background of one pixel (channels_last) or of one plane."""
    cdef Py_ssize_t channels = p.groups * p.kout, isz = p.itemsize, i
    cdef char *to = call.destination + unit * (channels if channels_last else p.destination_plane) * isz
    cdef const char *value = call.background + unit % channels * isz
    if channels_last:
        memcpy(to, call.background, channels * isz)
    elif isz == 4:
        for i in range(p.destination_plane):
            (<float *> to)[i] = (<const float *> value)[0]
    else:
        for i in range(p.destination_plane):
            (<double *> to)[i] = (<const double *> value)[0]
