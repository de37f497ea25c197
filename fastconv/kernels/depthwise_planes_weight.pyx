"""The weight gradient of depthwise convolution of planes: channels_first.

As in depthwise_planes.pyx lanes are columns and lines run down the rows. Every tap has a vector of sums, whose lanes
are added up when a part of the blocks is done.
"""

from libc.string cimport memset

from fastconv.kernels.core cimport fastconv_depthwise_weight, fastconv_segment, fastconv_tap_run
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
    single_tap,
    thin,
)
from fastconv.kernels.depthwise_problem cimport Gradient, Phase, Problem

cdef struct Sweep:              # one call of the microkernel
    fastconv_depthwise_weight lines
    Py_ssize_t x, y             # bytes into the packed planes, into the plane
    bint shift                  # whether it sums grad_y, too


cdef inline Py_ssize_t sweep_bytes(const Problem *p) noexcept nogil:
    return most_sweeps(p) * p.axis[1].runs * sizeof(Sweep)


cdef Py_ssize_t planes_weight_workspace(const Problem *p) noexcept nogil:
    """Bytes a thread."""
    cdef Workspace w
    return lay_out(p, NULL, sweep_bytes(p), &w)


cdef void planes_weight_task(const Problem *p, const Gradient *g, Py_ssize_t task, char *memory) noexcept nogil:
    """A part of all blocks of all images, for one channel."""
    cdef Workspace w
    cdef Py_ssize_t part = task % p.parts, channel = task // p.parts, block = -1, count = 0
    cdef Py_ssize_t items = p.batch * p.cuts[0] * p.cuts[1] * p.cuts[2], item = part * items // p.parts
    cdef Py_ssize_t end = (part + 1) * items // p.parts, at
    lay_out(p, memory, sweep_bytes(p), &w)
    memset(w.weight, 0, p.ways * (p.taps + 1) * p.vector)
    while item < end:
        if item // p.batch != block:
            block = item // p.batch
            locate(p, block, &w.block)
            clear_padding(p, &w.block, w.packed)
            count = prepare_weight(p, &w)
        at = item % p.batch * p.channels + channel
        if g.weight != NULL:
            pack_channel(p, &w.block, g.x + at * p.source_volume * p.itemsize, w.packed)
        sum_weights(p, &w, count, g, g.y + at * p.ways * p.volume * p.itemsize)
        item += 1
    store_weights(p, g, &w, part, channel * p.ways)


cdef Py_ssize_t prepare_weight(const Problem *p, Workspace *w) noexcept nogil:
    """The calls that sum a block's products, slice by slice; returns how many."""
    cdef const Block *b = &w.block
    cdef const Phase *rows = &p.axis[1].phase[0]
    cdef Py_ssize_t columns = b.end[2] - b.start[2], vlen = p.kernels.vlen, d, k, q, count = 0
    cdef fastconv_segment *segments = w.segments
    cdef fastconv_segment *first
    cdef fastconv_tap_run run = single_tap()
    place_runs(p, b, rows, w.runs)
    for d in range(b.start[0], b.end[0]):
        if thin(p):
            for q in range(b.start[1], b.end[1]):
                first = segments
                segments = row_segments(p, b, d, 0, 0, q, segments)
                if columns >= vlen:
                    weight_sweep(p, w, d, q - b.start[1], first, segments, &run, vlen, columns // vlen, 0, &count)
                if columns % vlen:
                    weight_sweep(p, w, d, q - b.start[1], first, segments, &run, columns % vlen, 1, columns // vlen,
                                 &count)
        else:
            first = segments
            segments = add_segments(p, b, d, &p.axis[2].phase[0], -b.row, 0, segments)
            for k in range(rows.runs):
                weight_sweep(p, w, d, 0, first, segments, w.runs + k, columns, b.end[1] - b.start[1], 0, &count)
                (<Sweep *> w.sweeps)[count - 1].shift = k == 0
    return count


cdef void weight_sweep(const Problem *p, Workspace *w, Py_ssize_t d, Py_ssize_t row, const fastconv_segment *segments,
                       const fastconv_segment *end, const fastconv_tap_run *run, Py_ssize_t lanes, Py_ssize_t outputs,
                       Py_ssize_t vectors, Py_ssize_t *count) noexcept nogil:
    """A line of `outputs`: down the rows, or from vector to vector after the first `vectors` of a row."""
    cdef const Block *b = &w.block
    cdef Sweep *sweep = <Sweep *> w.sweeps + count[0]
    cdef fastconv_depthwise_weight *a = &sweep.lines
    count[0] += 1
    sweep.shift, sweep.x, sweep.y = True, vectors * p.vector, plane_offset(p, b, d, 0, 0, row) + vectors * p.vector
    a.lanes, a.w_across, a.lines, a.y_line = lanes, 0, 1, 0
    a.segments, a.segment_count, a.run, a.count = segments, end - segments, run[0], outputs
    if thin(p):
        a.dilation, a.x_unit, a.x_step, a.y_step, a.w_step = 1, 0, p.vector, p.vector, 0
        return
    a.dilation, a.x_unit, a.x_step = p.axis[1].dilation, b.pitch, p.axis[1].stride * b.pitch
    a.y_step = p.axis[2].size * p.itemsize
    a.w_step = p.axis[1].tap_step * p.axis[2].kernel * p.vector


cdef void sum_weights(const Problem *p, Workspace *w, Py_ssize_t count, const Gradient *g,
                      const char *plane) noexcept nogil:
    cdef Py_ssize_t i, j
    cdef Sweep *sweep
    cdef fastconv_depthwise_weight *a
    for j in range(p.ways):
        for i in range(count):
            sweep = <Sweep *> w.sweeps + i
            a = &sweep.lines
            a.x, a.y = w.packed + sweep.x, plane + sweep.y
            a.w = w.weight + j * p.taps * p.vector if g.weight != NULL else NULL
            a.shift = w.shift + j * p.vector if g.shift != NULL and sweep.shift else NULL
            p.kernels.depthwise_weight(a)
        plane += p.volume * p.itemsize


cdef void store_weights(const Problem *p, const Gradient *g, const Workspace *w, Py_ssize_t part,
                        Py_ssize_t channel) noexcept nogil:
    """The lanes of every tap's vector, into the part's weight[C_out][tap] and bias[C_out]."""
    cdef char *weight = g.weight
    cdef char *shift = g.shift
    if part > 0:
        weight = g.parts + (part - 1) * p.part_bytes
        shift = weight + p.channels * p.ways * p.taps * p.itemsize
    if g.weight != NULL:
        p.kernels.sum_vectors(weight + channel * p.taps * p.itemsize, w.weight, p.ways * p.taps)
    if g.shift != NULL:
        p.kernels.sum_vectors(shift + channel * p.itemsize, w.shift, p.ways)


cdef void add_parts(const Problem *p, const Gradient *g) noexcept nogil:
    """To part 0, in the order of their numbers."""
    cdef Py_ssize_t outputs = p.channels * p.ways, ld = p.part_bytes // p.itemsize
    if g.weight != NULL:
        p.kernels.sum_rows(g.weight, g.parts, ld, p.parts - 1, outputs * p.taps)
    if g.shift != NULL:
        p.kernels.sum_rows(g.shift, g.parts + outputs * p.taps * p.itemsize, ld, p.parts - 1, outputs)
