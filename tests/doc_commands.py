"""Every command of README and docs: found, checked, and run.

    python tests/doc_commands.py                  # run all that this machine can; minutes
    python tests/doc_commands.py --list           # what is run, and why the others are not
    python tests/doc_commands.py docs/folders.md  # some pages

Each page is gone through from top to bottom in a folder of its own that holds the recordings and
manifests that pages speak of. Commands of `speechmeta` run in a fork of this process, in which
the model is loaded once; pipes and other programs by bash. Servers stay until their page ends.
What cannot run everywhere is named in `NOT_RUN`, with the reason; its spelling is checked all the
same (`tests/docs/test_commands.py`).
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import re
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import traceback
import urllib.request
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
PAGES = [
    ROOT / "README.md",
    ROOT / "CONTRIBUTING.md",
    *sorted((ROOT / "docs").glob("*.md")),
    *sorted((ROOT / "docs" / "how-to").glob("*.md")),
]

PROGRAMS = (
    "speechmeta", "python", "python3.11", "pip", "curl", "ffmpeg", "cat", "cp", "mkdir", "ray",
    "serve", "duckdb", "docker", "openssl", "torchrun", "mkdocs", "source", ".venv/bin/pip",
    "sph2pipe",
)  # fmt: skip

NOT_RUN: tuple[tuple[str, str], ...] = (
    (r"\bpip (install|download)|^source |-m venv", "installs: the other jobs of CI do"),
    (r"-m pytest", "the suite itself"),
    (r"some/checkpoint|path/to/checkpoint", "stands for a checkpoint of yours"),
    (r"hub|skit-ai/|DeSTA-ntu/|openai/whisper|nvidia/parakeet|Qwen/|meta-llama/|models download|"
     r"--faster-whisper", "fetches a checkpoint from the hub"),
    (r"speechmeta chat|--chat-model|--model M\b|--llm MODEL|fields\.json|model\.gguf|\$GGUF|"
     r"train (construct|qformer)|--writer", "needs a model of gigabytes"),
    (r"(--transcriber|--base-url) http|s3://|(db|calls)\.example\.com",
     "asks a server that is not there"),
    (r"speechmeta listen", "needs a microphone, or the server's own port: tests/server"),
    (r"--count \d{5}", "takes hours"),
    (r"eval (librispeech|commonvoice|iemocap|mswc)", "needs the data set"),
    (r"train (config\.yaml|CONFIG|recipes/|examples/)|original\.py|torchrun",
     "trains: at toy size in tests/training and tests/docs"),
    (r"--engine ray|^ray |^serve run|RAY_ADDRESS",
     "needs a cluster: test_batch_ray, test_server_ray"),
    (r"^duckdb|^docker|^mkdocs|^sph2pipe|^openssl rand .* docker", "another program's work"),
    (r"--device cuda|keys\.txt", "needs a GPU, or the server that does"),
)  # fmt: skip
"""What is not run, by the first expression that is found in it, and why not."""

EXIT_CODES = {"docs/tutorial.md": {"speechmeta batch": 1}}
"""Commands that end with another code than 0, as their page says."""

SERVICES = r"^speechmeta (serve|app)\b|--watch\b"
FRESH = r"--watch\b"
"""Runs that go on with others' results only if these were made with the same settings."""

BEFORE = {
    r"eval compare a/": "for name in a b c; do mkdir -p $name; cp out/report.json $name/; done",
    r"speechmeta mcp": "mkdir -p results && touch results/results.jsonl",
    r"--sink duckdb|FolderOptions\(": "rm -rf results",
    r"--predictions": """echo '{"audio": "turn.wav", "pred_text": "thank you"}' > other.jsonl""",
}
"""What a page takes for granted."""

PRELUDES = {"README.md": "import numpy; waveform = numpy.zeros(16000, 'float32')"}
"""Names that the Python of a page takes for granted."""


@dataclass(frozen=True)
class Block:
    """A piece of a page that a machine reads.

    Attributes:
        page: its path in the repository.
        kind: `shell` or `python`, or `file` for a file that says its name in its first line.
        text: one command, or all of a block of Python.
    """

    page: str
    kind: str
    text: str

    @property
    def reason(self) -> str | None:
        """Why it is not run; None if it is."""
        if self.kind == "file":
            return None
        return next((why for found, why in NOT_RUN if re.search(found, self.text, re.M)), None)


