"""One self-contained page per call: the audio, lanes of turns over the waveform, what was said.

The page is one file with its styles, script and, below a size, its audio inside. Its content
policy runs no script but its own and forbids every request but for a linked recording, so it
looks the same from a disk without network.
"""

from __future__ import annotations

import base64
import hashlib
import os
import re
from functools import cache
from importlib import resources
from pathlib import Path
from typing import IO, Any, Literal
from urllib.parse import quote

import jinja2
from markupsafe import Markup

from speechmeta.audio.limits import Limits
from speechmeta.errors import AudioError
from speechmeta.schema import CallReport, Peaks
from speechmeta.version import __version__
from speechmeta.visible import visible
from speechmeta.writers.base import TextWriter
from speechmeta.writers.files import atomic_file
from speechmeta.writers.html_view import view
from speechmeta.writers.structured import document

ReportAudio = Literal["embed", "link", "none"]
"""`embed`: in the page, or linked where it would be larger than `EMBED_BYTES`; `link`: as the
recording's place seen from the page; `none`: no sound."""

EMBED_BYTES = 8 * 2**20
"""Largest sound in a page, as Opus: about an hour."""

_CONTROLS = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f]")


class HtmlWriter(TextWriter):
    """Writes the page of one call.

    Args:
        audio: whether its sound is in it. Of a redacted report it is the sound with everything
            private silenced, and never a link to the recording.
        raw, limits: those with which the recording was analysed.
    """

    name = "html"

    def __init__(
        self,
        audio: ReportAudio = "embed",
        raw: str | None = None,
        limits: Limits | None = None,
    ) -> None:
        self._audio, self._raw, self._limits = audio, raw, limits

    def text(self, report: CallReport) -> str:
        """The page; with the waveform if the report comes from an analysis, with the audio if
        its file is still there. Nothing is linked: where the page will lie is not known."""
        return self.page(report, report.peaks, self.sound(report, None))

    def write(
        self, report: CallReport, path: str | os.PathLike[str], *, overwrite: bool = False
    ) -> None:
        with atomic_file(path, overwrite=overwrite) as file:
            sound = self.sound(report, Path(path).parent)
            file.write(self.page(report, report.peaks, sound).encode("utf-8"))

    def dump(self, report: CallReport, file: IO[bytes]) -> None:
        file.write(self.text(report).encode("utf-8"))

    def page(self, report: CallReport, peaks: Peaks | None = None, sound: str = "") -> str:
        """The whole page.

        Args:
            peaks: the waveform's outline; without it the lanes show turns only.
            sound: where the audio is: a `data:` address, or a path from the page.
        """
        data = document(report)
        title = os.path.basename(data["audio"]["path"] or "") or "Call"
        return render(
            "call.html",
            view(data, peaks) | {"title": title, "sound": sound, "version": __version__},
            script="report.js",
        )

    def sound(self, report: CallReport, folder: Path | None = None) -> str:
        """The audio's address, embedded or seen from a folder; empty where there is none to
        give."""
        path = report.audio.path
        if self._audio == "none" or path is None or not os.path.isfile(path):
            return ""
        if self._audio == "embed":
            # Here, not above: pages without sound need no decoder.
            from speechmeta.writers.sound import as_opus

            spans = report.redactions or []
            try:
                opus = as_opus(path, spans, EMBED_BYTES, raw=self._raw, limits=self._limits)
            except AudioError:
                # The report is complete without it; the file has changed since.
                return ""
            if opus is not None:
                return "data:audio/webm;base64," + base64.b64encode(opus).decode("ascii")
        if folder is None or report.redactions is not None:
            return ""
        return relative_address(os.path.relpath(path, folder))


def relative_address(path: str) -> str:
    """A path on the disk as a relative address; bytes that are not UTF-8 stay what they are."""
    return quote(os.fsencode(path.replace(os.sep, "/")))


def render(
    template: str, values: dict[str, Any], *, script: str | None = None, styles: str | None = None
) -> str:
    """A page of `templates/`, with its styles and its script inside.

    Args:
        template, script, styles: files of `templates/`, or of another package's as
            `package:file`. The styles are added to those that all pages share.
    """
    code = _asset(script) if script else ""
    digest = base64.b64encode(hashlib.sha256(code.encode("utf-8")).digest()).decode("ascii")
    allowed = f"'sha256-{digest}'" if script else "'none'"
    policy = (
        "default-src 'none'; style-src 'unsafe-inline'; base-uri 'none'; form-action 'none'; "
        f"media-src data: 'self' file:; script-src {allowed}"
    )
    shared = _asset("report.css") + (_asset(styles) if styles else "")
    return _environment().get_template(template).render(
        values, styles=Markup(shared), script=Markup(code), content_policy=policy
    )  # fmt: skip


def _asset(name: str) -> str:
    package, _, file = name.rpartition(":")
    return resources.files(package or __package__).joinpath("templates", file).read_text("utf-8")


@cache
def _environment() -> jinja2.Environment:
    environment = jinja2.Environment(
        loader=jinja2.FunctionLoader(_asset),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
        finalize=_shown,
    )
    return environment


def _shown(value: Any) -> Any:
    """Text whose characters that HTML cannot hold, or that nobody sees, are visible; what is
    escaped is everything that is not `Markup`."""
    if isinstance(value, str) and not isinstance(value, Markup):
        return visible(_CONTROLS.sub("\N{REPLACEMENT CHARACTER}", value))
    return value


__all__ = ["EMBED_BYTES", "HtmlWriter", "ReportAudio", "relative_address", "render"]
