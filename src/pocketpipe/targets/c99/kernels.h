/* Kernels of an integer network in C99: no library but <stdint.h>, no heap, no floating point.
 *
 * Images lie channels last. All sizes are arguments: on a processor one function serves every layer.
 *
 * For a tool of high-level synthesis define POCKETPIPE_VITIS (AMD Vitis HLS) or POCKETPIPE_INTEL (Intel HLS Compiler):
 * each layer is then a circuit of its own, its sizes constants, that forms POCKETPIPE_UNROLL products in a cycle. For
 * another tool, define the four macros below yourself; without any of this they are empty.
 */
#ifndef POCKETPIPE_KERNELS_H
#define POCKETPIPE_KERNELS_H

#include <stdint.h>

#define POCKETPIPE_WORDS(text) _Pragma(#text)
#define POCKETPIPE_PRAGMA(text) POCKETPIPE_WORDS(text) /* macros in the text are replaced first */

#if defined POCKETPIPE_VITIS
#define POCKETPIPE_KERNEL static inline __attribute__((always_inline))
#define POCKETPIPE_BODY POCKETPIPE_PRAGMA(HLS PIPELINE II=1) POCKETPIPE_PRAGMA(HLS UNROLL factor=POCKETPIPE_UNROLL)
#define POCKETPIPE_BANKS(array) \
    POCKETPIPE_PRAGMA(HLS ARRAY_PARTITION variable=array type=cyclic factor=POCKETPIPE_UNROLL)
#elif defined POCKETPIPE_INTEL
#define POCKETPIPE_KERNEL static inline __attribute__((always_inline))
#define POCKETPIPE_LOOP POCKETPIPE_PRAGMA(unroll POCKETPIPE_UNROLL) POCKETPIPE_PRAGMA(ii 1)
#endif

#ifndef POCKETPIPE_KERNEL
#define POCKETPIPE_KERNEL static
#endif
#ifndef POCKETPIPE_LOOP /* in front of a loop over products: of a sum, or of neighbouring sums */
#define POCKETPIPE_LOOP
#endif
#ifndef POCKETPIPE_BODY /* first thing in that loop */
#define POCKETPIPE_BODY
#endif
#ifndef POCKETPIPE_BANKS /* an array of which such a loop reads neighbours together */
#define POCKETPIPE_BANKS(array)
#endif

typedef struct {
    int32_t height, width, channels;
} pocketpipe_shape;

typedef struct {
    int32_t row, column, channel;
} pocketpipe_steps; /* how far apart neighbours along each axis lie */

typedef struct {
    int32_t height, width, down, right, top, left, row_step, column_step;
} pocketpipe_window; /* size, stride, padding in front, dilation */

typedef struct {
    int32_t each; /* 1: a factor for each channel; 0: one for all */
    int32_t zero_point, low, high;
} pocketpipe_range;

/* floor(product / 2^shift + 1/2): the one rounding rule. C99 leaves >> of negative numbers to the compiler: not used. */
POCKETPIPE_KERNEL int64_t pocketpipe_rounded(int64_t product, int32_t shift) {
    const int64_t sum = product + ((int64_t)1 << (shift - 1));
    return sum < 0 ? ~(~sum >> shift) : sum >> shift;
}

/* The same where it is known to fit. */
POCKETPIPE_KERNEL int32_t pocketpipe_round(int64_t product, int32_t shift) {
    return (int32_t)pocketpipe_rounded(product, shift);
}

POCKETPIPE_KERNEL int8_t pocketpipe_clip(int32_t value, int32_t low, int32_t high) {
    return (int8_t)(value < low ? low : value > high ? high : value);
}

POCKETPIPE_KERNEL int8_t pocketpipe_scaled(int32_t sum, const int32_t *multiplier, const uint8_t *shift,
                                           pocketpipe_range range, int32_t channel) {
    const int32_t i = range.each ? channel : 0;
    const int64_t made = pocketpipe_rounded((int64_t)sum * multiplier[i], shift[i]) + range.zero_point;
    return (int8_t)(made < range.low ? range.low : made > range.high ? range.high : made);
}

