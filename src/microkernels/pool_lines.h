/* Pools of channels_first by way of lines: the input rows of an output row are joined into a line in L1, contiguous
 * whatever the stride and with its padding around it, then the line's columns: by unaligned loads (stride 1),
 * de-interleaving (2, 4), or permutes and gathers along the lists. Many output rows take each step together: what is
 * set up for a row costs as much as a short row, and what is stored can be loaded in other vectors only a while later.
 */

#define POOL_BATCH 64 /* lines at once */
#define POOL_GROUP 4  /* input rows joined at once */
/* Elements: short rows are read and written in turns, and no hardware looks so far ahead. */
#define POOL_AHEAD ((ptrdiff_t)(4096 / sizeof(real)))

typedef struct { /* windows one below the other: of as many rows each, and evenly spaced */
  NAME(pool_window) first;
  ptrdiff_t lines, down; /* how many windows, and input rows from one to the next */
  ptrdiff_t from, n;     /* of each row, the elements that are joined */
  ptrdiff_t pitch;       /* elements between the lines where they go */
} NAME(pool_run);

/* The vector of n <= VLEN lanes at element j of some rows; what `column` points to are the factors of SPREAD. */
INLINE vec NAME(pool_group)(const int kind, const int rows, const fastconv_pool *p, const real *const *at,
                            const real *share, const real *column, ptrdiff_t j, ptrdiff_t n) {
  vec v[POOL_GROUP];
  UNROLL for (int r = 0; r < rows; r++) {
    v[r] = NAME(load_some)(at[r] + j, n);
    OPAQUE(v[r]); /* else GCC loads it again wherever it is compared and joined */
    v[r] = NAME(pool_term)(kind, p, v[r]);
    if (kind == FASTCONV_POOL_SPREAD) v[r] *= share[r];
  }
  vec sum = v[0];
  if (rows == 2) sum = NAME(pool_join)(kind, v[0], v[1]);
  if (rows >= 3) sum = NAME(pool_join_three)(kind, v[0], v[1], v[2]);
  if (rows == 4) sum = NAME(pool_join)(kind, sum, v[3]);
  if (kind == FASTCONV_POOL_SPREAD) sum *= NAME(load_some)(column, n);
  if (n >= VLEN) return sum;
  return NAME(select)(NAME(lane_numbers)() < NAME(splat_index)(n), sum, NAME(splat)(NAME(pool_neutral)(kind)));
}

/* Rows r .. r + rows - 1 of each window; joined with what is in the lines already if `more`. */
INLINE void NAME(pool_down_group)(const int kind, const int rows, const int more, const fastconv_pool *p, real *dst,
                                  const NAME(pool_run) * run, ptrdiff_t r) {
  const pool_pitch pitch = pool_pitch_of(p);
  const ptrdiff_t n = run->n, whole = n / VLEN * VLEN, lines = run->lines, to = run->pitch;
  const ptrdiff_t apart = run->down * p->axis[2].in * p->channels;
  const real *column = kind == FASTCONV_POOL_SPREAD ? (const real *)p->axis[2].scale + run->from : NULL;
  const real *at[POOL_GROUP];
  real share[POOL_GROUP];
  NAME(pool_window) window = run->first;
  UNROLL for (int i = 0; i < rows; i++) at[i] =
      window.at + NAME(pool_row)(&window, pitch, r + i) * p->channels + run->from;
#define GROUP(J, N) NAME(pool_group)(kind, rows, p, at, share, column ? column + (J) : NULL, line * apart + (J), N)
#define AHEAD(J) PREFETCH(at[rows - 1] + line * apart + (J) + POOL_AHEAD)
  for (ptrdiff_t line = 0; line < lines; line++, dst += to, window.scale[1] += run->down) {
    UNROLL for (int i = 0; i < rows; i++) share[i] =
        kind == FASTCONV_POOL_SPREAD ? NAME(pool_share)(&window, r + i) : 1;
    for (ptrdiff_t j = 0; j < whole; j += VLEN) {
      AHEAD(j);
      const vec sum = GROUP(j, VLEN);
      NAME(store)(dst + j, more ? NAME(pool_join)(kind, NAME(load)(dst + j), sum) : sum);
    }
    if (whole == n) continue;
    AHEAD(whole);
    if (more) {
      const vec sum = GROUP(whole, n - whole);
      NAME(store_tail)(dst + whole, NAME(pool_join)(kind, NAME(load)(dst + whole), sum), n - whole);
    } else if (whole) {
      NAME(store)(dst + n - VLEN, GROUP(n - VLEN, VLEN));
    } else {
      NAME(store)(dst, GROUP(0, n));
    }
  }
#undef AHEAD
#undef GROUP
}

