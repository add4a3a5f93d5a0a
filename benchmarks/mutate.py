"""Mutated recordings and checkpoints: how many errors are not ours?

    python benchmarks/mutate.py --count 2000            # through the API
    python benchmarks/mutate.py --count 40 --folder     # and in a folder run beside good ones
    python benchmarks/mutate.py --count 0 --checkpoint FOLDER --mutants 40

Makes small recordings of a tone in the formats that PyAV writes, and changes each by a seed:
bytes flipped, stretches zeroed, doubled, overwritten or cut out, the end cut off, numbers of 16
and 32 bits set to the values on which programs trip. A mutant may be read or refused with an
`AudioError`; anything else is foreign. Of a checkpoint, configs, tokenizers and weights are
changed in the same ways, and only a `ModelError` may come out. Prints a table; the last line is
one JSON object. The exit code is 1 if anything foreign came out or a good recording was lost.
"""

from __future__ import annotations

import argparse
import io
import json
import random
import shutil
import struct
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from speechmeta.audio.loading import load_audio, probe_audio
from speechmeta.errors import AudioError, ModelError, SpeechMetaError, UsageError

RATE = 8000
SECONDS = 2.0
FORMATS = {
    "wav": ("wav", "pcm_s16le"),
    "ulaw.wav": ("wav", "pcm_mulaw"),
    "aiff": ("aiff", "pcm_s16be"),
    "au": ("au", "pcm_mulaw"),
    "caf": ("caf", "pcm_s16be"),
    "w64": ("w64", "pcm_s16le"),
    "flac": ("flac", "flac"),
    "ogg": ("ogg", "flac"),
    "mka": ("matroska", "pcm_s16le"),
    "m4a": ("mp4", "aac"),
    "wma": ("asf", "wmav2"),
    "mp2": ("mp2", "mp2"),
    "ts": ("mpegts", "mp2"),
    "avi": ("avi", "pcm_s16le"),
}
"""A file's ending: FFmpeg's container and codec."""

_ODD = (0, 1, 0x7F, 0x80, 0xFF, 0x7FFF, 0x8000, 0xFFFF, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFF)


def recording(container: str, codec: str) -> bytes | None:
    """A tone of two seconds; None where this FFmpeg has no such encoder."""
    import av

    rate = 16_000 if codec in ("mp2", "aac", "wmav2") else RATE
    tone = 8000 * np.sin(np.arange(int(SECONDS * rate)) * 2 * np.pi * 440 / rate)
    file = io.BytesIO()
    try:
        with av.open(file, "w", format=container) as output:
            stream: Any = output.add_stream(codec, rate=rate)
            stream.layout = "mono"
            frame = av.AudioFrame.from_ndarray(tone.astype(np.int16)[None], "s16", "mono")
            frame.sample_rate = rate
            resampler = av.AudioResampler(stream.format, "mono", rate, stream.frame_size or 1024)
            for part in (*resampler.resample(frame), *resampler.resample(None)):
                output.mux(stream.encode(part))
            output.mux(stream.encode(None))
    except (av.error.FFmpegError, ValueError):
        return None
    return file.getvalue()


def mutated(data: bytes, draw: random.Random) -> bytes:
    """The bytes with one to four changes."""
    out = bytearray(data)
    for _ in range(draw.randint(1, 4)):
        if len(out) < 16:
            break
        # Headers are where it hurts.
        reach = len(out) if draw.random() < 0.5 else min(len(out), 256)
        at = draw.randrange(reach)
        length = draw.randint(1, max(1, min(512, len(out) - at)))
        kind = draw.randrange(7)
        if kind == 0:
            for _ in range(draw.randint(1, 8)):
                out[draw.randrange(reach)] ^= 1 << draw.randrange(8)
        elif kind == 1:
            out[at : at + length] = bytes(length)
        elif kind == 2:
            out[at:at] = out[at : at + length]
        elif kind == 3:
            del out[at : at + length]
        elif kind == 4:
            del out[draw.randrange(len(out)) :]
        elif kind == 5:
            order = draw.choice("<>")
            value = struct.pack(order + "I", draw.choice(_ODD))[: draw.choice((2, 4))]
            out[at : at + len(value)] = value
        else:
            out[at : at + length] = draw.randbytes(length)
    return bytes(out)


def outcome(work: Callable[[], object], ours: type[SpeechMetaError]) -> str:
    """`read`, `refused`, or the name of an error that is not ours."""
    try:
        work()
    except ours:
        return "refused"
    except Exception as error:
        return f"foreign {type(error).__name__}"
    return "read"


