"""The language of alert rules: what may be written in a rules file, and how it is read.

    [[rule]]
    name = "no greeting"
    when = "not_said"
    role = "agent"
    phrases = ["thank you for calling", "good morning"]
    before = 20

docs/rules.md describes every key. Rules are data: nothing in them is run as code. What they find
is `speechmeta.pipeline.alerts`' part.
"""

from __future__ import annotations

import difflib
import tomllib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal, Self, get_args

import regex
from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    ValidationError,
    field_validator,
    model_validator,
)

from speechmeta.errors import UsageError
from speechmeta.pipeline.policy import FieldRules, PolicyName, decide, is_named, possible_fields
from speechmeta.schema import LabelSets

MOST_RULES = 500
LONGEST_PATTERN = 1000
"""Characters of a phrase or pattern."""

PAGE = "see docs/rules.md"


def _listed(value: Any) -> Any:
    return (value,) if isinstance(value, str) else value


Text = Annotated[str, Field(min_length=1, max_length=LONGEST_PATTERN)]
Texts = Annotated[tuple[Text, ...], BeforeValidator(_listed)]
Share = Annotated[float, Field(ge=0.0, le=1.0, strict=True)]
Seconds = Annotated[float, Field(strict=True)]


class _Rule(BaseModel):
    """What all rules have.

    Attributes:
        name: in alerts; each rule has its own.
        after, before: seconds between which the rule looks; from the recording's start, or from
            its end where they are negative.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    needs: ClassVar[str | None] = None
    """The field without which the rule cannot be judged."""

    name: Annotated[str, Field(min_length=1, max_length=200)]
    after: Seconds | None = None
    before: Seconds | None = None

    def window(self, duration: float) -> tuple[float, float]:
        """(start, end) in seconds of a recording of this duration."""
        return (
            0.0 if self.after is None else self._place(self.after, duration),
            duration if self.before is None else self._place(self.before, duration),
        )

    @staticmethod
    def _place(seconds: float, duration: float) -> float:
        return min(max(0.0, duration + seconds if seconds < 0 else seconds), duration)

    @model_validator(mode="after")
    def _window_is_one(self) -> Self:
        after, before = self.after, self.before
        same_end = after is not None and before is not None and (after < 0) == (before < 0)
        if same_end and after is not None and before is not None and after >= before:
            raise ValueError(f"nothing lies after {after:g} and before {before:g}")
        return self


class _OfRole(_Rule):
    """A rule that may be for one role alone; without it, it is for every speaker."""

    role: Text | None = None

    def is_for(self, speaker: str) -> bool:
        """Whether the rule looks at a speaker of this name."""
        return self.role is None or self.role.casefold() == speaker.casefold()


class _Words(_OfRole):
    """A rule of what is said: any of the phrases, or what the pattern matches."""

    needs = "Transcript"

    phrases: Texts = ()
    pattern: Text | None = None

    @field_validator("phrases")
    @classmethod
    def _have_words(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        for phrase in value:
            if not words_of(phrase):
                raise ValueError(f"the phrase {phrase!r} has no word")
        return value

    @field_validator("pattern")
    @classmethod
    def _is_a_pattern(cls, value: str | None) -> str | None:
        if value is not None:
            try:
                compiled(value)
            except (regex.error, RecursionError, MemoryError, OverflowError) as error:
                raise ValueError(f"{value!r} is no regular expression: {error}") from None
        return value

    @model_validator(mode="after")
    def _has_something(self) -> Self:
        if not self.phrases and self.pattern is None:
            raise ValueError("there is neither phrases nor pattern")
        return self


class Said(_Words):
    """Somebody says it."""

    when: Literal["said"]


class NotSaid(_Words):
    """Nobody says it."""

    when: Literal["not_said"]


class Silence(_Rule):
    """Nobody talks for more than `over` seconds."""

    when: Literal["silence"]
    over: Annotated[float, Field(gt=0.0, strict=True)]


class Interruptions(_OfRole):
    """The role interrupts others more than `over` times."""

    when: Literal["interruptions"]
    over: Annotated[int, Field(ge=0, strict=True)] = 0


class Feeling(_OfRole):
    """An emotion has at least a probability for more than `over` seconds of the role's talk,
    over turns of its that follow each other."""

    needs = "Emotion"

    when: Literal["emotion"]
    emotion: Text
    probability: Share = 0.5
    over: Annotated[float, Field(ge=0.0, strict=True)] = 0.0


class TalkShare(_OfRole):
    """The role has more than `over`, or less than `under`, of the talk of all."""

    when: Literal["talk_share"]
    over: Share | None = None
    under: Share | None = None

    @model_validator(mode="after")
    def _has_a_limit(self) -> Self:
        if self.over is None and self.under is None:
            raise ValueError("there is neither over nor under")
        return self


Rule = Said | NotSaid | Silence | Interruptions | Feeling | TalkShare

_KINDS: dict[str, type[_Rule]] = {
    get_args(kind.model_fields["when"].annotation)[0]: kind for kind in get_args(Rule)
}


class RuleSet(BaseModel):
    """The rules of a file, in its order."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    rule: tuple[Annotated[Rule, Field(discriminator="when")], ...]

    @classmethod
    def load(cls, source: str | Path) -> RuleSet:
        """Reads a TOML file.

        Raises:
            UsageError: it cannot be read, is not TOML, or holds what is no rule; the message is
                one line that names the rule and the key.
        """
        path = Path(source)
        try:
            with path.open("rb") as file:
                data = tomllib.load(file)
        except (OSError, ValueError) as error:
            if isinstance(error, (tomllib.TOMLDecodeError, UnicodeDecodeError)):
                raise UsageError(f"{path} is not valid TOML: {error}", PAGE) from error
            reason = getattr(error, "strerror", None) or str(error)
            raise UsageError(f"cannot read the rules {path}: {reason}", "check --rules") from error
        except RecursionError as error:
            raise UsageError(f"{path} is nested too deeply", PAGE) from error
        return cls.of(data, str(path))

    @classmethod
    def of(cls, data: Mapping[str, Any], place: str = "the rules") -> RuleSet:
        """Checks rules that are there as data.

        Args:
            place: where they come from, for messages.

        Raises:
            UsageError: see `load`.
        """
        for key in data:
            if key != "rule":
                raise UsageError(f"{place}: unknown key {key!r}", "allowed is rule: [[rule]]")
        rules = data.get("rule")
        if not isinstance(rules, Sequence) or isinstance(rules, str) or not rules:
            raise UsageError(f"{place} has no rule", f"write [[rule]]; {PAGE}")
        if len(rules) > MOST_RULES:
            raise UsageError(f"{place} has {len(rules)} rules", f"{MOST_RULES} are the most")
        names: dict[str, int] = {}
        checked = []
        for number, rule in enumerate(rules, start=1):
            if isinstance(rule, _Rule):
                rule = rule.model_dump(exclude_unset=True)
            checked.append(_checked(rule, number, place))
            name = checked[-1].name.casefold()
            if name in names:
                raise UsageError(
                    f"{place}: rules {names[name]} and {number} have the name {rule['name']!r}",
                    "give every rule a name of its own",
                )
            names[name] = number
        return cls.model_construct(rule=tuple(checked))


