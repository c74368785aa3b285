// The parts of a delta for Python. Every array's size is checked here, and the GIL released while they are worked on.
#include <nanobind/stl/vector.h>

#include <cmath>
#include <memory>
#include <vector>

#include "../arrays.hpp"
#include "../bindings.hpp"
#include "delta.hpp"
#include "../dispatch.hpp"

namespace spikemesh {
namespace {

int64_t size_of(size_t size) { return static_cast<int64_t>(size); }
size_t num_blocks(size_t num_sent) { return (num_sent + kBlock - 1) / kBlock; }

bool select_largest(In<float> values, Out<int64_t> indices) {
    require(indices.size() > 0 && indices.size() <= values.size(), "expected 1 to A indices");
    require(values.size() < (size_t{1} << 32), "expected fewer than 2**32 values");
    const int64_t size = size_of(values.size());
    const std::unique_ptr<uint32_t[]> scratch(new uint32_t[static_cast<size_t>(select_scratch(size))]);
    bool finite = false;
    run([&] {
        finite = SPIKEMESH_PICK(select_largest)(values.data(), size, size_of(indices.size()), indices.data(), scratch.get());
    });
    return finite;
}

// A code is the nearest from the first of the half-unit cells on that say so.
Levels levels_of(const In<int32_t>& levels, const In<uint8_t>& nearest) {
    require(levels.size() == kNumCodes && nearest.size() == 512, "expected 16 levels and 512 cells");
    Levels table;
    int code = -1;
    for (size_t cell = 0; cell < nearest.size(); ++cell) {
        require(nearest.data()[cell] < kNumCodes && nearest.data()[cell] >= code, "expected codes that ascend from cell to cell");
        while (code < nearest.data()[cell]) table.thresholds[++code] = cell ? static_cast<float>(cell) : -HUGE_VALF;
    }
    while (code < kNumCodes - 1) table.thresholds[++code] = HUGE_VALF;
    for (code = 0; code < kNumCodes; ++code) table.values[code] = static_cast<float>(levels.data()[code]);
    return table;
}

bool quantise(In<float> values, In<int32_t> levels, In<uint8_t> nearest, int shift, Out<uint8_t> codes, Out<uint8_t> scales) {
    require(codes.size() == values.size() && scales.size() == num_blocks(values.size()), "expected codes [K] and scales [K / 64]");
    const Levels table = levels_of(levels, nearest);
    bool within = false;
    run([&] { within = SPIKEMESH_PICK(quantise)(values.data(), size_of(values.size()), table, shift, codes.data(), scales.data()); });
    return within;
}

Chunks chunks_of(int64_t num_coordinates, const uint8_t* forms, const int64_t* num_sent, const int64_t* num_bytes, size_t number) {
    require(num_coordinates > 0 && num_coordinates <= (int64_t{1} << 32), "expected 1 to 2**32 coordinates");
    const Chunks chunks{num_coordinates, forms, num_sent, num_bytes};
    require(chunks.number() == size_of(number), "expected one entry per chunk");
    return chunks;
}

int64_t encode_positions(In<int64_t> indices, int64_t num_coordinates, Out<uint8_t> forms, Out<int64_t> num_sent,
                         Out<int64_t> num_bytes, Out<uint8_t> positions) {
    require(forms.size() == num_sent.size() && forms.size() == num_bytes.size(), "expected one entry per chunk");
    chunks_of(num_coordinates, nullptr, nullptr, nullptr, forms.size());
    const Encoded encoded{forms.data(), num_sent.data(), num_bytes.data(), positions.data(), size_of(positions.size())};
    const std::unique_ptr<uint16_t[]> scratch(new uint16_t[kChunk]);
    const int64_t size = size_of(indices.size());
    int64_t num_written = -1;
    run([&] { num_written = SPIKEMESH_PICK(encode_positions)(indices.data(), size, num_coordinates, encoded, scratch.get()); });
    return num_written;
}

// How many positions the chunks have: a chunk that sends all has none.
int64_t num_positions(const Chunks& chunks) {
    int64_t number = 0;
    for (int64_t i = 0; i < chunks.number(); ++i) {
        require(chunks.num_sent[i] >= 0 && chunks.num_sent[i] <= chunks.size(i), "more sent values than a chunk has coordinates");
        number += chunks.num_sent[i] == chunks.size(i) ? 0 : chunks.num_sent[i];
    }
    return number;
}

bool decode_positions(In<uint8_t> forms, In<int64_t> num_sent, In<int64_t> num_bytes, In<uint8_t> data,
                      int64_t num_coordinates, Out<uint16_t> positions) {
    require(forms.size() == num_sent.size() && forms.size() == num_bytes.size(), "expected one entry per chunk");
    const Chunks chunks = chunks_of(num_coordinates, forms.data(), num_sent.data(), num_bytes.data(), forms.size());
    require(size_of(positions.size()) == num_positions(chunks), "expected room for all positions");
    int64_t all_bytes = 0;
    for (int64_t i = 0; i < chunks.number(); ++i) {
        require(chunks.forms[i] < kNumForms, "a chunk of an unknown form");
        require(chunks.num_bytes[i] >= 0 && chunks.num_bytes[i] < kChunk, "more bytes than a chunk may have");
        all_bytes += chunks.num_bytes[i];
    }
    require(all_bytes == size_of(data.size()), "expected as many bytes as the chunks have");
    bool canonical = false;
    run([&] { canonical = SPIKEMESH_PICK(decode_positions)(chunks, data.data(), positions.data()); });
    return canonical;
}

// before[i] and after[i] are the sums of the i-th chunk that something is sent to.
bool fold(In<int64_t> num_sent, int64_t num_coordinates, In<uint16_t> positions, In<uint8_t> codes, In<uint8_t> scales,
          In<int32_t> levels, int64_t weight, const std::vector<In<int64_t>>& before, const std::vector<Out<int64_t>>& after) {
    const Chunks chunks = chunks_of(num_coordinates, nullptr, num_sent.data(), nullptr, num_sent.size());
    require(size_of(positions.size()) == num_positions(chunks), "expected a position per value, unless a chunk sends all");
    require(weight >= -(int64_t{1} << 31) && weight <= (int64_t{1} << 31), "expected a weight of at most 32 bits");
    require(levels.size() == kNumCodes, "expected 16 levels");
    require(before.size() == after.size(), "expected as many results as sums");
    std::vector<const int64_t*> from;
    std::vector<int64_t*> to;
    size_t all_sent = 0;
    for (int64_t i = 0; i < chunks.number(); ++i) {
        if (!chunks.num_sent[i]) continue;
        const size_t next = from.size();
        require(next < before.size(), "expected an array for every chunk that is sent to");
        require(size_of(before[next].size()) == chunks.size(i) && size_of(after[next].size()) == chunks.size(i),
                "expected arrays of as many sums as a chunk has coordinates");
        from.push_back(before[next].data());
        to.push_back(after[next].data());
        all_sent += static_cast<size_t>(chunks.num_sent[i]);
    }
    require(from.size() == before.size(), "expected no array for a chunk that is not sent to");
    require(codes.size() == (all_sent + 1) / 2 && scales.size() == num_blocks(all_sent), "expected codes and scales for all");
    Sent sent{positions.data(), codes.data(), scales.data(), {}};
    for (size_t code = 0; code < kNumCodes; ++code) {
        require(levels.data()[code] >= -128 && levels.data()[code] <= 127, "expected levels of at most 8 bits");
        sent.levels[code] = static_cast<int8_t>(levels.data()[code]);
    }
    bool valid = false;
    run([&] { valid = SPIKEMESH_PICK(fold)(chunks, sent, weight, from.data(), to.data()); });
    return valid;
}

// An array of another element type is refused, not converted: a result would go to a copy.
auto same(const char* name) { return nb::arg(name).noconvert(); }

}  // namespace

void bind_delta(nb::module_& m) {
    m.def("select_largest", &select_largest, same("values"), same("indices"));
    m.def("quantise", &quantise, same("values"), same("levels"), same("nearest"), same("shift"),
          same("codes"), same("scales"));
    m.def("encode_positions", &encode_positions, same("indices"), same("num_coordinates"), same("forms"),
          same("num_sent"), same("num_bytes"), same("positions"));
    m.def("decode_positions", &decode_positions, same("forms"), same("num_sent"), same("num_bytes"),
          same("data"), same("num_coordinates"), same("positions"));
    m.def("fold", &fold, same("num_sent"), same("num_coordinates"), same("positions"), same("codes"),
          same("scales"), same("levels"), same("weight"), same("before"), same("after"));
}

}  // namespace spikemesh
