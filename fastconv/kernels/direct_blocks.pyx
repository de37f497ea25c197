"""Blocks of pixels of channels_first, packed in one of two ways for the register tile, whose lanes are pixels.

A block's panels hold, channel by channel, `plane` elements in which every tap of a tile finds its lanes side by side.

lines    Padded lines of the source follow each other, `pitch` elements apart, so that pixels are one long line; a tap
         is an offset into it, and each source element is copied once for all taps. With stride s along an axis its
         positions are packed as s parts, so that outputs and taps go by whole steps; every tap along D has lines of
         its own. Wide lines are cut into tiles that go straight to the destination. Where lines are narrow, tiles run
         on across them and compute some junk, which is left behind when the sums are copied out.
columns  Nothing but the tile's own columns, tap by tap: [tile][channel][tap][NR]. Each source element is copied once a
         tap, but no junk is computed, and columns run on across lines and, in small planes, across images.
         In zones of few taps: [tile][tap][channel][NR].
"""

from libc.string cimport memset

from fastconv.kernels.core cimport CACHE_LINE, ceil_div, fastconv_run, round_up
from fastconv.kernels.direct_problem cimport (
    Lines,
    PartSegment,
    Phase,
    Position,
    Problem,
    Segment,
    next_line,
    position_of,
    source_of,
)
from fastconv.kernels.plan cimport Call

cdef enum:
    SPREAD = 64                # sums that are finished at a time where a residual is added to pixels

cdef Block block_of(const Problem *p, const Phase *f, const Call *call, Py_ssize_t index) noexcept nogil:
    """Blocks at one place of all slices follow each other if they are lines: they share their runs."""
    cdef Block b
    cdef const Lines *s = &f.lines
    cdef Py_ssize_t slice
    if f.as_lines:
        slice, index = index % f.slices, index // f.slices
        b.left, index = index % s.wide_blocks * s.wide, index // s.wide_blocks
        b.right = min(f.count[2], b.left + s.wide)
        b.d, b.top = index // s.high_blocks, index % s.high_blocks * s.high
        b.bottom = min(f.count[1], b.top + s.high)
        b.q, b.columns = 0, 0
    else:
        slice, index = index // f.blocks, index % f.blocks
        b.q = index * f.block
        b.columns = min(f.block, (f.pixels * p.batch if f.slices == p.groups else f.pixels) - b.q)
        b.d, b.top, b.bottom, b.left, b.right = 0, 0, 0, 0, 0
    b.group, b.n = slice % p.groups, slice // p.groups
    b.source = call.source + slice * p.kin * p.source_plane * p.itemsize  # one group, where images are of pixels
    return b


cdef Py_ssize_t layout_bytes(const Problem *p, const Phase *f) noexcept nogil:
    """Tiles, runs that fill a channel, and for columns the mask of a line of a panel."""
    cdef Py_ssize_t bytes = most_tiles(p, f) * sizeof(Tile) + f.most_runs * sizeof(fastconv_run)
    return round_up(bytes + (0 if f.as_lines else TAPS_AT_ONCE * p.kernels.nr * p.itemsize), CACHE_LINE)


cdef Layout layout_of(const Problem *p, const Phase *f, const Block *b, char *workspace) noexcept nogil:
    cdef Layout layout
    layout.tile = <Tile *> workspace
    layout.tiles = place_tiles(p, f, b, layout.tile)
    layout.run, layout.runs = <fastconv_run *> (layout.tile + most_tiles(p, f)), -1
    return layout


# ----------------------------------------------------------------------------------------------- register tiles

cdef inline Py_ssize_t joined(const Phase *f, Py_ssize_t lines, Py_ssize_t wide) noexcept nogil:
    """Columns of so many lines with the junk between them."""
    return (lines - 1) * f.lines.pitch + wide


cdef Py_ssize_t most_tiles(const Problem *p, const Phase *f) noexcept nogil:
    if not f.as_lines:
        return f.panels
    if f.runs_on:
        return ceil_div(joined(f, f.lines.high, f.lines.wide), p.kernels.nr)
    return f.lines.high * ceil_div(f.lines.wide, p.kernels.nr)


