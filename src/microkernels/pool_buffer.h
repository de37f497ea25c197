/* Pools of channels_first by way of a buffer: an output row's input rows are joined into it, which is contiguous
 * whatever the stride, then its columns: by unaligned loads (stride 1), de-interleaving (2, 4) or gathers along the
 * lists.
 */

#define POOL_BATCH 8 /* output rows whose buffers are filled before the first is read: stores take time to arrive */
#define POOL_GROUP 4 /* input rows joined at once */

INLINE vec NAME(pool_group)(const int kind, const int rows, const fastconv_pool *p, const real *const *at,
                            const real *share, ptrdiff_t j, ptrdiff_t n) {
  vec sum = {0};
  UNROLL for (int r = 0; r < rows; r++) {
    vec v = NAME(pool_term)(kind, p, NAME(load_some)(at[r] + j, n));
    if (kind == FASTCONV_POOL_SPREAD) v *= share[r];
    sum = r ? NAME(pool_join)(kind, sum, v) : v;
  }
  return sum;
}

INLINE void NAME(pool_down_group)(const int kind, const int rows, const int more, const fastconv_pool *p, real *dst,
                                  const NAME(pool_window) * w, ptrdiff_t r, ptrdiff_t from, ptrdiff_t n) {
  const pool_pitch pitch = pool_pitch_of(p);
  const real *at[POOL_GROUP];
  real share[POOL_GROUP];
  UNROLL for (int i = 0; i < rows; i++) {
    at[i] = w->at + NAME(pool_row)(w, pitch, r + i) * p->channels + from;
    share[i] = kind == FASTCONV_POOL_SPREAD ? NAME(pool_share)(w, r + i) : 1;
  }
  for (ptrdiff_t j = 0; j < n; j += VLEN) {
    const vec sum = n - j < VLEN ? NAME(pool_group)(kind, rows, p, at, share, j, n - j)
                                 : NAME(pool_group)(kind, rows, p, at, share, j, VLEN);
    NAME(store)(dst + j, more ? NAME(pool_join)(kind, NAME(load)(dst + j), sum) : sum);
  }
}

INLINE void NAME(pool_down_kind)(const int kind, const fastconv_pool *p, real *dst, const NAME(pool_window) * w,
                                 ptrdiff_t from, ptrdiff_t n) {
  const ptrdiff_t rows = w->planes * w->rows;
  ptrdiff_t r;
  switch (rows) {
    case 0:
      for (ptrdiff_t j = 0; j < n; j += VLEN) NAME(store)(dst + j, NAME(splat)(NAME(pool_neutral)(kind)));
      break;
    case 1:
      NAME(pool_down_group)(kind, 1, 0, p, dst, w, 0, from, n);
      break;
    case 2:
      NAME(pool_down_group)(kind, 2, 0, p, dst, w, 0, from, n);
      break;
    case 3:
      NAME(pool_down_group)(kind, 3, 0, p, dst, w, 0, from, n);
      break;
    default:
      NAME(pool_down_group)(kind, POOL_GROUP, 0, p, dst, w, 0, from, n);
  }
  for (r = POOL_GROUP; r + POOL_GROUP <= rows; r += POOL_GROUP)
    NAME(pool_down_group)(kind, POOL_GROUP, 1, p, dst, w, r, from, n);
  for (; r < rows; r++) NAME(pool_down_group)(kind, 1, 1, p, dst, w, r, from, n);
}

/* dst[j] = the window's rows joined at element from + j, for j < n; writes up to a vector more. */
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

