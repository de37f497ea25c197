"""Grouped convolution: few channels a group, any stride, padding, dilation and dimension, from packed lines.

    y[n][g * kout + j][p] = clamp(bias + sum over taps t, channels i < kin of
                                  w[g * kout + j][i][t] * x[n][g * kin + i][source(p, t)], lower, upper)

A GEMM a group would leave lanes empty, and packing its source tap by tap costs as much as its few products. Here a
block of source lines is packed once, padding and strides resolved, and read by all taps:

channels_last   lanes are output channels, of all groups one after the other; a unit is a vector of them, or two. For
                each unit the channels that it meets are packed, 14 pixels of a line, and serve the taps of all lines
                of the task: with 3x3 taps a load and a store for 9 * kin multiply-adds. microkernels/grouped.c slides
                along the line with 14 sums and 3 weights in registers and permutes or broadcasts each pixel's
                channels, or finds them spread.
channels_first  lanes are pixels. The lines of a block, padded, follow each other, so that pixels are one long line,
                with some junk between the lines that is not copied out; a tap is an offset into it. The GEMM
                microkernel reads its panels there, unpacked: kout rows x NV vectors, a load for kout multiply-adds.

With stride s along an axis its positions are packed as s parts, so that outputs and taps go by whole steps.
The sum of an output is one chain, in an order that the geometry fixes, however tasks are cut: bits do not depend on
the number of threads.
"""

import numpy as np

from cython.parallel cimport parallel, prange, threadid
from libc.math cimport INFINITY
from libc.stdint cimport uint32_t
from libc.string cimport memcpy, memset
cimport numpy as cnp

from fastconv.sources import AxisSources, parts_of

from fastconv.kernels.arrays cimport contiguous, packed_memory
from fastconv.kernels.core cimport (
    CACHE_LINE,
    FASTCONV_BROADCAST,
    FASTCONV_MAX_ROWS,
    FASTCONV_PERMUTED,
    FASTCONV_SPREAD,
    acquire,
    ceil_div,
    even_part,
    fastconv_epilogue,
    fastconv_gemm_tile,
    fastconv_grouped,
    fastconv_grouped_run,
    fastconv_kernels,
    fastconv_run,
    fastconv_segment,
    fastconv_spread,
    fegetenv,
    fenv_t,
    fesetenv,
    kernels,
    release,
    round_up,
    team,
)

cnp.import_array()

cdef enum:
    LINE_BYTES = 16 * 1024      # packed lines that a call of the microkernel reads: most of L1
    WEIGHT_BYTES = 256 * 1024   # weights of a task's units: a quarter of L2
    ROWS = 8                    # lines a task: with 3x3 taps, two more are packed
    PLANE_BYTES = 48 * 1024     # the packed planes of a group: L1 and some of L2, as a load serves kout multiply-adds
    WIDE = 448                  # and outputs of a line
    MANY_TASKS = 64
    TASK_WORK = 100 * 1000      # multiply-adds that are worth a task of their own
    SHUFFLED_BYTES = 32         # vectors from so many bytes on have a shuffle by any index
    RUN_TAPS = 3                # of a run at most, see table.h


cdef struct Part:               # positions offset, offset + stride, ... of an axis's table
    Py_ssize_t offset
    Py_ssize_t more             # how many more of them there are than outputs

cdef struct Run:                # taps that meet neighbouring positions of a part
    Py_ssize_t part, position, taps

cdef struct Axis:
    Py_ssize_t count            # destination positions, where they start and how far apart they are
    Py_ssize_t offset
    Py_ssize_t step
    Py_ssize_t taps
    Py_ssize_t reach            # from the lowest to the highest tap's position in the table
    Py_ssize_t stride
    const Py_ssize_t *table     # source position or -1 of the lowest tap and output i at i * stride
    const Py_ssize_t *shift     # [taps] of each tap against the lowest
    Py_ssize_t parts, runs
    const Part *part
    const Run *run

cdef struct Segment:            # positions start .. stop - 1 of a part of W read source + i * step, or padding
    Py_ssize_t part, start, stop, source, step

