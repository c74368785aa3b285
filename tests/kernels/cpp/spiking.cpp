// Training and generating at about the demo's size: products with synapses, neurons, input currents, a token by events.
#include <memory>

#include "driver.hpp"
#include "spiking/spikes.hpp"

namespace driver {
namespace {

// ---- products -------------------------------------------------------------------------------------------------------

constexpr int64_t kInputs = 512, kRows = 256, kTokens = 1024;
constexpr float kDensity = 0.07f;

// Synapses by row, in the sums of sparse.hpp.
struct Pattern {
    int64_t num_inputs, num_rows;
    Array<int32_t> bounds, inputs;
    Array<float> values;

    Pattern(int64_t num_rows, int64_t num_inputs) : num_inputs(num_inputs), num_rows(num_rows) {
        Random random(4);
        for (int64_t row = 0; row < num_rows; ++row)
            for (int64_t input = 0; input < num_inputs; ++input) {
                if (input % kSumInputs == 0) bounds.push_back(static_cast<int32_t>(inputs.size()));
                if (random.chance(kDensity)) inputs.push_back(static_cast<int32_t>(input));
            }
        bounds.push_back(static_cast<int32_t>(inputs.size()));
        values = random.normals(static_cast<int64_t>(inputs.size()), 0.2f);
    }
    Synapses synapses() const { return {num_inputs, num_rows, num_sums(num_inputs), bounds.data(), inputs.data(), values.data()}; }
    int64_t work() const { return static_cast<int64_t>(inputs.size()) * kTokens; }
};

struct Product {
    Pattern pattern;
    Array<float> x, y, grad_values, tile;
    Array<uint8_t> bits;

    Product(int64_t num_rows, int64_t num_inputs, float rate)
        : pattern(num_rows, num_inputs), x(Random(5).normals(num_inputs * kTokens, 1.0f)),
          y(Random(6).normals(num_rows * kTokens, 0.01f)), grad_values(pattern.inputs.size()),
          tile(static_cast<size_t>(tile_size(num_inputs))), bits(static_cast<size_t>(num_blocks(kTokens) * num_inputs * kBlockBytes)) {
        Random random(7);
        for (int64_t bit = 0; bit < num_blocks(kTokens) * num_inputs * kBlockTokens; ++bit)
            bits[static_cast<size_t>(bit / 8)] |= static_cast<uint8_t>(random.chance(rate) << bit % 8);
    }
    Activations numbers() const { return {kTokens, x.data(), nullptr}; }
    Activations spikes() const { return {kTokens, nullptr, bits.data()}; }
};

Case multiply_spikes(const Kernels& kernels, float rate) {
    auto p = std::make_shared<Product>(kRows, kInputs, rate);
    return {[=] {
                for (int64_t token = 0; token < kTokens; token += kTileTokens)
                    kernels.multiply(p->pattern.synapses(), p->spikes(), {token, token + kTileTokens}, p->y.data(), p->tile.data());
            },
            p->pattern.work(), [=] { print("y", p->y); }};
}

Case multiply(const Kernels& kernels, int64_t num_rows, int64_t num_inputs) {
    auto p = std::make_shared<Product>(num_rows, num_inputs, 0.0f);
    return {[=] {
                for (int64_t token = 0; token < kTokens; token += kTileTokens)
                    kernels.multiply(p->pattern.synapses(), p->numbers(), {token, token + kTileTokens}, p->y.data(), p->tile.data());
            },
            p->pattern.work(), [=] { print("y", p->y); }};
}

Case correlate_spikes(const Kernels& kernels, float rate) {
    auto p = std::make_shared<Product>(kRows, kInputs, rate);
    return {[=] {
                kernels.correlate(p->pattern.synapses(), p->spikes(), p->y.data(), {0, kRows}, p->grad_values.data(), p->tile.data());
            },
            p->pattern.work(), [=] { print("grad_values", p->grad_values); }};
}

Case correlate(const Kernels& kernels) {
    auto p = std::make_shared<Product>(kRows, kInputs, 0.0f);
    return {[=] {
                kernels.correlate(p->pattern.synapses(), p->numbers(), p->y.data(), {0, kRows}, p->grad_values.data(), p->tile.data());
            },
            p->pattern.work(), [=] { print("grad_values", p->grad_values); }};
}

Case pack_spikes(const Kernels& kernels, float rate) {
    auto p = std::make_shared<Product>(kRows, kInputs, 0.0f);
    Random random(8);
    for (float& x : p->x) x = random.chance(rate) ? 1.0f : 0.0f;
    return {[=] { kernels.pack_spikes(p->x.data(), kTokens, {0, kInputs}, 0, kInputs, p->bits.data()); }, kInputs * kTokens,
            [=] { print("bits", p->bits); }};
}

// ---- neurons --------------------------------------------------------------------------------------------------------

constexpr int64_t kSteps = 128, kBatch = 8, kNeurons = 256;

struct Neurons {
    Lanes lanes{kSteps, kBatch, kNeurons, kSteps * kBatch, kBatch, false};
    Array<float> x, grad_y, grad_x, v, leak, threshold, scratch;
    Array<double> grad_leak, grad_threshold;
    Array<uint8_t> bits;