/* The same for a maximum, with the flat index of each. */
static void NAME(pool_down_indices)(const fastconv_pool *p, real *dst, ilane *index, const NAME(pool_window) * w,
                                    ptrdiff_t from, ptrdiff_t n) {
  const pool_pitch pitch = pool_pitch_of(p);
  for (ptrdiff_t j = 0; j < n; j += VLEN) {
    const ivec column = NAME(lane_numbers)() + NAME(splat_index)(from + j);
    vec best = NAME(load_some)(w->at + from + j, n - j);
    ivec at = column + NAME(splat_index)(w->index);
    for (ptrdiff_t r = 1; r < w->planes * w->rows; r++) {
      const ptrdiff_t row = NAME(pool_row)(w, pitch, r);
      const vec v = NAME(load_some)(w->at + row + from + j, n - j);
      NAME(take_larger)(&best, &at, v, column + NAME(splat_index)(w->index + row));
    }
    NAME(store)(dst + j, best);
    NAME(store)((real *)(index + j), (vec)at);
  }
}

typedef struct { /* the input columns that some outputs of a row see, rows joined; padding and slack neutral */
  real *value;
  ilane *index; /* of a maximum, or NULL */
  ptrdiff_t low, columns;
} NAME(pool_buffer);

/* The index of padding, beyond all others. */
INLINE ivec NAME(no_index)(void) { return NAME(splat_index)(REAL_BITS == 32 ? INT32_MAX : INT64_MAX); }

/* Elements behind the columns that whole vectors of outputs may read, and pool_down write. */
INLINE ptrdiff_t NAME(pool_slack)(void) { return 5 * VLEN; }

INLINE void NAME(pool_pad)(const NAME(pool_buffer) * b, ptrdiff_t from, ptrdiff_t stop, real neutral) {
  for (ptrdiff_t j = from; j < stop; j += VLEN) {
    NAME(store)(b->value + j, NAME(splat)(neutral));
    if (b->index) NAME(store)((real *)(b->index + j), (vec)NAME(no_index)());
  }
}

/* A buffer's columns are pixels: `channels` elements each. SPREAD multiplies them by their factors. */
static void NAME(pool_fill)(const fastconv_pool *p, const NAME(pool_buffer) * b, const NAME(pool_window) * window) {
  const fastconv_windows *w = &p->axis[2];
  const ptrdiff_t from = b->low < 0 ? 0 : b->low, stop = b->low + b->columns < w->in ? b->low + b->columns : w->in;
  const ptrdiff_t before = (from - b->low) * p->channels, n = stop > from ? (stop - from) * p->channels : 0;
  const ptrdiff_t all = b->columns * p->channels;
  const real neutral = NAME(pool_neutral)(p->kind);
  NAME(pool_pad)(b, 0, before < all ? before : all, neutral);
  if (b->index) NAME(pool_down_indices)(p, b->value + before, b->index + before, window, from, n);
  else NAME(pool_down)(p, b->value + before, window, from * p->channels, n);
  if (p->kind == FASTCONV_POOL_SPREAD)
    for (ptrdiff_t j = 0; j < n; j += VLEN) {
      real *value = b->value + before + j;
      NAME(store)(value, NAME(load)(value) * NAME(load_some)((const real *)w->scale + from + j, n - j));
    }
  NAME(pool_pad)(b, before + n, all + NAME(pool_slack)() - VLEN, neutral);
}

/* A candidate for a maximum, in any order: of equals the smallest index wins, of NaNs the largest. */
INLINE void NAME(take_better)(vec *best, ivec *best_index, vec v, ivec index) {
  const ivec earlier = index < *best_index;
  const ivec wins = (v > *best) | ((v == *best) & earlier) | ((v != v) & ~((*best != *best) & earlier));
  *best = NAME(select)(wins, v, *best);
  *best_index = (ivec)NAME(select)(wins, (vec)index, (vec)*best_index);
}

INLINE vec NAME(load_step)(const int step, const real *p) {
  if (step == 1) return NAME(load)(p);
  const vec low = NAME(even_lanes)(NAME(load)(p), NAME(load)(p + VLEN));
  if (step == 2) return low;
  return NAME(even_lanes)(low, NAME(even_lanes)(NAME(load)(p + 2 * VLEN), NAME(load)(p + 3 * VLEN)));
}

