/* What the pools share: which input rows an output row sees, and how the elements of a window are joined.
 *
 * The contract is in table.h. An output row's window is a list of input rows; its columns are seen differently by
 *
 *   pool_lines.h     rows are joined into lines in L1, then the lines' columns: channels_first, and the other layout's
 *                    windows that overlap much
 *   pool_plane.h     channels_first, maxima of 3x3 neighbours that keep the size: columns down the rows, in registers
 *   pool_registers.h channels_first, 2 or 3 columns, 1 or 2 apart, of few rows: in registers
 *   pool_same.h      channels_first, other maxima with stride 1 and "same" padding: those lines as one
 *   pool_stripes.h   channels_first, the adjoint of means over 2 or 3 columns, 2 apart: in registers
 *   pool_wide.h      channels_first, long runs of columns: lane by lane, then the lanes of VLEN windows
 *   pool_pixels.h    channels_last: lanes are channels
 *   pool_slide.h     channels_last, 2 or 3 columns, 1 or 2 apart, of few rows: joined columns stay in registers
 *   pool_route.h     the adjoint of a maximum
 */
#ifndef FASTCONV_POOL_ONCE
#define FASTCONV_POOL_ONCE

#define POOL_BUFFER ((ptrdiff_t)(8192 / sizeof(real))) /* elements of lines that stay in L1 beside their sources */

typedef struct { /* the next output row */
  ptrdiff_t d, h, plane;
  ptrdiff_t pixel; /* the first of the input plane */
} pool_place;

INLINE pool_place pool_place_of(const fastconv_pool *p, ptrdiff_t row) {
  const ptrdiff_t outer = row / p->axis[1].out, plane = outer / p->axis[0].out;
  const ptrdiff_t pixels = p->axis[0].in * p->axis[1].in * p->axis[2].in;
  return (pool_place){outer % p->axis[0].out, row % p->axis[1].out, plane, plane * pixels};
}

/* So many rows on, all but the last of them in one plane of the output. */
INLINE void pool_advance(const fastconv_pool *p, pool_place *at, ptrdiff_t rows) {
  at->h += rows;
  if (at->h < p->axis[1].out) return;
  at->h = 0;
  if (++at->d < p->axis[0].out) return;
  at->d = 0;
  at->plane++;
  at->pixel += p->axis[0].in * p->axis[1].in * p->axis[2].in;
}

typedef struct { /* from an input row of a window to the next one, in pixels: in the next plane, and below */
  ptrdiff_t d, h;
} pool_pitch;

INLINE pool_pitch pool_pitch_of(const fastconv_pool *p) {
  return (pool_pitch){p->axis[0].step * p->axis[1].in * p->axis[2].in, p->axis[1].step * p->axis[2].in};
}

/* No window of the axis has more inputs. */
INLINE ptrdiff_t pool_most(const fastconv_windows *w) {
  ptrdiff_t most = 1;
  for (ptrdiff_t o = 0; o < w->out; o++) most = w->count[o] > most ? w->count[o] : most;
  return most;
}

/* The columns that outputs o .. stop - 1 of a row may see: from *low on; returns their number, padding included. */
INLINE ptrdiff_t pool_columns(const fastconv_windows *w, ptrdiff_t o, ptrdiff_t stop, ptrdiff_t *low) {
  if (w->stride > 0) {
    *low = o * w->stride - w->before;
    return (stop - 1 - o) * w->stride + (w->taps - 1) * w->step + 1;
  }
  if (w->stride < 0) {
    const ptrdiff_t stride = -w->stride;
    *low = (o + w->before) / stride - (w->taps - 1) / stride;
    return (stop - 1 + w->before) / stride + 1 - *low;
  }
  *low = w->first[o];
  return w->first[stop - 1] + w->count[stop - 1] - *low;
}

#endif

typedef struct {   /* the input rows of one output row: `rows` of each of `planes` */
  const real *at;  /* the first element of the first row */
  ptrdiff_t index; /* the flat index of that pixel in its plane */
  ptrdiff_t planes, rows;
  const real *scale[2]; /* of those (SPREAD), or of the output (one) */
} NAME(pool_window);

/* The window of an output row. */
INLINE NAME(pool_window) NAME(pool_look)(const fastconv_pool *p, const real *x, pool_place at) {
  const fastconv_windows *d = &p->axis[0], *h = &p->axis[1];
  const int spread = p->kind == FASTCONV_POOL_SPREAD;
  const ptrdiff_t index = (d->first[at.d] * h->in + h->first[at.h]) * p->axis[2].in;
  return (NAME(pool_window)){
      x + (at.pixel + index) * p->channels,
      index,
      d->count[at.d],
      h->count[at.h],
      {(const real *)d->scale + (spread ? d->first[at.d] : at.d),
       (const real *)h->scale + (spread ? h->first[at.h] : at.h)},
  };
}

