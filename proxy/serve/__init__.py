"""One downstream connection and its exchanges."""
