"""`speechmeta chat`: questions about recordings, once or as a conversation."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from speechmeta.errors import SpeechMetaError, UsageError
from speechmeta.visible import visible, visible_json

from . import options
from .console import print_error, print_note

if TYPE_CHECKING:
    from speechmeta.chat.model import ChatModel, ChatReply

ANSWER_PANEL = "Answer"
COMMANDS = "/audio FILE adds a recording, /reset starts again, /quit ends"


def register(app: typer.Typer) -> None:
    app.command("chat")(chat)


def chat(
    files: Annotated[
        list[str] | None,
        typer.Argument(help="Recordings to talk about.", metavar="[FILE]...", show_default=False),
    ] = None,
    ask: Annotated[
        str | None,
        typer.Option(
            help="Ask this one question and exit; without it, a conversation starts.",
            show_default=False,
            rich_help_panel=ANSWER_PANEL,
        ),
    ] = None,
    schema: Annotated[
        Path | None,
        typer.Option(
            help="File with a JSON Schema; answers are JSON that fits it.",
            show_default=False,
            rich_help_panel=ANSWER_PANEL,
        ),
    ] = None,
    system: Annotated[
        str | None,
        typer.Option(help="System message.", show_default=False, rich_help_panel=ANSWER_PANEL),
    ] = None,
    max_new_tokens: Annotated[
        int, typer.Option(min=1, help="Longest answer in tokens.", rich_help_panel=ANSWER_PANEL)
    ] = 512,
    temperature: Annotated[
        float,
        typer.Option(
            min=0.0,
            help="0 always takes the most likely token; above 0, answers are sampled.",
            rich_help_panel=ANSWER_PANEL,
        ),
    ] = 0.0,
    top_p: Annotated[
        float,
        typer.Option(
            min=0.0,
            max=1.0,
            help="Sample from the most likely tokens that together have this probability.",
            rich_help_panel=ANSWER_PANEL,
        ),
    ] = 1.0,
    seed: Annotated[
        int | None,
        typer.Option(
            help="Seed that makes sampling repeatable.",
            show_default=False,
            rich_help_panel=ANSWER_PANEL,
        ),
    ] = None,
    reference_behaviour: Annotated[
        bool,
        typer.Option(
            "--reference-behaviour",
            help="Encode and prompt exactly as the published code does, flaws included: "
            "recordings are cut at 30 s.",
            rich_help_panel=options.AUDIO_PANEL,
        ),
    ] = False,
    model: Annotated[
        str | None,
        typer.Option(
            help="Checkpoint: a folder or a hub id. Without it "
            "DeSTA-ntu/DeSTA2.5-Audio-Llama-3.1-8B.",
            show_default=False,
            rich_help_panel=options.MODEL_PANEL,
        ),
    ] = None,
    device: options.Device = "auto",
    compute_type: options.ComputeTypeOption = options.ComputeType.AUTO,
    quantization: Annotated[
        str | None,
        typer.Option(
            help="int4 or int8 (bitsandbytes), torchao-int4 or torchao-int8, for the language "
            "model. On a GPU of 16 GB: int4, or int8 with --audio-type float16.",
            show_default=False,
            rich_help_panel=options.MODEL_PANEL,
        ),
    ] = None,
    audio_type: Annotated[
        str,
        typer.Option(
            help="float32, bfloat16 or float16 for Whisper; 16 bits save 3 GB with large-v3.",
            rich_help_panel=options.MODEL_PANEL,
        ),
    ] = "float32",
    device_map: options.DeviceMap = None,
    local_files_only: options.LocalFilesOnly = False,
    quiet: options.Quiet = False,
) -> int:
    """Talk about recordings: ask what was said, how, and why.

    Answers stream to stdout; everything else goes to stderr.
    """
    # All that can be wrong is looked at before minutes go into loading a model.
    from speechmeta.pipeline.callfields.schemas import read_schema

    output_type = read_schema(schema) if schema is not None else None
    if ask is not None and not ask.strip():
        raise UsageError("--ask is empty", "give a question, or leave it out for a conversation")
    loading = options.chat_loading(compute_type, quantization, device_map)
    for file in files or []:
        _check_recording(file)
    from speechmeta.chat.model import DEFAULT_CHAT_MODEL, ChatModel
    from speechmeta.decoding.chat_loop import sampling_options

    sampling: dict[str, Any] = {
        "max_new_tokens": max_new_tokens,
        "do_sample": temperature > 0,
        "temperature": temperature or 1.0,
        "top_p": top_p,
        "seed": seed,
    }
    sampling_options(sampling)
    chat_model = ChatModel.from_pretrained(
        model or DEFAULT_CHAT_MODEL,
        device=device,
        local_files_only=local_files_only,
        audio_dtype=audio_type,
        **loading,
    )
    talk = _Talk(
        chat_model,
        files or [],
        system,
        {
            "output_type": output_type,
            "reference_behaviour": reference_behaviour,
            **sampling,
        },
        quiet,
    )
    if ask is not None:
        talk.ask(ask)
        return 0
    return talk.run()


class _Talk:
    """A conversation with its settings."""

    def __init__(
        self,
        model: ChatModel,
        files: list[str],
        system: str | None,
        settings: dict[str, Any],
        quiet: bool,
    ) -> None:
        self.model = model
        self.settings = settings
        self.quiet = quiet
        self.beginning: list[dict[str, Any]] = []
        if system:
            self.beginning.append({"role": "system", "content": system})
        self.beginning += [{"role": "audio", "content": file} for file in files]
        self.messages = list(self.beginning)

    def ask(self, question: str) -> ChatReply:
        """Answers on stdout and remembers both."""
        asked = [*self.messages, {"role": "user", "content": question}]
        if self.settings["output_type"] is not None:
            # Nothing is shown of JSON that could still turn out to be invalid.
            reply: ChatReply = self.model.chat(asked, **self.settings)
            print(visible_json(json.dumps(reply.value, ensure_ascii=False)), flush=True)
        else:
            # Ctrl-C leaves the block, which ends the generation.
            with self.model.stream(asked, **self.settings) as stream:
                for piece in stream:
                    print(visible(piece), end="", flush=True)
                print(flush=True)
                reply = stream.reply
        self.messages = [*asked, {"role": "assistant", "content": reply.text}]
        if not self.quiet:
            self._notes(reply)
        return reply

    def _notes(self, reply: ChatReply) -> None:
        if reply.finish == "length":
            print_note("the answer was cut off; --max-new-tokens allows a longer one")
        if "forced_close" in reply.flags:
            print_note("the token limit forced the ending; --max-new-tokens allows a longer answer")
        for audio in reply.audios:
            if audio.skipped_seconds:
                print_note(f"{audio.path}: {audio.skipped_seconds:.1f} s were skipped")
            if not reply.usage.encoded_windows:
                continue  # said when it was heard
            for window in audio.windows:
                if "transcript_limit" in window.flags:
                    print_note(
                        f"{audio.path}: the transcript of {window.start:.1f} to "
                        f"{window.end:.1f} s was cut at Whisper's limit"
                    )

    def run(self) -> int:
        """Reads questions from stdin until its end; 1 if one of them failed, else 0."""
        shown = sys.stdin.isatty() and not self.quiet
        if shown:
            print_note(COMMANDS)
        code = 0
        while True:
            if shown:
                print("\nyou: ", end="", file=sys.stderr, flush=True)
            line = sys.stdin.readline()
            question = line.strip()
            if not line or question == "/quit":
                return code
            try:
                self._turn(question)
            except KeyboardInterrupt:
                print(flush=True)
                print_note("stopped; the answer was discarded")
            except SpeechMetaError as error:
                print_error(error.message, error.hint)
                code = 1

    def _turn(self, question: str) -> None:
        if question == "/reset":
            self.messages = list(self.beginning)
        elif question.startswith("/audio "):
            path = question.removeprefix("/audio ").strip()
            # Once in the conversation, a broken recording would make every question fail.
            _check_recording(path)
            self.messages.append({"role": "audio", "content": path})
        elif question.startswith("/"):
            raise UsageError(f"{question.split()[0]} is not known", COMMANDS)
        elif question:
            self.ask(question)


def _check_recording(path: str) -> None:
    """Raises UsageError or AudioError where this cannot be heard; reads its beginning only."""
    from speechmeta.audio.loading import probe_audio

    if not Path(path).is_file():
        raise UsageError(f"{path} is not a file", "check the path")
    probe_audio(path)