def through_the_api(
    count: int, seed: int, place: Path, keep: Path | None
) -> dict[str, Counter[str]]:
    """Reads `count` mutants, the formats in turn; foreign ones are kept in a folder."""
    made = {name: recording(*form) for name, form in FORMATS.items()}
    sources = {name: data for name, data in made.items() if data}
    found: dict[str, Counter[str]] = {name: Counter() for name in sources}
    for number, name in zip(range(count), _round(list(sources)), strict=False):
        draw = random.Random(f"{seed}:{number}")
        mutant = mutated(sources[name], draw)

        # A file on the disk, as seeks in it fail in ways of their own.
        path = place / f"mutant.{name}"
        path.write_bytes(mutant)

        def read(path: Path = path) -> None:
            probe_audio(path)
            load_audio(path)

        result = outcome(read, AudioError)
        found[name][result] += 1
        if keep is not None and result.startswith("foreign"):
            keep.mkdir(parents=True, exist_ok=True)
            (keep / f"{number:05d}.{name}").write_bytes(mutant)
    return found


def _round(names: list[str]) -> Iterator[str]:
    while True:
        yield from names


def in_a_folder(count: int, seed: int, place: Path) -> Counter[str]:
    """A folder run over mutants with three good recordings beside them."""
    from speechmeta.batch.calls import AnalyzerSource, CallJob
    from speechmeta.batch.local import EngineOptions
    from speechmeta.batch.runner import FolderOptions, run_folder
    from speechmeta.pipeline.options import CallOptions, ModelOptions

    calls = place / "calls"
    calls.mkdir(parents=True)
    sources = [(name, data) for name, form in FORMATS.items() if (data := recording(*form))]
    for number in range(3):
        (calls / f"good{number}.wav").write_bytes(sources[0][1])
    for number in range(count):
        name, data = sources[number % len(sources)]
        mutant = mutated(data, random.Random(f"{seed}:{number}"))
        (calls / f"{number:05d}.{name}").write_bytes(mutant)
    asked = CallOptions()
    run_folder(
        calls,
        place / "out",
        CallJob(asked),
        AnalyzerSource(ModelOptions(local_files_only=True), asked),
        FolderOptions(use=EngineOptions(workers=1, timeout=120.0)),
    )
    found: Counter[str] = Counter()
    good = 0
    for line in (place / "out" / "results.jsonl").read_text(encoding="utf-8").splitlines():
        record = json.loads(line)
        good += "good" in record["audio"]["path"] and "error" not in record
        error = record.get("error")
        ours = error is None or error["type"] in ("AudioError", "UsageError")
        found["read" if error is None else "refused" if ours else f"foreign {error['type']}"] += 1
    found["good recordings lost"] = 3 - good
    found["mutants without a record"] = (
        count + 3 - sum(n for kind, n in found.items() if kind != "good recordings lost")
    )
    return found


def of_a_checkpoint(folder: Path, count: int, seed: int, place: Path) -> Counter[str]:
    """Loads `count` mutants of a small checkpoint."""
    from speechmeta.models.speechllm import load_model

    files = [path for path in sorted(folder.rglob("*")) if path.suffix in (".json", ".safetensors")]
    found: Counter[str] = Counter()
    for number in range(count):
        draw = random.Random(f"{seed}:checkpoint:{number}")
        copy = place / "checkpoint"
        shutil.rmtree(copy, ignore_errors=True)
        shutil.copytree(folder, copy)
        target = copy / draw.choice(files).relative_to(folder)
        target.chmod(0o644)
        target.parent.chmod(0o755)
        target.write_bytes(mutated(target.read_bytes(), draw))

        def load(copy: Path = copy) -> None:
            try:
                load_model(copy, device="cpu", dtype="float32", local_files_only=True)
            except UsageError as error:
                raise ModelError(error.message) from error

        found[outcome(load, ModelError)] += 1
    return found


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--count", type=int, default=200, help="mutated recordings")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--folder", action="store_true", help="also as a folder run")
    parser.add_argument("--checkpoint", type=Path, help="a small one whose mutants are loaded")
    parser.add_argument("--mutants", type=int, default=40, help="of the checkpoint")
    parser.add_argument("--keep", type=Path, help="where mutants with foreign errors are kept")
    options = parser.parse_args()
    begun = time.monotonic()
    rows: dict[str, Counter[str]] = {}
    with tempfile.TemporaryDirectory() as name:
        place = Path(name)
        if options.count:
            rows = through_the_api(options.count, options.seed, place, options.keep)
        if options.folder:
            rows["folder run"] = in_a_folder(options.count, options.seed, place)
        if options.checkpoint is not None:
            rows["checkpoint"] = of_a_checkpoint(
                options.checkpoint, options.mutants, options.seed, place
            )
    total: Counter[str] = sum(rows.values(), Counter())
    for kind, counts in rows.items():
        told = ", ".join(f"{name} {count}" for name, count in sorted(counts.items()) if count)
        print(f"{kind:<12} {told}")
    bad = sum(
        count
        for kind, count in total.items()
        if kind.startswith("foreign") or "lost" in kind or "without" in kind
    )
    result = {
        "seed": options.seed,
        "mutants": sum(total.values()),
        "bad": bad,
        "outcomes": dict(sorted(total.items())),
        "seconds": round(time.monotonic() - begun, 1),
    }
    print(json.dumps(result))
    return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(main())
