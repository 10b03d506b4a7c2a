/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Numbers as torch reads them. It uses std::stoi, std::stoull and std::stod, which take what they can from the front
 * and ignore the rest: "128MB" is 128, "80%" is 80, "0x30" is 0, "-1" is the largest number there is. The same is done
 * here by hand, because strtod() follows the program's locale, in which "0.8" may be 0. Only the comparison with 0 and
 * 1 matters for fractions: 18 digits in a long double decide it as strtod() does.
 */
#include "policy/allocconf.h"

#include <float.h>
#include <limits.h>
#include <strings.h>

#include "base/math.h"

/* Far beyond what a double holds, and far from what an int does. */
#define NUMBER_EXPONENT_MAX 100000

static bool number_is_blank(char c)
{
    return c == ' ' || (c >= '\t' && c <= '\r');
}

static int number_digit(char c, int base)
{
    int letter = c | 0x20, digit = base;

    if (c >= '0' && c <= '9')
        digit = c - '0';
    else if (letter >= 'a' && letter <= 'f')
        digit = letter - 'a' + 10;
    return digit < base ? digit : -1;
}

/* Skips blanks and a sign; the position behind them. */
static size_t number_begin(const char *text, size_t length, bool *ret_is_negative)
{
    size_t i = 0;

    while (i < length && number_is_blank(text[i]))
        i++;
    *ret_is_negative = i < length && text[i] == '-';
    return i < length && (text[i] == '-' || text[i] == '+') ? i + 1 : i;
}

enum usk_allocconf_read usk_allocconf_read_whole(const char *text, size_t length, bool is_wide, uint64_t *ret_value,
                                                 size_t *ret_length)
{
    uint64_t value = 0, most;
    bool is_negative, fits = true;
    size_t first = number_begin(text, length, &is_negative), i = first;

    for (; i < length && number_digit(text[i], 10) >= 0; i++)
        fits = fits && usk_mul(value, 10, &value) && usk_add(value, (uint64_t)number_digit(text[i], 10), &value);
    if (i == first)
        return USK_ALLOCCONF_NO_NUMBER;
    most = is_wide ? UINT64_MAX : (uint64_t)INT_MAX + is_negative;
    if (!fits || value > most)
        return USK_ALLOCCONF_TOO_LARGE;
    *ret_value = is_negative ? -value : value;
    *ret_length = i;
    return USK_ALLOCCONF_READ;
}

/* text begins with `name`, whatever the case. */
static bool number_is_word(const char *text, size_t length, const char *name, size_t name_length)
{
    return length >= name_length && !strncasecmp(text, name, name_length);
}

/* "inf", "infinity", "nan", "nan(...)": how long, and what; 0: none of them. */
static size_t number_read_word(const char *text, size_t length, double *ret_value)
{
    if (number_is_word(text, length, "infinity", 8) || number_is_word(text, length, "inf", 3)) {
        *ret_value = __builtin_inf();
        return number_is_word(text, length, "infinity", 8) ? 8 : 3;
    }
    if (number_is_word(text, length, "nan", 3)) {
        *ret_value = __builtin_nan("");
        return 3;
    }
    return 0;
}

/* e12, p-3: the power, and how long; 0: there is none. */
static size_t number_read_power(const char *text, size_t length, char letter, int *ret_power)
{
    bool is_negative;
    size_t first, i;
    int power = 0;

    if (!length || (text[0] | 0x20) != letter || (length > 1 && number_is_blank(text[1])))
        return 0;
    first = i = 1 + number_begin(text + 1, length - 1, &is_negative);
    for (; i < length && number_digit(text[i], 10) >= 0; i++)
        power = power < NUMBER_EXPONENT_MAX ? power * 10 + number_digit(text[i], 10) : power;
    if (i == first)
        return 0;
    *ret_power = is_negative ? -power : power;
    return i;
}

static long double number_scale(long double value, int base, int power)
{
    /* Beyond this every double is 0 or infinite. */
    int most = base == 10 ? 5200 : 17000;

    power = power > most ? most : power < -most ? -most : power;
    for (; power > 0; power--)
        value *= (long double)base;
    for (; power < 0; power++)
        value /= (long double)base;
    return value;
}

enum usk_allocconf_read usk_allocconf_read_real(const char *text, size_t length, double *ret_value,
                                                size_t *ret_length)
{
    bool is_negative, has_point = false, is_hex;
    size_t begin = number_begin(text, length, &is_negative), i = begin, n_digits = 0, word;
    int base = 10, power = 0, written = 0;
    uint64_t mantissa = 0;
    long double value;
    double result;

    word = number_read_word(text + begin, length - begin, &result);
    if (word) {
        *ret_value = is_negative ? -result : result;
        *ret_length = begin + word;
        return USK_ALLOCCONF_READ;
    }
    is_hex = length - begin > 2 && text[begin] == '0' && (text[begin + 1] | 0x20) == 'x' &&
             (number_digit(text[begin + 2], 16) >= 0 ||
              (length - begin > 3 && text[begin + 2] == '.' && number_digit(text[begin + 3], 16) >= 0));
    if (is_hex) {
        base = 16;
        i += 2;
    }
    for (; i < length; i++) {
        int digit = number_digit(text[i], base);

        if (text[i] == '.' && !has_point) {
            has_point = true;
            continue;
        }
        if (digit < 0)
            break;
        n_digits++;
        if (mantissa <= (UINT64_MAX - 15) / 16) {
            mantissa = mantissa * (uint64_t)base + (uint64_t)digit;
            power -= has_point;
        } else {
            power += !has_point;
        }
    }
    if (!n_digits)
        return USK_ALLOCCONF_NO_NUMBER;
    i += number_read_power(text + i, length - i, is_hex ? 'p' : 'e', &written);
    value = is_hex ? number_scale((long double)mantissa, 2, power * 4 + written)
                   : number_scale((long double)mantissa, 10, power + written);
    if (value > (long double)DBL_MAX || (mantissa && value < (long double)DBL_MIN))
        return USK_ALLOCCONF_TOO_LARGE;
    result = (double)value;
    *ret_value = is_negative ? -result : result;
    *ret_length = i;
    return USK_ALLOCCONF_READ;
}
