"""Depthwise convolution of pixels whose channels lie side by side: channels_last, and small planes turned to it.

Lanes are channels, lines are rows of pixels. Pixels are read in place; rows that lie in padding are left out, and
pixels by the bounds of their runs. Packed weights are [way][tap][channel], in backward_input [tap][channel and way].

channels_first planes too small to fill vectors and blocks of rows are turned: a vector of channels at a time is
transposed into the workspace, convolved there, and transposed back, which costs less than padding each plane.
"""

from libc.math cimport INFINITY
from libc.string cimport memset

from fastconv.kernels.core cimport fastconv_depthwise, fastconv_segment, round_up
from fastconv.kernels.depthwise_problem cimport Axis, Call, Problem
from fastconv.kernels.depthwise_windows cimport sum_windows
from fastconv.kernels.finish cimport Finish, finish_row, finishes
from fastconv.kernels.plan cimport Call as PlanCall

cdef struct Rows:                 # the segments of some destination rows, and scratch for one row
    Py_ssize_t count
    Py_ssize_t *ends
    fastconv_segment *segments
    char *scratch


cdef Py_ssize_t rows_bytes(const Problem *p) noexcept nogil:
    cdef Py_ssize_t scratch = p.axis[2].size * p.chunk * (1 if p.backward else p.ways) * p.ins * p.itemsize
    return round_up((p.rows + 1) * sizeof(Py_ssize_t) + p.rows * row_segments(p) * sizeof(fastconv_segment)
                    + (scratch if p.ways > 1 else 0), 64)


cdef Py_ssize_t rows_workspace(const Problem *p, bint turned) noexcept nogil:
    """Bytes a thread; turned: with a vector of channels of an image, and of its result."""
    if not turned:
        return rows_bytes(p)
    return rows_bytes(p) + round_up(p.source_volume * p.source_pixel, 64) + round_up(p.volume * p.pixel, 64)


cdef Rows find_rows(const Problem *p, Py_ssize_t row, Py_ssize_t count, char *workspace) noexcept nogil:
    """The source rows that `count` rows from `row` on meet, and their taps."""
    cdef const Axis *depth = &p.axis[0]
    cdef const Axis *height = &p.axis[1]
    cdef Py_ssize_t d = row // height.size, h = row % height.size, i, e, f
    cdef fastconv_segment *segment
    cdef Rows rows
    rows.count, rows.ends = count, <Py_ssize_t *> workspace
    rows.segments = segment = <fastconv_segment *> (rows.ends + p.rows + 1)
    rows.scratch = <char *> (rows.segments + p.rows * row_segments(p))
    rows.ends[0] = 0
    for i in range(count):
        for e in range(depth.ends[d], depth.ends[d + 1]):
            for f in range(height.ends[h], height.ends[h + 1]):
                segment.x = depth.source[e] * height.source_size + height.source[f]
                segment.x *= p.axis[2].source_size * p.source_pixel
                segment.w = (depth.tap[e] * height.kernel + height.tap[f]) * p.axis[2].kernel * p.padded
                segment += 1
        rows.ends[i + 1] = segment - rows.segments
        h += 1
        if h == height.size:
            h = 0
            d += 1
    return rows


cdef const char *rows_ahead(const Problem *p, const Call *call, const Rows *rows, const char *x) noexcept nogil:
    """The source rows, with all their channels, that this thread's next task adds, while others do those between."""
    cdef Py_ssize_t segments = rows.ends[rows.count], row = p.axis[2].source_size * p.source_pixel
    if segments == 0:
        return NULL
    return x + rows.segments[segments - 1].x + (1 + (call.threads - 1) * p.rows * p.axis[1].stride) * row


