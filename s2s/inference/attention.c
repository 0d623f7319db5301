/* Attention of a few new rows of each source over the columns that they share, in float32.

A source's head has its keys [room, size] and then its values [room, size], both row after row: memory is read in order,
once. The keys and values of the new rows are first written after the used columns. They are kept as float32 or, in half
of the memory, as bfloat16: with a batch of sources, reading them takes longer than multiplying them. */

#include <math.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

/* Floats in a register of the processor that the compiler builds for. gcc splits wider vectors badly: 16 lanes built for
AVX2 take six times as long as 8 do. Measured on an AMD EPYC (Zen 4): AVX-512, and AVX2 and SSE by the compiler's target
alone. 4 lanes are NEON's width too, which was compiled and never timed. PARTS vectors of a row are summed together. */
#if defined(__AVX512F__)
#define LANES 16
#define PARTS 4
#elif defined(__AVX2__)
#define LANES 8
#define PARTS 2
#else
#define LANES 4
#define PARTS 2
#endif
#define ROWS 4    /* rows that are computed together */
#define COLUMNS 4 /* and columns, in scores */
#define AHEAD 8   /* columns that are asked for before they are needed */
#define LINE 64   /* bytes that come from memory together */

/* Left to itself the compiler makes one function of all calls, whose sums then lie in memory instead of in registers. */
#define INLINE static inline __attribute__((always_inline))

typedef float lanes __attribute__((vector_size(4 * LANES), aligned(4)));
typedef float four __attribute__((vector_size(16), aligned(4)));
typedef uint32_t words __attribute__((vector_size(4 * LANES)));
typedef uint16_t halves __attribute__((vector_size(2 * LANES), aligned(2)));

INLINE ptrdiff_t least(ptrdiff_t a, ptrdiff_t b) { return a < b ? a : b; }

/* Return LANES numbers that are kept as float32 or, with `half`, as bfloat16: the upper half of the same bits. */
INLINE lanes load(const char *kept, int half) {
    return half ? (lanes)(__builtin_convertvector(*(const halves *)kept, words) << 16) : *(const lanes *)kept;
}

/* Keep a row of numbers; bfloat16 is the nearest one, and the even one of two that are equally near. */
INLINE void keep(const float *row, ptrdiff_t size, char *kept, int half) {
    if (!half) {
        memcpy(kept, row, size * sizeof(float));
        return;
    }
    for (ptrdiff_t i = 0; i < size; i++) {
        uint32_t bits;
        memcpy(&bits, row + i, sizeof(bits));
        /* The sum would make infinity of a NaN whose lower bits are all ones. */
        const uint32_t rounded = row[i] == row[i] ? bits + 0x7fff + (bits >> 16 & 1) : bits | 0x400000;
        ((uint16_t *)kept)[i] = (uint16_t)(rounded >> 16);
    }
}

/* e^x for x <= 0: 2^n e^r with |r| <= ln(2) / 2, and e^r by its Taylor polynomial, to float32's precision. */
static inline float exponential(float x) {
    x = x < -87.0f ? -87.0f : x;
    const float n = rintf(x * 1.44269504f), r = (x - n * 0.693359375f) + n * 2.12194440e-4f;
    const float p = 1 + r * (1 + r * (0.5f + r * (1 / 6.0f + r * (1 / 24.0f + r * (1 / 120.0f + r * (1 / 720.0f))))));
    union {
        int32_t bits;
        float value;
    } power = {((int32_t)n + 127) << 23};
    return p * power.value;
}

/* Vectors of elements of a and b, those of b counted from LANES on: from each four elements of both, the lower or upper
two by turns, or the lower or upper pair. */
#if defined(__clang__)
#define PICK(a, b, ...) __builtin_shufflevector(a, b, __VA_ARGS__)
#else
#define PICK(a, b, ...) __builtin_shuffle(a, b, (words){__VA_ARGS__})
#endif
#if LANES == 16
#define LOW(a, b) PICK(a, b, 0, 16, 1, 17, 4, 20, 5, 21, 8, 24, 9, 25, 12, 28, 13, 29)
#define HIGH(a, b) PICK(a, b, 2, 18, 3, 19, 6, 22, 7, 23, 10, 26, 11, 27, 14, 30, 15, 31)
#define LOW_PAIRS(a, b) PICK(a, b, 0, 1, 16, 17, 4, 5, 20, 21, 8, 9, 24, 25, 12, 13, 28, 29)
#define HIGH_PAIRS(a, b) PICK(a, b, 2, 3, 18, 19, 6, 7, 22, 23, 10, 11, 26, 27, 14, 15, 30, 31)
#elif LANES == 8
#define LOW(a, b) PICK(a, b, 0, 8, 1, 9, 4, 12, 5, 13)
#define HIGH(a, b) PICK(a, b, 2, 10, 3, 11, 6, 14, 7, 15)
#define LOW_PAIRS(a, b) PICK(a, b, 0, 1, 8, 9, 4, 5, 12, 13)
#define HIGH_PAIRS(a, b) PICK(a, b, 2, 3, 10, 11, 6, 7, 14, 15)
#else
#define LOW(a, b) PICK(a, b, 0, 4, 1, 5)
#define HIGH(a, b) PICK(a, b, 2, 6, 3, 7)
#define LOW_PAIRS(a, b) PICK(a, b, 0, 1, 4, 5)
#define HIGH_PAIRS(a, b) PICK(a, b, 2, 3, 6, 7)
#endif

