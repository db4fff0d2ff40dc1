"""``python -m benchmarks``: everything, one after the other."""

from . import replay, request

request.main()
replay.main()
