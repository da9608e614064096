"""Who may ask the dashboard for anything, and what a browser may do with what it answers."""

import webbrowser
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import streamlit as st
from starlette.datastructures import MutableHeaders
from starlette.middleware import Middleware
from starlette.middleware.trustedhost import TrustedHostMiddleware
from starlette.types import ASGIApp, Message, Receive, Scope, Send

# Streamlit's own page writes styles inline, its charts compile functions and draw in workers, and what a component of
# ours runs it makes a blob of.
POLICY = {
    "default-src": "'self'",
    "script-src": "'self' 'unsafe-inline' 'unsafe-eval' blob:",
    "style-src": "'self' 'unsafe-inline'",
    "img-src": "'self' data: blob:",
    "font-src": "'self' data:",
    "worker-src": "'self' blob:",
    "object-src": "'none'",
    "base-uri": "'self'",
    "form-action": "'self'",
    "frame-ancestors": "'self'",
}
HEADERS = {
    "Content-Security-Policy": "; ".join(f"{kind} {allowed}" for kind, allowed in POLICY.items()),
    "X-Frame-Options": "SAMEORIGIN",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
}


class Policies:
    """Say with every answer what a browser may do with it: nothing from elsewhere, and no frame of another site."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request on, and its answer back with the headers."""

        async def answer(message: Message) -> None:
            if message["type"] == "http.response.start":
                MutableHeaders(scope=message).update(HEADERS)
            await send(message)

        await self.app(scope, receive, answer)


@asynccontextmanager
async def open_browser(_: Any) -> AsyncIterator[None]:
    """Open the dashboard in a browser when its server starts, as Streamlit does for a script that has no middleware."""
    if not st.get_option("server.headless"):
        webbrowser.open(f"http://localhost:{st.get_option('server.port')}")
    yield


def middleware() -> list[Middleware]:
    """Return what every request passes: only names of `server.allowedHosts` are answered, the page's files too.

    Streamlit by itself looks at the name only where a page opens its websocket.
    """
    named = [f"[{host}]" if ":" in host else host for host in st.get_option("server.allowedHosts")]  # IPv6 in brackets
    return [Middleware(Policies), Middleware(TrustedHostMiddleware, named or ["*"], www_redirect=False)]
