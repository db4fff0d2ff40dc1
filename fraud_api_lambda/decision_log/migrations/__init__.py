"""The tables of ``sqlite`` and ``postgresql``, by Alembic: what was made, and what each later version changed.

Whether there is anything to do is asked without Alembic (:func:`is_current`): it and SQLAlchemy take half a second to
import, and a process that finds its tables as they should be never needs them.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

from ...errors import StoreUnavailable

#: Oldest first; the last is what this version of the service works with. A file in versions/ for each.
REVISIONS: Final = ("0001",)
HEAD: Final = REVISIONS[-1]


def is_current(revision: str | None, kind: str) -> bool:
    """Whether tables of this revision (None: there are none) are as they should be; False: they are to be upgraded.

    Raises ``StoreUnavailable`` where the revision is not known: the tables are of a newer version of the service.
    """
    if revision is not None and revision not in REVISIONS:
        raise StoreUnavailable(
            f"The decision log ({kind}) has the tables of a newer version of this service: run that version, or name "
            "another database in FRAUD_DECISION_LOG_URL."
        )
    return revision == HEAD


def upgrade(kind: str, driver: str, connect: Callable[[], Any], lock: str) -> None:
    """Bring the tables to ``HEAD`` in one transaction, over a connection of its own that ``connect`` makes.

    ``kind`` and ``driver`` are SQLAlchemy's names. ``lock`` is the statement that keeps other processes out until the
    end of the transaction; whoever comes second finds nothing left to do. Raises ``StoreUnavailable``.
    """
    from alembic import command
    from alembic.config import Config
    from sqlalchemy import create_engine
    from sqlalchemy.pool import NullPool

    config = Config()
    config.set_main_option("script_location", str(Path(__file__).parent).replace("%", "%%"))
    try:
        engine = create_engine(f"{kind}+{driver}://", creator=connect, poolclass=NullPool)
        with engine.connect() as connection:
            connection.exec_driver_sql(lock)
            config.attributes["connection"] = connection
            command.upgrade(config, "head")
            connection.commit()
    except Exception as error:
        name = type(getattr(error, "orig", None) or error).__name__
        raise StoreUnavailable(f"The decision log ({kind}) cannot be given its tables: {name}.") from None
