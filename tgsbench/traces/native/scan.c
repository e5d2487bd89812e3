/* Reads the events of one chunk of a trace straight into columns.
 *
 * Only what every trace of torch looks like is read here. Whatever is unusual - an escaped key, a number where
 * a string is expected, broken JSON - ends the scan with NOT_USUAL, and the chunk is decoded in Python, which
 * knows what to do or say. So this file decides nothing: where it gives an answer, it is Python's.
 */
#include "json.h"

/* ---- JSON texts by number: each new one gets the next */

typedef struct {
    uint64_t hash;
    int64_t offset;
    int32_t length, number; /* number 0: free */
} Slot;

typedef struct {
    Slot *slots;
    uint64_t mask;
    uint8_t *kept;
    int64_t *ends; /* of text `number`, in `kept` */
    int64_t capacity, count, count_capacity;
} Tokens;

typedef struct {
    Tokens tokens;
} Scanner;

/* What Python lends, each with room for a row per event; see reader.py for their meaning. */
typedef struct {
    double *ts, *dur;
    int64_t *correlation, *external, *sequence;
    int32_t *category, *name, *tid, *device;
    int32_t *arguments; /* [rows, 3, 2]: offset and length of dims, types and concrete */
    int32_t *record_row, *record; /* [records], [records, 8]: rows with a collective, and what is said of it */
    int64_t num_records, num_events;
} Columns;

static uint64_t mixed(uint64_t a, uint64_t b) {
    __uint128_t product = (__uint128_t)a * b;
    return (uint64_t)product ^ (uint64_t)(product >> 64);
}

static uint64_t hash_of(const uint8_t *at, int64_t length) {
    uint64_t hash = 0x9E3779B97F4A7C15ull ^ (uint64_t)length, word;
    for (; length >= 8; at += 8, length -= 8) {
        memcpy(&word, at, 8);
        hash = mixed(hash ^ word, 0xA0761D6478BD642Full);
    }
    word = 0;
    memcpy(&word, at, (size_t)length);
    return mixed(hash ^ word, 0xE7037ED1A0B428DBull);
}

static int more_slots(Tokens *tokens) {
    uint64_t old = tokens->mask + 1, mask = old * 2 - 1;
    Slot *slots = calloc(mask + 1, sizeof(Slot));
    if (!slots) return NO_MEMORY;
    for (uint64_t i = 0; i < old; i++) {
        if (!tokens->slots[i].number) continue;
        uint64_t index = tokens->slots[i].hash & mask;
        while (slots[index].number) index = (index + 1) & mask;
        slots[index] = tokens->slots[i];
    }
    free(tokens->slots);
    tokens->slots = slots;
    tokens->mask = mask;
    return 0;
}

static int keep(Tokens *tokens, const uint8_t *at, int64_t length) {
    int64_t used = tokens->ends[tokens->count];
    if (used + length > tokens->capacity) {
        int64_t capacity = 2 * (used + length);
        uint8_t *kept = realloc(tokens->kept, (size_t)capacity);
        if (!kept) return NO_MEMORY;
        tokens->kept = kept;
        tokens->capacity = capacity;
    }
    if (tokens->count + 2 > tokens->count_capacity) {
        int64_t capacity = 2 * (tokens->count + 2);
        int64_t *ends = realloc(tokens->ends, (size_t)capacity * sizeof(int64_t));
        if (!ends) return NO_MEMORY;
        tokens->ends = ends;
        tokens->count_capacity = capacity;
    }
    memcpy(tokens->kept + used, at, (size_t)length);
    tokens->ends[++tokens->count] = used + length;
    return 0;
}

/* Number of a text from 1 on; 0: absent; negative: no memory. */
static int32_t number_of(Tokens *tokens, Text text) {
    if (!text.length) return 0;
    if (tokens->count >= INT32_MAX - 1) return NO_MEMORY;
    if ((uint64_t)tokens->count * 2 > tokens->mask && more_slots(tokens)) return NO_MEMORY;
    uint64_t hash = hash_of(text.at, text.length), index = hash & tokens->mask;
    for (; tokens->slots[index].number; index = (index + 1) & tokens->mask) {
        Slot *slot = &tokens->slots[index];
        if (slot->hash == hash && slot->length == text.length &&
            !memcmp(tokens->kept + slot->offset, text.at, (size_t)text.length))
            return slot->number;
    }
    int64_t offset = tokens->ends[tokens->count];
    if (keep(tokens, text.at, text.length)) return NO_MEMORY;
    tokens->slots[index] = (Slot){hash, offset, (int32_t)text.length, (int32_t)tokens->count};
    return (int32_t)tokens->count;
}

