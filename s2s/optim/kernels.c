/* AdaFactor's passes over a matrix [rows, columns] of float32, row after row in memory.

Four rows are read side by side: one stream alone leaves most of the memory's speed unused. */

#include <stddef.h>

#define TOGETHER 4

/* by_row[i] = sum_j g_ij^2, and by_column[j] grows by sum_i g_ij^2. */
void square_sums(const float *restrict g, ptrdiff_t rows, ptrdiff_t columns, float *restrict by_row,
                 float *restrict by_column) {
    ptrdiff_t i = 0;
    for (; i + TOGETHER <= rows; i += TOGETHER) {
        const float *g0 = g + i * columns, *g1 = g0 + columns, *g2 = g1 + columns, *g3 = g2 + columns;
        float s0 = 0, s1 = 0, s2 = 0, s3 = 0;
#pragma omp simd reduction(+ : s0, s1, s2, s3)
        for (ptrdiff_t j = 0; j < columns; j++) {
            float q0 = g0[j] * g0[j], q1 = g1[j] * g1[j], q2 = g2[j] * g2[j], q3 = g3[j] * g3[j];
            s0 += q0, s1 += q1, s2 += q2, s3 += q3;
            by_column[j] += (q0 + q1) + (q2 + q3);
        }
        by_row[i] = s0, by_row[i + 1] = s1, by_row[i + 2] = s2, by_row[i + 3] = s3;
    }
    for (; i < rows; i++) {
        float s = 0;
#pragma omp simd reduction(+ : s)
        for (ptrdiff_t j = 0; j < columns; j++) {
            float q = g[i * columns + j] * g[i * columns + j];
            s += q;
            by_column[j] += q;
        }
        by_row[i] = s;
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
