"""The fraud detection service: everything that ships in the Lambda image, and nothing else.

A guided tour, in reading order:

1. ``handler``    the entries: HTTP, queue and schedule on Lambda, the ASGI app that uvicorn serves; it only maps.
2. ``bootstrap``  the composition root: settings -> stores, bundle, rules -> scorer -> app.
3. ``app``, ``routes_*``  the HTTP contract, and the one table that turns an error into problem+json.
4. ``access``     keys, roles, rate limit.
5. ``scoring``    THE HUB: a transaction in, a recorded decision out, one step a line; labels.
6. ``history``, ``feature_store``  the parties' past: read once, changed, swapped.
7. ``judge``      pure: features -> probability, lists, rules, policy, exact reasons; a record is judged again alike.
8. ``decision_log``, ``outbox``  every decision once; what could not be written, or is to be sent, until it is.
9. ``alerts``, ``stream``  where the outbox goes: signed webhooks, Kafka.
10. ``breaker``    a store that has stopped answering is not asked for a while.
11. ``reload``, ``shadow``  keeps bundle and rules fresh; a challenger beside the champion.
12. ``backtest``, ``drift``, ``daily``  another policy on recorded decisions; what has changed; what is done every day.
13. ``model``, ``rules``, ``bundle``  forests as flat arrays; rules as data (CEL); what is sealed, signed and opened.
14. ``features``, ``profiles``  what the model sees: the same functions run here and in training's replay.
15. ``schemas``, ``card_numbers``  Transaction and Decision, and the boundary: minor units, UTC, pseudonyms.
16. ``metrics``, ``settings``, ``errors``  what is counted; the environment read once; the error tree.

Importing this package does no I/O; only ``handler`` reads the environment and opens the bundle.
"""

__version__ = "0.1.0"
