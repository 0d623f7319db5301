/* Linear maps x W^T + b of a decoding step's rows, in float32 and with weights in int8.

Weights come in panels of PANEL outputs, which a pass reads in order: a step with few rows takes as long as its weights
take from memory. A row's sums do not depend on the other rows: batches change no bit. */

#include <math.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>
#if defined(__x86_64__)
#include <immintrin.h>
#endif

/* Floats in a register. 4 lanes are NEON's width too, for which this file was compiled and run in an emulator, with the
same results as on x86, and never timed. */
#if defined(__AVX512F__)
#define LANES 16
#define TOGETHER 4 /* panels of one pass: several streams of addresses are faster than one, and registers are many */
#elif defined(__AVX2__)
#define LANES 8
#define TOGETHER 1
#else
#define LANES 4
#define TOGETHER 1
#endif
#define PANEL 16 /* outputs */
#define PARTS (PANEL / LANES)
#define ROWS 4   /* rows of one pass: a beam */
#define NEAR 1024 /* rows that stay in the cache while all panels meet them */
#define DEPTH 4  /* inputs whose products the processor adds up in one instruction, in int8 */
#define MIDDLE 64 /* the integer that represents 0 in a row */
#define MOST 63   /* the greatest magnitude of a row's integers */

/* Left to itself the compiler makes one function of all calls, whose sums then lie in memory instead of in registers. */
#define INLINE static inline __attribute__((always_inline))

typedef float lanes __attribute__((vector_size(4 * LANES), aligned(4)));
typedef union {
    float value;
    int32_t bits;
} magnitude;

static inline ptrdiff_t least(ptrdiff_t a, ptrdiff_t b) { return a < b ? a : b; }

/* Copy `width` numbers of a line of panels. A copy whose size is a constant is a few registers, any other is a call. */
static inline void store(float *y, const float *line, ptrdiff_t width, int panels) {
    if (width == panels * PANEL)
        memcpy(y, line, panels * PANEL * sizeof(float));
    else
        memcpy(y, line, width * sizeof(float));
}

/* Write `count` rows of `panels` panels, of which the last may be cut; both are constants where it is called.

Inputs are summed in spans, whose sums are then added: with oneDNN's span the result has its bits. */
INLINE void float_block(const float *x, ptrdiff_t inputs, ptrdiff_t span, const float *weight, const float *bias,
                               float *y, ptrdiff_t outputs, ptrdiff_t width, int count, int panels) {
    lanes totals[ROWS][TOGETHER][PARTS] = {{{{0}}}};
    for (ptrdiff_t start = 0; start < inputs; start += span) {
        lanes sums[ROWS][TOGETHER][PARTS] = {{{{0}}}};
        for (ptrdiff_t k = start; k < least(start + span, inputs); k++)
            for (int panel = 0; panel < panels; panel++)
                for (int part = 0; part < PARTS; part++) {
                    const lanes column = *(const lanes *)(weight + (panel * inputs + k) * PANEL + part * LANES);
                    for (int row = 0; row < count; row++)
                        sums[row][panel][part] += x[row * inputs + k] * column;
                }
        for (int row = 0; row < count; row++)
            for (int panel = 0; panel < panels; panel++)
                for (int part = 0; part < PARTS; part++)
                    totals[row][panel][part] += sums[row][panel][part];
    }
    for (int row = 0; row < count; row++) {
        float line[TOGETHER * PANEL];
        for (int panel = 0; panel < panels; panel++)
            for (int part = 0; part < PARTS; part++) {
                const ptrdiff_t at = panel * PANEL + part * LANES;
                *(lanes *)(line + at) = totals[row][panel][part] + *(const lanes *)(bias + at);
            }
        store(y + row * outputs, line, width, panels);
    }
}