/* Return the sum of each of four vectors. All are added up in one order, so a column's place changes no bit. */
INLINE four sums(const lanes x[COLUMNS]) {
    const lanes first = LOW(x[0], x[1]) + HIGH(x[0], x[1]), second = LOW(x[2], x[3]) + HIGH(x[2], x[3]);
    union {
        lanes whole;
        four parts[LANES / 4];
    } mixed = {LOW_PAIRS(first, second) + HIGH_PAIRS(first, second)};
    four total = mixed.parts[0];
    for (int part = 1; part < LANES / 4; part++)
        total += mixed.parts[part];
    return total;
}

INLINE void ask_for(const char *row, ptrdiff_t bytes) {
    for (ptrdiff_t at = 0; at < bytes; at += LINE)
        __builtin_prefetch(row + at);
}

/* scores[row, column] = query . key / sqrt(size) where the mask is 0, and -inf elsewhere, of `count` rows. */
INLINE void score(const float *queries, ptrdiff_t step, const char *keys, const char *values, const float *mask,
                  int count, ptrdiff_t columns, ptrdiff_t size, float *scores, int half) {
    const float scale = 1 / sqrtf((float)size);
    const ptrdiff_t width = half ? 2 : 4, bytes = width * size;
    for (ptrdiff_t column = 0; column < columns; column += COLUMNS) {
        lanes products[ROWS][COLUMNS] = {{{0}}};
        const char *key[COLUMNS];
        for (int at = 0; at < COLUMNS; at++) {
            /* After the last column it is computed again, and not written. */
            key[at] = keys + least(column + at, columns - 1) * bytes;
            ask_for(key[at] + AHEAD * bytes, bytes);
            ask_for(values + (key[at] - keys), bytes);
        }
        for (ptrdiff_t i = 0; i < size; i += LANES)
            for (int row = 0; row < count; row++)
                for (int at = 0; at < COLUMNS; at++)
                    products[row][at] += *(const lanes *)(queries + row * step + i) * load(key[at] + i * width, half);
        for (int row = 0; row < count; row++) {
            const four found = scale * sums(products[row]);
            const ptrdiff_t cell = row * columns + column;
            for (int at = 0; at < least(COLUMNS, columns - column); at++)
                scores[cell + at] = mask[cell + at] != 0 ? -INFINITY : found[at];
        }
    }
}

/* Turn a row's scores into weights, of which the greatest is 1. */
static void exponentiate(float *restrict scores, ptrdiff_t columns) {
    float most = -INFINITY;
#pragma omp simd reduction(max : most)
    for (ptrdiff_t column = 0; column < columns; column++)
        most = scores[column] > most ? scores[column] : most;
#pragma omp simd
    for (ptrdiff_t column = 0; column < columns; column++)
        scores[column] = scores[column] == -INFINITY ? 0 : exponential(scores[column] - most);
}

/* results[row] = mean over columns of values[column] by weights[row, column], of `parts` vectors of the size.

Columns are added one by one: those of weight 0, whose number depends on the other sources of a batch, change no bit. */
INLINE void weigh(const float *weights, const char *values, int rows, int parts, ptrdiff_t columns, ptrdiff_t size,
                  float *results, ptrdiff_t step, int half) {
    const ptrdiff_t width = half ? 2 : 4;
    lanes sums[ROWS][PARTS] = {{{0}}};
    float totals[ROWS] = {0};
    for (ptrdiff_t column = 0; column < columns; column++, values += width * size) {
        lanes value[PARTS];
        for (int part = 0; part < parts; part++)
            value[part] = load(values + part * LANES * width, half);
        int seen = 0;
        for (int row = 0; row < rows; row++)
            seen += weights[row * columns + column] != 0;
#define ADD(ROW)                                                                                                       \
    for (int part = 0; part < parts; part++)                                                                           \
        sums[ROW][part] += weights[(ROW) * columns + column] * value[part];                                            \
    totals[ROW] += weights[(ROW) * columns + column];
        /* Most columns are the source's, which all rows see: one question a column, not one a row, can be foreseen. */
        if (seen == rows)
            for (int row = 0; row < rows; row++) {
                ADD(row)
            }
        else
            for (int row = 0; row < rows; row++)
                if (weights[row * columns + column] != 0) {
                    ADD(row)
                }
    }
    for (int row = 0; row < rows; row++)
        for (int part = 0; part < parts; part++)
            *(lanes *)(results + row * step + part * LANES) = sums[row][part] * (1 / totals[row]);
}

