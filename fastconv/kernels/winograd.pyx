"""Winograd convolution: F(m, r) with 6 points an axis, for stride 1 and any stride phase of 2 to 5 taps an axis.

    y = A' (sum over channels c of (G w[row][c]) * (B' x[c])),  tile by tile of m = 7 - r outputs an axis

F(4, 3) in two dimensions spends 36 multiplications on 16 outputs of 9 taps each: a quarter. Tiles are numbered over
all images; a batch of them goes through three steps, each of which a thread may do alone or a team together:

    input     points[6^D][channel][tile] (channels_first) or [6^D][tile][channel] (channels_last) from the source
    products  sums[point] = weight[point] x points[point]: a dense matrix product a point, by the GEMM microkernel
    output    the destination from sums, with bias and clamp

With dilation d the positions i, i + d, ... of an axis are a grid of their own; its tiles are numbered with the others.

Lanes are neighbouring tiles of a line (channels_first) or channels (channels_last), so that nothing is transposed. The
transformed weight is read once a batch. Where a team has batches enough, each thread takes whole ones, which fit L2 if
channels are few; else the team shares every step of a batch, so that the weight is read once for all of them.

Sums run over all channels of a group at once, in order: how batches are cut changes no bit. An output that is infinite
or NaN may be so because of a neighbour, so then the whole call is done again by the direct kernel.

Source: Lavin, Gray, "Fast algorithms for convolutional neural networks", 2016, section 4.
"""

import numpy as np

from cython.parallel cimport parallel, prange, threadid
from libc.math cimport INFINITY
from libc.stdint cimport int64_t
from libc.string cimport memset
cimport numpy as cnp

from fastconv.kernels.arrays cimport packed_memory
from fastconv.kernels.core cimport (
    CACHE_LINE,
    FASTCONV_MAX_ROWS,
    acquire,
    ceil_div,
    even_part,
    fastconv_epilogue,
    fastconv_gemm_tile,
    fastconv_kernels,
    fastconv_run,
    fastconv_winograd_pixels,
    fastconv_winograd_planes,
    fastconv_winograd_weight,
    fegetenv,
    fenv_t,
    fesetenv,
    kernels,
    release,
    round_up,
    team,
)

cnp.import_array()

cdef enum:
    POINTS = 6                    # along an axis
    QUARTERS = 4                  # outputs of a tile along a line of channels_first that shuffles split
    IN_VECTORS = 11               # of a line of any other number of outputs, see table.h
    OUT_VECTORS = 5
    MOST_VALUES = 216
    MOST_LANES = 16               # no ISA has longer vectors
    LINE = 64                     # bytes between the ends of points, so that they do not meet in one set of L1
    OWN_BYTES = 768 * 1024        # points, then sums of a batch of one thread: most of a 1 MB L2
    SHARED_BYTES = 8 * 1024 * 1024  # points and sums of a batch of a team
    FEWEST_TILES = 48             # a batch, so that the weight is read seldom
    MOST_TILES = 240
    CHUNK = 32                    # channels or rows of a unit of work
    CHAIN = 256                   # channels summed in one chain, see sum_chains
    CHAIN_3D = 16


cdef struct TileAxis:             # one tile along an axis
    Py_ssize_t input              # its first input in the axis's table
    Py_ssize_t output             # its first destination position
    Py_ssize_t outputs            # how many of its outputs there are
    Py_ssize_t more               # tiles that follow it on the same sub-grid

cdef struct Axis:                 # a missing leading axis has one tile of one output
    Py_ssize_t step               # between destination positions of a tile
    Py_ssize_t dilation           # between the inputs of a tile in the table
    Py_ssize_t tiles
    int outputs, points
    const TileAxis *tile
    const Py_ssize_t *table       # source positions, -1 for padding

cdef struct Phase:
    Axis axis[3]
    int taps[3]
    Py_ssize_t tiles              # of one image
    Py_ssize_t weight_offset      # bytes into the transformed weights
    const Py_ssize_t *weight_taps  # [taps]: element offset of each tap in the weight's kernel, in the input's order

cdef struct Problem:
    int axes, points              # points: 6 ** axes
    bint channels_last, backward
    Py_ssize_t batch, groups, kin, kout, kernel_taps, itemsize
    Py_ssize_t source_size[3]
    Py_ssize_t destination_size[3]
    Py_ssize_t source_plane, destination_plane
    int phases
    Phase *phase
    const fastconv_kernels *kernels

cdef struct Cut:                  # how the tiles of a group are cut into batches
    Py_ssize_t tiles, batches     # tiles a batch
    bint together                 # whether a team shares each batch
    Py_ssize_t stride             # bytes between points
    Py_ssize_t buffers, own       # bytes of points and sums, and of lists a thread

