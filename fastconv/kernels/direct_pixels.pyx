"""Direct convolution in channels_last: a tile's rows are pixels, its columns are destination channels.

Pixels are read in place through pointers, to zeros where the tap meets padding, and run on across images; weights are
panels [tap][channel][NR] (direct_weights). With few channels lines are copied (direct_few) or, where taps would not lie
side by side in them, a pixel's taps.
"""

from libc.string cimport memcpy, memset

from fastconv.kernels.core cimport (
    FASTCONV_MAX_ROWS,
    ceil_div,
    even_part,
    fastconv_epilogue,
    fastconv_gemm_rows,
    fastconv_gemm_tile,
    fastconv_piece,
)
from fastconv.kernels.direct_few cimport copies_lines, has_few_channels, lines_bytes, sum_lines
from fastconv.kernels.direct_problem cimport (
    Cut,
    Phase,
    Position,
    Problem,
    activate_tile,
    epilogue_of,
    next_line,
    point_residual,
    position_of,
    source_of,
)
from fastconv.kernels.direct_rows cimport panel_at, sum_rows
from fastconv.kernels.plan cimport Call


cdef struct Rows:              # the pixels of one register tile: where they are read, tap by tap, and written
    Py_ssize_t entries
    int rows
    const char **a             # [entries][MAX_ROWS]
    Py_ssize_t *taps           # [entries]: which tap
    char *c[FASTCONV_MAX_ROWS]
    Position at[FASTCONV_MAX_ROWS]


cdef void place_rows(const Problem *p, const Phase *f, const Call *call, Position *at, Rows *r) noexcept nogil:
    """The tile's pixels from `at` on, which moves behind them."""
    cdef Py_ssize_t i = 0, pixel, stop, channels = p.groups * p.kout * p.itemsize
    cdef char *c
    while i < r.rows:
        pixel = (f.offset[0] + at.d * f.step[0]) * p.destination_size[1] + f.offset[1] + at.h * f.step[1]
        pixel = pixel * p.destination_size[2] + f.offset[2] + at.w * f.step[2]
        c = call.destination + (at.n * p.destination_plane + pixel) * channels
        stop = min(<Py_ssize_t> r.rows, i + f.count[2] - at.w)
        while i < stop:
            r.at[i], r.c[i] = at[0], c
            c += f.step[2] * channels
            at.w += 1
            i += 1
        if at.w == f.count[2]:
            next_line(f, at)


cdef inline void point_side_by_side(const char *source, Py_ssize_t pixel, Rows *r) noexcept nogil:
    """Pointers to what pixels read, `pixel` bytes each and one behind the other."""
    cdef Py_ssize_t i
    r.entries, r.taps[0] = 1, 0
    for i in range(r.rows):
        r.a[i] = source + i * pixel


cdef inline Py_ssize_t source_line(const Problem *p, const Phase *f, Py_ssize_t td, Py_ssize_t th,
                                   const Position *at) noexcept nogil:
    """Index of the first pixel of the line that a tap reads, counted from the first image, or -1 for padding."""
    cdef Py_ssize_t d = source_of(f, 0, td, at.d), h = source_of(f, 1, th, at.h)
    if d < 0 or h < 0:
        return -1
    return at.n * p.source_plane + (d * p.source_size[1] + h) * p.source_size[2]


cdef void point_rows(const Problem *p, const Phase *f, const Call *call, Rows *r) noexcept nogil:
    """Pointers to the source pixels of every tap that does not wholly meet padding."""
    cdef Py_ssize_t td, th, tw, i, w, channels = p.groups * p.kin * p.itemsize
    cdef Py_ssize_t line[FASTCONV_MAX_ROWS]
    cdef const char **a = r.a
    cdef bint inside
    r.entries = 0
    for td in range(f.taps[0]):
        for th in range(f.taps[1]):
            for i in range(r.rows):
                line[i] = source_line(p, f, td, th, &r.at[i])
            for tw in range(f.taps[2]):
                inside = False
                for i in range(r.rows):
                    w = source_of(f, 2, tw, r.at[i].w)
                    if line[i] < 0 or w < 0:
                        a[i] = call.zeros
                    else:
                        a[i] = call.source + (line[i] + w) * channels
                        inside = True
                if inside:
                    r.taps[r.entries] = (td * f.taps[1] + th) * f.taps[2] + tw
                    r.entries += 1
                    a += FASTCONV_MAX_ROWS


