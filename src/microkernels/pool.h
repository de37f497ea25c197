/* Pools: maximum (with indices), mean, p-norms, and the adjoint of the mean. The contract is in table.h.
 *
 * channels_last    lanes are channels. A window is read pixel by pixel in the order of its flat indices, so that the
 * first of equals and the last NaN win by themselves. Where windows overlap much, their rows are joined first.
 * channels_first   lanes are columns. Narrow windows: the rows of an output row are joined into one buffer, which is
 *                  contiguous whatever the stride; then the buffer's columns, by unaligned loads (stride 1),
 *                  de-interleaving (2) or gathers. Wide windows: each is joined lane by lane, and the lanes of VLEN
 *                  windows together, by a transpose.
 */
#ifndef FASTCONV_POOL_ONCE
#define FASTCONV_POOL_ONCE

#define POOL_BUFFER 2048 /* elements of joined rows that stay in L1 beside their sources */
#define POOL_BATCH 8     /* output rows whose input rows are joined before the first buffer is read: stores take time */
#define POOL_GROUP 4     /* input rows joined at once */

typedef struct { /* the next output row */
  ptrdiff_t plane, d, h;
} pool_place;

INLINE pool_place pool_place_of(const fastconv_pool *p, ptrdiff_t row) {
  const ptrdiff_t outer = row / p->axis[1].out;
  return (pool_place){outer / p->axis[0].out, outer % p->axis[0].out, row % p->axis[1].out};
}

INLINE void pool_advance(const fastconv_pool *p, pool_place *at) {
  if (++at->h < p->axis[1].out) return;
  at->h = 0;
  if (++at->d < p->axis[0].out) return;
  at->d = 0;
  at->plane++;
}

INLINE ptrdiff_t pool_most(const fastconv_windows *w) {
  ptrdiff_t most = 1;
  for (ptrdiff_t o = 0; o < w->out; o++) most = w->count[o] > most ? w->count[o] : most;
  return most;
}

INLINE ptrdiff_t pool_row_limit(const fastconv_pool *p) { return pool_most(&p->axis[0]) * pool_most(&p->axis[1]); }

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

typedef struct {    /* the input rows of one output row */
  const real **at;  /* their first elements */
  ptrdiff_t *index; /* flat indices of those in the plane */
  real *share;      /* SPREAD: what their elements are multiplied by */
  ptrdiff_t rows;
  real divisor; /* of the output row, columns left out */
} NAME(pool_window);

INLINE NAME(pool_window) NAME(pool_lists)(char **scratch, ptrdiff_t limit) {
  NAME(pool_window)
  w = {(const real **)*scratch, (ptrdiff_t *)*scratch + limit, (real *)((ptrdiff_t *)*scratch + 2 * limit), 0, 1};
  *scratch += (limit * (2 * sizeof(ptrdiff_t) + sizeof(real)) + 63) / 64 * 64;
  return w;
}

INLINE void NAME(pool_look)(const fastconv_pool *p, const real *x, pool_place at, NAME(pool_window) * w) {
  const fastconv_windows *d = &p->axis[0], *h = &p->axis[1];
  const real *by_d = (const real *)d->divisor, *by_h = (const real *)h->divisor;
  const ptrdiff_t width = p->axis[2].in;
  x += at.plane * d->in * h->in * width * p->channels;
  w->rows = 0;
  w->divisor = p->kind == FASTCONV_POOL_MAX || p->kind == FASTCONV_POOL_SPREAD ? 1 : by_d[at.d] * by_h[at.h];
  for (ptrdiff_t i = 0; i < d->count[at.d]; i++)
    for (ptrdiff_t j = 0; j < h->count[at.h]; j++, w->rows++) {
      const ptrdiff_t plane = d->first[at.d] + i * d->step, row = h->first[at.h] + j * h->step;
      w->index[w->rows] = (plane * h->in + row) * width;
      w->at[w->rows] = x + w->index[w->rows] * p->channels;
      if (p->kind == FASTCONV_POOL_SPREAD) w->share[w->rows] = 1 / (by_d[plane] * by_h[row]);
    }
}

/* -------------------------------------------------------------------------------------------------- one window */

/* The larger of two, NaN before all: the later of two NaNs, the earlier of two equals. */
INLINE vec NAME(larger)(vec a, vec b) { return NAME(select)((b > a) | (b != b), b, a); }

INLINE vec NAME(pool_join)(const int kind, vec a, vec b) {
  return kind == FASTCONV_POOL_MAX ? NAME(larger)(a, b) : a + b;
}

INLINE real NAME(pool_neutral)(const int kind) { return kind == FASTCONV_POOL_MAX ? -(real)INFINITY : 0; }

OUTLINE vec NAME(lanes_to_power)(vec v, double power) {
  real lanes[VLEN];
  NAME(store)(lanes, v);
  for (int i = 0; i < VLEN; i++)
    lanes[i] = REAL_BITS == 32 ? powf((float)lanes[i], (float)power) : pow(lanes[i], power);
  return NAME(load)(lanes);
}

OUTLINE vec NAME(square_roots)(vec v) {
  real lanes[VLEN];
  NAME(store)(lanes, v);
  for (int i = 0; i < VLEN; i++) lanes[i] = REAL_BITS == 32 ? sqrtf((float)lanes[i]) : sqrt(lanes[i]);
  return NAME(load)(lanes);
}

