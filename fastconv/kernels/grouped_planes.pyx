"""Grouped convolution for channels_first: lanes are pixels.

The lines of a block, padded, follow each other, so that pixels are one long line, with some junk between the lines that
is not copied out; a tap is an offset into it. The GEMM microkernel reads its panels there, unpacked: kout rows x NV
vectors, a load for kout multiply-adds.
"""

from libc.string cimport memset

from fastconv.kernels.core cimport (
    CACHE_LINE,
    FASTCONV_MAX_ROWS,
    even_part,
    fastconv_epilogue,
    fastconv_gemm_tile,
    fastconv_run,
    round_up,
)
from fastconv.kernels.grouped_problem cimport (
    Axis,
    Phase,
    Problem,
    Segment,
    Task,
    destination_of,
    lines_packed,
    source_of,
    task_of,
)
from fastconv.kernels.plan cimport Call

cdef struct Scratch:            # a thread's
    char *panel                 # [kin][taps of D][parts of H][parts of W][lines][columns], and a tile behind them
    char *sums                  # [kout][lines][columns]
    const char **weights        # of gemm: [taps][FASTCONV_MAX_ROWS]
    fastconv_run *runs          # that fill a channel of the panel


cdef inline Py_ssize_t sums_stride(const Problem *p, const Phase *f) noexcept nogil:
    return round_up(f.rows * f.columns, p.kernels.vlen)


cdef Py_ssize_t planes_workspace(const Problem *p, const Phase *f) noexcept nogil:
    cdef Scratch s
    return lay_out(p, f, NULL, &s)


cdef Py_ssize_t lay_out(const Problem *p, const Phase *f, char *memory, Scratch *s) noexcept nogil:
    """Places the scratch of a thread, from `memory` on; returns its bytes."""
    cdef Py_ssize_t free = round_up((p.kin * f.plane + p.kernels.nr + p.kernels.vlen) * p.itemsize, CACHE_LINE)
    s.panel, s.sums = memory, memory + free
    free += p.kout * sums_stride(p, f) * p.itemsize
    s.weights = <const char **> (memory + free)
    free += f.all_taps * FASTCONV_MAX_ROWS * sizeof(char *)
    s.runs = <fastconv_run *> (memory + free)
    free += f.axis[0].taps * f.axis[1].parts * lines_packed(f) * f.segments * sizeof(fastconv_run)
    return round_up(free, CACHE_LINE)


cdef Py_ssize_t place_runs(const Problem *p, const Phase *f, const Task *t, fastconv_run *runs) noexcept nogil:
    """Where the elements of a task's packed block come from, in their order and for any channel."""
    cdef const Axis *h = &f.axis[1]
    cdef const Axis *w = &f.axis[2]
    cdef Py_ssize_t td, ph, pw, i, line_d, line_h, count = 0, first, to = 0, lines = lines_packed(f)
    for td in range(f.axis[0].taps):
        line_d = source_of(&f.axis[0], td, t.d)
        for ph in range(h.parts):
            first = 0
            for pw in range(w.parts):
                for i in range(t.stop - t.row + h.part[ph].more):
                    line_h = h.table[h.part[ph].offset + (t.row + i) * h.stride]
                    if line_d >= 0 and line_h >= 0:
                        count += line_runs(f, t, pw, first, (line_d * p.source_size[1] + line_h) * p.source_size[2],
                                           to + i * f.columns, runs + count)
                while first < f.segments and f.segment[first].part == pw:
                    first += 1
                to += lines * f.columns
    return count


cdef Py_ssize_t line_runs(const Phase *f, const Task *t, Py_ssize_t part, Py_ssize_t first, Py_ssize_t source,
                          Py_ssize_t to, fastconv_run *runs) noexcept nogil:
    """Those of one line and part, whose segments begin with the one of index `first`."""
    cdef const Segment *s = f.segment + first
    cdef Py_ssize_t end = t.right + f.axis[2].part[part].more, start, stop, count = 0
    while s < f.segment + f.segments and s.part == part:
        start, stop = max(s.start, t.left), min(s.stop, end)
        if start < stop and s.source >= 0:
            runs[count] = fastconv_run(source + s.source + (start - s.start) * s.step, to + start - t.left,
                                       stop - start, s.step, False)
            count += 1
        s += 1
    return count


