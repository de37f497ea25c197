/* Pools of channels_last whose windows are 2 or 3 neighbouring columns wide, 1 or 2 apart, and few rows high: a window
 * slides along its rows over some vectors of channels, whose columns, rows joined, stay in registers while a later
 * output sees them. Windows that reach beyond the row's ends are left to pool_pixels.h.
 */

#define POOL_SLIDE_PIXELS 4 /* that are asked for ahead at least */

INLINE int NAME(pool_slides)(const fastconv_pool *p, const fastconv_pool_rows *part) {
  const fastconv_windows *w = &p->axis[2];
  if (part->indices || (p->kind != FASTCONV_POOL_MAX && p->kind != FASTCONV_POOL_MEAN)) return 0;
  if (w->step != 1 || w->stride < 1 || w->stride > 2 || w->taps < 2 || w->taps > 3) return 0;
  return part->channels >= VLEN && pool_most(&p->axis[0]) * pool_most(&p->axis[1]) <= POOL_GROUP;
}

typedef struct {              /* whole windows of a row, and the vectors of channels that are joined side by side */
  const real *at[POOL_GROUP]; /* the rows, from the first window's first column on */
  ptrdiff_t outputs, channels;
  const real *scale; /* of a mean: divisors of the columns' outputs, each times `divisor` */
  real divisor, *y;
} NAME(pool_track);

/* The rows of a window joined at element j, for nv vectors. */
INLINE void NAME(pool_slide_column)(const int kind, const int rows, const int nv, const int fresh,
                                    const NAME(pool_track) * t, ptrdiff_t j, ptrdiff_t ahead, vec *column) {
  UNROLL for (int i = 0; i < nv; i++, j += VLEN) {
    vec v[POOL_GROUP];
    UNROLL for (int r = 0; r < rows; r++) {
      if (r >= rows - fresh) PREFETCH(t->at[r] + j + ahead);
      v[r] = NAME(load)(t->at[r] + j);
      OPAQUE(v[r]); /* else GCC loads it again wherever it is compared and joined */
    }
    column[i] = v[0];
    if (rows == 2) column[i] = NAME(pool_join)(kind, v[0], v[1]);
    if (rows >= 3) column[i] = NAME(pool_join_three)(kind, v[0], v[1], v[2]);
    if (rows == 4) column[i] = NAME(pool_join)(kind, column[i], v[3]);
  }
}

INLINE void NAME(pool_slide_row)(const int kind, const int rows, const int stride, const int taps, const int nv,
                                 const NAME(pool_track) * t) {
  const ptrdiff_t channels = t->channels, least = POOL_SLIDE_PIXELS * channels;
  const ptrdiff_t ahead = least > POOL_PIXELS_AHEAD ? least : POOL_PIXELS_AHEAD;
  const int kept = taps - stride, fresh = NAME(pool_fresh)(rows, stride);
  vec column[3][POOL_PIXEL];
  ptrdiff_t j = 0;
  real *y = t->y;
  UNROLL for (int k = 0; k < kept; k++, j += channels)
      NAME(pool_slide_column)(kind, rows, nv, fresh, t, j, ahead, column[k]);
  for (ptrdiff_t o = 0; o < t->outputs; o++, y += channels) {
    UNROLL for (int k = kept; k < taps; k++, j += channels)
        NAME(pool_slide_column)(kind, rows, nv, fresh, t, j, ahead, column[k]);
    UNROLL for (int i = 0; i < nv; i++) {
      vec v = taps == 2 ? NAME(pool_join)(kind, column[0][i], column[1][i])
                        : NAME(pool_join_three)(kind, column[0][i], column[1][i], column[2][i]);
      if (kind == FASTCONV_POOL_MEAN) v /= NAME(splat)(t->scale[o] * t->divisor);
      PREFETCH_WRITE(y + i * VLEN + ahead);
      NAME(store)(y + i * VLEN, v);
    }
    UNROLL for (int k = 0; k < kept; k++) UNROLL for (int i = 0; i < nv; i++) column[k][i] = column[k + stride][i];
  }
}

/* Whole vectors of channels from the first on; returns how many elements they are. */
INLINE ptrdiff_t NAME(pool_slide_vectors)(const int kind, const int rows, const int stride, const int taps,
                                          NAME(pool_track) track, ptrdiff_t n) {
  ptrdiff_t c = 0;
  for (ptrdiff_t step; c + VLEN <= n; c += step) {
    step = c + POOL_PIXEL * VLEN <= n ? POOL_PIXEL * VLEN : VLEN;
    if (step == VLEN) NAME(pool_slide_row)(kind, rows, stride, taps, 1, &track);
    else NAME(pool_slide_row)(kind, rows, stride, taps, POOL_PIXEL, &track);
    UNROLL for (int r = 0; r < rows; r++) track.at[r] += step;
    track.y += step;
  }
  return c;
}

#define POOL_PAGE ((ptrdiff_t)(4096 / sizeof(real)))

/* The same; windows that share no column go output by output where each pixel has a page of its own. */
INLINE ptrdiff_t NAME(pool_slide_channels)(const int kind, const int rows, const int stride, const int taps,
                                           NAME(pool_track) track, ptrdiff_t n) {
  if (taps > stride || track.channels < POOL_PAGE) return NAME(pool_slide_vectors)(kind, rows, stride, taps, track, n);
  const ptrdiff_t outputs = track.outputs;
  track.outputs = 1;
  for (ptrdiff_t o = 0; o < outputs; o++, track.y += track.channels, track.scale++) {
    NAME(pool_slide_vectors)(kind, rows, stride, taps, track, n);
    UNROLL for (int r = 0; r < rows; r++) track.at[r] += stride * track.channels;
  }
  return n / VLEN * VLEN;
}

