// Sums of integer multiples of doubles, divided by an integer, without any rounding but the last.
#include "exact.hpp"

#include <algorithm>
#include <cmath>
#include <cstdint>

#include "elements.hpp"
#include "wide_sum.hpp"

namespace spikemesh {
namespace {

// weight * value, weight below 2^31 in magnitude.
struct Term {
    int64_t weight;
    double value;
};

// 38 limbs hold 2^31 of them over the whole range of double.
WideSum sum_of(const Term* terms, int count) {
    int low = 1 << 20, high = -(1 << 20);
    for (int i = 0; i < count; ++i) {
        if (terms[i].weight == 0 || terms[i].value == 0.0) continue;
        const int exponent = Significand(terms[i].value).exponent;
        low = exponent < low ? exponent : low;
        high = exponent > high ? exponent : high;
    }
    WideSum sum(low, high + 53 + 31 + 31);
    for (int i = 0; i < count; ++i) {
        if (terms[i].weight == 0 || terms[i].value == 0.0) continue;
        const Significand value(terms[i].value);
        const uint64_t weight = static_cast<uint64_t>(terms[i].weight < 0 ? -terms[i].weight : terms[i].weight);
        const unsigned __int128 product = static_cast<unsigned __int128>(value.bits) * weight;
        const uint64_t limbs[2] = {static_cast<uint64_t>(product), static_cast<uint64_t>(product >> 64)};
        sum.add(limbs, 2, value.exponent, value.negative != (terms[i].weight < 0));
    }
    return sum;
}

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
    const int elected = sum_of(terms, count + 1).sign();
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
        const int sign = sum_of(difference, 3).sign();
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
    const WideSum sum = sum_of(terms, count);
    const Rounding rounding = window.out_element == F64 ? Rounding::nearest_even : Rounding::to_odd;
    const double value = sum.divided_by(static_cast<uint64_t>(divisor), rounding);
    return {value, value == 0.0 && sum.sign() != 0};
}

}  // namespace spikemesh
