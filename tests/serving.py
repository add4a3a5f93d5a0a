"""Servers for tests: a fake model behind the real application and real sockets."""

from __future__ import annotations

import io
import socket
import threading
import wave
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx2
import numpy as np
import numpy.typing as npt
import uvicorn
from fakes import FakeEngine

from speechmeta.decoding.record import DecodedRecord
from speechmeta.errors import SpeechMetaError
from speechmeta.pipeline.analyzer import Analyzer
from speechmeta.pipeline.options import CallOptions
from speechmeta.schema import CallReport, Turn
from speechmeta.server.options import ServeOptions
from speechmeta.server.running import address_of, listen, prepared
from speechmeta.server.web import Server


class GatedEngine(FakeEngine):
    """A `FakeEngine` that decodes only while its gate is open."""

    def __init__(self) -> None:
        super().__init__()
        self.gate = threading.Event()
        self.gate.set()
        self.entered = threading.Semaphore(0)

    def decode(
        self,
        waveforms: Sequence[npt.NDArray[np.float32]],
        fields: Sequence[str] | None = None,
        instruction: str | None = None,
        word_times: bool = False,
    ) -> list[DecodedRecord | SpeechMetaError]:
        self.entered.release()
        assert self.gate.wait(120)
        return super().decode(waveforms, fields, instruction, word_times)


@dataclass(frozen=True)
class Running:
    """A server that answers at `address`."""

    server: Server
    address: str
    engine: GatedEngine
    uvicorn: uvicorn.Server
    stop: Callable[[], None]
    """Asks it to stop, as a signal does."""

    def client(self, **options: Any) -> httpx2.Client:
        return httpx2.Client(base_url=self.address, timeout=120, **options)

    def port(self) -> int:
        return int(self.address.rpartition(":")[2])

    def connect(self) -> socket.socket:
        found = socket.create_connection(("127.0.0.1", self.port()))
        found.settimeout(30)
        return found


@contextmanager
def running(
    call: CallOptions | None = None,
    sink: str | None = None,
    analyzer: Analyzer | None = None,
    **options: Any,
) -> Iterator[Running]:
    """Serves on a free port, with one reader; a fake model unless there is an analyzer."""
    chosen = ServeOptions(**{"port": 0, "readers": 1, **options})
    engine = GatedEngine()
    server = Server(analyzer or Analyzer.from_engine(engine), chosen, call, sink=sink)
    server.start()
    with listen(chosen) as listening:
        begun = threading.Event()
        answering = prepared(server, begun.set)
        thread = threading.Thread(target=answering.run, kwargs={"sockets": [listening]})
        thread.start()
        assert begun.wait(60)

        def stop() -> None:
            answering.should_exit = True

        found = Running(server, address_of(listening), engine, answering, stop)
        try:
            _warm(server)
            yield found
        finally:
            engine.gate.set()
            stop()
            thread.join(60)
            server.close()
    assert not thread.is_alive()


def _warm(server: Server) -> None:
    """Waits until a reader has started, which takes long on a busy machine."""
    ended = threading.Event()

    class Deaf:
        def begun(self) -> None:
            pass

        def turns(self, turns: Sequence[Turn]) -> None:
            pass

        def ended(self, outcome: CallReport | SpeechMetaError) -> None:
            ended.set()

    server.served.service.submit(Path("absent.wav"), CallOptions(), Deaf(), in_background=True)
    assert ended.wait(300)


def wav_bytes(samples: npt.NDArray[np.float32], rate: int) -> bytes:
    """A 16-bit WAV file of (samples,) or (channels, samples)."""
    rows = np.atleast_2d(samples)
    made = io.BytesIO()
    with wave.open(made, "wb") as file:
        file.setnchannels(len(rows))
        file.setsampwidth(2)
        file.setframerate(rate)
        file.writeframes(np.round(rows.T * 32767).astype("<i2").tobytes())
    return made.getvalue()


def tone_bytes(seconds: float = 1.0, rate: int = 16000) -> bytes:
    """A tone, which without voice activity detection is one turn."""
    times = np.arange(round(seconds * rate)) / rate
    return wav_bytes((0.25 * np.sin(2 * np.pi * 440 * times)).astype(np.float32), rate)
