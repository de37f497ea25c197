/* Pools of channels_last whose windows are 2 or 3 neighbouring columns wide, 1 or 2 apart, and few rows high: a window
 * slides along its rows over some vectors of channels, whose columns, rows joined, stay in registers while a later
 * output sees them. A maximum that lacks one column or row at an end takes the one beside it twice; other windows that
 * reach beyond the row's ends are left to pool_pixels.h.
 */

#define POOL_SLIDE_PIXELS 4 /* that are asked for ahead at least */
#define POOL_SLIDE_LINES 2  /* of outputs at once at most */

INLINE int NAME(pool_slides)(const fastconv_pool *p, const fastconv_pool_rows *part) {
  const fastconv_windows *w = &p->axis[2];
  if (part->indices || (p->kind != FASTCONV_POOL_MAX && p->kind != FASTCONV_POOL_MEAN)) return 0;
  if (w->step != 1 || w->stride < 1 || w->stride > 2 || w->taps < 2 || w->taps > 3) return 0;
  return part->channels >= VLEN && pool_most(&p->axis[0]) * pool_most(&p->axis[1]) <= POOL_GROUP;
}

typedef struct {              /* windows of a row, and the vectors of channels that are joined side by side */
  const real *at[POOL_GROUP]; /* the rows, from the first column that a window sees on */
  ptrdiff_t outputs, channels;
  int lacks[2];        /* of a maximum: whether the first window lacks its first column, the last one its last */
  const real *scale;   /* of a mean: divisors of the columns' outputs, each times its line's divisor */
  const real *line[2]; /* divisors of the lines: of all of them, and one each */
  real *y;
  ptrdiff_t below; /* elements from a line of outputs to the next one */
} NAME(pool_track);

/* Element j of the rows joined, for each of `lines` windows that lie one row apart. */
INLINE void NAME(pool_slide_column)(const int kind, const int rows, const int lines, const int fresh,
                                    const NAME(pool_track) * t, ptrdiff_t j, ptrdiff_t ahead, vec *column) {
  const int all = rows + lines - 1;
  vec v[POOL_GROUP];
  UNROLL for (int r = 0; r < all; r++) {
    if (r >= all - fresh) PREFETCH(t->at[r] + j + ahead);
    v[r] = NAME(load)(t->at[r] + j);
    OPAQUE(v[r]); /* else GCC loads it again wherever it is compared and joined */
  }
  UNROLL for (int l = 0; l < lines; l++) column[l] = NAME(pool_join_rows)(kind, rows, v + l);
}

/* The next outputs of nv vectors of channels, whose first fresh column is element j of the rows; columns are moved on.
 * The last window's last column may be lacking. */
INLINE void NAME(pool_slide_outputs)(const int kind, const int rows, const int lines, const int stride, const int taps,
                                     const int nv, const int lacking, const NAME(pool_track) * t, ptrdiff_t channels,
                                     ptrdiff_t o, ptrdiff_t j, real *y, ptrdiff_t ahead,
                                     vec (*column)[3][POOL_SLIDE_LINES]) {
  const int kept = taps - stride, fresh = lines > 1 ? lines * stride : NAME(pool_fresh)(rows, stride);
  UNROLL for (int i = 0; i < nv; i++) {
    vec(*at)[POOL_SLIDE_LINES] = column[i];
    UNROLL for (int k = kept; k < taps - lacking; k++)
        NAME(pool_slide_column)(kind, rows, lines, fresh, t, j + (k - kept) * channels + i * VLEN, ahead, at[k]);
    UNROLL for (int l = 0; l < lines; l++) {
      vec v = taps - lacking == 3   ? NAME(pool_join_three)(kind, at[0][l], at[1][l], at[2][l])
              : taps - lacking == 2 ? NAME(pool_join)(kind, at[0][l], at[1][l])
                                    : at[0][l];
      if (kind == FASTCONV_POOL_MEAN) v /= NAME(splat)(t->scale[o] * (*t->line[0] * t->line[1][l]));
      real *to = y + l * t->below + i * VLEN;
      PREFETCH_WRITE(to + ahead);
      NAME(store)(to, v);
      UNROLL for (int k = 0; k < kept; k++) at[k][l] = at[k + stride][l];
    }
  }
}

