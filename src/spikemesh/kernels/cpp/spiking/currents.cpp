// Compiled once per instruction set, without contraction: each product is rounded before it is added, as torch does it.
#include "currents.hpp"

#include "wide16.hpp"

namespace spikemesh::ISA {

static_assert(kChannels == kWide);

INLINE Floats load_some(const float* data, int64_t count) {
    if (count >= kWide) return load(data);
    Floats x{};
    std::memcpy(&x, data, static_cast<size_t>(count) * sizeof(float));
    return x;
}

INLINE void store_some(float* data, Floats x, int64_t count) {
    if (count >= kWide) return store(data, x);
    std::memcpy(data, &x, static_cast<size_t>(count) * sizeof(float));
}

// What the channel group's arrays are made of: delay k, value v.
struct Group {
    const Currents& currents;
    int64_t channel, count;
    Group(const Currents& currents, int64_t channel)
        : currents(currents), channel(channel),
          count(currents.num_channels - channel < kChannels ? currents.num_channels - channel : kChannels) {}
    Floats embedding(int64_t v) const { return load_some(currents.embedding + v * currents.num_channels + channel, count); }
    Floats mix(int64_t k) const { return load_some(currents.mix + k * currents.num_channels + channel, count); }
    float* entry(float* tables, int64_t k, int64_t v) const { return tables + (k * (currents.num_values + 1) + v) * kChannels; }
    // The token that is heard with delay k at `token`.
    int32_t heard(int64_t token, int64_t k) const {
        return currents.history[token + (currents.num_delays - 1 - k) * currents.num_rows];
    }
};

void currents_forward(const Currents& currents, int64_t channel, float* u, float* tables) {
    const Group group(currents, channel);
    for (int64_t k = 0; k < currents.num_delays; ++k) {
        for (int64_t v = 0; v < currents.num_values; ++v) store(group.entry(tables, k, v), group.mix(k) * group.embedding(v));
        store(group.entry(tables, k, currents.num_values), Floats{});
    }
    float square[kWide][kChannels];
    for (int64_t token = 0; token < currents.num_tokens; token += kWide) {
        const int64_t rest = currents.num_tokens - token, used = rest < kWide ? rest : kWide;
        for (int64_t i = 0; i < used; ++i) {
            Floats sum = load(group.entry(tables, 0, group.heard(token + i, 0)));
            for (int64_t k = 1; k < currents.num_delays; ++k) sum += load(group.entry(tables, k, group.heard(token + i, k)));
            store(square[i], sum);
        }
        for (int64_t c = 0; c < group.count; ++c) {
            Floats row{};
            for (int i = 0; i < kWide; ++i) row[i] = square[i][c];
            store_some(u + (channel + c) * currents.num_tokens + token, row, used);
        }
    }
}

void currents_backward(const Currents& currents, int64_t channel, const float* grad_u, float* grad_embedding, float* grad_mix,
                       float* tables) {
    const Group group(currents, channel);
    std::memset(tables, 0, static_cast<size_t>(table_size(currents)) * sizeof(float));
    float square[kWide][kChannels] = {};
    for (int64_t token = 0; token < currents.num_tokens; token += kWide) {
        const int64_t rest = currents.num_tokens - token, used = rest < kWide ? rest : kWide;
        for (int64_t c = 0; c < group.count; ++c) {
            const Floats row = load_some(grad_u + (channel + c) * currents.num_tokens + token, used);
            for (int i = 0; i < kWide; ++i) square[i][c] = row[i];
        }
        for (int64_t k = 0; k < currents.num_delays; ++k)
            for (int64_t i = 0; i < used; ++i) {
                float* sum = group.entry(tables, k, group.heard(token + i, k));
                store(sum, load(sum) + load(square[i]));
            }
    }
    for (int64_t k = 0; k < currents.num_delays; ++k) {
        Floats sum{};
        for (int64_t v = 0; v < currents.num_values; ++v) sum += load(group.entry(tables, k, v)) * group.embedding(v);
        store_some(grad_mix + k * currents.num_channels + channel, sum, group.count);
    }
    for (int64_t v = 0; v < currents.num_values; ++v) {
        Floats sum{};
        for (int64_t k = 0; k < currents.num_delays; ++k) sum += load(group.entry(tables, k, v)) * group.mix(k);
        store_some(grad_embedding + v * currents.num_channels + channel, sum, group.count);
    }
}

}  // namespace spikemesh::ISA
