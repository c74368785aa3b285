// Element types of checkpoint files: bytes to doubles and back. All of them but double fit a double with bits to spare.
#pragma once
#include <cstdint>
#include <cstring>

namespace spikemesh {

// The same numbers as kernels/elements.py.
enum Element : int { F64 = 0, F32 = 1, F16 = 2, BF16 = 3, F8_E4M3 = 4, F8_E5M2 = 5 };

struct Format {
    int size;          // bytes
    int precision;     // significand bits, the hidden one included
    int min_exponent;  // of the smallest normal number
    double largest;    // finite
};

static constexpr int size_of(int element) {
    return element == F64 ? 8 : element == F32 ? 4 : element == F16 || element == BF16 ? 2 : 1;
}

static inline Format format_of(int element) {
    switch (element) {
        case F64: return {8, 53, -1022, 0x1.fffffffffffffp1023};
        case F32: return {4, 24, -126, 0x1.fffffep127};
        case F16: return {2, 11, -14, 65504.0};
        case BF16: return {2, 8, -126, 0x1.fep127};
        case F8_E4M3: return {1, 4, -6, 448.0};
        case F8_E5M2: return {1, 3, -14, 57344.0};
        default: return {0, 0, 0, 0.0};
    }
}

static inline double from_bits(uint64_t bits) {
    double x;
    std::memcpy(&x, &bits, 8);
    return x;
}

static inline uint64_t to_bits(double x) {
    uint64_t bits;
    std::memcpy(&bits, &x, 8);
    return bits;
}

static inline float float_from_bits(uint32_t bits) {
    float x;
    std::memcpy(&x, &bits, 4);
    return x;
}

static inline uint32_t float_to_bits(float x) {
    uint32_t bits;
    std::memcpy(&bits, &x, 4);
    return bits;
}

}  // namespace spikemesh
