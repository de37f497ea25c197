/* The register tile of every dense convolution: MR rows by NV vectors of sums, one batch-reduce GEMM (see table.h).
 *
 * Rows are broadcast, columns are vectors: output channels by pixels for channels_first, pixels by output channels for
 * channels_last. A row's k elements are contiguous, so pixels of channels_last and weights need no packing; a step of
 * k loads NV vectors and broadcasts MR scalars for MR * NV multiply-adds, fewer loads than the two ports give.
 * 32 registers: 6 x 4 sums + 4 + 1; 16 registers: 6 x 2 sums + 2 + 1 (BLIS on Haswell: Van Zee, van de Geijn 2015).
 */
#if VEC_REGISTERS == 32
#define GEMM_NV 4
#else
#define GEMM_NV 2
#endif
#define GEMM_MR 6

/* n elements of a scale or shift: one for the whole row, or the columns' own. */
INLINE vec NAME(channel_values)(const real *values, int per_row, int row, ptrdiff_t column, ptrdiff_t n) {
  if (per_row) return NAME(splat)(values[row]);
  return n < VLEN ? NAME(load_tail)(values + column, n) : NAME(load)(values + column);
}

INLINE vec NAME(finish)(vec sum, const fastconv_epilogue *e, int row, const char *residual, ptrdiff_t column,
                        ptrdiff_t n) {
  const real *scale = (const real *)e->scale, *shift = (const real *)e->shift;
  if (scale) sum *= NAME(channel_values)(scale, e->per_row, row, column, n);
  if (shift) sum += NAME(channel_values)(shift, e->per_row, row, column, n);
  if (residual) {
    const real *r = (const real *)residual + column;
    sum += n < VLEN ? NAME(load_tail)(r, n) : NAME(load)(r);
  }
  sum = NAME(at_least)(sum, NAME(splat)((real)e->lower));
  return NAME(at_most)(sum, NAME(splat)((real)e->upper));
}

INLINE void NAME(gemm_tile)(const fastconv_gemm_tile *t, const int mr, const int nv, const int masked) {
  const ptrdiff_t tail = t->columns - (nv - 1) * VLEN;
  vec sum[GEMM_MR][GEMM_NV];
  UNROLL for (int i = 0; i < mr; i++) UNROLL for (int j = 0; j < nv; j++) {
    sum[i][j] = (vec){0};
    PREFETCH_WRITE(t->c[i] + t->c_offset + j * VEC_BYTES); /* c is met only after the sums, by then it has come */
  }
  const char *prefetch = t->prefetch;
  for (ptrdiff_t e = 0; e < t->entries; e++) {
    const real *a[GEMM_MR];
    UNROLL for (int i = 0; i < mr; i++) a[i] = (const real *)(t->a[e * FASTCONV_MAX_ROWS + i] + t->a_offset);
    const real *b = (const real *)(t->b + t->b_offsets[e]);
    for (ptrdiff_t k = 0; k < t->k; k++, b += t->ldb) {
      vec bk[GEMM_NV];
      UNROLL for (int j = 0; j < nv; j++) bk[j] = NAME(load)(b + j * VLEN);
      PREFETCH_L2(prefetch);
      prefetch += t->prefetch_step;
      UNROLL for (int i = 0; i < mr; i++) {
        const vec aik = NAME(splat)(a[i][k]);
        UNROLL for (int j = 0; j < nv; j++) sum[i][j] += aik * bk[j];
      }
    }
  }
  UNROLL for (int i = 0; i < mr; i++) {
    real *c = (real *)(t->c[i] + t->c_offset);
    const char *residual = t->epilogue && t->epilogue->residual ? t->epilogue->residual[i] + t->c_offset : NULL;
    UNROLL for (int j = 0; j < nv; j++) {
      const int last = masked && j == nv - 1;
      if (t->accumulate) sum[i][j] += last ? NAME(load_tail)(c + j * VLEN, tail) : NAME(load)(c + j * VLEN);
      if (t->epilogue) sum[i][j] = NAME(finish)(sum[i][j], t->epilogue, i, residual, j * VLEN, last ? tail : VLEN);
      if (last) NAME(store_tail)(c + j * VLEN, sum[i][j], tail);
      else NAME(store)(c + j * VLEN, sum[i][j]);
    }
  }
}

#define GEMM_TILE(MR, NV)                                                                            \
  static void NAME(gemm_##MR##x##NV)(const fastconv_gemm_tile *t) { NAME(gemm_tile)(t, MR, NV, 0); } \
  static void NAME(gemm_##MR##x##NV##_masked)(const fastconv_gemm_tile *t) { NAME(gemm_tile)(t, MR, NV, 1); }
#define GEMM_ROWS(NV) \
  GEMM_TILE(1, NV) GEMM_TILE(2, NV) GEMM_TILE(3, NV) GEMM_TILE(4, NV) GEMM_TILE(5, NV) GEMM_TILE(6, NV)
GEMM_ROWS(1)
GEMM_ROWS(2)
#if GEMM_NV == 4
GEMM_ROWS(3)
GEMM_ROWS(4)
#endif

static void NAME(gemm)(const fastconv_gemm_tile *t) {
#define GEMM_ENTRY(MR, NV) {NAME(gemm_##MR##x##NV), NAME(gemm_##MR##x##NV##_masked)}
#define GEMM_ENTRIES(NV)                                                                                             \
  {                                                                                                                  \
    GEMM_ENTRY(1, NV), GEMM_ENTRY(2, NV), GEMM_ENTRY(3, NV), GEMM_ENTRY(4, NV), GEMM_ENTRY(5, NV), GEMM_ENTRY(6, NV) \
  }
  static void (*const tiles[GEMM_NV][GEMM_MR][2])(const fastconv_gemm_tile *) = {
      GEMM_ENTRIES(1),
      GEMM_ENTRIES(2),
#if GEMM_NV == 4
      GEMM_ENTRIES(3),
      GEMM_ENTRIES(4),
#endif
  };
  tiles[(t->columns - 1) / VLEN][t->rows - 1][t->columns % VLEN != 0](t);
}
