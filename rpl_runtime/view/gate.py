"""The page's own web server: on this machine only, and only for those who have the secret in its address."""

import contextlib
import dataclasses
import hmac
import http
import io
import os
import secrets
import socket
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from rpl_runtime.errors import AddressInUse, require

if TYPE_CHECKING:
    import viser
    from websockets.asyncio.server import ServerConnection
    from websockets.http11 import Request, Response

_LOOPBACK = "127.0.0.1"
_NO_PICTURE = b"""<script>
if (!document.createElement("canvas").getContext("webgl2")) document.body.insertAdjacentHTML("afterbegin",
  "<p style='position: fixed; z-index: 9; margin: 1em; font-family: sans-serif; color: #e03131'>" +
  "This browser cannot draw the robots: it has no WebGL 2, or it is switched off.</p>");
</script></body>"""
_REFUSED = "This page needs the whole address that `rpl view` printed: the last part of it is a secret.\n"


@contextlib.contextmanager
def page_server(port: int, label: str) -> Iterator[tuple["viser.ViserServer", str]]:
    """A viser server for the length of a block, and the address at which a browser finds it.

    Args:
        port: to listen on; 0 takes a free one.
        label: title of the page.

    Raises:
        AddressInUse: the port is taken.
        MissingExtra: viser is not installed.
    """
    viser = require("viser", "view")
    secret = secrets.token_urlsafe(16)
    with _listener(port) as listener:
        with _guarded(listener, secret), contextlib.redirect_stdout(io.StringIO()):  # it prints an address without it
            server = viser.ViserServer(_LOOPBACK, label=label, verbose=False)
        try:
            yield server, f"http://{_LOOPBACK}:{listener.getsockname()[1]}/{secret}"
        finally:
            with contextlib.redirect_stdout(io.StringIO()):  # it says that it stops
                server.stop()


def _listener(port: int) -> socket.socket:
    try:
        return socket.create_server((_LOOPBACK, port))
    except OSError as error:
        why = os.strerror(error.errno or 0)
        raise AddressInUse(f"the page cannot use port {port}: {why}; `--port` names another, 0 a free one") from None


@contextlib.contextmanager
def _guarded(listener: socket.socket, secret: str) -> Iterator[None]:
    """A block in which a viser server begins to listen on a socket, for requests with the secret in their path.

    Viser itself admits everybody, and takes the next port where one is in use; it has no setting for either.
    """
    module: Any = require("websockets.asyncio.server", "view")
    serve = module.serve

    def guarded(handler: Any, host: str, port: int, *, process_request: Any, **options: Any) -> Any:
        def admit(connection: "ServerConnection", request: "Request") -> "Response | None":
            _, shown, *rest = (request.path.partition("?")[0] + "/").split("/", 2)
            if not hmac.compare_digest(shown.encode(), secret.encode()):
                return connection.respond(http.HTTPStatus.FORBIDDEN, _REFUSED)
            headers = request.headers.copy()
            headers.pop("Accept-Encoding", None)
            response = process_request(
                connection, dataclasses.replace(request, path="/" + "".join(rest), headers=headers)
            )
            if response is not None and "html" in response.headers.get("Content-Type", ""):
                response.body = response.body.replace(b"</body>", _NO_PICTURE)
                del response.headers["Content-Length"]
                response.headers["Content-Length"] = str(len(response.body))
                response.headers["Cache-Control"] = "no-store"  # a browser would keep a page that was left connected
            return response

        return serve(handler, sock=listener, process_request=admit, **options)

    module.serve = guarded
    try:
        yield
    finally:
        module.serve = serve
