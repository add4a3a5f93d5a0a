"""Live calls: how soon turns are told, how they compare with the file's, and memory over an hour.

    python benchmarks/live.py delay [--data ../shared/speech] [--calls 4] [--seconds 90]
    python benchmarks/live.py equality --data ../shared/speech [--calls 4] [--words] [--seconds 30]
    python benchmarks/live.py memory [--hours 1]

`delay` starts `speechmeta serve` and sends it calls at once, 20 ms at a time as a telephone does,
on both channels. The delay of a turn is the time from when the last of its speech was sent (its
`end`) to when its record came. Without --data the calls are examples/call.wav, begun at different
moments; with it, calls of strangers (below). It takes the calls' length and half a minute. The work
is told too, which other programs on the machine hardly change: processor seconds of the server per
second of call, and the shares of time in which its three busiest threads were at work; the first
is the model's, whose products another of them helps with, and the calls have one of their own.

`equality` makes calls of two speakers of the `test` half of dev: on two channels and on one, as
they are and over a telephone (mu-law; once with each side leaking into the other), and compares
the turns of the call as it goes on with those of the file: the same where both ends are within
0.1 s, and with --words where the words are the same too: decoded with drafts in the live call,
without in the file. examples/call.wav comes first. A call of 30 s takes about 15 s of one core for
all its kinds, with --words 90 s.

`memory` feeds a server in this process an hour of a two-sided call as fast as it is taken, with a
stand-in for the model, and reads the size of the process after each 5 minutes of the call. What is
in flight is bounded by the server, which reads no further than 5 s ahead. An hour takes about two
minutes of one core.

The last line is one JSON object.
"""

from __future__ import annotations

import argparse
import asyncio
import bisect
import json
import os
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from websockets.asyncio.client import connect

from speechmeta.audio.live_frames import mulaw_table, samples_of
from speechmeta.audio.loading import load_audio, resample
from speechmeta.audio.telephone import over_the_line

ROOT = Path(__file__).parents[1]
EXAMPLE = ROOT / "examples" / "call.wav"
RATE = 16_000
FRAME_SECONDS = 0.02
TOLERANCE = 0.1
MEDIAN_BAR, WORST_BAR, SAME_BAR = 0.7, 1.5, 0.95


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("what", choices=["delay", "equality", "memory"])
    parser.add_argument("--data", type=Path, help="the folder that holds dev.jsonl")
    parser.add_argument("--calls", type=int, default=4)
    parser.add_argument("--seconds", type=float, default=90.0, help="of each call")
    parser.add_argument("--words", action="store_true", help="compare words too")
    parser.add_argument("--hours", type=float, default=1.0)
    chosen = parser.parse_args()
    run = {"delay": delay, "equality": equality, "memory": memory}[chosen.what]
    print(json.dumps({"benchmark": f"live-{chosen.what}", **run(chosen)}))


# Calls.


def strangers(data: Path, count: int, seconds: float) -> Iterator[np.ndarray]:
    """Calls (2, samples) at 16 kHz of two speakers of one source, who answer after 0.2 to 1.2 s,
    and in every fifth turn up to 0.6 s before the other has ended."""
    from diarization import FEWEST_SECONDS, _waves
    from mono_calls import pieces_of

    from speechmeta.training.manifest import Clip, read_manifest
    from speechmeta.training.splits import read_halves

    halves = read_halves(data / "dev.jsonl")
    by_speaker: dict[tuple[str, str], list[Clip]] = {}
    for clip in read_manifest(data / "dev.jsonl"):
        if clip.speech and clip.speaker and clip.transcript and halves[clip.audio] == "test":
            by_speaker.setdefault((clip.dataset, clip.speaker), []).append(clip)
    known = [
        name
        for name, clips in sorted(by_speaker.items())
        if sum(clip.duration for clip in clips) >= FEWEST_SECONDS
    ]
    random = np.random.default_rng(5)
    sources = sorted({source for source, _ in known})
    made = 0
    while made < count:
        own = [name for name in known if name[0] == sources[int(random.integers(len(sources)))]]
        if len(own) < 2:
            continue
        pair = [own[int(index)] for index in random.permutation(len(own))[:2]]
        pieces = [pieces_of(_waves(by_speaker[name], random), random, (1.0, 7.0)) for name in pair]
        yield two_sides(pieces, random, seconds)
        made += 1


