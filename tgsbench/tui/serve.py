"""The UI in a browser: textual-serve on loopback, for the browser that opens the printed address only."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

from aiohttp import web
from aiohttp.typedefs import Handler
from textual_serve.server import Server

from tgsbench.system.child import module_argv
from tgsbench.system.loopback import HOST, Gate, Refusal

_ELSEWHERE = re.compile(r"<link[^>]*href=\"https?://(?!127\.0\.0\.1)[^>]*>")


_FOCUS = """<script>
const seek = setInterval(() => {
  const terminal = document.querySelector(".xterm-helper-textarea");
  if (terminal && document.body.classList.contains("-first-byte")) { terminal.focus(); clearInterval(seek); }
}, 100);
</script></body>"""
"""Without it the first key goes nowhere until the terminal was clicked into."""
_ICON = '<link rel="icon" href="data:," /></head>'
"""None: a browser would ask for one outside of the secret folder."""


class LoopbackServer(Server):  # type: ignore[misc]
    """Answers nobody but the one browser that its gate lets in: whoever holds a page can start runs."""

    def __init__(self, command: str, port: int) -> None:
        super().__init__(command, host=HOST, port=port, title="tgsbench")
        self.gate = Gate()

    @property
    def address(self) -> str:
        """What to open."""
        return f"http://{HOST}:{self.port}{self.gate.folder}/"

    async def _make_app(self) -> web.Application:
        """textual-serve's own, below the secret folder and behind the gate."""
        behind = web.Application(middlewares=[self._ask_gate])
        behind.add_subapp(f"{self.gate.folder}/", await super()._make_app())
        return behind

    @web.middleware  # type: ignore[untyped-decorator]
    async def _ask_gate(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        try:
            cookie = self.gate.admit(self.port, request.method, request.path, request.headers)
        except Refusal as refusal:
            raise web.HTTPForbidden(text=str(refusal)) from refusal
        answer = await handler(request)
        if cookie:
            answer.headers["Set-Cookie"] = cookie
        return answer

    async def on_startup(self, app: web.Application) -> None:
        """Print nothing: textual-serve's own line would show an address without the token."""

    def initialize_logging(self) -> None:
        """Set up no logging: textual-serve would print every request with its token."""

    async def handle_index(self, request: web.Request) -> web.Response:
        """The page without its link to a font elsewhere (it works offline and tells nobody), keys at once."""
        page: web.Response = await super().handle_index(request)
        text = _ELSEWHERE.sub("", page.text or "")
        page.text = text.replace("</head>", _ICON, 1).replace("</body>", _FOCUS)
        page.headers["Referrer-Policy"] = "no-referrer"
        return page

    async def handle_websocket(self, request: web.Request) -> web.WebSocketResponse:
        """Serve the page's websocket as textual-serve does, but only to a browser page of this server.

        Raises HTTPForbidden when another page or host asks, or something that is no page.
        """
        if "Origin" not in request.headers:
            raise web.HTTPForbidden(text="this websocket is for the page at " + self.public_url)
        return await super().handle_websocket(request)


def server(port: int, *, ascii_only: bool = False, runs_root: Path | None = None) -> LoopbackServer:
    """A server whose every browser tab gets a UI process of its own."""
    argv = module_argv("tgsbench", "tui")
    argv += ["--ascii"] if ascii_only else []
    argv += ["--output", str(runs_root.resolve())] if runs_root else []
    return LoopbackServer(shlex.join(argv), port)
