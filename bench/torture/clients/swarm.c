// The clients of the torture, all in one loop: closed-loop keep-alive, churn, pipelining, slow uploads, long downloads, WebSockets,
// connections that idle. Every failed request is told with its circumstances; nothing is tried again behind the caller's back.
//
//   swarm SEED [LOG]     LOG: one record a finished exchange (u64 end, u32 taken, both in us, u32 kind)
//
// Lines on standard input:
//   target N PORT        connections of target N go to this port from now on; 0: no new ones
//   group KIND COUNT N   so many clients of a kind to target N, now
//   rate R               requests a second of keepalive, churn and pipeline together; 0: as many as they can
//   schedule R           the same as an open loop: latency counts from when a request was due, and none that is due is left out
//   stop                 finish what is under way, then tell the summary
#include "swarm.h"
#include <arpa/inet.h>
#include <fcntl.h>
#include <signal.h>
#include <sys/prctl.h>

#define SILENT_US 30000000
#define STOP_US 45000000
#define AGAIN_US 20000
#define TURN_US 1000
#define HOSTS 16

struct target targets[TARGETS];
bool stopping, scheduled;

static uint64_t rate_us_x16; // between two requests, sixteenths of a microsecond; 0: no limit
static struct client **clients;
static int client_n, poller;
static uint64_t random_state, slot_x16;

uint64_t draw(uint64_t below) {
    random_state += 0x9e3779b97f4a7c15ull;
    return below ? mix(random_state) % below : 0;
}

uint64_t pause_for_rate(uint64_t now) {
    if (!rate_us_x16) return 0;
    // Unless on schedule, what was not used is not made up for.
    if (!scheduled && slot_x16 < (now - 5000) * 16) slot_x16 = (now - 5000) * 16;
    slot_x16 += rate_us_x16;
    return slot_x16 / 16;
}

void watch(struct client *c) {
    bool writing = c->out.at < c->out.n || c->state == DIALLING;
    struct epoll_event e = {.events = (writing ? EPOLLOUT : 0) | (c->reading ? EPOLLIN : 0), .data.ptr = c};
    epoll_ctl(poller, EPOLL_CTL_MOD, c->fd, &e);
}

void hang_up(struct client *c, enum state next, uint64_t wake_us) {
    if (c->fd >= 0) close(c->fd);
    c->fd = -1;
    c->state = stopping ? DONE : next;
    c->wake_us = wake_us;
    c->out.at = c->out.n = 0;
    c->head_n = c->body_at = 0;
    c->asked_n = 0;
}

void fail(struct client *c, const char *why, int error) {
    count_failure(c, why, error);
    hang_up(c, OFF, now_us() + AGAIN_US);
}

static void dial(struct client *c, uint64_t now) {
    struct sockaddr_in a = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    if (!targets[c->target].open) {
        c->wake_us = now + AGAIN_US;
        return;
    }
    c->fd = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    tcp_no_delay(c->fd);
    // From one of several addresses: else churn would come back to a port that is still in TIME_WAIT at the other end.
    struct sockaddr_in from = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK - 1 + (uint32_t)c->host)};
    int later = 1;
    setsockopt(c->fd, IPPROTO_IP, IP_BIND_ADDRESS_NO_PORT, &later, sizeof later);
    if (bind(c->fd, (void *)&from, sizeof from)) perror("bind");
    if (c->kind == DOWNLOAD) { // so that a long download is not over as soon as the kernel has swallowed it
        int small = 65536;
        setsockopt(c->fd, SOL_SOCKET, SO_RCVBUF, &small, sizeof small);
    }
    c->served = c->port = 0;
    c->dialled_us = c->heard_us = now;
    c->asked_us = 0;
    c->wake_us = 0;
    c->answer = (struct head){0};
    c->state = DIALLING;
    a.sin_port = htons((uint16_t)targets[c->target].port);
    if (connect(c->fd, (void *)&a, sizeof a) && errno != EINPROGRESS) {
        fail(c, "cannot connect", errno);
        return;
    }
    socklen_t size = sizeof a;
    getsockname(c->fd, (void *)&a, &size);
    c->port = ntohs(a.sin_port);
    c->reading = true;
    struct epoll_event e = {.events = EPOLLOUT, .data.ptr = c};
    epoll_ctl(poller, EPOLL_CTL_ADD, c->fd, &e);
}