/* dst[j] = element run->from + j of a window's rows joined, for j < run->n and so for each line, in order: where that
 * is less than a vector a whole one is written, the other lanes neutral. */
INLINE void NAME(pool_down)(const int kind, const fastconv_pool *p, real *dst, const NAME(pool_run) * run) {
  const ptrdiff_t rows = run->first.planes * run->first.rows;
  ptrdiff_t r;
  switch (rows) {
    case 0:
      for (ptrdiff_t line = 0; line < run->lines; line++)
        for (ptrdiff_t j = 0; j < run->n; j++) dst[line * run->pitch + j] = NAME(pool_neutral)(kind);
      return;
    case 1:
      NAME(pool_down_group)(kind, 1, 0, p, dst, run, 0);
      return;
    case 2:
      NAME(pool_down_group)(kind, 2, 0, p, dst, run, 0);
      return;
    case 3:
      NAME(pool_down_group)(kind, 3, 0, p, dst, run, 0);
      return;
    default:
      NAME(pool_down_group)(kind, POOL_GROUP, 0, p, dst, run, 0);
  }
  for (r = POOL_GROUP; r + POOL_GROUP <= rows; r += POOL_GROUP)
    NAME(pool_down_group)(kind, POOL_GROUP, 1, p, dst, run, r);
  for (; r < rows; r++) NAME(pool_down_group)(kind, 1, 1, p, dst, run, r);
}

/* The index of padding, beyond all others. */
INLINE ivec NAME(no_index)(void) { return NAME(splat_index)(REAL_BITS == 32 ? INT32_MAX : INT64_MAX); }

/* The r-th of a window's rows: the larger elements, and their flat indices. */
INLINE void NAME(take_row)(vec *best, ivec *index, const NAME(pool_window) * w, pool_pitch pitch, ptrdiff_t r,
                           ptrdiff_t at, ptrdiff_t n, ivec column) {
  const ptrdiff_t row = NAME(pool_row)(w, pitch, r);
  const vec v = NAME(load_or)(w->at + row + at, n, -(real)INFINITY);
  NAME(take_larger)(best, index, v, column + NAME(splat_index)(row));
}

/* One vector of a line of maxima, of n lanes, and the flat index of each. Some numbers of rows are known, else 0. */
INLINE vec NAME(pool_group_indices)(const int rows, const NAME(pool_window) * w, pool_pitch pitch, ptrdiff_t line,
                                    ptrdiff_t j, ptrdiff_t n, ivec *index) {
  const ptrdiff_t all = w->planes * w->rows;
  const ivec lane = NAME(lane_numbers)(), column = lane + NAME(splat_index)(w->index + line + j);
  vec best = NAME(load_or)(w->at + line + j, n, -(real)INFINITY);
  *index = column;
  UNROLL for (int r = 1; r < rows; r++) NAME(take_row)(&best, index, w, pitch, r, line + j, n, column);
  if (!rows)
    for (ptrdiff_t r = 1; r < all; r++) NAME(take_row)(&best, index, w, pitch, r, line + j, n, column);
  if (n < VLEN) *index = (ivec)NAME(select)(lane < NAME(splat_index)(n), (vec)*index, (vec)NAME(no_index)());
  return best;
}

