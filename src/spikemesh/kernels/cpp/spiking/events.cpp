// Compiled once per instruction set (ISA names the namespace), without contraction: what is fused says so.
// Lists of 4-bit weights are of even length, so that their bytes are theirs alone.
#include "events.hpp"

#include <cstring>

#include "../isa.hpp"

namespace spikemesh::ISA {
namespace {

// u = leak * v + x, rounded once, as torch's addcmul does.
INLINE float leaky(float leak, float v, float x) { return __builtin_fmaf(leak, v, x); }

// Weight j + k, where j is even, and what sums of weights are kept in.
template <Weights kind>
struct Kind;
template <>
struct Kind<Weights::Float> {
    using Sum = float;
    static constexpr int bits = 32;
    INLINE float at(const void* weights, uint32_t j, uint32_t k) { return static_cast<const float*>(weights)[j + k]; }
};
template <>
struct Kind<Weights::Int8> {
    using Sum = int32_t;
    static constexpr int bits = 8;
    INLINE int32_t at(const void* weights, uint32_t j, uint32_t k) { return static_cast<const int8_t*>(weights)[j + k]; }
};
template <>
struct Kind<Weights::Int4> {
    using Sum = int32_t;
    static constexpr int bits = 4;
    INLINE int32_t at(const void* weights, uint32_t j, uint32_t k) {
        const int32_t pair = static_cast<const int8_t*>(weights)[(j >> 1) + (k >> 1)];
        return k & 1 ? pair >> 4 : static_cast<int32_t>(static_cast<uint32_t>(pair) << 28) >> 28;
    }
};

template <Weights kind>
INLINE const void* address(const void* weights, uint32_t j) {
    return static_cast<const uint8_t*>(weights) + static_cast<uint64_t>(j) * Kind<kind>::bits / 8;
}

INLINE float current(float sum, const float*, int) { return sum; }
INLINE float current(int32_t sum, const float* scale, int n) { return scale[n] * static_cast<float>(sum); }

// The ring's token of k steps ago, or -1.
INLINE int32_t token_before(const EventNetwork& net, const EventState& state, int k, int lane) {
    const int64_t slot = (state.clock + net.num_input_delays - k) % net.num_input_delays;
    return state.tokens[slot * state.num_lanes + lane];
}

INLINE uint32_t* sent_before(const EventNetwork& net, const EventState& state, int block, int k) {
    const int64_t slot = (state.clock + net.num_axon_delays - k) % net.num_axon_delays;
    return state.sent + (block * net.num_axon_delays + slot) * net.width;
}

// Axons of neurons [start, stop) of a stream population are k tokens late.
INLINE int delay_start(const EventNetwork& net, int k) {
    return static_cast<int>(static_cast<int64_t>(net.width) * k / net.num_axon_delays);
}

// Input currents of one lane into u, with `stride` floats between channels.
INLINE void input_currents(const EventNetwork& net, const EventState& state, int lane, int stride, float* u) {
    for (int k = 0; k < net.num_input_delays; ++k) {
        const int32_t token = token_before(net, state, k, lane);
        if (token < 0) continue;  // k = 0 is the token itself, never -1
        const float* e = net.embedding + static_cast<int64_t>(token) * net.width;
        const float* mix = net.delay_mix + static_cast<int64_t>(k) * net.width;
        if (k == 0)
            for (int d = 0; d < net.width; ++d) u[d * stride] = mix[d] * e[d];
        else
            for (int d = 0; d < net.width; ++d) u[d * stride] += mix[d] * e[d];
    }
}

// ---- One lane: push ------------------------------------------------------------------------------------------------

// Neurons that spiked, ascending.
struct Events {
    uint16_t* neurons;
    int count;
};

INLINE void append_spikes(const uint8_t* spiked, int first, int size, Events& events) {
    // Sixty-four flags become one word, whose ones are then walked.
    for (int start = 0; start < size; start += 64) {
        uint64_t word = 0;
        for (int part = 0; part < 8; ++part) {
            uint64_t eight;
            std::memcpy(&eight, spiked + start + 8 * part, 8);
            word |= ((eight * 0x0102040810204080u) >> 56) << (8 * part);
        }
        for (; word; word &= word - 1)
            events.neurons[events.count++] = static_cast<uint16_t>(first + start + __builtin_ctzll(word));
    }
}

// Currents x and potentials v of a population -> one flag per neuron, and v after the reset. Flags are padded to 64.
INLINE void fire(const Population& p, const float* __restrict x, float* __restrict v, uint8_t* __restrict spiked) {
    const float* __restrict leak = p.leak;
    const float* __restrict threshold = p.threshold;
    for (int n = 0; n < p.size; ++n) {
        const float u = leaky(leak[n], v[n], x[n]);
        const bool spike = u >= threshold[n];
        v[n] = spike ? 0.0f : u;
        spiked[n] = spike;
    }
    for (int n = p.size; n % 64; ++n) spiked[n] = 0;
}

// Synapses between the additions and what is fetched: lists lie anywhere in memory.
constexpr uint32_t kAhead = 1024;
constexpr uint32_t kChunk = 32;  // synapses between two fetches: a line of indices

template <Weights kind>
INLINE void fetch(const SynapseLists& synapses, uint32_t j) {
    __builtin_prefetch(synapses.indices + j);
    for (uint32_t k = j; k < j + kChunk; k += 512 / Kind<kind>::bits) __builtin_prefetch(address<kind>(synapses.weights, k));
}

// While a list is added, one that comes later is fetched, line by line: lists are about as long as each other. All lines
// at once would wait for each other.
template <Weights kind>
INLINE void push(const SynapseLists& synapses, const Events& events, typename Kind<kind>::Sum* __restrict sums) {
    const uint16_t* indices = synapses.indices;
    const uint32_t mean = synapses.starts[synapses.num_lists] / static_cast<uint32_t>(synapses.num_lists) + 1;
    const int ahead = static_cast<int>(1 + kAhead / mean);
    for (int i = 0; i < events.count; ++i) {
        const int later = i + ahead < events.count ? i + ahead : events.count - 1;
        uint32_t j = synapses.starts[events.neurons[i]], far = synapses.starts[events.neurons[later]];
        const uint32_t stop = synapses.starts[events.neurons[i] + 1];
        for (; j + kChunk <= stop; j += kChunk, far += kChunk) {
            fetch<kind>(synapses, far);
#pragma GCC unroll 32
            for (uint32_t k = 0; k < kChunk; ++k) sums[indices[j + k]] += Kind<kind>::at(synapses.weights, j, k);
        }
        fetch<kind>(synapses, far);
        for (uint32_t k = 0; j + k < stop; ++k) sums[indices[j + k]] += Kind<kind>::at(synapses.weights, j, k);
    }
}

// `count` numbers of the scratch, on a cache line.
template <class T>
INLINE T* take(uint8_t*& scratch, int count) {
    T* data = reinterpret_cast<T*>(scratch);
    scratch += (static_cast<size_t>(count) * sizeof(T) + 63) / 64 * 64;
    return data;
}

template <Weights kind>
static void step_push(const EventNetwork& net, const EventState& state) {
    using Sum = typename Kind<kind>::Sum;
    const int largest = largest_population(net);
    uint8_t* scratch = state.scratch;
    float* u = take<float>(scratch, net.width);
    float* x = take<float>(scratch, largest);
    Sum* sums = take<Sum>(scratch, largest);
    Sum* out = take<Sum>(scratch, net.width + kVocab);
    uint8_t* spiked = take<uint8_t>(scratch, largest + 64);
    Events events{take<uint16_t>(scratch, largest + 1), 0};
    float* v = state.potentials;
    int64_t* counted = state.spikes;
    const int width = net.width;

    state.tokens[state.clock % net.num_input_delays] = *state.token;
    input_currents(net, state, 0, 1, u);
    Sum* head = out + width;
    std::memset(head, 0, kVocab * sizeof(Sum));
    for (int b = 0; b < net.num_blocks; ++b) {
        const EventBlock& block = net.blocks[b];
        const int hidden = block.hidden.size;
        fire(block.stream, u, v, spiked);
        v += width;
        uint32_t* now = sent_before(net, state, b, 0);
        int64_t sum = 0;
        for (int d = 0; d < width; ++d) now[d] = spiked[d], sum += spiked[d];
        *counted++ += sum;
        events.count = 0;
        for (int k = 0; k < net.num_axon_delays; ++k) {
            const uint32_t* then = sent_before(net, state, b, k);
            for (int d = delay_start(net, k); d < delay_start(net, k + 1); ++d) {
                events.neurons[events.count] = static_cast<uint16_t>(d);
                events.count += static_cast<int>(then[d]);
            }
        }
        std::memset(sums, 0, hidden * sizeof(Sum));
        push<kind>(block.w_in, events, sums);
        for (int n = 0; n < hidden; ++n) x[n] = current(sums[n], block.in_scale, n);
        fire(block.hidden, x, v, spiked);
        v += hidden;
        events.count = 0;
        append_spikes(spiked, 0, hidden, events);
        *counted++ += events.count;
        std::memset(out, 0, width * sizeof(Sum));
        push<kind>(block.w_out, events, out);
        for (int d = 0; d < width; ++d) u[d] += current(out[d], block.out_scale, d);
    }
    fire(net.output, u, v, spiked);
    v += width;
    events.count = 0;
    append_spikes(spiked, 0, width, events);
    *counted += events.count;
    push<kind>(net.head, events, head);
    for (int n = 0; n < kVocab; ++n) {
        v[n] = leaky(net.readout_leak[n], v[n], current(head[n], net.head_scale, n));
        state.logits[n] = v[n] + net.bias[n];
    }
}

// ---- Thirty-two lanes: pull ----------------------------------------------------------------------------------------

constexpr int kWide = kRegisterBytes / 4, kParts = kLanes / kWide;
typedef float Floats __attribute__((vector_size(kRegisterBytes)));
typedef int32_t Ints __attribute__((vector_size(kRegisterBytes)));

template <class Sum>
struct WideOf;
template <>
struct WideOf<float> {
    using Type = Floats;
};
template <>
struct WideOf<int32_t> {
    using Type = Ints;
};

// One number for each of the 32 lanes.
template <class Sum>
struct Lanes {
    typename WideOf<Sum>::Type part[kParts]{};
};

// sums += weight in the lanes whose bit is set.
#if defined(__AVX512F__)
// The word goes from memory to a mask register and is shifted there.
INLINE void add_where(const uint32_t* lanes, float weight, Lanes<float>& sums) {
    const __m512 w = _mm512_set1_ps(weight);
    const __mmask32 where = _load_mask32(const_cast<__mmask32*>(lanes));
    sums.part[0] = (Floats)_mm512_mask_add_ps((__m512)sums.part[0], static_cast<__mmask16>(where), (__m512)sums.part[0], w);
    const auto above = static_cast<__mmask16>(_kshiftri_mask32(where, 16));
    sums.part[1] = (Floats)_mm512_mask_add_ps((__m512)sums.part[1], above, (__m512)sums.part[1], w);
}
INLINE void add_where(const uint32_t* lanes, int32_t weight, Lanes<int32_t>& sums) {
    const __m512i w = _mm512_set1_epi32(weight);
    const __mmask32 where = _load_mask32(const_cast<__mmask32*>(lanes));
    sums.part[0] = (Ints)_mm512_mask_add_epi32((__m512i)sums.part[0], static_cast<__mmask16>(where), (__m512i)sums.part[0], w);
    const auto above = static_cast<__mmask16>(_kshiftri_mask32(where, 16));
    sums.part[1] = (Ints)_mm512_mask_add_epi32((__m512i)sums.part[1], above, (__m512i)sums.part[1], w);
}
#else
// All ones in the lanes of a part whose bit is set: shifted to the sign, which is then copied down.
INLINE Ints lanes_of(uint32_t word, int part) {
    const Ints all = Ints{} + static_cast<int32_t>(word);
#if defined(__AVX2__)
    const Ints up = Ints{31, 30, 29, 28, 27, 26, 25, 24} - part * kWide;
    return (Ints)_mm256_srai_epi32(_mm256_sllv_epi32((__m256i)all, (__m256i)up), 31);
#else
    const int first = part * kWide;
    const Ints bits = {1 << first, 1 << (first + 1), 1 << (first + 2), static_cast<int32_t>(1u << (first + 3))};
    return (all & bits) == bits;
#endif
}
INLINE void add_where(const uint32_t* lanes, float weight, Lanes<float>& sums) {
    const Ints w = (Ints)(Floats{} + weight);
    for (int p = 0; p < kParts; ++p) sums.part[p] += (Floats)(lanes_of(*lanes, p) & w);
}
INLINE void add_where(const uint32_t* lanes, int32_t weight, Lanes<int32_t>& sums) {
    for (int p = 0; p < kParts; ++p) sums.part[p] += lanes_of(*lanes, p) & weight;
}
#endif

INLINE Lanes<float> currents(const Lanes<float>& sums, const float*, int) { return sums; }
INLINE Lanes<float> currents(const Lanes<int32_t>& sums, const float* scale, int n) {
    Lanes<float> x;
    for (int p = 0; p < kParts; ++p) x.part[p] = scale[n] * __builtin_convertvector(sums.part[p], Floats);
    return x;
}

// In pieces that GCC keeps in registers: the two of AVX-512 it does only one by one (8 % of a step); of the four of AVX2 it
// then keeps too many (20 %).
constexpr int kPiece = kParts == 2 ? 1 : kParts;

template <class Sum>
INLINE Lanes<Sum> load(const Sum* data) {
    Lanes<Sum> lanes;
    for (int p = 0; p < kParts; p += kPiece) std::memcpy(&lanes.part[p], data + p * kWide, kPiece * sizeof lanes.part[p]);
    return lanes;
}
template <class Sum>
INLINE void store(Sum* data, const Lanes<Sum>& lanes) {
    for (int p = 0; p < kParts; p += kPiece) std::memcpy(data + p * kWide, &lanes.part[p], kPiece * sizeof lanes.part[p]);
}

INLINE Floats leaky(float leak, Floats v, Floats x) {
#if defined(__AVX512F__)
    return (Floats)_mm512_fmadd_ps(_mm512_set1_ps(leak), (__m512)v, (__m512)x);
#elif defined(__AVX2__)
    return (Floats)_mm256_fmadd_ps(_mm256_set1_ps(leak), (__m256)v, (__m256)x);
#else
    Floats u;
    for (int l = 0; l < kWide; ++l) u[l] = __builtin_fmaf(leak, v[l], x[l]);
    return u;
#endif
}

INLINE uint32_t word_of(Ints hit) {
#if defined(__AVX512F__)
    return _mm512_test_epi32_mask((__m512i)hit, (__m512i)hit);
#elif defined(__AVX2__)
    return static_cast<uint32_t>(_mm256_movemask_ps((__m256)hit));
#elif defined(__SSE2__)
    return static_cast<uint32_t>(_mm_movemask_ps((__m128)hit));
#else
    uint32_t word = 0;
    for (int l = 0; l < kWide; ++l) word |= static_cast<uint32_t>(hit[l] & (1 << l));
    return word;
#endif
}

// One neuron in all lanes: its spikes, one bit each; `v` [32] after the reset.
INLINE uint32_t fire(const Population& p, int n, const Lanes<float>& x, float* v) {
    Lanes<float> u = load(v);
    uint32_t word = 0;
    for (int i = 0; i < kParts; ++i) {
        u.part[i] = leaky(p.leak[n], u.part[i], x.part[i]);
        const Ints spikes = u.part[i] >= p.threshold[n];
        u.part[i] = (Floats)((Ints)u.part[i] & ~spikes);
        word |= word_of(spikes) << i * kWide;
    }
    store(v, u);
    return word;
}

// Synapse j + k, where j is even, into sums.
template <Weights kind>
INLINE void add_synapse(const SynapseLists& synapses, const uint32_t* spikes, uint32_t j, uint32_t k, Lanes<typename Kind<kind>::Sum>& sums) {
    add_where(spikes + synapses.indices[j + k], Kind<kind>::at(synapses.weights, j, k), sums);
}

// For every postsynaptic neuron: `take(n, sums)`, where the sums start from `from(n)`. Two neurons at a time, as each
// sum is one long chain of additions.
template <Weights kind, class From, class Take>
INLINE void pull(const SynapseLists& synapses, const uint32_t* spikes, From from, Take take) {
    using Sums = Lanes<typename Kind<kind>::Sum>;
    int n = 0;
    for (; n + 1 < synapses.num_lists; n += 2) {
        const uint32_t start = synapses.starts[n], middle = synapses.starts[n + 1], stop = synapses.starts[n + 2];
        const uint32_t both = middle - start < stop - middle ? middle - start : stop - middle;
        Sums first = from(n), second = from(n + 1);
        uint32_t j = 0;
        for (; j + 8 <= both; j += 8) {
            // The next two lists, as far in as these two are.
            __builtin_prefetch(synapses.indices + stop + 2 * j);
            __builtin_prefetch(address<kind>(synapses.weights, stop + 2 * j));
#pragma GCC unroll 8
            for (uint32_t k = 0; k < 8; ++k) {
                add_synapse<kind>(synapses, spikes, start + j, k, first);
                add_synapse<kind>(synapses, spikes, middle + j, k, second);
            }
        }
        for (uint32_t k = j; k < middle - start; ++k) add_synapse<kind>(synapses, spikes, start, k, first);
        for (uint32_t k = j; k < stop - middle; ++k) add_synapse<kind>(synapses, spikes, middle, k, second);
        take(n, first);
        take(n + 1, second);
    }
    for (; n < synapses.num_lists; ++n) {
        Sums sums = from(n);
        const uint32_t start = synapses.starts[n], stop = synapses.starts[n + 1];
        for (uint32_t k = 0; k < stop - start; ++k) add_synapse<kind>(synapses, spikes, start, k, sums);
        take(n, sums);
    }
}

template <Weights kind>
static void step_pull(const EventNetwork& net, const EventState& state) {
    using Sum = typename Kind<kind>::Sum;
    using Sums = Lanes<Sum>;
    uint8_t* scratch = state.scratch;
    float* u = take<float>(scratch, net.width * kLanes);
    Sum* head = take<Sum>(scratch, kVocab * kLanes);
    uint32_t* arriving = take<uint32_t>(scratch, net.width);
    uint32_t* spikes = take<uint32_t>(scratch, largest_population(net));
    float* v = state.potentials;
    int64_t* counted = state.spikes;
    const int width = net.width;

    std::memcpy(state.tokens + (state.clock % net.num_input_delays) * kLanes, state.token, kLanes * sizeof(int32_t));
    for (int lane = 0; lane < kLanes; ++lane) input_currents(net, state, lane, kLanes, u + lane);
    std::memset(head, 0, kVocab * kLanes * sizeof(Sum));
    const auto from_zero = [](int) { return Sums{}; };
    for (int b = 0; b < net.num_blocks; ++b) {
        const EventBlock& block = net.blocks[b];
        uint32_t* now = sent_before(net, state, b, 0);
        int64_t count = 0;
        for (int d = 0; d < width; ++d) {
            now[d] = fire(block.stream, d, load(u + d * kLanes), v + d * kLanes);
            count += __builtin_popcount(now[d] & state.counted_lanes);
        }
        *counted++ += count;
        v += static_cast<int64_t>(width) * kLanes;
        for (int k = 0; k < net.num_axon_delays; ++k) {
            const int start = delay_start(net, k), stop = delay_start(net, k + 1);
            std::memcpy(arriving + start, sent_before(net, state, b, k) + start, (stop - start) * sizeof(uint32_t));
        }
        count = 0;
        pull<kind>(block.w_in, arriving, from_zero, [&](int n, const Sums& sums) {
            spikes[n] = fire(block.hidden, n, currents(sums, block.in_scale, n), v + static_cast<int64_t>(n) * kLanes);
            count += __builtin_popcount(spikes[n] & state.counted_lanes);
        });
        *counted++ += count;
        v += static_cast<int64_t>(block.hidden.size) * kLanes;
        const auto from_out = [&](int n) { return n < width ? Sums{} : load(head + (n - width) * kLanes); };
        pull<kind>(block.w_out, spikes, from_out, [&](int n, const Sums& sums) {
            if (n >= width) return store(head + (n - width) * kLanes, sums);
            const Lanes<float> x = currents(sums, block.out_scale, n);
            Lanes<float> sum = load(u + n * kLanes);
            for (int p = 0; p < kParts; ++p) sum.part[p] += x.part[p];
            store(u + n * kLanes, sum);
        });
    }
    int64_t count = 0;
    for (int d = 0; d < width; ++d) {
        spikes[d] = fire(net.output, d, load(u + d * kLanes), v + d * kLanes);
        count += __builtin_popcount(spikes[d] & state.counted_lanes);
    }
    *counted += count;
    v += static_cast<int64_t>(width) * kLanes;
    const auto from_head = [&](int n) { return load(head + n * kLanes); };
    pull<kind>(net.head, spikes, from_head, [&](int n, const Sums& sums) {
        const Lanes<float> x = currents(sums, net.head_scale, n);
        Lanes<float> y = load(v + n * kLanes);
        for (int p = 0; p < kParts; ++p) y.part[p] = leaky(net.readout_leak[n], y.part[p], x.part[p]);
        store(v + n * kLanes, y);
        for (int l = 0; l < kLanes; ++l) state.logits[l * kVocab + n] = v[n * kLanes + l] + net.bias[n];
    });
}

template <Weights kind>
INLINE void step(const EventNetwork& net, const EventState& state) {
    if (net.pull)
        step_pull<kind>(net, state);
    else
        step_push<kind>(net, state);
}

}  // namespace

void step_events(const EventNetwork& network, const EventState& state) {
    switch (network.weights) {
        case Weights::Float: return step<Weights::Float>(network, state);
        case Weights::Int8: return step<Weights::Int8>(network, state);
        case Weights::Int4: return step<Weights::Int4>(network, state);
    }
}

}  // namespace spikemesh::ISA