INLINE void NAME(pool_slide_row)(const int kind, const int rows, const int lines, const int stride, const int taps,
                                 const int nv, const NAME(pool_track) * t) {
  const ptrdiff_t channels = t->channels, least = POOL_SLIDE_PIXELS * channels;
  const ptrdiff_t ahead = least > POOL_PIXELS_AHEAD ? least : POOL_PIXELS_AHEAD;
  const ptrdiff_t kept = taps - stride, lacks = t->lacks[0], whole = t->outputs - t->lacks[1];
  const int fresh = lines > 1 ? lines * stride : NAME(pool_fresh)(rows, stride);
  vec column[POOL_PIXEL][3][POOL_SLIDE_LINES];
  UNROLL for (int k = 0; k < kept; k++) UNROLL for (int i = 0; i < nv; i++) NAME(pool_slide_column)(
      kind, rows, lines, fresh, t, (k > lacks ? k - lacks : 0) * channels + i * VLEN, ahead, column[i][k]);
  ptrdiff_t j = (kept - lacks) * channels;
  real *y = t->y;
  for (ptrdiff_t o = 0; o < whole; o++, j += stride * channels, y += channels)
    NAME(pool_slide_outputs)(kind, rows, lines, stride, taps, nv, 0, t, channels, o, j, y, ahead, column);
  if (kind == FASTCONV_POOL_MAX && t->lacks[1])
    NAME(pool_slide_outputs)(kind, rows, lines, stride, taps, nv, 1, t, channels, whole, j, y, ahead, column);
}

/* Whole vectors of channels from the first on; returns how many elements they are. */
INLINE ptrdiff_t NAME(pool_slide_vectors)(const int kind, const int rows, const int lines, const int stride,
                                          const int taps, NAME(pool_track) track, ptrdiff_t n) {
  const int wide = lines > 1 && VEC_REGISTERS < 32 ? POOL_PIXEL / 2 : POOL_PIXEL;
  ptrdiff_t c = 0;
  for (ptrdiff_t step; c + VLEN <= n; c += step) {
    step = c + wide * VLEN <= n ? wide * VLEN : VLEN;
    if (step == VLEN) NAME(pool_slide_row)(kind, rows, lines, stride, taps, 1, &track);
    else NAME(pool_slide_row)(kind, rows, lines, stride, taps, wide, &track);
    UNROLL for (int r = 0; r < rows + lines - 1; r++) track.at[r] += step;
    track.y += step;
  }
  return c;
}

#define POOL_PAGE ((ptrdiff_t)(4096 / sizeof(real)))

/* The same; windows that share no column go output by output where each pixel has a page of its own. */
INLINE ptrdiff_t NAME(pool_slide_channels)(const int kind, const int rows, const int stride, const int taps,
                                           NAME(pool_track) track, ptrdiff_t n) {
  if (taps > stride || track.channels < POOL_PAGE)
    return NAME(pool_slide_vectors)(kind, rows, 1, stride, taps, track, n);
  const ptrdiff_t outputs = track.outputs;
  track.outputs = 1;
  for (ptrdiff_t o = 0; o < outputs; o++, track.y += track.channels, track.scale++) {
    NAME(pool_slide_vectors)(kind, rows, 1, stride, taps, track, n);
    UNROLL for (int r = 0; r < rows; r++) track.at[r] += stride * track.channels;
  }
  return n / VLEN * VLEN;
}

