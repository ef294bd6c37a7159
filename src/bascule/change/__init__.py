"""The way of one configuration change: decode, validate, resolve names, diff, compile (docs/life-of-a-change.md)."""