/* An element as it is joined. */
INLINE vec NAME(pool_term)(const int kind, const fastconv_pool *p, vec v) {
  if (kind == FASTCONV_POOL_SQUARE) return v * v;
  return kind == FASTCONV_POOL_POWER ? NAME(lanes_to_power)(v, p->power) : v;
}

OUTLINE vec NAME(pool_norm)(const fastconv_pool *p, vec v, vec divisor, const real *slope, ptrdiff_t n) {
  const int square = p->kind == FASTCONV_POOL_SQUARE;
  v *= NAME(splat)((real)p->whole) / divisor;
  if (!slope) return square ? NAME(square_roots)(v) : NAME(lanes_to_power)(v, 1 / p->power);
  const vec weight = n < VLEN ? NAME(load_tail)(slope, n) : NAME(load)(slope);
  const vec factor = square ? 1 / NAME(square_roots)(v) : NAME(lanes_to_power)(v, 1 / p->power - 1);
  return NAME(select)(v == 0, (vec){0}, weight * factor);
}

/* A sum as it is stored; slope points to the output's own, n lanes count. */
INLINE vec NAME(pool_finish)(const fastconv_pool *p, vec sum, vec divisor, const real *slope, ptrdiff_t n) {
  if (p->kind == FASTCONV_POOL_SPREAD) return sum;
  return p->kind == FASTCONV_POOL_MEAN ? sum / divisor : NAME(pool_norm)(p, sum, divisor, slope, n);
}

/* A candidate for a maximum against the best so far, in any order: the smallest index of equals, the largest of NaNs.
 */
INLINE void NAME(pool_better)(vec *best, ivec *best_index, vec v, ivec index) {
  const ivec earlier = index < *best_index;
  const ivec wins = (v > *best) | ((v == *best) & earlier) | ((v != v) & ~((*best != *best) & earlier));
  *best = NAME(select)(wins, v, *best);
  *best_index = (ivec)NAME(select)(wins, (vec)index, (vec)*best_index);
}

/* The same where candidates come by rising index. */
INLINE void NAME(pool_later)(vec *best, ivec *best_index, vec v, ivec index) {
  const ivec wins = (v > *best) | (v != v);
  *best = NAME(select)(wins, v, *best);
  *best_index = (ivec)NAME(select)(wins, (vec)index, (vec)*best_index);
}

/* Beyond every index: nothing was found yet. */
INLINE ivec NAME(no_index)(void) { return NAME(splat_index)(REAL_BITS == 32 ? INT32_MAX : INT64_MAX); }

INLINE void NAME(store_some)(real *to, vec v, ptrdiff_t n) {
  if (n < VLEN) NAME(store_tail)(to, v, n);
  else NAME(store)(to, v);
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
  if (n >= VLEN) return NAME(load)(p);
  return NAME(select)(NAME(lane_numbers)() < NAME(splat_index)(n), NAME(load_tail)(p, n), NAME(splat)(otherwise));
}

/* ------------------------------------------------------------------------------------------- rows into a buffer */

INLINE vec NAME(pool_group)(const int kind, const int rows, const fastconv_pool *p, const real *const *at,
                            const real *share, ptrdiff_t j, ptrdiff_t n) {
  vec sum = {0};
  UNROLL for (int r = 0; r < rows; r++) {
    vec v = NAME(pool_term)(kind, p, n < VLEN ? NAME(load_tail)(at[r] + j, n) : NAME(load)(at[r] + j));
    if (kind == FASTCONV_POOL_SPREAD) v *= share[r];
    sum = r ? NAME(pool_join)(kind, sum, v) : v;
  }
  return sum;
}

INLINE void NAME(pool_down_group)(const int kind, const int rows, const int more, const fastconv_pool *p, real *dst,
                                  const real *const *row, const real *share, ptrdiff_t from, ptrdiff_t n) {
  const real *at[POOL_GROUP];
  UNROLL for (int r = 0; r < rows; r++) at[r] = row[r] + from;
  ptrdiff_t j = 0;
  for (; j + VLEN <= n; j += VLEN) {
    const vec sum = NAME(pool_group)(kind, rows, p, at, share, j, VLEN);
    NAME(store)(dst + j, more ? NAME(pool_join)(kind, NAME(load)(dst + j), sum) : sum);
  }
  if (j == n) return;
  const vec sum = NAME(pool_group)(kind, rows, p, at, share, j, n - j);
  NAME(store)(dst + j, more ? NAME(pool_join)(kind, NAME(load)(dst + j), sum) : sum);
}

INLINE void NAME(pool_down_kind)(const int kind, const fastconv_pool *p, real *dst, const NAME(pool_window) * w,
                                 ptrdiff_t from, ptrdiff_t n) {
#define DOWN(ROWS, MORE) NAME(pool_down_group)(kind, ROWS, MORE, p, dst, w->at + r, w->share + r, from, n)
  ptrdiff_t r = 0;
  switch (w->rows < POOL_GROUP ? w->rows : POOL_GROUP) {
    case 0:
      for (ptrdiff_t j = 0; j < n; j += VLEN) NAME(store)(dst + j, NAME(splat)(NAME(pool_neutral)(kind)));
      break;
    case 1:
      DOWN(1, 0);
      break;
    case 2:
      DOWN(2, 0);
      break;
    case 3:
      DOWN(3, 0);
      break;
    default:
      DOWN(4, 0);
  }
  for (r = POOL_GROUP; r + POOL_GROUP <= w->rows; r += POOL_GROUP) DOWN(4, 1);
  for (; r < w->rows; r++) DOWN(1, 1);
#undef DOWN
}

