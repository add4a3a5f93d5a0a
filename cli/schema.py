"""`speechmeta schema`: the JSON Schema of the results."""

from __future__ import annotations

import json
from enum import StrEnum
from typing import Annotated

import typer


class SchemaKind(StrEnum):
    REPORT = "report"
    META = "meta"


def register(app: typer.Typer) -> None:
    app.command("schema")(schema)


def schema(
    kind: Annotated[
        SchemaKind,
        typer.Argument(
            help="report: the document of `analyze --json`. meta: the six fields of one turn."
        ),
    ] = SchemaKind.REPORT,
) -> None:
    """Print the JSON Schema of the results."""
    from speechmeta.schema import CallReport, SpeakerMeta

    wanted = CallReport if kind is SchemaKind.REPORT else SpeakerMeta
    print(json.dumps(wanted.model_json_schema(), indent=2))
