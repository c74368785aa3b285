// For what is compiled once per instruction set, into the namespace that ISA names.
#pragma once

#ifndef ISA
#error "ISA is the namespace to compile into"
#endif

#if defined(__SSE2__)
#include <immintrin.h>
#endif

#include "inline.hpp"

namespace spikemesh::ISA {
namespace {

// What a register holds. The compiler takes a wider vector apart: its comparisons one number at a time, and sums of it
// live on the stack.
#if defined(__AVX512F__)
constexpr int kRegisterBytes = 64;
#elif defined(__AVX2__)
constexpr int kRegisterBytes = 32;
#else
constexpr int kRegisterBytes = 16;
#endif

// Instead of <algorithm>; see inline.hpp.
template <class T>
INLINE T smaller(T a, T b) { return b < a ? b : a; }
template <class T>
INLINE T larger(T a, T b) { return a < b ? b : a; }

}  // namespace
}  // namespace spikemesh::ISA
