"""Bytes to messages and back: the gate, h11, bodies. No sockets."""
