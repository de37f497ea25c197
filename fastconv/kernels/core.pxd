"""What every macro-kernel leans on: the table of the current ISA, the team of threads, workspace."""

from libc.stdint cimport int64_t, uint32_t

cdef enum:
    CACHE_LINE = 64            # bytes; what threads write side by side shares none


cdef inline Py_ssize_t ceil_div(Py_ssize_t a, Py_ssize_t b) noexcept nogil:
    return (a + b - 1) // b


cdef inline Py_ssize_t round_up(Py_ssize_t size, Py_ssize_t unit) noexcept nogil:
    return ceil_div(size, unit) * unit


cdef inline Py_ssize_t even_part(Py_ssize_t total, Py_ssize_t limit, Py_ssize_t unit) noexcept nogil:
    """The size of a part when `total` is cut into equal parts of at most `limit`, in whole units."""
    return round_up(ceil_div(total, ceil_div(total, limit)), unit)


cdef extern from "<fenv.h>" nogil:
    ctypedef struct fenv_t:
        pass
    int fegetenv(fenv_t *env)
    int fesetenv(const fenv_t *env)

cdef extern from "threads.h" nogil:
    ctypedef struct fastconv_tasks:
        pass

cdef extern from "table.h" nogil:
    enum:
        FASTCONV_LIST_SLACK
        FASTCONV_MAX_ROWS
        FASTCONV_RELU
        FASTCONV_RELU6
        FASTCONV_LEAKY_RELU
        FASTCONV_ELU
        FASTCONV_SIGMOID
        FASTCONV_TANH
        FASTCONV_GELU
        FASTCONV_GELU_TANH
        FASTCONV_SILU
        FASTCONV_HARDSWISH

    ctypedef struct fastconv_epilogue:
        const char *scale
        const char *shift
        const char *const *residual
        int per_row
        double lower
        double upper
        bint stream

    ctypedef struct fastconv_gemm_tile:
        Py_ssize_t entries
        Py_ssize_t k
        const char *const *a
        Py_ssize_t a_offset
        const char *b
        const Py_ssize_t *b_offsets
        Py_ssize_t ldb
        char *const *c
        Py_ssize_t c_offset
        int rows
        int columns
        int accumulate
        const fastconv_epilogue *epilogue
        const char *prefetch
        Py_ssize_t prefetch_step

    ctypedef struct fastconv_gemm_rows:
        Py_ssize_t rows
        Py_ssize_t entries
        Py_ssize_t k
        const Py_ssize_t *a_offsets
        const char *a
        const char *b
        const char *residual
        char *c
        Py_ssize_t a_step
        Py_ssize_t c_step
        Py_ssize_t ldb
        int columns
        int accumulate
        const fastconv_epilogue *epilogue
        const char *prefetch
        Py_ssize_t prefetch_step

    ctypedef struct fastconv_pair:
        int a
        int b

    ctypedef struct fastconv_pairs_tile:
        Py_ssize_t count
        const fastconv_pair *pairs
        const char *a
        const char *b
        const char *prefetch
        char *c
        Py_ssize_t ldc
        Py_ssize_t prefetch_step
        int rows
        int vectors
        int accumulate

    ctypedef struct fastconv_run:
        Py_ssize_t start "from"
        Py_ssize_t to
        Py_ssize_t length
        Py_ssize_t step
        int masked

    ctypedef struct fastconv_piece:
        Py_ssize_t start "from"
        Py_ssize_t to
        Py_ssize_t length
        Py_ssize_t room

    ctypedef struct fastconv_response:
        double alpha, beta, k
        ptrdiff_t count, stride

    ctypedef struct fastconv_gate:
        const char *slope
        const char *shift
        const char *y
        char *kept
        double lower
        double upper

    ctypedef struct fastconv_affine:
        const fastconv_gate *gate
        char *dst
        const char *x
        const char *grad_y
        const char *mean
        const char *slope
        const char *shift
        const char *factor
        Py_ssize_t rows
        Py_ssize_t columns
        int per_row

    enum:
        FASTCONV_POOL_MAX
        FASTCONV_POOL_MEAN
        FASTCONV_POOL_SQUARE
        FASTCONV_POOL_POWER
        FASTCONV_POOL_SPREAD

    ctypedef struct fastconv_windows:
        Py_ssize_t size "in"
        Py_ssize_t out
        const int64_t *first
        const int64_t *count
        Py_ssize_t step
        Py_ssize_t stride
        Py_ssize_t before
        Py_ssize_t taps
        const char *scale

    ctypedef struct fastconv_pool:
        int kind
        Py_ssize_t channels
        fastconv_windows axis[3]
        double power
        double whole
        int apart
        int cover

    ctypedef struct fastconv_pool_rows:
        Py_ssize_t begin
        Py_ssize_t end
        Py_ssize_t channel
        Py_ssize_t channels
        const char *x
        char *y
        int64_t *indices
        const char *slope
        char *scratch

    ctypedef struct fastconv_grid:
        Py_ssize_t height
        Py_ssize_t width
        Py_ssize_t taps_y
        Py_ssize_t taps_x
        Py_ssize_t dilation_y
        Py_ssize_t dilation_x
        Py_ssize_t lanes
        Py_ssize_t count
        const char *origin
        const char *offset

    ctypedef struct fastconv_points:
        Py_ssize_t taps
        Py_ssize_t lanes
        Py_ssize_t count
        Py_ssize_t right
        Py_ssize_t below
        const char *pixel
        const char *weight
        const char *mask

    ctypedef struct fastconv_sampling:
        const char *x
        Py_ssize_t x_stride
        Py_ssize_t channels
        const char *zeros
        char *sample
        const char *grad
        Py_ssize_t stride
        Py_ssize_t tap_stride
        char *dots

    ctypedef struct fastconv_segment:
        Py_ssize_t x
        Py_ssize_t w

    ctypedef struct fastconv_tap_run:
        Py_ssize_t x
        Py_ssize_t w
        Py_ssize_t taps
        Py_ssize_t first
        Py_ssize_t end
        const Py_ssize_t *at

    ctypedef struct fastconv_depthwise:
        const char *x
        const char *w
        const char *shift
        char *y
        Py_ssize_t lanes
        Py_ssize_t w_across
        int exact
        Py_ssize_t lines
        Py_ssize_t y_line
        const fastconv_segment *segments
        const Py_ssize_t *ends
        const fastconv_tap_run *runs
        Py_ssize_t run_count
        Py_ssize_t count
        Py_ssize_t dilation
        Py_ssize_t x_unit
        Py_ssize_t x_step
        Py_ssize_t w_step
        Py_ssize_t y_step
        double lower
        double upper
        const char *ahead
        Py_ssize_t ahead_lines
        Py_ssize_t y_ahead

    ctypedef struct fastconv_depthwise_windows:
        Py_ssize_t lanes
        Py_ssize_t w_across
        Py_ssize_t rows
        Py_ssize_t columns
        Py_ssize_t stride
        Py_ssize_t top
        Py_ssize_t left
        Py_ssize_t height
        Py_ssize_t width
        Py_ssize_t x_row
        Py_ssize_t x_column
        Py_ssize_t y_row
        Py_ssize_t y_column
        Py_ssize_t w_row
        Py_ssize_t w_column
        Py_ssize_t channels
        Py_ssize_t w_channel
        const char *index

    ctypedef struct fastconv_depthwise_weight:
        const char *x
        const char *y
        char *w
        char *shift
        Py_ssize_t lanes
        Py_ssize_t w_across
        Py_ssize_t lines
        Py_ssize_t y_line
        const fastconv_segment *segments
        Py_ssize_t segment_count
        fastconv_tap_run run
        Py_ssize_t count
        Py_ssize_t dilation
        Py_ssize_t x_unit
        Py_ssize_t x_step
        Py_ssize_t w_step
        Py_ssize_t y_step

    ctypedef struct fastconv_grouped_run:
        Py_ssize_t x
        Py_ssize_t w
        Py_ssize_t taps
        uint32_t met

    enum:
        FASTCONV_BROADCAST
        FASTCONV_SPREAD
        FASTCONV_PERMUTED

    ctypedef struct fastconv_grouped:
        const char *x
        const char *w
        const char *shift
        char *y
        Py_ssize_t lanes
        int vectors
        int outputs
        int kind
        const char *index
        Py_ssize_t channels
        Py_ssize_t x_channel
        Py_ssize_t x_step
        Py_ssize_t y_step
        Py_ssize_t lines
        Py_ssize_t y_line
        const fastconv_segment *segments
        const Py_ssize_t *ends
        const fastconv_grouped_run *runs
        Py_ssize_t run_count
        double lower
        double upper

    ctypedef struct fastconv_spread:
        const char *x
        const char *end
        char *to
        Py_ssize_t to_channel
        Py_ssize_t channels
        Py_ssize_t columns
        const Py_ssize_t *start "from"
        const char *index
        Py_ssize_t elements
        Py_ssize_t ahead

    ctypedef struct fastconv_winograd_weight:
        int axes
        int depth
        int edge
        int taps[3]
        const Py_ssize_t *offsets
        Py_ssize_t stride
        Py_ssize_t point_stride

    ctypedef struct fastconv_winograd_pixels:
        int axes
        int depth
        int edge
        int outputs[3]
        Py_ssize_t channels
        const char *const *pixels
        Py_ssize_t offset
        char *const *destinations
        char *points
        Py_ssize_t point_stride

    ctypedef struct fastconv_winograd_planes:
        int axes
        int depth
        int edge
        int outputs[3]
        Py_ssize_t channels
        Py_ssize_t lanes
        const char *source
        char *destination
        Py_ssize_t plane_stride
        const fastconv_run *runs
        Py_ssize_t count
        const Py_ssize_t *whole
        char *points
        Py_ssize_t point_stride
        Py_ssize_t channel_stride

    ctypedef struct fastconv_kernels:
        int mr
        int nr
        int vlen
        int kr
        size_t storage_bytes
        size_t accumulate_bytes
        void (*gemm)(const fastconv_gemm_tile *tile) noexcept nogil
        void (*gemm_lines)(const fastconv_gemm_tile *tile) noexcept nogil
        void (*gemm_rows)(const fastconv_gemm_rows *rows) noexcept nogil
        void (*stream_end)() noexcept nogil
        int pairs_mr
        int pairs_nr
        void (*gemm_pairs)(const fastconv_pairs_tile *tile) noexcept nogil
        void (*pack_runs)(char *dst, Py_ssize_t ld, Py_ssize_t columns, const char *src, Py_ssize_t plane_stride,
                          Py_ssize_t planes, const fastconv_run *runs, Py_ssize_t count,
                          const char *mask) noexcept nogil
        void (*copy_matrix)(char *dst, Py_ssize_t ld, const char *src, Py_ssize_t row_stride, Py_ssize_t column_stride,
                            Py_ssize_t rows, Py_ssize_t columns) noexcept nogil
        void (*pack_matrix)(char *dst, Py_ssize_t ld, const char *src, Py_ssize_t row_stride, Py_ssize_t column_stride,
                            Py_ssize_t rows, Py_ssize_t columns) noexcept nogil
        void (*pack_pieces)(char *dst, Py_ssize_t ld, const char *src, Py_ssize_t step, Py_ssize_t rows,
                            const fastconv_piece *pieces, Py_ssize_t count) noexcept nogil
        void (*sum_rows)(char *dst, const char *src, Py_ssize_t ld, Py_ssize_t rows,
                         Py_ssize_t columns) noexcept nogil
        void (*add_clamped)(char *dst, const char *a, const char *b, Py_ssize_t n, double lower,
                            double upper) noexcept nogil
        void (*activate)(int kind, double alpha, char *dst, const char *src, Py_ssize_t n) noexcept nogil
        void (*activate_backward)(int kind, double alpha, char *dst, const char *grad_y, const char *saved,
                                  Py_ssize_t n) noexcept nogil
        void (*masked)(double scale, char *dst, const char *src, const char *mask, Py_ssize_t n) noexcept nogil
        void (*softmax)(int logarithm, double scale, char *dst, const char *src, Py_ssize_t n) noexcept nogil
        void (*softmax_backward)(int logarithm, char *dst, const char *grad_y, const char *y,
                                 Py_ssize_t n) noexcept nogil
        void (*log_sum_exp)(const char *src, Py_ssize_t n, double *peak, double *log_sum) noexcept nogil
        void (*moments)(const char *src, Py_ssize_t rows, Py_ssize_t columns, int per_row, double before, double *mean,
                        double *squares) noexcept nogil
        void (*products)(const fastconv_affine *block, double *sum, double *product) noexcept nogil
        void (*affine)(const fastconv_affine *block) noexcept nogil
        void (*response_norm)(char *dst, const char *src, const char *window, const fastconv_response *response,
                              ptrdiff_t n) noexcept nogil
        void (*response_terms)(char *direct, char *term, const char *grad_y, const char *src, const char *window,
                               const fastconv_response *response, ptrdiff_t n) noexcept nogil
        void (*response_sum)(char *dst, const char *src, const char *terms, const fastconv_response *response,
                             ptrdiff_t n) noexcept nogil
        void (*layer_norm)(char *dst, const char *src, const char *weight, const char *bias, double eps,
                           ptrdiff_t n) noexcept nogil
        void (*layer_norm_backward)(char *dst, const char *grad_y, const char *src, const char *weight, double eps,
                                    char *grad_weight, char *grad_bias, ptrdiff_t n) noexcept nogil
        void (*sgd)(double lr, double momentum, double gain, double weight_decay, int nesterov, char *weight,
                    const char *gradient, char *velocity, Py_ssize_t n) noexcept nogil
        void (*adam)(double rate, double beta1, double beta2, double correction, double eps, double weight_decay,
                     char *weight, const char *gradient, char *mean, char *square, Py_ssize_t n) noexcept nogil
        double (*probe_fma)(Py_ssize_t steps) noexcept nogil
        void (*probe_copy)(char *dst, const char *src, Py_ssize_t n) noexcept nogil
        void (*probe_stream)(char *dst, const char *src, Py_ssize_t n) noexcept nogil
        void (*pool)(const fastconv_pool *pool, const fastconv_pool_rows *rows) noexcept nogil
        size_t (*pool_scratch)(const fastconv_pool *pool) noexcept nogil
        int (*pool_route)(const fastconv_pool *pool, const fastconv_pool_rows *rows) noexcept nogil
        void (*times_power)(char *dst, const char *x, Py_ssize_t n, double power) noexcept nogil
        void (*locate_points)(const fastconv_grid *grid, char *pixel, char *weight) noexcept nogil
        void (*sample_planes)(const fastconv_points *points, const fastconv_sampling *sampling) noexcept nogil
        void (*sample_pixels)(const fastconv_points *points, const fastconv_sampling *sampling) noexcept nogil
        void (*scatter_pixels)(const fastconv_points *points, const fastconv_sampling *sampling,
                               char *grad_x) noexcept nogil
        void (*point_gradients)(const fastconv_grid *grid, const char *mask, const char *dots, Py_ssize_t parts,
                                Py_ssize_t part_stride, char *grad_offset, char *grad_mask) noexcept nogil
        int depthwise_outputs
        void (*depthwise)(const fastconv_depthwise *lines) noexcept nogil
        void (*depthwise_weight)(const fastconv_depthwise_weight *lines) noexcept nogil
        void (*depthwise_windows)(const fastconv_depthwise_windows *windows, const char *x, const char *w,
                                  const char *shift, char *y, double lower, double upper) noexcept nogil
        void (*depthwise_windows_spread)(const fastconv_depthwise_windows *windows, const char *x, const char *w,
                                         const char *shift, char *y, double lower, double upper) noexcept nogil
        void (*depthwise_windows_weight)(const fastconv_depthwise_windows *windows, const char *x, const char *y,
                                         char *w, char *shift) noexcept nogil
        int grouped_outputs[2][4]
        void (*grouped)(const fastconv_grouped *lines) noexcept nogil
        void (*spread)(const fastconv_spread *line) noexcept nogil
        void (*interleave)(char *dst, const char *src, Py_ssize_t ld, Py_ssize_t ways, Py_ssize_t total) noexcept nogil
        void (*sum_neighbours)(char *dst, const char *src, Py_ssize_t ways, Py_ssize_t count, double lower,
                               double upper) noexcept nogil
        void (*splat)(char *dst, const char *src, Py_ssize_t count) noexcept nogil
        void (*sum_vectors)(char *dst, const char *src, Py_ssize_t count) noexcept nogil
        void (*winograd_weight)(const fastconv_winograd_weight *w, const char *src, char *to,
                                Py_ssize_t n) noexcept nogil
        void (*winograd_input_pixels)(const fastconv_winograd_pixels *tile) noexcept nogil
        int (*winograd_output_pixels)(const fastconv_winograd_pixels *tile,
                                      const fastconv_epilogue *epilogue) noexcept nogil
        void (*winograd_input_planes)(const fastconv_winograd_planes *tiles) noexcept nogil
        int (*winograd_output_planes)(const fastconv_winograd_planes *tiles,
                                      const fastconv_epilogue *epilogue) noexcept nogil

# The table of the current ISA for a dtype: 0 is float32, 1 is float64.
cdef const fastconv_kernels *kernels(int dtype) noexcept nogil

# Threads for so much work; see threads.h.
cdef int team(double work) noexcept nogil

# Whether stores around the caches are the faster ones where no cache holds what is written; see isas.h.
cdef bint streams() noexcept nogil

# A team's tasks; see threads.h.
cdef void share_tasks(fastconv_tasks *tasks, Py_ssize_t count, int threads) noexcept nogil
cdef Py_ssize_t take_task(fastconv_tasks *tasks) noexcept nogil

# One block for a whole team, `bytes` a thread; raises MemoryError. Pair with release in a finally.
cdef char *acquire(size_t bytes_per_thread, int threads) except NULL
cdef void release(char *block) noexcept nogil
