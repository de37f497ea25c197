"""Direct convolution: a batch-reduce GEMM over the taps, for any stride, padding, dilation, groups and dimension.

    y[n][row][p] = epilogue( sum over taps t, channels c of  w[row][c][t] * x[n][c][source(p, t)] )

One macro-kernel for forward (destination y, source x) and for backward_input and transposed convolution (destination
grad_x, source grad_y, a phase per stride residue: see fastconv.sources). A register tile is MR rows by NR columns:

channels_first  rows are destination channels, columns are pixels. For a block of pixels the source is packed into
                panels [tap][channel][NR] that stay in L2 while the rows pass over them; weights are
                [row][tap][channel] for each KC channels.
                Where there are too few blocks to keep many threads busy, all threads pack a stretch of blocks together
                and then share out its rows. Small planes and strided destinations accumulate in a contiguous scratch
                block, copied out once.
channels_last   rows are pixels, read in place through pointers (a row of zeros where the tap meets padding), columns
                are destination channels; weights are panels [tap][channel][NR]. Pixels run on across images.

Taps x channels are cut into blocks (KC channels) so that a panel keeps to half of L2; the destination holds the partial
sums between blocks. That cut depends on the geometry alone, and it alone decides the order of the additions; how rows
and pixels are shared out does not, so it may follow the number of threads without a bit changing.
"""

import numpy as np

from cython.parallel cimport parallel, prange, threadid
from libc.string cimport memcpy, memset
cimport numpy as cnp

from fastconv.sources import AxisSources

from fastconv.kernels.core cimport (
    FASTCONV_MAX_ROWS,
    ceil_div,
    even_part,
    fastconv_epilogue,
    fastconv_gemm_tile,
    fastconv_kernels,
    fastconv_piece,
    fastconv_run,
    fegetenv,
    fenv_t,
    fesetenv,
    kernels,
    team,
)
from fastconv.kernels.plan cimport Call, ConvolutionPlan, place_sizes

cnp.import_array()

ALONE = AxisSources(0, 1, 1, (0,), np.zeros(1, np.intp), 0, 1, 1)  # an axis that the convolution does not have

cdef enum:
    PANEL_BYTES = 256 * 1024   # one packed panel [taps][KC][NR]: a quarter of a 1 MB L2
    BLOCK_BYTES = 512 * 1024   # the panels of one block of pixels (channels_first)
    SCRATCH_BYTES = 64 * 1024  # finished rows of a block before they are copied out, while they are in L1 or L2
    SHARED_BYTES = 8 * 1024 * 1024  # the panels that a team packs together
    BLOCK_TILES = 4            # register tiles of pixels a block, channels_first
    BLOCK_PIXELS = 240         # pixels a block, channels_last: 40 register tiles
    TASKS = 4                  # tasks a thread that make for an even load; with fewer blocks the rows are cut, too
    COPIED = 15                # steps of k that copying an output from scratch is worth
    FEW_CHANNELS = 8           # below so many channels a pixel's taps are copied side by side (channels_last)


cdef struct Segment:           # destination positions start .. stop - 1 along W read source + i * step (or padding)
    Py_ssize_t start, stop, source, step

cdef struct Phase:
    Py_ssize_t count[3]        # destination positions of the phase along D, H, W
    Py_ssize_t offset[3]       # where they start in the destination and how far apart they are
    Py_ssize_t step[3]
    Py_ssize_t taps[3]
    const Py_ssize_t *table[3]  # source position or -1 of tap t and destination position i at t * tap_step + i * stride
    Py_ssize_t tap_step[3]
    Py_ssize_t stride[3]
    const Segment *segments    # [taps of W] runs of W's table, first_segment[t] .. first_segment[t + 1]
    const Py_ssize_t *first_segment
    const Py_ssize_t *weight_taps  # [taps]: element offset of each tap in the weight's kernel
    Py_ssize_t all_taps, pixels, kc
    Py_ssize_t weight_offset   # bytes into the packed weights
    Py_ssize_t block           # columns (channels_first) or rows (channels_last) a block
    Py_ssize_t blocks, slices  # blocks a slice; a slice is an image of a group or, if blocks run across images, a group
    bint scratch               # channels_first: columns run across images and rows, copied out at the end
    Py_ssize_t rows            # destination channels between two copies

cdef struct Problem:
    Py_ssize_t batch, groups, kin, kout, kernel_taps, itemsize
    Py_ssize_t source_size[3]
    Py_ssize_t destination_size[3]
    Py_ssize_t source_plane, destination_plane
    int phases
    Phase *phase
    const fastconv_kernels *kernels

