/* exp and expm1 of a vector.
 *
 * After Cody & Waite (Software Manual for the Elementary Functions, 1980): x = k ln 2 + r with |r| <= ln 2 / 2, where
 * ln 2 is a short high part, whose product with k is exact without FMA too, and the rest; then exp(x) = 2^k (1 + r +
 * r^2 P(r)). P interpolates (exp(r) - 1 - r) / r^2 in the Chebyshev nodes: 5e-10 of the result for float, 5e-19 for
 * double, a hundredth of the rounding. NaN stays NaN and subnormal results are rounded once.
 *
 * Largest error found, in units in the last place: exp 0.99, expm1 1.13 (either dtype, with and without FMA; 4 million
 * arguments over the whole range against the next wider format; tests/test_activation.py repeats it on fewer).
 */
#if REAL_BITS == 32
#define EXP_MAGIC 0x1.8p23f /* adding it rounds to a whole number and leaves that in the low bits */
#define EXP_LN2_HIGH 0x1.63p-1f
#define EXP_LN2_LOW -0x1.bd0106p-13f
#define EXP_LOWEST -104.0f /* exp of less is 0, of more inf */
#define EXP_HIGHEST 89.0f
#define EXPM1_LOWEST -18.0f /* expm1 of less is -1 */
#define EXP_BIAS 127
#define EXP_SHIFT 23
#define EXP_COEFFICIENTS                                                     \
  {0.500000001345853518f,   0.166666666816151531f,   0.0416664649979657266f, \
   0.00833331093355219295f, 0.00139336419283783764f, 0.000198909818651976434f}
#else
#define EXP_MAGIC 0x1.8p52
#define EXP_LN2_HIGH 0x1.62e42feep-1
#define EXP_LN2_LOW 0x1.a39ef35793c76p-33
#define EXP_LOWEST -746.0
#define EXP_HIGHEST 710.0
#define EXPM1_LOWEST -38.0
#define EXP_BIAS 1023
#define EXP_SHIFT 52
#define EXP_COEFFICIENTS     \
  {0.5,                      \
   0.16666666666666671,      \
   0.0416666666666666698,    \
   0.00833333333332614031,   \
   0.0013888888888883752,    \
   0.000198412698748025049,  \
   0.0000248015873255348012, \
   2.75572554231927785e-6,   \
   2.75572736595250486e-7,   \
   2.5105207436985357e-8,    \
   2.09146801356999496e-9}
#endif

/* x = k ln 2 + r, for x within the limits above: *k in two's complement; returns exp(r) - 1. */
INLINE vec NAME(exp_reduced)(vec x, ivec *k) {
  static const real coefficients[] = EXP_COEFFICIENTS;
  const vec magic = NAME(splat)(EXP_MAGIC);
  const vec shifted = x * (real)1.4426950408889634 + magic;
  const vec whole = shifted - magic;
  *k = (ivec)shifted - (ivec)magic;
  const vec r = (x - whole * (real)EXP_LN2_HIGH) - whole * (real)EXP_LN2_LOW;
  const int degree = (int)(sizeof(coefficients) / sizeof(real)) - 1;
  vec p = NAME(splat)(coefficients[degree]);
  UNROLL for (int i = degree - 1; i >= 0; i--) p = p * r + coefficients[i];
  return p * r * r + r;
}

/* 2^k for a normal power; k + EXP_BIAS as it stands in the exponent field. */
INLINE vec NAME(power_of_two)(uivec biased) { return (vec)(biased << EXP_SHIFT); }

INLINE vec NAME(exp)(vec x) {
  ivec k;
  x = NAME(at_most)(NAME(at_least)(x, NAME(splat)(EXP_LOWEST)), NAME(splat)(EXP_HIGHEST));
  const vec m = NAME(exp_reduced)(x, &k);
  /* 2^k as two normal factors, since k itself may leave the exponent's range at both ends. */
  const uivec both = (uivec)(k + 2 * EXP_BIAS), half = both >> 1;
  return (m + 1) * NAME(power_of_two)(half) * NAME(power_of_two)(both - half);
}

/* exp(x) - 1 for x <= 0, to the last bits near 0 too. */
INLINE vec NAME(expm1_negative)(vec x) {
  ivec k;
  const vec m = NAME(exp_reduced)(NAME(at_least)(x, NAME(splat)(EXPM1_LOWEST)), &k);
  const vec scale = NAME(power_of_two)((uivec)(k + EXP_BIAS));
  return m * scale + (scale - 1);
}

#undef EXP_MAGIC
#undef EXP_LN2_HIGH
#undef EXP_LN2_LOW
#undef EXP_LOWEST
#undef EXP_HIGHEST
#undef EXPM1_LOWEST
#undef EXP_BIAS
#undef EXP_SHIFT
#undef EXP_COEFFICIENTS
