"""A page for the browser with two tabs: Analyze a recording, Chat about it.

Needs the extra `app` (Gradio). It listens on loopback only, and neither the page nor the
server reaches for anything outside: no analytics, no fonts or scripts from elsewhere.
"""

from __future__ import annotations

import html
import os
import threading
from collections.abc import Callable, Generator, Iterator
from concurrent.futures import ThreadPoolExecutor, wait
from contextlib import closing
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from speechmeta.errors import SpeechMetaError, UsageError, require_extra
from speechmeta.schema import FIELDS
from speechmeta.web_safety import OwnPagesOnly, PrivateFiles, without_places

if TYPE_CHECKING:
    from speechmeta.chat.model import ChatModel
    from speechmeta.pipeline.analyzer import Analyzer
    from speechmeta.pipeline.options import CallOptions
    from speechmeta.schema import CallReport, Turn

DOWNLOADS = ("json", "csv", "srt", "vtt", "html", "parquet")
"""Formats offered after an analysis; Parquet where pyarrow is installed."""

EXAMPLE = Path(__file__).resolve().parents[1] / "examples" / "call.wav"
"""A call to try, in a clone of the repository."""

Made = TypeVar("Made")

HOST = "127.0.0.1"
MAX_UPLOAD_MB = 200
TURN_COLUMNS = ("Time", "Speaker", *FIELDS)
_TIMELINE_HEIGHT = 720
"""Of a report's frame in pixels, until the report says how high it is."""
_FRAMES_GROW = """() => addEventListener("message", (event) => {
  for (const frame of document.querySelectorAll("#timeline iframe")) {
    const height = Number(event.data?.speechmetaHeight);
    if (frame.contentWindow === event.source && height > 0) frame.style.height = `${height}px`;
  }
})"""
"""The page scrolls, not the frame in it too."""
_NO_CHAT = (
    "No chat model is loaded. Start with `speechmeta app --chat-model FOLDER_OR_HUB_ID`, for "
    "example `DeSTA-ntu/DeSTA2.5-Audio-Llama-3.1-8B`."
)


def build_app(
    analyzer: Callable[[], Analyzer],
    chat: Callable[[], ChatModel] | None = None,
    max_new_tokens: int = 512,
    call: CallOptions | None = None,
) -> Any:
    """The page as `gradio.Blocks`, not started.

    Args:
        analyzer: makes the analyzer; called once, at the first analysis.
        chat: makes the chat model; called once, at the first question. None: the chat tab
            says how to get one.
        max_new_tokens: longest answer of the chat.
        call: what is asked of each call; the page's own choices come before it.

    Raises:
        MissingExtraError: Gradio is not installed.
    """
    from speechmeta.pipeline.options import CallOptions
    from speechmeta.settings import split_names

    gr = _gradio()
    asked_of_calls = call or CallOptions()
    get_analyzer = _once(analyzer)
    get_chat = _once(chat) if chat is not None else None

    # A private place for what visitors bring and get; it goes with the page.
    place = PrivateFiles()
    os.environ["GRADIO_TEMP_DIR"] = str(place.uploads)

    def analyze(
        path: str | None,
        channels: str,
        roles: str,
        min_confidence: str,
        word_times: bool,
        redact: bool,
    ) -> Iterator[Any]:
        try:
            asked = asked_of_calls.updated(
                {
                    "channels": channels,
                    "roles": split_names(roles) if roles.strip() else None,
                    "min_confidence": probability(min_confidence),
                    "word_times": word_times,
                    "redact": redact,
                }
            )
            # Gradio closes a generator whose visitor has gone, which ends the work.
            with closing(_analyze(get_analyzer, path, asked, place)) as results:
                for result in results:
                    yield gr.skip() if result is None else result
        except Exception as error:
            raise _told(gr, error, path) from error

    def ask(
        path: str | None, question: str, history: list[dict[str, Any]]
    ) -> Iterator[tuple[Any, Any]]:
        if not question.strip():
            yield gr.skip(), gr.skip()
            return
        asked = [*history, {"role": "user", "content": question}]
        yield "", asked
        try:
            if get_chat is None:
                raise UsageError(_NO_CHAT)
            messages = _messages(path, asked)
            text = ""
            with get_chat().stream(messages, max_new_tokens=max_new_tokens) as stream:
                for piece in stream:
                    text += piece
                    # The box is left alone: the next question may be in it already.
                    yield gr.skip(), [*asked, {"role": "assistant", "content": text}]
        except Exception as error:
            raise _told(gr, error, path) from error

    with gr.Blocks(title="speechmeta", analytics_enabled=False, fill_width=True) as page:
        gr.Markdown("# speechmeta")
        audio = gr.Audio(
            sources=["upload", "microphone"],
            type="filepath",
            label="Recording",
            editable=False,
            buttons=["download"],
            elem_id="recording",
        )
        if EXAMPLE.is_file():
            gr.Examples([[str(EXAMPLE)]], [audio], label="Or an example call")
        with gr.Tab("Analyze", id="analyze"):
            with gr.Row():
                channels = gr.Radio(
                    ["auto", "mono", "split"],
                    value=asked_of_calls.channels,
                    label="Channels",
                    scale=2,
                )
                roles = gr.Textbox(
                    ", ".join(asked_of_calls.roles or ()),
                    label="Speakers' names",
                    placeholder="agent, customer",
                    max_lines=1,
                    scale=2,
                    elem_id="roles",
                )
                # Not a number: an empty box of numbers shows 0, which leaves nothing out.
                confidence = gr.Textbox(
                    "" if asked_of_calls.min_confidence is None else asked_of_calls.min_confidence,
                    label="Leave out labels less probable than (0 to 1)",
                    placeholder="what the checkpoint says",
                    max_lines=1,
                    scale=2,
                    elem_id="min-confidence",
                )
                with gr.Column(scale=1, min_width=140):
                    word_times = gr.Checkbox(
                        asked_of_calls.word_times, label="Word times", elem_id="word-times"
                    )
                    redact = gr.Checkbox(asked_of_calls.redact, label="Redact", elem_id="redact")
                start = gr.Button("Analyze", variant="primary", elem_id="analyze-button")
            timeline = gr.HTML(elem_id="timeline")
            turns = gr.HTML(elem_id="turns")
            files = gr.File(label="Downloads", file_count="multiple", elem_id="downloads")
            with gr.Accordion("JSON", open=False):
                document = gr.JSON(show_label=False, elem_id="document")
        with gr.Tab("Chat", id="chat"):
            if chat is None:
                gr.Markdown(_NO_CHAT)
            talk = gr.Chatbot(
                label="Conversation", buttons=[], feedback_options=None, elem_id="talk",
                allow_file_downloads=False,
            )  # fmt: skip
            with gr.Row():
                question = gr.Textbox(
                    show_label=False,
                    placeholder="Is the customer angry? Why?",
                    scale=5,
                    elem_id="question",
                    interactive=chat is not None,
                )
                send = gr.Button("Ask", variant="primary", interactive=chat is not None)
                clear = gr.Button("Start again")
        start.click(
            analyze,
            [audio, channels, roles, confidence, word_times, redact],
            [timeline, turns, document, files],
            # They take turns at the model, so that a short call need not wait for a long one.
            concurrency_limit=8,
            api_visibility="private",
        )
        for event in (question.submit, send.click):
            event(
                ask,
                [audio, question, talk],
                [question, talk],
                concurrency_limit=1,
                api_visibility="private",
            )
        clear.click(list, None, talk, api_visibility="private")
        # A conversation is about one recording; another one starts again.
        audio.change(list, None, talk, api_visibility="private")
    return page


