"""The console: a Streamlit app that talks to the fraud API over HTTP and to nothing else.

Read in this order: ``app.py`` (entry: navigation and sidebar), ``client.py`` (HTTP and its errors), ``connection.py``
(which API, how it is doing, how a failure is shown), ``presets.py`` (examples), ``charts.py``, then the pages in
``views/``.
"""
