/* AdaFactor's passes over a matrix [rows, columns] of float32, row after row in memory.

A matrix is cut into chunks of `together` rows, and a call walks the chunks first .. last - 1. The two halves of a chunk
are read side by side: one stream of addresses reaches half of the memory's speed (measured on an AMD EPYC, Zen 4). */

#include <float.h>
#include <stddef.h>

static inline ptrdiff_t least(ptrdiff_t a, ptrdiff_t b) { return a < b ? a : b; }

static inline float greater(float a, float b) { return a > b ? a : b; }

/* Sum the squares of two rows, and add theirs to those of each column. */
static inline void sum_rows(const float *restrict a, const float *restrict b, ptrdiff_t columns,
                            float *restrict by_column, float *sum, float *other_sum) {
    float upper = 0, lower = 0;
#pragma omp simd reduction(+ : upper, lower)
    for (ptrdiff_t j = 0; j < columns; j++) {
        const float square = a[j] * a[j], other = b[j] * b[j];
        upper += square;
        lower += other;
        by_column[j] += square + other;
    }
    *sum = upper, *other_sum = lower;
}

static inline void weigh_rows(const float *restrict a, const float *restrict b, ptrdiff_t columns, float weight,
                              float other, float *restrict weighted) {
#pragma omp simd
    for (ptrdiff_t j = 0; j < columns; j++)
        weighted[j] += weight * (a[j] * a[j]) + other * (b[j] * b[j]);
}

/* Of each row i and column j: by_row[i] = sum_j g_ij^2; by_column[k, j] grows by chunk k's sum_i g_ij^2, and
weighted[k, j], unless it is null, by its sum_i g_ij^2 / r_i. There r_i = mean_i + share (by_row[i] / columns + added -
mean_i), the moving average `means` after this gradient. A row is still in the nearest cache when its r_i is known. */
void square_sums(const float *g, ptrdiff_t rows, ptrdiff_t columns, ptrdiff_t together, ptrdiff_t first, ptrdiff_t last,
                 const float *means, float share, float added, float *by_row, float *by_column, float *weighted) {
    by_column += first * columns;
    weighted += weighted ? first * columns : 0;
#define AVERAGE(i) (means[i] + share * (by_row[i] / (float)columns + added - means[i]))
    for (ptrdiff_t chunk = first; chunk < last; chunk++, by_column += columns, weighted += weighted ? columns : 0) {
        const ptrdiff_t start = chunk * together, height = least(together, rows - start), half = height / 2;
        for (ptrdiff_t i = start; i < start + half; i++) {
            const ptrdiff_t k = i + half;
            const float *a = g + i * columns, *b = g + k * columns;
            sum_rows(a, b, columns, by_column, by_row + i, by_row + k);
            if (weighted)
                weigh_rows(a, b, columns, 1 / greater(AVERAGE(i), FLT_MIN), 1 / greater(AVERAGE(k), FLT_MIN), weighted);
        }
        if (height % 2) {
            const ptrdiff_t i = start + height - 1;
            const float *a = g + i * columns;
            float sum = 0;
#pragma omp simd reduction(+ : sum)
            for (ptrdiff_t j = 0; j < columns; j++) {
                sum += a[j] * a[j];
                by_column[j] += a[j] * a[j];
            }
            by_row[i] = sum;
            for (ptrdiff_t j = 0; weighted && j < columns; j++)
                weighted[j] += a[j] * a[j] / greater(AVERAGE(i), FLT_MIN);
        }
    }
}

/* sums[k] = the sum of chunk k's p_ij^2. */
void square_sum(const float *p, ptrdiff_t rows, ptrdiff_t columns, ptrdiff_t together, ptrdiff_t first, ptrdiff_t last,
                double *sums) {
    for (ptrdiff_t chunk = first; chunk < last; chunk++) {
        const ptrdiff_t start = chunk * together, height = least(together, rows - start), half = height / 2;
        const float *x = p + start * columns, *y = x + half * columns;
        double total = 0;
        for (ptrdiff_t i = 0; i < half; i++, x += columns, y += columns) {
            float upper = 0, lower = 0;
#pragma omp simd reduction(+ : upper, lower)
            for (ptrdiff_t j = 0; j < columns; j++) {
                upper += x[j] * x[j];
                lower += y[j] * y[j];
            }
            total += (double)upper + lower;
        }
        if (height % 2) {
            float sum = 0;
#pragma omp simd reduction(+ : sum)
            for (ptrdiff_t j = 0; j < columns; j++)
                sum += y[j] * y[j];
            total += sum;
        }
        sums[chunk] = total;
    }
}

static void move_chunk(float *restrict p, const float *restrict g, ptrdiff_t rows, ptrdiff_t columns,
                       const float *restrict row, const float *restrict column, float keep, float factor) {
    const ptrdiff_t half = rows / 2;
    for (ptrdiff_t i = 0; i < half; i++) {
        const float *a = g + i * columns, *b = a + half * columns;
        const float size = factor * row[i], other = factor * row[half + i];
        float *x = p + i * columns, *y = x + half * columns;
#pragma omp simd
        for (ptrdiff_t j = 0; j < columns; j++) {
            x[j] = keep * x[j] - size * (column[j] * a[j]);
            y[j] = keep * y[j] - other * (column[j] * b[j]);
        }
    }
    if (rows % 2) {
        const float *a = g + (rows - 1) * columns, size = factor * row[rows - 1];
        float *x = p + (rows - 1) * columns;
#pragma omp simd
        for (ptrdiff_t j = 0; j < columns; j++)
            x[j] = keep * x[j] - size * (column[j] * a[j]);
    }
}

/* p_ij = keep p_ij - factor row_i column_j g_ij. The chunks are walked from the last to the first: square_sum has just
   read the last ones, which are still in the cache where the matrix is larger than that. */
void move(float *p, const float *g, ptrdiff_t rows, ptrdiff_t columns, ptrdiff_t together, ptrdiff_t first,
          ptrdiff_t last, const float *by_row, const float *by_column, float keep, float factor) {
    for (ptrdiff_t chunk = last - 1; chunk >= first; chunk--) {
        const ptrdiff_t row = chunk * together;
        move_chunk(p + row * columns, g + row * columns, least(together, rows - row), columns, by_row + row, by_column,
                   keep, factor);
    }
}
