// Packed spikes for Python: shifted along the tokens, and unpacked. Little work on few bytes, so plain code.
#include <algorithm>
#include <cstring>
#include <vector>

#include "../arrays.hpp"
#include "../bindings.hpp"
#include "spikes.hpp"

namespace spikemesh {
namespace {

uint64_t word_at(const uint8_t* bits, int64_t word, int64_t neuron, int64_t num_neurons) {
    uint64_t value;
    std::memcpy(&value, bits + place_of(word, neuron, num_neurons), sizeof value);
    return value;
}

void set_word(uint8_t* bits, int64_t word, int64_t neuron, int64_t num_neurons, uint64_t value) {
    std::memcpy(bits + place_of(word, neuron, num_neurons), &value, sizeof value);
}

template <class Array>
void require_bits(const Array& bits, int64_t num_neurons, int64_t num_tokens) {
    require(num_neurons >= 0 && num_tokens >= 0, "expected sizes from 0 on");
    require(static_cast<int64_t>(bits.size()) == num_blocks(num_tokens) * num_neurons * kBlockBytes,
            "expected packed spikes of this many neurons and tokens");
}

// The spikes of one neuron `delay` tokens late, after zeros.
void delay_neuron(const uint8_t* bits, int64_t neuron, int64_t num_neurons, int64_t num_tokens, int64_t delay, uint8_t* out) {
    const int64_t whole = delay / 64, shift = delay % 64, words = num_words(num_tokens);
    const auto before = [&](int64_t word) { return word < 0 ? uint64_t{0} : word_at(bits, word, neuron, num_neurons); };
    for (int64_t word = 0; word < num_blocks(num_tokens) * kBlockWords; ++word) {
        uint64_t value = word < words ? before(word - whole) : 0;
        if (shift && word < words) value = value << shift | before(word - whole - 1) >> (64 - shift);
        if (word == words - 1 && num_tokens % 64) value &= (uint64_t{1} << num_tokens % 64) - 1;
        set_word(out, word, neuron, num_neurons, value);
    }
}

// delays[n]: tokens that neuron n waits.
void delay_spikes(In<uint8_t> bits, In<int64_t> delays, int64_t num_tokens, Out<uint8_t> out) {
    const int64_t num_neurons = static_cast<int64_t>(delays.size());
    require_bits(bits, num_neurons, num_tokens);
    require_bits(out, num_neurons, num_tokens);
    for (int64_t n = 0; n < num_neurons; ++n) require(delays.data()[n] >= 0, "expected delays from 0 on");
    run([&] {
        for (int64_t n = 0; n < num_neurons; ++n)
            delay_neuron(bits.data(), n, num_neurons, num_tokens, delays.data()[n], out.data());
    });
}

// Tokens first .. first + count - 1 of each neuron, as floats [neurons, count].
void unpack_spikes(In<uint8_t> bits, int64_t num_neurons, int64_t num_tokens, int64_t first, Out<float> out) {
    require_bits(bits, num_neurons, num_tokens);
    require(num_neurons == 0 || out.size() % static_cast<size_t>(num_neurons) == 0, "expected whole rows of tokens");
    const int64_t count = num_neurons == 0 ? 0 : static_cast<int64_t>(out.size()) / num_neurons;
    require(first >= 0 && first + count <= num_tokens, "expected tokens that there are");
    run([&] {
        for (int64_t n = 0; n < num_neurons; ++n)
            for (int64_t i = 0; i < count; ++i) {
                const int64_t token = first + i;
                const uint8_t byte = bits.data()[place_of(token / 64, n, num_neurons) + token % 64 / 8];
                out.data()[n * count + i] = static_cast<float>(byte >> token % 8 & 1);
            }
    });
}

}  // namespace

void bind_spikes(nb::module_& m) {
    m.def("delay_spikes", &delay_spikes, nb::arg("bits"), nb::arg("delays"), nb::arg("num_tokens"), nb::arg("out"));
    m.def("unpack_spikes", &unpack_spikes, nb::arg("bits"), nb::arg("num_neurons"), nb::arg("num_tokens"), nb::arg("first"),
          nb::arg("out"));
}

}  // namespace spikemesh
