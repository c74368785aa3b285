// Kernels are compiled into one namespace per instruction set; the best that this processor has is used. The results are
// the same bits with each, which the tests show by choosing them in turn.
#pragma once
#include <atomic>
#include <vector>

namespace spikemesh {

enum class InstructionSet { generic, avx2, avx512 };

// What this processor has, best first.
inline std::vector<InstructionSet> instruction_sets() {
    std::vector<InstructionSet> sets;
#if defined(SPIKEMESH_X86)
    __builtin_cpu_init();
    const bool avx2 = __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") && __builtin_cpu_supports("bmi2");
    if (avx2 && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
        __builtin_cpu_supports("avx512cd") && __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl"))
        sets.push_back(InstructionSet::avx512);
    if (avx2) sets.push_back(InstructionSet::avx2);
#endif
    sets.push_back(InstructionSet::generic);
    return sets;
}

inline std::atomic<InstructionSet>& chosen() {
    static std::atomic<InstructionSet> set{instruction_sets().front()};
    return set;
}

inline InstructionSet instruction_set() { return chosen().load(std::memory_order_relaxed); }

inline const char* name_of(InstructionSet set) {
    return set == InstructionSet::avx512 ? "avx512" : set == InstructionSet::avx2 ? "avx2" : "generic";
}

// `SPIKEMESH_PICK(combine)` is the function of that name in the namespace of the chosen instruction set.
#if defined(SPIKEMESH_X86)
#define SPIKEMESH_PICK(function)                                                       \
    (instruction_set() == InstructionSet::avx512 ? ::spikemesh::avx512::function       \
     : instruction_set() == InstructionSet::avx2 ? ::spikemesh::avx2::function         \
                                                 : ::spikemesh::generic::function)
#else
#define SPIKEMESH_PICK(function) (::spikemesh::generic::function)
#endif

}  // namespace spikemesh
