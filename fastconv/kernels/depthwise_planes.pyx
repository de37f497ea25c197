"""Depthwise convolution of planes, forward and backward_input: channels_first.

Lanes are columns, lines run down the rows of a plane, so that a row once loaded serves all taps above each other. Each
weight is spread over a vector. Where there are few rows (1-D) lines run along them instead, from vector to vector.
Blocks of rows are packed by depthwise_blocks.pyx; depthwise_planes_weight.pyx is backward_weight.
"""

from fastconv.kernels.core cimport fastconv_depthwise, fastconv_segment, fastconv_tap_run
from fastconv.kernels.depthwise_blocks cimport (
    Block,
    Workspace,
    add_segments,
    clear_padding,
    lay_out,
    locate,
    most_sweeps,
    pack_channel,
    place_runs,
    plane_offset,
    row_segments,
    scratch_pitch,
    scratched,
    single_tap,
    thin,
)
from fastconv.kernels.depthwise_problem cimport Axis, Call, Phase, Problem
from fastconv.kernels.finish cimport finish_row, finishes

cdef struct Sweep:              # one call of the microkernel
    fastconv_depthwise lines
    Py_ssize_t ends[2]
    Py_ssize_t d, x, y          # destination slice; bytes into the packed planes, into the plane or the scratch
    bint fills                  # the whole slice, in the plane, where some positions meet no tap


cdef Py_ssize_t planes_workspace(const Problem *p) noexcept nogil:
    """Bytes a thread."""
    cdef Workspace w
    return lay_out(p, NULL, most_sweeps(p) * sizeof(Sweep), &w)


cdef Py_ssize_t prepare(const Problem *p, Workspace *w) noexcept nogil:
    """The calls that sum a block of destination rows, slice by slice; returns how many."""
    cdef const Block *b = &w.block
    cdef const Axis *height = &p.axis[1]
    cdef Py_ssize_t d, h, v, count = 0, runs
    cdef fastconv_segment *segments = w.segments
    for d in range(b.start[0], b.end[0]):
        if height.sparse or p.axis[2].sparse:
            fill_sweep(p, w, d, &count)
        runs = 0
        for h in range(height.phases):
            if not thin(p):
                place_runs(p, b, &height.phase[h], w.runs + runs)
            for v in range(p.axis[2].phases):
                if thin(p):
                    segments = thin_sweeps(p, w, d, h, v, segments, &count)
                else:
                    segments = tall_sweep(p, w, d, h, v, w.runs + runs, segments, &count)
            runs += height.phase[h].runs
    return count


cdef void fill_sweep(const Problem *p, Workspace *w, Py_ssize_t d, Py_ssize_t *count) noexcept nogil:
    """Empty sums where no tap arrives: the sweeps that follow write over the others."""
    cdef const Block *b = &w.block
    cdef const Axis *height = &p.axis[1]
    cdef const Axis *width = &p.axis[2]
    cdef Sweep *sweep = <Sweep *> w.sweeps + count[0]
    cdef fastconv_depthwise *a = &sweep.lines
    cdef Py_ssize_t row = b.start[1] * height.step, column = b.start[2] * width.step
    count[0] += 1
    sweep.d, sweep.x, sweep.fills = d, 0, True
    sweep.y = ((d * height.size + row) * width.size + column) * p.itemsize
    sweep.ends[0] = sweep.ends[1] = 0
    a.segments, a.ends, a.run_count = w.segments, sweep.ends, 0
    a.lanes, a.count = min(b.end[2] * width.step, width.size) - column, min(b.end[1] * height.step, height.size) - row
    a.w_across, a.exact, a.lines, a.y_line, a.dilation = 0, False, 1, 0, 1
    a.x_unit = a.x_step = a.w_step = 0
    a.y_step = width.size * p.itemsize


