"""The pixels of a block of grad_y and x, packed for the register tile.

Both layouts are read in place through strides; what differs is only which packing is a copy and which a transpose.
"""

from fastconv.kernels.backward_weight_problem cimport Axis, Block, Layout, Problem, Task, tile_rows
from fastconv.kernels.core cimport ceil_div


cdef void pack_pixels(const Problem *p, const char *source, const Layout *a, Py_ssize_t pixels, Py_ssize_t channels,
                      Py_ssize_t width, Py_ssize_t ld, char *to, Py_ssize_t tile) noexcept nogil:
    """Tiles of `width` channels, `tile` bytes apart, to[tile][pixel][ld].

    All tiles take a few pixels before any takes the next: lines hold channels of several tiles in channels_last.
    """
    cdef Py_ssize_t at = 0, some, j, stretch = pixels if a.pixel == 1 else 32
    while at < pixels:
        some = min(stretch, pixels - at)
        for j in range(ceil_div(channels, width)):
            p.kernels.copy_matrix(to + j * tile + at * ld * p.itemsize, ld,
                                  source + (at * a.pixel + j * width * a.channel) * p.itemsize, a.pixel, a.channel,
                                  some, min(width, channels - j * width))
        at += some


cdef void pack_y(const Problem *p, const Task *t, const Block *b, const char *y, char *to) noexcept nogil:
    """to[tile of rows][pixel][MR] for the task's output channels."""
    cdef Py_ssize_t ld = p.kernels.pairs_mr, n, d, h, lines = b.outs[1], length = b.outs[2], line
    if length == p.y.size[2]:                          # whole lines stand side by side
        length, lines = length * lines, 1
    for n in range(b.images):
        for d in range(b.outs[0]):
            for h in range(lines):
                line = ((b.start[0] + d) * p.y.size[1] + b.start[1] + h) * p.y.size[2] + b.start[2]
                line = line * p.y.pixel + (b.n + n) * p.y.image + (t.group * p.co + t.co) * p.y.channel
                pack_pixels(p, y + line * p.itemsize, &p.y, length, t.rows, tile_rows(p, t), ld, to,
                            p.pixels * ld * p.itemsize)
                to += length * ld * p.itemsize


cdef bint line_is_read(const Axis *a, const Block *b, const Task *t, int axis, Py_ssize_t position) noexcept nogil:
    """Whether one of the task's taps reads this depth or height."""
    cdef Py_ssize_t tap, output
    if a.sources[b.index[axis] * a.positions + position] < 0:
        return False
    if t.stop_tap[axis] - t.first_tap[axis] == a.kernel:
        return True
    for tap in range(t.first_tap[axis], t.stop_tap[axis]):
        output = position - a.shift[tap]
        if output % a.step == 0 and 0 <= output < b.outs[axis] * a.step:
            return True
    return False


cdef void pack_x(const Problem *p, const Task *t, const Block *b, const char *x, char *to) noexcept nogil:
    """to[panel][position][NR], or to[position][channel] for patches, of every position of the block that is read.

    Stretches that continue each other both in x and in `to` are packed as one.
    """
    cdef Py_ssize_t width = p.ci if p.patches else p.kernels.pairs_nr, n, d, h, i, line, source
    cdef Py_ssize_t position = 0, start = 0, length = 0, isz = p.itemsize
    cdef const Axis *last = &p.axis[2]
    cdef const Py_ssize_t *run
    cdef const char *image = NULL
    for n in range(b.images):
        image = x + ((b.n + n) * p.x.image + (t.group * p.ci + t.ci) * p.x.channel) * isz
        for d in range(p.axis[0].positions):
            if not line_is_read(&p.axis[0], b, t, 0, d):
                continue
            for h in range(p.axis[1].positions):
                if not line_is_read(&p.axis[1], b, t, 1, h):
                    continue
                line = ((n * p.axis[0].positions + d) * p.axis[1].positions + h) * last.positions
                source = p.axis[0].sources[b.index[0] * p.axis[0].positions + d] * p.x.size[1]
                source = (source + p.axis[1].sources[b.index[1] * p.axis[1].positions + h]) * p.x.size[2]
                for i in range(last.first_run[b.index[2]], last.first_run[b.index[2] + 1]):
                    run = last.runs + 3 * i
                    if line + run[0] != position + length or source + run[1] != start + length:
                        pack_pixels(p, image + start * p.x.pixel * isz, &p.x, length, t.channels, width, width,
                                    to + position * width * isz, p.panel)
                        position, start, length = line + run[0], source + run[1], 0
                    length += run[2]
        pack_pixels(p, image + start * p.x.pixel * isz, &p.x, length, t.channels, width, width,
                    to + position * width * isz, p.panel)
        length = 0


cdef void pack_patches(const Problem *p, const Task *t, const Block *b, const char *x, char *to) noexcept nogil:
    """to[panel][pixel][NR] of patches [tap][ci], from x[position][ci], padding included."""
    cdef const Axis *a = &p.axis[0]
    cdef const Py_ssize_t *first = p.first_piece + t.tap // p.taps_task
    cdef Py_ssize_t n, d, h, line, ld = p.kernels.pairs_nr
    for n in range(b.images):
        for d in range(b.outs[0]):
            for h in range(b.outs[1]):
                line = ((n * a[0].positions + d * a[0].step) * a[1].positions + h * a[1].step) * a[2].positions
                p.kernels.pack_pieces(to, ld, x + line * p.ci * p.itemsize, a[2].step * p.ci, b.outs[2],
                                      p.pieces + first[0], first[1] - first[0])
                to += b.outs[2] * ld * p.itemsize
