"""Who may talk to the app: only pages that came from it, opened with the address that was printed.

Everything (page, websocket, uploads, downloads) lies below a secret first part of the path, so that whoever does not
know it reaches nothing. There is no cookie, which browsers would send to other programs of this machine, too. `Host` is
checked against names of this machine (a foreign name that resolves to it is a DNS rebinding attack), and a request that
names another `Origin` comes from another web site's page.
"""

from __future__ import annotations

import hmac
import html
import ipaddress
import re
import secrets
import socket
from collections.abc import Mapping

from aiohttp import web

from hyperreg.errors import InputError
from hyperreg.view.connections import Strangers

AUTOMATIC, NO_TOKEN = "auto", "none"
TOKEN_BYTES = 24
TOKEN_PATTERN = re.compile(r"[A-Za-z0-9_-]{8,128}")
LOOPBACK_NAMES = ("localhost", "127.0.0.1", "::1")
# A name or address, maybe in brackets, and maybe a port.
HOST_PATTERN = re.compile(r"(\[[0-9A-Fa-f:.%]+\]|[A-Za-z0-9._-]+)(:[0-9]{1,5})?")

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


def notices(host: str, token: str) -> list[str]:
    """What whoever starts the app should know of how it can be reached."""
    found = []
    if not is_loopback(host):
        found.append(
            "Images, results and the token in the address cross the network unencrypted: whoever listens there can see "
            "and use them. Safer: start it without --host, and reach it through ssh -L."
        )
    if not token:
        found.append("Without a token, every user and program of this computer can see and change what is open.")
    return found


def redirecting_page(address: str) -> str:
    """A page that goes on to the address: opened from a private file, so that the token is on no command line."""
    target = html.escape(address, quote=True)
    return f'<!doctype html><meta http-equiv="refresh" content="0;url={target}"><a href="{target}">HyperReg</a>\n'


def is_loopback(host: str) -> bool:
    """Whether a name or address is this machine's own."""
    if host.strip("[]").lower() in LOOPBACK_NAMES:
        return True
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return False


def named_host(text: str) -> str | None:
    """The name or address in a Host header or an Origin's place, in lower case; None for what is malformed."""
    found = HOST_PATTERN.fullmatch(text)
    return None if found is None else found[1].strip("[]").lower()


class Guard:
    """Decides over every request.

    host: what the server is bound to. token: "" if none is wanted. strangers: told of connections that are let through.
    """

    def __init__(self, host: str, token: str, strangers: Strangers | None = None) -> None:
        self.host = host
        self.token = token
        self.strangers = strangers or Strangers()
        self._names = {host.strip("[]").lower(), socket.gethostname().lower(), socket.getfqdn().lower()}

    def is_this_machine(self, name: str) -> bool:
        """Whether the page may have been asked for under this name.

        Loopback only, if the server is bound to it. Else also any address (that a page of another site cannot make its
        own, as it can a name), and the names that this machine has.
        """
        if is_loopback(name):
            return True
        if is_loopback(self.host):
            return False
        try:
            ipaddress.ip_address(name)
        except ValueError:
            return name in self._names
        return True

    @property
    def prefix(self) -> str:
        """What every path begins with: "/token", or ""."""
        return f"/{self.token}" if self.token else ""

    def refusal(self, path: str, headers: Mapping[str, str]) -> str:
        """Why a request is refused, or "". headers: of the request."""
        if self.token:
            first = path.lstrip("/").split("/", 1)[0]
            # What a stranger sends may not even be text.
            if not hmac.compare_digest(first.encode(errors="replace"), self.token.encode()):
                return REFUSED
        asked = headers.get("Host", "")
        name = named_host(asked)
        if name is None or not self.is_this_machine(name):
            return FOREIGN
        origin = headers.get("Origin")
        # A browser names the origin of every websocket and every POST; other programs need not.
        if origin is not None and origin.lower() not in (f"http://{asked.lower()}", f"https://{asked.lower()}"):
            return FOREIGN
        return ""

    def protect(self, inner: web.Application) -> web.Application:
        """The application to serve instead of `inner`: the same below the token, refusals everywhere else."""

        @web.middleware
        async def check(request: web.Request, handler):  # type: ignore[no-untyped-def]
            reason = self.refusal(request.path, request.headers)
            if reason:
                raise web.HTTPForbidden(text=reason)
            self.strangers.let_through(request)
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
        own = f"ws://{request.host}" if HOST_PATTERN.fullmatch(request.host) else ""
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
