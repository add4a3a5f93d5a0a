"""`speechmeta listen`: a live call from the microphone or a file, through a server."""

from __future__ import annotations

import json
import queue
import signal
import sys
import tempfile
import threading
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Annotated, Any

import typer

from speechmeta.errors import (
    AudioError,
    EndpointError,
    OutputError,
    SpeechMetaError,
    UsageError,
    require_extra,
)

from .console import out_console, print_error, print_note
from .flags import CALL, add_command

if TYPE_CHECKING:
    from rich.console import Console
    from websockets.sync.client import ClientConnection

    from speechmeta.pipeline.options import CallOptions
    from speechmeta.schema import CallReport, Turn

    from .table import CallTable

ADDRESS = "ws://127.0.0.1:8000/v1/live"
MICROPHONE_RATE = 16_000
FRAME_SECONDS = 0.02
REPORT_SECONDS = 600.0
"""How long the report is waited for."""

_LONG_SECONDS = 3600.0
"""The width of the times is that of such a call, where its length is not known."""


def register(app: typer.Typer) -> None:
    add_command(app, "listen", listen, {"call": CALL})


def listen(
    source: Annotated[
        str | None,
        typer.Argument(
            help="A recording that is sent as if it were said now; without it, the microphone.",
            metavar="FILE",
            show_default=False,
        ),
    ] = None,
    url: Annotated[str, typer.Option(help="Address of the server's live calls.")] = ADDRESS,
    api_key_file: Annotated[
        Path | None,
        typer.Option(
            help="File whose first line is the server's API key.",
            metavar="FILE",
            show_default=False,
        ),
    ] = None,
    speed: Annotated[
        float, typer.Option(help="How many times faster than real time a file is sent.", min=0.1)
    ] = 1.0,
    as_json: Annotated[
        bool,
        typer.Option(
            "--json", help="Print the server's messages, a line each, and nothing else, on stdout."
        ),
    ] = False,
    output: Annotated[
        Path | None,
        typer.Option(
            "--output",
            "-o",
            help="Write the report to this file, which must not exist.",
            metavar="FILE.json",
            show_default=False,
        ),
    ] = None,
    partials: Annotated[
        bool, typer.Option(help="Show the words of the turn in progress, on a terminal.")
    ] = True,
    *,
    call: CallOptions,
) -> int:
    """Analyse a call while it goes on, by a server (speechmeta serve).

    Ctrl-C ends the call; the report still comes. Options of calls are asked of the server, whose
    own count where none is given.
    """
    require_extra("websockets", "listen", "listening")
    if output is not None:
        _see_that_it_can_be_written(output)
    ended = threading.Event()
    with _set_by_signal(ended):
        sound = _Microphone(ended) if source is None else _Recording(source, speed, call, ended)
        start = {
            "type": "start",
            "rate": sound.rate,
            "channels": sound.channels,
            "partials": partials and sys.stderr.isatty(),
            "options": _asked(call),
        }
        shown = _Printed() if as_json else _Shown(sound.name, sound)
        with _connected(url, api_key_file) as socket:
            socket.send(json.dumps(start))
            report = _talked(socket, sound, shown)
    if output is not None:
        _write(report, output)
    return 0


class _Sound(ABC):
    """Where the sound of a call comes from.

    Attributes:
        rate: Hz. channels: of its frames of 16-bit samples. seconds: its length, 0 if unknown.
    """

    name = ""
    rate = MICROPHONE_RATE
    channels = 1
    seconds = 0.0

    def __init__(self, ended: threading.Event) -> None:
        self.ended = ended
        """Set when no more is to be sent."""

    @abstractmethod
    def frames(self) -> Iterator[bytes]:
        """Frames as they come."""


class _Microphone(_Sound):
    name = "microphone"

    def __init__(self, ended: threading.Event) -> None:
        super().__init__(ended)
        require_extra("sounddevice", "listen", "the microphone")
        try:
            import sounddevice
        except OSError as error:
            raise AudioError(
                "the library PortAudio is not there", "install it: apt install libportaudio2"
            ) from error
        self._library = sounddevice

    def frames(self) -> Iterator[bytes]:
        sounddevice = self._library
        heard: queue.Queue[bytes] = queue.Queue()
        try:
            stream = sounddevice.RawInputStream(
                samplerate=self.rate,
                channels=1,
                dtype="int16",
                blocksize=round(self.rate * FRAME_SECONDS),
                callback=lambda data, *_: heard.put(bytes(data)),
            )
            with stream:
                while not self.ended.is_set():
                    try:
                        yield heard.get(timeout=0.2)
                    except queue.Empty:
                        continue
        except sounddevice.PortAudioError as error:
            raise AudioError(f"the microphone cannot be used: {error}", "name a file") from error