cdef void sum_lines(const Problem *p, const Call *call, const Rows *rows, Py_ssize_t channel, Py_ssize_t channels,
                    const char *x, bint exact, char *y) noexcept nogil:
    """Rows of `channels` channels from `channel` on; x is that channel in the image, y in the first of the rows."""
    cdef fastconv_depthwise a
    cdef Py_ssize_t i
    a.x, a.w = x, call.weight + channel * p.ins * p.itemsize
    a.shift = call.shift + channel * p.ins * p.itemsize if call.shift != NULL else NULL
    a.lanes, a.w_across, a.exact = channels * p.ins, p.across, exact
    a.segments, a.ends, a.lines, a.y_line = rows.segments, rows.ends, 1, 0
    a.ahead, a.y_ahead = NULL, 0
    a.x_unit, a.x_step = p.source_pixel, p.axis[2].stride * p.source_pixel
    a.w_step = p.axis[2].tap_step * p.padded
    if p.ways == 1:
        a.lower, a.upper = call.lower, call.upper
        a.lines, a.y_line = rows.count, p.axis[2].size * p.pixel
        a.y_ahead = a.y_line if p.far and exact and call.threads > 0 else 0  # what is turned back is near
        if exact and call.threads > 0 and channels == p.channels and p.axis[2].phases == 1 and p.axis[2].dilation == 1:
            a.ahead, a.ahead_lines = rows_ahead(p, call, rows, x), p.axis[1].stride * p.axis[2].stride
        sum_phases(p, &a, y, p.pixel)
        return
    for i in range(rows.count):
        a.ends = rows.ends + i
        if p.backward:
            sum_ways(p, call, &a, y, rows.scratch)
        else:
            part_ways(p, call, &a, y, rows.scratch)
        y += p.axis[2].size * p.pixel


cdef void sum_phases(const Problem *p, fastconv_depthwise *a, char *y, Py_ssize_t pixel) noexcept nogil:
    """All phases along W into pixels `pixel` bytes apart."""
    cdef const Axis *width = &p.axis[2]
    cdef Py_ssize_t i
    if width.sparse:  # empty sums, the phases write over what they meet
        a.run_count, a.count, a.dilation, a.y, a.y_step = 0, width.size, 1, y, pixel
        p.kernels.depthwise(a)
    a.runs, a.dilation = p.runs, width.dilation
    for i in range(width.phases):
        a.run_count, a.count = width.phase[i].runs, width.phase[i].count
        a.y, a.y_step = y + width.phase[i].start * pixel, width.step * pixel
        p.kernels.depthwise(a)
        a.runs += width.phase[i].runs


cdef void part_ways(const Problem *p, const Call *call, fastconv_depthwise *a, char *y, char *scratch) noexcept nogil:
    """A row forward with several outputs a channel: in turn into scratch[way][pixel][channel], then side by side."""
    cdef Py_ssize_t size = p.axis[2].size, pixel = p.chunk * p.itemsize, j, q
    cdef const char *w = a.w
    cdef const char *shift = a.shift
    a.lower, a.upper = call.lower, call.upper
    for j in range(p.ways):
        a.w = w + j * p.taps * p.padded
        a.shift = shift + j * p.padded if shift != NULL else NULL
        sum_phases(p, a, scratch + j * size * pixel, pixel)
    a.w, a.shift = w, shift
    for q in range(size):
        p.kernels.interleave(y + q * p.pixel, scratch + q * pixel, size * p.chunk, p.ways, a.lanes * p.ways)


cdef void sum_ways(const Problem *p, const Call *call, fastconv_depthwise *a, char *y, char *scratch) noexcept nogil:
    """A row backward with several outputs a channel: their neighbouring lanes belong to one input channel."""
    cdef Py_ssize_t pixel = p.chunk * p.ways * p.itemsize, q
    a.lower, a.upper = -INFINITY, INFINITY
    sum_phases(p, a, scratch, pixel)
    for q in range(p.axis[2].size):
        p.kernels.sum_neighbours(y + q * p.pixel, scratch + q * pixel, p.ways, a.lanes // p.ways,
                                 call.lower, call.upper)


cdef void pack_weights(const Problem *p, const char *weight, const char *bias, char *packed) noexcept nogil:
    """The weights of all channels to whole vectors, and behind them the bias, [way][channel]."""
    cdef Py_ssize_t rows = p.taps if p.backward else p.ways * p.taps, ld = p.padded // p.itemsize
    cdef char *shift = packed + rows * p.padded
    p.kernels.pack_matrix(packed, ld, weight, 1, rows, rows, p.channels * p.ins)
    if bias == NULL:
        return
    if not p.backward:
        p.kernels.pack_matrix(shift, ld, bias, 1, p.ways, p.ways, p.channels)
    else:  # the first lane of each input channel brings the bias into its sum
        memset(shift, 0, p.padded)
        p.kernels.copy_matrix(shift, p.ways, bias, 1, 1, p.channels, 1)


