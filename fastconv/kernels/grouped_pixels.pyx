"""Grouped convolution for channels_last: lanes are output channels, of all groups one after the other.

A unit is a vector of them, or two. For each unit the channels that it meets are packed, 14 pixels of a line, and serve
the taps of all lines of the task: with 3x3 taps a load and a store for 9 * kin multiply-adds. microkernels/grouped.c
slides along the line with 14 sums and 3 weights in registers and permutes or broadcasts each pixel's channels, or finds
them spread.
"""

from libc.math cimport INFINITY
from libc.stdint cimport uint32_t
from libc.string cimport memcpy, memset

from fastconv.kernels.core cimport (
    CACHE_LINE,
    FASTCONV_BROADCAST,
    FASTCONV_PERMUTED,
    FASTCONV_SPREAD,
    fastconv_grouped,
    fastconv_grouped_run,
    fastconv_segment,
    fastconv_spread,
    round_up,
)
from fastconv.kernels.finish cimport Finish, finish_row, finishes
from fastconv.kernels.grouped_problem cimport Axis, Phase, Problem, Task, destination_of, source_of, task_of
from fastconv.kernels.plan cimport Call

cdef struct Line:               # of a call: outputs from w on
    Py_ssize_t w
    int outputs

cdef struct Scratch:            # a thread's
    Py_ssize_t *position        # [slots]: which line of H's table a slot holds, or -1
    Py_ssize_t *start           # [columns] of fastconv_spread
    Py_ssize_t *warm            # cache lines of a packed line's pixels
    fastconv_grouped_run *runs
    fastconv_segment *segments
    Py_ssize_t *ends
    Py_ssize_t ahead            # bytes from a unit's source to the next one's
    char *slots


cdef Py_ssize_t pixels_workspace(const Problem *p, const Phase *f) noexcept nogil:
    cdef Scratch s
    return lay_out(p, f, NULL, &s)


cdef Py_ssize_t lay_out(const Problem *p, const Phase *f, char *memory, Scratch *s) noexcept nogil:
    """Places the scratch of a thread, from `memory` on; returns its bytes."""
    cdef Py_ssize_t slots = f.axis[0].taps * f.ring, free = 0, segments = f.axis[0].taps * f.axis[1].taps * f.lines
    s.slots = memory
    free += slots * f.slot_bytes
    s.position = <Py_ssize_t *> (memory + free)
    free += slots * sizeof(Py_ssize_t)
    s.start = <Py_ssize_t *> (memory + free)
    free += f.columns * sizeof(Py_ssize_t)
    s.warm = <Py_ssize_t *> (memory + free)
    free += f.columns * warm_lines(p, f) * sizeof(Py_ssize_t)
    s.ends = <Py_ssize_t *> (memory + free)
    free += (f.lines + 1) * sizeof(Py_ssize_t)
    s.segments = <fastconv_segment *> (memory + free)
    free += segments * sizeof(fastconv_segment)
    s.runs = <fastconv_grouped_run *> (memory + free)
    free += f.axis[2].runs * sizeof(fastconv_grouped_run)
    return round_up(free, CACHE_LINE)


cdef inline Py_ssize_t warm_lines(const Problem *p, const Phase *f) noexcept nogil:
    """Cache lines of a pixel that the units of a task meet."""
    return f.chunk * f.vectors * p.kernels.vlen * p.kin // p.kout * p.itemsize // CACHE_LINE + 2


cdef Line line_from(const Problem *p, const Phase *f, const Task *t, Py_ssize_t w) noexcept nogil:
    """The outputs from w on that the microkernel takes at once; the last ones of a task may overlap those before."""
    cdef const int *sizes = p.kernels.grouped_outputs[f.vectors - 1]
    cdef Line line
    cdef Py_ssize_t rest = t.right - w
    cdef int i = 0
    while i < 3 and sizes[i + 1] >= rest:
        i += 1
    if sizes[i] < rest or sizes[i] > t.right - t.left:
        while sizes[i] > rest:
            i += 1
    line.outputs = sizes[i]
    line.w = min(w, t.right - sizes[i])
    return line


