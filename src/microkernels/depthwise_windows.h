/* Windows of 3 x 3 taps over pixels whose channels lie side by side.
 *
 * A block of R x P outputs keeps its sums and all nine taps of a vector of channels in registers. Each x is loaded once
 * for up to min(R, 3) x min(P, 3) products: 4 x 2 outputs take 24 loads for 72, where a line of eight takes 39. The
 * channels of a block follow each other, so x is read as a few streams that hardware foresees.
 * Sums are those of depthwise_lines.h, in its order: columns by their residue of the stride, rows, columns.
 */
#if VEC_REGISTERS == 32
#define WINDOW_ROWS 4 /* 8 sums + 9 taps + 1 */
#else
#define WINDOW_ROWS 2 /* 4 sums + 9 taps + 1 */
#endif
#define WINDOW_COLUMNS 2

/* The source rows, or columns, of a block of so many outputs. */
#define WINDOW_SOURCES(outputs, S) (((outputs) - 1) * (S) + 3)

/* A block of a vector of lanes: which of x's rows and columns there are, bit by bit. */
typedef struct {
  ptrdiff_t n; /* lanes left, which may be more than a vector's */
  uint32_t rows, columns;
} NAME(window_edges);

/* Bit i < count is set if position first + i is one of `size`. */
INLINE uint32_t NAME(met)(ptrdiff_t first, ptrdiff_t size, int count) {
  const ptrdiff_t low = first < 0 ? -first : 0, high = size - first < count ? size - first : count;
  return high > low ? ((uint32_t)1 << high) - ((uint32_t)1 << low) : 0;
}

INLINE NAME(window_edges) NAME(edges_at)(const fastconv_depthwise_windows *d, ptrdiff_t row, ptrdiff_t column,
                                         const int R, const int P, const int S) {
  return (NAME(window_edges)){d->lanes, NAME(met)(d->top + row * S, d->height, WINDOW_SOURCES(R, S)),
                              NAME(met)(d->left + column * S, d->width, WINDOW_SOURCES(P, S))};
}

INLINE int NAME(is_inner)(const fastconv_depthwise_windows *d, ptrdiff_t row, ptrdiff_t column, const int R,
                          const int P, const int S) {
  const ptrdiff_t top = d->top + row * S, left = d->left + column * S;
  return top >= 0 && left >= 0 && top + WINDOW_SOURCES(R, S) <= d->height && left + WINDOW_SOURCES(P, S) <= d->width;
}

/* The first pixel of x that output row, column meets, which there may not be. */
INLINE const real *NAME(window_at)(const fastconv_depthwise_windows *d, const char *x, ptrdiff_t row, ptrdiff_t column,
                                   const int S) {
  return AT(x, (d->top + row * S) * d->x_row + (d->left + column * S) * d->x_column);
}

/* USE(output, tap, v) for every product of a block, v being LOAD of a vector of x, once: columns by
 * their residue of the stride, rows, columns. Without `all`, for those that there are. */
#define EACH_SOURCE(d, x, edges, R, P, S, all, LOAD, USE)                                                      \
  UNROLL for (int residue = 0; residue < S; residue++) UNROLL for (int i = 0; i < WINDOW_SOURCES(R, S); i++) { \
    const real *xi = AT(x, i * (d)->x_row);                                                                    \
    IN_POINTER(xi);                                                                                            \
    if (all || __builtin_expect((edges).rows & (uint32_t)1 << i, 1))                                           \
      UNROLL for (int j = residue; j < WINDOW_SOURCES(P, S);                                                   \
                  j += S) if (all || __builtin_expect((edges).columns & (uint32_t)1 << j, 1)) {                \
        vec v = LOAD(AT(xi, j * (d)->x_column));                                                               \
        OPAQUE(v);                                                                                             \
        UNROLL for (int f = 0; f < 3; f++) if (i >= f && (i - f) % S == 0 && (i - f) / S < R)                  \
            UNROLL for (int u = 0; u < 3; u++) if (j >= u && (j - u) % S == 0 && (j - u) / S < P)              \
                USE((i - f) / S * P + (j - u) / S, 3 * f + u, v);                                              \
      }                                                                                                        \
  }

INLINE void NAME(window_sums)(const fastconv_depthwise_windows *d, const real *x, const char *w, vec *sum,
                              NAME(window_edges) edges, const int R, const int P, const int S, const int all,
                              const int masked) {
  vec tap[9];
  UNROLL for (int t = 0; t < 9; t++) tap[t] = NAME(load)(AT(w, t / 3 * d->w_row + t % 3 * d->w_column));
  UNROLL for (int s = 0; s < R * P; s++) sum[s] = (vec){0};
#define LOAD(p) NAME(load_lanes)(p, masked, edges.n)
#define ADD(s, t, v) sum[s] += v * tap[t]
  EACH_SOURCE(d, x, edges, R, P, S, all, LOAD, ADD)
#undef ADD
#undef LOAD
}

typedef struct {
  const char *x, *w, *shift;
  char *y;
  vec lower, upper;
  int clamps;
} NAME(window_call);

