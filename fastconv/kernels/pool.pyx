"""Pools and their adjoints: which thread takes which rows, and what crosses them.

Every output element is made by one thread in an order that the geometry fixes, so the bits do not depend on the number
of threads. Work is cut into runs of output rows, counted over all planes (channels_first) or images (channels_last);
where those are few, channels_last is cut by channels, too. The adjoint of a maximum adds to places that indices name,
so there a thread takes whole planes, or blocks of channels of whole images.

Arrays are C-contiguous, aligned, of one dtype, and checked by the caller.
"""

import numpy as np

from cython.parallel cimport parallel, prange, threadid
from libc.stdint cimport int64_t, uint32_t, uint64_t
from libc.string cimport memset
cimport numpy as cnp

from fastconv.kernels.arrays cimport data
from fastconv.kernels.core cimport (
    FASTCONV_LIST_SLACK,
    FASTCONV_POOL_MAX,
    FASTCONV_POOL_MEAN,
    FASTCONV_POOL_POWER,
    FASTCONV_POOL_SPREAD,
    FASTCONV_POOL_SQUARE,
    acquire,
    ceil_div,
    fastconv_kernels,
    fastconv_pool,
    fastconv_pool_rows,
    fegetenv,
    fenv_t,
    fesetenv,
    kernels,
    release,
    round_up,
    team,
)

cnp.import_array()

cdef enum:
    TASKS = 8               # a thread, so that one that was held up does not hold up all
    LINE = 64               # bytes: threads share no cache line of channels
    ROW_BYTES = 32 * 1024   # rows of indices that are recomputed at once


def with_slack(positions):
    """A list as the kernels read it."""
    return np.concatenate([positions, np.zeros(FASTCONV_LIST_SLACK, np.int64)])


