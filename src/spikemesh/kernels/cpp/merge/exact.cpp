// Sums of integer multiples of doubles, divided by an integer, without any rounding but the last.
#include "exact.hpp"

#include <algorithm>
#include <cmath>
#include <cstdint>

#include "elements.hpp"

namespace spikemesh {
namespace {

enum class Rounding { nearest_even, to_odd };

// weight * value, weight below 2^31 in magnitude.
struct Term {
    int64_t weight;
    double value;
};

// A signed integer times 2^scale, in two's complement. 38 limbs hold 2^31 terms over the whole range of double.
class WideSum {
  public:
    WideSum(const Term* terms, int count) {
        int low = 1 << 20, high = -(1 << 20);
        for (int i = 0; i < count; ++i) {
            if (terms[i].weight == 0 || terms[i].value == 0.0) continue;
            int exponent = 0;
            std::frexp(terms[i].value, &exponent);
            low = exponent - 53 < low ? exponent - 53 : low;
            high = exponent > high ? exponent : high;
        }
        if (low > high) return;
        scale_ = low < -1074 ? -1074 : low;
        size_ = (high - scale_ + 31 + 33) / 64 + 2;
        for (int i = 0; i < count; ++i) add(terms[i]);
    }

    int sign() const {
        if (size_ == 0) return 0;
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
    static constexpr int kLimbs = 38;
    uint64_t limbs_[kLimbs] = {0};
    int size_ = 0;
    int scale_ = 0;

    static void negate(uint64_t* limbs, int size) {
        uint64_t carry = 1;
        for (int i = 0; i < size; ++i) {
            limbs[i] = ~limbs[i] + carry;
            carry = carry && limbs[i] == 0;
        }
    }

    void add(const Term& term) {
        if (term.weight == 0 || term.value == 0.0) return;
        int exponent = 0;
        const double fraction = std::frexp(term.value, &exponent);
        int64_t significand = static_cast<int64_t>(std::ldexp(fraction, 53));
        int shift = exponent - 53 - scale_;
        if (shift < 0) {  // a subnormal: its low bits are zeros
            significand /= int64_t{1} << -shift;
            shift = 0;
        }
        const __int128 product = static_cast<__int128>(significand) * term.weight;
        const int limb = shift / 64, bit = shift % 64;
        const uint64_t low = static_cast<uint64_t>(product), high = static_cast<uint64_t>(product >> 64);
        const uint64_t fill = product < 0 ? ~uint64_t{0} : 0;
        uint64_t parts[3] = {low, high, fill};
        if (bit) {
            parts[2] = (fill << bit) | (high >> (64 - bit));
            parts[1] = (high << bit) | (low >> (64 - bit));
            parts[0] = low << bit;
        }
        unsigned carry = 0;
        for (int i = limb; i < size_; ++i) {
            const int part = i - limb;
            const unsigned __int128 sum =
                static_cast<unsigned __int128>(limbs_[i]) + (part < 3 ? parts[part] : fill) + carry;
            limbs_[i] = static_cast<uint64_t>(sum);
            carry = static_cast<unsigned>(sum >> 64);
        }
    }

    // A positive integer of `size` limbs times 2^scale, plus something below one unit where `more`.
    static double rounded(const uint64_t* limbs, int size, int scale, bool more, Rounding rounding) {
        int top = size - 1;
        while (limbs[top] == 0) --top;
        const int length = top * 64 + 64 - __builtin_clzll(limbs[top]);
        int drop = length - 53;                                // bits below the significand
        if (scale + drop < -1074) drop = -1074 - scale;         // a subnormal result has fewer
        uint64_t significand = bits_at(limbs, size, drop);
        bool half = false, sticky = more;
        if (drop > 0) {
            half = (limbs[(drop - 1) / 64] >> ((drop - 1) % 64)) & 1;
            for (int i = 0; i < (drop - 1) / 64; ++i) sticky |= limbs[i] != 0;
            sticky |= (limbs[(drop - 1) / 64] & ((uint64_t{1} << ((drop - 1) % 64)) - 1)) != 0;
        }
        if (rounding == Rounding::to_odd)
            significand |= half || sticky;
        else
            significand += half && (sticky || (significand & 1));
        return std::ldexp(static_cast<double>(significand), scale + drop);
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

// Keep what the rule chooses of `terms` [count]; returns how many.
int drop_ends(Term* terms, int count) {
    std::sort(terms, terms + count, [](const Term& a, const Term& b) {
        return a.value != b.value ? a.value < b.value : a.weight < b.weight;
    });
    const int dropped = trim(count);
    std::copy(terms + dropped, terms + count - dropped, terms);
    return count - 2 * dropped;
}

int64_t total_weight(const Term* terms, int count) {
    int64_t total = 0;
    for (int i = 0; i < count; ++i) total += terms[i].weight;
    return total;
}

// `terms` has room for one more. Ties keep nothing.
int elect_sign(Term* terms, int count, double base) {
    terms[count] = {-total_weight(terms, count), base};
    const int elected = WideSum(terms, count + 1).sign();
    if (elected == 0) return 0;
    return static_cast<int>(std::remove_if(terms, terms + count, [&](const Term& term) {
        return (term.value > base) - (term.value < base) != elected;
    }) - terms);
}

double furthest(const Term* terms, int count, double base) {
    double best = terms[0].value;
    for (int i = 1; i < count; ++i) {
        const double v = terms[i].value;
        const int s = v > base ? 1 : -1, t = best > base ? 1 : -1;
        const Term difference[3] = {{s, v}, {-t, best}, {t - s, base}};  // |v - base| - |best - base|
        const int sign = WideSum(difference, 3).sign();
        if (sign > 0 || (sign == 0 && v > best)) best = v;
    }
    return best;
}

}  // namespace

Exact exact_value(const Window& window, const double* values, double base, bool masked) {
    Term terms[kMaxInputs + 1];
    const bool everywhere = window.rule == MEAN || window.rule == SUM || masked;
    int count = 0;
    for (int i = 0; i < window.num_inputs; ++i)
        if (everywhere || values[i] != base) terms[count++] = {window.weights[i], values[i]};
    int64_t divisor = 0;
    switch (count == 0 ? -1 : window.rule) {
        case MAX_MAGNITUDE: return {furthest(terms, count, base), false};
        case SUM:
            divisor = window.divisor;
            terms[count] = {divisor - total_weight(terms, count), base};
            ++count;
            break;
        case TRIMMED_MEAN: count = drop_ends(terms, count); break;
        case SIGN_ELECT: count = elect_sign(terms, count, base); break;
        default: break;
    }
    if (count == 0) return {base, false};
    if (divisor == 0) divisor = total_weight(terms, count);
    const WideSum sum(terms, count);
    const Rounding rounding = window.out_element == F64 ? Rounding::nearest_even : Rounding::to_odd;
    const double value = sum.divided_by(static_cast<uint64_t>(divisor), rounding);
    return {value, value == 0.0 && sum.sign() != 0};
}

}  // namespace spikemesh
