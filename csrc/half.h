/* Conversions of one number between float and the 16-bit formats: for packing, and for CPUs that cannot convert. */
#ifndef FASTGATE_HALF_H
#define FASTGATE_HALF_H

#include <math.h>
#include <stdint.h>
#include <string.h>

static inline uint32_t fg_bits_of(float f)
{
    uint32_t bits;
    memcpy(&bits, &f, sizeof bits);
    return bits;
}

static inline float fg_of_bits(uint32_t bits)
{
    float f;
    memcpy(&f, &bits, sizeof f);
    return f;
}

/* The upper half of a float, rounded to nearest, ties to even.  A NaN stays one: a bit of its mantissa is set. */
static inline uint16_t fg_to_bfloat16(float f)
{
    const uint32_t bits = fg_bits_of(f);
    if (isnan(f))
        return (uint16_t)(bits >> 16 | 0x40);
    return (uint16_t)((bits + 0x7fff + (bits >> 16 & 1)) >> 16);
}

static inline float fg_from_bfloat16(uint16_t half)
{
    return fg_of_bits((uint32_t)half << 16);
}

/*
 * IEEE binary16, rounded to nearest, ties to even.  Below its normal range its numbers are 2^-24 apart, as floats in
 * [0.5, 1) are, so that adding 0.5 rounds and leaves the result in the low bits.
 */
static inline uint16_t fg_to_float16(float f)
{
    const uint32_t bits = fg_bits_of(f), magnitude = bits & 0x7fffffff;
    uint32_t half;
    if (magnitude < 0x38800000) /* 2^-14 */
        half = fg_bits_of(fg_of_bits(magnitude) + 0.5f) - 0x3f000000;
    else if (magnitude >= 0x47800000) /* 2^16 */
        half = magnitude > 0x7f800000 ? 0x7e00 : 0x7c00;
    else /* rebias the exponent; a carry out of the 10 bits of the mantissa raises it, up to infinity */
        half = (magnitude - 0x38000000 + 0xfff + (magnitude >> 13 & 1)) >> 13;
    return (uint16_t)((bits >> 16 & 0x8000) | half);
}

static inline float fg_from_float16(uint16_t half)
{
    const uint32_t magnitude = half & 0x7fff, sign = (uint32_t)(half & 0x8000) << 16;
    if (magnitude >= 0x7c00)
        return fg_of_bits(sign | magnitude << 13 | 0x7f800000);
    return fg_of_bits(sign | fg_bits_of(fg_of_bits(magnitude << 13) * 0x1p112f));
}

#endif
