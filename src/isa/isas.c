/* The ISAs that this build holds, widest first. setup.py defines FASTCONV_ISAS as ISA(avx512) ISA(avx2) ... */
#include "isas.h"

#define ISA(name)                                                 \
  extern const fastconv_kernels fastconv_##name[FASTCONV_DTYPES]; \
  int fastconv_##name##_supported(void);
FASTCONV_ISAS
#undef ISA

static const struct {
  const fastconv_kernels *kernels;
  int (*supported)(void);
} isas[] = {
#define ISA(name) {fastconv_##name, fastconv_##name##_supported},
    FASTCONV_ISAS
#undef ISA
};

int fastconv_isa_count(void) { return (int)(sizeof isas / sizeof *isas); }
const fastconv_kernels *fastconv_isa_kernels(int index) { return isas[index].kernels; }
int fastconv_isa_supported(int index) { return isas[index].supported(); }
