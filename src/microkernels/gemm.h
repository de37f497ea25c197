/* The register tile of every dense convolution: MR rows by NV vectors of sums, one batch-reduce GEMM (see table.h).
 *
 * Rows are broadcast, columns are vectors: output channels by pixels for channels_first, pixels by output channels for
 * channels_last. A row's k elements are contiguous, as a pixel's of channels_last are, or rows lie side by side.
 * A step of k loads NV vectors and broadcasts MR scalars for MR * NV multiply-adds, fewer loads than two ports give.
 * 32 registers: 6 x 4 sums + 4 + 1; 16 registers: 6 x 2 sums + 2 + 1 (BLIS on Haswell: Van Zee, van de Geijn 2015).
 */
#if VEC_REGISTERS == 32
#define GEMM_NV 4
#else
#define GEMM_NV 2
#endif
#define GEMM_MR 6

#define GEMM_STEPS 4 /* of k a turn of the loop: what it takes to count them is felt beside 24 multiply-adds */

typedef vec NAME(gemm_sums)[GEMM_MR][GEMM_NV];

INLINE void NAME(gemm_step)(NAME(gemm_sums) sum, const real *const *a, ptrdiff_t k, const real *b, const int mr,
                            const int nv) {
  vec bk[GEMM_NV];
  UNROLL for (int j = 0; j < nv; j++) bk[j] = NAME(load)(b + j * VLEN);
  UNROLL for (int i = 0; i < mr; i++) {
    const vec aik = NAME(splat)(a[i][k]);
    UNROLL for (int j = 0; j < nv; j++) sum[i][j] += aik * bk[j];
  }
}

/* Asks for half of the places of a row of sums, and of its residual: c is met only after the sums, by then it has come.
 * All rows at once would keep the lines of b waiting that the next steps need. */
INLINE void NAME(gemm_bring)(const fastconv_gemm_tile *t, const ptrdiff_t half, const int nv, const int stream) {
  const char *const *residual = t->epilogue ? t->epilogue->residual : NULL;
  const ptrdiff_t at = t->c_offset + half % 2 * VEC_BYTES;
  if (!stream) UNROLL for (int j = 0; j < nv; j += 2) PREFETCH_WRITE(t->c[half / 2] + at + j * VEC_BYTES);
  if (residual) UNROLL for (int j = 0; j < nv; j += 2) PREFETCH(residual[half / 2] + at + j * VEC_BYTES);
}

/* All of them, if there are too few turns for that; returns how many halves were asked for. */
INLINE ptrdiff_t NAME(gemm_bring_first)(const fastconv_gemm_tile *t, const ptrdiff_t turns, const int mr, const int nv,
                                        const int stream) {
  if (turns >= 2 * mr) return 0;
  UNROLL for (int half = 0; half < 2 * mr; half++) NAME(gemm_bring)(t, half, nv, stream);
  return 2 * mr;
}

INLINE void NAME(gemm_sum)(NAME(gemm_sums) sum, const fastconv_gemm_tile *t, const int mr, const int nv,
                           const int stream) {
  const char *prefetch = t->prefetch;
  const ptrdiff_t whole = t->k - t->k % GEMM_STEPS;
  ptrdiff_t half = NAME(gemm_bring_first)(t, t->entries * whole / GEMM_STEPS, mr, nv, stream);
  for (ptrdiff_t e = 0; e < t->entries; e++) {
    const real *a[GEMM_MR];
    UNROLL for (int i = 0; i < mr; i++) a[i] = (const real *)(t->a[e * FASTCONV_MAX_ROWS + i] + t->a_offset);
    const real *b = (const real *)(t->b + t->b_offsets[e]);
    ptrdiff_t k = 0;
    for (; k < whole; k += GEMM_STEPS) {
      if (half < 2 * mr) NAME(gemm_bring)(t, half++, nv, stream);
      PREFETCH_L2(prefetch);
      PREFETCH_L2(prefetch + GEMM_STEPS / 2 * t->prefetch_step);
      UNROLL for (int step = 0; step < GEMM_STEPS; step++, b += t->ldb) NAME(gemm_step)(sum, a, k + step, b, mr, nv);
      prefetch += GEMM_STEPS * t->prefetch_step;
    }
    for (; k < t->k; k++, b += t->ldb) NAME(gemm_step)(sum, a, k, b, mr, nv);
  }
}

