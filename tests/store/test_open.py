"""Which store a table opens, and where the embedded one lives."""

from __future__ import annotations

import subprocess
import sys

import pytest

from bascule.model.tree import Store
from bascule.store.open import database_path, open_store


def test_the_kind_of_the_table_is_opened() -> None:
    assert open_store(Store(), config_file="/etc/b.toml").kind == "file"
    assert open_store(Store(type="embedded"), state_directory="/srv/b").place == "/srv/b/store.sqlite"
    assert open_store(Store(type="embedded", path="/data/x.db"), state_directory="/srv/b").place == "/data/x.db"


def test_a_database_is_not_where_a_reboot_empties(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("STATE_DIRECTORY", raising=False)
    monkeypatch.setenv("XDG_RUNTIME_DIR", "/run/user/7")
    monkeypatch.setattr("os.geteuid", lambda: 0)
    assert database_path("/run/bascule") == "/var/lib/bascule/store.sqlite"
    assert database_path("/srv/run/bascule") == "/srv/run/bascule/store.sqlite"
    monkeypatch.setattr("os.geteuid", lambda: 7)
    monkeypatch.setenv("XDG_STATE_HOME", "/home/me/state")
    assert database_path("/run/user/7/bascule") == "/home/me/state/bascule/store.sqlite"
    monkeypatch.setenv("STATE_DIRECTORY", "/var/lib/private/b:/x")
    assert database_path("/run/bascule") == "/var/lib/private/b/store.sqlite"


def test_grpc_is_imported_for_etcd_alone() -> None:
    code = (
        "import sys\nfrom bascule.model.tree import Store\nfrom bascule.store.open import open_store\n"
        "open_store(Store(type='embedded'), state_directory='/srv/b')\nopen_store(Store(), config_file='/b')\n"
        "assert not [name for name in sys.modules if name.startswith(('grpc', 'google', 'etcd3'))]"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
