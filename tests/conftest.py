"""What every test folder shares: the proxy under test, chosen by `--proxy` (bascule unless a peer is named)."""

import pytest
from hypothesis import HealthCheck, settings

from kit.proxies import PROXIES, ProxyProcess

# A busy machine is no defect of what is tested.
settings.register_profile("bascule", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("bascule")


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--proxy", choices=sorted(PROXIES), default="bascule", help="run the wire corpus against a peer")


@pytest.fixture(scope="session")
def proxy_kind(request: pytest.FixtureRequest) -> type[ProxyProcess]:
    """The class of the proxy under test."""
    return PROXIES[request.config.getoption("--proxy")]
