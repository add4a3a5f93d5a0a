"""`speechmeta app`: a page for the browser."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from . import options
from .console import print_note
from .flags import CALL, MODEL, add_command
from .startup import without_garbage_collection

if TYPE_CHECKING:
    from speechmeta.chat.model import ChatModel
    from speechmeta.pipeline.analyzer import Analyzer
    from speechmeta.pipeline.options import CallOptions, ModelOptions


def register(app: typer.Typer) -> None:
    add_command(app, "app", app_, {"call": CALL, "model": MODEL})


def app_(
    port: Annotated[
        int | None,
        typer.Option(
            min=1,
            max=65535,
            help="Port on the loopback address. Default: a free one.",
            show_default=False,
        ),
    ] = None,
    open_browser: Annotated[
        bool, typer.Option("--open", help="Open the page in a browser.")
    ] = False,
    max_upload_mb: Annotated[
        int,
        typer.Option(min=1, help="Largest recording in MB that may be uploaded."),
    ] = 200,
    chat_model: Annotated[
        str | None,
        typer.Option(
            help="DeSTA checkpoint for the chat tab: a folder or a hub id.",
            show_default=False,
            rich_help_panel=options.MODEL_PANEL,
        ),
    ] = None,
    quantization: Annotated[
        str | None,
        typer.Option(
            help="Quantization of the chat model; see speechmeta chat.",
            show_default=False,
            rich_help_panel=options.MODEL_PANEL,
        ),
    ] = None,
    *,
    call: CallOptions,
    model: ModelOptions,
) -> int:
    """Serve a page on this machine to analyse recordings and chat about them."""
    from speechmeta.app import build_app, launch

    def analyzer() -> Analyzer:
        with without_garbage_collection():
            from speechmeta.pipeline.analyzer import Analyzer

            return Analyzer(**dict(model))

    def chat() -> ChatModel:
        from speechmeta.chat.model import ChatModel

        return ChatModel.from_pretrained(
            str(chat_model),
            device=model.device,
            local_files_only=model.local_files_only,
            **options.chat_loading(options.ComputeType(model.dtype), quantization),
        )

    page = build_app(analyzer, chat if chat_model else None, call=call)
    address = launch(page, port, open_browser, block=False, max_upload_mb=max_upload_mb)
    print_note(f"{address} (Ctrl-C ends it)")
    page.block_thread()
    return 0