cdef struct Call:
    const char *source
    const char *weight            # transformed
    const char *zeros             # as long as a pixel of all channels
    char *destination
    fastconv_epilogue epilogue
    int *wrong

cdef struct Batch:
    Py_ssize_t group, first, tiles
    char *points
    char *sums

cdef struct Tile:
    Py_ssize_t n, d, h, w


cdef inline Tile tile_at(const Phase *f, Py_ssize_t q) noexcept nogil:
    cdef Tile at
    at.n, q = q // f.tiles, q % f.tiles
    at.w, q = q % f.axis[2].tiles, q // f.axis[2].tiles
    at.d, at.h = q // f.axis[1].tiles, q % f.axis[1].tiles
    return at


cdef inline Py_ssize_t source_of(const Axis *a, Py_ssize_t tile, int i) noexcept nogil:
    """Where a tile's i-th input is read, -1 for padding."""
    return a.table[a.tile[tile].input + i * a.dilation]


cdef inline Py_ssize_t destination_line(const Problem *p, const Phase *f, const Tile *at, int d, int h) noexcept nogil:
    """Index of the first pixel of output line (d, h) of a tile, images one plane apart; -1 if there is none."""
    cdef const TileAxis *tile_d = &f.axis[0].tile[at.d]
    cdef const TileAxis *tile_h = &f.axis[1].tile[at.h]
    if d >= tile_d.outputs or h >= tile_h.outputs:
        return -1
    cdef Py_ssize_t row = (tile_d.output + d * f.axis[0].step) * p.destination_size[1]
    row += tile_h.output + h * f.axis[1].step
    return at.n * p.destination_plane + row * p.destination_size[2]


cdef inline Py_ssize_t weight_stride(const Problem *p) noexcept nogil:
    """Bytes between the points of a group's transformed weight."""
    cdef Py_ssize_t nr = p.kernels.nr, rows = round_up(p.kout, nr) if p.channels_last else p.kout
    return rows * p.kin * p.itemsize + LINE


cdef inline const char *weight_point(const Problem *p, const Phase *f, const Call *call, Py_ssize_t group,
                                     Py_ssize_t point) noexcept nogil:
    return call.weight + f.weight_offset + (group * p.points + point) * weight_stride(p)


cdef void sum_chains(const Problem *p, fastconv_gemm_tile *t) noexcept nogil:
    """The tile's sums over all channels, in equal parts, each summed by itself.

    Shorter chains keep the error, relative to the direct kernel's, below 4: at 512 channels 2-D sums of 256 at a time
    halve it, and 3-D transforms, which magnify more, need 16.
    """
    cdef Py_ssize_t chain = CHAIN if p.axes < 3 else CHAIN_3D, channel = 0
    cdef Py_ssize_t part = ceil_div(p.kin, ceil_div(p.kin, chain))
    while channel < p.kin:
        t.k, t.accumulate = min(part, p.kin - channel), channel > 0
        t.a_offset = channel * p.itemsize
        p.kernels.gemm(t)
        t.b += t.k * t.ldb * p.itemsize
        t.prefetch += t.k * t.prefetch_step
        channel += t.k


# ---------------------------------------------------------------------------------------------- channels_first

cdef struct Stretch:              # tiles of one line and sub-grid
    Py_ssize_t lane, length
    Py_ssize_t column             # of the first lane in the input's buffer
    Tile at


cdef int stretches_of(const Phase *f, Py_ssize_t q, Py_ssize_t lanes, Stretch *stretches) noexcept nogil:
    cdef Py_ssize_t lane = 0
    cdef int count = 0
    while lane < lanes:
        stretches[count].lane, stretches[count].at = lane, tile_at(f, q + lane)
        stretches[count].length = min(1 + f.axis[2].tile[stretches[count].at.w].more, lanes - lane)
        stretches[count].column = lane * f.axis[2].outputs + (count * POINTS if f.axis[2].outputs != QUARTERS else 0)
        lane += stretches[count].length
        count += 1
    return count


cdef Py_ssize_t source_line(const Problem *p, const Phase *f, const Tile *at, int d, int h) noexcept nogil:
    """Index of the first element of input line (d, h) of a tile in the first channel of its image, -1 for padding."""
    cdef Py_ssize_t row_d = source_of(&f.axis[0], at.d, d), row_h = source_of(&f.axis[1], at.h, h)
    if row_d < 0 or row_h < 0:
        return -1
    return at.n * p.groups * p.kin * p.source_plane + (row_d * p.source_size[1] + row_h) * p.source_size[2]


