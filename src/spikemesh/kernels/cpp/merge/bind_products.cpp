// add_products for Python: raw bytes and factors in, plain numbers out, the GIL released while it runs.
#include <nanobind/stl/optional.h>

#include <optional>
#include <type_traits>

#include "../arrays.hpp"
#include "../bindings.hpp"
#include "../dispatch.hpp"
#include "elements.hpp"
#include "products.hpp"

namespace spikemesh {
namespace {

constexpr int64_t kMaxInteger = int64_t{1} << 28;

template <class Real>
nb::tuple add_products(In<uint8_t> base, int element, int64_t start, int64_t columns, In<Real> left, In<Real> right,
                       In<double> reach, In<int64_t> weights, In<double> scales, int64_t divisor, Out<uint8_t> out,
                       int out_element, std::optional<Out<uint8_t>> predicted) {
    const Format in = format_of(element), result = format_of(out_element);
    require(in.size && result.size, "unknown element type");
    require(out.size() % result.size == 0, "out does not hold whole elements");
    const int64_t size = static_cast<int64_t>(out.size()) / result.size, num_terms = static_cast<int64_t>(weights.size());
    require(base.size() == static_cast<size_t>(size) * in.size, "expected a base of the size of out");
    require(!predicted || predicted->size() == base.size(), "expected a prediction of the size of the base");
    require(columns > 0 && start >= 0, "expected a place in a matrix");
    require(scales.size() == weights.size() && reach.size() == weights.size(), "expected one scale per term");
    require(right.size() == static_cast<size_t>(num_terms * columns), "expected [terms, columns] on the right");
    require(num_terms == 0 || (left.size() % num_terms == 0 && static_cast<int64_t>(left.size()) / num_terms * columns >= start + size),
            "expected [rows, terms] on the left");
    require(divisor > 0 && divisor <= kMaxInteger, "expected a divisor of 1 to 2**28");
    for (size_t k = 0; k < weights.size(); ++k)
        require(weights.data()[k] >= -kMaxInteger && weights.data()[k] <= kMaxInteger, "expected weights of up to 2**28");
    const Factors<Real> factors{left.data(),   right.data(), reach.data(), weights.data(),
                                scales.data(), divisor,      num_terms,    columns};
    const Place place{base.data(), element, out.data(), out_element, predicted ? predicted->data() : nullptr, start, size};
    ProductCounts counts;
    run([&] {
        if constexpr (std::is_same_v<Real, float>)
            SPIKEMESH_PICK(add_products_f32)(place, factors, counts);
        else
            SPIKEMESH_PICK(add_products_f64)(place, factors, counts);
    });
    return nb::make_tuple(counts.nonzero, counts.wide, counts.first_bad, counts.first_overflow);
}

template <class Real>
void bind(nb::module_& m, const char* name) {
    m.def(name, &add_products<Real>, nb::arg("base"), nb::arg("element"), nb::arg("start"), nb::arg("columns"), nb::arg("left"),
          nb::arg("right"), nb::arg("reach"), nb::arg("weights"), nb::arg("scales"), nb::arg("divisor"), nb::arg("out"),
          nb::arg("out_element"), nb::arg("predicted").none());
}

}  // namespace

void bind_products(nb::module_& m) {
    bind<float>(m, "add_products_f32");
    bind<double>(m, "add_products_f64");
}

}  // namespace spikemesh
