"""Deformable convolution, forward: bilinear samples go straight into the panels that the GEMM tile reads.

    y[n][f][p] = epilogue( sum over channels c, taps t of  w[f][c][t] * sample[c][t][p] )

The panels are described in deformation.pyx. channels_first multiplies rows of the weight, where they are, by panels;
channels_last multiplies panels by the weight, packed [part][panel of f][tap][channel][NR].
"""

from cython.parallel cimport parallel, prange, threadid
from libc.math cimport INFINITY
from libc.string cimport memset
cimport numpy as cnp

from fastconv.kernels.arrays cimport contiguous, data
from fastconv.kernels.core cimport (
    FASTCONV_MAX_ROWS,
    acquire,
    ceil_div,
    even_part,
    fastconv_epilogue,
    fastconv_gemm_tile,
    fastconv_points,
    fegetenv,
    fenv_t,
    fesetenv,
    release,
    round_up,
    team,
)
from fastconv.kernels.deformation cimport (
    SHARED_BYTES,
    Deformation,
    Inputs,
    Part,
    Problem,
    Tile,
    grid_bytes,
    locate,
    points_in,
    sample,
    tile_at,
)

cnp.import_array()

cdef enum:
    TASKS = 4                       # tasks a thread that make for an even load; with fewer tiles the rows are cut, too

cdef struct Cut:                # how the work is shared out: free to follow the number of threads, no sum depends on it
    Py_ssize_t rows, parts      # output channels a task, and into how many tasks that cuts them
    Py_ssize_t stretch          # tiles whose panels all threads fill together before they share the rows out; or 0

cdef struct Call:
    Inputs inputs
    const char *filters         # the weight as it is given
    char *weight                # packed, channels_last
    char *y
    fastconv_epilogue epilogue
    int activation              # applied to finished tiles while they are in L1, or -1
    double alpha


cdef void fill_panel(const Problem *p, const Call *call, const Tile *t, Py_ssize_t part, Py_ssize_t *located,
                     char *workspace, char *panel) noexcept nogil:
    """A part's samples; the points of offset group `located` are in the workspace already."""
    cdef char *points = workspace + grid_bytes(p)
    cdef fastconv_points v = points_in(p, &call.inputs, points, t.count)
    cdef Py_ssize_t i
    for i in range(p.part[part].first, p.part[part].stop):
        if located[0] != p.segment[i].offset_group:
            located[0] = p.segment[i].offset_group
            locate(p, &call.inputs, t, located[0], workspace, points)
        sample(p, &call.inputs, t, &p.segment[i], &v, panel, NULL, NULL)


cdef void activate_tile(const Problem *p, const Call *call, const fastconv_gemm_tile *t) noexcept nogil:
    cdef int i
    if t.epilogue != NULL and call.activation >= 0:
        for i in range(t.rows):
            p.kernels.activate(call.activation, call.alpha, t.c[i] + t.c_offset, t.c[i] + t.c_offset, t.columns)


cdef void rows_by_panel(const Problem *p, const Call *call, const Tile *t, const Part *part, Py_ssize_t row,
                        Py_ssize_t stop, const char *panel) noexcept nogil:
    """channels_first: y[row .. stop][pixels of the tile] (+)= weight rows x panel."""
    cdef Py_ssize_t isz = p.itemsize, zero = 0, i, k = p.kin * p.taps, first = part.group * p.kout
    cdef Py_ssize_t done = part.channel - part.group * p.kin
    cdef char *y = call.y + (t.n * p.groups * p.kout * p.pixels + t.q) * isz
    cdef const char *a[FASTCONV_MAX_ROWS]
    cdef char *c[FASTCONV_MAX_ROWS]
    cdef fastconv_epilogue epilogue = call.epilogue
    cdef fastconv_gemm_tile g
    g.entries, g.k, g.a, g.a_offset, g.c, g.c_offset = 1, part.channels * p.taps, a, 0, c, 0
    g.b, g.b_offsets, g.ldb, g.columns, g.accumulate = panel, &zero, p.grid.lanes, <int> t.count, done > 0
    g.epilogue = &epilogue if done + part.channels == p.kin else NULL
    while row < stop:
        g.rows = <int> min(even_part(stop - row, p.kernels.mr, 1), stop - row)
        for i in range(g.rows):
            a[i] = call.filters + ((first + row + i) * k + done * p.taps) * isz
            c[i] = y + (first + row + i) * p.pixels * isz
        if call.epilogue.shift != NULL:
            epilogue.shift = call.epilogue.shift + (first + row) * isz
        g.prefetch, g.prefetch_step = a[0] + g.rows * k * isz, g.rows * isz
        p.kernels.gemm(&g)
        activate_tile(p, call, &g)
        row += g.rows


