// The K largest magnitudes, exactly, without sorting. The bits of a float without its sign are ordered as its magnitude is,
// so all of this is about 31-bit integers.
//
// A sample says between which two bounds the K-th largest probably lies. One pass writes down the few that lie there; among
// those it is found by counting digits. If the sample was wrong, the pass is made again without bounds.
#include "delta.hpp"

#include <cstring>

#include "../isa.hpp"

namespace spikemesh::ISA {
namespace {

constexpr uint32_t kInfinity = 0x7f800000;
constexpr int64_t kSample = 1 << 12;  // values in it, about

static uint32_t magnitude(float x) {
    uint32_t bits;
    std::memcpy(&bits, &x, sizeof bits);
    return bits & 0x7fffffff;
}

#if !defined(__AVX512F__)
constexpr int kWide = kRegisterBytes / 4;
typedef int32_t Ints __attribute__((vector_size(kRegisterBytes)));

INLINE Ints magnitudes(const float* values) {
    Ints bits;
    std::memcpy(&bits, values, sizeof bits);
    return bits & 0x7fffffff;
}

// One bit for each lane.
INLINE unsigned word_of(Ints mask) {
#if defined(__AVX2__)
    return static_cast<unsigned>(_mm256_movemask_ps((__m256)mask));
#elif defined(__SSE2__)
    return static_cast<unsigned>(_mm_movemask_ps((__m128)mask));
#else
    unsigned word = 0;
    for (int l = 0; l < kWide; ++l) word |= static_cast<unsigned>(mask[l] & 1 << l);
    return word;
#endif
}
#endif

// The value of this rank from the top, by its digits of 11, 10 and 10 bits; `rank` becomes its rank among equals.
static uint32_t find(const uint32_t* found, int64_t size, int64_t& rank) {
    uint32_t value = 0;
    for (int shift = 20; shift >= 0; shift -= 10) {
        uint32_t numbers[2048] = {};
        const int bits = shift == 20 ? 11 : 10;
        const uint32_t mask = (1u << bits) - 1;
        for (int64_t i = 0; i < size; ++i)
            if (uint64_t{found[i]} >> (shift + bits) == value) ++numbers[found[i] >> shift & mask];
        uint32_t digit = mask;
        for (; digit && numbers[digit] < rank; --digit) rank -= numbers[digit];
        value = value << bits | digit;
    }
    return value;
}

struct Bounds {
    uint32_t low, high;  // both inclusive
};

// Bounds that the value of this rank from the top probably lies between: a fiftieth of all values further up and further
// down than in the sample, at least three times the sample's error.
static Bounds guess(const float* values, int64_t size, int64_t rank) {
    const int64_t step = larger<int64_t>(1, size / kSample);
    uint32_t sample[2 * kSample];
    int64_t num = 0;
    for (int64_t i = 0; i < size; i += step) sample[num++] = magnitude(values[i]);
    const int64_t last = num - 1, margin = last / 50 + 8;
    const int64_t middle = 1 + (rank - 1) * last / size;  // of the sample, from the top
    const auto at = [&](int64_t sample_rank) { return find(sample, num, sample_rank); };
    return {middle + margin <= last ? at(middle + margin) : 0, middle - margin > 1 ? at(middle - margin) : kInfinity - 1};
}

struct Counts {
    int64_t above = 0;    // of the bounds
    int64_t between = 0;  // those are in `found`
    bool finite = true;
};

static Counts look(const float* values, int64_t size, Bounds bounds, uint32_t* found) {
    Counts counts;
    uint32_t largest = 0;
    int64_t i = 0;
    uint32_t* out = found;
#if defined(__AVX512F__)
    const __m512i low = _mm512_set1_epi32(static_cast<int>(bounds.low)), high = _mm512_set1_epi32(static_cast<int>(bounds.high));
    __m512i all = _mm512_setzero_si512();
    for (; i + 16 <= size; i += 16) {
        const __m512i bits = _mm512_and_si512(_mm512_loadu_si512(values + i), _mm512_set1_epi32(0x7fffffff));
        const __mmask16 above = _mm512_cmpgt_epi32_mask(bits, high);
        const __mmask16 between = _mm512_cmpge_epi32_mask(bits, low) & ~above;
        all = _mm512_max_epi32(all, bits);
        _mm512_storeu_si512(out, _mm512_maskz_compress_epi32(between, bits));
        out += __builtin_popcount(between);
        counts.above += __builtin_popcount(above);
    }
    largest = static_cast<uint32_t>(_mm512_reduce_max_epi32(all));
#else
    const Ints low = Ints{} + static_cast<int32_t>(bounds.low), high = Ints{} + static_cast<int32_t>(bounds.high);
    Ints all{}, above{};
    for (; i + kWide <= size; i += kWide) {
        const Ints bits = magnitudes(values + i);
        above -= bits > high;
        all = bits > all ? bits : all;
        for (unsigned between = word_of((bits >= low) & (bits <= high)); between; between &= between - 1)
            *out++ = magnitude(values[i + __builtin_ctz(between)]);
    }
    for (int l = 0; l < kWide; ++l) {
        counts.above += above[l];  // values are fewer than 2**32
        largest = larger(largest, static_cast<uint32_t>(all[l]));
    }
#endif
    for (; i < size; ++i) {
        const uint32_t bits = magnitude(values[i]);
        *out = bits;
        out += bits >= bounds.low && bits <= bounds.high;
        counts.above += bits > bounds.high;
        largest = larger(largest, bits);
    }
    counts.between = out - found;
    counts.finite = largest < kInfinity;
    return counts;
}

// Where the values above the threshold are, and of those equal to it the first `num_equal`.
static void write_chosen(const float* values, int64_t size, uint32_t threshold, int64_t num_equal, int64_t num_sent,
                         int64_t* indices) {
    int64_t done = 0, i = 0;
#if defined(__AVX512F__)
    const __m512i lanes = _mm512_set_epi64(7, 6, 5, 4, 3, 2, 1, 0), limit = _mm512_set1_epi32(static_cast<int>(threshold));
    for (; i + 16 <= size && done + 16 <= num_sent; i += 16) {
        const __m512i bits = _mm512_and_si512(_mm512_loadu_si512(values + i), _mm512_set1_epi32(0x7fffffff));
        unsigned chosen = _mm512_cmpgt_epi32_mask(bits, limit);
        for (unsigned equal = _mm512_cmpeq_epi32_mask(bits, limit); equal && num_equal; equal &= equal - 1, --num_equal)
            chosen |= equal & -equal;
        for (int half = 0; half < 2; ++half, chosen >>= 8) {  // eight are written at a time, and as many kept as were chosen
            const __m512i at = _mm512_add_epi64(lanes, _mm512_set1_epi64(i + 8 * half));
            _mm512_storeu_si512(indices + done, _mm512_maskz_compress_epi64(static_cast<__mmask8>(chosen), at));
            done += __builtin_popcount(chosen & 0xff);
        }
    }
#else
    const Ints limit = Ints{} + static_cast<int32_t>(threshold);
    for (; i + kWide <= size && done + kWide <= num_sent; i += kWide) {
        const Ints bits = magnitudes(values + i);
        unsigned chosen = word_of(bits > limit);
        for (unsigned equal = word_of(bits == limit); equal && num_equal; equal &= equal - 1, --num_equal)
            chosen |= equal & -equal;
        for (; chosen; chosen &= chosen - 1) indices[done++] = i + __builtin_ctz(chosen);
    }
#endif
    for (; i < size && done < num_sent; ++i) {
        const uint32_t bits = magnitude(values[i]);
        const bool equal = bits == threshold && num_equal > 0;
        indices[done] = i;
        done += bits > threshold || equal;
        num_equal -= equal;
    }
}

}  // namespace

bool select_largest(const float* values, int64_t size, int64_t num_sent, int64_t* indices, uint32_t* scratch) {
    Counts counts = look(values, size, guess(values, size, num_sent), scratch);
    if (!counts.finite) return false;
    if (counts.above >= num_sent || counts.above + counts.between < num_sent)
        counts = look(values, size, {0, kInfinity - 1}, scratch);
    int64_t rank = num_sent - counts.above;
    const uint32_t threshold = find(scratch, counts.between, rank);
    write_chosen(values, size, threshold, rank, num_sent, indices);
    return true;
}

}  // namespace spikemesh::ISA
