"""What the server counts, for Prometheus."""

from __future__ import annotations

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.platform_collector import PlatformCollector
from prometheus_client.process_collector import ProcessCollector

from speechmeta.server.service import Load

_SECONDS = (0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300, 600)
_RATES = (0.5, 1, 2, 5, 10, 20, 50, 100, 200, 500, 1000)
_SHARES = (0.05, 0.1, 0.25, 0.5, 0.75, 0.9, 1.0)


class Metrics:
    """The counters of one server, in a registry of their own."""

    def __init__(self) -> None:
        registry = self._registry = CollectorRegistry()
        ProcessCollector(registry=registry)
        PlatformCollector(registry=registry)
        self._requests = Counter(
            "speechmeta_requests", "Requests.", ("method", "route", "status"), registry=registry
        )
        self._seconds = Histogram(
            "speechmeta_request_seconds",
            "Seconds that requests took.",
            ("route",),
            buckets=_SECONDS,
            registry=registry,
        )
        self._audio = Counter(
            "speechmeta_audio_seconds",
            "Seconds of audio of the calls that were analysed.",
            registry=registry,
        )
        self._calls = Counter("speechmeta_calls", "Calls that were analysed.", registry=registry)
        self._turns = Counter(
            "speechmeta_turns", "Turns of the calls that were analysed.", registry=registry
        )
        self._rtfx = Histogram(
            "speechmeta_rtfx",
            "Seconds of audio for each second from a call's arrival to its report.",
            buckets=_RATES,
            registry=registry,
        )
        self._errors = Counter(
            "speechmeta_errors", "Requests and jobs that failed.", ("kind",), registry=registry
        )
        self._fill = Histogram(
            "speechmeta_batch_fill",
            "Turns of a batch of the model, as a share of the most that it may hold.",
            buckets=_SHARES,
            registry=registry,
        )
        self._live = Gauge("speechmeta_live", "Live calls now.", registry=registry)
        self._delay = Histogram(
            "speechmeta_live_delay_seconds",
            "Seconds from the end of a live call's turn to its record.",
            buckets=_SECONDS,
            registry=registry,
        )
        self._queue = Gauge(
            "speechmeta_queue",
            "Calls that wait, are read, or are decoded, and turns that wait for the model.",
            ("stage",),
            registry=registry,
        )
        self._jobs = Gauge("speechmeta_jobs", "Jobs.", ("state",), registry=registry)
        self.batch_size = 1

    def request(self, method: str, route: str, status: int, seconds: float) -> None:
        """Counts an answered request; `route` is the pattern, never a client's own path."""
        self._requests.labels(method, route, str(status)).inc()
        self._seconds.labels(route).observe(seconds)

    def call(self, audio_seconds: float, turns: int, seconds: float) -> None:
        """Counts an analysed call, `seconds` after it arrived."""
        self._calls.inc()
        self._audio.inc(audio_seconds)
        self._turns.inc(turns)
        if seconds > 0:
            self._rtfx.observe(audio_seconds / seconds)

    def live(self, change: int) -> None:
        """Counts live calls that begin (1) and end (-1)."""
        self._live.inc(change)

    def live_delay(self, seconds: float) -> None:
        """Counts a turn of a live call, told so long after its end."""
        self._delay.observe(seconds)

    def live_ended(self, audio_seconds: float, turns: int) -> None:
        """Counts a live call by what it was; how fast it was is the caller's doing."""
        self._calls.inc()
        self._audio.inc(audio_seconds)
        self._turns.inc(turns)

    def error(self, kind: str) -> None:
        """Counts a failure by the kind of its error."""
        self._errors.labels(kind).inc()

    def batch(self, rows: int) -> None:
        """Counts a batch of so many turns."""
        self._fill.observe(min(1.0, rows / self.batch_size))

    def text(self, load: Load, jobs: dict[str, int]) -> bytes:
        """All of it, as Prometheus reads it."""
        stages = {
            "waiting": load.waiting,
            "reading": load.reading,
            "decoding": load.decoding,
            "turns": load.turns,
        }
        for stage, count in stages.items():
            self._queue.labels(stage).set(count)
        for state, count in jobs.items():
            self._jobs.labels(state).set(count)
        return generate_latest(self._registry)
