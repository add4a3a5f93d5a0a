"""`speechmeta app`: a page for the browser."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from . import options
from .console import print_note

if TYPE_CHECKING:
    from speechmeta.chat.model import ChatModel
    from speechmeta.pipeline.analyzer import Analyzer


def register(app: typer.Typer) -> None:
    app.command("app")(app_)


def app_(
    port: Annotated[
        int | None,
        typer.Option(
            min=1, max=65535, help="Port on loopback; a free one without it.", show_default=False
        ),
    ] = None,
    open_browser: Annotated[bool, typer.Option("--open", help="Open the page at once.")] = False,
    model: options.Model = None,
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
            help="Of the chat model; see chat.",
            show_default=False,
            rich_help_panel=options.MODEL_PANEL,
        ),
    ] = None,
    device: options.Device = "auto",
    compute_type: options.ComputeTypeOption = options.ComputeType.AUTO,
    batch_size: options.BatchSize = 8,
    local_files_only: options.LocalFilesOnly = False,
) -> int:
    """Start a page on this machine: analyze recordings, and chat about them."""
    from speechmeta.app import build_app, launch

    def analyzer() -> Analyzer:
        from speechmeta.pipeline.analyzer import Analyzer

        return Analyzer(
            model,
            device=device,
            dtype=compute_type.value,
            batch_size=batch_size,
            local_files_only=local_files_only,
        )

    def chat() -> ChatModel:
        from speechmeta.chat.model import ChatModel

        return ChatModel.from_pretrained(
            str(chat_model),
            device=device,
            local_files_only=local_files_only,
            **options.chat_loading(compute_type, quantization),
        )

    page = build_app(analyzer, chat if chat_model else None)
    address = launch(page, port, open_browser, block=False)
    print_note(f"{address} (Ctrl-C ends it)")
    page.block_thread()
    return 0
