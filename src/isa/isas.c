/* The ISAs that this build holds, widest first, and what a machine must have for each. setup.py defines FASTCONV_ISAS
 * as ISA(avx512) ISA(avx2) ... Compiled for any machine, so that nothing of an ISA runs before it was asked for.
 */
#include "isas.h"

#define HAS_avx512                                                                                                  \
  (__builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512bw") && \
   __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512cd") && HAS_avx2)
#define HAS_avx2 (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") && __builtin_cpu_supports("bmi2"))
#define HAS_baseline 1
#define HAS_neon 1

#define ISA(name)                                         \
  const fastconv_kernels *fastconv_##name##_tables(void); \
  static int has_##name(void) { return HAS_##name; }
FASTCONV_ISAS
#undef ISA

static const struct {
  const char *name;
  const fastconv_kernels *(*tables)(void);
  int (*supported)(void);
} isas[] = {
#define ISA(name) {#name, fastconv_##name##_tables, has_##name},
    FASTCONV_ISAS
#undef ISA
};

int fastconv_isa_count(void) { return (int)(sizeof isas / sizeof *isas); }
const char *fastconv_isa_name(int index) { return isas[index].name; }
int fastconv_isa_supported(int index) { return isas[index].supported(); }
const fastconv_kernels *fastconv_isa_kernels(int index) { return isas[index].tables(); }

/* They spare a line's way in. VGG-16's first layer at batch 4, 51 MB, took 0.65 to 0.85 of the time with them on Zen 5,
 * 1.2 to 1.5 times as long on one Cascade Lake core, which has few buffers for them. */
int fastconv_streams(void) {
#if defined(__x86_64__)
  return __builtin_cpu_is("amd") != 0;
#else
  return 0;
#endif
}
