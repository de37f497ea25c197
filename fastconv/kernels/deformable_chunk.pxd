"""The buffers in which a chunk of tiles passes through the gradients of deformable convolution."""

from fastconv.kernels.core cimport fastconv_points
from fastconv.kernels.deformation cimport Inputs, Part, Problem, points_in, tile_at

cdef struct Call:
    Inputs inputs
    const char *grad_y
    const char *filters         # the weight as it is given
    const char *ones
    char *weight                # packed
    char *sums                  # grad_weight in the order in which it is summed
    char *grad_x                # and so on: NULL where not needed
    char *grad_offset
    char *grad_weight
    char *grad_bias
    char *grad_mask

cdef struct Chunk:              # buffers of one chunk, each [...][tile of the chunk]; NULL where not needed
    Py_ssize_t first, count     # tiles
    char *points                # [offset group]
    char *swapped               # grad_y: [group][pixel][f], or [group][f][pixel]
    char *grads                 # [part] a panel
    char *samples
    char *dots                  # [segment] [taps][4][lanes]


cdef inline char *points_of(const Problem *p, const Chunk *c, Py_ssize_t i, Py_ssize_t offset_group) noexcept nogil:
    return c.points + (i * p.offset_groups + offset_group) * p.points_bytes


cdef inline Py_ssize_t *extent_of(const Problem *p, char *points) noexcept nogil:
    """The first and the last pixel that starts a square of the tile: what scattering has to clear and to add."""
    return <Py_ssize_t *> (points + p.points_bytes) - 2


cdef inline Py_ssize_t swapped_tile(const Problem *p) noexcept nogil:
    """Bytes of grad_y with pixels and channels swapped, a tile and group."""
    return p.rows * (p.kout if p.channels_last else p.ld) * p.itemsize


cdef inline Py_ssize_t panel_of(const Problem *p, const Part *part, Py_ssize_t i) noexcept nogil:
    """Where the panel of a part and of the chunk's tile i starts, in bytes."""
    cdef Py_ssize_t width = p.rows if p.channels_last else p.grid.lanes
    return (part.channel * p.chunk + i * part.channels) * p.taps * width * p.itemsize


cdef inline Py_ssize_t dots_bytes(const Problem *p) noexcept nogil:
    return 4 * p.taps * p.grid.lanes * p.itemsize


cdef inline fastconv_points chunk_points(const Problem *p, const Call *call, const Chunk *c, Py_ssize_t tile,
                                         Py_ssize_t offset_group) noexcept nogil:
    return points_in(p, &call.inputs, points_of(p, c, tile - c.first, offset_group), tile_at(p, tile).count)
