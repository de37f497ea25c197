/* backward_weight: R segments by T taps of sums in registers, and the gradients of P outputs at a time. */
#if VEC_REGISTERS == 32
#define WEIGHT_BLOCK 7
#define WEIGHT_SEGMENTS(taps) 4
#else
#define WEIGHT_BLOCK 4
#define WEIGHT_SEGMENTS(taps) ((taps) == 4 ? 2 : (taps) == 3 ? 3 : 4)
#endif

/* sum[r][u] += y[p] * x[r][p + u] for r < R, p < P, u < T, where the bit of position p + u is set. */
INLINE void NAME(weight_block)(vec (*sum)[LINE_TAPS], const char *y, ptrdiff_t y_step, const char *x, ptrdiff_t step,
                               const fastconv_segment *at, uint32_t bits, ptrdiff_t n, const int P, const int R,
                               const int T, const int masked) {
  const real *xr[4];
  vec g[WEIGHT_BLOCK];
  ptrdiff_t step3 = 3 * step;
  IN_POINTER(step3);
  UNROLL for (int r = 0; r < R; r++) xr[r] = AT(x, at[r].x);
  UNROLL for (int p = 0; p < P; p++) g[p] = NAME(load_lanes)(AT(y, p * y_step), masked, n);
  UNROLL for (int i = 0; i < P + T - 1; i++) {
    IN_POINTER(bits);
    if (__builtin_expect(bits & (uint32_t)1 << i, 1)) UNROLL for (int r = 0; r < R; r++) {
        vec xi = NAME(load_lanes)(AT(xr[r], i % 4 == 3 ? step3 : i % 4 * step), masked, n);
        OPAQUE(xi);
        UNROLL for (int u = 0; u < T; u++) if (i - u >= 0 && i - u < P) sum[r][u] += g[i - u] * xi;
      }
    if (i % 4 == 3) UNROLL for (int r = 0; r < R; r++) {
        xr[r] = AT(xr[r], 4 * step);
        IN_POINTER(xr[r]);
      }
  }
}

/* The outputs of a line that slide: all of them, or if positions are out of order those that meet none such. */
typedef struct {
  ptrdiff_t first, count;
} NAME(outputs);

INLINE NAME(outputs) NAME(sliding_outputs)(const fastconv_depthwise_weight *d, ptrdiff_t residue) {
  const ptrdiff_t apart = d->dilation, last = d->run.at ? d->run.end - (d->run.taps - 1) * apart : d->count;
  const ptrdiff_t end = last < d->count ? last : d->count;
  ptrdiff_t first = residue;
  if (d->run.at && d->run.first > residue) first += (d->run.first - residue + apart - 1) / apart * apart;
  if (first >= end) return (NAME(outputs)){first, 0};
  return (NAME(outputs)){first, apart == 1 ? end - first : (end - first + apart - 1) / apart};
}

/* Adds the products of a line's `outputs`, counted from its `residue`-th, to the sums of R segments and T taps. */
INLINE void NAME(weight_line)(vec (*sum)[LINE_TAPS], const fastconv_depthwise_weight *d, const char *y, const char *x,
                              const fastconv_segment *at, NAME(outputs) outputs, ptrdiff_t tap, ptrdiff_t n,
                              const int R, const int T, const int masked) {
  const ptrdiff_t apart = d->dilation, step = d->x_step * apart, y_step = d->y_step * apart;
  ptrdiff_t left = outputs.count, position = outputs.first + tap * apart;
#define BLOCKS(P)                                                                                             \
  for (; left >= P; left -= P, position += P * apart, y += P * y_step, x += P * step) {                       \
    const int plain = position >= d->run.first && position + (P + T - 2) * apart < d->run.end;                \
    const uint32_t bits = plain ? ~(uint32_t)0 : NAME(positions_within)(position, apart, &d->run, P + T - 1); \
    NAME(weight_block)(sum, y, y_step, x, step, at, bits, n, P, R, T, masked);                                \
  }
  BLOCKS(WEIGHT_BLOCK)
  BLOCKS(3)
  BLOCKS(1)
#undef BLOCKS
}

