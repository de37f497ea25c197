/* Sums and maxima over the lanes of a vector, the last of which may not count, and what libm does lane by lane. */

/* The first n lanes of v, the others of rest. */
INLINE vec NAME(first_lanes)(vec v, ptrdiff_t n, vec rest) {
  vec lane;
  UNROLL for (int i = 0; i < VLEN; i++) lane[i] = i;
  return NAME(select)(lane < NAME(splat)((real)n), v, rest);
}

/* Every lane the sum (the largest) of all, neighbours first; no trip through memory as a scalar result would take. */
INLINE vec NAME(sum_everywhere)(vec v) {
  UNROLL for (int width = VLEN; width > 1; width /= 2) v = NAME(even_lanes)(v, v) + NAME(odd_lanes)(v, v);
  return v;
}
INLINE vec NAME(largest_everywhere)(vec v) {
  UNROLL for (int width = VLEN; width > 1; width /= 2) v =
      NAME(at_least)(NAME(even_lanes)(v, v), NAME(odd_lanes)(v, v));
  return v;
}

INLINE vec NAME(roots)(vec v) {
  real lanes[VLEN];
  NAME(store)(lanes, v);
  for (int i = 0; i < VLEN; i++) lanes[i] = REAL_BITS == 32 ? sqrtf((float)lanes[i]) : sqrt(lanes[i]);
  return NAME(load)(lanes);
}

OUTLINE vec NAME(lanes_to_power)(vec v, double power) {
  real lanes[VLEN];
  NAME(store)(lanes, v);
  for (int i = 0; i < VLEN; i++)
    lanes[i] = REAL_BITS == 32 ? powf((float)lanes[i], (float)power) : pow(lanes[i], power);
  return NAME(load)(lanes);
}
