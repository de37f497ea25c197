/* Convolution of few channels a group along lines of pixels (channels_last, see table.h).
 *
 * A vector is one output channel a lane, as a rule of several groups: a source vector must hold for each lane the
 * element of its own group. There are three ways to get it: an element broadcast, where a vector lies within one group;
 * a permutation of the pixel's channels, where those that the vector meets are no more than a vector; else a vector
 * spread beforehand. P sums stay in registers and slide along the line, so that P + T - 1 source vectors and T weights
 * are loaded for P * T multiply-adds: 19 for 42 with P = 14 and T = 3.
 *
 * A permutation costs as much as a multiply-add where both share two ports (72 % of the peak are left), and nothing
 * where it has its own. Spreading ahead saves 16 shuffles in 58, but then kin times the lines no longer fit L1: 8 to 8
 * channels with stride 2 took 2.5 times as long on Cascade Lake.
 *
 * 32 registers hold 14 sums (7 divides 14, 28 and 56, the widths of most networks), 3 weights and 2 more, or 2 x 7 sums
 * and 6 weights; 16 hold 8 and 3, or 2 x 4 and 6.
 */
#ifndef REAL_BITS
#define FAMILY "grouped.c"
#include "dtypes.h"
#else
#include "simd.h"

#define AT(p, bytes) ((const real *)((const char *)(p) + (bytes)))
#define AT_MUTABLE(p, bytes) ((real *)((char *)(p) + (bytes)))

#if VEC_REGISTERS == 32
#define MOST_OUTPUTS 14
#else
#define MOST_OUTPUTS 8
#endif

/* sum[p][v] += x[i][p + u] * w[i][u][v] for channels i, at columns p + u whose bit is set; unless `some`, all but the
 * first and the last are known to be: a test for each column takes a third of the rate. */
INLINE void NAME(grouped_taps)(vec sum[MOST_OUTPUTS][2], const fastconv_grouped *g, const real *x, const real *w,
                               uint32_t met, const int some, const int P, const int T, const int V, const int kind) {
  const ptrdiff_t step = g->x_step;
  ptrdiff_t step3 = 3 * step;
  ivec lane = {0};
  if (kind == FASTCONV_BROADCAST) IN_POINTER(step3);
  if (kind == FASTCONV_PERMUTED) lane = (ivec)NAME(load)((const real *)g->index);
  for (ptrdiff_t i = 0; i < g->channels; i++, x = AT(x, g->x_channel), w += T * V * VLEN) {
    vec tap[3][2];
    const real *xi = x;
    UNROLL for (int u = 0; u < T; u++) UNROLL for (int v = 0; v < V; v++) tap[u][v] =
        NAME(load)(w + (u * V + v) * VLEN);
    UNROLL for (int c = 0; c < P + T - 1; c++) {
      const int tested = some || c == 0 || c == P + T - 2;
      if (tested) IN_POINTER(met);
      if (!tested || __builtin_expect(met & (uint32_t)1 << c, 1)) {
        vec xc = kind == FASTCONV_BROADCAST ? NAME(splat)(*AT(xi, c % 4 == 3 ? step3 : c % 4 * step))
                                            : NAME(load)(x + c * VLEN);
        if (kind == FASTCONV_PERMUTED) xc = NAME(permute)(xc, lane);
        OPAQUE(xc);
        UNROLL for (int u = 0; u < T; u++) if (c - u >= 0 && c - u < P) UNROLL for (int v = 0; v < V; v++)
            sum[c - u][v] += xc * tap[u][v];
      }
      if (kind == FASTCONV_BROADCAST && c % 4 == 3) {
        xi = AT(xi, 4 * step);
        IN_POINTER(xi);
      }
    }
    lane += 1;
  }
}

INLINE void NAME(grouped_line)(const fastconv_grouped *g, ptrdiff_t line, const int P, const int V, const int kind) {
  vec sum[MOST_OUTPUTS][2];
  const char *next = g->y + line * g->y_line;
  UNROLL for (int p = 0; p < P; p++) {
    UNROLL for (int v = 0; v < V; v++) {
      sum[p][v] = (vec){0};
      PREFETCH_WRITE(next + v * VEC_BYTES); /* it is met only after the sums, by then it has come */
    }
    next += g->y_step;
    IN_POINTER(next);
  }
  for (const fastconv_segment *e = g->segments + g->ends[line]; e < g->segments + g->ends[line + 1]; e++)
    for (const fastconv_grouped_run *run = g->runs; run < g->runs + g->run_count; run++) {
      const real *x = AT(g->x, e->x + run->x), *w = AT(g->w, e->w + run->w);
      const uint32_t inner = ((uint32_t)1 << (P + run->taps - 2)) - 2;
#define TAPS(T)                                                                              \
  (run->met & inner) == inner ? NAME(grouped_taps)(sum, g, x, w, run->met, 0, P, T, V, kind) \
                              : NAME(grouped_taps)(sum, g, x, w, run->met, 1, P, T, V, kind)
      if (run->taps == 3) TAPS(3);
      else if (run->taps == 2) TAPS(2);
      else TAPS(1);
#undef TAPS
    }
  const int clamped = g->lower > -INFINITY || g->upper < INFINITY;
  const vec lower = NAME(splat)((real)g->lower), upper = NAME(splat)((real)g->upper);
  UNROLL for (int v = 0; v < V; v++) {
    const ptrdiff_t n = g->lanes - v * VLEN;
    real *y = AT_MUTABLE(g->y, line * g->y_line) + v * VLEN;
    const vec shift = g->shift ? NAME(load_some)((const real *)g->shift + v * VLEN, n) : (vec){0};
    if (g->shift) {
      UNROLL for (int p = 0; p < P; p++) sum[p][v] += shift;
    }
    if (clamped) {
      UNROLL for (int p = 0; p < P; p++) sum[p][v] = NAME(at_most)(NAME(at_least)(sum[p][v], lower), upper);
    }
    if (n < VLEN) {
      UNROLL for (int p = 0; p < P; p++, y = AT_MUTABLE(y, g->y_step)) NAME(store_tail)(y, sum[p][v], n);
    } else {
      UNROLL for (int p = 0; p < P; p++, y = AT_MUTABLE(y, g->y_step)) NAME(store)(y, sum[p][v]);
    }
  }
}

