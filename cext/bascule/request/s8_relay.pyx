"""See s8_relay.pxd. RFC 9112 sections 6 and 7: framing is recomputed for each side, never passed through."""

from libc.stdint cimport uint32_t, uint64_t
from libc.stdio cimport snprintf

from bascule.codec.chunked cimport BODY_BAD, BODY_COMPLETE, body_feed_chunked
from bascule.codec.trailers cimport trailers_filter
from bascule.engine.connection cimport (
    IO_CLOSED,
    IO_DONE,
    IO_NO_MEMORY,
    IO_PENDING,
    READ_AGAIN,
    READ_END,
    READ_GONE,
    buf_free,
    buf_get,
    conn_emit,
    conn_read,
    conn_timeout,
    output_append,
    output_flush,
    run_later,
)
from bascule.engine.memory cimport BUF_BYTES, BUF_RESERVE, Buf
from bascule.engine.system cimport SHUT_WR, iovec, likely, memcpy, shutdown, unlikely
from bascule.engine.timers cimport TIMER_IDLE
from bascule.engine.types cimport (
    DIRECTION_DONE,
    DIRECTION_HEAD,
    FRAMING_CHUNKED,
    FRAMING_CLOSE,
    FRAMING_LENGTH,
    READS_MAX,
    READY_EOF,
    READY_ERROR,
    READY_READ,
    SCRATCH_BYTES,
    X_EXPECT,
    X_KEEP_CLIENT,
    X_KEEP_SERVER,
    ListenerRuntime,
    Output,
    output_empty,
)
from bascule.request.exchange cimport exchange_end, exchange_end_if_done, exchange_fail, exchange_gone, forget_replay, server_release
from bascule.shared.statistics cimport (
    ERROR_BAD_REQUEST,
    ERROR_CLIENT_SLOW,
    ERROR_OVERLOAD,
    ERROR_RESPONSE_CUT,
)


cdef enum:
    COMPOSED_BODY_MAX = 4096      # a body up to this size is copied behind the composed head (Engine.compose has 8 KiB to spare)


cdef int relay_emit(Engine* engine, Exchange* x, Direction* direction, Conn* sink, const char* head, uint32_t head_length,
                    const char* data, uint32_t length, bint complete) noexcept nogil:
    """Sends an optional head and body bytes in the direction's outgoing framing, in one system call. An IoResult."""
    cdef iovec parts[6]
    cdef char size_line[16]
    cdef uint32_t count = 0
    cdef int n
    cdef bint chunked = direction.framing_out == FRAMING_CHUNKED
    if head_length:
        parts[0].iov_base = <void*>head
        parts[0].iov_len = head_length
        count = 1
    if length:
        if chunked:
            n = snprintf(size_line, 16, b"%x\r\n", <unsigned>length)
            parts[count].iov_base = size_line
            parts[count].iov_len = <size_t>n
            count += 1
        parts[count].iov_base = <void*>data
        parts[count].iov_len = length
        count += 1
    if chunked and (length or complete):
        if direction.trailers != NULL and complete:
            trailers_filter(direction.trailers)
            parts[count].iov_base = <void*>(<const char*>b"\r\n0\r\n" if length else <const char*>b"0\r\n")
            parts[count].iov_len = 5 if length else 3
            parts[count + 1].iov_base = direction.trailers.data
            parts[count + 1].iov_len = direction.trailers.end
            parts[count + 2].iov_base = <void*><const char*>b"\r\n"
            parts[count + 2].iov_len = 2
            count += 3
        elif complete:
            parts[count].iov_base = <void*>(<const char*>b"\r\n0\r\n\r\n" if length else <const char*>b"0\r\n\r\n")
            parts[count].iov_len = 7 if length else 5
            count += 1
        else:
            parts[count].iov_base = <void*><const char*>b"\r\n"
            parts[count].iov_len = 2
            count += 1
    if count == 0:
        return IO_DONE
    if count == 2 and head == engine.compose and not chunked and parts[1].iov_len <= COMPOSED_BODY_MAX:
        # Measured: copying a small body behind its head costs less than the kernel's work for a second iovec.
        memcpy(engine.compose + head_length, data, length)
        parts[0].iov_len += length
        count = 1
    if direction == &x.response:
        for n in range(<int>count):
            x.bytes_out += parts[n].iov_len
    return conn_emit(engine, sink, &direction.out, parts, count,
                     complete and direction == &x.response and not x.flags & X_KEEP_CLIENT)


