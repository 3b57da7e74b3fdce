"""Requests that PostHog could not take: kept on disk, delivered later."""
