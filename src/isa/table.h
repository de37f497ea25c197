/* The one contract between macro-kernels (Cython, no ISA) and microkernels (C, no loops of a convolution).
 *
 * One fastconv_kernels per ISA and dtype. Pointers are bytes (char *), so that a macro-kernel is compiled once
 * for both dtypes; sizes count elements unless a comment says bytes. Nothing need be aligned beyond its element.
 */
#ifndef FASTCONV_TABLE_H
#define FASTCONV_TABLE_H

#include <stddef.h>
#include <stdint.h>

#define FASTCONV_LIST_SLACK 16 /* elements behind a list that vectors of any ISA may read */
#define FASTCONV_MAX_ROWS 8    /* no ISA has a taller register tile */

enum { FASTCONV_F32 = 0, FASTCONV_F64 = 1, FASTCONV_DTYPES = 2 };

/* What happens to a finished sum before its only store: clamp(sum * scale + shift + residual, lower, upper). */
typedef struct {
  const char *scale;           /* factors, or NULL for 1 */
  const char *shift;           /* addends (bias), or NULL for 0 */
  const char *const *residual; /* as many pointers as there are to the destination, moved as these are; or NULL */
  int per_row;                 /* scale and shift run along the tile's rows (1) or along its columns (0) */
  double lower, upper;         /* -inf and inf where nothing is clamped; NaN passes */
  int stream;                  /* stored around the caches where a tile's vectors are whole and aligned (stream_end) */
} fastconv_epilogue;

/* One register tile of a batch-reduce GEMM:  c[i][j] (+)= sum over e, k of a[e][i][k] * b[e][k][j].
 *
 * a: row pointers a[e * FASTCONV_MAX_ROWS + i], each a run of k contiguous elements, moved by a_offset bytes.
 * b: entry e is at b + b_offsets[e] bytes: k rows of `columns` elements, ldb elements apart, each padded to whole
 *    vectors (the padding is read, its products are dropped).
 * gemm_lines has no entries: a is packed, a[0] pointing to [k][rows], and row k of b is at b + b_offsets[k] bytes.
 * c: row pointers moved by c_offset bytes; `columns` contiguous elements a row are written, and read when accumulate.
 */
typedef struct {
  ptrdiff_t entries, k;
  const char *const *a;
  ptrdiff_t a_offset;
  const char *b;
  const ptrdiff_t *b_offsets;
  ptrdiff_t ldb;
  char *const *c;
  ptrdiff_t c_offset;
  int rows, columns; /* 1 .. mr, 1 .. nr */
  int accumulate;
  const fastconv_epilogue *epilogue; /* NULL: the sum is partial and stored as it is */
  const char *prefetch;              /* what a later tile reads: a step of k brings prefetch_step bytes of it into L2 */
  ptrdiff_t prefetch_step;
} fastconv_gemm_tile;

/* Such tiles one below the other, for any number of rows that lie equally far apart: row i of entry e of a is at
 * a + a_offsets[e] + i * a_step bytes, of c at c + i * c_step, and what the epilogue's residual would point to, if not
 * NULL, at residual + i * c_step. The entries of b lie one behind the other. What is prefetched goes on from tile to
 * tile.
 */
typedef struct {
  ptrdiff_t rows, entries, k;
  const ptrdiff_t *a_offsets;
  const char *a, *b, *residual;
  char *c;
  ptrdiff_t a_step, c_step, ldb;
  int columns; /* 1 .. nr */
  int accumulate;
  const fastconv_epilogue *epilogue;
  const char *prefetch;
  ptrdiff_t prefetch_step;
} fastconv_gemm_rows;

/* One register tile of a sum of outer products:  c[i][j] += sum over p of a[p][i] * b[p][j].
 *
 * a[p]: `rows` contiguous elements at a + pairs[p].a bytes; b[p]: `vectors` whole vectors at b + pairs[p].b bytes.
 * c: rows of `vectors` whole vectors, ldc elements apart; the sum over all pairs, added to it if `accumulate`.
 * A line at prefetch, and at each prefetch_step bytes after it, is brought into L2 with each pair.
 */
typedef struct {
  int32_t a, b;
} fastconv_pair;

