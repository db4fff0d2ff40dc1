"""The null endpoint as a module that a Lambda or a server starts."""

from mangum import Mangum

from .references import null_app

app = null_app()
handler = Mangum(app, lifespan="off")