cdef Py_ssize_t place_columns(const Problem *p, const Phase *f, Line line, Scratch *s) noexcept nogil:
    """Which source pixels the columns of a packed line hold, and the runs over them; returns how many there are.

    Part after part, a part's columns are its positions from the line's first output on, as many as outputs and `more`.
    """
    cdef const Axis *a = &f.axis[2]
    cdef Py_ssize_t part = 0, first = 0, r, k, column, taps = 0, pixel
    cdef const Py_ssize_t *table
    cdef fastconv_grouped_run *run
    for k in range(a.parts * line.outputs + f.columns - a.parts * p.kernels.grouped_outputs[f.vectors - 1][0]):
        s.start[k] = -1
    for r in range(a.runs):
        while part < a.run[r].part:
            first += line.outputs + a.part[part].more
            part += 1
        run = s.runs + r
        column = first + a.run[r].position
        run.x = column * p.pitch
        run.w = taps * p.kin * f.vectors * p.vector
        run.taps, run.met = a.run[r].taps, 0
        table = a.table + a.part[part].offset + (line.w + a.run[r].position) * a.stride
        for k in range(line.outputs + run.taps - 1):
            pixel = table[k * a.stride]
            if pixel >= 0:
                s.start[column + k] = pixel * p.source_pixel
                run.met |= <uint32_t> 1 << k
        taps += run.taps
    return first + line.outputs + a.part[part].more


cdef void pack_line(const Problem *p, const Scratch *s, const Call *call, const char *x, Py_ssize_t unit,
                    Py_ssize_t columns, char *to) noexcept nogil:
    cdef fastconv_spread t
    t.x, t.end, t.to, t.to_channel = x, call.end, to, columns * p.vector
    t.columns, t.start, t.ahead, t.index = columns, s.start, s.ahead, NULL
    if p.kind == FASTCONV_SPREAD:
        t.channels, t.index, t.elements = p.kin, p.index + unit * p.vector, p.elements[unit]
    elif p.kind == FASTCONV_PERMUTED:
        t.channels = p.elements[unit] + p.kin - 1
    else:
        t.channels = p.kin
    p.kernels.spread(&t)


cdef void warm_up(const Problem *p, const Phase *f, const Call *call, const Task *t, const Scratch *s,
                  Py_ssize_t columns) noexcept nogil:
    """Bring the source of a block of outputs into L2, pixel after pixel: a unit reads a cache line of each, and memory
    is half as fast for lines so far apart."""
    cdef Py_ssize_t lines = warm_lines(p, f) - 1, count = 0, k, i, td, at, line_d, line_h
    cdef const Axis *h = &f.axis[1]
    cdef const char *x = call.source + t.n * p.source_plane * p.source_pixel + first_channel(p, f, t.unit) * p.itemsize
    cdef fastconv_spread warm
    for k in range(columns):
        for i in range(lines if s.start[k] >= 0 else 0):
            s.warm[count] = s.start[k] + i * CACHE_LINE
            count += 1
    memset(&warm, 0, sizeof(warm))  # no channels: nothing but the prefetch
    warm.columns, warm.start, warm.end, warm.to = count, s.warm, call.end, s.slots
    for td in range(f.axis[0].taps):
        line_d = source_of(&f.axis[0], td, t.d)
        for at in range(t.row * h.stride, (t.stop - 1) * h.stride + h.reach + 1):
            line_h = h.table[at]
            if line_d >= 0 and line_h >= 0:
                warm.x = x + (line_d * p.source_size[1] + line_h) * p.source_size[2] * p.source_pixel
                p.kernels.spread(&warm)


cdef inline Py_ssize_t first_channel(const Problem *p, const Phase *f, Py_ssize_t unit) noexcept nogil:
    """Of the source that a unit's first lane meets."""
    return unit * f.vectors * p.kernels.vlen // p.kout * p.kin


