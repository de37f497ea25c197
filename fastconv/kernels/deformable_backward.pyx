"""Gradients of deformable convolution with respect to x, offset, weight, bias and mask.

The tiles of deformation.pyx pass in chunks, each in three steps that a team shares out:

    prepare     the points of every tile and offset group; grad_y with pixels and channels swapped
    produce     for a tile and part:  grad[k][p] = sum over f of w[f][k] grad_y[f][p],  the samples once more, and
                dots = sums over channels of grad * each of a point's four neighbours
    consume     grad_weight += grad_y x samples; grad_offset and grad_mask from the dots; grad_x by scattering grad,
                each task owning some channels of an image, so that no two write the same element

Chunks depend on the geometry alone, and every sum has one order, whatever the number of threads.
"""

import numpy as np

from cython.parallel cimport parallel, prange, threadid
from libc.math cimport INFINITY
from libc.string cimport memcpy, memset
cimport numpy as cnp

from fastconv.kernels.arrays cimport contiguous, data
from fastconv.kernels.core cimport (
    CACHE_LINE,
    FASTCONV_MAX_ROWS,
    acquire,
    ceil_div,
    even_part,
    fastconv_epilogue,
    fastconv_gemm_tile,
    fastconv_grid,
    fastconv_points,
    fastconv_run,
    fastconv_sampling,
    fegetenv,
    fenv_t,
    fesetenv,
    release,
    round_up,
    team,
)
from fastconv.kernels.deformation cimport (
    PANEL_BYTES,
    SHARED_BYTES,
    Deformation,
    Inputs,
    Part,
    Problem,
    Segment,
    Tile,
    grid_at,
    grid_bytes,
    locate,
    points_in,
    sample,
    tile_at,
)

cnp.import_array()

cdef enum:
    PLANE_BYTES = 4 * 1024 * 1024   # the largest image of one cache line a pixel that a thread gathers grad_x in
    STRIP = 64                      # rows of a weight that are transposed together

ctypedef fused real:
    float
    double

ctypedef fused integer:
    int
    long long

cdef struct Call:
    Inputs inputs
    const char *grad_y
    const char *filters         # the weight as it is given
    const char *ones
    char *weight                # packed
    char *sums                  # grad_weight in the order in which it is summed
    char *grad_x                # and so on: NULL where not needed
    char *grad_offset
    char *grad_weight
    char *grad_bias
    char *grad_mask

cdef struct Chunk:              # buffers of one chunk, each [...][tile of the chunk]; NULL where not needed
    Py_ssize_t first, count     # tiles
    char *points                # [offset group]
    char *swapped               # grad_y: [group][pixel][f], or [group][f][pixel]
    char *grads                 # [part] a panel
    char *samples
    char *dots                  # [segment] [taps][4][lanes]


# --------------------------------------------------------------------------------------------- packing of weights

cdef void pack_rows(const Problem *p, const Call *call, Py_ssize_t unit) noexcept nogil:
    """channels_first: weight[group][channel][tap][f] from filters[C_out][channel][tap], some rows at a time."""
    cdef Py_ssize_t k = p.kin * p.taps, strips = ceil_div(k, STRIP), first = unit % strips * STRIP
    cdef Py_ssize_t group = unit // strips, at = group * p.kout * k
    p.kernels.pack_matrix(call.weight + (at + first * p.kout) * p.itemsize, p.kout,
                          call.filters + (at + first) * p.itemsize, 1, k, min(<Py_ssize_t> STRIP, k - first), p.kout)


