"""Gradients of deformable convolution with respect to x, offset, weight, bias and mask.

The tiles of deformation.pyx pass in chunks, each in three steps that a team shares out:

    prepare     the points of every tile and offset group; grad_y with pixels and channels swapped
    produce     for a tile and part:  grad[k][p] = sum over f of w[f][k] grad_y[f][p],  the samples once more, and
                dots = sums over channels of grad * each of a point's four neighbours
    consume     grad_weight += grad_y x samples; grad_offset and grad_mask from the dots; grad_x by scattering grad,
                each task owning some channels of an image, so that no two write the same element

Chunks depend on the geometry alone, and every sum has one order, whatever the number of threads.
"""

import numpy as np

from cython.parallel cimport parallel, prange, threadid
from libc.string cimport memcpy
cimport numpy as cnp

from fastconv.kernels.arrays cimport contiguous, data
from fastconv.kernels.core cimport (
    CACHE_LINE,
    FASTCONV_MAX_ROWS,
    acquire,
    ceil_div,
    even_part,
    fastconv_gemm_tile,
    fastconv_grid,
    fastconv_points,
    fastconv_run,
    fegetenv,
    fenv_t,
    fesetenv,
    release,
    round_up,
    team,
)
from fastconv.kernels.deformable_chunk cimport (
    Call,
    Chunk,
    chunk_points,
    dots_bytes,
    extent_of,
    panel_of,
    points_of,
    swapped_tile,
)
from fastconv.kernels.deformable_scatter cimport scatter, scatter_bytes
from fastconv.kernels.deformable_weight cimport (
    pack_units,
    pack_weight,
    sum_bias,
    sum_weight,
    unpack_units,
    unpack_weight,
    weight_units,
)
from fastconv.kernels.deformation cimport (
    PANEL_BYTES,
    SHARED_BYTES,
    Deformation,
    Part,
    Problem,
    Segment,
    Tile,
    grid_at,
    grid_bytes,
    locate,
    points_in,
    sample,
    tile_at,
)

cnp.import_array()

ctypedef fused real:
    float
    double

ctypedef fused integer:
    int
    long long


# ------------------------------------------------------------------------------------------- prepare

cdef void find_extent(const Problem *p, Py_ssize_t count, const integer *pixel, Py_ssize_t *extent) noexcept nogil:
    cdef Py_ssize_t tap, i
    cdef integer low = pixel[0], high = pixel[0]
    for tap in range(p.taps):
        for i in range(count):
            low = min(low, pixel[tap * p.grid.lanes + i])
            high = max(high, pixel[tap * p.grid.lanes + i])
    extent[0], extent[1] = low, high


cdef void swap_grad_y(const Problem *p, const Call *call, const Tile *t, Py_ssize_t group, char *to) noexcept nogil:
    """channels_first: [pixel][f], padded to whole vectors; channels_last: [f][pixel]."""
    cdef Py_ssize_t outputs = p.groups * p.kout, at
    if p.channels_last:
        at = (t.n * p.pixels + t.q) * outputs + group * p.kout
        p.kernels.pack_matrix(to, p.rows, call.grad_y + at * p.itemsize, 1, outputs, p.kout, t.count)
    else:
        at = (t.n * outputs + group * p.kout) * p.pixels + t.q
        p.kernels.pack_matrix(to, p.ld, call.grad_y + at * p.itemsize, 1, p.pixels, t.count, p.kout)


cdef void prepare(const Problem *p, const Call *call, const Chunk *c, Py_ssize_t unit, char *workspace) noexcept nogil:
    cdef Py_ssize_t i = unit % c.count, which = unit // c.count
    cdef Tile t = tile_at(p, c.first + i)
    cdef char *points = NULL
    if which >= p.offset_groups:
        which -= p.offset_groups
        if c.swapped != NULL:
            swap_grad_y(p, call, &t, which, c.swapped + (which * p.chunk + i) * swapped_tile(p))
        return
    points = points_of(p, c, i, which)
    locate(p, &call.inputs, &t, which, workspace, points)
    if p.itemsize == 4:
        find_extent(p, t.count, <const int *> points, extent_of(p, points))
    else:
        find_extent(p, t.count, <const long long *> points, extent_of(p, points))


# ------------------------------------------------------------------------------------------ produce

