"""Winograd's steps for channels_first: lanes are tiles that follow each other along lines of planes."""

from libc.string cimport memset

from fastconv.kernels.core cimport (
    FASTCONV_MAX_ROWS,
    ceil_div,
    fastconv_epilogue,
    fastconv_gemm_tile,
    fastconv_run,
    fastconv_winograd_planes,
)
from fastconv.kernels.plan cimport Call
from fastconv.kernels.winograd_problem cimport (
    MOST_LANES,
    MOST_PARTS,
    MOST_VALUES,
    POINTS,
    Axis,
    Batch,
    Component,
    Cut,
    Phase,
    Problem,
    Tile,
    TileAxis,
    destination_line,
    source_of,
    sum_chains,
    tile_at,
    weight_point,
)

cdef struct Stretch:              # tiles of one line and sub-grid
    Py_ssize_t lane, length
    Tile at


cdef int stretches_of(const Phase *f, Py_ssize_t q, Py_ssize_t lanes, Stretch *stretches) noexcept nogil:
    cdef Py_ssize_t lane = 0
    cdef int count = 0
    while lane < lanes:
        stretches[count].lane, stretches[count].at = lane, tile_at(f, q + lane)
        stretches[count].length = min(1 + f.axis[2].tile[stretches[count].at.w].more, lanes - lane)
        lane += stretches[count].length
        count += 1
    return count


cdef Py_ssize_t source_line(const Problem *p, const Phase *f, const Component *component, const Tile *at, int d,
                            int h) noexcept nogil:
    """Index of the first element of input line (d, h) of a tile in the first channel of its image, -1 for padding."""
    cdef Py_ssize_t row_d = source_of(f, component, 0, at.d, d), row_h = source_of(f, component, 1, at.h, h)
    if row_d < 0 or row_h < 0:
        return -1
    return at.n * p.groups * p.kin * p.source_plane + (row_d * p.source_size[1] + row_h) * p.source_size[2]


cdef Py_ssize_t line_runs(const Axis *w, const Py_ssize_t *table, const Stretch *s, Py_ssize_t part,
                          fastconv_run *runs) noexcept nogil:
    """Runs of a stretch's columns, from a line's first element, to its place in the buffer's part of the line."""
    cdef Py_ssize_t length = s.length * w.outputs, i = 0, begin, source, count = 0
    table += w.tile[s.at.w].input + part * w.outputs * w.dilation
    while i < length:
        source, begin = table[i * w.dilation], i
        i += 1
        if source < 0:
            continue
        while i < length and table[i * w.dilation] == source + (i - begin) * w.source_step:
            i += 1
        runs[count] = fastconv_run(source, s.lane * w.outputs + begin, i - begin, w.source_step, False)
        count += 1
    return count


cdef Py_ssize_t input_runs(const Problem *p, const Phase *f, const Component *component, Py_ssize_t q,
                           Py_ssize_t lanes, fastconv_run *runs, Py_ssize_t *whole) noexcept nogil:
    """How the buffer of VLEN tiles' lines is filled for any channel; see table.h."""
    cdef Stretch stretches[MOST_LANES]
    cdef int used = stretches_of(f, q, lanes, stretches), d, h, s
    cdef Py_ssize_t length = f.axis[2].outputs * p.kernels.vlen, line = 0, count = 0, part, first, i, base
    for d in range(f.axis[0].points):
        for h in range(f.axis[1].points):
            for part in range(ceil_div(f.axis[2].points, f.axis[2].outputs)):
                first = count
                for s in range(used):
                    base = source_line(p, f, component, &stretches[s].at, d, h)
                    if base < 0:
                        continue
                    i = count
                    count += line_runs(&f.axis[2], component.table[2], &stretches[s], part, runs + count)
                    while i < count:
                        runs[i].start += base
                        runs[i].to += line * length
                        i += 1
                whole[line] = -1
                if count == first + 1 and runs[first].length == length and runs[first].step == 1:
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
    cdef Py_ssize_t length = outputs * p.kernels.vlen
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
            if count == first + 1 and runs[first].length == length and runs[first].step == 1:
                whole[line], count = runs[first].start, first
            line += 1
    return count