INLINE void NAME(weight_tile)(const fastconv_depthwise_weight *d, ptrdiff_t from, ptrdiff_t segment, ptrdiff_t tap,
                              const int R, const int T, const int masked) {
  const ptrdiff_t across = from * (ptrdiff_t)sizeof(real);
  vec sum[4][LINE_TAPS];
  UNROLL for (int r = 0; r < R; r++) UNROLL for (int u = 0; u < T; u++) sum[r][u] = (vec){0};
  for (ptrdiff_t residue = 0; residue < d->dilation && residue < d->count; residue++) {
    const NAME(outputs) outputs = NAME(sliding_outputs)(d, residue);
    const char *y = d->y + across + outputs.first * d->y_step;
    const char *x = d->x + across + d->run.x + (outputs.first + tap * d->dilation) * d->x_step;
    const fastconv_segment *at = d->segments + segment;
    for (ptrdiff_t line = 0; line < d->lines; line++, y += d->y_line, at += d->segment_count)
      NAME(weight_line)(sum, d, y, x, at, outputs, tap, d->lanes - from, R, T, masked);
  }
  UNROLL for (int r = 0; r < R; r++) UNROLL for (int u = 0; u < T; u++) {
    real *w =
        AT_MUTABLE(d->w, d->segments[segment + r].w + d->run.w + (tap + u) * d->w_step + from / VLEN * d->w_across);
    NAME(store)(w, NAME(load)(w) + sum[r][u]);
  }
}

#define WEIGHT_TILE(R, T)                                                                                            \
  static void NAME(weight_##R##x##T)(const fastconv_depthwise_weight *d, ptrdiff_t from, ptrdiff_t segment,          \
                                     ptrdiff_t tap) {                                                                \
    NAME(weight_tile)(d, from, segment, tap, R, T, 0);                                                               \
  }                                                                                                                  \
  static void NAME(weight_##R##x##T##_masked)(const fastconv_depthwise_weight *d, ptrdiff_t from, ptrdiff_t segment, \
                                              ptrdiff_t tap) {                                                       \
    NAME(weight_tile)(d, from, segment, tap, R, T, 1);                                                               \
  }
#define WEIGHT_TILES(R) WEIGHT_TILE(R, 1) WEIGHT_TILE(R, 2) WEIGHT_TILE(R, 3) WEIGHT_TILE(R, 4)
WEIGHT_TILES(1)
WEIGHT_TILES(2)
WEIGHT_TILES(3)
WEIGHT_TILES(4)

/* Outputs that meet positions out of order, straight into memory: they are few. */
INLINE void NAME(weight_gather)(const fastconv_depthwise_weight *d, ptrdiff_t from, ptrdiff_t line, ptrdiff_t q,
                                const int masked) {
  const ptrdiff_t across = from * (ptrdiff_t)sizeof(real), n = d->lanes - from;
  const fastconv_segment *at = d->segments + line * d->segment_count;
  const vec g = NAME(load_lanes)(AT(d->y, line * d->y_line + across + q * d->y_step), masked, n);
  for (ptrdiff_t e = 0; e < d->segment_count; e++)
    for (ptrdiff_t u = 0; u < d->run.taps; u++) {
      const ptrdiff_t place = d->run.at[q + u * d->dilation] * d->x_unit;
      real *w = AT_MUTABLE(d->w, at[e].w + d->run.w + u * d->w_step + from / VLEN * d->w_across);
      NAME(store)(w, NAME(load)(w) + g * NAME(load_lanes)(AT(d->x, across + at[e].x + place), masked, n));
    }
}

