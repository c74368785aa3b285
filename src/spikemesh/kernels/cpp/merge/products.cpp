// Compiled once per instruction set. Contraction is welcome: the bound holds with it and without.
//
// The bound. u = 2^-53, l = weight * scale / divisor * left in double (four roundings at most), and a sum in which no product
// passes through more than R roundings, fused or not, is off by at most (R + 4) u (1 + tiny) sum |l| |right| (Higham 2002,
// 4.2), which is at most that of |l| times the largest of each row of `right`. Adding it to the base, and the bound to
// that, rounds twice more. Numbers too small for this are left to wide integers.
#include "products.hpp"

#include <new>

#include "elements.hpp"
#include "lanes.hpp"

#include "../isa.hpp"

namespace spikemesh::ISA {
namespace {

#if defined(__AVX512F__)
constexpr int kLanes = 8, kRows = 8, kVectors = 3;
#elif defined(__AVX2__)
constexpr int kLanes = 4, kRows = 6, kVectors = 2;
#else
constexpr int kLanes = 2, kRows = 2, kVectors = 4;
#endif
constexpr int kColumns = kLanes * kVectors;  // whole times kWide
typedef double Vector __attribute__((vector_size(8 * kLanes)));

constexpr int64_t kBlock = 32;         // terms
constexpr double kSmallest = 0x1p-500;  // factors below this are left to wide integers

// Memory on cache lines; see inline.hpp why not `unique_ptr`.
class Panel {
  public:
    explicit Panel(int64_t size) : data_(static_cast<double*>(::operator new(static_cast<size_t>(size) * 8, kLine))) {}
    ~Panel() { ::operator delete(data_, kLine); }
    Panel(const Panel&) = delete;
    Panel& operator=(const Panel&) = delete;
    double* get() const { return data_; }