cdef Py_ssize_t place_tiles(const Problem *p, const Phase *f, const Block *b, Tile *tile) noexcept nogil:
    """The register tiles of a block; returns how many there are."""
    cdef Py_ssize_t nr = p.kernels.nr, isz = p.itemsize, index, line, count = 0
    if not f.as_lines:
        for index in range(ceil_div(b.columns, nr)):
            tile[index] = column_tile(p, f, b, index)
        return ceil_div(b.columns, nr)
    if f.runs_on:
        return cut_columns(p, f, joined(f, b.bottom - b.top, b.right - b.left), 0, 0, tile)
    for line in range(b.bottom - b.top):
        count += cut_columns(p, f, b.right - b.left, line * f.lines.pitch * isz,
                             line * f.step[1] * p.destination_size[2] * isz, tile + count)
    return count


cdef Py_ssize_t cut_columns(const Problem *p, const Phase *f, Py_ssize_t columns, Py_ssize_t b, Py_ssize_t c,
                            Tile *tile) noexcept nogil:
    """Full tiles and one with what is left; returns how many."""
    cdef Py_ssize_t nr = p.kernels.nr, index, first
    for index in range(ceil_div(columns, nr)):
        first = index * nr
        tile[index] = Tile(b + first * p.itemsize, c + first * p.itemsize, <int> min(nr, columns - first), f.scratch)
    return ceil_div(columns, nr)


cdef Tile column_tile(const Problem *p, const Phase *f, const Block *b, Py_ssize_t index) noexcept nogil:
    """Of columns that run across images, only tiles of more than one are summed aside."""
    cdef Py_ssize_t nr = p.kernels.nr, q = b.q + index * nr, image = q // f.pixels, pixel = q % f.pixels
    cdef Tile tile = Tile(index * f.panel_bytes, index * nr * p.itemsize, <int> min(nr, b.columns - index * nr), True)
    if f.pixels == p.destination_plane and pixel + tile.columns <= f.pixels:
        tile.aside = False
        tile.c = (image * p.groups * p.kout * p.destination_plane + pixel) * p.itemsize
    return tile


# ------------------------------------------------------------------------------------------------------ packing

cdef void pack_panels(const Problem *p, const Phase *f, const Block *b, Layout *layout, Py_ssize_t channel,
                      Py_ssize_t kc, char *panels) noexcept nogil:
    """All panels of a block, for kc channels from `channel` on."""
    cdef Py_ssize_t tile
    if f.as_lines:
        pack_lines(p, f, b, layout, 0, kc, channel, panels)
        return
    for tile in range(layout.tiles):
        pack_columns(p, f, b, layout, tile, 0, kc, channel, panels)


cdef void pack_lines(const Problem *p, const Phase *f, const Block *b, Layout *layout, Py_ssize_t first,
                     Py_ssize_t stop, Py_ssize_t channel, char *panels) noexcept nogil:
    """panels[channel][plane] for channels first .. stop - 1, counted from `channel` on."""
    cdef Py_ssize_t isz = p.itemsize
    if layout.runs < 0:
        layout.runs = place_lines(p, f, b, layout.run)
    if first < stop and p.turned:
        turn_lines(p, f, b, layout, first, stop, channel, panels)
    elif first < stop:
        p.kernels.pack_runs(panels + first * f.plane * isz, f.plane, f.plane,
                            b.source + (channel + first) * p.source_plane * isz, p.source_plane, stop - first,
                            layout.run, layout.runs, NULL)
    if first < stop == min(f.kc, p.kin - channel):  # what a last tile reads behind its columns
        memset(panels + stop * f.plane * isz, 0, (p.kernels.nr + p.kernels.vlen) * isz)


cdef void turn_lines(const Problem *p, const Phase *f, const Block *b, const Layout *layout, Py_ssize_t first,
                     Py_ssize_t stop, Py_ssize_t channel, char *panels) noexcept nogil:
    """The same from pixels, whose channels lie side by side."""
    cdef Py_ssize_t isz = p.itemsize, i
    cdef const fastconv_run *run
    memset(panels + first * f.plane * isz, 0, (stop - first) * f.plane * isz)
    for i in range(layout.runs):
        run = layout.run + i
        p.kernels.copy_matrix(panels + (first * f.plane + run.to) * isz, f.plane,
                              b.source + (run.start * p.kin + channel + first) * isz, 1, run.step * p.kin,
                              stop - first, run.length)


