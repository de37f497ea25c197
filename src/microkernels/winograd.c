/* Transforms of Winograd's minimal filtering, F(m, r) with m + r - 1 = 6 points along every axis (Lavin and Gray 2016).
 *
 *   y = A' ((G w) * (B' x)),  points 0, a, -a, b, -b and infinity with a = sqrt(1/2), b = sqrt(2)
 *
 * B' is the same for every r: it multiplies by the coefficients of x (x^2 - a^2) (x^2 - b^2) / (x - point), G and A'
 * evaluate polynomials at the points. Those with a b = 1 keep the error at half of what 0, 1, 2 give, since what B' and
 * A' magnify is smaller. A tile's values, 6 along every axis, are transformed axis by axis where they lie.
 *
 * Two axes may have 5 points instead, m + r = 6, where outputs come by threes: the same without 0, so that B' lacks its
 * factor x. Errors of the axes multiply, so the first of three may have 4, 0, 1, -1 and infinity: m + r = 5.
 *
 * Lanes are neighbouring tiles (planes) or channels (pixels); points are `point_stride` bytes apart.
 */
#ifndef REAL_BITS
#define FAMILY "winograd.c"
#include "dtypes.h"
#else
#include "simd.h"

#ifndef POINTS
#define POINTS 6
#define POINT_A 0.70710678118654752440
#define POINT_B 1.41421356237309504880
#define MOST_VALUES (POINTS * POINTS * POINTS)
#endif

/* The points of as many inputs, 5 or 6. */
INLINE void NAME(input_axis)(const int points, vec *v, const ptrdiff_t s) {
  const vec a = NAME(splat)((real)POINT_A), b = NAME(splat)((real)POINT_B);
  const vec *d = points == POINTS ? v + s : v; /* what the points but 0 are made of */
  const vec d1 = d[0], d2 = d[s], d3 = d[2 * s], d4 = d[3 * s], d5 = d[4 * s];
  const vec even_a = d4 - d2 * (real)2, odd_a = a * d3 - b * d1;
  const vec even_b = d4 - d2 * (real)0.5, odd_b = b * d3 - a * d1;
  if (points == POINTS) {
    *v += d4 - d2 * (real)2.5;
    v += s;
  }
  v[0] = even_a + odd_a;
  v[s] = even_a - odd_a;
  v[2 * s] = even_b + odd_b;
  v[3 * s] = even_b - odd_b;
  v[4 * s] = d1 + d5 - d3 * (real)2.5;
}

INLINE void NAME(input_depth)(const int depth, vec *v, const ptrdiff_t s) {
  if (depth == POINTS) {
    NAME(input_axis)(depth, v, s);
    return;
  }
  const vec d0 = v[0], d1 = v[s], d2 = v[2 * s], d3 = v[3 * s];
  v[0] = d0 - d2;
  v[s] = d2 + d1;
  v[2 * s] = d2 - d1;
  v[3 * s] = d3 - d1;
}

/* The m outputs of 5 or 6 points. */
INLINE void NAME(output_axis)(const int points, const int m, vec *v, const ptrdiff_t s) {
  const vec *p = points == POINTS ? v + s : v; /* the points but 0 */
  const vec even_a = p[0] + p[s], odd_a = p[0] - p[s];
  const vec even_b = p[2 * s] + p[3 * s], odd_b = p[2 * s] - p[3 * s];
  const vec last = p[4 * s];
  const real a = (real)POINT_A, b = (real)POINT_B;
  vec y = even_a + even_b;
  if (points == POINTS) y += v[0];
  v[0] = m == 1 ? y + last : y;
  if (m > 1) {
    y = odd_a * a + odd_b * b;
    v[s] = m == 2 ? y + last : y;
  }
  if (m > 2) {
    y = even_a * (real)0.5 + even_b * (real)2;
    v[2 * s] = m == 3 ? y + last : y;
  }
  if (m > 3) {
    y = odd_a * (a / 2) + odd_b * (2 * b);
    v[3 * s] = m == 4 ? y + last : y;
  }
  if (m > 4) v[4 * s] = even_a * (real)0.25 + even_b * (real)4 + last;
}