cdef void copy_taps(const Problem *p, const Phase *f, const Call *call, Py_ssize_t group, Position at,
                    Py_ssize_t pixels, char *copies) noexcept nogil:
    """The same with few channels: the taps of a pixel side by side, copies[pixel][tap][channel], so that one entry sums
    them all."""
    cdef Py_ssize_t td, th, run, length = f.taps[2] * p.kin * p.itemsize, row = f.all_taps * p.kin * p.itemsize
    cdef char *to
    while pixels > 0:
        run, to = min(pixels, f.count[2] - at.w), copies
        for td in range(f.taps[0]):
            for th in range(f.taps[1]):
                copy_pixels(p, f, call, group, source_line(p, f, td, th, &at), at.w, run, to, copies + row - to)
                to += length
        copies += run * row
        pixels -= run
        next_line(f, &at)


cdef inline bint is_plain(const Phase *f, const Py_ssize_t *table) noexcept nogil:
    """Whether a pixel's taps along a line lie side by side: no step of a table is longer than 1."""
    return f.tap_step[2] == 1 and table[0] >= 0 and table[f.taps[2] - 1] == table[0] + f.taps[2] - 1


cdef inline void copy_pixels(const Problem *p, const Phase *f, const Call *call, Py_ssize_t group, Py_ssize_t line,
                             Py_ssize_t w, Py_ssize_t pixels, char *to, Py_ssize_t room) noexcept nogil:
    """Taps of one line for neighbouring pixels, to[pixel][all taps][channel]: as a run those that meet no padding.

    Of a pixel's `room` bytes from `to` on, those behind its taps are written later.
    """
    cdef const Py_ssize_t *table = f.table[2] + w * f.stride[2]
    cdef Py_ssize_t step = f.stride[2], ld = f.all_taps * p.kin, first = 0, stop = pixels, last, i
    cdef fastconv_piece piece = fastconv_piece(0, 0, f.taps[2] * p.kin, f.taps[2] * p.kin)
    cdef const char *source = call.source + group * p.kin * p.itemsize
    cdef const char *run
    cdef const char *end = call.source + p.batch * p.source_plane * p.groups * p.kin * p.itemsize
    while first < stop and not is_plain(f, table + first * step):
        first += 1
    while stop > first and not is_plain(f, table + (stop - 1) * step):
        stop -= 1
    last = (stop - 1 - first) * step
    if line < 0 or p.groups > 1 or first == stop or table[first * step + last] != table[first * step] + last:
        first = stop = pixels
    for i in range(first):
        copy_line_taps(p, f, source, line, w + i, to + i * ld * p.itemsize)
    if first < stop:
        run = source + (line + table[first * step]) * p.kin * p.itemsize
        if run + (last * p.kin + piece.length + p.kernels.vlen) * p.itemsize <= end:
            piece.room = room // p.itemsize
        p.kernels.pack_pieces(to + first * ld * p.itemsize, ld, run, step * p.kin, stop - first, &piece, 1)
    for i in range(stop, pixels):
        copy_line_taps(p, f, source, line, w + i, to + i * ld * p.itemsize)


cdef inline void copy_line_taps(const Problem *p, const Phase *f, const char *source, Py_ssize_t line, Py_ssize_t w,
                                char *to) noexcept nogil:
    """Taps of one line: to[tap][channel]; neighbouring pixels are copied as one."""
    cdef Py_ssize_t tw = 0, first, length = p.kin * p.itemsize
    cdef const Py_ssize_t *table = f.table[2] + w * f.stride[2]
    cdef Py_ssize_t step = f.tap_step[2]
    if line < 0:
        memset(to, 0, f.taps[2] * length)
        return
    while tw < f.taps[2]:
        first = tw
        tw += 1
        if table[first * step] < 0:
            memset(to + first * length, 0, length)
            continue
        while p.groups == 1 and tw < f.taps[2] and table[tw * step] == table[first * step] + tw - first:
            tw += 1
        memcpy(to + first * length, source + (line + table[first * step]) * p.groups * length, (tw - first) * length)