# ---- server to client --------------------------------------------------------------------------------------------------
cdef int relay_response_bytes(Engine* engine, Exchange* x, const char* head, uint32_t head_length, char* data,
                              uint32_t length) noexcept nogil:
    """Body bytes as the server framed them, in front of them perhaps the composed head. A RelayResult."""
    cdef Direction* d = &x.response
    cdef bint complete = False
    cdef bint bad = False
    cdef uint32_t consumed = length
    cdef int result
    if d.framing_in == FRAMING_LENGTH:
        if length >= d.remaining:
            if length > d.remaining:  # the server sent too much: nothing of it may reach the next exchange
                x.flags &= ~X_KEEP_SERVER
                length = <uint32_t>d.remaining
            complete = True
        d.remaining -= length
    elif d.framing_in == FRAMING_CHUNKED:
        if length:
            result = body_feed_chunked(d, data, length, &consumed)
            complete = result == BODY_COMPLETE
            bad = result == BODY_BAD
            if consumed < length:
                x.flags &= ~X_KEEP_SERVER
            data = d.body_data
            length = d.body_length
    elif d.framing_in != FRAMING_CLOSE:
        if length:
            x.flags &= ~X_KEEP_SERVER
        length = 0
        complete = True
    if unlikely(bad):
        x.flags &= ~X_KEEP_SERVER
        if head_length:
            relay_emit(engine, x, d, x.client, head, head_length, NULL, 0, False)
        exchange_fail(engine, x, 502, ERROR_RESPONSE_CUT, b"the server sent malformed chunks")
        return RELAY_ENDED
    d.bytes += length
    result = relay_emit(engine, x, d, x.client, head, head_length, data, length, complete)
    if complete:
        d.state = DIRECTION_DONE
    if likely(result == IO_DONE):
        if complete:
            exchange_end(engine, x)
            return RELAY_ENDED
        return RELAY_GOING
    if result == IO_PENDING:
        if complete and x.request.state == DIRECTION_DONE and output_empty(&x.request.out):
            # The client is slow, the server is not: it may serve others meanwhile.
            server_release(engine, x, x.flags & X_KEEP_SERVER)
        return RELAY_GOING
    if result == IO_NO_MEMORY:
        exchange_fail(engine, x, 503, ERROR_OVERLOAD, b"out of buffers")
        return RELAY_ENDED
    exchange_gone(engine, x)
    return RELAY_ENDED


cdef uint32_t read_size(Engine* engine) noexcept nogil:
    """How much one read may take: what could be buffered if the sink took none of it."""
    cdef uint64_t room
    if engine.bufs.live_max == 0:
        return SCRATCH_BYTES
    room = engine.bufs.live_max - engine.bufs.live
    if room > 64:
        return SCRATCH_BYTES
    return 4096 if room > 2 else 0


cdef inline uint32_t room_to_read(Engine* engine, Exchange* x) noexcept nogil:
    """read_size, or 0 when there is no room: then the exchange has failed."""
    cdef uint32_t size = read_size(engine)
    if unlikely(size == 0):
        exchange_fail(engine, x, 503, ERROR_OVERLOAD, b"out of buffers")
    return size


cdef inline int flush_waiting(Engine* engine, Conn* sink, Output* out, bint* moved) noexcept nogil:
    """output_flush of what waits; `moved` becomes true when the sink took any of it."""
    cdef Buf* waiting = out.first
    cdef uint32_t start = waiting.start
    cdef int result = output_flush(engine, sink, out)
    moved[0] = moved[0] or out.first != waiting or waiting.start != start
    return result


cdef void wait_for(Engine* engine, Conn* conn, uint32_t delay_ms, bint moved) noexcept nogil:
    """A deadline for progress of this connection: events of the other side alone must not push it into the future."""
    if moved or conn.timer.deadline == TIMER_IDLE:
        conn_timeout(engine, conn, delay_ms)


