// Compiled once per instruction set. Every sum over synapses is in their order, so where inputs are spikes the results are
// the same bits on all of them.
#include "sparse.hpp"

#include "vectors.hpp"

namespace spikemesh::ISA {

// ---- bits -----------------------------------------------------------------------------------------------------------

#if defined(__AVX512F__)

// sum + x in the lanes whose bit is one.
INLINE Floats add_where(Floats sum, const uint8_t* bits, Floats x) {
    uint16_t mask;
    std::memcpy(&mask, bits, sizeof mask);
    return (Floats)_mm512_mask_add_ps((__m512)sum, mask, (__m512)sum, (__m512)x);
}

#else

// For each byte the masks of eight lanes: one load, where the processor has no masks of its own.
struct ByteMasks {
    alignas(64) int32_t lanes[256][8];
    constexpr ByteMasks() : lanes() {
        for (int byte = 0; byte < 256; ++byte)
            for (int l = 0; l < 8; ++l) lanes[byte][l] = byte >> l & 1 ? -1 : 0;
    }
};
static constexpr ByteMasks kByteMasks;

INLINE Floats add_where(Floats sum, const uint8_t* bits, Floats x) {
    Ints mask;
    std::memcpy(&mask, kByteMasks.lanes[bits[0]], 32);
    std::memcpy(reinterpret_cast<char*>(&mask) + 32, kByteMasks.lanes[bits[1]], 32);
    return sum + (Floats)((Ints)x & mask);
}

#endif

bool pack_spikes(const float* x, int64_t num_tokens, Range range, int64_t feature, int64_t num_features, uint8_t* bits) {
    Ints others{};
    const auto pack = [&](Floats v) {
        others |= (v != 0.0f) & (v != 1.0f);
        return bits_of(v != 0.0f);
    };
    for (int64_t f = range.first; f < range.last; ++f)
        for (int64_t block = 0; block < num_blocks(num_tokens); ++block) {
            const float* from = x + f * num_tokens + block * kBlockTokens;
            uint16_t packed[kBlockTokens / kWide] = {};
            const int64_t rest = num_tokens - block * kBlockTokens, count = rest < kBlockTokens ? rest : kBlockTokens;
            for (int64_t at = 0; at < count; at += kWide) {
                Floats v{};
                if (count - at >= kWide) v = load(from + at);
                else std::memcpy(&v, from + at, static_cast<size_t>(count - at) * sizeof(float));
                packed[at / kWide] = pack(v);
            }
            const int64_t to = feature + f - range.first;
            std::memcpy(bits + (block * num_features + to) * kBlockBytes, packed, sizeof packed);
        }
    int32_t any = 0;
    for (int l = 0; l < kWide; ++l) any |= others[l];
    return any == 0;
}

// ---- forward, and the gradient of the input -------------------------------------------------------------------------

// Where the sum ends that an input belongs to.
INLINE int64_t sum_end(int64_t input) { return (input / kSumInputs + 1) * kSumInputs; }

// `count` tokens of a row's sums.
template <int vectors>
INLINE void store_row(const Floats* sums, int64_t count, float* y) {
    if (count == vectors * kWide) {
        for (int v = 0; v < vectors; ++v) store(y + v * kWide, sums[v]);
    } else {
        std::memcpy(y, sums, static_cast<size_t>(count) * sizeof(float));
    }
}

template <int vectors>
static void multiply_spikes_by(const Synapses& synapses, const uint8_t* bits, int64_t num_tokens, int64_t count, Range range,
                               float* y) {
    for (int64_t row = range.first; row < range.last; ++row) {
        Floats sums[vectors] = {};
        const int64_t end = synapses.starts[row + 1];
        for (int64_t s = synapses.starts[row]; s < end;) {
            const int64_t limit = sum_end(synapses.inputs[s]);
            Floats part[vectors] = {};
            do {
                const uint8_t* fired = bits + synapses.inputs[s] * kBlockBytes;
                const Floats w = all(synapses.values[s]);
                for (int v = 0; v < vectors; ++v) part[v] = add_where(part[v], fired + 2 * v, w);
            } while (++s < end && synapses.inputs[s] < limit);
            for (int v = 0; v < vectors; ++v) sums[v] += part[v];
        }
        store_row<vectors>(sums, count, y + row * num_tokens);
    }
}

void multiply_spikes(const Synapses& synapses, const uint8_t* bits, int64_t num_features, int64_t num_tokens, int64_t block,
                     Range range, float* y) {
    const int64_t rest = num_tokens - block * kBlockTokens, count = rest < kBlockTokens ? rest : kBlockTokens;
    const auto by = count <= kWide       ? multiply_spikes_by<1>
                    : count <= 2 * kWide ? multiply_spikes_by<2>
                    : count <= 4 * kWide ? multiply_spikes_by<4>
                    : count <= 8 * kWide ? multiply_spikes_by<8>
                                         : multiply_spikes_by<16>;
    by(synapses, bits + block * num_features * kBlockBytes, num_tokens, count, range, y + block * kBlockTokens);
}

// Brings the tokens of some features together: in x they lie apart, often by a power of two, which a cache takes for the
// same place.
template <int vectors>
INLINE void fill_tile(const float* x, Range features, int64_t num_tokens, int64_t count, float* tile) {
    for (int64_t f = features.first; f < features.last; ++f, tile += vectors * kWide) {
        Floats v[vectors] = {};
        std::memcpy(v, x + f * num_tokens, static_cast<size_t>(count) * sizeof(float));
        for (int i = 0; i < vectors; ++i) store(tile + i * kWide, v[i]);
    }
}

// Adds what the features of one tile send to a row; `s` moves on to the row's first synapse with a later one.
template <int vectors>
INLINE void add_tile(const Synapses& synapses, int64_t row, Range features, const float* tile, int64_t& s, Floats* sums) {
    const int64_t end = synapses.starts[row + 1];
    while (s < end && synapses.inputs[s] < features.last) {
        const int64_t limit = sum_end(synapses.inputs[s]);
        Floats part[vectors] = {};
        do {
            const float* from = tile + (synapses.inputs[s] - features.first) * vectors * kWide;
            const Floats w = all(synapses.values[s]);
            for (int v = 0; v < vectors; ++v) part[v] += w * load(from + v * kWide);
        } while (++s < end && synapses.inputs[s] < limit);
        for (int v = 0; v < vectors; ++v) sums[v] += part[v];
    }
}

template <int vectors>
static void multiply_by(const Synapses& synapses, const float* x, int64_t num_features, int64_t num_rows, int64_t num_tokens,
                        int64_t count, float* y, float* tile, int64_t* next) {
    std::memcpy(next, synapses.starts, static_cast<size_t>(num_rows) * sizeof(int64_t));
    for (int64_t first = 0; first == 0 || first < num_features; first += kTileFeatures) {  // once even if there are none
        const Range features{first, first + kTileFeatures < num_features ? first + kTileFeatures : num_features};
        fill_tile<vectors>(x, features, num_tokens, count, tile);
        for (int64_t row = 0; row < num_rows; ++row) {
            Floats sums[vectors] = {};
            if (first > 0) std::memcpy(sums, y + row * num_tokens, static_cast<size_t>(count) * sizeof(float));
            add_tile<vectors>(synapses, row, features, tile, next[row], sums);
            store_row<vectors>(sums, count, y + row * num_tokens);
        }
    }
}

void multiply(const Synapses& synapses, const float* x, int64_t num_features, int64_t num_rows, int64_t num_tokens,
              Range tokens, float* y, float* tile, int64_t* next) {
    const int64_t count = tokens.size();
    const auto by = count <= kWide ? multiply_by<1> : count <= 2 * kWide ? multiply_by<2> : multiply_by<4>;
    by(synapses, x + tokens.first, num_features, num_rows, num_tokens, count, y + tokens.first, tile, next);
}

// ---- the gradient of the synapses -----------------------------------------------------------------------------------

constexpr int64_t kPartBlocks = 4;  // blocks whose sums are made at once: 1,024 tokens

// `group` synapses of one row at a time, so that its gradient is loaded once for all of them.
template <int group>
INLINE void correlate_group(const int32_t* inputs, const float* grad, int64_t num_vectors, const uint8_t* bits,
                            int64_t block_stride, float* grad_values) {
    Floats sums[group] = {};
    for (int64_t done = 0; done < num_vectors; done += kBlockTokens / kWide, bits += block_stride) {
        const int64_t rest = num_vectors - done, count = rest < kBlockTokens / kWide ? rest : kBlockTokens / kWide;
        const uint8_t* fired[group];
        for (int g = 0; g < group; ++g) fired[g] = bits + inputs[g] * kBlockBytes;
        for (int64_t v = 0; v < count; ++v) {
            const Floats d = load(grad + (done + v) * kWide);
            for (int g = 0; g < group; ++g) sums[g] = add_where(sums[g], fired[g] + 2 * v, d);
        }
    }
    for (int g = 0; g < group; ++g) grad_values[g] += total_of(sums[g]);
}

INLINE void correlate_row(const Synapses& synapses, int64_t row, const float* grad, int64_t num_vectors, const uint8_t* bits,
                          int64_t block_stride, float* grad_values) {
    int64_t s = synapses.starts[row];
    const int64_t end = synapses.starts[row + 1];
    for (; s + 8 <= end; s += 8)
        correlate_group<8>(synapses.inputs + s, grad, num_vectors, bits, block_stride, grad_values + s);
    for (; s + 2 <= end; s += 2)
        correlate_group<2>(synapses.inputs + s, grad, num_vectors, bits, block_stride, grad_values + s);
    if (s < end) correlate_group<1>(synapses.inputs + s, grad, num_vectors, bits, block_stride, grad_values + s);
}

void correlate_spikes(const Synapses& synapses, const float* grad_y, const uint8_t* bits, int64_t num_features,
                      int64_t num_tokens, Range range, float* grad_values) {
    constexpr int64_t part_tokens = kPartBlocks * kBlockTokens;
    const int64_t first = synapses.starts[range.first], last = synapses.starts[range.last];
    std::memset(grad_values + first, 0, static_cast<size_t>(last - first) * sizeof(float));
    for (int64_t token = 0; token < num_tokens; token += part_tokens) {
        const int64_t rest = num_tokens - token, count = rest < part_tokens ? rest : part_tokens;
        const uint8_t* part = bits + token / kBlockTokens * num_features * kBlockBytes;
        for (int64_t row = range.first; row < range.last; ++row) {
            const float* grad = grad_y + row * num_tokens + token;
            float padded[part_tokens];
            if (count % kWide != 0) {
                const int64_t whole = count / kWide * kWide;
                std::memcpy(padded, grad, static_cast<size_t>(count) * sizeof(float));
                std::memset(padded + count, 0, static_cast<size_t>(whole + kWide - count) * sizeof(float));
                grad = padded;
            }
            correlate_row(synapses, row, grad, (count + kWide - 1) / kWide, part, num_features * kBlockBytes, grad_values);
        }
    }
}

void correlate(const Synapses& synapses, const float* grad_y, const float* x, int64_t num_tokens, Range range,
               float* grad_values) {
    constexpr int vectors = 4;
    constexpr int64_t width = vectors * kWide;
    for (int64_t row = range.first; row < range.last; ++row)
        for (int64_t s = synapses.starts[row]; s < synapses.starts[row + 1]; ++s) {
            const float *d = grad_y + row * num_tokens, *from = x + synapses.inputs[s] * num_tokens;
            Floats sums[vectors] = {};
            int64_t token = 0;
            for (; token + width <= num_tokens; token += width)
                for (int v = 0; v < vectors; ++v) sums[v] += load(d + token + v * kWide) * load(from + token + v * kWide);
            for (; token < num_tokens; token += kWide) {
                Floats a{}, b{};
                const int64_t rest = num_tokens - token, count = rest < kWide ? rest : kWide;
                std::memcpy(&a, d + token, static_cast<size_t>(count) * sizeof(float));
                std::memcpy(&b, from + token, static_cast<size_t>(count) * sizeof(float));
                sums[0] += a * b;
            }
            grad_values[s] = total_of((sums[0] + sums[1]) + (sums[2] + sums[3]));
        }
}

}  // namespace spikemesh::ISA
