"""Hostile clients against a server, and what honest ones get meanwhile.

    python benchmarks/adversary.py --out benchmarks/results/adversary-cpu.txt

Attackers, all of one address (127.0.0.2, as Linux has it), send requests that are wrong in every
way that `requests` knows, headers and bodies a byte at a time, halves of requests, recordings that
are large when decoded, floods; they leave while their recording is read. Honest clients of another
address send the first 4 s of the example call all the while, and come again when they are told to
(429). Measured are their answers with and without the attackers, faults in the log, the server's
memory and open files, and first, one after the other, what each kind of attack costs the server.
Takes three times `--seconds` and about two minutes.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import os
import platform
import random
import re
import socket
import subprocess
import sys
import tempfile
import threading
import time
import wave
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

BOUNDARY = "b0undary"
FORM = f"multipart/form-data; boundary={BOUNDARY}"
JSON = "application/json"
URLENCODED = "application/x-www-form-urlencoded"

OURS, OTHERS = "127.0.0.1", "127.0.0.2"
"""Addresses of honest clients, and of attackers."""


def request(
    body: bytes, kind: str = JSON, path: str = "/v1/analyze", method: str = "POST", head: str = ""
) -> bytes:
    """A request that is well-formed as HTTP."""
    lines = [f"{method} {path} HTTP/1.1", "Host: localhost", "Connection: close"]
    lines += [f"Content-Type: {kind}"] if kind else []
    lines += [f"Content-Length: {len(body)}"]
    lines += [head] if head else []
    return "\r\n".join(lines).encode("utf-8", "surrogateescape") + b"\r\n\r\n" + body


def part(name: str, value: bytes, more: str = "") -> bytes:
    """One field of a form."""
    return (
        f'--{BOUNDARY}\r\nContent-Disposition: form-data; name="{name}"{more}\r\n\r\n'.encode(
            "utf-8", "surrogateescape"
        )
        + value
        + b"\r\n"
    )


END = f"--{BOUNDARY}--\r\n".encode()


def tone(seconds: float = 0.2, rate: int = 8000) -> bytes:
    made = io.BytesIO()
    with wave.open(made, "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(rate)
        file.writeframes(bytes(random.Random(1).randbytes(2 * round(seconds * rate))))
    return made.getvalue()


def beginning(path: Path, seconds: float) -> bytes:
    """The first seconds of a WAV file, as one."""
    made = io.BytesIO()
    with wave.open(str(path)) as source, wave.open(made, "wb") as file:
        file.setparams(source.getparams())
        file.writeframes(source.readframes(round(seconds * source.getframerate())))
    return made.getvalue()


def upload(data: bytes, name: str = "a.wav", more: bytes = b"") -> bytes:
    """A form with a recording."""
    return more + part("file", data, f'; filename="{name}"') + END


def wrong_json() -> Iterator[tuple[str, bytes]]:
    """Bodies that are no JSON, or JSON of wrong types."""
    texts: dict[str, Any] = {
        "nothing": b"", "half": b'{"path": ', "list": b"[]", "null": b"null", "number": b"1",
        "deep": b"[" * 100_000, "deep object": b'{"options":' * 20_000 + b"1",
        "bytes": bytes(range(256)), "utf-16": '{"path": "a"}'.encode("utf-16"),
        "long number": b'{"path": ' + b"1" * 10_000 + b"}",
        "large": b'{"path": "' + b"a" * (1 << 20) + b'"}',
    }  # fmt: skip
    for name, body in texts.items():
        yield f"json: {name}", body
    tone_path = {"path": "tone.wav"}
    values: list[Any] = [
        5, -1, 1e308, 10**400, float("nan"), float("inf"), True, [], {}, [[]], [{}], {"a": 1},
        "\ud800", "\0", "x" * 70_000, "../" * 50, "\u202e", ["\ud800"], {"\ud800": 1}, [None],
    ]  # fmt: skip
    keys = (
        "path language prompt stream options fields roles min_pause turns limits max_hours rules "
        "raw vad policy speakers speaker_model webhook call_schema model hotwords redact word_times"
    )
    for key in [*keys.split(), "\ud800", "__class__", "", "a.b.c"]:
        for value in values:
            data = {**tone_path, key: value}
            if key != "path" and (value is True or _may_be(key, value)):
                continue
            yield f"json: {key!a}={value!a}"[:60], json.dumps(data).encode()


def _may_be(key: str, value: Any) -> bool:
    """Whether it is strange, but what the option takes."""
    if key in ("options", "turns", "limits") and value == {}:
        return True
    return (key == "roles" and isinstance(value, str) and value != "\ud800") or (
        key in ("min_pause", "max_hours", "speakers") and value in (5, 1e308)
    )


def wrong_forms() -> Iterator[tuple[str, bytes, str]]:
    """Bodies that are no forms, or not what a form has to be; with their content types."""
    good = upload(tone())
    bodies: dict[str, bytes] = {
        "empty": b"", "only the end": END, "no end": part("file", tone(), '; filename="a"'),
        "other boundary": good.replace(BOUNDARY.encode(), b"other"),
        "bytes": bytes(range(256)) * 40,
        "line feeds": good.replace(b"\r\n", b"\n"),
        "no name": f"--{BOUNDARY}\r\nContent-Disposition: form-data\r\n\r\nx\r\n".encode() + END,
        "no disposition": f"--{BOUNDARY}\r\nX: y\r\n\r\nx\r\n".encode() + END,
        "no colon": f"--{BOUNDARY}\r\nContent Disposition\r\n\r\nx\r\n".encode() + END,
        "folded": f"--{BOUNDARY}\r\nContent-Disposition:\r\n form-data\r\n\r\nx\r\n".encode() + END,
        "long header": f"--{BOUNDARY}\r\nX: {'y' * 100_000}\r\n\r\nx\r\n".encode() + END,
        "headers": f"--{BOUNDARY}\r\n".encode() + b"X: y\r\n" * 5000 + b"\r\nx\r\n" + END,
        "many fields": b"".join(part(f"f{i}", b"x") for i in range(500)) + END,
        "long field": part("language", b"x" * 200_000) + END,
        "long name": part("n" * 60_000, b"x") + END,
        "two files": part("file", tone(), '; filename="a"') + good,
        "another file": part("other", tone(), '; filename="a"') + END,
        "path and file": part("path", b"tone.wav") + good,
        "twice": part("vad", b"false") * 2 + good,
        "surrogates": part("language", b"\xed\xa0\x80") + good,
        "bytes in a name": part("\udcff\udcfe", b"x") + good,
        "bytes in a value": part("prompt", b"\xff\xfe\x00") + part("path", b"absent.wav") + END,
        "lists": part("path[]", b"a") + part("options[]", b"{}") + END,
        "encoding": part("path", b"x", "\r\nContent-Transfer-Encoding: nonsense") + END,
    }  # fmt: skip
    for name, body in bodies.items():
        yield f"form: {name}", body, FORM
    for kind in ("multipart/form-data", "multipart/form-data; boundary=",
                 f"multipart/form-data; boundary={'x' * 5000}", f"{FORM}; charset=nonsense",
                 "multipart/mixed; boundary=b0undary", "application/octet-stream", "", "x" * 500,
                 "multipart/form-data; boundary=\"", "application/json; charset=x"):  # fmt: skip
        yield f"type: {kind[:40]}", part("path", b"absent.wav") + END, kind
    for body in (b"%zz=%", b"path=%00", b"path=a&path=b", b"&;=&;=" * 100, b"=" * 70_000,
                 b"path=" + b"x" * 70_000, b"\xff\xfe", b"path=%ff%fe", b"a=1&" * 500):  # fmt: skip
        yield f"urlencoded: {body[:20]!a}", body, URLENCODED
    luck = random.Random(7)
    for number in range(150):
        bytes_ = bytearray(part("vad", b"maybe") + upload(b"no recording", "a"))
        for _ in range(luck.choice((1, 2, 8))):
            at = luck.randrange(len(bytes_))
            if luck.random() < 0.5:
                bytes_[at] = luck.randrange(256)
            else:
                del bytes_[at : at + luck.randrange(1, 20)]
        yield f"form: changed {number}", bytes(bytes_), FORM


def wrong_recordings() -> Iterator[tuple[str, bytes, str]]:
    """Files that are no recordings, or claim too much; with their names."""
    wav = tone()
    sizes = wav[:4] + b"\xff\xff\xff\xff" + wav[8:40] + b"\xff\xff\xff\xff"
    yield "claims 4 GB of nothing", sizes, "a.wav"
    yield "no rate", wav[:24] + bytes(8) + wav[32:], "a.wav"
    yield "half a head", wav[:30], "a.wav"
    yield (
        "playlist",
        b"#EXTM3U\n#EXT-X-TARGETDURATION:1\n#EXTINF:1,\nfile:///etc/passwd\n",
        "a.m3u8",
    )
    yield "concat", b"ffconcat version 1.0\nfile /etc/passwd\n", "a.ffconcat"
    yield "text", b"no recording at all\n" * 100, "a.mp3"
    yield "atoms", b"\x7f\xff\xff\xffftypM4A \0\0\0\0" + b"\x7f\xff\xff\xffmoov" * 50, "a.m4a"
    yield "empty", b"", "a.wav"
    yield "many channels", wav[:22] + b"\xff\xff" + wav[24:], "a.wav"
    for name in ("../../etc/passwd", "..\\..\\x", "/etc/shadow", "a\0.wav", ".", "..", "", " ",
                 "x" * 3000, "\u202egnp.wav", "con.wav", "-rf", "\udcff\udcfe"):  # fmt: skip
        yield f"name {name[:20]!a}", b"no recording", name
    yield "bomb", flac_of_silence(1), "a.flac"


def flac_of_silence(hours: float) -> bytes:
    """A FLAC file of digital silence: constant blocks of 65,535 samples, each in 16 bytes.

    https://www.rfc-editor.org/rfc/rfc9639; 16 bit, one channel, 48 kHz; an hour is 42 kB.
    """
    rate, block = 48_000, 65_535
    count = round(hours * 3600 * rate / block)
    fields = block << 16 | block
    info = fields.to_bytes(4, "big") + bytes(6)
    info += (rate << 44 | 0 << 41 | 15 << 36 | count * block).to_bytes(8, "big") + bytes(16)
    made = bytearray(b"fLaC\x80" + len(info).to_bytes(3, "big") + info)
    for number in range(count):
        # Fixed blocks; the size follows in 16 bits; rate of the head; one channel of 16 bits.
        head = b"\xff\xf8\x70\x08" + chr(number).encode() + (block - 1).to_bytes(2, "big")
        head += bytes([_crc(head, 8, 0x07)])
        frame = head + b"\x00\x00\x00"  # a constant subframe of zeros
        made += frame + _crc(frame, 16, 0x8005).to_bytes(2, "big")
    return bytes(made)


def _crc(data: bytes, bits: int, polynomial: int) -> int:
    value, top, mask = 0, 1 << (bits - 1), (1 << bits) - 1
    for byte in data:
        value ^= byte << (bits - 8)
        for _ in range(8):
            value = (value << 1 ^ polynomial if value & top else value << 1) & mask
    return value


def wrong_http() -> Iterator[tuple[str, bytes]]:
    """What is hardly HTTP, or asks for strange things."""
    head = b"POST /v1/analyze HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n"
    kind = b"Content-Type: application/json\r\n"
    bodies: dict[str, bytes] = {
        "tls": b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(50),
        "nonsense": bytes(range(1, 200)) + b"\r\n\r\n",
        "version": b"GET / HTTP/9.9\r\n\r\n", "0.9": b"GET /\r\n\r\n",
        "no host": b"GET /healthz HTTP/1.1\r\n\r\n",
        "two hosts": b"GET /healthz HTTP/1.1\r\nHost: localhost\r\nHost: evil\r\n\r\n",
        "evil host": b"GET /v1/models HTTP/1.1\r\nHost: evil.example\r\nConnection: close\r\n\r\n",
        "evil origin": head + kind + b"Origin: http://evil.example\r\nContent-Length: 2\r\n\r\n{}",
        "long header": b"GET /healthz HTTP/1.1\r\nHost: localhost\r\nX: " + b"y" * 200_000,
        "many headers": b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n" + b"a: b\r\n" * 20_000,
        "long address": b"GET /" + b"x" * 200_000 + b" HTTP/1.1\r\nHost: localhost\r\n\r\n",
        "nul": b"GET /healthz HTTP/1.1\r\nHost: localhost\r\nX: a\0b\r\n\r\n",
        "negative length": head + b"Content-Length: -5\r\n\r\n",
        "two lengths": head + b"Content-Length: 2\r\nContent-Length: 7\r\n\r\n{}xxxxx",
        "huge length": head + kind + b"Content-Length: 99999999999999999999\r\n\r\n{}",
        "smuggled": head + kind + b"Content-Length: 2\r\nTransfer-Encoding: chunked\r\n\r\n{}",
        "encoding": head + kind + b"Transfer-Encoding: gzip\r\n\r\n{}",
        "chunk": head + kind + b"Transfer-Encoding: chunked\r\n\r\nzz\r\n{}\r\n0\r\n\r\n",
        "negative chunk": head + kind + b"Transfer-Encoding: chunked\r\n\r\n-1\r\n{}\r\n0\r\n\r\n",
        "chunk's end": head + kind + b"Transfer-Encoding: chunked\r\n\r\n2;" + b"x" * 100_000,
        "too much": head + kind + b"Transfer-Encoding: chunked\r\n\r\n"
                    + b"100000\r\n" + b" " * (1 << 20) + b"\r\n100000\r\n" + b" " * (1 << 20)
                    + b"\r\n0\r\n\r\n",
        "websocket": b"GET /v1/analyze HTTP/1.1\r\nHost: localhost\r\nUpgrade: websocket\r\n"
                     b"Connection: Upgrade\r\nSec-WebSocket-Key: eA==\r\n"
                     b"Sec-WebSocket-Version: 13\r\n\r\n",
        "h2": b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    }  # fmt: skip
    for name, data in bodies.items():
        yield f"http: {name}", data
    for method in ("TRACE", "PUT", "CONNECT", "FOO", "get"):
        yield f"method: {method}", request(b"", "", "/v1/analyze", method)
    for path in ("/v1/jobs/..%2f..%2fetc%2fpasswd", "/v1/jobs/%00", "/v1/jobs/%ff%fe",
                 "/v1/jobs/" + "x" * 8000, "/../../etc/passwd", "//evil.example/", "/%",
                 "/v1/models/%ed%a0%80", "/v1/models/../../etc", "/static/../app.py"):  # fmt: skip
        yield f"path: {path[:30]}", request(b"", "", path, "GET")
    for path in ("../secret.wav", "/etc/passwd", "....//x", "%2e%2e/x", "a\0b", "~/x", "file:///x",
                 "http://127.0.0.1/x", "s3://bucket/x", "-", "C:\\x", "x" * 5000):  # fmt: skip
        yield f"root: {path[:20]!a}", request(json.dumps({"path": path}).encode())
    for path in ("/docs?x=" + "y" * 5000, "/openapi.json?" + "a&" * 3000):
        yield f"query: {path[:12]}", request(b"", "", "/v1/nothing" + path, "GET")


def requests() -> Iterator[tuple[str, bytes]]:
    """Every wrong request, by a name; none of them may get anything but a refusal."""
    for name, body in wrong_json():
        yield name, request(body)
        if "options" in name or "stream" in name or "path" in name or "webhook" in name:
            yield f"job {name}", request(body, path="/v1/jobs")
    transcriptions = "/v1/audio/transcriptions"
    for key in ("model", "response_format", "timestamp_granularities", "temperature", "language",
                "timestamp_granularities[]"):  # fmt: skip
        for value in (5, [], [[]], {}, "\ud800", [{}], "x" * 1000, 10**400):
            data = {"path": "tone.wav", "model": "whisper-1", key: value}
            if key.startswith("timestamp") and value == []:
                continue
            yield f"openai {key}={value!a}"[:60], request(json.dumps(data).encode(), JSON,
                                                          transcriptions)  # fmt: skip
    for name, body, kind in wrong_forms():
        yield name, request(body, kind)
    for name, data, called in wrong_recordings():
        yield f"recording: {name}", request(upload(data, called), FORM)
    yield from wrong_http()


def connected(port: int, address: str = OURS, seconds: float = 60.0) -> socket.socket:
    """A connection from one of this machine's addresses."""
    return socket.create_connection(("127.0.0.1", port), seconds, (address, 0))