def launch(
    page: Any,
    port: int | None = None,
    open_browser: bool = False,
    block: bool = True,
    max_upload_mb: int = MAX_UPLOAD_MB,
) -> str:
    """Serves a page on loopback; returns its address.

    Args:
        port: None takes a free one from 7860 on.
        block: return only when the server is stopped.
        max_upload_mb: largest recording that may be uploaded.

    Raises:
        UsageError: the port is taken, or a proxy stands before this machine's own address.
    """
    gr = _gradio()
    from starlette.middleware import Middleware

    # Uploads are written by Gradio; nobody else on this machine may read them.
    os.umask(0o077)
    system_fonts = {"font": ["system-ui", "sans-serif"], "font_mono": ["ui-monospace", "monospace"]}
    try:
        _, address, _ = page.queue().launch(
            server_name=HOST,
            server_port=port,
            inbrowser=open_browser,
            share=False,
            max_file_size=max_upload_mb * 2**20,
            app_kwargs={"middleware": [Middleware(OwnPagesOnly)]},
            quiet=True,
            # Ours are shown anyway; those of Gradio name places on this machine.
            show_error=False,
            ssr_mode=False,
            enable_monitoring=False,
            footer_links=[],
            theme=gr.themes.Default(**system_fonts),
            js=_FRAMES_GROW,
            prevent_thread_lock=True,
        )
    except OSError as error:
        raise UsageError(f"port {port} cannot be used: {error}", "name another with --port") from (
            error
        )
    except ValueError as error:
        # Gradio asks its own page whether it answers, for three seconds, and would share it.
        if "localhost" not in str(error):
            raise
        page.close()
        raise UsageError(
            f"the page does not answer at {HOST}",
            "set NO_PROXY=127.0.0.1 if there is a proxy; if this machine is only busy, try again",
        ) from error
    if block:
        page.block_thread()
    return str(address)


def _gradio() -> Any:
    # Both are read when Gradio is imported or used; they keep it from calling home.
    os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"
    os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
    require_extra("gradio", "app", "the app")
    import gradio

    return gradio


_LOOK_SECONDS = 0.25


class _Abandoned(Exception):
    """Nobody waits for the analysis any more."""


