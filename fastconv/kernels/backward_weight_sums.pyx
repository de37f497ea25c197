"""The sums of one task of the weight gradient over one part of the pixels, and parts added up.

Sums [co][tap][ci] stay in L2. With one part they go straight to the weight's own order [co][ci][tap]; several parts,
numbered by the geometry, are added in that order first, so that bits do not depend on the number of threads.
"""

from libc.string cimport memset

from fastconv.kernels.backward_weight_panels cimport pack_patches, pack_x, pack_y
from fastconv.kernels.backward_weight_problem cimport (
    Ahead,
    Axis,
    Block,
    Call,
    Layout,
    Problem,
    Task,
    Workspace,
    tile_rows,
)
from fastconv.kernels.core cimport CACHE_LINE, ceil_div, fastconv_pair, fastconv_pairs_tile, round_up


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


cdef void prepare(const Problem *p, const Workspace *w) noexcept nogil:
    """Lanes beyond the last channel are multiplied and dropped: they must not hold denormals, which are slow."""
    cdef Py_ssize_t panels = ceil_div(p.taps_task * p.ci if p.patches else p.ci_task, p.kernels.pairs_nr), i
    if not p.in_place:
        memset((w.patches if p.patches else w.x) + (panels - 1) * p.panel, 0, p.panel)
    if p.patches:                                      # every pixel has its patch
        for i in range(p.pixels):
            w.pairs[i].a = <int> (i * p.kernels.pairs_mr * p.itemsize)
            w.pairs[i].b = <int> (i * p.kernels.pairs_nr * p.itemsize)


# ------------------------------------------------------------------------------------------------------------ one block

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


cdef inline Py_ssize_t source_of(const Axis *a, const Block *b, int axis, Py_ssize_t output) noexcept nogil:
    """What the only tap of an output of the block reads."""
    return a.sources[b.index[axis] * a.positions + output * a.step + a.shift[0]]


cdef Py_ssize_t pairs_in_place(const Problem *p, const Block *b, fastconv_pair *pairs) noexcept nogil:
    """The same for the only tap and pixels of x where they lie, from the block's first image on."""
    cdef const Axis *a = &p.axis[0]
    cdef Py_ssize_t source[3]
    cdef Py_ssize_t n, d, h, w, y = 0, isz = p.itemsize
    cdef const fastconv_pair *first = pairs
    for n in range(b.images):
        for d in range(a[0].first[b.index[0]], a[0].stop[b.index[0]]):
            source[0] = source_of(&a[0], b, 0, d)
            for h in range(a[1].first[b.index[1]], a[1].stop[b.index[1]]):
                source[1] = source[0] * p.x.size[1] + source_of(&a[1], b, 1, h)
                y = ((n * b.outs[0] + d) * b.outs[1] + h) * b.outs[2]
                for w in range(a[2].first[b.index[2]], a[2].stop[b.index[2]]):
                    source[2] = source[1] * p.x.size[2] + source_of(&a[2], b, 2, w)
                    pairs.a = <int> ((y + w) * p.kernels.pairs_mr * isz)
                    pairs.b = <int> ((n * p.x.image + source[2] * p.x.pixel) * isz)
                    pairs += 1
    return pairs - first


cdef Ahead ahead_of(const Problem *p, const Task *t, const Call *call, Py_ssize_t number) noexcept nogil:
    """Block `number` of a pointwise convolution, where y and x lie alike; of others, where taps share what was packed,
    packing weighs little."""
    cdef Ahead ahead
    cdef Block b
    cdef Py_ssize_t line, isz = p.itemsize
    memset(&ahead, 0, sizeof(ahead))
    if p.taps > 1 or p.x.size[0] * p.x.size[1] * p.x.size[2] != p.y.size[0] * p.y.size[1] * p.y.size[2]:
        return ahead
    b = block_at(p, number)
    line = (b.start[0] * p.y.size[1] + b.start[1]) * p.y.size[2] + b.start[2]
    ahead.start[0] = call.y + (b.n * p.y.image + line * p.y.pixel + (t.group * p.co + t.co) * p.y.channel) * isz
    ahead.start[1] = call.x + (b.n * p.x.image + line * p.x.pixel + (t.group * p.ci + t.ci) * p.x.channel) * isz
    find_lines(&ahead, 0, &p.y, t.rows, b.pixels, isz)
    find_lines(&ahead, 1, &p.x, t.channels, b.pixels, isz)
    return ahead


