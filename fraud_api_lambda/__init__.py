"""The fraud detection service: everything that ships in the Lambda image, and nothing else.

A guided tour, in reading order:

1. ``handler``    the entries: Lambda's HTTP handler and the ASGI app that uvicorn serves; it only maps.
2. ``bootstrap``  the composition root: settings -> model source, rules -> scorer -> app.
3. ``app``        the HTTP contract: routes, and the one table that turns an error into problem+json.
4. ``scoring``    THE HUB: ``FraudScorer.score(transaction) -> Decision``, one step a line.
5. ``reload``     keeps the served bundle fresh: verify, swap, keep the last good one.
6. ``model``      forests as flat arrays -> calibrated probability and exact reasons.
7. ``rules``      rules as data (CEL) and ``decide``, the decision policy.
8. ``bundle``     what is sealed, signed, published and opened.
9. ``features``   what the model sees: the same functions run here and in training's replay.
10. ``schemas``   Transaction and Decision, and the boundary: minor units, UTC.
11. ``settings``, ``errors``  the environment read once; the error tree.

Importing this package does no I/O; only ``handler`` reads the environment and opens the bundle.
"""

__version__ = "0.1.0"
