"""Options of turns, speakers, word times and redaction; `call_options` lists them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from speechmeta.segmentation.turns import TurnOptions

PANEL = "Turns and speakers"

MIN_PAUSE = 0.6
MIN_TURN = 0.2
MAX_TURN = 15.0
PADDING = 0.2

Threshold = Annotated[
    float | None,
    typer.Option(
        "--vad-threshold",
        help="Probability from which a moment is speech. Default: 0.35 at 8 kHz, 0.4 at "
        "16 kHz; lower finds fainter speech and more noise.",
        show_default=False,
        rich_help_panel=PANEL,
    ),
]
MinPause = Annotated[
    float,
    typer.Option(
        "--min-pause", help="Seconds of pause that end a turn.", min=0.0, rich_help_panel=PANEL
    ),
]
MinTurn = Annotated[
    float,
    typer.Option(
        "--min-turn",
        help="Seconds of speech below which there is no turn.",
        min=0.0,
        rich_help_panel=PANEL,
    ),
]
MaxTurn = Annotated[
    float,
    typer.Option(
        "--max-turn",
        help="Longest turn in seconds; longer speech is cut at its quietest point.",
        rich_help_panel=PANEL,
    ),
]
Padding = Annotated[
    float,
    typer.Option(
        "--padding",
        help="Seconds around a turn that the model hears too.",
        min=0.0,
        rich_help_panel=PANEL,
    ),
]
Speakers = Annotated[
    int | None,
    typer.Option(
        "--speakers",
        help="How many speakers share one channel. Default: find out; with --roles, as many "
        "as there are roles.",
        min=1,
        show_default=False,
        rich_help_panel=PANEL,
    ),
]
SpeakerModel = Annotated[
    str | None,
    typer.Option(
        "--speaker-model",
        help="What tells them apart: voiceprint (in the package, the default), encoder (the "
        "checkpoint's), or a speaker verification model such as microsoft/wavlm-base-plus-sv.",
        show_default=False,
        rich_help_panel=PANEL,
    ),
]
WordTimes = Annotated[
    bool,
    typer.Option(
        "--word-times",
        help="Add the times of the words; subtitles follow them.",
        rich_help_panel=PANEL,
    ),
]
Redact = Annotated[
    bool,
    typer.Option(
        "--redact",
        help="Replace card and phone numbers, e-mail addresses and spoken digits in every output.",
        rich_help_panel=PANEL,
    ),
]


def collect(
    threshold: float | None, min_pause: float, min_turn: float, max_turn: float, padding: float
) -> TurnOptions:
    """The options object.

    Raises:
        UsageError: the numbers make no sense, alone or together.
    """
    from speechmeta.segmentation.turns import TurnOptions

    return TurnOptions(
        threshold=threshold,
        min_pause_seconds=min_pause,
        min_turn_seconds=min_turn,
        max_turn_seconds=max_turn,
        padding_seconds=padding,
    )