/* The 5 or 6 points of r taps. */
INLINE void NAME(weight_axis)(const int r, const int points, vec *v, const ptrdiff_t s) {
  const real a = (real)POINT_A, b = (real)POINT_B;
  const real share_a = points == POINTS ? (real)(-1 / 1.5) : -b / 3,
             share_b = points == POINTS ? (real)(1 / 6.0) : a / 3;
  vec even_a = v[0], even_b = v[0], odd_a = {0}, odd_b = {0};
  const vec last = v[(r - 1) * s];
  if (r > 1) odd_a = v[s] * a, odd_b = v[s] * b;
  if (r > 2) even_a += v[2 * s] * (real)0.5, even_b += v[2 * s] * (real)2;
  if (r > 3) odd_a += v[3 * s] * (a / 2), odd_b += v[3 * s] * (2 * b);
  if (r > 4) even_a += v[4 * s] * (real)0.25, even_b += v[4 * s] * (real)4;
  if (points == POINTS) v += s; /* the first tap is the point 0 */
  v[0] = (even_a + odd_a) * share_a;
  v[s] = (even_a - odd_a) * (points == POINTS ? share_a : -share_a);
  v[2 * s] = (even_b + odd_b) * share_b;
  v[3 * s] = (even_b - odd_b) * (points == POINTS ? share_b : -share_b);
  v[4 * s] = last;
}

/* Points of a tile: `depth` along the first of three axes, `edge` along the others. */
INLINE ptrdiff_t NAME(values)(const int axes, const int depth, const int edge) {
  return axes == 1 ? edge : depth * edge * edge;
}

/* v[depth][edge][edge], of which the last axis is transformed, to points of n lanes: the last pass over the values
 * stores them. */
INLINE void NAME(input_rest)(const int axes, const int depth, const int edge, vec *v, char *points, ptrdiff_t stride,
                             ptrdiff_t n) {
  const ptrdiff_t last = axes > 2 ? edge * edge : axes > 1 ? edge : 1, along = axes > 2 ? depth : axes > 1 ? edge : 1;
  for (ptrdiff_t o = 0; o < depth && axes > 2; o++)
    for (ptrdiff_t i = 0; i < edge; i++) NAME(input_axis)(edge, v + o * edge * edge + i, edge);
  for (ptrdiff_t i = 0; i < (axes > 1 ? last : edge); i++) {
    vec d[POINTS];
    UNROLL for (ptrdiff_t k = 0; k < along; k++) d[k] = v[k * last + i];
    if (axes == 2) NAME(input_axis)(edge, d, 1);
    if (axes > 2) NAME(input_depth)(depth, d, 1);
    char *to = points + i * stride;
    UNROLL for (ptrdiff_t k = 0; k < along; k++, to += last * stride) NAME(store_some)((real *)to, d[k], n);
  }
}

INLINE void NAME(output_any)(const int points, int m, vec *v, const ptrdiff_t s) {
  switch (m) {
    case 1:
      NAME(output_axis)(points, 1, v, s);
      break;
    case 2:
      NAME(output_axis)(points, 2, v, s);
      break;
    case 3:
      NAME(output_axis)(points, 3, v, s);
      break;
    case 4:
      NAME(output_axis)(points, 4, v, s);
      break;
    default:
      NAME(output_axis)(points, 5, v, s);
  }
}

INLINE void NAME(output_depth)(const int depth, const int m, vec *v) {
  if (depth == POINTS) {
    NAME(output_any)(depth, m, v, 1);
    return;
  }
  const vec even = v[1] + v[2], odd = v[1] - v[2], last = v[3];
  v[0] += m == 1 ? even + last : even;
  if (m > 1) v[1] = m == 2 ? odd + last : odd;
  if (m > 2) v[2] = even + last;
}

/* points[depth][edge][edge] of n lanes, transformed along all axes but the last, to v[m0][m1][edge], planes as far
 * apart as they were: the first pass over the values loads them. The three are m of the last axes, 1 before the first.
 */