cdef struct Phase:
    Axis axis[3]
    Py_ssize_t all_taps
    const Py_ssize_t *weight_taps  # [taps], W's in the order of its runs: element offset in the weight's kernel
    Py_ssize_t weight_offset    # bytes into the packed weights
    int vectors                 # of a unit
    Py_ssize_t units, unit_bytes
    Py_ssize_t chunk, chunks    # units a task
    Py_ssize_t rows, row_blocks  # lines a task
    Py_ssize_t wide, wide_blocks  # outputs of a line a task
    Py_ssize_t lines            # a call of the microkernel
    Py_ssize_t ring, slot_bytes  # packed lines that are kept for each tap along D
    Py_ssize_t columns          # of a packed line: channels_last at most, channels_first from line to line
    Py_ssize_t plane            # channels_first: elements from channel to channel of a packed block
    Py_ssize_t segments
    const Segment *segment      # runs of W's table, part after part
    const Py_ssize_t *tap_offsets  # [taps]: bytes into a packed block

cdef struct Problem:
    Py_ssize_t batch, groups, kin, kout, kernel_taps, itemsize, vector
    Py_ssize_t source_size[3]
    Py_ssize_t destination_size[3]
    Py_ssize_t source_pixel, source_plane, destination_pixel, destination_plane
    bint channels_last, backward
    int kind                    # of a packed line, see fastconv_grouped
    Py_ssize_t pitch            # bytes from column to column of a packed line
    const char *index           # [units][vlen]: see fastconv_spread
    const Py_ssize_t *elements  # [units]
    int phases
    Phase *phase
    const fastconv_kernels *kernels

cdef struct Call:
    const char *source
    const char *end             # of source
    const char *weight          # packed
    const char *shift
    char *destination
    double lower, upper
    int activation              # of table.h, applied to finished lines; or -1
    double alpha


# ----------------------------------------------------------------------------------------------- channels_last

cdef struct Task:
    Py_ssize_t n, d             # image, and output position along D
    Py_ssize_t row, stop        # output positions along H
    Py_ssize_t left, right      # and along W
    Py_ssize_t unit, end        # units

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


cdef Task task_of(const Phase *f, Py_ssize_t index) noexcept nogil:
    """Tasks of one chunk of units follow each other, so that its weights stay in L2."""
    cdef Task t
    cdef const Axis *axis = &f.axis[0]
    t.left, index = index % f.wide_blocks * f.wide, index // f.wide_blocks
    t.right = min(axis[2].count, t.left + f.wide)
    t.row, index = index % f.row_blocks * f.rows, index // f.row_blocks
    t.stop = min(axis[1].count, t.row + f.rows)
    t.d, index = index % axis[0].count, index // axis[0].count
    t.n, index = index // f.chunks, index % f.chunks
    t.unit, t.end = index * f.chunk, min(f.units, (index + 1) * f.chunk)
    return t


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
        line_d = f.axis[0].table[t.d * f.axis[0].stride + f.axis[0].shift[td]]
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
    cdef Py_ssize_t w = t.left, unit, columns, isz = p.itemsize, width = f.vectors * p.kernels.vlen
    lay_out(p, f, memory, &s)
    g.x, g.channels, g.kind, g.vectors = s.slots, p.kin, p.kind, f.vectors
    g.y_step = f.axis[2].step * p.destination_pixel
    g.y_line = f.axis[1].step * p.destination_size[2] * p.destination_pixel
    g.segments, g.ends, g.runs, g.run_count = s.segments, s.ends, s.runs, f.axis[2].runs
    g.lower, g.upper = call.lower, call.upper
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
            g.shift = call.shift + unit * width * isz if call.shift != NULL else NULL
            g.lanes = min(width, p.groups * p.kout - unit * width)
            g.index = p.index + unit * p.vector if p.kind == FASTCONV_PERMUTED else NULL
            if unit + 1 < t.end:
                s.ahead = (first_channel(p, f, unit + 1) - first_channel(p, f, unit)) * isz
            else:
                s.ahead = line.outputs * f.axis[2].stride * p.source_pixel
                s.ahead -= (first_channel(p, f, unit) - first_channel(p, f, t.unit)) * isz
            lines_of_unit(p, f, call, &t, &s, &g, line.w, columns, unit)
    if call.activation >= 0:
        activate_pixels(p, f, call, &t)


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
        y = (f.axis[0].offset + t.d * f.axis[0].step) * p.destination_size[1] + f.axis[1].offset + row * f.axis[1].step
        y = t.n * p.destination_plane + y * p.destination_size[2] + f.axis[2].offset + w * f.axis[2].step
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
        line_d = f.axis[0].table[d * f.axis[0].stride + f.axis[0].shift[td]]
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