#define LINES(P, V, KIND)                                                                      \
  static void NAME(grouped_##P##x##V##_##KIND)(const fastconv_grouped *g) {                    \
    for (ptrdiff_t line = 0; line < g->lines; line++) NAME(grouped_line)(g, line, P, V, KIND); \
  }
#if VEC_REGISTERS == 32
#define OUTPUTS_1 14, 7, 3, 1
#define OUTPUTS_2 7, 3, 1, 1
#define EACH_1(X, KIND) X(14, 1, KIND) X(7, 1, KIND) X(3, 1, KIND) X(1, 1, KIND)
#define EACH_2(X) X(7, 2, 0) X(3, 2, 0) X(1, 2, 0)
#else
#define OUTPUTS_1 8, 7, 3, 1
#define OUTPUTS_2 4, 3, 1, 1
#define EACH_1(X, KIND) X(8, 1, KIND) X(7, 1, KIND) X(3, 1, KIND) X(1, 1, KIND)
#define EACH_2(X) X(4, 2, 0) X(3, 2, 0) X(1, 2, 0)
#endif
EACH_1(LINES, 0)
EACH_1(LINES, 1)
EACH_1(LINES, 2)
EACH_2(LINES)

static void NAME(grouped)(const fastconv_grouped *g) {
#define CHOICE(P, V, KIND)                                     \
  if (g->outputs == P && g->vectors == V && g->kind == KIND) { \
    NAME(grouped_##P##x##V##_##KIND)(g);                       \
    return;                                                    \
  }
  EACH_1(CHOICE, 0)
  EACH_1(CHOICE, 1)
  EACH_1(CHOICE, 2)
  EACH_2(CHOICE)
}

/* Lane l takes element index[l] of those from p on; `whole`: whole vectors may be read. */
INLINE vec NAME(spread_one)(const real *p, ivec index, ptrdiff_t elements, const int whole) {
  const ivec lane = index & (VLEN - 1);
  vec v = NAME(permute)(whole ? NAME(load)(p) : NAME(load_some)(p, elements), lane);
  for (ptrdiff_t done = VLEN; done < elements; done += VLEN) {
    const vec next = whole ? NAME(load)(p + done) : NAME(load_some)(p + done, elements - done);
    v = NAME(select)(index >= NAME(splat_index)(done), NAME(permute)(next, lane), v);
  }
  return v;
}

/* The channels as they are, in whole vectors. */
INLINE void NAME(spread_none)(const fastconv_spread *s) {
  const ptrdiff_t reach = (s->channels + VLEN - 1) / VLEN * VEC_BYTES;
  for (ptrdiff_t column = 0; column < s->columns; column++) {
    if (s->from[column] < 0) continue;
    const real *x = AT(s->x, s->from[column]);
    real *to = AT_MUTABLE(s->to, column * reach);
    __builtin_prefetch((const char *)x + s->ahead, 0, 3);
    if ((const char *)x + reach > s->end)
      for (ptrdiff_t i = 0; i < s->channels; i += VLEN) NAME(store)(to + i, NAME(load_some)(x + i, s->channels - i));
    else
      for (ptrdiff_t i = 0; i < s->channels; i += VLEN) NAME(store)(to + i, NAME(load)(x + i));
  }
}

INLINE void NAME(spread_across)(const fastconv_spread *s) {
  const ptrdiff_t reach = (s->channels - 1 + (s->elements + VLEN - 1) / VLEN * VLEN) * (ptrdiff_t)sizeof(real);
  const ivec index = (ivec)NAME(load)((const real *)s->index);
  for (ptrdiff_t column = 0; column < s->columns; column++) {
    if (s->from[column] < 0) continue;
    const real *x = AT(s->x, s->from[column]);
    real *to = AT_MUTABLE(s->to, column * VEC_BYTES);
    __builtin_prefetch((const char *)x + s->ahead, 0, 3);
    if ((const char *)x + reach > s->end)
      for (ptrdiff_t i = 0; i < s->channels; i++, to = AT_MUTABLE(to, s->to_channel))
        NAME(store)(to, NAME(spread_one)(x + i, index, s->elements, 0));
    else
      for (ptrdiff_t i = 0; i < s->channels; i++, to = AT_MUTABLE(to, s->to_channel))
        NAME(store)(to, NAME(spread_one)(x + i, index, s->elements, 1));
  }
}

static void NAME(spread)(const fastconv_spread *s) {
  if (s->index) NAME(spread_across)(s);
  else NAME(spread_none)(s);
}

FILL(grouped) {
  static const int outputs[2][4] = {{OUTPUTS_1}, {OUTPUTS_2}};
  memcpy(table->grouped_outputs, outputs, sizeof outputs);
  table->grouped = NAME(grouped);
  table->spread = NAME(spread);
}

#undef AT
#undef AT_MUTABLE
#undef MOST_OUTPUTS
#undef OUTPUTS_1
#undef OUTPUTS_2
#undef EACH_1
#undef EACH_2
#undef LINES
#undef CHOICE
#endif