def two_sides(
    pieces: Sequence[list[np.ndarray]], random: np.random.Generator, seconds: float
) -> np.ndarray:
    call = 10 ** (-60 / 20) * random.standard_normal((2, round((seconds + 12) * RATE)))
    end, who, last = RATE // 2, 0, RATE
    while end < seconds * RATE and all(pieces):
        piece = pieces[who][int(random.integers(len(pieces[who])))]
        gap = random.uniform(0.2, 1.2) if random.random() >= 0.2 else -random.uniform(0.1, 0.6)
        start = max(0, end + round(gap * RATE))
        call[who, start : start + len(piece)] += piece[: call.shape[1] - start]
        end, who = start + len(piece), 1 - who
        last = max(last, end)
    cut = call[:, : min(call.shape[1], last + RATE)]
    return (cut / max(1.0, float(np.abs(cut).max()))).astype(np.float32)


def telephone(call: np.ndarray) -> np.ndarray:
    """At 8 kHz, through a telephone's band and mu-law."""
    rows = [resample(over_the_line(row, RATE, "mulaw"), RATE, 8000) for row in call]
    return np.stack(rows)


def leaking(call: np.ndarray) -> np.ndarray:
    """Each side 20 dB quieter and 100 ms late in the other, at 8 kHz."""
    late = np.pad(call, ((0, 0), (800, 0)))[:, : call.shape[1]]
    return (call + 0.1 * late[::-1]).astype(np.float32)


def mulaw(wave: np.ndarray) -> bytes:
    table = mulaw_table()
    order = np.argsort(table, kind="stable")
    middles = (table[order][1:] + table[order][:-1]) / 2
    codes: bytes = order[np.searchsorted(middles, wave)].astype(np.uint8).T.tobytes()
    return codes


# How soon.


def delay(chosen: argparse.Namespace) -> dict[str, Any]:
    if chosen.data is None:
        call = load_audio(EXAMPLE).waveform
        times = max(1, round(chosen.seconds / (call.shape[1] / 8000)))
        calls = [np.tile(call, times) for _ in range(chosen.calls)]
    else:
        calls = [telephone(call) for call in strangers(chosen.data, chosen.calls, chosen.seconds)]
    with served() as (address, process):
        asyncio.run(talk(address, calls[0][:, : 8 * 8000], 0.0))  # the model's first turn is slow
        before, begun = threads_of(process), time.monotonic()
        found = asyncio.run(at_once(address, calls))
        lasted = time.monotonic() - begun
        spent = {name: own - before.get(name, 0.0) for name, own in threads_of(process).items()}
    delays = np.array([item for call in found for item in call])
    result = {
        "calls": len(calls),
        "turns": len(delays),
        "seconds": round(sum(call.shape[1] for call in calls) / 8000, 1),
        "cores": os.cpu_count(),
        "load": round(os.getloadavg()[0], 2),
        "median": round(float(np.median(delays)), 3),
        "p95": round(float(np.percentile(delays, 95)), 3),
        "most": round(float(delays.max()), 3),
        "cpu_per_second": round(sum(spent.values()) / sum(c.shape[1] / 8000 for c in calls), 3),
        "busiest": [round(own / lasted, 2) for own in sorted(spent.values())[:-4:-1]],
    }
    print(f"{result['turns']} turns of {len(calls)} calls at once: median {result['median']} s "
          f"(bar {MEDIAN_BAR}), 95 % within {result['p95']} s (bar {WORST_BAR}), the last after "
          f"{result['most']} s; load {result['load']}; {result['cpu_per_second']} processor "
          f"seconds per second of call, busiest threads {result['busiest']}")  # fmt: skip
    return result


def threads_of(process: int) -> dict[str, float]:
    """Processor seconds of each thread of a process."""
    found = {}
    for folder in Path(f"/proc/{process}/task").iterdir():
        # The name of a thread may hold anything, so what follows it is counted from its end.
        numbers = (folder / "stat").read_text().rpartition(")")[2].split()
        found[folder.name] = (int(numbers[11]) + int(numbers[12])) / os.sysconf("SC_CLK_TCK")
    return found