class _Recording(_Sound):
    """A file at the pace at which it was said."""

    def __init__(self, path: str, speed: float, call: CallOptions, ended: threading.Event) -> None:
        from speechmeta.audio.loading import stream_audio
        from speechmeta.segmentation.vad import vad_rate

        super().__init__(ended)
        self.name, self._speed = path, speed
        self._raw, self._limits = call.raw, call.limits
        with stream_audio(path, 1.0, raw=call.raw, limits=call.limits) as stream:
            self.rate, self.channels = vad_rate(stream.sample_rate), stream.channels
            self.seconds = stream.declared or 0.0
        if self.channels > 2:
            raise UsageError(
                f"{path} has {self.channels} channels, and live calls have one or two",
                "speechmeta analyze takes it",
            )

    def frames(self) -> Iterator[bytes]:
        import numpy as np

        from speechmeta.audio.loading import stream_audio

        size = round(self.rate * FRAME_SECONDS)
        begun, sent = time.monotonic(), 0
        rest = np.zeros((self.channels, 0), np.float32)
        with stream_audio(self.name, 1.0, self.rate, self._raw, self._limits) as stream:
            for block in stream:
                rest = np.concatenate([rest, block], axis=1)
                while rest.shape[1] >= size:
                    frame, rest = rest[:, :size], rest[:, size:]
                    sent += size
                    due = begun + sent / self.rate / self._speed
                    if self.ended.wait(max(0.0, due - time.monotonic())):
                        return
                    yield _pcm(frame)
        yield _pcm(rest)


def _pcm(frame: Any) -> bytes:
    import numpy as np

    whole = np.clip(np.round(frame * 32768), -32768, 32767).astype("<i2")
    data: bytes = whole.T.tobytes()
    return data


class _Printed:
    """Messages as they are, a line each."""

    def message(self, message: dict[str, Any], text: str) -> None:
        print(text, flush=True)

    def close(self) -> None:
        """Nothing is open."""


class _Shown:
    """The call as `analyze` shows one, row by row; words in progress on the last line."""

    def __init__(self, name: str, sound: _Sound) -> None:
        self._name, self._sound = name, sound
        self._console: Console = out_console()
        self._table: CallTable | None = None
        self._open = False

    def message(self, message: dict[str, Any], text: str) -> None:
        kind = message["type"]
        if kind == "partial":
            self._progress(message)
            return
        self.close()
        if kind == "ready":
            self._begin(message)
        elif kind == "turn" and self._table is not None:
            self._table.rows([_turn(message["turn"])], self._console)
        elif kind == "renamed":
            turns = ", ".join(str(number) for number in message["numbers"])
            print_note(f"by voice, turn {turns} is taken for {message['speaker']}'s now")
        elif kind == "closing":
            print_note(str(message["message"]))
        elif kind == "failed":
            error = message["error"]
            print_error(f"a turn could not be analysed: {error['message']}", error["hint"])
        elif kind == "error" and not message["fatal"]:
            print_error(str(message["message"]), str(message["hint"]))
        elif kind == "report" and self._table is not None:
            report = _report(message["report"])
            for warning in report.warnings:
                print_note(f"warning: {warning}")
            self._table.summary(report, self._console)

    def close(self) -> None:
        """Takes the words in progress off the terminal."""
        if self._open:
            sys.stderr.write("\r\x1b[K")
            sys.stderr.flush()
            self._open = False

    def _begin(self, message: dict[str, Any]) -> None:
        from speechmeta.schema import AudioInfo

        from .table import CallTable

        seconds = self._sound.seconds
        audio = AudioInfo(
            path=self._name,
            duration=seconds,
            sample_rate=message["rate"],
            channels=message["channels"],
        )
        self._table = CallTable(
            self._console.width, message["fields"], message["speakers"], seconds or _LONG_SECONDS
        )
        self._table.begin(audio, message["model"], self._console)

    def _progress(self, message: dict[str, Any]) -> None:
        from rich.cells import set_cell_size

        from speechmeta.visible import visible_line

        who = f"{message['speaker']}: " if message["speaker"] else ""
        room = max(20, self._console.width - 2)
        # Of a long turn the end is what is new.
        words = f"{who}{message['Transcript']}"[-room:]
        sys.stderr.write(f"\r\x1b[K{set_cell_size(visible_line(words), room).rstrip()}")
        sys.stderr.flush()
        self._open = True


class _AnyLabel:
    """The labels of a checkpoint that is only at the server."""

    def __contains__(self, label: object) -> bool:
        return True

    def __getitem__(self, field: str) -> _AnyLabel:
        return self


def _turn(data: dict[str, Any]) -> Turn:
    from speechmeta.schema import Turn

    return Turn.model_validate(data, context={"label_sets": _AnyLabel()})


