"""Which fields may be known of whom: policies by role, and what they come to in a call.

    decisions, warnings = decide(["agent", "customer"], "eu-workplace", {"customer": ("all",)})

What each policy is for stands in docs/responsible-use.md. Knows neither audio nor models: what a
decision leaves out is never asked of a model, so that it is not computed.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

from speechmeta.errors import UsageError
from speechmeta.schema import FIELDS, check_fields

PolicyName = Literal["all", "eu-workplace", "transcript-only"]

ALL = "all"
"""In the place of names of fields: all that the policy allows and the model gives."""

NONE = "none"
"""In the place of names of fields: nothing at all."""

EVERYONE = "*"
"""In the place of a role: all named roles that have no rule of their own."""

AGENT_NAMES = frozenset("agent employee operator advisor adviser representative staff".split())
CUSTOMER_NAMES = frozenset("customer client consumer patient guest".split())
"""Names of roles that a policy takes for one party. Not `caller`: it may be either."""

NOT_ASKED = "not asked for"
NOT_ALLOWED = "not allowed by the policy"
ON_DEMAND = "only where it is asked for by name"
ROLE_UNKNOWN = "the role is not known"
NOT_GIVEN = "not given by the model"
"""Why a field was not computed, as it appears in the document."""

USED_ONLY = "not asked for; at most used to tell whether anyone speaks"
"""Of SpeechActivity, without which no other field is right."""

Names = tuple[str, ...]
FieldRules = Names | dict[str, Names] | None
"""Names of fields for everybody, or by role; None for the policy's own choice."""

_WORDS: Names = ("SpeechActivity", "Transcript")
_UNNAMED = re.compile(r"speaker_\d+")


@dataclass(frozen=True)
class Rule:
    """What a policy says of one party.

    Attributes:
        allowed: fields that may be computed.
        offered: those of them that are computed without being asked for by name.
    """

    allowed: Names = FIELDS
    offered: Names = FIELDS


@dataclass(frozen=True)
class Policy:
    """A policy by name.

    Attributes:
        strictest: the rule for whoever no other is for.
        agents, customers: rules of the two parties; None where the strictest holds for them too.
    """

    strictest: Rule
    agents: Rule | None = None
    customers: Rule | None = None

    def rule(self, speaker: str) -> Rule:
        """The rule for a speaker of this name."""
        return {"agent": self.agents, "customer": self.customers}.get(party(speaker)) or (
            self.strictest
        )

    def is_unsure(self, speaker: str) -> bool:
        """Whether a better name of the speaker could bring another rule."""
        others = {self.agents, self.customers} - {None, self.strictest}
        return bool(others) and not party(speaker)


POLICIES: dict[PolicyName, Policy] = {
    "all": Policy(Rule()),
    "eu-workplace": Policy(
        strictest=Rule(tuple(name for name in FIELDS if name != "Emotion"), _WORDS),
        customers=Rule(FIELDS, (*_WORDS, "Emotion")),
    ),
    "transcript-only": Policy(Rule(_WORDS, _WORDS)),
}


@dataclass(frozen=True)
class Decision:
    """What the turns of one speaker are asked for, in the schema's order, and why not the rest."""

    fields: Names = FIELDS
    left_out: Mapping[str, str] = field(default_factory=dict)

    def given_by(self, model_fields: Sequence[str]) -> Decision:
        """The decision with a model that gives only some fields."""
        missing = {name: NOT_GIVEN for name in self.fields if name not in model_fields}
        kept = tuple(name for name in self.fields if name in model_fields)
        return Decision(kept, {**self.left_out, **missing})


def party(speaker: str) -> str:
    """`agent` or `customer` by the name of a role, such as `Agent 2`; empty for others."""
    name = re.sub(r"[\s_-]*\d+$", "", speaker.strip()).casefold()
    if name in AGENT_NAMES:
        return "agent"
    return "customer" if name in CUSTOMER_NAMES else ""


