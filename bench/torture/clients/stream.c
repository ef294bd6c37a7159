// WebSocket echo streams: every message comes back whole, once, in order, for as long as the swarm lives.
#include "swarm.h"

// Message sizes are a function of stream and number, so that both directions agree without a list.
static uint64_t message_size(uint64_t stream, uint64_t number) {
    uint64_t any = mix(stream ^ number);
    return any % 50 == 0 ? 20000 + any % 180000 : any % 1500;
}

void stream_begin(struct client *c, uint64_t now) {
    c->state = STREAM;
    c->stream = draw(UINT64_MAX);
    c->out_sequence = c->in_sequence = c->frame_left = c->frame_n = 0;
    c->head_n = c->asked_n = 0;
    c->served = 1;
    c->wake_us = now + draw(50000) + 1;
    count("streams opened");
}

static void say(struct client *c, uint64_t now) {
    uint64_t size = message_size(c->stream, c->out_sequence);
    static const char key[4] = {0x37, (char)0xfa, 0x21, 0x3d};
    char *to = outbox_room(&c->out, size + 16);
    size_t head = frame_write_head(to, 2, size, true);
    memcpy(to + head, key, 4);
    pattern_fill(c->stream ^ c->out_sequence, 0, to + head + 4, size);
    for (uint64_t i = 0; i < size; i++) to[head + 4 + i] ^= key[i & 3];
    c->out.n += head + 4 + size;
    c->said_us[c->out_sequence++ % IN_FLIGHT] = now;
}

static void say_goodbye(struct client *c) {
    char frame[8] = {(char)0x88, (char)0x80, 0, 0, 0, 0};
    outbox_add(&c->out, frame, 6);
    c->state = LEAVING;
    c->wake_us = 0;
}

void stream_act(struct client *c, uint64_t now) {
    bool quiet = c->in_sequence == c->out_sequence;
    if (stopping && quiet) say_goodbye(c);
    else {
        if (quiet) c->asked_us = c->heard_us = now;
        if (!stopping)
            for (uint64_t some = 1 + draw(2); some && c->out_sequence - c->in_sequence < IN_FLIGHT; some--) say(c, now);
        c->wake_us = now + 20000 + draw(100000);
    }
    int error = outbox_flush(&c->out, c->fd);
    if (error) fail(c, "cannot send", error);
    else watch(c);
}

static size_t take_frame_head(struct client *c, const char *p, size_t n) {
    size_t used = 0;
    const unsigned char *mask;
    while (used < n) {
        c->frame[c->frame_n++] = p[used++];
        if (frame_head(c->frame, c->frame_n, &c->frame_size, &mask)) break;
    }
    if (!frame_head(c->frame, c->frame_n, &c->frame_size, &mask)) return used;
    if (c->frame[0] != (char)0x82 || c->in_sequence == c->out_sequence) fail(c, "a frame nobody sent", 0);
    else if (c->frame_size != message_size(c->stream, c->in_sequence)) fail(c, "a message of another length", 0);
    c->frame_left = c->frame_size;
    c->frame_at = 0;
    return used;
}

void stream_take(struct client *c, const char *p, size_t n, uint64_t now) {
    int fd = c->fd;
    while (n) {
        const unsigned char *mask;
        if (!frame_head(c->frame, c->frame_n, &c->frame_size, &mask)) {
            size_t used = take_frame_head(c, p, n);
            if (c->fd != fd) return;
            p += used;
            n -= used;
            if (!frame_head(c->frame, c->frame_n, &c->frame_size, &mask)) return;
        }
        size_t some = n < c->frame_left ? n : c->frame_left;
        if (pattern_check(c->stream ^ c->in_sequence, c->frame_at, p, some) >= 0) {
            fail(c, "wrong byte in a message", 0);
            return;
        }
        p += some;
        n -= some;
        c->frame_at += some;
        c->frame_left -= some;
        if (!c->frame_left) {
            count_message(now - c->said_us[c->in_sequence++ % IN_FLIGHT]);
            c->frame_n = 0;
        }
    }
}
