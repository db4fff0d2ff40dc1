"""Decisions, the rules that fired, what was said of them."""

from alembic import op

revision = "0001"
down_revision = None

# COLLATE "C": ids sort by bytes, as they do in SQLite and in Python, whatever the database's language.
_TYPES = {
    "sqlite": {"text": "TEXT", "integer": "INTEGER", "real": "REAL", "bytes": "BLOB", "flag": "INTEGER"},
    "postgresql": {
        "text": 'TEXT COLLATE "C"',
        "integer": "BIGINT",
        "real": "DOUBLE PRECISION",
        "bytes": "BYTEA",
        "flag": "BOOLEAN",
    },
}
# Small columns first: SQLite looks at them without reading the pages that a long answer or document runs over into.
_TABLES = """
CREATE TABLE decisions (
    transaction_id {text} NOT NULL PRIMARY KEY,
    received_ms {integer} NOT NULL,
    time_ms {integer} NOT NULL,
    outcome {text} NOT NULL,
    label {text} NOT NULL DEFAULT 'none',
    label_order {text},
    test {flag} NOT NULL,
    probability {real},
    level {integer},
    amount_minor {integer} NOT NULL,
    latency_us {integer} NOT NULL,
    latency_edge {integer} NOT NULL,
    customer_id {text},
    counterparty_id {text},
    device_id {text},
    decided_by {text} NOT NULL,
    rules {text} NOT NULL,
    degraded {text} NOT NULL,
    model_version {text},
    rules_version {text} NOT NULL,
    digest {bytes} NOT NULL,
    answer {bytes} NOT NULL,
    document {text} NOT NULL
);
CREATE TABLE decision_rules (
    rule {text} NOT NULL,
    received_ms {integer} NOT NULL,
    transaction_id {text} NOT NULL,
    PRIMARY KEY (rule, received_ms, transaction_id)
) {without_rowid};
CREATE TABLE labels (
    transaction_id {text} NOT NULL,
    label_key {text} NOT NULL,
    label_order {text} NOT NULL,
    is_fraud {flag} NOT NULL,
    source {text} NOT NULL,
    time_ms {integer} NOT NULL,
    received_ms {integer} NOT NULL,
    note {text} NOT NULL,
    PRIMARY KEY (transaction_id, label_key)
) {without_rowid};
CREATE INDEX decisions_time ON decisions (received_ms, transaction_id, test, outcome, label, degraded, latency_edge,
    amount_minor);
CREATE INDEX decisions_state ON decisions (outcome, label, test, received_ms, transaction_id);
CREATE INDEX decisions_level ON decisions (level, received_ms, transaction_id, probability, outcome, label, test)
    WHERE level IS NOT NULL;
CREATE INDEX decisions_customer ON decisions (customer_id, received_ms, transaction_id) WHERE customer_id IS NOT NULL;
CREATE INDEX decisions_counterparty ON decisions (counterparty_id, received_ms, transaction_id)
    WHERE counterparty_id IS NOT NULL;
CREATE INDEX decisions_device ON decisions (device_id, received_ms, transaction_id) WHERE device_id IS NOT NULL;
"""


def upgrade() -> None:
    dialect = op.get_bind().dialect.name
    without_rowid = "WITHOUT ROWID" if dialect == "sqlite" else ""
    for statement in _TABLES.format(**_TYPES[dialect], without_rowid=without_rowid).strip().rstrip(";").split(";"):
        op.execute(statement)
    if dialect == "sqlite":
        # What /ready writes, to see that the file takes writes.
        op.execute("CREATE TABLE probe (id INTEGER PRIMARY KEY, at_ms INTEGER NOT NULL)")
