// Compiled once per instruction set. Every sum over synapses is in their order, so where inputs are spikes the results are
// the same bits on all of them: times one or zero is exact, with fused multiply-add or without.
#include "sparse.hpp"

#include "vectors.hpp"

namespace spikemesh::ISA {

// Registers full of tokens whose sums of one row are made at once; what else is needed fits beside them. Spikes come in whole
// words of bits.
constexpr int kSums = kRegisters == 32 && kWide == 4 ? 16 : 8;
constexpr int kSumsOfFloats = kRegisters == 16 ? 12 : kSums;
constexpr int64_t kPassTokens = kSums * kWide;
static_assert(kBlockTokens % kPassTokens == 0 && kSumsOfFloats * kWide <= kMaxPassTokens);

// ---- bits -----------------------------------------------------------------------------------------------------------

bool pack_spikes(const float* x, int64_t num_tokens, Range range, int64_t feature, int64_t num_features, uint8_t* bits) {
    Ints others{};
    for (int64_t f = range.first; f < range.last; ++f)
        for (int64_t block = 0; block < num_blocks(num_tokens); ++block) {
            const float* from = x + f * num_tokens + block * kBlockTokens;
            uint64_t packed[kBlockWords] = {};
            const int64_t rest = num_tokens - block * kBlockTokens, count = rest < kBlockTokens ? rest : kBlockTokens;
            for (int64_t at = 0; at < count; at += kWide) {
                const Floats v = load_some(from + at, count - at);
                others |= (v != 0.0f) & (v != 1.0f);
                packed[at / 64] |= static_cast<uint64_t>(bits_of(v != 0.0f)) << at % 64;
            }
            const int64_t to = feature + f - range.first;
            std::memcpy(bits + (block * num_features + to) * kBlockBytes, packed, sizeof packed);
        }
    return bits_of(others) == 0;
}

// ---- what synapses read ---------------------------------------------------------------------------------------------

// Some inputs, and some tokens.
struct Part {
    Range inputs;
    int64_t token, count;
};

// `num_vectors` registers full of tokens of each input, brought together, with zeros behind the last token.
template <int num_vectors>
struct Tile {
    static constexpr int vectors = num_vectors;
    const float* data;  // of input 0, were it there
    const float* of(int64_t input) const { return data + input * (vectors * kWide); }
    static Floats add(Floats sum, Floats w, const float* from, int v) { return sum + w * load(from + v * kWide); }

