"""The server under load: beside `batch` on the same calls, latencies, and more clients than fit.

    pip install -r benchmarks/requirements.txt
    python benchmarks/server.py --out benchmarks/results/server-cpu.txt

Locust (https://locust.io) sends a number of calls to `POST /v1/analyze`, one after the other from
each client; a client that is told to come back later (429) sends the same call again after
`Retry-After`, until it is answered. `batch` analyses as many of the same calls with the same model
and readers. Two comparisons: seconds of audio a second, which is right on idle cores only, and
processor seconds for each second of audio, of all processes of the server or of `batch`, which is
right on busy ones too. What starting costs is left out of both: `batch` runs twice, and the
difference counts.

A run has `--calls` more calls than clients, so that each client sends one at least, of 6 to 24
seconds: three quarters of an hour of audio in all, which takes six minutes where the model does
ten times real time. After `--minutes` no further run is begun. Fewer clients than fill the model's
batches (the turns of some eight such calls) cost more processor time for each second of audio.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import Any
from urllib.request import urlopen

import numpy as np
import psutil
import soundfile

ROOT = Path(__file__).resolve().parent.parent
ENDINGS = (".wav", ".mp3", ".flac", ".ogg", ".m4a")
BAR = 0.85


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path, nargs="?", help="recordings; else of the example")
    parser.add_argument("--clients", type=int, nargs="+", default=[1, 4, 16, 64])
    parser.add_argument("--calls", type=int, default=12, help="of a run, beside one a client")
    parser.add_argument("--minutes", type=float, default=8.0, help="until the last run begins")
    parser.add_argument("--readers", type=int, default=1)
    parser.add_argument("--max-queue", type=int, default=32)
    parser.add_argument("--out", type=Path, help="also write the table to this file")
    chosen = parser.parse_args()
    begun = time.monotonic()
    lines: list[str] = []

    def tell(line: str) -> None:
        print(line, flush=True)
        lines.append(line)

    with tempfile.TemporaryDirectory() as name:
        place = Path(name)
        files = recordings(chosen.folder) if chosen.folder else made_calls(place)
        tell(f"# python benchmarks/server.py {' '.join(sys.argv[1:])}".rstrip())
        cores, load = os.cpu_count(), os.getloadavg()[0]
        audio = " to ".join(f"{seconds:.0f}" for seconds in span(files))
        tell(f"# {platform.machine()}, {cores} cores, load {load:.1f}; calls of {audio} s")
        batch = of_batch(files, chosen, place)
        tell(
            f"batch: {batch['audio_rate']:.1f} s of audio a second, "
            f"{batch['cpu']:.4f} processor seconds for each second of audio\n"
        )
        head = ("clients", "calls", "audio s/s", "of batch", "cpu s/s", "cpu: of batch",
                "median s", "95 % s", "told 429", "failed", "lost")  # fmt: skip
        tell(" ".join(f"{title:>9}" for title in head))
        rows = []
        with Served(chosen, place) as server:
            # Once without counting: the model's first batches are slower.
            under_load(server, files, 4, 8, place)
            for clients in chosen.clients:
                if time.monotonic() - begun > 60 * chosen.minutes:
                    tell(f"{clients:>9} not run: {chosen.minutes:g} minutes have passed")
                    continue
                row = under_load(server, files, clients, clients + chosen.calls, place)
                row["of_batch"] = row["audio_rate"] / batch["audio_rate"]
                row["cpu_of_batch"] = batch["cpu"] / row["cpu"]
                rows.append(row)
                cells = (
                    row["clients"], row["calls"], f"{row['audio_rate']:.1f}",
                    f"{row['of_batch']:.0%}", f"{row['cpu']:.4f}", f"{row['cpu_of_batch']:.0%}",
                    f"{row['median']:.2f}", f"{row['p95']:.2f}", row["refused"], row["failed"],
                    row["lost"],
                )  # fmt: skip
                width = [max(9, len(title)) for title in head]
                tell(" ".join(f"{cell:>{n}}" for cell, n in zip(cells, width, strict=True)))
        minutes = (time.monotonic() - begun) / 60
        if rows:
            best = max(row["of_batch"] for row in rows)
            cheapest = max(row["cpu_of_batch"] for row in rows)
            tell(f"\nbar {BAR:.0%} of batch: {best:.0%} by the clock, {cheapest:.0%} by processor "
                 f"time; took {minutes:.1f} minutes")  # fmt: skip
        tell(json.dumps({"benchmark": "server", "minutes": minutes, "batch": batch, "runs": rows}))
    if chosen.out:
        chosen.out.write_text("\n".join(lines) + "\n", encoding="utf-8")


def recordings(folder: Path) -> list[Path]:
    """The recordings of a folder."""
    return sorted(path for path in folder.iterdir() if path.suffix in ENDINGS)


def made_calls(place: Path) -> list[Path]:
    """Calls of 6 to 24 seconds, put together from quarters of the example."""
    samples, rate = soundfile.read(ROOT / "examples" / "call.wav", dtype="int16")
    quarters = np.array_split(samples, 4)
    found = []
    for number, parts in enumerate(
        ((0, 1), (2, 3, 0, 1), (1,), (1, 2, 3), (0, 1, 2, 3), (3, 0), (2, 3, 1))
    ):
        path = place / f"made-{number}.wav"
        soundfile.write(path, np.concatenate([quarters[part] for part in parts]), rate)
        found.append(path)
    return found


def span(files: list[Path]) -> tuple[float, float]:
    """The shortest and the longest of them, seconds."""
    seconds = [soundfile.info(path).duration for path in files]
    return min(seconds), max(seconds)


def command(*arguments: str) -> list[str]:
    return [sys.executable, "-m", "speechmeta.cli", *arguments]


def of_batch(files: list[Path], chosen: argparse.Namespace, place: Path) -> dict[str, float]:
    """Seconds of audio that `batch` analyses a second, and processor seconds for each of them."""
    # The first start reads everything from the disk.
    batch_run(files, 1, chosen, place / "first")
    few = batch_run(files, max(1, chosen.calls // 2), chosen, place / "few")
    many = batch_run(files, 8 * chosen.calls, chosen, place / "many")
    audio = many["audio"] - few["audio"]
    # "N files done ... at R times real time": the model's loading overlaps with the first files,
    # so that the difference of two runs counts here too.
    return {
        "audio_rate": audio / (many["seconds"] - few["seconds"]),
        "cpu": (many["cpu"] - few["cpu"]) / audio,
    }


def batch_run(
    files: list[Path], count: int, chosen: argparse.Namespace, place: Path
) -> dict[str, float]:
    calls = place / "calls"
    calls.mkdir(parents=True)
    for number in range(count):
        source = files[number % len(files)]
        shutil.copy(source, calls / f"{number:04d}{source.suffix}")
    before, begun = resource.getrusage(resource.RUSAGE_CHILDREN), time.monotonic()
    run = command("batch", str(calls), "-o", str(place / "out"), "--workers", str(chosen.readers))
    subprocess.run(run, check=True, capture_output=True, text=True)
    seconds = time.monotonic() - begun
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    with (place / "out" / "results.jsonl").open(encoding="utf-8") as results:
        audio = sum(json.loads(line)["audio"]["duration"] for line in results)
    cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return {"audio": audio, "seconds": seconds, "cpu": cpu}


class Served:
    """A server in a process of its own."""

    def __init__(self, chosen: argparse.Namespace, place: Path) -> None:
        self._log = place / "serve.log"
        self._run = command(
            "serve", "--port", "0", "--readers", str(chosen.readers),
            "--max-queue", str(chosen.max_queue), "--log-format", "json",
        )  # fmt: skip
        self.address = ""

    def __enter__(self) -> Served:
        with self._log.open("wb") as err:
            self._process = psutil.Popen(self._run, stderr=err)
        while "listening on " not in (text := self._log.read_text()):
            if self._process.poll() is not None:
                raise SystemExit(text)
            time.sleep(0.2)
        self.address = text.partition("listening on ")[2].split()[0]
        return self

    def __exit__(self, *_: object) -> None:
        self._process.terminate()
        self._process.wait()

    def cpu(self) -> float:
        """Processor seconds of the server and its workers so far."""
        processes = [self._process, *self._process.children(recursive=True)]
        times = [process.cpu_times() for process in processes]
        return sum(item.user + item.system for item in times)

    def analysed(self) -> float:
        """Calls that the server has counted."""
        with urlopen(f"{self.address}/metrics") as answer:
            lines = answer.read().decode().splitlines()
        (line,) = [line for line in lines if line.startswith("speechmeta_calls_total")]
        return float(line.split()[1])


def under_load(
    server: Served, files: list[Path], clients: int, calls: int, place: Path
) -> dict[str, Any]:
    """One run of locust: counts and latencies of the calls, each from its first attempt on."""
    log = place / f"calls-{clients}-{calls}.jsonl"
    before, cpu = server.analysed(), server.cpu()
    run = [
        sys.executable, "-m", "locust", "-f", __file__, "--headless", "--only-summary",
        "-u", str(clients), "-r", str(clients), "-H", server.address, "--loglevel", "ERROR",
        "--stop-timeout", "300",
    ]  # fmt: skip
    names = os.pathsep.join(map(str, files))
    environment = {**os.environ, "RECORDINGS": names, "LOG": str(log), "CALLS": str(calls),
                   "CLIENTS": str(clients)}  # fmt: skip
    done = subprocess.run(run, check=False, env=environment, capture_output=True, text=True)
    cpu = server.cpu() - cpu
    if not log.exists():
        raise SystemExit(done.stderr)
    lines = [json.loads(line) for line in log.read_text().splitlines()]
    good = [line for line in lines if line["status"] == 200]
    statuses = Counter(line["status"] for line in lines)
    waits = sorted(line["waited"] for line in good) or [0.0]
    audio = sum(line["audio"] for line in good)
    last = max((line["end"] for line in lines), default=0.0)
    first = min((line["end"] - line["seconds"] for line in lines), default=0.0)
    return {
        "clients": clients,
        "calls": len(good),
        "audio_rate": audio / max(last - first, 1e-9),
        "cpu": cpu / max(audio, 1e-9),
        "median": waits[len(waits) // 2],
        "p95": waits[min(len(waits) - 1, int(0.95 * len(waits)))],
        "refused": statuses[429],
        "failed": len(lines) - len(good) - statuses[429],
        # Calls that were begun and never answered, and answers that no client got.
        "lost": calls - len(good) + round(server.analysed() - before) - len(good),
        "seconds": last - first,
    }


if "RECORDINGS" in os.environ:  # locust reads this file
    import itertools

    from locust import FastHttpUser, constant, task
    from locust.exception import StopUser

    CALLS = itertools.islice(
        itertools.cycle(
            [
                (Path(name).name, Path(name).read_bytes())
                for name in os.environ["RECORDINGS"].split(os.pathsep)
            ]
        ),
        int(os.environ["CALLS"]),
    )
    GONE = itertools.count(1)

    class Caller(FastHttpUser):
        """Sends one recording after the other, as long as there are some."""

        wait_time = constant(0)
        network_timeout = connection_timeout = 600

        @task
        def call(self) -> None:
            taken = next(CALLS, None)
            if taken is None:
                if next(GONE) == int(os.environ["CLIENTS"]):
                    self.environment.runner.quit()
                raise StopUser
            name, data = taken
            begun = time.monotonic()
            while not self.sent(name, data, begun):
                pass

        def sent(self, name: str, data: bytes, first: float) -> bool:
            """Sends a call once; whether that was its end."""
            boundary = "b" * 32
            head = (
                f'--{boundary}\r\ncontent-disposition: form-data; name="file"; '
                f'filename="{name}"\r\n\r\n'
            ).encode()
            begun = time.monotonic()
            answer = self.client.post(
                "/v1/analyze",
                data=head + data + f"\r\n--{boundary}--\r\n".encode(),
                headers={"content-type": f"multipart/form-data; boundary={boundary}"},
            )
            ended = time.monotonic()
            status = answer.status_code
            line = {
                "status": status,
                "seconds": ended - begun,
                "waited": ended - first,
                "end": ended,
                "audio": answer.json()["audio"]["duration"] if status == 200 else 0.0,
            }
            with open(os.environ["LOG"], "a", encoding="ascii") as log:
                log.write(json.dumps(line) + "\n")
            if status != 429:
                return True
            time.sleep(float(answer.headers.get("retry-after", 1)))
            return False


if __name__ == "__main__":
    main()