POCKETPIPE_KERNEL void pocketpipe_convolution(const int8_t *x, pocketpipe_shape in, const int8_t *weight,
                                              const int32_t *bias, pocketpipe_window w, int32_t groups,
                                              int32_t padding, const int32_t *multiplier, const uint8_t *shift,
                                              pocketpipe_range range, int8_t *y, pocketpipe_shape out) {
    const int32_t read = in.channels / groups, made = out.channels / groups;
    for (int32_t row = 0; row < out.height; row++) {
        for (int32_t column = 0; column < out.width; column++) {
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
                            POCKETPIPE_LOOP
                            for (int32_t k = 0; k < read; k++) {
                                POCKETPIPE_BODY
                                sum += (int32_t)pixel[k] * taps[k];
                            }
                        } else {
                            POCKETPIPE_LOOP
                            for (int32_t k = 0; k < read; k++) {
                                POCKETPIPE_BODY
                                sum += padding * taps[k];
                            }
                        }
                    }
                }
                *y++ = pocketpipe_scaled(sum, multiplier, shift, range, channel);
            }
        }
    }
}

/* Of weights that share few values: the one at `place`, whose index has `bits` bits, lowest first. */
POCKETPIPE_KERNEL int32_t pocketpipe_shared(const int8_t *table, const uint8_t *indices, int32_t bits, int32_t place) {
    const int32_t at = place * bits;
    return table[(indices[at >> 3] >> (at & 7)) & ((1 << bits) - 1)];
}

/* The same with such weights: each channel's table is `each` entries after the one before, or one serves all (0). */
POCKETPIPE_KERNEL void pocketpipe_convolution_shared(
    const int8_t *x, pocketpipe_shape in, const int8_t *tables, int32_t each, const uint8_t *indices, int32_t bits,
    const int32_t *bias, pocketpipe_window w, int32_t groups, int32_t padding, const int32_t *multiplier,
    const uint8_t *shift, pocketpipe_range range, int8_t *y, pocketpipe_shape out) {
    const int32_t read = in.channels / groups, made = out.channels / groups;
    for (int32_t row = 0; row < out.height; row++) {
        for (int32_t column = 0; column < out.width; column++) {
            for (int32_t channel = 0; channel < out.channels; channel++) {
                const int8_t *table = tables + channel * each;
                int32_t place = channel * w.height * w.width * read, sum = bias[channel];
                for (int32_t i = 0; i < w.height; i++) {
                    const int32_t from_row = row * w.down - w.top + i * w.row_step;
                    for (int32_t j = 0; j < w.width; j++, place += read) {
                        const int32_t from_column = column * w.right - w.left + j * w.column_step;
                        if (from_row >= 0 && from_row < in.height && from_column >= 0 && from_column < in.width) {
                            const int8_t *pixel =
                                x + (from_row * in.width + from_column) * in.channels + channel / made * read;
                            POCKETPIPE_LOOP
                            for (int32_t k = 0; k < read; k++) {
                                POCKETPIPE_BODY
                                sum += pixel[k] * pocketpipe_shared(table, indices, bits, place + k);
                            }
                        } else {
                            POCKETPIPE_LOOP
                            for (int32_t k = 0; k < read; k++) {
                                POCKETPIPE_BODY
                                sum += padding * pocketpipe_shared(table, indices, bits, place + k);
                            }
                        }
                    }
                }
                *y++ = pocketpipe_scaled(sum, multiplier, shift, range, channel);
            }
        }
    }
}

POCKETPIPE_KERNEL void pocketpipe_linear(const int8_t *x, int32_t rows, int32_t read, const int8_t *weight,
                                         const int32_t *bias, const int32_t *multiplier, const uint8_t *shift,
                                         pocketpipe_range range, int8_t *y, int32_t made) {
    for (int32_t row = 0; row < rows; row++, x += read) {
        for (int32_t channel = 0; channel < made; channel++) {
            const int8_t *taps = weight + channel * read;
            int32_t sum = bias[channel];
            POCKETPIPE_LOOP
            for (int32_t k = 0; k < read; k++) {
                POCKETPIPE_BODY
                sum += (int32_t)x[k] * taps[k];
            }
            *y++ = pocketpipe_scaled(sum, multiplier, shift, range, channel);
        }
    }
}

