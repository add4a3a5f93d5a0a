"""Flags that several commands share and that belong to no options class (see `flags`).

def command(device: options.Device = "auto", quiet: options.Quiet = False) -> None: ...
"""

from __future__ import annotations

import os
import re
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import typer

from speechmeta.audio.remote import is_remote
from speechmeta.errors import UsageError


class ComputeType(StrEnum):
    """Number format of the weights; auto is float32 on the CPU, bfloat16 or float16 on GPUs."""

    AUTO = "auto"
    FLOAT32 = "float32"
    BFLOAT16 = "bfloat16"
    FLOAT16 = "float16"
    INT8 = "int8"


def check_device(value: str) -> str:
    """auto, cpu, mps, cuda or cuda:N.

    Raises:
        UsageError: anything else.
    """
    if not re.fullmatch(r"auto|cpu|mps|cuda(:\d+)?", value):
        raise UsageError(f"unknown device {value!r}", "choose from auto, cpu, cuda, cuda:N, mps")
    return value


def on_this_machine(folder: Path | None) -> None:
    """Sees that results are not asked for at an address, which would become a folder of its name.

    Raises:
        UsageError: they are.
    """
    scheme, found, rest = str(folder or "").partition(":/")
    if found and is_remote(f"{scheme}://") and not os.path.exists(scheme + ":"):
        raise UsageError(
            f"results are not written to {scheme}://{rest.lstrip('/')}",
            "give a folder of this machine, and copy it when the run has ended",
        )


MODEL_PANEL = "Model"
AUDIO_PANEL = "Audio"
OUTPUT_PANEL = "Output"

Device = Annotated[
    str,
    typer.Option(
        help="auto, cpu, cuda, cuda:N or mps.", callback=check_device, rich_help_panel=MODEL_PANEL
    ),
]
ComputeTypeOption = Annotated[
    ComputeType,
    typer.Option(
        "--compute-type", help="Number format of the weights.", rich_help_panel=MODEL_PANEL
    ),
]
BatchSize = Annotated[
    int,
    typer.Option(min=1, help="Turns that are decoded together.", rich_help_panel=MODEL_PANEL),
]
LocalFilesOnly = Annotated[
    bool,
    typer.Option(
        "--local-files-only",
        help="Never use the network; only what is already on this machine.",
        rich_help_panel=MODEL_PANEL,
    ),
]


class ExcelCountry(StrEnum):
    """How Excel wants its CSV: by the list separator of the country's settings."""

    COMMA = "comma"
    SEMICOLON = "semicolon"


CsvExcel = Annotated[
    ExcelCountry | None,
    typer.Option(
        "--csv-excel",
        help="CSV that Excel opens with a double click: comma, or semicolon with decimal commas.",
        show_default=False,
        rich_help_panel=OUTPUT_PANEL,
    ),
]


ALL_FORMATS = "json,csv,tsv,srt,vtt,txt,html"
"""What `all` stands for, as in whisper's command line: what needs no extra, each once."""


def formats_of(names: str, csv_excel: ExcelCountry | None) -> tuple[str, ...]:
    """The formats that are named, separated by commas; `csv` as `--csv-excel` wants it.

    `all` is `ALL_FORMATS`.
    """
    if "all" in [name.strip().lower() for name in names.split(",")]:
        names = ALL_FORMATS
    excel = {
        None: "csv",
        ExcelCountry.COMMA: "csv-excel",
        ExcelCountry.SEMICOLON: "csv-excel-semicolon",
    }
    found = (name.strip() for name in names.split(",") if name.strip())
    return tuple(excel[csv_excel] if name.lower() == "csv" else name for name in found)


class ReportAudioChoice(StrEnum):
    """Whether an HTML report has the call's sound."""

    EMBED = "embed"
    LINK = "link"
    NONE = "none"


ReportAudio = Annotated[
    ReportAudioChoice,
    typer.Option(
        "--report-audio",
        help="Sound of HTML reports: embed it (as Opus, to about an hour; longer ones are "
        "linked), link the recording, or none. Redacted reports carry redacted sound or none.",
        rich_help_panel=OUTPUT_PANEL,
    ),
]


Quiet = Annotated[
    bool,
    typer.Option(
        "--quiet",
        "-q",
        help="No progress bar and no notes; errors are still shown.",
        rich_help_panel=OUTPUT_PANEL,
    ),
]


DeviceMap = Annotated[
    str | None,
    typer.Option(
        help="auto, balanced, balanced_low_0 or sequential: spread the language model over "
        "several devices.",
        show_default=False,
        rich_help_panel=MODEL_PANEL,
    ),
]


def chat_loading(
    compute_type: ComputeType, quantization: str | None, device_map: str | None = None
) -> dict[str, Any]:
    """`dtype`, `quantization` and `device_map` of `ChatModel.from_pretrained`.

    Raises:
        UsageError: the device map is not known.
    """
    if device_map not in (None, "auto", "balanced", "balanced_low_0", "sequential"):
        raise UsageError(
            f"unknown device map {device_map!r}",
            "choose from auto, balanced, balanced_low_0, sequential",
        )
    dtype: str = compute_type.value
    if compute_type is ComputeType.INT8:
        # A way of loading for the decoder, not a type that it could be converted to.
        dtype, quantization = ComputeType.AUTO.value, quantization or "int8"
    return {"dtype": dtype, "quantization": quantization, "device_map": device_map}


def split_names(value: str | None) -> tuple[str, ...] | None:
    """`agent, customer` as a tuple; None stays None.

    Raises:
        UsageError: a name is empty.
    """
    if value is None:
        return None
    names = tuple(name.strip() for name in value.split(","))
    if not all(names):
        raise UsageError(f"an empty name in {value!r}", "separate names by single commas")
    return names
