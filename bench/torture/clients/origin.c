// The origin of the torture: cheap enough never to be the bottleneck, and strict about every byte it gets.
//
//   origin PORT...     prints "ready", ends when its standard input ends; one line of counters on standard output then
//
//   GET /t/SEED/SIZE          SIZE verifiable bytes at once
//   GET /d/SEED/SIZE/STEP     SIZE verifiable bytes, STEP of them every 20 ms; chunked when SEED is odd
//   POST /u/SEED              checks the body against SEED and answers "BYTES WRONG", WRONG: position of the first wrong byte or -1
//   GET /w                    WebSocket that returns every message
#include "wire.h"
#include <netinet/in.h>
#include <poll.h>

#define TICK_US 20000
#define STEP_MAX 65536

enum state { READING, UPLOAD, PACED, SOCKET };

struct conn {
    int fd;
    enum state state;
    bool close, writing;
    uint64_t seed, at, size, step;
    long wrong;
    struct body body;
    struct outbox out;
    char *in;
    size_t in_n, in_room;
    struct conn *next_paced;
};

static int poller;
static struct conn *paced;
static uint64_t requests, uploads_wrong, heads_bad, cut_requests, resets_seen;

static void watch(struct conn *c) {
    // A connection with an answer under way reads no further request: pipelining is answered in order.
    bool writing = c->out.at < c->out.n;
    struct epoll_event e = {.events = (writing ? EPOLLOUT : 0) | (writing && c->state != SOCKET ? 0 : EPOLLIN), .data.ptr = c};
    if (writing != c->writing) epoll_ctl(poller, EPOLL_CTL_MOD, c->fd, &e);
    c->writing = writing;
}

static void forget_paced(struct conn *c) {
    for (struct conn **p = &paced; *p; p = &(*p)->next_paced)
        if (*p == c) {
            *p = c->next_paced;
            return;
        }
}

static void end(struct conn *c) {
    if (c->state == PACED) forget_paced(c);
    close(c->fd);
    free(c->in);
    free(c->out.bytes);
    free(c);
}

static void answer(struct conn *c, const char *status, size_t length) {
    char *to = outbox_room(&c->out, 256 + length);
    c->out.n += (size_t)sprintf(to, "HTTP/1.1 %s\r\nContent-Type: application/octet-stream\r\nContent-Length: %zu\r\n%s\r\n", status, length,
                                c->close ? "Connection: close\r\n" : "");
}

static void answer_text(struct conn *c, const char *status, const char *text) {
    answer(c, status, strlen(text));
    outbox_add(&c->out, text, strlen(text));
}

static void begin_paced(struct conn *c) {
    char head[256];
    int n = sprintf(head, "HTTP/1.1 200 OK\r\n%s", c->close ? "Connection: close\r\n" : "");
    if (c->seed & 1) n += sprintf(head + n, "Transfer-Encoding: chunked\r\n\r\n");
    else n += sprintf(head + n, "Content-Length: %lu\r\n\r\n", (unsigned long)c->size);
    outbox_add(&c->out, head, (size_t)n);
    c->state = PACED;
    c->at = 0;
    c->next_paced = paced;
    paced = c;
}

// One step of a paced answer, when the one before has left; true when it was the last.
static bool step(struct conn *c) {
    if (c->out.at < c->out.n) return false;
    uint64_t some = c->size - c->at < c->step ? c->size - c->at : c->step;
    if (c->seed & 1) {
        char line[32];
        outbox_add(&c->out, line, (size_t)sprintf(line, "%lx\r\n", (unsigned long)some));
    }
    pattern_fill(c->seed, c->at, outbox_room(&c->out, some), some);
    c->out.n += some;
    c->at += some;
    if (c->seed & 1) outbox_add(&c->out, "\r\n", 2);
    if (c->at == c->size && c->seed & 1) outbox_add(&c->out, "0\r\n\r\n", 5);
    return c->at == c->size;
}

static void upload_take(void *who, const char *p, size_t n) {
    struct conn *c = who;
    long wrong = c->wrong < 0 ? pattern_check(c->seed, c->at, p, n) : -1;
    if (wrong >= 0) c->wrong = (long)c->at + wrong;
    c->at += n;
}

static void upload_end(struct conn *c) {
    char text[64];
    sprintf(text, "%lu %ld", (unsigned long)c->at, c->wrong);
    if (c->wrong >= 0) uploads_wrong++;
    answer_text(c, "200 OK", text);
    c->state = READING;
}

static void begin_socket(struct conn *c) {
    // The client's key is always that of RFC 6455 1.3.
    static const char text[] = "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
                               "Sec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n\r\n";
    outbox_add(&c->out, text, sizeof text - 1);
    c->state = SOCKET;
}

static bool request(struct conn *c, const char *p, size_t n) {
    struct head h;
    head_read(p, n, &h);
    const char *target = memchr(p, ' ', n);
    requests++;
    if (!target || target[1] != '/') return false;
    char *end_of;
    c->close = h.close;
    c->seed = strtoull(target + 4, &end_of, 16);
    c->size = *end_of == '/' ? strtoull(end_of + 1, &end_of, 10) : 0;
    c->step = *end_of == '/' ? strtoull(end_of + 1, &end_of, 10) : 0;
    if (target[2] == 't' && c->size < 1 << 24) {
        answer(c, "200 OK", c->size);
        pattern_fill(c->seed, 0, outbox_room(&c->out, c->size), c->size);
        c->out.n += c->size;
    } else if (target[2] == 'd' && c->step && c->step <= STEP_MAX) begin_paced(c);
    else if (target[2] == 'w') begin_socket(c);
    else if (target[2] == 'u') {
        body_begin(&c->body, &h);
        c->state = UPLOAD;
        c->at = 0;
        c->wrong = -1;
        if (c->body.done) upload_end(c);
    } else answer_text(c, "404 Not Found", "nothing here");
    return true;
}

