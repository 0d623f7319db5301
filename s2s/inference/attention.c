/* Attention of a few new rows of each source over the columns that they share, in float32.

A source's head has its keys [room, size] and then its values [room, size], both row after row: memory is read in order,
once. The keys and values of the new rows are first written after the used columns. */

#include <math.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

/* Floats in a register of the processor that the compiler builds for. gcc splits wider vectors badly: 16 lanes built for
AVX2 take six times as long as 8 do. Measured on an AMD EPYC (Zen 4): AVX-512, and AVX2 and SSE by the compiler's target
alone. 4 lanes are NEON's width too, which was compiled and never timed. */
#if defined(__AVX512F__)
#define LANES 16
#elif defined(__AVX2__)
#define LANES 8
#else
#define LANES 4
#endif
#define LINE 16 /* floats that come from memory together */
#define ROWS 4  /* rows that are computed together */
#define AHEAD 8 /* columns that are asked for before they are needed */

typedef float lanes __attribute__((vector_size(4 * LANES), aligned(4)));

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

static inline float sum(lanes x) {
    float total = 0;
#pragma omp simd reduction(+ : total)
    for (int i = 0; i < LANES; i++)
        total += x[i];
    return total;
}

static inline void ask_for(const float *row, ptrdiff_t size) {
    for (ptrdiff_t i = 0; i < size; i += LINE)
        __builtin_prefetch(row + i);
}

/* scores[row, column] = query . key / sqrt(size) where the mask is 0, and -inf elsewhere. */
static inline void score(const float *queries, ptrdiff_t step, const float *keys, const float *values, const float *mask,
                         ptrdiff_t rows, ptrdiff_t columns, ptrdiff_t size, float *scores) {
    const float scale = 1 / sqrtf((float)size);
    for (ptrdiff_t column = 0; column < columns; column++, keys += size, values += size) {
        ask_for(keys + AHEAD * size, size);
        ask_for(values, size);
        for (ptrdiff_t row = 0; row < rows; row++) {
            const ptrdiff_t cell = row * columns + column;
            if (mask[cell] != 0) {
                scores[cell] = -INFINITY;
                continue;
            }
            lanes products = {0};
            for (ptrdiff_t i = 0; i < size; i += LANES)
                products += *(const lanes *)(queries + row * step + i) * *(const lanes *)(keys + i);
            scores[cell] = scale * sum(products);
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

/* results[row] = mean over columns of values[column] by weights[row, column], of LANES of the size.

Columns are added one by one: those of weight 0, whose number depends on the other sources of a batch, change no bit. */
static inline void weigh(const float *weights, const float *values, ptrdiff_t rows, ptrdiff_t columns, ptrdiff_t size,
                         float *results, ptrdiff_t step) {
    lanes sums[ROWS] = {{0}};
    float totals[ROWS] = {0};
    for (ptrdiff_t column = 0; column < columns; column++)
        for (ptrdiff_t row = 0; row < rows; row++) {
            const float weight = weights[row * columns + column];
            if (weight == 0)
                continue;
            sums[row] += weight * *(const lanes *)(values + column * size);
            totals[row] += weight;
        }
    for (ptrdiff_t row = 0; row < rows; row++)
        *(lanes *)(results + row * step) = sums[row] * (1 / totals[row]);
}

/* Compute the heads first .. last - 1, where all heads of the first source are counted before those of the next.

projected [sources, rows, 3, heads, size] are queries, keys and values, cache [sources, heads, 2, room, size], mask
[sources, rows, used + rows], result [sources, rows, heads, size]; scores [rows, used + rows] are room to work in. */
void attend(const float *projected, float *cache, const float *mask, float *result, float *scores, ptrdiff_t first,
            ptrdiff_t last, ptrdiff_t rows, ptrdiff_t heads, ptrdiff_t size, ptrdiff_t used, ptrdiff_t room) {
    const ptrdiff_t columns = used + rows, width = heads * size;
    for (ptrdiff_t index = first; index < last; index++) {
        const ptrdiff_t source = index / heads, head = index % heads;
        const float *queries = projected + source * rows * 3 * width + head * size;
        float *keys = cache + index * 2 * room * size, *values = keys + room * size;
        for (ptrdiff_t row = 0; row < rows; row++) {
            memcpy(keys + (used + row) * size, queries + (row * 3 + 1) * width, size * sizeof(float));
            memcpy(values + (used + row) * size, queries + (row * 3 + 2) * width, size * sizeof(float));
        }
        score(queries, 3 * width, keys, values, mask + source * rows * columns, rows, columns, size, scores);
        for (ptrdiff_t row = 0; row < rows; row++)
            exponentiate(scores + row * columns, columns);
        for (ptrdiff_t row = 0; row < rows; row += ROWS)
            for (ptrdiff_t i = 0; i < size; i += LANES) {
                float *to = result + (source * rows + row) * width + head * size + i;
                const float *from = scores + row * columns;
                if (rows - row >= ROWS)
                    weigh(from, values + i, ROWS, columns, size, to, width);
                else
                    weigh(from, values + i, rows - row, columns, size, to, width);
            }
    }
}