cdef struct Cut:               # how a phase is shared out among so many threads
    Py_ssize_t part, parts     # destination channels a task
    Py_ssize_t stretch         # blocks whose panels all threads pack together before they share the rows out; or 0
    Py_ssize_t workspace, shared  # bytes a thread, bytes a team

cdef struct Position:          # a destination pixel of a phase
    Py_ssize_t n, d, h, w


cdef inline Py_ssize_t source_of(const Phase *f, int axis, Py_ssize_t tap, Py_ssize_t i) noexcept nogil:
    """Where a tap finds its source for the i-th destination position of an axis, or -1 for padding."""
    return f.table[axis][tap * f.tap_step[axis] + i * f.stride[axis]]


cdef void activate_tile(const Problem *p, const Call *call, const fastconv_gemm_tile *t) noexcept nogil:
    """A finished tile, while it is in L1."""
    cdef int i
    for i in range(t.rows):
        p.kernels.activate(call.activation, call.alpha, t.c[i] + t.c_offset, t.c[i] + t.c_offset, t.columns)


# ---------------------------------------------------------------------------------------------- channels_first

cdef Position position_of(const Phase *f, Py_ssize_t q) noexcept nogil:
    cdef Position at
    at.n, q = q // f.pixels, q % f.pixels
    at.w, q = q % f.count[2], q // f.count[2]
    at.d, at.h = q // f.count[1], q % f.count[1]
    return at


cdef inline void next_line(const Phase *f, Position *at) noexcept nogil:
    at.w = 0
    at.h += 1
    if at.h == f.count[1]:
        at.h = 0
        at.d += 1
        if at.d == f.count[0]:
            at.d = 0
            at.n += 1


cdef Py_ssize_t tile_runs(const Problem *p, const Phase *f, Py_ssize_t td, Py_ssize_t th, Py_ssize_t tw, Position at,
                          Py_ssize_t columns, fastconv_run *runs, char *mask) noexcept nogil:
    """Where `columns` columns from `at` on come from for one tap; returns the number of runs.

    Stretches that continue each other in the source but for padding between them (lines of a "same" convolution)
    become one masked run.
    """
    cdef Py_ssize_t to = 0, count = 0, length, d, h, base, a, b, start
    cdef Py_ssize_t image = p.groups * p.kin * p.source_plane
    cdef const Segment *s
    cdef fastconv_run *last
    memset(mask, 0, p.kernels.nr * p.itemsize)
    while to < columns:
        length = min(f.count[2] - at.w, columns - to)
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


cdef void pack_tile(const Problem *p, const Phase *f, const char *source, Position at, Py_ssize_t columns,
                    Py_ssize_t kc, char *panel, fastconv_run *runs) noexcept nogil:
    """panel[tap][kc][NR] for the kc channels from `source` on and the columns from `at` on."""
    cdef Py_ssize_t nr = p.kernels.nr, td, th, tw, count
    cdef char *mask = <char *> (runs + nr)
    for td in range(f.taps[0]):
        for th in range(f.taps[1]):
            for tw in range(f.taps[2]):
                count = tile_runs(p, f, td, th, tw, at, columns, runs, mask)
                p.kernels.pack_runs(panel, nr, source, p.source_plane, kc, runs, count, mask)
                panel += kc * nr * p.itemsize