def _once(make: Callable[[], Made]) -> Callable[[], Made]:
    """Calls `make` at the first call alone, also where several come at the same time."""
    lock = threading.Lock()
    made: list[Made] = []

    def get() -> Made:
        with lock:
            if not made:
                made.append(make())
            return made[0]

    return get


def _analyze(
    analyzer: Callable[[], Analyzer], path: str | None, asked: CallOptions, place: PrivateFiles
) -> Generator[tuple[str, str, dict[str, Any], list[str]] | None, None, None]:
    """None while the analysis goes on, then what the page shows. Closed, it ends the analysis."""
    if not path:
        raise UsageError("there is no recording yet", "upload or record one")
    ended = threading.Event()

    def look(_: object = None) -> None:
        if ended.is_set():
            raise _Abandoned

    def work() -> CallReport:
        loaded = analyzer()
        look()
        return loaded.analyze_call(path, asked, on_progress=look)

    # In a thread of its own, so that a visitor who goes is noticed while it decodes as well.
    with ThreadPoolExecutor(1, "speechmeta-analysis") as thread:
        try:
            running = thread.submit(work)
            while not wait([running], _LOOK_SECONDS).done:
                yield None
            report = running.result()
        finally:
            ended.set()
    from speechmeta.writers import HtmlWriter, get_writer

    writer = HtmlWriter(raw=asked.raw, limits=asked.limits)
    sound = writer.sound(report)
    # What is shown is the recording's name, not where Gradio keeps it.
    report.audio.path = Path(path).name
    report.warnings = [without_places(text, path) for text in report.warnings]
    page = writer.page(report, report.peaks, sound)
    folder = place.new_folder()
    files = []
    for name in DOWNLOADS:
        target = folder / f"{Path(path).stem}.{name}"
        if name == "html":
            target.write_text(page, encoding="utf-8")
        elif name != "parquet" or find_spec("pyarrow") is not None:
            get_writer(name).write(report, target)
        else:
            continue
        files.append(str(target))
    yield _framed(page), _table(report), report.model_dump(mode="json"), files


def probability(text: str) -> float | None:
    """A number from 0 to 1; None where nothing was written.

    Raises:
        UsageError: it is something else.
    """
    written = str(text).strip().replace(",", ".")
    if not written:
        return None
    try:
        return float(written)
    except ValueError:
        raise UsageError(f"{text!r} is not a number", "give one from 0 to 1, or none") from None


def _told(gr: Any, error: Exception, path: str | None) -> Any:
    """An error as the visitor sees it: what is wrong, and not where the server keeps files."""
    if not isinstance(error, SpeechMetaError):
        return gr.Error(f"the analysis failed ({type(error).__name__})", print_exception=True)
    text = without_places(str(error), path) if path else str(error)
    return gr.Error(text, print_exception=False)


def _framed(page: str) -> str:
    """A report's page inside a frame of its own, so that neither style touches the other."""
    return (
        f'<iframe title="Report" sandbox="allow-scripts" srcdoc="{html.escape(page)}" '
        f'style="width:100%;height:{_TIMELINE_HEIGHT}px;border:0"></iframe>'
    )


def _table(report: CallReport) -> str:
    """The turns' fields as an HTML table; what a recording says is text there, never markup."""
    head = "".join(f"<th>{html.escape(name)}</th>" for name in TURN_COLUMNS)
    rows = (
        "<tr>" + "".join(f"<td>{html.escape(cell)}</td>" for cell in row) + "</tr>"
        for row in turn_rows(report)
    )
    return (
        '<div style="overflow-x:auto"><table style="width:100%;text-align:left">'
        f"<thead><tr>{head}</tr></thead><tbody>{''.join(rows)}</tbody></table></div>"
    )


def turn_rows(report: CallReport) -> list[list[str]]:
    """A row of text for each turn: `TURN_COLUMNS`; labels with their probability."""
    return [
        [f"{turn.start:.1f} - {turn.end:.1f} s", turn.speaker, *_fields(turn)]
        for turn in report.turns
    ]


def _fields(turn: Turn) -> list[str]:
    values = turn.meta.model_dump(mode="json")
    cells = []
    for field in FIELDS:
        value, sure = values.get(field), turn.confidence.get(field)
        if isinstance(value, bool):
            value = "yes" if value else "no"
        text = "-" if value in (None, "") else str(value)
        cells.append(f"{text} ({sure:.0%})" if sure is not None and text != "-" else text)
    return cells


def _messages(path: str | None, history: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Gradio's history as messages of ours, the recording first."""
    if not path:
        raise UsageError("there is no recording yet", "upload or record one")
    messages: list[dict[str, Any]] = [{"role": "audio", "content": path}]
    for message in history:
        content = message["content"]
        if isinstance(content, list):
            content = "".join(part.get("text", "") for part in content)
        messages.append({"role": message["role"], "content": content})
    return messages


__all__ = ["DOWNLOADS", "build_app", "launch", "turn_rows"]