/* dst[j] = the window's rows joined at column from + j, for j < n; writes up to a vector more. */
static void NAME(pool_down)(const fastconv_pool *p, real *dst, const NAME(pool_window) * w, ptrdiff_t from,
                            ptrdiff_t n) {
  switch (p->kind) {
    case FASTCONV_POOL_MAX:
      NAME(pool_down_kind)(FASTCONV_POOL_MAX, p, dst, w, from, n);
      break;
    case FASTCONV_POOL_MEAN:
      NAME(pool_down_kind)(FASTCONV_POOL_MEAN, p, dst, w, from, n);
      break;
    case FASTCONV_POOL_SQUARE:
      NAME(pool_down_kind)(FASTCONV_POOL_SQUARE, p, dst, w, from, n);
      break;
    case FASTCONV_POOL_POWER:
      NAME(pool_down_kind)(FASTCONV_POOL_POWER, p, dst, w, from, n);
      break;
    default:
      NAME(pool_down_kind)(FASTCONV_POOL_SPREAD, p, dst, w, from, n);
  }
}

static void NAME(pool_down_indices)(real *dst, ilane *index, const NAME(pool_window) * w, ptrdiff_t from, ptrdiff_t n) {
  for (ptrdiff_t j = 0; j < n; j += VLEN) {
    vec best = NAME(splat)(-(real)INFINITY);
    ivec at = NAME(no_index)();
    for (ptrdiff_t r = 0; r < w->rows; r++) {
      const vec v = NAME(load_some)(w->at[r] + from + j, n - j);
      const ivec here = NAME(lane_numbers)() + NAME(splat_index)(w->index[r] + from + j);
      if (r) NAME(pool_later)(&best, &at, v, here);
      else best = v, at = here;
    }
    NAME(store)(dst + j, best);
    NAME(store)((real *)(index + j), (vec)at);
  }
}

/* --------------------------------------------------------------------------- channels_first, narrow windows */

/* How buffered columns become outputs: by stride 1, 2 or -2, or (0) by the lists. */
INLINE int NAME(pool_way)(const fastconv_windows *w) {
  return w->stride == 1 || w->stride == 2 || w->stride == -2 ? (int)w->stride : 0;
}

/* Elements that a buffer needs behind its columns: what whole vectors of outputs may read, and pool_down write. */
INLINE ptrdiff_t NAME(pool_slack)(const fastconv_windows *w) { return VLEN * (w->stride > 2 ? 1 : 3); }

INLINE vec NAME(load_step)(const int step, const real *p) {
  return step == 1 ? NAME(load)(p) : NAME(even_lanes)(NAME(load)(p), NAME(load)(p + VLEN));
}

/* Lanes of the listed windows o .. o + n - 1: their first columns, less low, and how many they have. */
INLINE void NAME(pool_table)(const fastconv_windows *w, ptrdiff_t o, ptrdiff_t n, ptrdiff_t low, ivec *first,
                             ivec *count) {
  int64_t firsts[VLEN] = {0}, counts[VLEN] = {0};
  if (n < VLEN)
    for (ptrdiff_t i = 0; i < n; i++) firsts[i] = w->first[o + i], counts[i] = w->count[o + i];
  *first = NAME(load_index)(n < VLEN ? firsts : w->first + o) - NAME(splat_index)(low);
  *count = NAME(load_index)(n < VLEN ? counts : w->count + o);
}

/* Joined columns of the windows o .. o + n - 1, one a lane; buffer starts at column low. */
INLINE vec NAME(pool_windows)(const int kind, const int way, const fastconv_windows *w, const real *buffer,
                              ptrdiff_t low, ptrdiff_t o, ptrdiff_t n) {
  if (way) {
    const real *at = buffer + o * way - w->before - low;
    vec sum = NAME(load_step)(way, at);
    for (ptrdiff_t t = 1; t < w->taps; t++) sum = NAME(pool_join)(kind, sum, NAME(load_step)(way, at + t * w->step));
    return sum;
  }
  const vec neutral = NAME(splat)(NAME(pool_neutral)(kind));
  ivec at, count;
  NAME(pool_table)(w, o, n, low, &at, &count);
  vec sum = neutral;
  for (ptrdiff_t t = 0; t < w->taps; t++, at += NAME(splat_index)(w->step)) {
    const ivec within = NAME(splat_index)(t) < count;
    sum = NAME(pool_join)(kind, sum, NAME(select)(within, NAME(gather)(buffer, at & within), neutral));
  }
  return sum;
}

