"""docs/options.md, made from the options classes.

python -m speechmeta.cli.options_page > docs/options.md
"""

from __future__ import annotations

from collections.abc import Iterator

from speechmeta.eval.options import EvalOptions
from speechmeta.pipeline.options import CallOptions, ModelOptions
from speechmeta.server.options import ServeOptions
from speechmeta.settings import CONFIG_VARIABLE, Entry, Options, entries
from speechmeta.store.options import StoreOptions

INTRODUCTION = f"""\
# Options

<!-- Written by `python -m speechmeta.cli.options_page > docs/options.md`; edit the classes. -->

Every option is a field of one class and can be given in four places. Where it is given more than
once, the first of these counts:

1. a flag of the command (`--min-pause 0.8`), or an argument in Python;
2. an environment variable (`SPEECHMETA_MIN_PAUSE=0.8`); an empty one counts as unset;
3. a config file, named by `--config call.toml` or by `{CONFIG_VARIABLE}`;
4. the default.

Python (`Analyzer`, `analyze_call`) reads neither environment nor config file by itself; the
commands do.

A config file is TOML. Its keys are the names of the fields; those of a nested class are in a
table of its name:

```toml
model = "some/checkpoint"
device = "cuda"
fields = ["SpeechActivity", "Transcript", "Emotion"]
roles = ["agent", "customer"]

[turns]
min_pause_seconds = 0.8
```

Lists are separated by commas in flags and variables (`--roles agent,customer`). `fields` may also
be given by role: `--fields agent=Transcript --fields customer=all`,
`SPEECHMETA_FIELDS="agent=Transcript;customer=all"`, or a table `[fields]` with
`agent = ["Transcript"]`; see [responsible-use.md](responsible-use.md). Switches take
`true` or `false` in variables and files, and `--redact` or `--no-redact` as flags. A key that is
not in the tables below is an error that names the nearest one, and so is a variable that is one
of them misspelt.

In Python the same options are arguments, alone or as an object:

```python
from speechmeta import Analyzer
from speechmeta.pipeline.options import CallOptions, TurnOptions

analyzer = Analyzer("some/checkpoint", device="cuda")
options = CallOptions(roles=("agent", "customer"), turns=TurnOptions(min_pause_seconds=0.8))
report = analyzer.analyze_call("call.wav", options)
report = analyzer.analyze_call("other.wav", options, redact=True)
```
"""

SECTIONS: tuple[tuple[str, str, type[Options]], ...] = (
    (
        "Calls",
        "`CallOptions`: what `analyze`, `batch`, `serve` and `app` ask of each call.",
        CallOptions,
    ),
    ("Model", "`ModelOptions`: which model, and how it runs.", ModelOptions),
    (
        "Server",
        "`ServeOptions`: `speechmeta serve`, beside those of calls and model.",
        ServeOptions,
    ),
    ("Database", "`StoreOptions`: `batch`, `serve` and `erase`; see server.md.", StoreOptions),
    ("Measurements", "`EvalOptions`: `speechmeta eval`, beside the model's.", EvalOptions),
)


def page() -> str:
    """The whole page."""
    return "\n".join([INTRODUCTION, *(part for section in SECTIONS for part in _section(*section))])


def _section(title: str, text: str, kind: type[Options]) -> Iterator[str]:
    yield f"## {title}\n\n{text}\n"
    yield "| flag | variable | key | default | meaning |\n|---|---|---|---|---|"
    for entry in entries(kind):
        yield (
            f"| `{entry.flag}` | `{entry.variable}` | `{entry.key}` | {_default(entry)} "
            f"| {_meaning(entry)} |"
        )
    yield ""


def _default(entry: Entry) -> str:
    default = entry.field.default
    if default is None:
        return entry.unset
    return f"`{str(default).lower() if isinstance(default, bool) else default}`"


def _meaning(entry: Entry) -> str:
    choices = f" One of {', '.join(f'`{name}`' for name in entry.choices)}."
    return (entry.text + (choices if entry.choices else "")).replace("|", "\\|")


if __name__ == "__main__":
    print(page(), end="")