async def at_once(address: str, calls: Sequence[np.ndarray]) -> list[list[float]]:
    pauses = [0.7 * number for number in range(len(calls))]
    return await asyncio.gather(
        *(talk(address, call, pause) for call, pause in zip(calls, pauses, strict=True))
    )


async def talk(address: str, call: np.ndarray, pause: float) -> list[float]:
    """Sends a call at 8 kHz in real time; the delay of each turn in seconds."""
    await asyncio.sleep(pause)
    frame = round(8000 * FRAME_SECONDS)
    sound = mulaw(call)
    sent: list[tuple[float, float]] = []
    delays: list[float] = []
    async with connect(address, max_size=None) as socket:
        start = {"type": "start", "rate": 8000, "channels": 2, "encoding": "mulaw"}
        await socket.send(json.dumps(start))
        await socket.recv()

        async def send() -> None:
            begun = time.monotonic()
            for first in range(0, call.shape[1], frame):
                due = begun + (first + frame) / 8000
                await asyncio.sleep(max(0.0, due - time.monotonic()))
                await socket.send(sound[2 * first : 2 * (first + frame)])
                sent.append(((first + frame) / 8000, time.monotonic()))
            await socket.send('{"type": "stop"}')

        sending = asyncio.create_task(send())
        async for text in socket:
            now = time.monotonic()
            message = json.loads(text)
            if message["type"] == "turn":
                place = bisect.bisect_left(sent, (message["turn"]["end"], 0.0))
                # A turn that `stop` ended has no pause behind it.
                if place < len(sent) and not sending.done():
                    delays.append(now - sent[place][1])
            elif message["type"] in ("error", "failed"):
                raise SystemExit(f"the server says {message}")
        await sending
    return delays


class served:
    """`speechmeta serve` in a process of its own: the address of its live calls, and its number."""

    def __init__(self) -> None:
        self._place = tempfile.TemporaryDirectory()
        self._log = Path(self._place.name) / "serve.log"

    def __enter__(self) -> tuple[str, int]:
        run = [sys.executable, "-m", "speechmeta.cli", "serve", "--port", "0", "--readers", "1"]
        with self._log.open("wb") as err:
            self._process = subprocess.Popen(run, stderr=err)
        while "listening on " not in (text := self._log.read_text()):
            if self._process.poll() is not None:
                raise SystemExit(text)
            time.sleep(0.2)
        address = text.partition("listening on http://")[2].split()[0]
        return f"ws://{address}/v1/live", self._process.pid

    def __exit__(self, *_: object) -> None:
        self._process.terminate()
        self._process.wait(60)
        self._place.cleanup()


# How much alike.


def equality(chosen: argparse.Namespace) -> dict[str, Any]:
    from speechmeta.pipeline.analyzer import Analyzer

    sys.path.insert(0, str(ROOT / "tests"))
    if chosen.words:
        analyzer = Analyzer()
    else:
        from fakes import FakeEngine

        analyzer = Analyzer.from_engine(FakeEngine())
    calls: list[tuple[str, np.ndarray, int]] = []
    example = load_audio(EXAMPLE).waveform
    calls += [("example", example, 8000), ("example, mixed", example.mean(0, keepdims=True), 8000)]
    for wide in strangers(chosen.data, chosen.calls, chosen.seconds) if chosen.data else ():
        phone = telephone(wide)
        heard = samples_of(mulaw(phone), "pcm_mulaw", 2)
        calls += [("two channels, 16 kHz", wide, RATE), ("two channels, telephone", heard, 8000)]
        calls += [("two that leak, telephone", leaking(heard), 8000)]
        calls += [
            ("one channel, 16 kHz", wide.sum(0, keepdims=True) / 2, RATE),
            ("one channel, telephone", heard.sum(0, keepdims=True) / 2, 8000),
        ]
    counts: dict[str, list[int]] = {}
    for kind, wave, rate in calls:
        wave = np.ascontiguousarray(wave, np.float32)
        file = analyzer.analyze_call((wave, rate)).turns
        live = as_it_goes_on(analyzer, wave, rate)
        near = [(turn, other) for turn in file if (other := twin(turn, live)) is not None]
        words = [turn.meta.transcript == other.meta.transcript for turn, other in near]
        speakers = [turn.speaker == other.speaker for turn, other in near]
        row = [len(file), len(live), len(near), sum(words), sum(speakers)]
        counts[kind] = [a + b for a, b in zip(counts.get(kind, [0] * 5), row, strict=True)]
        print(f"{kind}: {row}", flush=True)
    print(f"\n{'':26}{'turns':>8}{'live':>8}{'alike':>8}{'words':>8}{'speaker':>8}")
    for kind, row in counts.items():
        shares = [f"{count / row[0]:.1%}" for count in row[2:]]
        if not chosen.words:
            shares[1] = "-"
        print(f"{kind:26}{row[0]:>8}{row[1]:>8}" + "".join(f"{share:>8}" for share in shares))
    return {"bar": SAME_BAR, "words": chosen.words, "counts": counts}


