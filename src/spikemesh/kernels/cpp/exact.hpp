// One coordinate of `combine` in wide integers: slow and always right.
#pragma once
#include "combine.hpp"

namespace spikemesh {

enum class Rounding {
    nearest_even,  // to double: final for double
    to_odd,        // to double: a later rounding to fewer bits is then correct (Boldo & Melquiond 2008)
};

// How many of the held values trimmed-mean leaves out at each end (Yin et al. 2018, a quarter of them).
static inline int trim(int num_held) { return num_held < 3 ? 0 : num_held < 8 ? 1 : num_held / 4; }

// The window's rule over `values` [num_inputs], all finite. `masked`: the mask says that every input holds it.
double exact_value(const Window& window, const double* values, double base, bool masked, Rounding rounding);

}  // namespace spikemesh