  private:
    static constexpr std::align_val_t kLine{64};
    double* data_;
};

// kRows rows of `left` times their coefficients, as [k][row], and each row's bound on what its sums are off by.
template <class Real>
static void pack_left(const Factors<Real>& f, const double* coefficients, int64_t row, int64_t rows, double* packed,
                      double* bounds) {
    const double roundings = kBlock + static_cast<double>(f.num_terms) / kBlock + 10.0, unit = roundings * 0x1.1p-53;
    for (int r = 0; r < kRows; ++r) {
        double sum = 0.0;
        bool tiny = false;
        for (int64_t k = 0; k < f.num_terms; ++k) {
            const double l = r < rows ? static_cast<double>(f.left[(row + r) * f.num_terms + k]) : 0.0;
            const double x = coefficients[k] * l;
            const double most = std::fabs(x) * f.reach[k];
            tiny |= l != 0.0 && coefficients[k] != 0.0 && f.reach[k] != 0.0 && (std::fabs(x) < kSmallest || most < kSmallest);
            packed[k * kRows + r] = x;
            sum += most;
        }
        bounds[r] = tiny ? INFINITY : sum == 0.0 ? 0.0 : sum * unit + 0x1p-1000;
    }
}

// Columns column..column+count of `right`, as [k][column].
template <class Real>
static void pack_right(const Factors<Real>& f, int64_t column, int count, double* packed) {
    for (int64_t k = 0; k < f.num_terms; ++k) {
        const Real* row = f.right + k * f.columns + column;
        double* to = packed + k * kColumns;
        if (count == kColumns)
            for (int c = 0; c < kColumns; ++c) to[c] = static_cast<double>(row[c]);
        else
            for (int c = 0; c < kColumns; ++c) to[c] = c < count ? static_cast<double>(row[c]) : 0.0;
    }
}

// In blocks of terms whose sums are added up after, so that errors grow with the length of a block and the number of them.
INLINE void multiply(const double* left, const double* right, int64_t num_terms, double* out) {
    Vector totals[kRows][kVectors] = {};
    for (int64_t from = 0; from < num_terms; from += kBlock) {
        const int64_t to = from + kBlock < num_terms ? from + kBlock : num_terms;
        Vector sums[kRows][kVectors] = {};
        for (int64_t k = from; k < to; ++k) {
            Vector row[kVectors];
            for (int v = 0; v < kVectors; ++v) std::memcpy(&row[v], right + k * kColumns + v * kLanes, sizeof row[v]);
#pragma GCC unroll 8
            for (int r = 0; r < kRows; ++r) {
                const double x = left[k * kRows + r];
#pragma GCC unroll 4
                for (int v = 0; v < kVectors; ++v) sums[r][v] += x * row[v];
            }
        }
        for (int r = 0; r < kRows; ++r)
            for (int v = 0; v < kVectors; ++v) totals[r][v] += sums[r][v];
    }
    std::memcpy(out, totals, sizeof totals);
}

INLINE Doubles decode_any(int element, const uint8_t* data) {
    switch (element) {
        case F64: return decode<F64>(data);
        case F32: return decode<F32>(data);
        case F16: return decode<F16>(data);
        case BF16: return decode<BF16>(data);
        case F8_E4M3: return decode<F8_E4M3>(data);
        default: return decode<F8_E5M2>(data);
    }
}

// What is worked on while one row of a panel is finished.
template <class Real>
struct Row {
    const Factors<Real>& factors;
    int64_t row, column;  // of the first lane
    double bound;
    int count;  // lanes in use
};

// from + or - sums, rounded to `to`; `same` says that both sides are of one type. Returns the numbers written.
template <class Real>
INLINE Doubles round_sum(const Row<Real>& at, int from_element, const uint8_t* from, const Doubles& sums, bool subtract, int element,
                         const Format& format, uint8_t* to, int64_t& wide) {
    const Doubles base = decode_any(from_element, from);
    if (at.bound == 0.0) {
        const Doubles written = encode(element, format, base, to);
        if (from_element == element) std::memcpy(to, from, static_cast<size_t>(kWide * format.size));
        return written;
    }
    const Doubles x = subtract ? base - sums : base + sums;
    const Doubles bound = at.bound + magnitude(x) * 0x1p-51;
    uint8_t low[8 * kWide], high[8 * kWide];
    const Doubles lowest = encode(element, format, x - bound, low);
    Doubles written = encode(element, format, x + bound, high);
    std::memcpy(to, high, static_cast<size_t>(kWide * format.size));
    // What is beyond the range is written alike on both sides of it.
    const Longs far = ~((bound <= 0x1p1000) & (magnitude(lowest) <= format.largest) & (magnitude(written) <= format.largest));
    if (std::memcmp(low, high, static_cast<size_t>(at.count * format.size)) == 0 && !any(far)) return written;
    for (int l = 0; l < at.count; ++l) {
        const int size = format.size;
        const bool certain = std::memcmp(low + l * size, high + l * size, static_cast<size_t>(size)) == 0 && !far[l];
        if (certain || !(std::fabs(base[l]) <= kLargest)) continue;
        ++wide;
        const Rounding rounding = element == F64 ? Rounding::nearest_even : Rounding::to_odd;
        const ExactElement exact = exact_element(at.factors, at.row, at.column + l, base[l], subtract, rounding);
        uint8_t one[8 * kWide];
        written[l] = encode(element, format, all(exact.value), one)[0];
        const bool kept = exact.is_base && from_element == element;
        std::memcpy(to + l * size, kept ? from + l * size : one, static_cast<size_t>(size));
    }
    return written;
}

// Up to eight elements of one row, at `offset` from the place's start.
template <class Real>
INLINE void finish(const Place& place, const Row<Real>& at, int64_t offset, const double* sums, ProductCounts& counts) {
    const Format format = format_of(place.out_element), base_format = format_of(place.element);
    uint8_t base[8 * kWide] = {0}, out[8 * kWide];
    std::memcpy(base, place.base + offset * base_format.size, static_cast<size_t>(at.count * base_format.size));
    const Doubles added = load<Doubles>(reinterpret_cast<const uint8_t*>(sums));
    const Doubles written = round_sum(at, place.element, base, added, false, place.out_element, format, out, counts.wide);
    std::memcpy(place.out + offset * format.size, out, static_cast<size_t>(at.count * format.size));
    const Doubles found = decode_any(place.element, base);
    for (int l = 0; l < at.count; ++l) {
        counts.nonzero += written[l] != 0.0;
        // Columns are worked on before rows.
        const auto first = [&](int64_t& seen) { seen = seen < 0 || offset + l < seen ? offset + l : seen; };
        if (!(std::fabs(found[l]) <= kLargest)) first(counts.first_bad);
        if (!(std::fabs(written[l]) <= format.largest)) first(counts.first_overflow);
    }
    if (!place.predicted) return;
    uint8_t predicted[8 * kWide];
    int64_t unused = 0;
    round_sum(at, place.out_element, out, added, true, place.element, base_format, predicted, unused);
    std::memcpy(place.predicted + offset * base_format.size, predicted, static_cast<size_t>(at.count * base_format.size));
}

template <class Real>
static void add(const Place& place, const Factors<Real>& f, ProductCounts& counts) {
    const int64_t end = place.start + place.size, first = place.start / f.columns;
    const int64_t num_rows = (end + f.columns - 1) / f.columns - first, num_tiles = (num_rows + kRows - 1) / kRows;
    const Panel coefficients(f.num_terms), left(num_tiles * kRows * f.num_terms), right(kColumns * f.num_terms);
    const Panel bounds(num_tiles * kRows);
    for (int64_t k = 0; k < f.num_terms; ++k)
        coefficients.get()[k] = static_cast<double>(f.weights[k]) * f.scales[k] / static_cast<double>(f.divisor);
    const auto rows_in = [&](int64_t tile) { return num_rows - tile * kRows < kRows ? num_rows - tile * kRows : kRows; };
    const auto tile_of = [&](int64_t tile) { return left.get() + tile * kRows * f.num_terms; };
    for (int64_t tile = 0; tile < num_tiles; ++tile)
        pack_left(f, coefficients.get(), first + tile * kRows, rows_in(tile), tile_of(tile), bounds.get() + tile * kRows);
    alignas(64) double sums[kRows * kColumns];
    for (int64_t column = 0; column < f.columns; column += kColumns) {
        const int count = static_cast<int>(f.columns - column < kColumns ? f.columns - column : kColumns);
        pack_right(f, column, count, right.get());
        for (int64_t tile = 0; tile < num_tiles; ++tile) {
            multiply(tile_of(tile), right.get(), f.num_terms, sums);
            for (int r = 0; r < rows_in(tile); ++r) {
                const int64_t row = first + tile * kRows + r;
                for (int c = 0; c < count; c += kWide) {
                    // Where the place starts or ends within these lanes, those outside are not looked at.
                    int64_t from = row * f.columns + column + c, to = from + (count - c < kWide ? count - c : kWide);
                    const int64_t skipped = from < place.start ? place.start - from : 0;
                    to = to < end ? to : end;
                    if (from + skipped >= to) continue;
                    alignas(64) double lanes[kWide] = {0};
                    const int used = static_cast<int>(to - from - skipped);
                    std::memcpy(lanes, sums + r * kColumns + c + skipped, static_cast<size_t>(used) * 8);
                    const Row<Real> at{f, row, column + c + skipped, bounds.get()[tile * kRows + r], used};
                    finish(place, at, from + skipped - place.start, lanes, counts);
                }
            }
        }
    }
}

}  // namespace

void add_products_f32(const Place& place, const Factors<float>& factors, ProductCounts& counts) { add(place, factors, counts); }
void add_products_f64(const Place& place, const Factors<double>& factors, ProductCounts& counts) { add(place, factors, counts); }

}  // namespace spikemesh::ISA
