"""The weight gradient of a convolution, and its bias gradient in the same pass.

    grad_weight[co][ci][t] = sum over images n, outputs p of  grad_y[n][co][p] * x[n][ci][source(p, t)]

A product of matrices whose long side, the pixels, is summed. A task sums a block of output channels x input channels x
taps of one group over one part of the pixels, block by block (weight_blocks.py decides all sizes): it packs

    grad_y  as [tile of MR channels][pixel][MR]     once a block,
    x       as [panel of NR channels][position][NR] once a block, for all taps: each tap is a list of pairs (pixel,
            position) that leaves out what lies in padding, so every stride, dilation, padding mode and dimension is
            the same loop,

and runs the register tile over them. With so few input channels that vectors would be mostly empty, either a bundle of
groups is treated as one dense group, of which only the diagonal blocks are kept, or x is packed as [position][channel],
each pixel's patch [tap][channel] is copied into panels [pixel][NR], and vectors run along the patch.

Sums [co][tap][ci] stay in L2. With one part they go straight to the weight's own order [co][ci][tap]; several parts,
numbered by the geometry, are added in that order first, so that bits do not depend on the number of threads.
Both layouts are read in place through strides; what differs is only which packing is a copy and which a transpose.
"""

from math import prod

import numpy as np

from cython.parallel cimport parallel, prange, threadid
from libc.string cimport memset
cimport numpy as cnp

from fastconv.kernels.arrays cimport contiguous
from fastconv.kernels.core cimport (
    CACHE_LINE,
    acquire,
    ceil_div,
    fastconv_kernels,
    fastconv_pair,
    fastconv_pairs_tile,
    fastconv_piece,
    fegetenv,
    fenv_t,
    fesetenv,
    kernels,
    release,
    round_up,
    team,
)

from fastconv.kernels.weight_blocks import Tile, as_table, patch_pieces, weight_blocks

cnp.import_array()


cdef struct Axis:              # weight_blocks.AxisBlocks
    Py_ssize_t out, kernel, length, count, positions, step
    const Py_ssize_t *shift
    const Py_ssize_t *first
    const Py_ssize_t *stop
    const Py_ssize_t *sources
    const Py_ssize_t *runs
    const Py_ssize_t *first_run

cdef struct Layout:            # strides of an activation in elements; sizes of its depth, height and width
    Py_ssize_t image, channel, pixel
    Py_ssize_t size[3]

cdef struct Problem:
    const fastconv_kernels *kernels
    Axis axis[3]
    Layout x, y
    Py_ssize_t batch, groups, co, ci, taps, itemsize    # bundles of groups, and channels a bundle
    Py_ssize_t group_co, group_ci
    bint patches
    Py_ssize_t co_task, ci_task, taps_task, tasks      # a task's size, and how many make the gradient
    Py_ssize_t images, blocks, part_blocks, parts      # images a block; blocks in all
    Py_ssize_t pixels, positions, columns              # the most of a block; a row of sums
    Py_ssize_t sum_bytes, pair_bytes, y_bytes, x_bytes, patch_bytes
    Py_ssize_t panel                                   # bytes from one panel of NR columns of a block to the next
    const fastconv_piece *pieces                       # of patches, first_piece[i] .. first_piece[i + 1] - 1 for the
    const Py_ssize_t *first_piece                      # i-th part of the taps

cdef struct Call:
    const char *y
    const char *x
    char *weight               # NULL where not wanted
    char *bias

cdef struct Block:
    Py_ssize_t n, images, pixels
    Py_ssize_t index[3]
    Py_ssize_t start[3]        # first output along each axis, and how many
    Py_ssize_t outs[3]

cdef struct Task:
    Py_ssize_t group, co, rows, ci, channels, tap, taps    # first of each, and how many
    Py_ssize_t first_tap[2]    # the taps of depth and height that occur: first_tap .. stop_tap - 1
    Py_ssize_t stop_tap[2]
    bint bias

