"""Compiled loops over single stages of a request, for the micro-benchmarks in bench/."""