cdef void relay_response(Engine* engine, Exchange* x) noexcept nogil:
    """Moves what can be moved; called on every event of either side while the response body is under way."""
    cdef Direction* d = &x.response
    cdef bint moved = False
    cdef Conn* server = x.server
    cdef Conn* client = x.client
    cdef uint32_t size, _turn
    cdef int got
    for _turn in range(READS_MAX):
        if not output_empty(&d.out):
            got = flush_waiting(engine, client, &d.out, &moved)
            if got == IO_CLOSED:
                exchange_gone(engine, x)
                return
            if got == IO_PENDING:
                wait_for(engine, client, client.listener.record.body_timeout_ms, moved)
                if x.server != NULL and output_empty(&x.request.out):
                    conn_timeout(engine, x.server, 0)  # its silence is ours
                return
            conn_timeout(engine, client, 0 if x.request.state == DIRECTION_DONE else client.listener.record.body_timeout_ms)
        if d.state == DIRECTION_DONE:
            exchange_end_if_done(engine, x)
            return
        if not server.ready & (READY_READ | READY_EOF | READY_ERROR):
            wait_for(engine, server, x.backend.idle_timeout_ms, moved)
            return
        size = room_to_read(engine, x)
        if unlikely(size == 0):
            return
        if d.framing_in == FRAMING_LENGTH and d.remaining + 64 < size:
            size = <uint32_t>d.remaining + 64  # one more than due: a short read proves that nothing follows
        got = conn_read(engine, server, engine.scratch + BUF_RESERVE, size)
        if got > 0:
            moved = True
            if relay_response_bytes(engine, x, NULL, 0, engine.scratch + BUF_RESERVE, <uint32_t>got) == RELAY_ENDED:
                return
        elif got == READ_AGAIN:
            continue
        elif got == READ_END and d.framing_in == FRAMING_CLOSE:
            x.flags &= ~X_KEEP_SERVER
            d.state = DIRECTION_DONE
            got = relay_emit(engine, x, d, client, NULL, 0, NULL, 0, True)
            if got == IO_CLOSED or got == IO_NO_MEMORY:
                exchange_gone(engine, x)
                return
        else:
            exchange_fail(engine, x, 502, ERROR_RESPONSE_CUT, b"the server closed inside its response")
            return
    run_later(engine, client)


# ---- client to server --------------------------------------------------------------------------------------------------
cdef int keep_rest(Engine* engine, Conn* client, const char* data, uint32_t length) noexcept nogil:
    """Bytes after the end of the message are the next request: back to the client's input."""
    cdef Buf* buf
    if length == 0:
        return IO_DONE
    if client.input == NULL:
        client.input = buf_get(engine)
    buf = client.input
    if buf == NULL or length > BUF_BYTES:
        return IO_NO_MEMORY
    buf.start = 0
    buf.end = length
    memcpy(buf.data, data, length)
    return IO_DONE


cdef void request_refused(Engine* engine, Exchange* x) noexcept nogil:
    """The server takes no more of the request, but may have answered early: it is given the time of a response to say so."""
    x.flags &= ~(X_KEEP_SERVER | X_KEEP_CLIENT)
    x.request.sink_closed = True
    x.server.ready |= READY_READ
    if output_empty(&x.response.out):
        conn_timeout(engine, x.client, 0)  # it is not read any more
    if x.response.state == DIRECTION_HEAD:
        conn_timeout(engine, x.server, x.backend.response_timeout_ms)
        run_later(engine, x.client)


