// The exact sum: weight * unit * level added where a delta's positions point. Everything is an integer.
//
// The sum is copied a piece ahead of where it is added to, so that it is read once and written once: a piece is long enough
// for the processor to fetch at full speed, and small enough to lie in the nearer caches until it has been added to.
#include "delta.hpp"

#include <cstring>

#include "../isa.hpp"

namespace spikemesh::ISA {
namespace {

constexpr int64_t kTile = 4 * kBlock;  // sent values that are worked on at a time
constexpr int64_t kPiece = 16384;      // sums that are copied at a time, 128 KiB

// Wraps as NumPy's addition does; that it never has to is for the caller to know.
INLINE int64_t add(int64_t a, int64_t b) { return static_cast<int64_t>(static_cast<uint64_t>(a) + static_cast<uint64_t>(b)); }

static bool ascending(const uint16_t* positions, int64_t count, int64_t size) {
    int wrong = 0;
    for (int64_t i = 1; i < count; ++i) wrong |= positions[i] <= positions[i - 1];
    return !wrong && positions[count - 1] < size;
}

static bool scales_exist(const uint8_t* scales, int64_t start, int64_t end) {
    for (int64_t block = start / kBlock; block * kBlock < end; ++block)
        if (scales[block] >= kNumScales) return false;
    return true;
}

// The levels of the values from `start`, an even number, to `end`.
static void levels_of(const Sent& sent, int64_t start, int64_t end, int8_t* levels) {
    typedef int8_t Signed __attribute__((vector_size(16)));
    typedef uint8_t Bytes __attribute__((vector_size(16)));
    Signed table;
    std::memcpy(&table, sent.levels, sizeof table);
    const uint8_t* codes = sent.codes + start / 2;
    for (; start + 32 <= end; start += 32, codes += 16, levels += 32) {
        Bytes pairs;
        std::memcpy(&pairs, codes, sizeof pairs);
        const Bytes first = pairs & 15, second = pairs >> 4;
        const Bytes low = __builtin_shuffle(first, second, Bytes{0, 16, 1, 17, 2, 18, 3, 19, 4, 20, 5, 21, 6, 22, 7, 23});
        const Bytes high = __builtin_shuffle(first, second, Bytes{8, 24, 9, 25, 10, 26, 11, 27, 12, 28, 13, 29, 14, 30, 15, 31});
        const Signed both[] = {__builtin_shuffle(table, (Signed)low), __builtin_shuffle(table, (Signed)high)};
        std::memcpy(levels, both, sizeof both);
    }
    for (; start < end; ++start, ++levels) *levels = sent.levels[sent.codes[start / 2] >> (start % 2 * 4) & 15];
}

static void scatter(int64_t* out, const uint16_t* positions, const int8_t* levels, int64_t num, int64_t factor) {
#pragma GCC unroll 8
    for (int64_t i = 0; i < num; ++i) out[positions[i]] = add(out[positions[i]], levels[i] * factor);
}

// One chunk, to which the values start..end-1 of the delta are sent; to all of its coordinates if `positions` is null.
static void fold_chunk(const Sent& sent, int64_t weight, int64_t start, int64_t end, const uint16_t* positions, int64_t size,
                       const int64_t* before, int64_t* after) {
    int64_t copied = 0;
    const auto copy_beyond = [&](int64_t position) {
        if (position < copied) return;
        const int64_t stop = smaller(size, larger(position + 1, copied + kPiece));
        if (before != after) std::memcpy(after + copied, before + copied, static_cast<size_t>(stop - copied) * sizeof *after);
        copied = stop;
    };
    while (start < end) {
        const int64_t tile = start / kTile * kTile, tile_end = smaller(end, tile + kTile);
        int8_t levels[kTile];
        levels_of(sent, tile, tile_end, levels);
        if (positions) copy_beyond(positions[tile_end - start - 1]);
        while (start < tile_end) {
            const int64_t block = start / kBlock, num = smaller(tile_end, (block + 1) * kBlock) - start;
            const int64_t factor = unit_of(sent.scales[block]) * weight;
            if (positions) {
                scatter(after, positions, levels + (start - tile), num, factor);
                positions += num;
            } else {
                for (int64_t i = 0; i < num; ++i, ++copied)
                    after[copied] = add(before[copied], levels[start - tile + i] * factor);
            }
            start += num;
        }
    }
    copy_beyond(size - 1);
}

}  // namespace

bool fold(const Chunks& chunks, const Sent& sent, int64_t weight, const int64_t* const* before, int64_t* const* after) {
    const uint16_t* positions = sent.positions;
    int64_t start = 0;
    for (int64_t chunk = 0; chunk < chunks.number(); ++chunk) {
        const int64_t count = chunks.num_sent[chunk], size = chunks.size(chunk);
        if (!count) continue;
        const bool sends_all = count == size;
        if (!scales_exist(sent.scales, start, start + count) || !(sends_all || ascending(positions, count, size))) return false;
        fold_chunk(sent, weight, start, start + count, sends_all ? nullptr : positions, size, *before++, *after++);
        if (!sends_all) positions += count;
        start += count;
    }
    return true;
}

}  // namespace spikemesh::ISA
