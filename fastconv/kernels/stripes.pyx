"""Convolutions one after the other, stripe by stripe: what one makes is read by the next while it is in L2.

    y = stage[n - 1](... stage[1](stage[0](x)))        channels_last, 2-D; each stage a convolution and its epilogue

A task is a band of rows of y of one image. It goes down the band by stripes of some rows; for each, every stage in turn
makes the rows that the next one lacks, in a buffer of the thread's that holds those still to be read: when they reach
its end, they move to its start. Neighbouring bands make the rows that both need twice. A kernel makes rows apart from
others (`RowKernel._rows`) and is told where row 0 of the image would lie, so it knows nothing of buffers, and each sum
has the order that it has without stripes: no bit changes.

Source: Alwani, Chen, Ferdman, Milder, "Fused-Layer CNN Accelerators", 2016, section III.
"""

from cython.parallel cimport parallel, threadid
from libc.string cimport memmove, memset
cimport numpy as cnp

from fastconv.kernels.arrays cimport contiguous, data, hold
from fastconv.kernels.core cimport (
    CACHE_LINE,
    acquire,
    fastconv_tasks,
    fegetenv,
    fenv_t,
    fesetenv,
    release,
    round_up,
    share_tasks,
    take_task,
    team,
)
from fastconv.kernels.plan cimport Call, RowKernel, RowMaker

cnp.import_array()

MOST_STAGES = STAGES

cdef enum:
    STAGES = 8
    SLACK = 64                 # bytes behind a buffer that may be read: kernels read whole vectors

cdef struct Stage:
    RowMaker rows
    Call call                  # but for its source and destination, which change from image to image
    Py_ssize_t source_rows, count  # rows of an image that it reads and makes
    Py_ssize_t stride, before, extent  # row i reads rows i * stride - before .. + extent
    Py_ssize_t source_row, row  # bytes
    Py_ssize_t capacity, buffer  # rows that a thread keeps of what it makes, and bytes before them

cdef struct Problem:
    Stage stage[STAGES]
    int stages
    Py_ssize_t batch, bands, stripe  # bands an image, rows of y a stripe
    Py_ssize_t scratch, own    # bytes of the kernels' scratch memory, and of all that a thread needs

cdef struct Progress:          # of a band, by stage
    Py_ssize_t made[STAGES]   # rows before which all that are needed are there
    Py_ssize_t first[STAGES]  # the row at the start of the buffer
    Py_ssize_t needed[STAGES]


cdef class StripesPlan:
    """Stages, ready to run any number of times, from any thread, with the weights that they have been given.

    Parameters
    ----------
    stages : for each (kernel, weight, bias or None, lower, upper, activation, alpha), the kernel planned for one image
    windows : for each (rows read, rows made, stride, rows of padding before, extent), along H
    row_sizes : bytes of a row of x and of what every stage makes
    batch, bands, stripe : images, bands that each is cut into, rows of y a stripe
    work : multiply-adds of a call
    """

    cdef Problem problem
    cdef list keep
    cdef double work

    def __init__(self, stages, windows, row_sizes, Py_ssize_t batch, Py_ssize_t bands, Py_ssize_t stripe, double work):
        cdef Problem *p = &self.problem
        cdef Stage *s
        cdef RowKernel kernel
        cdef int i
        self.keep, self.work = [], work
        memset(p, 0, sizeof(Problem))
        p.stages, p.batch, p.bands, p.stripe = len(stages), batch, bands, stripe
        for i, (kernel, weight, bias, lower, upper, activation, alpha) in enumerate(stages):
            s = &p.stage[i]
            s.rows = kernel._rows()
            self.keep.append(kernel)
            s.call.zeros = s.rows.zeros
            s.call.weight = <const char *> hold(self.keep, kernel.pack_rows(weight, bias))
            if bias is not None:
                s.call.epilogue.shift = <const char *> hold(self.keep, bias)
            s.call.epilogue.lower, s.call.epilogue.upper = lower, upper
            s.call.activation, s.call.alpha, s.call.near = activation, alpha, i + 1 < p.stages
            s.source_rows, s.count, s.stride, s.before, s.extent = windows[i]
            s.source_row, s.row = row_sizes[i], row_sizes[i + 1]
            p.scratch = max(p.scratch, round_up(s.rows.scratch, CACHE_LINE))
        self._place_buffers()

    cdef _place_buffers(self):
        """As many rows as the next stage reads for those that it makes at a time."""
        cdef Problem *p = &self.problem
        cdef Stage *s
        cdef Stage *after
        cdef Py_ssize_t rows = p.stripe
        cdef int i
        p.own = p.scratch
        for i in reversed(range(p.stages - 1)):
            s, after = &p.stage[i], &p.stage[i + 1]
            rows = min(s.count, (rows - 1) * after.stride + after.extent)
            s.capacity, s.buffer = rows, p.own
            p.own += round_up(rows * s.row + SLACK, CACHE_LINE)

    @property
    def threads(self):
        """How many a call takes now."""
        return team(self.work)

    def workspace_bytes(self, int threads):
        """Scratch memory of a call with so many threads: of each, and what they share."""
        return self.problem.own, 0

    def __call__(self, cnp.ndarray x, cnp.ndarray y, cnp.ndarray residual=None):
        """Write y; the residual, an array like y, is added before the last activation, and may be y itself."""
        cdef char *own = NULL
        cdef int threads = team(self.work)
        cdef const char *source
        cdef const char *added
        x, residual = contiguous(x), residual.copy() if residual is y else contiguous(residual)
        source, added = data(x), data(residual)
        try:
            own = acquire(self.problem.own, threads)
            with nogil:
                run(&self.problem, source, data(y), added, own, threads)
        finally:
            release(own)