INLINE void NAME(pool_windows_indices)(const int way, const fastconv_windows *w, const real *buffer, const ilane *index,
                                       ptrdiff_t low, ptrdiff_t o, ptrdiff_t n, vec *best, ivec *best_index) {
  const vec neutral = NAME(splat)(-(real)INFINITY);
  *best = neutral;
  *best_index = NAME(no_index)();
  if (way) {
    const ptrdiff_t at = o * way - w->before - low;
    for (ptrdiff_t t = 0; t < w->taps; t++)
      NAME(pool_better)(best, best_index, NAME(load_step)(way, buffer + at + t * w->step),
                        (ivec)NAME(load_step)(way, (const real *)index + at + t * w->step));
    return;
  }
  ivec at, count;
  NAME(pool_table)(w, o, n, low, &at, &count);
  for (ptrdiff_t t = 0; t < w->taps; t++, at += NAME(splat_index)(w->step)) {
    const ivec within = NAME(splat_index)(t) < count;
    const ivec candidate = (ivec)NAME(gather)((const real *)index, at & within);
    NAME(pool_better)(best, best_index, NAME(select)(within, NAME(gather)(buffer, at & within), neutral),
                      (ivec)NAME(select)(within, (vec)candidate, (vec)NAME(no_index)()));
  }
}

/* The adjoint of stride 2: columns 2 i and 2 i + 1 sum the taps of one parity each, from the same neighbourhood. */
static void NAME(pool_double)(const fastconv_windows *w, const real *buffer, ptrdiff_t low, ptrdiff_t o, ptrdiff_t stop,
                              real *y) {
  for (ptrdiff_t i = o; i < stop; i += 2 * VLEN) {
    vec sums[2];
    UNROLL for (int odd = 0; odd < 2; odd++) {
      const ptrdiff_t position = i + odd + w->before;
      sums[odd] = (vec){0};
      for (ptrdiff_t t = position & 1; t < w->taps; t += 2) sums[odd] += NAME(load)(buffer + (position - t) / 2 - low);
    }
    NAME(store_some)(y + i - o, NAME(interleave_low)(sums[0], sums[1]), stop - i);
    if (stop - i > VLEN) NAME(store_some)(y + i - o + VLEN, NAME(interleave_high)(sums[0], sums[1]), stop - i - VLEN);
  }
}

/* Outputs of a narrow row that are made at once, so that the buffer stays in L1. */
INLINE ptrdiff_t NAME(pool_chunk)(const fastconv_windows *w) {
  ptrdiff_t low, chunk = w->out;
  while (chunk > 2 * VLEN && pool_columns(w, 0, chunk, &low) > POOL_BUFFER)
    chunk = (chunk / 2 + 2 * VLEN - 1) / (2 * VLEN) * (2 * VLEN);
  return chunk;
}

/* Elements of the buffer: the columns of any chunk, and slack. Lists may have chunks unlike the first. */
INLINE ptrdiff_t NAME(pool_span)(const fastconv_windows *w, ptrdiff_t chunk) {
  ptrdiff_t low, most = 0;
  for (ptrdiff_t o = 0; o < w->out; o += chunk) {
    const ptrdiff_t columns = pool_columns(w, o, o + chunk < w->out ? o + chunk : w->out, &low);
    most = columns > most ? columns : most;
  }
  return (most + NAME(pool_slack)(w) + VLEN - 1) / VLEN * VLEN;
}

INLINE ptrdiff_t NAME(pool_batch)(ptrdiff_t span, ptrdiff_t chunk, ptrdiff_t out) {
  const ptrdiff_t batch = POOL_BUFFER / span;
  return chunk < out || batch < 1 ? 1 : batch < POOL_BATCH ? batch : POOL_BATCH;
}

typedef struct { /* the input columns that some outputs of a row see, joined; padding and slack neutral */
  real *value;
  ilane *index; /* of a maximum, or NULL */
  ptrdiff_t low, columns;
} NAME(pool_buffer);

INLINE void NAME(pool_pad)(const NAME(pool_buffer) * b, ptrdiff_t from, ptrdiff_t stop, real neutral) {
  for (ptrdiff_t j = from; j < stop; j += VLEN) {
    NAME(store)(b->value + j, NAME(splat)(neutral));
    if (b->index) NAME(store)((real *)(b->index + j), (vec)NAME(no_index)());
  }
}

/* SPREAD: columns have their divisors, too. */
INLINE void NAME(pool_divide)(real *value, const real *divisor, ptrdiff_t n) {
  for (ptrdiff_t j = 0; j < n; j += VLEN)
    NAME(store)(value + j, NAME(load)(value + j) / NAME(load_or)(divisor + j, n - j, 1));
}

static void NAME(pool_fill)(const fastconv_pool *p, const NAME(pool_buffer) * b, const NAME(pool_window) * window) {
  const fastconv_windows *w = &p->axis[2];
  const ptrdiff_t from = b->low < 0 ? 0 : b->low, before = from - b->low;
  const ptrdiff_t end = b->low + b->columns < w->in ? b->low + b->columns : w->in, n = end > from ? end - from : 0;
  const real neutral = NAME(pool_neutral)(p->kind);
  NAME(pool_pad)(b, 0, before < b->columns ? before : b->columns, neutral);
  if (b->index) NAME(pool_down_indices)(b->value + before, b->index + before, window, from, n);
  else NAME(pool_down)(p, b->value + before, window, from, n);
  if (p->kind == FASTCONV_POOL_SPREAD) NAME(pool_divide)(b->value + before, (const real *)w->divisor + from, n);
  NAME(pool_pad)(b, before + n, b->columns + NAME(pool_slack)(w) - VLEN, neutral);
}

typedef struct { /* where outputs o .. stop - 1 of a row go */
  ptrdiff_t o, stop;
  real divisor; /* of the row */
  real *y;
  int64_t *index;
  const real *slope;
} NAME(pool_outputs);

