"""Depthwise convolution of planes: channels_first.

Lanes are columns, lines run down the rows of a plane, so that a row once loaded serves all taps above each other. A
block of rows is copied to the workspace with its padding to the left and right and, for a stride, the columns of each
residue side by side; rows of padding are left out by the bounds of the runs along H. Each weight is spread over a
vector. Where there are few rows (1-D) lines run along them instead, from vector to vector.
"""

from libc.string cimport memset

from fastconv.kernels.core cimport (
    fastconv_depthwise,
    fastconv_depthwise_weight,
    fastconv_segment,
    fastconv_tap_run,
    round_up,
)
from fastconv.kernels.depthwise_problem cimport Axis, Call, Gradient, Phase, Problem, Run, Stream, clip

cdef enum:
    FEW_ROWS = 2                # up to so many rows lines run along them

cdef extern from * nogil:
    """
    #define EVERYWHERE (PTRDIFF_MAX / 4)
    """
    const Py_ssize_t EVERYWHERE

cdef struct Block:
    Py_ssize_t start[3]         # destination slices start[0] .. end[0], positions of every phase along H and W
    Py_ssize_t end[3]
    Py_ssize_t row, rows        # source positions along H that are packed
    Py_ssize_t columns          # packed columns of a plane
    Py_ssize_t pitch, region    # bytes of a packed row; of all rows of one slice and stream
    Py_ssize_t slots            # source slices that are packed
    Py_ssize_t *slot            # [source slices]: where, or -1
    Py_ssize_t *slice           # [slots]

cdef struct Sweep:              # one call of the microkernel, but for the addresses that change with the channel
    fastconv_depthwise lines
    Py_ssize_t ends[2]
    Py_ssize_t d, x, y          # destination slice; bytes into the packed planes, into the plane or the scratch
    bint fills                  # the whole slice, in the plane, where some positions meet no tap

cdef struct WeightSweep:
    fastconv_depthwise_weight lines
    Py_ssize_t x, y
    bint shift

cdef struct Workspace:          # of a thread
    Block block
    char *packed
    char *weight                # [ways][taps] vectors; in backward_weight their sums
    char *shift                 # [ways] vectors
    char *scratch               # destination rows of one slice, a W phase after the other
    fastconv_tap_run *runs
    fastconv_segment *segments
    Sweep *sweeps
    WeightSweep *weight_sweeps


cdef bint thin(const Problem *p) noexcept nogil:
    """Whether lines run along the rows."""
    return p.axis[1].longest <= FEW_ROWS and p.axis[2].longest > p.kernels.vlen


cdef inline bint scratched(const Problem *p) noexcept nogil:
    """Whether destination columns are interleaved from phases."""
    return p.axis[2].step > 1


cdef inline Py_ssize_t scratch_pitch(const Problem *p) noexcept nogil:
    """Elements of a scratch row: whole vectors, so that stores need no mask."""
    return round_up(p.block[2], p.kernels.vlen)


cdef Py_ssize_t segment_count(const Problem *p) noexcept nogil:
    """Segments of the largest block."""
    cdef Py_ssize_t slice = p.block[0] * p.axis[0].kernel * p.axis[2].kernel * p.ins
    return slice * (FEW_ROWS * p.axis[1].kernel if thin(p) else p.axis[1].phases)


cdef char *carve(char **at, Py_ssize_t bytes) noexcept nogil:
    cdef char *piece = at[0]
    at[0] += round_up(bytes, 64)
    return piece


cdef Py_ssize_t lay_out(const Problem *p, char *memory, bint gradient, Workspace *w) noexcept nogil:
    """Cut a thread's memory into its pieces; returns how much that is."""
    cdef char *at = memory
    cdef Py_ssize_t pitch = (p.block[2] + p.axis[2].extent) * p.itemsize
    cdef Py_ssize_t calls = p.block[0] * (p.axis[1].phases * p.axis[2].phases * (2 * FEW_ROWS if thin(p) else 1) + 1)
    w.packed = carve(&at, p.slots * p.ins * p.axis[2].streams * p.packed_rows * pitch + 2 * p.vector)
    w.block.slot = <Py_ssize_t *> carve(&at, p.axis[0].source_size * sizeof(Py_ssize_t))
    w.block.slice = <Py_ssize_t *> carve(&at, p.slots * sizeof(Py_ssize_t))
    w.runs = <fastconv_tap_run *> carve(&at, (p.axis[1].runs + 1) * sizeof(fastconv_tap_run))
    w.weight = carve(&at, p.ways * (p.taps + 1) * p.vector)
    w.shift = w.weight + p.ways * p.taps * p.vector
    w.scratch = carve(&at, p.axis[2].phases * p.block[1] * p.axis[1].phases * scratch_pitch(p) * p.itemsize)
    w.segments = <fastconv_segment *> carve(&at, p.segments * sizeof(fastconv_segment))
    if gradient:
        w.weight_sweeps = <WeightSweep *> carve(&at, calls * p.axis[1].runs * sizeof(WeightSweep))
    else:
        w.sweeps = <Sweep *> carve(&at, calls * sizeof(Sweep))
    return at - memory


