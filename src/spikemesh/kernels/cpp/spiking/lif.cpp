// Compiled once per instruction set, with fused multiply-add where there is one, as torch has it: a spike is a comparison,
// so the last bit of a potential counts.
#include "lif.hpp"

#include "spikes.hpp"
#include "vectors.hpp"

namespace spikemesh::ISA {

// Chains of dependent steps that run side by side, so that one need not wait for another's result.
constexpr int kVectors = 4;
constexpr int64_t kTileLanes = kVectors * kWide;
static_assert(kTileLanes <= kMaxTileLanes && kTileLanes % 8 == 0);
constexpr int64_t kStreamedSize = 8 << 20;  // floats

// ---- which lanes ----------------------------------------------------------------------------------------------------

// Up to kTileLanes lanes.
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

// Whether all lanes of a full tile share `outer`: the common case, and the fast one.
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

// A register is filled from `parts` places, one after the other: from two where a batch is half as wide as a register.
constexpr int64_t kHalf = kWide / 2;

// The tile's values at every step: the places of its registers, that each move on by `step`.
template <class Float, int parts>
struct Steps {
    Float* place[kVectors * parts];
    int64_t step;
};

template <int parts, class Float>
INLINE Floats read(const Steps<Float, parts>& steps, int i, int64_t t) {
    const int64_t at = t * steps.step;
    return parts == 1 ? load(steps.place[i] + at) : load_halves(steps.place[2 * i] + at, steps.place[2 * i + 1] + at);
}

template <bool streams, int parts>
INLINE void write(const Steps<float, parts>& steps, int i, int64_t t, Floats x) {
    const int64_t at = t * steps.step;
    if (streams) stream(steps.place[i] + at, x);
    else if (parts == 1) store(steps.place[i] + at, x);
    else store_halves(steps.place[2 * i] + at, steps.place[2 * i + 1] + at, x);
}

// From how many places a tile's registers are filled where it lies; 0: from more, so through scratch.
INLINE int parts_of(const Lanes& lanes, const Tile& tile) {
    if (tile.count < kTileLanes) return 0;
    if (lanes.outer_stride == lanes.inner_size || lanes.inner_size % kWide == 0) return 1;
    return lanes.inner_size % kHalf == 0 ? 2 : 0;
}

template <int parts, class Float>
INLINE Steps<Float, parts> in_place(const Lanes& lanes, const Tile& tile, Float* data) {
    Steps<Float, parts> steps{{}, lanes.step};
    if (lanes.outer_stride == lanes.inner_size || is_run(lanes, tile)) {
        Float* first = data + tile.lane / lanes.inner_size * lanes.outer_stride + tile.lane % lanes.inner_size;
        for (int i = 0; i < kVectors * parts; ++i) steps.place[i] = first + i * (kWide / parts);
        return steps;
    }
    for (int i = 0; i < kVectors * parts; ++i) {
        const int64_t lane = tile.lane + i * (kWide / parts);
        steps.place[i] = data + lane / lanes.inner_size * lanes.outer_stride + lane % lanes.inner_size;
    }
    return steps;
}

template <class Float>
INLINE Steps<Float, 1> in_scratch(Float* scratch) {
    Steps<Float, 1> steps{{}, kTileLanes};
    for (int i = 0; i < kVectors; ++i) steps.place[i] = scratch + i * kWide;
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

template <bool fires, bool streams, int x_parts, int y_parts>
INLINE void forward_steps(const Neurons& neurons, int64_t num_steps, const Steps<const float, x_parts>& x, Floats* v,
                          const Steps<float, y_parts>& y) {
    const Floats zero{}, one = all(1.0f);
    for (int64_t t = 0; t < num_steps; ++t)
        for (int i = 0; i < kVectors; ++i) {
            const Floats u = read(x, i, t) + neurons.leak[i] * v[i];
            const Ints fired = u >= neurons.threshold[i];
            write<streams>(y, i, t, fires ? fired ? one : zero : u);
            v[i] = fires ? fired ? zero : u : u;
        }
}

// The same with the spikes of a step as the bits of one word.
template <int parts>
INLINE void forward_bits(const Neurons& neurons, int64_t num_steps, const Steps<const float, parts>& x, Floats* v, uint64_t* spikes) {
    const Floats zero{};
    for (int64_t t = 0; t < num_steps; ++t) {
        uint64_t word = 0;
        for (int i = 0; i < kVectors; ++i) {
            const Floats u = read(x, i, t) + neurons.leak[i] * v[i];
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

INLINE void place_run(const Lanes& lanes, const uint64_t* spikes, int64_t at, int64_t neuron, int64_t row, int64_t count, uint8_t* bits) {
    const uint64_t kept = count == 64 ? ~uint64_t{0} : (uint64_t{1} << count) - 1;
    for (int64_t t = 0; t < lanes.num_steps; ++t) {
        const int64_t token = t * lanes.inner_size + row, shift = token % 64;
        const uint64_t run = spikes[t] >> at & kept;
        or_word(bits + place_of(token / 64, neuron, lanes.outer_size), run << shift);
        if (shift + count > 64) or_word(bits + place_of(token / 64 + 1, neuron, lanes.outer_size), run >> (64 - shift));
    }
}

// Eight rows of a batch of eights are a byte.
INLINE void place_byte(const Lanes& lanes, const uint64_t* spikes, int64_t at, int64_t neuron, int64_t row, uint8_t* bits) {
    uint8_t* place = bits + neuron * kBlockBytes;
    for (int64_t t = 0, byte = row / 8; t < lanes.num_steps; ++t, byte += lanes.inner_size / 8)
        place[byte / kBlockBytes * (lanes.outer_size * kBlockBytes) + byte % kBlockBytes] = static_cast<uint8_t>(spikes[t] >> at);
}

// Puts a tile's words where its neurons' tokens are.
INLINE void place_bits(const Lanes& lanes, const Tile& tile, const uint64_t* spikes, uint8_t* bits) {
    for_runs(lanes, tile, [&](int64_t at, int64_t neuron, int64_t row, int64_t count) {
        if (lanes.inner_size % 8 != 0) return place_run(lanes, spikes, at, neuron, row, count, bits);
        for (int64_t first = 0; first < count; first += 8) place_byte(lanes, spikes, at + first, neuron, row + first, bits);
    });
}

enum class Result { spikes, streamed_spikes, potentials, streamed_potentials, bits };

// One tile from where it lies, or from scratch; results go to `y`, which may be scratch too.
template <Result result, int parts>
INLINE void forward_tile(const LifForward& job, const Tile& tile, const Neurons& neurons, const Steps<const float, parts>& x, Floats* v,
                         const Steps<float, parts>& y, uint64_t* spikes) {
    constexpr bool fires = result != Result::potentials && result != Result::streamed_potentials;
    constexpr bool streams = parts == 1 && (result == Result::streamed_spikes || result == Result::streamed_potentials);
    if (result == Result::bits) {
        forward_bits(neurons, job.lanes.num_steps, x, v, spikes);
        place_bits(job.lanes, tile, spikes, job.bits);
    } else {
        forward_steps<fires, streams>(neurons, job.lanes.num_steps, x, v, y);
    }
}

template <Result result>
static void forward(const LifForward& job, int64_t first, int64_t last, float* scratch) {
    const Lanes& lanes = job.lanes;
    const int64_t end = last * lanes.inner_size;
    uint64_t* spikes = reinterpret_cast<uint64_t*>(scratch + kTileLanes * lanes.num_steps);
    for (int64_t lane = first * lanes.inner_size; lane < end; lane += kTileLanes) {
        const Tile tile{lane, end - lane < kTileLanes ? end - lane : kTileLanes};
        const Neurons neurons = neurons_of(lanes, tile, job.leak, job.threshold);
        Floats v[kVectors];
        load_lanes(tile, job.v0, v);
        const int parts = parts_of(lanes, tile);
        if (parts == 1) {
            forward_tile<result, 1>(job, tile, neurons, in_place<1>(lanes, tile, job.x), v, in_place<1>(lanes, tile, job.y), spikes);
        } else if (parts == 2) {
            forward_tile<result, 2>(job, tile, neurons, in_place<2>(lanes, tile, job.x), v, in_place<2>(lanes, tile, job.y), spikes);
        } else {
            constexpr Result cached = result == Result::streamed_spikes ? Result::spikes
                                      : result == Result::streamed_potentials ? Result::potentials : result;
            gather(lanes, tile, job.x, scratch);
            forward_tile<cached, 1>(job, tile, neurons, in_scratch<const float>(scratch), v, in_scratch(scratch), spikes);
            if (result != Result::bits) scatter(lanes, tile, scratch, job.y);
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

// Vectors of a tile that go through all steps side by side: all that they carry stays in registers.
constexpr int kPair = 2;
static_assert(kVectors % kPair == 0);

struct Sums {
    Floats leak[kVectors], threshold[kVectors];
};

// Steps lie far apart, and more of them are read side by side than the processor fetches ahead by itself.
constexpr int64_t kAhead = 256;

struct Surrogate {
    Floats slope, scale;
};

// u[t] again, which forward did not keep, of the tile's vectors from `first` on.
template <bool fires, int parts>
INLINE void recompute(const Neurons& neurons, int first, int64_t num_steps, const Steps<const float, parts>& x, const Floats* v0,
                      float* potentials) {
    const Floats zero{};
    Floats v[kPair];
    for (int i = 0; i < kPair; ++i) v[i] = v0[first + i];
    for (int64_t t = 0; t < num_steps; ++t)
        for (int i = 0; i < kPair; ++i) {
            __builtin_prefetch(x.place[(first + i) * parts] + t * x.step + kAhead);
            const Floats u = read(x, first + i, t) + neurons.leak[first + i] * v[i];
            store(potentials + (t * kPair + i) * kWide, u);
            v[i] = fires ? u >= neurons.threshold[first + i] ? zero : u : u;
        }
}

// One step of the gradient, latest token first; `carry` comes from the token after it and goes to the one before it.
template <bool fires>
INLINE Floats backward_step(Floats u, Floats before, Floats grad, Floats leak, Floats threshold, const Surrogate& surrogate,
                            Floats& carry, Floats& sum_leak, Floats& sum_threshold) {
    Floats g = grad;
    if (fires) {
        const Floats distance = (u - threshold) * surrogate.slope;
        g = grad * (reciprocal(distance * distance + 1.0f) * surrogate.scale);
        sum_threshold -= g;
        g += u >= threshold ? Floats{} : carry;
    } else {
        g += carry;
    }
    carry = leak * g;
    sum_leak += g * before;
    return g;
}

template <bool fires, bool streams, int parts>
INLINE void backward_pair(const Neurons& neurons, int first, int64_t num_steps, const Surrogate& surrogate, const float* potentials,
                          const Floats* v0, const Steps<const float, parts>& grad_y, const Steps<float, parts>& grad_x, Floats* carry,
                          Sums& sums) {
    Floats u[kPair], carried[kPair], leak[kPair] = {}, threshold[kPair] = {};
    for (int i = 0; i < kPair; ++i) {
        carried[i] = carry[first + i];
        u[i] = num_steps > 0 ? load(potentials + ((num_steps - 1) * kPair + i) * kWide) : Floats{};
    }
    for (int64_t t = num_steps - 1; t >= 0; --t)
        for (int i = 0; i < kPair; ++i) {
            __builtin_prefetch(grad_y.place[(first + i) * parts] + t * grad_y.step - kAhead);
            Floats earlier{}, before = v0[first + i];
            if (t > 0) {
                earlier = load(potentials + ((t - 1) * kPair + i) * kWide);
                before = fires ? earlier >= neurons.threshold[first + i] ? Floats{} : earlier : earlier;
            }
            const Floats g = backward_step<fires>(u[i], before, read(grad_y, first + i, t), neurons.leak[first + i],
                                                  neurons.threshold[first + i], surrogate, carried[i], leak[i], threshold[i]);
            write<streams>(grad_x, first + i, t, g);
            u[i] = earlier;
        }
    for (int i = 0; i < kPair; ++i) {
        carry[first + i] = carried[i], sums.leak[first + i] = leak[i];
        if (fires) sums.threshold[first + i] = threshold[i];
    }
}

template <bool fires, bool streams, int parts>
INLINE void backward_tile(const Neurons& neurons, int64_t num_steps, float sharpness, float* potentials,
                          const Steps<const float, parts>& x, const Floats* v0, const Steps<const float, parts>& grad_y, Floats* carry,
                          const Steps<float, parts>& grad_x, Sums& sums) {
    const Surrogate surrogate{all(static_cast<float>(1.57079632679489661923 * static_cast<double>(sharpness))), all(sharpness / 2)};
    for (int first = 0; first < kVectors; first += kPair) {
        recompute<fires>(neurons, first, num_steps, x, v0, potentials);
        backward_pair<fires, streams>(neurons, first, num_steps, surrogate, potentials, v0, grad_y, grad_x, carry, sums);
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
        const Neurons neurons = neurons_of(lanes, tile, job.leak, job.threshold);
        Floats v0[kVectors], carry[kVectors];
        Sums sums;
        load_lanes(tile, job.v0, v0);
        load_lanes(tile, job.grad_v, carry);
        const int parts = parts_of(lanes, tile);
        if (parts == 1) {
            backward_tile<fires, streams>(neurons, lanes.num_steps, job.sharpness, potentials, in_place<1>(lanes, tile, job.x), v0,
                                          in_place<1>(lanes, tile, job.grad_y), carry, in_place<1>(lanes, tile, job.grad_x), sums);
        } else if (parts == 2) {
            backward_tile<fires, false>(neurons, lanes.num_steps, job.sharpness, potentials, in_place<2>(lanes, tile, job.x), v0,
                                        in_place<2>(lanes, tile, job.grad_y), carry, in_place<2>(lanes, tile, job.grad_x), sums);
        } else {
            gather(lanes, tile, job.x, copied_x);
            gather(lanes, tile, job.grad_y, copied_grad);
            backward_tile<fires, false>(neurons, lanes.num_steps, job.sharpness, potentials, in_scratch<const float>(copied_x), v0,
                                        in_scratch<const float>(copied_grad), carry, in_scratch(copied_grad), sums);
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
