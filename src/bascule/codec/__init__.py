"""The bytes of HTTP: the parser, heads as slices, framing."""
