"""Blocks of rows of channels_first planes: which they are, packed for the microkernel, and the taps that read them.

A block is copied to the workspace with its padding to the left and right and, for a stride, the columns of each residue
side by side; rows of padding are left out by the bounds of the runs along H.
"""

from libc.string cimport memset

from fastconv.kernels.core cimport fastconv_segment, fastconv_tap_run, round_up
from fastconv.kernels.depthwise_problem cimport Axis, Phase, Problem, Run, Stream, clip

cdef extern from * nogil:
    """
    #define EVERYWHERE (PTRDIFF_MAX / 4)
    """
    const Py_ssize_t EVERYWHERE


cdef Py_ssize_t segment_count(const Problem *p) noexcept nogil:
    """Segments of the largest block."""
    cdef Py_ssize_t slice = p.block[0] * p.axis[0].kernel * p.axis[2].kernel * p.ins
    return slice * (FEW_ROWS * p.axis[1].kernel if thin(p) else p.axis[1].phases)


cdef Py_ssize_t most_sweeps(const Problem *p) noexcept nogil:
    """Calls of the microkernel for a block, but for the runs that backward_weight takes one by one."""
    return p.block[0] * (p.axis[1].phases * p.axis[2].phases * (2 * FEW_ROWS if thin(p) else 1) + 1)


cdef char *carve(char **at, Py_ssize_t bytes) noexcept nogil:
    cdef char *piece = at[0]
    at[0] += round_up(bytes, 64)
    return piece


cdef Py_ssize_t lay_out(const Problem *p, char *memory, Py_ssize_t sweep_bytes, Workspace *w) noexcept nogil:
    """Cut a thread's memory into its pieces; returns how much that is."""
    cdef char *at = memory
    cdef Py_ssize_t pitch = packed_pitch(p, p.block[2] + p.axis[2].extent)
    w.packed = carve(&at, p.slots * p.ins * p.axis[2].streams * p.packed_rows * pitch + 2 * p.vector)
    w.block.slot = <Py_ssize_t *> carve(&at, p.axis[0].source_size * sizeof(Py_ssize_t))
    w.block.slice = <Py_ssize_t *> carve(&at, p.slots * sizeof(Py_ssize_t))
    w.runs = <fastconv_tap_run *> carve(&at, (p.axis[1].runs + 1) * sizeof(fastconv_tap_run))
    w.weight = carve(&at, p.ways * (p.taps + 1) * p.vector)
    w.shift = w.weight + p.ways * p.taps * p.vector
    w.scratch = carve(&at, p.axis[2].phases * p.block[1] * p.axis[1].phases * scratch_pitch(p) * p.itemsize)
    w.segments = <fastconv_segment *> carve(&at, p.segments * sizeof(fastconv_segment))
    w.sweeps = carve(&at, sweep_bytes)
    return at - memory


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
    b.pitch = packed_pitch(p, b.columns)
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
        p.kernels.copy_matrix(packed + first * isz, b.pitch // isz, plane + b.row * size * isz + inner, size,
                              width.stride, b.rows, end - first)
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
