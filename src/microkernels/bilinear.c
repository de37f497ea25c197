/* Bilinear sampling of an image at points off its grid, and the gradients of it (Dai et al. 2017, section 3.1).
 *
 *   sample(point) = mask * sum over pixels (y, x) of max(0, 1 - |row - y|) max(0, 1 - |column - x|) image[y][x]
 *
 * At most four pixels count, the point's neighbours; those outside the image are 0. `locate_points` describes each
 * point once for all channels by a square of 2 x 2 pixels that always lies inside the image, so that all four may be
 * read unseen; a pixel of the square that is no neighbour has a negative weight and counts as 0 whatever it holds.
 * Points with row <= -1, row >= height or so the column, infinite and NaN ones have no neighbours.
 */
#ifndef REAL_BITS
#define FAMILY "bilinear.c"
#include "dtypes.h"
#else
#include "simd.h"

typedef struct {           /* of VLEN points along one axis */
  ivec first;              /* the square's first row (column) */
  ivec counts[2];          /* whether first and first + 1 are neighbours */
  vec weight[2], slope[2]; /* 1 - |point - pixel| and its derivative by the point; 0 where the pixel does not count */
} NAME(neighbours);

INLINE NAME(neighbours) NAME(find_neighbours)(vec point, ptrdiff_t size) {
  const vec one = NAME(splat)(1), zero = {0}, end = NAME(splat)((real)size);
  const ivec last = (ivec){0} + (ilane)(size - 2);
  const ivec inside = (point >= -one) & (point < end);
  point = NAME(select)(inside, point,
                       NAME(select)(point > zero, end - one, zero)); /* a far point's square is the nearest */
  ivec floor = __builtin_convertvector(point, ivec);
  floor += __builtin_convertvector(floor, vec) > point;
  NAME(neighbours) n;
  n.first = floor - (floor < 0);
  if (size > 1) n.first += n.first > last;
  const ivec shift = floor - n.first,
             regular = shift == 0; /* the square may start behind or before the first neighbour */
  const vec high = point - __builtin_convertvector(floor, vec), low = one - high;
  n.counts[0] = inside & (shift <= 0);
  n.counts[1] = inside & (shift >= 0) & (n.first <= last);
  n.weight[0] = NAME(select)(n.counts[0], NAME(select)(regular, low, high), zero);
  n.weight[1] = NAME(select)(n.counts[1], NAME(select)(regular, high, low), zero);
  n.slope[0] = NAME(select)(n.counts[0], NAME(select)(regular, -one, one), zero);
  n.slope[1] = NAME(select)(n.counts[1], NAME(select)(regular, one, -one), zero);
  return n;
}

/* The neighbours, by rows and by columns, of points l .. l + VLEN of a tap. */
INLINE void NAME(find_square)(const fastconv_grid *g, ptrdiff_t tap, ptrdiff_t l, NAME(neighbours) * y,
                              NAME(neighbours) * x) {
  const real *origin = (const real *)g->origin + l, *offset = (const real *)g->offset + 2 * tap * g->lanes + l;
  const vec row = NAME(load)(origin) + NAME(splat)((real)(tap / g->taps_x * g->dilation_y));
  const vec column = NAME(load)(origin + g->lanes) + NAME(splat)((real)(tap % g->taps_x * g->dilation_x));
  *y = NAME(find_neighbours)(row + NAME(load)(offset), g->height);
  *x = NAME(find_neighbours)(column + NAME(load)(offset + g->lanes), g->width);
}

static void NAME(locate_points)(const fastconv_grid *g, char *pixel, char *weight) {
  for (ptrdiff_t tap = 0; tap < g->taps_y * g->taps_x; tap++) {
    ilane *const first = (ilane *)pixel + tap * g->lanes;
    real *const w = (real *)weight + 4 * tap * g->lanes;
    for (ptrdiff_t l = 0; l < g->count; l += VLEN) {
      NAME(neighbours) y, x;
      NAME(find_square)(g, tap, l, &y, &x);
      NAME(store)((real *)(first + l), (vec)(y.first * (ilane)g->width + x.first));
      UNROLL for (int i = 0; i < 4; i++) NAME(store)(
          w + i * g->lanes + l,
          NAME(select)(y.counts[i / 2] & x.counts[i % 2], y.weight[i / 2] * x.weight[i % 2], NAME(splat)(-1)));
    }
  }
}

