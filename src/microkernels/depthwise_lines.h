/* Forward and backward_input: sums of blocks of outputs.
 *
 * A block of P outputs keeps P sums in registers and slides along its line: each x is loaded once for up to four taps
 * whose weights stay in registers, so loads, which may straddle cache lines, are fewer than half of the multiply-adds.
 * 32 registers: 14 sums (7 divides 14, 28, 56 and 112, the widths of most networks) + 4 weights + 1; 16: 8 + 4 + 1.
 */
#define LANES_TOGETHER 4
#if VEC_REGISTERS == 32
#define LINE_BLOCK 14
#else
#define LINE_BLOCK 8
#endif

/* For segments e < end: sum[q] += x[e][q + u] * w[e][u], q < P, u < T, but only at positions whose bit is set: ALL are,
 * or all between the first and the last T - 1, or any. */
#define ALL 0
#define ALL_BUT_EDGES 1
#define ANY 2

INLINE void NAME(slide)(vec *sum, const fastconv_segment *e, const fastconv_segment *end, const char *x, ptrdiff_t step,
                        const char *w, ptrdiff_t w_step, ptrdiff_t n, uint32_t bits, const int which, const int P,
                        const int T, const int masked) {
  ptrdiff_t step3 = 3 * step;
  IN_POINTER(step3);
  for (; e < end; e++) {
    vec tap[LINE_TAPS];
    const real *xe = AT(x, e->x), *we = AT(w, e->w);
    UNROLL for (int u = 0; u < T; u++) tap[u] = NAME(load)(AT(we, u * w_step));
    UNROLL for (int i = 0; i < P + T - 1; i++) {
      const int given = which == ALL || (which == ALL_BUT_EDGES && i >= T - 1 && i < P);
      if (!given) IN_POINTER(bits);
      if (given || __builtin_expect(bits & (uint32_t)1 << i, 1)) {
        vec xi = NAME(load_lanes)(AT(xe, i % 4 == 3 ? step3 : i % 4 * step), masked, n);
        OPAQUE(xi);
        UNROLL for (int u = 0; u < T; u++) if (i - u >= 0 && i - u < P) sum[i - u] += xi * tap[u];
      }
      if (i % 4 == 3) {
        xe = AT(xe, 4 * step);
        IN_POINTER(xe);
      }
    }
  }
}

/* sum += x[at[u]] * w[u] for u < taps, for positions out of order. */
INLINE vec NAME(gather_taps)(vec sum, const real *x, const ptrdiff_t *at, ptrdiff_t dilation, ptrdiff_t unit,
                             const real *w, ptrdiff_t w_step, ptrdiff_t n, ptrdiff_t taps, const int masked) {
  for (ptrdiff_t u = 0; u < taps; u++, at += dilation, w = AT(w, w_step))
    if (*at >= 0) sum += NAME(load_lanes)(AT(x, *at * unit), masked, n) * NAME(load)(w);
  return sum;
}

INLINE int NAME(is_plain)(const fastconv_tap_run *run, ptrdiff_t q, ptrdiff_t apart, int outputs) {
  return q >= run->first && q + (outputs + run->taps - 2) * apart < run->end;
}

/* Lines of one output after the other: what is read by vectors of channels, far apart, is no stream to hardware. */
INLINE void NAME(bring_ahead)(const fastconv_depthwise *d, ptrdiff_t line, ptrdiff_t from, ptrdiff_t q, const int P) {
  const ptrdiff_t output = (from / VLEN * d->lines + line) * d->count + q;
  const char *ahead = d->ahead + output * d->ahead_lines * 64;
  for (ptrdiff_t i = 0; i < d->ahead_lines; i++, ahead += P * 64)
    UNROLL for (int p = 0; p < P; p++) PREFETCH_L2(ahead + p * 64);
}

