// Compiled once per instruction set (ISA names the namespace), always without contraction: TwoSum needs each rounding.
//
// A register full of coordinates is worked on at a time, in three tiers. (1) The sum in one double, while that is exact.
// (2) The sum as an exact pair of doubles, the quotient rounded to odd. (3) Wide integers, one coordinate at a time. Almost
// everything ends in (1).
//
// (1) rounds twice, to double and to the element type. That could only go wrong where a quotient N / D beside a number h
// half-way between two of the type is rounded to h. But h has at most 25 bits and D 28, so h * D is a double, N is another,
// and they are at least one last place of h * D apart; so N / D is more than half a last place from h. (Where h * D is a
// power of two the doubles below it are closer, but then D is one too, and nothing is rounded.)
#include "combine.hpp"

#include <cmath>
#include <cstring>
#include <limits>

#include "elements.hpp"
#include "exact.hpp"
#include "lanes.hpp"

#include "../isa.hpp"

namespace spikemesh::ISA {
namespace {

// ---- sums and quotients ---------------------------------------------------------------------------------------------

struct Sum {
    Doubles high{}, low{}, lost{};  // high + low, exactly where `lost` is 0
    Doubles total{};                // of the weights
};

INLINE Doubles two_sum(Doubles& high, Doubles x) {
    const Doubles sum = high + x, part = sum - high;
    const Doubles error = (high - (sum - part)) + (x - part);
    high = sum;
    return error;
}

// Tier 1 keeps the sum in `high`; tier 2 in `high` and `low`.
template <int tier>
INLINE void add(Sum& sum, Doubles weight, Doubles x) {
    Doubles error = two_sum(sum.high, weight * x);
    if (tier == 2) error = two_sum(sum.low, error);
    sum.lost += magnitude(error);
    sum.total += weight;
}

// a * b + c, rounded once.
INLINE Doubles fused(Doubles a, Doubles b, Doubles c) {
#if defined(__AVX512F__)
    return (Doubles)_mm512_fmadd_pd((__m512d)a, (__m512d)b, (__m512d)c);
#elif defined(__AVX2__)
    return (Doubles)_mm256_fmadd_pd((__m256d)a, (__m256d)b, (__m256d)c);
#else
    Doubles result;
    for (int l = 0; l < kWide; ++l) result[l] = __builtin_fma(a[l], b[l], c[l]);
    return result;
#endif
}

// Tier 2: (high + low) / by, rounded to odd. `low` may be the larger one after a cancellation, so the pair is brought in
// order. Then the first quotient may be off by more than its last place, the second not, and its rest has the exact sign.
INLINE Doubles quotient_to_odd(const Sum& sum, Doubles by) {
    Doubles high = sum.high;
    const Doubles low = two_sum(high, sum.low);
    Doubles q = high / by;
    q += (fused(-q, by, high) + low) / by;
    const Doubles rest = fused(-q, by, high) + low;
    const Longs away = ~((rest > 0.0) ^ (q > 0.0)), inexact_even = (rest != 0.0) & (((Longs)q & 1) == 0);
    return (Doubles)((Words)q + (Words)(inexact_even & ((away & 2) - 1)));
}

// ---- the rules ------------------------------------------------------------------------------------------------------

// `kWide` coordinates of every input, and who holds them.
struct Lanes {
    Doubles values[kMaxInputs];
    Longs held[kMaxInputs];
    Doubles base;
    Longs masked, anybody;
    Longs bad;       // a value or the base is NaN or infinite: what becomes of it is not looked at
    Longs vanished;  // not zero, but zero in double
};

// The lowest and the highest held value, as often as `trim` says: by value, then by weight, so that order cannot matter.
static void drop_ends(Lanes& lanes, const double* weights, int num_inputs) {
    Longs num_held{};
    for (int i = 0; i < num_inputs; ++i) num_held -= lanes.held[i];
    int rounds = 0;
    Longs left;
    for (int l = 0; l < kWide; ++l) {
        left[l] = trim(static_cast<int>(num_held[l]));
        rounds = left[l] > rounds ? static_cast<int>(left[l]) : rounds;
    }
    constexpr double kSides[] = {1.0, -1.0};
    for (int round = 0; round < rounds; ++round)
        for (const double side : kSides) {
            Doubles best = all(INFINITY), weight = all(INFINITY);
            Longs index = Longs{} - 1;
            for (int i = 0; i < num_inputs; ++i) {
                const Doubles x = side * lanes.values[i], w = all(side * weights[i]);
                const Longs better = lanes.held[i] & ((x < best) | ((x == best) & (w < weight)));
                best = better ? x : best;
                weight = better ? w : weight;
                index = better ? Longs{} + i : index;
            }
            for (int i = 0; i < num_inputs; ++i) lanes.held[i] &= ~((index == i) & (left > round));
        }
}

// Keep what lies on the side of the base that the weighted sum of the differences lies on; a tie keeps nothing.
// Returns the lanes whose side one double does not decide.
static Longs elect_sign(Lanes& lanes, const double* weights, int num_inputs) {
    Sum sum;
    for (int i = 0; i < num_inputs; ++i)
        add<1>(sum, lanes.held[i] ? all(weights[i]) : Doubles{}, lanes.values[i]);
    add<1>(sum, -sum.total, lanes.base);
    for (int i = 0; i < num_inputs; ++i) {
        const Longs above = lanes.values[i] > lanes.base, below = lanes.values[i] < lanes.base;
        lanes.held[i] &= (above & (sum.high > 0.0)) | (below & (sum.high < 0.0));
    }
    return sum.lost != 0.0;
}

// The held value furthest from the base; of two as far, the larger. TwoSum makes the distances exact.
static Doubles furthest(const Lanes& lanes, int num_inputs) {
    Doubles high = all(-1.0), low{}, result = lanes.base;
    for (int i = 0; i < num_inputs; ++i) {
        const Doubles v = lanes.values[i];
        Doubles distance = v;
        Doubles error = two_sum(distance, -lanes.base);
        const Longs negative = distance < 0.0;
        distance = negative ? -distance : distance;
        error = negative ? -error : error;
        const Longs level = (distance == high) & ((error > low) | ((error == low) & (v > result)));
        const Longs better = lanes.held[i] & ((distance > high) | level);
        high = better ? distance : high;
        low = better ? error : low;
        result = better ? v : result;
    }
    return result;
}

// The sum that the rule asks for, once `held` is what it has chosen; `by` is what to divide it by.
template <int tier>
INLINE Sum chosen_sum(const Window& window, const Lanes& lanes, const double* weights, int num_inputs, Doubles& by) {
    Sum sum;
    const bool everywhere = window.rule == MEAN || window.rule == SUM;
    for (int i = 0; i < num_inputs; ++i)
        add<tier>(sum, everywhere ? all(weights[i]) : lanes.held[i] ? all(weights[i]) : Doubles{}, lanes.values[i]);
    by = sum.total == 0.0 ? all(1.0) : sum.total;
    if (window.rule == SUM) {
        by = all(static_cast<double>(window.divisor));
        add<tier>(sum, by - sum.total, lanes.base);
    }
    return sum;
}

// Tier 3, in the lanes that ask for it.
static void resolve_wide(const Window& window, Lanes& lanes, Longs lost, Doubles& result) {
    for (int l = 0; l < kWide; ++l) {
        if (!lost[l] || lanes.bad[l]) continue;
        double column[kMaxInputs];
        for (int i = 0; i < window.num_inputs; ++i) column[i] = lanes.values[i][l];
        const Exact exact = exact_value(window, column, lanes.base[l], lanes.masked[l] != 0);
        result[l] = exact.value;
        lanes.vanished[l] = exact.vanished ? -1 : 0;
    }
}

// What one double does not decide: tier 2, and tier 3 where that is not exact either, or who was chosen is unsure.
static Doubles resolve_exactly(const Window& window, Lanes& lanes, const double* weights, Longs unsure) {
    Doubles by;
    const Sum sum = chosen_sum<2>(window, lanes, weights, window.num_inputs, by);
    Doubles result = quotient_to_odd(sum, by);
    result = sum.total == 0.0 ? lanes.base : result;
    resolve_wide(window, lanes, unsure | (sum.lost != 0.0), result);
    return result;
}

INLINE Doubles resolve(const Window& window, Lanes& lanes, const double* weights, int num_inputs) {
    if (window.rule == MAX_MAGNITUDE) return furthest(lanes, num_inputs);
    Longs unsure{};
    if (window.rule == TRIMMED_MEAN) drop_ends(lanes, weights, num_inputs);
    if (window.rule == SIGN_ELECT) unsure = elect_sign(lanes, weights, num_inputs);
    Doubles by;
    const Sum sum = chosen_sum<1>(window, lanes, weights, num_inputs, by);
    Doubles result = sum.high / by;
    result = sum.total == 0.0 ? lanes.base : result;
    const Longs lost = unsure | (sum.lost != 0.0);
    if (!any(lost)) return result;
    if (window.out_element != F64) return resolve_exactly(window, lanes, weights, unsure);
    resolve_wide(window, lanes, lost, result);
    return result;
}

// ---- a window -------------------------------------------------------------------------------------------------------

struct Tally {
    Longs held{}, nonzero{}, vanished{}, bad{}, beyond{};
};

// Where a stretch of the window lies: the inputs' (and base's, mask's) bytes from its first coordinate on.
struct Place {
    const uint8_t* inputs[kMaxInputs];
    const uint8_t* base;
    const uint8_t* mask;
    uint8_t* out;
};

// `kWide` coordinates, `offset` after the place.
template <int element>
INLINE void combine_lanes(const Window& window, const Place& place, int64_t offset, const double* weights, int num_inputs,
                          const Format& format, int out_element, Lanes& lanes, Tally& tally) {
    constexpr int size = size_of(element);
    lanes.base = place.base ? decode<element>(place.base + offset * size) : Doubles{};
    lanes.masked = Longs{};
    if (place.mask)
        for (int l = 0; l < kWide; ++l) lanes.masked[l] = place.mask[offset + l] ? -1 : 0;
    lanes.anybody = lanes.vanished = Longs{};
    Longs bad = ~(magnitude(lanes.base) <= kLargest);
    for (int i = 0; i < num_inputs; ++i) {
        const Doubles v = decode<element>(place.inputs[i] + offset * size);
        bad |= ~(magnitude(v) <= kLargest);
        lanes.values[i] = v;
        lanes.held[i] = (v != lanes.base) | lanes.masked;
        lanes.anybody |= lanes.held[i];
    }
    lanes.bad = bad;
    Doubles exact{};
    if constexpr (element == F64)
        resolve_wide(window, lanes, ~Longs{}, exact);
    else
        exact = resolve(window, lanes, weights, num_inputs);
    exact = bad ? Doubles{} : exact;
    const Doubles written = encode(out_element, format, exact, place.out + offset * format.size);
    tally.bad |= bad;
    tally.held -= lanes.anybody & ~bad;
    tally.nonzero -= written != 0.0;
    tally.vanished -= (written == 0.0) & ((exact != 0.0) | lanes.vanished);
    tally.beyond |= ~(magnitude(written) <= format.largest);
}

// The rare look for where: the first coordinate that is not finite, of each input and of the result.
template <int element>
static void find(const Window& window, const Place& place, int64_t at, int64_t count, Counts& counts) {
    const auto first = [&](const uint8_t* data, int kind, int64_t& found) {
        const int size = size_of(kind);
        for (int64_t l = 0; l < count && found == kNone; ++l)
            if (!(__builtin_fabs(decode_one(kind, data + l * size)) <= format_of(kind).largest)) found = at + l;
    };
    for (int i = 0; i < window.num_inputs; ++i) first(place.inputs[i], element, counts.first_bad[i]);
    if (place.base) first(place.base, element, counts.first_bad_base);
    first(place.out, window.out_element, counts.first_overflow);
}

constexpr int64_t kStretch = 512;  // coordinates between two looks at the tally

// `count` coordinates, whole vectors, from `place` on. `fixed` inputs, or as many as there are.
template <int element, int fixed>
static void combine_stretch(const Window& window, const Place& place, int64_t at, int64_t count, const double* weights,
                            Counts& counts) {
    const Format format = format_of(window.out_element);
    const int num_inputs = fixed ? fixed : window.num_inputs;
    Lanes lanes;
    Tally tally;
    if (window.out_element == F32)
        for (int64_t offset = 0; offset < count; offset += kWide)
            combine_lanes<element>(window, place, offset, weights, num_inputs, format, F32, lanes, tally);
    else
        for (int64_t offset = 0; offset < count; offset += kWide)
            combine_lanes<element>(window, place, offset, weights, num_inputs, format, window.out_element, lanes, tally);
    counts.held += total_of(tally.held);
    counts.nonzero += total_of(tally.nonzero);
    counts.vanished += total_of(tally.vanished);
    if (any(tally.bad | tally.beyond)) find<element>(window, place, at, count, counts);
}

// ---- what is asked for most: the active mean of two float files with equal weights -----------------------------------

constexpr int kWideFloats = kRegisterBytes / 4;
typedef float WideFloats __attribute__((vector_size(kRegisterBytes)));
typedef int32_t WideInts __attribute__((vector_size(kRegisterBytes)));

// Half of a + b where both hold the coordinate, the one value where one does. Halving is exact and so commutes with the
// rounding of the sum, unless the sum is too large or the half too small. False, with nothing counted, if some lane is
// that or not finite: then the general path does the stretch.
static bool mean_of_pair(const Place& place, int64_t count, Counts& counts) {
    WideInts held{}, nonzero{}, doubtful{};
    for (int64_t offset = 0; offset < count; offset += kWideFloats) {
        const WideFloats a = load<WideFloats>(place.inputs[0] + 4 * offset);
        const WideFloats b = load<WideFloats>(place.inputs[1] + 4 * offset);
        const WideInts in_a = a != 0.0f, in_b = b != 0.0f;
        const WideFloats sum = a + b;
        const WideFloats size = (WideFloats)((WideInts)sum & 0x7fffffff);
        const WideFloats mean = (in_a & in_b ? sum * 0.5f : sum) + 0.0f;  // a zero has one sign
        doubtful |= ~(size <= 0x1.fffffep127f) | (in_a & in_b & (size < 0x1p-124f) & (sum != 0.0f));
        std::memcpy(place.out + 4 * offset, &mean, sizeof mean);
        held -= in_a | in_b;
        nonzero -= mean != 0.0f;
    }
    int64_t num_held = 0, num_nonzero = 0, num_doubtful = 0;
    for (int l = 0; l < kWideFloats; ++l) num_held += held[l], num_nonzero += nonzero[l], num_doubtful |= doubtful[l];
    if (num_doubtful) return false;
    counts.held += num_held;
    counts.nonzero += num_nonzero;
    return true;
}

static bool is_mean_of_pair(const Window& window) {
    return window.rule == ACTIVE_MEAN && window.num_inputs == 2 && window.weights[0] == window.weights[1] &&
           window.element == F32 && window.out_element == F32 && !window.base && !window.mask;
}

template <int element>
static void combine_as(const Window& window, Counts& counts) {
    constexpr int size = size_of(element);
    const int out_size = size_of(window.out_element);
    auto stretch = combine_stretch<element, 0>;
    if constexpr (element == F32 || element == BF16)  // what people merge, two at a time: the inputs stay in registers
        if (window.num_inputs == 2) stretch = combine_stretch<element, 2>;
    double weights[kMaxInputs];
    Place place;
    for (int i = 0; i < window.num_inputs; ++i) weights[i] = static_cast<double>(window.weights[i]);
    int64_t at = 0;
    const auto locate = [&] {
        for (int i = 0; i < window.num_inputs; ++i) place.inputs[i] = window.inputs[i] + at * size;
        place.base = window.base ? window.base + at * size : nullptr;
        place.mask = window.mask ? window.mask + at : nullptr;
        place.out = window.out + at * out_size;
    };
    const int64_t whole = window.size / kWide * kWide;
    const bool pair = is_mean_of_pair(window);
    for (; at < whole; at += kStretch) {
        locate();
        if (pair && whole - at >= kStretch && mean_of_pair(place, kStretch, counts)) continue;
        stretch(window, place, at, whole - at < kStretch ? whole - at : kStretch, weights, counts);
    }
    at = whole;
    const size_t rest = static_cast<size_t>(window.size - whole);
    if (rest == 0) return;
    // The last few, beside zeros that nobody holds.
    locate();
    static thread_local uint8_t padded[kMaxInputs + 2][8 * kWide];
    std::memset(padded, 0, sizeof padded);
    uint8_t out[8 * kWide];
    const auto pad = [&](const uint8_t* data, int slot, size_t bytes) -> const uint8_t* {
        return data ? static_cast<const uint8_t*>(std::memcpy(padded[slot], data, bytes)) : nullptr;
    };
    for (int i = 0; i < window.num_inputs; ++i) place.inputs[i] = pad(place.inputs[i], i, rest * size);
    place.base = pad(place.base, kMaxInputs, rest * size);
    place.mask = pad(place.mask, kMaxInputs + 1, rest);
    place.out = out;
    stretch(window, place, at, kWide, weights, counts);
    std::memcpy(window.out + at * out_size, out, rest * out_size);
}

}  // namespace

void combine(const Window& window, Counts& counts) {
    for (int i = 0; i < window.num_inputs; ++i) counts.first_bad[i] = kNone;
    switch (window.element) {
        case F64: return combine_as<F64>(window, counts);
        case F32: return combine_as<F32>(window, counts);
        case F16: return combine_as<F16>(window, counts);
        case BF16: return combine_as<BF16>(window, counts);
        case F8_E4M3: return combine_as<F8_E4M3>(window, counts);
        case F8_E5M2: return combine_as<F8_E5M2>(window, counts);
    }
}

// ---- looking through a tensor ---------------------------------------------------------------------------------------

namespace {

template <int element>
static void scan_as(const uint8_t* data, int64_t size, Scan& result) {
    const int width = format_of(element).size;
    Doubles smallest = all(INFINITY), largest = all(-INFINITY);
    Longs nonzero{}, finite{};
    for (int64_t at = 0; at < size; at += kWide) {
        const int used = size - at < kWide ? static_cast<int>(size - at) : kWide;
        uint8_t padded[8 * kWide];
        const uint8_t* lanes = data + at * width;
        Longs real = Longs{} - 1;
        if (used < kWide) {
            std::memset(padded, 0, sizeof padded);
            lanes = static_cast<const uint8_t*>(std::memcpy(padded, lanes, static_cast<size_t>(used * width)));
            for (int l = used; l < kWide; ++l) real[l] = 0;
        }
        const Doubles v = decode<element>(lanes);
        const Longs counted = (magnitude(v) <= kLargest) & real;
        nonzero -= v != 0.0;
        finite -= counted;
        smallest = (counted & (v < smallest)) ? v : smallest;
        largest = (counted & (v > largest)) ? v : largest;
    }
    result.nonzero = total_of(nonzero);
    result.non_finite = size - total_of(finite);
    double low = INFINITY, high = -INFINITY;
    for (int l = 0; l < kWide; ++l) low = smallest[l] < low ? smallest[l] : low, high = largest[l] > high ? largest[l] : high;
    if (low <= high) result.smallest = low + 0.0, result.largest = high + 0.0;  // a zero is +0
}

}  // namespace

void scan(const uint8_t* data, int element, int64_t size, Scan& result) {
    switch (element) {
        case F64: return scan_as<F64>(data, size, result);
        case F32: return scan_as<F32>(data, size, result);
        case F16: return scan_as<F16>(data, size, result);
        case BF16: return scan_as<BF16>(data, size, result);
        case F8_E4M3: return scan_as<F8_E4M3>(data, size, result);
        case F8_E5M2: return scan_as<F8_E5M2>(data, size, result);
    }
}

}  // namespace spikemesh::ISA
