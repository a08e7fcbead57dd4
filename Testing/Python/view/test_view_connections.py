"""Slow and silent connections: they cost neither the app's descriptors nor the disk its log is on."""

from __future__ import annotations

import asyncio
import logging

import pytest

pytest.importorskip("aiohttp", reason="skipped: the browser app's packages are not installed")

from aiohttp import web
from aiohttp.test_utils import TestServer

from hyperreg.view.connections import NoRepetition, Strangers, quiet_logs
from hyperreg.view.security import Guard

TOKEN = "correct-horse-battery"


async def page(_request: web.Request) -> web.Response:
    return web.Response(text="page")


async def connect(port: int, text: str) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(text.encode())
    await writer.drain()
    return reader, writer


async def is_closed(reader: asyncio.StreamReader) -> bool:
    try:
        return await asyncio.wait_for(reader.read(1 << 16), 0.2) == b""
    except ConnectionError:
        return True
    except TimeoutError:
        return False


@pytest.mark.parametrize("patience", [0.0, 60.0], ids=["late", "many"])
def test_strangers_are_closed_when_late_or_many_and_guests_stay(patience: float) -> None:
    async def run() -> None:
        strangers = Strangers(most=3, patience=patience)
        inner = web.Application()
        inner.add_routes([web.get("/index.html", page)])
        async with TestServer(Guard("127.0.0.1", TOKEN, strangers).protect(inner), host="127.0.0.1") as server:
            assert server.runner is not None
            assert server.runner.server is not None
            head = f"GET /{TOKEN}/index.html HTTP/1.1\r\nHost: 127.0.0.1\r\n"
            guest, writer = await connect(server.port, head + "\r\n")
            assert b"200 OK" in await guest.readline()
            silent = []
            for text in ("", "GET /", head, "GET / HTTP/1.1\r\nHost: x\r\n"):
                silent.append(await connect(server.port, text))
                await asyncio.sleep(0.02)
                strangers.look(server.runner.server)  # so that it is known which are older
            wrong = await connect(server.port, head.replace(TOKEN, "another-token") + "\r\n")
            assert b"403" in await wrong[0].readline()
            await wrong[0].read(1 << 16)
            strangers.look(server.runner.server)  # sees them first
            await asyncio.sleep(0.01)
            strangers.look(server.runner.server)
            closed = [await is_closed(reader) for reader, _writer in (*silent, wrong)]
            assert sum(closed) == (5 if patience == 0 else 2)
            assert not any(closed[3:]) or patience == 0, "the oldest go first"
            writer.write((head + "\r\n").encode())
            answer = await guest.read(1 << 16)
            while b"200 OK" not in answer:
                answer += await guest.read(1 << 16)

    asyncio.run(run())


def test_floods_of_one_line_are_logged_once(caplog: pytest.LogCaptureFixture) -> None:
    quiet_logs()
    quiet_logs()
    logger = logging.getLogger("asyncio")
    assert sum(isinstance(known, NoRepetition) for known in logger.filters) == 1
    for _ in range(1000):
        logger.error("socket.accept() out of system resource")
    logger.error("something else")
    lines = [record.message for record in caplog.records if record.name == "asyncio"]
    assert lines == ["socket.accept() out of system resource", "something else"]