def _checked(rule: Any, number: int, place: str) -> Any:
    if not isinstance(rule, Mapping):
        raise UsageError(f"{place}: rule {number} is no table", f"write [[rule]]; {PAGE}")
    name = rule.get("name")
    which = f"{place}: rule {number}" + (f" ({name:.60})" if isinstance(name, str) else "")
    when = rule.get("when")
    if not isinstance(when, str) or when not in _KINDS:
        said = "has no key 'when'" if when is None else f"has when = {when!r:.60}"
        raise UsageError(f"{which} {said}", f"choose from {', '.join(_KINDS)}")
    kind = _KINDS[when]
    known = list(kind.model_fields)
    for key in rule:
        if key not in known:
            near = difflib.get_close_matches(str(key), known, n=1)
            hint = f"did you mean {near[0]!r}? " if near else ""
            raise UsageError(
                f"{which}: unknown key {key!r}", f"{hint}allowed with {when} are {', '.join(known)}"
            )
    try:
        return kind.model_validate(dict(rule))
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        key = ".".join(str(part) for part in first["loc"])
        rule_of_key = first["msg"].removeprefix("Value error, ").removeprefix("Input should be ")
        if first["type"] == "missing":
            raise UsageError(f"{which} has no key {key!r}", PAGE) from None
        if first["type"] == "value_error":
            raise UsageError(f"{which}: {rule_of_key}", PAGE) from None
        raise UsageError(
            f"{which}: {key} is {first['input']!r:.60}", f"it has to be {rule_of_key}"
        ) from None


