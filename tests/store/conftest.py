"""Failures inside the shared suite are explained like those of test files."""

import pytest

pytest.register_assert_rewrite("store.acceptance", "store.acceptance_writable", "store.machine")