INLINE void NAME(output_first)(const int axes, const int depth, const int edge, const int *m, vec *v,
                               const char *points, ptrdiff_t stride, ptrdiff_t n) {
  const ptrdiff_t first = axes > 2 ? edge * edge : axes > 1 ? edge : 1, along = axes > 2 ? depth : axes > 1 ? edge : 1;
  const ptrdiff_t outputs = axes > 2 ? m[0] : axes > 1 ? m[1] : 1;
  for (ptrdiff_t i = 0; i < (axes > 1 ? first : edge); i++) {
    vec d[POINTS];
    const char *from = points + i * stride;
    UNROLL for (ptrdiff_t k = 0; k < along; k++, from += first * stride) d[k] = NAME(load_some)((const real *)from, n);
    if (axes == 2) NAME(output_any)(edge, m[1], d, 1);
    if (axes > 2) NAME(output_depth)(depth, m[0], d);
    UNROLL for (ptrdiff_t k = 0; k < along; k++) if (k < outputs) v[k * first + i] = d[k];
  }
  for (ptrdiff_t o = 0; o < m[0] && axes > 2; o++)
    for (ptrdiff_t i = 0; i < edge; i++) NAME(output_any)(edge, m[1], v + o * edge * edge + i, edge);
}

/* -------------------------------------------------------------------------------------------------------- weights */

#ifndef OF_TAPS
#define OF_TAPS(F, R, ...)     \
  switch (R) {                 \
    case 2:                    \
      NAME(F)(2, __VA_ARGS__); \
      break;                   \
    case 3:                    \
      NAME(F)(3, __VA_ARGS__); \
      break;                   \
    case 4:                    \
      NAME(F)(4, __VA_ARGS__); \
      break;                   \
    default:                   \
      NAME(F)(5, __VA_ARGS__); \
  }
#endif

INLINE void NAME(weight_depth)(const int depth, const int r, vec *v, const ptrdiff_t s) {
  if (depth == POINTS) {
    OF_TAPS(weight_axis, r, depth, v, s)
    return;
  }
  const vec first = v[0], last = v[(r - 1) * s];
  const vec even = r > 2 ? first + v[2 * s] : first, odd = r > 3 ? v[s] + v[3 * s] : v[s];
  v[s] = (even + odd) * (real)0.5;
  v[2 * s] = (even - odd) * (real)0.5;
  v[3 * s] = last;
}

INLINE vec NAME(strided)(const real *p, ptrdiff_t stride, ptrdiff_t n) {
  if (stride == 1) return n < VLEN ? NAME(load_tail)(p, n) : NAME(load)(p);
  vec v = {0};
  for (ptrdiff_t i = 0; i < (n < VLEN ? n : VLEN); i++) v[i] = p[i * stride];
  return v;
}

/* The lines of r taps, transformed along them, to v[d][h][edge], planes edge * edge apart. */
INLINE void NAME(weight_lines)(const int r, const int edge, const fastconv_winograd_weight *w, const real *from,
                               ptrdiff_t n, vec *v) {
  const ptrdiff_t *tap = w->offsets;
  for (int d = 0; d < w->taps[0]; d++)
    for (int h = 0; h < w->taps[1]; h++, tap += r) {
      vec line[POINTS];
      UNROLL for (int c = 0; c < r; c++) line[c] = tap[c] < 0 ? (vec){0} : NAME(strided)(from + tap[c], w->stride, n);
      NAME(weight_axis)(r, edge, line, 1);
      UNROLL for (int c = 0; c < edge; c++) v[(d * edge + h) * edge + c] = line[c];
    }
}

/* v[r][edge], transformed along the first axis, to points. */
INLINE void NAME(weight_columns)(const int r, const int edge, const vec *v, char *points, ptrdiff_t stride,
                                 ptrdiff_t n) {
  for (int p = 0; p < edge; p++) {
    vec column[POINTS];
    UNROLL for (int k = 0; k < r; k++) column[k] = v[k * edge + p];
    NAME(weight_axis)(r, edge, column, 1);
    UNROLL for (int k = 0; k < edge; k++) NAME(store_some)((real *)(points + (k * edge + p) * stride), column[k], n);
  }
}

