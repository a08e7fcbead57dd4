"""Who may talk to the app: only pages that came from it, opened with the address that was printed.

Everything (page, websocket, uploads, downloads) lies below a secret first part of the path, so that whoever does not
know it reaches nothing. There is no cookie, which browsers would send to other programs of this machine, too. `Host` is
checked against names of this machine's loopback (a foreign name that resolves to it is a DNS rebinding attack), and a
request that names another `Origin` comes from another web site's page.
"""

from __future__ import annotations

import hmac
import ipaddress
import re
import secrets
from collections.abc import Mapping
from urllib.parse import urlsplit

from aiohttp import web

from hyperreg.errors import InputError

AUTOMATIC, NO_TOKEN = "auto", "none"
TOKEN_BYTES = 24
TOKEN_PATTERN = re.compile(r"[A-Za-z0-9_-]{8,128}")
LOOPBACK_NAMES = ("localhost", "127.0.0.1", "::1")

REFUSED = "Refused. Open the complete address that 'hyperreg view' printed when it started, with its token.\n"
FOREIGN = "Refused: this request comes from another web page or through another name of this computer.\n"


def choose_token(wanted: str) -> str:
    """The secret part of the address: random for "auto", empty for "none", else `wanted` itself.

    Raises InputError for a token that is short or does not fit into an address.
    """
    if wanted == AUTOMATIC:
        return secrets.token_urlsafe(TOKEN_BYTES)
    if wanted == NO_TOKEN:
        return ""
    if not TOKEN_PATTERN.fullmatch(wanted):
        raise InputError("A token has 8 to 128 letters, digits, '-' or '_'. Leave it out to get a random one.")
    return wanted


def check_host(host: str, token: str) -> None:
    """Raises InputError for an address that other machines can reach without a token."""
    if not is_loopback(host) and not token:
        raise InputError(
            f"Without a token, everybody who reaches '{host}' could see the images. Keep the token, or use 127.0.0.1."
        )


def is_loopback(host: str) -> bool:
    """Whether a name or address is this machine's own."""
    if host.strip("[]").lower() in LOOPBACK_NAMES:
        return True
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return False


class Guard:
    """Decides over every request.

    host: what the server is bound to. token: "" if none is wanted.
    """

    def __init__(self, host: str, token: str) -> None:
        self.host = host
        self.token = token

    @property
    def prefix(self) -> str:
        """What every path begins with: "/token", or ""."""
        return f"/{self.token}" if self.token else ""

    def refusal(self, path: str, headers: Mapping[str, str]) -> str:
        """Why a request is refused, or "". headers: of the request."""
        if self.token:
            first = path.lstrip("/").split("/", 1)[0]
            if not hmac.compare_digest(first.encode(), self.token.encode()):
                return REFUSED
        asked = headers.get("Host", "")
        name = urlsplit(f"//{asked}").hostname or ""
        if is_loopback(self.host) and not is_loopback(name):
            return FOREIGN
        origin = headers.get("Origin")
        # A browser names the origin of every websocket and every POST; other programs need not.
        if origin is not None and urlsplit(origin).netloc.lower() != asked.lower():
            return FOREIGN
        return ""

    def protect(self, inner: web.Application) -> web.Application:
        """The application to serve instead of `inner`: the same below the token, refusals everywhere else."""

        @web.middleware
        async def check(request: web.Request, handler):  # type: ignore[no-untyped-def]
            reason = self.refusal(request.path, request.headers)
            if reason:
                raise web.HTTPForbidden(text=reason)
            return await handler(request)

        outer = web.Application(middlewares=[check])
        outer.on_response_prepare.append(self._add_headers)
        if self.token:
            outer.add_subapp(self.prefix, inner)
            return outer
        inner.middlewares.insert(0, check)
        inner.on_response_prepare.append(self._add_headers)
        return inner

    @staticmethod
    async def _add_headers(request: web.Request, response: web.StreamResponse) -> None:
        # The page may load, and connect to, nothing but this server, whatever a library in it would like to do. Vue
        # compiles its templates in the browser, hence 'unsafe-eval'.
        own = f"ws://{request.host}"
        response.headers["Content-Security-Policy"] = (
            "default-src 'self'; script-src 'self' 'unsafe-inline' 'unsafe-eval'; style-src 'self' 'unsafe-inline'; "
            f"img-src 'self' data: blob:; font-src 'self' data:; connect-src 'self' {own}; worker-src 'self' blob:; "
            "object-src 'none'; base-uri 'self'; form-action 'none'; frame-ancestors 'none'"
        )
        response.headers["Referrer-Policy"] = "no-referrer"
        response.headers["X-Content-Type-Options"] = "nosniff"
        response.headers["X-Frame-Options"] = "DENY"
        response.headers["Cross-Origin-Resource-Policy"] = "same-origin"
        response.headers.setdefault("Cache-Control", "no-store")
