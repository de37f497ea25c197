"""Depthwise convolution of pixels whose channels lie side by side: channels_last, and small planes turned to it.

Lanes are channels, lines are rows of pixels. Pixels are read in place; rows that lie in padding are left out, and
pixels by the bounds of their runs. Packed weights are [way][tap][channel], in backward_input [tap][channel and way].
Sums of weight gradients are [vector of channels][way][tap][VLEN]: in L1 they do not share a cache set.

channels_first planes too small to fill vectors and blocks of rows are turned: a vector of channels at a time is
transposed into the workspace, convolved there, and transposed back, which costs less than padding each plane.
"""

from libc.math cimport INFINITY
from libc.string cimport memset

from fastconv.kernels.core cimport (
    fastconv_depthwise,
    fastconv_depthwise_weight,
    fastconv_segment,
    fastconv_depthwise_windows,
    round_up,
)
from fastconv.kernels.depthwise_problem cimport Axis, Call, Gradient, Phase, Problem
from fastconv.kernels.finish cimport Finish, finish_row, finishes
from fastconv.kernels.plan cimport Call as PlanCall


cdef inline Py_ssize_t row_segments(const Problem *p) noexcept nogil:
    """Taps along D and H."""
    return p.axis[0].kernel * p.axis[1].kernel


cdef inline Py_ssize_t weight_rows(const Problem *p) noexcept nogil:
    """Of the weight gradient's sums, [way or channel of the group][tap], without those of the bias."""
    return p.ways * p.kin * p.taps


cdef inline Py_ssize_t all_rows(const Problem *p) noexcept nogil:
    return p.axis[0].size * p.axis[1].size


# ---------------------------------------------------------------------------------------------- forward, backward_input

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


cdef void sum_rows(const Problem *p, const Call *call, Py_ssize_t row, Py_ssize_t count, Py_ssize_t channel,
                   Py_ssize_t channels, const char *x, bint exact, char *y, char *workspace) noexcept nogil:
    """`count` rows from `row` on, of channels from `channel` on; x is that channel in the image, y in the first row."""
    cdef Rows rows
    if p.windows and (count > 1 or p.spread):
        sum_windows(p, call, row, count, channel, channels, x, y)
    else:
        rows = find_rows(p, row, count, workspace)
        sum_lines(p, call, &rows, channel, channels, x, exact, y)


cdef fastconv_depthwise_windows find_windows(const Problem *p, Py_ssize_t row, Py_ssize_t rows,
                                             Py_ssize_t channels) noexcept nogil:
    cdef const Axis *height = &p.axis[1]
    cdef const Axis *width = &p.axis[2]
    cdef fastconv_depthwise_windows w
    w.lanes, w.w_across = channels, p.across
    w.rows, w.columns, w.stride = rows, width.size, width.stride
    w.top, w.left = height.phase.run.origin + row * height.stride, width.phase.run.origin
    w.height, w.width = height.source_size, width.source_size
    w.x_row, w.x_column = width.source_size * p.source_pixel, p.source_pixel
    w.y_row, w.y_column = width.size * p.pixel, p.pixel
    w.w_column = p.padded if width.stride > 1 else width.tap_step * p.padded
    w.w_row = width.kernel * w.w_column
    w.channels, w.w_channel, w.index = p.kin, p.taps * p.padded, p.index
    return w


cdef inline Py_ssize_t first_tap(const Problem *p) noexcept nogil:
    """Bytes to the weights of what windows meet first, which backward is the last tap."""
    return (p.axis[1].phase.run.tap * p.axis[2].kernel + p.axis[2].phase.run.tap) * p.padded


cdef void sum_windows(const Problem *p, const Call *call, Py_ssize_t row, Py_ssize_t rows, Py_ssize_t channel,
                      Py_ssize_t channels, const char *x, char *y) noexcept nogil:
    """The same where all taps are one 3x3 window; forward, bit by bit what lines would sum."""
    cdef fastconv_depthwise_windows windows = find_windows(p, row, rows, channels)
    cdef Py_ssize_t across = channel * p.itemsize
    cdef const char *w = call.weight + across
    cdef const char *shift = call.shift + across if call.shift != NULL else NULL
    if p.spread:
        windows.top, windows.left = row + p.axis[1].before, p.axis[2].before
        windows.w_column, windows.w_row = p.padded, p.axis[2].kernel * p.padded
        p.kernels.depthwise_windows_spread(&windows, x, w, shift, y, call.lower, call.upper)
    else:
        p.kernels.depthwise_windows(&windows, x, w + first_tap(p), shift, y, call.lower, call.upper)


