"""`speechmeta eval instruction`: how a chat model follows instructions about recordings."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from speechmeta.errors import OutputError

from . import options
from .console import out_console, print_note, progress


def instruction(
    data: Annotated[Path, typer.Option(help="A JSONL manifest; see speechmeta.eval.instruction.")],
    model: Annotated[str, typer.Option(help="DeSTA checkpoint: a folder or a hub id.")],
    output: Annotated[
        Path | None,
        typer.Option("--output", "-o", help="Write the report here as JSON.", show_default=False),
    ] = None,
    answers: Annotated[
        Path | None, typer.Option(help="Write every answer here as JSONL.", show_default=False)
    ] = None,
    constrained: Annotated[
        bool,
        typer.Option("--constrained", help="A grammar limits each answer to the choices."),
    ] = False,
    text_if_rate: Annotated[
        float | None,
        typer.Option(
            help="The language model's own rate on text, for Speech-IFEval's delta.",
            show_default=False,
        ),
    ] = None,
    limit: Annotated[
        int | None, typer.Option(min=1, help="Only the first N questions.", show_default=False)
    ] = None,
    batch_size: options.BatchSize = 4,
    max_new_tokens: Annotated[int, typer.Option(min=1, help="Longest answer in tokens.")] = 256,
    device: options.Device = "auto",
    quantization: Annotated[
        str | None,
        typer.Option(
            help="Quantization of the language model; see speechmeta chat.", show_default=False
        ),
    ] = None,
    local_files_only: options.LocalFilesOnly = False,
    quiet: options.Quiet = False,
) -> int:
    """Ask about recordings and score the answers: classification, SAKURA, Speech-IFEval style."""
    from speechmeta.chat.model import ChatModel
    from speechmeta.eval.instruction import read_items, report, run_items

    items = read_items(data)[:limit]
    chat = ChatModel.from_pretrained(
        model, device=device, quantization=quantization, local_files_only=local_files_only
    )
    with progress(len(items), quiet) as advance:
        before = 0

        def done(count: int) -> None:
            nonlocal before
            advance("questions", count - before)
            before = count

        found = run_items(
            chat,
            items,
            constrained=constrained,
            batch_size=batch_size,
            on_progress=done,
            max_new_tokens=max_new_tokens,
        )
    result = report(found, system=chat.name, constrained=constrained, text_if_rate=text_if_rate)
    text = json.dumps(result, indent=2, ensure_ascii=False)
    lines = "".join(
        json.dumps(
            {
                "line": answer.item.number,
                "task": answer.item.task,
                "text": answer.text,
                "chosen": answer.chosen,
                "passed": answer.passed,
                "correct": answer.correct,
                "error": answer.error,
            },
            ensure_ascii=False,
        )
        + "\n"
        for answer in found
    )
    try:
        if output is not None:
            output.write_text(text + "\n", encoding="utf-8")
        if answers is not None:
            answers.write_text(lines, encoding="utf-8")
    except OSError as error:
        raise OutputError(f"cannot write: {error}", "check the folder") from error
    if output is None:
        out_console().print_json(text)
    elif not quiet:
        print_note(f"report: {output}")
    return 1 if any(answer.error for answer in found) else 0
