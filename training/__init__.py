"""Training: one run from labelled transactions to a sealed bundle, its steps as file names.

``__main__`` is the command line; everything else is a plain module it calls. In the order of a run:

- ``dataset``: files in (PaySim, the Handbook, any CSV or Parquet through a mapping file), one canonical frame out.
- ``synthetic``: the built-in generator of customers with habits and seven fraud scenarios.
- ``split``: which rows teach, which calibrate, which judge, with the label delay kept free between.
- ``replay``: the frame's history through the service's own features.
- ``tune``: the search for hyperparameters, by scikit-learn or Optuna.
- ``pipeline``: fill, SMOTE inside the fold and XGBoost; Platt calibration over it.
- ``ensemble``: what may stand beside XGBoost in a served model, and what each has to show for it.
- ``forest``: the members as the service's flat arrays, with the tables for exact reasons.
- ``train``: the run itself: search, fit, calibrate, seal, evaluate, seal again with the figures.
- ``evaluate`` and ``metrics``: a sealed bundle judged exactly as the service opens it, and the figures.
- ``report``: one HTML page, its pictures, the model card.
- ``publish``: the gate, and the signed pointer that says which bundle is served.

Over what was decided: ``score`` (a file of any size; ``spill`` replays its history from disk), ``reproduce``,
``rebuild``, ``records`` (export, erase, forget).

Past one machine: ``distributed`` (a run, or the decisions on a file, on a Dask cluster).

Around a run: ``compare`` (the leaderboard), ``tracking`` (MLflow), ``demo`` (everything on one machine), ``runtime``
(the real Lambda runtime here), ``stack`` (a deployed one); ``cli`` and ``commands_records`` are of the command line.
Training imports the service's modules, never the other way round: a transaction means here what it means there.
"""