/* ---- one event */

enum { CORRELATION, EXTERNAL, SEQUENCE, DIMS, TYPES, CONCRETE, DEVICE, RECORD, NUM_ARGS = RECORD + 8 };

#define NAMED(WORD) {(const uint8_t *)WORD, sizeof WORD - 1}
static const Text ARGS[NUM_ARGS] = {
    NAMED("correlation"), NAMED("External id"), NAMED("Sequence number"), NAMED("Input Dims"),
    NAMED("Input type"), NAMED("Concrete Inputs"), NAMED("device"),
    NAMED("Collective name"), NAMED("Group size"), NAMED("Process Group Name"),
    NAMED("Process Group Description"), NAMED("Process Group Ranks"),
    NAMED("In msg nelems"), NAMED("Out msg nelems"), NAMED("dtype"),
};

typedef struct {
    Text phase, category, name, tid, ts, dur, args[NUM_ARGS];
    int has_args, odd_args;
} Event;

static inline Text *argument(Event *event, Text name) {
    for (int i = 0; i < NUM_ARGS; i++)
        if (*name.at == *ARGS[i].at && name.length == ARGS[i].length && !memcmp(name.at, ARGS[i].at, (size_t)name.length))
            return &event->args[i];
    return NULL;
}

static inline const uint8_t *arguments(const uint8_t *at, const uint8_t *end, Event *event) {
    memset(event->args, 0, sizeof event->args);
    event->odd_args = *at != '{';
    if (event->odd_args) return value(at, end);
    at = blanks(at + 1);
    if (*at == '}') return at + 1;
    for (;;) {
        Text name;
        if (!(at = key(at, end, &name))) return NULL;
        const uint8_t *after = value(at, end);
        if (!after) return NULL;
        Text *wanted = argument(event, name);
        if (wanted) *wanted = (Text){at, after - at};
        at = blanks(after);
        if (*at == '}') return at + 1;
        if (*at != ',') return NULL;
        at = blanks(at + 1);
    }
}

static Text *member(Event *event, Text name) {
    switch (name.length) {
    case 2: return is(name, "ph") ? &event->phase : is(name, "ts") ? &event->ts : NULL;
    case 3: return is(name, "cat") ? &event->category : is(name, "tid") ? &event->tid
                   : is(name, "dur") ? &event->dur : NULL;
    case 4: return is(name, "name") ? &event->name : NULL;
    default: return NULL;
    }
}

static inline const uint8_t *object(const uint8_t *at, const uint8_t *end, Event *event) {
    event->phase = event->category = event->name = event->tid = event->ts = event->dur = (Text){NULL, 0};
    event->has_args = event->odd_args = 0;
    if (*at != '{') return NULL;
    at = blanks(at + 1);
    if (*at == '}') return NULL;
    for (;;) {
        Text name;
        if (!(at = key(at, end, &name))) return NULL;
        const uint8_t *after;
        if (is(name, "args")) {
            if (event->has_args++) return NULL;
            after = arguments(at, end, event);
        } else {
            after = value(at, end);
            Text *wanted = member(event, name);
            if (wanted && wanted->at) return NULL; /* twice */
            if (wanted && after) *wanted = (Text){at, after - at};
        }
        if (!after) return NULL;
        at = blanks(after);
        if (*at == '}') return at + 1;
        if (*at != ',') return NULL;
        at = blanks(at + 1);
    }
}

static int usual_types(const Event *event) {
    const Text *args = event->args;
    if (event->odd_args || !is_string(event->category) || !is_string(event->name)) return 0;
    if (!is_string(event->tid) && !is_whole(event->tid)) return 0;
    if (!event->has_args) return 1;
    if (!is_string(args[DEVICE]) && !is_whole(args[DEVICE]) && !is_null(args[DEVICE])) return 0;
    for (int i = RECORD; i < NUM_ARGS; i++) {
        int is_count = i == RECORD + 1 || i == RECORD + 5 || i == RECORD + 6;
        if (!is_null(args[i]) && !(is_count ? is_whole(args[i]) : is_string(args[i]))) return 0;
    }
    return 1;
}

static int is_known_phase(Text phase) {
    return phase.length == 3 && phase.at[1] && strchr("BEiICbneSTpFstfPNODVvRcM()", phase.at[1]) != NULL;
}

/* A Python frame that is no call of a module: most events of a trace with stacks, and none is wanted. */
static int is_plain_frame(const Event *event) {
    static const char MODULE[] = "\"nn.Module: ";
    return is(event->category, "\"python_function\"") &&
           (event->name.length < (int64_t)sizeof MODULE || memcmp(event->name.at, MODULE, sizeof MODULE - 1));
}

