"""Who may talk to the browser app, and what becomes of the files that it is sent."""

from __future__ import annotations

import asyncio
import socket
import stat
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from types import SimpleNamespace
from urllib.parse import unquote, urlsplit

import pytest

pytest.importorskip("aiohttp", reason="skipped: the browser app's packages are not installed")

from aiohttp import WSServerHandshakeError, web
from aiohttp.test_utils import TestClient, TestServer

from hyperreg.errors import InputError
from hyperreg.view.app import App
from hyperreg.view.private_files import PrivateFiles, safe_name
from hyperreg.view.routes import NAME_HEADER, add_routes
from hyperreg.view.security import FOREIGN, REFUSED, Guard, check_host, choose_token, is_loopback, notices

TOKEN = "correct-horse-battery"


async def chunks(*parts: bytes) -> AsyncIterator[bytes]:
    for part in parts:
        yield part


@pytest.fixture
def files():
    private = PrivateFiles(limit=1000)
    yield private
    private.remove()


def ask(guard: Guard, scenario, files: PrivateFiles | None = None, accept=None, uploading=nullcontext) -> None:
    """Runs a coroutine function against a server behind the guard; it gets a client."""

    async def page(_request: web.Request) -> web.Response:
        return web.Response(text="page")

    async def websocket(request: web.Request) -> web.WebSocketResponse:
        socket = web.WebSocketResponse()
        await socket.prepare(request)
        await socket.send_str("hello")
        await socket.close()
        return socket

    async def run() -> None:
        inner = web.Application()
        inner.add_routes([web.get("/index.html", page), web.get("/ws", websocket)])
        if files is not None:
            add_routes(inner, files, accept, uploading)
        async with TestClient(TestServer(guard.protect(inner), host="127.0.0.1")) as client:
            await scenario(client)

    asyncio.run(run())


def test_an_automatic_token_is_long_and_never_the_same():
    tokens = {choose_token("auto") for _ in range(20)}
    assert len(tokens) == 20
    assert min(len(token) for token in tokens) >= 32
    assert choose_token("none") == ""
    assert choose_token(TOKEN) == TOKEN
    for bad in ("short", "with space", "../escape", "x" * 200, ""):
        with pytest.raises(InputError, match="8 to 128"):
            choose_token(bad)


def test_other_machines_never_get_in_without_a_token():
    check_host("127.0.0.1", "")
    check_host("0.0.0.0", TOKEN)  # noqa: S104
    for host in ("0.0.0.0", "192.168.1.20", "workstation", "::"):  # noqa: S104
        with pytest.raises(InputError, match="Keep the token"):
            check_host(host, "")
    assert all(is_loopback(host) for host in ("localhost", "127.0.0.1", "127.3.2.1", "::1", "[::1]"))
    assert not any(is_loopback(host) for host in ("127.0.0.1.evil.example", "10.0.0.1", "", "localhost.evil.example"))


def test_page_and_websocket_are_refused_without_the_token():
    async def scenario(client: TestClient) -> None:
        for path in (
            "/",
            "/index.html",
            "/ws",
            "/wrong-token-123/index.html",
            f"/{TOKEN}x/index.html",
            f"/x/{TOKEN}/index.html",
        ):
            answer = await client.get(path)
            assert answer.status == 403, path
            assert "complete address" in await answer.text()
        for path in ("/ws", "/wrong-token-123/ws"):
            with pytest.raises(WSServerHandshakeError, match="403"):
                await client.ws_connect(path)
        assert await (await client.get(f"/{TOKEN}/index.html")).text() == "page"
        async with client.ws_connect(f"/{TOKEN}/ws") as socket:
            assert await socket.receive_str() == "hello"

    ask(Guard("127.0.0.1", TOKEN), scenario)


@pytest.mark.parametrize("token", [TOKEN, ""])
def test_other_web_sites_and_rebound_names_are_refused(token: str):
    async def scenario(client: TestClient) -> None:
        prefix = f"/{token}" if token else ""
        own = f"127.0.0.1:{client.port}"
        for headers in (
            {"Origin": "http://evil.example"},
            {"Origin": f"http://127.0.0.1:{client.port + 1}"},
            {"Origin": "null"},
            {"Host": f"evil.example:{client.port}"},
            {"Host": "evil.example", "Origin": "http://evil.example"},
        ):
            assert (await client.get(f"{prefix}/index.html", headers=headers)).status == 403, headers
            with pytest.raises(WSServerHandshakeError, match="403"):
                await client.ws_connect(f"{prefix}/ws", headers=headers)
        answer = await client.get(f"{prefix}/index.html", headers={"Origin": f"http://{own}"})
        assert answer.status == 200
        policy = answer.headers["Content-Security-Policy"]
        assert "default-src 'self'" in policy
        assert f"connect-src 'self' ws://{own};" in policy
        assert "http" not in policy.replace("http-equiv", "")
        assert answer.headers["Referrer-Policy"] == "no-referrer"
        assert answer.headers["Cache-Control"] == "no-store"
        async with client.ws_connect(f"{prefix}/ws", headers={"Origin": f"http://{own}"}) as socket:
            assert await socket.receive_str() == "hello"

    ask(Guard("127.0.0.1", token), scenario)


