"""Web servers that mean no good: every request ends, and leads nowhere but where it was sent."""

from __future__ import annotations

import gzip
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress

import pytest

from spamo_cache.errors import DamagedError, StoreError
from spamo_cache.store import web
from spamo_cache.store.remote import RemotePath, location

Answer = Callable[[socket.socket, str], None]
Serve = Callable[[Answer], RemotePath]


@pytest.fixture
def serve() -> Iterator[Serve]:
    """Answer every connection by a function of the socket and the request's first line."""
    listeners = []

    def start(answer: Answer) -> RemotePath:
        listener = socket.create_server(("127.0.0.1", 0))
        listeners.append(listener)

        def run() -> None:
            while True:
                try:
                    connection, _ = listener.accept()
                except OSError:
                    return
                threading.Thread(target=talk, args=(connection,), daemon=True).start()

        def talk(connection: socket.socket) -> None:
            with connection, suppress(OSError):
                answer(connection, connection.recv(65536).split(b"\r\n")[0].decode())

        threading.Thread(target=run, daemon=True).start()
        return location(f"http://127.0.0.1:{listener.getsockname()[1]}")

    yield start
    for listener in listeners:
        listener.close()


def whole(body: bytes, *headers: str, status: str = "200 OK") -> Answer:
    """One answer to every request."""
    lines = [f"HTTP/1.1 {status}", f"Content-Length: {len(body)}", "Connection: close", *headers]
    head = "".join(f"{line}\r\n" for line in lines).encode() + b"\r\n"

    def answer(connection: socket.socket, asked: str) -> None:
        connection.sendall(head + (b"" if asked.startswith("HEAD") else body))

    return answer


@pytest.fixture
def _impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(web, "_GRACE_SECONDS", 0.5)
    monkeypatch.setattr("spamo_cache.store.remote._RETRIES", 0)
    monkeypatch.setattr("spamo_cache.store.remote._webs", {})


@pytest.mark.slow
@pytest.mark.usefixtures("_impatient")
@pytest.mark.parametrize("from_start", [True, False], ids=["headers", "body"])
def test_a_byte_now_and_then_is_not_waited_for(serve: Serve, from_start: bool) -> None:
    head = b"HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\n"

    def drip(connection: socket.socket, _: str) -> None:
        if not from_start:
            connection.sendall(head)
        for byte in head * 100:
            connection.sendall(bytes([byte]))
            time.sleep(0.1)

    file = serve(drip) / "zarr.json"
    started = time.monotonic()
    for ask in (lambda: file.read(1000), file.exists, file.folders, lambda: list(file.blocks(10))):
        # What comes with the headers may be all that a HEAD wants.
        if from_start or ask != file.exists:
            with pytest.raises(StoreError, match="less than 4096 bytes a second"):
                ask()
    assert time.monotonic() - started < 30


@pytest.mark.parametrize("framing", ["Transfer-Encoding: chunked", "Content-Length: 99999999999"])
def test_no_more_is_taken_than_was_asked_for(serve: Serve, framing: str) -> None:
    sent = 0

    def endless(connection: socket.socket, asked: str) -> None:
        nonlocal sent
        status = "206 P\r\nContent-Range: bytes 5-14/20" if "shard" in asked else "200 OK"
        connection.sendall(f"HTTP/1.1 {status}\r\n{framing}\r\n\r\n".encode())
        block = b"x" * 65536
        while asked.startswith("GET"):
            connection.sendall(b"10000\r\n" + block + b"\r\n" if "chunked" in framing else block)
            sent += len(block)

    root = serve(endless)
    with pytest.raises(DamagedError, match="sends more than it was asked for"):
        (root / "shard").ranges([5], [15])
    with pytest.raises(DamagedError, match="is larger than the 1000 bytes"):
        (root / "zarr.json").read(1000)
    with pytest.raises(StoreError, match="gives no list of its folders: is larger than"):
        root.folders()
    assert sent < 1 << 27


