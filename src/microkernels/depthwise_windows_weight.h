/* The weight gradient of the same windows: the nine sums of a vector of channels stay in registers over a block of R x
 * P gradients, and in L1 from block to block, so that the channels of a block follow each other here, too.
 *
 * Groups of several channels, as many out as in, that fill a vector without a rest: lanes are output channels, and x is
 * permuted so that each lane meets channel 0 of its group, then channel 1, ...
 */
INLINE vec NAME(permuted)(vec v, ivec lane, const int permuted) { return permuted ? NAME(permute)(v, lane) : v; }

INLINE void NAME(window_products)(const fastconv_depthwise_windows *d, const real *x, const real *y, char *w,
                                  NAME(window_edges) edges, ivec lane, const int R, const int P, const int S,
                                  const int all, const int masked, const int permuted) {
  vec g[WINDOW_ROWS * WINDOW_COLUMNS], sum[9];
  UNROLL for (int s = 0; s < R * P; s++) g[s] =
      NAME(load_lanes)(AT(y, s / P * d->y_row + s % P * d->y_column), masked, edges.n);
  UNROLL for (int t = 0; t < 9; t++) sum[t] = NAME(load)(AT(w, t / 3 * d->w_row + t % 3 * d->w_column));
#define LOAD(p) NAME(permuted)(NAME(load_lanes)(p, masked, edges.n), lane, permuted)
#define ADD(s, t, v) sum[t] += v * g[s]
  EACH_SOURCE(d, x, edges, R, P, S, all, LOAD, ADD)
#undef ADD
#undef LOAD
  UNROLL for (int t = 0; t < 9; t++) NAME(store)(AT_MUTABLE(w, t / 3 * d->w_row + t % 3 * d->w_column), sum[t]);
}

INLINE void NAME(window_shift)(const fastconv_depthwise_windows *d, const real *y, real *shift, ptrdiff_t n,
                               const int R, const int P, const int masked) {
  vec total = NAME(load)(shift);
  UNROLL for (int s = 0; s < R * P; s++) total +=
      NAME(load_lanes)(AT(y, s / P * d->y_row + s % P * d->y_column), masked, n);
  NAME(store)(shift, total);
}

typedef struct {
  const char *x, *y;
  char *w, *shift;
} NAME(window_gradient);

INLINE void NAME(gradient_vector)(const fastconv_depthwise_windows *d, const NAME(window_gradient) * call,
                                  const real *x, const real *y, ptrdiff_t across, NAME(window_edges) edges, const int R,
                                  const int P, const int S, const int all, const int masked) {
  if (call->shift) NAME(window_shift)(d, y, AT_MUTABLE(call->shift, across), edges.n, R, P, masked);
  if (!call->w) return;
  if (!d->index) {
    NAME(window_products)(d, x, y, call->w + across, edges, (ivec){0}, R, P, S, all, masked, 0);
    return;
  }
  ivec lane = (ivec)NAME(load)((const real *)d->index);
  for (ptrdiff_t i = 0; i < d->channels; i++, lane += 1)
    NAME(window_products)(d, x, y, call->w + across + i * d->w_channel, edges, lane, R, P, S, all, masked, 1);
}

INLINE void NAME(gradient_block)(const fastconv_depthwise_windows *d, const NAME(window_gradient) * call, ptrdiff_t row,
                                 ptrdiff_t column, const int R, const int P, const int S, const int all) {
  NAME(window_edges) edges = NAME(edges_at)(d, row, column, R, P, S);
  const real *x = NAME(window_at)(d, call->x, row, column, S);
  const real *y = AT(call->y, row * d->y_row + column * d->y_column);
  ptrdiff_t across = 0;
  for (; edges.n >= VLEN; edges.n -= VLEN, x += VLEN, y += VLEN, across += d->w_across)
    NAME(gradient_vector)(d, call, x, y, across, edges, R, P, S, all, 0);
  if (edges.n) NAME(gradient_vector)(d, call, x, y, across, edges, R, P, S, all, 1);
}

#define GRADIENT_BLOCK(R, P, S, all, name)                                                                        \
  OUTLINE void NAME(name)(const fastconv_depthwise_windows *d, const NAME(window_gradient) * call, ptrdiff_t row, \
                          ptrdiff_t column) {                                                                     \
    NAME(gradient_block)(d, call, row, column, R, P, S, all);                                                     \
  }

/* R rows of gradients from `row` on. */
#define GRADIENT_ROWS(R, S)                                                                                           \
  GRADIENT_BLOCK(R, WINDOW_COLUMNS, S, 1, gradient_inner_##R##_##S)                                                   \
  GRADIENT_BLOCK(R, WINDOW_COLUMNS, S, 0, gradient_edge_##R##_##S)                                                    \
  GRADIENT_BLOCK(R, 1, S, 0, gradient_column_##R##_##S)                                                               \
  OUTLINE void NAME(gradient_rows_##R##_##S)(const fastconv_depthwise_windows *d, const NAME(window_gradient) * call, \
                                             ptrdiff_t row) {                                                         \
    ptrdiff_t column = 0;                                                                                             \
    for (; column + WINDOW_COLUMNS <= d->columns; column += WINDOW_COLUMNS)                                           \
      (NAME(is_inner)(d, row, column, R, WINDOW_COLUMNS, S) ? NAME(gradient_inner_##R##_##S)                          \
                                                            : NAME(gradient_edge_##R##_##S))(d, call, row, column);   \
    for (; column < d->columns; column++) NAME(gradient_column_##R##_##S)(d, call, row, column);                      \
  }
GRADIENT_ROWS(1, 1)
GRADIENT_ROWS(1, 2)
GRADIENT_ROWS(2, 1)
GRADIENT_ROWS(2, 2)
#if WINDOW_ROWS == 4
GRADIENT_ROWS(4, 1)
GRADIENT_ROWS(4, 2)
#endif
#undef GRADIENT_BLOCK
#undef GRADIENT_ROWS

static void NAME(depthwise_windows_weight)(const fastconv_depthwise_windows *d, const char *x, const char *y, char *w,
                                           char *shift) {
  const NAME(window_gradient) call = {x, y, w, shift};
  ptrdiff_t row = 0;
#define ROWS(R)                        \
  for (; row + R <= d->rows; row += R) \
    (d->stride == 1 ? NAME(gradient_rows_##R##_1) : NAME(gradient_rows_##R##_2))(d, &call, row);
#if WINDOW_ROWS == 4
  ROWS(4)
#endif
  ROWS(2)
  ROWS(1)
#undef ROWS
}

#undef EACH_SOURCE
#undef WINDOW_SOURCES