INLINE void NAME(pool_down_indices_rows)(const int rows, const fastconv_pool *p, real *dst, ilane *dst_index,
                                         const NAME(pool_run) * run) {
  const pool_pitch pitch = pool_pitch_of(p);
  const NAME(pool_window) window = run->first;
  const ptrdiff_t n = run->n, lines = run->lines, apart = run->down * p->axis[2].in, to = run->pitch;
  for (ptrdiff_t line = 0, at = run->from; line < lines; line++, at += apart, dst += to, dst_index += to)
    for (ptrdiff_t j = 0; j < n; j += VLEN) {
      ivec index;
      if (n - j < VLEN && j > 0) j = n - VLEN;
      NAME(store)(dst + j, NAME(pool_group_indices)(rows, &window, pitch, at, j, n - j, &index));
      NAME(store)((real *)(dst_index + j), (vec)index);
    }
}

/* As pool_down, of a maximum with the flat index of each. */
INLINE void NAME(pool_down_indices)(const fastconv_pool *p, real *dst, ilane *index, const NAME(pool_run) * run) {
  if (run->first.planes == 1 && run->first.rows == 2) NAME(pool_down_indices_rows)(2, p, dst, index, run);
  else if (run->first.planes == 1 && run->first.rows == 3) NAME(pool_down_indices_rows)(3, p, dst, index, run);
  else NAME(pool_down_indices_rows)(0, p, dst, index, run);
}

typedef struct { /* the input columns that some outputs of a row see, rows joined; a line each for several rows */
  real *value;
  ilane *index; /* of a maximum, or NULL */
  ptrdiff_t pitch;
  ptrdiff_t low;        /* the first column, a pixel of p->channels */
  ptrdiff_t from, stop; /* those that are not padding */
} NAME(pool_lines);

/* Elements behind the last line that vectors of outputs may read, and pool_down write. */
INLINE ptrdiff_t NAME(pool_slack)(void) { return 5 * VLEN; }

INLINE void NAME(pool_pad)(const NAME(pool_lines) * b, ptrdiff_t from, ptrdiff_t stop, real neutral) {
  for (ptrdiff_t j = from; j < stop; j++) b->value[j] = neutral;
  if (!b->index) return;
  for (ptrdiff_t j = from; j < stop; j++) b->index[j] = NAME(no_index)()[0];
}

/* Lines for outputs o .. stop - 1 of so many rows, with their padding. */
static void NAME(pool_rule)(const fastconv_pool *p, NAME(pool_lines) * b, ptrdiff_t o, ptrdiff_t stop, ptrdiff_t rows) {
  const ptrdiff_t columns = pool_columns(&p->axis[2], o, stop, &b->low), end = b->low + columns, in = p->axis[2].in;
  b->from = b->low > 0 ? b->low : end < 0 ? end : 0;
  b->stop = end < in ? end : in < b->from ? b->from : in;
  const ptrdiff_t before = (b->from - b->low) * p->channels, after = (b->stop - b->low) * p->channels;
  const real neutral = NAME(pool_neutral)(p->kind);
  for (ptrdiff_t r = 0; r < rows; r++) {
    NAME(pool_pad)(b, r * b->pitch, r * b->pitch + before, neutral);
    NAME(pool_pad)(b, r * b->pitch + after, r * b->pitch + columns * p->channels, neutral);
  }
}

/* Up to `most` windows from `at` on that are one below the other. */
INLINE ptrdiff_t NAME(pool_alike)(const fastconv_pool *p, pool_place at, ptrdiff_t most) {
  const fastconv_windows *w = &p->axis[1];
  const int64_t *first = w->first + at.h, *count = w->count + at.h;
  ptrdiff_t n = 1;
  if (most > w->out - at.h) most = w->out - at.h;
  if (w->stride > 0 && count[0] == w->taps) { /* so have those up to the first that reaches beyond the last row */
    const ptrdiff_t whole = (w->in - 1 - first[0] - (w->taps - 1) * w->step) / w->stride + 1;
    return whole < most ? whole : most;
  }
  while (n < most && count[n] == count[0] && first[n] - first[n - 1] == first[1] - first[0]) n++;
  return n;
}

