// Compiled once per instruction set, without contraction: each product is rounded before it is added, as torch does it.
#include "currents.hpp"

#include <cstring>

#include "../isa.hpp"

namespace spikemesh::ISA {
namespace {

// A number for each of the sixteen channels.
constexpr int kWide = kRegisterBytes / 4, kParts = kChannels / kWide;
typedef float Floats __attribute__((vector_size(kRegisterBytes)));
struct Channels {
    Floats part[kParts]{};
};

// Part by part: what is copied as a whole is put into memory first.
INLINE Channels load(const float* data) {
    Channels x;
    for (int p = 0; p < kParts; ++p) std::memcpy(&x.part[p], data + p * kWide, sizeof x.part[p]);
    return x;
}
INLINE void store(float* data, const Channels& x) {
    for (int p = 0; p < kParts; ++p) std::memcpy(data + p * kWide, &x.part[p], sizeof x.part[p]);
}
INLINE Channels operator+(Channels a, const Channels& b) {
    for (int p = 0; p < kParts; ++p) a.part[p] += b.part[p];
    return a;
}
INLINE Channels operator*(Channels a, const Channels& b) {
    for (int p = 0; p < kParts; ++p) a.part[p] *= b.part[p];
    return a;
}
INLINE Channels load_some(const float* data, int64_t count) {
    if (count >= kChannels) return load(data);
    float padded[kChannels] = {};
    std::memcpy(padded, data, static_cast<size_t>(count) * sizeof(float));
    return load(padded);
}
INLINE void store_some(float* data, const Channels& x, int64_t count) {
    if (count >= kChannels) return store(data, x);
    float padded[kChannels];
    store(padded, x);
    std::memcpy(data, padded, static_cast<size_t>(count) * sizeof(float));
}

constexpr int64_t kSquare = kChannels;  // tokens that are turned at once, from rows of channels to rows of tokens or back

// Rows into columns.
INLINE void transpose(const float (*from)[kChannels], float (*to)[kChannels]) {
    for (int i = 0; i < kChannels; i += 4)
        for (int j = 0; j < kChannels; j += 4) {
            typedef float Four __attribute__((vector_size(16)));
            typedef int32_t Places __attribute__((vector_size(16)));
            Four rows[4];
            for (int r = 0; r < 4; ++r) std::memcpy(&rows[r], &from[i + r][j], sizeof rows[r]);
            const Four a = __builtin_shuffle(rows[0], rows[1], Places{0, 4, 1, 5}), b = __builtin_shuffle(rows[2], rows[3], Places{0, 4, 1, 5});
            const Four c = __builtin_shuffle(rows[0], rows[1], Places{2, 6, 3, 7}), d = __builtin_shuffle(rows[2], rows[3], Places{2, 6, 3, 7});
            const Four columns[] = {__builtin_shuffle(a, b, Places{0, 1, 4, 5}), __builtin_shuffle(a, b, Places{2, 3, 6, 7}),
                                    __builtin_shuffle(c, d, Places{0, 1, 4, 5}), __builtin_shuffle(c, d, Places{2, 3, 6, 7})};
            for (int r = 0; r < 4; ++r) std::memcpy(&to[j + r][i], &columns[r], sizeof columns[r]);
        }
}

// What the channel group's arrays are made of: delay k, value v.
struct Group {
    const Currents& currents;
    int64_t channel, count;
    Group(const Currents& currents, int64_t channel)
        : currents(currents), channel(channel),
          count(currents.num_channels - channel < kChannels ? currents.num_channels - channel : kChannels) {}
    Channels embedding(int64_t v) const { return load_some(currents.embedding + v * currents.num_channels + channel, count); }
    Channels mix(int64_t k) const { return load_some(currents.mix + k * currents.num_channels + channel, count); }
    float* entry(float* tables, int64_t k, int64_t v) const { return tables + (k * (currents.num_values + 1) + v) * kChannels; }
    // The token that is heard with delay k at `token`.
    int32_t heard(int64_t token, int64_t k) const {
        return currents.history[token + (currents.num_delays - 1 - k) * currents.num_rows];
    }
};

}  // namespace

void currents_forward(const Currents& currents, int64_t channel, float* u, float* tables) {
    const Group group(currents, channel);
    for (int64_t k = 0; k < currents.num_delays; ++k) {
        const Channels mix = group.mix(k);
        for (int64_t v = 0; v < currents.num_values; ++v) store(group.entry(tables, k, v), mix * group.embedding(v));
        store(group.entry(tables, k, currents.num_values), Channels{});
    }
    float square[kSquare][kChannels] = {}, turned[kChannels][kSquare];
    for (int64_t token = 0; token < currents.num_tokens; token += kSquare) {
        const int64_t rest = currents.num_tokens - token, used = rest < kSquare ? rest : kSquare;
        for (int64_t i = 0; i < used; ++i) {
            Channels sum = load(group.entry(tables, 0, group.heard(token + i, 0)));
            for (int64_t k = 1; k < currents.num_delays; ++k) sum = sum + load(group.entry(tables, k, group.heard(token + i, k)));
            store(square[i], sum);
        }
        transpose(square, turned);
        for (int64_t c = 0; c < group.count; ++c) store_some(u + (channel + c) * currents.num_tokens + token, load(turned[c]), used);
    }
}

void currents_backward(const Currents& currents, int64_t channel, const float* grad_u, float* grad_embedding, float* grad_mix,
                       float* tables) {
    const Group group(currents, channel);
    std::memset(tables, 0, static_cast<size_t>(table_size(currents)) * sizeof(float));
    float square[kSquare][kChannels], turned[kChannels][kSquare] = {};
    for (int64_t token = 0; token < currents.num_tokens; token += kSquare) {
        const int64_t rest = currents.num_tokens - token, used = rest < kSquare ? rest : kSquare;
        for (int64_t c = 0; c < group.count; ++c)
            store(turned[c], load_some(grad_u + (channel + c) * currents.num_tokens + token, used));
        transpose(turned, square);
        for (int64_t k = 0; k < currents.num_delays; ++k)
            for (int64_t i = 0; i < used; ++i) {
                float* sum = group.entry(tables, k, group.heard(token + i, k));
                store(sum, load(sum) + load(square[i]));
            }
    }
    for (int64_t k = 0; k < currents.num_delays; ++k) {
        Channels sum{};
        for (int64_t v = 0; v < currents.num_values; ++v) sum = sum + load(group.entry(tables, k, v)) * group.embedding(v);
        store_some(grad_mix + k * currents.num_channels + channel, sum, group.count);
    }
    for (int64_t v = 0; v < currents.num_values; ++v) {
        Channels sum{};
        for (int64_t k = 0; k < currents.num_delays; ++k) sum = sum + load(group.entry(tables, k, v)) * group.mix(k);
        store_some(grad_embedding + v * currents.num_channels + channel, sum, group.count);
    }
}

}  // namespace spikemesh::ISA