cdef void sum_lines(const Problem *p, const Call *call, const Rows *rows, Py_ssize_t channel, Py_ssize_t channels,
                    const char *x, bint exact, char *y) noexcept nogil:
    """The same line by line."""
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
    sum_rows(p, call, row, count, channel, channels,
             call.source + n * p.source_volume * p.source_pixel + channel * p.ins * p.itemsize, True, y, workspace)
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
    cdef char *x = workspace + rows_bytes(p)
    cdef char *y = x + round_up(p.source_volume * p.source_pixel, 64)
    cdef char *to
    cdef Py_ssize_t n = task // p.chunks, channel = task % p.chunks * p.chunk, vlen = p.kernels.vlen, channels
    cdef Py_ssize_t end = min(p.channels, channel + p.chunk)
    while channel < end:
        channels = min(vlen, end - channel)
        p.kernels.pack_matrix(x, vlen * p.ins,
                              call.source + (n * p.channels + channel) * p.ins * p.source_volume * p.itemsize, 1,
                              p.source_volume, p.source_volume, channels * p.ins)
        sum_rows(p, call, 0, all_rows(p), channel, channels, x, False, y, workspace)
        to = call.destination + (n * p.channels + channel) * p.outs * p.volume * p.itemsize
        p.kernels.copy_matrix(to, p.volume, y, 1, vlen * p.outs, channels * p.outs, p.volume)
        finish_row(p.kernels, &call.finish, to, channels * p.outs * p.volume)
        channel += channels


# ---------------------------------------------------------------------------------------------- backward_weight

cdef Py_ssize_t weight_bytes(const Problem *p) noexcept nogil:
    cdef Py_ssize_t scratch = p.rows * p.axis[2].size * p.chunk * p.itemsize if p.ways > 1 else 0
    return round_up(row_segments(p) * p.rows * sizeof(fastconv_segment) + scratch, 64)


cdef Py_ssize_t rows_weight_workspace(const Problem *p, bint turned) noexcept nogil:
    """Bytes a thread; turned: with a vector of channels of an image, and of its grad_y."""
    if not turned:
        return weight_bytes(p)
    return weight_bytes(p) + round_up(p.source_volume * p.source_pixel, 64) + round_up(p.volume * p.pixel, 64)


cdef bint same_taps(const Axis *a, Py_ssize_t i, Py_ssize_t j) noexcept nogil:
    """Whether two destination positions meet the same taps."""
    cdef Py_ssize_t e, taps = a.ends[i + 1] - a.ends[i]
    if a.ends[j + 1] - a.ends[j] != taps:
        return False
    for e in range(taps):
        if a.tap[a.ends[i] + e] != a.tap[a.ends[j] + e]:
            return False
    return True


cdef Py_ssize_t find_weight_rows(const Problem *p, Py_ssize_t row, Py_ssize_t limit, char *workspace,
                                 fastconv_depthwise_weight *a) noexcept nogil:
    """The source rows of as many rows as meet the same taps along D and H, and those taps; returns how many."""
    cdef const Axis *depth = &p.axis[0]
    cdef const Axis *height = &p.axis[1]
    cdef Py_ssize_t d = row // height.size, h = row % height.size, rows = 0, e, f
    cdef fastconv_segment *segment = <fastconv_segment *> workspace
    a.segments = segment
    while rows < limit and h + rows < height.size and same_taps(height, h, h + rows):
        for e in range(depth.ends[d], depth.ends[d + 1]):
            for f in range(height.ends[h + rows], height.ends[h + rows + 1]):
                segment.x = depth.source[e] * height.source_size + height.source[f]
                segment.x *= p.axis[2].source_size * p.source_pixel
                segment.w = (depth.tap[e] * height.kernel + height.tap[f]) * p.axis[2].kernel * p.padded
                segment += 1
        rows += 1
    a.segment_count, a.lines = (segment - a.segments) // rows, rows
    return rows


cdef void sum_weights(const Problem *p, const Gradient *g, Py_ssize_t row, Py_ssize_t end, Py_ssize_t channels,
                      const char *x, const char *y, char *sums, char *workspace) noexcept nogil:
    """Adds the products of an image's rows row .. end to sums[way][tap][channel], [way][channel]; x and y are their
    first channel in the image and in its grad_y."""
    cdef fastconv_depthwise_weight a
    cdef fastconv_depthwise_windows windows
    cdef Py_ssize_t rows, j
    if p.windows:
        windows = find_windows(p, row, end - row, channels)
        p.kernels.depthwise_windows_weight(&windows, x, y + row * windows.y_row,
                                           sums if g.weight != NULL else NULL,
                                           sums + weight_rows(p) * p.padded if g.shift != NULL else NULL)
        return
    a.x, a.lanes, a.w_across = x, channels, p.across
    while row < end:
        rows = find_weight_rows(p, row, min(p.rows, end - row), workspace, &a)
        for j in range(p.ways):
            take_gradient(p, y + row * p.axis[2].size * p.pixel + j * p.itemsize, workspace, &a)
            a.w = sums + j * p.taps * p.padded if g.weight != NULL else NULL
            a.shift = sums + (weight_rows(p) + j) * p.padded if g.shift != NULL else NULL
            sum_weight_runs(p, &a)
        row += rows


