"""A proxy that counts how often somebody waits for a server: round trips in time, not messages."""

import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress

from tests.fraud_api_lambda.feature_store.servers import listener


class Trips:
    """Over all connections together: something received, after something was sent, is one more round trip.

    What goes out side by side before the first answer is one.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._asked = False
        self.count = 0
        self.port = 0

    def sent(self) -> None:
        with self._lock:
            self._asked = True

    def received(self) -> None:
        with self._lock:
            self.count += self._asked
            self._asked = False


@contextmanager
def counting(port: int) -> Iterator[Trips]:
    """A proxy before a server on loopback; ``.port`` is its own."""
    trips = Trips()

    def answer(near: socket.socket) -> None:
        with socket.create_connection(("127.0.0.1", port)) as far:

            def back() -> None:
                with suppress(OSError):
                    while data := far.recv(65_536):
                        trips.received()
                        near.sendall(data)
                    near.shutdown(socket.SHUT_WR)

            threading.Thread(target=back, daemon=True).start()
            while data := near.recv(65_536):
                trips.sent()
                far.sendall(data)

    with listener(answer) as own:
        trips.port = own
        yield trips
