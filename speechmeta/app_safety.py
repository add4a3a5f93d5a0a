"""What keeps the page to one user on one machine: private files that go, and who may ask.

A page on loopback can be reached by any site that the same browser shows, by a name that leads
to 127.0.0.1 (DNS rebinding) or by a form that is sent there; so the names of hosts are checked.
Recordings and what was made of them lie in a folder that only its owner may enter.
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

_PREFIX = "speechmeta-app-"
_LOOPBACK = frozenset({"127.0.0.1", "localhost", "::1"})

Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
AsgiApp = Callable[[Message, Receive, Send], Awaitable[None]]


class PrivateFiles:
    """A folder of the page's own; all in it goes after an hour, and the rest at the end.

    Args:
        parent: where it is made; None for the system's folder for temporary files.
        keep_seconds: age at which a file goes.
    """

    def __init__(self, parent: Path | None = None, keep_seconds: float = KEEP_SECONDS) -> None:
        self._keep = keep_seconds
        place = Path(tempfile.gettempdir()) if parent is None else parent
        _remove_abandoned(place, keep_seconds)
        # mkdtemp's folders are 0700.
        self.folder = Path(tempfile.mkdtemp(prefix=_PREFIX, dir=place))
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


def _remove_abandoned(place: Path, keep_seconds: float) -> None:
    """What a page left that was killed; nobody else's, and none that may still be served."""
    for path in place.glob(f"{_PREFIX}*"):
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


class LoopbackOnly:
    """ASGI middleware: answers only who asks for this machine, from a page of this server.

    Requests whose `Host` is not loopback, or whose `Origin` is another site or another port, get
    403 and never reach the app.
    """

    def __init__(self, app: AsgiApp) -> None:
        self._app = app

    async def __call__(self, scope: Message, receive: Receive, send: Send) -> None:
        if scope["type"] not in ("http", "websocket") or allowed(dict(scope["headers"])):
            await self._app(scope, receive, send)
            return
        if scope["type"] == "websocket":
            await send({"type": "websocket.close", "code": 1008})
            return
        plain = [(b"content-type", b"text/plain")]
        await send({"type": "http.response.start", "status": 403, "headers": plain})
        await send({"type": "http.response.body", "body": b"this page answers to its own machine"})


def allowed(headers: dict[bytes, bytes]) -> bool:
    """Whether a request with these headers (names in small letters) may be answered."""
    host = _split("//" + headers.get(b"host", b"").decode("latin-1"))
    if host is None or host[0] not in _LOOPBACK:
        return False
    if b"origin" not in headers:
        return True
    origin = _split(headers[b"origin"].decode("latin-1"))
    return origin is not None and origin[0] in _LOOPBACK and origin[1] == host[1]


def _split(address: str) -> tuple[str, int | None] | None:
    try:
        parts = urlsplit(address)
        return (parts.hostname or "").lower(), parts.port
    except ValueError:
        return None


def without_places(text: str, path: str) -> str:
    """A message without where the server keeps the recording: its name stays."""
    return text.replace(path, Path(path).name).replace(str(Path(path).parent), "")


__all__ = ["KEEP_SECONDS", "LoopbackOnly", "PrivateFiles", "allowed", "without_places"]
