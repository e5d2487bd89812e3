/* What the scanners share: walking over JSON without decoding it, and reading numbers as Python's readers do.
 *
 * Only usual JSON is walked over. Whatever is not - an escaped key, deep nesting, a broken text - is told to the
 * caller, who leaves it to Python.
 */
#ifndef TGSBENCH_JSON_H
#define TGSBENCH_JSON_H
#define _GNU_SOURCE
#include <float.h>
#include <locale.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#ifdef __SSE2__
#include <emmintrin.h>
#endif

enum { NOT_USUAL = -1, NO_MEMORY = -2, NO_ROOM = -3, MAX_DEPTH = 60 };

typedef struct {
    const uint8_t *at;
    int64_t length; /* 0: absent */
} Text;

/* ---- walking over JSON; each returns the place behind, or NULL for what is not usual.
 * The text ends in a byte of zero, which is in no valid JSON: no walk goes beyond it. */

static int is_digit(uint8_t c) { return c >= '0' && c <= '9'; }

static inline const uint8_t *blanks(const uint8_t *at) {
    if (*at > ' ') return at;
    if (at[0] == ' ' && at[1] > ' ') return at + 1;
    if (at[0] == '\n' && at[1] == ' ' && at[2] == ' ') { /* as torch indents */
        at += 3;
        if (at[0] == ' ' && at[1] == ' ') at += 2;
    }
    while (*at == ' ' || *at == '\n' || *at == '\r' || *at == '\t') at++;
    return at;
}

static inline const uint8_t *escape(const uint8_t *at) {
    if (*at != 'u') return *at && strchr("\"\\/bfnrt", *at) ? at + 1 : NULL;
    if ((at[1] | 0x20) == 'd' && at[2] > '7') return NULL; /* pairs of surrogates are for Python */
    for (int i = 1; i <= 4; i++) {
        uint8_t c = at[i];
        if (!is_digit(c) && !((c | 0x20) >= 'a' && (c | 0x20) <= 'f')) return NULL;
    }
    return at + 5;
}

/* The first quote, backslash or control character from `at` on, sixteen bytes at a time up to `end`. */
static inline const uint8_t *text_end(const uint8_t *at, const uint8_t *end) {
#ifdef __SSE2__
    for (; end - at >= 16; at += 16) {
        __m128i bytes = _mm_loadu_si128((const __m128i *)at);
        __m128i low = _mm_cmpeq_epi8(_mm_max_epu8(bytes, _mm_set1_epi8(0x1f)), _mm_set1_epi8(0x1f));
        __m128i stop = _mm_or_si128(low, _mm_or_si128(_mm_cmpeq_epi8(bytes, _mm_set1_epi8('"')),
                                                      _mm_cmpeq_epi8(bytes, _mm_set1_epi8('\\'))));
        int mask = _mm_movemask_epi8(stop);
        if (mask) return at + __builtin_ctz((unsigned)mask);
    }
#endif
    while (*at >= 0x20 && *at != '"' && *at != '\\') at++;
    return at;
}

static inline const uint8_t *string(const uint8_t *at, const uint8_t *end) {
    for (at++;;) {
        at = text_end(at, end);
        if (*at == '"') return at + 1;
        if (*at != '\\' || !(at = escape(at + 1))) return NULL;
    }
}

static inline const uint8_t *digits(const uint8_t *at) {
    if (!is_digit(*at)) return NULL;
    while (is_digit(*at)) at++;
    return at;
}

static inline const uint8_t *number(const uint8_t *at) {
    at += *at == '-';
    if (at[0] == '0' && is_digit(at[1])) return NULL;
    if (!(at = digits(at))) return NULL;
    if (*at == ',' || *at == ']') return at;
    if (*at == '.' && !(at = digits(at + 1))) return NULL;
    if (*at == 'e' || *at == 'E') {
        at++;
        at += *at == '-' || *at == '+';
        at = digits(at);
    }
    return at;
}

static inline const uint8_t *scalar(const uint8_t *at, const uint8_t *end) {
    if (*at == '"') return string(at, end);
    if (*at == 't') return strncmp((const char *)at, "true", 4) ? NULL : at + 4;
    if (*at == 'f') return strncmp((const char *)at, "false", 5) ? NULL : at + 5;
    if (*at == 'n') return strncmp((const char *)at, "null", 4) ? NULL : at + 4;
    return number(at);
}

static inline const uint8_t *key(const uint8_t *at, const uint8_t *end, Text *name) {
    if (*at != '"') return NULL;
    const uint8_t *begin = ++at;
    at = text_end(at, end);
    if (*at != '"') return NULL;
    *name = (Text){begin, at - begin};
    at = at[1] == ':' ? at + 1 : blanks(at + 1);
    return *at == ':' ? blanks(at + 1) : NULL;
}

/* Any value: objects and arrays without recursion, one bit a level. */
static inline const uint8_t *value(const uint8_t *at, const uint8_t *end) {
    uint64_t objects = 0;
    int depth = 0;
    Text name;
    for (;;) {
        if (*at == '{' || *at == '[') {
            if (++depth > MAX_DEPTH) return NULL;
            objects = objects << 1 | (*at == '{');
            uint8_t close = *at == '{' ? '}' : ']';
            at = blanks(at + 1);
            if (*at != close) {
                if ((objects & 1) && !(at = key(at, end, &name))) return NULL;
                continue;
            }
        } else {
            if (!(at = scalar(at, end))) return NULL;
            if (!depth) return at;
            at = blanks(at);
        }
        for (;;) {
            if (*at == ',') {
                at = blanks(at + 1);
                if ((objects & 1) && !(at = key(at, end, &name))) return NULL;
                break;
            }
            if (*at != ((objects & 1) ? '}' : ']')) return NULL;
            at++;
            objects >>= 1;
            if (!--depth) return at;
            at = blanks(at);
        }
    }
}

