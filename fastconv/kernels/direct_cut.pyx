"""How a phase of direct convolution is cut into tasks for so many threads.

A task is so many register tiles down by so many across: of pixels by destination channels in channels_last, of
destination channels by pixels in channels_first. Tiles keep their places however they are shared out, so no bit changes
with the number of threads.

One thread takes the largest tasks there are. For a team the cheapest of some cuts is chosen: a task costs its tiles and
the reading of its panels and rows, and the team takes as long as its busiest thread. In channels_first a task of all
rows packs its own panels; else all threads pack a stretch of blocks together and share its rows out.
"""

from fastconv.kernels.core cimport CACHE_LINE, ceil_div, even_part, round_up
from fastconv.kernels.direct_blocks cimport PIECE, layout_bytes
from fastconv.kernels.direct_few cimport copies_lines, has_few_channels, lines_block
from fastconv.kernels.direct_pixels cimport rows_bytes
from fastconv.kernels.direct_planes cimport block_bytes
from fastconv.kernels.direct_problem cimport Cut, Phase, Problem

cdef enum:
    SHARED_BYTES = 8 * 1024 * 1024  # the panels that a team packs together
    MOST_TASKS = 8             # a thread, of those cuts that are weighed
    PACKING_TASKS = 4          # a thread

cdef double[2] READ_PANEL = [2, 3]      # what a task's panels cost to read, in tiles of each: channels_first and last
cdef double[2] READ_ROWS = [0.2, 0.05]  # and its rows
cdef double SHARED = 1.05               # what a tile costs whose panel a team packed, over one that the thread did
cdef double UNEVEN = 0.3                # of a task: how far apart threads end that do not run alike
cdef double GAIN = 0.95                 # of the time of the largest tasks: then smaller ones are taken

cdef struct Tiles:             # register tiles of a task
    Py_ssize_t down, across

cdef struct Work:
    double down, across        # register tiles of a slice, the last ones less than whole
    Tiles most                 # of a task
    Py_ssize_t least_across
    Py_ssize_t slices
    bint shares                # whether tasks of less than all down need panels that a team packs together,
    Py_ssize_t stretch         # for so many tiles across at once


cdef inline double floor(double x) noexcept nogil:
    """Of what is not negative, without a call of libm."""
    return <double> <Py_ssize_t> x


cdef inline double ceil(double x) noexcept nogil:
    return floor(x) + (floor(x) < x)


cdef double rounds(double whole, double rest, double all, int threads) noexcept nogil:
    """How many whole tasks the busiest thread does one after the other, where `rest` smaller ones come last; with them
    there are `all`."""
    cdef double time = ceil(whole / threads), part
    if rest > 0:
        part = (all - whole) / rest
        time += part * ceil(max(0., rest - (time * threads - whole) * floor(1 / part)) / threads)
    return time


cdef double duration(const Work *w, Tiles task, int threads) noexcept nogil:
    """Of a phase, in register tiles."""
    cdef double wide = min(w.across, <double> task.across), tall = min(w.down, <double> task.down)
    cdef double across = w.across / wide, down = w.down / tall, stretches = 1
    cdef double whole = w.slices * floor(across) * floor(down), tasks = w.slices * ceil(across) * ceil(down)
    cdef double each = (tall + READ_PANEL[not w.shares]) * (wide + READ_ROWS[not w.shares])
    if w.shares and down > 1:
        stretches = ceil(w.slices * ceil(across) / max(1., floor(<double> w.stretch / task.across)))
        each *= SHARED
    return each * stretches * (UNEVEN + rounds(whole / stretches, (tasks - whole) / stretches,
                                               w.slices * across * down / stretches, threads))


cdef Tiles cheapest(const Work *w, int threads) noexcept nogil:
    """The tiles of a task: halves of the most across, and of these as many down as leave 1 to MOST_TASKS a thread."""
    cdef Tiles best = w.most, task
    cdef double least = GAIN * duration(w, best, threads), time, parts
    cdef Py_ssize_t down
    cdef int tasks
    task.across = w.most.across
    while True:
        task.down = 0
        for tasks in range(1, MOST_TASKS + 1):
            parts = floor(tasks * threads * task.across / (w.slices * w.across))
            down = min(w.most.down, <Py_ssize_t> ceil(w.down / max(1., parts)))
            if down == task.down:
                continue
            task.down = down
            time = duration(w, task, threads)
            if time < least:
                best, least = task, time
        if task.across <= w.least_across:
            return best
        task.across = ceil_div(task.across, 2)


