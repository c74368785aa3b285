// Compiled once per instruction set, with fused multiply-add where there is one, as torch has it: a spike is a comparison,
// so the last bit of a potential counts.
#include "lif.hpp"

#include <type_traits>

#include "spikes.hpp"
#include "vectors.hpp"

namespace spikemesh::ISA {

constexpr int kVectors = kTileLanes / kWide;
constexpr int64_t kStreamedSize = 8 << 20;  // floats

// ---- which lanes ----------------------------------------------------------------------------------------------------

// Up to sixty-four lanes, and what of them lies together.
struct Tile {
    int64_t lane;
    int64_t count;
};

// Calls visit(at, outer, inner, count) for each run of the tile's lanes that share `outer`; `at` counts from the tile's first.
template <class Visit>
INLINE void for_runs(const Lanes& lanes, const Tile& tile, const Visit& visit) {
    int64_t outer = tile.lane / lanes.inner_size, inner = tile.lane % lanes.inner_size;
    for (int64_t at = 0; at < tile.count; inner = 0, ++outer) {
        const int64_t rest = tile.count - at, row = lanes.inner_size - inner;
        const int64_t count = rest < row ? rest : row;
        visit(at, outer, inner, count);
        at += count;
    }
}

// Whether all sixty-four lanes share `outer`: the common case, and the fast one.
INLINE bool is_run(const Lanes& lanes, const Tile& tile) {
    return tile.count == kTileLanes && tile.lane % lanes.inner_size + kTileLanes <= lanes.inner_size;
}

// A neuron's parameter for each lane of the tile; unused lanes get `rest`.
INLINE void spread(const Lanes& lanes, const Tile& tile, const float* parameter, float rest, Floats* out) {
    if (is_run(lanes, tile)) {
        const float* first = parameter + (lanes.neurons_inside ? tile.lane % lanes.inner_size : tile.lane / lanes.inner_size);
        for (int i = 0; i < kVectors; ++i) out[i] = lanes.neurons_inside ? load(first + i * kWide) : all(*first);
        return;
    }
    float lane[kTileLanes];
    for (int64_t l = tile.count; l < kTileLanes; ++l) lane[l] = rest;
    for_runs(lanes, tile, [&](int64_t at, int64_t outer, int64_t inner, int64_t count) {
        for (int64_t l = 0; l < count; ++l) lane[at + l] = parameter[lanes.neurons_inside ? inner + l : outer];
    });
    std::memcpy(out, lane, sizeof lane);
}

// Adds each lane's value to its neuron's.
INLINE void collect(const Lanes& lanes, const Tile& tile, const Floats* values, double* out) {
    if (is_run(lanes, tile) && !lanes.neurons_inside) {
        double& sum = out[tile.lane / lanes.inner_size];
        for (int i = 0; i < kVectors; ++i) sum += total_of(values[i]);
        return;
    }
    float lane[kTileLanes];
    std::memcpy(lane, values, sizeof lane);
    for_runs(lanes, tile, [&](int64_t at, int64_t outer, int64_t inner, int64_t count) {
        for (int64_t l = 0; l < count; ++l) out[lanes.neurons_inside ? inner + l : outer] += lane[at + l];
    });
}

INLINE void load_lanes(const Tile& tile, const float* data, Floats* out) {
    if (data && tile.count == kTileLanes) {
        std::memcpy(out, data + tile.lane, kTileLanes * sizeof(float));
        return;
    }
    float lane[kTileLanes] = {};
    if (data) std::memcpy(lane, data + tile.lane, static_cast<size_t>(tile.count) * sizeof(float));
    std::memcpy(out, lane, sizeof lane);
}

INLINE void store_lanes(const Tile& tile, const Floats* values, float* data) {
    if (tile.count == kTileLanes) std::memcpy(data + tile.lane, values, kTileLanes * sizeof(float));
    else std::memcpy(data + tile.lane, values, static_cast<size_t>(tile.count) * sizeof(float));
}

// ---- where they lie -------------------------------------------------------------------------------------------------

// The tile's values at every step: four vectors that each move on by `step`.
template <class Float>
struct Steps {
    Float* vector[kVectors];
    int64_t step;
};

INLINE bool is_whole(const Lanes& lanes, const Tile& tile) {
    return tile.count == kTileLanes && (lanes.outer_stride == lanes.inner_size || lanes.inner_size % kWide == 0);
}

template <class Float>
INLINE Steps<Float> in_place(const Lanes& lanes, const Tile& tile, Float* data) {
    Steps<Float> steps{{}, lanes.step};
    const int64_t outer = tile.lane / lanes.inner_size, inner = tile.lane % lanes.inner_size;
    Float* first = data + outer * lanes.outer_stride + inner;
    const bool together = lanes.outer_stride == lanes.inner_size || inner + kTileLanes <= lanes.inner_size;
    for (int i = 0; i < kVectors; ++i) {
        const int64_t lane = tile.lane + i * kWide;
        steps.vector[i] = together ? first + i * kWide
                                   : data + lane / lanes.inner_size * lanes.outer_stride + lane % lanes.inner_size;
    }
    return steps;
}

INLINE Steps<float> in_scratch(float* scratch) {
    Steps<float> steps{{}, kTileLanes};
    for (int i = 0; i < kVectors; ++i) steps.vector[i] = scratch + i * kWide;
    return steps;
}

// Copies a run of `count` lanes at every step; a count known to the compiler becomes one move.
template <int count>
INLINE void copy_run(const float* from, int64_t from_step, float* to, int64_t to_step, int64_t num_steps) {
    for (int64_t t = 0; t < num_steps; ++t) std::memcpy(to + t * to_step, from + t * from_step, count * sizeof(float));
}

static void copy_run_of(int64_t count, const float* from, int64_t from_step, float* to, int64_t to_step, int64_t num_steps) {
    switch (count) {
        case 1: return copy_run<1>(from, from_step, to, to_step, num_steps);
        case 2: return copy_run<2>(from, from_step, to, to_step, num_steps);
        case 4: return copy_run<4>(from, from_step, to, to_step, num_steps);
        case 8: return copy_run<8>(from, from_step, to, to_step, num_steps);
    }
    for (int64_t t = 0; t < num_steps; ++t)
        for (int64_t l = 0; l < count; ++l) to[t * to_step + l] = from[t * from_step + l];
}

static void gather(const Lanes& lanes, const Tile& tile, const float* data, float* scratch) {
    if (tile.count < kTileLanes) std::memset(scratch, 0, static_cast<size_t>(lanes.num_steps * kTileLanes) * sizeof(float));
    for_runs(lanes, tile, [&](int64_t at, int64_t outer, int64_t inner, int64_t count) {
        copy_run_of(count, data + outer * lanes.outer_stride + inner, lanes.step, scratch + at, kTileLanes, lanes.num_steps);
    });
}

static void scatter(const Lanes& lanes, const Tile& tile, const float* scratch, float* data) {
    for_runs(lanes, tile, [&](int64_t at, int64_t outer, int64_t inner, int64_t count) {
        copy_run_of(count, scratch + at, kTileLanes, data + outer * lanes.outer_stride + inner, lanes.step, lanes.num_steps);
    });
}

// Whether results go past the cache: they are larger than it, and lie in whole vectors.
INLINE bool streamed(const Lanes& lanes, const float* out) {
    const int64_t size = lanes.num_steps * lanes.inner_size * lanes.outer_size;
    const bool aligned = reinterpret_cast<uintptr_t>(out) % sizeof(Floats) == 0 && lanes.inner_size % kWide == 0;
    return aligned && size >= kStreamedSize;
}

// ---- forward --------------------------------------------------------------------------------------------------------

struct Neurons {
    Floats leak[kVectors], threshold[kVectors];
};

INLINE Neurons neurons_of(const Lanes& lanes, const Tile& tile, const float* leak, const float* threshold) {
    Neurons neurons;
    spread(lanes, tile, leak, 0.0f, neurons.leak);
    if (threshold) spread(lanes, tile, threshold, 1.0f, neurons.threshold);
    return neurons;
}

template <bool streams>
INLINE void write(float* data, Floats x) {
    if (streams) stream(data, x);
    else store(data, x);
}

template <bool fires, bool streams>
INLINE void forward_steps(const Neurons& neurons, int64_t num_steps, const Steps<const float>& x, Floats* v,
                          const Steps<float>& y) {
    const Floats zero{}, one = all(1.0f);
    for (int64_t t = 0; t < num_steps; ++t)
        for (int i = 0; i < kVectors; ++i) {
            const Floats u = load(x.vector[i] + t * x.step) + neurons.leak[i] * v[i];
            if (fires) {
                const Ints fired = u >= neurons.threshold[i];
                write<streams>(y.vector[i] + t * y.step, fired ? one : zero);
                v[i] = fired ? zero : u;
            } else {
                write<streams>(y.vector[i] + t * y.step, u);
                v[i] = u;
            }
        }
}

// The same with the spikes of a step as the bits of one word.
INLINE void forward_bits(const Neurons& neurons, int64_t num_steps, const Steps<const float>& x, Floats* v, uint64_t* spikes) {
    const Floats zero{};
    for (int64_t t = 0; t < num_steps; ++t) {
        uint64_t word = 0;
        for (int i = 0; i < kVectors; ++i) {
            const Floats u = load(x.vector[i] + t * x.step) + neurons.leak[i] * v[i];
            const Ints fired = u >= neurons.threshold[i];
            word |= static_cast<uint64_t>(bits_of(fired)) << (i * kWide);
            v[i] = fired ? zero : u;
        }
        spikes[t] = word;
    }
}

INLINE void or_word(uint8_t* place, uint64_t bits) {
    uint64_t word;
    std::memcpy(&word, place, sizeof word);
    word |= bits;
    std::memcpy(place, &word, sizeof word);
}

// Puts a tile's words where its neurons' tokens are.
INLINE void place_bits(const Lanes& lanes, const Tile& tile, const uint64_t* spikes, uint8_t* bits) {
    for_runs(lanes, tile, [&](int64_t at, int64_t neuron, int64_t row, int64_t count) {
        const uint64_t kept = count == 64 ? ~uint64_t{0} : (uint64_t{1} << count) - 1;
        for (int64_t t = 0; t < lanes.num_steps; ++t) {
            const int64_t token = t * lanes.inner_size + row, shift = token % 64;
            const uint64_t run = spikes[t] >> at & kept;
            or_word(bits + place_of(token / 64, neuron, lanes.outer_size), run << shift);
            if (shift + count > 64) or_word(bits + place_of(token / 64 + 1, neuron, lanes.outer_size), run >> (64 - shift));
        }
    });
}

INLINE Steps<const float> readable(const Steps<float>& steps) {
    Steps<const float> result{{}, steps.step};
    for (int i = 0; i < kVectors; ++i) result.vector[i] = steps.vector[i];
    return result;
}

// Where to read the tile's values: where they lie, or in scratch, copied there.
INLINE Steps<const float> source(const Lanes& lanes, const Tile& tile, const float* data, float* scratch) {
    if (is_whole(lanes, tile)) return in_place(lanes, tile, data);
    gather(lanes, tile, data, scratch);
    return readable(in_scratch(scratch));
}

enum class Result { spikes, streamed_spikes, potentials, streamed_potentials, bits };

template <Result result>
static void forward(const LifForward& job, int64_t first, int64_t last, float* scratch) {
    constexpr bool fires = result != Result::potentials && result != Result::streamed_potentials;
    constexpr bool streams = result == Result::streamed_spikes || result == Result::streamed_potentials;
    const Lanes& lanes = job.lanes;
    const int64_t end = last * lanes.inner_size;
    for (int64_t lane = first * lanes.inner_size; lane < end; lane += kTileLanes) {
        const Tile tile{lane, end - lane < kTileLanes ? end - lane : kTileLanes};
        const Neurons neurons = neurons_of(lanes, tile, job.leak, job.threshold);
        Floats v[kVectors];
        load_lanes(tile, job.v0, v);
        const Steps<const float> x = source(lanes, tile, job.x, scratch);
        if (result == Result::bits) {
            uint64_t* spikes = reinterpret_cast<uint64_t*>(scratch + kTileLanes * lanes.num_steps);
            forward_bits(neurons, lanes.num_steps, x, v, spikes);
            place_bits(lanes, tile, spikes, job.bits);
        } else if (is_whole(lanes, tile)) {
            forward_steps<fires, streams>(neurons, lanes.num_steps, x, v, in_place(lanes, tile, job.y));
        } else {
            forward_steps<fires, false>(neurons, lanes.num_steps, x, v, in_scratch(scratch));
            scatter(lanes, tile, scratch, job.y);
        }
        store_lanes(tile, v, job.v);
    }
}

void lif_forward(const LifForward& job, int64_t first, int64_t last, float* scratch) {
    const bool streams = streamed(job.lanes, job.y);
    const auto run = job.bits        ? forward<Result::bits>
                     : job.threshold ? streams ? forward<Result::streamed_spikes> : forward<Result::spikes>
                     : streams       ? forward<Result::streamed_potentials>
                                     : forward<Result::potentials>;
    run(job, first, last, scratch);
}

// ---- backward -------------------------------------------------------------------------------------------------------

struct Sums {
    Floats leak[kVectors], threshold[kVectors];
};

// Steps lie far apart, and more of them are read side by side than the processor fetches ahead by itself.
constexpr int64_t kAhead = 4 * kTileLanes;

// Vector i of the tile: u[t] again, which forward did not keep.
template <bool fires, class Count>
INLINE void recompute(Floats leak, Floats threshold, Count num_steps, const float* x, int64_t x_step, Floats v, float* potentials) {
    const Floats zero{};
#pragma GCC unroll 8
    for (int64_t t = 0; t < num_steps; ++t) {
        __builtin_prefetch(x + t * x_step + kAhead);
        const Floats u = load(x + t * x_step) + leak * v;
        store(potentials + t * kWide, u);
        v = fires ? u >= threshold ? zero : u : u;
    }
}

// One step of the gradient, latest token first; `carry` comes from the token after it and goes to the one before it.
template <bool fires>
INLINE Floats backward_step(Floats u, Floats before, Floats grad, Floats leak, Floats threshold, Floats slope, Floats scale,
                            Floats& carry, Floats& sum_leak, Floats& sum_threshold) {
    Floats g = grad;
    if (fires) {
        Floats distance = (u - threshold) * slope;
        g = grad * (reciprocal(distance * distance + 1.0f) * scale);
        sum_threshold -= g;
        g += u >= threshold ? Floats{} : carry;
    } else {
        g += carry;
    }
    carry = leak * g;
    sum_leak += g * before;
    return g;
}

template <bool fires, bool streams, class Count>
INLINE void backward_steps(Floats leak, Floats threshold, Count num_steps, float sharpness, const float* potentials, Floats v0,
                           const float* grad_y, int64_t grad_y_step, float* grad_x, int64_t grad_x_step, Floats& carry,
                           Floats& sum_leak, Floats& sum_threshold) {
    const Floats slope = all(static_cast<float>(1.57079632679489661923 * static_cast<double>(sharpness)));
    const Floats scale = all(sharpness / 2), zero{};
#pragma GCC unroll 8
    for (int64_t t = num_steps - 1; t >= 0; --t) {
        __builtin_prefetch(grad_y + t * grad_y_step + kAhead);
        const float* at = potentials + t * kWide;
        Floats before = v0;
        if (t > 0) {
            before = load(at - kWide);
            if (fires) before = before >= threshold ? zero : before;
        }
        const Floats g = backward_step<fires>(load(at), before, load(grad_y + t * grad_y_step), leak, threshold, slope, scale, carry,
                                              sum_leak, sum_threshold);
        write<streams>(grad_x + t * grad_x_step, g);
    }
}

// One vector after the other through all steps: what is carried then stays in registers. For a number of steps that the
// compiler knows, the potentials do too, and loads of later steps do not wait for earlier ones.
template <bool fires, bool streams, class Count>
INLINE void backward_vectors(const Neurons& neurons, Count num_steps, float sharpness, float* potentials,
                          const Steps<const float>& x, const Floats* v0, const Steps<const float>& grad_y, Floats* carry,
                          const Steps<float>& grad_x, Sums& sums) {
    for (int i = 0; i < kVectors; ++i) {
        const Floats leak = neurons.leak[i], threshold = neurons.threshold[i];
        Floats carried = carry[i], sum_leak{}, sum_threshold{};
        recompute<fires>(leak, threshold, num_steps, x.vector[i], x.step, v0[i], potentials);
        backward_steps<fires, streams>(leak, threshold, num_steps, sharpness, potentials, v0[i], grad_y.vector[i], grad_y.step,
                                       grad_x.vector[i], grad_x.step, carried, sum_leak, sum_threshold);
        carry[i] = carried, sums.leak[i] = sum_leak, sums.threshold[i] = sum_threshold;
    }
}

template <bool fires, bool streams>
INLINE void backward_tile(const Neurons& neurons, int64_t num_steps, float sharpness, float* potentials,
                          const Steps<const float>& x, const Floats* v0, const Steps<const float>& grad_y, Floats* carry,
                          const Steps<float>& grad_x, Sums& sums) {
    const auto run = [&](auto count) {
        backward_vectors<fires, streams>(neurons, count, sharpness, potentials, x, v0, grad_y, carry, grad_x, sums);
    };
    switch (num_steps) {
        case 4: return run(std::integral_constant<int64_t, 4>{});
        case 8: return run(std::integral_constant<int64_t, 8>{});
        default: return run(num_steps);
    }
}

template <bool fires, bool streams>
static void backward(const LifBackward& job, int64_t first, int64_t last, float* scratch, double* grad_leak,
                     double* grad_threshold) {
    const Lanes& lanes = job.lanes;
    const int64_t end = last * lanes.inner_size, size = kTileLanes * lanes.num_steps;
    float *const potentials = scratch, *const copied_x = scratch + size, *const copied_grad = scratch + 2 * size;
    for (int64_t lane = first * lanes.inner_size; lane < end; lane += kTileLanes) {
        const Tile tile{lane, end - lane < kTileLanes ? end - lane : kTileLanes};
        const bool whole = is_whole(lanes, tile);
        const Neurons neurons = neurons_of(lanes, tile, job.leak, job.threshold);
        Floats v0[kVectors], carry[kVectors];
        Sums sums;
        load_lanes(tile, job.v0, v0);
        load_lanes(tile, job.grad_v, carry);
        const Steps<const float> x = source(lanes, tile, job.x, copied_x);
        const Steps<const float> grad_y = source(lanes, tile, job.grad_y, copied_grad);
        if (whole) {
            backward_tile<fires, streams>(neurons, lanes.num_steps, job.sharpness, potentials, x, v0, grad_y, carry,
                                          in_place(lanes, tile, job.grad_x), sums);
        } else {
            backward_tile<fires, false>(neurons, lanes.num_steps, job.sharpness, potentials, x, v0, grad_y, carry,
                                        in_scratch(copied_grad), sums);
            scatter(lanes, tile, copied_grad, job.grad_x);
        }
        if (job.grad_v0) store_lanes(tile, carry, job.grad_v0);
        collect(lanes, tile, sums.leak, grad_leak);
        if (fires) collect(lanes, tile, sums.threshold, grad_threshold);
    }
}

void lif_backward(const LifBackward& job, int64_t first, int64_t last, float* scratch, double* grad_leak,
                  double* grad_threshold) {
    const bool streams = streamed(job.lanes, job.grad_x);
    const auto run = job.threshold ? streams ? backward<true, true> : backward<true, false>
                                   : streams ? backward<false, true> : backward<false, false>;
    run(job, first, last, scratch, grad_leak, grad_threshold);
}

}  // namespace spikemesh::ISA