cdef void gradients_by_rows(const Problem *p, const Call *call, const Tile *t, const Part *part, char *grads,
                            char *workspace) noexcept nogil:
    """channels_first: grads[channel][tap][NR] = transposed weight x grad_y."""
    cdef Py_ssize_t isz = p.itemsize, zero = 0, k, f = 0, i, rows = part.channels * p.taps
    cdef const char *grad_y = call.grad_y + ((t.n * p.groups + part.group) * p.kout * p.pixels) * isz
    cdef const char *weight = call.weight + part.channel * p.taps * p.kout * isz
    cdef const char *a[FASTCONV_MAX_ROWS]
    cdef char *c[FASTCONV_MAX_ROWS]
    cdef fastconv_run run = fastconv_run(t.q, 0, t.count, 1, 0)
    cdef fastconv_gemm_tile g
    g.entries, g.a, g.c, g.c_offset, g.epilogue = 1, a, c, 0, NULL
    g.b, g.b_offsets, g.ldb, g.columns = workspace, &zero, p.grid.lanes, <int> t.count
    while f < p.kout:
        g.k, g.a_offset, g.accumulate = min(p.fc, p.kout - f), f * isz, f > 0
        p.kernels.pack_runs(workspace, p.grid.lanes, p.grid.lanes, grad_y + f * p.pixels * isz, p.pixels, g.k, &run, 1,
                            NULL)
        k = 0
        while k < rows:
            g.rows = <int> min(even_part(rows - k, p.kernels.mr, 1), rows - k)
            for i in range(g.rows):
                a[i] = weight + (k + i) * p.kout * isz
                c[i] = grads + (k + i) * p.grid.lanes * isz
            g.prefetch, g.prefetch_step = a[0] + g.a_offset + g.rows * p.kout * isz, g.rows * isz
            p.kernels.gemm(&g)
            k += g.rows
        f += g.k


