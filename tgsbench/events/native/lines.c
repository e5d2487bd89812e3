/* Reads the lines of one rank's event file straight into columns: steps, samples of GPUs, heartbeats.
 *
 * Every other line, and one of these that is written unusually, is told by where it lies: Python decodes it, and
 * where it turns out to be a step, a sample or a heartbeat after all, or no event, Python reads the whole piece.
 * So this file decides nothing: where it gives an answer, it is Python's.
 */
#include "json.h"

typedef struct {
    int64_t offset, length, line;
} Place; /* of a text in the piece */

/* What Python lends: room for one entry a line. */
typedef struct {
    double *step_s, *data_s, *mem_peak, *tokens, *labels, *loss_sum, *loss; /* [steps] */
    int64_t *runs; /* [runs, 4]: index and number of the first step, offset and length of the phase */
    double *gpu_utils; /* [samples] */
    Place *others;
    Place gpu, beat; /* the newest of each; length 0: none */
    int64_t num_lines, num_steps, num_runs, num_gpus, num_others;
    double last_t;
} Lines;

typedef enum { ANY, STRING, WHOLE, REAL, SECONDS, COUNT } Type;

typedef struct {
    const char *name;
    int64_t length;
    Type type;
} Field;

#define FIELD(NAME, TYPE) {NAME, sizeof NAME - 1, TYPE}
#define EVENT FIELD("v", WHOLE), FIELD("t", REAL), FIELD("rank", WHOLE), FIELD("seq", WHOLE)

/* In the order in which they are written, which makes finding them quick; those that nobody reads are ANY. */
enum { STEP, PHASE, TOKENS, LABELS, MICRO_STEPS, STEP_S, DATA_S, LOSS_SUM, GRAD_NORM, MEM_ALLOC, MEM_RESERVED,
       MEM_PEAK, UTIL = 0, MAX_FIELDS = 28 };
static const Field STEP_FIELDS[] = {
    FIELD("step", WHOLE), FIELD("phase", STRING), FIELD("tokens", COUNT), FIELD("labels", COUNT),
    FIELD("micro_steps", ANY), FIELD("step_s", SECONDS), FIELD("data_s", SECONDS), FIELD("loss_sum", REAL),
    FIELD("grad_norm", ANY), FIELD("mem_alloc", ANY), FIELD("mem_reserved", ANY), FIELD("mem_peak", COUNT),
    FIELD("a2a_calls", ANY), FIELD("a2a_bytes", ANY), FIELD("gather_calls", ANY), FIELD("gather_bytes", ANY),
    FIELD("scatter_calls", ANY), FIELD("scatter_bytes", ANY), FIELD("pack_tokens", ANY),
    FIELD("seen_checksum", ANY), FIELD("pack_checksum", ANY), FIELD("pack_digest", ANY), FIELD("update", ANY),
    EVENT,
};
static const Field GPU_FIELDS[] = {
    FIELD("util", REAL), FIELD("power_w", REAL), FIELD("temp_c", REAL), FIELD("sm_mhz", REAL),
    FIELD("throttled", STRING), EVENT,
};
static const Field BEAT_FIELDS[] = {
    FIELD("step", WHOLE), FIELD("step_s", SECONDS), FIELD("micro_step", WHOLE),
    FIELD("num_micro_steps", WHOLE), FIELD("doing", STRING), FIELD("layer", WHOLE), FIELD("num_layers", WHOLE),
    FIELD("collective", STRING), FIELD("ticks", WHOLE), EVENT,
};

typedef struct {
    const char *head; /* of a line of this kind */
    const Field *fields;
    int num_fields, num_own; /* the last four are those of every event */
} Kind;

#define NUM(FIELDS) (sizeof FIELDS / sizeof *FIELDS)
#define KIND(NAME, FIELDS) {"{\"type\":\"" NAME "\"", FIELDS, NUM(FIELDS), NUM(FIELDS) - 4}
enum { STEPS, GPUS, BEATS, NUM_KINDS };
static const Kind KINDS[NUM_KINDS] = {
    KIND("step", STEP_FIELDS), KIND("gpu", GPU_FIELDS), KIND("heartbeat", BEAT_FIELDS),
};

