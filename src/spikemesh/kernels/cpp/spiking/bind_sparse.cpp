// Sparse products for Python: a pattern is checked once, when a `Pattern` is made of it; arrays are flat.
#include <nanobind/stl/optional.h>

#include <algorithm>
#include <atomic>
#include <vector>

#include "../arrays.hpp"
#include "../bindings.hpp"
#include "../dispatch.hpp"
#include "sparse.hpp"
#include "../threads.hpp"

namespace spikemesh {
namespace {

constexpr int64_t kThreadWork = 1 << 18;    // synapses times tokens that are worth a thread

// Where the sums of each row begin among its synapses, and where the last one ends: num_sums * rows + 1 bounds.
std::vector<int32_t> bounds_of(const int64_t* starts, int64_t num_rows, const int32_t* inputs, int64_t num_inputs) {
    const int64_t sums = num_sums(num_inputs);
    std::vector<int32_t> bounds(static_cast<size_t>(num_rows * sums) + 1);
    for (int64_t r = 0; r < num_rows; ++r) {
        int64_t s = starts[r];
        for (int64_t k = 0; k < sums; ++k) {
            bounds[static_cast<size_t>(r * sums + k)] = static_cast<int32_t>(s);
            while (s < starts[r + 1] && inputs[s] < (k + 1) * kSumInputs) ++s;
        }
    }
    bounds.back() = static_cast<int32_t>(starts[num_rows]);
    return bounds;
}

// Where the synapses are: by rows, in an array that stays Python's, and by columns, for the gradient of the input.
class Pattern {
  public:
    Pattern(In<int64_t> starts, In<int32_t> columns, int64_t num_columns)
        : num_columns(num_columns), num_rows(static_cast<int64_t>(starts.size()) - 1), columns_(columns) {
        check(starts.data());
        row_bounds_ = bounds_of(starts.data(), num_rows, columns_.data(), num_columns);
        transpose();
    }

    const int64_t num_columns, num_rows;

    int64_t num_synapses() const { return static_cast<int64_t>(columns_.size()); }
    Synapses by_rows(const float* values) const {
        return {num_columns, num_rows, num_sums(num_columns), row_bounds_.data(), columns_.data(), values};
    }
    Synapses by_columns(const float* values) const {
        return {num_rows, num_columns, num_sums(num_rows), column_bounds_.data(), rows_.data(), values};
    }

    // The values of the synapses, column by column.
    std::vector<float> in_columns(const float* values) const {
        std::vector<float> result(rows_.size());
        for_columns([&](size_t at, int64_t, int64_t synapse) { result[at] = values[synapse]; });
        return result;
    }

  private:
    void check(const int64_t* starts) const {
        require(num_rows >= 0 && num_columns >= 0, "expected starts of all rows and of their end");
        require(std::max({num_rows, num_columns, num_synapses()}) <= INT32_MAX, "expected at most 2**31 - 1 of anything");
        const int32_t* columns = columns_.data();
        require(starts[0] == 0 && starts[num_rows] == num_synapses(), "expected starts from 0 to the number of synapses");
        for (int64_t r = 0; r < num_rows; ++r) {
            require(starts[r] <= starts[r + 1] && starts[r + 1] <= num_synapses(), "expected starts in order");
            for (int64_t s = starts[r]; s < starts[r + 1]; ++s) {
                require(columns[s] >= 0 && columns[s] < num_columns, "a column is out of range");
                require(s == starts[r] || columns[s - 1] < columns[s], "expected the columns of a row in order");
            }
        }
    }

    void transpose() {
        column_starts_.assign(static_cast<size_t>(num_columns) + 1, 0);
        rows_.resize(columns_.size());
        for (size_t s = 0; s < columns_.size(); ++s) ++column_starts_[static_cast<size_t>(columns_.data()[s]) + 1];
        for (size_t c = 0; c < static_cast<size_t>(num_columns); ++c) column_starts_[c + 1] += column_starts_[c];
        for_columns([&](size_t at, int64_t row, int64_t) { rows_[at] = static_cast<int32_t>(row); });
        column_bounds_ = bounds_of(column_starts_.data(), num_columns, rows_.data(), num_rows);
    }

    // Calls visit(place among the columns' synapses, row, number of the synapse).
    template <class Visit>
    void for_columns(const Visit& visit) const {
        std::vector<int64_t> next(column_starts_.begin(), column_starts_.end() - 1);
        const int64_t sums = num_sums(num_columns);
        for (int64_t r = 0; r < num_rows; ++r)
            for (int64_t s = row_bounds_[static_cast<size_t>(r * sums)]; s < row_bounds_[static_cast<size_t>((r + 1) * sums)]; ++s)
                visit(static_cast<size_t>(next[static_cast<size_t>(columns_.data()[s])]++), r, s);
    }

