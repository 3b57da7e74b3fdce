"""A stand-in for PostHog: what `posthog-proxy demo`, the tests and the benchmarks talk to.

::

    client_ip   which address each PostHog service takes for the client's      pure
    bodies      request bodies to events, as PostHog's capture reads them      pure
    timing      the moment that PostHog gives an event                         pure
    payloads    what the SDK reads are answered                                pure
    page        the events as an HTML page                                     pure
    journal     the last events and requests, bounded
    faults      answers gone wrong on purpose
    arrival     what all handlers share: the record of the request, its body
    ingest, reads, streams, probes    the handlers
    assets      the script and the page's files that are served
    server      `Standin`: they all behind one listener
    demo        the stand-in behind the proxy, with a real event sent through

It needs aiohttp (the extra `demo`). The proxy itself never imports it.
"""
