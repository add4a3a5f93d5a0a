"""What keeps page and server to those they are for: private files that go, and who may ask.

What listens on loopback can be reached by any site that the same browser shows, by a name that
leads to 127.0.0.1 (DNS rebinding) or by a form that is sent there; so the names of hosts are
checked. Recordings and what was made of them lie in a folder that only its owner may enter.
"""

from __future__ import annotations

import atexit
import contextlib
import os
import shutil
import tempfile
import threading
import time
from collections.abc import Awaitable, Callable, MutableMapping
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

KEEP_SECONDS = 3600.0
"""Files older than this are removed while the page is served."""

PREFIX = "speechmeta-app-"
"""What the page's folders are called."""

LOOPBACK = frozenset({"127.0.0.1", "localhost", "::1"})
"""Names under which this machine may be asked."""

Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
AsgiApp = Callable[[Message, Receive, Send], Awaitable[None]]


class PrivateFiles:
    """A folder of the page's own; all in it goes after an hour, and the rest at the end.

    Args:
        parent: where it is made; None for the system's folder for temporary files.
        keep_seconds: age at which a file goes.
        prefix: what such folders are called; those that a killed process left go by it.
    """

    def __init__(
        self,
        parent: Path | None = None,
        keep_seconds: float = KEEP_SECONDS,
        prefix: str = PREFIX,
    ) -> None:
        self._keep = keep_seconds
        place = Path(tempfile.gettempdir()) if parent is None else parent
        _remove_abandoned(place, keep_seconds, prefix)
        # mkdtemp's folders are 0700.
        self.folder = Path(tempfile.mkdtemp(prefix=prefix, dir=place))
        self.uploads = self.folder / "uploads"
        self.uploads.mkdir(mode=0o700)
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True, name="speechmeta-sweep")
        self._thread.start()
        atexit.register(self.close)

    def new_folder(self) -> Path:
        """A folder for the results of one analysis."""
        return Path(tempfile.mkdtemp(prefix="results-", dir=self.folder))

    def sweep(self, now: float | None = None) -> int:
        """Removes what is too old and shuts the rest off from others; returns how many went."""
        moment = time.time() if now is None else now
        removed = 0
        for base, folders, names in os.walk(self.folder, topdown=False):
            for name in names:
                path = Path(base, name)
                with contextlib.suppress(OSError):
                    if moment - path.lstat().st_mtime > self._keep:
                        path.unlink()
                        removed += 1
                    elif not path.is_symlink():
                        path.chmod(0o600)
            for name in folders:
                path = Path(base, name)
                if path != self.uploads:
                    with contextlib.suppress(OSError):
                        # Fails where something is left in it.
                        if moment - path.lstat().st_mtime > self._keep:
                            path.rmdir()
        return removed

    def close(self) -> None:
        """Removes everything."""
        self._ended.set()
        shutil.rmtree(self.folder, ignore_errors=True)

    def _watch(self) -> None:
        while not self._ended.wait(min(60.0, self._keep / 2)):
            self.sweep()


def _remove_abandoned(place: Path, keep_seconds: float, prefix: str) -> None:
    """What a page left that was killed; nobody else's, and none that may still be served."""
    for path in place.glob(f"{prefix}*"):
        with contextlib.suppress(OSError):
            status = path.lstat()
            own = not hasattr(os, "getuid") or status.st_uid == os.getuid()
            if own and not path.is_symlink() and _newest(path) < time.time() - keep_seconds:
                shutil.rmtree(path, ignore_errors=True)


def _newest(folder: Path) -> float:
    times = [folder.lstat().st_mtime]
    for base, folders, names in os.walk(folder):
        times += [os.lstat(os.path.join(base, name)).st_mtime for name in (*folders, *names)]
    return max(times)


class OwnPagesOnly:
    """ASGI middleware: answers only who asks for this machine, from a page of this server.

    Requests whose `Host` is another name, or whose `Origin` is another site or another port, get
    403 and never reach the app.

    Args:
        hosts: the names that may be asked for; None for any, where something else keeps others
            out and only requests from other sites' pages are refused.
        answer: what those that are refused get: content type and body.
    """

    def __init__(
        self,
        app: AsgiApp,
        hosts: frozenset[str] | None = LOOPBACK,
        answer: tuple[str, str] = ("text/plain", "this page answers to its own machine"),
    ) -> None:
        self._app = app
        self._hosts = hosts
        self._answer = answer

    async def __call__(self, scope: Message, receive: Receive, send: Send) -> None:
        asked = scope["type"] in ("http", "websocket")
        if not asked or allowed(dict(scope["headers"]), self._hosts):
            await self._app(scope, receive, send)
            return
        if scope["type"] == "websocket":
            await send({"type": "websocket.close", "code": 1008})
            return
        kind, text = self._answer
        body = text.encode("utf-8")
        headers = [(b"content-type", kind.encode("ascii")), (b"content-length", b"%d" % len(body))]
        await send({"type": "http.response.start", "status": 403, "headers": headers})
        await send({"type": "http.response.body", "body": body})


def allowed(headers: dict[bytes, bytes], hosts: frozenset[str] | None = LOOPBACK) -> bool:
    """Whether a request with these headers (names in small letters) may be answered."""
    host = _split("//" + headers.get(b"host", b"").decode("latin-1"))
    if host is None or (hosts is not None and host[0] not in hosts):
        return False
    if b"origin" not in headers:
        return True
    origin = _split(headers[b"origin"].decode("latin-1"))
    if origin is None or origin[1] != host[1]:
        return False
    return origin[0] == host[0] if hosts is None else origin[0] in hosts


def _split(address: str) -> tuple[str, int | None] | None:
    try:
        parts = urlsplit(address)
        return (parts.hostname or "").lower(), parts.port
    except ValueError:
        return None


def without_places(text: str, path: str, name: str | None = None) -> str:
    """A message without where the server keeps the recording.

    Args:
        name: what stands in the path's place; None for the file's own name.
    """
    shown = Path(path).name if name is None else name
    return text.replace(path, shown).replace(str(Path(path).parent), "")


__all__ = [
    "KEEP_SECONDS",
    "LOOPBACK",
    "OwnPagesOnly",
    "PrivateFiles",
    "allowed",
    "without_places",
]
