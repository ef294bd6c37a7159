"""What every test folder shares: the proxy under test, chosen by `--proxy` (bascule unless a peer is named)."""

import pytest
from hypothesis import HealthCheck, settings

from kit.proxies import PROXIES, ProxyProcess

# How long an example takes says how busy the machine is, and nothing about the code.
settings.register_profile("patient", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("patient")


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--proxy", choices=sorted(PROXIES), default="bascule", help="run the wire corpus against a peer")


@pytest.fixture(scope="session")
def proxy_kind(request: pytest.FixtureRequest) -> type[ProxyProcess]:
    """The class of the proxy under test."""
    return PROXIES[request.config.getoption("--proxy")]
