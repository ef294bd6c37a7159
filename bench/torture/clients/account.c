// What is counted, and told as lines of JSON: every failure as it happens, progress every second, a summary at the end.
#include "swarm.h"

#define BUCKETS (64 * 16)
#define TOLD_MAX 2000
#define COUNTERS 32

const char *const kind_names[KINDS] = {"keepalive", "churn", "pipeline", "upload", "download", "websocket", "idle"};

static uint64_t done[KINDS], failed[KINDS], messages, told;
static uint64_t histogram[KINDS][BUCKETS], longest_us[KINDS];
static struct {
    const char *name;
    uint64_t n;
} counters[COUNTERS];
static FILE *record_log;

// Sixteen buckets to a power of two: 6 % wide.
static int bucket(uint64_t us) {
    if (us < 16) return (int)us;
    int power = 63 - __builtin_clzll(us);
    return (power - 3) * 16 + (int)(us >> (power - 4) & 15);
}

static uint64_t bucket_us(int i) {
    return i < 16 ? (uint64_t)i : (uint64_t)(16 + i % 16 + 1) << (i / 16 - 1);
}

static void note(enum kind kind, uint64_t took_us) {
    histogram[kind][bucket(took_us)]++;
    if (took_us > longest_us[kind]) longest_us[kind] = took_us;
}

void log_open(const char *path) {
    record_log = fopen(path, "w");
    if (!record_log) perror(path);
}

void count_done(enum kind kind, uint64_t took_us) {
    done[kind]++;
    note(kind, took_us);
    if (record_log) {
        struct {
            uint64_t end_us;
            uint32_t took_us, kind;
        } record = {now_us(), (uint32_t)took_us, kind};
        fwrite(&record, sizeof record, 1, record_log);
    }
}

void count_message(uint64_t took_us) {
    messages++;
    note(WEBSOCKET, took_us);
}

void count(const char *name) {
    for (int i = 0; i < COUNTERS; i++)
        if (!counters[i].name || !strcmp(counters[i].name, name)) {
            counters[i].name = name;
            counters[i].n++;
            return;
        }
}

void count_failure(const struct client *c, const char *why, int error) {
    failed[c->kind]++;
    if (told++ >= TOLD_MAX) return;
    uint64_t now = now_us();
    printf("{\"failure\":\"%s\",\"kind\":\"%s\",\"at_us\":%lu,\"errno\":%d,\"status\":%d,\"bytes\":%lu,\"client\":%d,\"port\":%d,"
           "\"server_port\":%d,\"served\":%u,\"unanswered\":%d,\"asked_ago_us\":%ld,\"dialled_ago_us\":%ld}\n",
           why, kind_names[c->kind], (unsigned long)now, error, c->answer.status, (unsigned long)(c->head_n + c->body_at), c->number,
           c->port, targets[c->target].port, c->served, c->asked_n, c->asked_us ? (long)(now - c->asked_us) : -1,
           (long)(now - c->dialled_us));
    fflush(stdout);
}

static void tell_kinds(const char *name, const uint64_t *of) {
    printf("\"%s\":{", name);
    for (int k = 0; k < KINDS; k++) printf("%s\"%s\":%lu", k ? "," : "", kind_names[k], (unsigned long)of[k]);
    printf("}");
}

void tell_progress(void) {
    printf("{\"progress\":%lu,", (unsigned long)now_us());
    tell_kinds("done", done);
    printf(",");
    tell_kinds("failed", failed);
    printf(",\"messages\":%lu}\n", (unsigned long)messages);
    fflush(stdout);
}

static uint64_t quantile(enum kind kind, double q) {
    uint64_t total = 0, seen = 0;
    for (int i = 0; i < BUCKETS; i++) total += histogram[kind][i];
    for (int i = 0; i < BUCKETS; i++)
        if ((seen += histogram[kind][i]) && (double)seen >= q * (double)total)
            return bucket_us(i) < longest_us[kind] ? bucket_us(i) : longest_us[kind];
    return 0;
}

void tell_summary(void) {
    printf("{\"summary\":%lu,", (unsigned long)now_us());
    tell_kinds("done", done);
    printf(",");
    tell_kinds("failed", failed);
    printf(",\"messages\":%lu,\"counters\":{", (unsigned long)messages);
    for (int i = 0; i < COUNTERS && counters[i].name; i++)
        printf("%s\"%s\":%lu", i ? "," : "", counters[i].name, (unsigned long)counters[i].n);
    printf("},\"latency_us\":{");
    for (int k = 0; k < KINDS; k++)
        printf("%s\"%s\":{\"p50\":%lu,\"p99\":%lu,\"p999\":%lu,\"max\":%lu}", k ? "," : "", kind_names[k], (unsigned long)quantile(k, .5),
               (unsigned long)quantile(k, .99), (unsigned long)quantile(k, .999), (unsigned long)longest_us[k]);
    printf("}}\n");
    fflush(stdout);
    if (record_log) fclose(record_log);
}
