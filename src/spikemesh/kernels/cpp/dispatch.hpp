// The best instruction set that this processor has, chosen once. Kernels are compiled into one namespace for each.
#pragma once

namespace spikemesh {

enum class InstructionSet { generic, avx2, avx512 };

inline InstructionSet detect() {
#if defined(SPIKEMESH_X86)
    __builtin_cpu_init();
    if (__builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512cd") &&
        __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl"))
        return InstructionSet::avx512;
    if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") && __builtin_cpu_supports("bmi2"))
        return InstructionSet::avx2;
#endif
    return InstructionSet::generic;
}

inline InstructionSet instruction_set() {
    static const InstructionSet chosen = detect();
    return chosen;
}

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
