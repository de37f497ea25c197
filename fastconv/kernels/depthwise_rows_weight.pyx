"""The weight gradient over pixels whose channels lie side by side: channels_last, and small planes turned to it.

Sums are [vector of channels][way, or channel of the group][tap][VLEN], and behind them those of the bias, so that in L1
they do not share a cache set.
"""

from libc.string cimport memset

from fastconv.kernels.core cimport (
    fastconv_depthwise_weight,
    fastconv_depthwise_windows,
    fastconv_segment,
    round_up,
)
from fastconv.kernels.depthwise_problem cimport Axis, Gradient, Phase, Problem
from fastconv.kernels.depthwise_rows cimport all_rows, row_segments
from fastconv.kernels.depthwise_windows cimport find_windows


cdef inline Py_ssize_t weight_rows(const Problem *p) noexcept nogil:
    """Of the weight gradient's sums, [way or channel of the group][tap], without those of the bias."""
    return p.ways * p.kin * p.taps


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
