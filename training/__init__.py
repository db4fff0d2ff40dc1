"""Training: one run from labelled transactions to a sealed bundle, its steps as file names.

``__main__`` is the command line; everything else is a plain module it calls, in this order:

- ``dataset``: files in (PaySim, the Handbook, any CSV or Parquet through a mapping file), one canonical frame out.
- ``synthetic``: the built-in generator of customers with habits and seven fraud scenarios.
- ``pipeline``: the run itself: split in time, train, seal, evaluate, seal with the figures.
- ``train``: SMOTE inside the fold, XGBoost, the search over both, calibration, thresholds.
- ``evaluate``: judges a sealed bundle exactly as the service opens it.
- ``report``: figures, model card and one HTML page.
- ``publish``: the gate, and the signed pointer that says which bundle is served.

Training may import the service's ``schemas``, ``features``, ``rules``, ``model`` and ``bundle``, never the other way
round: a transaction means here what it means there.
"""
