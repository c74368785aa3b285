// Positions of sent coordinates as bytes and back. All of a chunk's positions fit 16 bits, and so do all of its encodings'
// bit numbers, since no more than a bitmap is ever needed: that keeps everything here small and close.
//
// The one encoding of a chunk is its smallest, so the reader finds out what that is (`smallest`) and refuses another.
#include "delta.hpp"

#include <cstring>

#include "../isa.hpp"

namespace spikemesh::ISA {
namespace {

static int64_t bytes_of(int64_t bits) { return (bits + 7) / 8; }

// ---- which form -----------------------------------------------------------------------------------------------------

struct Smallest {
    int form;
    int64_t num_bits;
};

// The sums over all gaps of gap >> k, for every k. All gaps of a chunk together are below 2**16, so 16 bits hold any of the
// sums, and 32 of them are worked on at a time.
static void sums_of_gaps(const uint16_t* positions, int64_t count, int64_t* sums) {
    typedef uint16_t Shorts __attribute__((vector_size(64)));
    constexpr int kTile = 256, kWide = 32;
    Shorts totals[kMaxK + 1] = {}, tile[kTile / kWide];
    for (int64_t start = 0; start < count; start += kTile) {
        const int64_t num = smaller<int64_t>(kTile, count - start);
        uint16_t gaps[kTile];
        gaps[0] = static_cast<uint16_t>(start ? positions[start] - positions[start - 1] - 1 : positions[0]);
        for (int64_t i = 1; i < num; ++i)
            gaps[i] = static_cast<uint16_t>(positions[start + i] - positions[start + i - 1] - 1);
        for (int64_t i = num; i < kTile; ++i) gaps[i] = 0;
        uint16_t all = 0;
        for (const uint16_t gap : gaps) all |= gap;
        std::memcpy(tile, gaps, sizeof tile);
        for (int k = 0; k <= kMaxK && all >> k; ++k)
            for (const Shorts& some : tile) totals[k] += some >> k;
    }
    for (int k = 0; k <= kMaxK; ++k) {
        sums[k] = 0;
        for (int lane = 0; lane < kWide; ++lane) sums[k] += totals[k][lane];
    }
}

// The smallest form of a chunk; of equal ones the lowest.
static Smallest smallest(const uint16_t* positions, int64_t count, int64_t size) {
    if (count == size) return {kFull, 0};
    int64_t sums[kMaxK + 1];
    sums_of_gaps(positions, count, sums);
    Smallest best{kBitmap, size};
    for (int k = 0; k <= kMaxK; ++k) {
        const int64_t bits = count * (k + 1) + sums[k];
        if (bytes_of(bits) < bytes_of(best.num_bits)) best = {kRice + k, bits};
    }
    return best;
}

// ---- encode ---------------------------------------------------------------------------------------------------------

// Bits one after the other, from the lowest of each byte. Words of 64 go out when they are full.
struct Writer {
    uint8_t* out;
    uint64_t word = 0;
    int used = 0;  // bits of `word`, below 64

    void put(uint64_t bits, int number) {
        word |= bits << used;
        used += number;
        if (used < 64) return;
        next_word();
        used -= 64;
        word = used ? bits >> (number - used) : 0;
    }
    void put_unary(int zeros) {
        for (zeros += used; zeros >= 64; zeros -= 64) next_word();
        word |= uint64_t{1} << zeros;
        used = zeros + 1;
        if (used < 64) return;
        next_word();
        used = 0;
    }
    void finish() { std::memcpy(out, &word, static_cast<size_t>(bytes_of(used))); }