def answered(
    port: int,
    data: bytes,
    seconds: float = 60.0,
    half_close: bool = False,
    address: str = OURS,
) -> bytes:
    """What the server says to bytes; nothing where it hangs up."""
    with connected(port, address, seconds) as connection:
        found = bytearray()
        # It may hang up on a request that is not yet whole.
        with contextlib.suppress(ConnectionError, BrokenPipeError):
            connection.sendall(data)
            if half_close:
                connection.shutdown(socket.SHUT_WR)
        with contextlib.suppress(ConnectionError):
            while piece := connection.recv(65536):
                found += piece
                head, found_end, body = bytes(found).partition(b"\r\n\r\n")
                length = re.search(rb"(?i)content-length: (\d+)", head)
                if found_end and length and len(body) >= int(length[1]):
                    return head + found_end + body[: int(length[1])]
        return bytes(found)


def status_of(answer: bytes) -> int:
    """The status of an answer; 0 for none."""
    return int(answer.split(b" ", 2)[1]) if answer.startswith(b"HTTP/1.1 ") else 0


def leave(port: int, data: bytes, seconds: float) -> None:
    """Sends a request and does not wait for the answer."""
    with (
        connected(port, OTHERS) as connection,
        contextlib.suppress(ConnectionError),
    ):
        connection.sendall(data)
        time.sleep(seconds)