    explicit Neurons(float rate)
        : x(Random(9).normals(kSteps * kBatch * kNeurons, 1.0f)), grad_y(Random(10).normals(kSteps * kBatch * kNeurons, 1.0f)),
          grad_x(x.size()), v(kBatch * kNeurons), leak(kNeurons), scratch(static_cast<size_t>(lif_scratch(lanes))),
          grad_leak(kNeurons), grad_threshold(kNeurons), bits(static_cast<size_t>(num_blocks(kSteps * kBatch) * kNeurons * kBlockBytes)) {
        for (float& some : leak) some = 0.9f;
        threshold = Array<float>(kNeurons, rate < 0.1f ? 2.5f : 1.5f);
    }
};

Case lif_forward(const Kernels& kernels, float rate) {
    auto n = std::make_shared<Neurons>(rate);
    return {[=] {
                const LifForward job{n->lanes, n->x.data(), nullptr, n->leak.data(), n->threshold.data(), nullptr, n->v.data(), n->bits.data()};
                kernels.lif_forward(job, 0, kNeurons, n->scratch.data());
            },
            kSteps * kBatch * kNeurons, [=] { print("v", n->v), print("bits", n->bits); }};
}

Case lif_backward(const Kernels& kernels, float rate) {
    auto n = std::make_shared<Neurons>(rate);
    return {[=] {
                const LifBackward job{n->lanes, 4.0f, n->x.data(), nullptr, n->leak.data(), n->threshold.data(), n->grad_y.data(),
                                      nullptr, n->grad_x.data(), nullptr};
                kernels.lif_backward(job, 0, kNeurons, n->scratch.data(), n->grad_leak.data(), n->grad_threshold.data());
            },
            kSteps * kBatch * kNeurons,
            [=] { print("grad_x", n->grad_x), print("grad_leak", n->grad_leak), print("grad_threshold", n->grad_threshold); }};
}

// ---- input currents -------------------------------------------------------------------------------------------------

struct Stream {
    static constexpr int64_t kDelays = 4, kValues = 256, kWidth = 64;
    Array<int32_t> history;
    Array<float> embedding, mix, u, grad_embedding, grad_mix, tables;

    Stream()
        : embedding(Random(11).normals(kValues * kWidth, 1.0f)), mix(Random(12).normals(kDelays * kWidth, 1.0f)),
          u(Random(13).normals(kWidth * kTokens, 1.0f)), grad_embedding(embedding.size()), grad_mix(mix.size()),
          tables(static_cast<size_t>(kDelays * (kValues + 1) * kChannels)) {
        Random random(14);
        for (int64_t i = 0; i < kTokens + (kDelays - 1) * kBatch; ++i) history.push_back(static_cast<int32_t>(random.below(kValues + 1)));
    }
    Currents currents() const { return {kDelays, kValues, kWidth, kBatch, kTokens, history.data(), embedding.data(), mix.data()}; }
};

Case currents_forward(const Kernels& kernels) {
    auto s = std::make_shared<Stream>();
    return {[=] {
                for (int64_t c = 0; c < Stream::kWidth; c += kChannels) kernels.currents_forward(s->currents(), c, s->u.data(), s->tables.data());
            },
            Stream::kWidth * kTokens, [=] { print("u", s->u); }};
}

Case currents_backward(const Kernels& kernels) {
    auto s = std::make_shared<Stream>();
    return {[=] {
                for (int64_t c = 0; c < Stream::kWidth; c += kChannels)
                    kernels.currents_backward(s->currents(), c, s->u.data(), s->grad_embedding.data(), s->grad_mix.data(), s->tables.data());
            },
            Stream::kWidth * kTokens, [=] { print("grad_embedding", s->grad_embedding), print("grad_mix", s->grad_mix); }};
}

// ---- a token by events ----------------------------------------------------------------------------------------------

// Synapses as events.hpp wants them: an even number in each list.
struct Lists {
    Array<uint32_t> starts{0};
    Array<uint16_t> indices;
    Array<float> floats;
    Array<uint8_t> bytes;
    Array<float> scale;