cdef void pack_taps(const Problem *p, const Call *call, Py_ssize_t unit) noexcept nogil:
    """channels_last: weight[part][tap][panel of channels][f][NR] from filters[C_out][channel][tap]."""
    cdef Py_ssize_t nr = p.kernels.nr, isz = p.itemsize, tap = unit % p.taps, c = 0, at
    cdef const Part *part = &p.part[unit // p.taps]
    cdef char *to = call.weight + (part - p.part) * p.packed_part + tap * p.kout * round_up(part.channels, nr) * isz
    at = (part.group * p.kout * p.kin + part.channel - part.group * p.kin) * p.taps + tap
    while c < part.channels:
        p.kernels.pack_matrix(to, nr, call.filters + (at + c * p.taps) * isz, p.kin * p.taps, p.taps, p.kout,
                              min(nr, part.channels - c))
        to += p.kout * nr * isz
        c += nr


cdef void pack_weight(const Problem *p, const Call *call, Py_ssize_t unit) noexcept nogil:
    if p.channels_last:
        pack_taps(p, call, unit)
    else:
        pack_rows(p, call, unit)


cdef Py_ssize_t pack_units(const Problem *p, const Chunk *c) noexcept nogil:
    if c.grads == NULL:
        return 0
    return p.parts * p.taps if p.channels_last else p.groups * ceil_div(p.kin * p.taps, STRIP)


cdef Py_ssize_t unpack_units(const Problem *p, const Call *call) noexcept nogil:
    if call.grad_weight == NULL:
        return 0
    return p.parts * p.kout if p.channels_last else p.groups * ceil_div(p.kout, STRIP)


cdef void unpack_weight(const Problem *p, const Call *call, Py_ssize_t unit) noexcept nogil:
    """grad_weight[C_out][channel][tap] from its sums [group][channel][tap][f] or [part][f][tap][channel]."""
    cdef Py_ssize_t k = p.kin * p.taps, isz = p.itemsize, strips, f, at
    cdef const Part *part
    if p.channels_last:
        part, f = &p.part[unit // p.kout], unit % p.kout
        at = (part.channel * p.kout + f * part.channels) * p.taps
        f += part.group * p.kout
        p.kernels.pack_matrix(call.grad_weight + (f * k + (part.channel - part.group * p.kin) * p.taps) * isz, p.taps,
                              call.sums + at * isz, 1, part.channels, part.channels, p.taps)
    else:
        strips = ceil_div(p.kout, STRIP)
        f, at = unit % strips * STRIP, unit // strips * p.kout * k
        p.kernels.pack_matrix(call.grad_weight + (at + f * k) * isz, k, call.sums + (at + f) * isz, 1, p.kout,
                              min(<Py_ssize_t> STRIP, p.kout - f), k)


# ------------------------------------------------------------------------------------------- prepare

cdef inline char *points_of(const Problem *p, const Chunk *c, Py_ssize_t i, Py_ssize_t offset_group) noexcept nogil:
    return c.points + (i * p.offset_groups + offset_group) * p.points_bytes


cdef inline Py_ssize_t *extent_of(const Problem *p, char *points) noexcept nogil:
    """The first and the last pixel that starts a square of the tile: what scattering has to clear and to add."""
    return <Py_ssize_t *> (points + p.points_bytes) - 2


cdef void find_extent(const Problem *p, Py_ssize_t count, const integer *pixel, Py_ssize_t *extent) noexcept nogil:
    cdef Py_ssize_t tap, i
    cdef integer low = pixel[0], high = pixel[0]
    for tap in range(p.taps):
        for i in range(count):
            low = min(low, pixel[tap * p.grid.lanes + i])
            high = max(high, pixel[tap * p.grid.lanes + i])
    extent[0], extent[1] = low, high


cdef inline Py_ssize_t swapped_tile(const Problem *p) noexcept nogil:
    """Bytes of grad_y with pixels and channels swapped, a tile and group."""
    return p.rows * (p.kout if p.channels_last else p.ld) * p.itemsize


cdef void swap_grad_y(const Problem *p, const Call *call, const Tile *t, Py_ssize_t group, char *to) noexcept nogil:
    """channels_first: [pixel][f], padded to whole vectors; channels_last: [f][pixel]."""
    cdef Py_ssize_t outputs = p.groups * p.kout, at
    if p.channels_last:
        at = (t.n * p.pixels + t.q) * outputs + group * p.kout
        p.kernels.pack_matrix(to, p.rows, call.grad_y + at * p.itemsize, 1, outputs, p.kout, t.count)
    else:
        at = (t.n * outputs + group * p.kout) * p.pixels + t.q
        p.kernels.pack_matrix(to, p.ld, call.grad_y + at * p.itemsize, 1, p.pixels, t.count, p.kout)


cdef void prepare(const Problem *p, const Call *call, const Chunk *c, Py_ssize_t unit, char *workspace) noexcept nogil:
    cdef Py_ssize_t i = unit % c.count, which = unit // c.count
    cdef Tile t = tile_at(p, c.first + i)
    cdef char *points = NULL
    if which >= p.offset_groups:
        which -= p.offset_groups
        if c.swapped != NULL:
            swap_grad_y(p, call, &t, which, c.swapped + (which * p.chunk + i) * swapped_tile(p))
        return
    points = points_of(p, c, i, which)
    locate(p, &call.inputs, &t, which, workspace, points)
    if p.itemsize == 4:
        find_extent(p, t.count, <const int *> points, extent_of(p, points))
    else:
        find_extent(p, t.count, <const long long *> points, extent_of(p, points))


# ------------------------------------------------------------------------------------------ produce

cdef inline Py_ssize_t panel_of(const Problem *p, const Part *part, Py_ssize_t i) noexcept nogil:
    """Where the panel of a part and of the chunk's tile i starts, in bytes."""
    cdef Py_ssize_t width = p.rows if p.channels_last else p.grid.lanes
    return (part.channel * p.chunk + i * part.channels) * p.taps * width * p.itemsize


cdef void gradients_by_rows(const Problem *p, const Call *call, const Tile *t, const Part *part, char *grads,
                            char *workspace) noexcept nogil:
    """channels_first: grads[channel][tap][NR] = transposed weight x grad_y."""
    cdef Py_ssize_t isz = p.itemsize, zero = 0, k, f = 0, i, rows = part.channels * p.taps
    cdef const char *grad_y = call.grad_y + ((t.n * p.groups + part.group) * p.kout * p.pixels) * isz
    cdef const char *weight = call.weight + part.channel * p.taps * p.kout * isz
    cdef const char *a[FASTCONV_MAX_ROWS]
    cdef char *c[FASTCONV_MAX_ROWS]
    cdef fastconv_run run = fastconv_run(t.q, 0, t.count, 1, 0)
    cdef fastconv_gemm_tile g
    g.entries, g.a, g.c, g.c_offset, g.epilogue = 1, a, c, 0, NULL
    g.b, g.b_offsets, g.ldb, g.columns = workspace, &zero, p.grid.lanes, <int> t.count
    while f < p.kout:
        g.k, g.a_offset, g.accumulate = min(p.fc, p.kout - f), f * isz, f > 0
        p.kernels.pack_runs(workspace, p.grid.lanes, grad_y + f * p.pixels * isz, p.pixels, g.k, &run, 1, NULL)
        k = 0
        while k < rows:
            g.rows = <int> min(even_part(rows - k, p.kernels.mr, 1), rows - k)
            for i in range(g.rows):
                a[i] = weight + (k + i) * p.kout * isz
                c[i] = grads + (k + i) * p.grid.lanes * isz
            g.prefetch, g.prefetch_step = a[0] + g.a_offset + g.rows * p.kout * isz, g.rows * isz
            p.kernels.gemm(&g)
            k += g.rows
        f += g.k


cdef void gradients_by_pixels(const Problem *p, const Call *call, const Tile *t, const Part *part,
                              char *grads) noexcept nogil:
    """channels_last: grads[pixel][tap][channel] = grad_y x weight."""
    cdef Py_ssize_t isz = p.itemsize, zero = 0, nr = p.kernels.nr, f = 0, q, panel, i, outputs = p.groups * p.kout
    cdef Py_ssize_t panels = ceil_div(part.channels, nr), channel
    cdef const char *grad_y = call.grad_y + ((t.n * p.pixels + t.q) * outputs + part.group * p.kout) * isz
    cdef const char *weight = call.weight + (part - p.part) * p.packed_part
    cdef const char *a[FASTCONV_MAX_ROWS]
    cdef char *c[FASTCONV_MAX_ROWS]
    cdef fastconv_gemm_tile g
    g.entries, g.a, g.c, g.epilogue, g.b_offsets, g.ldb = 1, a, c, NULL, &zero, nr
    while f < p.kout:
        g.k, g.a_offset, g.accumulate = min(p.fc, p.kout - f), f * isz, f > 0
        for panel in range(p.taps * panels):
            channel = panel % panels * nr
            g.b = weight + (panel * p.kout + f) * nr * isz
            g.columns = <int> min(nr, part.channels - channel)
            g.c_offset = (panel // panels * part.channels + channel) * isz
            q = 0
            while q < t.count:
                g.rows = <int> min(even_part(t.count - q, p.kernels.mr, 1), t.count - q)
                for i in range(g.rows):
                    a[i] = grad_y + (q + i) * outputs * isz
                    c[i] = grads + (q + i) * p.taps * part.channels * isz
                g.prefetch, g.prefetch_step = a[0], 0
                p.kernels.gemm(&g)
                q += g.rows
        f += g.k


cdef void produce(const Problem *p, const Call *call, const Chunk *c, Py_ssize_t unit, char *workspace) noexcept nogil:
    cdef Py_ssize_t i = unit % c.count, s
    cdef const Part *part = &p.part[unit // c.count]
    cdef Tile t = tile_at(p, c.first + i)
    cdef char *grads = c.grads + panel_of(p, part, i) if c.grads != NULL else NULL
    cdef char *samples = c.samples + panel_of(p, part, i) if c.samples != NULL else NULL
    cdef char *dots = NULL
    cdef fastconv_points points
    if grads != NULL and p.channels_last:
        gradients_by_pixels(p, call, &t, part, grads)
    elif grads != NULL:
        gradients_by_rows(p, call, &t, part, grads, workspace)
    if samples == NULL and c.dots == NULL:
        return
    for s in range(part.first, part.stop):
        points = points_in(p, &call.inputs, points_of(p, c, i, p.segment[s].offset_group), t.count)
        if c.dots != NULL:
            dots = c.dots + (s * p.chunk + i) * dots_bytes(p)
        sample(p, &call.inputs, &t, &p.segment[s], &points, samples, grads if c.dots != NULL else NULL, dots)


cdef inline Py_ssize_t dots_bytes(const Problem *p) noexcept nogil:
    return 4 * p.taps * p.grid.lanes * p.itemsize


# ------------------------------------------------------------------------------------------ consume

cdef fastconv_points chunk_points(const Problem *p, const Call *call, const Chunk *c, Py_ssize_t tile,
                                  Py_ssize_t offset_group) noexcept nogil:
    return points_in(p, &call.inputs, points_of(p, c, tile - c.first, offset_group), tile_at(p, tile).count)


cdef void scatter(const Problem *p, const Call *call, const Chunk *c, Py_ssize_t n, const Segment *block,
                  char *workspace) noexcept nogil:
    """Add to grad_x what the chunk's tiles of image n give to a block of channels."""
    cdef Py_ssize_t first = max(c.first, n * p.tiles), stop = min(c.first + c.count, (n + 1) * p.tiles)
    cdef Py_ssize_t channels = p.groups * p.kin, tile
    cdef char *image = call.grad_x + n * p.plane * channels * p.itemsize
    if p.channels_last:
        for tile in range(first, stop):
            scatter_rows(p, call, c, tile, block, image + block.channel * p.itemsize)
    elif p.plane * CACHE_LINE <= PLANE_BYTES:
        scatter_lines(p, call, c, first, stop, block, image + block.channel * p.plane * p.itemsize, workspace)
    else:
        for tile in range(first, stop):
            scatter_planes(p, call, c, tile, block, image + block.channel * p.plane * p.itemsize)


cdef void scatter_rows(const Problem *p, const Call *call, const Chunk *c, Py_ssize_t tile, const Segment *block,
                       char *grad_x) noexcept nogil:
    cdef const Part *part = &p.part[block.part]
    cdef fastconv_points points = chunk_points(p, call, c, tile, block.offset_group)
    cdef fastconv_sampling s
    s.grad = c.grads + panel_of(p, part, tile - c.first) + (block.channel - part.channel) * p.itemsize
    s.channels, s.x_stride = block.channels, p.groups * p.kin
    s.stride, s.tap_stride = p.taps * part.channels, part.channels
    p.kernels.scatter_pixels(&points, &s, grad_x)


cdef void scatter_planes(const Problem *p, const Call *call, const Chunk *c, Py_ssize_t tile, const Segment *block,
                         char *grad_x) noexcept nogil:
    """Channel by channel, straight into large planes: a plane is an image of one channel."""
    cdef const Part *part = &p.part[block.part]
    cdef fastconv_points points = chunk_points(p, call, c, tile, block.offset_group)
    cdef Py_ssize_t i, channel = block.channel - part.channel, row = p.taps * p.grid.lanes * p.itemsize
    cdef fastconv_sampling s
    s.channels, s.x_stride, s.stride, s.tap_stride = 1, 1, 1, p.grid.lanes
    for i in range(block.channels):
        s.grad = c.grads + panel_of(p, part, tile - c.first) + (channel + i) * row
        p.kernels.scatter_pixels(&points, &s, grad_x + i * p.plane * p.itemsize)


cdef void scatter_lines(const Problem *p, const Call *call, const Chunk *c, Py_ssize_t first, Py_ssize_t stop,
                        const Segment *block, char *grad_x, char *workspace) noexcept nogil:
    """Into an image of one cache line of channels a pixel, then to planes: so lanes are channels here, too."""
    cdef Py_ssize_t width = CACHE_LINE // p.itemsize, line = p.grid.lanes * p.itemsize, tile, tap
    cdef Py_ssize_t low = p.plane, high = 0
    cdef const Part *part = &p.part[block.part]
    cdef const char *grads
    cdef char *image = workspace + p.grid.lanes * CACHE_LINE
    cdef Py_ssize_t *extent
    cdef fastconv_points points
    cdef fastconv_sampling s
    for tile in range(first, stop):
        extent = extent_of(p, points_of(p, c, tile - c.first, block.offset_group))
        low, high = min(low, extent[0]), max(high, extent[1])
    high = min(p.plane, high + p.grid.width + 2)
    memset(image + low * CACHE_LINE, 0, (high - low) * CACHE_LINE)
    s.grad, s.channels, s.stride, s.tap_stride, s.x_stride = workspace, width, width, 0, width
    for tile in range(first, stop):
        points = chunk_points(p, call, c, tile, block.offset_group)
        points.taps = 1
        grads = c.grads + panel_of(p, part, tile - c.first) + (block.channel - part.channel) * p.taps * line
        for tap in range(p.taps):
            p.kernels.pack_matrix(workspace, width, grads + tap * line, 1, p.taps * p.grid.lanes, points.count,
                                  block.channels)
            p.kernels.scatter_pixels(&points, &s, image)
            points.pixel += line
            points.weight += 4 * line
            points.mask = points.mask + line if points.mask != NULL else NULL
    flush(p, image, low, high, block.channels, grad_x, workspace)


cdef void flush(const Problem *p, const char *image, Py_ssize_t low, Py_ssize_t high, Py_ssize_t channels, char *grad_x,
                char *workspace) noexcept nogil:
    """grad_x[channel][low .. high] += image[low .. high][channel], as many pixels at once as a tile has lanes."""
    cdef Py_ssize_t channel, pixels, width = CACHE_LINE // p.itemsize, ld = p.grid.lanes, at
    while low < high:
        pixels = min(ld, high - low)
        p.kernels.pack_matrix(workspace, ld, image + low * CACHE_LINE, 1, width, channels, pixels)
        for channel in range(channels):
            at = channel * p.plane + low
            if p.itemsize == 4:
                add(<float *> grad_x + at, <const float *> workspace + channel * ld, pixels)
            else:
                add(<double *> grad_x + at, <const double *> workspace + channel * ld, pixels)
        low += pixels


cdef inline void add(real *to, const real *source, Py_ssize_t count) noexcept nogil:
    cdef Py_ssize_t i
    for i in range(count):
        to[i] += source[i]


cdef struct Sum:                # c[i][j] += sum over tiles e, pixels k of  a[e][i][k] * b[e][k][j]
    const char *a
    const char *b
    char *c
    Py_ssize_t a_tile, a_row, b_tile, b_row, c_row  # elements
    Py_ssize_t rows, columns    # columns at most NR


cdef void sum_tiles(const Problem *p, const Chunk *c, const Sum *s, char *workspace) noexcept nogil:
    """The tiles that end an image hold fewer pixels than the others and are summed after them."""
    cdef Py_ssize_t isz = p.itemsize, row = 0, i, e, at, last
    cdef const char **a = <const char **> workspace
    cdef Py_ssize_t *b = <Py_ssize_t *> (a + p.chunk * FASTCONV_MAX_ROWS)
    cdef char *to[FASTCONV_MAX_ROWS]
    cdef fastconv_epilogue total
    cdef fastconv_gemm_tile g
    memset(&total, 0, sizeof(total))
    total.residual, total.lower, total.upper = <const char *const *> to, -INFINITY, INFINITY
    g.a, g.a_offset, g.b, g.b_offsets, g.ldb, g.c, g.c_offset = a, 0, s.b, b, s.b_row, to, 0
    g.columns, g.accumulate = <int> s.columns, 0
    while row < s.rows:
        g.rows = <int> min(even_part(s.rows - row, p.kernels.mr, 1), s.rows - row)
        for i in range(g.rows):
            to[i] = s.c + (row + i) * s.c_row * isz
        g.epilogue = NULL if c.first == 0 else &total
        for last in range(2):
            g.entries, at = 0, c.first % p.tiles
            for e in range(c.count):
                if last == (at == p.tiles - 1):
                    for i in range(g.rows):
                        a[g.entries * FASTCONV_MAX_ROWS + i] = s.a + (e * s.a_tile + (row + i) * s.a_row) * isz
                    b[g.entries] = e * s.b_tile * isz
                    g.entries += 1
                at = at + 1 if at < p.tiles - 1 else 0
            if g.entries > 0:
                g.k = p.pixels - (p.tiles - 1) * p.rows if last else p.rows
                g.prefetch, g.prefetch_step = a[0], 0
                p.kernels.gemm(&g)
                g.epilogue = &total
        row += g.rows


cdef Py_ssize_t weight_strips(const Problem *p) noexcept nogil:
    return ceil_div(p.kout if p.channels_last else p.part[0].channels * p.taps, 4 * p.kernels.mr)


cdef Py_ssize_t weight_panels(const Problem *p) noexcept nogil:
    return ceil_div(p.part[0].channels * p.taps if p.channels_last else p.kout, p.kernels.nr)


cdef void sum_weight(const Problem *p, const Call *call, const Chunk *c, Py_ssize_t unit,
                     char *workspace) noexcept nogil:
    """Some rows and columns of a part's [channel][tap][f] or [f][tap][channel]."""
    cdef Py_ssize_t isz = p.itemsize, strips = weight_strips(p), panels = weight_panels(p)
    cdef Py_ssize_t row = unit % strips * 4 * p.kernels.mr, column = unit // strips % panels * p.kernels.nr
    cdef const Part *part = &p.part[unit // (strips * panels)]
    cdef Py_ssize_t k = part.channels * p.taps, at = part.channel * p.taps * p.kout
    cdef const char *swapped = c.swapped + part.group * p.chunk * swapped_tile(p)
    cdef const char *samples = c.samples + panel_of(p, part, 0)
    cdef Sum s
    if p.channels_last:
        s.rows, s.columns = min(p.kout - row, 4 * p.kernels.mr), min(k - column, p.kernels.nr)
        s.a, s.a_tile, s.a_row = swapped + row * p.rows * isz, p.kout * p.rows, p.rows
        s.b, s.b_tile, s.b_row = samples + column * isz, k * p.rows, k
        s.c, s.c_row = call.sums + (at + row * k + column) * isz, k
    else:
        s.rows, s.columns = min(k - row, 4 * p.kernels.mr), min(p.kout - column, p.kernels.nr)
        s.a, s.a_tile, s.a_row = samples + row * p.grid.lanes * isz, k * p.grid.lanes, p.grid.lanes
        s.b, s.b_tile, s.b_row = swapped + column * isz, p.rows * p.ld, p.ld
        s.c, s.c_row = call.sums + (at + row * p.kout + column) * isz, p.kout
    if s.rows > 0 and s.columns > 0:
        sum_tiles(p, c, &s, workspace)


cdef void sum_bias(const Problem *p, const Call *call, const Chunk *c, Py_ssize_t group,
                   char *workspace) noexcept nogil:
    """The same sums with ones in the samples' place."""
    cdef const char *swapped = c.swapped + group * p.chunk * swapped_tile(p)
    cdef Py_ssize_t column = 0
    cdef Sum s
    if p.channels_last:
        s.a, s.a_tile, s.a_row, s.b, s.b_tile, s.b_row = swapped, p.kout * p.rows, p.rows, call.ones, 0, 0
        s.c, s.c_row, s.rows, s.columns = call.grad_bias + group * p.kout * p.itemsize, 1, p.kout, 1
        sum_tiles(p, c, &s, workspace)
        return
    s.a, s.a_tile, s.a_row, s.b_tile, s.b_row, s.rows, s.c_row = call.ones, 0, 0, p.rows * p.ld, p.ld, 1, 0
    while column < p.kout:
        s.b, s.columns = swapped + column * p.itemsize, min(p.kout - column, p.kernels.nr)
        s.c = call.grad_bias + (group * p.kout + column) * p.itemsize
        sum_tiles(p, c, &s, workspace)
        column += p.kernels.nr


cdef void differentiate_points(const Problem *p, const Call *call, const Chunk *c, Py_ssize_t i,
                               Py_ssize_t offset_group, char *workspace) noexcept nogil:
    """grad_offset and grad_mask of a tile and offset group."""
    cdef Tile t = tile_at(p, c.first + i)
    cdef fastconv_grid g = grid_at(p, &call.inputs, &t, offset_group, workspace)
    cdef fastconv_points points = chunk_points(p, call, c, c.first + i, offset_group)
    cdef Py_ssize_t first = p.first_segment[offset_group], parts = p.first_segment[offset_group + 1] - first
    cdef char *by_offset = workspace + grid_bytes(p)
    cdef char *by_mask = by_offset + 2 * p.taps * p.grid.lanes * p.itemsize
    p.kernels.point_gradients(&g, points.mask, c.dots + (first * p.chunk + i) * dots_bytes(p), parts,
                              p.chunk * dots_bytes(p) // p.itemsize, by_offset, by_mask)
    if call.grad_offset != NULL:
        paste_planar(p, &t, by_offset, offset_group, 2 * p.taps, call.grad_offset)
    if call.grad_mask != NULL:
        paste_planar(p, &t, by_mask, offset_group, p.taps, call.grad_mask)


cdef void paste_planar(const Problem *p, const Tile *t, const char *source, Py_ssize_t offset_group, Py_ssize_t count,
                       char *to) noexcept nogil:
    """source[count][lanes] to the channels that an offset group has in an array that lies as the output does."""
    cdef Py_ssize_t i, channels = count * p.offset_groups, first = count * offset_group, at
    if not p.channels_last:
        for i in range(count):
            at = (t.n * channels + first + i) * p.pixels + t.q
            memcpy(to + at * p.itemsize, source + i * p.grid.lanes * p.itemsize, t.count * p.itemsize)
        return
    at = (t.n * p.pixels + t.q) * channels + first
    if p.itemsize == 4:
        paste_rows(<float *> to + at, channels, <const float *> source, p.grid.lanes, t.count, count)
    else:
        paste_rows(<double *> to + at, channels, <const double *> source, p.grid.lanes, t.count, count)


cdef void paste_rows(real *to, Py_ssize_t channels, const real *source, Py_ssize_t lanes, Py_ssize_t pixels,
                     Py_ssize_t count) noexcept nogil:
    cdef Py_ssize_t i, j
    for i in range(pixels):
        for j in range(count):
            to[i * channels + j] = source[j * lanes + i]


cdef struct Tasks:              # of consume, in this order: the longest first
    Py_ssize_t scatter, weight, points, bias


cdef Tasks tasks_of(const Problem *p, const Call *call, const Chunk *c) noexcept nogil:
    cdef Py_ssize_t images = (c.first + c.count - 1) // p.tiles - c.first // p.tiles + 1
    return Tasks(
        images * p.blocks if call.grad_x != NULL else 0,
        p.parts * weight_strips(p) * weight_panels(p) if call.grad_weight != NULL else 0,
        c.count * p.offset_groups if c.dots != NULL else 0,
        p.groups if call.grad_bias != NULL else 0,
    )


cdef Py_ssize_t consumers(const Problem *p, const Call *call, const Chunk *c) noexcept nogil:
    cdef Tasks n = tasks_of(p, call, c)
    return n.scatter + n.weight + n.points + n.bias


cdef void consume(const Problem *p, const Call *call, const Chunk *c, Py_ssize_t unit, char *workspace) noexcept nogil:
    cdef Tasks n = tasks_of(p, call, c)
    if unit < n.scatter:
        scatter(p, call, c, c.first // p.tiles + unit // p.blocks, &p.block[unit % p.blocks], workspace)
        return
    unit -= n.scatter
    if unit < n.weight:
        sum_weight(p, call, c, unit, workspace)
        return
    unit -= n.weight
    if unit < n.points:
        differentiate_points(p, call, c, unit // p.offset_groups, unit % p.offset_groups, workspace)
    else:
        sum_bias(p, call, c, unit - n.points, workspace)


cdef Chunk chunk_at(const Problem *p, const Chunk *buffers, Py_ssize_t i) noexcept nogil:
    cdef Chunk c = buffers[0]
    c.first = i * p.chunk
    c.count = min(p.chunk, p.batch * p.tiles - c.first)
    return c


cdef void run_alone(const Problem *p, const Call *call, const Chunk *buffers, char *workspace) noexcept nogil:
    """Everything by the calling thread, without the price of a team."""
    cdef Py_ssize_t unit, i
    cdef Chunk c
    for unit in range(pack_units(p, buffers)):
        pack_weight(p, call, unit)
    for i in range(ceil_div(p.batch * p.tiles, p.chunk)):
        c = chunk_at(p, buffers, i)
        for unit in range(c.count * (p.offset_groups + p.groups)):
            prepare(p, call, &c, unit, workspace)
        for unit in range(c.count * p.parts):
            produce(p, call, &c, unit, workspace)
        for unit in range(consumers(p, call, &c)):
            consume(p, call, &c, unit, workspace)
    for unit in range(unpack_units(p, call)):
        unpack_weight(p, call, unit)


cdef void run(const Problem *p, const Call *call, const Chunk *buffers, char *workspaces, Py_ssize_t workspace_bytes,
              int threads) noexcept nogil:
    """By a team, whose workers round as their caller does."""
    cdef fenv_t environment
    cdef char *workspace = NULL
    cdef Py_ssize_t unit, i = 0
    cdef Chunk c
    fegetenv(&environment)
    with parallel(num_threads=threads):
        fesetenv(&environment)
        workspace = workspaces + threadid() * workspace_bytes
        for unit in prange(pack_units(p, buffers)):
            pack_weight(p, call, unit)
        for i in range(ceil_div(p.batch * p.tiles, p.chunk)):
            c = chunk_at(p, buffers, i)
            for unit in prange(c.count * (p.offset_groups + p.groups), schedule="dynamic"):
                prepare(p, call, &c, unit, workspace)
            for unit in prange(c.count * p.parts, schedule="dynamic"):
                produce(p, call, &c, unit, workspace)
            for unit in prange(consumers(p, call, &c), schedule="dynamic"):
                consume(p, call, &c, unit, workspace)
        for unit in prange(unpack_units(p, call)):
            unpack_weight(p, call, unit)


cdef class DeformableGradients(Deformation):
    """The gradients of a deformable convolution, ready to be computed any number of times, from any thread."""

    cdef object ones

    def __init__(self, int dtype, geometry, Py_ssize_t offset_groups):
        super().__init__(dtype, geometry, offset_groups)
        cdef Problem *p = &self.problem
        cdef Py_ssize_t tiles = max(1, p.batch * p.tiles)
        self._cut_blocks()
        p.packed_part = round_up(p.part[0].channels, p.kernels.nr) * p.kout * p.taps * p.itemsize
        p.fc = max(1, PANEL_BYTES // (p.kernels.nr * p.itemsize))
        p.ld = round_up(p.kout, p.kernels.vlen)
        p.chunk = even_part(tiles, max(1, min(tiles, SHARED_BYTES // self._tile_bytes())), 1)
        self.ones = np.ones(max(p.rows, p.kernels.vlen), np.float64 if dtype else np.float32)

    cdef _cut_blocks(self):
        """Segments by cache lines of channels, which are scattered together; and those of each offset group."""
        cdef Problem *p = &self.problem
        line = CACHE_LINE // p.itemsize
        blocks = [
            (part, offset_group, a, min(line, channel + channels - a))
            for part, offset_group, channel, channels in self.segments
            for a in range(channel, channel + channels, line)
        ]
        firsts = np.searchsorted([segment[1] for segment in self.segments], range(p.offset_groups + 1))
        self.keep += [np.array(table, np.intp) for table in (blocks, firsts)]
        p.blocks = len(blocks)
        p.block = <const Segment *> cnp.PyArray_DATA(self.keep[2])
        p.first_segment = <const Py_ssize_t *> cnp.PyArray_DATA(self.keep[3])

    cdef Py_ssize_t _tile_bytes(self):
        cdef Problem *p = &self.problem
        return (p.offset_groups * p.points_bytes + p.groups * swapped_tile(p) + p.segments * dots_bytes(p)
                + 2 * p.groups * p.kin * p.taps * p.grid.lanes * p.itemsize)

    cdef Py_ssize_t _task_bytes(self):
        """The most that a task of prepare, produce or consume needs."""
        cdef Problem *p = &self.problem
        cdef Py_ssize_t image = p.plane * CACHE_LINE
        tasks = [
            grid_bytes(p) + 3 * p.taps * p.grid.lanes * p.itemsize,
            p.chunk * (FASTCONV_MAX_ROWS + 1) * sizeof(Py_ssize_t),
        ]
        if not p.channels_last:
            tasks.append((min(p.fc, p.kout) * p.grid.lanes + p.kernels.vlen) * p.itemsize)
            if image <= PLANE_BYTES:
                tasks.append(p.grid.lanes * CACHE_LINE + image)
        return round_up(max(tasks), CACHE_LINE)

    def workspace_bytes(self, int threads):
        """Scratch memory of a call for all gradients on so many threads."""
        return sum(self._buffers([True] * 5)) + threads * self._task_bytes()

    def __call__(self, grad_y, x, offset, mask, weight, need):
        """(grad_x, grad_offset, grad_weight, grad_bias, grad_mask), None where not needed.

        The arrays are of one dtype and checked by the caller; what is not C-contiguous is copied.
        """
        cdef Problem *p = &self.problem
        cdef Call call
        cdef Chunk c
        cdef int threads = team(self.work)
        cdef Py_ssize_t own = self._task_bytes()
        cdef char *memory = NULL
        cdef char *workspaces = NULL
        grad_y, x, offset, mask, weight = [contiguous(array) for array in (grad_y, x, offset, mask, weight)]
        shapes = (x.shape, offset.shape, weight.shape, weight.shape[:1], None if mask is None else mask.shape)
        wanted = [bool(n) and shape is not None for n, shape in zip(need, shapes)]
        grads = tuple([np.zeros(shape, x.dtype) if w else None for w, shape in zip(wanted, shapes)])
        if p.batch == 0 or not any(wanted):
            return grads
        self.set_inputs(&call.inputs, x, offset, mask)
        call.grad_y, call.filters, call.ones = data(grad_y), data(weight), data(self.ones)
        call.grad_x, call.grad_offset, call.grad_weight = data(grads[0]), data(grads[1]), data(grads[2])
        call.grad_bias, call.grad_mask = data(grads[3]), data(grads[4])
        sizes = self._buffers(wanted)
        try:
            memory = acquire(sum(sizes) + threads * own, 1)
            starts = [sum(sizes[:i]) if size else -1 for i, size in enumerate(sizes)]
            c.points, c.swapped = part_of(memory, starts[0]), part_of(memory, starts[1])
            c.grads, c.samples = part_of(memory, starts[2]), part_of(memory, starts[3])
            c.dots = part_of(memory, starts[4])
            call.weight, call.sums = part_of(memory, starts[5]), part_of(memory, starts[6])
            workspaces = memory + <Py_ssize_t> sum(sizes)
            with nogil:
                if threads == 1:
                    run_alone(p, &call, &c, workspaces)
                else:
                    run(p, &call, &c, workspaces, own, threads)
        finally:
            release(memory)
        return grads

    def _buffers(self, wanted):
        """Bytes of what a team shares: points, swapped grad_y, grads, samples, dots, packed weight, its gradient."""
        cdef Problem *p = &self.problem
        cdef Py_ssize_t width = p.rows if p.channels_last else p.grid.lanes
        cdef Py_ssize_t weights = p.groups * p.kout * p.kin * p.taps
        by_x, by_offset, by_weight, by_bias, by_mask = wanted
        panels = (p.groups * p.kin * p.taps * p.chunk * width + p.kernels.vlen) * p.itemsize
        packed = p.parts * p.packed_part if p.channels_last else weights * p.itemsize
        back = by_x or by_offset or by_mask
        sizes = (
            p.chunk * p.offset_groups * p.points_bytes,
            p.chunk * p.groups * swapped_tile(p) if by_weight or by_bias else 0,
            panels if back else 0,
            panels if by_weight else 0,
            p.chunk * p.segments * dots_bytes(p) if by_offset or by_mask else 0,
            packed if back else 0,
            weights * p.itemsize if by_weight else 0,
        )
        return [round_up(size, CACHE_LINE) for size in sizes]


cdef inline char *part_of(char *memory, Py_ssize_t start) noexcept:
    return NULL if start < 0 else memory + start