def _report(data: dict[str, Any]) -> CallReport:
    from speechmeta.schema import CallReport

    return CallReport.model_validate(data, context={"label_sets": _AnyLabel()})


def _asked(call: CallOptions) -> dict[str, Any]:
    """The options that are not the defaults, as the server takes them."""
    own = {"limits", "raw"}
    asked: dict[str, Any] = call.model_dump(mode="json", exclude_defaults=True, exclude=own)
    return asked


@contextmanager
def _connected(url: str, api_key_file: Path | None) -> Iterator[ClientConnection]:
    from websockets.exceptions import InvalidHandshake, InvalidStatus, InvalidURI
    from websockets.sync.client import connect

    headers = {}
    if api_key_file is not None:
        headers["Authorization"] = f"Bearer {_key_of(api_key_file)}"
    try:
        # Of who sends faster than in real time the pings wait too.
        socket = connect(url, additional_headers=headers, max_size=None, ping_interval=None)
    except InvalidStatus as error:
        raise _refusal(error.response.status_code, error.response.body) from None
    except (InvalidURI, ValueError) as error:
        raise UsageError(f"{url} is no address of live calls", f"such as {ADDRESS}") from error
    except (OSError, InvalidHandshake) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise EndpointError(
            f"{url} cannot be reached: {reason}", "is speechmeta serve running there?"
        ) from error
    with socket:
        yield socket


def _refusal(status: int, body: bytes | bytearray | None) -> SpeechMetaError:
    try:
        told = json.loads(body or b"")
        return EndpointError(str(told["message"]), str(told["hint"]))
    except (ValueError, KeyError, TypeError):
        return EndpointError(f"the server answers {status}", "check --url and --api-key-file")


def _key_of(path: Path) -> str:
    try:
        lines = path.read_text(encoding="utf-8").split()
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"cannot read {path}", "check --api-key-file") from error
    if not lines:
        raise UsageError(f"{path} holds no key", "write it on its first line")
    return lines[0]


@contextmanager
def _set_by_signal(ended: threading.Event) -> Iterator[None]:
    """Ctrl-C ends the sound; once more, everything."""

    def heard(number: int, frame: FrameType | None) -> None:
        if ended.is_set():
            raise KeyboardInterrupt
        ended.set()

    before = signal.signal(signal.SIGINT, heard)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


def _talked(socket: ClientConnection, sound: _Sound, shown: _Shown | _Printed) -> dict[str, Any]:
    """Sends the sound, shows what comes, and returns the report.

    Raises:
        EndpointError: there is none.
    """
    from websockets.exceptions import ConnectionClosed

    ready, faults = threading.Event(), list[SpeechMetaError]()
    sending = threading.Thread(
        target=_send, args=(socket, sound, ready, faults.append), daemon=True
    )
    sending.start()
    report: dict[str, Any] | None = None
    try:
        while report is None:
            try:
                # Short, so that Ctrl-C is heard.
                text = str(socket.recv(timeout=0.5))
            except TimeoutError:
                continue
            message = json.loads(text)
            shown.message(message, text)
            if message["type"] == "ready":
                ready.set()
            elif message["type"] == "report":
                report = message["report"]
            elif message["type"] == "error" and message["fatal"]:
                raise EndpointError(str(message["message"]), str(message["hint"]))
    except ConnectionClosed as error:
        raise EndpointError(
            "the server closed the connection before the report came", "its log may say why"
        ) from error
    finally:
        shown.close()
        sound.ended.set()
        ready.set()
    sending.join(5)
    if faults:
        raise faults[0]
    return report


def _send(
    socket: ClientConnection,
    sound: _Sound,
    ready: threading.Event,
    fault: Callable[[SpeechMetaError], None],
) -> None:
    from websockets.exceptions import ConnectionClosed

    ready.wait()
    try:
        try:
            for frame in sound.frames():
                socket.send(frame)
        except SpeechMetaError as error:
            fault(error)
        socket.send(json.dumps({"type": "stop"}))
    except ConnectionClosed:
        # Whoever receives tells it.
        return


def _see_that_it_can_be_written(output: Path) -> None:
    """Before the call, as its report comes only once.

    Raises:
        OutputError: the file exists, or none can be made there.
    """
    from speechmeta.writers.files import output_error

    if output.exists():
        raise OutputError(f"{output} exists", "name another file")
    try:
        with tempfile.TemporaryFile(dir=output.parent):
            pass
    except OSError as error:
        raise output_error(error, output) from error


def _write(report: dict[str, Any], output: Path) -> None:
    from speechmeta.writers import get_writer

    get_writer("json").write(_report(report), output, overwrite=False)