def check_rules(value: object) -> FieldRules:
    """Rules as they are kept, from names, from names by role, or from texts like `agent=all`.

    Raises:
        UsageError: a field is not known, a role has two rules, or nothing is asked for.
    """
    if value is None:
        return None
    if isinstance(value, str):
        value = [part for part in value.split(";") if part.strip()]
        if not any("=" in part for part in value):
            return _names(value)
    if isinstance(value, Mapping):
        pairs = [(str(role), names) for role, names in value.items()]
    elif any("=" in str(part) for part in _listed(value)):
        pairs = []
        for part in _listed(value):
            role, equals, names = str(part).partition("=")
            pairs.append((role.strip(), names) if equals else (EVERYONE, str(part)))
    else:
        return _names(value)
    rules: dict[str, Names] = {}
    for role, names in pairs:
        if not role.strip():
            raise UsageError("a role without a name has fields", "write ROLE=FIELD,FIELD")
        if role.casefold() in {known.casefold() for known in rules}:
            raise UsageError(f"{role!r} has two rules for fields", "give it one")
        rules[role] = _names(names, may_be_none=True)
    if not rules:
        raise UsageError("no field was asked for", f"choose from {', '.join(FIELDS)}")
    return rules


def _listed(value: object) -> list[object]:
    if isinstance(value, str):
        return [part for part in value.split(",") if part.strip()]
    return list(value) if isinstance(value, Iterable) else [value]


def _names(value: object, may_be_none: bool = False) -> Names:
    parts = [part for item in _listed(value) for part in _listed(item)]
    names = [str(part).strip() for part in parts]
    lowered = [name.lower() for name in names]
    if lowered == [ALL]:
        return (ALL,)
    if lowered == [NONE]:
        return () if may_be_none else check_fields([])
    for word in (ALL, NONE):
        if word in lowered:
            raise UsageError(f"{word!r} stands among names of fields", f"{word!r} stands alone")
    return check_fields(names)


def check_agreement(policy: PolicyName, rules: FieldRules, roles: Sequence[str] | None) -> None:
    """Sees that fields which are asked for by name are allowed, and that their roles exist.

    Raises:
        UsageError: a field is never allowed where it is asked for, or a role is not among those
            of the call.
    """
    chosen = POLICIES[policy]
    for role, names in _by_role(rules).items():
        if role != EVERYONE and roles is not None and not is_named(role, roles):
            raise UsageError(
                f"fields were asked for {role!r}, but the roles are {', '.join(roles)}",
                "name one of them, or add it to --roles",
            )
        possible = (
            [chosen.rule(role)]
            if role != EVERYONE
            else [chosen.strictest, chosen.agents or Rule((), ()), chosen.customers or Rule((), ())]
        )
        allowed = {name for rule in possible for name in rule.allowed}
        forbidden = [name for name in names if name != ALL and name not in allowed]
        if forbidden:
            whom = "" if role == EVERYONE else f" for {role}"
            raise UsageError(
                f"the policy {policy} does not allow {', '.join(forbidden)}{whom}",
                "leave it out, or choose another policy (docs/responsible-use.md)",
            )


def is_named(role: str, roles: Sequence[str]) -> bool:
    """Whether a call with these roles may have a speaker of this name."""
    return bool(_UNNAMED.fullmatch(role)) or role.casefold() in {name.casefold() for name in roles}


def _by_role(rules: FieldRules) -> dict[str, Names]:
    if rules is None:
        return {}
    return rules if isinstance(rules, dict) else {EVERYONE: rules}


def asks(rules: FieldRules, name: str) -> bool:
    """Whether a field is asked for of anybody; the policy's own choice counts as asking."""
    if rules is None:
        return True
    return any(name in names or names == (ALL,) for names in _by_role(rules).values())


def named_fields(rules: FieldRules) -> Names:
    """The fields that are asked for by name, of whomever, in the schema's order."""
    named = {name for names in _by_role(rules).values() for name in names}
    return tuple(name for name in FIELDS if name in named)