INLINE void NAME(gemm_line)(NAME(gemm_sums) sum, const real *a, const char *b, const int mr, const int nv) {
  const real *row[GEMM_MR];
  UNROLL for (int i = 0; i < mr; i++) row[i] = a + i;
  NAME(gemm_step)(sum, row, 0, (const real *)b, mr, nv);
}

/* The same for lines of b that lie anywhere, and a packed [k][rows]. */
INLINE void NAME(gemm_sum_lines)(NAME(gemm_sums) sum, const fastconv_gemm_tile *t, const int mr, const int nv,
                                 const int stream) {
  const char *prefetch = t->prefetch, *b = t->b;
  const real *a = (const real *)(t->a[0] + t->a_offset);
  const ptrdiff_t *line = t->b_offsets, *const end = line + t->k, *const whole = end - t->k % GEMM_STEPS;
  ptrdiff_t half = NAME(gemm_bring_first)(t, t->k / GEMM_STEPS, mr, nv, stream);
  for (; line < whole; line += GEMM_STEPS) {
    if (half < 2 * mr) NAME(gemm_bring)(t, half++, nv, stream);
    PREFETCH_L2(prefetch);
    PREFETCH_L2(prefetch + GEMM_STEPS / 2 * t->prefetch_step);
    UNROLL for (int step = 0; step < GEMM_STEPS; step++, a += mr) NAME(gemm_line)(sum, a, b + line[step], mr, nv);
    prefetch += GEMM_STEPS * t->prefetch_step;
  }
  for (; line < end; line++, a += mr) NAME(gemm_line)(sum, a, b + *line, mr, nv);
}

/* The columns of a row's j-th vector, of which the last may have but `tail`; 0: all are whole. */
INLINE vec NAME(load_columns)(const real *row, const int j, const int nv, const ptrdiff_t tail) {
  return tail && j == nv - 1 ? NAME(load_tail)(row + j * VLEN, tail) : NAME(load)(row + j * VLEN);
}

/* Every sum times, or plus, the value of its row or of its column. */
INLINE void NAME(gemm_apply)(NAME(gemm_sums) sum, const real *values, int per_row, const int times, const int mr,
                             const int nv, const ptrdiff_t tail) {
  if (per_row) UNROLL for (int i = 0; i < mr; i++) {
      const vec v = NAME(splat)(values[i]);
      UNROLL for (int j = 0; j < nv; j++) sum[i][j] = times ? sum[i][j] * v : sum[i][j] + v;
    }
  else UNROLL for (int j = 0; j < nv; j++) {
      const vec v = NAME(load_columns)(values, j, nv, tail);
      UNROLL for (int i = 0; i < mr; i++) sum[i][j] = times ? sum[i][j] * v : sum[i][j] + v;
    }
}

/* One pass over the registers for each thing that there is to do to finished sums. */
INLINE void NAME(gemm_finish)(NAME(gemm_sums) sum, const fastconv_gemm_tile *t, const int mr, const int nv,
                              const ptrdiff_t tail) {
  const fastconv_epilogue *e = t->epilogue;
  if (e->scale) NAME(gemm_apply)(sum, (const real *)e->scale, e->per_row, 1, mr, nv, tail);
  if (e->shift) NAME(gemm_apply)(sum, (const real *)e->shift, e->per_row, 0, mr, nv, tail);
  if (e->residual) UNROLL for (int i = 0; i < mr; i++) {
      const real *r = (const real *)(e->residual[i] + t->c_offset);
      UNROLL for (int j = 0; j < nv; j++) sum[i][j] += NAME(load_columns)(r, j, nv, tail);
    }
  if (e->lower > -INFINITY || e->upper < INFINITY) {
    const vec lower = NAME(splat)((real)e->lower), upper = NAME(splat)((real)e->upper);
    UNROLL for (int i = 0; i < mr; i++) UNROLL for (int j = 0; j < nv; j++) sum[i][j] =
        NAME(at_most)(NAME(at_least)(sum[i][j], lower), upper);
  }
}

INLINE int NAME(gemm_is_aligned)(const fastconv_gemm_tile *t, const int mr) {
  uintptr_t places = 0;
  UNROLL for (int i = 0; i < mr; i++) places |= (uintptr_t)(t->c[i] + t->c_offset);
  return places % VEC_BYTES == 0;
}

static void NAME(gemm_stream_end)(void) { STREAM_END(); }