static void NAME(point_gradients)(const fastconv_grid *g, const char *mask, const char *dots, ptrdiff_t parts,
                                  ptrdiff_t part_stride, char *grad_offset, char *grad_mask) {
  for (ptrdiff_t tap = 0; tap < g->taps_y * g->taps_x; tap++)
    for (ptrdiff_t l = 0; l < g->count; l += VLEN) {
      NAME(neighbours) y, x;
      NAME(find_square)(g, tap, l, &y, &x);
      vec dot[4];
      UNROLL for (int i = 0; i < 4; i++) {
        const real *from = (const real *)dots + (4 * tap + i) * g->lanes + l;
        dot[i] = NAME(load)(from);
        for (ptrdiff_t part = 1; part < parts; part++) dot[i] += NAME(load)(from + part * part_stride);
      }
      const vec above = x.weight[0] * dot[0] + x.weight[1] * dot[1],
                below = x.weight[0] * dot[2] + x.weight[1] * dot[3];
      const vec m = mask ? NAME(load)((const real *)mask + tap * g->lanes + l) : NAME(splat)(1);
      if (grad_mask) NAME(store)((real *)grad_mask + tap * g->lanes + l, y.weight[0] * above + y.weight[1] * below);
      if (!grad_offset) continue;
      real *to = (real *)grad_offset + 2 * tap * g->lanes + l;
      NAME(store)(to, m * (y.slope[0] * above + y.slope[1] * below));
      NAME(store)(to + g->lanes, m * (y.weight[0] * (x.slope[0] * dot[0] + x.slope[1] * dot[1]) +
                                      y.weight[1] * (x.slope[0] * dot[2] + x.slope[1] * dot[3])));
    }
}

/* The squares of VLEN points in one plane; a pixel that is no neighbour reads as 0. */
INLINE void NAME(read_squares)(const real *plane, const ilane *at, const fastconv_points *p, const ivec counts[4],
                               vec v[4], const int columns) {
  if (columns == 2) {
    NAME(load_pairs)(plane, at, &v[0], &v[1]);
    NAME(load_pairs)(plane + p->below, at, &v[2], &v[3]);
  } else {
    real above[VLEN], below[VLEN];
    for (int l = 0; l < VLEN; l++) above[l] = plane[at[l]], below[l] = plane[at[l] + p->below];
    v[0] = NAME(load)(above), v[2] = NAME(load)(below);
    v[1] = v[3] = (vec){0};
  }
  UNROLL for (int i = 0; i < 4; i++) v[i] = (vec)((ivec)v[i] & counts[i]);
}

/* Lanes are points, whose weights stay in registers while some channels pass. */
INLINE void NAME(sample_points)(const fastconv_points *p, const fastconv_sampling *s, ptrdiff_t tap, ptrdiff_t l,
                                ptrdiff_t channel, ptrdiff_t channels, const int sampled, const int dotted,
                                const int columns) {
  const ilane *const pixel = (const ilane *)p->pixel + tap * p->lanes + l;
  const vec mask = p->mask ? NAME(load)((const real *)p->mask + tap * p->lanes + l) : NAME(splat)(1);
  vec weight[4], dot[4];
  ivec counts[4];
  UNROLL for (int i = 0; i < 4; i++) {
    weight[i] = NAME(load)((const real *)p->weight + (4 * tap + i) * p->lanes + l);
    counts[i] = weight[i] >= 0;
    dot[i] = dotted && channel ? NAME(load)((const real *)s->dots + (4 * tap + i) * p->lanes + l) : (vec){0};
  }
  const ptrdiff_t at = channel * s->stride + tap * s->tap_stride + l;
  const real *plane = (const real *)s->x + channel * s->x_stride, *grad = (const real *)s->grad + at;
  real *sample = (real *)s->sample + at;
  for (ptrdiff_t c = 0; c < channels; c++, plane += s->x_stride) {
    vec v[4];
    NAME(read_squares)(plane, pixel, p, counts, v, columns);
    if (sampled)
      NAME(store)(sample + c * s->stride,
                  (weight[0] * v[0] + weight[1] * v[1] + weight[2] * v[2] + weight[3] * v[3]) * mask);
    if (dotted) {
      const vec g = NAME(load)(grad + c * s->stride);
      UNROLL for (int i = 0; i < 4; i++) dot[i] += g * v[i];
    }
  }
  if (dotted) UNROLL for (int i = 0; i < 4; i++) NAME(store)((real *)s->dots + (4 * tap + i) * p->lanes + l, dot[i]);
}

