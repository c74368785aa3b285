// Sixteen floats at a time, as the compiler's own vector type: it maps them to whatever registers the target has.
// Included by what is compiled once per instruction set, so everything stands in the namespace that ISA names.
#pragma once
#include <cstdint>
#include <cstring>

#include "../isa.hpp"

namespace spikemesh::ISA {

constexpr int kWide = 16;
typedef float Floats __attribute__((vector_size(64)));
typedef int32_t Ints __attribute__((vector_size(64)));  // also masks: all ones is true

INLINE Floats all(float x) { return Floats{} + x; }
INLINE Floats load(const float* data) {
    Floats x;
    std::memcpy(&x, data, sizeof x);
    return x;
}
INLINE void store(float* data, Floats x) { std::memcpy(data, &x, sizeof x); }

// One bit for each of sixteen lanes.
INLINE uint16_t bits_of(Ints mask) {
#if defined(__AVX512F__)
    return static_cast<uint16_t>(_mm512_movepi32_mask((__m512i)mask));
#elif defined(__SSE2__)
    __m128 quarter[4];
    std::memcpy(quarter, &mask, sizeof quarter);
    return static_cast<uint16_t>(_mm_movemask_ps(quarter[0]) | _mm_movemask_ps(quarter[1]) << 4 |
                                 _mm_movemask_ps(quarter[2]) << 8 | _mm_movemask_ps(quarter[3]) << 12);
#else
    uint16_t bits = 0;
    for (int l = 0; l < kWide; ++l) bits |= static_cast<uint16_t>((mask[l] & 1) << l);
    return bits;
#endif
}

// 1 / x to about the last bit, by an estimate and one step of Newton's method where there is one; x is not zero.
INLINE Floats reciprocal(Floats x) {
#if defined(__AVX512F__)
    const Floats r = (Floats)_mm512_rcp14_ps((__m512)x);
    return r * (2.0f - x * r);
#else
    return all(1.0f) / x;
#endif
}

// To memory past the cache, where `data` is aligned to a vector: what is not read again soon need not be fetched first.
INLINE void stream(float* data, Floats x) {
#if defined(__AVX512F__)
    _mm512_stream_ps(data, (__m512)x);
#elif defined(__AVX__)
    __m256 half[2];
    std::memcpy(half, &x, sizeof half);
    _mm256_stream_ps(data, half[0]);
    _mm256_stream_ps(data + 8, half[1]);
#else
    store(data, x);
#endif
}

// Added as a tree, the same one whatever the registers are.
INLINE float total_of(Floats x) {
    typedef float Eight __attribute__((vector_size(32)));
    typedef float Four __attribute__((vector_size(16)));
    Eight half[2];
    std::memcpy(half, &x, sizeof half);
    const Eight eight = half[0] + half[1];
    Four quarter[2];
    std::memcpy(quarter, &eight, sizeof quarter);
    const Four four = quarter[0] + quarter[1];
    return (four[0] + four[2]) + (four[1] + four[3]);
}

}  // namespace spikemesh::ISA
