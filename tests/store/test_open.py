"""Which store a table opens."""

from __future__ import annotations

import subprocess
import sys

from bascule.model.tree import Store
from bascule.store.open import open_store


def test_the_kind_of_the_table_is_opened() -> None:
    assert open_store(Store(), config_file="/etc/b.toml").kind == "file"
    assert open_store(Store(type="embedded"), state_directory="/srv/b").place == "/srv/b/store.sqlite"
    assert open_store(Store(type="embedded", path="/data/x.db"), state_directory="/srv/b").place == "/data/x.db"


def test_grpc_is_imported_for_etcd_alone() -> None:
    code = (
        "import sys\nfrom bascule.model.tree import Store\nfrom bascule.store.open import open_store\n"
        "open_store(Store(type='embedded'), state_directory='/srv/b')\nopen_store(Store(), config_file='/b')\n"
        "assert not [name for name in sys.modules if name.startswith(('grpc', 'google', 'etcd3'))]"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