    In<int32_t> columns_;
    std::vector<int32_t> row_bounds_, column_bounds_, rows_;
    std::vector<int64_t> column_starts_;
};

template <class Array>
void require_size(const Array& array, int64_t size) {
    require(static_cast<int64_t>(array.size()) == size, "expected arrays of sizes that fit each other");
}

int useful_threads(int num_threads, int64_t work, int64_t num_items) {
    require(num_threads > 0, "expected at least one thread");
    return static_cast<int>(std::max<int64_t>(std::min({static_cast<int64_t>(num_threads), work / kThreadWork, num_items}), 1));
}

// Rows in pieces.
template <class Work>
void for_rows(int64_t num_rows, int64_t pieces, int num_threads, const Work& work) {
    pieces = std::min(pieces, num_rows);
    run([&] {
        for_each(pieces, num_threads, [&](int64_t piece, int worker) {
            work(Range{num_rows * piece / pieces, num_rows * (piece + 1) / pieces}, worker);
        });
    });
}

bool pack_spikes(const Pattern& pattern, In<float> x, int64_t num_tokens, int64_t first, Out<uint8_t> bits, int num_threads) {
    require(num_tokens > 0 && x.size() % static_cast<size_t>(num_tokens) == 0, "expected whole rows of tokens");
    const int64_t num_features = static_cast<int64_t>(x.size()) / num_tokens, all = pattern.num_columns;
    require(first >= 0 && first + num_features <= all, "expected features among the columns");
    require_size(bits, num_blocks(num_tokens) * all * kBlockBytes);
    num_threads = useful_threads(num_threads, num_features * num_tokens, num_features);
    std::atomic<bool> binary{true};
    for_rows(num_features, 4 * num_threads, num_threads, [&](Range range, int) {
        if (!SPIKEMESH_PICK(pack_spikes)(x.data(), num_tokens, range, first + range.first, all, bits.data())) binary = false;
    });
    return binary;
}

// Tiles of tokens, one after the other.
void multiply_by(const Synapses& synapses, const Activations& from, float* y, int num_threads) {
    const int64_t num_tiles = (from.num_tokens + kTileTokens - 1) / kTileTokens;
    const int64_t work = synapses.bounds[synapses.num_rows * synapses.num_sums] * from.num_tokens;
    num_threads = useful_threads(num_threads, work, num_tiles);
    const Scratch<float> tiles(tile_size(synapses.num_inputs), num_threads);
    run([&] {
        for_each(num_tiles, num_threads, [&](int64_t item, int worker) {
            const Range tokens{item * kTileTokens, std::min((item + 1) * kTileTokens, from.num_tokens)};
            SPIKEMESH_PICK(multiply)(synapses, from, tokens, y, tiles.of(worker));
        });
    });
}

// Each thread takes rows and makes the tiles itself.
void correlate_by(const Synapses& synapses, const Activations& from, const float* grad_y, float* grad_values, int num_threads) {
    const int64_t work = synapses.bounds[synapses.num_rows * synapses.num_sums] * from.num_tokens;
    num_threads = useful_threads(num_threads, work, synapses.num_rows);
    const Scratch<float> tiles(tile_size(synapses.num_inputs), num_threads);
    for_rows(synapses.num_rows, num_threads, num_threads, [&](Range rows, int worker) {
        SPIKEMESH_PICK(correlate)(synapses, from, grad_y, rows, grad_values, tiles.of(worker));
    });
}

Activations spikes(const Pattern& pattern, const In<uint8_t>& bits, int64_t num_tokens) {
    require_size(bits, num_blocks(num_tokens) * pattern.num_columns * kBlockBytes);
    return {num_tokens, nullptr, bits.data()};
}

Activations values_of(int64_t num_features, const In<float>& x, int64_t num_tokens) {
    require_size(x, num_features * num_tokens);
    return {num_tokens, x.data(), nullptr};
}

void multiply_spikes(const Pattern& pattern, In<float> values, In<uint8_t> bits, int64_t num_tokens, Out<float> y,
                     int num_threads) {
    require_size(values, pattern.num_synapses());
    require_size(y, pattern.num_rows * num_tokens);
    multiply_by(pattern.by_rows(values.data()), spikes(pattern, bits, num_tokens), y.data(), num_threads);
}

void multiply(const Pattern& pattern, In<float> values, In<float> x, int64_t num_tokens, Out<float> y, int num_threads) {
    require_size(values, pattern.num_synapses());
    require_size(y, pattern.num_rows * num_tokens);
    multiply_by(pattern.by_rows(values.data()), values_of(pattern.num_columns, x, num_tokens), y.data(), num_threads);
}

void multiply_transposed(const Pattern& pattern, In<float> values, In<float> x, int64_t num_tokens, Out<float> y,
                         int num_threads) {
    require_size(values, pattern.num_synapses());
    require_size(y, pattern.num_columns * num_tokens);
    const std::vector<float> in_columns = pattern.in_columns(values.data());
    multiply_by(pattern.by_columns(in_columns.data()), values_of(pattern.num_rows, x, num_tokens), y.data(), num_threads);
}

void correlate_spikes(const Pattern& pattern, In<float> grad_y, In<uint8_t> bits, int64_t num_tokens, Out<float> grad_values,
                      int num_threads) {
    require_size(grad_y, pattern.num_rows * num_tokens);
    require_size(grad_values, pattern.num_synapses());
    correlate_by(pattern.by_rows(nullptr), spikes(pattern, bits, num_tokens), grad_y.data(), grad_values.data(), num_threads);
}

void correlate(const Pattern& pattern, In<float> grad_y, In<float> x, int64_t num_tokens, Out<float> grad_values,
               int num_threads) {
    require_size(grad_y, pattern.num_rows * num_tokens);
    require_size(grad_values, pattern.num_synapses());
    correlate_by(pattern.by_rows(nullptr), values_of(pattern.num_columns, x, num_tokens), grad_y.data(), grad_values.data(), num_threads);
}

}  // namespace

void bind_sparse(nb::module_& m) {
    nb::class_<Pattern>(m, "Pattern")
        .def(nb::init<In<int64_t>, In<int32_t>, int64_t>(), nb::arg("starts"), nb::arg("columns"), nb::arg("num_columns"))
        .def("pack_spikes", &pack_spikes)
        .def("multiply_spikes", &multiply_spikes)
        .def("multiply", &multiply)
        .def("multiply_transposed", &multiply_transposed)
        .def("correlate_spikes", &correlate_spikes)
        .def("correlate", &correlate);
}

}  // namespace spikemesh