// Before a request goes out on a connection that idled: has the other end closed it meanwhile? Then it was no failed request.
// -1: closed; an errno: reset; 0: open.
static int ended_while_idle(struct client *c) {
    char byte;
    ssize_t got = recv(c->fd, &byte, 1, MSG_PEEK | MSG_DONTWAIT);
    return got == 0 ? -1 : got < 0 && errno != EAGAIN ? errno : 0;
}

static void closed(struct client *c, int error, uint64_t now) {
    if (c->state == LEAVING && !error) {
        hang_up(c, OFF, c->kind == CHURN ? pause_for_rate(now) : now);
        if (!stopping && c->wake_us <= now) dial(c, now);
        else c->wake_us += !c->wake_us;
    } else if (c->state == LEAVING) fail(c, "reset after the answer", error);
    else if (c->state == PAUSED) {
        if (error) fail(c, "reset while idle", error);
        else {
            count(c->kind == IDLE ? "closed while idle" : "closed between requests");
            hang_up(c, OFF, c->wake_us);
        }
    } else if (c->state == STREAM) fail(c, error ? "stream reset" : "stream closed", error);
    else if (c->in_body) fail(c, error ? "reset inside the body" : "closed inside the body", error);
    else if (c->head_n) fail(c, error ? "reset inside the head" : "closed inside the head", error);
    else if (c->served) fail(c, error ? "reset before the answer, reused" : "closed before the answer, reused", error);
    else fail(c, error ? "reset before the answer, fresh" : "closed before the answer, fresh", error);
}

static void connected(struct client *c, uint64_t now) {
    int error = 0;
    socklen_t size = sizeof error;
    getsockopt(c->fd, SOL_SOCKET, SO_ERROR, &error, &size);
    if (error) fail(c, "cannot connect", error);
    else if (stopping) hang_up(c, DONE, 0);
    else ask(c, now);
}

static void on_event(struct client *c, uint32_t events, uint64_t now) {
    static char bytes[262144];
    if (c->state == DIALLING) {
        if (events & (EPOLLOUT | EPOLLERR | EPOLLHUP)) connected(c, now);
        return;
    }
    if (events & EPOLLOUT) {
        int error = outbox_flush(&c->out, c->fd);
        if (error) {
            fail(c, "cannot send", error);
            return;
        }
        watch(c);
    }
    if (!(events & (EPOLLIN | EPOLLERR | EPOLLHUP)) || (!c->reading && !(events & (EPOLLERR | EPOLLHUP)))) return;
    ssize_t got = recv(c->fd, bytes, c->slow ? 32768 : sizeof bytes, MSG_DONTWAIT);
    if (got == 0) closed(c, 0, now);
    else if (got < 0 && errno != EAGAIN) closed(c, errno, now);
    else if (got > 0 && c->state == LEAVING && c->kind == WEBSOCKET) c->heard_us = now; // the echo of the goodbye
    else if (got > 0) take(c, bytes, (size_t)got, now);
}

static void act(struct client *c, uint64_t now) {
    if (c->state == OFF && stopping) c->state = DONE;
    else if (c->state == OFF) dial(c, now);
    else if (c->state == PAUSED) {
        int ended = ended_while_idle(c);
        if (ended) closed(c, ended > 0 ? ended : 0, now);
        else ask(c, now);
    }
    else if (c->state == BUSY) act_busy(c, now);
    else if (c->state == STREAM) stream_act(c, now);
}

// Lets everybody act whose time has come, and ends what is silent; returns how many are still there. *next_us: when the next acts.
static int scan(uint64_t now, uint64_t *next_us) {
    int living = 0;
    *next_us = now + TURN_US;
    for (int i = 0; i < client_n; i++) {
        struct client *c = clients[i];
        if (c->wake_us && now >= c->wake_us) act(c, now);
        if (stopping && (c->state == PAUSED || c->state == OFF)) hang_up(c, DONE, 0);
        bool waits = c->state == DIALLING || c->state == BUSY || c->state == LEAVING;
        if (c->state == STREAM) waits = c->in_sequence != c->out_sequence;
        if (waits && now > c->heard_us + SILENT_US) fail(c, c->state == DIALLING ? "connection not taken" : "silence", 0);
        living += c->state != DONE;
        if (c->wake_us && c->wake_us < *next_us) *next_us = c->wake_us;
    }
    return living;
}