@pytest.mark.parametrize(
    "target",
    ["ftp://127.0.0.1/x", "file:///etc/passwd", "gopher://h/", "http://me:it@127.0.0.1/"],
)
def test_a_redirect_elsewhere_than_to_http_is_not_followed(serve: Serve, target: str) -> None:
    root = serve(whole(b"", f"Location: {target}", status="302 Found"))
    for ask in (root.exists, root.folders, lambda: root.read(9), lambda: root.ranges([0], [9])):
        with pytest.raises(StoreError, match="which is not followed"):
            ask()


@pytest.mark.parametrize(
    ("here", "there", "followed"),
    [
        ("http://8.8.8.8/x", "https://8.8.4.4/x", True),
        ("http://8.8.8.8/x", "http://127.0.0.1/x", False),
        ("http://8.8.8.8/x", "http://169.254.169.254/latest/meta-data", False),
        ("http://8.8.8.8/x", "http://10.0.0.7/", False),
        ("http://8.8.8.8/x", "http://192.168.1.1:631/", False),
        ("http://8.8.8.8/x", "http://[::1]/", False),
        ("http://8.8.8.8/x", "http://[::ffff:127.0.0.1]/", False),
        ("http://8.8.8.8/x", "http://0/", False),
        ("http://8.8.8.8/x", "http://2130706433/", False),
        ("http://8.8.8.8/x", "http://localhost/", False),
        ("http://127.0.0.1/x", "http://127.0.0.1:81/x", True),
        ("http://10.0.0.7/x", "http://10.0.0.8/x", True),
        ("https://8.8.8.8/x", "http://8.8.8.8/x", False),
    ],
)
def test_a_public_server_sends_nobody_into_the_private_network(
    here: str, there: str, followed: bool
) -> None:
    if followed:
        web.check_redirect(here, there, here)
    else:
        with pytest.raises(StoreError, match="the server redirects to"):
            web.check_redirect(here, there, here)


def test_a_redirect_on_the_server_is_followed_but_not_for_ever(serve: Serve) -> None:
    def answer(connection: socket.socket, asked: str) -> None:
        if "/new/a" in asked:
            whole(b"content")(connection, asked)
        elif "/round" in asked:
            whole(b"", "Location: /round", status="301 Moved")(connection, asked)
        else:
            whole(b"", "Location: /new/a", status="307 Moved")(connection, asked)

    root = serve(answer)
    assert (root / "a").read(7) == b"content"
    assert (root / "a").size() == 7
    with pytest.raises(StoreError, match="redirects more than 5 times"):
        (root / "round").read(7)


def test_nothing_is_decompressed(serve: Serve) -> None:
    bomb = gzip.compress(bytes(1 << 24))
    root = serve(whole(bomb, "Content-Encoding: gzip"))
    assert root.read(len(bomb)) == bomb


def test_links_of_a_page_cannot_lead_elsewhere(serve: Serve) -> None:
    page = (
        '<a href="../">up</a><a href=\'weather/\'>w</a><a href="/etc/">e</a>'
        '<a href="http://elsewhere/x/">x</a><a href="./dgs/">d</a><a href="a/b/">n</a>'
        '<a href="file.txt">f</a><a href="%2e%2e%2fx/">q</a><a href="%2e%2e/">r</a>'
        '<a href="//[/">no address</a><a href=plain/>p</a>'
    )
    assert (serve(whole(page.encode())) / "features").folders() == ["dgs", "plain", "weather"]


@pytest.mark.parametrize("piece", ["href=", "href='a", 'href="/', "href=x//", "<a "])
def test_a_page_is_read_in_time_whatever_it_holds(serve: Serve, piece: str) -> None:
    page = (piece * (1 << 22))[: 1 << 22] + "/" * (1 << 20)
    started = time.process_time()
    serve(whole(page.encode())).folders()
    assert time.process_time() - started < 10


def test_a_page_of_links_without_end_is_refused(
    serve: Serve, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(web, "_MAX_FOLDERS", 2)
    page = "".join(f'<a href="{k}/">' for k in range(3))
    with pytest.raises(StoreError, match="links to more than 2 folders"):
        serve(whole(page.encode())).folders()
