"""The torture: every kind of client at once, while everything that can happen to a load balancer happens to it.

`clients/` has the clients and their origin (C, compiled when first used: they must be no bottleneck and account for every
request), `programs` runs them, `network` counts what the kernel sees, `bascule` and `peers` are who is tortured, `events` when.
"""