cdef Py_ssize_t planes_workspace(const Problem *p, bint gradient) noexcept nogil:
    """Bytes a thread."""
    cdef Workspace w
    return lay_out(p, NULL, gradient, &w)


# ---------------------------------------------------------------------------------------------- blocks and their copies

cdef void find_rows(const Problem *p, Block *b) noexcept nogil:
    """The source positions along H that the rows of a block meet."""
    cdef const Axis *height = &p.axis[1]
    cdef Py_ssize_t low = EVERYWHERE, high = -EVERYWHERE, i, k, count
    cdef const Run *run
    for i in range(height.phases):
        count = min(b.end[1], height.phase[i].count)
        for k in range(height.phase[i].runs if count > b.start[1] else 0):
            run = &height.phase[i].run[k]
            low = min(low, run.origin + b.start[1] * height.stride)
            high = max(high, run.origin + (count - 1 + (run.taps - 1) * height.dilation) * height.stride + 1)
    if height.wrapped == NULL:
        low, high = max(low, 0), min(high, height.source_size)
    b.row = low if high > low else 0
    b.rows = max(0, high - low)


cdef Py_ssize_t packed_rows(const Problem *p, Py_ssize_t first, Py_ssize_t end) noexcept nogil:
    """Source rows that the rows first .. end of every phase meet."""
    cdef Block b
    b.start[1], b.end[1] = first, end
    find_rows(p, &b)
    return b.rows


cdef void locate(const Problem *p, Py_ssize_t index, Block *b) noexcept nogil:
    """The `index`-th block: its destination, its source rows and slices, the shape of its packed copy."""
    cdef const Axis *depth = &p.axis[0]
    cdef Py_ssize_t i, e
    for i in range(2, -1, -1):
        b.start[i] = index % p.cuts[i] * p.block[i]
        b.end[i] = min(b.start[i] + p.block[i], depth.size if i == 0 else p.axis[i].longest)
        index //= p.cuts[i]
    find_rows(p, b)
    b.columns = b.end[2] - b.start[2] + p.axis[2].extent
    b.pitch = b.columns * p.itemsize
    b.region = b.rows * b.pitch
    b.slots = 0
    for i in range(depth.source_size):
        b.slot[i] = -1
    for e in range(depth.ends[b.start[0]], depth.ends[b.end[0]]):
        if b.slot[depth.source[e]] < 0:
            b.slot[depth.source[e]] = b.slots
            b.slice[b.slots] = depth.source[e]
            b.slots += 1


cdef void clear_padding(const Problem *p, const Block *b, char *packed) noexcept nogil:
    """Zeros where the columns of packed planes lie in padding; packing leaves them alone."""
    cdef const Axis *width = &p.axis[2]
    cdef Py_ssize_t i, first, end, planes = b.slots * p.ins * width.streams
    cdef char *row = packed
    memset(packed + planes * b.region, 0, 2 * p.vector)
    if width.wrapped != NULL:
        return
    for i in range(planes):
        first = clip(width.stream[i % width.streams].first - b.start[2], 0, b.columns)
        end = clip(width.stream[i % width.streams].end - b.start[2], first, b.columns)
        for _ in range(b.rows):
            memset(row, 0, first * p.itemsize)
            memset(row + end * p.itemsize, 0, (b.columns - end) * p.itemsize)
            row += b.pitch