cdef fastconv_winograd_planes planes_of(const Problem *p, const Phase *f, Py_ssize_t lanes, char *lists) noexcept nogil:
    cdef fastconv_winograd_planes t
    cdef int i
    memset(&t, 0, sizeof(t))
    t.axes, t.depth, t.edge, t.lanes = p.axes, f.axis[0].points, f.axis[2].points, lanes
    for i in range(3):
        t.outputs[i] = f.axis[i].outputs
    t.whole = <const Py_ssize_t *> lists
    t.runs = <const fastconv_run *> (t.whole + MOST_PARTS * MOST_VALUES // POINTS)
    return t


cdef void planes_in(const Problem *p, const Phase *f, int component, const Cut *cut, const Call *call, const Batch *b,
                    Py_ssize_t vector, Py_ssize_t channel, Py_ssize_t stop, char *lists) noexcept nogil:
    cdef Py_ssize_t vlen = p.kernels.vlen, isz = p.itemsize, lanes = min(vlen, b.tiles - vector * vlen)
    cdef fastconv_winograd_planes t = planes_of(p, f, lanes, lists)
    t.count = input_runs(p, f, &f.component[component], b.first + vector * vlen, lanes, <fastconv_run *> t.runs,
                         <Py_ssize_t *> t.whole)
    t.channels, t.plane_stride = stop - channel, p.source_plane
    t.source = call.source + (b.group * p.kin + channel) * p.source_plane * isz
    t.point_stride, t.channel_stride = cut.stride, cut.tiles * isz
    t.points = b.points + (component * p.kin + channel) * t.channel_stride + vector * vlen * isz
    p.kernels.winograd_input_planes(&t)


cdef void planes_out(const Problem *p, const Phase *f, const Cut *cut, const Call *call, const Batch *b,
                     Py_ssize_t vector, Py_ssize_t row, Py_ssize_t stop, char *lists) noexcept nogil:
    cdef Py_ssize_t vlen = p.kernels.vlen, isz = p.itemsize, lanes = min(vlen, b.tiles - vector * vlen)
    cdef fastconv_winograd_planes t = planes_of(p, f, lanes, lists)
    cdef fastconv_epilogue epilogue = call.epilogue
    cdef const char *residual = call.residual
    t.count = output_runs(p, f, b.first + vector * vlen, lanes, <fastconv_run *> t.runs, <Py_ssize_t *> t.whole)
    t.channels, t.plane_stride = stop - row, p.destination_plane
    t.destination = call.destination + (b.group * p.kout + row) * p.destination_plane * isz
    t.point_stride, t.channel_stride = cut.stride, cut.tiles * isz
    t.points = b.sums + row * t.channel_stride + vector * vlen * isz
    if epilogue.shift != NULL:
        epilogue.shift += (b.group * p.kout + row) * isz
    if residual != NULL:
        residual += t.destination - call.destination
        epilogue.residual = &residual
    if p.kernels.winograd_output_planes(&t, &epilogue):
        call.wrong[0] = 1


cdef void rows_by_tiles(const Problem *p, const Phase *f, const Cut *cut, const Call *call, const Batch *b,
                        Py_ssize_t point, Py_ssize_t row, Py_ssize_t stop) noexcept nogil:
    """sums[point][row .. stop][tile] = weight[point][row][channel] x points[point][channel][tile]."""
    cdef Py_ssize_t nr = p.kernels.nr, isz = p.itemsize, zero = 0, length = cut.tiles * isz, tile, tiles, i, ahead
    cdef Py_ssize_t channels = f.components * p.kin
    cdef const char *weight = weight_point(p, f, call, b.group, point)
    cdef const char *a[FASTCONV_MAX_ROWS]
    cdef char *c[FASTCONV_MAX_ROWS]
    cdef fastconv_gemm_tile t
    tiles = ceil_div(b.tiles, nr)
    t.entries, t.a, t.b_offsets, t.c, t.ldb = 1, a, &zero, c, cut.tiles
    while row < stop:
        t.rows = <int> ceil_div(stop - row, ceil_div(stop - row, p.kernels.mr))
        for i in range(t.rows):
            a[i] = weight + (row + i) * channels * isz
            c[i] = b.sums + point * cut.stride + (row + i) * length
        ahead, t.prefetch_step = t.rows * channels * isz // tiles, t.rows * isz // tiles
        for tile in range(tiles):
            t.prefetch = a[0] + t.rows * channels * isz + tile * ahead
            t.columns = <int> min(nr, b.tiles - tile * nr)
            t.c_offset = tile * nr * isz
            t.b = b.points + point * cut.stride + t.c_offset
            sum_chains(p, f, point, &t)
        row += t.rows