cdef void pixels_by_panel(const Problem *p, const Call *call, const Tile *t, const Part *part, Py_ssize_t column,
                          Py_ssize_t stop, const char *panel) noexcept nogil:
    """channels_last: y[pixels of the tile][column .. stop] (+)= rows of samples x weight panels."""
    cdef Py_ssize_t isz = p.itemsize, zero = 0, i, q, nr = p.kernels.nr, first = part.group * p.kout
    cdef Py_ssize_t done = part.channel - part.group * p.kin
    cdef const char *weight = call.weight + (part - p.part) * p.packed_part
    cdef char *y = call.y + ((t.n * p.pixels + t.q) * p.groups * p.kout + first) * isz
    cdef const char *a[FASTCONV_MAX_ROWS]
    cdef char *c[FASTCONV_MAX_ROWS]
    cdef fastconv_epilogue epilogue = call.epilogue
    cdef fastconv_gemm_tile g
    g.entries, g.k, g.a, g.a_offset, g.c = 1, part.channels * p.taps, a, 0, c
    g.b_offsets, g.ldb, g.accumulate = &zero, nr, done > 0
    g.epilogue = &epilogue if done + part.channels == p.kin else NULL
    while column < stop:
        g.columns, g.c_offset = <int> min(nr, stop - column), column * isz
        g.b = weight + column * g.k * isz
        if call.epilogue.shift != NULL:
            epilogue.shift = call.epilogue.shift + (first + column) * isz
        q = 0
        while q < t.count:
            g.rows = <int> min(even_part(t.count - q, p.kernels.mr, 1), t.count - q)
            for i in range(g.rows):
                a[i] = panel + (q + i) * g.k * isz
                c[i] = y + (q + i) * p.groups * p.kout * isz
            g.prefetch, g.prefetch_step = a[0] + g.rows * g.k * isz, g.rows * isz
            p.kernels.gemm(&g)
            activate_tile(p, call, &g)
            q += g.rows
        column += nr