def checked_rules(value: object) -> RuleSet | None:
    """Rules from a file's path, from data, or as they are.

    Raises:
        UsageError: see `RuleSet.load`.
    """
    if value is None or isinstance(value, RuleSet):
        return value
    if isinstance(value, (str, Path)):
        return RuleSet.load(value)
    if isinstance(value, Mapping):
        return RuleSet.of(value)
    raise UsageError(f"rules are {type(value).__name__}", "name a TOML file, or give a dict")


def compiled(pattern: str) -> regex.Pattern[str]:
    """A pattern as it is searched for: in any case, `^` and `$` at the ends of a turn.

    Raises:
        regex.error: it is no regular expression.
    """
    found: regex.Pattern[str] = regex.compile(pattern, regex.IGNORECASE | regex.V0)
    return found


def words_of(text: str) -> list[str]:
    """The words of a text without case and punctuation: `Don't, please!` is don't, please."""
    return [plain(match.group()) for match in WORD.finditer(text)]


def plain(word: str) -> str:
    """A word as words are compared: without case, with one kind of apostrophe."""
    return word.casefold().replace(_APOSTROPHE, "'")


_APOSTROPHE = "\N{RIGHT SINGLE QUOTATION MARK}"

WORD = regex.compile(rf"\w+(?:['{_APOSTROPHE}]\w+)*")
"""A word of a transcript."""


def check_fit(
    rules: RuleSet, policy: PolicyName, fields: FieldRules, roles: Sequence[str] | None
) -> None:
    """Sees that the roles of rules exist, and that the fields they need are computed.

    Raises:
        UsageError: otherwise.
    """
    for rule in rules.rule:
        role = rule.role if isinstance(rule, _OfRole) else None
        if role is not None and roles is not None and not is_named(role, roles):
            raise UsageError(
                f"the rule {rule.name!r} is for {role!r}, but the roles are {', '.join(roles)}",
                "name one of them, or add it to --roles",
            )
        if rule.needs is None:
            continue
        if role is None:
            computed = possible_fields(policy, fields, roles)
            reason = "it is left out for everybody"
        else:
            decision = decide([role], policy, fields, roles)[0][role]
            computed = decision.fields
            reason = decision.left_out.get(rule.needs, "")
        if rule.needs not in computed:
            of = f" of {role}" if role else ""
            raise UsageError(
                f"the rule {rule.name!r} needs {rule.needs}{of}: {reason}",
                "add it to --fields, choose another policy, or leave the rule out",
            )


def check_labels(rules: RuleSet, fields: Sequence[str], label_sets: LabelSets, model: str) -> None:
    """Sees that a model gives what rules need, emotions of that name included.

    Raises:
        UsageError: otherwise.
    """
    for rule in rules.rule:
        if rule.needs is not None and rule.needs not in fields:
            raise UsageError(
                f"the rule {rule.name!r} needs {rule.needs}, which the model {model} does not give",
                "leave the rule out, or name another model",
            )
        if isinstance(rule, Feeling) and rule.emotion not in label_sets["Emotion"]:
            raise UsageError(
                f"the rule {rule.name!r} names the emotion {rule.emotion!r}",
                f"choose from {', '.join(label_sets['Emotion'])}",
            )


__all__ = [
    "WORD",
    "Feeling",
    "Interruptions",
    "NotSaid",
    "Rule",
    "RuleSet",
    "Said",
    "Silence",
    "TalkShare",
    "check_fit",
    "check_labels",
    "checked_rules",
    "compiled",
    "plain",
    "words_of",
]
