"""The command line. `run` and `proxy` only define their options here; the keeper runs them."""