def dawdle(port: int, data: bytes, until: float) -> None:
    """Sends a byte of a request every second, until that is enough or the server hangs up."""
    with connected(port, OTHERS) as connection:
        connection.settimeout(1.0)
        with contextlib.suppress(ConnectionError):
            for byte in data:
                connection.sendall(bytes([byte]))
                with contextlib.suppress(TimeoutError):
                    if not connection.recv(4096):
                        return
                if time.monotonic() > until:
                    return


class Attackers:
    """Threads that do all this to a server; `got` counts the statuses of their answers."""

    KINDS = ("dawdles", "leaves", "half a request", "floods", "bomb", "wrong request")
    SHARES = (15, 15, 10, 10, 5, 45)

    def __init__(self, port: int, call: bytes) -> None:
        self._port = port
        self._good = request(upload(call), FORM)
        self._bomb = request(upload(flac_of_silence(1), "a.flac"), FORM)
        # The tests' model takes no words to expect; this one takes any text for some.
        self._requests = [item for item in requests() if "'prompt'" not in item[0]]
        self.got: Counter[int] = Counter()
        self.wrong: Counter[str] = Counter()

    def attack(self, kind: str, luck: random.Random, until: float) -> None:
        """Once."""
        good = self._good
        # A full backlog, or a server that hangs up at once, is for the attacker to bear.
        with contextlib.suppress(OSError):
            if kind == "dawdles":
                dawdle(self._port, good[: luck.choice((100, 400, 4000))], until)
            elif kind == "leaves":
                leave(self._port, good, luck.random())
            elif kind == "half a request":
                self._answer(good[: luck.randrange(len(good))], half_close=True)
            elif kind == "floods":
                self.got[status_of(self._answer(good))] += 1
            else:
                name, data = kind, self._bomb
                if kind != "bomb":
                    name, data = luck.choice(self._requests)
                status = status_of(self._answer(data))
                self.got[status] += 1
                if status == 200 or (status >= 500 and status != 503):
                    self.wrong[f"{status} {name}"] += 1

    def all_at_once(self, count: int, until: float) -> list[threading.Thread]:
        """So many of them, begun; each attacks in all ways until the end."""

        def run(number: int) -> None:
            luck = random.Random(number)
            while time.monotonic() < until:
                (kind,) = luck.choices(self.KINDS, self.SHARES)
                self.attack(kind, luck, until)

        threads = [
            threading.Thread(target=run, args=(number,), daemon=True) for number in range(count)
        ]
        for thread in threads:
            thread.start()
        return threads

    def _answer(self, data: bytes, half_close: bool = False) -> bytes:
        return answered(self._port, data, 600, half_close, OTHERS)