cdef void gradients_by_pixels(const Problem *p, const Call *call, const Tile *t, const Part *part,
                              char *grads) noexcept nogil:
    """channels_last: grads[pixel][tap][channel] = grad_y x weight."""
    cdef Py_ssize_t isz = p.itemsize, zero = 0, nr = p.kernels.nr, f = 0, q, panel, i, outputs = p.groups * p.kout
    cdef Py_ssize_t panels = ceil_div(part.channels, nr), channel
    cdef const char *grad_y = call.grad_y + ((t.n * p.pixels + t.q) * outputs + part.group * p.kout) * isz
    cdef const char *weight = call.weight + (part - p.part) * p.packed_part
    cdef const char *a[FASTCONV_MAX_ROWS]
    cdef char *c[FASTCONV_MAX_ROWS]
    cdef fastconv_gemm_tile g
    g.entries, g.a, g.c, g.epilogue, g.b_offsets, g.ldb = 1, a, c, NULL, &zero, nr
    while f < p.kout:
        g.k, g.a_offset, g.accumulate = min(p.fc, p.kout - f), f * isz, f > 0
        for panel in range(p.taps * panels):
            channel = panel % panels * nr
            g.b = weight + (panel * p.kout + f) * nr * isz
            g.columns = <int> min(nr, part.channels - channel)
            g.c_offset = (panel // panels * part.channels + channel) * isz
            q = 0
            while q < t.count:
                g.rows = <int> min(even_part(t.count - q, p.kernels.mr, 1), t.count - q)
                for i in range(g.rows):
                    a[i] = grad_y + (q + i) * outputs * isz
                    c[i] = grads + (q + i) * p.taps * part.channels * isz
                g.prefetch, g.prefetch_step = a[0], 0
                p.kernels.gemm(&g)
                q += g.rows
        f += g.k


cdef void produce(const Problem *p, const Call *call, const Chunk *c, Py_ssize_t unit, char *workspace) noexcept nogil:
    cdef Py_ssize_t i = unit % c.count, s
    cdef const Part *part = &p.part[unit // c.count]
    cdef Tile t = tile_at(p, c.first + i)
    cdef char *grads = c.grads + panel_of(p, part, i) if c.grads != NULL else NULL
    cdef char *samples = c.samples + panel_of(p, part, i) if c.samples != NULL else NULL
    cdef char *dots = NULL
    cdef fastconv_points points
    if grads != NULL and p.channels_last:
        gradients_by_pixels(p, call, &t, part, grads)
    elif grads != NULL:
        gradients_by_rows(p, call, &t, part, grads, workspace)
    if samples == NULL and c.dots == NULL:
        return
    for s in range(part.first, part.stop):
        points = points_in(p, &call.inputs, points_of(p, c, i, p.segment[s].offset_group), t.count)
        if c.dots != NULL:
            dots = c.dots + (s * p.chunk + i) * dots_bytes(p)
        sample(p, &call.inputs, &t, &p.segment[s], &points, samples, grads if c.dots != NULL else NULL, dots)


# ------------------------------------------------------------------------------------------ consume

cdef void differentiate_points(const Problem *p, const Call *call, const Chunk *c, Py_ssize_t i,
                               Py_ssize_t offset_group, char *workspace) noexcept nogil:
    """grad_offset and grad_mask of a tile and offset group."""
    cdef Tile t = tile_at(p, c.first + i)
    cdef fastconv_grid g = grid_at(p, &call.inputs, &t, offset_group, workspace)
    cdef fastconv_points points = chunk_points(p, call, c, c.first + i, offset_group)
    cdef Py_ssize_t first = p.first_segment[offset_group], parts = p.first_segment[offset_group + 1] - first
    cdef char *by_offset = workspace + grid_bytes(p)
    cdef char *by_mask = by_offset + 2 * p.taps * p.grid.lanes * p.itemsize
    p.kernels.point_gradients(&g, points.mask, c.dots + (first * p.chunk + i) * dots_bytes(p), parts,
                              p.chunk * dots_bytes(p) // p.itemsize, by_offset, by_mask)
    if call.grad_offset != NULL:
        paste_planar(p, &t, by_offset, offset_group, 2 * p.taps, call.grad_offset)
    if call.grad_mask != NULL:
        paste_planar(p, &t, by_mask, offset_group, p.taps, call.grad_mask)


cdef void paste_planar(const Problem *p, const Tile *t, const char *source, Py_ssize_t offset_group, Py_ssize_t count,
                       char *to) noexcept nogil:
    """source[count][lanes] to the channels that an offset group has in an array that lies as the output does."""
    cdef Py_ssize_t i, channels = count * p.offset_groups, first = count * offset_group, at
    if not p.channels_last:
        for i in range(count):
            at = (t.n * channels + first + i) * p.pixels + t.q
            memcpy(to + at * p.itemsize, source + i * p.grid.lanes * p.itemsize, t.count * p.itemsize)
        return
    at = (t.n * p.pixels + t.q) * channels + first
    if p.itemsize == 4:
        paste_rows(<float *> to + at, channels, <const float *> source, p.grid.lanes, t.count, count)
    else:
        paste_rows(<double *> to + at, channels, <const double *> source, p.grid.lanes, t.count, count)


cdef void paste_rows(real *to, Py_ssize_t channels, const real *source, Py_ssize_t lanes, Py_ssize_t pixels,
                     Py_ssize_t count) noexcept nogil:
    cdef Py_ssize_t i, j
    for i in range(pixels):
        for j in range(count):
            to[i * channels + j] = source[j * lanes + i]


cdef struct Tasks:              # of consume, in this order: the longest first
    Py_ssize_t scatter, weight, points, bias


cdef Tasks tasks_of(const Problem *p, const Call *call, const Chunk *c) noexcept nogil:
    cdef Py_ssize_t images = (c.first + c.count - 1) // p.tiles - c.first // p.tiles + 1
    return Tasks(
        images * p.blocks if call.grad_x != NULL else 0,
        weight_units(p) if call.grad_weight != NULL else 0,
        c.count * p.offset_groups if c.dots != NULL else 0,
        p.groups if call.grad_bias != NULL else 0,
    )


cdef Py_ssize_t consumers(const Problem *p, const Call *call, const Chunk *c) noexcept nogil:
    cdef Tasks n = tasks_of(p, call, c)
    return n.scatter + n.weight + n.points + n.bias


cdef void consume(const Problem *p, const Call *call, const Chunk *c, Py_ssize_t unit, char *workspace) noexcept nogil:
    cdef Tasks n = tasks_of(p, call, c)
    if unit < n.scatter:
        scatter(p, call, c, c.first // p.tiles + unit // p.blocks, &p.block[unit % p.blocks], workspace)
        return
    unit -= n.scatter
    if unit < n.weight:
        sum_weight(p, call, c, unit, workspace)
        return
    unit -= n.weight
    if unit < n.points:
        differentiate_points(p, call, c, unit // p.offset_groups, unit % p.offset_groups, workspace)
    else:
        sum_bias(p, call, c, unit - n.points, workspace)


cdef Chunk chunk_at(const Problem *p, const Chunk *buffers, Py_ssize_t i) noexcept nogil:
    cdef Chunk c = buffers[0]
    c.first = i * p.chunk
    c.count = min(p.chunk, p.batch * p.tiles - c.first)
    return c


cdef void run_alone(const Problem *p, const Call *call, const Chunk *buffers, char *workspace) noexcept nogil:
    """Everything by the calling thread, without the price of a team."""
    cdef Py_ssize_t unit, i
    cdef Chunk c
    for unit in range(pack_units(p, buffers)):
        pack_weight(p, call, unit)
    for i in range(ceil_div(p.batch * p.tiles, p.chunk)):
        c = chunk_at(p, buffers, i)
        for unit in range(c.count * (p.offset_groups + p.groups)):
            prepare(p, call, &c, unit, workspace)
        for unit in range(c.count * p.parts):
            produce(p, call, &c, unit, workspace)
        for unit in range(consumers(p, call, &c)):
            consume(p, call, &c, unit, workspace)
    for unit in range(unpack_units(p, call)):
        unpack_weight(p, call, unit)


cdef void run(const Problem *p, const Call *call, const Chunk *buffers, char *workspaces, Py_ssize_t workspace_bytes,
              int threads) noexcept nogil:
    """By a team, whose workers round as their caller does."""
    cdef fenv_t environment
    cdef char *workspace = NULL
    cdef Py_ssize_t unit, i = 0
    cdef Chunk c
    fegetenv(&environment)
    with parallel(num_threads=threads):
        fesetenv(&environment)
        workspace = workspaces + threadid() * workspace_bytes
        for unit in prange(pack_units(p, buffers)):
            pack_weight(p, call, unit)
        for i in range(ceil_div(p.batch * p.tiles, p.chunk)):
            c = chunk_at(p, buffers, i)
            for unit in prange(c.count * (p.offset_groups + p.groups), schedule="dynamic"):
                prepare(p, call, &c, unit, workspace)
            for unit in prange(c.count * p.parts, schedule="dynamic"):
                produce(p, call, &c, unit, workspace)
            for unit in prange(consumers(p, call, &c), schedule="dynamic"):
                consume(p, call, &c, unit, workspace)
        for unit in prange(unpack_units(p, call)):
            unpack_weight(p, call, unit)


cdef class DeformableGradients(Deformation):
    """The gradients of a deformable convolution, ready to be computed any number of times, from any thread."""

    cdef object ones

    def __init__(self, int dtype, geometry, Py_ssize_t offset_groups):
        super().__init__(dtype, geometry, offset_groups)
        cdef Problem *p = &self.problem
        cdef Py_ssize_t tiles = max(1, p.batch * p.tiles)
        self._cut_blocks()
        p.packed_part = round_up(p.part[0].channels, p.kernels.nr) * p.kout * p.taps * p.itemsize
        p.fc = max(1, PANEL_BYTES // (p.kernels.nr * p.itemsize))
        p.ld = round_up(p.kout, p.kernels.vlen)
        p.chunk = even_part(tiles, max(1, min(tiles, SHARED_BYTES // self._tile_bytes())), 1)
        self.ones = np.ones(max(p.rows, p.kernels.vlen), np.float64 if dtype else np.float32)

    cdef _cut_blocks(self):
        """Segments by cache lines of channels, which are scattered together; and those of each offset group."""
        cdef Problem *p = &self.problem
        line = CACHE_LINE // p.itemsize
        blocks = [
            (part, offset_group, a, min(line, channel + channels - a))
            for part, offset_group, channel, channels in self.segments
            for a in range(channel, channel + channels, line)
        ]
        firsts = np.searchsorted([segment[1] for segment in self.segments], range(p.offset_groups + 1))
        self.keep += [np.array(table, np.intp) for table in (blocks, firsts)]
        p.blocks = len(blocks)
        p.block = <const Segment *> cnp.PyArray_DATA(self.keep[2])
        p.first_segment = <const Py_ssize_t *> cnp.PyArray_DATA(self.keep[3])

    cdef Py_ssize_t _tile_bytes(self):
        cdef Problem *p = &self.problem
        return (p.offset_groups * p.points_bytes + p.groups * swapped_tile(p) + p.segments * dots_bytes(p)
                + 2 * p.groups * p.kin * p.taps * p.grid.lanes * p.itemsize)

    cdef Py_ssize_t _task_bytes(self):
        """The most that a task of prepare, produce or consume needs."""
        cdef Problem *p = &self.problem
        tasks = [
            grid_bytes(p) + 3 * p.taps * p.grid.lanes * p.itemsize,
            p.chunk * (FASTCONV_MAX_ROWS + 1) * sizeof(Py_ssize_t),
            scatter_bytes(p),
        ]
        if not p.channels_last:
            tasks.append((min(p.fc, p.kout) * p.grid.lanes + p.kernels.vlen) * p.itemsize)
        return round_up(max(tasks), CACHE_LINE)

    def workspace_bytes(self, int threads):
        """Scratch memory of a call for all gradients on so many threads."""
        return sum(self._buffers([True] * 5)) + threads * self._task_bytes()

    def __call__(self, grad_y, x, offset, mask, weight, need):
        """(grad_x, grad_offset, grad_weight, grad_bias, grad_mask), None where not needed.

        The arrays are of one dtype and checked by the caller; what is not C-contiguous is copied.
        """
        cdef Problem *p = &self.problem
        cdef Call call
        cdef Chunk c
        cdef int threads = team(self.work)
        cdef Py_ssize_t own = self._task_bytes()
        cdef char *memory = NULL
        cdef char *workspaces = NULL
        grad_y, x, offset, mask, weight = [contiguous(array) for array in (grad_y, x, offset, mask, weight)]
        shapes = (x.shape, offset.shape, weight.shape, weight.shape[:1], None if mask is None else mask.shape)
        wanted = [bool(n) and shape is not None for n, shape in zip(need, shapes)]
        grads = tuple([np.zeros(shape, x.dtype) if w else None for w, shape in zip(wanted, shapes)])
        if p.batch == 0 or not any(wanted):
            return grads
        self.set_inputs(&call.inputs, x, offset, mask)
        call.grad_y, call.filters, call.ones = data(grad_y), data(weight), data(self.ones)
        call.grad_x, call.grad_offset, call.grad_weight = data(grads[0]), data(grads[1]), data(grads[2])
        call.grad_bias, call.grad_mask = data(grads[3]), data(grads[4])
        sizes = self._buffers(wanted)
        try:
            memory = acquire(sum(sizes) + threads * own, 1)
            starts = [sum(sizes[:i]) if size else -1 for i, size in enumerate(sizes)]
            c.points, c.swapped = part_of(memory, starts[0]), part_of(memory, starts[1])
            c.grads, c.samples = part_of(memory, starts[2]), part_of(memory, starts[3])
            c.dots = part_of(memory, starts[4])
            call.weight, call.sums = part_of(memory, starts[5]), part_of(memory, starts[6])
            workspaces = memory + <Py_ssize_t> sum(sizes)
            with nogil:
                if threads == 1:
                    run_alone(p, &call, &c, workspaces)
                else:
                    run(p, &call, &c, workspaces, own, threads)
        finally:
            release(memory)
        return grads

    def _buffers(self, wanted):
        """Bytes of what a team shares: points, swapped grad_y, grads, samples, dots, packed weight, its gradient."""
        cdef Problem *p = &self.problem
        cdef Py_ssize_t width = p.rows if p.channels_last else p.grid.lanes
        cdef Py_ssize_t weights = p.groups * p.kout * p.kin * p.taps
        by_x, by_offset, by_weight, by_bias, by_mask = wanted
        panels = (p.groups * p.kin * p.taps * p.chunk * width + p.kernels.vlen) * p.itemsize
        packed = p.parts * p.packed_part if p.channels_last else weights * p.itemsize
        back = by_x or by_offset or by_mask
        sizes = (
            p.chunk * p.offset_groups * p.points_bytes,
            p.chunk * p.groups * swapped_tile(p) if by_weight or by_bias else 0,
            panels if back else 0,
            panels if by_weight else 0,
            p.chunk * p.segments * dots_bytes(p) if by_offset or by_mask else 0,
            packed if back else 0,
            weights * p.itemsize if by_weight else 0,
        )
        return [round_up(size, CACHE_LINE) for size in sizes]


cdef inline char *part_of(char *memory, Py_ssize_t start) noexcept:
    return NULL if start < 0 else memory + start
