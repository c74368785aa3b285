// A delta's parts: the largest values, their codes and scales, their positions as bytes and back, and the exact sum.
//
// Letters: A coordinate, K sent, C chunk. The format is that of docs/design/wire-format.md. The bindings check the sizes of
// arrays; what stands in them is checked here, before it decides where anything is written.
#pragma once
#include <cstdint>

#include "../inline.hpp"

namespace spikemesh {

constexpr int64_t kChunk = 65536;  // coordinates of a chunk; the last one of a delta has the rest
constexpr int kBlock = 64;         // sent values that share one scale
constexpr int kNumCodes = 16;
constexpr int kNumScales = 136;

// How a chunk's positions are written; kRice + k is Golomb-Rice with parameter k. The same numbers as in kernels/rice.py.
enum Form : int { kFull = 0, kBitmap = 1, kRice = 2 };
constexpr int kMaxK = 15;
constexpr int kNumForms = kRice + kMaxK + 1;

struct Chunks {  // [C]
    int64_t num_coordinates;  // of all of them
    const uint8_t* forms;
    const int64_t* num_sent;
    const int64_t* num_bytes;  // of positions

    INLINE_MEMBER int64_t number() const { return (num_coordinates + kChunk - 1) / kChunk; }
    INLINE_MEMBER int64_t size(int64_t chunk) const {
        const int64_t left = num_coordinates - chunk * kChunk;
        return left < kChunk ? left : kChunk;
    }
};

struct Encoded {  // chunks as they are written
    uint8_t* forms;
    int64_t* num_sent;
    int64_t* num_bytes;
    uint8_t* positions;
    int64_t capacity;  // bytes of positions that there is room for
};

struct Levels {  // of a table of codes, both ascending
    float values[kNumCodes];
    float thresholds[kNumCodes];  // code c is the nearest from 256 + 2 * value / unit = thresholds[c] on; the first is -infinity
};

struct Sent {                   // what is folded
    const uint16_t* positions;  // in their chunk, ascending; none of a chunk that sends all
    const uint8_t* codes;       // packed, two a byte, the first in the low half
    const uint8_t* scales;      // [K / 64, rounded up]
    int8_t levels[kNumCodes];
};

static constexpr int64_t unit_of(int scale) { return int64_t{8 + (scale & 7)} << (scale >> 3); }

INLINE int64_t select_scratch(int64_t size) { return size + 16; }  // sixteen are written at a time

#define SPIKEMESH_DECLARE(isa)                                                                                              \
    namespace isa {                                                                                                         \
    /* The ascending coordinates [K] of the K largest magnitudes, the lower first of equals. False if not all are finite.*/ \
    /* Scratch has room for select_scratch(size) numbers. */                                                                \
    bool select_largest(const float* values, int64_t size, int64_t num_sent, int64_t* indices, uint32_t* scratch);          \
    /* Codes [K] and scales [K / 64, rounded up] nearest to `values` [K] * 2**shift. False if one is beyond the scales. */  \
    bool quantise(const float* values, int64_t size, const Levels& levels, int shift, uint8_t* codes, uint8_t* scales);     \
    /* The bytes of positions that were written; -1 if the indices are not strictly ascending and in range, or need more */ \
    /* than there is room for. Scratch has room for kChunk numbers. */                                                      \
    int64_t encode_positions(const int64_t* indices, int64_t size, int64_t num_coordinates, const Encoded& encoded,         \
                             uint16_t* scratch);                                                                            \
    /* The positions that the chunks' bytes say, of a chunk that sends all none. False if a chunk is no encoding. */        \
    bool decode_positions(const Chunks& chunks, const uint8_t* data, uint16_t* positions);                                  \
    /* after = before + weight * sent, in the chunks [C] that something is sent to; after may be before. False, with */     \
    /* `after` undefined, if a position is not in its chunk or not above the one before it, or a scale does not exist. */   \
    bool fold(const Chunks& chunks, const Sent& sent, int64_t weight, const int64_t* const* before, int64_t* const* after); \
    }
SPIKEMESH_DECLARE(generic)
SPIKEMESH_DECLARE(avx2)
SPIKEMESH_DECLARE(avx512)
#undef SPIKEMESH_DECLARE

}  // namespace spikemesh