    Lists(Random& random, int pre, int post, bool pull) : scale(static_cast<size_t>(post), 0.02f) {
        for (int list = 0; list < (pull ? post : pre); ++list) {
            for (int other = 0; other < (pull ? pre : post); ++other)
                if (random.chance(kDensity)) indices.push_back(static_cast<uint16_t>(other));
            if (indices.size() % 2) indices.push_back(0);
            starts.push_back(static_cast<uint32_t>(indices.size()));
        }
        floats = random.normals(static_cast<int64_t>(indices.size()), 0.25f);
        for (size_t i = 0; i < indices.size(); ++i) bytes.push_back(static_cast<uint8_t>(random.below(256)));
    }
    SynapseLists of(Weights kind) const {
        const void* weights = kind == Weights::Float ? static_cast<const void*>(floats.data()) : bytes.data();
        return {static_cast<int>(starts.size()) - 1, starts.data(), indices.data(), weights};
    }
};

struct Network {
    static constexpr int kWidth = 128, kHidden = 512, kDelays = 4, kAxons = 2, kEventTokens = 8;
    Array<float> leak, threshold, embedding, delay_mix, bias;
    Lists in, out, head;
    EventBlock block{};
    EventNetwork network{};
    Array<int32_t> token, tokens;
    Array<float> potentials, logits;
    Array<uint32_t> sent;
    Array<int64_t> spikes = Array<int64_t>(3);
    Array<uint8_t> scratch;

    Network(Weights kind, bool pull, float rate, Random random = Random(15))
        : leak(kHidden, 0.9f), threshold(kHidden, rate < 0.1f ? 1.6f : 0.8f), embedding(random.normals(kVocab * kWidth, 0.5f)),
          delay_mix(random.normals(kDelays * kWidth, 0.7f)), bias(kVocab), in(random, kWidth, kHidden, pull),
          out(random, kHidden, kWidth + kVocab, pull), head(random, kWidth, kVocab, pull) {
        const Population stream{kWidth, leak.data(), threshold.data()}, hidden{kHidden, leak.data(), threshold.data()};
        const bool scaled = kind != Weights::Float;
        block = {stream, hidden, in.of(kind), out.of(kind), scaled ? in.scale.data() : nullptr, scaled ? out.scale.data() : nullptr};
        network = {kind, pull, kWidth, kDelays, kAxons, embedding.data(), delay_mix.data(), 1, &block, stream, head.of(kind),
                   scaled ? head.scale.data() : nullptr, leak.data(), bias.data()};
        const size_t lanes = pull ? kLanes : 1;
        for (size_t i = 0; i < lanes * kEventTokens; ++i) token.push_back(static_cast<int32_t>(random.below(kVocab)));
        tokens = Array<int32_t>(lanes * kDelays, -1);
        potentials.resize(lanes * (2 * kWidth + kHidden + kVocab));
        logits.resize(lanes * kVocab);
        sent.resize(kAxons * kWidth);
        scratch.resize(event_scratch(network));
    }
    int lanes() const { return network.pull ? kLanes : 1; }
    void step(const Kernels& kernels, int clock) {
        kernels.step_events(network, {lanes(), clock, token.data() + clock * lanes(), ~0u, tokens.data(), potentials.data(), sent.data(),
                                      spikes.data(), logits.data(), scratch.data()});
    }
};

Case events(const Kernels& kernels, Weights kind, bool pull, float rate) {
    auto n = std::make_shared<Network>(kind, pull, rate);
    return {[=] {
                for (int clock = 0; clock < Network::kEventTokens; ++clock) n->step(kernels, clock);
            },
            n->lanes() * Network::kEventTokens, [=] {
                print("logits", n->logits), print("potentials", n->potentials), print("spikes", n->spikes);
            }};
}

}  // namespace

void add_spiking(Cases& cases, float rate) {
    cases["multiply_spikes"] = [=](const Kernels& kernels) { return multiply_spikes(kernels, rate); };
    cases["multiply"] = [](const Kernels& kernels) { return multiply(kernels, kRows, kInputs); };
    cases["multiply_transposed"] = [](const Kernels& kernels) { return multiply(kernels, kInputs, kRows); };
    cases["correlate_spikes"] = [=](const Kernels& kernels) { return correlate_spikes(kernels, rate); };
    cases["correlate"] = correlate;
    cases["pack_spikes"] = [=](const Kernels& kernels) { return pack_spikes(kernels, rate); };
    cases["lif_forward"] = [=](const Kernels& kernels) { return lif_forward(kernels, rate); };
    cases["lif_backward"] = [=](const Kernels& kernels) { return lif_backward(kernels, rate); };
    cases["currents_forward"] = currents_forward;
    cases["currents_backward"] = currents_backward;
    const std::map<std::string, Weights> kinds = {{"float", Weights::Float}, {"int8", Weights::Int8}, {"int4", Weights::Int4}};
    for (const auto& [name, kind] : kinds) {
        cases["push_" + name] = [=, kind = kind](const Kernels& kernels) { return events(kernels, kind, false, rate); };
        cases["pull_" + name] = [=, kind = kind](const Kernels& kernels) { return events(kernels, kind, true, rate); };
    }
}

}  // namespace driver
