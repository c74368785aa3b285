// The parts of a delta: a quarter of 200,000 coordinates.
#include <cmath>
#include <memory>

#include "driver.hpp"

namespace driver {
namespace {

constexpr int64_t kCoordinates = 200'000, kSent = kCoordinates / 4;
constexpr int kLevels[kNumCodes] = {-15, -12, -9, -7, -5, -3, -2, -1, 0, 1, 2, 4, 6, 8, 11, 14};

// A delta's values and where the largest are, by the kernels of no set in particular: `generic`.
struct Delta {
    Array<float> values, sent;
    Array<int64_t> indices = Array<int64_t>(kSent);
    Array<uint32_t> scratch = Array<uint32_t>(static_cast<size_t>(select_scratch(kCoordinates)));
    Array<uint8_t> codes = Array<uint8_t>(kSent), scales = Array<uint8_t>((kSent + kBlock - 1) / kBlock);

    Delta() : values(Random(1).normals(kCoordinates, 1e4f)) {
        generic::select_largest(values.data(), kCoordinates, kSent, indices.data(), scratch.data());
        for (const int64_t i : indices) sent.push_back(values[static_cast<size_t>(i)]);
    }
};

Levels levels() {
    Levels table;
    for (int code = 0; code < kNumCodes; ++code) {
        table.values[code] = static_cast<float>(kLevels[code]);
        table.thresholds[code] = code ? 256.0f + static_cast<float>(kLevels[code - 1] + kLevels[code]) : -HUGE_VALF;
    }
    return table;
}

struct Positions {
    static constexpr int64_t kChunks = (kCoordinates + kChunk - 1) / kChunk;
    Array<uint8_t> forms = Array<uint8_t>(kChunks), data = Array<uint8_t>(kCoordinates);
    Array<int64_t> num_sent = Array<int64_t>(kChunks), num_bytes = num_sent;
    Array<uint16_t> scratch = Array<uint16_t>(kChunk), positions = Array<uint16_t>(kSent);

    Encoded encoded() { return {forms.data(), num_sent.data(), num_bytes.data(), data.data(), static_cast<int64_t>(data.size())}; }
    Chunks chunks() const { return {kCoordinates, forms.data(), num_sent.data(), num_bytes.data()}; }
    void write() const {
        print("forms", forms), print("num_sent", num_sent), print("num_bytes", num_bytes), print("data", data);
    }
};

Case select(const Kernels& kernels) {
    auto delta = std::make_shared<Delta>();
    return {[=] { kernels.select_largest(delta->values.data(), kCoordinates, kSent, delta->indices.data(), delta->scratch.data()); },
            kCoordinates, [=] { print("indices", delta->indices); }};
}

Case quantise(const Kernels& kernels) {
    auto delta = std::make_shared<Delta>();
    return {[=] { kernels.quantise(delta->sent.data(), kSent, levels(), 3, delta->codes.data(), delta->scales.data()); }, kSent,
            [=] { print("codes", delta->codes), print("scales", delta->scales); }};
}

Case encode(const Kernels& kernels) {
    auto delta = std::make_shared<Delta>();
    auto some = std::make_shared<Positions>();
    return {[=] { kernels.encode_positions(delta->indices.data(), kSent, kCoordinates, some->encoded(), some->scratch.data()); },
            kSent, [=] { some->write(); }};
}

Case decode(const Kernels& kernels) {
    const Delta delta;
    auto some = std::make_shared<Positions>();
    generic::encode_positions(delta.indices.data(), kSent, kCoordinates, some->encoded(), some->scratch.data());
    return {[=] { kernels.decode_positions(some->chunks(), some->data.data(), some->positions.data()); }, kSent,
            [=] { print("positions", some->positions); }};
}

Case fold(const Kernels& kernels) {
    auto delta = std::make_shared<Delta>();
    auto some = std::make_shared<Positions>();
    auto sums = std::make_shared<Array<int64_t>>(kCoordinates), after = std::make_shared<Array<int64_t>>(kCoordinates);
    generic::encode_positions(delta->indices.data(), kSent, kCoordinates, some->encoded(), some->scratch.data());
    generic::decode_positions(some->chunks(), some->data.data(), some->positions.data());
    Random random(2);
    for (uint8_t& pair : delta->codes) pair = static_cast<uint8_t>(random.below(256));
    for (uint8_t& scale : delta->scales) scale = static_cast<uint8_t>(random.below(kNumScales));
    for (int64_t& sum : *sums) sum = random.below(1 << 20);
    return {[=] {
                Sent sent{some->positions.data(), delta->codes.data(), delta->scales.data(), {}};
                for (int code = 0; code < kNumCodes; ++code) sent.levels[code] = static_cast<int8_t>(kLevels[code]);
                const int64_t* before[Positions::kChunks];
                int64_t* to[Positions::kChunks];
                for (int64_t c = 0; c < Positions::kChunks; ++c) before[c] = sums->data() + c * kChunk, to[c] = after->data() + c * kChunk;
                kernels.fold(some->chunks(), sent, 7, before, to);
            },
            kSent, [=] { print("sums", *after); }};
}

}  // namespace

void add_delta(Cases& cases) {
    cases["select_largest"] = select;
    cases["quantise"] = quantise;
    cases["encode_positions"] = encode;
    cases["decode_positions"] = decode;
    cases["fold"] = fold;
}

}  // namespace driver
