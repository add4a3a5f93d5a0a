"""The server under load: throughput beside `batch`, latencies, and what more clients than fit get.

    pip install locust
    python benchmarks/server.py calls/ --clients 1 4 16 64 --seconds 60

Locust (https://locust.io) sends recordings of a folder to `POST /v1/analyze`, one after the other
from each client; one that is told to come back later (429) does, after `Retry-After`. Beside it
`batch` analyses copies of the same recordings with the same model and readers.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import Any
from urllib.request import urlopen

ENDINGS = (".wav", ".mp3", ".flac", ".ogg", ".m4a")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path, help="recordings")
    parser.add_argument("--clients", type=int, nargs="+", default=[1, 4, 16, 64])
    parser.add_argument("--seconds", type=int, default=60, help="of each run")
    parser.add_argument("--readers", type=int, default=1)
    parser.add_argument("--max-queue", type=int, default=32)
    parser.add_argument("--batch-files", type=int, default=32, help="copies for `batch`")
    chosen = parser.parse_args()
    files = sorted(path for path in chosen.folder.iterdir() if path.suffix in ENDINGS)
    with tempfile.TemporaryDirectory() as place:
        folder = time_of_batch(files, chosen, Path(place))
        print(f"batch: {folder:.1f} s of audio a second\n", flush=True)
        head = ("clients", "calls", "audio s/s", "of batch", "median s", "95 % s", "told 429",
                "failed", "lost")  # fmt: skip
        print(" ".join(f"{name:>9}" for name in head), flush=True)
        rows = []
        with Served(chosen, Path(place)) as address:
            for clients in chosen.clients:
                row = under_load(address, files, clients, chosen.seconds, Path(place))
                row["of_batch"] = row["audio_rate"] / folder
                rows.append(row)
                cells = (
                    row["clients"], row["calls"], f"{row['audio_rate']:.1f}",
                    f"{row['of_batch']:.0%}", f"{row['median']:.2f}", f"{row['p95']:.2f}",
                    row["refused"], row["failed"], row["lost"],
                )  # fmt: skip
                print(" ".join(f"{cell:>9}" for cell in cells), flush=True)
    print(json.dumps({"benchmark": "server", "batch_audio_rate": folder, "runs": rows}))


def command(*arguments: str) -> list[str]:
    return [sys.executable, "-m", "speechmeta.cli", *arguments]


def time_of_batch(files: list[Path], chosen: argparse.Namespace, place: Path) -> float:
    """Seconds of audio that `batch` analyses a second, loading the model left out."""
    calls = place / "calls"
    calls.mkdir()
    for number in range(chosen.batch_files):
        source = files[number % len(files)]
        shutil.copy(source, calls / f"{number:04d}{source.suffix}")
    run = command("batch", str(calls), "-o", str(place / "out"), "--workers", str(chosen.readers))
    done = subprocess.run(run, check=True, capture_output=True, text=True)
    # "N files done, 0 failed; this run M:SS of audio at R times real time; ..."
    return float(done.stderr.rpartition(" times real time")[0].rpartition(" ")[2])


class Served:
    """A server in a process of its own; its address."""

    def __init__(self, chosen: argparse.Namespace, place: Path) -> None:
        self._log = place / "serve.log"
        self._run = command(
            "serve", "--port", "0", "--readers", str(chosen.readers),
            "--max-queue", str(chosen.max_queue), "--log-format", "json",
        )  # fmt: skip

    def __enter__(self) -> str:
        with self._log.open("wb") as err:
            self._process = subprocess.Popen(self._run, stderr=err)
        while "listening on " not in (text := self._log.read_text()):
            if self._process.poll() is not None:
                raise SystemExit(text)
            time.sleep(0.2)
        return text.partition("listening on ")[2].split()[0]

    def __exit__(self, *_: object) -> None:
        self._process.terminate()
        self._process.wait()


def under_load(
    address: str, files: list[Path], clients: int, seconds: int, place: Path
) -> dict[str, Any]:
    """One run of locust: counts and latencies of the calls that were answered."""
    log = place / f"calls-{clients}.jsonl"
    before = analysed(address)
    run = [
        sys.executable, "-m", "locust", "-f", __file__, "--headless", "--only-summary",
        "-u", str(clients), "-r", str(clients), "-t", f"{seconds}s", "--stop-timeout", "300",
        "-H", address, "--loglevel", "ERROR",
    ]  # fmt: skip
    names = os.pathsep.join(map(str, files))
    environment = {**os.environ, "CALLS": names, "LOG": str(log)}
    begun = time.monotonic()
    subprocess.run(run, check=False, env=environment, capture_output=True)
    took = time.monotonic() - begun
    lines = [json.loads(line) for line in log.read_text().splitlines()]
    good = [line for line in lines if line["status"] == 200]
    statuses = Counter(line["status"] for line in lines)
    waits = sorted(line["seconds"] for line in good) or [0.0]
    # The last call of each client ends after the time is up: all of it counts on both sides.
    last = max((line["end"] for line in lines), default=0.0)
    first = min((line["end"] - line["seconds"] for line in lines), default=0.0)
    return {
        "clients": clients,
        "calls": len(good),
        "audio_rate": sum(line["audio"] for line in good) / max(last - first, 1e-9),
        "median": waits[len(waits) // 2],
        "p95": waits[min(len(waits) - 1, int(0.95 * len(waits)))],
        "refused": statuses[429],
        "failed": len(lines) - len(good) - statuses[429],
        # What the server analysed and no client got.
        "lost": round(analysed(address) - before) - len(good),
        "seconds": took,
    }


def analysed(address: str) -> float:
    """Calls that the server has counted."""
    with urlopen(f"{address}/metrics") as answer:
        lines = answer.read().decode().splitlines()
    return float(
        next(line for line in lines if line.startswith("speechmeta_calls_total")).split()[1]
    )


if "CALLS" in os.environ:  # locust reads this file
    import itertools

    from locust import FastHttpUser, constant, task

    RECORDINGS = [
        (Path(name).name, Path(name).read_bytes()) for name in os.environ["CALLS"].split(os.pathsep)
    ]
    NEXT = itertools.cycle(RECORDINGS)

    class Caller(FastHttpUser):
        """Sends one recording after the other."""

        wait_time = constant(0)
        network_timeout = connection_timeout = 600

        @task
        def call(self) -> None:
            name, data = next(NEXT)
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
            status = answer.status_code
            ended = time.monotonic()
            audio = answer.json()["audio"]["duration"] if status == 200 else 0.0
            with open(os.environ["LOG"], "a", encoding="ascii") as log:
                line = {"status": status, "seconds": ended - begun, "end": ended, "audio": audio}
                log.write(json.dumps(line) + "\n")
            if status == 429:
                time.sleep(float(answer.headers.get("retry-after", 1)))


if __name__ == "__main__":
    main()
