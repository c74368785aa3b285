// The K largest magnitudes, exactly, without sorting. The bits of a float without its sign are ordered as its magnitude is,
// so all of this is about 31-bit integers.
//
// A sample says between which two bounds the K-th largest probably lies. One pass writes down the few that lie there; among
// those it is found by counting digits. If the sample was wrong, the pass is made again without bounds.
#include "delta.hpp"

#include <algorithm>
#include <cstring>
#include <initializer_list>
#include <memory>
#include <vector>

#include "../isa.hpp"

namespace spikemesh::ISA {

constexpr uint32_t kInfinity = 0x7f800000;
constexpr int64_t kSample = 1 << 12;  // values in it, about

static uint32_t magnitude(float x) {
    uint32_t bits;
    std::memcpy(&bits, &x, sizeof bits);
    return bits & 0x7fffffff;
}

struct Bounds {
    uint32_t low, high;  // both inclusive
};

// Bounds that the value of this rank from the top probably lies between: a fiftieth of all values further up and further
// down than in the sample, at least three times the sample's error.
static Bounds guess(const float* values, int64_t size, int64_t rank) {
    std::vector<uint32_t> sample;
    const int64_t step = std::max<int64_t>(1, size / kSample);
    for (int64_t i = 0; i < size; i += step) sample.push_back(magnitude(values[i]));
    const int64_t last = static_cast<int64_t>(sample.size()) - 1, margin = last / 50 + 8;
    const int64_t middle = last - (rank - 1) * last / size;
    const auto at = [&](int64_t place) {
        const auto nth = sample.begin() + std::clamp<int64_t>(place, 0, last);
        std::nth_element(sample.begin(), nth, sample.end());
        return *nth;
    };
    return {middle - margin > 0 ? at(middle - margin) : 0, middle + margin < last ? at(middle + margin) : kInfinity - 1};
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
#endif
    for (; i < size; ++i) {
        const uint32_t bits = magnitude(values[i]);
        *out = bits;
        out += bits >= bounds.low && bits <= bounds.high;
        counts.above += bits > bounds.high;
        largest = std::max(largest, bits);
    }
    counts.between = out - found;
    counts.finite = largest < kInfinity;
    return counts;
}

// The value of this rank from the top, by its digits of 11, 10 and 10 bits; `rank` becomes its rank among equals.
static uint32_t find(const uint32_t* found, int64_t size, int64_t& rank) {
    std::vector<uint32_t> numbers(2048);
    uint32_t value = 0;
    for (const int shift : {20, 10, 0}) {
        std::fill(numbers.begin(), numbers.end(), 0u);
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
#endif
    for (; i < size && done < num_sent; ++i) {
        const uint32_t bits = magnitude(values[i]);
        const bool equal = bits == threshold && num_equal > 0;
        indices[done] = i;
        done += bits > threshold || equal;
        num_equal -= equal;
    }
}

bool select_largest(const float* values, int64_t size, int64_t num_sent, int64_t* indices) {
    const std::unique_ptr<uint32_t[]> found(new uint32_t[static_cast<size_t>(size) + 16]);  // sixteen are written at a time
    Counts counts = look(values, size, guess(values, size, num_sent), found.get());
    if (!counts.finite) return false;
    if (counts.above >= num_sent || counts.above + counts.between < num_sent)
        counts = look(values, size, {0, kInfinity - 1}, found.get());
    int64_t rank = num_sent - counts.above;
    const uint32_t threshold = find(found.get(), counts.between, rank);
    write_chosen(values, size, threshold, rank, num_sent, indices);
    return true;
}

}  // namespace spikemesh::ISA
