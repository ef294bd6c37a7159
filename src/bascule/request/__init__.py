"""The stages of one request, compiled: see cext/bascule/request."""
