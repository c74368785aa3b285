// Merging: a window of each kind that people merge, and of each rule.
#include <cstring>
#include <memory>

#include "driver.hpp"
#include "merge/elements.hpp"

namespace driver {
namespace {

constexpr int64_t kSize = 32'768;  // coordinates

struct Job {
    Rule rule;
    int element;
    int num_inputs;
    bool has_base;
    bool equal_weights;
};

// Raw elements, of which a third are what the base has there.
std::vector<uint8_t> elements(const Job& job, Random& random, const std::vector<uint8_t>* base) {
    const size_t size = static_cast<size_t>(spikemesh::size_of(job.element));
    std::vector<uint8_t> data(kSize * size);
    for (size_t at = 0; at < data.size(); at += size) {
        const float x = random.normal();
        uint32_t bits;
        std::memcpy(&bits, &x, 4);
        if (job.element == BF16) bits >>= 16;
        if (job.element == F16) bits = static_cast<uint32_t>(random.below(0x5800) | random.below(2) << 15);
        if (job.element == F8_E4M3) bits = static_cast<uint32_t>(random.below(0x7f) | random.below(2) << 7);
        const bool same = random.chance(0.33f);
        if (!same) std::memcpy(&data[at], &bits, size);
        else if (base) std::memcpy(&data[at], &(*base)[at], size);
    }
    return data;
}

struct Memory {
    std::vector<uint8_t> base, out;
    std::vector<std::vector<uint8_t>> inputs;
    std::vector<const uint8_t*> pointers;
    std::vector<int64_t> weights;
    Window window{};
    Counts counts;
    Scan scan;
};

std::shared_ptr<Memory> memory_of(const Job& job) {
    auto memory = std::make_shared<Memory>();
    Random random(3);
    memory->out.resize(kSize * static_cast<size_t>(spikemesh::size_of(job.element)));
    if (job.has_base) memory->base = elements(job, random, nullptr);
    for (int i = 0; i < job.num_inputs; ++i) {
        memory->inputs.push_back(elements(job, random, job.has_base ? &memory->base : nullptr));
        memory->weights.push_back(job.equal_weights ? 1 : 1 + random.below(9));
    }
    for (const auto& input : memory->inputs) memory->pointers.push_back(input.data());
    memory->window = {job.rule, job.num_inputs, memory->pointers.data(), memory->weights.data(), 3,
                      job.has_base ? memory->base.data() : nullptr, nullptr, job.element, job.element, memory->out.data(), kSize};
    return memory;
}

Case combine(const Job& job, const Kernels& kernels) {
    const auto memory = memory_of(job);
    return {[=] { kernels.combine(memory->window, memory->counts); }, kSize * job.num_inputs, [=] {
                print("out", memory->out);
                const Counts& counts = memory->counts;
                print("counts", std::vector<int64_t>{counts.held, counts.nonzero, counts.vanished, counts.first_overflow});
            }};
}

Case scan(const Kernels& kernels) {
    const auto memory = memory_of({MEAN, BF16, 1, false, true});
    return {[=] { kernels.scan(memory->inputs[0].data(), BF16, kSize, memory->scan); }, kSize, [=] {
                print("found", std::vector<double>{memory->scan.smallest, memory->scan.largest,
                                                   static_cast<double>(memory->scan.nonzero)});
            }};
}

}  // namespace

void add_merge(Cases& cases) {
    const std::map<std::string, Job> jobs = {
        {"combine_pair_f32", {ACTIVE_MEAN, F32, 2, false, true}},   {"combine_pair_bf16", {ACTIVE_MEAN, BF16, 2, false, true}},
        {"combine_mean_f32", {MEAN, F32, 3, false, false}},         {"combine_sum_f16", {SUM, F16, 3, true, false}},
        {"combine_trimmed_f32", {TRIMMED_MEAN, F32, 5, true, false}}, {"combine_sign_bf16", {SIGN_ELECT, BF16, 3, true, false}},
        {"combine_largest_f32", {MAX_MAGNITUDE, F32, 3, true, false}}, {"combine_mean_f8", {ACTIVE_MEAN, F8_E4M3, 3, false, false}},
    };
    for (const auto& [name, job] : jobs) cases[name] = [job = job](const Kernels& kernels) { return combine(job, kernels); };
    cases["scan"] = scan;
}

}  // namespace driver