/* So few channels at a time that what all taps read of them stays in L1: 41 cycles for 16 samples against 50 (Cascade
 * Lake). */
INLINE void NAME(sample_planes_of)(const fastconv_points *points, const fastconv_sampling *sampling, const int sampled,
                                   const int dotted, const int columns) {
  const fastconv_points at = *points;
  const fastconv_sampling of = *sampling; /* copies: the stores may alias whatever pointers reach */
  const ptrdiff_t block = 64 / (ptrdiff_t)sizeof(real);
  for (ptrdiff_t c = 0; c < of.channels; c += block) {
    const ptrdiff_t channels = of.channels - c < block ? of.channels - c : block;
    for (ptrdiff_t tap = 0; tap < at.taps; tap++)
      for (ptrdiff_t l = 0; l < at.count; l += VLEN)
        NAME(sample_points)(&at, &of, tap, l, c, channels, sampled, dotted, columns);
  }
}

static void NAME(sample_planes)(const fastconv_points *p, const fastconv_sampling *s) {
  if (!p->right) NAME(sample_planes_of)(p, s, s->sample != NULL, s->grad != NULL, 1);
  else if (s->sample && s->grad) NAME(sample_planes_of)(p, s, 1, 1, 2);
  else if (s->sample) NAME(sample_planes_of)(p, s, 1, 0, 2);
  else NAME(sample_planes_of)(p, s, 0, 1, 2);
}

/* Lane i of the result is the sum over the lanes of row i: each pass halves the rows and doubles those that share one.
 */
INLINE vec NAME(sum_each)(vec rows[VLEN]) {
  UNROLL for (int n = VLEN / 2; n > 0; n /= 2) UNROLL for (int i = 0; i < n; i++) rows[i] =
      NAME(interleave_low)(rows[i], rows[i + n]) + NAME(interleave_high)(rows[i], rows[i + n]);
  return rows[0];
}

/* One point's row of channels: four rows of pixels blended, and the dot products of its gradient with each of them. */
INLINE void NAME(sample_row)(const fastconv_points *p, const fastconv_sampling *s, ptrdiff_t tap, ptrdiff_t l,
                             vec dot[4], const int sampled, const int dotted) {
  const ptrdiff_t at = ((const ilane *)p->pixel)[tap * p->lanes + l], to = l * s->stride + tap * s->tap_stride;
  const vec mask = NAME(splat)(p->mask ? ((const real *)p->mask)[tap * p->lanes + l] : 1);
  const real *row[4], *grad = (const real *)s->grad + to;
  real *sample = (real *)s->sample + to;
  vec weight[4];
  UNROLL for (int i = 0; i < 4; i++) {
    const real w = ((const real *)p->weight)[(4 * tap + i) * p->lanes + l];
    row[i] = w < 0 ? (const real *)s->zeros
                   : (const real *)s->x + (at + (i % 2) * p->right + (i / 2) * p->below) * s->x_stride;
    weight[i] = NAME(splat)(w);
    dot[i] = (vec){0};
  }
#define SAMPLE_CHANNELS(LOAD, STORE)                                                                         \
  {                                                                                                          \
    const vec v[4] = {LOAD(row[0] + c), LOAD(row[1] + c), LOAD(row[2] + c), LOAD(row[3] + c)};               \
    if (sampled)                                                                                             \
      STORE(sample + c, (weight[0] * v[0] + weight[1] * v[1] + weight[2] * v[2] + weight[3] * v[3]) * mask); \
    if (dotted) {                                                                                            \
      const vec g = LOAD(grad + c);                                                                          \
      UNROLL for (int i = 0; i < 4; i++) dot[i] += g * v[i];                                                 \
    }                                                                                                        \
  }
#define LOAD_TAIL(from) NAME(load_tail)(from, s->channels - c)
#define STORE_TAIL(to, v) NAME(store_tail)(to, v, s->channels - c)
  ptrdiff_t c = 0;
  for (; c + VLEN <= s->channels; c += VLEN) SAMPLE_CHANNELS(NAME(load), NAME(store))
  if (c < s->channels) SAMPLE_CHANNELS(LOAD_TAIL, STORE_TAIL)
#undef SAMPLE_CHANNELS
#undef LOAD_TAIL
#undef STORE_TAIL
}