typedef struct {
  ptrdiff_t count;
  const fastconv_pair *pairs;
  const char *a, *b, *prefetch;
  char *c;
  ptrdiff_t ldc, prefetch_step;
  int rows, vectors; /* 1 .. pairs_mr, 1 .. pairs_nr / vlen */
  int accumulate;
} fastconv_pairs_tile;

/* Elements that a packed row takes from one stretch of a plane: dst[to + i] = plane[from + i * step], i < length. */
typedef struct {
  ptrdiff_t from, to, length, step;
  int masked; /* only where the row's mask is all ones; the other elements are zero. step is 1 */
} fastconv_run;

/* Elements copied from one place of a row to another, and how many from there on may be written at all. */
typedef struct {
  ptrdiff_t from, to, length, room;
} fastconv_piece;

enum {
  FASTCONV_RELU,
  FASTCONV_RELU6,
  FASTCONV_LEAKY_RELU,
  FASTCONV_ELU,
  FASTCONV_SIGMOID,
  FASTCONV_TANH,
  FASTCONV_GELU,
  FASTCONV_GELU_TANH,
  FASTCONV_SILU,
  FASTCONV_HARDSWISH
};

/* A gradient behind a clamp: grad_y is taken for 0 where (x - mean) * slope + shift, or y unless it is NULL, is not
 * between lower and upper. Sums over it also keep it, where y is given: y and kept are blocks as x. */
typedef struct {
  const char *slope, *shift, *y;
  char *kept;
  double lower, upper; /* NaN: no bound */
} fastconv_gate;

/* dst = (x - mean) * slope + shift, plus grad_y * factor unless grad_y is NULL: contiguous blocks [rows][columns]. The
 * values of a channel lie along the rows (per_row 1) or along the columns (0). gate may be NULL, dst x or grad_y. */
typedef struct {
  char *dst;
  const char *x, *grad_y;
  const char *mean, *slope, *shift, *factor;
  const fastconv_gate *gate;
  ptrdiff_t rows, columns;
  int per_row;
} fastconv_affine;

/* s = k + alpha * sum of the squares of `count` runs, `stride` elements from one to the next. */
typedef struct {
  double alpha, beta, k;
  ptrdiff_t count, stride;
} fastconv_response;

/* How a pool sees one axis: output o sees the inputs first[o] + t * step, t < count[o], those outside left out.
 *
 * stride > 0   with those outside, windows start at o * stride - before and have `taps` inputs
 * stride < 0   the adjoint of windows of that stride: output o sees the inputs (o + before - t) / -stride, t < taps,
 *              that are whole numbers; step is 1
 * stride = 0   nothing but the lists is known; first[o] and first[o] + count[o] never fall, step is 1
 *
 * No count[o] is above `taps`; those of an adjoint may be 0. */
typedef struct {
  ptrdiff_t in, out;
  const int64_t *first, *count; /* [out], and FASTCONV_LIST_SLACK more of any value */
  ptrdiff_t step, stride, before, taps;
  const char *scale; /* elements of the array's dtype; see the kinds below */
} fastconv_windows;

enum {
  FASTCONV_POOL_MAX,    /* NaN before all, the last of several; the first of equals */
  FASTCONV_POOL_MEAN,   /* sum / divisor, the product of scale[o] over the axes */
  FASTCONV_POOL_SQUARE, /* sqrt(sum of x * x * whole / divisor) */
  FASTCONV_POOL_POWER,  /* (sum of x ** power * whole / divisor) ** (1 / power) */
  FASTCONV_POOL_SPREAD, /* the adjoint of a mean: sum of x[i] * the product of scale[i] over the axes */
};

/* A pool over axes D, H, W (1 where there are fewer), of pixels of `channels` elements: one for channels_first. */
typedef struct {
  int kind;
  ptrdiff_t channels;
  fastconv_windows axis[3];
  double power, whole;
  int apart; /* no input is seen by two outputs */
  int cover; /* and each by one */
} fastconv_pool;

/* Output rows begin .. end - 1 of a pool, counted over [plane][D][H] (planes of channels_first, images of
 * channels_last); of each pixel, elements channel .. channel + channels - 1. */