cdef fastconv_segment *tall_sweep(const Problem *p, Workspace *w, Py_ssize_t d, Py_ssize_t h, Py_ssize_t v,
                                  const fastconv_tap_run *runs, fastconv_segment *segments,
                                  Py_ssize_t *count) noexcept nogil:
    """Lines down the rows, columns across."""
    cdef const Block *b = &w.block
    cdef const Axis *height = &p.axis[1]
    cdef const Phase *rows = &height.phase[h]
    cdef Py_ssize_t columns = min(b.end[2], p.axis[2].phase[v].count) - b.start[2]
    cdef Sweep *sweep = <Sweep *> w.sweeps + count[0]
    cdef fastconv_depthwise *a = &sweep.lines
    if columns <= 0 or rows.count <= b.start[1]:
        return segments
    count[0] += 1
    sweep.d, sweep.x, sweep.y, sweep.fills = d, 0, plane_offset(p, b, d, h, v, 0), False
    a.segments, a.ends, sweep.ends[0] = segments, sweep.ends, 0
    segments = add_segments(p, b, d, &p.axis[2].phase[v], -b.row, 0, segments)
    sweep.ends[1] = segments - a.segments
    a.lanes = scratch_pitch(p) if scratched(p) else columns
    a.w_across, a.exact, a.lines, a.y_line = 0, False, 1, 0
    a.runs, a.run_count = runs, rows.runs
    a.count, a.dilation = min(b.end[1], rows.count) - b.start[1], height.dilation
    a.x_unit, a.x_step = b.pitch, height.stride * b.pitch
    a.w_step = height.tap_step * p.axis[2].kernel * p.vector
    a.y_step = (height.phases * scratch_pitch(p) if scratched(p) else height.step * p.axis[2].size) * p.itemsize
    return segments


