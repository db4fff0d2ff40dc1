"""The two ends of the scale, both behind FastAPI and Mangum like the service itself.

``null_app``: one Pydantic body, no model, no work: what the frameworks alone cost.
``predecessor_app``: the design of the systems before us, written anew: an imbalanced-learn pipeline loaded by joblib, a
pandas frame for each request, a synchronous endpoint.
"""

from pathlib import Path
from typing import Any

from fastapi import FastAPI
from pydantic import BaseModel


class Body(BaseModel):
    amount: float
    type: str | None = None
    customer_id: str | None = None
    counterparty_id: str | None = None
    timestamp: str | None = None
    oldbalanceOrg: float | None = None
    oldbalanceDest: float | None = None


def null_app() -> FastAPI:
    app = FastAPI()

    @app.post("/predict")
    async def predict(body: Body) -> dict[str, Any]:
        return {"fraud_probability": 0.0, "is_fraud": False}

    return app


def train_predecessor(path: Path, rows: int = 40_000) -> None:
    """Fit and pickle a pipeline as the predecessors did: 300 trees of depth 5 over one-hot columns and amounts."""
    import joblib
    from imblearn.over_sampling import SMOTE
    from imblearn.pipeline import Pipeline
    from sklearn.compose import ColumnTransformer
    from sklearn.preprocessing import OneHotEncoder, StandardScaler
    from xgboost import XGBClassifier

    from training.synthetic import generate

    frame = generate(rows, 7)
    numbers = ["amount", "oldbalanceOrg", "oldbalanceDest", "hour"]
    data = frame[["amount", "oldbalanceOrg", "oldbalanceDest"]].fillna(0.0)
    data["hour"] = frame["time_ms"] // 3_600_000 % 24
    data["type"] = frame["type"].astype(str)
    columns = ColumnTransformer(
        [("numbers", StandardScaler(), numbers), ("type", OneHotEncoder(handle_unknown="ignore"), ["type"])]
    )
    trees = XGBClassifier(n_estimators=300, max_depth=5, learning_rate=0.1, n_jobs=1)
    pipeline = Pipeline([("columns", columns), ("smote", SMOTE(sampling_strategy=0.1, random_state=1)), ("xgb", trees)])
    pipeline.fit(data, frame["is_fraud"])
    joblib.dump(pipeline, path)


def predecessor_app(path: Path) -> FastAPI:
    import joblib
    import pandas as pd

    app = FastAPI()
    pipeline = joblib.load(path)

    @app.post("/predict")
    def predict(body: Body) -> dict[str, Any]:
        row = pd.DataFrame(
            [
                {
                    "amount": body.amount,
                    "oldbalanceOrg": body.oldbalanceOrg or 0.0,
                    "oldbalanceDest": body.oldbalanceDest or 0.0,
                    "hour": int((body.timestamp or "2026-01-01T00")[11:13]),
                    "type": body.type or "nan",
                }
            ]
        )
        probability = float(pipeline.predict_proba(row)[0, 1])
        return {"fraud_probability": probability, "is_fraud": probability >= 0.5}

    return app