def blocks(page: Path) -> Iterator[Block]:
    """Commands, Python and files of a page, in order."""
    name = str(page.relative_to(ROOT))
    for language, text in _code(page.read_text(encoding="utf-8")):
        if language == "python" or (not language and re.match(r"(from|import) ", text)):
            yield Block(name, "python", text)
        elif language in ("toml", "yaml") and re.match(r"# \S+\.(toml|yaml)$", text, re.M):
            yield Block(name, "file", text)
        elif language in ("", "bash"):
            for line in re.sub(r"\\\n\s*", "", text).splitlines():
                command = re.sub(r"\s+#\s.*$", "", line).strip()
                bare = re.sub(r"^([A-Z_]+=\S+ )+", "", command)
                if bare.split(" ")[0] in PROGRAMS:
                    yield Block(name, "shell", command)


def _code(text: str) -> Iterator[tuple[str, str]]:
    """Blocks of code with their language; indented ones have none."""
    pattern = re.compile(
        r"^(?P<indent> *)```(?P<language>\w*)\n(?P<fenced>.*?)^(?P=indent)```"
        r"|(?<=\n\n)(?P<indented>(?: {4,}[^\n]*\n|\n(?= {4}))+)",
        re.M | re.S,
    )
    for found in pattern.finditer(text.replace("\r", "")):
        body = found["fenced"] if found["indented"] is None else found["indented"]
        width = min((len(re.match(" *", line)[0]) for line in body.splitlines() if line), default=0)  # type: ignore[index]
        yield found["language"] or "", "\n".join(line[width:] for line in body.splitlines())


def words(command: str) -> list[str] | None:
    """The arguments of a plain command; None of one that only a shell understands."""
    lexer = shlex.shlex(command, posix=True, punctuation_chars=True)
    lexer.whitespace_split = True
    found = list(lexer)
    plain = not any(set(word) <= set("();<>|&") for word in found) and "$" not in command
    return found if plain and "=" not in found[0] else None


def make_workplace(folder: Path) -> None:
    """The recordings and manifests that pages speak of."""
    import soundfile

    example = ROOT / "examples" / "call.wav"
    for name in ("examples", "recipes", "speechmeta", "benchmarks", "docs"):
        (folder / name).symlink_to(ROOT / name)
    for name in ("call.wav", "a.wav"):
        shutil.copy(example, folder / name)
    samples, rate = soundfile.read(example, dtype="int16")
    soundfile.write(folder / "b.mp3", samples[: 7 * rate], rate)
    soundfile.write(folder / "meeting.mp3", samples.max(axis=1), rate)
    soundfile.write(folder / "turn.wav", samples[: int(3.2 * rate), 0], rate)
    for name in ("calls", "calls/monday"):
        (folder / name).mkdir()
    for name in ("monday", "tuesday", "wednesday", "thursday"):
        shutil.copy(example, folder / "calls" / f"{name}.wav")
    shutil.copy(example, folder / "calls" / "monday" / "call.wav")
    raw = ["ffmpeg", "-loglevel", "error", "-i", str(example), "-f", "mulaw"]
    subprocess.run([*raw, str(folder / "call.rec")], check=True)
    shutil.copy(ROOT / "examples" / "rules.toml", folder / "rules.toml")
    clip = {"audio": "turn.wav", "duration": 3.2, "transcript": "Thank you for calling.",
            "gender": "Male", "speaker": "a"}  # fmt: skip
    for name in ("dev.jsonl", "calls.jsonl"):
        (folder / name).write_text(json.dumps(clip) + "\n", encoding="utf-8")