INLINE void NAME(weight_points)(const int edge, const fastconv_winograd_weight *w, const char *from, char *to,
                                ptrdiff_t n) {
  const int axes = w->axes, depth = w->depth, *r = w->taps, plane = edge * edge;
  const ptrdiff_t stride = w->point_stride;
  vec v[MOST_VALUES];
  for (ptrdiff_t i = 0; i < n; i += VLEN, to += VEC_BYTES) {
    OF_TAPS(weight_lines, r[2], edge, w, (const real *)from + i * w->stride, n - i, v)
    if (axes == 2) {
      OF_TAPS(weight_columns, r[1], edge, v, to, stride, n - i)
      continue;
    }
    for (int d = 0; d < r[0] && axes > 2; d++)
      for (int p = 0; p < edge; p++) OF_TAPS(weight_axis, r[1], edge, v + d * plane + p, edge)
    for (int p = 0; p < plane && axes > 2; p++) NAME(weight_depth)(depth, r[0], v + p, plane);
    for (ptrdiff_t p = 0; p < NAME(values)(axes, depth, edge); p++)
      NAME(store_some)((real *)(to + p * stride), v[p], n - i);
  }
}

static void NAME(winograd_weight)(const fastconv_winograd_weight *w, const char *from, char *to, ptrdiff_t n) {
  if (w->edge == POINTS) NAME(weight_points)(POINTS, w, from, to, n);
  else NAME(weight_points)(5, w, from, to, n);
}

/* --------------------------------------------------------------------------------------------------------- pixels */

#ifndef OF_POINTS
/* F for the points of t's tiles. */
#define OF_POINTS(F, ...)                                         \
  if (t->axes == 1) F(1, 1, POINTS, __VA_ARGS__);                 \
  else if (t->axes == 2 && t->edge == 5) F(2, 1, 5, __VA_ARGS__); \
  else if (t->axes == 2) F(2, 1, POINTS, __VA_ARGS__);            \
  else if (t->depth == 4) F(3, 4, POINTS, __VA_ARGS__);           \
  else F(3, POINTS, POINTS, __VA_ARGS__);
#endif

#define VECTORS_AHEAD 2 /* of each pixel, which are far apart */

INLINE void NAME(input_pixels)(const int axes, const int depth, const int edge, const fastconv_winograd_pixels *t) {
  vec v[MOST_VALUES];
  const ptrdiff_t values = NAME(values)(axes, depth, edge);
  for (ptrdiff_t c = 0; c < t->channels; c += VLEN) {
    const ptrdiff_t n = t->channels - c;
    for (ptrdiff_t p = 0; p < values; p += edge) {
      vec d[POINTS];
      UNROLL for (int i = 0; i < edge; i++) {
        const real *pixel = (const real *)(t->pixels[p + i] + t->offset) + c;
        PREFETCH(pixel + VECTORS_AHEAD * VLEN);
        d[i] = NAME(load_some)(pixel, n);
      }
      NAME(input_axis)(edge, d, 1);
      UNROLL for (int i = 0; i < edge; i++) v[p + i] = d[i];
    }
    NAME(input_rest)(axes, depth, edge, v, t->points + c * (ptrdiff_t)sizeof(real), t->point_stride, n);
  }
}

static void NAME(winograd_input_pixels)(const fastconv_winograd_pixels *t){OF_POINTS(NAME(input_pixels), t)}

/* The first channels of a tile's outputs, while its points are transformed. */
INLINE void NAME(bring_outputs)(const fastconv_winograd_pixels *t) {
  char *const *to = t->destinations, *const *const end = to + t->outputs[0] * t->outputs[1] * t->outputs[2];
  for (; to < end; to++)
    if (*to) UNROLL for (int i = 0; i < VECTORS_AHEAD; i++) PREFETCH_WRITE(*to + i * VEC_BYTES);
}

