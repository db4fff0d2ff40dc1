"""``python -m benchmarks``: everything, one after the other."""

from . import decision_log, request

request.main()
decision_log.main()
