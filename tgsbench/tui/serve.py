"""The UI in a browser: textual-serve on loopback, for pages of its own only."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

from aiohttp import web
from textual_serve.server import Server

from tgsbench.system.child import module_argv

HOST = "127.0.0.1"
_ELSEWHERE = re.compile(r"<link[^>]*href=\"https?://(?!127\.0\.0\.1)[^>]*>")


_FOCUS = """<script>
const seek = setInterval(() => {
  const terminal = document.querySelector(".xterm-helper-textarea");
  if (terminal) { terminal.focus(); clearInterval(seek); }
}, 100);
</script></body>"""
"""Without it the first key goes nowhere until the terminal was clicked into."""


class LoopbackServer(Server):  # type: ignore[misc]
    """Refuses websockets that another site's page opens: whoever holds one can start training runs."""

    async def handle_index(self, request: web.Request) -> web.Response:
        """The page without its link to a font elsewhere (it works offline and tells nobody), keys at once."""
        page: web.Response = await super().handle_index(request)
        page.text = _ELSEWHERE.sub("", page.text or "").replace("</body>", _FOCUS)
        return page

    async def handle_websocket(self, request: web.Request) -> web.WebSocketResponse:
        """As textual-serve, after a look at who asks.

        Raises HTTPForbidden when another page or host asks.
        """
        if request.host != f"{HOST}:{self.port}" or request.headers.get("Origin") != self.public_url:
            raise web.HTTPForbidden(text="this websocket is for the page at " + self.public_url)
        return await super().handle_websocket(request)


def server(port: int, *, ascii_only: bool = False, runs_root: Path | None = None) -> LoopbackServer:
    """A server whose every browser tab gets a UI process of its own."""
    argv = module_argv("tgsbench", "tui")
    argv += ["--ascii"] if ascii_only else []
    argv += ["--output", str(runs_root.resolve())] if runs_root else []
    return LoopbackServer(shlex.join(argv), host=HOST, port=port, title="tgsbench")


def serve(port: int, *, ascii_only: bool = False, runs_root: Path | None = None) -> None:
    """Serve until interrupted."""
    server(port, ascii_only=ascii_only, runs_root=runs_root).serve()
