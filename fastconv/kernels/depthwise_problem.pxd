"""What the macro-kernels of depthwise convolution (depthwise_rows, depthwise_planes, ..._weight) know of a call."""

from fastconv.kernels.core cimport fastconv_kernels, fastconv_tap_run
from fastconv.kernels.finish cimport Finish

cdef enum:
    BLOCK_BYTES = 256 * 1024      # source rows (depthwise_rows) or packed planes a block: a quarter of L2
    NEAR_BYTES = 24 * 1024        # what of a block's rows L1 keeps beside results
    MANY_TASKS = 64               # 64 threads should find work ...
    TASK_WORK = 1 << 16           # ... but a task's multiply-adds should be worth its preparation
    PART_BYTES = 8 * 1024 * 1024  # all partial weight gradients
    WINDOW_ROWS = 4               # that windows are summed by: a multiple of what their blocks have in any ISA
    WINDOW_COST = 3               # of a multiply-add of a window, in those of a register tile

cdef enum Form:
    ROWS, TURNED, PLANES

cdef struct Run:                  # see fastconv.sliding.TapRun
    Py_ssize_t tap, taps, origin, first, end
    const Py_ssize_t *table       # NULL along W where padding is zeros
    Py_ssize_t stream, column     # depthwise_planes, along W: where position 0 is packed

cdef struct Phase:                # see fastconv.sliding.SlidingPhase
    Py_ssize_t start, count, runs
    Run *run

cdef struct Stream:               # depthwise_planes: columns origin, origin + stride, ... are packed side by side
    Py_ssize_t origin, length, first, end
    const Py_ssize_t *table       # NULL where padding is zeros

cdef struct Axis:                 # see fastconv.sliding.SlidingAxis
    Py_ssize_t source_size, size, kernel
    Py_ssize_t step, stride, dilation, tap_step, before  # before: padding
    Py_ssize_t phases, runs, longest  # longest: the most positions a phase may have
    bint sparse                   # some destination positions meet no tap
    Phase *phase
    const Py_ssize_t *ends        # not along W: destination i meets tap[e] at source[e], ends[i] <= e < ends[i + 1]
    const Py_ssize_t *tap
    const Py_ssize_t *source
    Py_ssize_t streams, extent    # extent: packed columns beyond those of the destination
    Stream *stream
    Py_ssize_t lowest             # position lowest + i is copied from source wrapped[i]; NULL where padding is zeros
    const Py_ssize_t *wrapped

cdef struct Problem:
    const fastconv_kernels *kernels
    Py_ssize_t itemsize, vector   # bytes
    Py_ssize_t batch, channels, ways, taps
    Py_ssize_t ins, outs          # source and destination channels of one of `channels`: 1 and ways, or the reverse
    Py_ssize_t kin                # of a group: more than one in weight gradients of windows alone
    bint backward
    Axis axis[3]
    Py_ssize_t source_plane, source_volume, volume  # positions of a slice, of an image
    Py_ssize_t tasks, workspace   # workspace: bytes a thread
    bint far                      # the destination is more than L2 keeps
    Py_ssize_t parts, part_bytes  # weight gradient: partial sums, numbered
    # depthwise_rows
    Py_ssize_t source_pixel, pixel  # bytes from one pixel's channels to the next one's
    const fastconv_tap_run *runs  # of W, phase by phase, as they lie in a row of pixels
    Py_ssize_t padded, across     # bytes from a tap's weights to the next one's; from a vector of channels' to the next
    Py_ssize_t chunk, chunks      # channels a task
    bint windows, spread          # taps are 3x3 windows of one stride, see fastconv_depthwise_windows
    const char *index             # [vlen] of them, where kin is more than one
    Py_ssize_t rows, blocks       # rows a task (weight gradient: rows whose sums stay in registers)
    # depthwise_planes
    Py_ssize_t block[3]           # destination slices, and positions of a phase along H and W, of a block
    Py_ssize_t cuts[3]
    Py_ssize_t slots, packed_rows, segments

cdef struct Call:
    const char *source
    const char *weight
    const char *shift
    char *destination
    double lower, upper           # of the sums
    Finish finish
    int threads                   # 0: of a stripe, whose rows are near

cdef struct Gradient:
    const char *y
    const char *x
    char *weight                  # NULL where not wanted, and so is shift
    char *shift
    char *parts


cdef inline Py_ssize_t clip(Py_ssize_t a, Py_ssize_t low, Py_ssize_t high) noexcept nogil:
    return max(low, min(a, high))