cdef void activate_pixels(const Problem *p, const Phase *f, const Call *call, const Task *t) noexcept nogil:
    """What a task has written, which is in L2 still."""
    cdef Py_ssize_t row, w, y, width = f.vectors * p.kernels.vlen, first = t.unit * width
    cdef Py_ssize_t n = min(t.end * width, p.groups * p.kout) - first
    cdef char *to
    for row in range(t.row, t.stop):
        y = (f.axis[0].offset + t.d * f.axis[0].step) * p.destination_size[1] + f.axis[1].offset + row * f.axis[1].step
        y = t.n * p.destination_plane + y * p.destination_size[2] + f.axis[2].offset
        for w in range(t.left, t.right):
            to = call.destination + (y + w * f.axis[2].step) * p.destination_pixel + first * p.itemsize
            p.kernels.activate(call.activation, call.alpha, to, to, n)


cdef void pack_unit(const Problem *p, const Phase *f, const char *weight, char *packed, Py_ssize_t unit,
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


# ---------------------------------------------------------------------------------------------- channels_first

cdef struct Planes:             # a thread's scratch
    char *panel                 # [kin][taps of D][parts of H][parts of W][lines][columns], and a tile behind them
    char *sums                  # [kout][lines][columns]
    const char **weights        # of gemm: [taps][FASTCONV_MAX_ROWS]
    fastconv_run *runs          # that fill a channel of the panel


cdef inline Py_ssize_t lines_packed(const Phase *f) noexcept nogil:
    return f.rows + most_more(&f.axis[1])


cdef Py_ssize_t most_more(const Axis *a) noexcept nogil:
    cdef Py_ssize_t i, most = 0
    for i in range(a.parts):
        most = max(most, a.part[i].more)
    return most


cdef inline Py_ssize_t sums_stride(const Problem *p, const Phase *f) noexcept nogil:
    return round_up(f.rows * f.columns, p.kernels.vlen)


cdef Py_ssize_t lay_out_planes(const Problem *p, const Phase *f, char *memory, Planes *s) noexcept nogil:
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
        line_d = f.axis[0].table[t.d * f.axis[0].stride + f.axis[0].shift[td]]
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
    cdef Planes s
    cdef Py_ssize_t group, tap, i, count, isz = p.itemsize
    cdef const char *weight = call.weight + f.weight_offset
    lay_out_planes(p, f, memory, &s)
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


cdef void multiply_planes(const Problem *p, const Phase *f, const Call *call, const Task *t, const Planes *s,
                          Py_ssize_t group) noexcept nogil:
    """sums[kout][pixels of the block, and the junk between its lines]"""
    cdef Py_ssize_t isz = p.itemsize, nr = p.kernels.nr, row, at = 0, i, stride = sums_stride(p, f) * isz
    cdef Py_ssize_t total = (t.stop - t.row - 1) * f.columns + t.right - t.left
    cdef char *rows[FASTCONV_MAX_ROWS]
    cdef fastconv_epilogue epilogue
    cdef fastconv_gemm_tile g
    memset(&epilogue, 0, sizeof(epilogue))
    epilogue.per_row, epilogue.lower, epilogue.upper = True, call.lower, call.upper
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
            if call.shift != NULL:
                epilogue.shift = call.shift + (group * p.kout + row) * isz
            p.kernels.gemm(&g)
            row += g.rows
        at += nr


cdef void copy_planes(const Problem *p, const Phase *f, const Call *call, const Task *t, const Planes *s,
                      Py_ssize_t group) noexcept nogil:
    cdef Py_ssize_t isz = p.itemsize, _j, i, lines = t.stop - t.row, wide = t.right - t.left, y
    cdef Py_ssize_t y_line = f.axis[1].step * p.destination_size[2], stride = sums_stride(p, f) * isz
    cdef char *sums = s.sums
    y = (f.axis[0].offset + t.d * f.axis[0].step) * p.destination_size[1] + f.axis[1].offset + t.row * f.axis[1].step
    y = y * p.destination_size[2] + f.axis[2].offset + t.left * f.axis[2].step
    y += (t.n * p.groups + group) * p.kout * p.destination_plane
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


cdef void pack_group(const Problem *p, const Phase *f, const char *weight, char *packed,
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


# ------------------------------------------------------------------------------------------------------ plans

cdef class GroupedPlan:
    """One convolution, ready to run any number of times, from any thread.

    `sources` are the phases of fastconv.sources, which must cover the destination; `kin` and `kout` are source and
    destination channels a group; `backward` says that the weight's first axis is the source's channels.
    """

    cdef Problem problem
    cdef object keep            # arrays that the pointers of `problem` look into
    cdef readonly Py_ssize_t packed_bytes
    cdef readonly bint channels_last
    cdef double work
    rereads_weight = False

    def __init__(self, int dtype, bint channels_last, bint backward, Py_ssize_t batch, Py_ssize_t groups,
                 Py_ssize_t kin, Py_ssize_t kout, source_size, destination_size, sources, kernel):
        cdef Problem *p = &self.problem
        cdef Phase *f
        cdef int i
        self.keep, self.packed_bytes, self.work, self.channels_last = [], 0, 0, channels_last
        p.kernels = kernels(dtype)
        p.batch, p.groups, p.kin, p.kout, p.itemsize = batch, groups, kin, kout, p.kernels.storage_bytes
        p.channels_last, p.backward, p.vector = channels_last, backward, p.kernels.vlen * p.itemsize
        for i in range(3):
            p.source_size[i] = ([1, 1, 1] + list(source_size))[len(source_size) + i]
            p.destination_size[i] = ([1, 1, 1] + list(destination_size))[len(destination_size) + i]
        p.kernel_taps = np.prod(kernel)
        p.source_plane = p.source_size[0] * p.source_size[1] * p.source_size[2]
        p.destination_plane = p.destination_size[0] * p.destination_size[1] * p.destination_size[2]
        p.source_pixel, p.destination_pixel = groups * kin * p.itemsize, groups * kout * p.itemsize
        self._choose_kind()
        p.phases = len(sources)
        p.phase = <Phase *> self._array(np.zeros(p.phases * sizeof(Phase), np.uint8))
        for i in range(p.phases):
            f = &p.phase[i]
            self._describe(f, sources[i], kernel)
            if channels_last:
                self._cut_pixels(f)
            else:
                self._cut_planes(f)
            f.weight_offset = self.packed_bytes
            self.packed_bytes += f.units * f.unit_bytes
            self.work += <double> batch * groups * kout * kin * f.all_taps * f.axis[0].count * f.axis[1].count \
                * f.axis[2].count

    cdef void *_array(self, array):
        array = np.ascontiguousarray(array)
        self.keep.append(array)
        return cnp.PyArray_DATA(array)

    cdef _choose_kind(self):
        """Which source channels the lanes of each vector meet, counted from the first lane's group on."""
        cdef Problem *p = &self.problem
        cdef Py_ssize_t vlen = p.kernels.vlen, channels = p.groups * p.kout
        p.kind, p.pitch = FASTCONV_BROADCAST, round_up(p.kin, vlen) * p.itemsize
        if p.kout % vlen == 0:
            return
        lanes = np.minimum(np.arange(round_up(channels, vlen)), channels - 1).reshape(-1, vlen) // p.kout
        index = (lanes - lanes[:, :1]) * p.kin
        p.index = <const char *> self._array(index.astype(np.int32 if p.itemsize == 4 else np.int64))
        p.elements = <const Py_ssize_t *> self._array(index.max(1).astype(np.intp) + 1)
        p.kind, p.pitch = FASTCONV_SPREAD, p.vector
        if p.vector >= SHUFFLED_BYTES and index.max() + p.kin <= vlen:
            p.kind = FASTCONV_PERMUTED

    cdef _describe(self, Phase *f, axes, kernel):
        """The axes of a phase, the missing leading ones with one tap and position."""
        cdef Axis *a
        cdef Py_ssize_t i, missing = 3 - len(axes)
        f.all_taps = 1
        taps = np.zeros(1, np.intp)
        for i in range(3):
            a = &f.axis[i]
            a.count, a.offset, a.step, a.taps, a.reach, a.stride, first, tap_step = 1, 0, 1, 1, 0, 1, 0, 1
            table = np.zeros(1, np.intp)
            if i >= missing:
                axis = axes[i - missing]
                a.count, a.offset, a.step, a.stride = axis.count, axis.start, axis.step, axis.stride
                table, tap_step, a.taps = axis.table, axis.tap_step, len(axis.taps)
                a.reach, first = (a.taps - 1) * abs(tap_step), axis.first + min(0, (a.taps - 1) * tap_step)
            a.table = (<const Py_ssize_t *> self._array(table)) + <Py_ssize_t> first
            shift = np.arange(a.taps) * tap_step
            shift -= shift.min()
            a.shift = <const Py_ssize_t *> self._array(shift)
            parts, runs, order = parts_of(shift.tolist(), a.stride, RUN_TAPS)
            a.parts, a.runs = len(parts), len(runs)
            a.part = <const Part *> self._array(np.array(parts, np.intp))
            a.run = <const Run *> self._array(np.array(runs, np.intp))
            f.all_taps *= a.taps
            if i >= missing:
                order = np.array(axis.taps, np.intp)[order if i == 2 and self.channels_last else slice(None)]
                taps = (taps[:, None] * kernel[i - missing] + order).ravel()
        f.weight_taps = <const Py_ssize_t *> self._array(taps)
        if not self.channels_last:
            self._describe_parts(f, axis)

    cdef _describe_parts(self, Phase *f, axis):
        """The parts of W as runs of the source."""
        cdef Axis *a = &f.axis[2]
        segments = []
        for i in range(a.parts):
            first = axis.first + min(0, (a.taps - 1) * axis.tap_step) + a.part[i].offset
            part = AxisSources(0, 1, a.count + a.part[i].more, (0,), axis.table, first, 1, a.stride)
            segments += [(i, *row) for row in part.segments()[0].tolist()]
        f.segments, f.segment = len(segments), <const Segment *> self._array(np.array(segments, np.intp))

    cdef _cut_pixels(self, Phase *f):
        """Units, lines that are packed and called at once, and tasks."""
        cdef Problem *p = &self.problem
        cdef const Axis *axis = &f.axis[0]
        cdef Py_ssize_t vlen = p.kernels.vlen, i
        cdef bint narrow = axis[2].count < p.kernels.grouped_outputs[0][0]
        f.vectors = 2 if p.kind == FASTCONV_BROADCAST and narrow and p.kout % (2 * vlen) == 0 else 1
        f.units = ceil_div(p.groups * p.kout, f.vectors * vlen)
        f.unit_bytes = f.all_taps * p.kin * f.vectors * p.vector
        f.columns = 0
        for i in range(axis[2].parts):
            f.columns += p.kernels.grouped_outputs[f.vectors - 1][0] + axis[2].part[i].more
        f.slot_bytes = f.columns * p.pitch * (p.kin if p.kind == FASTCONV_SPREAD else 1)
        f.slot_bytes = round_up(f.slot_bytes, CACHE_LINE)
        f.lines = max(1, min(ROWS, (LINE_BYTES // f.slot_bytes - axis[1].reach - 1) // axis[1].stride + 1))
        f.ring = axis[1].reach + 1 + (f.lines - 1) * axis[1].stride
        f.rows = even_part(axis[1].count, ROWS, 1)
        f.row_blocks = ceil_div(axis[1].count, f.rows)
        f.wide = even_part(axis[2].count, WIDE, p.kernels.grouped_outputs[f.vectors - 1][0])
        self._cut_units(f)

    cdef _cut_planes(self, Phase *f):
        """Blocks of pixels whose packed planes keep to PLANE_BYTES, and how they lie there."""
        cdef Problem *p = &self.problem
        cdef const Axis *axis = &f.axis[0]
        cdef Py_ssize_t more = most_more(&axis[1]), parts = axis[0].taps * axis[1].parts * axis[2].parts, limit
        f.vectors, f.units, f.unit_bytes = 1, p.groups, p.kout * f.all_taps * p.kin * p.itemsize
        limit = PLANE_BYTES // (p.kin * p.itemsize * parts * (more + min(4, axis[1].count)))
        f.wide = min(axis[2].count, even_part(axis[2].count, max(limit, 2 * p.kernels.nr), p.kernels.vlen))
        f.columns = f.wide + most_more(&axis[2])
        limit = PLANE_BYTES // (p.kin * p.itemsize * parts * f.columns) - more
        f.rows = even_part(axis[1].count, max(1, limit), 1)
        f.row_blocks = ceil_div(axis[1].count, f.rows)
        f.plane = parts * lines_packed(f) * f.columns
        self._place_taps(f)
        self._cut_units(f)

    cdef _place_taps(self, Phase *f):
        """Where the taps find their first pixel in a packed block."""
        cdef Axis *a
        offsets = np.zeros(1, np.intp)
        for i, step in enumerate((lines_packed(f) * f.columns * f.axis[2].parts * f.axis[1].parts, f.columns, 1)):
            a = &f.axis[i]
            shift = np.array([a.shift[t] for t in range(a.taps)], np.intp)
            if i == 0:  # every tap along D has a block of its own
                place = np.arange(a.taps) * step
            else:
                residue = (lines_packed(f) * f.columns) * (f.axis[2].parts if i == 1 else 1)
                part = np.array([next(k for k in range(a.parts) if (s - a.part[k].offset) % a.stride == 0)
                                 for s in shift])
                first = np.array([a.part[k].offset for k in part])
                place = part * residue + (shift - first) // a.stride * step
            offsets = (offsets[:, None] + place).ravel()
        f.tap_offsets = <const Py_ssize_t *> self._array(offsets.astype(np.intp) * self.problem.itemsize)

    cdef _cut_units(self, Phase *f):
        """Chunks of units: large, as long as there are tasks enough."""
        cdef Problem *p = &self.problem
        cdef const Axis *axis = &f.axis[0]
        f.wide_blocks = ceil_div(axis[2].count, f.wide)
        cdef Py_ssize_t tasks = max(1, p.batch) * axis[0].count * f.row_blocks * f.wide_blocks
        cdef double work = <double> tasks * p.groups * p.kout * p.kin * f.all_taps * f.rows * f.wide
        many = max(1, min(MANY_TASKS, <Py_ssize_t> (work / TASK_WORK)))
        f.chunk = max(1, min(f.units, WEIGHT_BYTES // f.unit_bytes, f.units * tasks // many))
        f.chunk = even_part(f.units, f.chunk, 1)
        f.chunks = ceil_div(f.units, f.chunk)

    def workspace_bytes(self, int threads):
        """Scratch memory of a call with so many threads, all together."""
        return threads * workspace(&self.problem)

    def pack(self, cnp.ndarray weight):
        """The weight, of PyTorch's shape, in the order in which the microkernel reads it."""
        cdef cnp.ndarray packed = packed_memory(self.packed_bytes)
        weight = contiguous(weight)
        self._pack(<const char *> cnp.PyArray_DATA(weight), <char *> cnp.PyArray_DATA(packed))
        return packed

    cdef int _pack(self, const char *weight, char *packed) except -1:
        cdef const Problem *p = &self.problem
        cdef const Phase *f = NULL
        cdef int i, threads = team(<double> self.packed_bytes / 4)
        cdef Py_ssize_t unit, bytes = p.kin * p.kernel_taps * 2 * p.vector
        cdef char *scratch = acquire(bytes, threads)
        for i in range(p.phases):
            f = &p.phase[i]
            if threads == 1:
                for unit in range(f.units):
                    pack_weights(p, f, weight, packed, unit, scratch)
            else:
                for unit in prange(f.units, nogil=True, num_threads=threads, schedule="static"):
                    pack_weights(p, f, weight, packed, unit, scratch + threadid() * bytes)
        release(scratch)
        return 0

    def __call__(self, cnp.ndarray source, cnp.ndarray weight, cnp.ndarray bias, cnp.ndarray destination,
                 double lower=-INFINITY, double upper=INFINITY, int activation=-1, double alpha=0,
                 cnp.ndarray packed=None):
        """destination = activation(clamp(convolution + bias, lower, upper)).

        `activation` is one of table.h, or -1 for none; `packed` saves packing the weight again.

        The arrays are of one dtype and checked by the caller; inputs that are not C-contiguous are copied.
        """
        cdef Problem *p = &self.problem
        cdef Call call
        cdef char *own = NULL
        cdef char *scratch = NULL
        cdef int threads = team(self.work)
        source, weight = contiguous(source), contiguous(weight)
        if bias is not None:
            bias = contiguous(bias)
        call.source = <const char *> cnp.PyArray_DATA(source)
        call.end = call.source + cnp.PyArray_NBYTES(source)
        call.destination = <char *> cnp.PyArray_DATA(destination)
        call.shift = <const char *> cnp.PyArray_DATA(bias) if bias is not None else NULL
        call.lower, call.upper, call.activation, call.alpha = lower, upper, activation, alpha
        try:
            if packed is None:
                own = acquire(self.packed_bytes + 64, 1)
                self._pack(<const char *> cnp.PyArray_DATA(weight), own)
                call.weight = own
            else:
                call.weight = <const char *> cnp.PyArray_DATA(packed)
            scratch = acquire(workspace(p), threads)
            with nogil:
                if threads == 1:
                    run_alone(p, &call, scratch)
                else:
                    run(p, &call, scratch, threads)
        finally:
            release(scratch)
            release(own)


cdef inline void pack_weights(const Problem *p, const Phase *f, const char *weight, char *packed, Py_ssize_t unit,
                              char *scratch) noexcept nogil:
    if p.channels_last:
        pack_unit(p, f, weight, packed, unit, scratch)
    else:
        pack_group(p, f, weight, packed, unit)


cdef inline Py_ssize_t tasks_of(const Problem *p, const Phase *f) noexcept nogil:
    return f.chunks * p.batch * f.axis[0].count * f.row_blocks * f.wide_blocks


cdef Py_ssize_t workspace(const Problem *p) noexcept nogil:
    """Bytes a thread."""
    cdef Py_ssize_t i, most = 0
    cdef Scratch s
    cdef Planes planes
    for i in range(p.phases):
        if p.channels_last:
            most = max(most, lay_out(p, &p.phase[i], NULL, &s))
        else:
            most = max(most, lay_out_planes(p, &p.phase[i], NULL, &planes))
    return most


cdef inline void run_task(const Problem *p, const Phase *f, const Call *call, Py_ssize_t index,
                          char *own) noexcept nogil:
    if p.channels_last:
        pixels_task(p, f, call, index, own)
    else:
        planes_task(p, f, call, index, own)


cdef void run_alone(const Problem *p, const Call *call, char *own) noexcept nogil:
    cdef Py_ssize_t i, task
    for i in range(p.phases):
        for task in range(tasks_of(p, &p.phase[i])):
            run_task(p, &p.phase[i], call, task, own)


cdef void run(const Problem *p, const Call *call, char *scratch, int threads) noexcept nogil:
    """By a team, whose workers round as their caller does."""
    cdef fenv_t environment
    cdef const Phase *f = NULL
    cdef Py_ssize_t i = 0, task, bytes = workspace(p)
    fegetenv(&environment)
    with parallel(num_threads=threads):
        fesetenv(&environment)
        for i in range(p.phases):
            f = &p.phase[i]
            for task in prange(tasks_of(p, f), schedule="dynamic"):
                run_task(p, f, call, task, scratch + threadid() * bytes)
