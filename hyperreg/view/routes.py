"""Uploads and downloads over HTTP; everything else goes over the websocket."""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable
from contextlib import AbstractContextManager
from pathlib import Path
from urllib.parse import unquote

from aiohttp import web

from hyperreg.errors import HyperRegError
from hyperreg.machine import is_out_of_memory
from hyperreg.view.private_files import PrivateFiles

CHUNK_BYTES = 1 << 18
# Browsers send a header of one's own to another origin only after asking; nobody is answered here.
NAME_HEADER = "X-HyperReg-Name"
# The last ones are the images that a segmentation model wants, by their number.
ROLE = re.compile(r"(fixed|moving)(_labels|_points|_left_out)?|regions|series|input[0-9]|model")

Accept = Callable[[str, Path], Awaitable[None]]
Uploading = Callable[[str], AbstractContextManager[None]]


def add_routes(application: web.Application, files: PrivateFiles, accept: Accept, uploading: Uploading) -> None:
    """Adds POST upload/ROLE and GET download/KEY/NAME.

    accept: called with the role and the stored file; a HyperRegError from it is told to the page. uploading: entered
    with the role before the first byte, and left in any case, also where the page goes away.
    """

    async def upload(request: web.Request) -> web.Response:
        role = request.match_info["role"]
        if not ROLE.fullmatch(role) or NAME_HEADER not in request.headers:
            raise web.HTTPBadRequest(text="Not an upload of this app.\n")
        name = unquote(request.headers[NAME_HEADER])
        path = files.folder
        try:
            with uploading(role):
                path = await files.receive(name, request.content.iter_chunked(CHUNK_BYTES), request.content_length)
                await accept(role, path)
        except HyperRegError as error:
            return web.json_response({"error": files.without_places(str(error), path)}, status=422)
        except (MemoryError, RuntimeError, OSError) as error:
            if not is_out_of_memory(error):
                raise
            return web.json_response({"error": "There is not enough memory for this file."}, status=422)
        finally:
            files.discard(path)
        return web.json_response({"error": ""})

    async def download(request: web.Request) -> web.StreamResponse:
        entry = files.find(request.match_info["key"])
        if entry is None or not entry.path.is_file():
            raise web.HTTPNotFound(text="This result is no longer there. Prepare the downloads again.\n")
        return web.FileResponse(
            entry.path,
            headers={
                "Content-Disposition": f'attachment; filename="{entry.name}"',
                "Content-Type": "application/octet-stream",
            },
        )

    application.add_routes([web.post("/upload/{role}", upload), web.get("/download/{key}/{name}", download)])
