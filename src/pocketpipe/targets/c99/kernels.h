/* Kernels of an integer network in C99: no library but <stdint.h>, no heap, no floating point.
 *
 * Images lie channels last. All sizes are arguments: on a processor one function serves every layer; for a high-level
 * synthesis tool define POCKETPIPE_KERNEL as "static inline" and give the pragmas below a meaning, and the sizes of
 * each call are constants.
 */
#ifndef POCKETPIPE_KERNELS_H
#define POCKETPIPE_KERNELS_H

#include <stdint.h>

#ifndef POCKETPIPE_KERNEL
#define POCKETPIPE_KERNEL static
#endif
#ifndef POCKETPIPE_PIPELINE /* in front of the loop over outputs, e.g. _Pragma("HLS PIPELINE") */
#define POCKETPIPE_PIPELINE
#endif
#ifndef POCKETPIPE_UNROLL /* in front of the loop over input channels, e.g. _Pragma("HLS UNROLL factor=8") */
#define POCKETPIPE_UNROLL
#endif

typedef struct {
    int32_t height, width, channels;
} pocketpipe_shape;

typedef struct {
    int32_t height, width, down, right, top, left, row_step, column_step;
} pocketpipe_window; /* size, stride, padding in front, dilation */

typedef struct {
    const int32_t *multiplier;
    const uint8_t *shift;
    int32_t each; /* 1: a factor for each channel; 0: one for all */
    int32_t zero_point, low, high;
} pocketpipe_scale;

/* floor(product / 2^shift + 1/2): the one rounding rule. C99 leaves >> of negative numbers to the compiler: not used. */
POCKETPIPE_KERNEL int32_t pocketpipe_round(int64_t product, int32_t shift) {
    const int64_t sum = product + ((int64_t)1 << (shift - 1));
    return (int32_t)(sum < 0 ? ~(~sum >> shift) : sum >> shift);
}

POCKETPIPE_KERNEL int8_t pocketpipe_clip(int32_t value, int32_t low, int32_t high) {
    return (int8_t)(value < low ? low : value > high ? high : value);
}

POCKETPIPE_KERNEL int8_t pocketpipe_scaled(int32_t sum, const pocketpipe_scale *scale, int32_t channel) {
    const int32_t i = scale->each ? channel : 0;
    const int32_t rounded = pocketpipe_round((int64_t)sum * scale->multiplier[i], scale->shift[i]);
    return pocketpipe_clip(rounded + scale->zero_point, scale->low, scale->high);
}

POCKETPIPE_KERNEL void pocketpipe_convolution(
    const int8_t *x, pocketpipe_shape in, const int8_t *weight, const int32_t *bias, pocketpipe_window w,
    int32_t groups, int32_t padding, const pocketpipe_scale *scale, int8_t *y, pocketpipe_shape out) {
    const int32_t read = in.channels / groups, made = out.channels / groups;
    for (int32_t row = 0; row < out.height; row++) {
        for (int32_t column = 0; column < out.width; column++) {
            POCKETPIPE_PIPELINE
            for (int32_t channel = 0; channel < out.channels; channel++) {
                const int8_t *taps = weight + channel * w.height * w.width * read;
                int32_t sum = bias[channel];
                for (int32_t i = 0; i < w.height; i++) {
                    const int32_t from_row = row * w.down - w.top + i * w.row_step;
                    for (int32_t j = 0; j < w.width; j++, taps += read) {
                        const int32_t from_column = column * w.right - w.left + j * w.column_step;
                        if (from_row >= 0 && from_row < in.height && from_column >= 0 && from_column < in.width) {
                            const int8_t *pixel =
                                x + (from_row * in.width + from_column) * in.channels + channel / made * read;
                            POCKETPIPE_UNROLL
                            for (int32_t k = 0; k < read; k++) sum += (int32_t)pixel[k] * taps[k];
                        } else {
                            for (int32_t k = 0; k < read; k++) sum += padding * taps[k];
                        }
                    }
                }
                *y++ = pocketpipe_scaled(sum, scale, channel);
            }
        }
    }
}

POCKETPIPE_KERNEL void pocketpipe_linear(const int8_t *x, int32_t rows, int32_t read, const int8_t *weight,
                                         const int32_t *bias, const pocketpipe_scale *scale, int8_t *y,
                                         int32_t made) {
    for (int32_t row = 0; row < rows; row++, x += read) {
        POCKETPIPE_PIPELINE
        for (int32_t channel = 0; channel < made; channel++) {
            const int8_t *taps = weight + channel * read;
            int32_t sum = bias[channel];
            POCKETPIPE_UNROLL
            for (int32_t k = 0; k < read; k++) sum += (int32_t)x[k] * taps[k];
            *y++ = pocketpipe_scaled(sum, scale, channel);
        }
    }
}

POCKETPIPE_KERNEL void pocketpipe_matmul(const int8_t *left, int32_t left_zero, const int8_t *right,
                                         int32_t right_zero, int32_t batches, int32_t rows, int32_t inner,
                                         int32_t columns, const pocketpipe_scale *scale, int8_t *y) {
    for (int32_t b = 0; b < batches; b++, left += rows * inner, right += inner * columns) {
        for (int32_t i = 0; i < rows; i++) {
            for (int32_t j = 0; j < columns; j++) {
                int32_t sum = 0;
                for (int32_t k = 0; k < inner; k++)
                    sum += (left[i * inner + k] - left_zero) * (right[k * columns + j] - right_zero);
                *y++ = pocketpipe_scaled(sum, scale, j);
            }
        }
    }
}