cdef void take_gradient(const Problem *p, const char *y, char *workspace, fastconv_depthwise_weight *a) noexcept nogil:
    """The rows' grad_y of one way: in place if there is but one, else copied to scratch[pixel][channel]."""
    cdef char *scratch = workspace + row_segments(p) * p.rows * sizeof(fastconv_segment)
    a.y, a.y_step = y, p.pixel
    if p.ways > 1:
        p.kernels.copy_matrix(scratch, p.chunk, y, p.pixel // p.itemsize, p.ways, a.lines * p.axis[2].size, a.lanes)
        a.y, a.y_step = scratch, p.chunk * p.itemsize
    a.y_line = p.axis[2].size * a.y_step


cdef void sum_weight_runs(const Problem *p, fastconv_depthwise_weight *a) noexcept nogil:
    cdef const Phase *phase = &p.axis[2].phase[0]
    cdef Py_ssize_t i
    a.count, a.dilation = phase.count, p.axis[2].dilation
    a.x_unit, a.x_step = p.source_pixel, p.axis[2].stride * p.source_pixel
    a.w_step = p.axis[2].tap_step * p.padded
    for i in range(phase.runs):
        a.run = p.runs[i]
        p.kernels.depthwise_weight(a)
        a.shift = NULL


cdef inline char *sums_of(const Problem *p, const Gradient *g, Py_ssize_t part, Py_ssize_t channel) noexcept nogil:
    """Of a part and the vector that begins with a channel."""
    return g.parts + part * p.part_bytes + channel // p.kernels.vlen * p.across


cdef char *cleared_sums(const Problem *p, const Gradient *g, Py_ssize_t part, Py_ssize_t channel,
                        Py_ssize_t channels) noexcept nogil:
    cdef char *sums = sums_of(p, g, part, channel)
    memset(sums, 0, round_up(channels, p.kernels.vlen) // p.kernels.vlen * p.across)
    return sums


cdef void rows_weight_task(const Problem *p, const Gradient *g, Py_ssize_t task, char *workspace) noexcept nogil:
    """channels_last: a part of all rows of all images, and a chunk of channels."""
    cdef Py_ssize_t part = task // p.chunks, channel = task % p.chunks * p.chunk, image = all_rows(p)
    cdef Py_ssize_t row = part * p.batch * image // p.parts, end = (part + 1) * p.batch * image // p.parts, n, rows
    cdef Py_ssize_t channels = min(p.chunk, p.channels - channel)
    cdef char *sums = cleared_sums(p, g, part, channel, channels)
    while row < end:
        n = row // image
        rows = min(end - row, (n + 1) * image - row)
        sum_weights(p, g, row - n * image, row - n * image + rows, channels,
                    g.x + n * p.source_volume * p.source_pixel + channel * p.itemsize,
                    g.y + n * p.volume * p.pixel + channel * p.ways * p.itemsize, sums, workspace)
        row += rows


cdef void turned_weight_task(const Problem *p, const Gradient *g, Py_ssize_t task, char *workspace) noexcept nogil:
    """channels_first: a part of all images, and some vectors of channels, turned to channels_last."""
    cdef Py_ssize_t part = task // p.chunks, first = task % p.chunks * p.chunk, vlen = p.kernels.vlen, n, channel
    cdef Py_ssize_t end = min(p.channels, first + p.chunk), channels, at
    cdef char *x = workspace + weight_bytes(p)
    cdef char *y = x + round_up(p.source_volume * p.source_pixel, 64)
    cleared_sums(p, g, part, first, end - first)
    for n in range(part * p.batch // p.parts, (part + 1) * p.batch // p.parts):
        channel = first
        while channel < end:
            channels = min(vlen, end - channel)
            at = n * p.channels + channel
            p.kernels.pack_matrix(x, vlen, g.x + at * p.source_volume * p.itemsize, 1, p.source_volume,
                                  p.source_volume, channels)
            p.kernels.pack_matrix(y, vlen * p.ways, g.y + at * p.ways * p.volume * p.itemsize, 1, p.volume,
                                  p.volume, channels * p.ways)
            sum_weights(p, g, 0, all_rows(p), vlen, x, y, sums_of(p, g, part, channel), workspace)
            channel += vlen


cdef void unpack_weights(const Problem *p, const Gradient *g) noexcept nogil:
    """The parts in the order of their numbers, and from their vectors' [way][tap] to weight[channel][way][tap]."""
    cdef Py_ssize_t taps = weight_rows(p), vlen = p.kernels.vlen, whole = p.part_bytes // p.itemsize, channel = 0, n
    cdef const char *sums = g.parts
    p.kernels.sum_rows(g.parts, g.parts + p.part_bytes, whole, p.parts - 1, whole)
    while channel < p.channels:
        n = min(vlen, p.channels - channel)
        if g.weight != NULL:
            p.kernels.copy_matrix(g.weight + channel * taps * p.itemsize, taps, sums, 1, vlen, n, taps)
        if g.shift != NULL:
            p.kernels.copy_matrix(g.shift + channel * p.ways * p.itemsize, p.ways, sums + taps * p.vector, 1, vlen, n,
                                  p.ways)
        sums += p.across
        channel += vlen