INLINE real NAME(pool_divisor)(const NAME(pool_window) * w) { return *w->scale[0] * *w->scale[1]; }

/* The r-th of a window's rows: its first pixel, counted from the first row's. */
INLINE ptrdiff_t NAME(pool_row)(const NAME(pool_window) * w, pool_pitch pitch, ptrdiff_t r) {
  if (w->planes == 1) return r * pitch.h;
  return (uint32_t)r / (uint32_t)w->rows * pitch.d + (uint32_t)r % (uint32_t)w->rows * pitch.h;
}

/* Its factor (SPREAD). */
INLINE real NAME(pool_share)(const NAME(pool_window) * w, ptrdiff_t r) {
  if (w->planes == 1) return *w->scale[0] * w->scale[1][r];
  return w->scale[0][(uint32_t)r / (uint32_t)w->rows] * w->scale[1][(uint32_t)r % (uint32_t)w->rows];
}

INLINE vec NAME(pool_join)(const int kind, vec a, vec b) {
  return kind == FASTCONV_POOL_MAX ? NAME(larger)(a, b) : a + b;
}

INLINE vec NAME(pool_join_three)(const int kind, vec a, vec b, vec c) {
  return kind == FASTCONV_POOL_MAX ? NAME(larger_of_three)(a, b, c) : a + b + c;
}

/* Up to POOL_GROUP rows joined. */
INLINE vec NAME(pool_join_rows)(const int kind, const int rows, const vec *v) {
  if (rows == 1) return v[0];
  if (rows == 2) return NAME(pool_join)(kind, v[0], v[1]);
  const vec three = NAME(pool_join_three)(kind, v[0], v[1], v[2]);
  return rows == 3 ? three : NAME(pool_join)(kind, three, v[3]);
}

INLINE real NAME(pool_neutral)(const int kind) { return kind == FASTCONV_POOL_MAX ? -(real)INFINITY : 0; }

/* An element as it is joined. */
INLINE vec NAME(pool_term)(const int kind, const fastconv_pool *p, vec v) {
  if (kind == FASTCONV_POOL_SQUARE) return v * v;
  return kind == FASTCONV_POOL_POWER ? NAME(lanes_to_power)(v, p->power) : v;
}

OUTLINE vec NAME(pool_norm)(const fastconv_pool *p, vec v, vec divisor, const real *slope, ptrdiff_t n) {
  const int square = p->kind == FASTCONV_POOL_SQUARE;
  v *= NAME(splat)((real)p->whole) / divisor;
  if (!slope) return square ? NAME(roots)(v) : NAME(lanes_to_power)(v, 1 / p->power);
  const vec factor = square ? 1 / NAME(roots)(v) : NAME(lanes_to_power)(v, 1 / p->power - 1);
  return NAME(select)(v == 0, (vec){0}, NAME(load_some)(slope, n) * factor);
}

/* A joined window as it is stored; slope points to the output's own, n lanes count. */
INLINE vec NAME(pool_finish)(const fastconv_pool *p, vec v, vec divisor, const real *slope, ptrdiff_t n) {
  if (p->kind == FASTCONV_POOL_MAX || p->kind == FASTCONV_POOL_SPREAD) return v;
  return p->kind == FASTCONV_POOL_MEAN ? v / divisor : NAME(pool_norm)(p, v, divisor, slope, n);
}

INLINE void NAME(store_some_indices)(int64_t *to, ivec v, ptrdiff_t n) {
  if (n >= VLEN) {
    NAME(store_index)(to, v);
    return;
  }
  int64_t lanes[VLEN];
  NAME(store_index)(lanes, v);
  memcpy(to, lanes, (size_t)n * sizeof *to);
}

/* The first n elements at p, the other lanes `otherwise`. */
INLINE vec NAME(load_or)(const real *p, ptrdiff_t n, real otherwise) {
  return n < VLEN ? NAME(load_between)(p, 0, n, NAME(splat)(otherwise)) : NAME(load)(p);
}

typedef struct { /* where outputs o .. stop - 1 of a row go */
  ptrdiff_t o, stop;
  real *y;
  int64_t *index;    /* of a maximum, or NULL */
  const real *slope; /* of a p-norm, or NULL */
} NAME(pool_outputs);

/* Those of a row that begins `elements` behind the first one of the part. */
INLINE NAME(pool_outputs)
    NAME(pool_outputs_at)(const fastconv_pool_rows *part, ptrdiff_t elements, ptrdiff_t o, ptrdiff_t stop) {
  return (NAME(pool_outputs)){o, stop, (real *)part->y + elements, part->indices ? part->indices + elements : NULL,
                              part->slope ? (const real *)part->slope + elements : NULL};
}
