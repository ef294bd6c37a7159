"""HTTP on the admin socket: status, metrics, configuration, reload."""
