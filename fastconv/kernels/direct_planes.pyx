"""Direct convolution in channels_first: a tile's rows are destination channels, its columns are pixels.

A block of pixels is packed (direct_blocks) into panels that stay in L2 while the rows pass over them; weights are
packed by the tile of rows (direct_weights).
"""

from fastconv.kernels.core cimport CACHE_LINE, FASTCONV_MAX_ROWS, ceil_div, fastconv_epilogue, fastconv_gemm_tile
from fastconv.kernels.direct_blocks cimport (
    PIECE,
    Block,
    Layout,
    Tile,
    block_of,
    copy_out,
    first_row,
    layout_bytes,
    layout_of,
    pack_columns,
    pack_lines,
    pack_panels,
)
from fastconv.kernels.direct_problem cimport (
    Cut,
    Phase,
    Problem,
    activate_tile,
    epilogue_of,
    point_residual,
)
from fastconv.kernels.plan cimport Call

cdef enum:
    WEIGHT_BYTES = 256 * 1024  # that L2 keeps beside a block's panels
    SOURCE_BYTES = 4 * 1024 * 1024  # that it does not keep


cdef Py_ssize_t block_bytes(const Problem *p, const Phase *f) noexcept nogil:
    """Of the panels of all channels of a block."""
    return f.panel_bytes * f.panels * ceil_div(p.kin, f.kc)


