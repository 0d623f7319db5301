/* AdaFactor's passes over a matrix [rows, columns] of float32, row after row in memory.

A matrix is cut into chunks of `together` rows, and a call walks the chunks first .. last - 1. The two halves of a chunk
are read side by side: one stream of addresses reaches half of the memory's speed (measured on an AMD EPYC, Zen 4). */

#include <stddef.h>

static inline ptrdiff_t least(ptrdiff_t a, ptrdiff_t b) { return a < b ? a : b; }

/* Sum a chunk's squares by row and by column. */
static void sum_chunk(const float *restrict g, ptrdiff_t rows, ptrdiff_t columns, float *restrict by_row,
                      float *restrict by_column) {
    const ptrdiff_t half = rows / 2;
    for (ptrdiff_t i = 0; i < half; i++) {
        const float *a = g + i * columns, *b = a + half * columns;
        float upper = 0, lower = 0;
#pragma omp simd reduction(+ : upper, lower)
        for (ptrdiff_t j = 0; j < columns; j++) {
            const float square = a[j] * a[j], other = b[j] * b[j];
            upper += square;
            lower += other;
            by_column[j] += square + other;
        }
        by_row[i] = upper, by_row[half + i] = lower;
    }
    if (rows % 2) {
        const float *last = g + (rows - 1) * columns;
        float sum = 0;
#pragma omp simd reduction(+ : sum)
        for (ptrdiff_t j = 0; j < columns; j++) {
            const float square = last[j] * last[j];
            sum += square;
            by_column[j] += square;
        }
        by_row[rows - 1] = sum;
    }
}

/* by_row[i] = sum_j g_ij^2, and chunk k's by_column[k, j] grows by its sum_i g_ij^2. */
void square_sums(const float *g, ptrdiff_t rows, ptrdiff_t columns, ptrdiff_t together, ptrdiff_t first, ptrdiff_t last,
                 float *by_row, float *by_column) {
    for (ptrdiff_t chunk = first, row = first * together; chunk < last; chunk++, row += together)
        sum_chunk(g + row * columns, least(together, rows - row), columns, by_row + row, by_column + chunk * columns);
}

/* Write the chunk's part of both sums of square_forms. */
static void form_chunk(const float *restrict g, const float *restrict p, ptrdiff_t rows, ptrdiff_t columns,
                       const float *restrict row, const float *restrict column, double *restrict forms) {
    const ptrdiff_t half = rows / 2;
    forms[0] = forms[1] = 0;
    for (ptrdiff_t i = 0; i < half; i++) {
        const float *a = g + i * columns, *b = a + half * columns, *x = p + i * columns, *y = x + half * columns;
        float upper = 0, lower = 0, squares = 0, others = 0;
#pragma omp simd reduction(+ : upper, lower, squares, others)
        for (ptrdiff_t j = 0; j < columns; j++) {
            upper += a[j] * a[j] * column[j];
            lower += b[j] * b[j] * column[j];
            squares += x[j] * x[j];
            others += y[j] * y[j];
        }
        forms[0] += (double)row[i] * upper + (double)row[half + i] * lower;
        forms[1] += (double)squares + others;
    }
    if (rows % 2) {
        const float *a = g + (rows - 1) * columns, *x = p + (rows - 1) * columns;
        float form = 0, squares = 0;
#pragma omp simd reduction(+ : form, squares)
        for (ptrdiff_t j = 0; j < columns; j++) {
            form += a[j] * a[j] * column[j];
            squares += x[j] * x[j];
        }
        forms[0] += (double)row[rows - 1] * form;
        forms[1] += squares;
    }
}

/* Of each chunk k: forms[k, 0] = sum_ij row_i g_ij^2 column_j, and forms[k, 1] = sum_ij p_ij^2. */
void square_forms(const float *g, const float *p, ptrdiff_t rows, ptrdiff_t columns, ptrdiff_t together,
                  ptrdiff_t first, ptrdiff_t last, const float *by_row, const float *by_column, double *forms) {
    for (ptrdiff_t chunk = first, row = first * together; chunk < last; chunk++, row += together)
        form_chunk(g + row * columns, p + row * columns, least(together, rows - row), columns, by_row + row, by_column,
                   forms + 2 * chunk);
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

/* p_ij = keep p_ij - factor row_i column_j g_ij. The chunks are walked from the last to the first: square_forms has just
   read the last ones, which are still in the cache where the matrix is larger than that. */
void move(float *p, const float *g, ptrdiff_t rows, ptrdiff_t columns, ptrdiff_t together, ptrdiff_t first,
          ptrdiff_t last, const float *by_row, const float *by_column, float keep, float factor) {
    for (ptrdiff_t chunk = last - 1; chunk >= first; chunk--) {
        const ptrdiff_t row = chunk * together;
        move_chunk(p + row * columns, g + row * columns, least(together, rows - row), columns, by_row + row, by_column,
                   keep, factor);
    }
}