INLINE void NAME(pool_fill_kind)(const int kind, const int indices, const fastconv_pool *p, const real *x,
                                 const NAME(pool_lines) * b, pool_place *at, ptrdiff_t rows, real *divisors) {
  const fastconv_windows *h = &p->axis[1];
  const ptrdiff_t size = p->channels;
  NAME(pool_run) run = {.from = b->from * size, .pitch = b->pitch};
  ptrdiff_t to = run.from - b->low * size;
  for (ptrdiff_t r = 0, lines; r < rows; r += lines, to += lines * b->pitch) {
    run.first = NAME(pool_look)(p, x, *at);
    run.lines = lines = NAME(pool_alike)(p, *at, rows - r);
    run.down = lines > 1 ? h->first[at->h + 1] - h->first[at->h] : 0;
    run.n = (b->stop - b->from) * size;
    if (kind == FASTCONV_POOL_MAX && run.down == 1 && run.n == b->pitch && run.n == p->axis[2].in) {
      run.n *= lines; /* they follow each other here and there */
      run.lines = 1;
    }
    if (kind != FASTCONV_POOL_MAX && kind != FASTCONV_POOL_SPREAD)
      for (ptrdiff_t i = 0; i < lines; i++) divisors[r + i] = *run.first.scale[0] * run.first.scale[1][i];
    if (indices) NAME(pool_down_indices)(p, b->value + to, b->index + to, &run);
    else NAME(pool_down)(kind, p, b->value + to, &run);
    pool_advance(p, at, lines);
  }
}

/* Joins the windows' rows from *at on, which advances. */
static void NAME(pool_fill)(const fastconv_pool *p, const real *x, const NAME(pool_lines) * b, pool_place *at,
                            ptrdiff_t rows, real *divisors) {
  switch (b->index ? -1 : p->kind) {
    case -1:
      NAME(pool_fill_kind)(FASTCONV_POOL_MAX, 1, p, x, b, at, rows, divisors);
      break;
    case FASTCONV_POOL_MAX:
      NAME(pool_fill_kind)(FASTCONV_POOL_MAX, 0, p, x, b, at, rows, divisors);
      break;
    case FASTCONV_POOL_MEAN:
      NAME(pool_fill_kind)(FASTCONV_POOL_MEAN, 0, p, x, b, at, rows, divisors);
      break;
    case FASTCONV_POOL_SQUARE:
      NAME(pool_fill_kind)(FASTCONV_POOL_SQUARE, 0, p, x, b, at, rows, divisors);
      break;
    case FASTCONV_POOL_POWER:
      NAME(pool_fill_kind)(FASTCONV_POOL_POWER, 0, p, x, b, at, rows, divisors);
      break;
    default:
      NAME(pool_fill_kind)(FASTCONV_POOL_SPREAD, 0, p, x, b, at, rows, divisors);
  }
}

/* A candidate for a maximum, in any order: of equals the smallest index wins, of NaNs the largest. */
INLINE void NAME(take_better)(vec *best, ivec *best_index, vec v, ivec index) {
  const ivec earlier = index < *best_index;
  const ivec wins = (v > *best) | ((v == *best) & earlier) | ((v != v) & ~((*best != *best) & earlier));
  *best = NAME(select)(wins, v, *best);
  *best_index = (ivec)NAME(select)(wins, (vec)index, (vec)*best_index);
}

/* Every stride-th element from p on. */
INLINE vec NAME(load_step)(const int stride, const real *p) {
  if (stride == 1) return NAME(load)(p);
  const vec low = NAME(even_lanes)(NAME(load)(p), NAME(load)(p + VLEN));
  if (stride == 2) return low;
  return NAME(even_lanes)(low, NAME(even_lanes)(NAME(load)(p + 2 * VLEN), NAME(load)(p + 3 * VLEN)));
}

/* The same from p + t on, of the vectors that other t's of the same multiple of the stride have, too. */
INLINE vec NAME(load_residue)(const int stride, const real *p, const int t) {
  vec v[4];
  UNROLL for (int i = 0; i < stride; i++) v[i] = NAME(load)(p + t - t % stride + i * VLEN);
  for (int n = stride / 2, residue = t % stride; n > 0; n /= 2, residue /= 2)
    UNROLL for (int i = 0; i < n; i++) v[i] =
        residue % 2 ? NAME(odd_lanes)(v[2 * i], v[2 * i + 1]) : NAME(even_lanes)(v[2 * i], v[2 * i + 1]);
  return v[0];
}

/* VLEN windows of a line whose first columns are `stride` apart from `at` on, joined. Some numbers of neighbouring taps
 * are known, else `taps` is 0. */