/* The sums of neighbouring columns grow together: what is read lies side by side then, which vectors and banks of memory
   want. */
#define POCKETPIPE_COLUMNS 32
POCKETPIPE_KERNEL void pocketpipe_matmul(const int8_t *left, int32_t left_zero, const int8_t *right,
                                         int32_t right_zero, int32_t batches, int32_t rows, int32_t inner,
                                         int32_t columns, const int32_t *multiplier, const uint8_t *shift,
                                         pocketpipe_range range, int8_t *y) {
    for (int32_t b = 0; b < batches; b++, right += inner * columns) {
        for (int32_t i = 0; i < rows; i++, left += inner) {
            for (int32_t j = 0; j < columns; j += POCKETPIPE_COLUMNS) {
                const int32_t width = columns - j < POCKETPIPE_COLUMNS ? columns - j : POCKETPIPE_COLUMNS;
                int32_t sums[POCKETPIPE_COLUMNS];
                POCKETPIPE_BANKS(sums)
                for (int32_t c = 0; c < width; c++) sums[c] = 0;
                for (int32_t k = 0; k < inner; k++) {
                    const int32_t factor = left[k] - left_zero;
                    const int8_t *row = right + k * columns + j;
                    POCKETPIPE_LOOP
                    for (int32_t c = 0; c < width; c++) {
                        POCKETPIPE_BODY
                        sums[c] += factor * (row[c] - right_zero);
                    }
                }
                for (int32_t c = 0; c < width; c++)
                    *y++ = pocketpipe_scaled(sums[c], multiplier, shift, range, j + c);
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
POCKETPIPE_KERNEL void pocketpipe_add(const int8_t *a, pocketpipe_steps a_steps, int32_t a_zero, int32_t a_multiplier,
                                      const int8_t *b, pocketpipe_steps b_steps, int32_t b_zero, int32_t b_multiplier,
                                      int32_t shift, int32_t zero_point, int32_t low, int32_t high, int8_t *y,
                                      pocketpipe_shape shape) {
    for (int32_t i = 0; i < shape.height; i++)
        for (int32_t j = 0; j < shape.width; j++)
            for (int32_t k = 0; k < shape.channels; k++) {
                const int32_t one = a[i * a_steps.row + j * a_steps.column + k * a_steps.channel] - a_zero;
                const int32_t other = b[i * b_steps.row + j * b_steps.column + k * b_steps.channel] - b_zero;
                const int32_t sum = one * a_multiplier + other * b_multiplier;
                *y++ = pocketpipe_clip(pocketpipe_round(sum, shift) + zero_point, low, high);
            }
}

POCKETPIPE_KERNEL void pocketpipe_multiply(const int8_t *a, pocketpipe_steps a_steps, int32_t a_zero, const int8_t *b,
                                           pocketpipe_steps b_steps, int32_t b_zero, const int32_t *multiplier,
                                           const uint8_t *shift, pocketpipe_range range, int8_t *y,
                                           pocketpipe_shape shape) {
    for (int32_t i = 0; i < shape.height; i++)
        for (int32_t j = 0; j < shape.width; j++)
            for (int32_t k = 0; k < shape.channels; k++) {
                const int32_t one = a[i * a_steps.row + j * a_steps.column + k * a_steps.channel] - a_zero;
                const int32_t other = b[i * b_steps.row + j * b_steps.column + k * b_steps.channel] - b_zero;
                *y++ = pocketpipe_scaled(one * other, multiplier, shift, range, 0);
            }
}

/* The largest number whose square is not above `square`, which is below 2^62: bit by bit. */
POCKETPIPE_KERNEL int64_t pocketpipe_root(int64_t square) {
    int64_t root = 0;
    for (int32_t bit = 30; bit >= 0; bit--) {
        const int64_t tried = root | ((int64_t)1 << bit);
        if (tried * tried <= square) root = tried;
    }
    return root;
}

/* `rest` * 2^`bits` / `divisor`, rounded down, for a `rest` below `divisor`: a subtraction for each bit. Processors of
   32 bits have no division of 64, and compilers would call a library for it. */
POCKETPIPE_KERNEL int64_t pocketpipe_quotient(int64_t rest, int32_t bits, int64_t divisor) {
    int64_t quotient = 0;
    for (; bits > 0; bits--) {
        const int64_t less = 2 * rest - divisor;
        quotient = 2 * quotient + (less >= 0);
        rest = less >= 0 ? less : 2 * rest;
    }
    return quotient;
}

/* One division for each row, by a root of 2^30 at least; what is normalized has 16 bits of fraction, and so has the bias. */
POCKETPIPE_KERNEL void pocketpipe_layer_norm(const int8_t *x, int32_t rows, int32_t width, int64_t epsilon,
                                             const int32_t *multiplier, const int32_t *bias, int32_t shift,
                                             int32_t zero_point, int32_t low, int32_t high, int8_t *y) {
    for (int32_t row = 0; row < rows; row++, x += width) {
        int32_t total = 0, squares = 0, exponent = 0;
        for (int32_t i = 0; i < width; i++) {
            total += x[i];
            squares += x[i] * x[i];
        }
        int64_t spread = (int64_t)width * squares - (int64_t)total * total + epsilon;
        for (; spread < ((int64_t)1 << 60); exponent++) spread *= 4;
        const int64_t reciprocal = pocketpipe_quotient((int64_t)1 << 29, 32, pocketpipe_root(spread));
        for (int32_t i = 0; i < width; i++) {
            const int32_t normal = pocketpipe_round((width * x[i] - total) * reciprocal, 45 - exponent);
            const int64_t sum = (int64_t)normal * multiplier[i] + bias[i] * ((int64_t)1 << (shift - 16));
            *y++ = pocketpipe_clip(pocketpipe_round(sum, shift) + zero_point, low, high);
        }
    }
}

/* Shares have 30 bits of fraction. The largest exponential is 2^23. */
POCKETPIPE_KERNEL void pocketpipe_softmax(const int8_t *x, int32_t rows, int32_t width, const int32_t *exponentials,
                                          const int32_t *multiplier, const uint8_t *shift, pocketpipe_range range,
                                          int8_t *y) {
    for (int32_t row = 0; row < rows; row++, x += width) {
        int32_t largest = -128;
        for (int32_t i = 0; i < width; i++) largest = x[i] > largest ? x[i] : largest;
        int64_t total = 0;
        for (int32_t i = 0; i < width; i++) total += exponentials[largest - x[i]];
        const int64_t reciprocal = pocketpipe_quotient((int64_t)1 << 22, 38, total);
        for (int32_t i = 0; i < width; i++) {
            const int32_t share = pocketpipe_round(exponentials[largest - x[i]] * reciprocal, 30);
            *y++ = pocketpipe_scaled(share, multiplier, shift, range, i);
        }
    }
}

POCKETPIPE_KERNEL void pocketpipe_sum_pool(const int8_t *x, pocketpipe_shape in, pocketpipe_window w, int32_t zero,
                                           const int32_t *multiplier, const uint8_t *shift, pocketpipe_range range,
                                           int8_t *y, pocketpipe_shape out) {
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
                *y++ = pocketpipe_scaled(sum, multiplier, shift, range, channel);
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
POCKETPIPE_KERNEL void pocketpipe_move(const int8_t *x, pocketpipe_steps x_steps, int8_t *y, pocketpipe_steps y_steps,
                                       pocketpipe_shape box) {
    for (int32_t i = 0; i < box.height; i++)
        for (int32_t j = 0; j < box.width; j++)
            for (int32_t k = 0; k < box.channels; k++)
                y[i * y_steps.row + j * y_steps.column + k * y_steps.channel] =
                    x[i * x_steps.row + j * x_steps.column + k * x_steps.channel];
}

/* From a stored image of bytes, channels first, to the network's integers: preprocessing and scale are in the tables. */
POCKETPIPE_KERNEL void pocketpipe_enter(const uint8_t *image, const int8_t *tables, int32_t channels, int32_t each,
                                        int8_t *y) {
    for (int32_t c = 0; c < channels; c++, tables += 256)
        for (int32_t i = 0; i < each; i++) *y++ = tables[*image++];
}

#endif