    static Tile fill(const Activations& from, int64_t num_inputs, const Part& part, float* to) {
        const Tile tile{to - part.inputs.first * (vectors * kWide)};
        for (int64_t i = part.inputs.first; i < part.inputs.last; ++i, to += vectors * kWide) {
            if (from.bits) {
                const uint8_t* bits = from.bits + place_of(part.token / 64, i, num_inputs) + part.token % 64 / 8;
                for (int v = 0; v < vectors; ++v) store(to + v * kWide, ones_where(bits, v));
            } else if (const float* x = from.x + i * from.num_tokens + part.token; part.count >= vectors * kWide) {
                for (int v = 0; v < vectors; ++v) store(to + v * kWide, load(x + v * kWide));
            } else {
                std::memset(to, 0, vectors * kWide * sizeof(float));
                std::memcpy(to, x, static_cast<size_t>(part.count) * sizeof(float));
            }
        }
        return tile;
    }
};

#if defined(__AVX512F__)

// Spikes as they are: with masks, adding a weight where an input fired takes no tile.
template <int num_vectors>
struct Fired {
    static constexpr int vectors = num_vectors;
    const uint8_t* data;
    const uint8_t* of(int64_t input) const { return data + input * kBlockBytes; }
    static Floats add(Floats sum, Floats w, const uint8_t* from, int v) {
        uint16_t mask;
        std::memcpy(&mask, from + 2 * v, sizeof mask);
        return (Floats)_mm512_mask_add_ps((__m512)sum, mask, (__m512)sum, (__m512)w);
    }
};

#endif

// ---- forward, and the gradient of the input -------------------------------------------------------------------------

// What the synapses from s to `end` bring.
template <class Inputs>
INLINE void sum(const Synapses& synapses, int64_t s, int64_t end, const Inputs& inputs, Floats* sums) {
    for (int v = 0; v < Inputs::vectors; ++v) sums[v] = Floats{};
    for (; s < end; ++s) {
        const auto from = inputs.of(synapses.inputs[s]);
        const Floats w = all(synapses.values[s]);
        for (int v = 0; v < Inputs::vectors; ++v) sums[v] = Inputs::add(sums[v], w, from, v);
    }
}

// y of all rows for the tokens of one part; what earlier parts brought is there already.
template <class Inputs>
static void multiply_part(const Synapses& synapses, const Inputs& inputs, const Part& part, int64_t num_tokens, float* y) {
    constexpr int vectors = Inputs::vectors;
    const int64_t first = part.inputs.first / kSumInputs, last = num_sums(part.inputs.last);
    const size_t size = static_cast<size_t>(part.count) * sizeof(float);
    float padded[vectors * kWide] = {};
    for (int64_t row = 0; row < synapses.num_rows; ++row) {
        float *const result = y + row * num_tokens + part.token, *const to = part.count < vectors * kWide ? padded : result;
        if (to != result && first > 0) std::memcpy(to, result, size);
        const int32_t* bounds = synapses.bounds + row * synapses.num_sums;
        for (int64_t k = first; k < last; ++k) {
            Floats sums[vectors];
            sum(synapses, bounds[k], bounds[k + 1], inputs, sums);
            for (int v = 0; v < vectors; ++v) store(to + v * kWide, k == 0 ? sums[v] : load(to + v * kWide) + sums[v]);
        }
        if (to != result) std::memcpy(result, to, size);
    }
}

template <int vectors>
static void multiply_tiles(const Synapses& synapses, const Activations& from, int64_t token, int64_t count, float* y, float* data) {
    for (int64_t first = 0; first == 0 || first < synapses.num_inputs; first += kTileInputs) {  // once even if there are none
        const int64_t rest = synapses.num_inputs - first;
        const Part part{{first, first + (rest < kTileInputs ? rest : kTileInputs)}, token, count};
        multiply_part(synapses, Tile<vectors>::fill(from, synapses.num_inputs, part, data), part, from.num_tokens, y);
    }
}

// Calls work(token, count) for passes of at most `pass` tokens.
template <class Work>
INLINE void for_passes(Range tokens, int64_t pass, const Work& work) {
    for (int64_t token = tokens.first; token < tokens.last; token += pass)
        work(token, tokens.last - token < pass ? tokens.last - token : pass);
}

void multiply(const Synapses& synapses, const Activations& from, Range tokens, float* y, float* tile) {
#if defined(__AVX512F__)
    if (from.bits)
        return for_passes(tokens, kBlockTokens, [&](int64_t token, int64_t count) {
            const uint8_t* bits = from.bits + place_of(token / 64, 0, synapses.num_inputs);
            const Part part{{0, synapses.num_inputs}, token, count};
            if (count <= kBlockTokens / 8) multiply_part(synapses, Fired<2>{bits}, part, from.num_tokens, y);
            else if (count <= kBlockTokens / 2) multiply_part(synapses, Fired<8>{bits}, part, from.num_tokens, y);
            else multiply_part(synapses, Fired<16>{bits}, part, from.num_tokens, y);
        });
#endif
    const int most = from.bits ? kSums : kSumsOfFloats;
    for_passes(tokens, most * kWide, [&](int64_t token, int64_t count) {
        const auto by = count <= kPassTokens / 8   ? multiply_tiles<kSums / 8>
                        : count <= kPassTokens / 2 ? multiply_tiles<kSums / 2>
                        : count <= kPassTokens     ? multiply_tiles<kSums>
                                                   : multiply_tiles<kSumsOfFloats>;
        by(synapses, from, token, count, y, tile);
    });
}

// ---- the gradient of the synapses -----------------------------------------------------------------------------------

constexpr int kGroup = 8;  // synapses at a time, with a register for each sum

// Adds to the gradients of eight synapses of one row, of which `count` are there, what a part's tokens bring.
template <class Inputs>
INLINE void correlate_group(const Inputs& inputs, const int32_t* columns, int64_t count, const float* grad, float* grad_values) {
    decltype(inputs.of(0)) from[kGroup];
    for (int g = 0; g < kGroup; ++g) from[g] = inputs.of(columns[g < count ? g : 0]);
    Floats sums[kGroup] = {};
#pragma GCC unroll 16
    for (int v = 0; v < Inputs::vectors; ++v) {
        const Floats d = load(grad + v * kWide);
        for (int g = 0; g < kGroup; ++g) sums[g] = Inputs::add(sums[g], d, from[g], v);
    }
    float totals[kGroup];
    for (int g = 0; g < kGroup; g += 4) {
        const Four four = totals_of(sums + g);
        std::memcpy(totals + g, &four, sizeof four);
    }
    for (int64_t g = 0; g < count; ++g) grad_values[g] += totals[g];
}

template <class Inputs>
static void correlate_part(const Synapses& synapses, const Inputs& inputs, const Part& part, const float* grad_y,
                           int64_t num_tokens, Range rows, float* grad_values) {
    float padded[Inputs::vectors * kWide] = {};
    for (int64_t row = rows.first; row < rows.last; ++row) {
        const float* grad = grad_y + row * num_tokens + part.token;
        if (part.count < Inputs::vectors * kWide) {
            std::memcpy(padded, grad, static_cast<size_t>(part.count) * sizeof(float));
            grad = padded;
        }
        const int32_t* bounds = synapses.bounds + row * synapses.num_sums;
        int64_t s = bounds[part.inputs.first / kSumInputs];
        const int64_t end = bounds[num_sums(part.inputs.last)];
        for (; s + kGroup <= end; s += kGroup) correlate_group(inputs, synapses.inputs + s, kGroup, grad, grad_values + s);
        if (s < end) correlate_group(inputs, synapses.inputs + s, end - s, grad, grad_values + s);
    }
}

void correlate(const Synapses& synapses, const Activations& from, const float* grad_y, Range rows, float* grad_values,
               float* data) {
    const int64_t first_synapse = synapses.bounds[rows.first * synapses.num_sums];
    const int64_t last_synapse = synapses.bounds[rows.last * synapses.num_sums];
    std::memset(grad_values + first_synapse, 0, static_cast<size_t>(last_synapse - first_synapse) * sizeof(float));
    const Range tokens{0, from.num_tokens};
#if defined(__AVX512F__)
    if (from.bits)
        return for_passes(tokens, kBlockTokens, [&](int64_t token, int64_t count) {
            const Fired<16> fired{from.bits + place_of(token / 64, 0, synapses.num_inputs)};
            correlate_part(synapses, fired, {{0, synapses.num_inputs}, token, count}, grad_y, from.num_tokens, rows, grad_values);
        });
#endif
    for_passes(tokens, kPassTokens, [&](int64_t token, int64_t count) {
        for (int64_t first = 0; first < synapses.num_inputs; first += kTileInputs) {
            const int64_t rest = synapses.num_inputs - first;
            const Part part{{first, first + (rest < kTileInputs ? rest : kTileInputs)}, token, count};
            const auto tile = Tile<kSums>::fill(from, synapses.num_inputs, part, data);
            correlate_part(synapses, tile, part, grad_y, from.num_tokens, rows, grad_values);
        }
    });
}

}  // namespace spikemesh::ISA
