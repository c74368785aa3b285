// A register full of floats, as the compiler's own vector type, and how many registers there are: loops choose their tiles by
// these, so that sums stay in registers. A wider type would be split over several, and sums would live on the stack.
// Included by what is compiled once per instruction set, so everything stands in the namespace that ISA names.
#pragma once
#include <cstdint>
#include <cstring>

#include "../isa.hpp"

#if defined(__ARM_NEON)
#include <arm_neon.h>
#endif

namespace spikemesh::ISA {

#if defined(__AVX512F__)
constexpr int kWide = 16, kRegisters = 32;
#elif defined(__AVX2__)
constexpr int kWide = 8, kRegisters = 16;
#elif defined(__ARM_NEON)
constexpr int kWide = 4, kRegisters = 32;
#else
constexpr int kWide = 4, kRegisters = 16;
#endif

typedef float Floats __attribute__((vector_size(4 * kWide)));
typedef int32_t Ints __attribute__((vector_size(4 * kWide)));  // also masks: all ones is true

INLINE Floats all(float x) { return x - Floats{}; }
INLINE Floats load(const float* data) {
    Floats x;
    std::memcpy(&x, data, sizeof x);
    return x;
}
INLINE void store(float* data, Floats x) { std::memcpy(data, &x, sizeof x); }

// The first `count` floats, at most a register full, and zeros behind them.
INLINE Floats load_some(const float* data, int64_t count) {
    if (count >= kWide) return load(data);
    Floats x{};
    std::memcpy(&x, data, static_cast<size_t>(count) * sizeof(float));
    return x;
}
INLINE void store_some(float* data, Floats x, int64_t count) {
    if (count >= kWide) return store(data, x);
    std::memcpy(data, &x, static_cast<size_t>(count) * sizeof(float));
}

// A register from two places, half of it each, and back: by way of memory it would have to wait for both stores.
INLINE Floats load_halves(const float* low, const float* high) {
#if defined(__AVX512F__)
    return (Floats)_mm512_insertf32x8(_mm512_castps256_ps512(_mm256_loadu_ps(low)), _mm256_loadu_ps(high), 1);
#elif defined(__AVX2__)
    return (Floats)_mm256_insertf128_ps(_mm256_castps128_ps256(_mm_loadu_ps(low)), _mm_loadu_ps(high), 1);
#else
    return Floats{low[0], low[1], high[0], high[1]};
#endif
}
INLINE void store_halves(float* low, float* high, Floats x) {
#if defined(__AVX512F__)
    _mm256_storeu_ps(low, _mm512_castps512_ps256((__m512)x));
    _mm256_storeu_ps(high, _mm512_extractf32x8_ps((__m512)x, 1));
#elif defined(__AVX2__)
    _mm_storeu_ps(low, _mm256_castps256_ps128((__m256)x));
    _mm_storeu_ps(high, _mm256_extractf128_ps((__m256)x, 1));
#else
    low[0] = x[0], low[1] = x[1], high[0] = x[2], high[1] = x[3];
#endif
}

// One bit for each lane.
INLINE uint32_t bits_of(Ints mask) {
#if defined(__AVX512F__)
    return _mm512_movepi32_mask((__m512i)mask);
#elif defined(__AVX2__)
    return static_cast<uint32_t>(_mm256_movemask_ps((__m256)mask));
#elif defined(__SSE2__)
    return static_cast<uint32_t>(_mm_movemask_ps((__m128)mask));
#else
    uint32_t bits = 0;
    for (int l = 0; l < kWide; ++l) bits |= static_cast<uint32_t>(mask[l] & 1) << l;
    return bits;
#endif
}

// Ones and zeros from bits, the lowest first.
#if defined(__AVX512F__)

INLINE Floats ones_where(const uint8_t* bits, int64_t vector) {
    uint16_t mask;
    std::memcpy(&mask, bits + 2 * vector, sizeof mask);
    return (Floats)_mm512_maskz_mov_ps(mask, _mm512_set1_ps(1.0f));
}

#else

// For each few bits their lanes: one load, where the processor has no masks of its own.
struct Ones {
    alignas(4 * kWide) float lanes[1 << kWide][kWide];
    constexpr Ones() : lanes() {
        for (int bits = 0; bits < 1 << kWide; ++bits)
            for (int l = 0; l < kWide; ++l) lanes[bits][l] = static_cast<float>(bits >> l & 1);
    }
};
static constexpr Ones kOnes;

INLINE Floats ones_where(const uint8_t* bits, int64_t vector) {
    constexpr int per_byte = 8 / kWide;
    const int byte = bits[vector / per_byte];
    return load(kOnes.lanes[byte >> vector % per_byte * kWide & ((1 << kWide) - 1)]);
}

#endif

// 1 / x to about the last bit, by an estimate and one step of Newton's method where there is one; x is not zero.
INLINE Floats reciprocal(Floats x) {
#if defined(__AVX512F__)
    const Floats r = (Floats)_mm512_rcp14_ps((__m512)x);
    return r * (2.0f - x * r);
#elif defined(__AVX2__)
    const Floats r = (Floats)_mm256_rcp_ps((__m256)x);
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
    _mm256_stream_ps(data, (__m256)x);
#elif defined(__SSE2__)
    _mm_stream_ps(data, (__m128)x);
#else
    store(data, x);
#endif
}

// ---- sums over lanes ------------------------------------------------------------------------------------------------

INLINE float total_of(Floats x) {
    float lanes[kWide];
    std::memcpy(lanes, &x, sizeof lanes);
    for (int half = kWide / 2; half > 0; half /= 2)
        for (int l = 0; l < half; ++l) lanes[l] += lanes[l + half];
    return lanes[0];
}

// The totals of four vectors.
typedef float Four __attribute__((vector_size(16)));

INLINE Four totals_of(const Floats* x) {
#if defined(__AVX512F__) || defined(__AVX2__)
    __m256 eight[4];
#if defined(__AVX512F__)
    for (int i = 0; i < 4; ++i)
        eight[i] = _mm256_add_ps(_mm512_castps512_ps256((__m512)x[i]), _mm512_extractf32x8_ps((__m512)x[i], 1));
#else
    for (int i = 0; i < 4; ++i) eight[i] = (__m256)x[i];
#endif
    const __m256 pairs = _mm256_hadd_ps(_mm256_hadd_ps(eight[0], eight[1]), _mm256_hadd_ps(eight[2], eight[3]));
    return (Four)_mm_add_ps(_mm256_castps256_ps128(pairs), _mm256_extractf128_ps(pairs, 1));
#elif defined(__SSE2__)
    __m128 a = (__m128)x[0], b = (__m128)x[1], c = (__m128)x[2], d = (__m128)x[3];
    _MM_TRANSPOSE4_PS(a, b, c, d);
    return (Four)_mm_add_ps(_mm_add_ps(a, b), _mm_add_ps(c, d));
#elif defined(__aarch64__)
    return (Four)vpaddq_f32(vpaddq_f32((float32x4_t)x[0], (float32x4_t)x[1]), vpaddq_f32((float32x4_t)x[2], (float32x4_t)x[3]));
#else
    return Four{total_of(x[0]), total_of(x[1]), total_of(x[2]), total_of(x[3])};
#endif
}

}  // namespace spikemesh::ISA