static void add_group(const char *kind, int count_of, int target, uint64_t now) {
    int k = 0;
    while (k < KINDS && strcmp(kind, kind_names[k])) k++;
    if (k == KINDS || target >= TARGETS) return;
    clients = realloc(clients, (size_t)(client_n + count_of) * sizeof *clients);
    for (int i = 0; i < count_of; i++) {
        struct client *c = calloc(1, sizeof *c);
        *c = (struct client){.fd = -1, .number = client_n, .kind = (enum kind)k, .target = target, .wake_us = now + draw(200000) + 1};
        c->host = 2 + c->number % HOSTS;
        clients[client_n++] = c;
    }
}

static void obey(const char *line, uint64_t now) {
    int a, b;
    char kind[32];
    if (sscanf(line, "target %d %d", &a, &b) == 2 && a < TARGETS) {
        if (b) targets[a].port = b;
        targets[a].open = b != 0;
    } else if (sscanf(line, "group %31s %d %d", kind, &a, &b) == 3) add_group(kind, a, b, now);
    else if (sscanf(line, "rate %d", &a) == 1 || sscanf(line, "schedule %d", &a) == 1) {
        rate_us_x16 = a ? 16000000u / (unsigned)a : 0;
        scheduled = *line == 's';
        slot_x16 = now * 16;
    }
    else if (!strncmp(line, "stop", 4)) stopping = true;
}

// False at the end of the input.
static bool read_orders(uint64_t now) {
    static char text[4096];
    static size_t n;
    ssize_t got = read(0, text + n, sizeof text - 1 - n);
    if (got == 0) return false;
    n += got > 0 ? (size_t)got : 0;
    text[n] = 0;
    char *line = text, *end;
    while ((end = strchr(line, '\n'))) {
        *end = 0;
        obey(line, now);
        line = end + 1;
    }
    n = strlen(line);
    memmove(text, line, n);
    return true;
}

static void loop(void) {
    static struct epoll_event found[512];
    static struct client input = {.fd = 0};
    struct epoll_event e = {.events = EPOLLIN, .data.ptr = &input};
    epoll_ctl(poller, EPOLL_CTL_ADD, 0, &e);
    uint64_t scanned = 0, told = now_us(), stop_us = 0, next_us = 0;
    for (;;) {
        uint64_t now = now_us(), wait_us = !scheduled ? TURN_US : next_us > now ? next_us - now : 0;
        struct timespec wait = {.tv_nsec = (long)wait_us * 1000};
        int n = epoll_pwait2(poller, found, 512, &wait, NULL);
        now = now_us();
        for (int i = 0; i < n; i++) {
            struct client *c = found[i].data.ptr;
            if (c != &input) {
                if (c->fd >= 0) on_event(c, found[i].events, now);
            } else if (!read_orders(now)) return;
        }
        if (now - scanned >= TURN_US / 2 || (scheduled && now >= next_us)) {
            scanned = now;
            if (!scan(now, &next_us) && stopping) return;
        }
        if (stopping && !stop_us) stop_us = now + STOP_US;
        if (stopping && now > stop_us) {
            for (int i = 0; i < client_n; i++)
                if (clients[i]->state != DONE) fail(clients[i], "not finished when all was to end", 0);
            return;
        }
        if (now - told >= 1000000) {
            told = now;
            tell_progress();
        }
    }
}

int main(int n, char **words) {
    signal(SIGPIPE, SIG_IGN);
    prctl(PR_SET_TIMERSLACK, 1);
    fcntl(0, F_SETFL, O_NONBLOCK);
    poller = epoll_create1(EPOLL_CLOEXEC);
    random_state = n > 1 ? mix(strtoull(words[1], NULL, 10)) : 0;
    if (n > 2) log_open(words[2]);
    loop();
    tell_summary();
    return 0;
}