INLINE vec NAME(pool_windows)(const int kind, const int stride, const int taps, const fastconv_windows *w,
                              const real *at) {
  vec sum = NAME(load_step)(stride, at);
  if (taps == 3)
    return NAME(pool_join_three)(kind, sum, NAME(load_residue)(stride, at, 1), NAME(load_residue)(stride, at, 2));
  UNROLL for (int t = 1; t < taps; t++) sum = NAME(pool_join)(kind, sum, NAME(load_residue)(stride, at, t));
  if (!taps)
    for (ptrdiff_t t = 1; t < w->taps; t++) sum = NAME(pool_join)(kind, sum, NAME(load_step)(stride, at + t * w->step));
  return sum;
}

INLINE vec NAME(pool_windows_indices)(const int stride, const int taps, const fastconv_windows *w, const real *at,
                                      const real *at_index, ivec *index) {
  vec best = NAME(load_step)(stride, at);
  *index = (ivec)NAME(load_step)(stride, at_index);
  UNROLL for (int t = 1; t < taps; t++)
      NAME(take_better)(&best, index, NAME(load_residue)(stride, at, t), (ivec)NAME(load_residue)(stride, at_index, t));
  if (!taps)
    for (ptrdiff_t t = 1; t < w->taps; t++)
      NAME(take_better)(&best, index, NAME(load_step)(stride, at + t * w->step),
                        (ivec)NAME(load_step)(stride, at_index + t * w->step));
  return best;
}

typedef struct { /* VLEN windows that are listed: their first columns in a line and how many they have */
  ivec first, count;
  ptrdiff_t origin; /* within a vector from there are all their columns, and `first` counts from there; or -1 */
} NAME(pool_lanes);

INLINE NAME(pool_lanes)
    NAME(pool_listed)(const fastconv_windows *w, int indices, ptrdiff_t o, ptrdiff_t n, ptrdiff_t low) {
  const ptrdiff_t last = o + (n < VLEN ? n : VLEN) - 1, origin = w->first[o];
  const int near = !indices && w->stride <= 0 && w->first[last] + w->taps - origin <= VLEN;
  const ivec first = NAME(load_index)(w->first + o) - NAME(splat_index)(near ? origin : low);
  return (NAME(pool_lanes)){first, NAME(load_index)(w->count + o), near ? origin - low : -1};
}

INLINE vec NAME(pool_windows_listed)(const int kind, const int taps, const fastconv_windows *w, const real *line,
                                     const NAME(pool_lanes) * lanes) {
  const vec near = NAME(load)(line + (lanes->origin < 0 ? 0 : lanes->origin));
  const vec neutral = NAME(splat)(NAME(pool_neutral)(kind));
  vec sum = neutral;
  ivec at = lanes->first;
  for (ptrdiff_t t = 0; t < (taps ? taps : w->taps); t++, at += NAME(splat_index)(taps ? 1 : w->step)) {
    const ivec within = NAME(splat_index)(t) < lanes->count;
    const vec v = lanes->origin < 0 ? NAME(gather)(line, at & within) : NAME(permute)(near, at & within);
    sum = NAME(pool_join)(kind, sum, NAME(select)(within, v, neutral));
  }
  return sum;
}

INLINE vec NAME(pool_windows_listed_indices)(const fastconv_windows *w, const real *line, const real *line_index,
                                             const NAME(pool_lanes) * lanes, ivec *index) {
  vec best = NAME(splat)(-(real)INFINITY);
  ivec at = lanes->first;
  *index = NAME(no_index)();
  for (ptrdiff_t t = 0; t < w->taps; t++, at += NAME(splat_index)(w->step)) {
    const ivec within = NAME(splat_index)(t) < lanes->count;
    const vec v = NAME(select)(within, NAME(gather)(line, at & within), NAME(splat)(-(real)INFINITY));
    const vec here = NAME(select)(within, NAME(gather)(line_index, at & within), (vec)NAME(no_index)());
    NAME(take_better)(&best, index, v, (ivec)here);
  }
  return best;
}

