"""``python -m benchmarks``: everything, one after the other."""

from . import request

request.main()
