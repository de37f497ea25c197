"""Direct convolution in channels_last of few channels, as first layers have them.

The lines that some rows of outputs read are copied once, with their padding; the taps of a line then lie side by side,
so that a tile sums them as one run, in place, an entry for each tap along H. Rows are cut where a block ends.
"""

from libc.string cimport memcpy, memset

from fastconv.kernels.core cimport CACHE_LINE, even_part, fastconv_gemm_rows, round_up
from fastconv.kernels.direct_problem cimport Phase, Position, Problem, position_of
from fastconv.kernels.direct_rows cimport panel_at, sum_rows
from fastconv.kernels.plan cimport Call

cdef enum:
    FEW_CHANNELS = 8           # below so many channels a tap by itself is too short a run
    LINES_BYTES = 64 * 1024    # of the lines of a block; those of a row of outputs then stay in L1, or near it
    SHORT_LINE = 480           # outputs: a block has whole lines of up to so many

cdef struct Piece:             # whole rows of an image, or some outputs of one
    Py_ssize_t n, h, rows, w, outputs


cdef bint has_few_channels(const Problem *p, const Phase *f) noexcept nogil:
    return p.kin < FEW_CHANNELS and f.all_taps > 1


cdef bint copies_lines(const Problem *p, const Phase *f) noexcept nogil:
    """Whether taps lie side by side in copies of lines, and outputs in the destination."""
    return (has_few_channels(p, f) and p.groups == 1 and f.taps[0] * f.count[0] == 1 and f.tap_step[2] == 1
            and f.tap_step[1] > 0 and f.pixels == p.destination_plane)


cdef inline Py_ssize_t line_length(const Phase *f, Py_ssize_t outputs) noexcept nogil:
    """Source pixels of a line, padding among them."""
    return (outputs - 1) * f.stride[2] + f.taps[2]


cdef inline Py_ssize_t line_count(const Phase *f, Py_ssize_t rows) noexcept nogil:
    return (rows - 1) * f.stride[1] + (f.taps[1] - 1) * f.tap_step[1] + 1


cdef Py_ssize_t lines_block(const Problem *p, const Phase *f, Py_ssize_t most) noexcept nogil:
    """The outputs of a block of about `most`: whole rows if they are short."""
    cdef Py_ssize_t lines, rows
    if f.count[2] > SHORT_LINE:
        return even_part(f.pixels * p.batch, min(most, <Py_ssize_t> SHORT_LINE), p.kernels.mr)
    lines = LINES_BYTES // (line_length(f, f.count[2]) * p.kin * p.itemsize)
    rows = max(1, min((lines - line_count(f, 1)) // f.stride[1] + 1, most // f.count[2]))
    return even_part(f.pixels * p.batch, rows * f.count[2], f.count[2])


cdef Py_ssize_t lines_bytes(const Problem *p, const Phase *f) noexcept nogil:
    """Offsets of the taps along H, and the lines of a block's rows of one image."""
    cdef Py_ssize_t rows = max(1, min(f.count[1], f.block // max(1, f.count[2]))), outputs = min(f.block, f.count[2])
    return round_up(round_up(f.taps[1] * sizeof(Py_ssize_t), CACHE_LINE)
                    + line_count(f, rows) * line_length(f, outputs) * p.kin * p.itemsize, CACHE_LINE)


cdef void sum_lines(const Problem *p, const Phase *f, const Call *call, Py_ssize_t q, Py_ssize_t pixels,
                    Py_ssize_t column, Py_ssize_t stop, char *workspace) noexcept nogil:
    """The columns up to `stop` for up to a block of pixels from the q-th on."""
    cdef Position at
    cdef Piece piece
    while pixels > 0:
        at = position_of(f, q)
        piece.n, piece.h, piece.w = at.n, at.h, at.w
        piece.outputs = min(pixels, f.count[2] - at.w)
        piece.rows = 1
        if piece.outputs == f.count[2]:
            piece.rows = min(pixels // f.count[2], f.count[1] - at.h)
        sum_piece(p, f, call, &piece, column, stop, workspace)
        q += piece.rows * piece.outputs
        pixels -= piece.rows * piece.outputs


cdef void sum_piece(const Problem *p, const Phase *f, const Call *call, const Piece *piece, Py_ssize_t column,
                    Py_ssize_t stop, char *workspace) noexcept nogil:
    cdef Py_ssize_t *offsets = <Py_ssize_t *> workspace
    cdef char *lines = workspace + round_up(f.taps[1] * sizeof(Py_ssize_t), CACHE_LINE)
    cdef Py_ssize_t pixel = p.kin * p.itemsize, line = line_length(f, piece.outputs) * pixel, first = column, row
    cdef Py_ssize_t place = piece.n * p.destination_plane + piece.h * f.count[2] + piece.w
    cdef fastconv_gemm_rows r
    for row in range(line_count(f, piece.rows)):
        copy_line(p, f, call, piece, piece.h * f.stride[1] + row, lines + row * line)
    for row in range(f.taps[1]):
        offsets[row] = row * f.tap_step[1] * line
    r.entries, r.k, r.a_offsets, r.a_step = f.taps[1], f.taps[2] * p.kin, offsets, f.stride[2] * pixel
    r.rows, r.ldb, r.c_step, r.accumulate = piece.outputs, p.kernels.nr, p.kout * p.itemsize, False
    while column < stop:
        r.columns = <int> min(p.kernels.nr, p.kout - column)
        r.b = panel_at(p, f, call, 0, column, 0)
        for row in range(piece.rows):
            r.a = lines + row * f.stride[1] * line
            r.c = call.destination + (place + row * f.count[2]) * r.c_step + column * p.itemsize
            sum_rows(p, f, call, &r, 0, column == first)
        column += p.kernels.nr


cdef void copy_line(const Problem *p, const Phase *f, const Call *call, const Piece *piece, Py_ssize_t padded,
                    char *to) noexcept nogil:
    """What the piece reads of the line at a padded position of H."""
    cdef const Py_ssize_t *table = f.table[2] + piece.w * f.stride[2]
    cdef Py_ssize_t row = f.table[1][padded], stop = line_length(f, piece.outputs), pixel = p.kin * p.itemsize
    cdef Py_ssize_t i = 0, run
    cdef const char *source = call.source + (piece.n * p.source_plane + row * p.source_size[2]) * pixel
    if row < 0:
        memset(to, 0, stop * pixel)
        return
    while i < stop:
        run = run_of(table + i, stop - i)
        if table[i] < 0:
            memset(to + i * pixel, 0, run * pixel)
        else:
            memcpy(to + i * pixel, source + table[i] * pixel, run * pixel)
        i += run


cdef Py_ssize_t run_of(const Py_ssize_t *table, Py_ssize_t stop) noexcept nogil:
    """How many of the first positions are padding, or lie side by side in the source. No step of a table is longer than
    1, so two positions as far apart as their sources have all between them."""
    cdef Py_ssize_t run = 1
    if table[0] < 0:
        while run < stop and table[run] < 0:
            run += 1
        return run
    while stop > 1 and table[stop - 1] < 0:
        stop -= 1
    if table[stop - 1] - table[0] == stop - 1:
        return stop
    while run < stop and table[run] == table[0] + run:
        run += 1
    return run
