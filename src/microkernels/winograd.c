/* Transforms of Winograd's minimal filtering, F(m, r) with m + r - 1 = 6 points along every axis (Lavin and Gray 2016).
 *
 *   y = A' ((G w) * (B' x)),  points 0, a, -a, b, -b and infinity with a = sqrt(1/2), b = sqrt(2)
 *
 * B' is the same for every r: it multiplies by the coefficients of x (x^2 - a^2) (x^2 - b^2) / (x - point), G and A'
 * evaluate polynomials at the points. Those with a b = 1 keep the error at half of what 0, 1, 2 give, since what B' and
 * A' magnify is smaller. A tile of D axes is 6^D values, transformed axis by axis where they lie.
 *
 * Errors of the axes multiply. So the first of three axes may have 4 points instead, 0, 1, -1 and infinity: m + r = 5.
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
#define PLANE (POINTS * POINTS)
#define MOST_VALUES (POINTS * PLANE)
#endif

INLINE void NAME(input_axis)(vec *v, const ptrdiff_t s) {
  const vec a = NAME(splat)((real)POINT_A), b = NAME(splat)((real)POINT_B);
  const vec d0 = v[0], d1 = v[s], d2 = v[2 * s], d3 = v[3 * s], d4 = v[4 * s], d5 = v[5 * s];
  const vec even_a = d4 - d2 * (real)2, odd_a = a * d3 - b * d1;
  const vec even_b = d4 - d2 * (real)0.5, odd_b = b * d3 - a * d1;
  v[0] = d0 + d4 - d2 * (real)2.5;
  v[s] = even_a + odd_a;
  v[2 * s] = even_a - odd_a;
  v[3 * s] = even_b + odd_b;
  v[4 * s] = even_b - odd_b;
  v[5 * s] = d1 + d5 - d3 * (real)2.5;
}

INLINE void NAME(input_depth)(const int depth, vec *v, const ptrdiff_t s) {
  if (depth == POINTS) {
    NAME(input_axis)(v, s);
    return;
  }
  const vec d0 = v[0], d1 = v[s], d2 = v[2 * s], d3 = v[3 * s];
  v[0] = d0 - d2;
  v[s] = d2 + d1;
  v[2 * s] = d2 - d1;
  v[3 * s] = d3 - d1;
}

/* The m outputs of 6 points. */
INLINE void NAME(output_axis)(const int m, vec *v, const ptrdiff_t s) {
  const vec even_a = v[s] + v[2 * s], odd_a = v[s] - v[2 * s];
  const vec even_b = v[3 * s] + v[4 * s], odd_b = v[3 * s] - v[4 * s];
  const vec first = v[0], last = v[5 * s];
  const real a = (real)POINT_A, b = (real)POINT_B;
  vec y = first + even_a + even_b;
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

/* The 6 points of r taps; r values are read, 6 written. */
INLINE void NAME(weight_axis)(const int r, vec *v, const ptrdiff_t s) {
  const real a = (real)POINT_A, b = (real)POINT_B;
  vec even_a = v[0], even_b = v[0], odd_a = {0}, odd_b = {0};
  const vec first = v[0], last = v[(r - 1) * s];
  if (r > 1) odd_a = v[s] * a, odd_b = v[s] * b;
  if (r > 2) even_a += v[2 * s] * (real)0.5, even_b += v[2 * s] * (real)2;
  if (r > 3) odd_a += v[3 * s] * (a / 2), odd_b += v[3 * s] * (2 * b);
  if (r > 4) even_a += v[4 * s] * (real)0.25, even_b += v[4 * s] * (real)4;
  v[0] = first;
  v[s] = (even_a + odd_a) * (real)(-1 / 1.5);
  v[2 * s] = (even_a - odd_a) * (real)(-1 / 1.5);
  v[3 * s] = (even_b + odd_b) * (real)(1 / 6.0);
  v[4 * s] = (even_b - odd_b) * (real)(1 / 6.0);
  v[5 * s] = last;
}

INLINE ptrdiff_t NAME(values)(const int axes, const int depth) { return axes == 1 ? POINTS : depth * PLANE; }

/* v[depth][6][6], of which the last axis is transformed, to points[depth][6][6] of n lanes: the last pass over the
 * values stores them. */
INLINE void NAME(input_rest)(const int axes, const int depth, vec *v, char *points, ptrdiff_t stride, ptrdiff_t n) {
  const ptrdiff_t last = axes > 2 ? PLANE : axes > 1 ? POINTS : 1, along = axes > 2 ? depth : axes > 1 ? POINTS : 1;
  for (ptrdiff_t o = 0; o < depth && axes > 2; o++)
    for (ptrdiff_t i = 0; i < POINTS; i++) NAME(input_axis)(v + o * PLANE + i, POINTS);
  for (ptrdiff_t i = 0; i < (axes > 1 ? last : POINTS); i++) {
    vec d[POINTS];
    UNROLL for (ptrdiff_t k = 0; k < along; k++) d[k] = v[k * last + i];
    if (axes == 2) NAME(input_axis)(d, 1);
    if (axes > 2) NAME(input_depth)(depth, d, 1);
    char *to = points + i * stride;
    UNROLL for (ptrdiff_t k = 0; k < along; k++, to += last * stride) NAME(store_some)((real *)to, d[k], n);
  }
}

INLINE void NAME(output_any)(int m, vec *v, const ptrdiff_t s) {
  switch (m) {
    case 1:
      NAME(output_axis)(1, v, s);
      break;
    case 2:
      NAME(output_axis)(2, v, s);
      break;
    case 3:
      NAME(output_axis)(3, v, s);
      break;
    case 4:
      NAME(output_axis)(4, v, s);
      break;
    default:
      NAME(output_axis)(5, v, s);
  }
}

INLINE void NAME(output_depth)(const int depth, const int m, vec *v) {
  if (depth == POINTS) {
    NAME(output_any)(m, v, 1);
    return;
  }
  const vec even = v[1] + v[2], odd = v[1] - v[2], last = v[3];
  v[0] += m == 1 ? even + last : even;
  if (m > 1) v[1] = m == 2 ? odd + last : odd;
  if (m > 2) v[2] = even + last;
}

/* points[depth][6][6] of n lanes, transformed along all axes but the last, to v[m0][m1][6], lines POINTS apart: the
 * first pass over the values loads them. The three are m of the last axes, 1 before the first. */
INLINE void NAME(output_first)(const int axes, const int depth, const int *m, vec *v, const char *points,
                               ptrdiff_t stride, ptrdiff_t n) {
  const ptrdiff_t first = axes > 2 ? PLANE : axes > 1 ? POINTS : 1, along = axes > 2 ? depth : axes > 1 ? POINTS : 1;
  const ptrdiff_t outputs = axes > 2 ? m[0] : axes > 1 ? m[1] : 1;
  for (ptrdiff_t i = 0; i < (axes > 1 ? first : POINTS); i++) {
    vec d[POINTS];
    const char *from = points + i * stride;
    UNROLL for (ptrdiff_t k = 0; k < along; k++, from += first * stride) d[k] = NAME(load_some)((const real *)from, n);
    if (axes == 2) NAME(output_any)(m[1], d, 1);
    if (axes > 2) NAME(output_depth)(depth, m[0], d);
    UNROLL for (ptrdiff_t k = 0; k < along; k++) if (k < outputs) v[k * first + i] = d[k];
  }
  for (ptrdiff_t o = 0; o < m[0] && axes > 2; o++)
    for (ptrdiff_t i = 0; i < POINTS; i++) NAME(output_any)(m[1], v + o * PLANE + i, POINTS);
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

INLINE void NAME(weight_depth)(const int depth, const int r, vec *v) {
  if (depth == POINTS) {
    OF_TAPS(weight_axis, r, v, PLANE)
    return;
  }
  const vec first = v[0], last = v[(r - 1) * PLANE];
  const vec even = r > 2 ? first + v[2 * PLANE] : first, odd = r > 3 ? v[PLANE] + v[3 * PLANE] : v[PLANE];
  v[PLANE] = (even + odd) * (real)0.5;
  v[2 * PLANE] = (even - odd) * (real)0.5;
  v[3 * PLANE] = last;
}

INLINE vec NAME(strided)(const real *p, ptrdiff_t stride, ptrdiff_t n) {
  if (stride == 1) return n < VLEN ? NAME(load_tail)(p, n) : NAME(load)(p);
  vec v = {0};
  for (ptrdiff_t i = 0; i < (n < VLEN ? n : VLEN); i++) v[i] = p[i * stride];
  return v;
}

/* The lines of r taps, transformed along them, to v: lines POINTS apart, planes PLANE. */
INLINE void NAME(weight_lines)(const int r, const fastconv_winograd_weight *w, const real *from, ptrdiff_t n, vec *v) {
  const ptrdiff_t *tap = w->offsets;
  for (int d = 0; d < w->taps[0]; d++)
    for (int h = 0; h < w->taps[1]; h++, tap += r) {
      vec line[POINTS];
      UNROLL for (int c = 0; c < r; c++) line[c] = tap[c] < 0 ? (vec){0} : NAME(strided)(from + tap[c], w->stride, n);
      NAME(weight_axis)(r, line, 1);
      UNROLL for (int c = 0; c < POINTS; c++) v[d * PLANE + h * POINTS + c] = line[c];
    }
}

/* v[r][6], transformed along the first axis, to points. */
INLINE void NAME(weight_columns)(const int r, const vec *v, char *points, ptrdiff_t stride, ptrdiff_t n) {
  for (int p = 0; p < POINTS; p++) {
    vec column[POINTS];
    UNROLL for (int k = 0; k < r; k++) column[k] = v[k * POINTS + p];
    NAME(weight_axis)(r, column, 1);
    UNROLL for (int k = 0; k < POINTS; k++)
        NAME(store_some)((real *)(points + (k * POINTS + p) * stride), column[k], n);
  }
}

static void NAME(winograd_weight)(const fastconv_winograd_weight *w, const char *from, char *to, ptrdiff_t n) {
  const int axes = w->axes, depth = w->depth, *r = w->taps;
  const ptrdiff_t stride = w->point_stride;
  vec v[MOST_VALUES];
  for (ptrdiff_t i = 0; i < n; i += VLEN, to += VEC_BYTES) {
    OF_TAPS(weight_lines, r[2], w, (const real *)from + i * w->stride, n - i, v)
    if (axes == 2) {
      OF_TAPS(weight_columns, r[1], v, to, stride, n - i)
      continue;
    }
    for (int d = 0; d < r[0] && axes > 2; d++)
      for (int p = 0; p < POINTS; p++) OF_TAPS(weight_axis, r[1], v + d * PLANE + p, POINTS)
    for (int p = 0; p < PLANE && axes > 2; p++) NAME(weight_depth)(depth, r[0], v + p);
    for (ptrdiff_t p = 0; p < NAME(values)(axes, depth); p++) NAME(store_some)((real *)(to + p * stride), v[p], n - i);
  }
}

/* --------------------------------------------------------------------------------------------------------- pixels */

#define VECTORS_AHEAD 2 /* of each pixel, which are far apart */

INLINE void NAME(input_pixels)(const int axes, const int depth, const fastconv_winograd_pixels *t) {
  vec v[MOST_VALUES];
  const ptrdiff_t values = NAME(values)(axes, depth);
  for (ptrdiff_t c = 0; c < t->channels; c += VLEN) {
    const ptrdiff_t n = t->channels - c;
    for (ptrdiff_t p = 0; p < values; p += POINTS) {
      vec d[POINTS];
      UNROLL for (int i = 0; i < POINTS; i++) {
        const real *pixel = (const real *)(t->pixels[p + i] + t->offset) + c;
        PREFETCH(pixel + VECTORS_AHEAD * VLEN);
        d[i] = NAME(load_some)(pixel, n);
      }
      NAME(input_axis)(d, 1);
      UNROLL for (int i = 0; i < POINTS; i++) v[p + i] = d[i];
    }
    NAME(input_rest)(axes, depth, v, t->points + c * (ptrdiff_t)sizeof(real), t->point_stride, n);
  }
}

static void NAME(winograd_input_pixels)(const fastconv_winograd_pixels *t) {
  if (t->axes == 1) NAME(input_pixels)(1, 1, t);
  else if (t->axes == 2) NAME(input_pixels)(2, 1, t);
  else if (t->depth == 4) NAME(input_pixels)(3, 4, t);
  else NAME(input_pixels)(3, POINTS, t);
}

/* The first channels of a tile's outputs, while its points are transformed. */
INLINE void NAME(bring_outputs)(const fastconv_winograd_pixels *t) {
  char *const *to = t->destinations, *const *const end = to + t->outputs[0] * t->outputs[1] * t->outputs[2];
  for (; to < end; to++)
    if (*to) UNROLL for (int i = 0; i < VECTORS_AHEAD; i++) PREFETCH_WRITE(*to + i * VEC_BYTES);
}

INLINE int NAME(output_pixels)(const int axes, const int depth, const fastconv_winograd_pixels *t,
                               const fastconv_epilogue *e, const int adds) {
  vec v[MOST_VALUES], wrong = {0};
  const vec lower = NAME(splat)((real)e->lower), upper = NAME(splat)((real)e->upper);
  for (ptrdiff_t c = 0; c < t->channels; c += VLEN) {
    const ptrdiff_t n = t->channels - c < VLEN ? t->channels - c : VLEN;
    if (c == 0) NAME(bring_outputs)(t);
    NAME(output_first)(axes, depth, t->outputs, v, t->points + c * (ptrdiff_t)sizeof(real), t->point_stride, n);
    const vec shift = e->shift ? NAME(load_some)((const real *)e->shift + c, n) : (vec){0};
    char *const *to = t->destinations;
    const char *const *residual = e->residual;
    for (int d = 0; d < t->outputs[0]; d++)
      for (int h = 0; h < t->outputs[1]; h++) {
        vec *line = v + (d * POINTS + h) * POINTS;
        NAME(output_any)(t->outputs[2], line, 1);
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

#ifndef OUTPUT_OF
#define OUTPUT_OF(LAYOUT, AXES, DEPTH, T, E) \
  (E)->residual ? NAME(output_##LAYOUT)(AXES, DEPTH, T, E, 1) : NAME(output_##LAYOUT)(AXES, DEPTH, T, E, 0)
#endif

static int NAME(winograd_output_pixels)(const fastconv_winograd_pixels *t, const fastconv_epilogue *e) {
  if (t->axes == 1) return OUTPUT_OF(pixels, 1, 1, t, e);
  if (t->axes == 2) return OUTPUT_OF(pixels, 2, 1, t, e);
  if (t->depth == 4) return OUTPUT_OF(pixels, 3, 4, t, e);
  return OUTPUT_OF(pixels, 3, POINTS, t, e);
}

/* --------------------------------------------------------------------------------------------------------- planes */

#ifndef QUARTERS
#define MOST_PARTS 3
#define IN_VECTORS 10    /* of a line's parts: 3 * 2, 2 * 3, 2 * 4 or 2 * 5 */
#define OUT_VECTORS 5    /* the most outputs of a tile along a line */
#define BRING_BYTES 2048 /* of a plane, from which on its next lines are asked for */
#endif

INLINE int NAME(parts_of)(const int m) { return m == 2 ? 3 : 2; }

/* VLEN tiles' six columns, from parts of m. */
INLINE void NAME(columns)(const int m, vec *v, const real *const *part) {
  UNROLL for (int i = 0; i < NAME(parts_of)(m); i++) {
    vec split[OUT_VECTORS];
    NAME(split)(m, split, part[i]);
    UNROLL for (int k = 0; k < m; k++) if (i * m + k < POINTS) v[i * m + k] = split[k];
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

/* The six columns of every tile of a channel's lines, transformed. */
INLINE void NAME(line_columns)(const fastconv_winograd_planes *t, const int m, vec *v, ptrdiff_t lines, real *buffer,
                               const real *plane) {
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
    NAME(columns)(m, d, part);
    NAME(input_axis)(d, 1);
    UNROLL for (int i = 0; i < POINTS; i++) v[l * POINTS + i] = d[i];
  }
}

INLINE void NAME(input_planes)(const int axes, const int depth, const fastconv_winograd_planes *t) {
  const ptrdiff_t lines = NAME(values)(axes, depth) / POINTS;
  const int m = t->outputs[2];
  real buffer[MOST_VALUES / POINTS * IN_VECTORS * VLEN + VLEN];
  vec v[MOST_VALUES];
  memset(buffer, 0, (size_t)(lines * NAME(parts_of)(m) * m * VLEN) * sizeof(real));
  for (ptrdiff_t c = 0; c < t->channels; c++) {
    const real *plane = (const real *)t->source + c * t->plane_stride;
    switch (m) {
      case 2:
        NAME(line_columns)(t, 2, v, lines, buffer, plane);
        break;
      case 3:
        NAME(line_columns)(t, 3, v, lines, buffer, plane);
        break;
      case 4:
        NAME(line_columns)(t, 4, v, lines, buffer, plane);
        break;
      default:
        NAME(line_columns)(t, 5, v, lines, buffer, plane);
    }
    NAME(input_rest)(axes, depth, v, t->points + c * t->channel_stride, t->point_stride, VLEN);
  }
}

static void NAME(winograd_input_planes)(const fastconv_winograd_planes *t) {
  if (t->axes == 1) NAME(input_planes)(1, 1, t);
  else if (t->axes == 2) NAME(input_planes)(2, 1, t);
  else if (t->depth == 4) NAME(input_planes)(3, 4, t);
  else NAME(input_planes)(3, POINTS, t);
}

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

INLINE int NAME(output_planes)(const int axes, const int depth, const fastconv_winograd_planes *t,
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
    NAME(output_first)(axes, depth, m, v, from, t->point_stride, VLEN);
    const vec shift = NAME(splat)(e->shift ? ((const real *)e->shift)[c] : 0);
    for (ptrdiff_t l = 0; l < lines; l++) {
      vec *y = v + (l / m[1] * POINTS + l % m[1]) * POINTS;
      NAME(output_any)(m[2], y, 1);
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

static int NAME(winograd_output_planes)(const fastconv_winograd_planes *t, const fastconv_epilogue *e) {
  if (t->axes == 1) return OUTPUT_OF(planes, 1, 1, t, e);
  if (t->axes == 2) return OUTPUT_OF(planes, 2, 1, t, e);
  if (t->depth == 4) return OUTPUT_OF(planes, 3, 4, t, e);
  return OUTPUT_OF(planes, 3, POINTS, t, e);
}

FILL(winograd) {
  table->winograd_weight = NAME(winograd_weight);
  table->winograd_input_pixels = NAME(winograd_input_pixels);
  table->winograd_output_pixels = NAME(winograd_output_pixels);
  table->winograd_input_planes = NAME(winograd_input_planes);
  table->winograd_output_planes = NAME(winograd_output_planes);
}
#endif
