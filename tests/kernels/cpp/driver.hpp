// What the cases share: inputs that are the same bits on every processor, and a place for what a kernel has made.
#pragma once
#include <cstdint>
#include <cstddef>
#include <cstdio>
#include <functional>
#include <map>
#include <new>
#include <string>
#include <vector>

#include "delta/delta.hpp"
#include "merge/combine.hpp"
#include "spiking/currents.hpp"
#include "spiking/events.hpp"
#include "spiking/lif.hpp"
#include "spiking/sparse.hpp"

namespace driver {

using namespace spikemesh;

// The kernels of one instruction set.
#define FOR_KERNELS(X)                                                                                             \
    X(combine) X(scan) X(select_largest) X(quantise) X(encode_positions) X(decode_positions) X(fold)              \
    X(currents_forward) X(currents_backward) X(step_events) X(lif_forward) X(lif_backward) X(pack_spikes)         \
    X(multiply) X(correlate)
struct Kernels {
#define MEMBER(name) decltype(&generic::name) name;
    FOR_KERNELS(MEMBER)
#undef MEMBER
};

// On cache lines, as torch's memory is: how a kernel begins depends on it.
template <class T>
struct OnLine {
    using value_type = T;
    OnLine() = default;
    template <class U>
    OnLine(const OnLine<U>&) {}
    T* allocate(size_t count) { return static_cast<T*>(::operator new(count * sizeof(T), std::align_val_t{64})); }
    void deallocate(T* data, size_t) { ::operator delete(data, std::align_val_t{64}); }
    bool operator==(const OnLine&) const { return true; }
    bool operator!=(const OnLine&) const { return false; }
};
template <class T>
using Array = std::vector<T, OnLine<T>>;

// SplitMix64 (Steele et al. 2014).
class Random {
  public:
    explicit Random(uint64_t seed) : state_(seed) {}
    uint64_t bits() {
        uint64_t z = state_ += 0x9e3779b97f4a7c15;
        z = (z ^ z >> 30) * 0xbf58476d1ce4e5b9;
        z = (z ^ z >> 27) * 0x94d049bb133111eb;
        return z ^ z >> 31;
    }
    int64_t below(int64_t limit) { return static_cast<int64_t>(bits() >> 11) % limit; }
    float uniform() { return static_cast<float>(bits() >> 40) * 0x1p-24f; }  // from 0 to 1
    bool chance(float p) { return uniform() < p; }
    float normal() { return (uniform() + uniform() + uniform() + uniform() - 2.0f) * 1.75f; }  // about

    Array<float> normals(int64_t size, float scale) {
        Array<float> result(static_cast<size_t>(size));
        for (float& x : result) x = normal() * scale;
        return result;
    }

  private:
    uint64_t state_;
};

// One call of a kernel, how much work that is, and what it wrote.
struct Case {
    std::function<void()> kernel;
    int64_t work;                        // in the unit of the test's table
    std::function<void()> write = [] {}; // its results, by `print`
};

// A line "name type count", and the numbers as they lie in memory.
template <class T>
void print(const char* name, const T* data, size_t count) {
    const char kind = T(0.5) != T(0) ? 'f' : T(-1) < T(0) ? 'i' : 'u';
    std::printf("%s %c%zu %zu\n", name, kind, sizeof(T), count);
    std::fwrite(data, sizeof(T), count, stdout);
}
template <class T, class Allocator>
void print(const char* name, const std::vector<T, Allocator>& data) {
    print(name, data.data(), data.size());
}

using Cases = std::map<std::string, std::function<Case(const Kernels&)>>;  // by name

void add_delta(Cases& cases);
void add_merge(Cases& cases);
void add_spiking(Cases& cases, float rate);  // spikes per neuron and token

}  // namespace driver