/* ---- typed values; each returns 0 for what is not usual */

static int whole(Text text, int64_t absent, int64_t *found) {
    *found = absent;
    if (!text.length) return 1;
    int negative = *text.at == '-';
    if (text.length - negative > 18) return 0;
    int64_t sum = 0;
    for (const uint8_t *at = text.at + negative; at < text.at + text.length; at++) {
        if (!is_digit(*at)) return 0;
        sum = sum * 10 + (*at - '0');
    }
    *found = negative ? -sum : sum;
    return 1;
}

static locale_t plain_locale;

__attribute__((constructor)) static void open_plain_locale(void) {
    plain_locale = newlocale(LC_ALL_MASK, "C", (locale_t)0);
}

static int real_slowly(Text text, double *found) {
    if (text.length > 60 || !plain_locale) return 0;
    char copy[64] = {0}, *after;
    memcpy(copy, text.at, (size_t)text.length);
    *found = strtod_l(copy, &after, plain_locale);
    if (*found == 0.0 && *text.at == '-') return 0; /* of a whole -0 others make 0.0 */
    return after == copy + text.length && *found - *found == 0.0;
}

/* Each is exact in a double. */
#define POWERS \
    1e0, 1e1, 1e2, 1e3, 1e4, 1e5, 1e6, 1e7, 1e8, 1e9, 1e10, 1e11, 1e12, 1e13, 1e14, 1e15, 1e16, 1e17, 1e18, 1e19, \
        1e20, 1e21, 1e22

/* sum / 10^behind, rounded once; 0: not by these means.
 *
 * Of a double as of the processor's 64 bits of mantissa: a quotient of two exact numbers is rounded correctly. A
 * second rounding, from 64 bits to 53, errs only where the first ended half way between two doubles.
 */
static inline int quotient(uint64_t sum, int behind, double *found) {
    static const double AS_DOUBLE[] = {POWERS};
    if (behind > 22) return 0;
    if (sum <= 1ull << 53) {
        *found = (double)sum / AS_DOUBLE[behind];
        return 1;
    }
#if LDBL_MANT_DIG == 64
    static const long double AS_LONG[] = {POWERS};
    long double exact = (long double)sum / AS_LONG[behind];
    uint64_t mantissa;
    memcpy(&mantissa, &exact, 8);
    if ((mantissa & 0x7ff) == 0x400) return 0;
    *found = (double)exact;
    return 1;
#endif
    return 0;
}

/* Digits from `at` on, added behind those of `sum`, eight at a time. */
static inline const uint8_t *sum_digits(const uint8_t *at, const uint8_t *end, uint64_t *sum) {
    for (uint64_t word; end - at >= 8; at += 8) {
        memcpy(&word, at, 8);
        uint64_t above = (word + 0x0606060606060606ull) & 0xf0f0f0f0f0f0f0f0ull;
        if (((word & 0xf0f0f0f0f0f0f0f0ull) | above >> 4) != 0x3333333333333333ull) break;
        word = (word & 0x0f0f0f0f0f0f0f0full) * 2561 >> 8;
        word = (word & 0x00ff00ff00ff00ffull) * 6553601 >> 16;
        *sum = *sum * 100000000 + ((word & 0x0000ffff0000ffffull) * 42949672960001ull >> 32);
    }
    for (; at < end && is_digit(*at); at++) *sum = *sum * 10 + (uint64_t)(*at - '0');
    return at;
}

/* A number that is not negative and has no exponent; the place behind, or NULL: it is of another form.
 *
 * `end` is at most where a byte of zero stands, and what follows the number is for the caller to look at.
 */
static inline const uint8_t *plain_number(const uint8_t *at, const uint8_t *end, double *found) {
    uint64_t sum = 0;
    if (!is_digit(*at) || (at[0] == '0' && is_digit(at[1]))) return NULL;
    const uint8_t *begin = at, *point = at = sum_digits(at, end, &sum);
    if (*at == '.' && (at = sum_digits(at + 1, end, &sum)) == point + 1) return NULL;
    int64_t behind = at == point ? 0 : at - point - 1;
    int64_t before = *begin == '0' ? 0 : point - begin;
    if (before + behind > 19 || *at == 'e' || *at == 'E') return NULL;
    return quotient(sum, (int)behind, found) ? at : NULL;
}

/* What the library says of any number, mostly found without asking it. */
static int real(Text text, double *found) {
    *found = 0.0;
    if (!text.length) return 1;
    if (*text.at != '-' && !is_digit(*text.at)) return 0;
    const uint8_t *end = text.at + text.length;
    return plain_number(text.at, end, found) == end || real_slowly(text, found);
}

static int is_string(Text text) { return !text.length || *text.at == '"'; }

static int is_whole(Text text) {
    int64_t unused;
    return whole(text, 0, &unused);
}

static int is_null(Text text) { return text.length == 4 && *text.at == 'n'; }

static int is(Text text, const char *word) {
    return text.length == (int64_t)strlen(word) && !memcmp(text.at, word, (size_t)text.length);
}

#endif