#if defined(__AVX512VNNI__)
typedef __m512i integers[1];
static inline void add_products(integers sums, uint32_t four, const int8_t *weight) {
    sums[0] = _mm512_dpbusd_epi32(sums[0], _mm512_set1_epi32((int)four), _mm512_loadu_si512(weight));
}
#elif defined(__AVX2__)
typedef __m256i integers[2];
static inline void add_products(integers sums, uint32_t four, const int8_t *weight) {
    const __m256i row = _mm256_set1_epi32((int)four), ones = _mm256_set1_epi16(1);
    for (int half = 0; half < 2; half++) {
        /* Two products of 127 x 127 fit 16 bits: no sum is clipped. */
        const __m256i pairs = _mm256_maddubs_epi16(row, _mm256_loadu_si256((const __m256i *)(weight + 32 * half)));
        sums[half] = _mm256_add_epi32(sums[half], _mm256_madd_epi16(pairs, ones));
    }
}
#else
typedef int32_t integers[PANEL];
static inline void add_products(integers sums, uint32_t four, const int8_t *weight) {
    uint8_t row[DEPTH];
    memcpy(row, &four, DEPTH);
    for (int output = 0; output < PANEL; output++)
        for (int k = 0; k < DEPTH; k++)
            sums[output] += row[k] * weight[output * DEPTH + k];
}
#endif

/* The same of rows in integers [count, inputs]: y = b + (integers' sum) (scale of the weight) (scale of the row). */
INLINE void integer_block(const uint8_t *x, const float *row_scales, ptrdiff_t inputs, const int8_t *weight,
                                 const int32_t *shift, const float *scales, const float *bias, float *y,
                                 ptrdiff_t outputs, ptrdiff_t width, int count, int panels) {
    integers sums[ROWS][TOGETHER];
    memset(sums, 0, sizeof(sums));
    for (ptrdiff_t k = 0; k < inputs; k += DEPTH)
        for (int panel = 0; panel < panels; panel++)
            for (int row = 0; row < count; row++) {
                uint32_t four;
                memcpy(&four, x + row * inputs + k, DEPTH);
                add_products(sums[row][panel], four, weight + (panel * inputs + k) * PANEL);
            }
    for (int row = 0; row < count; row++) {
        int32_t exact[TOGETHER * PANEL];
        float line[TOGETHER * PANEL];
        memcpy(exact, sums[row], panels * PANEL * sizeof(int32_t));
        for (int at = 0; at < panels * PANEL; at++)
            line[at] = bias[at] + (float)(exact[at] - shift[at]) * scales[at] * row_scales[row];
        store(y + row * outputs, line, width, panels);
    }
}

/* Call a block for all rows of the groups of TOGETHER panels from `first` to `last` - 1, NEAR rows after the others. The
compiler makes a version of it for each constant number of rows, of whole groups and of single panels. */
#define EACH_BLOCK(CALL)                                                                                               \
    for (ptrdiff_t top = 0; top < rows; top += NEAR)                                                                   \
        for (ptrdiff_t group = first; group < last; group++)                                                           \
            for (ptrdiff_t row = top; row < least(top + NEAR, rows); row += ROWS) {                                    \
                const ptrdiff_t start = group * TOGETHER, end = least(start + TOGETHER, panels);                       \
                if (end - start == TOGETHER && rows - row >= ROWS) {                                                   \
                    const ptrdiff_t panel = start;                                                                     \
                    CALL(ROWS, TOGETHER);                                                                              \
                    continue;                                                                                          \
                }                                                                                                      \
                for (ptrdiff_t panel = start; panel < end; panel++)                                                    \
                    switch (least(ROWS, rows - row)) {                                                                 \
                    case 1:                                                                                            \
                        CALL(1, 1);                                                                                    \
                        break;                                                                                         \
                    case 2:                                                                                            \
                        CALL(2, 1);                                                                                    \
                        break;                                                                                         \
                    case 3:                                                                                            \
                        CALL(3, 1);                                                                                    \
                        break;                                                                                         \
                    default:                                                                                           \
                        CALL(4, 1);                                                                                    \
                    }                                                                                                  \
            }

/* y [rows, outputs] = x [rows, inputs] W^T + b, of groups of panels. */
void multiply(const float *x, const float *weight, const float *bias, float *y, ptrdiff_t span, ptrdiff_t rows,
              ptrdiff_t inputs, ptrdiff_t outputs, ptrdiff_t first, ptrdiff_t last) {
    const ptrdiff_t panels = (outputs + PANEL - 1) / PANEL;
#define FLOAT_BLOCK(COUNT, PANELS)                                                                                     \
    float_block(x + row * inputs, inputs, span, weight + panel * inputs * PANEL, bias + panel * PANEL,                       \
                y + row * outputs + panel * PANEL, outputs, least((PANELS)*PANEL, outputs - panel * PANEL), COUNT, PANELS)
    EACH_BLOCK(FLOAT_BLOCK)
}