cdef int request_bytes(Engine* engine, Exchange* x, char* data, uint32_t length, uint32_t* consumed) noexcept nogil:
    """Body bytes as the client framed them. A RelayResult."""
    cdef Direction* d = &x.request
    cdef bint complete = False
    cdef int result
    consumed[0] = length
    x.bytes_in += length
    if d.framing_in == FRAMING_LENGTH:
        d.remaining -= length
        complete = d.remaining == 0
    else:
        result = body_feed_chunked(d, data, length, consumed)
        x.bytes_in -= length - consumed[0]
        if result == BODY_BAD:
            x.flags &= ~(X_KEEP_CLIENT | X_KEEP_SERVER)
            exchange_fail(engine, x, 400, ERROR_BAD_REQUEST, b"malformed chunked body")
            return RELAY_ENDED
        complete = result == BODY_COMPLETE
        data = d.body_data
        length = d.body_length
    d.bytes += length
    if unlikely(x.body_bytes_max != 0 and d.bytes > x.body_bytes_max):
        exchange_fail(engine, x, 413, 3, b"the request body is larger than this listener or frontend allows")
        return RELAY_ENDED
    result = relay_emit(engine, x, d, x.server, NULL, 0, data, length, complete)
    if complete:
        d.state = DIRECTION_DONE
    if result == IO_NO_MEMORY:
        exchange_fail(engine, x, 503, ERROR_OVERLOAD, b"out of buffers")
        return RELAY_ENDED
    if result == IO_CLOSED:
        # The server stopped reading. It may have answered early: the response decides, the rest of the body is not wanted.
        request_refused(engine, x)
    return RELAY_GOING


cdef bint too_slow(Engine* engine, Exchange* x) noexcept nogil:
    """Below the listener's minimum rate, averaged since the head and after a grace of one body timeout (slowloris)."""
    cdef ListenerRuntime* listener = x.client.listener
    cdef uint64_t elapsed_us = engine.now_us - x.body_since_us
    if listener.record.body_rate_min == 0 or elapsed_us < <uint64_t>listener.record.body_timeout_ms * 1000:
        return False
    return x.request.bytes * 1000000 < elapsed_us * listener.record.body_rate_min


cdef void forgive(Engine* engine, Exchange* x) noexcept nogil:
    """The client could not send while the server did not read: for the rate, as if it had been ahead by one body timeout until now."""
    cdef ListenerRuntime* listener = x.client.listener
    cdef uint64_t grace_us = <uint64_t>listener.record.body_timeout_ms * 1000
    cdef uint64_t due_us
    if listener.record.body_rate_min == 0:
        return
    due_us = x.request.bytes * 1000000 // listener.record.body_rate_min
    due_us = due_us - grace_us if due_us > grace_us else 0
    if engine.now_us - x.body_since_us > due_us:
        x.body_since_us = engine.now_us - due_us


cdef inline bint continue_awaited(const Exchange* x) noexcept nogil:
    return (x.flags & X_EXPECT) != 0 and x.request.bytes == 0 and x.request.framing_bytes == 0


cdef void relay_request(Engine* engine, Exchange* x) noexcept nogil:
    """Moves the request body; called once the head is in the kernel, and on every event of either side until the body is over."""
    cdef Direction* d = &x.request
    cdef Conn* server = x.server
    cdef Conn* client = x.client
    cdef Buf* input
    cdef uint32_t size, _turn, consumed
    cdef bint moved = False
    cdef int got
    for _turn in range(READS_MAX):
        if d.sink_closed:
            return
        if not output_empty(&d.out):
            got = flush_waiting(engine, server, &d.out, &moved)
            if got == IO_CLOSED:
                request_refused(engine, x)
                return
            if got == IO_PENDING:
                wait_for(engine, server, x.backend.idle_timeout_ms, moved)
                if output_empty(&x.response.out):
                    conn_timeout(engine, client, 0)
                return
            forgive(engine, x)
        if d.state == DIRECTION_DONE:
            if output_empty(&x.response.out):
                conn_timeout(engine, client, 0)
            if x.response.state == DIRECTION_HEAD:
                conn_timeout(engine, server, x.backend.response_timeout_ms)
            return
        input = client.input
        if input != NULL and input.start + x.prefix_length < input.end:
            got = request_bytes(engine, x, input.data + input.start, input.end - input.start, &consumed)
            if got == RELAY_ENDED:
                return
            input.start += consumed
            if input.start == input.end:
                buf_free(engine, &client.input)
            continue
        if not client.ready & (READY_READ | READY_EOF | READY_ERROR):
            if unlikely(x.response.state == DIRECTION_HEAD and continue_awaited(x)):
                wait_for(engine, server, x.backend.response_timeout_ms, False)
                return
            wait_for(engine, client, client.listener.record.body_timeout_ms, moved)
            if x.response.state == DIRECTION_HEAD:
                conn_timeout(engine, server, 0)
            return
        size = room_to_read(engine, x)
        if unlikely(size == 0):
            return
        if d.framing_in == FRAMING_LENGTH:
            if d.remaining < size:
                size = <uint32_t>d.remaining  # never into the next request
        elif size > BUF_BYTES:
            size = BUF_BYTES  # what follows the last chunk must fit the client's input
        got = conn_read(engine, client, engine.scratch + BUF_RESERVE, size)
        if got > 0:
            moved = True
            forget_replay(engine, x)
            if too_slow(engine, x):
                exchange_fail(engine, x, 408, ERROR_CLIENT_SLOW, b"the request body comes too slowly")
                return
            if request_bytes(engine, x, engine.scratch + BUF_RESERVE, <uint32_t>got, &consumed) == RELAY_ENDED:
                return
            if keep_rest(engine, client, engine.scratch + BUF_RESERVE + consumed, <uint32_t>got - consumed) != IO_DONE:
                x.flags &= ~X_KEEP_CLIENT
        elif got == READ_AGAIN:
            continue
        else:
            exchange_gone(engine, x)
            return
    run_later(engine, client)