cdef void pack_channel(const Problem *p, const Block *b, const char *source, char *packed) noexcept nogil:
    """packed[slice][part][stream][row][column] of the channels whose first plane is `source`."""
    cdef Py_ssize_t s, j, t
    cdef const char *plane
    for s in range(b.slots):
        for j in range(p.ins):
            plane = source + (j * p.source_volume + b.slice[s] * p.source_plane) * p.itemsize
            for t in range(p.axis[2].streams):
                pack_plane(p, b, &p.axis[2].stream[t], plane, packed)
                packed += b.region


cdef void pack_plane(const Problem *p, const Block *b, const Stream *stream, const char *plane,
                     char *packed) noexcept nogil:
    cdef const Axis *height = &p.axis[1]
    cdef const Axis *width = &p.axis[2]
    cdef Py_ssize_t isz = p.itemsize, size = width.source_size, last = min(b.columns, stream.length - b.start[2]), r, c
    cdef Py_ssize_t first = clip(stream.first - b.start[2], 0, last), end = clip(stream.end - b.start[2], first, last)
    cdef Py_ssize_t inner = (stream.origin + (b.start[2] + first) * width.stride) * isz
    cdef const char *row
    if width.wrapped == NULL:
        p.kernels.copy_matrix(packed + first * isz, b.columns, plane + b.row * size * isz + inner, size, width.stride,
                              b.rows, end - first)
        return
    for r in range(b.rows):
        row = plane + height.wrapped[b.row + r - height.lowest] * size * isz
        p.kernels.copy_matrix(packed + first * isz, 0, row + inner, 0, width.stride, 1, end - first)
        for c in range(last):
            if c < first or c >= end:
                p.kernels.copy_matrix(packed + c * isz, 0, row + stream.table[b.start[2] + c] * isz, 0, 1, 1, 1)
        packed += b.pitch


cdef fastconv_tap_run single_tap() noexcept nogil:
    """A run of one tap whose positions are all where x_step says."""
    cdef fastconv_tap_run run
    run.x, run.w, run.taps, run.first, run.end, run.at = 0, 0, 1, -EVERYWHERE, EVERYWHERE, NULL
    return run


cdef void place_runs(const Problem *p, const Block *b, const Phase *phase, fastconv_tap_run *runs) noexcept nogil:
    """The runs along H as they lie in a packed plane; their positions count from the block's first row."""
    cdef const Axis *height = &p.axis[1]
    cdef Py_ssize_t k
    cdef const Run *run
    for k in range(phase.runs):
        run = &phase.run[k]
        runs[k].x = (run.origin + b.start[1] * height.stride) * b.pitch
        runs[k].w, runs[k].taps = run.tap * p.axis[2].kernel * p.vector, run.taps
        runs[k].first, runs[k].end, runs[k].at = run.first - b.start[1], run.end - b.start[1], NULL
        if height.wrapped != NULL:  # the rows of padding are packed, too
            runs[k].first, runs[k].end = -EVERYWHERE, EVERYWHERE


cdef fastconv_segment *add_segments(const Problem *p, const Block *b, Py_ssize_t d, const Phase *phase, Py_ssize_t row,
                                    Py_ssize_t tap, fastconv_segment *segments) noexcept nogil:
    """Every tap along D, every part and every tap along W, from packed row `row` and the H tap `tap` on."""
    cdef const Axis *depth = &p.axis[0]
    cdef const Axis *width = &p.axis[2]
    cdef Py_ssize_t e, j, k, u, at
    cdef const Run *run
    for e in range(depth.ends[d], depth.ends[d + 1]):
        for j in range(p.ins):
            for k in range(phase.runs):
                run = &phase.run[k]
                at = ((b.slot[depth.source[e]] * p.ins + j) * width.streams + run.stream) * b.region + row * b.pitch
                for u in range(run.taps):
                    segments.x = at + (run.column + u * width.dilation) * p.itemsize
                    segments.w = (j * p.axis[0].kernel + depth.tap[e]) * p.axis[1].kernel + tap
                    segments.w = (segments.w * width.kernel + run.tap + u * width.tap_step) * p.vector
                    segments += 1
    return segments