/* Round rows to integers 1 .. 127, where MIDDLE is 0, with a scale for each, which is NaN for a row that has a NaN.

Bits of magnitudes are in the order of the numbers, and NaN's are the greatest; a comparison with NaN would pass it by,
and the row would be that of other numbers. */
static void quantise(const float *restrict x, ptrdiff_t rows, ptrdiff_t inputs, float tiny, uint8_t *restrict integers,
                     float *restrict scales) {
    for (ptrdiff_t row = 0; row < rows; row++, x += inputs, integers += inputs) {
        magnitude most = {tiny};
        int32_t bits = most.bits;
#pragma omp simd reduction(max : bits)
        for (ptrdiff_t k = 0; k < inputs; k++) {
            const magnitude now = {fabsf(x[k])};
            bits = now.bits > bits ? now.bits : bits;
        }
        most.bits = bits;
        const float times = MOST / most.value;
        scales[row] = most.value / MOST;
#pragma omp simd
        for (ptrdiff_t k = 0; k < inputs; k++)
            integers[k] = (uint8_t)((int32_t)rintf(x[k] * times) + MIDDLE);
    }
}

/* The same as multiply, with x in integers of 7 bits and W in int8. `shift` is MIDDLE times the sum of an output's
weights, and `tiny` the least magnitude of a row, so that a row of zeros has a scale. `room` [rows] floats and then
[rows, inputs] bytes are to work in. */
void multiply_integers(const float *x, const int8_t *weight, const int32_t *shift, const float *scales,
                       const float *bias, float *y, float *room, float tiny, ptrdiff_t rows, ptrdiff_t inputs,
                       ptrdiff_t outputs, ptrdiff_t first, ptrdiff_t last) {
    const ptrdiff_t panels = (outputs + PANEL - 1) / PANEL;
    uint8_t *integers = (uint8_t *)(room + rows);
    quantise(x, rows, inputs, tiny, integers, room);
#define INTEGER_BLOCK(COUNT, PANELS)                                                                                   \
    integer_block(integers + row * inputs, room + row, inputs, weight + panel * inputs * PANEL, shift + panel * PANEL, \
                  scales + panel * PANEL, bias + panel * PANEL, y + row * outputs + panel * PANEL, outputs,            \
                  least((PANELS)*PANEL, outputs - panel * PANEL), COUNT, PANELS)
    EACH_BLOCK(INTEGER_BLOCK)
}

/* x = x (1 + erf(x / sqrt(2))) / 2, in place.

With q = 1 - erf(|x| / sqrt(2)) by formula 7.1.26 of Abramowitz and Stegun (error 1.5e-7), it is x q / 2 below 0 and
x - x q / 2 above. e^y is 2^n e^r with |r| <= ln(2) / 2, and e^r its Taylor polynomial. */
void gelu(float *restrict x, ptrdiff_t elements) {
#pragma omp simd
    for (ptrdiff_t at = 0; at < elements; at++) {
        const float value = x[at], z = fabsf(value) * 0.70710678f, t = 1 / (1 + 0.3275911f * z);
        const float y = -z * z < -87.0f ? -87.0f : -z * z;
        const float n = rintf(y * 1.44269504f), r = (y - n * 0.693359375f) + n * 2.12194440e-4f;
        const float e =
            1 + r * (1 + r * (0.5f + r * (1 / 6.0f + r * (1 / 24.0f + r * (1 / 120.0f + r * (1 / 720.0f))))));
        union {
            int32_t bits;
            float value;
        } power = {((int32_t)n + 127) << 23};
        const float sum =
            t * (0.254829592f + t * (-0.284496736f + t * (1.421413741f + t * (-1.453152027f + t * 1.061405429f))));
        const float half = 0.5f * value * (sum * e * power.value);
        x[at] = value < 0 ? half : value - half;
    }
}

/* The panels of a group, for callers that share groups among threads. */
void together(int64_t *panels) { *panels = TOGETHER; }
