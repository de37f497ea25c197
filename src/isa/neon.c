#define ISA neon
#define ISA_SUPPORTED 1
#include "../microkernels/instantiate.h"
