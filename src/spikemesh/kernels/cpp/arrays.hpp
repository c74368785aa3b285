// What bindings share: plain contiguous arrays from Python, the check that turns misuse into ValueError, and how to run.
#pragma once
#include <nanobind/nanobind.h>
#include <nanobind/ndarray.h>

#include <cfenv>
#include <cstdint>
#include <stdexcept>

namespace spikemesh {

namespace nb = nanobind;

template <class T>
using In = nb::ndarray<const T, nb::ndim<1>, nb::c_contig, nb::device::cpu>;

template <class T>
using Out = nb::ndarray<T, nb::ndim<1>, nb::c_contig, nb::device::cpu>;

inline void require(bool holds, const char* message) {
    if (!holds) throw std::invalid_argument(message);
}

// Runs `kernel` without the GIL, rounding to nearest and keeping subnormal numbers, whatever other code has set for this
// thread (torch.set_flush_denormal does), because results must be the same bits everywhere.
template <class Kernel>
void run(const Kernel& kernel) {
    nb::gil_scoped_release release;
    std::fenv_t found;
    std::fegetenv(&found);
    std::fesetenv(FE_DFL_ENV);
    kernel();
    std::fesetenv(&found);
}

}  // namespace spikemesh