typedef struct {
  ptrdiff_t begin, end, channel, channels;
  const char *x;     /* the whole input */
  char *y;           /* where row `begin` goes; and so for indices and slope */
  int64_t *indices;  /* of a maximum, flat in the plane; or NULL */
  const char *slope; /* or NULL; of a p-norm: y = slope * sum ** (1 / power - 1) in place of the root, 0 where sum is */
  char *scratch;     /* pool_scratch bytes, aligned to 64 */
} fastconv_pool_rows;

/* Where the taps of a tile of output pixels fall in an image: origin + tap * dilation + offset (see bilinear.h). */
typedef struct {
  ptrdiff_t height, width, taps_y, taps_x, dilation_y, dilation_x;
  ptrdiff_t lanes, count; /* points a tap: room for whole vectors, and those in use */
  const char *origin;     /* [2][lanes]: row and column of tap (0, 0); NaN from count on */
  const char *offset;     /* [taps][2][lanes]: of row and column */
} fastconv_grid;

/* The same points as squares of 2 x 2 pixels. */
typedef struct {
  ptrdiff_t taps, lanes, count;
  ptrdiff_t right,
      below;          /* pixels from the square's first to its second column and row; 0 where the image has but one */
  const char *pixel;  /* [taps][lanes] integers of the element's size: the square's first pixel in row-major order */
  const char *weight; /* [taps][4][lanes]; negative: the pixel does not count, whatever it holds */
  const char *mask;   /* [taps][lanes] factors, or NULL for ones */
} fastconv_points;

/* Channels that are sampled at points. Planes (pixels) of the image are x_stride apart; what belongs to a tap's point
 * and channel is at tap * tap_stride + channel * stride + point, or with pixels at tap * tap_stride + point * stride +
 * channel. */
typedef struct {
  const char *x;
  ptrdiff_t x_stride, channels;
  const char *zeros;            /* pixels: as many zeros as channels */
  char *sample;                 /* out: the image at the points, times mask; or NULL */
  const char *grad;             /* gradients of the samples; or NULL */
  ptrdiff_t stride, tap_stride; /* of sample and grad */
  char *dots;                   /* out, with grad: [taps][4][lanes] sums over channels of grad * pixel */
} fastconv_sampling;

/* Depthwise sums along lines. A line is a run of outputs `y_step` bytes apart, each a vector `lanes` wide: pixels of a
 * row with channels across (channels_last), or rows of a plane with columns across (channels_first). Output q is
 *   y[q] = clamp(shift + sum over segments e, runs r, u < taps of x[e][r][q + u * dilation] * w[e][r][u], lower,
 * upper), so all strides are 1 here: a stride's residues are runs of their own. Position i of a run is at x + segment.x
 * + run.x + i * x_step while first <= i < end; beyond, it is padding, or if `at` is not NULL it is at x + segment.x +
 * at[i] * x_unit. Tap u is at w + segment.w + run.w + u * w_step: a vector for each vector across. All of them bytes.
 */
typedef struct {
  ptrdiff_t x, w;
} fastconv_segment;

typedef struct {
  ptrdiff_t x, w, taps;
  ptrdiff_t first, end;
  const ptrdiff_t *at;
} fastconv_tap_run;

typedef struct {
  const char *x, *w, *shift; /* shift is laid out as a tap is, or NULL */
  char *y;
  ptrdiff_t lanes,
      w_across;            /* elements across; bytes from one vector's taps to the next one's, 0 if they are the same */
  int exact;               /* x ends with its lanes; otherwise a whole vector may be read */
  ptrdiff_t lines, y_line; /* lines are y_line bytes apart */
  const fastconv_segment *segments;
  const ptrdiff_t *ends; /* line i sums segments ends[i] .. ends[i + 1] */
  const fastconv_tap_run *runs;
  ptrdiff_t run_count;
  ptrdiff_t count, dilation; /* outputs of a line */
  ptrdiff_t x_unit, x_step, w_step, y_step;
  double lower, upper;
  const char *ahead; /* what a later call reads, of which each output brings ahead_lines cache lines into L2; or NULL */
  ptrdiff_t ahead_lines;
  ptrdiff_t y_ahead; /* bytes from an output to one of some blocks later, whose line is asked for; or 0 */
} fastconv_depthwise;

