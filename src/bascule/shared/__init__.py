"""Memory that two processes share: snapshot images, statistics, limits."""
