"""Winograd's steps for channels_last: lanes are the channels of a pixel."""

from fastconv.kernels.core cimport (
    FASTCONV_MAX_ROWS,
    ceil_div,
    fastconv_epilogue,
    fastconv_gemm_rows,
    fastconv_gemm_tile,
    fastconv_winograd_pixels,
)
from fastconv.kernels.plan cimport Call
from fastconv.kernels.winograd_problem cimport (
    MOST_VALUES,
    Axis,
    Batch,
    Component,
    Cut,
    Phase,
    Problem,
    Tile,
    TileAxis,
    destination_line,
    has_point,
    source_of,
    sum_chains,
    tile_at,
    weight_point,
)

cdef void pixels_in(const Problem *p, const Phase *f, int component, const Cut *cut, const Call *call, const Batch *b,
                    Py_ssize_t tile) noexcept nogil:
    cdef const char *pixels[MOST_VALUES]
    cdef const Axis *axis = &f.axis[0]
    cdef const Component *from_component = &f.component[component]
    cdef fastconv_winograd_pixels t
    cdef Tile at = tile_at(f, b.first + tile)
    cdef Py_ssize_t pixel = p.groups * p.kin * p.itemsize, line, w
    cdef int d, h, i, used = 0
    for d in range(axis[0].points):
        for h in range(axis[1].points):
            line = pixels_line(p, f, from_component, &at, d, h)
            for i in range(axis[2].points):
                w = source_of(f, from_component, 2, at.w, i)
                pixels[used] = call.zeros if line < 0 or w < 0 else call.source + (line + w) * pixel
                used += 1
    t.axes, t.depth, t.edge, t.channels = p.axes, axis[0].points, axis[2].points, p.kin
    t.pixels, t.offset = pixels, b.group * p.kin * p.itemsize
    t.points = b.points + (tile * f.components + component) * p.kin * p.itemsize
    t.point_stride = cut.stride
    p.kernels.winograd_input_pixels(&t)


cdef inline Py_ssize_t pixels_line(const Problem *p, const Phase *f, const Component *component, const Tile *at, int d,
                                   int h) noexcept nogil:
    """Index of the first pixel of input line (d, h) of a tile, -1 for padding."""
    cdef Py_ssize_t row_d = source_of(f, component, 0, at.d, d), row_h = source_of(f, component, 1, at.h, h)
    if row_d < 0 or row_h < 0:
        return -1
    return at.n * p.source_plane + (row_d * p.source_size[1] + row_h) * p.source_size[2]


cdef void pixels_out(const Problem *p, const Phase *f, const Cut *cut, const Call *call, const Batch *b,
                     Py_ssize_t tile) noexcept nogil:
    cdef char *destinations[MOST_VALUES]
    cdef const char *residuals[MOST_VALUES]
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
    t.axes, t.depth, t.edge, t.channels = p.axes, axis[0].points, axis[2].points, p.kout
    t.destinations = destinations
    for w in range(3):
        t.outputs[w] = axis[w].outputs
    t.points, t.point_stride = b.sums + tile * p.kout * p.itemsize, cut.stride
    if epilogue.shift != NULL:
        epilogue.shift += offset
    if call.residual != NULL:
        epilogue.residual = residuals
        for w in range(used):
            if destinations[w] != NULL:
                residuals[w] = call.residual + (destinations[w] - call.destination)
    if p.kernels.winograd_output_pixels(&t, &epilogue):
        call.wrong[0] = 1


cdef void tiles_by_panels(const Problem *p, const Phase *f, const Cut *cut, const Call *call, const Batch *b,
                          Py_ssize_t point, Py_ssize_t column, Py_ssize_t stop) noexcept nogil:
    """sums[point][tile][column .. stop] = points[point][tile][channel] x weight[point][panel][channel][NR]."""
    cdef Py_ssize_t channels = f.components * p.kin
    cdef const char *panel = weight_point(p, f, call, b.group, point)
    while column < stop:
        if f.part == p.kin:
            all_by_panel(p, f, cut, b, point, column, panel + column * channels * p.itemsize)
        else:
            parts_by_panel(p, f, cut, b, point, column, panel + column * channels * p.itemsize)
        column += p.kernels.nr


cdef void all_by_panel(const Problem *p, const Phase *f, const Cut *cut, const Batch *b, Py_ssize_t point,
                       Py_ssize_t column, const char *panel) noexcept nogil:
    """All tiles chain by chain, so that L1 keeps the panel's lines meanwhile; see `sum_chains`."""
    cdef Py_ssize_t nr = p.kernels.nr, isz = p.itemsize, channels = f.components * p.kin, in_place = 0, channel, end
    cdef bint first = True
    cdef int i
    cdef fastconv_gemm_rows r
    r.rows, r.entries, r.a_offsets, r.residual, r.epilogue = b.tiles, 1, &in_place, NULL, NULL
    r.a_step, r.c_step, r.ldb, r.columns = channels * isz, p.kout * isz, nr, <int> min(nr, p.kout - column)
    r.c = b.sums + point * cut.stride + column * isz
    r.prefetch_step = nr * isz // ceil_div(b.tiles, p.kernels.mr)
    for i in range(f.components):
        if not has_point(f, &f.component[i], point):
            continue
        channel, end = i * p.kin, (i + 1) * p.kin
        while channel < end:
            r.k, r.accumulate = min(f.chain, end - channel), not first
            r.a = b.points + point * cut.stride + channel * isz
            r.b = panel + channel * nr * isz
            r.prefetch = r.b + channels * nr * isz
            p.kernels.gemm_rows(&r)
            channel += r.k
            first = False


cdef void parts_by_panel(const Problem *p, const Phase *f, const Cut *cut, const Batch *b, Py_ssize_t point,
                         Py_ssize_t column, const char *panel) noexcept nogil:
    """Tile by tile, where parts of the channels are added up by themselves."""
    cdef Py_ssize_t nr = p.kernels.nr, mr = p.kernels.mr, isz = p.itemsize, channels = f.components * p.kin, zero = 0
    cdef Py_ssize_t tile = 0, i
    cdef const char *a[FASTCONV_MAX_ROWS]
    cdef char *c[FASTCONV_MAX_ROWS]
    cdef fastconv_gemm_tile t
    t.entries, t.a, t.b_offsets, t.c, t.ldb = 1, a, &zero, c, nr
    t.columns, t.c_offset = <int> min(nr, p.kout - column), column * isz
    t.prefetch, t.prefetch_step = panel + nr * channels * isz, nr * isz // ceil_div(b.tiles, mr)
    while tile < b.tiles:
        t.rows = <int> ceil_div(b.tiles - tile, ceil_div(b.tiles - tile, mr))
        for i in range(t.rows):
            a[i] = b.points + point * cut.stride + (tile + i) * channels * isz
            c[i] = b.sums + point * cut.stride + (tile + i) * p.kout * isz
        t.b = panel
        sum_chains(p, f, point, &t)
        t.prefetch += channels * t.prefetch_step
        tile += t.rows
