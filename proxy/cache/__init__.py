"""The asset cache: what is kept of answers, and who waits for one that is on its way."""
