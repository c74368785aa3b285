// A sum of products of doubles and integers in one wide integer: no rounding but the last.
#pragma once
#include <cmath>
#include <cstdint>

namespace spikemesh {

enum class Rounding { nearest_even, to_odd };

// The significand of a finite double, 53 bits, and the exponent of its last bit.
struct Significand {
    uint64_t bits = 0;
    int exponent = 0;
    bool negative = false;

    explicit Significand(double x) {
        const double fraction = std::frexp(std::fabs(x), &exponent);
        bits = static_cast<uint64_t>(std::ldexp(fraction, 53));
        exponent -= 53;
        negative = x < 0.0;
    }
};

// A signed integer times 2^scale, in two's complement.
class WideSum {
  public:
    // For terms that are multiples of 2^low and, in magnitude and all together, below 2^high.
    WideSum(int low, int high) : size_(high > low ? (high - low) / 64 + 2 : 1), scale_(low) {
        for (int i = 0; i < size_; ++i) limbs_[i] = 0;
    }

    // limbs [count] times 2^exponent, count at most 4.
    void add(const uint64_t* limbs, int count, int exponent, bool negative) {
        const int limb = (exponent - scale_) / 64, bit = (exponent - scale_) % 64;
        uint64_t carry = negative, above = 0;
        const uint64_t flip = negative ? ~uint64_t{0} : 0;
        for (int i = limb; i < size_; ++i) {
            const uint64_t word = i - limb < count ? limbs[i - limb] : 0;
            const uint64_t part = bit ? (word << bit) | (above >> (64 - bit)) : word;
            above = word;
            const unsigned __int128 sum = static_cast<unsigned __int128>(limbs_[i]) + (part ^ flip) + carry;
            limbs_[i] = static_cast<uint64_t>(sum);
            carry = static_cast<uint64_t>(sum >> 64);
        }
    }

    int sign() const {
        if (static_cast<int64_t>(limbs_[size_ - 1]) < 0) return -1;
        for (int i = 0; i < size_; ++i)
            if (limbs_[i] != 0) return 1;
        return 0;
    }

    // The sum divided by `divisor` (1..2^62), rounded once.
    double divided_by(uint64_t divisor, Rounding rounding) const {
        const int sign = this->sign();
        if (sign == 0) return 0.0;
        uint64_t quotient[kLimbs + 2] = {0, 0};  // two limbs of fraction below the sum's own
        for (int i = 0; i < size_; ++i) quotient[i + 2] = limbs_[i];
        const int size = size_ + 2;
        if (sign < 0) negate(quotient + 2, size_);
        unsigned __int128 rest = 0;
        for (int i = size - 1; i >= 0; --i) {
            const unsigned __int128 part = (rest << 64) | quotient[i];
            quotient[i] = static_cast<uint64_t>(part / divisor);
            rest = part % divisor;
        }
        return sign * rounded(quotient, size, scale_ - 128, rest != 0, rounding);
    }

  private:
    // Products of an integer of 62 bits and three doubles over their whole range; 2^31 of them.
    static constexpr int kLimbs = 106;
    uint64_t limbs_[kLimbs];
    int size_;
    int scale_;

    static void negate(uint64_t* limbs, int size) {
        uint64_t carry = 1;
        for (int i = 0; i < size; ++i) {
            limbs[i] = ~limbs[i] + carry;
            carry = carry && limbs[i] == 0;
        }
    }

    // A positive integer of `size` limbs times 2^scale, plus something below one unit where `more`.
    static double rounded(const uint64_t* limbs, int size, int scale, bool more, Rounding rounding) {
        int top = size - 1;
        while (limbs[top] == 0) --top;
        const int length = top * 64 + 64 - __builtin_clzll(limbs[top]);
        int drop = length - 53;                          // bits below the significand
        if (scale + drop < -1074) drop = -1074 - scale;  // a subnormal result has fewer
        uint64_t significand = bits_at(limbs, size, drop);
        bool half = false, sticky = more;
        if (drop > 0) {
            half = bit_at(limbs, size, drop - 1);
            for (int i = 0; i < (drop - 1) / 64 && i < size; ++i) sticky |= limbs[i] != 0;
            if ((drop - 1) / 64 < size)
                sticky |= (limbs[(drop - 1) / 64] & ((uint64_t{1} << ((drop - 1) % 64)) - 1)) != 0;
        }
        if (rounding == Rounding::to_odd)
            significand |= half || sticky;
        else
            significand += half && (sticky || (significand & 1));
        return std::ldexp(static_cast<double>(significand), scale + drop);
    }

    static bool bit_at(const uint64_t* limbs, int size, int at) {
        return at / 64 < size && ((limbs[at / 64] >> (at % 64)) & 1);
    }

    // 53 bits from bit `from` on.
    static uint64_t bits_at(const uint64_t* limbs, int size, int from) {
        const int limb = from / 64, bit = from % 64;
        if (limb >= size) return 0;
        uint64_t bits = limbs[limb] >> bit;
        if (bit && limb + 1 < size) bits |= limbs[limb + 1] << (64 - bit);
        return bits & ((uint64_t{1} << 53) - 1);
    }
};

}  // namespace spikemesh
