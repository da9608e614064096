"""A site whose name resolves to this machine gets neither page nor websocket."""

from http.client import HTTPConnection, HTTPResponse
from urllib.parse import urlsplit

import pytest

HANDSHAKE = {
    "Connection": "Upgrade",
    "Upgrade": "websocket",
    "Sec-WebSocket-Version": "13",
    "Sec-WebSocket-Key": "AAAAAAAAAAAAAAAAAAAAAA==",
}
PATHS = {"/": {}, "/browse": {}, "/_stcore/host-config": {}, "/_stcore/stream": HANDSHAKE}


def ask(port: int, path: str, *, host: str, origin: str = "") -> HTTPResponse:
    """Send a request with another host's name to this machine."""
    connection = HTTPConnection("localhost", port, timeout=20)
    connection.request(
        "GET", path, headers={"Host": host, "Origin": origin or f"http://{host}", **PATHS[path]}
    )
    answer = connection.getresponse()
    connection.close()
    return answer


def statuses(port: int, host: str) -> list[int]:
    return [ask(port, path, host=host).status for path in PATHS]


@pytest.fixture
def port(address: str) -> int:
    return urlsplit(address).port or 0


@pytest.mark.parametrize("host", ["localhost", "[::1]"])
def test_this_machines_own_names_are_answered_everywhere(port: int, host: str) -> None:
    assert statuses(port, f"{host}:{port}") == [200, 200, 200, 101]


@pytest.mark.parametrize(
    "host", ["evil.test", "localhost.evil.test", "evil.test:80:localhost", "[::2]"]
)
def test_another_name_is_answered_nowhere(port: int, host: str) -> None:
    for name in (host, f"{host}:{port}"):
        assert all(400 <= status < 500 for status in statuses(port, name))


def test_only_this_servers_pages_open_the_websocket_and_those_of_a_proxy_that_keeps_its_name(
    port: int,
) -> None:
    own = f"localhost:{port}"
    others = (f"http://localhost:{port + 1}", f"http://127.0.0.1:{port}", "null")
    for origin in others:
        assert ask(port, "/_stcore/stream", host=own, origin=origin).status == 403
    assert ask(port, "/_stcore/stream", host="localhost", origin="https://localhost").status == 101


def test_no_other_site_frames_a_page_or_gives_it_scripts(port: int) -> None:
    answer = ask(port, "/browse", host="localhost")
    assert answer.headers["X-Frame-Options"] == "SAMEORIGIN"
    policy = dict(
        part.split(maxsplit=1) for part in answer.headers["Content-Security-Policy"].split("; ")
    )
    assert policy["frame-ancestors"] == policy["default-src"] == "'self'"
    assert not any("*" in allowed or "http" in allowed for allowed in policy.values())
