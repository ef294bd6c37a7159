"""Bascule: an edge load balancer whose every change happens with zero downtime."""