INLINE ptrdiff_t NAME(pool_slide_rows)(const int kind, const int stride, const int taps, ptrdiff_t rows,
                                       const NAME(pool_track) * track, ptrdiff_t n) {
  switch (rows) {
    case 1:
      return NAME(pool_slide_channels)(kind, 1, stride, taps, *track, n);
    case 2:
      return NAME(pool_slide_channels)(kind, 2, stride, taps, *track, n);
    case 3:
      return NAME(pool_slide_channels)(kind, 3, stride, taps, *track, n);
    default:
      return NAME(pool_slide_channels)(kind, POOL_GROUP, stride, taps, *track, n);
  }
}

static ptrdiff_t NAME(pool_slide)(const fastconv_pool *p, ptrdiff_t rows, const NAME(pool_track) * track, ptrdiff_t n) {
  const fastconv_windows *w = &p->axis[2];
#define WINDOWS(STRIDE, TAPS)                                                                                    \
  if (w->stride == STRIDE && w->taps == TAPS)                                                                    \
    return p->kind == FASTCONV_POOL_MAX ? NAME(pool_slide_rows)(FASTCONV_POOL_MAX, STRIDE, TAPS, rows, track, n) \
                                        : NAME(pool_slide_rows)(FASTCONV_POOL_MEAN, STRIDE, TAPS, rows, track, n);
  WINDOWS(1, 2)
  WINDOWS(1, 3)
  WINDOWS(2, 2)
  WINDOWS(2, 3)
#undef WINDOWS
  return 0;
}

#define POOL_BAND (32 * POOL_BUFFER) /* elements of rows that L2 keeps */

/* Channels that are taken through a band of rows before the next ones, so that the rows that a window shares with the
 * one above are still in L1; all of them where a row is longer than L1: 28 pixels of 768 bytes became 1.3 times as fast
 * so on one thread, of 1536 bytes 0.8 times. */
INLINE ptrdiff_t NAME(pool_slide_block)(const fastconv_pool *p, const fastconv_pool_rows *part) {
  const fastconv_windows *w = &p->axis[2];
  const int pays = w->stride < w->taps && w->in * p->channels <= 4 * POOL_BUFFER;
  return pays && w->in * part->channels > POOL_BUFFER ? POOL_PIXEL * VLEN : part->channels;
}

/* A row of outputs: whole windows (first .. stop - 1) slide, over whole vectors of channels; the others go pixel by
 * pixel. */
static void NAME(pool_sliding)(const fastconv_pool *p, const NAME(pool_window) * window, ptrdiff_t first,
                               ptrdiff_t stop, const NAME(pool_outputs) * to, ptrdiff_t c, ptrdiff_t n) {
  const fastconv_windows *w = &p->axis[2];
  const pool_pitch pitch = pool_pitch_of(p);
  const ptrdiff_t rows = window->planes * window->rows, channels = p->channels;
  NAME(pool_outputs) side = *to;
  if (rows == 0) stop = first;
  side.stop = first;
  NAME(pool_pixels)(p, window, &side, c, n);
  side.o = stop, side.stop = w->out, side.y = to->y + stop * channels;
  NAME(pool_pixels)(p, window, &side, c, n);
  if (first == stop) return;
  NAME(pool_track) track = {.outputs = stop - first, .channels = channels, .y = to->y + first * channels};
  track.scale = (const real *)w->scale + first;
  track.divisor = p->kind == FASTCONV_POOL_MEAN ? NAME(pool_divisor)(window) : 1;
  for (ptrdiff_t r = 0; r < rows; r++)
    track.at[r] = window->at + (NAME(pool_row)(window, pitch, r) + w->first[first]) * channels + c;
  const ptrdiff_t done = NAME(pool_slide)(p, rows, &track, n);
  if (done == n) return;
  side.o = first, side.stop = stop, side.y = track.y + done;
  NAME(pool_pixels)(p, window, &side, c + done, n - done);
}

/* Rows begin .. end - 1 for n channels from c on. */
static void NAME(pool_slide_band)(const fastconv_pool *p, const fastconv_pool_rows *part, ptrdiff_t begin,
                                  ptrdiff_t end, ptrdiff_t c, ptrdiff_t n) {
  const fastconv_windows *w = &p->axis[2];
  pool_place at = pool_place_of(p, begin);
  ptrdiff_t first = 0, stop = w->out;
  while (first < stop && w->count[first] < w->taps) first++;
  while (stop > first && w->count[stop - 1] < w->taps) stop--;
  for (ptrdiff_t row = begin; row < end; row++) {
    const NAME(pool_window) window = NAME(pool_look)(p, (const real *)part->x, at);
    const NAME(pool_outputs) to =
        NAME(pool_outputs_at)(part, (row - part->begin) * w->out * p->channels + c, 0, w->out);
    NAME(pool_sliding)(p, &window, first, stop, &to, c, n);
    pool_advance(p, &at, 1);
  }
}

static void NAME(pool_slides_down)(const fastconv_pool *p, const fastconv_pool_rows *part) {
  const ptrdiff_t block = NAME(pool_slide_block)(p, part), stop = part->channel + part->channels;
  const ptrdiff_t fit = POOL_BAND / (p->axis[2].in * part->channels), band = fit > 2 ? fit : 2;
  for (ptrdiff_t row = part->begin; row < part->end; row += band) {
    const ptrdiff_t end = row + band < part->end ? row + band : part->end;
    for (ptrdiff_t c = part->channel; c < stop; c += block)
      NAME(pool_slide_band)(p, part, row, end, c, stop - c < block ? stop - c : block);
  }
}