/* Call with a constant number of rows, ROWS or the fewer that are left, for which the compiler makes a version each. */
#define OF_ROWS(COUNT, CALL)                                                                                           \
    switch (COUNT) {                                                                                                   \
    case 1:                                                                                                            \
        CALL(1);                                                                                                       \
        break;                                                                                                         \
    case 2:                                                                                                            \
        CALL(2);                                                                                                       \
        break;                                                                                                         \
    case 3:                                                                                                            \
        CALL(3);                                                                                                       \
        break;                                                                                                         \
    default:                                                                                                           \
        CALL(ROWS);                                                                                                    \
    }

/* Compute the heads first .. last - 1, where all heads of the first source are counted before those of the next. */
INLINE void attend_heads(const float *projected, char *cache, const float *mask, float *result, float *scores,
                         ptrdiff_t first, ptrdiff_t last, ptrdiff_t rows, ptrdiff_t heads, ptrdiff_t size,
                         ptrdiff_t used, ptrdiff_t room, int half) {
    const ptrdiff_t columns = used + rows, width = heads * size, bytes = size * (half ? 2 : 4);
    for (ptrdiff_t index = first; index < last; index++) {
        const ptrdiff_t source = index / heads, head = index % heads;
        const float *queries = projected + source * rows * 3 * width + head * size;
        const float *hidden = mask + source * rows * columns;
        float *results = result + source * rows * width + head * size;
        char *keys = cache + index * 2 * room * bytes, *values = keys + room * bytes;
        for (ptrdiff_t row = 0; row < rows; row++) {
            keep(queries + (row * 3 + 1) * width, size, keys + (used + row) * bytes, half);
            keep(queries + (row * 3 + 2) * width, size, values + (used + row) * bytes, half);
        }
        for (ptrdiff_t row = 0; row < rows; row += ROWS) {
            const ptrdiff_t count = least(ROWS, rows - row);
            float *weights = scores + row * columns;
#define SCORE(COUNT)                                                                                                   \
    score(queries + row * 3 * width, 3 * width, keys, values, hidden + row * columns, COUNT, columns, size, weights, half)
            OF_ROWS(count, SCORE)
            for (ptrdiff_t at = 0; at < count; at++)
                exponentiate(weights + at * columns, columns);
            for (ptrdiff_t i = 0; i < size;) {
#define WEIGH(COUNT, PARTS_NOW)                                                                                        \
    weigh(weights, values + i * (half ? 2 : 4), COUNT, PARTS_NOW, columns, size, results + row * width + i, width, half)
#define WEIGH_MANY(COUNT) WEIGH(COUNT, PARTS)
#define WEIGH_ONE(COUNT) WEIGH(COUNT, 1)
                if (size - i >= PARTS * LANES) {
                    OF_ROWS(count, WEIGH_MANY)
                    i += PARTS * LANES;
                } else {
                    OF_ROWS(count, WEIGH_ONE)
                    i += LANES;
                }
            }
        }
    }
}

/* Compute some heads of float32, or of `half`.

projected [sources, rows, 3, heads, size] are queries, keys and values, cache [sources, heads, 2, room, size], mask
[sources, rows, used + rows], result [sources, rows, heads, size]; scores [rows, used + rows] are room to work in. */
void attend(const float *projected, char *cache, const float *mask, float *result, float *scores, ptrdiff_t first,
            ptrdiff_t last, ptrdiff_t rows, ptrdiff_t heads, ptrdiff_t size, ptrdiff_t used, ptrdiff_t room,
            ptrdiff_t half) {
    if (half)
        attend_heads(projected, cache, mask, result, scores, first, last, rows, heads, size, used, room, 1);
    else
        attend_heads(projected, cache, mask, result, scores, first, last, rows, heads, size, used, room, 0);
}
