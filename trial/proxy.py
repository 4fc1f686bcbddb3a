"""A network between a node and the SuperLink that can be cut and mended."""

import contextlib
import socket
import threading
from typing import Self


class Proxy:
    """Forwards a port of its own to another one of this machine, until it is cut.

    Parameters
    ----------
    target : int
        The other port.

    Attributes
    ----------
    port : int
        Its own.
    """

    def __init__(self, target: int) -> None:
        self.target, self.port = target, 0
        self._open: set[socket.socket] = set()
        self.mend()

    def __enter__(self) -> Self:
        """Forward."""
        return self

    def __exit__(self, *exception: object) -> None:
        """Cut it for good."""
        self.cut()

    def mend(self) -> None:
        """Take connections."""
        self._listener = socket.create_server(("127.0.0.1", self.port))
        self.port = self._listener.getsockname()[1]
        threading.Thread(target=self._accept, args=(self._listener,), daemon=True).start()

    def cut(self) -> None:
        """Refuse connections, and break those that there are."""
        for end in [self._listener, *self._open]:
            with contextlib.suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)
            end.close()

    def _accept(self, listener: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while True:
                client, _ = listener.accept()
                server = socket.create_connection(("127.0.0.1", self.target))
                for ends in ((client, server), (server, client)):
                    threading.Thread(target=self._forward, args=ends, daemon=True).start()

    def _forward(self, source: socket.socket, sink: socket.socket) -> None:
        self._open.add(source)
        with contextlib.suppress(OSError):
            while data := source.recv(1 << 16):
                sink.sendall(data)
            sink.shutdown(socket.SHUT_WR)
        self._open.discard(source)
        source.close()
