// Requests and answers: what each kind of client asks, and whether the answer is right to the last byte.
#include "swarm.h"

#define FIELDS "Host: torture.test\r\nUser-Agent: bascule-torture\r\nAccept: */*\r\n"

static void put(struct client *c, const char *text, int n) {
    outbox_add(&c->out, text, (size_t)n);
}

static void remember(struct client *c, uint64_t seed, uint64_t size, uint64_t now) {
    c->asked[c->asked_n++] = (struct asked){seed, size, now};
}

static void ask_small(struct client *c, uint64_t now) {
    char text[512];
    uint64_t seed = draw(UINT64_MAX), size = draw(10) ? draw(400) : draw(16000);
    put(c, text, sprintf(text, "GET /t/%lx/%lu HTTP/1.1\r\n" FIELDS "%s\r\n", (unsigned long)seed, (unsigned long)size,
                         c->kind == CHURN ? "Connection: close\r\n" : ""));
    remember(c, seed, size, scheduled && c->due_us ? c->due_us : now);
}

// Paced by the origin over one to four seconds, or as fast as a slow reader lets it.
static void ask_download(struct client *c, uint64_t now) {
    char text[512];
    uint64_t seed = draw(UINT64_MAX), steps = 50 + draw(150), step = 2000 + draw(14000);
    c->slow = draw(2);
    put(c, text, sprintf(text, "GET /d/%lx/%lu/%lu HTTP/1.1\r\n" FIELDS "\r\n", (unsigned long)seed, (unsigned long)(steps * step),
                         (unsigned long)(c->slow ? 60000 : step)));
    remember(c, seed, steps * step, now);
}

static void ask_upload(struct client *c, uint64_t now) {
    char text[512], framing[64];
    uint64_t seed = draw(UINT64_MAX), dribs = 20 + draw(60);
    c->drib = 200 + draw(12000);
    c->chunked = draw(2);
    sprintf(framing, c->chunked ? "Transfer-Encoding: chunked" : "Content-Length: %lu", (unsigned long)(dribs * c->drib));
    put(c, text, sprintf(text, "POST /u/%lx HTTP/1.1\r\n" FIELDS "Content-Type: application/octet-stream\r\n%s\r\n\r\n",
                         (unsigned long)seed, framing));
    remember(c, seed, dribs * c->drib, now);
    c->sent = 0;
    c->wake_us = now + 1;
}

static void ask_socket(struct client *c, uint64_t now) {
    static const char text[] = "GET /w HTTP/1.1\r\n" FIELDS "Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n"
                               "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n";
    put(c, text, sizeof text - 1);
    remember(c, 0, 0, now);
}

void ask(struct client *c, uint64_t now) {
    c->state = BUSY;
    c->wake_us = 0;
    c->asked_us = c->heard_us = now;
    c->asked_n = 0;
    c->head_n = 0;
    c->in_body = c->slow = false;
    c->answer = (struct head){0};
    c->body_at = 0;
    c->batch = c->kind == PIPELINE ? DEPTH : 1;
    if (c->kind == DOWNLOAD) ask_download(c, now);
    else if (c->kind == UPLOAD) ask_upload(c, now);
    else if (c->kind == WEBSOCKET) ask_socket(c, now);
    else
        for (int i = 0; i < c->batch; i++) ask_small(c, now);
    c->reading = true;
    int error = outbox_flush(&c->out, c->fd);
    if (error) fail(c, "cannot send", error);
    else watch(c);
}

static void drib(struct client *c, uint64_t now) {
    struct asked *a = &c->asked[0];
    uint64_t some = a->size - c->sent < c->drib ? a->size - c->sent : c->drib;
    char line[32];
    if (c->chunked) put(c, line, sprintf(line, "%lx\r\n", (unsigned long)some));
    pattern_fill(a->seed, c->sent, outbox_room(&c->out, some), some);
    c->out.n += some;
    c->sent += some;
    if (c->chunked) put(c, "\r\n", 2);
    if (c->chunked && c->sent == a->size) put(c, "0\r\n\r\n", 5);
    c->wake_us = c->sent < a->size ? now + 10000 + draw(80000) : 0;
    c->heard_us = now;
    int error = outbox_flush(&c->out, c->fd);
    if (error) fail(c, "cannot send", error);
    else watch(c);
}

// A busy client acts by itself when it sends in dribs or reads slowly.
void act_busy(struct client *c, uint64_t now) {
    if (c->kind == UPLOAD) drib(c, now);
    else {
        c->wake_us = 0;
        c->reading = true;
        watch(c);
    }
}

