/* AdaFactor's passes over a matrix [rows, columns] of float32, row after row in memory. */

#include <stddef.h>

/* by_row[i] = sum_j g_ij^2, and by_column[j] grows by sum_i g_ij^2. */
void square_sums(const float *restrict g, ptrdiff_t rows, ptrdiff_t columns, float *restrict by_row,
                 float *restrict by_column) {
    for (ptrdiff_t i = 0; i < rows; i++, g += columns) {
        float sum = 0;
#pragma omp simd reduction(+ : sum)
        for (ptrdiff_t j = 0; j < columns; j++) {
            float square = g[j] * g[j];
            sum += square;
            by_column[j] += square;
        }
        by_row[i] = sum;
    }
}

/* forms[0] = sum_ij row_i g_ij^2 column_j, and forms[1] = sum_ij p_ij^2. */
void square_forms(const float *restrict g, const float *restrict p, ptrdiff_t rows, ptrdiff_t columns,
                  const float *restrict row, const float *restrict column, double *restrict forms) {
    forms[0] = forms[1] = 0;
    for (ptrdiff_t i = 0; i < rows; i++, g += columns, p += columns) {
        float form = 0, squares = 0;
#pragma omp simd reduction(+ : form, squares)
        for (ptrdiff_t j = 0; j < columns; j++) {
            form += g[j] * g[j] * column[j];
            squares += p[j] * p[j];
        }
        forms[0] += (double)row[i] * form;
        forms[1] += squares;
    }
}

/* p_ij = keep p_ij - factor row_i column_j g_ij. */
void move(float *restrict p, const float *restrict g, ptrdiff_t rows, ptrdiff_t columns, const float *restrict row,
          const float *restrict column, float keep, float factor) {
    for (ptrdiff_t i = 0; i < rows; i++, g += columns, p += columns) {
        const float size = factor * row[i];
#pragma omp simd
        for (ptrdiff_t j = 0; j < columns; j++)
            p[j] = keep * p[j] - size * (column[j] * g[j]);
    }
}