cdef struct Workspace:         # of one thread
    char *sums
    fastconv_pair *pairs
    char *y
    char *x
    char *patches


cdef Block block_at(const Problem *p, Py_ssize_t number) noexcept nogil:
    cdef Block b
    cdef int i
    b.pixels = 1
    for i in range(2, -1, -1):
        b.index[i], number = number % p.axis[i].count, number // p.axis[i].count
        b.start[i] = b.index[i] * p.axis[i].length
        b.outs[i] = min(p.axis[i].length, p.axis[i].out - b.start[i])
        b.pixels *= b.outs[i]
    b.n = number * p.images
    b.images = min(p.images, p.batch - b.n)
    b.pixels *= b.images
    return b


cdef Task task_at(const Problem *p, Py_ssize_t number) noexcept nogil:
    cdef Task t
    cdef Py_ssize_t kh = p.axis[1].kernel, kw = p.axis[2].kernel, last
    cdef Py_ssize_t co_tasks = ceil_div(p.co, p.co_task), ci_tasks = ceil_div(p.ci, p.ci_task)
    t.tap, number = number % ceil_div(p.taps, p.taps_task) * p.taps_task, number // ceil_div(p.taps, p.taps_task)
    t.ci, number = number % ci_tasks * p.ci_task, number // ci_tasks
    t.co, t.group = number % co_tasks * p.co_task, number // co_tasks
    t.rows, t.channels = min(p.co_task, p.co - t.co), min(p.ci_task, p.ci - t.ci)
    t.taps = min(p.taps_task, p.taps - t.tap)
    t.bias = t.ci == 0 and t.tap == 0
    last = t.tap + t.taps - 1
    t.first_tap[0], t.stop_tap[0] = t.tap // (kh * kw), last // (kh * kw) + 1
    t.first_tap[1], t.stop_tap[1] = 0, kh
    if t.stop_tap[0] - t.first_tap[0] == 1:
        t.first_tap[1], t.stop_tap[1] = t.tap // kw % kh, last // kw % kh + 1
    return t


cdef Workspace workspace_at(const Problem *p, char *start) noexcept nogil:
    cdef Py_ssize_t row = round_up(p.columns * p.itemsize, CACHE_LINE)
    cdef Workspace w
    w.sums = start
    w.pairs = <fastconv_pair *> (w.sums + (p.sum_bytes if p.parts == 1 else row))
    w.y = <char *> w.pairs + p.pair_bytes
    w.x = w.y + p.y_bytes
    w.patches = w.x + p.x_bytes
    return w


cdef inline Py_ssize_t tile_rows(const Problem *p, const Task *t) noexcept nogil:
    """Rows a register tile: as even as can be, since a tile of few rows waits for its own additions."""
    return ceil_div(t.rows, ceil_div(t.rows, p.kernels.pairs_mr))


# ------------------------------------------------------------------------------------------------------------- packing

cdef void pack_pixels(const Problem *p, const char *source, const Layout *a, Py_ssize_t pixels, Py_ssize_t channels,
                      Py_ssize_t width, Py_ssize_t ld, char *to, Py_ssize_t tile) noexcept nogil:
    """Tiles of `width` channels, `tile` bytes apart, to[tile][pixel][ld].

    All tiles take a few pixels before any takes the next: lines hold channels of several tiles in channels_last.
    """
    cdef Py_ssize_t at = 0, some, j, stretch = pixels if a.pixel == 1 else 32
    while at < pixels:
        some = min(stretch, pixels - at)
        for j in range(ceil_div(channels, width)):
            p.kernels.copy_matrix(to + j * tile + at * ld * p.itemsize, ld,
                                  source + (at * a.pixel + j * width * a.channel) * p.itemsize, a.pixel, a.channel,
                                  some, min(width, channels - j * width))
        at += some