cdef void rows_by_panels(const Problem *p, const Phase *f, const Call *call, const char *weight, Py_ssize_t group,
                         Py_ssize_t row, Py_ssize_t stop, Py_ssize_t k, Py_ssize_t done, const char *panels,
                         Py_ssize_t panel, char *c, Py_ssize_t c_row, Py_ssize_t columns, bint last) noexcept nogil:
    """c[row .. stop][columns] (+)= weight rows x panels for one block of k = taps x channels."""
    cdef Py_ssize_t nr = p.kernels.nr, zero = 0, tile, i, first = row, tiles = ceil_div(columns, nr)
    cdef const char *a[FASTCONV_MAX_ROWS]
    cdef char *rows[FASTCONV_MAX_ROWS]
    cdef fastconv_epilogue epilogue = call.epilogue
    cdef fastconv_gemm_tile t
    t.entries, t.k, t.a, t.a_offset, t.b_offsets, t.ldb, t.c = 1, k, a, 0, &zero, nr, rows
    t.accumulate = done > 0
    t.epilogue = &epilogue if last else NULL
    while row < stop:
        t.rows = <int> min(even_part(stop - row, p.kernels.mr, 1), stop - row)
        for i in range(t.rows):
            a[i] = weight + (p.kout * done + (row + i) * k) * p.itemsize
            rows[i] = c + (row + i - first) * c_row
        if call.epilogue.shift != NULL:
            epilogue.shift = call.epilogue.shift + (group * p.kout + row) * p.itemsize
        if call.epilogue.scale != NULL:
            epilogue.scale = call.epilogue.scale + (group * p.kout + row) * p.itemsize
        t.prefetch = a[0] + t.rows * k * p.itemsize
        t.prefetch_step = t.rows * p.itemsize // tiles
        for tile in range(tiles):
            t.columns = <int> min(nr, columns - tile * nr)
            t.b = panels + tile * panel
            t.c_offset = tile * nr * p.itemsize
            p.kernels.gemm(&t)
            if last and call.activation >= 0:
                activate_tile(p, call, &t)
            t.prefetch += t.rows * k * p.itemsize // tiles
        row += t.rows