INLINE void NAME(pool_across)(const int kind, const int way, const fastconv_pool *p, const NAME(pool_buffer) * b,
                              const NAME(pool_outputs) * to) {
  const fastconv_windows *w = &p->axis[2];
  const real *divisor = (const real *)w->divisor;
  for (ptrdiff_t o = to->o; o < to->stop; o += VLEN) {
    const ptrdiff_t n = to->stop - o, i = o - to->o;
    vec v = NAME(pool_windows)(kind, way, w, b->value, b->low, o, n);
    if (kind != FASTCONV_POOL_MAX && p->kind != FASTCONV_POOL_SPREAD)
      v = NAME(pool_finish)(p, v, NAME(load_or)(divisor + o, n, 1) * to->divisor, to->slope ? to->slope + i : NULL, n);
    NAME(store_some)(to->y + i, v, n);
  }
}

INLINE void NAME(pool_across_indices)(const int way, const fastconv_pool *p, const NAME(pool_buffer) * b,
                                      const NAME(pool_outputs) * to) {
  for (ptrdiff_t o = to->o; o < to->stop; o += VLEN) {
    const ptrdiff_t n = to->stop - o, i = o - to->o;
    vec best;
    ivec index;
    NAME(pool_windows_indices)(way, &p->axis[2], b->value, b->index, b->low, o, n, &best, &index);
    NAME(store_some)(to->y + i, best, n);
    NAME(store_some_indices)(to->index + i, index | (index == NAME(no_index)()), n);
  }
}

static void NAME(pool_columns_joined)(const fastconv_pool *p, const NAME(pool_buffer) * b,
                                      const NAME(pool_outputs) * to) {
  const int way = NAME(pool_way)(&p->axis[2]);
  if (way == -2) {
    NAME(pool_double)(&p->axis[2], b->value, b->low, to->o, to->stop, to->y);
  } else if (b->index) {
    if (way == 1) NAME(pool_across_indices)(1, p, b, to);
    else if (way == 2) NAME(pool_across_indices)(2, p, b, to);
    else NAME(pool_across_indices)(0, p, b, to);
  } else if (p->kind == FASTCONV_POOL_MAX) {
    if (way == 1) NAME(pool_across)(FASTCONV_POOL_MAX, 1, p, b, to);
    else if (way == 2) NAME(pool_across)(FASTCONV_POOL_MAX, 2, p, b, to);
    else NAME(pool_across)(FASTCONV_POOL_MAX, 0, p, b, to);
  } else {
    if (way == 1) NAME(pool_across)(FASTCONV_POOL_MEAN, 1, p, b, to);
    else if (way == 2) NAME(pool_across)(FASTCONV_POOL_MEAN, 2, p, b, to);
    else NAME(pool_across)(FASTCONV_POOL_MEAN, 0, p, b, to);
  }
}

static void NAME(pool_narrow)(const fastconv_pool *p, const fastconv_pool_rows *part) {
  const fastconv_windows *w = &p->axis[2];
  const ptrdiff_t out = w->out, chunk = NAME(pool_chunk)(w), span = NAME(pool_span)(w, chunk);
  const ptrdiff_t batch = NAME(pool_batch)(span, chunk, out);
  char *scratch = part->scratch;
  NAME(pool_window) window = NAME(pool_lists)(&scratch, pool_row_limit(p));
  NAME(pool_buffer) buffers[POOL_BATCH];
  real divisors[POOL_BATCH];
  for (ptrdiff_t r = 0; r < batch; r++) {
    buffers[r].value = (real *)scratch + r * span;
    buffers[r].index = part->indices ? (ilane *)scratch + (batch + r) * span : NULL;
  }
  pool_place at = pool_place_of(p, part->begin);
  for (ptrdiff_t row = part->begin; row < part->end; row += batch) {
    const ptrdiff_t rows = part->end - row < batch ? part->end - row : batch;
    for (ptrdiff_t o = 0; o < out; o += chunk) {
      const ptrdiff_t stop = o + chunk < out ? o + chunk : out;
      for (ptrdiff_t r = 0; r < rows; r++) {
        if (o == 0) {
          NAME(pool_look)(p, (const real *)part->x, at, &window);
          pool_advance(p, &at);
          divisors[r] = window.divisor;
        }
        buffers[r].columns = pool_columns(w, o, stop, &buffers[r].low);
        NAME(pool_fill)(p, &buffers[r], &window);
      }
      for (ptrdiff_t r = 0; r < rows; r++) {
        const ptrdiff_t to = (row - part->begin + r) * out + o;
        const NAME(pool_outputs) outputs = {o,
                                            stop,
                                            divisors[r],
                                            (real *)part->y + to,
                                            part->indices ? part->indices + to : NULL,
                                            part->slope ? (const real *)part->slope + to : NULL};
        NAME(pool_columns_joined)(p, &buffers[r], &outputs);
      }
    }
  }
}

/* ----------------------------------------------------------------------------- channels_first, wide windows */

INLINE int NAME(pool_is_wide)(const fastconv_pool *p) {
  const fastconv_windows *w = &p->axis[2];
  return p->kind != FASTCONV_POOL_SPREAD && w->step == 1 && w->stride >= 0 &&
         (w->out == 1 || (w->stride ? w->stride >= VLEN && w->taps <= 2 * w->stride : w->in >= w->out * VLEN));
}