cdef void pack_y(const Problem *p, const Task *t, const Block *b, const char *y, char *to) noexcept nogil:
    """to[tile of rows][pixel][MR] for the task's output channels."""
    cdef Py_ssize_t ld = p.kernels.pairs_mr, n, d, h, lines = b.outs[1], length = b.outs[2], line
    if length == p.y.size[2]:                          # whole lines stand side by side
        length, lines = length * lines, 1
    for n in range(b.images):
        for d in range(b.outs[0]):
            for h in range(lines):
                line = ((b.start[0] + d) * p.y.size[1] + b.start[1] + h) * p.y.size[2] + b.start[2]
                line = line * p.y.pixel + (b.n + n) * p.y.image + (t.group * p.co + t.co) * p.y.channel
                pack_pixels(p, y + line * p.itemsize, &p.y, length, t.rows, tile_rows(p, t), ld, to,
                            p.pixels * ld * p.itemsize)
                to += length * ld * p.itemsize


cdef bint line_is_read(const Axis *a, const Block *b, const Task *t, int axis, Py_ssize_t position) noexcept nogil:
    """Whether one of the task's taps reads this depth or height."""
    cdef Py_ssize_t tap, output
    if a.sources[b.index[axis] * a.positions + position] < 0:
        return False
    if t.stop_tap[axis] - t.first_tap[axis] == a.kernel:
        return True
    for tap in range(t.first_tap[axis], t.stop_tap[axis]):
        output = position - a.shift[tap]
        if output % a.step == 0 and 0 <= output < b.outs[axis] * a.step:
            return True
    return False


cdef void pack_x(const Problem *p, const Task *t, const Block *b, const char *x, char *to) noexcept nogil:
    """to[panel][position][NR], or to[position][channel] for patches, of every position of the block that is read.

    Stretches that continue each other both in x and in `to` are packed as one.
    """
    cdef Py_ssize_t width = p.ci if p.patches else p.kernels.pairs_nr, n, d, h, i, line, source
    cdef Py_ssize_t position = 0, start = 0, length = 0, isz = p.itemsize
    cdef const Axis *last = &p.axis[2]
    cdef const Py_ssize_t *run
    cdef const char *image = NULL
    for n in range(b.images):
        image = x + ((b.n + n) * p.x.image + (t.group * p.ci + t.ci) * p.x.channel) * isz
        for d in range(p.axis[0].positions):
            if not line_is_read(&p.axis[0], b, t, 0, d):
                continue
            for h in range(p.axis[1].positions):
                if not line_is_read(&p.axis[1], b, t, 1, h):
                    continue
                line = ((n * p.axis[0].positions + d) * p.axis[1].positions + h) * last.positions
                source = p.axis[0].sources[b.index[0] * p.axis[0].positions + d] * p.x.size[1]
                source = (source + p.axis[1].sources[b.index[1] * p.axis[1].positions + h]) * p.x.size[2]
                for i in range(last.first_run[b.index[2]], last.first_run[b.index[2] + 1]):
                    run = last.runs + 3 * i
                    if line + run[0] != position + length or source + run[1] != start + length:
                        pack_pixels(p, image + start * p.x.pixel * isz, &p.x, length, t.channels, width, width,
                                    to + position * width * isz, p.panel)
                        position, start, length = line + run[0], source + run[1], 0
                    length += run[2]
        pack_pixels(p, image + start * p.x.pixel * isz, &p.x, length, t.channels, width, width,
                    to + position * width * isz, p.panel)
        length = 0


cdef void pack_patches(const Problem *p, const Task *t, const Block *b, const char *x, char *to) noexcept nogil:
    """to[panel][pixel][NR] of patches [tap][ci], from x[position][ci], padding included."""
    cdef const Axis *a = &p.axis[0]
    cdef const Py_ssize_t *first = p.first_piece + t.tap // p.taps_task
    cdef Py_ssize_t n, d, h, line, ld = p.kernels.pairs_nr
    for n in range(b.images):
        for d in range(b.outs[0]):
            for h in range(b.outs[1]):
                line = ((n * a[0].positions + d * a[0].step) * a[1].positions + h * a[1].step) * a[2].positions
                p.kernels.pack_pieces(to, ld, x + line * p.ci * p.itemsize, a[2].step * p.ci, b.outs[2],
                                      p.pieces + first[0], first[1] - first[0])
                to += b.outs[2] * ld * p.itemsize


