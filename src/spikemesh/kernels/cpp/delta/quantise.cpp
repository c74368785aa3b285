// Codes and scales: the author's rounding, in single precision and step by step as the NumPy twin does it.
#include "delta.hpp"

#include <cmath>
#include <cstring>

#include "../isa.hpp"

namespace spikemesh::ISA {
namespace {

constexpr int kWide = kRegisterBytes / 4;
typedef float Floats __attribute__((vector_size(kRegisterBytes)));
typedef int32_t Ints __attribute__((vector_size(kRegisterBytes)));  // also masks: all ones is true
typedef uint8_t Bytes __attribute__((vector_size(kWide)));
typedef float Four __attribute__((vector_size(16)));

constexpr int kNumVectors = kBlock / kWide;
constexpr int kCandidates[] = {0, -1, 1, -2, -3};  // the same as SCALE_CANDIDATES in kernels/delta_twin.py

// The smallest scale whose unit is at least x, beyond the last for an x that none reaches: the exponent and three bits of
// mantissa of x, rounded up.
static int scale_of(float x) {
    if (x <= 8.0f) return 0;
    uint32_t bits;
    std::memcpy(&bits, &x, sizeof bits);
    return static_cast<int>((bits + 0xfffff) >> 20) - ((127 + 3) << 3);
}

// ---- the nearest level ----------------------------------------------------------------------------------------------

// The tables as registers that are looked up in, and one number to a register, for processors that cannot do that.
struct Search {
    Floats values[kNumCodes / kWide], thresholds[kNumCodes / kWide];
    Floats steps[kNumCodes], each_threshold[kNumCodes];  // a step is from the level before

    explicit Search(const Levels& levels) {
        std::memcpy(values, levels.values, sizeof values);
        std::memcpy(thresholds, levels.thresholds, sizeof thresholds);
        for (int code = 0; code < kNumCodes; ++code) {
            steps[code] = Floats{} + (levels.values[code] - (code ? levels.values[code - 1] : 0.0f));
            each_threshold[code] = Floats{} + levels.thresholds[code];
        }
    }
};

#if defined(__AVX512F__)
INLINE Floats look_up(const Floats* table, Ints code) { return __builtin_shuffle(table[0], code); }
#elif defined(__AVX2__)
INLINE Floats look_up(const Floats* table, Ints code) { return __builtin_shuffle(table[0], table[1], code); }
#endif

INLINE Ints code_at(const Search& search, Floats cell) {
#if defined(__AVX2__)
    Ints code = (cell >= search.each_threshold[8]) & 8;
    for (int step = 4; step; step /= 2) {
        const Ints further = code + step;
        code = cell >= look_up(search.thresholds, further) ? further : code;
    }
    return code;
#else
    Ints code{};
    for (int c = 1; c < kNumCodes; ++c) code -= cell >= search.each_threshold[c];
    return code;
#endif
}

INLINE Floats level_at(const Search& search, Floats cell) {
#if defined(__AVX2__)
    return look_up(search.values, code_at(search, cell));
#else
    Floats level = search.steps[0];  // sums of small integers: exact
    for (int c = 1; c < kNumCodes; ++c) level += (Floats)((cell >= search.each_threshold[c]) & (Ints)search.steps[c]);
    return level;
#endif
}

// ---- quantise -------------------------------------------------------------------------------------------------------

// In the order of NumPy's einsum with registers of four floats: (s0 + s1) + (s2 + s3), s_l over l, l + 4, l + 8, ..., in each
// sixteen the last four first. The twin has the same order, so that both choose the same scale.
INLINE float sum_of_squares(const Floats* differences) {
    Four parts[kBlock / 4], total{};
    for (int v = 0; v < kNumVectors; ++v) {
        const Floats squares = differences[v] * differences[v];
        std::memcpy(parts + v * (kWide / 4), &squares, sizeof squares);
    }
    for (int i = 0; i < kBlock / 4; i += 4)
        total = (((total + parts[i + 3]) + parts[i + 2]) + parts[i + 1]) + parts[i];
    return (total[0] + total[1]) + (total[2] + total[3]);
}

INLINE float largest_of(const Floats* block) {
    Floats largest{};
    for (int v = 0; v < kNumVectors; ++v) {
        const Floats size = (Floats)((Ints)block[v] & 0x7fffffff);
        largest = size > largest ? size : largest;
    }
    float result = 0.0f;
    for (int lane = 0; lane < kWide; ++lane) result = larger(result, largest[lane]);
    return result;
}

// One block, in steps of the grid. False if its largest value is out of reach.
INLINE bool quantise_block(const Search& search, const Floats* block, float reach, uint8_t* codes, uint8_t* scale) {
    const int first = scale_of(largest_of(block) / reach);
    if (first >= kNumScales) return false;
    float best_error = HUGE_VALF;
    int best = 0;
    for (const int offset : kCandidates) {
        const int candidate = smaller(larger(first + offset, 0), kNumScales - 1);
        const float unit = static_cast<float>(unit_of(candidate)), per = 2.0f / unit;
        Floats differences[kNumVectors];
        for (int v = 0; v < kNumVectors; ++v)
            differences[v] = level_at(search, block[v] * per + 256.0f) * unit - block[v];
        const float error = sum_of_squares(differences);
        if (error < best_error) {
            best_error = error;
            best = candidate;
        }
    }
    const float per = 2.0f / static_cast<float>(unit_of(best));
    for (int v = 0; v < kNumVectors; ++v) {
        const Bytes some = __builtin_convertvector(code_at(search, block[v] * per + 256.0f), Bytes);
        std::memcpy(codes + v * kWide, &some, sizeof some);
    }
    *scale = static_cast<uint8_t>(best);
    return true;
}

}  // namespace

bool quantise(const float* values, int64_t size, const Levels& levels, int shift, uint8_t* codes, uint8_t* scales) {
    const Search search(levels);
    const float reach = smaller(-levels.values[0], levels.values[kNumCodes - 1]);
    const bool is_factor = shift >= -126 && shift <= 127;
    const float factor = is_factor ? __builtin_ldexpf(1.0f, shift) : 1.0f;
    for (int64_t start = 0; start < size; start += kBlock, ++scales) {
        const int64_t num = smaller<int64_t>(kBlock, size - start);
        float block[kBlock];
        std::memcpy(block, values + start, static_cast<size_t>(num) * sizeof *values);
        for (int64_t i = num; i < kBlock; ++i) block[i] = values[start + num - 1];  // the last value again
        for (float& x : block) x = is_factor ? x * factor : __builtin_ldexpf(x, shift);
        Floats vectors[kNumVectors];
        std::memcpy(vectors, block, sizeof vectors);
        uint8_t some[kBlock];
        if (!quantise_block(search, vectors, reach, some, scales)) return false;
        std::memcpy(codes + start, some, static_cast<size_t>(num));
    }
    return true;
}

}  // namespace spikemesh::ISA