typedef struct { /* VLEN windows: their first columns in the buffer and how many they have, if they are listed */
  ptrdiff_t o;
  ivec first, count;
  ptrdiff_t origin; /* within a vector from there are all their columns; or -1 */
} NAME(pool_lanes);

INLINE NAME(pool_lanes) NAME(pool_listed)(const fastconv_windows *w, ptrdiff_t o, ptrdiff_t n, ptrdiff_t low) {
  const ptrdiff_t last = o + (n < VLEN ? n : VLEN) - 1, origin = w->first[o];
  const int near = w->stride <= 0 && w->first[last] + w->taps - origin <= VLEN;
  const ivec first = NAME(load_index)(w->first + o) - NAME(splat_index)(near ? origin : low);
  return (NAME(pool_lanes)){o, first, NAME(load_index)(w->count + o), near ? origin - low : -1};
}

/* Joined columns of VLEN windows, one a lane. */
INLINE vec NAME(pool_windows)(const int kind, const int stride, const fastconv_windows *w, const NAME(pool_buffer) * b,
                              const NAME(pool_lanes) * lanes) {
  if (stride) {
    const real *at = b->value + lanes->o * stride - w->before - b->low;
    vec sum = NAME(load_step)(stride, at);
    for (ptrdiff_t t = 1; t < w->taps; t++) sum = NAME(pool_join)(kind, sum, NAME(load_step)(stride, at + t * w->step));
    return sum;
  }
  const vec neutral = NAME(splat)(NAME(pool_neutral)(kind));
  const vec near = NAME(load)(b->value + (lanes->origin < 0 ? 0 : lanes->origin));
  vec sum = neutral;
  ivec at = lanes->first;
  for (ptrdiff_t t = 0; t < w->taps; t++, at += NAME(splat_index)(w->step)) {
    const ivec within = NAME(splat_index)(t) < lanes->count;
    const vec v = lanes->origin < 0 ? NAME(gather)(b->value, at & within) : NAME(permute)(near, at & within);
    sum = NAME(pool_join)(kind, sum, NAME(select)(within, v, neutral));
  }
  return sum;
}

INLINE vec NAME(pool_windows_indices)(const int stride, const fastconv_windows *w, const NAME(pool_buffer) * b,
                                      const NAME(pool_lanes) * lanes, ivec *index) {
  const vec neutral = NAME(splat)(-(real)INFINITY);
  vec best = neutral;
  *index = NAME(no_index)();
  if (stride) {
    const ptrdiff_t at = lanes->o * stride - w->before - b->low;
    for (ptrdiff_t t = 0; t < w->taps; t++)
      NAME(take_better)(&best, index, NAME(load_step)(stride, b->value + at + t * w->step),
                        (ivec)NAME(load_step)(stride, (const real *)b->index + at + t * w->step));
    return best;
  }
  ivec at = lanes->first;
  for (ptrdiff_t t = 0; t < w->taps; t++, at += NAME(splat_index)(w->step)) {
    const ivec within = NAME(splat_index)(t) < lanes->count;
    const vec here = NAME(gather)((const real *)b->index, at & within);
    NAME(take_better)(&best, index, NAME(select)(within, NAME(gather)(b->value, at & within), neutral),
                      (ivec)NAME(select)(within, here, (vec)NAME(no_index)()));
  }
  return best;
}