INLINE void NAME(weight_edges)(const fastconv_depthwise_weight *d, ptrdiff_t from, const int masked) {
  for (ptrdiff_t line = 0; line < d->lines; line++)
    for (ptrdiff_t residue = 0; residue < d->dilation && residue < d->count; residue++) {
      const NAME(outputs) inner = NAME(sliding_outputs)(d, residue);
      for (ptrdiff_t q = residue; q < d->count; q += d->dilation)
        if (inner.count == 0 || q < inner.first || q >= inner.first + inner.count * d->dilation)
          NAME(weight_gather)(d, from, line, q, masked);
    }
}

/* `total` in as few shares of at most `most` as will do, as even as they come. */
INLINE ptrdiff_t NAME(even_share)(ptrdiff_t total, ptrdiff_t most) {
  ptrdiff_t share = most;
  while (share > 1 && (share - 1) * ((total + most - 1) / most) >= total) share--;
  return share;
}

INLINE void NAME(weight_vector)(const fastconv_depthwise_weight *d, ptrdiff_t from, const int masked) {
  static void (*const tiles[4][LINE_TAPS][2])(const fastconv_depthwise_weight *, ptrdiff_t, ptrdiff_t, ptrdiff_t) = {
#define ENTRY(R, T) {NAME(weight_##R##x##T), NAME(weight_##R##x##T##_masked)}
#define ENTRIES(R) {ENTRY(R, 1), ENTRY(R, 2), ENTRY(R, 3), ENTRY(R, 4)}
      ENTRIES(1), ENTRIES(2), ENTRIES(3), ENTRIES(4)};
#undef ENTRY
#undef ENTRIES
  const ptrdiff_t most_taps = NAME(even_share)(d->run.taps, LINE_TAPS);
  for (ptrdiff_t tap = 0; tap < d->run.taps; tap += most_taps) {
    const ptrdiff_t taps = d->run.taps - tap < most_taps ? d->run.taps - tap : most_taps;
    const ptrdiff_t most = taps > 3 ? NAME(even_share)(d->segment_count, WEIGHT_SEGMENTS(4))
                                    : NAME(even_share)(d->segment_count, WEIGHT_SEGMENTS(3));
    for (ptrdiff_t e = 0; e < d->segment_count; e += most) {
      const ptrdiff_t segments = d->segment_count - e < most ? d->segment_count - e : most;
      tiles[segments - 1][taps - 1][masked](d, from, e, tap);
    }
  }
  if (d->run.at) NAME(weight_edges)(d, from, masked);
}

/* shift += sum of y, by four sums, so that the additions of one need not wait for another's. */
INLINE void NAME(weight_shift)(const fastconv_depthwise_weight *d, ptrdiff_t from, const int masked) {
  vec sum[4] = {{0}, {0}, {0}, {0}};
  const ptrdiff_t n = d->lanes - from;
  for (ptrdiff_t line = 0; line < d->lines; line++) {
    const real *y = AT(d->y, line * d->y_line + from * (ptrdiff_t)sizeof(real));
    ptrdiff_t q = 0;
    for (; q + 4 <= d->count; q += 4)
      UNROLL for (int i = 0; i < 4; i++, y = AT(y, d->y_step)) sum[i] += NAME(load_lanes)(y, masked, n);
    for (; q < d->count; q++, y = AT(y, d->y_step)) sum[0] += NAME(load_lanes)(y, masked, n);
  }
  real *shift = AT_MUTABLE(d->shift, from / VLEN * d->w_across);
  NAME(store)(shift, NAME(load)(shift) + ((sum[0] + sum[1]) + (sum[2] + sum[3])));
}

static void NAME(depthwise_weight)(const fastconv_depthwise_weight *d) {
  for (ptrdiff_t from = 0; from < d->lanes; from += VLEN) {
    const int masked = d->lanes - from < VLEN;
    if (d->w) NAME(weight_vector)(d, from, masked);
    if (d->shift) NAME(weight_shift)(d, from, masked);
  }
}

#undef WEIGHT_BLOCK
#undef WEIGHT_TILE
#undef WEIGHT_TILES
#undef WEIGHT_SEGMENTS