/* The outputs of some rows from their lines. The last vector of a row overlaps the one before. */
INLINE void NAME(pool_across)(const int kind, const int indices, const int stride, const int taps,
                              const fastconv_pool *p, const NAME(pool_lines) * b, const NAME(pool_outputs) * to,
                              ptrdiff_t rows, const real *divisors) {
  const fastconv_windows w = p->axis[2];
  const ptrdiff_t all = to->stop - to->o, pitch = b->pitch, out = w.out;
  const int divided = kind != FASTCONV_POOL_MAX && kind != FASTCONV_POOL_SPREAD;
  for (ptrdiff_t i = 0; i < all; i += VLEN) {
    if (all - i < VLEN && i > 0) i = all - VLEN;
    const ptrdiff_t o = to->o + i, n = all - i;
    NAME(pool_lanes) lanes = {.origin = i * stride};
    if (!stride) lanes = NAME(pool_listed)(&w, indices, o, n, b->low);
    const vec scale = divided ? NAME(load_or)((const real *)w.scale + o, n, 1) : (vec){0};
    real *y = to->y + i;
    for (ptrdiff_t r = 0; r < rows; r++, y += out) {
      PREFETCH_WRITE(y + POOL_AHEAD);
      const real *line = b->value + r * pitch, *line_index = indices ? (const real *)b->index + r * pitch : NULL;
      ivec index = {0};
      vec v;
      if (stride && indices)
        v = NAME(pool_windows_indices)(stride, taps, &w, line + i * stride, line_index + i * stride, &index);
      else if (indices) v = NAME(pool_windows_listed_indices)(&w, line, line_index, &lanes, &index);
      else if (stride) v = NAME(pool_windows)(kind, stride, taps, &w, line + i * stride);
      else v = NAME(pool_windows_listed)(kind, taps, &w, line, &lanes);
      if (kind == FASTCONV_POOL_MEAN) v /= scale * divisors[r];
      else if (divided) v = NAME(pool_norm)(p, v, scale * divisors[r], to->slope ? to->slope + i + r * out : NULL, n);
      NAME(store_some)(y, v, n);
      if (indices) NAME(store_some_indices)(to->index + i + r * out, index, n);
    }
  }
}

INLINE void NAME(pool_across_taps)(const int kind, const int indices, const int stride, const fastconv_pool *p,
                                   const NAME(pool_lines) * b, const NAME(pool_outputs) * to, ptrdiff_t rows,
                                   const real *divisors) {
  const ptrdiff_t taps = p->axis[2].step == 1 ? p->axis[2].taps : 0;
  if (stride != 4 && taps == 2) NAME(pool_across)(kind, indices, stride, 2, p, b, to, rows, divisors);
  else if (stride != 4 && taps == 3) NAME(pool_across)(kind, indices, stride, 3, p, b, to, rows, divisors);
  else if (stride == 4 && taps == 4) NAME(pool_across)(kind, indices, stride, 4, p, b, to, rows, divisors);
  else NAME(pool_across)(kind, indices, stride, 0, p, b, to, rows, divisors);
}