# ------------------------------------------------------------------------------------------------------------- summing

cdef Py_ssize_t pairs_of_tap(const Problem *p, const Block *b, Py_ssize_t tap, fastconv_pair *pairs) noexcept nogil:
    """The pixels whose source for one tap is not padding: byte offsets in a tile of y and a panel of x."""
    cdef const Axis *a = &p.axis[0]
    cdef Py_ssize_t t[3]
    cdef Py_ssize_t i[3]
    cdef Py_ssize_t n, d, h, w, _
    cdef int y, x, y_step = p.kernels.pairs_mr * p.itemsize, x_step = p.kernels.pairs_nr * p.itemsize
    cdef int x_out = <int> a[2].step * x_step
    cdef const fastconv_pair *first = pairs
    t[0], t[1], t[2] = tap // (a[1].kernel * a[2].kernel), tap // a[2].kernel % a[1].kernel, tap % a[2].kernel
    for w in range(3):
        i[w] = b.index[w] * a[w].kernel + t[w]
    for n in range(b.images):
        for d in range(a[0].first[i[0]], a[0].stop[i[0]]):
            for h in range(a[1].first[i[1]], a[1].stop[i[1]]):
                w = a[2].first[i[2]]
                y = <int> (((n * b.outs[0] + d) * b.outs[1] + h) * b.outs[2] + w) * y_step
                x = <int> ((n * a[0].positions + d * a[0].step + a[0].shift[t[0]]) * a[1].positions)
                x = <int> ((x + h * a[1].step + a[1].shift[t[1]]) * a[2].positions + a[2].shift[t[2]]) * x_step
                x += <int> w * x_out
                for _ in range(w, a[2].stop[i[2]]):
                    pairs.a, pairs.b = y, x
                    y, x = y + y_step, x + x_out
                    pairs += 1
    return pairs - first


cdef void multiply(const Problem *p, const Task *t, const fastconv_pair *pairs, Py_ssize_t count, const char *y,
                   const char *x, Py_ssize_t columns, char *sums) noexcept nogil:
    """sums[row][column] += products of the pairs, for all rows of the task and `columns` columns of panels."""
    cdef Py_ssize_t nr = p.kernels.pairs_nr, j, row, rows = tile_rows(p, t)
    cdef fastconv_pairs_tile tile
    tile.pairs, tile.count, tile.ldc = pairs, count, p.columns
    for j in range(ceil_div(columns, nr)):
        tile.vectors = <int> ceil_div(min(nr, columns - j * nr), p.kernels.vlen)
        tile.b = x + j * p.panel
        for row in range(ceil_div(t.rows, rows)):
            tile.rows = <int> min(rows, t.rows - row * rows)
            tile.a = y + row * p.pixels * p.kernels.pairs_mr * p.itemsize
            tile.c = sums + (row * rows * p.columns + j * nr) * p.itemsize
            p.kernels.gemm_pairs(&tile)


cdef void add_block(const Problem *p, const Task *t, const Block *b, const Call *call, const Workspace *w,
                    char *sums) noexcept nogil:
    cdef Py_ssize_t tap, count, i, isz = p.itemsize, rows = tile_rows(p, t)
    cdef Py_ssize_t width = round_up(p.ci_task, p.kernels.vlen)
    pack_y(p, t, b, call.y, w.y)
    if t.bias and call.bias != NULL:
        for i in range(ceil_div(t.rows, rows)):
            p.kernels.sum_rows(sums + (p.co_task * p.columns + i * rows) * isz,
                               w.y + i * p.pixels * p.kernels.pairs_mr * isz, p.kernels.pairs_mr, b.pixels,
                               min(rows, t.rows - i * rows))
    if call.weight == NULL:
        return
    if p.patches:
        memset(w.x, 0, p.x_bytes)
    pack_x(p, t, b, call.x, w.x)
    if p.patches:
        pack_patches(p, t, b, w.x, w.patches)
        multiply(p, t, w.pairs, b.pixels, w.y, w.patches, t.taps * p.ci, sums)
        return
    for tap in range(t.taps):
        count = pairs_of_tap(p, b, t.tap + tap, w.pairs)
        if count > 0:
            multiply(p, t, w.pairs, count, w.y, w.x, t.channels, sums + tap * width * isz)


