"""Bascule: an edge load balancer whose every change happens with zero downtime."""

__version__ = "0.1.0"