/* Outputs o .. stop - 1 of some rows. */
INLINE void NAME(pool_across)(const int kind, const int stride, const fastconv_pool *p, const NAME(pool_buffer) * b,
                              const NAME(pool_outputs) * to, ptrdiff_t rows) {
  const fastconv_windows *w = &p->axis[2];
  for (ptrdiff_t o = to->o; o < to->stop; o += VLEN) {
    const ptrdiff_t n = to->stop - o, i = o - to->o;
    const NAME(pool_lanes) lanes = stride ? (NAME(pool_lanes)){.o = o} : NAME(pool_listed)(w, o, n, b->low);
    const int divided = kind != FASTCONV_POOL_MAX && p->kind != FASTCONV_POOL_SPREAD;
    const vec divisor = divided ? NAME(load_or)((const real *)w->scale + o, n, 1) : (vec){0};
    for (ptrdiff_t r = 0; r < rows; r++) {
      vec v = NAME(pool_windows)(kind, stride, w, b + r, &lanes);
      if (divided) v = NAME(pool_finish)(p, v, divisor * to[r].divisor, to[r].slope ? to[r].slope + i : NULL, n);
      NAME(store_some)(to[r].y + i, v, n);
    }
  }
}

INLINE void NAME(pool_across_indices)(const int stride, const fastconv_pool *p, const NAME(pool_buffer) * b,
                                      const NAME(pool_outputs) * to, ptrdiff_t rows) {
  const fastconv_windows *w = &p->axis[2];
  for (ptrdiff_t o = to->o; o < to->stop; o += VLEN) {
    const ptrdiff_t n = to->stop - o, i = o - to->o;
    NAME(pool_lanes) lanes = stride ? (NAME(pool_lanes)){.o = o} : NAME(pool_listed)(w, o, n, b->low);
    if (lanes.origin > 0) lanes.first += NAME(splat_index)(lanes.origin);
    for (ptrdiff_t r = 0; r < rows; r++) {
      ivec index;
      NAME(store_some)(to[r].y + i, NAME(pool_windows_indices)(stride, w, b + r, &lanes, &index), n);
      NAME(store_some_indices)(to[r].index + i, index, n);
    }
  }
}