@pytest.mark.parametrize(
    "host",
    ["[", "[::1", "a b", "a;b", "\u2100.example", "x" * 5000, "", "@", "a:b:c", "127.0.0.1:99999999", "user@localhost",
     "localhost/..", "%00", "\udcff"],
)  # fmt: skip
def test_malformed_hosts_and_origins_are_refused_not_stumbled_over(host: str):
    for guard in (Guard("127.0.0.1", TOKEN), Guard("127.0.0.1", ""), Guard("0.0.0.0", TOKEN)):  # noqa: S104
        path = f"{guard.prefix}/index.html"
        assert guard.refusal(path, {"Host": host}) == FOREIGN
        assert guard.refusal(path, {"Host": "localhost:80", "Origin": f"http://{host}"}) == FOREIGN
        assert guard.refusal(path, {"Host": "localhost:80"}) == ""
    assert guard.refusal("/\udcff\udcfe/index.html", {"Host": "localhost"}) == REFUSED


def test_a_malformed_host_is_answered_with_a_refusal():
    async def scenario(client: TestClient) -> None:
        for host in ("[::1", "a;b", "\u2100"):
            reader, writer = await asyncio.open_connection("127.0.0.1", client.port)
            writer.write(f"GET /{TOKEN}/index.html HTTP/1.1\r\nHost: {host}\r\n\r\n".encode())
            status = (await reader.readline()).decode()
            answer = (await reader.readuntil(b"\r\n\r\n")).decode(errors="replace")
            assert " 403 " in status, (host, status)
            assert host not in answer
            writer.close()

    ask(Guard("127.0.0.1", TOKEN), scenario)


def test_a_page_for_other_machines_is_asked_for_by_address_or_own_name():
    """Any other name could be one that a foreign site points to this machine."""
    guard = Guard("0.0.0.0", TOKEN)  # noqa: S104
    path = f"/{TOKEN}/index.html"
    for name in ("192.168.1.20:8080", "[fe80::1]:80", "localhost", f"{socket.gethostname()}:8080"):
        assert guard.refusal(path, {"Host": name}) == "", name
    for name in ("evil.example", "evil.example:8080", "192.168.1.20.evil.example"):
        assert guard.refusal(path, {"Host": name}) == FOREIGN, name
    assert Guard("workstation", TOKEN).refusal(path, {"Host": "Workstation:80"}) == ""
    assert Guard("127.0.0.1", TOKEN).refusal(path, {"Host": "192.168.1.20"}) == FOREIGN


def test_who_starts_the_app_is_told_who_can_reach_it():
    assert notices("127.0.0.1", TOKEN) == []
    assert "unencrypted" in notices("0.0.0.0", TOKEN)[0]  # noqa: S104
    assert "every user" in notices("127.0.0.1", "")[0]


def test_the_browser_is_opened_by_a_private_page_without_the_token_on_its_command_line(files):
    address = f"http://127.0.0.1:1234/{TOKEN}/index.html"
    opened = App.page_to_open(SimpleNamespace(files=files, guard=Guard("127.0.0.1", TOKEN)), address)
    assert TOKEN not in opened
    page = Path(unquote(urlsplit(opened).path))
    assert f'content="0;url={address}"' in page.read_text(encoding="utf-8")
    assert page.parent.stat().st_mode & 0o077 == 0
    assert page.is_relative_to(files.folder)
    assert App.page_to_open(SimpleNamespace(files=files, guard=Guard("127.0.0.1", "")), "http://x/") == "http://x/"


def test_names_of_uploads_become_harmless():
    assert safe_name("head 1.nii.gz") == "head_1.nii.gz"
    assert safe_name("../../etc/passwd.nii") == "passwd.nii"
    assert safe_name("C:\\scans\\Müller.nrrd") == "M_ller.nrrd"
    assert safe_name(".hidden.mha") == "hidden.mha"
    assert safe_name('a"; rm -rf ~;".nii') == "a_rm_-rf_.nii"
    assert safe_name("x" * 300 + ".nii.gz") == "x" * 80 + ".nii.gz"
    assert "/" not in safe_name("a\x00b/..")