// Returns every whole message; how many bytes were used, or -1 when the client has said goodbye.
static ssize_t echo(struct conn *c, char *p, size_t n) {
    uint64_t size;
    const unsigned char *mask;
    size_t used = 0, head;
    while ((head = frame_head(p + used, n - used, &size, &mask)) && n - used >= head + size) {
        char *payload = p + used + head;
        if (mask)
            for (uint64_t i = 0; i < size; i++) payload[i] ^= (char)mask[i & 3];
        int opcode = p[used] & 15;
        outbox_room(&c->out, size + 16);
        c->out.n += frame_write_head(c->out.bytes + c->out.n, opcode, size, false);
        outbox_add(&c->out, payload, size);
        used += head + size;
        if (opcode == 8) {
            outbox_flush(&c->out, c->fd);
            return -1;
        }
    }
    return (ssize_t)used;
}

// Uses what has been read as far as it goes; false when the connection is over.
static bool use(struct conn *c) {
    size_t used = 0;
    while (used < c->in_n) {
        char *p = c->in + used;
        size_t n = c->in_n - used;
        ssize_t some;
        if (c->state == SOCKET) some = echo(c, p, n);
        else if (c->state == UPLOAD) {
            some = body_feed(&c->body, p, n, upload_take, c);
            if (c->body.done) upload_end(c);
        } else if (c->state == PACED || c->out.at < c->out.n) break;
        else {
            char *blank = memmem(p, n, "\r\n\r\n", 4);
            if (!blank && n < HEAD_MAX) break;
            some = blank && request(c, p, (size_t)(blank - p) + 4) ? blank - p + 4 : -1;
            if (some < 0) heads_bad++;
        }
        if (some < 0) return false;
        if (!some) break;
        used += (size_t)some;
        if (outbox_flush(&c->out, c->fd)) return false;
    }
    memmove(c->in, c->in + used, c->in_n - used);
    c->in_n -= used;
    return !(c->close && c->state == READING && c->out.at == c->out.n);
}

static void on_event(struct conn *c, uint32_t events) {
    if (outbox_flush(&c->out, c->fd)) {
        end(c);
        return;
    }
    if (events & (EPOLLIN | EPOLLERR | EPOLLHUP)) {
        if (c->in_room - c->in_n < 16384) c->in = realloc(c->in, c->in_room += 65536);
        ssize_t got = recv(c->fd, c->in + c->in_n, c->in_room - c->in_n, MSG_DONTWAIT);
        if (got == 0 || (got < 0 && errno != EAGAIN)) {
            if (got < 0) resets_seen++;
            if (c->state != READING || c->in_n) cut_requests++;
            end(c);
            return;
        }
        c->in_n += got > 0 ? (size_t)got : 0;
    }
    if (!use(c)) end(c);
    else watch(c);
}

static void tick(void) {
    for (struct conn *c = paced, *next; c; c = next) {
        next = c->next_paced;
        bool last = step(c);
        if (outbox_flush(&c->out, c->fd)) {
            cut_requests++;
            end(c);
            continue;
        }
        if (last) {
            forget_paced(c);
            c->state = READING;
            if (!use(c)) {
                end(c);
                continue;
            }
        }
        watch(c);
    }
}

static int listen_on(const char *port) {
    int fd = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0), one = 1;
    struct sockaddr_in a = {.sin_family = AF_INET, .sin_port = htons((uint16_t)atoi(port)), .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &one, sizeof one);
    if (bind(fd, (void *)&a, sizeof a) || listen(fd, 4096)) {
        perror(port);
        exit(1);
    }
    return fd;
}

static void accept_all(int listener) {
    int fd;
    while ((fd = accept4(listener, NULL, NULL, SOCK_NONBLOCK | SOCK_CLOEXEC)) >= 0) {
        struct conn *c = calloc(1, sizeof *c);
        c->fd = fd;
        tcp_no_delay(fd);
        struct epoll_event e = {.events = EPOLLIN, .data.ptr = c};
        epoll_ctl(poller, EPOLL_CTL_ADD, fd, &e);
    }
}

int main(int count, char **words) {
    struct conn listeners[16] = {0}, input = {.fd = 0};
    struct epoll_event found[256], e = {.events = EPOLLIN, .data.ptr = &input};
    poller = epoll_create1(EPOLL_CLOEXEC);
    epoll_ctl(poller, EPOLL_CTL_ADD, 0, &e);
    for (int i = 1; i < count && i <= 16; i++) {
        listeners[i - 1].fd = listen_on(words[i]);
        e.data.ptr = &listeners[i - 1];
        epoll_ctl(poller, EPOLL_CTL_ADD, listeners[i - 1].fd, &e);
    }
    puts("ready");
    fflush(stdout);
    uint64_t ticked = now_us();
    for (;;) {
        int n = epoll_wait(poller, found, 256, paced ? 5 : -1);
        for (int i = 0; i < n; i++) {
            struct conn *c = found[i].data.ptr;
            if (c == &input) goto over;
            if (c >= listeners && c < listeners + 16) accept_all(c->fd);
            else on_event(c, found[i].events);
        }
        uint64_t now = now_us();
        if (now - ticked >= TICK_US) {
            ticked = now;
            tick();
        }
    }
over:
    printf("{\"requests\":%lu,\"heads_bad\":%lu,\"uploads_wrong\":%lu,\"cut\":%lu,\"resets\":%lu}\n", (unsigned long)requests,
           (unsigned long)heads_bad, (unsigned long)uploads_wrong, (unsigned long)cut_requests, (unsigned long)resets_seen);
    return 0;
}