static void NAME(pool_empty)(const fastconv_pool *p, const NAME(pool_buffer) * b, const NAME(pool_outputs) * to,
                             ptrdiff_t rows) {
#define ACROSS(KIND)                                              \
  switch (p->axis[2].stride) {                                    \
    case 1:                                                       \
      NAME(pool_across)(FASTCONV_POOL_##KIND, 1, p, b, to, rows); \
      break;                                                      \
    case 2:                                                       \
      NAME(pool_across)(FASTCONV_POOL_##KIND, 2, p, b, to, rows); \
      break;                                                      \
    case 4:                                                       \
      NAME(pool_across)(FASTCONV_POOL_##KIND, 4, p, b, to, rows); \
      break;                                                      \
    default:                                                      \
      NAME(pool_across)(FASTCONV_POOL_##KIND, 0, p, b, to, rows); \
  }
  if (b->index) {
    switch (p->axis[2].stride) {
      case 1:
        NAME(pool_across_indices)(1, p, b, to, rows);
        break;
      case 2:
        NAME(pool_across_indices)(2, p, b, to, rows);
        break;
      case 4:
        NAME(pool_across_indices)(4, p, b, to, rows);
        break;
      default:
        NAME(pool_across_indices)(0, p, b, to, rows);
    }
  } else if (p->kind == FASTCONV_POOL_MAX) {
    ACROSS(MAX)
  } else {
    ACROSS(MEAN)
  }
#undef ACROSS
}

/* Outputs of a row that are made at once, so that a buffer stays in L1. */
INLINE ptrdiff_t NAME(pool_chunk)(const fastconv_windows *w) {
  const ptrdiff_t unit = 2 * VLEN;
  ptrdiff_t low, chunk = w->out;
  while (chunk > unit && pool_columns(w, 0, chunk, &low) > POOL_BUFFER) chunk = (chunk / 2 + unit - 1) / unit * unit;
  return chunk;
}

/* Elements of a buffer: the columns of any chunk, and slack. */
INLINE ptrdiff_t NAME(pool_span)(const fastconv_windows *w, ptrdiff_t chunk) {
  ptrdiff_t low, most = 0;
  for (ptrdiff_t o = 0; o < w->out; o += chunk) {
    const ptrdiff_t columns = pool_columns(w, o, o + chunk < w->out ? o + chunk : w->out, &low);
    most = columns > most ? columns : most;
  }
  return (most + NAME(pool_slack)() + VLEN - 1) / VLEN * VLEN;
}

INLINE ptrdiff_t NAME(pool_batch)(ptrdiff_t span, ptrdiff_t chunk, ptrdiff_t out) {
  const ptrdiff_t batch = POOL_BUFFER / span;
  return chunk < out || batch < 1 ? 1 : batch < POOL_BATCH ? batch : POOL_BATCH;
}

/* Whether an output row of SPREAD is the one above it again. */
INLINE int NAME(pool_repeats)(const fastconv_pool *p, pool_place at) {
  const fastconv_windows *h = &p->axis[1];
  return p->kind == FASTCONV_POOL_SPREAD && at.h > 0 && h->first[at.h] == h->first[at.h - 1] &&
         h->count[at.h] == h->count[at.h - 1];
}

/* Outputs o .. stop - 1 of some rows; `windows` of those that are not `again` what is above them. */
static void NAME(pool_some_buffers)(const fastconv_pool *p, const fastconv_pool_rows *part, NAME(pool_buffer) * buffers,
                                    const NAME(pool_window) * windows, const int *again, ptrdiff_t row, ptrdiff_t rows,
                                    ptrdiff_t o, ptrdiff_t stop) {
  const ptrdiff_t out = p->axis[2].out, to = (row - part->begin) * out + o;
  NAME(pool_outputs) outputs[POOL_BATCH];
  ptrdiff_t n = 0, low, columns = pool_columns(&p->axis[2], o, stop, &low);
  for (ptrdiff_t r = 0; r < rows; r++) {
    if (again[r]) continue;
    buffers[n].low = low;
    buffers[n].columns = columns;
    NAME(pool_fill)(p, &buffers[n], &windows[r]);
    outputs[n++] = NAME(pool_outputs_at)(part, to + r * out, o, stop, NAME(pool_divisor)(&windows[r]));
  }
  if (n) NAME(pool_empty)(p, buffers, outputs, n);
  for (ptrdiff_t r = 0; r < rows; r++) {
    real *y = (real *)part->y + to + r * out;
    if (again[r]) memcpy(y, y - out, (size_t)(stop - o) * sizeof(real));
  }
}

static void NAME(pool_buffered)(const fastconv_pool *p, const fastconv_pool_rows *part) {
  const fastconv_windows *w = &p->axis[2];
  const ptrdiff_t out = w->out, chunk = NAME(pool_chunk)(w), span = NAME(pool_span)(w, chunk);
  const ptrdiff_t batch = NAME(pool_batch)(span, chunk, out);
  NAME(pool_window) windows[POOL_BATCH];
  NAME(pool_buffer) buffers[POOL_BATCH];
  int again[POOL_BATCH];
  for (ptrdiff_t r = 0; r < batch; r++) {
    buffers[r].value = (real *)part->scratch + r * span;
    buffers[r].index = part->indices ? (ilane *)part->scratch + (batch + r) * span : NULL;
  }
  pool_place at = pool_place_of(p, part->begin);
  for (ptrdiff_t row = part->begin; row < part->end; row += batch) {
    const ptrdiff_t rows = part->end - row < batch ? part->end - row : batch;
    for (ptrdiff_t r = 0; r < rows; r++) {
      windows[r] = NAME(pool_look)(p, (const real *)part->x, at);
      again[r] = row + r > part->begin && NAME(pool_repeats)(p, at);
      pool_advance(p, &at);
    }
    for (ptrdiff_t o = 0; o < out; o += chunk)
      NAME(pool_some_buffers)(p, part, buffers, windows, again, row, rows, o, o + chunk < out ? o + chunk : out);
  }
}
