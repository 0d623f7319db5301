/* A decoding step of few rows through all layers of a prefix LM, in one call.

For the rows of one beam, calling each operation by itself takes as long as the arithmetic. The parts are those of
attention.c and products.c, compiled with this file, so a step has the bits that the single operations have. */

#include <math.h>
#include <stddef.h>
#include <stdint.h>

#define PANEL 16 /* outputs; as in products.c */

void attend(const float *projected, char *cache, const float *mask, float *result, float *scores, ptrdiff_t first,
            ptrdiff_t last, ptrdiff_t rows, ptrdiff_t heads, ptrdiff_t size, ptrdiff_t used, ptrdiff_t room,
            ptrdiff_t half);
void multiply(const float *x, const float *weight, const float *bias, float *y, ptrdiff_t span, ptrdiff_t rows,
              ptrdiff_t inputs, ptrdiff_t outputs, ptrdiff_t first, ptrdiff_t last);
void multiply_integers(const float *x, const int8_t *weight, const int32_t *shift, const float *scales,
                       const float *bias, float *y, float *room, float tiny, ptrdiff_t rows, ptrdiff_t inputs,
                       ptrdiff_t outputs, ptrdiff_t first, ptrdiff_t last);
void gelu(float *x, ptrdiff_t elements);
void together(int64_t *panels);

/* A linear map: of int8 weights where it has scales. */
typedef struct {
    const void *weight;
    const int32_t *shift;
    const float *scales, *bias;
    ptrdiff_t inputs, outputs, span;
    float tiny;
} map;

typedef struct {
    const float *weight, *bias;
    float epsilon;
} norm;

typedef struct {
    map query_key_value, output, grow, shrink;
    norm attention, feed_forward;
} layer;

/* y = (x - mean) / sqrt(variance + epsilon) * weight + bias of each row [size]. A function that is not copied into its
callers has the same bits wherever it is called. */
__attribute__((noinline)) void normalise(const float *restrict x, float *restrict y, const float *restrict weight,
                                         const float *restrict bias, float epsilon, ptrdiff_t rows, ptrdiff_t size) {
    for (ptrdiff_t row = 0; row < rows; row++, x += size, y += size) {
        float sum = 0, squares = 0;
#pragma omp simd reduction(+ : sum)
        for (ptrdiff_t i = 0; i < size; i++)
            sum += x[i];
        const float mean = sum / (float)size;
#pragma omp simd reduction(+ : squares)
        for (ptrdiff_t i = 0; i < size; i++)
            squares += (x[i] - mean) * (x[i] - mean);
        const float times = 1 / sqrtf(squares / (float)size + epsilon);
#pragma omp simd
        for (ptrdiff_t i = 0; i < size; i++)
            y[i] = (x[i] - mean) * times * weight[i] + bias[i];
    }
}

static void apply(const map *linear, const float *x, float *y, ptrdiff_t rows, float *room) {
    int64_t panels;
    together(&panels);
    const ptrdiff_t groups = (linear->outputs + PANEL * panels - 1) / (PANEL * panels);
    if (linear->scales)
        multiply_integers(x, linear->weight, linear->shift, linear->scales, linear->bias, y, room, linear->tiny, rows,
                          linear->inputs, linear->outputs, 0, groups);
    else
        multiply(x, linear->weight, linear->bias, y, linear->span, rows, linear->inputs, linear->outputs, 0, groups);
}

static void add(float *restrict x, const float *restrict y, ptrdiff_t elements) {
#pragma omp simd
    for (ptrdiff_t i = 0; i < elements; i++)
        x[i] += y[i];
}

static void normalised(const norm *by, const float *x, float *y, ptrdiff_t rows, ptrdiff_t width) {
    normalise(x, y, by->weight, by->bias, by->epsilon, rows, width);
}

/* Map x [sources * rows, heads * size] in place through the layers, which normalise before their parts where `pre` is
not 0, and after them elsewhere.

The cache of each layer lies `stride` bytes after the one before; it, the mask and scores are those of `attend`. To work
in: narrow [2, sources * rows, width], wide [sources * rows, widest map], and room as in `multiply_integers`. */
void step(const layer *layers, ptrdiff_t count, ptrdiff_t pre, float *x, float *narrow, float *wide, float *room,
          char *cache, ptrdiff_t stride, const float *mask, float *scores, ptrdiff_t sources, ptrdiff_t rows,
          ptrdiff_t heads, ptrdiff_t size, ptrdiff_t used, ptrdiff_t columns, ptrdiff_t half) {
    const ptrdiff_t all = sources * rows, width = heads * size, elements = all * width;
    float *first = narrow, *second = narrow + elements, *shrunk = pre ? x : first;
    for (const layer *now = layers; now < layers + count; now++, cache += stride) {
        if (pre)
            normalised(&now->attention, x, first, all, width);
        apply(&now->query_key_value, pre ? first : x, wide, all, room);
        attend(wide, cache, mask, first, scores, 0, sources * heads, rows, heads, size, used, columns, half);
        apply(&now->output, first, second, all, room);
        add(second, x, elements);
        normalised(pre ? &now->feed_forward : &now->attention, second, pre ? first : x, all, width);
        apply(&now->grow, pre ? first : x, wide, all, room);
        gelu(wide, all * now->grow.outputs);
        apply(&now->shrink, wide, shrunk, all, room);
        if (pre) {
            add(x, second, elements);
        } else {
            add(first, x, elements);
            normalised(&now->feed_forward, first, x, all, width);
        }
    }
}
