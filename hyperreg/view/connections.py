"""Connections of strangers: few, and not for long, so that the app goes on for those who know its address.

A stranger is a connection over which nothing has come yet that the guard let through: somebody without the token, or
a program that opens connections and says nothing.
"""

from __future__ import annotations

import asyncio
import logging
import sys
import time
from typing import Any

from aiohttp import web

if sys.platform != "win32":
    import resource

# A browser opens half a dozen connections at once, and asks at once.
MOST_STRANGERS = 64
PATIENCE_S = 10.0
LOOK_S = 0.25
# Files and connections that the app and its libraries want open at once, with room.
WANTED_DESCRIPTORS = 4096
# The same line of a log more often than this tells nothing new.
SAME_LINE_S = 60.0


class Strangers:
    """Watches a server's connections.

    most: how many strangers may be connected at once; the oldest go first. patience: seconds that one may take.
    """

    def __init__(self, most: int | None = None, patience: float = PATIENCE_S) -> None:
        self.most = min(MOST_STRANGERS, max(8, _raised_limit() // 4)) if most is None else most
        self.patience = patience
        self._known: set[Any] = set()
        self._since: dict[Any, float] = {}

    def let_through(self, request: web.Request) -> None:
        """The guard let this request through: its connection is none of a stranger's."""
        self._known.add(request.protocol)

    async def watch(self, server: web.Server) -> None:
        """Closes connections of strangers; to run as a task for as long as the server does."""
        while True:
            self.look(server)
            await asyncio.sleep(LOOK_S)

    def look(self, server: web.Server) -> None:
        now = time.monotonic()
        there = set(server.connections)
        self._known &= there
        self._since = {connection: self._since.get(connection, now) for connection in there}
        strangers = sorted(there - self._known, key=lambda connection: self._since[connection])
        for index, connection in enumerate(strangers):
            late = now - self._since[connection] > self.patience
            if (late or index < len(strangers) - self.most) and connection.transport is not None:
                connection.transport.abort()


class NoRepetition(logging.Filter):
    """Lets the same line of a log through once a minute: floods tell nothing, and fill disks."""

    def __init__(self) -> None:
        super().__init__()
        self._last: dict[str, float] = {}

    def filter(self, record: logging.LogRecord) -> bool:
        now = time.monotonic()
        if now - self._last.get(record.msg, -SAME_LINE_S) < SAME_LINE_S:
            return False
        self._last = {line: when for line, when in self._last.items() if now - when < SAME_LINE_S} | {record.msg: now}
        return True


def quiet_logs() -> None:
    """What libraries log of broken connections comes once a minute, and without tracebacks of what strangers sent."""
    for name in ("asyncio", "aiohttp.server"):
        logger = logging.getLogger(name)
        if not any(isinstance(known, NoRepetition) for known in logger.filters):
            logger.addFilter(NoRepetition())


def _raised_limit() -> int:
    """How many descriptors this process may have, after asking for as many as it is allowed."""
    if sys.platform == "win32":
        return WANTED_DESCRIPTORS
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft < WANTED_DESCRIPTORS:
        soft = WANTED_DESCRIPTORS if hard == resource.RLIM_INFINITY else min(hard, WANTED_DESCRIPTORS)
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    return soft