INLINE ptrdiff_t NAME(pool_slide_rows)(const int kind, const int stride, const int taps, ptrdiff_t rows,
                                       ptrdiff_t lines, const NAME(pool_track) * track, ptrdiff_t n) {
  if (lines > 1 && stride == 1 && taps == 3)
    return NAME(pool_slide_vectors)(kind, 3, POOL_SLIDE_LINES, 1, 3, *track, n);
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

static ptrdiff_t NAME(pool_slide)(const fastconv_pool *p, ptrdiff_t rows, ptrdiff_t lines,
                                  const NAME(pool_track) * track, ptrdiff_t n) {
  const fastconv_windows *w = &p->axis[2];
#define WINDOWS(STRIDE, TAPS)                                                                  \
  if (w->stride == STRIDE && w->taps == TAPS)                                                  \
    return p->kind == FASTCONV_POOL_MAX                                                        \
               ? NAME(pool_slide_rows)(FASTCONV_POOL_MAX, STRIDE, TAPS, rows, lines, track, n) \
               : NAME(pool_slide_rows)(FASTCONV_POOL_MEAN, STRIDE, TAPS, rows, lines, track, n);
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

/* Whether maxima over neighbouring rows slide in pairs of lines, of which the first and the last of a plane take a row
 * twice. */
INLINE int NAME(pool_slides_twice)(const fastconv_pool *p) {
  return p->kind == FASTCONV_POOL_MAX && NAME(pool_sees_neighbours)(&p->axis[1]);
}

/* How many lines of outputs slide at once: windows of three rows, a row apart, read four rows for two lines. */
INLINE ptrdiff_t NAME(pool_slide_lines)(const fastconv_pool *p, pool_place at, const NAME(pool_window) * window,
                                        ptrdiff_t most) {
  const fastconv_windows *h = &p->axis[1], *w = &p->axis[2];
  if (w->stride != 1 || w->taps != 3 || h->stride != 1 || h->step != 1 || most < POOL_SLIDE_LINES) return 1;
  if (window->planes != 1) return 1;
  if (NAME(pool_slides_twice)(p)) return at.h + POOL_SLIDE_LINES <= h->out ? POOL_SLIDE_LINES : 1;
  return window->rows == 3 ? NAME(pool_alike)(p, at, POOL_SLIDE_LINES) : 1;
}

/* The rows of `lines` windows from a place on, of which the first is given. */
INLINE void NAME(pool_slide_look)(const fastconv_pool *p, pool_place at, const NAME(pool_window) * window,
                                  ptrdiff_t lines, ptrdiff_t offset, NAME(pool_track) * track) {
  const pool_pitch pitch = pool_pitch_of(p);
  const ptrdiff_t rows = window->planes * window->rows, top = at.h > 0, last = p->axis[1].in - 1 - at.h + top;
  if (lines > 1 && NAME(pool_slides_twice)(p))
    for (ptrdiff_t r = 0; r < 2 + lines; r++) {
      const ptrdiff_t row = r - 1 + top;
      track->at[r] = window->at + (row < 0 ? 0 : row > last ? last : row) * pitch.h * p->channels + offset;
    }
  else
    for (ptrdiff_t r = 0; r < rows + lines - 1; r++)
      track->at[r] = window->at + NAME(pool_row)(window, pitch, r) * p->channels + offset;
}

/* Windows first .. stop - 1 of one line or more, over whole vectors of n channels from c on, the first output of the
 * line being y's; returns how many channels that were. */
static ptrdiff_t NAME(pool_sliding)(const fastconv_pool *p, pool_place at, const NAME(pool_window) * window,
                                    ptrdiff_t lines, ptrdiff_t first, ptrdiff_t stop, real *y, ptrdiff_t c,
                                    ptrdiff_t n) {
  const fastconv_windows *w = &p->axis[2];
  const ptrdiff_t channels = p->channels;
  NAME(pool_track) track = {.outputs = stop - first, .channels = channels, .y = y + first * channels};
  track.lacks[0] = w->count[first] < w->taps, track.lacks[1] = w->count[stop - 1] < w->taps;
  track.below = w->out * channels;
  track.scale = (const real *)w->scale + first;
  track.line[0] = window->scale[0], track.line[1] = window->scale[1];
  NAME(pool_slide_look)(p, at, window, lines, w->first[first] * channels + c, &track);
  return NAME(pool_slide)(p, window->planes * window->rows, lines, &track, n);
}

/* Outputs o .. stop - 1 of a line for n channels from c on, whose first is y's. */
INLINE void NAME(pool_slide_rest)(const fastconv_pool *p, const NAME(pool_window) * window, ptrdiff_t o, ptrdiff_t stop,
                                  real *y, ptrdiff_t c, ptrdiff_t n) {
  const NAME(pool_outputs) rest = {.o = o, .stop = stop, .y = y + o * p->channels};
  if (o < stop && n > 0) NAME(pool_pixels)(p, window, &rest, c, n);
}

/* The windows of a row that slide: those that are whole, and those of a maximum that lack one column which another
 * window of theirs keeps for them. */
INLINE void NAME(pool_slide_windows)(const fastconv_pool *p, ptrdiff_t *first, ptrdiff_t *stop) {
  const fastconv_windows *w = &p->axis[2];
  const int twice = p->kind == FASTCONV_POOL_MAX && w->taps > w->stride;
  ptrdiff_t low = 0, high = w->out;
  while (low < high && w->count[low] < w->taps) low++;
  while (high > low && w->count[high - 1] < w->taps) high--;
  const int whole = twice && high > low;
  *first = whole && low == 1 && w->count[0] == w->taps - 1 ? 0 : low;
  *stop = whole && high == w->out - 1 && w->count[high] == w->taps - 1 ? w->out : high;
}

/* Rows begin .. end - 1 for n channels from c on. */
static void NAME(pool_slide_band)(const fastconv_pool *p, const fastconv_pool_rows *part, ptrdiff_t begin,
                                  ptrdiff_t end, ptrdiff_t c, ptrdiff_t n) {
  const fastconv_windows *w = &p->axis[2];
  const ptrdiff_t line = w->out * p->channels;
  real *y = (real *)part->y + (begin - part->begin) * line + c;
  pool_place at = pool_place_of(p, begin);
  ptrdiff_t first, stop, slid = begin, done = 0;
  NAME(pool_slide_windows)(p, &first, &stop);
  for (ptrdiff_t row = begin; row < end; row++, y += line) {
    const NAME(pool_window) window = NAME(pool_look)(p, (const real *)part->x, at);
    const ptrdiff_t whole = window.planes > 0 && window.rows > 0 ? stop : first;
    if (row == slid) {
      const ptrdiff_t lines = NAME(pool_slide_lines)(p, at, &window, end - row);
      if (whole > first) done = NAME(pool_sliding)(p, at, &window, lines, first, whole, y, c, n);
      slid += lines;
    }
    NAME(pool_slide_rest)(p, &window, 0, first, y, c, n);
    NAME(pool_slide_rest)(p, &window, whole, w->out, y, c, n);
    NAME(pool_slide_rest)(p, &window, first, whole, y + done, c + done, n - done);
    pool_advance(p, &at, 1);
  }
}

static void NAME(pool_slides_down)(const fastconv_pool *p, const fastconv_pool_rows *part) {
  const ptrdiff_t block = NAME(pool_slide_block)(p, part), stop = part->channel + part->channels;
  const ptrdiff_t fit = POOL_BAND / (p->axis[2].in * part->channels), band = fit > 2 ? fit / 2 * 2 : 2;
  for (ptrdiff_t row = part->begin; row < part->end; row += band) {
    const ptrdiff_t end = row + band < part->end ? row + band : part->end;
    for (ptrdiff_t c = part->channel; c < stop; c += block)
      NAME(pool_slide_band)(p, part, row, end, c, stop - c < block ? stop - c : block);
  }
}