cdef Py_ssize_t place_lines(const Problem *p, const Phase *f, const Block *b, fastconv_run *runs) noexcept nogil:
    """Where the elements of a packed channel come from, in their order and for any channel; how many runs."""
    cdef const Lines *s = &f.lines
    cdef Py_ssize_t td, ph, pw, i, line_d, line_h, count = 0, first, to = 0
    for td in range(f.taps[0]):
        line_d = source_of(f, 0, td, b.d)
        for ph in range(s.h_parts):
            first = 0
            for pw in range(s.w_parts):
                for i in range(b.bottom - b.top + s.h_part[ph].more):
                    line_h = f.table[1][s.h_low + s.h_part[ph].offset + (b.top + i) * f.stride[1]]
                    if line_d >= 0 and line_h >= 0:
                        count += line_runs(s, b, pw, first, (line_d * p.source_size[1] + line_h) * p.source_size[2],
                                           to + i * s.pitch, runs + count)
                while first < s.segments and s.segment[first].part == pw:
                    first += 1
                to += s.part
    return count


cdef Py_ssize_t line_runs(const Lines *s, const Block *b, Py_ssize_t part, Py_ssize_t first, Py_ssize_t source,
                          Py_ssize_t to, fastconv_run *runs) noexcept nogil:
    """Those of one line and part, whose segments begin with the one of index `first`."""
    cdef const PartSegment *at = s.segment + first
    cdef Py_ssize_t end = b.right + s.w_part[part].more, start, stop, count = 0
    while at < s.segment + s.segments and at.part == part:
        start, stop = max(at.start, b.left), min(at.stop, end)
        if start < stop and at.source >= 0:
            runs[count] = fastconv_run(source + at.source + (start - at.start) * at.step, to + start - b.left,
                                       stop - start, at.step, False)
            count += 1
        at += 1
    return count


cdef void pack_columns(const Problem *p, const Phase *f, const Block *b, Layout *layout, Py_ssize_t tile,
                       Py_ssize_t first, Py_ssize_t stop, Py_ssize_t channel, char *panels) noexcept nogil:
    """panels[tile][channel][tap][NR] for channels first .. stop - 1, counted from `channel` on; some taps at once, so
    that the source is read from L1 by all but one. Taps apart are panels[tile][tap][channel][NR]."""
    cdef Py_ssize_t nr = p.kernels.nr, tap = 0, taps, i, count, columns = min(nr, b.columns - tile * nr)
    cdef Py_ssize_t tap_size = nr * (min(f.kc, p.kin - channel) if f.apart else 1)
    cdef Position at = position_of(f, b.q + tile * nr)
    cdef char *panel = panels + tile * f.panel_bytes + first * f.plane * p.itemsize
    cdef char *mask = <char *> (layout.run + f.most_runs)
    while tap < f.all_taps:
        taps = 1 if f.apart else min(<Py_ssize_t> TAPS_AT_ONCE, f.all_taps - tap)
        memset(mask, 0, taps * nr * p.itemsize)
        count = 0
        for i in range(taps):
            count = tap_runs(p, f, tap + i, at, columns, i * nr, layout.run, count, mask)
        p.kernels.pack_runs(panel + tap * tap_size * p.itemsize, f.plane, taps * nr,
                            b.source + (channel + first) * p.source_plane * p.itemsize, p.source_plane, stop - first,
                            layout.run, count, mask)
        tap += taps