POCKETPIPE_KERNEL void pocketpipe_rescale(const int8_t *x, int32_t zero, int32_t multiplier, int32_t shift,
                                          int32_t zero_point, int32_t low, int32_t high, int8_t *y, int32_t count) {
    for (int32_t i = 0; i < count; i++)
        y[i] = pocketpipe_clip(pocketpipe_round((x[i] - zero) * multiplier, shift) + zero_point, low, high);
}

/* Element by element, broadcast by the steps of each input along the three axes of the output. */
POCKETPIPE_KERNEL void pocketpipe_add(const int8_t *a, const int32_t *a_steps, int32_t a_zero, int32_t a_multiplier,
                                      const int8_t *b, const int32_t *b_steps, int32_t b_zero, int32_t b_multiplier,
                                      int32_t shift, int32_t zero_point, int32_t low, int32_t high, int8_t *y,
                                      const int32_t *shape) {
    for (int32_t i = 0; i < shape[0]; i++)
        for (int32_t j = 0; j < shape[1]; j++)
            for (int32_t k = 0; k < shape[2]; k++) {
                const int32_t one = a[i * a_steps[0] + j * a_steps[1] + k * a_steps[2]] - a_zero;
                const int32_t other = b[i * b_steps[0] + j * b_steps[1] + k * b_steps[2]] - b_zero;
                const int32_t sum = one * a_multiplier + other * b_multiplier;
                *y++ = pocketpipe_clip(pocketpipe_round(sum, shift) + zero_point, low, high);
            }
}

POCKETPIPE_KERNEL void pocketpipe_multiply(const int8_t *a, const int32_t *a_steps, int32_t a_zero, const int8_t *b,
                                           const int32_t *b_steps, int32_t b_zero, const pocketpipe_scale *scale,
                                           int8_t *y, const int32_t *shape) {
    for (int32_t i = 0; i < shape[0]; i++)
        for (int32_t j = 0; j < shape[1]; j++)
            for (int32_t k = 0; k < shape[2]; k++) {
                const int32_t one = a[i * a_steps[0] + j * a_steps[1] + k * a_steps[2]] - a_zero;
                const int32_t other = b[i * b_steps[0] + j * b_steps[1] + k * b_steps[2]] - b_zero;
                *y++ = pocketpipe_scaled(one * other, scale, 0);
            }
}

POCKETPIPE_KERNEL void pocketpipe_sum_pool(const int8_t *x, pocketpipe_shape in, pocketpipe_window w, int32_t zero,
                                           const pocketpipe_scale *scale, int8_t *y, pocketpipe_shape out) {
    for (int32_t row = 0; row < out.height; row++)
        for (int32_t column = 0; column < out.width; column++)
            for (int32_t channel = 0; channel < out.channels; channel++) {
                int32_t sum = 0;
                for (int32_t i = 0; i < w.height; i++)
                    for (int32_t j = 0; j < w.width; j++) {
                        const int32_t from_row = row * w.down - w.top + i;
                        const int32_t from_column = column * w.right - w.left + j;
                        if (from_row >= 0 && from_row < in.height && from_column >= 0 && from_column < in.width)
                            sum += x[(from_row * in.width + from_column) * in.channels + channel] - zero;
                    }
                *y++ = pocketpipe_scaled(sum, scale, channel);
            }
}

POCKETPIPE_KERNEL void pocketpipe_max_pool(const int8_t *x, pocketpipe_shape in, pocketpipe_window w, int8_t *y,
                                           pocketpipe_shape out) {
    for (int32_t row = 0; row < out.height; row++)
        for (int32_t column = 0; column < out.width; column++)
            for (int32_t channel = 0; channel < out.channels; channel++) {
                int8_t largest = -128;
                for (int32_t i = 0; i < w.height; i++)
                    for (int32_t j = 0; j < w.width; j++) {
                        const int32_t from_row = row * w.down - w.top + i;
                        const int32_t from_column = column * w.right - w.left + j;
                        if (from_row >= 0 && from_row < in.height && from_column >= 0 && from_column < in.width) {
                            const int8_t value = x[(from_row * in.width + from_column) * in.channels + channel];
                            if (value > largest) largest = value;
                        }
                    }
                *y++ = largest;
            }
}

POCKETPIPE_KERNEL void pocketpipe_table(const int8_t *x, const int8_t *entries, int8_t *y, int32_t count) {
    for (int32_t i = 0; i < count; i++) y[i] = entries[x[i] + 128];
}

POCKETPIPE_KERNEL void pocketpipe_fill(int8_t value, int8_t *y, int32_t count) {
    for (int32_t i = 0; i < count; i++) y[i] = value;
}

/* Moves a box of three axes: both sides by steps of their own, from where their pointers stand. */
POCKETPIPE_KERNEL void pocketpipe_move(const int8_t *x, const int32_t *x_steps, int8_t *y, const int32_t *y_steps,
                                       const int32_t *box) {
    for (int32_t i = 0; i < box[0]; i++)
        for (int32_t j = 0; j < box[1]; j++)
            for (int32_t k = 0; k < box[2]; k++)
                y[i * y_steps[0] + j * y_steps[1] + k * y_steps[2]] =
                    x[i * x_steps[0] + j * x_steps[1] + k * x_steps[2]];
}

/* From a stored image of bytes, channels first, to the network's integers: preprocessing and scale are in the tables. */
POCKETPIPE_KERNEL void pocketpipe_enter(const uint8_t *image, const int8_t *tables, int32_t channels, int32_t each,
                                        int8_t *y) {
    for (int32_t c = 0; c < channels; c++, tables += 256)
        for (int32_t i = 0; i < each; i++) *y++ = tables[*image++];
}

#endif