cdef fastconv_segment *row_segments(const Problem *p, const Block *b, Py_ssize_t d, Py_ssize_t h, Py_ssize_t v,
                                    Py_ssize_t q, fastconv_segment *segments) noexcept nogil:
    """All taps of row q of a phase, each a segment."""
    cdef const Axis *height = &p.axis[1]
    cdef const Run *run
    cdef Py_ssize_t k, u, source
    for k in range(height.phase[h].runs):
        run = &height.phase[h].run[k]
        for u in range(run.taps):
            source = run.table[q + u * height.dilation]
            if height.wrapped != NULL:
                source = run.origin + (q + u * height.dilation) * height.stride
            elif source < 0:
                continue
            segments = add_segments(p, b, d, &p.axis[2].phase[v], source - b.row, run.tap + u * height.tap_step,
                                    segments)
    return segments


cdef Py_ssize_t plane_offset(const Problem *p, const Block *b, Py_ssize_t d, Py_ssize_t h, Py_ssize_t v,
                             Py_ssize_t row) noexcept nogil:
    """Bytes to the first column of the `row`-th row of a block's phase, in the destination or in the scratch."""
    cdef const Axis *height = &p.axis[1]
    if scratched(p):
        row = (v * (b.end[1] - b.start[1]) + row) * height.phases + h
        return row * scratch_pitch(p) * p.itemsize
    row = d * height.size + height.phase[h].start + (b.start[1] + row) * height.step
    return (row * p.axis[2].size + b.start[2]) * p.itemsize


# ---------------------------------------------------------------------------------------------- forward, backward_input

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
    cdef Sweep *sweep = &w.sweeps[count[0]]
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
    cdef Sweep *sweep = &w.sweeps[count[0]]
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
            sweep = &w.sweeps[count[0]]
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
    lay_out(p, memory, False, &w)
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


cdef void activate(const Problem *p, const Call *call, const Block *b, char *plane) noexcept nogil:
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
            p.kernels.activate(call.activation, call.alpha, at, at, columns)
            at += width.size * p.itemsize


cdef void sum_channel(const Problem *p, const Call *call, Workspace *w, Py_ssize_t count, char *plane) noexcept nogil:
    cdef Py_ssize_t i, j
    cdef fastconv_depthwise *a
    for j in range(p.outs):
        for i in range(count):
            a = &w.sweeps[i].lines
            a.x, a.w = w.packed + w.sweeps[i].x, w.weight + j * p.taps * p.vector
            a.shift = w.shift + j * p.vector if call.shift != NULL else NULL
            a.y = (w.scratch if scratched(p) and not w.sweeps[i].fills else plane) + w.sweeps[i].y
            a.lower, a.upper = call.lower, call.upper
            p.kernels.depthwise(a)
            if scratched(p) and (i + 1 == count or w.sweeps[i + 1].d != w.sweeps[i].d):
                unload(p, w, w.sweeps[i].d, plane)
        if call.activation >= 0:
            activate(p, call, &w.block, plane)
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


# ---------------------------------------------------------------------------------------------- backward_weight

cdef void planes_weight_task(const Problem *p, const Gradient *g, Py_ssize_t task, char *memory) noexcept nogil:
    """A part of all blocks of all images, for one channel."""
    cdef Workspace w
    cdef Py_ssize_t part = task % p.parts, channel = task // p.parts, block = -1, count = 0
    cdef Py_ssize_t items = p.batch * p.cuts[0] * p.cuts[1] * p.cuts[2], item = part * items // p.parts
    cdef Py_ssize_t end = (part + 1) * items // p.parts, at
    lay_out(p, memory, True, &w)
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
                w.weight_sweeps[count - 1].shift = k == 0
    return count


cdef void weight_sweep(const Problem *p, Workspace *w, Py_ssize_t d, Py_ssize_t row, const fastconv_segment *segments,
                       const fastconv_segment *end, const fastconv_tap_run *run, Py_ssize_t lanes, Py_ssize_t outputs,
                       Py_ssize_t vectors, Py_ssize_t *count) noexcept nogil:
    """A line of `outputs`: down the rows, or from vector to vector after the first `vectors` of a row."""
    cdef const Block *b = &w.block
    cdef WeightSweep *sweep = &w.weight_sweeps[count[0]]
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
    cdef fastconv_depthwise_weight *a
    for j in range(p.ways):
        for i in range(count):
            a = &w.weight_sweeps[i].lines
            a.x, a.y = w.packed + w.weight_sweeps[i].x, plane + w.weight_sweeps[i].y
            a.w = w.weight + j * p.taps * p.vector if g.weight != NULL else NULL
            a.shift = w.shift + j * p.vector if g.shift != NULL and w.weight_sweeps[i].shift else NULL
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
