"""``python -m benchmarks``: everything, one after the other, on one pair of trained models; then the table."""

from . import (
    batch,
    cold,
    decision_log,
    disk,
    emulator,
    growth,
    instructions,
    make_run,
    replay,
    request,
    server,
    table,
    training,
    trips,
)
from .serving import prepared

with prepared() as folder:
    for part in (request, cold, emulator, server, batch, make_run, instructions):
        part.measure(folder)
trips.main()
replay.main()
decision_log.main()
growth.main([])
disk.main()
training.main([])
table.main()