   private:
    void next_word() {
        std::memcpy(out, &word, sizeof word);
        out += sizeof word;
        word = 0;
    }
};

// A bitmap is what k = 0 writes, filled up with zeros.
static void write_chunk(int form, const uint16_t* positions, int64_t count, uint8_t* out, int64_t num_bytes) {
    if (form == kFull) return;
    if (form == kBitmap) std::memset(out, 0, static_cast<size_t>(num_bytes));
    const int k = form == kBitmap ? 0 : form - kRice;
    Writer writer{out};
    int before = -1;
    for (int64_t i = 0; k && i < count; ++i) {
        writer.put(static_cast<uint64_t>(positions[i] - before - 1) & ((uint64_t{1} << k) - 1), k);
        before = positions[i];
    }
    before = -1;
    for (int64_t i = 0; i < count; ++i) {
        writer.put_unary((positions[i] - before - 1) >> k);
        before = positions[i];
    }
    writer.finish();
}

static bool ascending(const int64_t* indices, int64_t size, int64_t limit) {
    int64_t wrong = 0;
    for (int64_t i = 1; i < size; ++i) wrong |= indices[i] <= indices[i - 1];
    return !size || (!wrong && indices[0] >= 0 && indices[size - 1] < limit);
}

// How many of the ascending indices are below `limit`.
static int64_t count_below(const int64_t* indices, int64_t size, int64_t limit) {
    int64_t low = 0;
    while (low < size) {
        const int64_t middle = low + (size - low) / 2;
        if (indices[middle] < limit) low = middle + 1;
        else size = middle;
    }
    return low;
}

}  // namespace

int64_t encode_positions(const int64_t* indices, int64_t size, int64_t num_coordinates, const Encoded& encoded,
                         uint16_t* scratch) {
    if (!ascending(indices, size, num_coordinates)) return -1;
    const Chunks chunks{num_coordinates, encoded.forms, encoded.num_sent, encoded.num_bytes};
    int64_t written = 0;
    const int64_t* const end = indices + size;
    for (int64_t chunk = 0; chunk < chunks.number(); ++chunk) {
        const int64_t count = count_below(indices, end - indices, (chunk + 1) * kChunk);
        for (int64_t i = 0; i < count; ++i) scratch[i] = static_cast<uint16_t>(indices[i]);
        const Smallest best = smallest(scratch, count, chunks.size(chunk));
        const int64_t num_bytes = bytes_of(best.num_bits);
        if (written + num_bytes > encoded.capacity) return -1;
        write_chunk(best.form, scratch, count, encoded.positions + written, num_bytes);
        encoded.forms[chunk] = static_cast<uint8_t>(best.form);
        encoded.num_sent[chunk] = count;
        encoded.num_bytes[chunk] = num_bytes;
        indices += count;
        written += num_bytes;
    }
    return written;
}

// ---- decode ---------------------------------------------------------------------------------------------------------

namespace {

// A chunk's bytes as a row of bits, which reads as zeros behind its end.
struct Reader {
    const uint8_t* data;
    int64_t num_bytes;