def test_uploads_are_private_limited_and_gone_afterwards(files):
    assert stat.S_IMODE(files.folder.stat().st_mode) == 0o700
    path = asyncio.run(files.receive("../head.nii", chunks(b"abc", b"def"), None))
    assert path.read_bytes() == b"abcdef"
    assert path.resolve().is_relative_to(files.folder.resolve())
    with pytest.raises(InputError, match="larger than"):
        asyncio.run(files.receive("big.nii", chunks(b"x" * 600, b"x" * 600), None))  # lies about its size
    with pytest.raises(InputError, match="FIXED=file"):
        asyncio.run(files.receive("big.nii", chunks(), 5000))
    with pytest.raises(InputError, match="no image file"):
        asyncio.run(files.receive("program.exe", chunks(b"MZ"), 2))
    assert [entry.name for entry in files.folder.rglob("*") if entry.is_file()] == ["head.nii"]
    files.discard(path)
    assert list(files.folder.iterdir()) == []
    files.remove()
    assert not files.folder.exists()


def test_only_what_is_offered_can_be_fetched(files):
    async def scenario(client: TestClient) -> None:
        folder = files.new_folder()
        (folder / "result.h5").write_bytes(b"field")
        (entry,) = files.offer([("Transform", folder / "result.h5")])
        key = entry["url"].split("/")[1]
        url = f"/{TOKEN}/{entry['url']}"
        answer = await client.get(url)
        assert await answer.read() == b"field"
        assert answer.headers["Content-Disposition"] == 'attachment; filename="result.h5"'
        assert (await client.get(url.replace(key, "x" * len(key)))).status == 404
        assert b"root:" not in await (await client.get(f"/{TOKEN}/download/..%2F..%2Fetc/passwd")).read()
        assert (await client.get(url.replace(TOKEN, "wrong-token-123"))).status == 403
        files.offer([])
        assert (await client.get(url)).status == 404
        assert not folder.exists()

    ask(Guard("127.0.0.1", TOKEN), scenario, files, None)


def test_an_upload_counts_from_its_first_byte_until_its_page_goes_away(files):
    told: list[str] = []

    @contextmanager
    def uploading(role: str) -> Iterator[None]:
        told.append(role)
        try:
            yield
        finally:
            told.append("")

    async def come(count: int) -> None:
        while len(told) < count:
            await asyncio.sleep(0.01)

    async def scenario(client: TestClient) -> None:
        _, page = await asyncio.open_connection("127.0.0.1", client.port)
        lines = f"POST /{TOKEN}/upload/moving HTTP/1.1", f"Host: 127.0.0.1:{client.port}", "Content-Length: 900"
        page.write("\r\n".join([*lines, f"{NAME_HEADER}: head.nii.gz", "", "the first bytes"]).encode())
        await asyncio.wait_for(come(1), 30)
        assert told == ["moving"], "before the last byte"
        page.transport.abort()
        await asyncio.wait_for(come(2), 30)
        assert told == ["moving", ""]

    ask(Guard("127.0.0.1", TOKEN), scenario, files, accept=None, uploading=uploading)


def test_an_upload_needs_the_token_the_origin_and_the_pages_own_header(files):
    taken: list[tuple[str, bytes]] = []

    async def accept(role, path):
        if path.name == "bad.nii":
            raise InputError(f"'{path}' is no image, and '{path.parent}' no place.")
        if path.name == "huge.nii":
            raise MemoryError
        taken.append((role, path.read_bytes()))

    async def scenario(client: TestClient) -> None:
        good = {NAME_HEADER: "head.nii"}
        url = f"/{TOKEN}/upload/moving"
        assert (await client.post("/upload/moving", data=b"1", headers=good)).status == 403
        assert (await client.post(url, data=b"1", headers={**good, "Origin": "http://evil.example"})).status == 403
        assert (await client.post(url, data=b"1")).status == 400
        assert (await client.post(f"/{TOKEN}/upload/else", data=b"1", headers=good)).status == 400
        assert taken == []
        refused = await client.post(url, data=b"1", headers={NAME_HEADER: "bad.nii"})
        assert refused.status == 422
        assert (await refused.json())["error"] == "'bad.nii' is no image, and 'bad.nii' no place."
        refused = await client.post(url, data=b"1", headers={NAME_HEADER: "huge.nii"})
        assert "not enough memory" in (await refused.json())["error"]
        assert (await client.post(url, data=b"123", headers=good)).status == 200
        assert taken == [("moving", b"123")]
        assert list(files.folder.iterdir()) == []  # what was read is deleted

    ask(Guard("127.0.0.1", TOKEN), scenario, files, accept)