INLINE vec NAME(pool_run)(const int kind, const fastconv_pool *p, const real *x, ptrdiff_t n, vec sum) {
  const vec neutral = NAME(splat)(NAME(pool_neutral)(kind));
  ptrdiff_t j = 0;
  if (n >= 8 * VLEN) {
    vec sums[4];
    UNROLL for (int i = 0; i < 4; i++) sums[i] = NAME(pool_term)(kind, p, NAME(load)(x + i * VLEN));
    for (j = 4 * VLEN; j + 4 * VLEN <= n; j += 4 * VLEN)
      UNROLL for (int i = 0; i < 4; i++) sums[i] =
          NAME(pool_join)(kind, sums[i], NAME(pool_term)(kind, p, NAME(load)(x + j + i * VLEN)));
    sum = NAME(pool_join)(
        kind, sum,
        NAME(pool_join)(kind, NAME(pool_join)(kind, sums[0], sums[1]), NAME(pool_join)(kind, sums[2], sums[3])));
  }
  for (; j + VLEN <= n; j += VLEN) sum = NAME(pool_join)(kind, sum, NAME(pool_term)(kind, p, NAME(load)(x + j)));
  if (j == n) return sum;
  const vec last = NAME(pool_term)(kind, p, NAME(load_tail)(x + j, n - j));
  return NAME(pool_join)(kind, sum, NAME(select)(NAME(lane_numbers)() < NAME(splat_index)(n - j), last, neutral));
}

/* The lanes of VLEN windows joined, one result a lane. */
INLINE vec NAME(pool_join_lanes)(const int kind, const vec *windows) {
  vec rows[VLEN];
  UNROLL for (int i = 0; i < VLEN; i++) rows[i] = windows[i];
  NAME(transpose)(rows);
  UNROLL for (int width = VLEN / 2; width > 0; width /= 2) UNROLL for (int i = 0; i < width; i++) rows[i] =
      NAME(pool_join)(kind, rows[i], rows[i + width]);
  return rows[0];
}

INLINE void NAME(pool_wide_kind)(const int kind, const fastconv_pool *p, const fastconv_pool_rows *part) {
  const fastconv_windows *w = &p->axis[2];
  const real *divisor = (const real *)w->divisor, *slope = (const real *)part->slope;
  char *scratch = part->scratch;
  NAME(pool_window) window = NAME(pool_lists)(&scratch, pool_row_limit(p));
  pool_place at = pool_place_of(p, part->begin);
  vec sums[VLEN] = {{0}};
  real divisors[VLEN] = {0};
  ptrdiff_t done = 0, n = 0;
  for (ptrdiff_t row = part->begin; row < part->end; row++) {
    NAME(pool_look)(p, (const real *)part->x, at, &window);
    pool_advance(p, &at);
    for (ptrdiff_t o = 0; o < w->out; o++) {
      vec sum = NAME(splat)(NAME(pool_neutral)(kind));
      for (ptrdiff_t r = 0; r < window.rows; r++)
        sum = NAME(pool_run)(kind, p, window.at[r] + w->first[o], w->count[o], sum);
      if (kind != FASTCONV_POOL_MAX) divisors[n] = window.divisor * divisor[o];
      sums[n++] = sum;
      if (n < VLEN && (row + 1 < part->end || o + 1 < w->out)) continue;
      vec v = NAME(pool_join_lanes)(kind, sums);
      if (kind != FASTCONV_POOL_MAX) v = NAME(pool_finish)(p, v, NAME(load)(divisors), slope ? slope + done : NULL, n);
      NAME(store_some)((real *)part->y + done, v, n);
      done += n;
      n = 0;
    }
  }
}

static void NAME(pool_wide)(const fastconv_pool *p, const fastconv_pool_rows *part) {
  switch (p->kind) {
    case FASTCONV_POOL_MAX:
      NAME(pool_wide_kind)(FASTCONV_POOL_MAX, p, part);
      break;
    case FASTCONV_POOL_MEAN:
      NAME(pool_wide_kind)(FASTCONV_POOL_MEAN, p, part);
      break;
    case FASTCONV_POOL_SQUARE:
      NAME(pool_wide_kind)(FASTCONV_POOL_SQUARE, p, part);
      break;
    default:
      NAME(pool_wide_kind)(FASTCONV_POOL_POWER, p, part);
  }
}

/* The best lane's value and index; an all -inf window's first. */
INLINE void NAME(pool_best_lane)(vec best, ivec best_index, ptrdiff_t first, real *y, int64_t *index) {
  real values[VLEN], top = -(real)INFINITY;
  ilane indices[VLEN], at = NAME(no_index)()[0];
  NAME(store)(values, best);
  NAME(store)((real *)indices, (vec)best_index);
  for (int i = 0; i < VLEN; i++) {
    const int earlier = indices[i] < at;
    if (values[i] > top || (values[i] == top && earlier) || (values[i] != values[i] && !(top != top && earlier)))
      top = values[i], at = indices[i];
  }
  *y = top;
  *index = at == NAME(no_index)()[0] ? first : at;
}