typedef struct {
    int64_t whole[MAX_FIELDS];
    double real[MAX_FIELDS];
    Text text[MAX_FIELDS];
} Values;

static int of_type(Type type, Text text, int index, Values *values) {
    double *found = &values->real[index];
    switch (type) {
    case ANY: return 1;
    case STRING: values->text[index] = (Text){text.at + 1, text.length - 2}; return *text.at == '"';
    case WHOLE: return whole(text, 0, &values->whole[index]);
    case REAL: return real(text, found);
    case SECONDS: return real(text, found) && *found >= 0 && *found <= 1e9;
    case COUNT: return real(text, found) && *found >= -0x1p63 && *found <= 0x1p63;
    }
    return 0;
}

/* A value as it mostly is written, walked over and read at once; NULL: the long way round. */
static inline const uint8_t *quick(Type type, const uint8_t *at, const uint8_t *end, int index, Values *values) {
    uint64_t sum = 0;
    const uint8_t *after;
    switch (type) {
    case WHOLE:
        after = sum_digits(at, end, &sum);
        values->whole[index] = (int64_t)sum;
        return after > at && after - at <= 18 && *at != '0' && (*after == ',' || *after == '}') ? after : NULL;
    case SECONDS:
        after = plain_number(at, end, &values->real[index]);
        return after && values->real[index] <= 1e9 ? after : NULL;
    case COUNT:
        after = plain_number(at, end, &values->real[index]);
        return after && values->real[index] <= 0x1p63 ? after : NULL;
    case REAL: return plain_number(at, end, &values->real[index]);
    case ANY:
        if (!is_digit(*at) || *at == '0') return NULL;
        after = sum_digits(at, end, &sum);
        return *after == ',' || *after == '}' ? after : NULL;
    default: return NULL;
    }
}

static inline const uint8_t *named(const Field *field, const uint8_t *at, const uint8_t *end) {
    if (end - at < field->length + 4 || *at != '"' || memcmp(at + 1, field->name, (size_t)field->length)) return NULL;
    at += field->length + 1;
    return at[0] == '"' && at[1] == ':' && at[2] > ' ' ? at + 2 : NULL;
}

/* Number of a field by its name, looked for from `next` on; -1: none of this kind. */
static int field_of(const Kind *kind, Text name, int next) {
    for (int i = 0; i < kind->num_fields; i++, next++) {
        if (next >= kind->num_fields) next = 0;
        const Field *field = &kind->fields[next];
        if (field->length == name.length && !memcmp(field->name, name.at, (size_t)name.length)) return next;
    }
    return -1;
}

/* The members behind the type, up to the line's end; returns the fields that were there, a bit each, or 0. */
static uint32_t members(const Kind *kind, const uint8_t *at, const uint8_t *end, Values *values) {
    uint32_t there = 0;
    for (int next = 0; *at == ',';) {
        int index = next;
        const uint8_t *begin = next < kind->num_fields ? named(&kind->fields[next], at + 1, end) : NULL;
        if (!begin) {
            Text name;
            if (!(begin = key(at + 1, end, &name)) || begin > end || is(name, "type")) return 0;
            index = field_of(kind, name, next);
        }
        if (index >= 0 && there >> index & 1) return 0; /* twice */
        Type type = index < 0 ? ANY : kind->fields[index].type;
        if (!(at = quick(type, begin, end, index, values))) {
            if (!(at = value(begin, end)) || at > end) return 0;
            if (!of_type(type, (Text){begin, at - begin}, index, values)) return 0;
        }
        if (index >= 0) there |= 1u << index, next = index + 1;
    }
    return *at == '}' && at + 1 == end ? there : 0;
}

static double given(const Values *values, uint32_t there, int index) {
    return there >> index & 1 ? values->real[index] : 0.0;
}