cdef void cut_pixels(const Problem *p, Cut *cut, int threads) noexcept nogil:
    cdef Phase *f = &cut.phase
    cdef Py_ssize_t mr = p.kernels.mr, nr = p.kernels.nr, pixels = f.pixels * p.batch
    cdef Work w
    w.down, w.across = <double> pixels / mr, <double> p.kout / nr
    w.most, w.slices, w.shares, w.stretch = Tiles(ceil_div(f.block, mr), ceil_div(p.kout, nr)), f.slices, False, 0
    w.least_across = w.most.across if has_few_channels(p, f) else 1  # each task makes its own copies
    cdef Tiles task = cheapest(&w, threads)
    f.block = lines_block(p, f, task.down * mr) if copies_lines(p, f) else task.down * mr
    f.blocks = ceil_div(pixels, f.block)
    cut.part = even_part(p.kout, task.across * nr, nr)
    cut.parts = ceil_div(p.kout, cut.part)
    if cut.parts == f.slices == 1 and f.blocks > threads and not copies_lines(p, f):
        f.blocks = min(round_up(f.blocks, threads), ceil_div(pixels, mr))


cdef void cut_planes(const Problem *p, Cut *cut, int threads) noexcept nogil:
    cdef Phase *f = &cut.phase
    cdef Py_ssize_t nr = p.kernels.nr, columns = f.pixels * (1 if f.slices > p.groups else p.batch)
    cdef Work w
    w.down, w.across = ceil_div(p.kout, f.tile_rows), <double> columns / nr
    w.most, w.slices, w.shares = Tiles(ceil_div(p.kout, f.tile_rows), f.panels), f.slices, True
    w.least_across = 1
    if f.as_lines:
        w.across, w.most.across = f.blocks, 1
    w.stretch = SHARED_BYTES * w.most.across // block_bytes(p, f)
    cdef Tiles task = cheapest(&w, threads)
    if not f.as_lines:
        f.panels, f.block, f.scratch_columns = task.across, task.across * nr, task.across * nr
        f.blocks = ceil_div(columns, f.block)
    cut.part = task.down * f.tile_rows
    cut.parts = ceil_div(p.kout, cut.part)


cdef void share_panels(const Problem *p, Cut *cut, int threads) noexcept nogil:
    """A stretch of blocks, all alike, and the pieces of its panels that make tasks of packing them."""
    cdef Phase *f = &cut.phase
    cdef Py_ssize_t blocks = f.blocks * f.slices, panels = f.panels * ceil_div(p.kin, f.kc)
    cut.stretch = even_part(blocks, max(1, SHARED_BYTES // block_bytes(p, f)), 1)
    cut.shared = round_up(cut.stretch * block_bytes(p, f), CACHE_LINE)
    if not f.as_lines:
        cut.pieces = max(1, min(f.kc // PIECE, ceil_div(PACKING_TASKS * threads, cut.stretch * panels)))


cdef Cut cut_for(const Problem *p, const Phase *f, bint channels_last, int threads) noexcept nogil:
    """How so many threads share a phase: as was settled for the plan's team, or made anew for another."""
    cdef Cut cut
    if threads == p.cut_threads:
        return p.cut[f - p.phase]
    cut.phase, cut.part, cut.parts = f[0], max(1, p.kout), 1
    cut.stretch, cut.shared, cut.pieces, cut.threads = 0, 0, 1, threads
    if threads > 1 and f.blocks * f.slices > 0:
        if channels_last:
            cut_pixels(p, &cut, threads)
        elif f.chunk == 1:
            cut_planes(p, &cut, threads)
    f = &cut.phase
    if channels_last:
        cut.workspace = rows_bytes(p, f)
        return cut
    cut.workspace = layout_bytes(p, f) + (min(cut.part, f.rows) * f.scratch_columns * p.itemsize if f.scratch else 0)
    if cut.parts > 1:
        share_panels(p, &cut, threads)
    else:
        cut.workspace += f.panels * f.panel_bytes
    cut.workspace = round_up(cut.workspace, CACHE_LINE)
    return cut
