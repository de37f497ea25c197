"""The steps of a weight gradient by Winograd's filtering; see winograd_weight.pyx.

Lanes are channels. Planes of channels_first are turned to pixels on the way, some lines of a chunk of channels at a
time.
"""

from libc.math cimport INFINITY
from libc.string cimport memcpy, memset

from fastconv.kernels.core cimport (
    ceil_div,
    fastconv_epilogue,
    fastconv_pairs_tile,
    fastconv_winograd_pixels,
    fastconv_winograd_weight,
)
from fastconv.kernels.winograd_problem cimport MOST_VALUES, Axis, Phase, Tile, source_of, tile_at
from fastconv.kernels.winograd_weight cimport CHUNK, Gradients, Problem

cdef struct Lines:                # some lines of pixels
    const char *first[MOST_VALUES]  # the first pixel of each, NULL for padding
    Py_ssize_t step               # bytes between pixels


cdef Py_ssize_t channels_of(Py_ssize_t chunk, Py_ssize_t channels, bint channels_last) noexcept nogil:
    """How many channels the chunk has."""
    return channels if channels_last else min(CHUNK, channels - chunk * CHUNK)


cdef Lines lines_from(const Problem *p, const char *array, const Py_ssize_t *line, int count, Py_ssize_t image,
                      Py_ssize_t plane, Py_ssize_t width, Py_ssize_t all, Py_ssize_t channel, Py_ssize_t channels,
                      char *own) noexcept nogil:
    """Lines of an image, -1 for padding, with `channels` of its `all` channels; turned to pixels in `own` memory."""
    cdef Py_ssize_t isz = p.itemsize
    cdef Lines to
    cdef int i
    to.step = (all if p.channels_last else channels) * isz
    for i in range(count):
        if line[i] < 0:
            to.first[i] = NULL
        elif p.channels_last:
            to.first[i] = array + ((image * plane + line[i] * width) * all + channel) * isz
        else:
            to.first[i] = own + i * width * to.step
            p.kernels.copy_matrix(<char *> to.first[i], channels,
                                  array + ((image * all + channel) * plane + line[i] * width) * isz, 1, plane, width,
                                  channels)
    return to


