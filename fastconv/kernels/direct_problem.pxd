"""What the macro-kernels of direct convolution (direct_planes, direct_pixels) know of a call."""

from libc.math cimport INFINITY

from fastconv.kernels.core cimport fastconv_epilogue, fastconv_gemm_tile, fastconv_kernels
from fastconv.kernels.plan cimport Call

cdef struct Segment:           # destination positions start .. stop - 1 along W read source + i * step (or padding)
    Py_ssize_t start, stop, source, step

cdef struct PartSegment:       # the same of a part of W
    Py_ssize_t part, start, stop, source, step

cdef struct Part:              # positions offset, offset + stride, ... of an axis, `more` of them than outputs
    Py_ssize_t offset, more

cdef struct Lines:             # how a block of channels_first is packed line by line, see direct_blocks
    Py_ssize_t wide, wide_blocks  # outputs of a line in a block
    Py_ssize_t high, high_blocks  # lines
    Py_ssize_t pitch           # elements from line to line
    Py_ssize_t part            # elements of a part
    Py_ssize_t h_parts, w_parts
    Py_ssize_t h_low           # the lowest tap's position against the first tap's
    Py_ssize_t more            # lines that a part has more than there are outputs, at most
    const Part *h_part
    const Part *w_part
    Py_ssize_t segments
    const PartSegment *segment

cdef struct Phase:
    Py_ssize_t count[3]        # destination positions of the phase along D, H, W
    Py_ssize_t offset[3]       # where they start in the destination and how far apart they are
    Py_ssize_t step[3]
    Py_ssize_t taps[3]
    const Py_ssize_t *table[3]  # source position or -1 of tap t and destination position i at t * tap_step + i * stride
    Py_ssize_t tap_step[3]
    Py_ssize_t stride[3]
    const Segment *segments    # [taps of W] runs of W's table, first_segment[t] .. first_segment[t + 1]
    const Py_ssize_t *first_segment
    const Py_ssize_t *weight_taps  # [taps]: element offset of each tap in the weight's kernel
    Py_ssize_t all_taps, pixels, kc
    Py_ssize_t weight_offset   # bytes into the packed weights
    Py_ssize_t blocks, slices  # blocks a slice; a slice is an image of a group or, if blocks run across images, a group
    Py_ssize_t block           # rows (channels_last) or columns (channels_first, packed as columns) a block
    bint pointwise             # every destination pixel reads the one of the same index
    # of channels_first alone:
    bint as_lines              # blocks are packed line by line, else column by column
    Py_ssize_t chunk           # slices a task, at one place
    Lines lines
    bint apart                 # taps are packed and summed one by one: another phase, a zone, has but some of them
    bint scratch               # sums are copied out at the end
    bint runs_on               # tiles of lines run on across them, with some junk unless pitch is wide
    Py_ssize_t scratch_columns
    Py_ssize_t rows            # destination channels between two copies
    Py_ssize_t tile_rows       # and of a register tile
    Py_ssize_t plane           # elements of a channel in a panel
    Py_ssize_t panels, panel_bytes  # of a block and a block of channels
    Py_ssize_t most_runs       # that fill a channel of a panel
    const Py_ssize_t *b_offsets  # [kc][taps]: bytes into a panel

cdef struct Cut:               # how a phase is shared out among so many threads
    Phase phase                # in blocks of this cut
    int threads
    Py_ssize_t part, parts     # destination channels a task
    Py_ssize_t stretch         # blocks whose panels all threads pack together before they share the rows out; or 0
    Py_ssize_t pieces          # of the channels of a panel of columns that is packed so
    Py_ssize_t workspace, shared  # bytes a thread, bytes a team

cdef struct Problem:
    Py_ssize_t batch, groups, kin, kout, kernel_taps, itemsize
    Py_ssize_t source_size[3]
    Py_ssize_t destination_size[3]
    Py_ssize_t source_plane, destination_plane
    bint streams               # finished tiles go around the caches, none of which holds the destination
    bint turned                # channels_last, turned to lines of planes and back, see fastconv.choice.turned
    int phases
    Phase *phase
    int cut_threads            # the team that phases have been cut for, or 0 before
    const Cut *cut
    const fastconv_kernels *kernels

cdef struct Position:          # a destination pixel of a phase
    Py_ssize_t n, d, h, w


cdef inline Py_ssize_t source_of(const Phase *f, int axis, Py_ssize_t tap, Py_ssize_t i) noexcept nogil:
    """Where a tap finds its source for the i-th destination position of an axis, or -1 for padding."""
    return f.table[axis][tap * f.tap_step[axis] + i * f.stride[axis]]


cdef inline void activate_tile(const Problem *p, const Call *call, const fastconv_gemm_tile *t) noexcept nogil:
    cdef int i
    for i in range(t.rows):
        p.kernels.activate(call.activation, call.alpha, t.c[i] + t.c_offset, t.c[i] + t.c_offset, t.columns)


cdef inline fastconv_epilogue epilogue_of(const Call *call, bint last, bint clamps) noexcept nogil:
    """That of a block of channels: bias and clamp come with the last. The residual comes with the first, since it may
    lie where the partial sums will."""
    cdef fastconv_epilogue e = call.epilogue
    if not last:
        e.scale, e.shift = NULL, NULL
    if not clamps:
        e.lower, e.upper = -INFINITY, INFINITY
    return e


cdef inline void point_residual(const Call *call, char *const *c, int rows, const char **residual) noexcept nogil:
    """The rows of the residual that go to a tile's rows of the destination."""
    cdef int i
    for i in range(rows):
        residual[i] = call.residual + (c[i] - call.destination)


cdef inline Position position_of(const Phase *f, Py_ssize_t q) noexcept nogil:
    cdef Position at
    at.n, q = q // f.pixels, q % f.pixels
    at.w, q = q % f.count[2], q // f.count[2]
    at.d, at.h = q // f.count[1], q % f.count[1]
    return at


cdef inline void next_line(const Phase *f, Position *at) noexcept nogil:
    at.w = 0
    at.h += 1
    if at.h == f.count[1]:
        at.h = 0
        at.d += 1
        if at.d == f.count[0]:
            at.d = 0
            at.n += 1


cdef inline const char *weight_group(const Problem *p, const char *weight, Py_ssize_t group) noexcept nogil:
    return weight + group * p.kin * p.kout * p.kernel_taps * p.itemsize