cdef Py_ssize_t line_runs(const Axis *w, const Stretch *s, Py_ssize_t half, fastconv_run *runs) noexcept nogil:
    """Runs of a stretch's columns, from a line's first element, to its place in the buffer's line."""
    cdef Py_ssize_t length = s.length * w.outputs, i = 0, begin, source, count = 0
    cdef const Py_ssize_t *table = w.table + w.tile[s.at.w].input + half * QUARTERS * w.dilation
    if w.outputs != QUARTERS:
        length += POINTS - w.outputs
    while i < length:
        source, begin = table[i * w.dilation], i
        i += 1
        if source < 0:
            continue
        while i < length and table[i * w.dilation] == source + (i - begin) * w.dilation:
            i += 1
        runs[count] = fastconv_run(source, s.column + begin, i - begin, w.dilation, False)
        count += 1
    return count


cdef Py_ssize_t input_runs(const Problem *p, const Phase *f, Py_ssize_t q, Py_ssize_t lanes, fastconv_run *runs,
                           Py_ssize_t *whole, int64_t *columns) noexcept nogil:
    """How the buffer of VLEN tiles' lines is filled for any channel; see table.h."""
    cdef Stretch stretches[MOST_LANES]
    cdef int used = stretches_of(f, q, lanes, stretches), d, h, s
    cdef bint quarters = f.axis[2].outputs == QUARTERS
    cdef Py_ssize_t length = (QUARTERS if quarters else IN_VECTORS) * p.kernels.vlen
    cdef Py_ssize_t half, line = 0, count = 0, first, i, base
    for i in range(p.kernels.vlen):
        columns[i] = 0
    for s in range(used):
        for i in range(stretches[s].length):
            columns[stretches[s].lane + i] = stretches[s].column + i * f.axis[2].outputs
    for d in range(f.axis[0].points):
        for h in range(f.axis[1].points):
            for half in range(2 if quarters else 1):
                first = count
                for s in range(used):
                    base = source_line(p, f, &stretches[s].at, d, h)
                    if base < 0:
                        continue
                    i = count
                    count += line_runs(&f.axis[2], &stretches[s], half, runs + count)
                    while i < count:
                        runs[i].start += base
                        runs[i].to += line * length
                        i += 1
                whole[line] = -1
                if quarters and count == first + 1 and runs[first].length == length and runs[first].step == 1:
                    whole[line], count = runs[first].start, first
                line += 1
    return count


cdef Py_ssize_t output_runs(const Problem *p, const Phase *f, Py_ssize_t q, Py_ssize_t lanes, fastconv_run *runs,
                            Py_ssize_t *whole) noexcept nogil:
    """Where the lines of VLEN tiles' outputs go; see table.h."""
    cdef Stretch stretches[MOST_LANES]
    cdef int used = stretches_of(f, q, lanes, stretches), d, h, s
    cdef const Axis *axis = &f.axis[0]
    cdef Py_ssize_t outputs = axis[2].outputs, line = 0, count = 0, first, base
    cdef bint quarters = outputs == QUARTERS
    cdef Py_ssize_t length = (QUARTERS if quarters else OUT_VECTORS) * p.kernels.vlen
    cdef const TileAxis *last
    for d in range(axis[0].outputs):
        for h in range(axis[1].outputs):
            first = count
            for s in range(used):
                base = destination_line(p, f, &stretches[s].at, d, h)
                if base < 0:
                    continue
                base += stretches[s].at.n * (p.groups * p.kout - 1) * p.destination_plane
                last = &axis[2].tile[stretches[s].at.w + stretches[s].length - 1]
                runs[count] = fastconv_run(
                    base + axis[2].tile[stretches[s].at.w].output, line * length + stretches[s].lane * outputs,
                    (stretches[s].length - 1) * outputs + last.outputs, axis[2].step, False)
                count += 1
            whole[line] = -1
            if quarters and count == first + 1 and runs[first].length == length and runs[first].step == 1:
                whole[line], count = runs[first].start, first
            line += 1
    return count