cdef void find_lines(Ahead *ahead, int of, const Layout *a, Py_ssize_t channels, Py_ssize_t pixels,
                     Py_ssize_t isz) noexcept nogil:
    """Line after line where pixels are taken with all their channels, else one of each pixel or channel."""
    ahead.lines[of] = ceil_div((channels if a.channel == 1 else pixels) * isz, CACHE_LINE)
    if a.channel == 1 and a.pixel == channels:
        ahead.step[of], ahead.each[of] = CACHE_LINE, pixels * CACHE_LINE
    else:
        ahead.step[of], ahead.each[of] = max(a.pixel, a.channel) * isz, CACHE_LINE


cdef inline void bring(Ahead *ahead, fastconv_pairs_tile *tile) noexcept nogil:
    """Let a tile bring the next line of each pixel."""
    cdef Py_ssize_t line = ahead.turn, of = 0
    tile.prefetch, tile.prefetch_step = <const char *> tile.pairs, 0
    if line >= ahead.lines[0]:
        line, of = line - ahead.lines[0], 1
    if line < ahead.lines[of]:
        tile.prefetch, tile.prefetch_step = ahead.start[of] + line * ahead.each[of], ahead.step[of]
    ahead.turn += 1


cdef void multiply(const Problem *p, const Task *t, const fastconv_pair *pairs, Py_ssize_t count, const char *y,
                   const char *x, Py_ssize_t columns, Ahead *ahead, char *sums) noexcept nogil:
    """sums[row][column] += products of the pairs, for all rows of the task and `columns` columns of panels."""
    cdef Py_ssize_t nr = p.kernels.pairs_nr, j, row, rows = tile_rows(p, t)
    cdef fastconv_pairs_tile tile
    tile.pairs, tile.count, tile.ldc, tile.accumulate = pairs, count, p.columns, True
    for j in range(ceil_div(columns, nr)):
        tile.vectors = <int> ceil_div(min(nr, columns - j * nr), p.kernels.vlen)
        tile.b = x + j * p.panel
        for row in range(ceil_div(t.rows, rows)):
            tile.rows = <int> min(rows, t.rows - row * rows)
            tile.a = y + row * p.pixels * p.kernels.pairs_mr * p.itemsize
            tile.c = sums + (row * rows * p.columns + j * nr) * p.itemsize
            bring(ahead, &tile)
            p.kernels.gemm_pairs(&tile)


cdef void add_block(const Problem *p, const Task *t, const Block *b, const Call *call, const Workspace *w,
                    Ahead *ahead, char *sums) noexcept nogil:
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
    if p.in_place:
        count = pairs_in_place(p, b, w.pairs)
        multiply(p, t, w.pairs, count, w.y, call.x + (b.n * p.x.image + t.group * p.ci + t.ci) * isz, t.channels,
                 ahead, sums)
        return
    if p.patches:
        memset(w.x, 0, p.x_bytes)
    pack_x(p, t, b, call.x, w.x)
    if p.patches:
        pack_patches(p, t, b, w.x, w.patches)
        multiply(p, t, w.pairs, b.pixels, w.y, w.patches, t.taps * p.ci, ahead, sums)
        return
    for tap in range(t.taps):
        count = pairs_of_tap(p, b, t.tap + tap, w.pairs)
        if count > 0:
            multiply(p, t, w.pairs, count, w.y, w.x, t.channels, ahead, sums + tap * width * isz)


# ---------------------------------------------------------------------------------------------------- tasks and parts

cdef void sum_part(const Problem *p, const Task *t, const Call *call, Py_ssize_t part, const Workspace *w,
                   char *sums) noexcept nogil:
    """sums[row][tap][ci] and, behind them, the sums of grad_y of each row, over the blocks of one part."""
    cdef Block b
    cdef Ahead ahead
    cdef Py_ssize_t i, stop = min(p.blocks, (part + 1) * p.part_blocks)
    memset(sums, 0, p.sum_bytes)
    for i in range(part * p.part_blocks, stop):
        b = block_at(p, i)
        ahead = ahead_of(p, t, call, min(i + 1, stop - 1))
        add_block(p, t, &b, call, w, &ahead, sums)


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