static void body_take(void *who, const char *p, size_t n) {
    struct client *c = who;
    if (c->kind == UPLOAD || c->answer.status != 200) {
        for (size_t i = 0; i < n && c->body_at + i < sizeof c->text - 1; i++) c->text[c->body_at + i] = p[i];
    } else if (c->wrong < 0) {
        long wrong = pattern_check(c->asked[0].seed, c->body_at, p, n);
        if (wrong >= 0) c->wrong = (long)c->body_at + wrong;
    }
    c->body_at += n;
}

// Why the whole answer is not the one that was asked for, or NULL.
static const char *fault(struct client *c) {
    const struct asked *a = &c->asked[0];
    if (c->answer.status != 200) return "status";
    if (c->kind == UPLOAD) {
        char good[64];
        sprintf(good, "%lu -1", (unsigned long)a->size);
        if (c->sent < a->size) return "answered before the upload ended";
        return strcmp(c->text, good) ? "the origin got something else" : NULL;
    }
    if (c->wrong >= 0) return "wrong byte";
    return c->body_at == a->size ? NULL : "wrong length";
}

void next_exchange(struct client *c, uint64_t now) {
    c->state = PAUSED;
    if (c->kind == IDLE) {
        // 1 to 30 s, shorter ones more often.
        c->wake_us = now + (1000000ull << draw(5)) + draw(1000000u << draw(4));
    } else if (c->kind == UPLOAD || c->kind == DOWNLOAD) c->wake_us = now + draw(200000);
    else c->wake_us = c->due_us = pause_for_rate(now);
    if (stopping) hang_up(c, DONE, 0);
    else if (c->wake_us <= now) ask(c, now);
    else watch(c);
}

static void whole(struct client *c, uint64_t now) {
    const char *why = fault(c);
    if (why) {
        fail(c, why, 0);
        return;
    }
    count_done(c->kind, now - c->asked[0].at_us);
    c->served++;
    c->asked_n--;
    memmove(c->asked, c->asked + 1, (size_t)c->asked_n * sizeof *c->asked);
    c->in_body = false;
    c->head_n = 0;
    c->body_at = 0;
    if (c->answer.close && c->asked_n) fail(c, "closed with requests of the batch unanswered", 0);
    else if (c->answer.close) {
        if (c->kind != CHURN) count("told to close");
        c->state = LEAVING;
        c->reading = true;
        c->wake_us = 0;
        watch(c);
    } else if (!c->asked_n) next_exchange(c, now);
}

static size_t take_head(struct client *c, const char *p, size_t n, uint64_t now) {
    size_t some = n < HEAD_MAX - c->head_n ? n : HEAD_MAX - c->head_n, before = c->head_n;
    memcpy(c->head + before, p, some);
    c->head_n += some;
    size_t from = before > 3 ? before - 3 : 0;
    char *blank = memmem(c->head + from, c->head_n - from, "\r\n\r\n", 4);
    if (!blank) {
        if (c->head_n == HEAD_MAX) fail(c, "no end of the head", 0);
        return n;
    }
    size_t used = (size_t)(blank - c->head) + 4 - before;
    c->head_n = before + used;
    head_read(c->head, c->head_n, &c->answer);
    if (c->kind == WEBSOCKET && c->answer.status == 101) stream_begin(c, now);
    else if (c->answer.status == 0 || (!c->answer.chunked && c->answer.length < 0)) fail(c, "no answer in HTTP", 0);
    else {
        c->in_body = true;
        c->wrong = -1;
        memset(c->text, 0, sizeof c->text);
        body_begin(&c->body, &c->answer);
    }
    return used;
}

void take(struct client *c, const char *p, size_t n, uint64_t now) {
    c->heard_us = now;
    while (n) {
        if (c->state == STREAM) {
            stream_take(c, p, n, now);
            return;
        }
        if (c->state != BUSY || !c->asked_n) {
            fail(c, "bytes nobody asked for", 0);
            return;
        }
        int fd = c->fd;
        ssize_t used = c->in_body ? body_feed(&c->body, p, n, body_take, c) : (ssize_t)take_head(c, p, n, now);
        if (used < 0) fail(c, "broken chunk", 0);
        if (c->fd != fd) return;
        p += used;
        n -= (size_t)used;
        if (c->state == BUSY && c->in_body && c->body.done) whole(c, now);
        if (c->fd != fd) return;
    }
    if (c->slow && c->state == BUSY) {
        c->reading = false;
        c->wake_us = now + 5000 + draw(15000);
        watch(c);
    }
}