class Honest:
    """Clients that send a call again and again, and come back when they are told to."""

    def __init__(self, port: int, call: bytes, count: int) -> None:
        self._port, self._count = port, count
        self._data = request(upload(call), FORM)

    def served(self, seconds: float) -> dict[str, Any]:
        """What they get for so long, one answer each at least."""
        begun = time.monotonic()
        statuses: Counter[int] = Counter()
        waits: list[float] = []

        def run() -> None:
            goes_on = True
            while goes_on:
                first = time.monotonic()
                while (answer := self._sent(statuses)) is not None:
                    again = re.search(rb"(?i)retry-after: (\d+)", answer)
                    time.sleep(float(again[1]) if again else 1.0)
                waits.append(time.monotonic() - first)
                goes_on = time.monotonic() + 0.5 < begun + seconds
                if goes_on:
                    time.sleep(0.5)

        threads = [threading.Thread(target=run) for _ in range(self._count)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        passed = time.monotonic() - begun
        ordered = sorted(waits)
        return {
            "answers_per_minute": round(60 * len(waits) / passed, 2),
            "answers": len(waits),
            "median": round(ordered[len(ordered) // 2], 2),
            "p95": round(ordered[min(len(ordered) - 1, int(0.95 * len(ordered)))], 2),
            "longest": round(ordered[-1], 2),
            "told_429": statuses[429],
            "failed": sum(statuses.values()) - statuses[200] - statuses[429],
        }

    def _sent(self, statuses: Counter[int]) -> bytes | None:
        """Sends the call once; None where that was its end."""
        answer = answered(self._port, self._data, 600)
        status = status_of(answer)
        statuses[status] += 1
        return answer if status == 429 else None


class Watched:
    """A server's processes."""

    def __init__(self, pid: int) -> None:
        import psutil

        self._process = psutil.Process(pid)

    def cpu(self) -> float:
        """Processor seconds so far; of workers that live."""
        processes = [self._process, *self._process.children(recursive=True)]
        times = [process.cpu_times() for process in processes]
        return sum(item.user + item.system for item in times)

    def state(self) -> tuple[int, int]:
        """Resident memory in MB and open files."""
        return self._process.memory_info().rss // 2**20, self._process.num_fds()


def costs(
    attackers: Attackers, honest: Honest, watched: Watched, times: int
) -> Iterator[tuple[str, float]]:
    """Processor seconds of the server for each attack of a kind, and for an honest call."""
    luck = random.Random(3)
    for kind in ("honest call", *attackers.KINDS):
        before = watched.cpu()
        count = 1 if kind == "bomb" else times
        for _ in range(count):
            if kind == "honest call":
                honest.served(0.0)
            else:
                attackers.attack(kind, luck, time.monotonic() + 3.0)
        # What was left behind ends too.
        time.sleep(2.0)
        yield kind, (watched.cpu() - before) / count


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seconds", type=int, default=60, help="alone, and as many attacked")
    parser.add_argument("--attackers", type=int, default=16)
    parser.add_argument("--honest", type=int, default=2, help="clients")
    parser.add_argument("--readers", type=int, default=2)
    parser.add_argument("--max-queue", type=int, default=32)
    parser.add_argument("--out", type=Path, help="also write what is printed to this file")
    chosen = parser.parse_args()
    lines: list[str] = []

    def tell(line: str) -> None:
        print(line, flush=True)
        lines.append(line)

    tell(f"# python benchmarks/adversary.py {' '.join(sys.argv[1:])}".rstrip())
    load = f"load {os.getloadavg()[0]:.1f}"
    tell(f"# {platform.machine()}, {os.cpu_count()} cores, {load}; times are in seconds")
    call = beginning(Path(__file__).parents[1] / "examples" / "call.wav", 4.0)
    with tempfile.TemporaryDirectory() as place:
        log = Path(place, "log")
        root = Path(place, "root")
        root.mkdir()
        (root / "tone.wav").write_bytes(tone())
        run = [sys.executable, "-m", "speechmeta.cli", "serve", "--port", "0", "--log-format",
               "json", "--readers", str(chosen.readers), "--root", str(root), "--state",
               str(Path(place, "state")), "--max-upload-mb", "2", "--max-queue",
               str(chosen.max_queue)]  # fmt: skip
        with log.open("wb") as errors, subprocess.Popen(run, stderr=errors) as server:
            try:
                while "listening on " not in (text := log.read_text()):
                    if server.poll() is not None:
                        raise SystemExit(text)
                    time.sleep(0.2)
                port = int(text.partition("listening on ")[2].split()[0].rpartition(":")[2])
                watched, honest = Watched(server.pid), Honest(port, call, chosen.honest)
                attackers = Attackers(port, call)
                Honest(port, call, 2 * chosen.readers).served(0.0)  # starts what starts late
                found: dict[str, Any] = {
                    "cpu_seconds_each": {
                        kind: round(seconds, 3)
                        for kind, seconds in costs(attackers, Honest(port, call, 1), watched, 4)
                    }
                }
                before = watched.state()
                phases = {"alone": honest.served(chosen.seconds)}
                attackers.got.clear()
                threads = attackers.all_at_once(chosen.attackers, time.monotonic() + chosen.seconds)
                phases["attacked"] = honest.served(chosen.seconds)
                during = watched.state()
                for thread in threads:
                    thread.join(300)
                phases["afterwards"] = honest.served(chosen.seconds / 4)
                ended = watched.state()
            finally:
                server.terminate()
        written = log.read_text().splitlines()[1:]
    logged = [json.loads(line) for line in written if line.startswith("{")]
    strange = [line for line in written if not line.startswith("{")]
    faults = Counter(
        f"{line.get('kind')} {line.get('where')}" for line in logged if line["event"] == "fault"
    )
    tell("processor seconds of the server for each:")
    for kind, seconds in found["cpu_seconds_each"].items():
        tell(f"  {kind:<15} {seconds:.3f}")
    tell(f"\n{chosen.honest} honest clients, {chosen.attackers} attackers")
    names = list(phases["alone"])
    tell(f"  {'':<18} " + " ".join(f"{phase:>11}" for phase in phases))
    for name in names:
        tell(f"  {name:<18} " + " ".join(f"{row[name]:>11}" for row in phases.values()))
    tell(f"\nattackers: statuses {dict(sorted(attackers.got.items()))}")
    tell(f"attackers: answers that should not be {dict(attackers.wrong)}")
    tell(f"memory MB, open files: before {before}, attacked {during}, afterwards {ended}")
    tell(f"log: {len(logged)} lines, faults {dict(faults)}, not JSON {strange[:5]}")
    share = phases["attacked"]["answers_per_minute"] / phases["alone"]["answers_per_minute"]
    tell(
        json.dumps(
            {"benchmark": "adversary", **found, "honest": phases, "attacked_of_alone": share,
             "faults": sum(faults.values()), "wrong_answers": sum(attackers.wrong.values())}
        )
    )  # fmt: skip
    if chosen.out:
        chosen.out.write_text("\n".join(lines) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