cdef Py_ssize_t first_pixel(const Problem *p, const Phase *f, Py_ssize_t block) noexcept nogil:
    """Of a block: those that are not whole lines share the register tiles out evenly, so that none is left with few."""
    cdef Py_ssize_t pixels = f.pixels * p.batch
    if copies_lines(p, f):
        return min(pixels, block * f.block)
    return min(pixels, block * ceil_div(pixels, p.kernels.mr) // f.blocks * p.kernels.mr)


cdef void pixels_task(const Problem *p, const Phase *f, Cut cut, const Call *call, Py_ssize_t index, Py_ssize_t part,
                      char *workspace) noexcept nogil:
    """The columns of one part for the pixels of one block."""
    cdef Py_ssize_t block = index % f.blocks, column = part * cut.part, q = first_pixel(p, f, block)
    sum_pixels(p, f, call, index // f.blocks, q, first_pixel(p, f, block + 1) - q, column,
               min(p.kout, column + cut.part), workspace)


cdef void pixels_rows(const void *problem, const Call *call, Py_ssize_t row, Py_ssize_t end,
                      char *workspace) noexcept nogil:
    """See `fastconv.kernels.plan.RowMaker`: of the only phase, group and image."""
    cdef const Problem *p = <const Problem *> problem
    cdef const Phase *f = p.phase
    cdef Py_ssize_t q = row * f.count[2], stop = end * f.count[2], part = even_part(stop - q, f.block, p.kernels.mr)
    while q < stop:
        sum_pixels(p, f, call, 0, q, min(part, stop - q), 0, p.kout, workspace)
        q += part


cdef void sum_pixels(const Problem *p, const Phase *f, const Call *call, Py_ssize_t group, Py_ssize_t q,
                     Py_ssize_t pixels, Py_ssize_t column, Py_ssize_t stop, char *workspace) noexcept nogil:
    """The columns up to `stop` for up to a block of pixels from the q-th on."""
    if f.pointwise:
        sum_in_order(p, f, call, group, q, pixels, column, stop)
    elif copies_lines(p, f):
        sum_lines(p, f, call, q, pixels, column, stop, workspace)
    else:
        sum_tiles(p, f, call, group, q, pixels, column, stop, workspace)
    if p.streams:
        p.kernels.stream_end()


cdef void sum_in_order(const Problem *p, const Phase *f, const Call *call, Py_ssize_t group, Py_ssize_t q,
                       Py_ssize_t pixels, Py_ssize_t column, Py_ssize_t stop) noexcept nogil:
    """Of pixels that read the one of their own index, which need no pointers."""
    cdef Py_ssize_t in_place = 0, first = column, channel, isz = p.itemsize
    cdef fastconv_gemm_rows r
    r.rows, r.entries, r.a_offsets, r.ldb = pixels, 1, &in_place, p.kernels.nr
    r.a_step, r.c_step = p.groups * p.kin * isz, p.groups * p.kout * isz
    while column < stop:
        r.columns = <int> min(p.kernels.nr, p.kout - column)
        r.c = call.destination + q * r.c_step + (group * p.kout + column) * isz
        channel = 0
        while channel < p.kin:
            r.k = min(f.kc, p.kin - channel)
            r.a = call.source + q * r.a_step + (group * p.kin + channel) * isz
            r.b = panel_at(p, f, call, group, column, channel)
            r.accumulate = channel > 0
            sum_rows(p, f, call, &r, channel, column == first)
            channel += r.k
        column += p.kernels.nr


cdef void sum_tiles(const Problem *p, const Phase *f, const Call *call, Py_ssize_t group, Py_ssize_t q,
                    Py_ssize_t pixels, Py_ssize_t column, Py_ssize_t stop, char *workspace) noexcept nogil:
    """Of any pixels, tile by tile, through pointers."""
    cdef Py_ssize_t mr = p.kernels.mr, tiles = ceil_div(pixels, mr), tile, channel, kc
    cdef bint few = has_few_channels(p, f)
    cdef Py_ssize_t entries = 1 if few else f.all_taps, copy = f.all_taps * p.kin * p.itemsize
    cdef Rows *rows = <Rows *> workspace
    cdef char *free = workspace + tiles * sizeof(Rows)
    cdef char *copies = free + tiles * entries_bytes(entries) + (f.all_taps + 1) * sizeof(Py_ssize_t)
    cdef Position at = position_of(f, q)
    if few:
        copy_taps(p, f, call, group, at, pixels, copies)
    for tile in range(tiles):
        rows[tile].a = <const char **> free
        rows[tile].taps = <Py_ssize_t *> (free + entries * FASTCONV_MAX_ROWS * sizeof(char *))
        free += entries_bytes(entries)
        rows[tile].rows = <int> min(mr, pixels - tile * mr)
        place_rows(p, f, call, &at, &rows[tile])
        if few:
            point_side_by_side(copies + tile * mr * copy, copy, &rows[tile])
        else:
            point_rows(p, f, call, &rows[tile])
    while column < stop:
        channel = 0
        while True:
            kc = min(f.kc, p.kin - channel)
            pixels_by_panel(p, f, call, group, column, channel, kc, few, rows, tiles, <Py_ssize_t *> free)
            channel += kc
            if channel == p.kin:
                break
        column += p.kernels.nr


cdef void pixels_by_panel(const Problem *p, const Phase *f, const Call *call, Py_ssize_t group, Py_ssize_t column,
                          Py_ssize_t channel, Py_ssize_t kc, bint few, const Rows *rows, Py_ssize_t tiles,
                          Py_ssize_t *b_offsets) noexcept nogil:
    """One panel [tap][kc][NR] of weights under all pixels of the block. It asks for the next panel."""
    cdef Py_ssize_t nr = p.kernels.nr, isz = p.itemsize, tile, e
    cdef bint last = channel + kc == p.kin, adds = channel == 0 and call.residual != NULL
    cdef const char *residual[FASTCONV_MAX_ROWS]
    cdef fastconv_epilogue epilogue = epilogue_of(call, last, last)
    cdef fastconv_gemm_tile t
    t.k = f.all_taps * kc if few else kc
    t.a_offset = 0 if few else (group * p.kin + channel) * isz
    t.b = panel_at(p, f, call, group, column, channel)
    t.b_offsets, t.ldb = b_offsets, nr
    t.c_offset = (group * p.kout + column) * isz
    t.columns = <int> min(nr, p.kout - column)
    t.accumulate = channel > 0
    epilogue.stream = p.streams and last and channel == 0 and call.activation < 0 and not call.near
    t.epilogue = &epilogue if last or adds else NULL
    epilogue.residual = residual if adds else NULL
    if epilogue.shift != NULL:
        epilogue.shift += (group * p.kout + column) * isz
    if epilogue.scale != NULL:
        epilogue.scale += (group * p.kout + column) * isz
    t.prefetch = t.b + f.all_taps * kc * nr * isz
    t.prefetch_step = nr * isz // tiles
    for tile in range(tiles):
        t.entries, t.rows, t.a = rows[tile].entries, rows[tile].rows, rows[tile].a
        t.c = <char *const *> rows[tile].c
        for e in range(t.entries):
            b_offsets[e] = rows[tile].taps[e] * kc * nr * isz
        if adds:
            point_residual(call, t.c, t.rows, residual)
        p.kernels.gemm(&t)
        if last and call.activation >= 0:
            activate_tile(p, call, &t)
        t.prefetch += f.all_taps * kc * t.prefetch_step


cdef inline Py_ssize_t entries_bytes(Py_ssize_t entries) noexcept nogil:
    """Of a tile's pointers, and which taps they are."""
    return entries * (FASTCONV_MAX_ROWS * <Py_ssize_t> sizeof(char *) + <Py_ssize_t> sizeof(Py_ssize_t))


cdef Py_ssize_t rows_bytes(const Problem *p, const Phase *f) noexcept nogil:
    """Pointer lists of a block of pixels, the offsets of a panel's taps, and copies if there are few channels."""
    cdef bint few = has_few_channels(p, f)
    cdef Py_ssize_t tiles = ceil_div(f.block, p.kernels.mr), lists
    if f.pointwise:
        return 0
    if copies_lines(p, f):
        return lines_bytes(p, f)
    lists = tiles * (<Py_ssize_t> sizeof(Rows) + entries_bytes(1 if few else f.all_taps))
    lists += (f.all_taps + 1) * <Py_ssize_t> sizeof(Py_ssize_t)
    return lists + (f.block * f.all_taps * p.kin * p.itemsize if few else 0)
