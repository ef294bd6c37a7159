"""Carries exchanges through one engine and prints what its turns asked of the allocators; run by test_steady_state.py."""

import ctypes
import gc
import json
import socket
import sys
from collections.abc import Callable

from engine.harness import OK, Harness

WARM_UP = 200
EXCHANGES = 10_000
GET = b"GET /app/some/path?with=query HTTP/1.1\r\nHost: a.example\r\nUser-Agent: test\r\nAccept: */*\r\n\r\n"
POST = b"POST /app HTTP/1.1\r\nHost: a.example\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n"
CHUNKED = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\nX-Sum: 1\r\n\r\n"


def main() -> None:
    """Print the allocations, the change of Python's block count, and the slab chunks before and after."""
    counter = ctypes.c_ulonglong.in_dll(ctypes.CDLL(None), "allocations")
    counted = blocks = 0
    with Harness() as h:
        turn = h.engine.turn
        client, server = h.connect(), None

        def measure(call: Callable[[], object]) -> tuple[int, int]:
            before, blocks_before = counter.value, sys.getallocatedblocks()
            call()
            after, blocks_after = counter.value, sys.getallocatedblocks()
            return after - before, blocks_after - blocks_before

        measuring = max(measure(gc.isenabled)[1] for _ in range(100))  # the numbers read are objects themselves

        def step() -> None:
            nonlocal counted, blocks
            allocations, objects = measure(turn)
            counted += allocations
            blocks = max(blocks, objects - measuring)

        def receive(sock: socket.socket) -> None:
            for _ in range(100):
                try:
                    sock.recv(65536)
                    return
                except BlockingIOError:
                    step()
            raise AssertionError("nothing came")

        chunks = 0
        for number in range(WARM_UP + EXCHANGES):
            if number == WARM_UP:
                counted = blocks = 0
                chunks = h.engine.live_objects()["chunks"]
            client.send(POST if number % 4 == 0 else GET)
            if server is None:
                server = h.accept()
            receive(server)
            server.send(CHUNKED if number % 3 == 0 else OK)
            receive(client)
        before = counter.value
        ctypes.CDLL(None).malloc(100)
        control = counter.value - before
        requests = h.totals("listener", "web").requests
        grown = h.engine.live_objects()["chunks"] - chunks
    print(json.dumps({"requests": requests, "counted": counted, "blocks": blocks, "chunks": grown, "control": control}))


main()