cdef void sum_part(const Problem *p, const Task *t, const Call *call, Py_ssize_t part, const Workspace *w,
                   char *sums) noexcept nogil:
    """sums[row][tap][ci] and, behind them, the sums of grad_y of each row, over the blocks of one part."""
    cdef Block b
    cdef Py_ssize_t i
    memset(sums, 0, p.sum_bytes)
    for i in range(part * p.part_blocks, min(p.blocks, (part + 1) * p.part_blocks)):
        b = block_at(p, i)
        add_block(p, t, &b, call, w, sums)


cdef void write_row(const Problem *p, const Task *t, const Call *call, Py_ssize_t row,
                    const char *sums) noexcept nogil:
    """One row of sums [tap][ci] into weight[co][ci][tap]; of a bundle's channels, those of the row's own group."""
    cdef Py_ssize_t width = p.ci if p.patches else round_up(p.ci_task, p.kernels.vlen)
    cdef Py_ssize_t co = t.co + row, ci = t.ci, channels = t.channels
    if call.weight == NULL:
        return
    if p.group_ci < p.ci:
        sums, ci, channels = sums + co // p.group_co * p.group_ci * p.itemsize, 0, p.group_ci
    ci += (t.group * p.co + co) * p.group_ci
    p.kernels.copy_matrix(call.weight + (ci * p.taps + t.tap) * p.itemsize, p.taps, sums, 1, width, channels, t.taps)


cdef void write_bias(const Problem *p, const Task *t, const Call *call, const char *sums,
                     Py_ssize_t parts) noexcept nogil:
    """The bias sums of the task's rows, of `parts` parts; `sums` are those of the first."""
    cdef char *to = call.bias + (t.group * p.co + t.co) * p.itemsize
    if t.bias and call.bias != NULL:
        memset(to, 0, t.rows * p.itemsize)
        p.kernels.sum_rows(to, sums + p.co_task * p.columns * p.itemsize, p.tasks * p.sum_bytes // p.itemsize, parts,
                           t.rows)


