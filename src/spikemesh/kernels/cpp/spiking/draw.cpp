// Compiled without fused multiply-add, as every operation is rounded where it is written.
#include "draw.hpp"

#include <cmath>

namespace spikemesh {

Block draw_block(const Stream& stream, uint32_t index) {
    Block block{{index, stream.row, stream.tensor, stream.purpose}};
    uint32_t* word = block.word;
    uint32_t key0 = static_cast<uint32_t>(stream.seed), key1 = static_cast<uint32_t>(stream.seed >> 32);
    for (int round = 0; round < 10; ++round) {
        const uint64_t product0 = uint64_t{0xD2511F53} * word[0], product1 = uint64_t{0xCD9E8D57} * word[2];
        const uint32_t high0 = static_cast<uint32_t>(product0 >> 32), high1 = static_cast<uint32_t>(product1 >> 32);
        block = {{high1 ^ word[1] ^ key0, static_cast<uint32_t>(product1), high0 ^ word[3] ^ key1,
                  static_cast<uint32_t>(product0)}};
        key0 += 0x9E3779B9, key1 += 0xBB67AE85;
    }
    return block;
}

// A 64-bit number scaled to 0..bound-1: the high word of their product.
static uint32_t below(uint32_t low, uint32_t high, uint64_t bound) {
    return static_cast<uint32_t>((high * bound + (low * bound >> 32)) >> 32);
}

// Floyd's sampling (Bentley & Floyd 1987): one draw per column taken, and no order among the columns that counts.
void draw_columns(const Stream& stream, int64_t num_columns, int64_t fan_in, uint64_t* held, int32_t* columns) {
    Block block{};
    for (int64_t i = 0; i < fan_in; ++i) {
        if (i % 2 == 0) block = draw_block(stream, static_cast<uint32_t>(i / 2));
        const int64_t last = num_columns - fan_in + i;
        const uint32_t* pair = block.word + i % 2 * 2;
        int64_t column = below(pair[0], pair[1], static_cast<uint64_t>(last + 1));
        if (held[column / 64] >> column % 64 & 1) column = last;
        held[column / 64] |= uint64_t{1} << column % 64;
    }
    for (int64_t word = 0; word < (num_columns + 63) / 64; ++word) {
        for (uint64_t bits = held[word]; bits; bits &= bits - 1)
            *columns++ = static_cast<int32_t>(word * 64 + __builtin_ctzll(bits));
        held[word] = 0;
    }
}

// Natural logarithm of 0 < x < 1: 2 artanh((m - 1) / (m + 1)) of the mantissa, by its series, to 1e-11.
static double logarithm(double x) {
    int exponent;
    double m = std::frexp(x, &exponent);
    if (m < 0.70710678118654752440) m = m * 2.0, exponent -= 1;
    const double s = (m - 1.0) / (m + 1.0), r = s * s;
    double series = 1.0 / 13.0;
    series = series * r + 1.0 / 11.0;
    series = series * r + 1.0 / 9.0;
    series = series * r + 1.0 / 7.0;
    series = series * r + 1.0 / 5.0;
    series = series * r + 1.0 / 3.0;
    series = series * r + 1.0;
    return 2.0 * s * series + exponent * 0.69314718055994530942;
}

// The inverse of the normal distribution function at (word + 1/2) / 2^32, algorithm AS 241, PPND7 (Wichura 1988).
static double normal(uint32_t word) {
    const double p = (word + 0.5) * 0x1p-32, q = p - 0.5;
    if (std::fabs(q) <= 0.425) {
        const double r = 0.180625 - q * q;
        const double above = ((5.9109374720e1 * r + 1.5929113202e2) * r + 5.0434271938e1) * r + 3.3871327179;
        const double under = ((6.7187563600e1 * r + 7.8757757664e1) * r + 1.7895169469e1) * r + 1.0;
        return q * above / under;
    }
    const double r = std::sqrt(-logarithm(q < 0.0 ? p : 1.0 - p)) - 1.6;
    const double above = ((1.7023821103e-1 * r + 1.3067284816) * r + 2.7568153900) * r + 1.4234372777;
    const double under = (1.2021132975e-1 * r + 7.3700164250e-1) * r + 1.0;
    const double z = above / under;
    return q < 0.0 ? -z : z;
}

void draw_normals(const Stream& stream, int64_t count, double std, float* values) {
    Block block{};
    for (int64_t i = 0; i < count; ++i) {
        if (i % 4 == 0) block = draw_block(stream, static_cast<uint32_t>(i / 4));
        values[i] = static_cast<float>(normal(block.word[i % 4]) * std);
    }
}

}  // namespace spikemesh
