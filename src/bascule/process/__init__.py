"""Keeper, master and worker: who starts whom, who holds what, and how they talk (docs/processes.md)."""