/* Depthwise windows of 3 x 3 taps, neighbours along both axes of planes of pixels with their lanes side by side: output
 * i, j meets x[top + i * stride + f][left + j * stride + u] and w[f][u], where x has that row and column. */
typedef struct {
  ptrdiff_t lanes, w_across;                  /* bytes from one vector of lanes to the next one's w, shift */
  ptrdiff_t rows, columns, stride;            /* outputs; stride: 1 or 2 */
  ptrdiff_t top, left, height, width;         /* first position and extent in x */
  ptrdiff_t x_row, x_column, y_row, y_column; /* bytes */
  ptrdiff_t w_row, w_column;
  ptrdiff_t channels, w_channel; /* weight gradient: of a group, and bytes from one's sums to the next one's */
  const char *index;             /* of the lane whose group's first channel each lane meets; NULL for depthwise */
} fastconv_depthwise_windows;

/* The weight gradient of the same lines, for one run: for every segment e and tap u of the call
 *   w[e][u] += sum over lines l, outputs q of y[l][q] * x[l][e][q + u * dilation].
 * segments[l * segment_count + e] is segment e of line l; its w is the same in all lines. */
typedef struct {
  const char *x, *y;
  char *w, *shift; /* shift += sum of y; either may be NULL */
  ptrdiff_t lanes, w_across;
  ptrdiff_t lines, y_line;
  const fastconv_segment *segments;
  ptrdiff_t segment_count;
  fastconv_tap_run run;
  ptrdiff_t count, dilation;
  ptrdiff_t x_unit, x_step, w_step, y_step;
} fastconv_depthwise_weight;

/* Sums of grouped convolutions along lines of pixels, for one unit: `vectors` vectors of neighbouring output channels.
 * Output p < `outputs` of a line is
 *   y[p] = clamp(shift + sum over segments e, runs r, channels i < channels, u < taps of x[e][r][i][p + u] *
 * w[e][r][i][u], lower, upper) with x at x + segment.x + run.x + i * x_channel + (p + u) * x_step, bytes, in one of
 * three kinds, the last two of one vector; and w at w + segment.w + run.w bytes, [channels][taps][vectors] vectors. */
enum {
  FASTCONV_BROADCAST, /* an element for all lanes */
  FASTCONV_SPREAD,    /* a vector; x_step is one */
  FASTCONV_PERMUTED,  /* a vector, of which lane l takes element index[l] + i; x_step is one, x_channel 0 */
};

typedef struct {
  ptrdiff_t x, w, taps; /* 1 .. 3 */
  uint32_t met;         /* bit p + u: that column counts; the others are padding and not read */
} fastconv_grouped_run;

typedef struct {
  const char *x, *w, *shift;
  char *y;
  ptrdiff_t lanes; /* output channels of the unit, which alone are stored */
  int vectors, outputs, kind;
  const char *index; /* [vlen] integers of the element's size */
  ptrdiff_t channels, x_channel, x_step, y_step;
  ptrdiff_t lines, y_line; /* lines are y_line bytes apart */
  const fastconv_segment *segments;
  const ptrdiff_t *ends; /* line i sums segments ends[i] .. ends[i + 1] */
  const fastconv_grouped_run *runs;
  ptrdiff_t run_count;
  double lower, upper;
} fastconv_grouped;

/* A packed line of them: lane l of the vector at to + i * to_channel + column vectors is the element index[l] + i of
 * those at x + from[column] bytes, for i < channels. Without index, the channels as they are, each column in whole
 * vectors, which may end with anything. Nothing where from[column] < 0. Nothing from `end` on is read. */
typedef struct {
  const char *x, *end;
  char *to;
  ptrdiff_t to_channel, channels, columns;
  const ptrdiff_t *from;
  const char *index;  /* [vlen] integers of the element's size */
  ptrdiff_t elements; /* the largest index, plus 1 */
  ptrdiff_t ahead;    /* bytes from an element to what a later line needs, which is prefetched */
} fastconv_spread;

/* The transforms of Winograd's filtering (winograd.c) along 1 to 3 axes: `edge` points each, 6 or of two axes 5, but
 * along the first of three `depth`, 6 or 4 (1 where there are fewer). What is listed by axis has three entries, those
 * before the first axis 1. A point's values are `point_stride` bytes apart from the next one's. */