cdef void pack_shared(const Problem *p, const Phase *f, Py_ssize_t pieces, const Call *call, Py_ssize_t first,
                      Py_ssize_t unit, char *panels, char *workspace) noexcept nogil:
    """A piece of the channels of one panel of a stretch: shared[block][block of channels][panel]."""
    cdef Py_ssize_t piece = unit % pieces, index = unit // pieces % f.panels, steps = ceil_div(p.kin, f.kc)
    unit //= pieces * f.panels
    cdef Py_ssize_t channel = unit % steps * f.kc, kc = min(f.kc, p.kin - channel)
    cdef Block b = block_of(p, f, call, first + unit // steps)
    cdef Layout layout = layout_of(p, f, &b, workspace)
    panels += unit * f.panels * f.panel_bytes
    if f.as_lines:
        pack_lines(p, f, &b, &layout, index * PIECE, min(kc, (index + 1) * PIECE), channel, panels)
    elif index < layout.tiles:
        pack_columns(p, f, &b, &layout, index, kc * piece // pieces, kc * (piece + 1) // pieces, channel, panels)


cdef Py_ssize_t planes_tasks(const Phase *f) noexcept nogil:
    return f.blocks * ceil_div(f.slices, f.chunk)


cdef void planes_task(const Problem *p, const Phase *f, Cut cut, const Call *call, Py_ssize_t index, Py_ssize_t part,
                      const char *shared, char *workspace) noexcept nogil:
    """The rows of one part for the pixels of one block, in one slice or a chunk of them.

    `shared` are the block's panels, or NULL to pack them here.
    """
    cdef Py_ssize_t chunks = ceil_div(f.slices, f.chunk), slice = index % chunks * f.chunk
    cdef Py_ssize_t first = index if f.chunk == 1 else index // chunks * f.slices + slice
    cdef Block b = block_of(p, f, call, first)
    cdef Layout layout = layout_of(p, f, &b, workspace)
    for index in range(first, first + min(f.chunk, f.slices - slice)):
        if index > first:
            b = block_of(p, f, call, index)
        rows_of_part(p, f, cut, call, &b, &layout, part, shared, workspace + layout_bytes(p, f))
    if p.streams:
        p.kernels.stream_end()


cdef void rows_of_part(const Problem *p, const Phase *f, Cut cut, const Call *call, const Block *b, Layout *layout,
                       Py_ssize_t part, const char *shared, char *own) noexcept nogil:
    cdef Py_ssize_t row = part * cut.part, end = min(p.kout, row + cut.part), stop
    cdef char *aside = own + (0 if shared != NULL else f.panels * f.panel_bytes)
    while row < end:
        stop = min(end, row + f.rows)
        rows_of_block(p, f, cut, call, b, layout, row, stop, shared, own, aside)
        if f.scratch:
            copy_out(p, f, call, b, layout, row, stop, aside)
        row = stop


cdef void rows_of_block(const Problem *p, const Phase *f, Cut cut, const Call *call, const Block *b, Layout *layout,
                        Py_ssize_t row, Py_ssize_t stop, const char *shared, char *own, char *aside) noexcept nogil:
    """sums[row .. stop][columns of the block] = weight rows x panels, these packed for the first of the rows."""
    cdef Py_ssize_t channel = 0, kc, step = f.panels * f.panel_bytes
    while channel < p.kin:
        kc = min(f.kc, p.kin - channel)
        if shared == NULL and (row == 0 or kc < p.kin):
            pack_panels(p, f, b, layout, channel, kc, own)
        rows_by_panels(p, f, call, b, layout, row, stop, channel, kc,
                       shared + channel // f.kc * step if shared != NULL else own, aside,
                       next_source(p, f, b, cut.threads) if shared == NULL else NULL)
        channel += kc


cdef inline fastconv_epilogue ending(const Problem *p, const Phase *f, const Call *call, Py_ssize_t channel, bint last,
                                     bint aside) noexcept nogil:
    """What follows the sums of a block of channels in registers: sums aside meet a residual, and what comes after it,
    when they are copied out."""
    cdef fastconv_epilogue e = epilogue_of(call, last, last and not (aside and call.residual != NULL))
    e.stream = p.streams and last and channel == 0 and not aside and not f.apart and call.activation < 0
    return e


cdef inline void next_rows(const Call *call, fastconv_epilogue *e, Py_ssize_t row) noexcept nogil:
    """Point to the values of a tile's first row, counted in bytes."""
    if e.shift != NULL:
        e.shift = call.epilogue.shift + row
    if e.scale != NULL:
        e.scale = call.epilogue.scale + row


cdef const char *next_source(const Problem *p, const Phase *f, const Block *b, int threads) noexcept nogil:
    """Where a thread will pack its next block from, if that is worth more than asking for weights: L2 keeps these, but
    not the source."""
    cdef Py_ssize_t channel = p.kin * p.itemsize
    if f.as_lines or not f.pointwise or f.kc < p.kin:
        return NULL
    if p.kout * channel > WEIGHT_BYTES or p.batch * p.groups * p.source_plane * channel < SOURCE_BYTES:
        return NULL
    return b.source + (b.q + threads * f.block) * p.itemsize


cdef inline void ask_for(fastconv_gemm_tile *t, const char *source, Py_ssize_t plane, Py_ssize_t turn) noexcept nogil:
    """Every second plane, as a tile asks twice in four of them: a cache line of each, the other planes next."""
    t.prefetch, t.prefetch_step = source + turn % 2 * plane + turn // 2 * CACHE_LINE, plane


cdef void rows_by_panels(const Problem *p, const Phase *f, const Call *call, const Block *b, const Layout *layout,
                         Py_ssize_t row, Py_ssize_t stop, Py_ssize_t channel, Py_ssize_t kc, const char *panels,
                         char *aside, const char *coming) noexcept nogil:
    """Rows row .. stop - 1 of the sums, in the destination or aside, (+)= weight rows x panels for one block of
    channels, all taps at once or one by one."""
    cdef Py_ssize_t i, first = row, index, ahead, tap, sums = f.all_taps if f.apart else 1, turn = 0
    cdef Py_ssize_t lines = f.block * p.itemsize // CACHE_LINE
    cdef Py_ssize_t k = kc if f.apart else kc * f.all_taps
    cdef bint last = channel + kc == p.kin, adds = channel == 0 and call.residual != NULL  # never with taps apart
    cdef const char *weight = call.weight + f.weight_offset
    cdef const char *row_weights
    cdef const char *a
    cdef char *here = first_row(p, f, call, b)
    cdef char *rows[2][FASTCONV_MAX_ROWS]
    cdef const char *residual[FASTCONV_MAX_ROWS]
    cdef fastconv_epilogue[2] epilogue
    cdef fastconv_gemm_tile t
    cdef Tile tile
    for i in range(2):
        epilogue[i] = ending(p, f, call, channel, last, i)
    if adds:
        epilogue[0].residual = residual
    weight += b.group * p.kout * (p.kernel_taps if f.apart else f.all_taps) * p.kin * p.itemsize
    t.k, t.a, t.a_offset, t.b_offsets = k, &a, 0, f.b_offsets
    while row < stop:
        t.rows = <int> min(f.tile_rows, stop - row)
        if f.apart:
            row_weights = weight + (row * p.kernel_taps * p.kin + t.rows * channel) * p.itemsize
        else:
            row_weights = weight + (p.kout * f.all_taps * channel + row * k) * p.itemsize
        for i in range(t.rows):
            rows[0][i] = here + (row + i) * p.destination_plane * p.itemsize
            rows[1][i] = aside + (row + i - first) * f.scratch_columns * p.itemsize
        if adds:
            point_residual(call, rows[0], t.rows, residual)
        for i in range(2):
            next_rows(call, &epilogue[i], (b.group * p.kout + row) * p.itemsize)
        ahead = t.rows * p.kin * p.kernel_taps if f.apart else t.rows * k
        for index in range(layout.tiles):
            tile = layout.tile[index]
            t.c, t.c_offset, t.columns = rows[tile.aside], tile.c, tile.columns
            for tap in range(sums):
                a = row_weights + (f.weight_taps[tap] * p.kin * t.rows * p.itemsize if f.apart else 0)
                t.prefetch = a + (ahead + t.rows * k * index // layout.tiles) * p.itemsize
                t.prefetch_step = t.rows * p.itemsize // layout.tiles
                if coming != NULL and turn < 2 * lines:
                    ask_for(&t, coming, p.source_plane * p.itemsize, turn)
                    turn += 1
                t.b = panels + tile.b + tap * k * p.kernels.nr * p.itemsize
                t.accumulate = channel > 0 or tap > 0
                t.epilogue = NULL
                if (last and tap == sums - 1) or (adds and not tile.aside):
                    t.epilogue = &epilogue[tile.aside]
                p.kernels.gemm_lines(&t)
            if last and call.activation >= 0 and not (tile.aside and call.residual != NULL):
                activate_tile(p, call, &t)
        row += t.rows