cdef void pixels_task(const Problem *p, const Phase *f, const Call *call, Py_ssize_t index,
                      char *memory) noexcept nogil:
    cdef Task t = task_of(f, index)
    cdef Scratch s
    cdef Line line
    cdef fastconv_grouped g
    cdef Finish finish = Finish(call.destination, call.residual, call.epilogue.lower, call.epilogue.upper,
                                call.activation, call.alpha)
    cdef const char *shift = call.epilogue.shift
    cdef Py_ssize_t w = t.left, unit, columns, isz = p.itemsize, width = f.vectors * p.kernels.vlen
    lay_out(p, f, memory, &s)
    g.x, g.channels, g.kind, g.vectors = s.slots, p.kin, p.kind, f.vectors
    g.y_step = f.axis[2].step * p.destination_pixel
    g.y_line = f.axis[1].step * p.destination_size[2] * p.destination_pixel
    g.segments, g.ends, g.runs, g.run_count = s.segments, s.ends, s.runs, f.axis[2].runs
    g.lower, g.upper = call.epilogue.lower, call.epilogue.upper
    if call.residual != NULL:
        g.lower, g.upper = -INFINITY, INFINITY
    while w < t.right:
        line = line_from(p, f, &t, w)
        w = line.w + line.outputs
        columns = place_columns(p, f, line, &s)
        if t.end > t.unit + 1:
            warm_up(p, f, call, &t, &s, columns)
        g.outputs = line.outputs
        g.x_step, g.x_channel = p.pitch, isz
        if p.kind != FASTCONV_BROADCAST:
            g.x_channel = columns * p.vector if p.kind == FASTCONV_SPREAD else 0
        for unit in range(t.unit, t.end):
            g.w = call.weight + f.weight_offset + unit * f.unit_bytes
            g.shift = shift + unit * width * isz if shift != NULL else NULL
            g.lanes = min(width, p.groups * p.kout - unit * width)
            g.index = p.index + unit * p.vector if p.kind == FASTCONV_PERMUTED else NULL
            if unit + 1 < t.end:
                s.ahead = (first_channel(p, f, unit + 1) - first_channel(p, f, unit)) * isz
            else:
                s.ahead = line.outputs * f.axis[2].stride * p.source_pixel
                s.ahead -= (first_channel(p, f, unit) - first_channel(p, f, t.unit)) * isz
            lines_of_unit(p, f, call, &t, &s, &g, line.w, columns, unit)
    if finishes(&finish):
        finish_pixels(p, f, call, &t, &finish)


cdef void lines_of_unit(const Problem *p, const Phase *f, const Call *call, const Task *t, Scratch *s,
                        fastconv_grouped *g, Py_ssize_t w, Py_ssize_t columns, Py_ssize_t unit) noexcept nogil:
    """The outputs from w on of all lines of a task. Source lines are packed when the first output line meets them."""
    cdef Py_ssize_t row = t.row, k, y, turn = 0
    cdef const char *x = call.source + first_channel(p, f, unit) * p.itemsize
    x += t.n * p.source_plane * p.source_pixel
    for k in range(f.axis[0].taps * f.ring):
        s.position[k] = -1
    while row < t.stop:
        g.lines = min(f.lines, t.stop - row)
        y = t.n * p.destination_plane + destination_of(p, f, t.d, row, w)
        g.y = call.destination + y * p.destination_pixel + unit * f.vectors * p.vector
        s.ends[0] = 0
        for k in range(g.lines):
            s.ends[k + 1] = s.ends[k] + meet_lines(p, f, call, t.d, row + k, s, s.segments + s.ends[k], x, columns,
                                                   unit, turn)
            turn += f.axis[1].stride
            while turn >= f.ring:
                turn -= f.ring
        p.kernels.grouped(g)
        row += g.lines


