/* SPDX-License-Identifier: Apache-2.0 */
/* The slope of a line through points. Centered first, so that large values with small changes keep their digits. */
#include "soak.h"

double soak_slope(const struct soak_point *points, size_t n)
{
    double x = 0, y = 0, xx = 0, xy = 0;

    for (size_t i = 0; i < n; i++) {
        x += points[i].x / (double)n;
        y += points[i].y / (double)n;
    }
    for (size_t i = 0; i < n; i++) {
        xx += (points[i].x - x) * (points[i].x - x);
        xy += (points[i].x - x) * (points[i].y - y);
    }
    return xx > 0 ? xy / xx : 0;
}