INLINE int NAME(output_pixels)(const int axes, const int depth, const int edge, const fastconv_winograd_pixels *t,
                               const fastconv_epilogue *e, const int adds) {
  vec v[MOST_VALUES], wrong = {0};
  const vec lower = NAME(splat)((real)e->lower), upper = NAME(splat)((real)e->upper);
  for (ptrdiff_t c = 0; c < t->channels; c += VLEN) {
    const ptrdiff_t n = t->channels - c < VLEN ? t->channels - c : VLEN;
    if (c == 0) NAME(bring_outputs)(t);
    NAME(output_first)(axes, depth, edge, t->outputs, v, t->points + c * (ptrdiff_t)sizeof(real), t->point_stride, n);
    const vec shift = e->shift ? NAME(load_some)((const real *)e->shift + c, n) : (vec){0};
    char *const *to = t->destinations;
    const char *const *residual = e->residual;
    for (int d = 0; d < t->outputs[0]; d++)
      for (int h = 0; h < t->outputs[1]; h++) {
        vec *line = v + (d * edge + h) * edge;
        NAME(output_any)(edge, t->outputs[2], line, 1);
        for (int w = 0; w < t->outputs[2]; w++, to++) {
          const char *from = adds ? *residual++ : NULL;
          if (!*to) continue;
          vec y = line[w] + shift;
          wrong += y * 0;
          if (adds) y += NAME(load_some)((const real *)from + c, n);
          PREFETCH_WRITE((real *)*to + c + VECTORS_AHEAD * VLEN);
          NAME(store_some)((real *)*to + c, NAME(at_most)(NAME(at_least)(y, lower), upper), n);
        }
      }
  }
  return NAME(sum_lanes)(wrong) != 0; /* NaN */
}

/* With a residual, or without the loads of one. */
INLINE int NAME(output_pixels_any)(const int axes, const int depth, const int edge, const fastconv_winograd_pixels *t,
                                   const fastconv_epilogue *e) {
  if (e->residual) return NAME(output_pixels)(axes, depth, edge, t, e, 1);
  return NAME(output_pixels)(axes, depth, edge, t, e, 0);
}

static int NAME(winograd_output_pixels)(const fastconv_winograd_pixels *t,
                                        const fastconv_epilogue *e){OF_POINTS(return NAME(output_pixels_any), t, e)}
/* --------------------------------------------------------------------------------------------------------- planes */

#ifndef QUARTERS
#define MOST_PARTS 3
#define IN_VECTORS 10    /* of a line's parts: 3 * 2, 2 * 3, 2 * 4 or 2 * 5 */
#define OUT_VECTORS 5    /* the most outputs of a tile along a line */
#define BRING_BYTES 2048 /* of a plane, from which on its next lines are asked for */
#endif

INLINE int NAME(parts_of)(const int m) {
  return m == 2 ? 3 : 2;
}

/* VLEN tiles' columns, from parts of m. */
INLINE void NAME(columns)(const int m, const int edge, vec *v, const real *const *part) {
  UNROLL for (int i = 0; i < NAME(parts_of)(m); i++) {
    vec split[OUT_VECTORS];
    NAME(split)(m, split, part[i]);
    UNROLL for (int k = 0; k < m; k++) if (i * m + k < edge) v[i * m + k] = split[k];
  }
}

/* The lines that the next channel's plane is read from, or written to: where planes are large, each has pages of its
 * own, and no hardware looks ahead. An input line's other parts are in the same cache lines as its first. */
INLINE void NAME(bring_lines)(const fastconv_winograd_planes *t, const int m, const int parts, const real *plane,
                              ptrdiff_t lines, const int write) {
  const ptrdiff_t line = 64 / (ptrdiff_t)sizeof(real), length = m * VLEN;
  if (t->plane_stride * (ptrdiff_t)sizeof(real) < BRING_BYTES) return;
#define BRING(FROM, LENGTH)                               \
  for (ptrdiff_t i = 0; i < (LENGTH) + line; i += line) { \
    if (write) PREFETCH_WRITE(plane + (FROM) + i);        \
    else PREFETCH(plane + (FROM) + i);                    \
  }
  for (const fastconv_run *run = t->runs; run < t->runs + t->count; run++)
    if (run->to / length % parts == 0) BRING(run->from, run->length * run->step)
  for (ptrdiff_t l = 0; l < lines; l++)
    if (t->whole[l * parts] >= 0) BRING(t->whole[l * parts], length)
#undef BRING
}

