"""What the macro-kernels of Winograd convolution (winograd_planes, winograd_pixels) know of a call."""

from fastconv.kernels.core cimport ceil_div, fastconv_gemm_tile, fastconv_kernels, kernels, round_up
from fastconv.kernels.plan cimport Call

cdef enum:
    POINTS = 6                    # along an axis
    IN_VECTORS = 11               # of a line of any other number of outputs, see table.h
    MOST_VALUES = 216
    MOST_LANES = 16               # no ISA has longer vectors
    LINE = 64                     # bytes between the ends of points, so that they do not meet in one set of L1
    CHAIN = 128                   # channels summed in one chain, see sum_chains
    CHAIN_3D = 16

cdef struct TileAxis:             # one tile along an axis
    Py_ssize_t input              # its first input in the axis's table
    Py_ssize_t output             # its first destination position
    Py_ssize_t outputs            # how many of its outputs there are
    Py_ssize_t more               # tiles that follow it on the same sub-grid

cdef struct Axis:                 # a missing leading axis has one tile of one output
    Py_ssize_t step               # between destination positions of a tile
    Py_ssize_t dilation           # between the inputs of a tile in the table
    Py_ssize_t tiles
    int outputs, points
    const TileAxis *tile
    const Py_ssize_t *table       # source positions, -1 for padding

cdef struct Phase:
    Axis axis[3]
    int taps[3]
    Py_ssize_t tiles              # of one image
    Py_ssize_t weight_offset      # bytes into the transformed weights
    const Py_ssize_t *weight_taps  # [taps]: element offset of each tap in the weight's kernel, in the input's order

cdef struct Problem:
    int axes, points              # points: 6 ** axes
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
    Py_ssize_t stride             # bytes between points
    Py_ssize_t buffers, own       # bytes of points and sums, and of lists a thread

cdef struct Batch:
    Py_ssize_t group, first, tiles
    char *points
    char *sums

cdef struct Tile:
    Py_ssize_t n, d, h, w


cdef inline Tile tile_at(const Phase *f, Py_ssize_t q) noexcept nogil:
    cdef Tile at
    at.n, q = q // f.tiles, q % f.tiles
    at.w, q = q % f.axis[2].tiles, q // f.axis[2].tiles
    at.d, at.h = q // f.axis[1].tiles, q % f.axis[1].tiles
    return at


cdef inline Py_ssize_t source_of(const Axis *a, Py_ssize_t tile, int i) noexcept nogil:
    """Where a tile's i-th input is read, -1 for padding."""
    return a.table[a.tile[tile].input + i * a.dilation]


cdef inline Py_ssize_t destination_line(const Problem *p, const Phase *f, const Tile *at, int d, int h) noexcept nogil:
    """Index of the first pixel of output line (d, h) of a tile, images one plane apart; -1 if there is none."""
    cdef const TileAxis *tile_d = &f.axis[0].tile[at.d]
    cdef const TileAxis *tile_h = &f.axis[1].tile[at.h]
    if d >= tile_d.outputs or h >= tile_h.outputs:
        return -1
    cdef Py_ssize_t row = (tile_d.output + d * f.axis[0].step) * p.destination_size[1]
    row += tile_h.output + h * f.axis[1].step
    return at.n * p.destination_plane + row * p.destination_size[2]


cdef inline Py_ssize_t weight_stride(const Problem *p) noexcept nogil:
    """Bytes between the points of a group's transformed weight."""
    cdef Py_ssize_t nr = p.kernels.nr, rows = round_up(p.kout, nr) if p.channels_last else p.kout
    return rows * p.kin * p.itemsize + LINE


cdef inline const char *weight_point(const Problem *p, const Phase *f, const Call *call, Py_ssize_t group,
                                     Py_ssize_t point) noexcept nogil:
    return call.weight + f.weight_offset + (group * p.points + point) * weight_stride(p)


cdef inline void sum_chains(const Problem *p, fastconv_gemm_tile *t) noexcept nogil:
    """The tile's sums over all channels, in equal parts, each summed by itself.

    Shorter chains keep the error, relative to the direct kernel's, below 4: 256 channels summed at once took its
    largest to 5 on data that no ReLU left negative, 128 at a time take it to 3. 3-D transforms, which magnify more,
    need 16.
    """
    cdef Py_ssize_t chain = CHAIN if p.axes < 3 else CHAIN_3D, channel = 0
    cdef Py_ssize_t part = ceil_div(p.kin, ceil_div(p.kin, chain))
    while channel < p.kin:
        t.k, t.accumulate = min(part, p.kin - channel), channel > 0
        t.a_offset = channel * p.itemsize
        p.kernels.gemm(t)
        t.b += t.k * t.ldb * p.itemsize
        t.prefetch += t.k * t.prefetch_step
        channel += t.k