cdef Py_ssize_t tap_runs(const Problem *p, const Phase *f, Py_ssize_t tap, Position at, Py_ssize_t columns,
                         Py_ssize_t to, fastconv_run *runs, Py_ssize_t count, char *mask) noexcept nogil:
    """Where `columns` columns from `at` on come from for one tap; returns the number of runs, `count` before it.

    Stretches that continue each other in the source but for padding between them (lines of a "same" convolution)
    become one masked run.
    """
    cdef Py_ssize_t length, d, h, base, a, b, start, stop = to + columns
    cdef Py_ssize_t image = p.groups * p.kin * p.source_plane
    cdef Py_ssize_t tw = tap % f.taps[2], th = tap // f.taps[2] % f.taps[1], td = tap // f.taps[2] // f.taps[1]
    cdef const Segment *s
    cdef fastconv_run *last
    while to < stop:
        length = min(f.count[2] - at.w, stop - to)
        d, h = source_of(f, 0, td, at.d), source_of(f, 1, th, at.h)
        if d >= 0 and h >= 0:
            base = at.n * image + (d * p.source_size[1] + h) * p.source_size[2]
            s = f.segments + f.first_segment[tw]
            a = at.w
            while a < at.w + length:
                while s.stop <= a:
                    s += 1
                b = min(s.stop, at.w + length)
                if s.source >= 0:
                    start = base + s.source + (a - s.start) * s.step
                    memset(mask + (to + a - at.w) * p.itemsize, 0xff, (b - a) * p.itemsize)
                    last = runs + count - 1
                    if count > 0 and s.step == 1 and last.step == 1 and start - last.start == to + a - at.w - last.to:
                        last.masked = last.masked or last.to + last.length < to + a - at.w
                        last.length = to + b - at.w - last.to
                    else:
                        runs[count] = fastconv_run(start, to + a - at.w, b - a, s.step, False)
                        count += 1
                a = b
        to += length
        next_line(f, &at)
    return count


# --------------------------------------------------------------------------------------------------- the sums

cdef inline Py_ssize_t destination_of(const Problem *p, const Phase *f, Py_ssize_t d, Py_ssize_t h,
                                      Py_ssize_t w) noexcept nogil:
    """Element of a destination plane."""
    cdef Py_ssize_t line = (f.offset[0] + d * f.step[0]) * p.destination_size[1] + f.offset[1] + h * f.step[1]
    return line * p.destination_size[2] + f.offset[2] + w * f.step[2]


cdef char *first_row(const Problem *p, const Phase *f, const Call *call, const Block *b) noexcept nogil:
    """Where a block's tiles that are not aside count from, for the first destination channel of its group."""
    cdef Py_ssize_t plane = (b.n * p.groups + b.group) * p.kout * p.destination_plane
    if f.as_lines:
        plane += destination_of(p, f, b.d, b.top, b.left)
    return call.destination + plane * p.itemsize


cdef void copy_out(const Problem *p, const Phase *f, const Call *call, const Block *b, const Layout *layout,
                   Py_ssize_t row, Py_ssize_t stop, const char *sums) noexcept nogil:
    """Scratch rows to where their pixels are: destination[n][channel][d][h][w]."""
    cdef Py_ssize_t nr = p.kernels.nr, index, first = 0
    if p.turned:
        turn_back(p, f, call, b, row, stop, sums)
    elif f.as_lines:
        copy_lines(p, f, call, b, row, stop, sums)
    else:
        for index in range(layout.tiles):
            if not layout.tile[index].aside:
                copy_columns(p, f, call, b, row, stop, sums, first * nr, index * nr)
                first = index + 1
        copy_columns(p, f, call, b, row, stop, sums, first * nr, b.columns)


cdef void copy_lines(const Problem *p, const Phase *f, const Call *call, const Block *b, Py_ssize_t row,
                     Py_ssize_t stop, const char *sums) noexcept nogil:
    cdef Py_ssize_t isz = p.itemsize, wide = b.right - b.left, line, channel
    cdef Py_ssize_t y = destination_of(p, f, b.d, b.top, b.left), y_line = f.step[1] * p.destination_size[2]
    for channel in range((b.n * p.groups + b.group) * p.kout + row, (b.n * p.groups + b.group) * p.kout + stop):
        if f.step[2] == 1:
            copy_rows(p, call, call.destination + (channel * p.destination_plane + y) * isz, y_line, sums,
                      f.lines.pitch, b.bottom - b.top, wide)
        else:
            for line in range(b.bottom - b.top):
                spread(p, call.destination + (channel * p.destination_plane + y + line * y_line) * isz, f.step[2],
                       sums + line * f.lines.pitch * isz, wide)
        sums += f.scratch_columns * isz