cdef Py_ssize_t meet_lines(const Problem *p, const Phase *f, const Call *call, Py_ssize_t d, Py_ssize_t h, Scratch *s,
                           fastconv_segment *segments, const char *x, Py_ssize_t columns, Py_ssize_t unit,
                           Py_ssize_t turn) noexcept nogil:
    """The packed lines that the taps of one output line meet; returns how many do not meet padding.

    `turn` is the place in the ring of the lowest.
    """
    cdef Py_ssize_t td, th, line_d, line_h, at, slot, count = 0
    cdef Py_ssize_t weights = f.axis[2].taps * p.kin * f.vectors * p.vector
    for td in range(f.axis[0].taps):
        line_d = source_of(&f.axis[0], td, d)
        if line_d < 0:
            continue
        for th in range(f.axis[1].taps):
            at = h * f.axis[1].stride + f.axis[1].shift[th]
            line_h = f.axis[1].table[at]
            if line_h < 0:
                continue
            slot = td * f.ring + turn + f.axis[1].shift[th]
            if turn + f.axis[1].shift[th] >= f.ring:
                slot -= f.ring
            if s.position[slot] != at:
                s.position[slot] = at
                pack_line(p, s, call, x + (line_d * p.source_size[1] + line_h) * p.source_size[2] * p.source_pixel,
                          unit, columns, s.slots + slot * f.slot_bytes)
            segments[count].x = slot * f.slot_bytes
            segments[count].w = (td * f.axis[1].taps + th) * weights
            count += 1
    return count


cdef void finish_pixels(const Problem *p, const Phase *f, const Call *call, const Task *t,
                        const Finish *finish) noexcept nogil:
    """What a task has written, which is in L2 still."""
    cdef Py_ssize_t row, w, y, width = f.vectors * p.kernels.vlen, first = t.unit * width
    cdef Py_ssize_t n = min(t.end * width, p.groups * p.kout) - first
    cdef char *to
    for row in range(t.row, t.stop):
        y = t.n * p.destination_plane + destination_of(p, f, t.d, row, 0)
        for w in range(t.left, t.right):
            to = call.destination + (y + w * f.axis[2].step) * p.destination_pixel + first * p.itemsize
            finish_row(p.kernels, finish, to, n)


cdef void pixels_weights(const Problem *p, const Phase *f, const char *weight, char *packed, Py_ssize_t unit,
                         char *scratch) noexcept nogil:
    """packed[unit][taps of D and H][runs of W][kin][taps of the run][vectors][VLEN] from the weight of PyTorch's shape.

    Its channels and taps are turned to vectors first, scratch[kin][kernel][vectors][VLEN], which go to their place.
    """
    cdef Py_ssize_t width = f.vectors * p.kernels.vlen, first = unit * width, bytes = width * p.itemsize
    cdef Py_ssize_t stop = min(first + width, p.groups * p.kout), r, _line, k, i, tap = 0
    cdef char *to = packed + f.weight_offset + unit * f.unit_bytes
    memset(scratch, 0, p.kin * p.kernel_taps * bytes)
    turn_weights(p, weight, first, stop, width, scratch)
    for _line in range(f.axis[0].taps * f.axis[1].taps):
        for r in range(f.axis[2].runs):
            for i in range(p.kin):
                for k in range(f.axis[2].run[r].taps):
                    memcpy(to, scratch + (i * p.kernel_taps + f.weight_taps[tap + k]) * bytes, bytes)
                    to += bytes
            tap += f.axis[2].run[r].taps


cdef void turn_weights(const Problem *p, const char *weight, Py_ssize_t first, Py_ssize_t stop, Py_ssize_t width,
                       char *scratch) noexcept nogil:
    cdef Py_ssize_t lane = first, group, j, n, i, isz = p.itemsize
    cdef const char *x
    while lane < stop:
        group, j = lane // p.kout, lane % p.kout
        n = min(stop - lane, p.kout - j)
        x = weight + group * p.kin * p.kout * p.kernel_taps * isz
        if not p.backward:
            p.kernels.copy_matrix(scratch + (lane - first) * isz, width, x + j * p.kin * p.kernel_taps * isz, 1,
                                  p.kin * p.kernel_taps, p.kin * p.kernel_taps, n)
        else:
            for i in range(p.kin):
                p.kernels.copy_matrix(scratch + (i * p.kernel_taps * width + lane - first) * isz, width,
                                      x + (i * p.kout + j) * p.kernel_taps * isz, 1, p.kernel_taps, p.kernel_taps, n)
        lane += n
