"""Direct convolution: a batch-reduce GEMM over the taps, for any stride, padding, dilation, groups and dimension.

    y[n][row][p] = epilogue( sum over taps t, channels c of  w[row][c][t] * x[n][c][source(p, t)] )

One macro-kernel for forward (destination y, source x) and for backward_input and transposed convolution (destination
grad_x, source grad_y, a phase per stride residue: see fastconv.sources). A register tile is MR rows by NR columns:

channels_first  rows are destination channels, columns are pixels. For a block of pixels the source is packed into
                panels [tap][channel][NR] that stay in L2 while all rows pass over them; weights are [row][tap][channel].
                Small planes and strided destinations accumulate in a contiguous scratch block, copied out once.
channels_last   rows are pixels, read in place through pointers (a row of zeros where the tap meets padding), columns
                are destination channels; weights are panels [tap][channel][NR]. Pixels run on across images.

Taps x channels are cut into blocks (KC channels) so that a panel keeps to half of L2; the destination holds the partial
sums between blocks. The cut depends on the geometry alone, so the bits do not depend on the number of threads.
"""

import numpy as np

from cython.parallel cimport parallel, prange, threadid
from libc.math cimport INFINITY
from libc.string cimport memcpy, memset
cimport numpy as cnp

from fastconv.kernels.core cimport (
    FASTCONV_MAX_ROWS,
    acquire,
    fastconv_epilogue,
    fastconv_gemm_tile,
    fastconv_kernels,
    fastconv_run,
    fegetenv,
    fenv_t,
    fesetenv,
    kernels,
    release,
    team,
)

cnp.import_array()

cdef enum:
    PANEL_BYTES = 256 * 1024   # one packed panel [taps][KC][NR]: a quarter of a 1 MB L2
    BLOCK_BYTES = 512 * 1024   # the panels of one block of pixels (channels_first)
    BLOCK_TILES = 4            # register tiles of pixels a block, channels_first
    BLOCK_PIXELS = 96          # pixels a block, channels_last: 16 register tiles
    MANY_TASKS = 128           # below so many tasks the rows are cut, too: 64 threads should find work
    FEW_CHANNELS = 8           # below so many channels a pixel's taps are copied side by side (channels_last)


cdef struct Segment:           # destination positions start .. stop - 1 along W read source + i * step (or padding)
    Py_ssize_t start, stop, source, step

cdef struct Phase:
    Py_ssize_t count[3]        # destination positions of the phase along D, H, W
    Py_ssize_t offset[3]       # where they start in the destination and how far apart they are
    Py_ssize_t step[3]
    Py_ssize_t taps[3]
    const Py_ssize_t *map[3]   # [taps][count]: source position or -1
    const Segment *segments    # [taps of W] runs of map[2], first_segment[t] .. first_segment[t + 1]
    const Py_ssize_t *first_segment
    const Py_ssize_t *weight_taps  # [taps]: element offset of each tap in the weight's kernel
    Py_ssize_t all_taps, pixels, kc
    Py_ssize_t weight_offset   # bytes into the packed weights
    Py_ssize_t block, blocks   # columns (channels_first) or rows (channels_last) a block
    Py_ssize_t part, parts     # destination channels a task
    Py_ssize_t first_task
    bint scratch               # channels_first: columns run across images and rows, copied out at the end

cdef struct Problem:
    Py_ssize_t batch, groups, kin, kout, kernel_taps, itemsize
    Py_ssize_t source_size[3]
    Py_ssize_t destination_size[3]
    Py_ssize_t source_plane, destination_plane
    int phases
    Phase *phase
    const fastconv_kernels *kernels
    Py_ssize_t tasks, workspace

cdef struct Call:
    const char *source
    const char *weight         # packed
    const char *zeros          # as long as a pixel of all channels
    char *destination
    fastconv_epilogue epilogue


cdef inline Py_ssize_t ceil_div(Py_ssize_t a, Py_ssize_t b) noexcept nogil:
    return (a + b - 1) // b


cdef inline Py_ssize_t even_part(Py_ssize_t total, Py_ssize_t limit, Py_ssize_t unit) noexcept nogil:
    """The size of a part when `total` is cut into equal parts of at most `limit`, in whole units."""
    return ceil_div(ceil_div(total, ceil_div(total, limit)), unit) * unit