/* One run, which may end beyond the last full vector: what follows is written later, or zero. */
INLINE void NAME(fill_run)(real *dst, const real *plane, const fastconv_run *run) {
  const real *src = plane + run->from;
  ptrdiff_t i = 0;
  if (run->step != 1) {
    for (; run->step == 2 && i + VLEN < run->length; i += VLEN) { /* not the last one, which may end x */
      vec part[2];
      NAME(split)(2, part, src + 2 * i);
      NAME(store)(dst + run->to + i, part[0]);
    }
    for (; i < run->length; i++) dst[run->to + i] = src[i * run->step];
    return;
  }
  for (; i + VLEN <= run->length; i += VLEN) {
    NAME(store)(dst + run->to + i, NAME(load)(src + i));
    __asm__("" : "+r"(src)); /* else the compiler calls memcpy for a few vectors */
  }
  if (i < run->length) NAME(store)(dst + run->to + i, NAME(load_tail)(src + i, run->length - i));
}

/* The columns of every tile of a channel's lines, transformed. */
INLINE void NAME(line_columns)(const int m, const int edge, const fastconv_winograd_planes *t, vec *v, ptrdiff_t lines,
                               real *buffer, const real *plane) {
  const int parts = NAME(parts_of)(m);
  for (ptrdiff_t r = 0; r < t->count; r++) NAME(fill_run)(buffer, plane, &t->runs[r]);
  NAME(bring_lines)(t, m, parts, plane + t->plane_stride, lines, 0);
  for (ptrdiff_t l = 0; l < lines; l++) {
    const real *part[MOST_PARTS] = {0};
    vec d[POINTS];
    UNROLL for (int i = 0; i < parts; i++) {
      const ptrdiff_t at = parts * l + i;
      part[i] = t->whole[at] < 0 ? buffer + at * m * VLEN : plane + t->whole[at];
    }
    NAME(columns)(m, edge, d, part);
    NAME(input_axis)(edge, d, 1);
    UNROLL for (int i = 0; i < edge; i++) v[l * edge + i] = d[i];
  }
}

INLINE void NAME(input_planes)(const int axes, const int depth, const int edge, const fastconv_winograd_planes *t) {
  const ptrdiff_t lines = NAME(values)(axes, depth, edge) / edge;
  const int m = t->outputs[2];
  real buffer[MOST_VALUES / POINTS * IN_VECTORS * VLEN + VLEN];
  vec v[MOST_VALUES];
  memset(buffer, 0, (size_t)(lines * NAME(parts_of)(m) * m * VLEN) * sizeof(real));
  for (ptrdiff_t c = 0; c < t->channels; c++) {
    const real *plane = (const real *)t->source + c * t->plane_stride;
    switch (m) {
      case 2:
        NAME(line_columns)(2, edge, t, v, lines, buffer, plane);
        break;
      case 3:
        NAME(line_columns)(3, edge, t, v, lines, buffer, plane);
        break;
      case 4:
        NAME(line_columns)(4, edge, t, v, lines, buffer, plane);
        break;
      default:
        NAME(line_columns)(5, edge, t, v, lines, buffer, plane);
    }
    NAME(input_rest)(axes, depth, edge, v, t->points + c * t->channel_stride, t->point_stride, VLEN);
  }
}

static void NAME(winograd_input_planes)(const fastconv_winograd_planes *t){OF_POINTS(NAME(input_planes), t)}

INLINE void NAME(drain_run)(real *plane, const real *src, const fastconv_run *run) {
  real *dst = plane + run->from;
  src += run->to;
  if (run->step != 1) {
    for (ptrdiff_t i = 0; i < run->length; i++) dst[i * run->step] = src[i];
    return;
  }
  ptrdiff_t i = 0;
  for (; i + VLEN <= run->length; i += VLEN) {
    NAME(store)(dst + i, NAME(load)(src + i));
    __asm__("" : "+r"(src)); /* as above */
  }
  if (i < run->length) NAME(store_tail)(dst + i, NAME(load)(src + i), run->length - i);
}