/* P outputs from output q on, `dilation` apart, of the vector of lanes that begins at lane `from`. */
INLINE void NAME(depthwise_block)(const fastconv_depthwise *d, ptrdiff_t line, ptrdiff_t from, ptrdiff_t q, const int P,
                                  const int masked) {
  const ptrdiff_t across = from * (ptrdiff_t)sizeof(real), w_across = from / VLEN * d->w_across, n = d->lanes - from;
  const ptrdiff_t apart = d->dilation, step = d->x_step * apart, w_step = d->w_step;
  const fastconv_segment *const e = d->segments + d->ends[line], *const end = d->segments + d->ends[line + 1];
  vec sum[LINE_BLOCK];
  if (d->ahead) NAME(bring_ahead)(d, line, from, q, P);
  const ptrdiff_t y_step = apart * d->y_step;
  real *y = AT_MUTABLE(d->y, line * d->y_line + across + q * d->y_step);
  if (d->y_ahead) UNROLL for (int p = 0; p < P; p++) PREFETCH_WRITE(AT_MUTABLE(y, d->y_ahead + p * y_step));
  UNROLL for (int p = 0; p < P; p++) sum[p] = (vec){0};
  for (const fastconv_tap_run *run = d->runs; run < d->runs + d->run_count; run++) {
    const int plain = NAME(is_plain)(run, q, apart, P);
    const char *x = d->x + across, *w = d->w + w_across + run->w;
    if (P == 1 && run->at && !plain) {
      for (const fastconv_segment *f = e; f < end; f++)
        sum[0] = NAME(gather_taps)(sum[0], AT(x, f->x), run->at + q, apart, d->x_unit, AT(w, f->w), w_step, n,
                                   run->taps, masked);
      continue;
    }
    x += run->x + q * d->x_step;
    for (ptrdiff_t u = 0; u < run->taps; u += LINE_TAPS, x += LINE_TAPS * step, w += LINE_TAPS * w_step) {
      const ptrdiff_t left = run->taps - u;
      const uint32_t bits = plain ? 0 : NAME(positions_within)(q + u * apart, apart, run, P + LINE_TAPS - 1);
      const uint32_t inner = ((uint32_t)1 << P) - ((uint32_t)1 << ((left < LINE_TAPS ? left : LINE_TAPS) - 1));
      const int edges = P >= 2 * LINE_TAPS && !masked && (bits & inner) == inner;
#define SLIDE(T)                                                                               \
  plain   ? NAME(slide)(sum, e, end, x, step, w, w_step, n, bits, ALL, P, T, masked)           \
  : edges ? NAME(slide)(sum, e, end, x, step, w, w_step, n, bits, ALL_BUT_EDGES, P, T, masked) \
          : NAME(slide)(sum, e, end, x, step, w, w_step, n, bits, ANY, P, T, masked)
      if (left >= 4) SLIDE(4);
      else if (left == 3) SLIDE(3);
      else if (left == 2) SLIDE(2);
      else SLIDE(1);
#undef SLIDE
    }
  }
  if (d->shift) {
    const vec shift = NAME(load)(AT(d->shift, w_across));
    UNROLL for (int p = 0; p < P; p++) sum[p] += shift;
  }
  if (d->lower > -INFINITY || d->upper < INFINITY) {
    const vec lower = NAME(splat)((real)d->lower), upper = NAME(splat)((real)d->upper);
    UNROLL for (int p = 0; p < P; p++) sum[p] = NAME(at_most)(NAME(at_least)(sum[p], lower), upper);
  }
  if (n < VLEN) {
    UNROLL for (int p = 0; p < P; p++, y = AT_MUTABLE(y, y_step)) NAME(store_tail)(y, sum[p], n);
  } else {
    UNROLL for (int p = 0; p < P; p++, y = AT_MUTABLE(y, y_step)) NAME(store)(y, sum[p]);
  }
}

#define BLOCK(P)                                                                                                       \
  static void NAME(depthwise_##P)(const fastconv_depthwise *d, ptrdiff_t line, ptrdiff_t from, ptrdiff_t q) {          \
    NAME(depthwise_block)(d, line, from, q, P, 0);                                                                     \
  }                                                                                                                    \
  static void NAME(depthwise_##P##_masked)(const fastconv_depthwise *d, ptrdiff_t line, ptrdiff_t from, ptrdiff_t q) { \
    NAME(depthwise_block)(d, line, from, q, P, 1);                                                                     \
  }
#if LINE_BLOCK == 14
BLOCK(14)
BLOCK(7)
BLOCK(3)
#else
BLOCK(8)
BLOCK(4)
BLOCK(2)
#endif
BLOCK(1)
#undef BLOCK

/* Whether a block may be summed by sliding: its positions are in order, or padding. */
INLINE int NAME(slides)(const fastconv_depthwise *d, ptrdiff_t q, int outputs) {
  for (ptrdiff_t r = 0; r < d->run_count; r++)
    if (d->runs[r].at && !NAME(is_plain)(d->runs + r, q, d->dilation, outputs)) return 0;
  return 1;
}

/* Outputs q .. end of a line, for one vector of lanes. */
INLINE void NAME(depthwise_line)(const fastconv_depthwise *d, ptrdiff_t line, ptrdiff_t from, ptrdiff_t q,
                                 ptrdiff_t end, const int masked) {
  const ptrdiff_t apart = d->dilation;
  while (q < end) {
    const ptrdiff_t left = apart == 1 ? end - q : (end - q + apart - 1) / apart;
    ptrdiff_t done = 1;
#define BLOCK(P)                                                                     \
  if (left >= P && NAME(slides)(d, q, P)) {                                          \
    (masked ? NAME(depthwise_##P##_masked) : NAME(depthwise_##P))(d, line, from, q); \
    done = P;                                                                        \
  } else
#if LINE_BLOCK == 14
    BLOCK(14)
    BLOCK(7)
    BLOCK(3)
#else
    BLOCK(8)
    BLOCK(4)
    BLOCK(2)
#endif
    (masked ? NAME(depthwise_1_masked) : NAME(depthwise_1))(d, line, from, q);
#undef BLOCK
    q += done * apart;
  }
}

/* Lines within LANES_TOGETHER vectors of lanes, which lie side by side: the outputs of a strip of columns, line after
 * line, so that what neighbouring lines share is in L1. */
static void NAME(depthwise)(const fastconv_depthwise *d) {
  const ptrdiff_t apart = d->dilation, strip = apart == 1 ? LINE_BLOCK : d->count;
  for (ptrdiff_t first = 0; first < d->lanes; first += LANES_TOGETHER * VLEN) {
    const ptrdiff_t last = first + LANES_TOGETHER * VLEN < d->lanes ? first + LANES_TOGETHER * VLEN : d->lanes;
    for (ptrdiff_t q = 0; q < d->count; q += strip)
      for (ptrdiff_t line = 0; line < d->lines; line++)
        for (ptrdiff_t from = first; from < last; from += VLEN)
          for (ptrdiff_t residue = 0; residue < apart && q + residue < d->count; residue++)
            NAME(depthwise_line)(d, line, from, q + residue, q + strip < d->count ? q + strip : d->count,
                                 d->exact && d->lanes - from < VLEN);
  }
}

#undef LANES_TOGETHER
#undef ALL
#undef ALL_BUT_EDGES
#undef ANY
