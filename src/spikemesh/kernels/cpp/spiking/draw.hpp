// Random numbers that are a function of their place: Philox4x32-10 (Salmon et al. 2011), a block cipher on a counter. Number
// `index` of a row of a tensor is the same whoever asks, in whatever order and on whatever machine: integers, and double
// operations that IEEE 754 rounds correctly, in the order in which they are written here.
#pragma once
#include <cstdint>

namespace spikemesh {

struct Stream {
    uint64_t seed;                 // the key
    uint32_t tensor, row, purpose; // of the counter; its lowest word counts the blocks
};

struct Block {
    uint32_t word[4];
};

Block draw_block(const Stream& stream, uint32_t index);

// fan_in of num_columns columns, every set of them as likely as any other but for 2^-46, rising. `held` is room for one bit
// a column, zeros before and after: num_columns / 64 words, rounded up.
void draw_columns(const Stream& stream, int64_t num_columns, int64_t fan_in, uint64_t* held, int32_t* columns);

// Normal deviates times `std`.
void draw_normals(const Stream& stream, int64_t count, double std, float* values);

}  // namespace spikemesh
