// Leaky membranes along the token axis, forward and backward; snn/functional.py has the equations.
//
// A *lane* is one neuron in one batch row: its potential is a chain of dependent steps. A few registers full of lanes, a *tile*,
// are worked on at a time. There are two memory layouts:
//   time-major     [L, B, N]: at one step the lanes are the neurons, row by row of the batch
//   feature-major  [N, L, B]: at one step the lanes are the batch, neuron by neuron
// In both, lane = outer * inner_size + inner lies at outer * outer_stride + inner + token * step.
#pragma once
#include <cstddef>
#include <cstdint>

#include "../inline.hpp"

namespace spikemesh {

struct Lanes {
    int64_t num_steps;
    int64_t inner_size, outer_size;
    int64_t outer_stride, step;  // in floats
    bool neurons_inside;         // time-major; else the neurons are outside
};

constexpr int64_t kMaxTileLanes = 64;

// v0 null: at rest. Threshold null: nothing fires, and y is the potential. Bits, if not null, take the spikes instead of y (spikes.hpp); they
// are zero before, and the layout is feature-major.
struct LifForward {
    Lanes lanes;
    const float *x, *v0, *leak, *threshold;
    float *y, *v;
    uint8_t* bits;
};

struct LifBackward {
    Lanes lanes;
    float sharpness;
    const float *x, *v0, *leak, *threshold;
    const float *grad_y, *grad_v;  // grad_v may be null,
    float *grad_x, *grad_v0;       // and so may grad_v0
};

// Floats of scratch for one call: backward keeps a tile's potentials; what does not lie in whole vectors is copied.
INLINE int64_t lif_scratch(const Lanes& lanes) { return 3 * kMaxTileLanes * lanes.num_steps; }

// The lanes of outer first..last. The gradients of leak and threshold are added to [N] doubles.
#define SPIKEMESH_DECLARE(isa)                                                                                       \
    namespace isa {                                                                                                  \
    void lif_forward(const LifForward& job, int64_t first, int64_t last, float* scratch);                            \
    void lif_backward(const LifBackward& job, int64_t first, int64_t last, float* scratch, double* grad_leak,        \
                      double* grad_threshold);                                                                       \
    }
SPIKEMESH_DECLARE(generic)
SPIKEMESH_DECLARE(avx2)
SPIKEMESH_DECLARE(avx512)
#undef SPIKEMESH_DECLARE

}  // namespace spikemesh