def twin(turn: Any, others: Sequence[Any]) -> Any | None:
    """The turn of the other that has the same ends, on the same channel."""
    for other in others:
        same = other.channel == turn.channel
        if same and max(abs(other.start - turn.start), abs(other.end - turn.end)) <= TOLERANCE:
            return other
    return None


def as_it_goes_on(analyzer: Any, wave: np.ndarray, rate: int) -> list[Any]:
    """The turns of the report of a call that comes 20 ms at a time."""
    from speechmeta.pipeline.live_call import LiveCall, LiveModel
    from speechmeta.pipeline.options import CallOptions

    facts = (analyzer.info, analyzer.label_sets, analyzer.thresholds(), analyzer.fields)
    call = LiveCall(
        CallOptions(),
        LiveModel(*facts),
        rate=rate,
        channels=len(wave),
        embedder=analyzer.embedder_source(),
        partials=False,
    )

    def decode() -> None:
        for ask in call.asks():
            (record,) = analyzer.decode_each([ask.clip], [ask.fields], drafts=[ask.draft])
            call.answer(ask.number, record)
        call.dropped()
        call.news()

    frame = round(rate * FRAME_SECONDS)
    for first in range(0, wave.shape[1], frame):
        call.push(wave[:, first : first + frame])
        decode()
    call.finish()
    decode()
    return list(call.report().turns)


# How large.


def memory(chosen: argparse.Namespace) -> dict[str, Any]:
    sys.path.insert(0, str(ROOT / "tests"))
    from serving import running

    with running(live_hours=chosen.hours + 1, client_seconds=300.0) as live:
        address = live.address.replace("http://", "ws://") + "/v1/live"
        rows = asyncio.run(fed(address, chosen.hours))
    first, last = rows[1][1], rows[-1][1]
    print(f"from the 10th minute to the end: {first:.0f} to {last:.0f} MB")
    return {"hours": chosen.hours, "mb_by_minute": rows, "growth_mb": round(last - first, 1)}


async def fed(address: str, hours: float) -> list[tuple[int, float]]:
    """The minute of the call and the size of the process in MB, every five minutes."""
    example = load_audio(EXAMPLE).waveform
    rows: list[tuple[int, float]] = []
    told = 0.0
    ended = threading.Event()
    async with connect(address, max_size=None, ping_interval=None) as socket:
        start = {"type": "start", "rate": 8000, "channels": 2, "encoding": "mulaw"}
        await socket.send(json.dumps(start))
        await socket.recv()
        sound = mulaw(example)
        size = 2 * 8000

        async def send() -> None:
            # As a caller would be told that it goes too fast: by what is not read.
            for _ in range(round(hours * 3600 / (example.shape[1] / 8000))):
                for first in range(0, len(sound), size):
                    await socket.send(sound[first : first + size])
            await socket.send('{"type": "stop"}')
            ended.set()

        sending = asyncio.create_task(send())
        async for text in socket:
            message = json.loads(text)
            if message["type"] == "measures" and message["at"] >= told + 300:
                told += 300
                rows.append((round(told / 60), resident()))
                print(f"minute {rows[-1][0]}: {rows[-1][1]:.0f} MB", flush=True)
        await sending
    rows.append((round(60 * hours), resident()))
    return rows


def resident() -> float:
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 2**20


if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).parent))
    main()