typedef struct {
  int axes, depth, edge, taps[3];
  const ptrdiff_t *offsets; /* [taps]: elements from a kernel's start, in the order of the input; -1: a tap of 0 */
  ptrdiff_t stride;         /* elements between the kernels of neighbouring lanes */
  ptrdiff_t point_stride;
} fastconv_winograd_weight;

/* One tile of channels_last: lanes are channels. */
typedef struct {
  int axes, depth, edge, outputs[3];
  ptrdiff_t channels;
  const char *const *pixels; /* one for every point, a run of zeros where there is padding */
  ptrdiff_t offset;          /* bytes from each of them to the first channel */
  char *const *destinations; /* [outputs].., the first channel; NULL: not stored */
  char *points;
  ptrdiff_t point_stride;
} fastconv_winograd_pixels;

/* As many tiles of channels_first as a vector has elements, `lanes` of them in use. Their lines lie in a buffer, where
 * `runs` bring the source's elements to (or take the destination's from).
 *
 * With m outputs a tile along lines: buffer [lines][parts][m vectors], in which tiles follow each other. Input lines
 * have as many parts as their columns take: the tiles' first m, the next m and, if m is 2, the last. Output lines have
 * one. A part that is one run of the plane is used in place: it begins at whole[line][part], else -1. */
typedef struct {
  int axes, depth, edge, outputs[3];
  ptrdiff_t channels, lanes;
  const char *source;
  char *destination;
  ptrdiff_t plane_stride; /* elements */
  const fastconv_run *runs;
  ptrdiff_t count;
  const ptrdiff_t *whole;
  char *points;
  ptrdiff_t point_stride, channel_stride;
} fastconv_winograd_planes;

