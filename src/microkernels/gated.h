/* Activations that weigh x by a gate between 0 and 1: y = x * gate(x), dy/dx = gate(x) + x * gate'(x).
 *
 * The gate of gelu is the normal distribution's probability of less than x, Phi(x) = (1 + erf(x / sqrt(2))) / 2. In
 * float it is sigmoid(x * P(x^2)): log(Phi / (1 - Phi)) / x is smooth and even, and P has its minimax coefficients for
 * the relative error of erf, 9.5e-8, on |x| <= 5.5; beyond, the gate is within 2e-8 of 0 or 1. In double it is libm's
 * erfc, lane by lane.
 *
 * Largest error found, in units in the last place of x: gelu 2.5, in double 1.5, the others 1.9 (820,000 arguments,
 * mostly between -12 and 12, against the next wider format; tests/test_gated.py repeats it on fewer).
 */
#define ROOT_HALF 0.70710678118654752440
#define NORMAL_PEAK 0.39894228040143267794 /* 1 / sqrt(2 pi) */
#define TANH_GATE 1.5957691216057307117    /* 2 sqrt(2 / pi): Hendrycks & Gimpel, 2016, section 2 */
#define TANH_GATE_CUBE 0.044715

#if REAL_BITS == 32
INLINE vec NAME(normal_gate)(vec x) {
  static const real P[] = {1.59576927f,     0.0726686964f,    -6.78223424e-05f, -0.000109563518f,
                           7.74612444e-06f, -2.50514035e-07f, 3.13453243e-09f};
  const vec square = x * x;
  vec p = NAME(splat)(P[6]);
  UNROLL for (int i = 5; i >= 0; i--) p = p * square + P[i];
  return NAME(sigmoid)(x * p);
}
#else
OUTLINE vec NAME(normal_gate)(vec x) {
  real lanes[VLEN];
  NAME(store)(lanes, x);
  for (int i = 0; i < VLEN; i++) lanes[i] = 0.5 * erfc(-ROOT_HALF * lanes[i]);
  return NAME(load)(lanes);
}
#endif

INLINE vec NAME(tanh_gate)(vec x) { return NAME(sigmoid)((real)TANH_GATE * (x + (real)TANH_GATE_CUBE * x * x * x)); }

INLINE vec NAME(hard_gate)(vec x) {
  return NAME(at_most)(NAME(at_least)(x + 3, (vec){0}), NAME(splat)(6)) * (real)(1.0 / 6);
}

/* kind is a constant wherever these are inlined. */
INLINE vec NAME(gate)(const int kind, vec x) {
  switch (kind) {
    case FASTCONV_GELU:
      return NAME(normal_gate)(x);
    case FASTCONV_GELU_TANH:
      return NAME(tanh_gate)(x);
    case FASTCONV_SILU:
      return NAME(sigmoid)(x);
    default:
      return NAME(hard_gate)(x);
  }
}

/* dy/dx; `gate` is that of x. */
INLINE vec NAME(gated_slope)(const int kind, vec x, vec gate) {
  const vec rest = x * (gate * NAME(gate)(kind, -x)), zero = {0}; /* 1 - gate(x), without its rounding */
  switch (kind) {
    case FASTCONV_GELU:
      return gate + x * (NAME(exp)(x * x * (real)-0.5) * (real)NORMAL_PEAK);
    case FASTCONV_GELU_TANH:
      return gate + rest * ((real)TANH_GATE + (real)(3 * TANH_GATE * TANH_GATE_CUBE) * x * x);
    case FASTCONV_SILU:
      return gate + rest;
    default:
      return NAME(select)(x <= -3, zero, NAME(select)(x >= 3, NAME(splat)(1), gate + x * (real)(1.0 / 6)));
  }
}
