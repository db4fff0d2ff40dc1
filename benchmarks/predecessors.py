"""The predecessors' design as a module that a Lambda or a server starts; BENCH_PIPELINE names its pipeline."""

import os
from pathlib import Path

from mangum import Mangum

from .references import predecessor_app

app = predecessor_app(Path(os.environ["BENCH_PIPELINE"]))
handler = Mangum(app, lifespan="off")