cdef void copy_out(const Problem *p, const Phase *f, char *destination, Py_ssize_t group, Py_ssize_t row,
                   Py_ssize_t stop, Py_ssize_t q, Py_ssize_t columns, const char *c, Py_ssize_t c_row) noexcept nogil:
    """Scratch rows to where their pixels are: destination[n][channel][d][h][w], a line or a whole plane at a time."""
    cdef Position at = position_of(f, q)
    cdef bint planes = f.pixels == p.destination_plane
    cdef Py_ssize_t length, to = 0, line, isz = p.itemsize
    while to < columns:
        length = min(f.pixels - (q + to) % f.pixels if planes else f.count[2] - at.w, columns - to)
        line = (f.offset[0] + at.d * f.step[0]) * p.destination_size[1] + f.offset[1] + at.h * f.step[1]
        line = line * p.destination_size[2] + f.offset[2] + at.w * f.step[2]
        line += ((at.n * p.groups + group) * p.kout + row) * p.destination_plane
        copy_rows(p, destination + line * isz, f.step[2], c + to * isz, c_row // isz, stop - row, length)
        to += length
        at = position_of(f, q + to)


cdef inline void copy_rows(const Problem *p, char *to, Py_ssize_t step, const char *source, Py_ssize_t ld,
                           Py_ssize_t rows, Py_ssize_t columns) noexcept nogil:
    """to[i * plane + j * step] = source[i * ld + j]."""
    cdef Py_ssize_t i, j
    if step == 1:
        p.kernels.copy_matrix(to, p.destination_plane, source, ld, 1, rows, columns)
        return
    for i in range(rows):
        if p.itemsize == 4:
            for j in range(columns):
                (<float *> to)[i * p.destination_plane + j * step] = (<const float *> source)[i * ld + j]
        else:
            for j in range(columns):
                (<double *> to)[i * p.destination_plane + j * step] = (<const double *> source)[i * ld + j]


cdef struct Block:             # a block of columns of one group
    Py_ssize_t group, n, q, columns
    const char *source         # first channel of the group, of image n

cdef Block block_of(const Problem *p, const Phase *f, const Call *call, Py_ssize_t index) noexcept nogil:
    """n is 0 where blocks run across images."""
    cdef Block b
    cdef Py_ssize_t slice = index // f.blocks
    b.group, b.n, b.q = slice % p.groups, slice // p.groups, index % f.blocks * f.block
    b.columns = min(f.block, (f.pixels * p.batch if f.scratch else f.pixels) - b.q)
    b.source = call.source + slice * p.kin * p.source_plane * p.itemsize
    return b


cdef inline Py_ssize_t panel_stride(const Problem *p, const Phase *f) noexcept nogil:
    """Bytes of one register tile's columns for KC channels, with the vector behind them that pack_runs may write."""
    return (f.all_taps * f.kc * p.kernels.nr + p.kernels.vlen) * p.itemsize


cdef inline Py_ssize_t panels_of_block(const Problem *p, const Phase *f) noexcept nogil:
    return f.block // p.kernels.nr * ceil_div(p.kin, f.kc)


cdef inline Py_ssize_t run_bytes(const Problem *p) noexcept nogil:
    """Runs of one tile and tap, every column its own in the worst case, and the mask."""
    return ceil_div(p.kernels.nr * (<Py_ssize_t> sizeof(fastconv_run) + p.itemsize), 64) * 64


cdef void pack_shared(const Problem *p, const Phase *f, const Call *call, Py_ssize_t first, Py_ssize_t unit,
                      char *panels, char *workspace) noexcept nogil:
    """One panel of a stretch: shared[block][channel block][tile of the block][tap][kc][NR]."""
    cdef Py_ssize_t nr = p.kernels.nr, tiles = f.block // nr, steps = ceil_div(p.kin, f.kc)
    cdef Py_ssize_t tile = unit % tiles, channel = unit // tiles % steps * f.kc
    cdef Block b = block_of(p, f, call, first + unit // (tiles * steps))
    cdef Position at
    if tile * nr < b.columns:
        at = position_of(f, b.q + tile * nr)
        pack_tile(p, f, b.source + channel * p.source_plane * p.itemsize, at, min(nr, b.columns - tile * nr),
                  min(f.kc, p.kin - channel), panels + unit * panel_stride(p, f), <fastconv_run *> workspace)


cdef void channels_first_task(const Problem *p, const Phase *f, Cut cut, const Call *call, Py_ssize_t index,
                              Py_ssize_t part, const char *shared, char *workspace) noexcept nogil:
    """The rows of one part for the columns of one block; `shared` are the block's panels, or NULL to pack them here."""
    cdef Block b = block_of(p, f, call, index)
    cdef Py_ssize_t row = part * cut.part, end = min(p.kout, row + cut.part), stop, plane
    cdef char *panels = workspace + run_bytes(p)
    cdef char *c = panels + (0 if shared != NULL else f.block // p.kernels.nr * panel_stride(p, f))
    while row < end:
        stop = min(end, row + f.rows)
        if not f.scratch:
            plane = (b.n * p.groups + b.group) * p.kout + row
            c = call.destination + (plane * p.destination_plane + b.q) * p.itemsize
        rows_of_block(p, f, call, &b, row, stop, shared, workspace, panels, c)
        if f.scratch:
            copy_out(p, f, call.destination, b.group, row, stop, b.q, b.columns, c, f.block * p.itemsize)
        row = stop


cdef void rows_of_block(const Problem *p, const Phase *f, const Call *call, const Block *b, Py_ssize_t row,
                        Py_ssize_t stop, const char *shared, char *workspace, char *own, char *c) noexcept nogil:
    """c[row .. stop][columns of the block] = weight rows x panels, these packed for the first of the rows."""
    cdef Py_ssize_t nr = p.kernels.nr, isz = p.itemsize, tiles = f.block // nr, panel = panel_stride(p, f)
    cdef Py_ssize_t c_row = (f.block if f.scratch else p.destination_plane) * isz, channel = 0, kc, tile
    cdef const char *weight = call.weight + f.weight_offset + b.group * p.kout * f.all_taps * p.kin * isz
    while channel < p.kin:
        kc = min(f.kc, p.kin - channel)
        if shared == NULL and (row == 0 or kc < p.kin):
            for tile in range(ceil_div(b.columns, nr)):
                pack_tile(p, f, b.source + channel * p.source_plane * isz, position_of(f, b.q + tile * nr),
                          min(nr, b.columns - tile * nr), kc, own + tile * panel, <fastconv_run *> workspace)
        rows_by_panels(p, f, call, weight, b.group, row, stop, f.all_taps * kc, f.all_taps * channel,
                       shared + channel // f.kc * tiles * panel if shared != NULL else own, panel, c, c_row, b.columns,
                       channel + kc == p.kin)
        channel += kc


# ----------------------------------------------------------------------------------------------- channels_last

cdef struct Rows:              # the pixels of one register tile: where they are read, tap by tap, and written
    Py_ssize_t entries
    int rows
    const char **a             # [entries][MAX_ROWS]
    Py_ssize_t *taps           # [entries]: which tap
    char *c[FASTCONV_MAX_ROWS]
    Position at[FASTCONV_MAX_ROWS]


cdef void place_rows(const Problem *p, const Phase *f, const Call *call, Position *at, Rows *r) noexcept nogil:
    """The tile's pixels from `at` on, which moves behind them."""
    cdef Py_ssize_t i, pixel
    for i in range(r.rows):
        r.at[i] = at[0]
        pixel = (f.offset[0] + at.d * f.step[0]) * p.destination_size[1] + f.offset[1] + at.h * f.step[1]
        pixel = pixel * p.destination_size[2] + f.offset[2] + at.w * f.step[2]
        r.c[i] = call.destination + (at.n * p.destination_plane + pixel) * p.groups * p.kout * p.itemsize
        at.w += 1
        if at.w == f.count[2]:
            next_line(f, at)


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


cdef void copy_taps(const Problem *p, const Phase *f, const Call *call, Py_ssize_t group, Rows *r,
                    char *copies) noexcept nogil:
    """The same with few channels: the taps of a pixel side by side, so that one entry sums them all."""
    cdef Py_ssize_t td, th, first = 0, stop, i, length = p.kin * p.itemsize, row = f.all_taps * length
    cdef char *to
    for i in range(r.rows):
        r.a[i] = copies + i * row
    r.entries, r.taps[0] = 1, 0
    while first < r.rows:
        stop = min(r.rows, first + f.count[2] - r.at[first].w)
        to = copies + first * row
        for td in range(f.taps[0]):
            for th in range(f.taps[1]):
                copy_pixels(p, f, call, group, source_line(p, f, td, th, &r.at[first]), r.at[first].w, stop - first, to)
                to += f.taps[2] * length
        first = stop


cdef inline void copy_pixels(const Problem *p, const Phase *f, const Call *call, Py_ssize_t group, Py_ssize_t line,
                             Py_ssize_t w, Py_ssize_t pixels, char *to) noexcept nogil:
    """Taps of one line for neighbouring pixels, to[pixel][all taps][channel]: as runs where none meets padding."""
    cdef const Py_ssize_t *table = f.table[2] + w * f.stride[2]
    cdef Py_ssize_t last = (pixels - 1) * f.stride[2], reach = f.taps[2] - 1, ld = f.all_taps * p.kin, i
    cdef fastconv_piece piece = fastconv_piece(0, 0, f.taps[2] * p.kin, f.taps[2] * p.kin)
    if p.groups == 1 and f.tap_step[2] == 1 and line >= 0 and table[0] >= 0 and (
            table[last + reach] == table[0] + last + reach):  # no step of a table is longer than 1
        p.kernels.pack_pieces(to, ld, call.source + (line + table[0]) * p.kin * p.itemsize, f.stride[2] * p.kin, pixels,
                              &piece, 1)
        return
    for i in range(pixels):
        copy_line_taps(p, f, call.source + group * p.kin * p.itemsize, line, w + i, to + i * ld * p.itemsize)


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


cdef inline bint copies_taps(const Problem *p, const Phase *f) noexcept nogil:
    return p.kin < FEW_CHANNELS and f.all_taps > 1


cdef void channels_last_task(const Problem *p, const Phase *f, Cut cut, const Call *call, Py_ssize_t index,
                             Py_ssize_t part, char *workspace) noexcept nogil:
    """The columns of one part for the pixels of one block."""
    cdef Py_ssize_t group = index // f.blocks, q = index % f.blocks * f.block
    cdef Py_ssize_t pixels = min(f.block, f.pixels * p.batch - q)
    cdef Py_ssize_t mr = p.kernels.mr, tiles = ceil_div(pixels, mr), tile, column = part * cut.part, channel, kc
    cdef Py_ssize_t stop = min(p.kout, column + cut.part)
    cdef bint few = copies_taps(p, f)
    cdef Py_ssize_t entries = 1 if few else f.all_taps
    cdef Rows *rows = <Rows *> workspace
    cdef char *free = workspace + tiles * sizeof(Rows)
    cdef Position at = position_of(f, q)
    for tile in range(tiles):
        rows[tile].a = <const char **> free
        rows[tile].taps = <Py_ssize_t *> (free + entries * FASTCONV_MAX_ROWS * sizeof(char *))
        free = <char *> (rows[tile].taps + entries)
        rows[tile].rows = <int> min(mr, pixels - tile * mr)
        place_rows(p, f, call, &at, &rows[tile])
        if few:
            copy_taps(p, f, call, group, &rows[tile], free)
            free += ceil_div(mr * f.all_taps * p.kin * p.itemsize, 8) * 8
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
    """One panel [tap][kc][NR] of weights under all pixels of the block."""
    cdef Py_ssize_t nr = p.kernels.nr, isz = p.itemsize, panels = ceil_div(p.kout, nr), tile, e
    cdef fastconv_epilogue epilogue = call.epilogue
    cdef fastconv_gemm_tile t
    t.k = f.all_taps * kc if few else kc
    t.a_offset = 0 if few else (group * p.kin + channel) * isz
    t.b = call.weight + f.weight_offset
    t.b += ((group * panels + column // nr) * f.all_taps * p.kin + f.all_taps * channel) * nr * isz
    t.b_offsets, t.ldb = b_offsets, nr
    t.c_offset = (group * p.kout + column) * isz
    t.columns = <int> min(nr, p.kout - column)
    t.accumulate = channel > 0
    t.epilogue = &epilogue if channel + kc == p.kin else NULL
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
        p.kernels.gemm(&t)
        if t.epilogue != NULL and call.activation >= 0:
            activate_tile(p, call, &t)
        t.prefetch += f.all_taps * kc * t.prefetch_step


cdef Py_ssize_t rows_bytes(const Problem *p, const Phase *f) noexcept nogil:
    """Pointer lists (or copies) of a block of pixels, and the offsets of a panel's taps."""
    cdef bint few = copies_taps(p, f)
    cdef Py_ssize_t entries = 1 if few else f.all_taps, tiles = ceil_div(f.block, p.kernels.mr), tile
    tile = sizeof(Rows) + entries * (FASTCONV_MAX_ROWS * sizeof(char *) + sizeof(Py_ssize_t))
    if few:
        tile += ceil_div(p.kernels.mr * f.all_taps * p.kin * p.itemsize, 8) * 8
    return tiles * tile + (f.all_taps + 1) * <Py_ssize_t> sizeof(Py_ssize_t)


cdef bint wastes_columns(const Problem *p, const Phase *f) noexcept nogil:
    """Whether an image's last register tile, which is paid by whole vectors and dearer if it has few, costs more than
    it does to let columns run across images and copy them out."""
    cdef Py_ssize_t full = f.pixels // p.kernels.nr, rest = f.pixels % p.kernels.nr
    cdef double last = min(1.0, (ceil_div(rest, p.kernels.vlen) + 0.6) * p.kernels.vlen / p.kernels.nr) if rest else 0
    return (full + last) * p.kernels.nr > (1 + <double> COPIED / (f.all_taps * p.kin)) * f.pixels


# ------------------------------------------------------------------------------------------------------ plans

cdef class DirectPlan(ConvolutionPlan):
    """A convolution by the direct kernel."""

    cdef Problem problem
    cdef readonly bint backward
    cdef readonly bint covered  # whether every destination pixel belongs to a phase
    rereads_weight = False

    def __init__(self, int dtype, bint channels_last, bint backward, Py_ssize_t batch, Py_ssize_t groups,
                 Py_ssize_t kin, Py_ssize_t kout, source_size, destination_size, sources, kernel):
        cdef Problem *p = &self.problem
        cdef Phase *f
        cdef int i
        self.channels_last, self.backward = channels_last, backward
        p.kernels = kernels(dtype)
        p.batch, p.groups, p.kin, p.kout, p.itemsize = batch, groups, kin, kout, p.kernels.storage_bytes
        p.source_plane = place_sizes(p.source_size, source_size)
        p.destination_plane = place_sizes(p.destination_size, destination_size)
        p.kernel_taps = np.prod(kernel)
        p.phases, p.phase = len(sources), <Phase *> self._hold(np.zeros(len(sources) * sizeof(Phase), np.uint8))
        self.zeros = <const char *> self._hold(np.zeros(groups * kin * p.itemsize if channels_last else 0, np.uint8))
        covered = 0
        for i in range(p.phases):
            f = &p.phase[i]
            self._describe(f, sources[i], kernel)
            self._block(f)
            self.work += <double> batch * groups * kout * kin * f.pixels * f.all_taps
            covered += f.pixels
        self.covered = covered == p.destination_plane
        if not self.covered:
            self.work += <double> batch * groups * kout * p.destination_plane

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

    cdef _block(self, Phase *f):
        """Blocks of channels and of pixels; a function of the geometry and the register tile alone."""
        cdef Problem *p = &self.problem
        cdef Py_ssize_t taps = f.all_taps, nr = p.kernels.nr, rows = f.pixels * p.batch
        f.weight_offset = self.packed_bytes
        f.kc = p.kin
        if not (self.channels_last and copies_taps(p, f)):
            f.kc = even_part(p.kin, max(1, PANEL_BYTES // (taps * nr * p.itemsize)), 1)
        if self.channels_last:
            f.block = even_part(max(1, rows), BLOCK_PIXELS, p.kernels.mr)
            f.blocks, f.slices = ceil_div(rows, f.block), p.groups
            self.packed_bytes += p.groups * ceil_div(p.kout, nr) * nr * f.all_taps * p.kin * p.itemsize
        else:
            f.scratch = f.pixels != p.destination_plane or (p.batch > 1 and wastes_columns(p, f))
            columns = rows if f.scratch else f.pixels
            tiles = max(1, min(<Py_ssize_t> BLOCK_TILES, BLOCK_BYTES // (taps * f.kc * nr * p.itemsize)))
            f.block = min(tiles, ceil_div(max(1, columns), nr)) * nr
            f.blocks, f.slices = ceil_div(columns, f.block), p.groups * (1 if f.scratch else p.batch)
            f.rows = p.kout
            if f.scratch and f.kc == p.kin:  # else the panels would have to be packed again for the next rows
                f.rows = min(p.kout, max(1, SCRATCH_BYTES // (f.block * p.itemsize * p.kernels.mr)) * p.kernels.mr)
            self.packed_bytes += p.groups * p.kout * f.all_taps * p.kin * p.itemsize
        self.packed_bytes = ceil_div(self.packed_bytes, 64) * 64

    cdef Py_ssize_t _workspace(self, int threads) noexcept nogil:
        cdef Py_ssize_t i, most = 0
        cdef Cut cut
        for i in range(self.problem.phases):
            cut = cut_for(&self.problem, &self.problem.phase[i], self.channels_last, threads)
            most = max(most, cut.shared + threads * cut.workspace)
        return most

    cdef void _pack(self, const char *weight, char *packed) except *:
        cdef const Problem *p = &self.problem
        cdef const Phase *f = NULL
        cdef int i, threads = team(<double> self.packed_bytes / 4)
        cdef Py_ssize_t unit, units = ceil_div(p.kout, p.kernels.nr) if self.channels_last else p.kout
        cdef bint channels_last = self.channels_last, backward = self.backward
        for i in range(p.phases):
            f = &p.phase[i]
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
        else:
            run(&self.problem, call, self.channels_last, scratch, threads)


cdef Cut cut_for(const Problem *p, const Phase *f, bint channels_last, int threads) noexcept nogil:
    """All rows a task where there are blocks enough; else parts of them, of panels packed once for all."""
    cdef Py_ssize_t unit = p.kernels.nr if channels_last else p.kernels.mr
    cdef Py_ssize_t blocks = max(1, f.blocks * f.slices), block_bytes = panels_of_block(p, f) * panel_stride(p, f)
    cdef Cut cut
    cut.parts = 1 if threads == 1 else max(1, min(ceil_div(TASKS * threads, blocks), p.kout // (4 * p.kernels.mr)))
    cut.part = even_part(p.kout, ceil_div(p.kout, cut.parts), unit)
    cut.parts = ceil_div(p.kout, cut.part)
    cut.stretch, cut.shared = 0, 0
    if channels_last:
        cut.workspace = rows_bytes(p, f)
        return cut
    cut.workspace = run_bytes(p) + (min(cut.part, f.rows) * f.block * p.itemsize if f.scratch else 0)
    if cut.parts > 1:
        cut.stretch = max(1, min(blocks, SHARED_BYTES // block_bytes))
        cut.shared = cut.stretch * block_bytes
    else:
        cut.workspace += f.block // p.kernels.nr * panel_stride(p, f)
    cut.workspace = ceil_div(cut.workspace, 64) * 64
    cut.shared = ceil_div(cut.shared, 64) * 64
    return cut


cdef void run_alone(const Problem *p, const Call *call, bint channels_last, char *own) noexcept nogil:
    """All phases by the calling thread, without the price of a team."""
    cdef const Phase *f
    cdef Py_ssize_t i, unit
    cdef Cut cut
    if call.background != NULL:
        for unit in range(p.batch * (p.destination_plane if channels_last else p.groups * p.kout)):
            fill(p, call, channels_last, unit)
    for i in range(p.phases):
        f = &p.phase[i]
        cut = cut_for(p, f, channels_last, 1)
        for unit in range(f.slices * f.blocks):
            if channels_last:
                channels_last_task(p, f, cut, call, unit, 0, own)
            else:
                channels_first_task(p, f, cut, call, unit, 0, NULL, own)


cdef void run(const Problem *p, const Call *call, bint channels_last, char *shared, int threads) noexcept nogil:
    """All phases by a team, whose workers round as their caller does."""
    cdef fenv_t environment
    cdef const Phase *f = NULL
    cdef char *own = NULL
    cdef Py_ssize_t i = 0, s = 0, first = 0, count = 0, panels = 0, unit
    cdef Cut cut
    fegetenv(&environment)
    with parallel(num_threads=threads):
        fesetenv(&environment)
        if call.background != NULL:
            for unit in prange(p.batch * (p.destination_plane if channels_last else p.groups * p.kout)):
                fill(p, call, channels_last, unit)
        for i in range(p.phases):
            f = &p.phase[i]
            cut = cut_for(p, f, channels_last, threads)
            own = shared + cut.shared + threadid() * cut.workspace
            if channels_last:
                for unit in prange(f.slices * f.blocks * cut.parts, schedule="dynamic"):
                    channels_last_task(p, f, cut, call, unit // cut.parts, unit % cut.parts, own)
            elif cut.stretch == 0:
                for unit in prange(f.slices * f.blocks, schedule="dynamic"):
                    channels_first_task(p, f, cut, call, unit, 0, NULL, own)
            else:
                panels = panels_of_block(p, f)
                for s in range(ceil_div(f.slices * f.blocks, cut.stretch)):
                    first = s * cut.stretch
                    count = min(cut.stretch, f.slices * f.blocks - first)
                    for unit in prange(count * panels, schedule="dynamic"):
                        pack_shared(p, f, call, first, unit, shared, own)
                    for unit in prange(count * cut.parts, schedule="dynamic"):
                        channels_first_task(p, f, cut, call, first + unit // cut.parts, unit % cut.parts,
                                            shared + unit // cut.parts * panels * panel_stride(p, f), own)


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


cdef inline const char *weight_group(const Problem *p, const char *weight, Py_ssize_t group) noexcept nogil:
    return weight + group * p.kin * p.kout * p.kernel_taps * p.itemsize


cdef inline void pack_unit(const Problem *p, const Phase *f, const char *weight, char *packed, bint channels_last,
                           Py_ssize_t group, Py_ssize_t unit, bint backward) noexcept nogil:
    if channels_last:
        pack_panel(p, f, weight, packed, group, unit, backward)
    else:
        pack_row(p, f, weight, packed, group, unit, backward)


cdef void pack_row(const Problem *p, const Phase *f, const char *weight, char *packed, Py_ssize_t group,
                   Py_ssize_t row, bint backward) noexcept nogil:
    """packed[group][block of channels][row][tap][kc] from weight[C_out][C_in / groups][kernel]."""
    cdef Py_ssize_t row_stride = p.kernel_taps if backward else p.kin * p.kernel_taps, isz = p.itemsize
    cdef Py_ssize_t stride = p.kout * p.kernel_taps if backward else p.kernel_taps, channel = 0, tap, kc
    cdef const char *source = weight_group(p, weight, group) + row * row_stride * isz
    cdef char *block = packed + f.weight_offset + group * p.kout * p.kin * f.all_taps * isz
    cdef char *to
    while channel < p.kin:
        kc = min(f.kc, p.kin - channel)
        to = block + row * f.all_taps * kc * isz
        for tap in range(f.all_taps):
            p.kernels.pack_matrix(to, kc, source + (channel * stride + f.weight_taps[tap]) * isz, 0, stride, 1, kc)
            to += kc * isz
        block += p.kout * f.all_taps * kc * isz
        channel += kc


cdef void pack_panel(const Problem *p, const Phase *f, const char *weight, char *packed, Py_ssize_t group,
                     Py_ssize_t panel, bint backward) noexcept nogil:
    """packed[group][panel of NR rows][block of channels][tap][kc][NR] from weight[C_out][C_in / groups][kernel]."""
    cdef Py_ssize_t row_stride = p.kernel_taps if backward else p.kin * p.kernel_taps
    cdef Py_ssize_t nr = p.kernels.nr, isz = p.itemsize
    cdef Py_ssize_t stride = p.kout * p.kernel_taps if backward else p.kernel_taps, channel = 0, tap, kc
    cdef Py_ssize_t panels = ceil_div(p.kout, nr), columns = min(nr, p.kout - panel * nr)
    cdef const char *source = weight_group(p, weight, group) + panel * nr * row_stride * isz
    cdef char *to = packed + f.weight_offset + (group * panels + panel) * p.kin * f.all_taps * nr * isz
    while channel < p.kin:
        kc = min(f.kc, p.kin - channel)
        for tap in range(f.all_taps):
            p.kernels.pack_matrix(to, nr, source + (channel * stride + f.weight_taps[tap]) * isz, stride, row_stride,
                                  kc, columns)
            to += kc * nr * isz
        channel += kc
