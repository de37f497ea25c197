"""What the macro-kernels of Winograd convolution (winograd*.pyx) know of a call."""

from libc.math cimport INFINITY
from libc.string cimport memset

from fastconv.kernels.core cimport (
    FASTCONV_MAX_ROWS,
    ceil_div,
    fastconv_epilogue,
    fastconv_gemm_tile,
    fastconv_kernels,
    kernels,
    round_up,
)
from fastconv.kernels.plan cimport Call

cdef enum:
    POINTS = 6                    # along an axis, at most
    MOST_PARTS = 3                # of an input line of channels_first, see table.h
    IN_VECTORS = 10               # and of all its parts
    MOST_VALUES = 216
    MOST_LANES = 16               # no ISA has longer vectors
    LINE = 64                     # bytes between the ends of points, so that they do not meet in one set of L1
    CHAIN = 128                   # most channels summed in one chain, see sum_chains
    CHAIN_SIX = 16                # in 3-D with 6 points along the first axis
    CHAIN_FOUR = 32               # and with 4
    MOST_SUMS = 8 * 256           # bytes of a register tile: FASTCONV_MAX_ROWS rows of 4 vectors

cdef struct TileAxis:             # one tile along an axis
    Py_ssize_t input              # its first input in the axis's table
    Py_ssize_t output             # its first destination position
    Py_ssize_t outputs            # how many of its outputs there are
    Py_ssize_t more               # tiles that follow it on the same sub-grid

cdef struct Axis:                 # a missing leading axis has one tile of one output
    Py_ssize_t step               # between destination positions of a tile
    Py_ssize_t dilation           # between the inputs of a tile in a component's table
    Py_ssize_t source_step        # and in x
    Py_ssize_t tiles
    int outputs, points           # points: 6, or 5 along both of two axes, or 4 along the first of three
    const TileAxis *tile

cdef struct Component:            # what meets the same ones of every `stride` sources along each axis
    const Py_ssize_t *table[3]    # source positions, -1 for padding
    const Py_ssize_t *weight_taps  # [taps]: element offset of each tap in the weight's kernel, in the input's order
    bint shorter[3]               # whether its last tap along the axis is none (-1): the last points are 0

cdef struct Phase:
    Axis axis[3]
    int taps[3]
    int points                    # of a tile
    int components                # channels of the points and of the transformed weight are kin of each
    const Component *component
    Py_ssize_t chain, part        # channels summed in one chain, and in chains that are added up by themselves
    Py_ssize_t tiles              # of one image
    Py_ssize_t weight_offset      # bytes into the transformed weights

cdef struct Problem:
    int axes
    bint channels_last, backward
    Py_ssize_t batch, groups, kin, kout, kernel_taps, itemsize
    Py_ssize_t source_size[3]
    Py_ssize_t destination_size[3]
    Py_ssize_t source_plane, destination_plane
    int phases
    Phase *phase
    const fastconv_kernels *kernels

cdef struct Cut:                  # how the tiles of a group are cut into batches
    Py_ssize_t tiles, batches     # tiles a batch
    bint together                 # whether a team shares each batch
    Py_ssize_t channels           # a unit of work of its transforms in channels_first
    Py_ssize_t stride             # bytes between points
    Py_ssize_t buffers, own       # bytes of points and sums, and of lists a thread

cdef struct Batch:
    Py_ssize_t group, first, tiles
    char *points
    char *sums

cdef struct Tile:
    Py_ssize_t n, d, h, w


cdef int place_phase(Phase *f, list keep, axes, kernel, points) except -1


cdef inline Tile tile_at(const Phase *f, Py_ssize_t q) noexcept nogil:
    cdef Tile at
    at.n, q = q // f.tiles, q % f.tiles
    at.w, q = q % f.axis[2].tiles, q // f.axis[2].tiles
    at.d, at.h = q // f.axis[1].tiles, q % f.axis[1].tiles
    return at


cdef inline Py_ssize_t source_of(const Phase *f, const Component *component, int axis, Py_ssize_t tile,
                                 int i) noexcept nogil:
    """Where a tile's i-th input is read, -1 for padding."""
    cdef const Axis *a = &f.axis[axis]
    return component.table[axis][a.tile[tile].input + i * a.dilation]


cdef inline bint has_point(const Phase *f, const Component *component, Py_ssize_t point) noexcept nogil:
    """Whether a component's weight is not 0 there."""
    cdef int i, points
    for i in range(2, -1, -1):
        points = f.axis[i].points
        if component.shorter[i] and point % points == points - 1:
            return False
        point //= points
    return True


