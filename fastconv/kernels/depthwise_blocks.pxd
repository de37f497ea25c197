"""Blocks of the rows of planes, and a thread's memory for one."""

from fastconv.kernels.core cimport CACHE_LINE, ceil_div, fastconv_segment, fastconv_tap_run, round_up
from fastconv.kernels.depthwise_problem cimport Phase, Problem

cdef enum:
    FEW_ROWS = 2                # up to so many rows lines run along them
    LONG_ROW = 1024             # bytes, from which on packed rows are apart by an odd number of cache lines

cdef struct Block:
    Py_ssize_t start[3]         # destination slices start[0] .. end[0], positions of every phase along H and W
    Py_ssize_t end[3]
    Py_ssize_t row, rows        # source positions along H that are packed
    Py_ssize_t columns          # packed columns of a plane
    Py_ssize_t pitch, region    # bytes of a packed row; of all rows of one slice and stream
    Py_ssize_t slots            # source slices that are packed
    Py_ssize_t *slot            # [source slices]: where, or -1
    Py_ssize_t *slice           # [slots]

cdef struct Workspace:          # of a thread
    Block block
    char *packed
    char *weight                # [ways][taps] vectors; in backward_weight their sums
    char *shift                 # [ways] vectors
    char *scratch               # destination rows of one slice, a W phase after the other
    fastconv_tap_run *runs
    fastconv_segment *segments
    char *sweeps                # calls of the microkernel, but for the addresses that change with the channel


cdef inline bint thin(const Problem *p) noexcept nogil:
    """Whether lines run along the rows."""
    return p.axis[1].longest <= FEW_ROWS and p.axis[2].longest > p.kernels.vlen


cdef inline bint scratched(const Problem *p) noexcept nogil:
    """Whether destination columns are interleaved from phases."""
    return p.axis[2].step > 1


cdef inline Py_ssize_t packed_pitch(const Problem *p, Py_ssize_t columns) noexcept nogil:
    """Bytes from one packed row to the next, which share no cache set where they are long."""
    cdef Py_ssize_t bytes = columns * p.itemsize
    return bytes if bytes < LONG_ROW else (ceil_div(bytes, CACHE_LINE) | 1) * CACHE_LINE


cdef inline Py_ssize_t scratch_pitch(const Problem *p) noexcept nogil:
    """Elements of a scratch row: whole vectors, so that stores need no mask."""
    return round_up(p.block[2], p.kernels.vlen)


cdef Py_ssize_t segment_count(const Problem *p) noexcept nogil
cdef Py_ssize_t most_sweeps(const Problem *p) noexcept nogil
cdef Py_ssize_t lay_out(const Problem *p, char *memory, Py_ssize_t sweep_bytes, Workspace *w) noexcept nogil
cdef Py_ssize_t packed_rows(const Problem *p, Py_ssize_t first, Py_ssize_t end) noexcept nogil
cdef void locate(const Problem *p, Py_ssize_t index, Block *b) noexcept nogil
cdef void clear_padding(const Problem *p, const Block *b, char *packed) noexcept nogil
cdef void pack_channel(const Problem *p, const Block *b, const char *source, char *packed) noexcept nogil
cdef fastconv_tap_run single_tap() noexcept nogil
cdef void place_runs(const Problem *p, const Block *b, const Phase *phase, fastconv_tap_run *runs) noexcept nogil
cdef fastconv_segment *add_segments(const Problem *p, const Block *b, Py_ssize_t d, const Phase *phase, Py_ssize_t row,
                                    Py_ssize_t tap, fastconv_segment *segments) noexcept nogil
cdef fastconv_segment *row_segments(const Problem *p, const Block *b, Py_ssize_t d, Py_ssize_t h, Py_ssize_t v,
                                    Py_ssize_t q, fastconv_segment *segments) noexcept nogil
cdef Py_ssize_t plane_offset(const Problem *p, const Block *b, Py_ssize_t d, Py_ssize_t h, Py_ssize_t v,
                             Py_ssize_t row) noexcept nogil
