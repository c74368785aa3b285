// One element of `add_products` in wide integers.
#include "products.hpp"

#include <cstdlib>

namespace spikemesh {
namespace {

// weight * scale * left * right as an integer of four limbs times a power of two.
struct Product {
    uint64_t limbs[4] = {0, 0, 0, 0};
    int exponent = 0;
    bool negative = false;

    Product(int64_t weight, double scale, double left, double right) {
        const Significand s(scale), l(left), r(right);
        exponent = s.exponent + l.exponent + r.exponent;
        negative = (weight < 0) != (s.negative != (l.negative != r.negative));
        limbs[0] = static_cast<uint64_t>(weight < 0 ? -weight : weight);
        times(s.bits);
        times(l.bits);
        times(r.bits);
    }

    void times(uint64_t factor) {
        unsigned __int128 carry = 0;
        for (uint64_t& limb : limbs) {
            carry += static_cast<unsigned __int128>(limb) * factor;
            limb = static_cast<uint64_t>(carry);
            carry >>= 64;
        }
    }
};

constexpr int kProductBits = 31 + 3 * 53;

}  // namespace

template <class Real>
ExactElement exact_element(const Factors<Real>& f, int64_t row, int64_t column, double base, bool subtract,
                           Rounding rounding) {
    const auto term = [&](int64_t k) {
        return Product(f.weights[k], f.scales[k], static_cast<double>(f.left[row * f.num_terms + k]),
                       static_cast<double>(f.right[k * f.columns + column]));
    };
    const auto is_zero = [&](int64_t k) {
        return f.weights[k] == 0 || f.scales[k] == 0.0 || f.left[row * f.num_terms + k] == Real(0) ||
               f.right[k * f.columns + column] == Real(0);
    };
    const Product ours(f.divisor, base, 1.0, 1.0);
    int low = 1 << 20, high = -(1 << 20);
    const auto cover = [&](int exponent) {
        low = exponent < low ? exponent : low;
        high = exponent > high ? exponent : high;
    };
    for (int64_t k = 0; k < f.num_terms; ++k)
        if (!is_zero(k)) cover(term(k).exponent);
    if (low > high) return {base, true};
    if (base != 0.0) cover(ours.exponent);
    WideSum sum(low, high + kProductBits + 32);
    for (int64_t k = 0; k < f.num_terms; ++k) {
        if (is_zero(k)) continue;
        const Product product = term(k);
        sum.add(product.limbs, 4, product.exponent, product.negative != subtract);
    }
    if (sum.sign() == 0) return {base, true};
    if (base != 0.0) sum.add(ours.limbs, 4, ours.exponent, ours.negative);
    return {sum.divided_by(static_cast<uint64_t>(f.divisor), rounding), false};
}

template ExactElement exact_element(const Factors<float>&, int64_t, int64_t, double, bool, Rounding);
template ExactElement exact_element(const Factors<double>&, int64_t, int64_t, double, bool, Rounding);

}  // namespace spikemesh
