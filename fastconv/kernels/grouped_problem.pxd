"""What grouped convolution knows of a call."""

from fastconv.kernels.core cimport fastconv_kernels

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
    Py_ssize_t columns          # of a packed line, at most

cdef struct Problem:
    Py_ssize_t batch, groups, kin, kout, kernel_taps, itemsize, vector
    Py_ssize_t source_size[3]
    Py_ssize_t destination_size[3]
    Py_ssize_t source_pixel, source_plane, destination_pixel, destination_plane
    bint backward
    int kind                    # of a packed line, see fastconv_grouped
    Py_ssize_t pitch            # bytes from column to column of a packed line
    const char *index           # [units][vlen]: see fastconv_spread
    const Py_ssize_t *elements  # [units]
    int phases
    Phase *phase
    const fastconv_kernels *kernels

cdef struct Task:
    Py_ssize_t n, d             # image, and output position along D
    Py_ssize_t row, stop        # output positions along H
    Py_ssize_t left, right      # and along W
    Py_ssize_t unit, end        # units


cdef inline Task task_of(const Phase *f, Py_ssize_t index) noexcept nogil:
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


cdef inline Py_ssize_t source_of(const Axis *a, Py_ssize_t tap, Py_ssize_t i) noexcept nogil:
    """Where a tap finds its source for the i-th output of an axis, or -1 for padding."""
    return a.table[i * a.stride + a.shift[tap]]


cdef inline Py_ssize_t destination_of(const Problem *p, const Phase *f, Py_ssize_t d, Py_ssize_t h,
                                      Py_ssize_t w) noexcept nogil:
    """Index of an output in its image's plane."""
    cdef Py_ssize_t line = (f.axis[0].offset + d * f.axis[0].step) * p.destination_size[1]
    line += f.axis[1].offset + h * f.axis[1].step
    return line * p.destination_size[2] + f.axis[2].offset + w * f.axis[2].step