/* Lanes are channels. Dot products of BATCH points, one vector for each of four pixels, are summed across lanes
 * together. */
INLINE void NAME(sample_pixels_of)(const fastconv_points *points, const fastconv_sampling *sampling, const int sampled,
                                   const int dotted) {
  const fastconv_points at = *points, *const p = &at;
  const fastconv_sampling of = *sampling, *const s = &of; /* copies: the stores may alias whatever pointers reach */
  enum { BATCH = VLEN > 4 ? VLEN / 4 : 1 };
  for (ptrdiff_t l = 0; l < p->count; l += BATCH)
    for (ptrdiff_t tap = 0; tap < p->taps; tap++) {
      const int points = p->count - l < BATCH ? (int)(p->count - l) : BATCH;
      vec dots[4 * BATCH];
      for (int i = 0; i < points; i++) NAME(sample_row)(p, s, tap, l + i, dots + 4 * i, sampled, dotted);
      if (!dotted) continue;
      for (int i = 4 * points; i < 4 * BATCH; i++) dots[i] = (vec){0};
      real sums[4 * BATCH];
      UNROLL for (int i = 0; i < 4 * BATCH; i += VLEN) NAME(store)(sums + i, NAME(sum_each)(dots + i));
      for (int i = 0; i < 4 * points; i++) ((real *)s->dots)[(4 * tap + i % 4) * p->lanes + l + i / 4] = sums[i];
    }
}

static void NAME(sample_pixels)(const fastconv_points *p, const fastconv_sampling *s) {
  if (s->sample && s->grad) NAME(sample_pixels_of)(p, s, 1, 1);
  else if (s->sample) NAME(sample_pixels_of)(p, s, 1, 0);
  else NAME(sample_pixels_of)(p, s, 0, 1);
}

INLINE void NAME(scatter_of)(const fastconv_points *p, const fastconv_sampling *s, real *grad_x,
                             const ptrdiff_t channels) {
  const ptrdiff_t corner[4] = {0, p->right * s->x_stride, p->below * s->x_stride, (p->right + p->below) * s->x_stride};
  for (ptrdiff_t l = 0; l < p->count; l++)
    for (ptrdiff_t tap = 0; tap < p->taps; tap++) {
      const ptrdiff_t point = tap * p->lanes + l;
      const real *weight = (const real *)p->weight + 3 * tap * p->lanes + point;
      const real *grad = (const real *)s->grad + l * s->stride + tap * s->tap_stride;
      real *const square = grad_x + ((const ilane *)p->pixel)[point] * s->x_stride;
      const real mask = p->mask ? ((const real *)p->mask)[point] : 1;
      PREFETCH_L2(grad + 4 * s->stride);
      UNROLL for (int i = 0; i < 4; i++) {
        const real w = weight[i * p->lanes] * mask;
        real *to = square + corner[i];
        if (weight[i * p->lanes] < 0) continue;
        ptrdiff_t c = 0;
        for (; c + VLEN <= channels; c += VLEN) NAME(store)(to + c, NAME(load)(to + c) + w * NAME(load)(grad + c));
        if (c + 1 == channels) to[c] += w * grad[c];
        else if (c < channels)
          NAME(store_tail)(to + c, NAME(load_tail)(to + c, channels - c) + w * NAME(load_tail)(grad + c, channels - c),
                           channels - c);
      }
    }
}

static void NAME(scatter_pixels)(const fastconv_points *points, const fastconv_sampling *sampling, char *grad_x) {
  const fastconv_points p = *points; /* copies, as above */
  const fastconv_sampling s = *sampling;
  const ptrdiff_t line = 64 / (ptrdiff_t)sizeof(real);
  if (s.channels == line) NAME(scatter_of)(&p, &s, (real *)grad_x, line);
  else NAME(scatter_of)(&p, &s, (real *)grad_x, s.channels);
}

FILL(bilinear) {
  table->locate_points = NAME(locate_points);
  table->sample_planes = NAME(sample_planes);
  table->sample_pixels = NAME(sample_pixels);
  table->scatter_pixels = NAME(scatter_pixels);
  table->point_gradients = NAME(point_gradients);
}
#endif
