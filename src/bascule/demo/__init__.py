"""Example origins, steady traffic and a live change, so that one command shows what the balancer does."""