cdef void rows_task(const Problem *p, const Call *call, Py_ssize_t task, char *workspace) noexcept nogil:
    """channels_last: a block of destination rows and a chunk of channels."""
    cdef Py_ssize_t row = task // p.chunks % p.blocks * p.rows
    sum_block(p, call, task // p.chunks // p.blocks, row, min(p.rows, all_rows(p) - row), task % p.chunks * p.chunk,
              workspace)


cdef void make_rows(const void *problem, const PlanCall *call, Py_ssize_t row, Py_ssize_t end,
                    char *workspace) noexcept nogil:
    """See `fastconv.kernels.plan.RowMaker`; weight and bias are those of `pack_weights`."""
    cdef const Problem *p = <const Problem *> problem
    cdef Call c
    cdef Py_ssize_t chunk
    c.source, c.weight, c.destination, c.threads = call.source, call.weight, call.destination, 0
    c.shift = call.weight + p.outs * p.taps * p.padded if call.epilogue.shift != NULL else NULL
    c.lower, c.upper = call.epilogue.lower, call.epilogue.upper
    if call.residual != NULL:
        c.lower, c.upper = -INFINITY, INFINITY
    c.finish = Finish(c.destination, call.residual, call.epilogue.lower, call.epilogue.upper, call.activation,
                      call.alpha)
    while row < end:
        for chunk in range(p.chunks):
            sum_block(p, &c, 0, row, min(p.rows, end - row), chunk * p.chunk, workspace)
        row += p.rows


cdef void sum_block(const Problem *p, const Call *call, Py_ssize_t n, Py_ssize_t row, Py_ssize_t count,
                    Py_ssize_t channel, char *workspace) noexcept nogil:
    """Up to p.rows rows of an image, and a chunk of channels from `channel` on."""
    cdef Py_ssize_t channels = min(p.chunk, p.channels - channel)
    cdef char *y = call.destination + (n * p.volume + row * p.axis[2].size) * p.pixel + channel * p.outs * p.itemsize
    cdef const char *x = call.source + n * p.source_volume * p.source_pixel + channel * p.ins * p.itemsize
    cdef Rows rows
    if p.windows and (count > 1 or p.spread):
        sum_windows(p, call, row, count, channel, channels, x, y)
    else:
        rows = find_rows(p, row, count, workspace)
        sum_lines(p, call, &rows, channel, channels, x, True, y)
    if finishes(&call.finish):
        finish_pixels(p, call, count * p.axis[2].size, channels * p.outs, y)


cdef void finish_pixels(const Problem *p, const Call *call, Py_ssize_t pixels, Py_ssize_t lanes,
                        char *y) noexcept nogil:
    """Finished pixels; those whose channels are all there lie behind each other."""
    if lanes * p.itemsize == p.pixel:
        pixels, lanes = 1, pixels * lanes
    for _ in range(pixels):
        finish_row(p.kernels, &call.finish, y, lanes)
        y += p.pixel


cdef void turned_task(const Problem *p, const Call *call, Py_ssize_t task, char *workspace) noexcept nogil:
    """channels_first: some vectors of channels of an image, turned to channels_last and back."""
    cdef Rows rows
    cdef char *x = workspace + rows_bytes(p)
    cdef char *y = x + round_up(p.source_volume * p.source_pixel, 64)
    cdef char *to
    cdef Py_ssize_t n = task // p.chunks, channel = task % p.chunks * p.chunk, vlen = p.kernels.vlen, channels
    cdef Py_ssize_t end = min(p.channels, channel + p.chunk)
    if not p.windows:
        rows = find_rows(p, 0, all_rows(p), workspace)
    while channel < end:
        channels = min(vlen, end - channel)
        p.kernels.pack_matrix(x, vlen * p.ins,
                              call.source + (n * p.channels + channel) * p.ins * p.source_volume * p.itemsize, 1,
                              p.source_volume, p.source_volume, channels * p.ins)
        if p.windows:
            sum_windows(p, call, 0, all_rows(p), channel, channels, x, y)
        else:
            sum_lines(p, call, &rows, channel, channels, x, False, y)
        to = call.destination + (n * p.channels + channel) * p.outs * p.volume * p.itemsize
        p.kernels.copy_matrix(to, p.volume, y, 1, vlen * p.outs, channels * p.outs, p.volume)
        finish_row(p.kernels, &call.finish, to, channels * p.outs * p.volume)
        channel += channels