/* Would Python take every value of an event that is passed over? */
static int is_sound(const Event *event) {
    double real_unused;
    int64_t unused;
    return usual_types(event) && real(event->ts, &real_unused) &&
           real(event->dur, &real_unused) &&
           (!event->has_args || (whole(event->args[CORRELATION], 0, &unused) &&
                                 whole(event->args[EXTERNAL], 0, &unused) &&
                                 whole(event->args[SEQUENCE], 0, &unused)));
}

/* Add an event with a duration as a row. */
static int add(Scanner *scanner, const Event *event, const uint8_t *base, int64_t row, Columns *out) {
    Tokens *tokens = &scanner->tokens;
    static const Text ABSENT[NUM_ARGS];
    const Text *args = event->has_args ? event->args : ABSENT;
    if (!usual_types(event) || !real(event->ts, &out->ts[row]) ||
        !real(event->dur, &out->dur[row]) || !whole(args[CORRELATION], 0, &out->correlation[row]) ||
        !whole(args[EXTERNAL], 0, &out->external[row]) || !whole(args[SEQUENCE], -1, &out->sequence[row]))
        return NOT_USUAL;
    out->category[row] = number_of(tokens, event->category);
    out->name[row] = number_of(tokens, event->name);
    out->tid[row] = number_of(tokens, event->tid);
    out->device[row] = is_null(args[DEVICE]) ? 0 : number_of(tokens, args[DEVICE]);
    if (out->category[row] < 0 || out->name[row] < 0 || out->tid[row] < 0 || out->device[row] < 0)
        return NO_MEMORY;
    for (int i = 0; i < 3; i++) {
        out->arguments[6 * row + 2 * i] = args[DIMS + i].length ? (int32_t)(args[DIMS + i].at - base) : 0;
        out->arguments[6 * row + 2 * i + 1] = (int32_t)args[DIMS + i].length;
    }
    int is_record = event->name.length == 20 && is(event->name, "\"record_param_comms\"");
    if ((!args[RECORD].length || is_null(args[RECORD])) && !is_record) return 0;
    out->record_row[out->num_records] = (int32_t)row;
    for (int i = 0; i < 8; i++) {
        int32_t said = is_null(args[RECORD + i]) ? 0 : number_of(tokens, args[RECORD + i]);
        if (said < 0) return NO_MEMORY;
        out->record[8 * out->num_records + i] = said;
    }
    out->num_records++;
    return 0;
}

/* The events of `text`, which a byte of zero follows; returns rows, or what it could not do. */
int64_t scan(Scanner *scanner, const uint8_t *text, int64_t length, int64_t room, Columns *out) {
    const uint8_t *at = blanks(text), *end = text + length;
    int64_t row = 0;
    Event event;
    out->num_records = out->num_events = 0;
    for (;;) {
        if (!(at = object(at, end, &event))) return NOT_USUAL;
        out->num_events++;
        if (is(event.phase, "\"X\"")) {
            if (is_plain_frame(&event)) {
                if (!is_sound(&event)) return NOT_USUAL;
            } else {
                int failed = row == room ? NO_ROOM : add(scanner, &event, text, row, out);
                if (failed) return failed;
                row++;
            }
        } else if (!is_known_phase(event.phase)) {
            return NOT_USUAL;
        }
        at = blanks(at);
        if (at == end) return row;
        if (*at != ',') return NOT_USUAL;
        at = blanks(at + 1);
    }
}

void scanner_free(Scanner *scanner) {
    free(scanner->tokens.slots);
    free(scanner->tokens.kept);
    free(scanner->tokens.ends);
    free(scanner);
}

Scanner *scanner_new(void) {
    Scanner *scanner = calloc(1, sizeof(Scanner));
    if (!scanner) return NULL;
    Tokens *tokens = &scanner->tokens;
    tokens->mask = 4095;
    tokens->count_capacity = 1024;
    tokens->slots = calloc(tokens->mask + 1, sizeof(Slot));
    tokens->ends = calloc((size_t)tokens->count_capacity, sizeof(int64_t));
    if (tokens->slots && tokens->ends) return scanner;
    scanner_free(scanner);
    return NULL;
}

int64_t scanner_count(const Scanner *scanner) { return scanner->tokens.count; }

/* Where text `number` (from 1 on) lies. */
const uint8_t *scanner_text(const Scanner *scanner, int64_t number, int64_t *length) {
    *length = scanner->tokens.ends[number] - scanner->tokens.ends[number - 1];
    return scanner->tokens.kept + scanner->tokens.ends[number - 1];
}
