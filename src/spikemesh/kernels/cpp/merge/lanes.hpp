// A register full of coordinates at a time: from raw elements to doubles and back. Included by what is compiled per instruction set.
#pragma once
#include <cstring>
#include <limits>

#include "elements.hpp"

#include "../isa.hpp"

namespace spikemesh::ISA {
namespace {

// Vectors as the compiler's own types: a register of doubles, and as many of what is smaller.
constexpr int kWide = kRegisterBytes / 8;
typedef double Doubles __attribute__((vector_size(8 * kWide)));
typedef int64_t Longs __attribute__((vector_size(8 * kWide)));  // also masks: all ones is true
typedef uint64_t Words __attribute__((vector_size(8 * kWide)));
typedef float Floats __attribute__((vector_size(4 * kWide)));
typedef uint32_t Ints __attribute__((vector_size(4 * kWide)));
typedef uint16_t Shorts __attribute__((vector_size(2 * kWide)));

constexpr double kLargest = std::numeric_limits<double>::max();

template <class Vector>
INLINE Vector load(const uint8_t* data) {
    Vector x;
    std::memcpy(&x, data, sizeof x);
    return x;
}

INLINE Doubles all(double x) { return Doubles{} + x; }
INLINE Doubles magnitude(Doubles x) { return (Doubles)((Longs)x & 0x7fffffffffffffff); }
INLINE bool any(Longs mask) {
#if defined(__AVX512F__)
    return _mm512_test_epi64_mask((__m512i)mask, (__m512i)mask) != 0;
#elif defined(__AVX2__)
    return !_mm256_testz_si256((__m256i)mask, (__m256i)mask);
#elif defined(__SSE2__)
    return _mm_movemask_epi8((__m128i)mask) != 0;
#else
    int64_t bits = 0;
    for (int l = 0; l < kWide; ++l) bits |= mask[l];
    return bits != 0;
#endif
}
INLINE int64_t total_of(Longs x) {
    int64_t total = 0;
    for (int l = 0; l < kWide; ++l) total += x[l];
    return total;
}

// ---- decode ---------------------------------------------------------------------------------------------------------

constexpr double eighth(int bits, int mantissa_bits, int bias) {
    const int exponent = (bits & 0x7f) >> mantissa_bits, mantissa = bits & ((1 << mantissa_bits) - 1);
    double size = exponent ? (1 << mantissa_bits) + mantissa : mantissa;
    int power = (exponent ? exponent : 1) - bias - mantissa_bits;
    for (; power > 0; --power) size *= 2.0;
    for (; power < 0; ++power) size /= 2.0;
    return bits & 0x80 ? -size : size;
}

// Made by the compiler: what is made when the module is loaded would be made with these instructions on every processor.
struct Eighths {
    double e4m3[256], e5m2[256];
    constexpr Eighths() : e4m3(), e5m2() {
        const double nan = std::numeric_limits<double>::quiet_NaN();
        for (int i = 0; i < 256; ++i) {
            e4m3[i] = (i & 0x7f) == 0x7f ? nan : eighth(i, 3, 7);
            e5m2[i] = (i & 0x7c) == 0x7c ? nan : eighth(i, 2, 15);
        }
    }
};
constexpr Eighths eighths;

template <int element>
INLINE Doubles decode(const uint8_t* data) {
    if constexpr (element == F64) return load<Doubles>(data);
    if constexpr (element == F32) return __builtin_convertvector(load<Floats>(data), Doubles);
    if constexpr (element == BF16) {
        const Ints bits = __builtin_convertvector(load<Shorts>(data), Ints) << 16;
        return __builtin_convertvector((Floats)bits, Doubles);
    }
    if constexpr (element == F16) {  // one multiplication moves the exponent and normalises subnormals
        const Ints bits = __builtin_convertvector(load<Shorts>(data), Ints);
        const Ints special = (Ints)((bits & 0x7c00) == 0x7c00) & 0x7f800000;
        const Ints size = (Ints)((Floats)((bits & 0x7fff) << 13) * 0x1p112f);
        return __builtin_convertvector((Floats)(size | special | (bits & 0x8000) << 16), Doubles);
    }
    const double* values = element == F8_E4M3 ? eighths.e4m3 : eighths.e5m2;
    Doubles x;
    for (int l = 0; l < kWide; ++l) x[l] = values[data[l]];
    return x;
}

static double decode_one(int element, const uint8_t* data) {
    uint8_t padded[8 * kWide] = {0};
    std::memcpy(padded, data, static_cast<size_t>(size_of(element)));
    switch (element) {
        case F64: return decode<F64>(padded)[0];
        case F32: return decode<F32>(padded)[0];
        case F16: return decode<F16>(padded)[0];
        case BF16: return decode<BF16>(padded)[0];
        case F8_E4M3: return decode<F8_E4M3>(padded)[0];
        default: return decode<F8_E5M2>(padded)[0];
    }
}

// ---- encode ---------------------------------------------------------------------------------------------------------

static uint8_t encode_eighth(double x, int mantissa_bits, int bias) {
    if (x == 0.0) return 0;
    const uint64_t bits = to_bits(x);
    const int exponent = static_cast<int>((bits >> 52) & 0x7ff) - 1023;
    const uint8_t sign = bits >> 63 ? 0x80 : 0;
    if (exponent < 1 - bias) return sign | static_cast<uint8_t>(__builtin_ldexp(__builtin_fabs(x), bias - 1 + mantissa_bits));
    const int mantissa = static_cast<int>((bits >> (52 - mantissa_bits)) & ((1u << mantissa_bits) - 1));
    return sign | static_cast<uint8_t>(((exponent + bias) << mantissa_bits) | mantissa);
}

// To the nearest multiple of the format's last place, ties to even, by adding and taking away a large number. Where that
// has no exponent (it wraps), `x` is far beyond the range and stays there.
INLINE Doubles round_to(Doubles x, const Format& format) {
    const Longs lowest = Longs{} + (static_cast<int64_t>(format.min_exponent + 1023) << 52);
    Longs exponent = (Longs)x & 0x7ff0000000000000;
    exponent = exponent > lowest ? exponent : lowest;
    const Doubles large = 1.5 * (Doubles)((Words)exponent + (static_cast<uint64_t>(53 - format.precision) << 52));
    return (x + large) - large;
}

// Writes `x`, which one rounding to the element type rounds correctly, and returns what was written. A zero is +0, also
// one that a tiny negative number is rounded to: `round_to` makes it so, and elsewhere adding +0 does.
INLINE Doubles encode(int element, const Format& format, Doubles x, uint8_t* out) {
    if (element == F64) {
        x = x + 0.0;
        std::memcpy(out, &x, sizeof x);
        return x;
    }
    if (element == F32) {
        const Floats y = __builtin_convertvector(x, Floats) + 0.0f;
        std::memcpy(out, &y, sizeof y);
        return __builtin_convertvector(y, Doubles);
    }
    x = round_to(x, format);
    const Longs beyond = ~(magnitude(x) <= format.largest);
    if (element == BF16) {
        const Shorts bits = __builtin_convertvector((Ints)__builtin_convertvector(x, Floats) >> 16, Shorts);
        std::memcpy(out, &bits, sizeof bits);
    } else if (element == F16) {  // decode backwards
        const Floats y = __builtin_convertvector(x, Floats);
        const Ints sign = (Ints)y >> 31 << 15, size = (Ints)((Floats)((Ints)y & 0x7fffffff) * 0x1p-112f) >> 13;
        const Shorts bits = __builtin_convertvector(size | sign, Shorts);
        std::memcpy(out, &bits, sizeof bits);
    } else {
        for (int l = 0; l < kWide; ++l) out[l] = element == F8_E4M3 ? encode_eighth(x[l], 3, 7) : encode_eighth(x[l], 2, 15);
    }
    if (any(beyond))  // not a number of the format: say so in a way that decode reads as not finite
        for (int l = 0; l < kWide; ++l)
            if (beyond[l]) std::memset(out + l * format.size, 0xff, static_cast<size_t>(format.size));
    return x;
}

}  // namespace
}  // namespace spikemesh::ISA