INLINE NAME(window_call)
    NAME(call_of)(const char *x, const char *w, const char *shift, char *y, double lower, double upper) {
  const int clamps = lower > -INFINITY || upper < INFINITY;
  return (NAME(window_call)){x, w, shift, y, NAME(splat)((real)lower), NAME(splat)((real)upper), clamps};
}

INLINE void NAME(window_vector)(const fastconv_depthwise_windows *d, const NAME(window_call) * call, const real *x,
                                real *y, ptrdiff_t from, NAME(window_edges) edges, const int R, const int S,
                                const int all, const int masked) {
  const int P = WINDOW_COLUMNS;
  const ptrdiff_t w_across = from / VLEN * d->w_across;
  vec sum[WINDOW_ROWS * WINDOW_COLUMNS];
  edges.n = d->lanes - from;
  NAME(window_sums)(d, x + from, call->w + w_across, sum, edges, R, P, S, all, masked);
  if (call->shift) {
    const vec shift = NAME(load)(AT(call->shift, w_across));
    UNROLL for (int s = 0; s < R * P; s++) sum[s] += shift;
  }
  if (call->clamps)
    UNROLL for (int s = 0; s < R * P; s++) sum[s] = NAME(at_most)(NAME(at_least)(sum[s], call->lower), call->upper);
  UNROLL for (int s = 0; s < R * P; s++)
      NAME(store_some)(AT_MUTABLE(y + from, s / P * d->y_row + s % P * d->y_column), sum[s], masked ? edges.n : VLEN);
}

INLINE void NAME(window_block)(const fastconv_depthwise_windows *d, const NAME(window_call) * call, ptrdiff_t row,
                               ptrdiff_t column, const int R, const int S, const int all) {
  const NAME(window_edges) edges = NAME(edges_at)(d, row, column, R, WINDOW_COLUMNS, S);
  const real *x = NAME(window_at)(d, call->x, row, column, S);
  real *y = AT_MUTABLE(call->y, row * d->y_row + column * d->y_column);
  ptrdiff_t from = 0;
  for (; from + VLEN <= d->lanes; from += VLEN) NAME(window_vector)(d, call, x, y, from, edges, R, S, all, 0);
  if (from < d->lanes) NAME(window_vector)(d, call, x, y, from, edges, R, S, all, 1);
}

/* R rows of outputs from `row` on. The last block of columns ends where they end: it may make some a second time. */
#define WINDOW_BLOCKS(R, S)                                                                                         \
  OUTLINE void NAME(window_inner_##R##_##S)(const fastconv_depthwise_windows *d, const NAME(window_call) * call,    \
                                            ptrdiff_t row, ptrdiff_t column) {                                      \
    NAME(window_block)(d, call, row, column, R, S, 1);                                                              \
  }                                                                                                                 \
  OUTLINE void NAME(window_edge_##R##_##S)(const fastconv_depthwise_windows *d, const NAME(window_call) * call,     \
                                           ptrdiff_t row, ptrdiff_t column) {                                       \
    NAME(window_block)(d, call, row, column, R, S, 0);                                                              \
  }                                                                                                                 \
  OUTLINE void NAME(window_rows_##R##_##S)(const fastconv_depthwise_windows *d, const NAME(window_call) * call,     \
                                           ptrdiff_t row) {                                                         \
    for (ptrdiff_t column = 0; column < d->columns; column += WINDOW_COLUMNS) {                                     \
      if (column > d->columns - WINDOW_COLUMNS) column = d->columns - WINDOW_COLUMNS;                               \
      if (NAME(is_inner)(d, row, column, R, WINDOW_COLUMNS, S)) NAME(window_inner_##R##_##S)(d, call, row, column); \
      else NAME(window_edge_##R##_##S)(d, call, row, column);                                                       \
    }                                                                                                               \
  }
WINDOW_BLOCKS(2, 1)
WINDOW_BLOCKS(2, 2)
#if WINDOW_ROWS == 4
WINDOW_BLOCKS(4, 1)
WINDOW_BLOCKS(4, 2)
#endif
#undef WINDOW_BLOCKS

/* All rows; the last block of them ends where they end, too. */
static void NAME(depthwise_windows)(const fastconv_depthwise_windows *d, const char *x, const char *w,
                                    const char *shift, char *y, double lower, double upper) {
  const NAME(window_call) call = NAME(call_of)(x, w, shift, y, lower, upper);
  ptrdiff_t row = 0;
#if WINDOW_ROWS == 4
  for (; d->rows - row > 2 && d->rows >= 4; row += 4) {
    if (row > d->rows - 4) row = d->rows - 4;
    (d->stride == 1 ? NAME(window_rows_4_1) : NAME(window_rows_4_2))(d, &call, row);
  }
#endif
  for (; row < d->rows; row += 2) {
    if (row > d->rows - 2) row = d->rows - 2;
    (d->stride == 1 ? NAME(window_rows_2_1) : NAME(window_rows_2_2))(d, &call, row);
  }
}
