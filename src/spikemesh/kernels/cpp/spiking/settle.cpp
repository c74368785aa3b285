// Compiled once per instruction set, without fused multiply-add. Lanes of a vector are sequences of the sample, which do not
// touch each other, so that the results are the same bits with each.
#include "settle.hpp"

#include <cmath>
#include <limits>

#include "spikes.hpp"
#include "vectors.hpp"

namespace spikemesh::ISA {
namespace {

typedef uint32_t Words __attribute__((vector_size(4 * kWide)));

constexpr int kTile = 32;                                                   // tokens of one word of bits
constexpr int kParts = kTile / kWide, kAtOnce = kParts < 4 ? kParts : 4;  // whose sums and counts stay in registers

// Sums of one neuron's synapses over the tokens of a word of bits: of the weights that fired, and how many did.
INLINE void receive_tile(const uint8_t* bits, int64_t fan_in, const int32_t* columns, const float* weights, float* sums,
                         float* counts) {
    for (int first = 0; first < kParts; first += kAtOnce) {
        Words ones[kAtOnce];
        for (int p = 0; p < kAtOnce; ++p)
            for (int l = 0; l < kWide; ++l) ones[p][l] = 1u << ((first + p) * kWide + l);
        Floats sum[kAtOnce] = {};
        Ints count[kAtOnce] = {};
        for (int64_t k = 0; k < fan_in; ++k) {
            uint32_t word;
            std::memcpy(&word, bits + columns[k] * kBlockBytes, sizeof word);
            const Words words = Words{} + word;
            const Ints weight = (Ints)all(weights[k]);
            for (int p = 0; p < kAtOnce; ++p) {
                const Ints fired = (words & ones[p]) != 0;
                sum[p] += (Floats)(weight & fired);
                count[p] -= fired;
            }
        }
        for (int p = 0; p < kAtOnce; ++p) {
            store(sums + (first + p) * kWide, sum[p]);
            store(counts + (first + p) * kWide, __builtin_convertvector(count[p], Floats));
        }
    }
}

// The same for all tokens.
void receive(const Inputs& inputs, int64_t num_tokens, const int32_t* columns, const float* weights, float* sums,
                    float* counts) {
    for (int64_t token = 0; token < num_tokens; token += kTile) {
        const int64_t block = token / kBlockTokens, byte = token % kBlockTokens / 8;
        const uint8_t* bits = inputs.bits + block * inputs.num_inputs * kBlockBytes + byte;
        receive_tile(bits, inputs.fan_in, columns, weights, sums + token, counts + token);
    }
}

// The sample, [L, padded lanes]. What a lane beyond the last sequence receives never makes it fire.
struct Sample {
    static constexpr float kSilent = -std::numeric_limits<float>::infinity();
    int64_t num_steps, num_lanes, width;
    void lay(const float* tokens, float padding, float* out) const {
        for (int64_t t = 0; t < num_steps; ++t)
            for (int64_t b = 0; b < width; ++b) out[t * width + b] = b < num_lanes ? tokens[t * num_lanes + b] : padding;
    }
    void take(const float* laid, float* tokens) const {
        for (int64_t t = 0; t < num_steps; ++t)
            for (int64_t b = 0; b < num_lanes; ++b) tokens[t * num_lanes + b] = laid[t * width + b];
    }
};

// Calls each(step, lane, spikes) for a register full of sequences after the other, each from rest.
template <class Each>
INLINE void fire(const Sample& sample, float leak, const float* x, float threshold, const Each& each) {
    const Floats zero{}, leaks = all(leak), thresholds = all(threshold);
    for (int64_t lane = 0; lane < sample.width; lane += kWide) {
        Floats v{};
        for (int64_t t = 0; t < sample.num_steps; ++t) {
            const Floats u = leaks * v + load(x + t * sample.width + lane);
            const Ints fired = u >= thresholds;
            each(t, lane, fired);
            v = fired ? zero : u;
        }
    }
}

int64_t num_spikes(const Sample& sample, float leak, const float* x, float threshold) {
    Ints count{};
    fire(sample, leak, x, threshold, [&](int64_t, int64_t, Ints fired) { count -= fired; });
    int64_t total = 0;
    for (int i = 0; i < kWide; ++i) total += count[i];
    return total;
}

float threshold_for_rate(const Settling& job, const Sample& sample, const float* x) {
    float low = 0.0f, high = 0.0f;
    for (int64_t t = 0; t < sample.num_steps; ++t)
        for (int64_t b = 0; b < sample.num_lanes; ++b) {
            const float current = x[t * sample.width + b];
            low = current < low ? current : low, high = current > high ? current : high;
        }
    low *= job.span, high *= job.span;
    for (int step = 0; step < job.rate_steps; ++step) {
        const float middle = (low + high) * 0.5f;
        (num_spikes(sample, job.leak, x, middle) > job.max_spikes ? low : high) = middle;
    }
    return (low + high) * 0.5f;
}

// What a spike adds to the drift of all the neuron's synapses together: what came before it potentiates, what comes after it
// depresses. Both are traces of the inputs' number of spikes, one from either end.
void spike_drifts(const Settling& job, const Sample& sample, const float* counts, float* drifts) {
    for (int64_t lane = 0; lane < sample.width; lane += kWide) {
        Floats trace{};
        for (int64_t t = 0; t < sample.num_steps; ++t) {
            trace = job.potentiation_leak * trace + load(counts + t * sample.width + lane);
            store(drifts + t * sample.width + lane, job.potentiation * trace);
        }
        trace = Floats{};
        for (int64_t t = sample.num_steps - 1; t >= 0; --t) {
            float* drift = drifts + t * sample.width + lane;
            store(drift, load(drift) - job.depression * trace);
            trace = job.depression_leak * trace + load(counts + t * sample.width + lane);
        }
    }
}

// Each sequence's in the order of its tokens, then these in theirs.
double drift_of(const Settling& job, const Sample& sample, const float* x, float threshold, const float* drifts) {
    double total = 0.0;
    const Floats zero{};
    Floats sum{};
    const auto add = [&](int64_t lane) {
        for (int64_t b = lane; b < lane + kWide && b < sample.num_lanes; ++b) total += static_cast<double>(sum[b - lane]);
    };
    fire(sample, job.leak, x, threshold, [&](int64_t t, int64_t lane, Ints fired) {
        if (t == 0) sum = zero;
        sum += fired ? load(drifts + t * sample.width + lane) : zero;
        if (t == sample.num_steps - 1) add(lane);
    });
    return total;
}

void shift(const Sample& sample, const float* x, const float* counts, float offset, float* shifted) {
    const int64_t size = sample.num_steps * sample.width;
    for (int64_t i = 0; i < size; ++i) shifted[i] = x[i] + offset * counts[i];
}

float root_mean_square(const float* weights, int64_t fan_in) {
    double sum = 0.0;
    for (int64_t k = 0; k < fan_in; ++k) sum += static_cast<double>(weights[k]) * static_cast<double>(weights[k]);
    return static_cast<float>(std::sqrt(sum / static_cast<double>(fan_in)));
}

// By bisection; a larger offset makes the neuron follow its inputs more closely, so that the drift grows with it. It jumps
// where a spike moves, so the trial that came nearest is taken.
float offset_for_zero_drift(const Settling& job, const Sample& sample, float std, const float* x, const float* counts,
                                   const float* drifts, float* shifted) {
    float low = -job.max_offset * std, high = job.max_offset * std, nearest = 0.0f;
    double least = std::numeric_limits<double>::infinity();
    for (int step = 0; step < job.drift_steps; ++step) {
        const float middle = (low + high) * 0.5f;
        shift(sample, x, counts, middle, shifted);
        const float threshold = threshold_for_rate(job, sample, shifted);
        const double drift = drift_of(job, sample, shifted, threshold, drifts);
        if (std::fabs(drift) < least) least = std::fabs(drift), nearest = middle;
        (drift > 0.0 ? high : low) = middle;
    }
    return nearest;
}

void set_spikes(const Settling& job, const Sample& sample, const float* x, float threshold, uint8_t* spikes,
                       int64_t neuron, int64_t num_neurons) {
    fire(sample, job.leak, x, threshold, [&](int64_t t, int64_t lane, Ints fired) {
        for (uint32_t bits = bits_of(fired); bits; bits &= bits - 1) {
            const int64_t token = t * sample.num_lanes + lane + __builtin_ctz(bits);
            spikes[place_of(token / 64, neuron, num_neurons) + token % 64 / 8] |= static_cast<uint8_t>(1 << token % 8);
        }
    });
}

}  // namespace

float settle(const Settling& job, const Inputs& inputs, const int32_t* columns, float* weights, float* currents, float* scratch,
             uint8_t* spikes, int64_t neuron, int64_t num_neurons) {
    const Sample sample{job.num_steps, job.num_lanes, padded_lanes(job)};
    const int64_t size = sample.num_steps * sample.width, num_tokens = job.num_steps * job.num_lanes;
    float *const x = scratch, *const counts = x + size, *const drifts = counts + size, *const shifted = drifts + size;
    float *const sums = shifted + size, *const received = sums + (num_tokens + kTile - 1) / kTile * kTile;
    float* laid = x;
    if (inputs.fan_in > 0) {
        receive(inputs, num_tokens, columns, weights, sums, received);
        for (int64_t i = 0; i < num_tokens; ++i) currents[i] += sums[i];
        sample.lay(received, 0.0f, counts);
    }
    sample.lay(currents, Sample::kSilent, x);
    if (inputs.fan_in > 0) {
        spike_drifts(job, sample, counts, drifts);
        const float std = root_mean_square(weights, inputs.fan_in);
        const float offset = offset_for_zero_drift(job, sample, std, x, counts, drifts, shifted);
        for (int64_t k = 0; k < inputs.fan_in; ++k) weights[k] += offset;
        shift(sample, x, counts, offset, laid = shifted);
        sample.take(laid, currents);
    }
    const float threshold = threshold_for_rate(job, sample, laid);
    set_spikes(job, sample, laid, threshold, spikes, neuron, num_neurons);
    return threshold;
}

}  // namespace spikemesh::ISA
