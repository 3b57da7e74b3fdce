"""`posthog-proxy doctor`: asks the upstreams, looks at the configuration; a line a finding, with its cure."""
