// Input currents for Python.
#include <algorithm>
#include <vector>

#include "../arrays.hpp"
#include "../bindings.hpp"
#include "currents.hpp"
#include "../dispatch.hpp"
#include "../threads.hpp"

namespace spikemesh {
namespace {

constexpr int64_t kThreadWork = 1 << 16;  // channels times tokens that are worth a thread

// Tokens checked once: below zero is none.
std::vector<int32_t> indices(const In<int64_t>& history, int64_t num_values) {
    std::vector<int32_t> result(history.size());
    for (size_t i = 0; i < result.size(); ++i) {
        const int64_t token = history.data()[i];
        require(token < num_values, "expected tokens below the number of embeddings");
        result[i] = static_cast<int32_t>(token < 0 ? num_values : token);
    }
    return result;
}

Currents currents_of(const std::vector<int32_t>& history, const In<float>& embedding, const In<float>& mix, int64_t num_delays,
                     int64_t num_rows) {
    require(num_delays > 0 && num_rows > 0 && mix.size() % static_cast<size_t>(num_delays) == 0, "expected whole rows of mix");
    const int64_t num_channels = static_cast<int64_t>(mix.size()) / num_delays;
    require(num_channels > 0 && embedding.size() % static_cast<size_t>(num_channels) == 0, "expected whole embeddings");
    const int64_t num_tokens = static_cast<int64_t>(history.size()) - (num_delays - 1) * num_rows;
    require(num_tokens >= 0 && num_tokens % num_rows == 0, "expected a history of whole steps");
    return {num_delays, static_cast<int64_t>(embedding.size()) / num_channels, num_channels, num_rows, num_tokens,
            history.data(), embedding.data(), mix.data()};
}

template <class Work>
void for_channels(const Currents& currents, int num_threads, const Work& work) {
    require(num_threads > 0, "expected at least one thread");
    const int64_t groups = (currents.num_channels + kChannels - 1) / kChannels;
    const int64_t useful = currents.num_channels * currents.num_tokens / kThreadWork;
    num_threads = static_cast<int>(std::max<int64_t>(std::min({static_cast<int64_t>(num_threads), useful, groups}), 1));
    const Scratch<float> tables(table_size(currents), num_threads);
    run([&] { for_each(groups, num_threads, [&](int64_t group, int worker) { work(group * kChannels, tables.of(worker)); }); });
}

void currents_forward(In<int64_t> history, In<float> embedding, In<float> mix, Out<float> u, int64_t num_delays, int64_t num_rows,
                      int num_threads) {
    require(num_delays > 0 && mix.size() > 0, "expected at least one delay and channel");
    const std::vector<int32_t> index =
        indices(history, static_cast<int64_t>(embedding.size() * static_cast<size_t>(num_delays) / mix.size()));
    const Currents currents = currents_of(index, embedding, mix, num_delays, num_rows);
    require(static_cast<int64_t>(u.size()) == currents.num_channels * currents.num_tokens, "expected u [channels, tokens]");
    for_channels(currents, num_threads,
                 [&](int64_t channel, float* tables) { SPIKEMESH_PICK(currents_forward)(currents, channel, u.data(), tables); });
}

void currents_backward(In<int64_t> history, In<float> embedding, In<float> mix, In<float> grad_u, Out<float> grad_embedding,
                       Out<float> grad_mix, int64_t num_delays, int64_t num_rows, int num_threads) {
    require(num_delays > 0 && mix.size() > 0, "expected at least one delay and channel");
    const std::vector<int32_t> index =
        indices(history, static_cast<int64_t>(embedding.size() * static_cast<size_t>(num_delays) / mix.size()));
    const Currents currents = currents_of(index, embedding, mix, num_delays, num_rows);
    require(static_cast<int64_t>(grad_u.size()) == currents.num_channels * currents.num_tokens, "expected u [channels, tokens]");
    require(grad_embedding.size() == embedding.size() && grad_mix.size() == mix.size(), "expected gradients of their sizes");
    for_channels(currents, num_threads, [&](int64_t channel, float* tables) {
        SPIKEMESH_PICK(currents_backward)
        (currents, channel, grad_u.data(), grad_embedding.data(), grad_mix.data(), tables);
    });
}

}  // namespace

void bind_currents(nb::module_& m) {
    m.def("currents_forward", &currents_forward, nb::arg("history"), nb::arg("embedding"), nb::arg("mix"), nb::arg("u"),
          nb::arg("num_delays"), nb::arg("num_rows"), nb::arg("num_threads"));
    m.def("currents_backward", &currents_backward, nb::arg("history"), nb::arg("embedding"), nb::arg("mix"), nb::arg("grad_u"),
          nb::arg("grad_embedding"), nb::arg("grad_mix"), nb::arg("num_delays"), nb::arg("num_rows"), nb::arg("num_threads"));
}

}  // namespace spikemesh
