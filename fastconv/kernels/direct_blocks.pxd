"""Blocks of pixels of channels_first: which they are, packed for the register tile, and copied out."""

from fastconv.kernels.core cimport fastconv_run
from fastconv.kernels.direct_problem cimport Phase, Problem
from fastconv.kernels.plan cimport Call

cdef enum:
    PIECE = 16                 # channels of a panel of lines, which threads may share out
    TAPS_AT_ONCE = 16          # whose runs of columns are kept

cdef struct Block:             # of one group
    Py_ssize_t group
    Py_ssize_t n               # image; 0 where blocks run across images
    Py_ssize_t q, columns      # pixels of the slice (packed as columns)
    Py_ssize_t d, top, bottom, left, right  # outputs (packed as lines)
    const char *source         # first channel of the group, of image n

cdef struct Tile:              # columns of a register tile: bytes into the panels, bytes into a row of sums,
    Py_ssize_t b, c
    int columns
    bint aside                 # which is one of scratch, copied out at the end, or one of the destination

cdef struct Layout:            # of a block, the same in all slices
    Py_ssize_t tiles
    Tile *tile
    Py_ssize_t runs            # of lines; -1 before they are placed
    fastconv_run *run

cdef Block block_of(const Problem *p, const Phase *f, const Call *call, Py_ssize_t index) noexcept nogil
cdef Py_ssize_t layout_bytes(const Problem *p, const Phase *f) noexcept nogil
cdef Layout layout_of(const Problem *p, const Phase *f, const Block *b, char *workspace) noexcept nogil
cdef void pack_panels(const Problem *p, const Phase *f, const Block *b, Layout *layout, Py_ssize_t channel,
                      Py_ssize_t kc, char *panels) noexcept nogil
cdef void pack_lines(const Problem *p, const Phase *f, const Block *b, Layout *layout, Py_ssize_t first,
                     Py_ssize_t stop, Py_ssize_t channel, char *panels) noexcept nogil
cdef void pack_columns(const Problem *p, const Phase *f, const Block *b, Layout *layout, Py_ssize_t tile,
                       Py_ssize_t first, Py_ssize_t stop, Py_ssize_t channel, char *panels) noexcept nogil
cdef char *first_row(const Problem *p, const Phase *f, const Call *call, const Block *b) noexcept nogil
cdef void copy_out(const Problem *p, const Phase *f, const Call *call, const Block *b, const Layout *layout,
                   Py_ssize_t row, Py_ssize_t stop, const char *sums) noexcept nogil