class Runner:
    """Runs the blocks of one page.

    Args:
        folder: where.
    """

    def __init__(self, folder: Path, page: str) -> None:
        self.folder, self.page = folder, page
        self.services: list[subprocess.Popen[bytes]] = []
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port = probe.getsockname()[1]
        self.environment = {
            **os.environ,
            "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
            "SPEECHMETA_PORT": str(self.port),
            "HF_HUB_OFFLINE": "1",
            "HF_HOME": str(folder / "hub"),
        }

    def run(self, block: Block) -> str | None:
        """What went wrong, if anything."""
        text = block.text.replace("127.0.0.1:8000", f"127.0.0.1:{self.port}")
        text = text.replace("localhost:8000", f"127.0.0.1:{self.port}")
        for found, script in BEFORE.items():
            if re.search(found, text):
                subprocess.run(["bash", "-ec", script], cwd=self.folder, check=True)
        if block.kind == "file":
            name = text.splitlines()[0].removeprefix("# ")
            (self.folder / name).write_text(text + "\n", encoding="utf-8")
            return None
        if re.search(SERVICES, text):
            return self._serve(text)
        if block.kind == "python":
            prelude = PRELUDES.get(self.page, "")
            code, output = self._forked(
                lambda: exec(f"{prelude}\n{text}", {"__name__": "__main__"})
            )
        elif (arguments := words(text)) and arguments[0] == "speechmeta":
            from speechmeta.cli import main

            code, output = self._forked(lambda: main(arguments[1:]))
        else:
            done = subprocess.run(
                ["bash", "-ec", text], cwd=self.folder, env=self.environment, text=True,
                stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
            )  # fmt: skip
            code, output = done.returncode, done.stdout
        known = EXIT_CODES.get(self.page, {})
        wanted = next((code for start, code in known.items() if text.startswith(start)), 0)
        return None if code == wanted else f"exit code {code}, not {wanted}\n{output[-2000:]}"

    def _forked(self, work: Any) -> tuple[int, str]:
        """Runs it in a fork that has what this process has loaded."""
        with tempfile.TemporaryFile() as output:
            sys.stdout.flush()
            sys.stderr.flush()
            child = os.fork()
            if child == 0:
                code = 1
                try:
                    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
                    os.dup2(output.fileno(), 1)
                    os.dup2(output.fileno(), 2)
                    os.chdir(self.folder)
                    os.environ.update(self.environment)
                    code = work() or 0
                except BaseException:
                    traceback.print_exc()
                finally:
                    sys.stdout.flush()
                    sys.stderr.flush()
                    os._exit(code)
            _, status = os.waitpid(child, 0)
            output.seek(0)
            return os.waitstatus_to_exitcode(status), output.read().decode(errors="replace")

    def _serve(self, text: str) -> str | None:
        """Starts it and waits until it answers, or has analysed what is there."""
        if re.search(FRESH, text):
            shutil.rmtree(self.folder / "results", ignore_errors=True)
        log = (self.folder / "service.log").open("wb")
        service = subprocess.Popen(
            ["bash", "-c", f"exec {text}"], cwd=self.folder, env=self.environment,
            stdin=subprocess.DEVNULL, stdout=log, stderr=log,
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
        )  # fmt: skip
        self.services.append(service)
        for _ in range(1200):
            if service.poll() is not None:
                return f"ended by itself\n{(self.folder / 'service.log').read_text()[-2000:]}"
            if re.search(FRESH, text) and (self.folder / "results" / "results.jsonl").exists():
                return None
            with contextlib.suppress(OSError):
                urllib.request.urlopen(f"http://127.0.0.1:{self.port}/", timeout=5).close()
            with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", self.port)):
                return None
            time.sleep(0.5)
        return "did not answer in ten minutes"

    def close(self) -> str | None:
        """Ends the servers; what one of them did not like about it."""
        problem = None
        for service in self.services:
            service.send_signal(signal.SIGINT)
            try:
                code = service.wait(60)
            except subprocess.TimeoutExpired:
                service.kill()
                problem = "did not end within a minute of Ctrl-C"
            else:
                if code not in (0, 130):
                    problem = f"a server ended with exit code {code}"
        return problem


def main(arguments: Sequence[str]) -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("pages", nargs="*", type=Path)
    parser.add_argument("--list", action="store_true", help="run nothing")
    given = parser.parse_args(arguments)
    pages = [path.resolve() for path in given.pages] or PAGES
    if given.list:
        for page in pages:
            for block in blocks(page):
                first = block.text.splitlines()[0]
                print(f"{block.page}: {block.reason or 'run'}: {first}")
        return 0
    from speechmeta import Analyzer

    kept = Analyzer()  # commands of the same options share it, in every fork
    failed = count = 0
    for page in pages:
        todo = [block for block in blocks(page) if block.reason is None]
        if not todo:
            continue
        with tempfile.TemporaryDirectory() as folder:
            make_workplace(Path(folder))
            runner = Runner(Path(folder), str(page.relative_to(ROOT)))
            for block in todo:
                begun = time.monotonic()
                problem = runner.run(block)
                seconds = time.monotonic() - begun
                state = "FAILED" if problem else "ok"
                print(f"{state:6} {seconds:5.1f} s  {block.page}: {block.text.splitlines()[0]}")
                if problem:
                    print(problem)
                sys.stdout.flush()
                failed += problem is not None
                count += 1
            if problem := runner.close():
                print(f"FAILED {page.name}: {problem}")
                failed += 1
    del kept
    print(f"{count} commands and blocks, {failed} failed")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
