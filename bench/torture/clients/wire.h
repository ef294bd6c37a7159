// What both ends of the torture know of the wire: time, verifiable bodies, heads, framed bodies.
//
// A body is a function of a seed and a position, so that either end can check every byte of any part of it, and so that an
// answer meant for another request is noticed: every request has a seed of its own.
#pragma once
#define _GNU_SOURCE
#include <errno.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#define HEAD_MAX 8192

static inline uint64_t now_us(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (uint64_t)t.tv_sec * 1000000 + (uint64_t)t.tv_nsec / 1000;
}

// splitmix64 (Steele, Lea, Flood 2014): one step from any number to a well mixed one.
static inline uint64_t mix(uint64_t x) {
    x += 0x9e3779b97f4a7c15ull;
    x = (x ^ (x >> 30)) * 0xbf58476d1ce4e5b9ull;
    x = (x ^ (x >> 27)) * 0x94d049bb133111ebull;
    return x ^ (x >> 31);
}

static inline void pattern_fill(uint64_t seed, uint64_t at, char *to, size_t n) {
    for (size_t i = 0; i < n;) {
        uint64_t word = mix(seed ^ ((at + i) >> 3));
        size_t from = (at + i) & 7, some = 8 - from < n - i ? 8 - from : n - i;
        memcpy(to + i, (char *)&word + from, some);
        i += some;
    }
}

// Index of the first byte that is not as it should be, or -1.
static inline long pattern_check(uint64_t seed, uint64_t at, const char *p, size_t n) {
    char good[4096];
    for (size_t i = 0; i < n;) {
        size_t some = n - i < sizeof good ? n - i : sizeof good;
        pattern_fill(seed, at + i, good, some);
        if (memcmp(good, p + i, some))
            for (size_t k = 0; k < some; k++)
                if (good[k] != p[i + k]) return (long)(i + k);
        i += some;
    }
    return -1;
}

// ---- bytes that wait to be sent

struct outbox {
    char *bytes;
    size_t at, n, room;
};

static inline char *outbox_room(struct outbox *o, size_t n) {
    if (o->at == o->n) o->at = o->n = 0;
    if (o->n + n > o->room) {
        o->room = (o->n + n) * 2;
        o->bytes = realloc(o->bytes, o->room);
        if (!o->bytes) abort();
    }
    return o->bytes + o->n;
}

static inline void outbox_add(struct outbox *o, const char *p, size_t n) {
    memcpy(outbox_room(o, n), p, n);
    o->n += n;
}

// 0, or the errno that ended the connection.
static inline int outbox_flush(struct outbox *o, int fd) {
    while (o->at < o->n) {
        ssize_t sent = send(fd, o->bytes + o->at, o->n - o->at, MSG_NOSIGNAL | MSG_DONTWAIT);
        if (sent < 0) return errno == EAGAIN ? 0 : errno;
        o->at += (size_t)sent;
    }
    return 0;
}

// ---- heads

struct head {
    int status;
    int64_t length; // -1: not given
    bool chunked, close;
};

// Reads the fields that matter out of a whole head (it ends with an empty line).
static inline void head_read(const char *p, size_t n, struct head *h) {
    *h = (struct head){.length = -1};
    if (n > 12 && !memcmp(p, "HTTP/1.", 7)) h->status = atoi(p + 9);
    for (const char *end = p + n, *line = memchr(p, '\n', n); line && ++line < end; line = memchr(line, '\n', (size_t)(end - line))) {
        if (!strncasecmp(line, "content-length:", 15)) h->length = atoll(line + 15);
        else if (!strncasecmp(line, "transfer-encoding:", 18)) h->chunked = true;
        else if (!strncasecmp(line, "connection:", 11)) {
            const char *value = line + 11 + strspn(line + 11, " ");
            h->close = !strncasecmp(value, "close", 5);
        }
    }
}

// ---- bodies of either framing

enum { SIZE, EXTENSION, DATA, DATA_END, LINE_BEGINS, TRAILER };

struct body {
    bool chunked, done;
    int state;
    uint64_t left;
};

typedef void (*sink)(void *who, const char *p, size_t n);

static inline void body_begin(struct body *b, const struct head *h) {
    *b = (struct body){.chunked = h->chunked, .left = h->length > 0 ? (uint64_t)h->length : 0};
    b->done = !h->chunked && !b->left;
}

static inline bool chunk_size_digit(struct body *b, char c) {
    int digit = c >= '0' && c <= '9' ? c - '0' : (c | 32) >= 'a' && (c | 32) <= 'f' ? (c | 32) - 'a' + 10 : -1;
    if (digit >= 0) b->left = b->left * 16 + (unsigned)digit;
    return digit >= 0;
}

// Gives the content of the next bytes to `give`; returns how many belong to this body, or -1 when its framing is broken.
static inline ssize_t body_feed(struct body *b, const char *p, size_t n, sink give, void *who) {
    size_t i = 0;
    while (i < n && !b->done) {
        bool in_data = !b->chunked || b->state == DATA;
        if (in_data) {
            size_t some = n - i < b->left ? n - i : b->left;
            give(who, p + i, some);
            i += some;
            b->left -= some;
            if (!b->left) b->chunked ? (void)(b->state = DATA_END) : (void)(b->done = true);
            continue;
        }
        char c = p[i++];
        if (b->state == SIZE && chunk_size_digit(b, c)) continue;
        if (b->state == SIZE && c != '\r' && c != '\n' && c != ';') return -1;
        if (b->state == SIZE || b->state == EXTENSION)
            b->state = c != '\n' ? EXTENSION : b->left ? DATA : LINE_BEGINS;
        else if (b->state == DATA_END) {
            if (c != '\r' && c != '\n') return -1;
            if (c == '\n') b->state = SIZE;
        } else if (b->state == LINE_BEGINS && c == '\n') b->done = true;
        else if (c != '\r') b->state = c == '\n' ? LINE_BEGINS : TRAILER;
    }
    return (ssize_t)i;
}

// ---- WebSocket frames (RFC 6455 5.2), never fragmented here

// Length of the frame's head, 0 when it is not all there; *size is that of the payload, mask points to its key or is NULL.
static inline size_t frame_head(const char *p, size_t n, uint64_t *size, const unsigned char **mask) {
    const unsigned char *u = (const unsigned char *)p;
    if (n < 2) return 0;
    size_t at = 2;
    *size = u[1] & 127;
    size_t more = *size == 126 ? 2 : *size == 127 ? 8 : 0;
    if (n < at + more + (u[1] & 128 ? 4 : 0)) return 0;
    if (more) *size = 0;
    for (size_t i = 0; i < more; i++) *size = *size << 8 | u[at++];
    *mask = u[1] & 128 ? u + at : NULL;
    return at + (*mask ? 4 : 0);
}

static inline size_t frame_write_head(char *to, int opcode, uint64_t size, bool masked) {
    size_t at = 2, more = size < 126 ? 0 : size < 65536 ? 2 : 8;
    to[0] = (char)(128 | opcode);
    to[1] = (char)((masked ? 128 : 0) | (more == 0 ? (int)size : more == 2 ? 126 : 127));
    for (size_t i = more; i > 0; i--) to[at++] = (char)(size >> (8 * (i - 1)));
    return at;
}

static inline void tcp_no_delay(int fd) {
    int one = 1;
    setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
}