static void NAME(pool_wide_indices)(const fastconv_pool *p, const fastconv_pool_rows *part) {
  const fastconv_windows *w = &p->axis[2];
  char *scratch = part->scratch;
  NAME(pool_window) window = NAME(pool_lists)(&scratch, pool_row_limit(p));
  pool_place at = pool_place_of(p, part->begin);
  ptrdiff_t done = 0;
  for (ptrdiff_t row = part->begin; row < part->end; row++) {
    NAME(pool_look)(p, (const real *)part->x, at, &window);
    pool_advance(p, &at);
    for (ptrdiff_t o = 0; o < w->out; o++, done++) {
      vec best = NAME(splat)(-(real)INFINITY);
      ivec index = NAME(no_index)();
      for (ptrdiff_t r = 0; r < window.rows; r++)
        for (ptrdiff_t j = 0; j < w->count[o]; j += VLEN) {
          const vec v = NAME(load_or)(window.at[r] + w->first[o] + j, w->count[o] - j, -(real)INFINITY);
          NAME(pool_later)(&best, &index, v,
                           NAME(lane_numbers)() + NAME(splat_index)(window.index[r] + w->first[o] + j));
        }
      const ptrdiff_t first = window.rows && w->count[o] ? window.index[0] + w->first[o] : -1;
      NAME(pool_best_lane)(best, index, first, (real *)part->y + done, part->indices + done);
    }
  }
}

/* ------------------------------------------------------------------------------------------------ channels_last */

#define POOL_PIXEL 4 /* vectors of channels at once */

/* Output o's nv vectors of channels from c on, or its `tail` < VLEN elements; rows begin with column low. */
INLINE void NAME(pool_pixel)(const int kind, const int indices, const int nv, const ptrdiff_t tail,
                             const fastconv_pool *p, const NAME(pool_window) * window, ptrdiff_t low, ptrdiff_t o,
                             ptrdiff_t c, real *y, int64_t *y_index, const real *slope) {
  const fastconv_windows *w = &p->axis[2];
  const real *divisor = (const real *)w->divisor;
  const ptrdiff_t count = w->count[o], first = w->first[o], step = w->step, n = tail ? tail : VLEN;
  vec sums[POOL_PIXEL];
  ivec best[POOL_PIXEL];
  UNROLL for (int i = 0; i < nv; i++) {
    sums[i] = NAME(splat)(NAME(pool_neutral)(kind));
    if (indices) best[i] = NAME(splat_index)(window->rows && count ? window->index[0] + first : -1);
  }
  for (ptrdiff_t r = 0; r < window->rows; r++) {
    const real *x = window->at[r] + (first - low) * p->channels + c;
    for (ptrdiff_t t = 0; t < count; t++, x += step * p->channels) {
      const real share = kind == FASTCONV_POOL_SPREAD ? window->share[r] / divisor[first + t] : 1;
      const ivec here = NAME(splat_index)(indices ? window->index[r] + first + t * step : 0);
      UNROLL for (int i = 0; i < nv; i++) {
        vec v = NAME(pool_term)(kind, p, tail ? NAME(load_tail)(x, tail) : NAME(load)(x + i * VLEN));
        if (kind == FASTCONV_POOL_SPREAD) v *= share;
        if (indices) NAME(pool_later)(&sums[i], &best[i], v, here);
        else sums[i] = NAME(pool_join)(kind, sums[i], v);
      }
    }
  }
  const int divided = kind != FASTCONV_POOL_MAX && p->kind != FASTCONV_POOL_SPREAD;
  const vec by = NAME(splat)(divided ? window->divisor * divisor[o] : 1);
  UNROLL for (int i = 0; i < nv; i++) {
    if (kind != FASTCONV_POOL_MAX) sums[i] = NAME(pool_finish)(p, sums[i], by, slope ? slope + i * VLEN : NULL, n);
    NAME(store_some)(y + i * VLEN, sums[i], n);
    if (indices) NAME(store_some_indices)(y_index + i * VLEN, best[i], n);
  }
}

/* Outputs of a row, n channels from c on; rows begin with column low. */
INLINE void NAME(pool_pixels_kind)(const int kind, const int indices, const fastconv_pool *p,
                                   const NAME(pool_window) * window, ptrdiff_t low, const NAME(pool_outputs) * to,
                                   ptrdiff_t c, ptrdiff_t n) {
#define PIXEL(NV, TAIL) \
  NAME(pool_pixel)(kind, indices, NV, TAIL, p, window, low, o, c + j, y + j, index + j, slope ? slope + j : NULL)
  real *y = to->y;
  int64_t *index = to->index;
  const real *slope = to->slope;
  for (ptrdiff_t o = to->o; o < to->stop; o++) {
    ptrdiff_t j = 0;
    for (; j + POOL_PIXEL * VLEN <= n; j += POOL_PIXEL * VLEN) PIXEL(POOL_PIXEL, 0);
    for (; j + VLEN <= n; j += VLEN) PIXEL(1, 0);
    if (j < n) PIXEL(1, n - j);
    y += p->channels;
    if (indices) index += p->channels;
    if (slope) slope += p->channels;
  }
#undef PIXEL
}

