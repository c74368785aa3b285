// For what is compiled once per instruction set, into the namespace that ISA names.
#pragma once

#ifndef ISA
#error "ISA is the namespace to compile into"
#endif

#if defined(__SSE2__)
#include <immintrin.h>
#endif

#define INLINE static inline __attribute__((always_inline))