INLINE void NAME(gemm_tile)(const fastconv_gemm_tile *t, const int mr, const int nv, const int masked,
                            const int lines) {
  const ptrdiff_t tail = masked ? t->columns - (nv - 1) * VLEN : 0;
  const int stream = !masked && t->epilogue && t->epilogue->stream && NAME(gemm_is_aligned)(t, mr);
  NAME(gemm_sums) sum;
  UNROLL for (int i = 0; i < mr; i++) UNROLL for (int j = 0; j < nv; j++) sum[i][j] = (vec){0};
  if (lines) NAME(gemm_sum_lines)(sum, t, mr, nv, stream);
  else NAME(gemm_sum)(sum, t, mr, nv, stream);
  if (t->accumulate)
    UNROLL for (int i = 0; i < mr; i++) UNROLL for (int j = 0; j < nv; j++) sum[i][j] +=
        NAME(load_columns)((const real *)(t->c[i] + t->c_offset), j, nv, tail);
  if (t->epilogue) NAME(gemm_finish)(sum, t, mr, nv, tail);
  if (stream) {
    UNROLL for (int i = 0; i < mr; i++) UNROLL for (int j = 0; j < nv; j++)
        STREAM((real *)(t->c[i] + t->c_offset) + j * VLEN, sum[i][j]);
    return;
  }
  UNROLL for (int i = 0; i < mr; i++) UNROLL for (int j = 0; j < nv; j++) {
    real *c = (real *)(t->c[i] + t->c_offset) + j * VLEN;
    if (masked && j == nv - 1) NAME(store_tail)(c, sum[i][j], tail);
    else NAME(store)(c, sum[i][j]);
  }
}

#define GEMM_TILE(MR, NV)                                                                                        \
  static void NAME(gemm_##MR##x##NV)(const fastconv_gemm_tile *t) { NAME(gemm_tile)(t, MR, NV, 0, 0); }          \
  static void NAME(gemm_##MR##x##NV##_masked)(const fastconv_gemm_tile *t) { NAME(gemm_tile)(t, MR, NV, 1, 0); } \
  static void NAME(lines_##MR##x##NV)(const fastconv_gemm_tile *t) { NAME(gemm_tile)(t, MR, NV, 0, 1); }         \
  static void NAME(lines_##MR##x##NV##_masked)(const fastconv_gemm_tile *t) { NAME(gemm_tile)(t, MR, NV, 1, 1); }
#define GEMM_ROWS(NV) \
  GEMM_TILE(1, NV) GEMM_TILE(2, NV) GEMM_TILE(3, NV) GEMM_TILE(4, NV) GEMM_TILE(5, NV) GEMM_TILE(6, NV)
GEMM_ROWS(1)
GEMM_ROWS(2)
#if GEMM_NV == 4
GEMM_ROWS(3)
GEMM_ROWS(4)
#endif

#define GEMM_ENTRY(OF, MR, NV) {NAME(OF##_##MR##x##NV), NAME(OF##_##MR##x##NV##_masked)}
#define GEMM_ENTRIES(OF, NV)                                            \
  {GEMM_ENTRY(OF, 1, NV), GEMM_ENTRY(OF, 2, NV), GEMM_ENTRY(OF, 3, NV), \
   GEMM_ENTRY(OF, 4, NV), GEMM_ENTRY(OF, 5, NV), GEMM_ENTRY(OF, 6, NV)}
#if GEMM_NV == 4
#define GEMM_TABLE(OF) {GEMM_ENTRIES(OF, 1), GEMM_ENTRIES(OF, 2), GEMM_ENTRIES(OF, 3), GEMM_ENTRIES(OF, 4)}
#else
#define GEMM_TABLE(OF) {GEMM_ENTRIES(OF, 1), GEMM_ENTRIES(OF, 2)}
#endif
typedef void (*const NAME(gemm_tiles)[GEMM_NV][GEMM_MR][2])(const fastconv_gemm_tile *);

static void NAME(gemm)(const fastconv_gemm_tile *t) {
  static NAME(gemm_tiles) tiles = GEMM_TABLE(gemm);
  tiles[(t->columns - 1) / VLEN][t->rows - 1][t->columns % VLEN != 0](t);
}

static void NAME(gemm_lines)(const fastconv_gemm_tile *t) {
  static NAME(gemm_tiles) tiles = GEMM_TABLE(lines);
  tiles[(t->columns - 1) / VLEN][t->rows - 1][t->columns % VLEN != 0](t);
}