typedef struct {
  int mr, nr, vlen; /* register tile rows x columns, elements of a vector */
  int kr;           /* neighbouring k that one instruction sums: 1 here, 2 for bf16 pairs */
  size_t storage_bytes, accumulate_bytes;

  void (*gemm)(const fastconv_gemm_tile *tile);
  void (*gemm_lines)(const fastconv_gemm_tile *tile);
  void (*gemm_rows)(const fastconv_gemm_rows *rows);
  void (*stream_end)(void); /* puts streamed stores before those that follow */

  int pairs_mr, pairs_nr; /* gemm_pairs' tile */
  void (*gemm_pairs)(const fastconv_pairs_tile *tile);

  /* dst[k * ld .. k * ld + columns) = the runs of plane k of src, in the order of `to`, zeros between and behind them.
   * Planes are plane_stride apart; mask has an integer of the element's size for each column. */
  void (*pack_runs)(char *dst, ptrdiff_t ld, ptrdiff_t columns, const char *src, ptrdiff_t plane_stride,
                    ptrdiff_t planes, const fastconv_run *runs, ptrdiff_t count, const char *mask);

  /* dst[i * ld + j] = src[i * row_stride + j * column_stride] for i < rows, j < columns. */
  void (*copy_matrix)(char *dst, ptrdiff_t ld, const char *src, ptrdiff_t row_stride, ptrdiff_t column_stride,
                      ptrdiff_t rows, ptrdiff_t columns);

  /* The same, and zeros for columns <= j < ld. */
  void (*pack_matrix)(char *dst, ptrdiff_t ld, const char *src, ptrdiff_t row_stride, ptrdiff_t column_stride,
                      ptrdiff_t rows, ptrdiff_t columns);

  /* dst[i * ld + piece.to + j] = src[i * step + piece.from + j] for each piece in turn, i < rows, j < piece.length.
   * Reads up to a vector beyond every piece. */
  void (*pack_pieces)(char *dst, ptrdiff_t ld, const char *src, ptrdiff_t step, ptrdiff_t rows,
                      const fastconv_piece *pieces, ptrdiff_t count);

  /* dst[j] += sum over i < rows of src[i * ld + j] for j < columns, in an order that depends on `rows` alone. */
  void (*sum_rows)(char *dst, const char *src, ptrdiff_t ld, ptrdiff_t rows, ptrdiff_t columns);

  /* dst[i] = clamp(a[i] + b[i], lower, upper); NaN passes. dst may be a or b. */
  void (*add_clamped)(char *dst, const char *a, const char *b, ptrdiff_t n, double lower, double upper);

  /* dst[i] = f(src[i]) for one of the activations above, dst may be src. alpha: slope of leaky_relu, factor of elu. */
  void (*activate)(int kind, double alpha, char *dst, const char *src, ptrdiff_t n);

  /* dst[i] = grad_y[i] * f'; saved is y for relu, relu6, sigmoid and tanh, x for all others. dst may be
   * either. */
  void (*activate_backward)(int kind, double alpha, char *dst, const char *grad_y, const char *saved, ptrdiff_t n);

  /* dst[i] = src[i] * scale where the byte mask[i] is not 0, else 0; dst may be src. */
  void (*masked)(double scale, char *dst, const char *src, const char *mask, ptrdiff_t n);

  /* A row of n >= 1: dst = scale * softmax(src), or its logarithm (then scale is not used); dst may be src. */
  void (*softmax)(int logarithm, double scale, char *dst, const char *src, ptrdiff_t n);
  void (*softmax_backward)(int logarithm, char *dst, const char *grad_y, const char *y, ptrdiff_t n);

  /* log(sum of exp(src[i])) = *peak + *log_sum, where *peak is the largest element. */
  void (*log_sum_exp)(const char *src, ptrdiff_t n, double *peak, double *log_sum);

  /* Merges a block [rows][columns] into each channel's mean and sum of squared deviations, of `before` values so far.
   */
  void (*moments)(const char *src, ptrdiff_t rows, ptrdiff_t columns, int per_row, double before, double *mean,
                  double *squares);

  /* Adds a block's sum of grad_y and of grad_y * (x - mean) to those of each channel. */
  void (*products)(const fastconv_affine *block, double *sum, double *product);

  void (*affine)(const fastconv_affine *block);

  /* A row of n >= 1: dst = (src - mean) / sqrt(var + eps) * weight + bias; weight and bias may be NULL. dst may be src.
   */
  void (*layer_norm)(char *dst, const char *src, const char *weight, const char *bias, double eps, ptrdiff_t n);

  /* dst is the gradient by src, and may be grad_y or src; those by weight and bias are added to what is there, or left
   * out where NULL. */
  void (*layer_norm_backward)(char *dst, const char *grad_y, const char *src, const char *weight, double eps,
                              char *grad_weight, char *grad_bias, ptrdiff_t n);

  /* dst[i] = src[i] * s[i]^-beta for i < n, s being that of the runs from `window` on. */
  void (*response_norm)(char *dst, const char *src, const char *window, const fastconv_response *response, ptrdiff_t n);

  /* Its derivative in two steps: direct[i] = grad_y[i] * s[i]^-beta and term[i] = direct[i] * src[i] / s[i]; then
   * dst[i] -= 2 alpha beta src[i] * sum of the terms of the channels that see this one, which are runs from `terms` on.
   */
  void (*response_terms)(char *direct, char *term, const char *grad_y, const char *src, const char *window,
                         const fastconv_response *response, ptrdiff_t n);
  void (*response_sum)(char *dst, const char *src, const char *terms, const fastconv_response *response, ptrdiff_t n);

  /* Steps of optim.py's SGD and Adam on n elements, see rowwise.pyx. */
  void (*sgd)(double lr, double momentum, double gain, double weight_decay, int nesterov, char *weight,
              const char *gradient, char *velocity, ptrdiff_t n);
  void (*adam)(double rate, double beta1, double beta2, double correction, double eps, double weight_decay,
               char *weight, const char *gradient, char *mean, char *square, ptrdiff_t n);

  /* Ceilings for benchmarks, see probe.c. */
  double (*probe_fma)(ptrdiff_t steps);
  void (*probe_copy)(char *dst, const char *src, ptrdiff_t n);
  void (*probe_stream)(char *dst, const char *src, ptrdiff_t n);

  /* A maximum with indices needs planes below 2^31 elements where the dtype has 32 bits. */
  void (*pool)(const fastconv_pool *pool, const fastconv_pool_rows *rows);
  size_t (*pool_scratch)(const fastconv_pool *pool);

  /* The adjoint of a maximum: rows of grad_y (x, from row `begin` on) to the elements of grad_x (y, the whole) that
   * `indices` name. Rows of one plane come in order; each call zeroes the part of grad_x that its rows reach first,
   * that of the last row the rest. Indices outside of the plane are left out; returns whether there were any. */
  int (*pool_route)(const fastconv_pool *pool, const fastconv_pool_rows *rows);

  /* dst[i] *= x[i] ** power */
  void (*times_power)(char *dst, const char *x, ptrdiff_t n, double power);

  /* Points from a grid: pixel and weight as fastconv_points has them, for whole vectors of points. */
  void (*locate_points)(const fastconv_grid *grid, char *pixel, char *weight);

  void (*sample_planes)(const fastconv_points *points,
                        const fastconv_sampling *sampling); /* reads whole vectors of points */
  void (*sample_pixels)(const fastconv_points *points, const fastconv_sampling *sampling);

  /* grad_x[pixel * x_stride + channel] += weight * mask * grad, point after point of a tap, tap after tap. */
  void (*scatter_pixels)(const fastconv_points *points, const fastconv_sampling *sampling, char *grad_x);

  /* Gradients by offset [taps][2][lanes] and mask [taps][lanes] (either may be NULL) from `parts` dots, part_stride
   * elements apart, which are added in order. */
  void (*point_gradients)(const fastconv_grid *grid, const char *mask, const char *dots, ptrdiff_t parts,
                          ptrdiff_t part_stride, char *grad_offset, char *grad_mask);

  int depthwise_outputs; /* of a line that are summed at once */
  void (*depthwise)(const fastconv_depthwise *lines);
  void (*depthwise_weight)(const fastconv_depthwise_weight *lines);

  /* From x's pixel 0, 0: y = clamp(shift + sums of x * w, lower, upper), of two rows and columns at least;
   * for stride 2, y likewise of the windows' gradients x, where rows and columns are those of pixels, top and left
   * the first one's from the padding's edge; and w += sums of x * y, shift += sums of y. shift may be NULL, and w of
   * the last. */
  void (*depthwise_windows)(const fastconv_depthwise_windows *windows, const char *x, const char *w, const char *shift,
                            char *y, double lower, double upper);
  void (*depthwise_windows_spread)(const fastconv_depthwise_windows *windows, const char *x, const char *w,
                                   const char *shift, char *y, double lower, double upper);
  void (*depthwise_windows_weight)(const fastconv_depthwise_windows *windows, const char *x, const char *y, char *w,
                                   char *shift);

  int grouped_outputs[2][4]; /* of a line's sums, falling, by vectors - 1; the last is 1 */
  void (*grouped)(const fastconv_grouped *lines);
  void (*spread)(const fastconv_spread *line);

  /* dst[i * ways + j] = src[j * ld + i], up to `total` elements of dst. */
  void (*interleave)(char *dst, const char *src, ptrdiff_t ld, ptrdiff_t ways, ptrdiff_t total);

  /* dst[i] = clamp(sum of src[i * ways + j] over j < ways, lower, upper). */
  void (*sum_neighbours)(char *dst, const char *src, ptrdiff_t ways, ptrdiff_t count, double lower, double upper);

  /* Vector i of dst = src[i] in every lane; dst[i] = the sum of vector i's lanes. */
  void (*splat)(char *dst, const char *src, ptrdiff_t count);
  void (*sum_vectors)(char *dst, const char *src, ptrdiff_t count);
  /* Points of n kernels, lane by lane. */
  void (*winograd_weight)(const fastconv_winograd_weight *w, const char *from, char *to, ptrdiff_t n);

  /* Points from the input; and the output from sums of products, with shift and clamp, 1 if it held Inf or NaN. */
  void (*winograd_input_pixels)(const fastconv_winograd_pixels *tile);
  int (*winograd_output_pixels)(const fastconv_winograd_pixels *tile, const fastconv_epilogue *epilogue);
  void (*winograd_input_planes)(const fastconv_winograd_planes *tiles);
  int (*winograd_output_planes)(const fastconv_winograd_planes *tiles, const fastconv_epilogue *epilogue);
} fastconv_kernels;

#endif
