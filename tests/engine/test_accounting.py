"""What one exchange leaves in the statistics of its listener, frontend, backend and server."""

import pytest

from engine.harness import OK, Harness

GET = b"GET /app HTTP/1.1\r\nHost: a\r\n\r\n"
OBJECTS = [("listener", "web"), ("frontend", "app"), ("backend", "app"), ("server", "app/a1")]


@pytest.mark.parametrize(("kind", "name"), OBJECTS)
def test_one_exchange_counts_once(kind: str, name: str) -> None:
    with Harness() as h:
        client = h.connect()
        client.sendall(GET)
        server = h.accept()
        h.head(server)
        server.sendall(OK)
        received = h.head(client)
        h.until(lambda: h.engine.state()["exchanges"] == 0, "rest")
        row = h.totals(kind, name)
        assert (row.requests, row.statuses, row.errors, row.in_flight) == (1, {200: 1}, {}, 0)
        assert (row.bytes_in, row.bytes_out) == (len(GET), len(received))
        assert (row.latency_count, row.latency_lost) == (1, 0)
        # One exchange's mean, median and longest are one number, but for the width of a step of the histogram.
        assert row.latency_sum_us == pytest.approx(row.max_us, rel=0.01, abs=1)
        assert row.mean_us == pytest.approx(row.p50_us, rel=0.01, abs=1)