static void NAME(pool_empty)(const fastconv_pool *p, const NAME(pool_lines) * b, const NAME(pool_outputs) * to,
                             ptrdiff_t rows, const real *divisors) {
#define ACROSS(WAY, KIND, INDICES, ...)                                                     \
  switch (p->axis[2].stride) {                                                              \
    case 1:                                                                                 \
      NAME(WAY)(FASTCONV_POOL_##KIND, INDICES, 1, ##__VA_ARGS__, p, b, to, rows, divisors); \
      break;                                                                                \
    case 2:                                                                                 \
      NAME(WAY)(FASTCONV_POOL_##KIND, INDICES, 2, ##__VA_ARGS__, p, b, to, rows, divisors); \
      break;                                                                                \
    case 4:                                                                                 \
      NAME(WAY)(FASTCONV_POOL_##KIND, INDICES, 4, ##__VA_ARGS__, p, b, to, rows, divisors); \
      break;                                                                                \
    default:                                                                                \
      NAME(WAY)(FASTCONV_POOL_##KIND, INDICES, 0, ##__VA_ARGS__, p, b, to, rows, divisors); \
  }
  if (b->index) {
    ACROSS(pool_across_taps, MAX, 1)
  } else if (p->kind == FASTCONV_POOL_MAX) {
    ACROSS(pool_across_taps, MAX, 0)
  } else if (p->kind == FASTCONV_POOL_MEAN) {
    ACROSS(pool_across_taps, MEAN, 0)
  } else if (p->kind == FASTCONV_POOL_SPREAD) {
    if (p->axis[2].stride == 1) NAME(pool_across_taps)(FASTCONV_POOL_SPREAD, 0, 1, p, b, to, rows, divisors);
    else NAME(pool_across)(FASTCONV_POOL_SPREAD, 0, 0, 0, p, b, to, rows, divisors);
  } else {
    ACROSS(pool_across, SQUARE, 0, 0)
  }
#undef ACROSS
}

/* Whether windows do not overlap, so that the lines of rows of maxima can follow each other as one long row does. */
INLINE int NAME(pool_is_flat)(const fastconv_pool *p) {
  const fastconv_windows *w = &p->axis[2];
  const int listed = w->stride != 1 && w->stride != 2 && w->stride != 4;
  return p->kind == FASTCONV_POOL_MAX && !listed && (w->taps - 1) * w->step < w->stride;
}

/* Outputs of a row that are made at once, so that a line stays in L1. */
INLINE ptrdiff_t NAME(pool_chunk)(const fastconv_windows *w) {
  const ptrdiff_t unit = 2 * VLEN;
  ptrdiff_t low, chunk = w->out;
  while (chunk > unit && pool_columns(w, 0, chunk, &low) > POOL_BUFFER) chunk = (chunk / 2 + unit - 1) / unit * unit;
  return chunk;
}

/* The columns of any chunk, and the gap behind them. */
INLINE ptrdiff_t NAME(pool_pitch)(const fastconv_pool *p, ptrdiff_t chunk) {
  const fastconv_windows *w = &p->axis[2];
  ptrdiff_t low, most = 0;
  if (NAME(pool_is_flat)(p)) return chunk * w->stride;
  for (ptrdiff_t o = 0; o < w->out; o += chunk) {
    const ptrdiff_t columns = pool_columns(w, o, o + chunk < w->out ? o + chunk : w->out, &low);
    most = columns > most ? columns : most;
  }
  return most;
}

INLINE ptrdiff_t NAME(pool_batch)(ptrdiff_t pitch, ptrdiff_t chunk, ptrdiff_t out) {
  const ptrdiff_t batch = POOL_BUFFER / pitch;
  return chunk < out || batch < 1 ? 1 : batch < POOL_BATCH ? batch : POOL_BATCH;
}

static void NAME(pool_by_lines)(const fastconv_pool *p, const fastconv_pool_rows *part) {
  const fastconv_windows *w = &p->axis[2];
  const ptrdiff_t out = w->out, chunk = NAME(pool_chunk)(w), pitch = NAME(pool_pitch)(p, chunk);
  const ptrdiff_t batch = NAME(pool_batch)(pitch, chunk, out);
  const int flat = NAME(pool_is_flat)(p);
  real *value = (real *)part->scratch, divisors[POOL_BATCH];
  ilane *index = part->indices ? (ilane *)value + batch * pitch + NAME(pool_slack)() : NULL;
  NAME(pool_lines) b = {.value = value, .index = index, .pitch = pitch};
  pool_place at = pool_place_of(p, part->begin), next = at;
  for (ptrdiff_t row = part->begin; row < part->end; row += batch, at = next) {
    const ptrdiff_t rows = part->end - row < batch ? part->end - row : batch;
    for (ptrdiff_t o = 0; o < out; o += chunk) {
      const ptrdiff_t stop = o + chunk < out ? o + chunk : out;
      NAME(pool_outputs) to = NAME(pool_outputs_at)(part, (row - part->begin) * out + o, o, stop);
      if (row == part->begin || chunk < out) NAME(pool_rule)(p, &b, o, stop, rows);
      next = at;
      NAME(pool_fill)(p, (const real *)part->x, &b, &next, rows, divisors);
      if (flat) to.stop = o + rows * (stop - o);
      NAME(pool_empty)(p, &b, &to, flat ? 1 : rows, divisors);
    }
  }
}