static void NAME(pool_pixels)(const int kind, const fastconv_pool *p, const NAME(pool_window) * window, ptrdiff_t low,
                              const NAME(pool_outputs) * to, ptrdiff_t c, ptrdiff_t n) {
  if (to->index) NAME(pool_pixels_kind)(FASTCONV_POOL_MAX, 1, p, window, low, to, c, n);
  else switch (kind) {
      case FASTCONV_POOL_MAX:
        NAME(pool_pixels_kind)(FASTCONV_POOL_MAX, 0, p, window, low, to, c, n);
        break;
      case FASTCONV_POOL_MEAN:
        NAME(pool_pixels_kind)(FASTCONV_POOL_MEAN, 0, p, window, low, to, c, n);
        break;
      case FASTCONV_POOL_SQUARE:
        NAME(pool_pixels_kind)(FASTCONV_POOL_SQUARE, 0, p, window, low, to, c, n);
        break;
      case FASTCONV_POOL_POWER:
        NAME(pool_pixels_kind)(FASTCONV_POOL_POWER, 0, p, window, low, to, c, n);
        break;
      default:
        NAME(pool_pixels_kind)(FASTCONV_POOL_SPREAD, 0, p, window, low, to, c, n);
    }
}

/* Whether to join rows before columns: it takes rows * stride + taps steps instead of rows * taps, and a buffer. */
INLINE int NAME(pool_joins_rows)(const fastconv_pool *p, ptrdiff_t channels) {
  const fastconv_windows *w = &p->axis[2];
  const ptrdiff_t rows = pool_row_limit(p), reach = (w->taps - 1) * w->step + 1;
  return w->stride > 0 && channels == p->channels && reach * channels <= POOL_BUFFER &&
         2 * rows * w->taps > 3 * (rows * w->stride + w->taps + 2);
}

INLINE ptrdiff_t NAME(pool_pixel_chunk)(const fastconv_pool *p) {
  const fastconv_windows *w = &p->axis[2];
  const ptrdiff_t reach = (w->taps - 1) * w->step + 1, chunk = (2 * POOL_BUFFER / p->channels - reach) / w->stride + 1;
  return chunk < w->out ? chunk : w->out;
}

/* As pool_pixels, by way of a buffer of joined rows. */
static void NAME(pool_pixels_joined)(const fastconv_pool *p, const NAME(pool_window) * window, real *buffer,
                                     const NAME(pool_outputs) * to) {
  const fastconv_windows *w = &p->axis[2];
  ptrdiff_t low, columns = pool_columns(w, to->o, to->stop, &low), end = low + columns;
  low = low < 0 ? 0 : low;
  end = end < w->in ? end : w->in;
  NAME(pool_down)(p, buffer, window, low * p->channels, (end - low) * p->channels);
  const real *at = buffer;
  const NAME(pool_window) joined = {&at, window->index, window->share, 1, window->divisor};
  NAME(pool_pixels)(p->kind == FASTCONV_POOL_MAX ? p->kind : FASTCONV_POOL_MEAN, p, &joined, low, to, 0, p->channels);
}

static void NAME(pool_channels_last)(const fastconv_pool *p, const fastconv_pool_rows *part) {
  const ptrdiff_t out = p->axis[2].out;
  const int join = !part->indices && p->kind != FASTCONV_POOL_SPREAD && NAME(pool_joins_rows)(p, part->channels);
  const ptrdiff_t chunk = join ? NAME(pool_pixel_chunk)(p) : out;
  char *scratch = part->scratch;
  NAME(pool_window) window = NAME(pool_lists)(&scratch, pool_row_limit(p));
  pool_place at = pool_place_of(p, part->begin);
  for (ptrdiff_t row = part->begin; row < part->end; row++) {
    NAME(pool_look)(p, (const real *)part->x, at, &window);
    pool_advance(p, &at);
    for (ptrdiff_t o = 0; o < out; o += chunk) {
      const ptrdiff_t to = ((row - part->begin) * out + o) * p->channels + part->channel;
      const NAME(pool_outputs) outputs = {o,
                                          o + chunk < out ? o + chunk : out,
                                          window.divisor,
                                          (real *)part->y + to,
                                          part->indices ? part->indices + to : NULL,
                                          part->slope ? (const real *)part->slope + to : NULL};
      if (join) NAME(pool_pixels_joined)(p, &window, (real *)scratch, &outputs);
      else NAME(pool_pixels)(p->kind, p, &window, 0, &outputs, part->channel, part->channels);
    }
  }
}

static void NAME(pool)(const fastconv_pool *p, const fastconv_pool_rows *part) {
  if (p->channels > 1) NAME(pool_channels_last)(p, part);
  else if (!NAME(pool_is_wide)(p)) NAME(pool_narrow)(p, part);
  else if (part->indices) NAME(pool_wide_indices)(p, part);
  else NAME(pool_wide)(p, part);
}

static size_t NAME(pool_scratch)(const fastconv_pool *p) {
  char *lists = NULL;
  NAME(pool_lists)(&lists, pool_row_limit(p));
  const fastconv_windows *w = &p->axis[2];
  const ptrdiff_t chunk = NAME(pool_chunk)(w), span = NAME(pool_span)(w, chunk),
                  batch = NAME(pool_batch)(span, chunk, w->out);
  const ptrdiff_t buffer = p->channels > 1 ? 2 * POOL_BUFFER + VLEN : 2 * batch * span;
  return (size_t)lists + (size_t)buffer * sizeof(real) + 64;
}

static void NAME(times_power)(char *dst, const char *x, ptrdiff_t n, double power) {
  real *to = (real *)dst;
  const real *from = (const real *)x;
  for (ptrdiff_t i = 0; i < n; i += VLEN) {
    vec v = NAME(load_some)(from + i, n - i);
    if (power != 1) v = NAME(lanes_to_power)(v, power);
    NAME(store_some)(to + i, v * NAME(load_some)(to + i, n - i), n - i);
  }
}