cdef void sum_unit(const Problem *p, const Call *call, Py_ssize_t unit, const Workspace *w,
                   char *partial) noexcept nogil:
    """One part of one task, into its place in `partial`; a task in one part goes straight to the gradient."""
    cdef Task t = task_at(p, unit % p.tasks)
    cdef Py_ssize_t row
    if call.weight == NULL and not t.bias:
        return
    if p.parts > 1:
        sum_part(p, &t, call, unit // p.tasks, w, partial + unit * p.sum_bytes)
        return
    sum_part(p, &t, call, 0, w, w.sums)
    for row in range(t.rows):
        write_row(p, &t, call, row, w.sums + row * p.columns * p.itemsize)
    write_bias(p, &t, call, w.sums, 1)


cdef void add_parts(const Problem *p, const Call *call, Py_ssize_t number, Py_ssize_t row, const char *partial,
                    char *sum) noexcept nogil:
    """One row of one task: the sum of its parts, in their order."""
    cdef Task t = task_at(p, number)
    cdef const char *first = partial + number * p.sum_bytes
    if row == 0:
        write_bias(p, &t, call, first, p.parts)
    if row < t.rows:
        memset(sum, 0, p.columns * p.itemsize)
        p.kernels.sum_rows(sum, first + row * p.columns * p.itemsize, p.tasks * p.sum_bytes // p.itemsize, p.parts,
                           p.columns)
        write_row(p, &t, call, row, sum)


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


cdef void prepare(const Problem *p, const Workspace *w) noexcept nogil:
    """Lanes beyond the last channel are multiplied and dropped: they must not hold denormals, which are slow."""
    cdef Py_ssize_t panels = ceil_div(p.taps_task * p.ci if p.patches else p.ci_task, p.kernels.pairs_nr), i
    memset((w.patches if p.patches else w.x) + (panels - 1) * p.panel, 0, p.panel)
    if p.patches:                                      # every pixel has its patch
        for i in range(p.pixels):
            w.pairs[i].a = <int> (i * p.kernels.pairs_mr * p.itemsize)
            w.pairs[i].b = <int> (i * p.kernels.pairs_nr * p.itemsize)


# ---------------------------------------------------------------------------------------------------------------- plan

cdef const Py_ssize_t *table(cnp.ndarray a) noexcept:
    return <const Py_ssize_t *> cnp.PyArray_DATA(a)


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
    cdef Py_ssize_t thread_bytes, partial_bytes
    cdef readonly object blocks
    cdef list tables

    def __init__(self, geometry, dtype, str padding_mode="zeros"):
        cdef Problem *p = &self.problem
        cdef Py_ssize_t i
        g = geometry
        memset(p, 0, sizeof(Problem))
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
        self.tables = []
        kernel = (1,) * (3 - g.ndim) + g.kernel
        p.pixels, p.positions, p.blocks = p.images, p.images, ceil_div(p.batch, p.images)
        for i in range(3):
            self._set_axis(i, blocks.axes[i], kernel[i])
            p.pixels *= p.axis[i].length
            p.positions *= p.axis[i].positions
            p.blocks *= p.axis[i].count
        self._set_sizes()
        if p.patches:
            self._set_pieces()
        self.work = <double> g.batch * prod(g.out_size) * g.out_channels * p.group_ci * p.taps

    cdef _set_axis(self, int i, blocks, Py_ssize_t kernel):
        cdef Axis *a = &self.problem.axis[i]
        self.tables += (blocks.shift, blocks.first, blocks.stop, blocks.sources, blocks.runs, blocks.first_run)
        a.kernel, a.length, a.count, a.out = kernel, blocks.length, blocks.count, self.problem.y.size[i]
        a.positions, a.step = blocks.positions, blocks.step
        a.shift, a.first, a.stop = table(blocks.shift), table(blocks.first), table(blocks.stop)
        a.sources, a.runs, a.first_run = table(blocks.sources), table(blocks.runs), table(blocks.first_run)

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
            p.panel = round_up(p.positions * nr * isz, CACHE_LINE)
            p.x_bytes = panels * p.panel
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
        first = as_table(np.cumsum([0, *map(len, pieces)]))
        pieces = np.concatenate(pieces)
        self.tables += (pieces, first)
        p.pieces, p.first_piece = <const fastconv_piece *> table(pieces), table(first)

    @property
    def workspace_bytes(self):
        """Scratch memory a thread, and the partial sums that the team shares."""
        return self.thread_bytes, self.partial_bytes

    def __call__(self, cnp.ndarray grad_y, cnp.ndarray x, cnp.ndarray out_weight, cnp.ndarray out_bias):
        """Write the weight gradient and the bias gradient, or only one of them if the other is None.

        The arrays are of one dtype and checked by the caller; inputs that are not C-contiguous are copied.
        """
        cdef Problem *p = &self.problem
        cdef Call call
        cdef char *memory = NULL
        cdef int threads = <int> min(<Py_ssize_t> team(self.work), p.tasks * p.parts)
        grad_y, x = contiguous(grad_y), contiguous(x)
        call.y, call.x = <const char *> cnp.PyArray_DATA(grad_y), <const char *> cnp.PyArray_DATA(x)
        call.weight = <char *> cnp.PyArray_DATA(out_weight) if out_weight is not None else NULL
        call.bias = <char *> cnp.PyArray_DATA(out_bias) if out_bias is not None else NULL
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