cdef void turn_back(const Problem *p, const Phase *f, const Call *call, const Block *b, Py_ssize_t row,
                    Py_ssize_t stop, const char *sums) noexcept nogil:
    """The same to pixels: destination[n][d][h][w][channel]."""
    cdef Py_ssize_t isz = p.itemsize, wide = b.right - b.left, step = f.step[2] * p.kout, line, y, channel
    for channel in range(row, stop):
        for line in range(b.bottom - b.top):
            y = b.n * p.destination_plane + destination_of(p, f, b.d, b.top + line, b.left)
            y = (y * p.kout + channel) * isz
            if call.residual == NULL:
                spread(p, call.destination + y, step, sums + line * f.lines.pitch * isz, wide)
            else:
                spread_sums(p, call, y, step, sums + line * f.lines.pitch * isz, wide)
        sums += f.scratch_columns * isz


cdef void spread_sums(const Problem *p, const Call *call, Py_ssize_t y, Py_ssize_t step, const char *sums,
                      Py_ssize_t n) noexcept nogil:
    """destination[y ..] = activation(clamp(sums + residual)); lines may share sums, which stay as they are."""
    cdef double buffer[SPREAD]
    cdef double lower = call.epilogue.lower, upper = call.epilogue.upper, sum
    cdef Py_ssize_t first = 0, i, count
    while first < n:
        count = min(<Py_ssize_t> SPREAD, n - first)
        for i in range(count):
            if p.itemsize == 4:
                sum = (<const float *> sums)[first + i] + (<const float *> (call.residual + y))[(first + i) * step]
            else:
                sum = (<const double *> sums)[first + i] + (<const double *> (call.residual + y))[(first + i) * step]
            sum = lower if sum < lower else upper if sum > upper else sum  # a NaN is neither
            if p.itemsize == 4:
                (<float *> buffer)[i] = <float> sum
            else:
                buffer[i] = sum
        if call.activation >= 0:
            p.kernels.activate(call.activation, call.alpha, <char *> buffer, <char *> buffer, count)
        spread(p, call.destination + y + first * step * p.itemsize, step, <char *> buffer, count)
        first += count


cdef void copy_columns(const Problem *p, const Phase *f, const Call *call, const Block *b, Py_ssize_t row,
                       Py_ssize_t stop, const char *sums, Py_ssize_t to, Py_ssize_t end) noexcept nogil:
    """Columns to .. end - 1 of a block, a line or a whole plane at a time."""
    cdef Position at
    cdef bint planes = f.pixels == p.destination_plane
    cdef Py_ssize_t length, y, row_, isz = p.itemsize
    while to < end:
        at = position_of(f, b.q + to)
        length = min(f.pixels - (b.q + to) % f.pixels if planes else f.count[2] - at.w, end - to)
        y = ((at.n * p.groups + b.group) * p.kout + row) * p.destination_plane + destination_of(p, f, at.d, at.h, at.w)
        if planes or f.step[2] == 1:  # an axis of one position may have any step
            copy_rows(p, call, call.destination + y * isz, p.destination_plane, sums + to * isz, f.scratch_columns,
                      stop - row, length)
        else:
            for row_ in range(stop - row):
                spread(p, call.destination + (y + row_ * p.destination_plane) * isz, f.step[2],
                       sums + (row_ * f.scratch_columns + to) * isz, length)
        to += length


cdef inline void copy_rows(const Problem *p, const Call *call, char *y, Py_ssize_t y_row, const char *sums,
                           Py_ssize_t sums_row, Py_ssize_t rows, Py_ssize_t length) noexcept nogil:
    """With the residual, if there is one, and then what follows it."""
    if call.residual == NULL:
        p.kernels.copy_matrix(y, y_row, sums, sums_row, 1, rows, length)
        return
    for _ in range(rows):
        p.kernels.add_clamped(y, sums, call.residual + (y - call.destination), length, call.epilogue.lower,
                              call.epilogue.upper)
        if call.activation >= 0:
            p.kernels.activate(call.activation, call.alpha, y, y, length)
        y += y_row * p.itemsize
        sums += sums_row * p.itemsize


cdef inline void spread(const Problem *p, char *to, Py_ssize_t step, const char *x, Py_ssize_t n) noexcept nogil:
    cdef Py_ssize_t i
    if p.itemsize == 4:
        for i in range(n):
            (<float *> to)[i * step] = (<const float *> x)[i]
    else:
        for i in range(n):
            (<double *> to)[i * step] = (<const double *> x)[i]
