// The draws for Python, row after row of a tensor.
#include <algorithm>

#include "../arrays.hpp"
#include "../bindings.hpp"
#include "../threads.hpp"
#include "draw.hpp"

namespace spikemesh {
namespace {

constexpr int64_t kMaxColumns = int64_t{1} << 31;

// Calls work(row of the call, its stream, worker) for `num_rows` rows from `first_row` on.
template <class Work>
void for_rows(uint64_t seed, uint32_t tensor, uint32_t purpose, int64_t first_row, int64_t num_rows, int num_threads,
              const Work& work) {
    for_each(num_rows, num_threads, [&](int64_t row, int worker) {
        work(row, Stream{seed, tensor, static_cast<uint32_t>(first_row + row), purpose}, worker);
    });
}

void require_rows(int64_t first_row, int64_t num_rows, int num_threads) {
    require(first_row >= 0 && num_rows >= 0 && first_row + num_rows <= int64_t{1} << 32, "expected rows of 32 bits");
    require(num_threads > 0, "expected at least one thread");
}

void columns(uint64_t seed, uint32_t tensor, uint32_t purpose, int64_t first_row, int64_t num_rows, int64_t num_columns,
             Out<int32_t> out, int num_threads) {
    require_rows(first_row, num_rows, num_threads);
    require(num_columns >= 0 && num_columns < kMaxColumns, "expected columns of 31 bits");
    if (num_rows == 0) return require(out.size() == 0, "expected room for whole rows");
    require(out.size() % static_cast<size_t>(num_rows) == 0, "expected room for whole rows");
    const int64_t fan_in = static_cast<int64_t>(out.size()) / num_rows, words = (num_columns + 63) / 64;
    require(fan_in <= num_columns, "expected at most as many to draw as there are columns");
    num_threads = static_cast<int>(std::min<int64_t>(num_threads, num_rows));
    const Scratch<uint64_t> held(words, num_threads);
    for (int worker = 0; worker < num_threads; ++worker) std::fill_n(held.of(worker), words, 0);
    run([&] {
        for_rows(seed, tensor, purpose, first_row, num_rows, num_threads, [&](int64_t row, const Stream& stream, int worker) {
            draw_columns(stream, num_columns, fan_in, held.of(worker), out.data() + row * fan_in);
        });
    });
}

void normals(uint64_t seed, uint32_t tensor, uint32_t purpose, int64_t first_row, int64_t num_rows, double std,
             Out<float> out, int num_threads) {
    require_rows(first_row, num_rows, num_threads);
    if (num_rows == 0) return require(out.size() == 0, "expected room for whole rows");
    require(out.size() % static_cast<size_t>(num_rows) == 0, "expected room for whole rows");
    const int64_t count = static_cast<int64_t>(out.size()) / num_rows;
    run([&] {
        for_rows(seed, tensor, purpose, first_row, num_rows, num_threads, [&](int64_t row, const Stream& stream, int) {
            draw_normals(stream, count, std, out.data() + row * count);
        });
    });
}

}  // namespace

void bind_draw(nb::module_& m) {
    m.def("draw_columns", &columns, nb::arg("seed"), nb::arg("tensor"), nb::arg("purpose"), nb::arg("first_row"),
          nb::arg("num_rows"), nb::arg("num_columns"), nb::arg("out"), nb::arg("num_threads"));
    m.def("draw_normals", &normals, nb::arg("seed"), nb::arg("tensor"), nb::arg("purpose"), nb::arg("first_row"),
          nb::arg("num_rows"), nb::arg("std"), nb::arg("out"), nb::arg("num_threads"));
}

}  // namespace spikemesh
