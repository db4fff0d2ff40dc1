"""``python -m benchmarks``: everything, one after the other."""

from . import decision_log, replay, request

request.main()
replay.main()
decision_log.main()