/* m columns of VLEN tiles as a line. */
INLINE void NAME(line_of)(int m, real *to, const vec *v) {
  switch (m) {
    case 2:
      NAME(join)(2, to, v);
      break;
    case 3:
      NAME(join)(3, to, v);
      break;
    case 4:
      NAME(join)(4, to, v);
      break;
    default:
      NAME(join)(5, to, v);
  }
}

/* And back. */
INLINE void NAME(columns_of)(int m, vec *v, const real *line) {
  switch (m) {
    case 2:
      NAME(split)(2, v, line);
      break;
    case 3:
      NAME(split)(3, v, line);
      break;
    case 4:
      NAME(split)(4, v, line);
      break;
    default:
      NAME(split)(5, v, line);
  }
}

INLINE int NAME(output_planes)(const int axes, const int depth, const int edge, const fastconv_winograd_planes *t,
                               const fastconv_epilogue *e, const int adds) {
  const int *m = t->outputs;
  const ptrdiff_t lines = (ptrdiff_t)m[0] * m[1];
  const vec lower = NAME(splat)((real)e->lower), upper = NAME(splat)((real)e->upper);
  real buffer[MOST_VALUES / POINTS * OUT_VECTORS * VLEN + VLEN];
  vec v[MOST_VALUES], addend[POINTS] = {{0}}, wrong = {0};
  if (adds) memset(buffer, 0, sizeof buffer);
  for (ptrdiff_t c = 0; c < t->channels; c++) {
    const char *from = t->points + c * t->channel_stride;
    real *plane = (real *)t->destination + c * t->plane_stride;
    const real *residual = adds ? (const real *)*e->residual + c * t->plane_stride : NULL;
    NAME(bring_lines)(t, m[2], 1, plane + t->plane_stride, lines, 1);
    if (adds) {
      NAME(bring_lines)(t, m[2], 1, residual + t->plane_stride, lines, 0);
      for (ptrdiff_t r = 0; r < t->count; r++) NAME(fill_run)(buffer, residual, &t->runs[r]);
    }
    NAME(output_first)(axes, depth, edge, m, v, from, t->point_stride, VLEN);
    const vec shift = NAME(splat)(e->shift ? ((const real *)e->shift)[c] : 0);
    for (ptrdiff_t l = 0; l < lines; l++) {
      vec *y = v + (l / m[1] * edge + l % m[1]) * edge;
      NAME(output_any)(edge, m[2], y, 1);
      if (adds) NAME(columns_of)(m[2], addend, t->whole[l] < 0 ? buffer + l * m[2] * VLEN : residual + t->whole[l]);
      for (int i = 0; i < m[2]; i++) {
        y[i] += shift;
        wrong += y[i] * 0;
        if (adds) y[i] += addend[i];
        y[i] = NAME(at_most)(NAME(at_least)(y[i], lower), upper);
      }
      NAME(line_of)(m[2], t->whole[l] < 0 ? buffer + l * m[2] * VLEN : plane + t->whole[l], y);
    }
    for (ptrdiff_t r = 0; r < t->count; r++) NAME(drain_run)(plane, buffer, &t->runs[r]);
  }
  real lanes[VLEN];
  NAME(store)(lanes, wrong);
  for (ptrdiff_t i = 0; i < t->lanes; i++)
    if (lanes[i] != 0) return 1; /* NaN */
  return 0;
}

INLINE int NAME(output_planes_any)(const int axes, const int depth, const int edge, const fastconv_winograd_planes *t,
                                   const fastconv_epilogue *e) {
  if (e->residual) return NAME(output_planes)(axes, depth, edge, t, e, 1);
  return NAME(output_planes)(axes, depth, edge, t, e, 0);
}

static int NAME(winograd_output_planes)(const fastconv_winograd_planes *t,
                                        const fastconv_epilogue *e){OF_POINTS(return NAME(output_planes_any), t, e)}

FILL(winograd) {
  table->winograd_weight = NAME(winograd_weight);
  table->winograd_input_pixels = NAME(winograd_input_pixels);
  table->winograd_output_pixels = NAME(winograd_output_pixels);
  table->winograd_input_planes = NAME(winograd_input_planes);
  table->winograd_output_planes = NAME(winograd_output_planes);
}
#endif
