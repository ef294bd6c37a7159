"""What we rely on of the packages: an upgrade of protobuf, grpcio or the stubs fails here first."""

import os
import subprocess
import sys
from importlib import metadata
from pathlib import Path

from etcd3 import etcdrpc as rpc

SOURCES = Path(__file__).resolve().parents[2] / "src"
USED = {
    "RangeRequest": "key range_end limit revision sort_order sort_target keys_only count_only max_create_revision",
    "RangeResponse": "header kvs more count",
    "TxnRequest": "compare success failure",
    "Compare": "result target key create_revision mod_revision range_end",
    "PutRequest": "key value lease",
    "DeleteRangeRequest": "key range_end",
    "WatchCreateRequest": "key range_end start_revision progress_notify prev_kv",
    "WatchRequest": "create_request progress_request",
    "WatchResponse": "header watch_id created canceled compact_revision cancel_reason events",
    "LeaseTimeToLiveResponse": "TTL keys",
    "ResponseHeader": "cluster_id member_id revision raft_term",
}


def test_the_messages_have_the_fields_that_are_used() -> None:
    for name, fields in USED.items():
        known = {field.name for field in getattr(rpc, name).DESCRIPTOR.fields}
        assert set(fields.split()) <= known, name


def test_the_module_comes_from_the_package_that_is_named() -> None:
    files = metadata.files("cslab-etcd3") or []
    assert any(str(file) == "etcd3/etcdrpc/__init__.py" for file in files)


def imports(code: str) -> set[str]:
    """Return the top-level modules that a new interpreter has after some code."""
    command = [sys.executable, "-c", f"{code}\nimport sys\nprint(*sys.modules)"]
    environment = os.environ | {"PYTHONPATH": str(SOURCES)}
    done = subprocess.run(command, capture_output=True, text=True, check=True, env=environment)
    return {name.partition(".")[0] for name in done.stdout.split()}


def test_no_process_imports_grpc_but_a_master_with_a_store_in_etcd() -> None:
    """gRPC brings threads, 35 MB and 0.2 s, and a process with it must not fork."""
    heavy = {"grpc", "etcd3", "google"}
    modules = ["process.keeper", "process.worker", "process.master", "cli.main", "admin.server", "admin.app"]
    for module in modules:
        assert not imports(f"import bascule.{module}") & heavy, module
    assert heavy <= imports("import bascule.store.etcd.store")


def test_one_file_imports_grpc() -> None:
    found = [
        str(path.relative_to(SOURCES))
        for path in SOURCES.rglob("*.py")
        if any(
            line.strip().startswith(("import grpc", "from grpc", "import etcd3", "from etcd3"))
            for line in path.read_text().splitlines()
        )
    ]
    assert found == ["bascule/store/etcd/client.py"]
