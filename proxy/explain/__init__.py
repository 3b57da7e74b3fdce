"""`posthog-proxy explain`: why one request is treated as it is, told by the code that treats it."""