cdef void run(const Problem *p, const char *x, char *y, const char *residual, char *own, int threads) noexcept nogil:
    """All bands; workers round as their caller does."""
    cdef fenv_t environment
    cdef fastconv_tasks tasks
    share_tasks(&tasks, p.batch * p.bands, threads)
    fegetenv(&environment)
    with parallel(num_threads=threads):
        fesetenv(&environment)
        take_bands(p, x, y, residual, &tasks, own + threadid() * p.own)


cdef void take_bands(const Problem *p, const char *x, char *y, const char *residual, fastconv_tasks *tasks,
                     char *own) noexcept nogil:
    cdef const Stage *last = &p.stage[p.stages - 1]
    cdef Py_ssize_t task = take_task(tasks), image = last.count * last.row, n, band
    cdef const char *added = NULL
    while task >= 0:
        n, band = task // p.bands, task % p.bands
        if residual != NULL:
            added = residual + n * image
        make_band(p, x + n * p.stage[0].source_rows * p.stage[0].source_row, y + n * image, added,
                  band * last.count // p.bands, (band + 1) * last.count // p.bands, own)
        task = take_task(tasks)


cdef void make_band(const Problem *p, const char *x, char *y, const char *residual, Py_ssize_t row, Py_ssize_t end,
                    char *own) noexcept nogil:
    """Rows `row` .. `end` of an image of y."""
    cdef Progress at
    cdef int last = p.stages - 1, i
    memset(&at, 0, sizeof(Progress))
    at.made[last] = row
    while row < end:
        row = min(row + p.stripe, end)
        at.needed[last] = row
        for i in range(last - 1, -1, -1):
            look_back(&p.stage[i + 1], i, &at)
        for i in range(last + 1):
            if at.made[i] < at.needed[i]:
                make_rows(p, i, &at, x, y, residual, own)


cdef inline void look_back(const Stage *after, int i, Progress *at) noexcept nogil:
    """The rows of stage i that the next one's need; those before that are not there yet are left out."""
    cdef Py_ssize_t read = first_read(after, at.made[i + 1])
    if read >= at.made[i]:
        at.made[i] = at.first[i] = read
    at.needed[i] = max(at.made[i], end_read(after, at.needed[i + 1]))


cdef inline Py_ssize_t first_read(const Stage *s, Py_ssize_t row) noexcept nogil:
    """The first row that a stage reads for its row."""
    return max(<Py_ssize_t> 0, min(s.source_rows, row * s.stride - s.before))


cdef inline Py_ssize_t end_read(const Stage *s, Py_ssize_t end) noexcept nogil:
    """The row behind the last one that it reads for those before `end`."""
    return min(s.source_rows, (end - 1) * s.stride - s.before + s.extent)


cdef void make_rows(const Problem *p, int i, Progress *at, const char *x, char *y, const char *residual,
                    char *own) noexcept nogil:
    """The rows that a stage lacks."""
    cdef const Stage *s = &p.stage[i]
    cdef Call call = s.call
    call.source = x if i == 0 else row_zero(&p.stage[i - 1], at.first[i - 1], own)
    if i + 1 == p.stages:
        call.destination, call.residual = y, residual
    else:
        make_room(s, &at.first[i], at.made[i], at.needed[i], first_read(&p.stage[i + 1], at.made[i + 1]), own)
        call.destination = row_zero(s, at.first[i], own)
    s.rows.make(s.rows.problem, &call, at.made[i], at.needed[i], own)
    at.made[i] = at.needed[i]


cdef inline char *row_zero(const Stage *s, Py_ssize_t first, char *own) noexcept nogil:
    """Where row 0 of the image would lie, if the buffer starts with row `first`."""
    return own + s.buffer - first * s.row


cdef void make_room(const Stage *s, Py_ssize_t *first, Py_ssize_t made, Py_ssize_t end, Py_ssize_t read,
                    char *own) noexcept nogil:
    """Moves the rows from `read` on, which the next stage still reads, to the buffer's start if those up to `end` would
    not fit behind what is there."""
    if end - first[0] > s.capacity:
        memmove(own + s.buffer, own + s.buffer + (read - first[0]) * s.row, (made - read) * s.row)
        first[0] = read
