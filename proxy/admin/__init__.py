"""What operators ask: metrics, health, status, and the commands drain and log-level.

::

    socket ──▶ server.py ──▶ exchange.py (bytes → Request) ──▶ endpoints.py ──▶ Answer or the event stream
                                                                 │
                            figures.py (what is shown, from counters and history.py) ── page.py

Several workers' counters are summed in their parent, so the parent serves this; where one process serves
clients, that does. The former has no asyncio: so the server is callbacks on sockets, and polling.py fits them
to either loop. All of it is loaded only where `admin.listen` is set.
"""