# ---- tunnels -----------------------------------------------------------------------------------------------------------
cdef int pump(Engine* engine, Exchange* x, Direction* d, Conn* source, Conn* sink, bint* moved) noexcept nogil:
    """One way of a tunnel. IO_DONE: finished; IO_PENDING: waits; IO_CLOSED: an end is gone."""
    cdef iovec part
    cdef uint32_t _turn
    cdef int got
    for _turn in range(READS_MAX):
        if not output_empty(&d.out):
            got = output_flush(engine, sink, &d.out)
            if got != IO_DONE:
                return got
            moved[0] = True
        if d.state == DIRECTION_DONE:
            return IO_DONE
        if source.input != NULL:
            got = output_append(engine, &d.out, source.input.data + source.input.start, source.input.end - source.input.start)
            buf_free(engine, &source.input)
            if got != IO_DONE:
                return IO_CLOSED
            continue
        if not source.ready & (READY_READ | READY_EOF | READY_ERROR):
            return IO_PENDING
        if read_size(engine) == 0:
            return IO_CLOSED
        got = conn_read(engine, source, engine.scratch, read_size(engine))
        if got > 0:
            moved[0] = True
            d.bytes += <uint32_t>got
            if d == &x.response:
                x.bytes_out += <uint32_t>got
            else:
                x.bytes_in += <uint32_t>got
            part.iov_base = engine.scratch
            part.iov_len = <size_t>got
            got = conn_emit(engine, sink, &d.out, &part, 1, False)
            if got == IO_CLOSED or got == IO_NO_MEMORY:
                return IO_CLOSED
        elif got == READ_END:
            d.state = DIRECTION_DONE
        elif got == READ_GONE:
            return IO_CLOSED
    run_later(engine, x.client)
    return IO_PENDING


cdef void relay_tunnel(Engine* engine, Exchange* x) noexcept nogil:
    """Both ways until both ends have finished; a half-close is passed on after the bytes before it."""
    cdef bint moved = False
    cdef bint request_done = x.request.state == DIRECTION_DONE and output_empty(&x.request.out)
    cdef bint response_done = x.response.state == DIRECTION_DONE and output_empty(&x.response.out)
    cdef int request = IO_DONE
    cdef int response = IO_DONE
    if not request_done:
        request = pump(engine, x, &x.request, x.client, x.server, &moved)
        if request == IO_DONE and not x.request.shut:
            x.request.shut = True
            shutdown(x.server.fd, SHUT_WR)
    if not response_done:
        response = pump(engine, x, &x.response, x.server, x.client, &moved)
        if response == IO_DONE and not x.response.shut:
            x.response.shut = True
            shutdown(x.client.fd, SHUT_WR)
    if request == IO_CLOSED or response == IO_CLOSED or (request == IO_DONE and response == IO_DONE):
        exchange_end(engine, x)
        return
    if moved:
        conn_timeout(engine, x.server, x.tunnel_timeout_ms)