cdef void planes_task(const Problem *p, const Phase *f, const Call *call, Py_ssize_t index,
                      char *memory) noexcept nogil:
    """A block of pixels of the groups of a chunk: packed, multiplied, copied out."""
    cdef Task t = task_of(f, index)
    cdef Scratch s
    cdef Py_ssize_t group, tap, i, count, isz = p.itemsize
    cdef const char *weight = call.weight + f.weight_offset
    lay_out(p, f, memory, &s)
    count = place_runs(p, f, &t, s.runs)
    for tap in range(f.all_taps):
        for i in range(p.kernels.mr):
            s.weights[tap * FASTCONV_MAX_ROWS + i] = weight + (i * f.all_taps + tap) * p.kin * isz
    memset(s.panel + p.kin * f.plane * isz, 0, (p.kernels.nr + p.kernels.vlen) * isz)
    for group in range(t.unit, t.end):
        p.kernels.pack_runs(s.panel, f.plane, call.source + (t.n * p.groups + group) * p.kin * p.source_plane * isz,
                            p.source_plane, p.kin, s.runs, count, NULL)
        multiply_planes(p, f, call, &t, &s, group)
        copy_planes(p, f, call, &t, &s, group)


cdef void multiply_planes(const Problem *p, const Phase *f, const Call *call, const Task *t, const Scratch *s,
                          Py_ssize_t group) noexcept nogil:
    """sums[kout][pixels of the block, and the junk between its lines]"""
    cdef Py_ssize_t isz = p.itemsize, nr = p.kernels.nr, row, at = 0, i, stride = sums_stride(p, f) * isz
    cdef Py_ssize_t total = (t.stop - t.row - 1) * f.columns + t.right - t.left
    cdef char *rows[FASTCONV_MAX_ROWS]
    cdef fastconv_epilogue epilogue = call.epilogue
    cdef fastconv_gemm_tile g
    g.entries, g.k, g.a, g.b_offsets, g.ldb, g.c = f.all_taps, p.kin, s.weights, f.tap_offsets, f.plane, rows
    g.accumulate, g.epilogue, g.prefetch, g.prefetch_step = False, &epilogue, s.panel, 0
    while at < total:
        g.columns, g.b, g.c_offset = <int> min(nr, total - at), s.panel + at * isz, at * isz
        row = 0
        while row < p.kout:
            g.rows = <int> min(even_part(p.kout - row, p.kernels.mr, 1), p.kout - row)
            g.a_offset = (group * p.kout + row) * f.all_taps * p.kin * isz
            for i in range(g.rows):
                rows[i] = s.sums + (row + i) * stride
            if call.epilogue.shift != NULL:
                epilogue.shift = call.epilogue.shift + (group * p.kout + row) * isz
            p.kernels.gemm(&g)
            row += g.rows
        at += nr


cdef void copy_planes(const Problem *p, const Phase *f, const Call *call, const Task *t, const Scratch *s,
                      Py_ssize_t group) noexcept nogil:
    cdef Py_ssize_t isz = p.itemsize, _j, i, lines = t.stop - t.row, wide = t.right - t.left, y
    cdef Py_ssize_t y_line = f.axis[1].step * p.destination_size[2], stride = sums_stride(p, f) * isz
    cdef char *sums = s.sums
    y = (t.n * p.groups + group) * p.kout * p.destination_plane + destination_of(p, f, t.d, t.row, t.left)
    for _j in range(p.kout):
        if call.activation >= 0:
            p.kernels.activate(call.activation, call.alpha, sums, sums, (lines - 1) * f.columns + wide)
        if f.axis[2].step == 1:
            p.kernels.copy_matrix(call.destination + y * isz, y_line, sums, f.columns, 1, lines, wide)
        else:
            for i in range(lines):
                spread_out(call.destination + (y + i * y_line) * isz, f.axis[2].step, sums + i * f.columns * isz, wide,
                           isz)
        sums += stride
        y += p.destination_plane


cdef inline void spread_out(char *to, Py_ssize_t step, const char *x, Py_ssize_t n, Py_ssize_t isz) noexcept nogil:
    cdef Py_ssize_t i
    if isz == 4:
        for i in range(n):
            (<float *> to)[i * step] = (<const float *> x)[i]
    else:
        for i in range(n):
            (<double *> to)[i * step] = (<const double *> x)[i]


cdef void planes_weights(const Problem *p, const Phase *f, const char *weight, char *packed,
                         Py_ssize_t group) noexcept nogil:
    """packed[group][kout][taps][kin] from the weight of PyTorch's shape."""
    cdef Py_ssize_t row_stride = p.kernel_taps if p.backward else p.kin * p.kernel_taps, isz = p.itemsize
    cdef Py_ssize_t stride = p.kout * p.kernel_taps if p.backward else p.kernel_taps, row, tap
    cdef char *to = packed + f.weight_offset + group * f.unit_bytes
    weight += group * p.kin * p.kout * p.kernel_taps * isz
    for row in range(p.kout):
        for tap in range(f.all_taps):
            p.kernels.copy_matrix(to, p.kin, weight + (row * row_stride + f.weight_taps[tap]) * isz, 0, stride, 1,
                                  p.kin)
            to += p.kin * isz
