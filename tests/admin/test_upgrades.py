"""What the API says of upgrades: the receipts, the status, the metrics, the event after one."""

import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import msgspec
from prometheus_client.parser import text_string_to_metric_families

from admin.local import LocalAdmin
from admin.test_events import following, notify
from bascule.admin.status import Status, render_text
from bascule.process.receipt import HISTORY_FILE, HISTORY_MAX, remember
from bascule.process.upgrade_views import metrics_part, receipts_of, state_of, status_part


def receipt(number: int, *, ok: bool = True, kind: str = "upgrade", at: float = 1000.0) -> dict[str, Any]:
    """Return a receipt as the keeper writes it, as far as anybody looks at it here."""
    who = [{"generation": n, "version": f"1.{n}", "workers": [0]} for n in (number, number + 1)]
    document = {"kind": kind, "reason": f"number {number}", "at": at, "from": who[0], "took_s": 1.5, "ok": ok}
    if ok:
        return {**document, "to": who[1], "connections": {"handed_over": 10, "closed": 1}}
    return {**document, "failed": "it does not start", "remedy": "install it again"}


def write(directory: Path, *documents: dict[str, Any]) -> None:
    for document in documents:
        remember(str(directory / HISTORY_FILE), document)


def master(directory: Path, **state: Any) -> Any:
    upgrade = {"generation": 2, "version": "1.1", "phase": "", "resting": None, "probation_left_s": 0.0, **state}
    return SimpleNamespace(state_path=str(directory), upgrade={**upgrade, "told_s": time.monotonic() - 10.0})


def test_receipts_are_listed_newest_first(api: LocalAdmin, tmp_path: Path) -> None:
    assert api.ask("GET", "/v1/upgrades").json["items"] == []
    write(tmp_path, *(receipt(number) for number in range(1, 31)))
    with (tmp_path / HISTORY_FILE).open("a") as file:
        file.write('{"half a li')  # a disk that was full
    answer = api.ask("GET", "/v1/upgrades").json
    assert [item["reason"] for item in answer["items"]] == [f"number {number}" for number in range(30, 10, -1)]
    assert answer["state"]["version"] == "1.1"
    assert [item["reason"] for item in api.ask("GET", "/v1/upgrades?limit=1").json["items"]] == ["number 30"]
    assert api.ask("GET", "/v1/upgrades?limit=0").status == 400


def test_the_time_that_is_left_runs(tmp_path: Path) -> None:
    state = state_of(master(tmp_path, probation_left_s=60.0))
    assert 49.0 <= state["probation_left_s"] <= 50.0
    assert state_of(master(tmp_path, probation_left_s=5.0))["probation_left_s"] == 0.0
    assert state_of(SimpleNamespace(upgrade={})) == {}  # type: ignore[arg-type]


def test_totals_go_on_when_the_history_is_cut(tmp_path: Path) -> None:
    write(tmp_path, *(receipt(number) for number in range(HISTORY_MAX + 5)))
    write(tmp_path, receipt(1, ok=False), receipt(2, kind="back"))
    receipts = receipts_of(master(tmp_path))
    assert len(receipts) == HISTORY_MAX
    text = metrics_part(state_of(master(tmp_path, probation_left_s=60.0)), receipts).decode()
    samples = {
        (sample.name, *sample.labels.values()): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }
    assert samples["bascule_upgrades_total", "upgrade", "done"] == HISTORY_MAX + 5
    assert samples["bascule_upgrades_total", "upgrade", "failed"] == 1
    assert samples["bascule_upgrades_total", "back", "done"] == 1
    assert samples["bascule_upgrades_total", "back", "failed"] == 0
    assert samples["bascule_upgrade_connections_total", "handed_over"] == 10 * (HISTORY_MAX + 6)
    assert samples["bascule_generation", "1.1"] == 2
    assert 49.0 <= samples["bascule_upgrade_probation_seconds",] <= 50.0
    assert samples["bascule_upgrade_under_way",] == 0


def text_of(state: dict[str, Any], *receipts: dict[str, Any]) -> list[str]:
    document = {"revision": 7, "upgrade": status_part(state, receipts)}
    return render_text(msgspec.convert(document, Status)).splitlines()


def test_status_says_which_version_serves_and_whether_there_is_a_way_back(tmp_path: Path) -> None:
    assert text_of({}) == ["revision 7"]
    assert text_of(state_of(master(tmp_path)))[2] == "generation 2, version 1.1"
    resting = {"generation": 1, "version": "1.0"}
    line = text_of(state_of(master(tmp_path, resting=resting, probation_left_s=60.0)), receipt(1))
    assert line[2].startswith("generation 2, version 1.1; version 1.0 waits for another ")
    assert line[3].endswith(", from version 1.1 to 1.2 in 1.50 s: number 1")
    assert text_of(state_of(master(tmp_path)), receipt(1, ok=False))[3].endswith(
        "failed, nothing changed: it does not start"
    )
    assert text_of(state_of(master(tmp_path, phase="filling")))[2].endswith("; an upgrade is under way: filling")


def test_a_stream_begins_with_the_end_of_the_upgrade_that_cut_the_one_before(api: LocalAdmin, tmp_path: Path) -> None:
    write(tmp_path, receipt(1, at=time.time() - 3600))
    with following(api) as stream:
        notify(api, 7)
        assert stream.event()[0] == "applied"
    write(tmp_path, receipt(2, at=time.time()))
    with following(api) as stream:
        kind, _, event = stream.event()
        assert kind == "upgrade"
        assert (event["data"]["phase"], event["data"]["ok"], event["data"]["reason"]) == ("ended", True, "number 2")
