"""Sockets: listeners, streams, upstream connections, the pool, the relay."""
