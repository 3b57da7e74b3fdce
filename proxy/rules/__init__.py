"""Pure decisions: plain values in, frozen dataclasses out; no socket, clock, log or global."""