cdef inline Py_ssize_t destination_line(const Problem *p, const Phase *f, const Tile *at, int d, int h) noexcept nogil:
    """Index of the first pixel of output line (d, h) of a tile, images one plane apart; -1 if there is none."""
    cdef const TileAxis *tile_d = &f.axis[0].tile[at.d]
    cdef const TileAxis *tile_h = &f.axis[1].tile[at.h]
    if d >= tile_d.outputs or h >= tile_h.outputs:
        return -1
    cdef Py_ssize_t row = (tile_d.output + d * f.axis[0].step) * p.destination_size[1]
    row += tile_h.output + h * f.axis[1].step
    return at.n * p.destination_plane + row * p.destination_size[2]


cdef inline Py_ssize_t weight_stride(const Problem *p, const Phase *f) noexcept nogil:
    """Bytes between the points of a group's transformed weight."""
    cdef Py_ssize_t nr = p.kernels.nr, rows = round_up(p.kout, nr) if p.channels_last else p.kout
    return rows * f.components * p.kin * p.itemsize + LINE


cdef inline const char *weight_point(const Problem *p, const Phase *f, const Call *call, Py_ssize_t group,
                                     Py_ssize_t point) noexcept nogil:
    return call.weight + f.weight_offset + (group * f.points + point) * weight_stride(p, f)


cdef inline void sum_part(const Problem *p, fastconv_gemm_tile *t, Py_ssize_t begin, Py_ssize_t stop,
                          Py_ssize_t chain, bint accumulate, const fastconv_epilogue *last) noexcept nogil:
    """c = the sums over channels begin .. stop - 1, chain after chain, each summed by itself; with the last, `last`."""
    cdef const char *b = t.b
    cdef const char *prefetch = t.prefetch
    cdef Py_ssize_t channel = begin
    while channel < stop:
        t.a_offset = channel * p.itemsize
        t.b, t.prefetch = b + channel * t.ldb * p.itemsize, prefetch + channel * t.prefetch_step
        t.k, t.accumulate = min(chain, stop - channel), accumulate or channel > begin
        t.epilogue = last if channel + t.k == stop else NULL
        p.kernels.gemm(t)
        channel += t.k
    t.b, t.prefetch = b, prefetch


cdef inline void sum_parts(const Problem *p, const Phase *f, fastconv_gemm_tile *t, Py_ssize_t begin,
                           bint accumulate) noexcept nogil:
    """c = the sums over a component's channels, those of each part added up by themselves; and c, if accumulated."""
    cdef char other[MOST_SUMS]
    cdef char *rows[2][FASTCONV_MAX_ROWS]
    cdef char *const *c = t.c
    cdef fastconv_epilogue total
    cdef Py_ssize_t left = ceil_div(p.kin, f.part), channel = begin, stop = begin + p.kin
    cdef int i
    memset(&total, 0, sizeof(total))
    total.lower, total.upper = -INFINITY, INFINITY
    if accumulate:
        total.residual = <const char *const *> c
    for i in range(t.rows):
        rows[0][i], rows[1][i] = c[i], other + i * p.kernels.nr * p.itemsize - t.c_offset
    while channel < stop:         # one of the two has the sums so far, the next part's go to the other, the last to c
        left -= 1
        t.c = rows[left % 2]
        sum_part(p, t, channel, min(channel + f.part, stop), f.chain, False,
                 &total if total.residual != NULL else NULL)
        channel += f.part
        total.residual = <const char *const *> t.c
    t.c = c


cdef inline void sum_chains(const Problem *p, const Phase *f, Py_ssize_t point, fastconv_gemm_tile *t) noexcept nogil:
    """The tile's sums over all channels of a point's components, chain by chain; b and prefetch are the first one's.

    Shorter chains keep the error, relative to the direct kernel's, below 4: 256 channels summed at once took its
    largest to 5 on data that no ReLU left negative, 128 at a time take it to 3. 3-D transforms, which magnify more,
    need chains so short that adding them up rounds as much as they do, so each 128 channels are added up by themselves.
    """
    cdef int i
    for i in range(f.components):
        if has_point(f, &f.component[i], point):
            if f.part == p.kin:
                sum_part(p, t, i * p.kin, (i + 1) * p.kin, f.chain, i > 0, NULL)
            else:
                sum_parts(p, f, t, i * p.kin, i > 0)