cdef void x_line(const Problem *p, const Gradients *g, Py_ssize_t group, Py_ssize_t first, Py_ssize_t line,
                 Py_ssize_t chunk, char *own) noexcept nogil:
    """The points of x of a batch's line of tiles, of a chunk of channels."""
    cdef const Phase *f = &p.phase
    cdef const Axis *axis = &f.axis[0]
    cdef Py_ssize_t begin = chunk * CHUNK, channels = channels_of(chunk, p.kin, p.channels_last), count = 0, tile, row
    cdef Tile at = tile_at(f, (first + line) * axis[2].tiles)
    cdef Py_ssize_t line_of[MOST_VALUES]
    cdef const char *pixels[MOST_VALUES]
    cdef fastconv_winograd_pixels t
    cdef Lines lines
    cdef int d, h, i, j
    for d in range(axis[0].points):
        for h in range(axis[1].points):
            row = source_of(f, f.component, 0, at.d, d)
            line_of[count] = source_of(f, f.component, 1, at.h, h)
            line_of[count] = -1 if row < 0 or line_of[count] < 0 else row * p.x_size[1] + line_of[count]
            count += 1
    lines = lines_from(p, g.x, line_of, <int> count, at.n, p.x_plane, p.x_size[2], p.groups * p.kin,
                       group * p.kin + begin, channels, own)
    memset(&t, 0, sizeof(t))
    t.axes, t.depth, t.edge = p.axes, axis[0].points, axis[2].points
    t.pixels, t.point_stride = pixels, p.x_stride
    for tile in range(axis[2].tiles):
        for j in range(axis[2].points):
            row = source_of(f, f.component, 2, tile, j)
            for i in range(count):
                pixels[i * axis[2].points + j] = (
                    g.zeros if row < 0 or lines.first[i] == NULL else lines.first[i] + row * lines.step)
        for i in range(ceil_div(channels, p.columns)):
            t.channels, t.offset = min(p.columns, channels - i * p.columns), i * p.columns * p.itemsize
            t.points = g.x_points + ((begin // p.columns + i) * p.tiles
                                     + line * axis[2].tiles + tile) * p.columns * p.itemsize
            p.kernels.winograd_input_pixels(&t)


cdef void y_line(const Problem *p, const Gradients *g, Py_ssize_t group, Py_ssize_t first, Py_ssize_t line,
                 Py_ssize_t chunk, char *own) noexcept nogil:
    """The same of grad_y, whose tiles are transformed as weights are; outputs that a tile lacks are 0."""
    cdef const Phase *f = &p.phase
    cdef const Axis *axis = &f.axis[0]
    cdef Py_ssize_t begin = chunk * CHUNK, channels = channels_of(chunk, p.kout, p.channels_last), count = 0, tile, n
    cdef Tile at = tile_at(f, (first + line) * axis[2].tiles)
    cdef Py_ssize_t line_of[MOST_VALUES]
    cdef Py_ssize_t offsets[MOST_VALUES]
    cdef const char *corner = NULL
    cdef fastconv_winograd_weight t
    cdef Lines lines
    cdef int d, h, i, j
    for d in range(axis[0].outputs):
        for h in range(axis[1].outputs):
            line_of[count] = -1
            if d < axis[0].tile[at.d].outputs and h < axis[1].tile[at.h].outputs:
                n = axis[0].tile[at.d].output + d * axis[0].step
                line_of[count] = n * p.y_size[1] + axis[1].tile[at.h].output + h * axis[1].step
            count += 1
    lines = lines_from(p, g.y, line_of, <int> count, at.n, p.y_plane, p.y_size[2], p.groups * p.kout,
                       group * p.kout + begin, channels, own)
    t.axes, t.depth, t.edge = p.axes, axis[0].points, axis[2].points
    t.offsets, t.stride, t.point_stride = offsets, 1, p.y_stride
    for i in range(3):
        t.taps[i] = axis[i].outputs
    for tile in range(axis[2].tiles):
        corner = lines.first[0] + axis[2].tile[tile].output * lines.step
        for i in range(count):
            for j in range(axis[2].outputs):
                n = -1
                if lines.first[i] != NULL and j < axis[2].tile[tile].outputs:
                    n = (lines.first[i] - lines.first[0] + j * axis[2].step * lines.step) // p.itemsize
                offsets[i * axis[2].outputs + j] = n
        for i in range(ceil_div(channels, p.rows)):
            p.kernels.winograd_weight(&t, corner + i * p.rows * p.itemsize,
                                      g.y_points + ((begin // p.rows + i) * p.tiles
                                                    + line * axis[2].tiles + tile) * p.rows * p.itemsize,
                                      min(p.rows, channels - i * p.rows))


cdef void add_products(const Problem *p, const Gradients *g, Py_ssize_t point, Py_ssize_t block, Py_ssize_t tiles,
                       bint first) noexcept nogil:
    """sums[point][row][channel] += grad_y's points times x's, over so many tiles, of a block of rows."""
    cdef Py_ssize_t rows = min(p.rows, p.kout - block * p.rows), row, panel, vlen = p.kernels.vlen
    cdef char *sums = g.sums + point * p.sum_stride + block * p.rows * p.sum_row
    cdef fastconv_pairs_tile t
    t.ldc, t.prefetch, t.prefetch_step = p.sum_row // p.itemsize, sums, 0
    for panel in range(ceil_div(p.kin, p.columns)):
        t.b = g.x_points + point * p.x_stride + panel * p.tiles * p.columns * p.itemsize
        t.vectors = <int> ceil_div(min(p.columns, p.kin - panel * p.columns), vlen)
        row = 0
        while row < rows:
            t.rows = <int> ceil_div(rows - row, ceil_div(rows - row, p.kernels.pairs_mr))
            t.a = g.y_points + point * p.y_stride + (block * p.tiles * p.rows + row) * p.itemsize
            t.c = sums + row * p.sum_row + panel * p.columns * p.itemsize
            sum_chains(p, &t, tiles, first)
            row += t.rows


cdef inline void sum_chains(const Problem *p, fastconv_pairs_tile *t, Py_ssize_t tiles, bint first) noexcept nogil:
    """The tile's sums over all tiles, chain by chain: long chains would round coarser than direct sums."""
    cdef Py_ssize_t tile = 0
    while tile < tiles:
        t.pairs, t.count, t.accumulate = p.pairs + tile, min(p.chain, tiles - tile), not first or tile > 0
        p.kernels.gemm_pairs(t)
        tile += t.count


cdef void add_span(const Problem *p, const Gradients *g, Py_ssize_t point, Py_ssize_t block, bint first) noexcept nogil:
    """totals[point][row][channel] += sums, of a block of rows."""
    cdef Py_ssize_t bytes = min(p.rows, p.kout - block * p.rows) * p.sum_row, n = bytes // p.itemsize
    cdef Py_ssize_t at = point * p.sum_stride + block * p.rows * p.sum_row
    if first:
        memcpy(g.totals + at, g.sums + at, bytes)
    else:
        p.kernels.sum_rows(g.totals + at, g.sums + at, n, 1, n)


cdef void gradient_row(const Problem *p, const Gradients *g, Py_ssize_t group, Py_ssize_t row,
                       char *own) noexcept nogil:
    """weight[row][channel][tap] from the sums, by way of [tap][channel] in `own` memory."""
    cdef char *destinations[MOST_VALUES]
    cdef fastconv_winograd_pixels t
    cdef fastconv_epilogue epilogue
    cdef Py_ssize_t i
    memset(&t, 0, sizeof(t))
    memset(&epilogue, 0, sizeof(epilogue))
    epilogue.lower, epilogue.upper = -INFINITY, INFINITY
    t.axes, t.depth, t.edge = p.axes, p.phase.axis[0].points, p.phase.axis[2].points
    t.channels, t.destinations = p.kin, destinations
    for i in range(3):
        t.outputs[i] = p.phase.taps[i]
    for i in range(p.taps):
        destinations[i] = own + i * p.sum_row
    t.points, t.point_stride = g.totals + row * p.sum_row, p.sum_stride
    if p.kernels.winograd_output_pixels(&t, &epilogue):
        g.wrong[0] = 1
    p.kernels.copy_matrix(g.weight + (group * p.kout + row) * p.kin * p.taps * p.itemsize, p.taps, own, 1,
                          p.sum_row // p.itemsize, p.kin, p.taps)