def decide(
    speakers: Sequence[str],
    policy: PolicyName = "all",
    rules: FieldRules = None,
    roles: Sequence[str] | None = None,
) -> tuple[dict[str, Decision], list[str]]:
    """What is asked of each speaker's turns, and warnings for the report.

    Where a speaker's role is not known, the strictest rule of the policy and of `rules` holds.

    Args:
        speakers: their names in the call.
        rules: as `check_rules` returns them.
        roles: those that the caller named.
    """
    chosen = POLICIES[policy]
    decisions = {}
    strict_by_policy, strict_by_rules = [], []
    for speaker in speakers:
        rule = chosen.rule(speaker)
        asked, known = _asked(speaker, rules, roles or ())
        unsure = chosen.is_unsure(speaker)
        if unsure:
            strict_by_policy.append(speaker)
        if not known:
            strict_by_rules.append(speaker)
        decisions[speaker] = _decision(rule, asked, unsure, known)
    return decisions, _warnings(policy, strict_by_policy, rules, strict_by_rules)


def possible_fields(
    policy: PolicyName, rules: FieldRules, roles: Sequence[str] | None = None
) -> Names:
    """The fields that may be asked for of at least one speaker, in the schema's order."""
    named = roles if roles is not None else [name for name in _by_role(rules) if name != EVERYONE]
    decisions, _ = decide([*named, ""], policy, rules, roles)
    return tuple(name for name in FIELDS if any(name in item.fields for item in decisions.values()))


def _asked(speaker: str, rules: FieldRules, roles: Sequence[str]) -> tuple[Names | None, bool]:
    """The names that are asked for of a speaker, None for the policy's choice; and whether the
    rules know the speaker."""
    if not isinstance(rules, dict):
        return rules, True
    for role, names in rules.items():
        if role.casefold() == speaker.casefold():
            return names, True
    if EVERYONE in rules and speaker in roles:
        return rules[EVERYONE], True
    strictest = _strictest(rules)
    return strictest, all(names == strictest for names in rules.values())


def _strictest(rules: FieldRules) -> Names | None:
    if not isinstance(rules, dict):
        return rules
    named = [names for names in rules.values() if names != (ALL,)]
    if not named:
        return (ALL,)
    return tuple(name for name in FIELDS if all(name in names for names in named))


def _decision(rule: Rule, asked: Names | None, unsure: bool, known: bool) -> Decision:
    fields: list[str] = []
    left_out: dict[str, str] = {}
    for name in FIELDS:
        if name not in rule.allowed:
            left_out[name] = ROLE_UNKNOWN if unsure else NOT_ALLOWED
        elif asked is None and name not in rule.offered:
            left_out[name] = ON_DEMAND
        elif asked is None or asked == (ALL,) or name in asked:
            fields.append(name)
        else:
            left_out[name] = NOT_ASKED if known else ROLE_UNKNOWN
    if fields and "SpeechActivity" in left_out:
        left_out["SpeechActivity"] = USED_ONLY
    return Decision(tuple(fields), left_out)


def _warnings(
    policy: PolicyName, by_policy: Sequence[str], rules: FieldRules, by_rules: Sequence[str]
) -> list[str]:
    hint = "name the roles in the order of the channels, such as --roles agent,customer"
    warnings = []
    if by_policy:
        warnings.append(
            f"the policy {policy} cannot tell whether {', '.join(by_policy)} is an agent or a "
            f"customer, so its strictest rule holds; {hint}"
        )
    others = [name for name in by_rules if name not in by_policy or not warnings]
    if others and isinstance(rules, dict):
        warnings.append(
            f"no rule for fields names {', '.join(others)}, so the strictest of "
            f"{', '.join(rules)} holds; {hint}"
        )
    return warnings


__all__ = [
    "POLICIES",
    "Decision",
    "FieldRules",
    "Policy",
    "PolicyName",
    "asks",
    "check_agreement",
    "check_rules",
    "decide",
    "is_named",
    "named_fields",
    "party",
    "possible_fields",
]
