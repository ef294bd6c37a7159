// The clients of the torture: what a client is, and who does what with it.
#pragma once
#include "wire.h"

#define DEPTH 8       // requests of one pipelined batch
#define IN_FLIGHT 4   // messages of one WebSocket
#define TARGETS 16

enum kind { KEEPALIVE, CHURN, PIPELINE, UPLOAD, DOWNLOAD, WEBSOCKET, IDLE, KINDS };

// A client is a place in a loop. Legal moves:
//   OFF -> DIALLING -> BUSY -> PAUSED -> BUSY ...      exchanges, a pause between them (of no length, for most)
//   BUSY -> STREAM -> LEAVING                          a WebSocket
//   BUSY -> LEAVING -> OFF                             the answer is whole and the server closes
//   any -> OFF (failed; dials again) | DONE (told to stop)
enum state { OFF, DIALLING, PAUSED, BUSY, STREAM, LEAVING, DONE };

struct asked {
    uint64_t seed, size, at_us;
};

struct client {
    int fd, number;
    enum kind kind;
    enum state state;
    int target;
    int host;                              // connects from 127.0.0.HOST
    uint16_t port;
    uint32_t served;                       // exchanges on this connection so far
    uint64_t wake_us;                      // acts by itself then; 0: waits for the other end
    uint64_t due_us;                       // of the next request, by the rate
    uint64_t dialled_us, asked_us, heard_us;
    bool reading, writing, slow;           // slow: reads a little every few milliseconds
    struct outbox out;
    struct asked asked[DEPTH];             // not answered yet, in order
    int asked_n, batch;                    // batch: how many were asked at once
    // the answer being read
    char head[HEAD_MAX];
    size_t head_n;
    bool in_body;
    struct head answer;
    struct body body;
    uint64_t body_at;
    long wrong;
    char text[64];                         // beginning of the body
    // an upload being sent
    uint64_t sent, drib;
    bool chunked;
    // a WebSocket
    uint64_t said_us[IN_FLIGHT];
    uint64_t stream, out_sequence, in_sequence, frame_left, frame_at, frame_size;
    char frame[16];
    size_t frame_n;
};

struct target {
    int port;
    bool open;
};

extern struct target targets[TARGETS];
extern bool stopping, scheduled;

uint64_t draw(uint64_t below);
uint64_t pause_for_rate(uint64_t now);

// swarm.c: the connection
void watch(struct client *c);
void hang_up(struct client *c, enum state next, uint64_t wake_us);
void fail(struct client *c, const char *why, int error);
void answered(struct client *c, uint64_t now);

// exchange.c: requests and answers
void ask(struct client *c, uint64_t now);
void act_busy(struct client *c, uint64_t now);
void take(struct client *c, const char *p, size_t n, uint64_t now);
void next_exchange(struct client *c, uint64_t now);

// stream.c: WebSockets
void stream_begin(struct client *c, uint64_t now);
void stream_act(struct client *c, uint64_t now);
void stream_take(struct client *c, const char *p, size_t n, uint64_t now);

// account.c: what is counted and told
void count_done(enum kind kind, uint64_t took_us);
void count_message(uint64_t took_us);
void count_failure(const struct client *c, const char *why, int error);
void count(const char *name);
void tell_progress(void);
void tell_summary(void);
void log_open(const char *path);
extern const char *const kind_names[KINDS];