static void add_step(const Values *values, uint32_t there, const uint8_t *piece, Lines *out) {
    static const Text MEASURE = {(const uint8_t *)"measure", 7};
    int64_t at = out->num_steps++, *run = out->runs + 4 * (out->num_runs - !!out->num_runs), step = values->whole[STEP];
    Text phase = there >> PHASE & 1 ? values->text[PHASE] : MEASURE;
    int64_t offset = there >> PHASE & 1 ? phase.at - piece : -1; /* -1: as where none is written */
    int goes_on = out->num_runs && run[1] + (at - run[0]) == step && run[3] == phase.length &&
                  !memcmp(run[2] < 0 ? MEASURE.at : piece + run[2], phase.at, (size_t)phase.length);
    if (!goes_on) {
        run = out->runs + 4 * out->num_runs++;
        run[0] = at, run[1] = step, run[2] = offset, run[3] = phase.length;
    }
    out->step_s[at] = given(values, there, STEP_S);
    out->data_s[at] = given(values, there, DATA_S);
    out->mem_peak[at] = given(values, there, MEM_PEAK);
    out->tokens[at] = given(values, there, TOKENS);
    double labels = out->labels[at] = given(values, there, LABELS);
    double loss_sum = out->loss_sum[at] = given(values, there, LOSS_SUM);
    out->loss[at] = labels != 0.0 ? loss_sum / labels : __builtin_nan("");
}

static int kind_of(const uint8_t *line, int64_t length) {
    for (int kind = 0; kind < NUM_KINDS; kind++) {
        size_t head = strlen(KINDS[kind].head);
        if ((size_t)length > head && !memcmp(line, KINDS[kind].head, head)) return kind;
    }
    return NUM_KINDS;
}

enum { USUAL_VERSION = 1, V = 0, T, RANK, SEQ };

/* 1: the line is read; 0: it is for Python; NOT_USUAL: it is of another rank, or out of turn. */
static int read_line(const uint8_t *piece, Place place, int64_t rank, int64_t seq, Lines *out) {
    const uint8_t *line = piece + place.offset;
    int number = kind_of(line, place.length);
    if (number == NUM_KINDS) return 0;
    const Kind *kind = &KINDS[number];
    Values values;
    uint32_t there = members(kind, line + strlen(kind->head), line + place.length, &values);
    uint32_t must = 0xfu << kind->num_own | (number == STEPS ? 1u << STEP : 0);
    int64_t *of_event = values.whole + kind->num_own;
    if ((there & must) != must || of_event[V] != USUAL_VERSION) return 0;
    if (of_event[RANK] != rank || of_event[SEQ] != seq) return NOT_USUAL;
    out->last_t = values.real[kind->num_own + T];
    if (number == STEPS) add_step(&values, there, piece, out);
    if (number == GPUS) out->gpu_utils[out->num_gpus++] = given(&values, there, UTIL), out->gpu = place;
    if (number == BEATS) out->beat = place;
    return 1;
}

/* The lines of a piece whose last byte ends a line and which a byte of zero follows, or more lines.
 *
 * Of one rank, numbered from `seq` on; returns 0, or what it could not do.
 */
int64_t scan_lines(const uint8_t *piece, int64_t length, int64_t rank, int64_t seq, int64_t room, Lines *out) {
    out->num_lines = out->num_steps = out->num_runs = out->num_gpus = out->num_others = 0;
    out->gpu = out->beat = (Place){0, 0, 0};
    for (int64_t at = 0; at < length; out->num_lines++) {
        const uint8_t *end = memchr(piece + at, '\n', (size_t)(length - at));
        if (!end) return NOT_USUAL;
        if (out->num_lines == room) return NO_ROOM;
        Place place = {at, end - (piece + at), out->num_lines};
        int done = read_line(piece, place, rank, seq + out->num_lines, out);
        if (done == NOT_USUAL) return NOT_USUAL;
        if (!done) out->others[out->num_others++] = place;
        at += place.length + 1;
    }
    return 0;
}