cdef fastconv_winograd_planes planes_of(const Problem *p, const Phase *f, Py_ssize_t lanes, char *lists) noexcept nogil:
    cdef fastconv_winograd_planes t
    cdef int i
    memset(&t, 0, sizeof(t))
    t.axes, t.lanes = p.axes, lanes
    for i in range(3):
        t.outputs[i] = f.axis[i].outputs
    t.columns = <const int64_t *> lists
    t.whole = <const Py_ssize_t *> (t.columns + MOST_LANES)
    t.runs = <const fastconv_run *> (t.whole + 2 * MOST_VALUES // POINTS)
    return t


cdef void planes_in(const Problem *p, const Phase *f, const Cut *cut, const Call *call, const Batch *b,
                    Py_ssize_t vector, Py_ssize_t channel, Py_ssize_t stop, char *lists) noexcept nogil:
    cdef Py_ssize_t vlen = p.kernels.vlen, isz = p.itemsize, lanes = min(vlen, b.tiles - vector * vlen)
    cdef fastconv_winograd_planes t = planes_of(p, f, lanes, lists)
    t.count = input_runs(p, f, b.first + vector * vlen, lanes, <fastconv_run *> t.runs, <Py_ssize_t *> t.whole,
                         <int64_t *> t.columns)
    t.channels, t.plane_stride = stop - channel, p.source_plane
    t.source = call.source + (b.group * p.kin + channel) * p.source_plane * isz
    t.point_stride, t.channel_stride = cut.stride, cut.tiles * isz
    t.points = b.points + channel * t.channel_stride + vector * vlen * isz
    p.kernels.winograd_input_planes(&t)


cdef void planes_out(const Problem *p, const Phase *f, const Cut *cut, const Call *call, const Batch *b,
                     Py_ssize_t vector, Py_ssize_t row, Py_ssize_t stop, char *lists) noexcept nogil:
    cdef Py_ssize_t vlen = p.kernels.vlen, isz = p.itemsize, lanes = min(vlen, b.tiles - vector * vlen)
    cdef fastconv_winograd_planes t = planes_of(p, f, lanes, lists)
    cdef fastconv_epilogue epilogue = call.epilogue
    t.count = output_runs(p, f, b.first + vector * vlen, lanes, <fastconv_run *> t.runs, <Py_ssize_t *> t.whole)
    t.channels, t.plane_stride = stop - row, p.destination_plane
    t.destination = call.destination + (b.group * p.kout + row) * p.destination_plane * isz
    t.point_stride, t.channel_stride = cut.stride, cut.tiles * isz
    t.points = b.sums + row * t.channel_stride + vector * vlen * isz
    if epilogue.shift != NULL:
        epilogue.shift += (b.group * p.kout + row) * isz
    if p.kernels.winograd_output_planes(&t, &epilogue):
        call.wrong[0] = 1


cdef void rows_by_tiles(const Problem *p, const Phase *f, const Cut *cut, const Call *call, const Batch *b,
                        Py_ssize_t point, Py_ssize_t row, Py_ssize_t stop) noexcept nogil:
    """sums[point][row .. stop][tile] = weight[point][row][channel] x points[point][channel][tile]."""
    cdef Py_ssize_t nr = p.kernels.nr, isz = p.itemsize, zero = 0, length = cut.tiles * isz, tile, tiles, i
    cdef const char *weight = weight_point(p, f, call, b.group, point)
    cdef const char *a[FASTCONV_MAX_ROWS]
    cdef char *c[FASTCONV_MAX_ROWS]
    cdef fastconv_gemm_tile t
    tiles = ceil_div(b.tiles, nr)
    t.entries, t.k, t.a, t.a_offset, t.b_offsets, t.c = 1, p.kin, a, 0, &zero, c
    t.ldb, t.accumulate, t.epilogue = cut.tiles, False, NULL
    while row < stop:
        t.rows = <int> ceil_div(stop - row, ceil_div(stop - row, p.kernels.mr))
        for i in range(t.rows):
            a[i] = weight + (row + i) * p.kin * isz
            c[i] = b.sums + point * cut.stride + (row + i) * length
        t.prefetch, t.prefetch_step = a[0] + t.rows * p.kin * isz, t.rows * isz // tiles
        for tile in range(tiles):
            t.columns = <int> min(nr, b.tiles - tile * nr)
            t.c_offset = tile * nr * isz
            t.b = b.points + point * cut.stride + t.c_offset
            sum_chains(p, &t)
            t.prefetch += t.rows * p.kin * isz // tiles - p.kin * t.prefetch_step
        row += t.rows


# ----------------------------------------------------------------------------------------------- channels_last

cdef void pixels_in(const Problem *p, const Phase *f, const Cut *cut, const Call *call, const Batch *b,
                    Py_ssize_t tile) noexcept nogil:
    cdef const char *pixels[MOST_VALUES]
    cdef const Axis *axis = &f.axis[0]
    cdef fastconv_winograd_pixels t
    cdef Tile at = tile_at(f, b.first + tile)
    cdef Py_ssize_t pixel = p.groups * p.kin * p.itemsize, line, w
    cdef int d, h, i, used = 0
    for d in range(axis[0].points):
        for h in range(axis[1].points):
            line = pixels_line(p, f, &at, d, h)
            for i in range(axis[2].points):
                w = source_of(&axis[2], at.w, i)
                pixels[used] = call.zeros if line < 0 or w < 0 else call.source + (line + w) * pixel
                used += 1
    t.axes, t.channels, t.pixels, t.offset = p.axes, p.kin, pixels, b.group * p.kin * p.itemsize
    t.points, t.point_stride = b.points + tile * p.kin * p.itemsize, cut.stride
    p.kernels.winograd_input_pixels(&t)


cdef inline Py_ssize_t pixels_line(const Problem *p, const Phase *f, const Tile *at, int d, int h) noexcept nogil:
    """Index of the first pixel of input line (d, h) of a tile, -1 for padding."""
    cdef Py_ssize_t row_d = source_of(&f.axis[0], at.d, d), row_h = source_of(&f.axis[1], at.h, h)
    if row_d < 0 or row_h < 0:
        return -1
    return at.n * p.source_plane + (row_d * p.source_size[1] + row_h) * p.source_size[2]


cdef void pixels_out(const Problem *p, const Phase *f, const Cut *cut, const Call *call, const Batch *b,
                     Py_ssize_t tile) noexcept nogil:
    cdef char *destinations[MOST_VALUES]
    cdef const Axis *axis = &f.axis[0]
    cdef fastconv_winograd_pixels t
    cdef fastconv_epilogue epilogue = call.epilogue
    cdef Tile at = tile_at(f, b.first + tile)
    cdef Py_ssize_t channels = p.groups * p.kout * p.itemsize, offset = b.group * p.kout * p.itemsize, line
    cdef const TileAxis *along = &axis[2].tile[at.w]
    cdef int d, h, w, used = 0
    for d in range(axis[0].outputs):
        for h in range(axis[1].outputs):
            line = destination_line(p, f, &at, d, h)
            for w in range(axis[2].outputs):
                destinations[used] = NULL
                if line >= 0 and w < along.outputs:
                    destinations[used] = call.destination + (line + along.output + w * axis[2].step) * channels + offset
                used += 1
    t.axes, t.channels, t.destinations = p.axes, p.kout, destinations
    for w in range(3):
        t.outputs[w] = axis[w].outputs
    t.points, t.point_stride = b.sums + tile * p.kout * p.itemsize, cut.stride
    if epilogue.shift != NULL:
        epilogue.shift += offset
    if p.kernels.winograd_output_pixels(&t, &epilogue):
        call.wrong[0] = 1


cdef void tiles_by_panels(const Problem *p, const Phase *f, const Cut *cut, const Call *call, const Batch *b,
                          Py_ssize_t point, Py_ssize_t column, Py_ssize_t stop) noexcept nogil:
    """sums[point][tile][column .. stop] = points[point][tile][channel] x weight[point][panel][channel][NR]."""
    cdef Py_ssize_t nr = p.kernels.nr, mr = p.kernels.mr, isz = p.itemsize, zero = 0, tile, tiles, i
    cdef const char *a[FASTCONV_MAX_ROWS]
    cdef const char *panel
    cdef char *c[FASTCONV_MAX_ROWS]
    cdef fastconv_gemm_tile t
    tiles = ceil_div(b.tiles, mr)
    t.entries, t.k, t.a, t.a_offset, t.b_offsets, t.c = 1, p.kin, a, 0, &zero, c
    t.ldb, t.accumulate, t.epilogue = nr, False, NULL
    while column < stop:
        t.columns = <int> min(nr, p.kout - column)
        panel = weight_point(p, f, call, b.group, point) + column * p.kin * isz
        t.c_offset = column * isz
        t.prefetch, t.prefetch_step = panel + nr * p.kin * isz, nr * isz // tiles
        tile = 0
        while tile < b.tiles:
            t.rows = <int> ceil_div(b.tiles - tile, ceil_div(b.tiles - tile, mr))
            for i in range(t.rows):
                a[i] = b.points + point * cut.stride + (tile + i) * p.kin * isz
                c[i] = b.sums + point * cut.stride + (tile + i) * p.kout * isz
            t.b = panel
            sum_chains(p, &t)
            tile += t.rows
        column += nr


# ------------------------------------------------------------------------------------------------ steps of a batch

cdef Py_ssize_t input_units(const Problem *p, const Batch *b) noexcept nogil:
    if p.channels_last:
        return b.tiles
    return ceil_div(b.tiles, p.kernels.vlen) * ceil_div(p.kin, CHUNK)


cdef void input_unit(const Problem *p, const Phase *f, const Cut *cut, const Call *call, const Batch *b,
                     Py_ssize_t unit, char *lists) noexcept nogil:
    cdef Py_ssize_t vectors = ceil_div(b.tiles, p.kernels.vlen), channel = unit // vectors * CHUNK
    if p.channels_last:
        pixels_in(p, f, cut, call, b, unit)
    else:
        planes_in(p, f, cut, call, b, unit % vectors, channel, min(p.kin, channel + CHUNK), lists)


cdef inline Py_ssize_t rows_of_part(const Problem *p, Py_ssize_t parts) noexcept nogil:
    """Rows, or columns in whole panels, that one of so many parts of a product has."""
    cdef Py_ssize_t unit = p.kernels.nr if p.channels_last else p.kernels.mr
    return round_up(ceil_div(p.kout, parts), unit)


cdef void product_unit(const Problem *p, const Phase *f, const Cut *cut, const Call *call, const Batch *b,
                       Py_ssize_t unit, Py_ssize_t parts) noexcept nogil:
    cdef Py_ssize_t rows = rows_of_part(p, parts), point = unit // parts, row = unit % parts * rows
    if p.channels_last:
        tiles_by_panels(p, f, cut, call, b, point, row, min(p.kout, row + rows))
    else:
        rows_by_tiles(p, f, cut, call, b, point, row, min(p.kout, row + rows))


cdef Py_ssize_t output_units(const Problem *p, const Batch *b) noexcept nogil:
    if p.channels_last:
        return b.tiles
    return ceil_div(b.tiles, p.kernels.vlen) * ceil_div(p.kout, CHUNK)


cdef void output_unit(const Problem *p, const Phase *f, const Cut *cut, const Call *call, const Batch *b,
                      Py_ssize_t unit, char *lists) noexcept nogil:
    cdef Py_ssize_t vectors = ceil_div(b.tiles, p.kernels.vlen), row = unit // vectors * CHUNK
    if p.channels_last:
        pixels_out(p, f, cut, call, b, unit)
    else:
        planes_out(p, f, cut, call, b, unit % vectors, row, min(p.kout, row + CHUNK), lists)


cdef Batch batch_of(const Problem *p, const Phase *f, const Cut *cut, Py_ssize_t index, char *buffers) noexcept nogil:
    cdef Batch b
    b.group, b.first = index // cut.batches, index % cut.batches * cut.tiles
    b.tiles = min(cut.tiles, f.tiles * p.batch - b.first)
    b.sums = buffers
    b.points = buffers + (p.points if cut.together else 1) * cut.stride
    return b


cdef void run_batch(const Problem *p, const Phase *f, const Cut *cut, const Call *call, Py_ssize_t index,
                    char *own) noexcept nogil:
    """All steps by one thread."""
    cdef char *lists = own + cut.buffers
    cdef Batch b = batch_of(p, f, cut, index, own)
    cdef Py_ssize_t unit
    for unit in range(input_units(p, &b)):
        input_unit(p, f, cut, call, &b, unit, lists)
    for unit in range(p.points):
        product_unit(p, f, cut, call, &b, unit, 1)
    for unit in range(output_units(p, &b)):
        output_unit(p, f, cut, call, &b, unit, lists)


cdef Py_ssize_t even_batch(const Problem *p, Py_ssize_t all, Py_ssize_t most) noexcept nogil:
    """Tiles of a batch, at most about so many: whole register tiles if there are more, else whole vectors."""
    cdef Py_ssize_t unit = p.kernels.mr if p.channels_last else p.kernels.nr
    if not p.channels_last and all < unit:
        unit = p.kernels.vlen
    most = max(unit, most // unit * unit)
    return even_part(all, most, unit)


cdef Cut cut_for(const Problem *p, const Phase *f, int threads) noexcept nogil:
    """Batches as large as their buffers may be, but small enough for all threads to have some."""
    cdef Py_ssize_t bytes = p.points * max(p.kin, p.kout) * p.itemsize, all = f.tiles * p.batch, most
    cdef Cut cut
    most = max(FEWEST_TILES, min(MOST_TILES, OWN_BYTES // bytes))
    cut.together = threads > 1 and p.groups * ceil_div(all, most) < 2 * threads
    if cut.together:
        most = max(FEWEST_TILES, min(4 * MOST_TILES, SHARED_BYTES // (2 * bytes)))
    cut.tiles = even_batch(p, all, most)
    cut.batches = ceil_div(all, cut.tiles)
    cut.stride = cut.tiles * max(p.kin, p.kout) * p.itemsize + LINE
    cut.buffers = (2 * p.points if cut.together else p.points + 1) * cut.stride
    cut.own = 0
    if not p.channels_last:
        cut.own = MOST_LANES * sizeof(int64_t) + 2 * MOST_VALUES // POINTS * sizeof(Py_ssize_t)
        cut.own += p.points // POINTS * IN_VECTORS * p.kernels.vlen * <Py_ssize_t> sizeof(fastconv_run)
        cut.own = round_up(cut.own, CACHE_LINE)
    return cut


cdef Py_ssize_t workspace(const Problem *p, int threads) noexcept nogil:
    cdef Py_ssize_t i, most = 0
    cdef Cut cut
    for i in range(p.phases):
        cut = cut_for(p, &p.phase[i], threads)
        most = max(most, (1 if cut.together else threads) * cut.buffers + threads * cut.own)
    return most


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
            parts = ceil_div(p.kout, rows_of_part(p, min(ceil_div(4 * threads, p.points), ceil_div(p.kout, CHUNK))))
            for index in range(p.groups * cut.batches if cut.together else 0):
                b = batch_of(p, f, &cut, index, shared)
                for unit in prange(input_units(p, &b), schedule="dynamic"):
                    input_unit(p, f, &cut, call, &b, unit, lists)
                for unit in prange(p.points * parts, schedule="dynamic"):
                    product_unit(p, f, &cut, call, &b, unit, parts)
                for unit in prange(output_units(p, &b), schedule="dynamic"):
                    output_unit(p, f, &cut, call, &b, unit, lists)


# ------------------------------------------------------------------------------------------------------ weights

cdef void transform_row(const Problem *p, const Phase *f, const char *weight, char *packed, Py_ssize_t group,
                        Py_ssize_t row) noexcept nogil:
    """packed[group][point][row][kin] of one row, or of one channel of all panels: [group][point][panel][kin][NR]."""
    cdef Py_ssize_t row_stride = p.kernel_taps if p.backward else p.kin * p.kernel_taps, isz = p.itemsize, panel = 0
    cdef Py_ssize_t stride = p.kout * p.kernel_taps if p.backward else p.kernel_taps, nr = p.kernels.nr
    cdef const char *source = weight + group * p.kin * p.kout * p.kernel_taps * isz
    cdef char *to = packed + f.weight_offset + group * p.points * weight_stride(p)
    cdef fastconv_winograd_weight w
    cdef int i
    w.axes, w.offsets, w.point_stride = p.axes, f.weight_taps, weight_stride(p)
    for i in range(3):
        w.taps[i] = f.taps[i]
    if not p.channels_last:
        w.stride = stride
        p.kernels.winograd_weight(&w, source + row * row_stride * isz, to + row * p.kin * isz, p.kin)
        return
    w.stride = row_stride
    while panel < p.kout:
        p.kernels.winograd_weight(&w, source + (row * stride + panel * row_stride) * isz,
                                  to + (panel * p.kin + row * nr) * isz, min(nr, p.kout - panel))
        panel += nr


# -------------------------------------------------------------------------------------------------------- plans

cdef class WinogradPlan:
    """One convolution, ready to run any number of times, from any thread.

    `direct` is the same convolution's plan for what is infinite or NaN; `sources` are phases that
    `fastconv.choice` found to fit, `kin` and `kout` source and destination channels a group; `backward` says that the
    weight's first axis is the source's.
    """

    cdef Problem problem
    cdef object keep              # arrays that the pointers of `problem` look into
    cdef object zeros
    cdef readonly object direct
    cdef readonly Py_ssize_t packed_bytes
    cdef double work
    rereads_weight = True         # by the direct kernel

    def __init__(self, direct, int dtype, bint channels_last, bint backward, Py_ssize_t batch, Py_ssize_t groups,
                 Py_ssize_t kin, Py_ssize_t kout, source_size, destination_size, sources, kernel):
        cdef Problem *p = &self.problem
        cdef int i
        self.direct, self.keep, self.packed_bytes, self.work = direct, [], 0, 0
        p.kernels = kernels(dtype)
        p.axes, p.points, p.channels_last, p.backward = len(kernel), POINTS ** len(kernel), channels_last, backward
        p.batch, p.groups, p.kin, p.kout, p.itemsize = batch, groups, kin, kout, p.kernels.storage_bytes
        for i in range(3):
            p.source_size[i] = ([1, 1, 1] + list(source_size))[len(source_size) + i]
            p.destination_size[i] = ([1, 1, 1] + list(destination_size))[len(destination_size) + i]
        p.kernel_taps = np.prod(kernel)
        p.source_plane = p.source_size[0] * p.source_size[1] * p.source_size[2]
        p.destination_plane = p.destination_size[0] * p.destination_size[1] * p.destination_size[2]
        phases = np.zeros(len(sources) * sizeof(Phase), np.uint8)
        self.keep.append(phases)
        p.phases, p.phase = len(sources), <Phase *> cnp.PyArray_DATA(phases)
        self.zeros = np.zeros(groups * kin if channels_last else 0, np.float64 if dtype else np.float32)
        for i in range(p.phases):
            self._describe(&p.phase[i], sources[i], kernel)
            self.work += <double> groups * kin * kout * p.points * batch * p.phase[i].tiles

    cdef _describe(self, Phase *f, axes, kernel):
        cdef int i, missing = 3 - len(axes)
        cdef Axis *a
        taps = np.zeros(1, np.intp)
        f.tiles = 1
        for i in range(3):
            a = &f.axis[i]
            a.step, a.dilation, a.outputs, a.points, f.taps[i] = 1, 1, 1, 1, 1
            table, tiles = np.zeros(1, np.intp), np.array([[0, 0, 1, 0]], np.intp)
            if i >= missing:
                axis = axes[i - missing]
                a.dilation, f.taps[i] = abs(axis.tap_step), len(axis.taps)
                a.step, a.outputs, a.points = axis.step * a.dilation, POINTS + 1 - f.taps[i], POINTS
                tiles = tiles_of(axis, a.outputs)
                table = input_table(axis, axis.count + (a.outputs + 2 * POINTS) * a.dilation)
                order = axis.taps if axis.tap_step > 0 else axis.taps[::-1]
                taps = (taps[:, None] * kernel[i - missing] + np.array(order, np.intp)).ravel()
            self.keep += [table, tiles]
            a.table = <const Py_ssize_t *> cnp.PyArray_DATA(table)
            a.tile, a.tiles = <const TileAxis *> cnp.PyArray_DATA(tiles), len(tiles)
            f.tiles *= a.tiles
        self.keep.append(taps)
        f.weight_taps = <const Py_ssize_t *> cnp.PyArray_DATA(taps)
        f.weight_offset = self.packed_bytes
        self.packed_bytes += self.problem.groups * self.problem.points * weight_stride(&self.problem)

    def workspace_bytes(self, int threads):
        """Scratch memory of a call with so many threads, all together."""
        return workspace(&self.problem, threads)

    def pack(self, cnp.ndarray weight):
        """The weight, of PyTorch's shape, transformed."""
        cdef cnp.ndarray packed = packed_memory(self.packed_bytes)
        weight = cnp.PyArray_GETCONTIGUOUS(weight)
        self._pack(<const char *> cnp.PyArray_DATA(weight), <char *> cnp.PyArray_DATA(packed))
        return packed

    cdef void _pack(self, const char *weight, char *packed):
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

    def __call__(self, cnp.ndarray source, cnp.ndarray weight, cnp.ndarray bias, cnp.ndarray destination,
                 double lower=-INFINITY, double upper=INFINITY, int activation=-1, double alpha=0,
                 cnp.ndarray packed=None):
        """destination = activation(clamp(convolution + bias, lower, upper)).

        `activation` is one of table.h, or -1 for none; `packed` saves transforming the weight again.

        The arrays are of one dtype and checked by the caller; inputs that are not C-contiguous are copied.
        """
        cdef Problem *p = &self.problem
        cdef Call call
        cdef char *own = NULL
        cdef char *scratch = NULL
        cdef int threads = team(self.work), wrong = 0
        source, weight = cnp.PyArray_GETCONTIGUOUS(source), cnp.PyArray_GETCONTIGUOUS(weight)
        if bias is not None:
            bias = cnp.PyArray_GETCONTIGUOUS(bias)
        memset(&call, 0, sizeof(call))
        call.source = <const char *> cnp.PyArray_DATA(source)
        call.destination = <char *> cnp.PyArray_DATA(destination)
        call.zeros = <const char *> cnp.PyArray_DATA(self.zeros)
        call.epilogue.shift = <const char *> cnp.PyArray_DATA(bias) if bias is not None else NULL
        call.epilogue.lower, call.epilogue.upper = lower, upper
        call.wrong = &wrong
        try:
            if packed is None:
                own = acquire(self.packed_bytes + 64, 1)
                self._pack(<const char *> cnp.PyArray_DATA(weight), own)
                call.weight = own
            else:
                call.weight = <const char *> cnp.PyArray_DATA(packed)
            scratch = acquire(workspace(p, threads), 1)
            with nogil:
                if threads == 1:
                    run_alone(p, &call, scratch)
                else:
                    run(p, &call, scratch, threads)
        finally:
            release(scratch)
            release(own)
        if wrong:
            self.direct(source, weight, bias, destination, lower, upper, activation, alpha)
        elif activation >= 0:
            activate(p, destination, activation, alpha, threads)


cdef activate(const Problem *p, cnp.ndarray y, int kind, double alpha, int threads):
    """y = activation(y), plane by plane or pixel by pixel."""
    cdef Py_ssize_t n = p.groups * p.kout if p.channels_last else p.destination_plane, i
    cdef char *to = <char *> cnp.PyArray_DATA(y)
    for i in prange(cnp.PyArray_SIZE(y) // n, nogil=True, num_threads=threads, schedule="static"):
        p.kernels.activate(kind, alpha, to + i * n * p.itemsize, to + i * n * p.itemsize, n)


def tiles_of(axis, outputs):
    """A TileAxis a row: with dilation d those of the positions i, i + d, ... for each i < d, grid after grid."""
    dilation, rows = abs(axis.tap_step), []
    for first in range(min(dilation, axis.count)):
        positions = range(first, axis.count, dilation)
        tiles = range(0, len(positions), outputs)
        rows += [
            (positions[i], axis.start + positions[i] * axis.step, min(outputs, len(positions) - i), len(tiles) - 1 - k)
            for k, i in enumerate(tiles)
        ]
    return np.array(rows, np.intp)


def input_table(axis, length):
    """Sources of consecutive inputs of an axis from the first tile's first on, padded to `length`."""
    reach = (len(axis.taps) - 1) * axis.tap_step
    first = axis.first + min(0, reach)
    table = np.full(length, -1, np.intp)
    known = axis.table[first:first + axis.count + abs(reach)]
    table[:len(known)] = known
    return table