cdef fastconv_segment *thin_sweeps(const Problem *p, Workspace *w, Py_ssize_t d, Py_ssize_t h, Py_ssize_t v,
                                   fastconv_segment *segments, Py_ssize_t *count) noexcept nogil:
    """Lines along each row, from vector to vector; what is left of a vector is a line of its own."""
    cdef const Block *b = &w.block
    cdef Py_ssize_t columns = min(b.end[2], p.axis[2].phase[v].count) - b.start[2], vlen = p.kernels.vlen, q, tail
    cdef const fastconv_segment *first
    cdef Sweep *sweep
    cdef fastconv_depthwise *a
    w.runs[0] = single_tap()
    for q in range(b.start[1], min(b.end[1], p.axis[1].phase[h].count) if columns > 0 else 0):
        first = segments
        segments = row_segments(p, b, d, h, v, q, segments)
        for tail in range(2):
            if (columns % vlen if tail else columns // vlen) == 0:
                continue
            sweep = <Sweep *> w.sweeps + count[0]
            count[0] += 1
            sweep.d, sweep.fills, sweep.x = d, False, tail * (columns // vlen) * p.vector
            sweep.y = plane_offset(p, b, d, h, v, q - b.start[1]) + sweep.x
            sweep.ends[0], sweep.ends[1] = 0, segments - first
            a = &sweep.lines
            a.segments, a.ends, a.runs, a.run_count = first, sweep.ends, w.runs, 1
            a.lanes = columns % vlen if tail and not scratched(p) else vlen
            a.count, a.dilation = 1 if tail else columns // vlen, 1
            a.w_across, a.exact, a.lines, a.y_line = 0, False, 1, 0
            a.x_unit, a.x_step, a.y_step, a.w_step = 0, p.vector, p.vector, 0
    return segments


cdef void planes_task(const Problem *p, const Call *call, Py_ssize_t task, char *memory) noexcept nogil:
    """A block of the planes of some channels of an image."""
    cdef Workspace w
    cdef Py_ssize_t cuts = p.cuts[0] * p.cuts[1] * p.cuts[2], chunk = task // cuts
    cdef Py_ssize_t channel = chunk % p.chunks * p.chunk, n = chunk // p.chunks, count
    cdef Py_ssize_t end = min(p.channels, channel + p.chunk), at
    lay_out(p, memory, most_sweeps(p) * sizeof(Sweep), &w)
    locate(p, task % cuts, &w.block)
    clear_padding(p, &w.block, w.packed)
    count = prepare(p, &w)
    while channel < end:
        at = n * p.channels + channel
        pack_channel(p, &w.block, call.source + at * p.ins * p.source_volume * p.itemsize, w.packed)
        p.kernels.splat(w.weight, call.weight + channel * p.ways * p.taps * p.itemsize, p.ways * p.taps)
        if call.shift != NULL:
            p.kernels.splat(w.shift, call.shift + channel * p.outs * p.itemsize, p.outs)
        sum_channel(p, call, &w, count, call.destination + at * p.outs * p.volume * p.itemsize)
        channel += 1


cdef void finish_block(const Problem *p, const Call *call, const Block *b, char *plane) noexcept nogil:
    """A finished block of one plane; whole rows lie behind each other."""
    cdef const Axis *height = &p.axis[1]
    cdef const Axis *width = &p.axis[2]
    cdef Py_ssize_t row = b.start[1] * height.step, rows = min(b.end[1] * height.step, height.size) - row
    cdef Py_ssize_t column = b.start[2] * width.step, columns = min(b.end[2] * width.step, width.size) - column
    cdef Py_ssize_t d
    cdef char *at
    if columns == width.size:
        rows, columns = 1, rows * columns
    for d in range(b.start[0], b.end[0]):
        at = plane + ((d * height.size + row) * width.size + column) * p.itemsize
        for _ in range(rows):
            finish_row(p.kernels, &call.finish, at, columns)
            at += width.size * p.itemsize


cdef void sum_channel(const Problem *p, const Call *call, Workspace *w, Py_ssize_t count, char *plane) noexcept nogil:
    cdef Py_ssize_t i, j
    cdef Sweep *sweep
    cdef fastconv_depthwise *a
    for j in range(p.outs):
        for i in range(count):
            sweep = <Sweep *> w.sweeps + i
            a = &sweep.lines
            a.x, a.w, a.ahead = w.packed + sweep.x, w.weight + j * p.taps * p.vector, NULL
            a.y_ahead = p.kernels.depthwise_outputs * a.y_step if p.far and not scratched(p) else 0
            a.shift = w.shift + j * p.vector if call.shift != NULL else NULL
            a.y = (w.scratch if scratched(p) and not sweep.fills else plane) + sweep.y
            a.lower, a.upper = call.lower, call.upper
            p.kernels.depthwise(a)
            if scratched(p) and (i + 1 == count or sweep[1].d != sweep.d):
                unload(p, w, sweep.d, plane)
        if finishes(&call.finish):
            finish_block(p, call, &w.block, plane)
        plane += p.volume * p.itemsize


cdef void unload(const Problem *p, const Workspace *w, Py_ssize_t d, char *plane) noexcept nogil:
    """The scratch rows of one slice into the destination, the phases along W side by side."""
    cdef const Block *b = &w.block
    cdef const Axis *height = &p.axis[1]
    cdef Py_ssize_t pitch = scratch_pitch(p), apart = (b.end[1] - b.start[1]) * height.phases * pitch, h, q, row
    for h in range(height.phases):
        for q in range(min(b.end[1], height.phase[h].count) - b.start[1]):
            row = d * height.size + height.phase[h].start + (b.start[1] + q) * height.step
            unload_row(p, b, w.scratch + (q * height.phases + h) * pitch * p.itemsize, apart,
                       plane + row * p.axis[2].size * p.itemsize)


cdef void unload_row(const Problem *p, const Block *b, const char *source, Py_ssize_t apart, char *row) noexcept nogil:
    """The phases along W of one row, `apart` elements apart."""
    cdef const Axis *width = &p.axis[2]
    cdef Py_ssize_t first = b.start[2] * width.step, v
    row += first * p.itemsize
    if not width.sparse:
        p.kernels.interleave(row, source, apart, width.phases, min(b.end[2] * width.step, width.size) - first)
        return
    for v in range(width.phases):
        p.kernels.copy_matrix(row + width.phase[v].start * p.itemsize, width.step, source + v * apart * p.itemsize, 1,
                              1, min(b.end[2], width.phase[v].count) - b.start[2], 1)