cdef class PoolPlan:
    """One pool, ready to run any number of times, from any thread.

    `planes` counts planes (channels_first, channels 1) or images; `axes` are three AxisWindows. `power` is that of a
    p-norm, `whole` the elements of a whole window.
    """

    cdef fastconv_pool pool
    cdef const fastconv_kernels *kernels
    cdef object keep            # arrays that the pointers of `pool` look into
    cdef Py_ssize_t planes, rows, row, itemsize, scratch
    cdef double work

    def __init__(self, int dtype, Py_ssize_t planes, Py_ssize_t channels, axes, str kind, double power=1,
                 double whole=1, bint apart=False, bint cover=False):
        cdef fastconv_pool *p = &self.pool
        cdef cnp.ndarray first, count, scale
        cdef int i
        kinds = {"max": FASTCONV_POOL_MAX, "mean": FASTCONV_POOL_MEAN, "spread": FASTCONV_POOL_SPREAD,
                 "norm": FASTCONV_POOL_SQUARE if power == 2 else FASTCONV_POOL_POWER}
        p.kind, p.channels, p.power, p.whole, p.apart, p.cover = kinds[kind], channels, power, whole, apart, cover
        self.kernels = kernels(dtype)
        self.keep = []
        for i in range(3):
            axis = axes[i]
            first, count = with_slack(axis.first), with_slack(axis.count)
            scale = np.ascontiguousarray(axis.scale, np.float64 if dtype else np.float32)
            self.keep += [first, count, scale]
            p.axis[i].size, p.axis[i].out = axis.size, axis.out
            p.axis[i].first = <const int64_t *> data(first)
            p.axis[i].count = <const int64_t *> data(count)
            p.axis[i].scale = data(scale)
            p.axis[i].step, p.axis[i].stride = axis.step, axis.stride
            p.axis[i].before, p.axis[i].taps = axis.before, axis.taps
        self.itemsize = self.kernels.storage_bytes
        self.planes, self.rows = planes, planes * p.axis[0].out * p.axis[1].out
        self.row = p.axis[2].out * channels
        self.scratch = ceil_div(self.kernels.pool_scratch(p), LINE) * LINE
        # A byte moved takes about as long as a multiply-add.
        self.work = <double> self.itemsize * channels * planes * (
            <double> p.axis[0].size * p.axis[1].size * p.axis[2].size
            + <double> p.axis[0].out * p.axis[1].out * p.axis[2].out)

    def __call__(self, cnp.ndarray x, cnp.ndarray y, cnp.ndarray indices=None, cnp.ndarray slope=None,
                 cnp.ndarray factor=None, double power=0):
        """y = pool(x), for a maximum also its indices, for a p-norm the slope's product instead of the norm.

        y is multiplied by factor ** power, element by element, if there is a factor.
        """
        cdef fastconv_pool_rows all
        cdef char *scratch
        cdef int threads = team(self.work)
        all.x, all.y = data(x), data(y)
        all.indices = <int64_t *> data(indices) if indices is not None else NULL
        all.slope = data(slope) if slope is not None else NULL
        cdef const char *by = data(factor) if factor is not None else NULL
        scratch = acquire(self.scratch, threads)
        try:
            with nogil:
                self.run(&all, by, power, scratch, threads)
        finally:
            release(scratch)

    cdef void run(self, const fastconv_pool_rows *all, const char *factor, double power, char *scratch,
                  int threads) noexcept nogil:
        cdef Py_ssize_t runs = min(self.rows, <Py_ssize_t> threads * TASKS), blocks = 1, block = self.pool.channels
        cdef Py_ssize_t task
        cdef fenv_t environment
        if threads > 1 and self.rows < 2 * threads and factor == NULL:
            block = self.channel_block(threads)
            blocks = ceil_div(self.pool.channels, block)
        if threads == 1:
            for task in range(blocks):
                self.run_rows(all, factor, power, 0, self.rows, task * block, block, scratch)
            return
        fegetenv(&environment)
        with parallel(num_threads=threads):
            fesetenv(&environment)
            for task in prange(runs * blocks, schedule="dynamic"):
                self.run_rows(all, factor, power, task // blocks * self.rows // runs,
                              (task // blocks + 1) * self.rows // runs, task % blocks * block, block,
                              scratch + threadid() * self.scratch)

    cdef Py_ssize_t channel_block(self, int threads) noexcept nogil:
        """Channels of a task where images or rows are too few for all threads."""
        cdef Py_ssize_t line = LINE // self.itemsize
        return ceil_div(ceil_div(self.pool.channels, 2 * threads), line) * line

    cdef void run_rows(self, const fastconv_pool_rows *all, const char *factor, double power, Py_ssize_t begin,
                       Py_ssize_t end, Py_ssize_t channel, Py_ssize_t block, char *scratch) noexcept nogil:
        cdef fastconv_pool_rows part = all[0]
        cdef Py_ssize_t offset = begin * self.row
        part.begin, part.end = begin, end
        part.channel, part.channels = channel, min(block, self.pool.channels - channel)
        part.y += offset * self.itemsize
        if part.indices != NULL:
            part.indices += offset
        if part.slope != NULL:
            part.slope += offset * self.itemsize
        part.scratch = scratch
        self.kernels.pool(&self.pool, &part)
        if factor != NULL:
            self.kernels.times_power(part.y, factor + offset * self.itemsize, (end - begin) * self.row, power)

    def route(self, cnp.ndarray grad_y, cnp.ndarray grad_x, cnp.ndarray x, cnp.ndarray indices=None):
        """grad_x of a maximum, whose indices are computed again if they are not given; False if one was wrong."""
        cdef fastconv_pool_rows all
        cdef int threads = team(self.work), wrong
        cdef char *scratch
        all.x, all.y = data(grad_y), data(grad_x)
        all.indices = <int64_t *> data(indices) if indices is not None else NULL
        scratch = acquire(self.route_bytes(), threads)
        try:
            with nogil:
                wrong = self.route_all(&all, data(x), scratch, threads)
        finally:
            release(scratch)
        return wrong == 0

    cdef int route_all(self, const fastconv_pool_rows *all, const char *x, char *scratch, int threads) noexcept nogil:
        cdef Py_ssize_t size = self.route_bytes()
        cdef Py_ssize_t block = self.pool.channels, blocks, task
        cdef int wrong = 0
        cdef fenv_t environment
        if threads > 1 and self.planes < 2 * threads:
            block = self.channel_block(threads)
        blocks = ceil_div(self.pool.channels, block)
        if threads == 1:
            for task in range(self.planes):
                wrong |= self.route_plane(all, x, task, 0, block, scratch)
            return wrong
        fegetenv(&environment)
        with parallel(num_threads=threads):
            fesetenv(&environment)
            for task in prange(self.planes * blocks, schedule="dynamic"):
                wrong |= self.route_plane(all, x, task // blocks, task % blocks * block, block,
                                          scratch + threadid() * size)
        return wrong

    cdef Py_ssize_t route_bytes(self) noexcept nogil:
        """Memory of a thread: whole cache lines, since scratch and indices must be aligned in each thread's."""
        return round_up(self.scratch + self.again() * self.again_bytes(), LINE)

    cdef Py_ssize_t again(self) noexcept nogil:
        """Rows whose indices are computed at once."""
        return max(<Py_ssize_t> 1, ROW_BYTES // self.again_bytes())

    cdef Py_ssize_t again_bytes(self) noexcept nogil:
        return self.row * (self.itemsize + <Py_ssize_t> sizeof(int64_t))

    cdef int route_plane(self, const fastconv_pool_rows *all, const char *x, Py_ssize_t plane, Py_ssize_t channel,
                         Py_ssize_t block, char *scratch) noexcept nogil:
        """One plane of gradients (all.x) and indices; these from x if they are not given."""
        cdef Py_ssize_t rows = self.pool.axis[0].out * self.pool.axis[1].out, begin = plane * rows, end = begin + rows
        cdef Py_ssize_t step = self.again() if all.indices == NULL else rows
        cdef int wrong = 0
        cdef fastconv_pool_rows part
        part.slope, part.scratch = NULL, scratch
        part.channel, part.channels = channel, min(block, self.pool.channels - channel)
        while begin < end:
            part.begin, part.end = begin, min(end, begin + step)
            if all.indices == NULL:
                part.indices = <int64_t *> (scratch + self.scratch)
                part.x, part.y = x, <char *> (part.indices + step * self.row)
                self.kernels.pool(&self.pool, &part)
            else:
                part.indices = all.indices + begin * self.row
            part.x, part.y = all.x + begin * self.row * self.itemsize, all.y
            wrong |= self.kernels.pool_route(&self.pool, &part)
            begin = part.end
        return wrong


# --------------------------------------------------------------------------------------------------- max_unpool

def indices_within(cnp.ndarray indices, Py_ssize_t pixels):
    """Whether all indices lie in 0 .. pixels - 1."""
    cdef const int64_t *at = <const int64_t *> data(indices)
    cdef Py_ssize_t n = cnp.PyArray_SIZE(indices), i
    cdef int wrong = 0, threads = team(<double> n * sizeof(int64_t))
    if threads == 1:
        for i in range(n):
            wrong |= <uint64_t> at[i] >= <uint64_t> pixels
    else:
        for i in prange(n, nogil=True, num_threads=threads, schedule="static"):
            wrong |= <uint64_t> at[i] >= <uint64_t> pixels
    return wrong == 0


def place(cnp.ndarray x, cnp.ndarray indices, cnp.ndarray y, Py_ssize_t planes, Py_ssize_t channels):
    """y = 0 but for y[plane][index] = x, the last one of equal indices; planes of `channels` elements a pixel."""
    _move(x, indices, y, planes, channels, cnp.PyArray_SIZE(y), cnp.PyArray_SIZE(x), True)


def fetch(cnp.ndarray x, cnp.ndarray indices, cnp.ndarray y, Py_ssize_t planes, Py_ssize_t channels):
    """y = x[plane][index]."""
    _move(x, indices, y, planes, channels, cnp.PyArray_SIZE(x), cnp.PyArray_SIZE(y), False)


cdef _move(cnp.ndarray x, cnp.ndarray indices, cnp.ndarray y, Py_ssize_t planes, Py_ssize_t channels,
           Py_ssize_t wide, Py_ssize_t narrow, bint placing):
    cdef Py_ssize_t size = cnp.PyArray_ITEMSIZE(x), line = LINE // size
    cdef int threads = team(<double> (wide + narrow) * size)
    cdef Move m
    if planes == 0:
        return
    m.x, m.y, m.indices = data(x), data(y), <const int64_t *> data(indices)
    m.channels, m.block, m.placing = channels, channels, placing
    if threads > 1 and planes < 2 * threads:
        m.block = ceil_div(ceil_div(channels, 2 * threads), line) * line
    m.blocks = ceil_div(channels, m.block)
    m.wide, m.narrow = wide // (planes * channels), narrow // (planes * channels)
    with nogil:
        if size == 4:
            move_planes[uint32_t](&m, <uint32_t *> m.y, planes, threads)
        else:
            move_planes[uint64_t](&m, <uint64_t *> m.y, planes, threads)


cdef struct Move:
    const char *x
    char *y
    const int64_t *indices
    Py_ssize_t channels, block, blocks
    Py_ssize_t wide, narrow    # pixels of a plane, and indices that point into them
    bint placing


ctypedef fused element:
    uint32_t
    uint64_t


cdef void move_planes(const Move *m, element *y, Py_ssize_t planes, int threads) noexcept nogil:
    cdef Py_ssize_t task
    if threads == 1:
        for task in range(planes * m.blocks):
            move_plane(m, <const element *> m.x, y, task // m.blocks, task % m.blocks * m.block)
    else:
        for task in prange(planes * m.blocks, num_threads=threads, schedule="dynamic"):
            move_plane(m, <const element *> m.x, y, task // m.blocks, task % m.blocks * m.block)


cdef void move_plane(const Move *m, const element *x, element *y, Py_ssize_t plane, Py_ssize_t channel) noexcept nogil:
    """A block of channels of one plane."""
    cdef Py_ssize_t stop = min(m.channels, channel + m.block), i, c, channels = m.channels
    cdef const int64_t *indices = m.indices + plane * m.narrow * channels
    if not m.placing:
        x += plane * m.wide * channels
        y += plane * m.narrow * channels
        for i in range(m.narrow):
            for c in range(channel, stop):
                y[i * channels + c] = x[indices[i * channels + c] * channels + c]
        return
    x += plane * m.narrow * channels
    y += plane * m.wide * channels
    if stop - channel == channels:
        memset(y, 0, m.wide * channels * sizeof(element))
    else:
        for i in range(m.wide):
            memset(y + i * channels + channel, 0, (stop - channel) * sizeof(element))
    for i in range(m.narrow):
        for c in range(channel, stop):
            y[indices[i * channels + c] * channels + c] = x[i * channels + c]