# ---------------------------------------------------------------------------------------------- channels_first

cdef Py_ssize_t tile_runs(const Problem *p, const Phase *f, Py_ssize_t tap, Py_ssize_t q, Py_ssize_t columns,
                          Py_ssize_t image_stride, fastconv_run *runs) noexcept nogil:
    """Where the columns q .. q + columns of a panel come from for one tap; returns the number of runs."""
    cdef Py_ssize_t tw = tap % f.taps[2], th = tap // f.taps[2] % f.taps[1], td = tap // (f.taps[2] * f.taps[1])
    cdef Py_ssize_t n = q // f.pixels, row = q % f.pixels // f.count[2], w = q % f.count[2], to = 0, count = 0
    cdef Py_ssize_t length, d, h, base, a, b
    cdef const Segment *s
    while to < columns:
        length = min(f.count[2] - w, columns - to)
        d = f.map[0][td * f.count[0] + row // f.count[1]]
        h = f.map[1][th * f.count[1] + row % f.count[1]]
        if d < 0 or h < 0:
            runs[count] = fastconv_run(-1, to, length, 1)
            count += 1
        else:
            base = n * image_stride + (d * p.source_size[1] + h) * p.source_size[2]
            s = f.segments + f.first_segment[tw]
            while s.stop <= w:
                s += 1
            a = w
            while a < w + length:
                b = min(s.stop, w + length)
                runs[count].start = -1 if s.source < 0 else base + s.source + (a - s.start) * s.step
                runs[count].to = to + a - w
                runs[count].length = b - a
                runs[count].step = s.step
                count += 1
                a = b
                s += 1
        to += length
        w = 0
        row += 1
        if row == f.count[0] * f.count[1]:
            row = 0
            n += 1
    return count


cdef void pack_block(const Problem *p, const Phase *f, const char *source, Py_ssize_t q, Py_ssize_t columns,
                     Py_ssize_t channel, Py_ssize_t kc, char *panels, fastconv_run *runs) noexcept nogil:
    """panels[tile][tap][kc][NR] for channels channel .. channel + kc of the columns from q on."""
    cdef Py_ssize_t nr = p.kernels.nr, panel = f.all_taps * kc * nr * p.itemsize
    cdef Py_ssize_t image = p.groups * p.kin * p.source_plane, tap, count, tile, width
    cdef Py_ssize_t padded, j
    for tile in range(ceil_div(columns, nr)):
        width = min(nr, columns - tile * nr)
        padded = ceil_div(width, p.kernels.vlen) * p.kernels.vlen
        for tap in range(f.all_taps):
            count = tile_runs(p, f, tap, q + tile * nr, width, image, runs)
            if padded > width:
                runs[count] = fastconv_run(-1, width, padded - width, 1)
                count += 1
            p.kernels.pack_runs(panels + tile * panel + tap * kc * nr * p.itemsize, nr,
                                source + channel * p.source_plane * p.itemsize, p.source_plane, kc, runs, count)


cdef void rows_by_panels(const Problem *p, const Phase *f, const Call *call, const char *weight, Py_ssize_t group,
                         Py_ssize_t row, Py_ssize_t stop, Py_ssize_t k, Py_ssize_t done, const char *panels, char *c,
                         Py_ssize_t c_row, Py_ssize_t columns, bint last) noexcept nogil:
    """c[row .. stop][columns] (+)= weight rows x panels for one block of k = taps x channels."""
    cdef Py_ssize_t nr = p.kernels.nr, zero = 0, tile, i, first = row
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
            a[i] = weight + ((row + i) * f.all_taps * p.kin + done) * p.itemsize
            rows[i] = c + (row + i - first) * c_row
        if call.epilogue.shift != NULL:
            epilogue.shift = call.epilogue.shift + (group * p.kout + row) * p.itemsize
        if call.epilogue.scale != NULL:
            epilogue.scale = call.epilogue.scale + (group * p.kout + row) * p.itemsize
        for tile in range(ceil_div(columns, nr)):
            t.columns = <int> min(nr, columns - tile * nr)
            t.b = panels + tile * nr * k * p.itemsize
            t.c_offset = tile * nr * p.itemsize
            p.kernels.gemm(&t)
        row += t.rows


cdef void copy_out(const Problem *p, const Phase *f, char *destination, Py_ssize_t group, Py_ssize_t row,
                   Py_ssize_t stop, Py_ssize_t q, Py_ssize_t columns, const char *c, Py_ssize_t c_row) noexcept nogil:
    """Scratch rows to where their pixels are: destination[n][channel][d][h][w], positions `step` apart along W."""
    cdef Py_ssize_t n, line, w, length, to = 0, i, j, at, isz = p.itemsize, step = f.step[2]
    while to < columns:
        n = (q + to) // f.pixels
        line = (q + to) % f.pixels // f.count[2]
        w = (q + to) % f.count[2]
        length = min(f.count[2] - w, columns - to)
        at = (f.offset[0] + line // f.count[1] * f.step[0]) * p.destination_size[1]
        at = (at + f.offset[1] + line % f.count[1] * f.step[1]) * p.destination_size[2] + f.offset[2] + w * step
        at += (n * p.groups * p.kout + group * p.kout + row) * p.destination_plane
        for i in range(stop - row):
            copy_row(destination + (at + i * p.destination_plane) * isz, c + i * c_row + to * isz, length, step, isz)
        to += length


cdef inline void copy_row(char *to, const char *source, Py_ssize_t n, Py_ssize_t step, Py_ssize_t isz) noexcept nogil:
    cdef Py_ssize_t j
    if step == 1:
        memcpy(to, source, n * isz)
    elif isz == 4:
        for j in range(n):
            (<float *> to)[j * step] = (<const float *> source)[j]
    else:
        for j in range(n):
            (<double *> to)[j * step] = (<const double *> source)[j]


cdef void channels_first_task(const Problem *p, const Phase *f, const Call *call, Py_ssize_t task,
                              char *workspace) noexcept nogil:
    cdef Py_ssize_t part = task % f.parts, block = task // f.parts % f.blocks, rest = task // (f.parts * f.blocks)
    cdef Py_ssize_t group = rest % p.groups, n = rest // p.groups, isz = p.itemsize
    cdef Py_ssize_t row = part * f.part, stop = min(p.kout, row + f.part), q = block * f.block
    cdef Py_ssize_t end = f.pixels * p.batch if f.scratch else f.pixels
    cdef Py_ssize_t columns = min(f.block, end - q), channel = 0, kc
    cdef Py_ssize_t c_row = f.block * isz if f.scratch else p.destination_plane * isz
    cdef fastconv_run *runs = <fastconv_run *> workspace
    cdef char *panels = workspace + run_bytes(p, f)
    cdef char *c = panels + panel_bytes(p, f)
    cdef const char *source = call.source + (n * p.groups + group) * p.kin * p.source_plane * isz
    cdef const char *weight = call.weight + f.weight_offset + group * p.kout * f.all_taps * p.kin * isz
    if not f.scratch:
        c = call.destination + (((n * p.groups + group) * p.kout + row) * p.destination_plane + q) * isz
    while True:  # at least once: a phase without taps is still stored
        kc = min(f.kc, p.kin - channel)
        pack_block(p, f, source, q, columns, channel, kc, panels, runs)
        rows_by_panels(p, f, call, weight, group, row, stop, f.all_taps * kc, f.all_taps * channel, panels, c, c_row,
                       columns, channel + kc == p.kin)
        channel += kc
        if channel == p.kin:
            break
    if f.scratch:
        copy_out(p, f, call.destination, group, row, stop, q, columns, c, c_row)


cdef Py_ssize_t run_bytes(const Problem *p, const Phase *f) noexcept nogil:
    """Runs of one tile and tap: every column its own in the worst case, and one of zeros behind them."""
    return ceil_div((p.kernels.nr + 1) * sizeof(fastconv_run), 64) * 64


cdef Py_ssize_t panel_bytes(const Problem *p, const Phase *f) noexcept nogil:
    """The panels of a block, and the vector of slack that pack_runs asks for."""
    return (ceil_div(f.block, p.kernels.nr) * f.all_taps * f.kc * p.kernels.nr + 2 * p.kernels.vlen) * p.itemsize


# ----------------------------------------------------------------------------------------------- channels_last

cdef inline Py_ssize_t source_pixel(const Problem *p, const Phase *f, Py_ssize_t tap, Py_ssize_t pixel) noexcept nogil:
    """Index of the source pixel within its plane, or -1 for padding."""
    cdef Py_ssize_t d = f.map[0][tap // (f.taps[2] * f.taps[1]) * f.count[0] + pixel // (f.count[2] * f.count[1])]
    cdef Py_ssize_t h = f.map[1][tap // f.taps[2] % f.taps[1] * f.count[1] + pixel // f.count[2] % f.count[1]]
    cdef Py_ssize_t w = f.map[2][tap % f.taps[2] * f.count[2] + pixel % f.count[2]]
    if d < 0 or h < 0 or w < 0:
        return -1
    return (d * p.source_size[1] + h) * p.source_size[2] + w


cdef char *destination_pixel(const Problem *p, const Phase *f, const Call *call, Py_ssize_t q) noexcept nogil:
    cdef Py_ssize_t pixel = q % f.pixels, at
    at = f.offset[0] + pixel // (f.count[2] * f.count[1]) * f.step[0]
    at = at * p.destination_size[1] + f.offset[1] + pixel // f.count[2] % f.count[1] * f.step[1]
    at = at * p.destination_size[2] + f.offset[2] + pixel % f.count[2] * f.step[2]
    return call.destination + (q // f.pixels * p.destination_plane + at) * p.groups * p.kout * p.itemsize


cdef struct Rows:              # the pixels of one register tile: where they are read, tap by tap, and written
    Py_ssize_t entries
    int rows
    const char **a             # [entries][MAX_ROWS]
    Py_ssize_t *taps           # [entries]: which tap
    char **c                   # [MAX_ROWS]


cdef void point_rows(const Problem *p, const Phase *f, const Call *call, Py_ssize_t q, Rows *r) noexcept nogil:
    """Pointers to the source pixels of every tap that does not wholly meet padding."""
    cdef Py_ssize_t tap, i, pixel, channels = p.groups * p.kin * p.itemsize
    cdef bint inside
    for i in range(r.rows):
        r.c[i] = destination_pixel(p, f, call, q + i)
    r.entries = 0
    for tap in range(f.all_taps):
        inside = False
        for i in range(r.rows):
            pixel = source_pixel(p, f, tap, (q + i) % f.pixels)
            if pixel < 0:
                r.a[r.entries * FASTCONV_MAX_ROWS + i] = call.zeros
            else:
                inside = True
                pixel += (q + i) // f.pixels * p.source_plane
                r.a[r.entries * FASTCONV_MAX_ROWS + i] = call.source + pixel * channels
        if inside:
            r.taps[r.entries] = tap
            r.entries += 1


cdef void copy_taps(const Problem *p, const Phase *f, const Call *call, Py_ssize_t group, Py_ssize_t q, Rows *r,
                    char *copies) noexcept nogil:
    """The same with few channels: the taps of a pixel side by side, so that one entry sums them all."""
    cdef Py_ssize_t tap, i, pixel, length = p.kin * p.itemsize, channels = p.groups * length
    cdef char *to
    for i in range(r.rows):
        r.c[i] = destination_pixel(p, f, call, q + i)
        r.a[i] = copies + i * f.all_taps * length
        for tap in range(f.all_taps):
            to = copies + (i * f.all_taps + tap) * length
            pixel = source_pixel(p, f, tap, (q + i) % f.pixels)
            if pixel < 0:
                memset(to, 0, length)
            else:
                pixel += (q + i) // f.pixels * p.source_plane
                copy_row(to, call.source + pixel * channels + group * length, p.kin, 1, p.itemsize)
    r.entries = 1
    r.taps[0] = 0


cdef void channels_last_task(const Problem *p, const Phase *f, const Call *call, Py_ssize_t task,
                             char *workspace) noexcept nogil:
    cdef Py_ssize_t part = task % f.parts, block = task // f.parts % f.blocks, group = task // (f.parts * f.blocks)
    cdef Py_ssize_t q = block * f.block, pixels = min(f.block, f.pixels * p.batch - q)
    cdef Py_ssize_t tiles = ceil_div(pixels, p.kernels.mr), tile, column = part * f.part, channel, kc
    cdef Py_ssize_t stop = min(p.kout, column + f.part)
    cdef bint few = p.kin < FEW_CHANNELS and f.all_taps > 1
    cdef Rows *rows = <Rows *> workspace
    cdef char *free = workspace + ceil_div(tiles * sizeof(Rows), 64) * 64
    for tile in range(tiles):
        rows[tile].a = <const char **> free
        rows[tile].taps = <Py_ssize_t *> (free + (1 if few else f.all_taps) * FASTCONV_MAX_ROWS * sizeof(char *))
        rows[tile].c = <char **> (rows[tile].taps + (1 if few else f.all_taps))
        free = <char *> (rows[tile].c + FASTCONV_MAX_ROWS)
        rows[tile].rows = <int> min(p.kernels.mr, pixels - tile * p.kernels.mr)
        if few:
            copy_taps(p, f, call, group, q + tile * p.kernels.mr, &rows[tile], free)
            free += p.kernels.mr * f.all_taps * p.kin * p.itemsize
        else:
            point_rows(p, f, call, q + tile * p.kernels.mr, &rows[tile])
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
    for tile in range(tiles):
        t.entries, t.rows, t.a, t.c = rows[tile].entries, rows[tile].rows, rows[tile].a, rows[tile].c
        for e in range(t.entries):
            b_offsets[e] = rows[tile].taps[e] * kc * nr * isz
        p.kernels.gemm(&t)


cdef Py_ssize_t rows_bytes(const Problem *p, const Phase *f) noexcept nogil:
    """Pointer lists (or copies) of a block of pixels, and the offsets of a panel's taps."""
    cdef bint few = p.kin < FEW_CHANNELS and f.all_taps > 1
    cdef Py_ssize_t entries = 1 if few else f.all_taps, tiles = ceil_div(f.block, p.kernels.mr), tile
    tile = (entries + 1) * FASTCONV_MAX_ROWS * sizeof(char *) + entries * sizeof(Py_ssize_t)
    if few:
        tile += p.kernels.mr * f.all_taps * p.kin * p.itemsize
    return 64 + tiles * (<Py_ssize_t> sizeof(Rows) + tile) + (f.all_taps + 1) * <Py_ssize_t> sizeof(Py_ssize_t)


# ------------------------------------------------------------------------------------------------------ plans

cdef class DirectPlan:
    """One convolution, ready to run any number of times, from any thread.

    `sources` are the phases of fastconv.sources; `kin` and `kout` are source and destination channels a group;
    `backward` says that the weight's first axis is the source's channels (backward_input).
    """

    cdef Problem problem
    cdef readonly bint channels_last, backward
    cdef object keep            # arrays that the pointers of `problem` look into
    cdef object zeros
    cdef readonly Py_ssize_t packed_bytes
    cdef double work

    def __init__(self, int dtype, bint channels_last, bint backward, Py_ssize_t batch, Py_ssize_t groups,
                 Py_ssize_t kin, Py_ssize_t kout, source_size, destination_size, sources, kernel):
        cdef Problem *p = &self.problem
        cdef Phase *f
        cdef int i
        self.channels_last, self.backward, self.keep = channels_last, backward, []
        p.kernels = kernels(dtype)
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
        self.work = 0
        for i in range(p.phases):
            f = &p.phase[i]
            self._describe(f, sources[i], kernel)
            self._cut(f)
            self.work += <double> batch * groups * kout * kin * f.pixels * f.all_taps

    cdef _describe(self, Phase *f, axes, kernel):
        """Copy an AxisSources a spatial axis into the phase, the missing leading axes as ones."""
        cdef int i, missing = 3 - len(axes)
        one = np.zeros((1, 1), np.intp)
        f.all_taps, f.pixels = 1, 1
        taps = np.zeros(1, np.intp)
        for i in range(3):
            if i < missing:
                map, f.offset[i], f.step[i] = one, 0, 1
            else:
                axis = axes[i - missing]
                map, f.offset[i], f.step[i] = np.ascontiguousarray(axis.map, np.intp), axis.start, axis.step
                taps = (taps[:, None] * kernel[i - missing] + np.array(axis.taps, np.intp)).ravel()
            self.keep.append(map)
            f.taps[i], f.count[i] = map.shape
            f.map[i] = <const Py_ssize_t *> cnp.PyArray_DATA(map)
            f.all_taps *= f.taps[i]
            f.pixels *= f.count[i]
        self.keep.append(taps)
        f.weight_taps = <const Py_ssize_t *> cnp.PyArray_DATA(taps)
        segments, first = runs_of(map)
        self.keep += [segments, first]
        f.segments = <const Segment *> cnp.PyArray_DATA(segments)
        f.first_segment = <const Py_ssize_t *> cnp.PyArray_DATA(first)

    cdef _cut(self, Phase *f):
        """Blocks of pixels, of channels and of rows; a function of the geometry and the register tile alone."""
        cdef Problem *p = &self.problem
        cdef Py_ssize_t mr = p.kernels.mr, nr = p.kernels.nr, taps = max(1, f.all_taps), tiles, tasks, unit
        f.weight_offset = self.packed_bytes
        f.kc = max(1, PANEL_BYTES // (taps * nr * p.itemsize))
        if self.channels_last and p.kin < FEW_CHANNELS and taps > 1:
            f.kc = p.kin
        f.kc = even_part(p.kin, f.kc, 1)
        if self.channels_last:
            unit = nr
            f.block = even_part(f.pixels * p.batch, BLOCK_PIXELS, mr) if f.pixels * p.batch else mr
            f.blocks = ceil_div(f.pixels * p.batch, f.block)
            tasks = p.groups * f.blocks
            self.packed_bytes += p.groups * ceil_div(p.kout, nr) * nr * f.all_taps * p.kin * p.itemsize
        else:
            unit = 4 * mr
            strided = f.step[2] != 1 or p.phases > 1
            f.scratch = strided or (p.batch > 1 and f.pixels % nr and f.pixels < 4 * nr)
            tiles = max(1, min(<Py_ssize_t> BLOCK_TILES, BLOCK_BYTES // (taps * f.kc * nr * p.itemsize)))
            f.block = tiles * nr
            f.blocks = ceil_div(f.pixels * p.batch if f.scratch else f.pixels, f.block)
            tasks = p.groups * f.blocks * (1 if f.scratch else p.batch)
            self.packed_bytes += p.groups * p.kout * f.all_taps * p.kin * p.itemsize
        f.parts = max(1, min(ceil_div(MANY_TASKS, max(1, tasks)), p.kout // unit))
        f.part = even_part(p.kout, ceil_div(p.kout, f.parts), nr if self.channels_last else mr)
        f.parts = ceil_div(p.kout, f.part)
        f.first_task = p.tasks
        p.tasks += tasks * f.parts
        self.packed_bytes = ceil_div(self.packed_bytes, 64) * 64
        p.workspace = max(p.workspace, ceil_div(self._task_bytes(f), 64) * 64)

    cdef Py_ssize_t _task_bytes(self, Phase *f) noexcept:
        cdef Problem *p = &self.problem
        if self.channels_last:
            return rows_bytes(p, f)
        return run_bytes(p, f) + panel_bytes(p, f) + (f.part * f.block * p.itemsize if f.scratch else 0)

    @property
    def workspace_bytes(self):
        """Scratch memory a thread."""
        return self.problem.workspace

    def pack(self, weight):
        """The weight, of PyTorch's shape and C-contiguous, in the order in which the register tiles read it."""
        cdef cnp.ndarray packed = np.empty(max(1, self.packed_bytes), np.uint8)
        self._pack(<const char *> cnp.PyArray_DATA(weight), <char *> cnp.PyArray_DATA(packed))
        return packed

    cdef void _pack(self, const char *weight, char *packed):
        cdef const Problem *p = &self.problem
        cdef const Phase *f
        cdef int i, threads = team(<double> self.packed_bytes / 4)
        cdef Py_ssize_t unit, units = ceil_div(p.kout, p.kernels.nr) if self.channels_last else p.kout
        cdef bint channels_last = self.channels_last, backward = self.backward
        for i in range(p.phases):
            f = &p.phase[i]
            for unit in prange(p.groups * units, nogil=True, num_threads=threads, schedule="static"):
                if channels_last:
                    pack_panel(p, f, weight, packed, unit // units, unit % units, backward)
                else:
                    pack_row(p, f, weight, packed, unit // units, unit % units, backward)

    def __call__(self, cnp.ndarray source, cnp.ndarray weight, cnp.ndarray bias, cnp.ndarray destination,
                 double lower=-INFINITY, double upper=INFINITY, cnp.ndarray packed=None):
        """destination = clamp(convolution + bias, lower, upper); `packed` saves packing the weight again.

        All arrays are C-contiguous, of one dtype, and checked by the caller.
        """
        cdef Problem *p = &self.problem
        cdef Call call
        cdef char *own = NULL
        cdef char *workspace = NULL
        cdef int threads = team(self.work)
        memset(&call, 0, sizeof(call))
        call.source = <const char *> cnp.PyArray_DATA(source)
        call.destination = <char *> cnp.PyArray_DATA(destination)
        call.zeros = <const char *> cnp.PyArray_DATA(self.zeros)
        call.epilogue.shift = <const char *> cnp.PyArray_DATA(bias) if bias is not None else NULL
        call.epilogue.per_row = not self.channels_last
        call.epilogue.lower, call.epilogue.upper = lower, upper
        try:
            if packed is None:
                own = acquire(self.packed_bytes + 64, 1)
                self._pack(<const char *> cnp.PyArray_DATA(weight), own)
                call.weight = own
            else:
                call.weight = <const char *> cnp.PyArray_DATA(packed)
            workspace = acquire(p.workspace, threads)
            with nogil:
                run_tasks(p, &call, self.channels_last, workspace, threads)
        finally:
            release(workspace)
            release(own)


cdef void run_tasks(const Problem *p, const Call *call, bint channels_last, char *workspace, int threads) noexcept nogil:
    cdef Py_ssize_t task
    cdef fenv_t environment
    if threads == 1:
        for task in range(p.tasks):
            run_task(p, call, channels_last, task, workspace)
        return
    fegetenv(&environment)
    with parallel(num_threads=threads):
        fesetenv(&environment)
        for task in prange(p.tasks, schedule="dynamic"):
            run_task(p, call, channels_last, task, workspace + threadid() * p.workspace)


cdef void run_task(const Problem *p, const Call *call, bint channels_last, Py_ssize_t task,
                   char *workspace) noexcept nogil:
    cdef int i = p.phases - 1
    while p.phase[i].first_task > task:
        i -= 1
    if channels_last:
        channels_last_task(p, &p.phase[i], call, task - p.phase[i].first_task, workspace)
    else:
        channels_first_task(p, &p.phase[i], call, task - p.phase[i].first_task, workspace)


cdef const char *weight_group(const Problem *p, const char *weight, Py_ssize_t group) noexcept nogil:
    return weight + group * p.kin * p.kout * p.kernel_taps * p.itemsize


cdef void pack_row(const Problem *p, const Phase *f, const char *weight, char *packed, Py_ssize_t group,
                   Py_ssize_t row, bint backward) noexcept nogil:
    """packed[group][row][block of channels][tap][kc] from weight[C_out][C_in / groups][kernel]."""
    cdef Py_ssize_t row_stride = p.kernel_taps if backward else p.kin * p.kernel_taps, isz = p.itemsize
    cdef Py_ssize_t stride = p.kout * p.kernel_taps if backward else p.kernel_taps, channel = 0, tap, kc
    cdef const char *source = weight_group(p, weight, group) + row * row_stride * isz
    cdef char *to = packed + f.weight_offset + (group * p.kout + row) * p.kin * f.all_taps * isz
    while channel < p.kin:
        kc = min(f.kc, p.kin - channel)
        for tap in range(f.all_taps):
            p.kernels.pack_matrix(to, kc, source + (channel * stride + f.weight_taps[tap]) * isz, 0, stride, 1, kc)
            to += kc * isz
        channel += kc


cdef void pack_panel(const Problem *p, const Phase *f, const char *weight, char *packed, Py_ssize_t group,
                     Py_ssize_t panel, bint backward) noexcept nogil:
    """packed[group][panel of NR rows][block of channels][tap][kc][NR] from weight[C_out][C_in / groups][kernel]."""
    cdef Py_ssize_t row_stride = p.kernel_taps if backward else p.kin * p.kernel_taps, nr = p.kernels.nr, isz = p.itemsize
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


def runs_of(map):
    """Segments (start, stop, source, step) of each row of an index map, and the first segment of each row."""
    segments, first = [], [0]
    for row in map.tolist():
        i = 0
        while i < len(row):
            j = i + 1
            step = row[j] - row[i] if j < len(row) and row[i] >= 0 and row[j] >= 0 else 1
            while j < len(row) and (row[j] == -1 if row[i] == -1 else row[j] >= 0 and row[j] - row[j - 1] == step):
                j += 1
            segments.append((i, j, row[i], step))
            i = j
        first.append(len(segments))
    return np.array(segments, np.intp).reshape(-1, 4), np.array(first, np.intp)
