"""Health and shares of servers, for Prometheus: of those whose backend checks them, lets them grow, or has them register."""

from __future__ import annotations

from typing import TYPE_CHECKING

from bascule.admin.metrics import escape

if TYPE_CHECKING:
    from bascule.change.leases import Lifecycles


def server_metrics(lifecycles: Lifecycles | None) -> str:
    """Return everything in the text format of Prometheus; nothing when no backend wants any of it."""
    if lifecycles is None:
        return ""
    figures = [
        (f'backend="{escape(backend)}",server="{escape(server)}"', share, passing)
        for backend, server, share, passing in lifecycles.figures()
    ]
    lines = [
        "# HELP bascule_server_share Share of its weight that a server gets; 0: it takes nothing.",
        "# TYPE bascule_server_share gauge",
        *(f"bascule_server_share{{{labels}}} {share:g}" for labels, share, _ in figures),
        "# HELP bascule_server_healthy Whether a server passes its health check.",
        "# TYPE bascule_server_healthy gauge",
        *(f"bascule_server_healthy{{{labels}}} {passing:d}" for labels, _, passing in figures if passing is not None),
        "# HELP bascule_backend_health_ignored Backends whose check counts for nothing, because every server fails it.",
        "# TYPE bascule_backend_health_ignored gauge",
        *(f'bascule_backend_health_ignored{{backend="{escape(name)}"}} 1' for name in lifecycles.ignored()),
    ]
    return "\n".join(lines) + "\n"