    uint64_t word_at(int64_t byte) const {
        uint64_t word = 0;
        const int64_t left = num_bytes - byte;
        if (left >= 8)
            std::memcpy(&word, data + byte, 8);
        else if (left > 0)
            std::memcpy(&word, data + byte, static_cast<size_t>(left));
        return word;
    }
    // The 64 bits from `byte` on, with zeros for those before bit `from`.
    uint64_t word_from(int64_t byte, int64_t from) const {
        const int64_t before = from - 8 * byte;
        return word_at(byte) & (before > 0 ? ~uint64_t{0} << before : ~uint64_t{0});
    }
};

static int64_t count_ones(const Reader& reader, int64_t from) {
    int64_t number = 0;
    for (int64_t byte = from / 8; byte < reader.num_bytes; byte += 8)
        number += __builtin_popcountll(reader.word_from(byte, from));
    return number;
}

// Writes where the ones of a word are, and up to 64 numbers in all, of which those behind the ones mean nothing.
INLINE int64_t find_in_word(uint64_t word, int at, uint16_t* out) {
    int64_t done = 0;
#if defined(__AVX512F__)
    const __m512i lanes = _mm512_set_epi32(15, 14, 13, 12, 11, 10, 9, 8, 7, 6, 5, 4, 3, 2, 1, 0);
#pragma GCC unroll 4
    for (int part = 0; part < 64; part += 16) {
        const unsigned some = word >> part & 0xffff;
        const __m512i bits = _mm512_add_epi32(lanes, _mm512_set1_epi32(at + part));
        const __m512i found = _mm512_maskz_compress_epi32(static_cast<__mmask16>(some), bits);
        _mm256_storeu_si256(reinterpret_cast<__m256i*>(out + done), _mm512_cvtepi32_epi16(found));
        done += __builtin_popcount(some);
    }
#else
    const int64_t num = __builtin_popcountll(word);
    for (; done < num; done += 8)
#pragma GCC unroll 8
        for (int i = 0; i < 8; ++i, word &= word - 1)
            out[done + i] = static_cast<uint16_t>(at + __builtin_ctzll(word | uint64_t{1} << 63));
    done = num;
#endif
    return done;
}

// Where the `count` ones from bit `from` on are, counted from there.
static void find_ones(const Reader& reader, int64_t from, int64_t count, uint16_t* out) {
    int64_t done = 0;
    for (int64_t byte = from / 8; done < count; byte += 8) {
        uint64_t word = reader.word_from(byte, from);
        const int at = static_cast<int>(8 * byte - from);
        if (done + 64 <= count) {
            done += find_in_word(word, at, out + done);
            continue;
        }
        for (; word; word &= word - 1) out[done++] = static_cast<uint16_t>(at + __builtin_ctzll(word));
    }
}

// Low parts and positions are worked on as four 16-bit numbers to a word. The functions take one word or several.
constexpr uint64_t kEach = 0x0001000100010001;

template <class Word>
INLINE Word spread(Word x, int k) {  // the four fields of k <= 8 bits from the lowest on, to 16 bits each
    const uint64_t one = (uint64_t{1} << k) - 1, two = (uint64_t{1} << 2 * k) - 1;
    x = (x & two) | (x << (32 - 2 * k) & two << 32);
    return (x & (one | one << 32)) | (x << (16 - k) & (one << 16 | one << 48));
}

template <class Word>
INLINE Word sums(Word x) {  // of each of the four and those before it
    x += x << 16;
    return x + (x << 32);
}

// The four (or several times four) ends of unary parts from number i on become positions: the zeros before them are the
// gaps' high parts.
template <class Word>
INLINE void become_positions(uint16_t* ends, Word number, int k, Word low) {
    Word x;
    std::memcpy(&x, ends, sizeof x);
    x = ((x - number) << k) + number + low;
    std::memcpy(ends, &x, sizeof x);
}

// From the ends of the unary parts, already in `out`, to the positions. False if the last lies outside the chunk; those
// before it may then have been too large for 16 bits and mean nothing.
static bool add_low_parts(const Reader& reader, int k, int64_t count, int64_t size, uint16_t* out) {
    constexpr uint64_t kNumbers = 0x0003000200010000;
    const int64_t high = (int64_t{out[count - 1]} - (count - 1)) << k;
    if (high >= size) return false;
    int64_t i = 0;
    uint64_t low = 0;  // all low parts up to here
#if defined(__AVX2__)
    typedef uint64_t Words __attribute__((vector_size(64)));
    const Words zero{}, lane{0, 1, 2, 3, 4, 5, 6, 7}, one_lane_up{0, 8, 9, 10, 11, 12, 13, 14};
    for (; k <= 8 && i + 32 <= count; i += 32) {  // 4 words of 8 fields, which are k bytes
        const int64_t byte = i / 8 * k;
        const uint64_t words[] = {reader.word_at(byte), reader.word_at(byte + k), reader.word_at(byte + 2 * k), reader.word_at(byte + 3 * k)};
        const Words pairs{words[0], words[0], words[1], words[1], words[2], words[2], words[3], words[3]};
        const Words parts = sums(spread(pairs >> (lane & 1) * static_cast<uint64_t>(4 * k), k));
        Words up_to = parts >> 48;  // all of a lane, then of those before it too
        up_to += __builtin_shuffle(zero, up_to, one_lane_up);
        up_to += __builtin_shuffle(zero, up_to, Words{0, 0, 8, 9, 10, 11, 12, 13});
        up_to += __builtin_shuffle(zero, up_to, Words{0, 0, 0, 0, 8, 9, 10, 11});
        Words before = __builtin_shuffle(zero, up_to, one_lane_up) + low;
        before += before << 16;
        before += before << 32;
        const Words number = (lane * 4 + static_cast<uint64_t>(i)) * kEach + kNumbers;
        become_positions<Words>(out + i, number, k, parts + before);
        low += up_to[7];
    }
#endif
    for (; k <= 8 && i + 4 <= count; i += 4) {
        const uint64_t parts = sums(spread(reader.word_at(i * k / 8) >> (i * k % 8), k));
        become_positions<uint64_t>(out + i, static_cast<uint64_t>(i) * kEach + kNumbers, k, parts + low * kEach);
        low += parts >> 48;
    }
    for (; i < count; ++i) {
        low += reader.word_at(i * k / 8) >> (i * k % 8) & ((uint64_t{1} << k) - 1);
        out[i] = static_cast<uint16_t>(((out[i] - i) << k) + i + static_cast<int64_t>(low));
    }
    return high + static_cast<int64_t>(low) + count - 1 < size;
}

static bool decode_chunk(int form, const Reader& reader, int64_t count, int64_t size, uint16_t* out) {
    if (form == kFull || count == size) return form == kFull && count == size && !reader.num_bytes;
    if (reader.num_bytes > bytes_of(size)) return false;
    const int k = form == kBitmap ? 0 : form - kRice;
    const int64_t from = count * k;
    if (from > 8 * reader.num_bytes || count_ones(reader, from) != count) return false;
    find_ones(reader, from, count, out);
    const int64_t num_bits = form == kBitmap ? size : count ? from + out[count - 1] + 1 : 0;
    if (count && !add_low_parts(reader, k, count, size, out)) return false;
    const Smallest best = smallest(out, count, size);
    return best.form == form && best.num_bits == num_bits && bytes_of(num_bits) == reader.num_bytes;
}

}  // namespace

bool decode_positions(const Chunks& chunks, const uint8_t* data, uint16_t* positions) {
    for (int64_t chunk = 0; chunk < chunks.number(); ++chunk) {
        const Reader reader{data, chunks.num_bytes[chunk]};
        if (!decode_chunk(chunks.forms[chunk], reader, chunks.num_sent[chunk], chunks.size(chunk), positions)) return false;
        data += reader.num_bytes;
        if (chunks.num_sent[chunk] != chunks.size(chunk)) positions += chunks.num_sent[chunk];
    }
    return true;
}

}  // namespace spikemesh::ISA
