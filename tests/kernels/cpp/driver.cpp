// driver SET KERNEL [RATE [REPETITIONS]]: one kernel on fixed inputs. Prints "work N", then its results; with repetitions
// "seconds S", the shortest, instead. Without arguments: the instruction sets and kernels that there are.
#include "driver.hpp"

#include <chrono>
#include <cstdlib>

using namespace driver;

// What a profiler finds by its name, and counts in.
extern "C" __attribute__((noinline)) void measured(const std::function<void()>& kernel) { kernel(); }

namespace {

#define MEMBER_OF(name) SET::name,
const std::map<std::string, Kernels> kSets = {
#define SET generic
    {"generic", {FOR_KERNELS(MEMBER_OF)}},
#undef SET
#if defined(SPIKEMESH_X86)
#define SET avx2
    {"avx2", {FOR_KERNELS(MEMBER_OF)}},
#undef SET
#define SET avx512
    {"avx512", {FOR_KERNELS(MEMBER_OF)}},
#undef SET
#endif
};

double shortest(const Case& some, int repetitions) {
    double best = 1e9;
    for (int i = 0; i < repetitions; ++i) {
        const auto start = std::chrono::steady_clock::now();
        measured(some.kernel);
        best = std::min(best, std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count());
    }
    return best;
}

int list(const Cases& cases) {
    for (const auto& [name, kernels] : kSets) std::printf("set %s\n", name.c_str());
    for (const auto& [name, make] : cases) std::printf("kernel %s\n", name.c_str());
    return 0;
}

}  // namespace

int main(int argc, char** argv) {
    Cases cases;
    add_delta(cases);
    add_merge(cases);
    add_spiking(cases, argc > 3 ? std::strtof(argv[3], nullptr) : 0.15f);
    if (argc < 3) return list(cases);
    const auto set = kSets.find(argv[1]);
    const auto make = cases.find(argv[2]);
    if (set == kSets.end() || make == cases.end()) return std::fprintf(stderr, "no such instruction set or kernel\n"), 2;
    const Case some = make->second(set->second);
    std::printf("work %lld\n", static_cast<long long>(some.work));
    if (argc > 4) {
        std::printf("seconds %.9f\n", shortest(some, std::atoi(argv[4])));
        return 0;
    }
    measured(some.kernel);
    some.write();
}
