// One coordinate of `combine` in wide integers: slow and always right.
#pragma once
#include "combine.hpp"

namespace spikemesh {

// The exact result as a double. Where the window's result is double it is rounded to nearest, even; for fewer bits it is
// rounded to odd, so that the rounding to the element type, later, is correct (Boldo & Melquiond 2008).
struct Exact {
    double value;
    bool vanished;  // not zero, but zero in double
};

// How many of the held values trimmed-mean leaves out at each end (Yin et al. 2018, a quarter of them).
static inline int trim(int num_held) { return num_held < 3 ? 0 : num_held < 8 ? 1 : num_held / 4; }

// The window's rule over `values` [num_inputs], all finite. `masked`: the mask says that every input holds it.
Exact exact_value(const Window& window, const double* values, double base, bool masked);

}  // namespace spikemesh
