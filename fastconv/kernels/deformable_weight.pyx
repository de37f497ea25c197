"""What the gradients of deformable convolution do with weights: packing, and the sums of grad_weight and grad_bias.

The weight is packed for grad = w x grad_y; grad_weight is summed in an order of its own, and unpacked once at the end.
"""

from libc.math cimport INFINITY
from libc.string cimport memset

from fastconv.kernels.core cimport (
    FASTCONV_MAX_ROWS,
    ceil_div,
    even_part,
    fastconv_epilogue,
    fastconv_gemm_tile,
    round_up,
)
from fastconv.kernels.deformable_chunk cimport Call, Chunk, panel_of, swapped_tile
from fastconv.kernels.deformation cimport Part, Problem

cdef enum:
    STRIP = 64                      # rows of a weight that are transposed together


# ----------------------------------------------------------------------------------------------------- order of weights

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


# ----------------------------------------------------------------------------------------------------- sums over pixels

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


cdef Py_ssize_t weight_units(const Problem *p) noexcept nogil:
    return p.parts * weight_strips(p) * weight_panels(p)


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
