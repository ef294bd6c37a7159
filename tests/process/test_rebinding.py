"""Listeners and slots that come, go and change, while everything else goes on."""

from pathlib import Path

from process import changing_listeners, private_network

RESETS = ("EstabResets", "TCPAbortOnClose", "TCPAbortOnData", "TCPAbortOnLinger", "TCPAbortFailed", "TCPAbortOnTimeout")
DROPS = ("ListenDrops", "ListenOverflows", "TCPReqQFullDrop")


def test_clients_notice_nothing_of_listeners_that_change(tmp_path: Path) -> None:
    seen = private_network.run(changing_listeners.__name__, tmp_path)
    assert seen["failures"] == []
    assert seen["served"] > 500
    assert "connections_lost=0" in seen["log"]
    assert seen["log"].count("connections_lost=") == seen["log"].count("connections_lost=0")
    for counted in (seen["stays"], seen["goes"]):
        assert {name: counted[name] for name in (*RESETS, *DROPS) if name in counted} == {}
    # Where nothing is removed, nobody is refused, and no client has to repeat its SYN. (OutRsts is no measure: the kernel
    # also answers a late segment of a connection that both ends have closed.)
    stays = seen["stays"]
    assert {name: stays[name] for name in ("TCPSynRetrans", "AttemptFails") if name in stays} == {}