cdef void forward_task(const Problem *p, const Call *call, Cut cut, Py_ssize_t unit, Py_ssize_t rows,
                       const char *shared, char *workspace) noexcept nogil:
    """One tile, one group, one part of its output channels; `shared` are its panels, or NULL to fill them here."""
    cdef Tile t = tile_at(p, unit // p.groups)
    cdef Py_ssize_t group = unit % p.groups, located = -1, i
    cdef Py_ssize_t row = rows * cut.rows, stop = min(p.kout, row + cut.rows)
    cdef const Part *part = NULL
    cdef const char *panel = NULL
    cdef char *own = workspace + grid_bytes(p) + p.points_bytes
    for i in range(p.parts_a_group):
        part = &p.part[group * p.parts_a_group + i]
        panel = shared + i * p.panel_bytes
        if shared == NULL:
            fill_panel(p, call, &t, part - p.part, &located, workspace, own)
            panel = own
        if p.channels_last:
            pixels_by_panel(p, call, &t, part, row, stop, panel)
        else:
            rows_by_panel(p, call, &t, part, row, stop, panel)


cdef void forward_panel(const Problem *p, const Call *call, Py_ssize_t unit, Py_ssize_t part, char *panel,
                        char *workspace) noexcept nogil:
    cdef Tile t = tile_at(p, unit // p.groups)
    cdef Py_ssize_t located = -1
    fill_panel(p, call, &t, unit % p.groups * p.parts_a_group + part, &located, workspace, panel)


cdef Cut cut_for(const Problem *p, int threads) noexcept nogil:
    """All rows a task where there are tiles enough; else parts of them, of panels filled once for all."""
    cdef Py_ssize_t tasks = max(1, p.batch * p.tiles * p.groups)
    cdef Py_ssize_t unit = p.kernels.nr if p.channels_last else p.kernels.mr
    cdef Cut cut
    cut.parts = 1 if threads == 1 else max(1, min(ceil_div(TASKS * threads, tasks), p.kout // (4 * p.kernels.mr)))
    cut.rows = even_part(p.kout, ceil_div(p.kout, cut.parts), unit)
    cut.parts = ceil_div(p.kout, cut.rows)
    cut.stretch = max(1, min(tasks, SHARED_BYTES // (p.parts_a_group * p.panel_bytes))) if cut.parts > 1 else 0
    return cut


cdef Py_ssize_t shared_bytes(const Problem *p, Cut cut) noexcept nogil:
    return cut.stretch * p.parts_a_group * p.panel_bytes


cdef Py_ssize_t forward_bytes(const Problem *p, Cut cut) noexcept nogil:
    return grid_bytes(p) + p.points_bytes + (p.panel_bytes if cut.stretch == 0 else 0)


cdef Py_ssize_t packed_bytes(const Problem *p) noexcept nogil:
    return p.parts * p.packed_part if p.channels_last else 0


cdef Py_ssize_t pack_units(const Problem *p) noexcept nogil:
    return p.parts * ceil_div(p.kout, p.kernels.nr) if p.channels_last else 0


cdef void run_alone(const Problem *p, const Call *call, char *workspace) noexcept nogil:
    """Everything by the calling thread, without the price of a team."""
    cdef Py_ssize_t unit
    cdef Cut cut = cut_for(p, 1)
    for unit in range(pack_units(p)):
        pack_columns(p, call, unit)
    for unit in range(p.batch * p.tiles * p.groups):
        forward_task(p, call, cut, unit, 0, NULL, workspace)


cdef void run(const Problem *p, const Call *call, char *shared, char *workspaces, Py_ssize_t workspace_bytes,
              int threads) noexcept nogil:
    """By a team, whose workers round as their caller does."""
    cdef fenv_t environment
    cdef char *workspace = NULL
    cdef Py_ssize_t units = p.batch * p.tiles * p.groups, panels = p.parts_a_group, unit, s = 0, first = 0, count = 0
    cdef Cut cut = cut_for(p, threads)
    fegetenv(&environment)
    with parallel(num_threads=threads):
        fesetenv(&environment)
        workspace = workspaces + threadid() * workspace_bytes
        for unit in prange(pack_units(p)):
            pack_columns(p, call, unit)
        if cut.stretch == 0:
            for unit in prange(units, schedule="dynamic"):
                forward_task(p, call, cut, unit, 0, NULL, workspace)
        else:
            for s in range(ceil_div(units, cut.stretch)):
                first = s * cut.stretch
                count = min(cut.stretch, units - first)
                for unit in prange(count * panels, schedule="dynamic"):
                    forward_panel(p, call, first + unit // panels, unit % panels, shared + unit * p.panel_bytes,
                                  workspace)
                for unit in prange(count * cut.parts, schedule="dynamic"):
                    forward_task(p, call, cut, first + unit // cut.parts, unit % cut.parts,
                                 shared + unit // cut.parts * panels * p.panel_bytes, workspace)


cdef void pack_columns(const Problem *p, const Call *call, Py_ssize_t unit) noexcept nogil:
    """channels_last: weight[part][panel of f][tap][channel][NR] from filters[C_out][channel][tap]."""
    cdef Py_ssize_t nr = p.kernels.nr, isz = p.itemsize, panels = ceil_div(p.kout, nr), tap, f = unit % panels * nr, at
    cdef const Part *part = &p.part[unit // panels]
    cdef char *to = call.weight + (part - p.part) * p.packed_part + f * part.channels * p.taps * isz
    at = ((part.group * p.kout + f) * p.kin + part.channel - part.group * p.kin) * p.taps
    for tap in range(p.taps):
        p.kernels.pack_matrix(to + tap * part.channels * nr * isz, nr, call.filters + (at + tap) * isz, p.taps,
                              p.kin * p.taps, part.channels, min(nr, p.kout - f))


cdef class DeformablePlan(Deformation):
    """A deformable convolution, ready to run any number of times, from any thread."""

    def __init__(self, int dtype, geometry, Py_ssize_t offset_groups):
        super().__init__(dtype, geometry, offset_groups)
        cdef Problem *p = &self.problem
        p.packed_part = round_up(p.kout, p.kernels.nr) * p.part[0].channels * p.taps * p.itemsize

    def workspace_bytes(self, int threads):
        """Scratch memory of a call on so many threads."""
        cdef Problem *p = &self.problem
        cdef Cut cut = cut_for(p, threads)
        return packed_bytes(p) + shared_bytes(p, cut) + threads * forward_bytes(p, cut)

    def __call__(self, x, offset, mask, weight, bias, cnp.ndarray y, double lower=-INFINITY, double upper=INFINITY,
                 int activation=-1, double alpha=0):
        """y = activation(clamp(convolution + bias, lower, upper)); `activation` is one of table.h, or -1 for none.

        The arrays are of one dtype and checked by the caller; what is not C-contiguous is copied, but for y.
        """
        cdef Problem *p = &self.problem
        cdef int threads = team(self.work)
        cdef Cut cut = cut_for(p, threads)
        cdef Py_ssize_t own = forward_bytes(p, cut), shared = shared_bytes(p, cut)
        cdef Py_ssize_t packed = packed_bytes(p)
        cdef Call call
        cdef char *memory = NULL
        x, offset, mask, weight, bias = [contiguous(array) for array in (x, offset, mask, weight, bias)]
        memset(&call, 0, sizeof(Call))
        self.set_inputs(&call.inputs, x, offset, mask)
        call.y, call.epilogue.shift = data(y), data(bias)
        call.epilogue.per_row, call.epilogue.lower, call.epilogue.upper = not p.channels_last, lower, upper
        call.activation, call.alpha = activation, alpha
        call.filters = data(weight)
        try:
            memory = acquire(packed + shared + threads * own, 1)
            call.weight = memory
            with nogil:
                if threads == 1:
                    run_alone(p, &call, memory + packed + shared)
                else:
                    run(p, &call, memory + packed, memory + packed + shared, own, threads)
        finally:
            release(memory)
