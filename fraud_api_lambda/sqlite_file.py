"""What the stores in SQLite files share: the file that a URL names, its write-ahead log, what an error means."""

import os
import sqlite3
import time
from pathlib import Path
from typing import Final

from .errors import SettingsError

#: The file itself is not usable.
DAMAGED: Final = frozenset({sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB})


def path_of(url: str, what: str, instead: str) -> Path:
    """``sqlite:///relative/path`` or ``sqlite:////absolute/path``; ``what`` lies there, and on Lambda in ``instead``.

    Raises ``SettingsError``, also for a file under /tmp of a Lambda function.
    """
    name = url.removeprefix("sqlite:///")
    if name == url or not name.strip("/"):
        raise SettingsError(f"A SQLite {what} is written sqlite:///relative/path or sqlite:////absolute/path.")
    path = Path(name).absolute()
    # Each of many copies of the function would keep its own, in a folder that vanishes with it.
    if "AWS_LAMBDA_FUNCTION_NAME" in os.environ and path.resolve().is_relative_to("/tmp"):  # noqa: S108
        raise SettingsError(
            f"A SQLite {what} under /tmp of a Lambda function is refused: every copy of the function would have its "
            f"own, and lose it. Use {instead}."
        )
    return path


def use_write_ahead_log(connection: sqlite3.Connection, until: float) -> None:
    """Switch it on, if need be again until then (``time.monotonic``)."""
    # Where several processes meet a new file, SQLite answers "locked" here at once, without its busy handler.
    while True:
        try:
            connection.execute("PRAGMA journal_mode = WAL")
        except sqlite3.OperationalError as error:
            if code_of(error) != sqlite3.SQLITE_BUSY or time.monotonic() > until:
                raise
            time.sleep(0.005)
        else:
            return


def code_of(error: BaseException) -> int:
    """SQLite's primary result code, without what an extended one adds."""
    return getattr(error, "sqlite_errorcode", 0) & 0xFF
