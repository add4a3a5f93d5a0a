"""Numbers that are read out, however written or spoken, by whomever, over however many turns.

No list of separators can be complete, so nothing is asked of what stands between digits. Digits
that follow each other are a run; runs that few words or seconds divide are one window; a window
with many digits is a number that somebody read out. What is told apart is what is counted:
prices, times, dates, years and numbers that stand before a noun ("two minutes").
"""

from __future__ import annotations

import re
from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import dataclass

from speechmeta.pipeline.redaction.marks import CARD, CODE, DIGITS, PHONE, SORT_CODE, SSN, Find
from speechmeta.pipeline.redaction.tokens import SCALES, Kind, Token, Utterance

CARD_LENGTHS = range(12, 20)
PHONE_LENGTHS = range(7, 16)

RUN_DIGITS = 4
"""Digits one after the other that are a number read out; fewer are a count or part of a year."""

WINDOW_DIGITS = 5
"""Digits of all runs of a window that make it a number."""

CODE_DIGITS = 3
"""Digits that are a code where a code was asked for."""

GAP_WORDS = 4
"""Most words of one utterance between two runs of a window."""

LONE_GAP_WORDS = 3
"""Most words between a number that seems to count things and a window that it still belongs to."""

GAP_WORDS_OTHERS = 9
"""Most words between two runs where somebody else spoke in between."""

GAP_SECONDS = 8.0
"""Longest pause between two utterances of a window."""

ASK_WORDS = 14
"""Words within which digits answer to the word for what they are ("PIN", "account number")."""

_FOLLOWERS = set(
    "and then is that thats that's it its please thanks thank okay ok yes yeah no sorry uh um er "
    "right sure got so but or again dash hyphen space dot point comma slash plus minus stop full "
    "actually wait mhm hm ah for to too with extension ext was at on expires expiring valid".split()
)
"""Words that may follow a number read out; before any other word a lone number counts things."""

_TIME_WORDS = set("at from to until till between by around about before after past since".split())
_YEAR_WORDS = set(
    "in since until till of year from by around before after during early late".split()
)
_MONTHS = set(
    "january february march april may june july august september october november december".split()
)
_CLOCK_AFTER = {"am", "pm", "a m", "p m", "o'clock", "oclock"}
_UNITS_AFTER = set(
    "percent dollars dollar pounds pound euros euro cents pence bucks quid degrees".split()
)
_ASKED_CODE = re.compile(
    r"\b(?:cvv2?|cvc2?|csc|cid|c\sv\sv|c\sv\sc|pin|pins|pincode|passcode|security (?:code|number)|"
    r"verification (?:code|number|value)|access code|one[- ]time (?:code|password|passcode)|otp|"
    r"(?:last|first) (?:two|three|four|five|six|2|3|4|5|6)(?: digits| numbers)?|"
    r"(?:three|four|3|4)[- ]digits?|digits? (?:code|number)|ending (?:in|with)|ends (?:in|with)|"
    r"on the (?:back|signature strip))\b"
)
_ASKED_SORT = re.compile(r"\bsort(?:ing)? codes?\b")
_ASKED_SSN = re.compile(
    r"\b(?:social security(?: number)?|social|ssn|s\ss\sn|national insurance)\b"
)
_ASKED_NUMBER = re.compile(
    r"\b(?:(?:account|card|routing|member|membership|policy|customer|patient|licen[cs]e|passport|"
    r"phone|telephone|mobile|cell|contact|iban|insurance|reference|id|tax|callback)"
    r"(?: number| no| id)?|my number|his number|her number|call me (?:on|at|back)|reach me)\b"
)
_DASHES = {"-", "\u2010", "\u2011", "\u2013", "\u2014"}


@dataclass
class _Run:
    """Digits one after the other: tokens `first` to `last`, both included."""

    first: int
    last: int
    digits: str
    tokens: int
    counted: bool = False
    """It may count things: it makes no window, but belongs to one that it stands near."""
    clock: bool = False
    """It may be a time of day, which is counted as well."""


def find_numbers(utterances: Sequence[Utterance], tokens: Sequence[Token]) -> list[Find]:
    """Numbers that are private, as spans in the utterances."""
    asked = _asked(tokens)
    runs = _runs(utterances, tokens, asked)
    found: list[Find] = []
    sure = [run for run in runs if not run.counted]
    windows = [*_windows(utterances, tokens, sure), *_lone(utterances, tokens, runs)]
    for window in windows:
        mark = _mark_of(window, tokens, asked)
        if mark is not None:
            whole = _with_counted(utterances, tokens, window, runs)
            for first, last in _stretches(whole, tokens):
                said = "".join(token.digits for token in tokens[first : last + 1])
                # Beside a whole card number other digits are read out too.
                own = mark if mark != CARD or is_card(all_of(window)) or is_card(said) else DIGITS
                found += _spans(tokens, first, last, own)
    return found


def all_of(window: Sequence[_Run]) -> str:
    """The digits of all runs of a window."""
    return "".join(run.digits for run in window)


def is_card(digits: str) -> bool:
    """Whether digits have a card number's length and check digit (Luhn)."""
    if len(digits) not in CARD_LENGTHS:
        return False
    total = 0
    for place, digit in enumerate(reversed(digits)):
        value = int(digit) * (2 if place % 2 else 1)
        total += value - 9 if value > 9 else value
    return total % 10 == 0


def _asked(tokens: Sequence[Token]) -> dict[int, str]:
    """For tokens within reach behind a word that names a number: what it names."""
    text, places = "", []
    for token in tokens:
        places.append(len(text))
        text += token.text + " "
    result: dict[int, str] = {}
    for kind, pattern in (
        ("number", _ASKED_NUMBER),
        ("ssn", _ASKED_SSN),
        ("sort", _ASKED_SORT),
        ("code", _ASKED_CODE),
    ):
        for match in pattern.finditer(text):
            last = bisect_left(places, match.end()) - 1
            for index in range(last + 1, min(last + 1 + ASK_WORDS, len(tokens))):
                result[index] = kind
            if kind == "code":
                # "319 is my CVV": a few words before it as well.
                first = bisect_left(places, match.start())
                for index in range(max(0, first - 4), first):
                    result.setdefault(index, kind)
    return result


def _runs(
    utterances: Sequence[Utterance], tokens: Sequence[Token], asked: dict[int, str]
) -> list[_Run]:
    """Digits that follow each other, without what is counted."""
    result: list[_Run] = []
    place = 0
    while place < len(tokens):
        if not _is_digits(tokens, place):
            place += 1
            continue
        last = place
        while (
            last + 1 < len(tokens)
            and _is_digits(tokens, last + 1)
            and not _paused(utterances, tokens[last], tokens[last + 1])
        ):
            last += 1
        run = _Run(
            place, last, "".join(t.digits for t in tokens[place : last + 1]), last - place + 1
        )
        place = last + 1
        if _is_amount(tokens, run, asked):
            continue
        run.clock = run.first not in asked and _is_clock(tokens, run)
        run.counted = run.clock or _is_counted(tokens, run, asked)
        result.append(run)
    return result


def _is_digits(tokens: Sequence[Token], place: int) -> bool:
    token = tokens[place]
    if token.kind is Kind.NUMBER:
        return True
    if token.kind is not Kind.HOMOPHONE:
        return False
    left, right = _nearest(tokens, place, -1), _nearest(tokens, place, 1)
    if left and right:
        return True
    # At either end of digits that stand together, unless it leads on ("one two to the left").
    if left and _sure(tokens, place - 2):
        following = tokens[place + 1] if place + 1 < len(tokens) else None
        return (
            following is None
            or following.utterance != token.utterance
            or bool(set(following.before) & set(",.;!?"))
        )
    return bool(right and _sure(tokens, place + 2) and token.text in ("o", "owe", "ate", "won"))


def _nearest(tokens: Sequence[Token], place: int, step: int) -> bool:
    """Whether a digit stands at this side, with other homophones at most in between."""
    for index in range(place + step, place + 4 * step, step):
        if not 0 <= index < len(tokens) or tokens[index].kind not in (Kind.NUMBER, Kind.HOMOPHONE):
            return False
        if _sure(tokens, index):
            # "From nine thirty to five": who reads digits out says one at a time.
            return len(tokens[index].digits) == 1 or tokens[place].text in ("o", "owe")
    return False


def _sure(tokens: Sequence[Token], place: int) -> int:
    if not 0 <= place < len(tokens):
        return 0
    token = tokens[place]
    return int(token.kind is Kind.NUMBER and not token.amount)


def _is_amount(tokens: Sequence[Token], run: _Run, asked: dict[int, str]) -> bool:
    """Whether a run is a price or a year."""
    before = tokens[run.first - 1] if run.first else None
    after = tokens[run.last + 1] if run.last + 1 < len(tokens) else None
    first, last = tokens[run.first], tokens[run.last]
    if before is not None and before.utterance != first.utterance:
        before = None
    if after is not None and after.utterance != last.utterance:
        after = None
    following = after.text if after is not None else ""
    leading = before.text if before is not None else ""
    if following in SCALES or leading in SCALES or following in _UNITS_AFTER:
        return len(run.digits) < PHONE_LENGTHS.start
    if all(token.amount for token in tokens[run.first : run.last + 1]):
        return True
    if run.first in asked and asked[run.first] == "code" and len(run.digits) >= CODE_DIGITS:
        return False
    return _is_year(tokens, run, leading)


def _is_counted(tokens: Sequence[Token], run: _Run, asked: dict[int, str]) -> bool:
    """Whether a lone number may be one of things: it stands right before a word for them."""
    after = tokens[run.last + 1] if run.last + 1 < len(tokens) else None
    if after is not None and after.utterance != tokens[run.last].utterance:
        after = None
    following = after.text if after is not None else ""
    if run.tokens == 1 and len(run.digits) <= 4:
        if run.first in asked:
            return False
        joined = after is not None and not set(after.before) & set(",.;!?")
        return joined and following not in _FOLLOWERS and after.kind is Kind.WORD  # type: ignore[union-attr]
    if run.tokens == 1 and run.digits.endswith("000") and len(run.digits) <= 7:
        return run.first not in asked
    return False


def _is_clock(tokens: Sequence[Token], run: _Run) -> bool:
    leading = tokens[run.first - 1].text if run.first else ""
    following = " ".join(token.text for token in tokens[run.last + 1 : run.last + 3])
    following = following if following in _CLOCK_AFTER else following.partition(" ")[0]
    if run.tokens > 2 or len(run.digits) > 4:
        return False
    hour = int(tokens[run.first].digits)
    minutes = [int(token.digits) for token in tokens[run.first + 1 : run.last + 1]]
    if not 1 <= hour <= 24 or any(not 0 <= value <= 59 for value in minutes):
        return False
    if minutes and len(tokens[run.last].digits) != 2:
        return False
    return following in _CLOCK_AFTER or (leading in _TIME_WORDS and (not minutes or hour <= 12))


def _is_year(tokens: Sequence[Token], run: _Run, leading: str) -> bool:
    """1984, nineteen eighty four, twenty twenty four; a day before it may be part of the run."""
    digits = run.digits
    parts = [token.digits for token in tokens[run.first : run.last + 1]]
    if len(parts) == 2 and len(parts[0]) <= 2 and leading in _MONTHS and len(parts[1]) == 4:
        digits, leading = parts[1], "of"
    if len(parts) == 3 and leading in _MONTHS and int(parts[0]) <= 31:
        digits, leading = "".join(parts[1:]), "of"
    if len(digits) != 4 or digits[:2] not in ("18", "19", "20"):
        return False
    written = run.tokens == 1 or leading == "of"
    return (written and not tokens[run.first].before.endswith("#")) or (
        leading in _YEAR_WORDS | _MONTHS
    )


def _windows(
    utterances: Sequence[Utterance], tokens: Sequence[Token], runs: Sequence[_Run]
) -> list[list[_Run]]:
    result: list[list[_Run]] = []
    for run in runs:
        if result and _near(utterances, tokens, result[-1][-1], run):
            result[-1].append(run)
        else:
            result.append([run])
    return result


def _lone(
    utterances: Sequence[Utterance], tokens: Sequence[Token], runs: Sequence[_Run]
) -> list[list[_Run]]:
    """Windows of lone numbers so close and so many that they cannot all count things."""
    result: list[list[_Run]] = []
    for run in runs:
        near = (
            bool(result)
            and run.first - result[-1][-1].last <= LONE_GAP_WORDS + 1
            and _near(utterances, tokens, result[-1][-1], run)
        )
        if near:
            result[-1].append(run)
        else:
            result.append([run])
    return [window for window in result if any(run.counted for run in window) and _too_many(window)]


def _too_many(window: Sequence[_Run]) -> bool:
    # Times of day only count where digits are surely read out beside them.
    read_out = any(run.tokens >= 2 and not run.counted for run in window)
    counting = [run for run in window if read_out or not run.clock]
    return len(all_of(counting)) >= PHONE_LENGTHS.start


def _with_counted(
    utterances: Sequence[Utterance],
    tokens: Sequence[Token],
    window: Sequence[_Run],
    runs: Sequence[_Run],
) -> list[_Run]:
    """The window with all numbers, counted or not, that stand right beside or between its own."""
    inside = {run.first: run for run in window}
    left = [run for run in runs if run.first not in inside]
    grown = True
    while grown:
        grown = False
        for run in left:
            for other in list(inside.values()):
                first, second = (run, other) if run.first < other.first else (other, run)
                close = second.first - first.last <= LONE_GAP_WORDS + 1
                if close and _near(utterances, tokens, first, second):
                    inside[run.first] = run
                    grown = True
                    break
        left = [run for run in left if run.first not in inside]
    return [inside[first] for first in sorted(inside)]


def _near(
    utterances: Sequence[Utterance], tokens: Sequence[Token], first: _Run, second: _Run
) -> bool:
    one, two = tokens[first.last].utterance, tokens[second.first].utterance
    words = second.first - first.last - 1
    if one == two:
        return words <= GAP_WORDS
    if _paused(utterances, tokens[first.last], tokens[second.first]):
        return False
    return words <= GAP_WORDS_OTHERS


def _paused(utterances: Sequence[Utterance], first: Token, second: Token) -> bool:
    """Whether so long a pause is between two tokens that they are not one number's."""
    end, start = utterances[first.utterance].end, utterances[second.utterance].start
    if first.utterance == second.utterance or end is None or start is None:
        return False
    return start - end > GAP_SECONDS


def _mark_of(window: Sequence[_Run], tokens: Sequence[Token], asked: dict[int, str]) -> str | None:
    digits = all_of(window)
    kinds = {asked[run.first] for run in window if run.first in asked}
    longest = max(len(run.digits) for run in window)
    if is_card(digits) or any(is_card(run.digits) for run in window):
        return CARD
    if len(digits) < CODE_DIGITS:
        return None
    groups = [len(t.digits) for run in window for t in tokens[run.first : run.last + 1]]
    if "code" in kinds and len(digits) <= 8:
        return CODE
    if len(digits) == 9 and ("ssn" in kinds or groups == [3, 2, 4]):
        return SSN
    if len(digits) == 6 and ("sort" in kinds or (groups == [2, 2, 2] and _dashed(window, tokens))):
        return SORT_CODE
    spoken = any(not t.text[0].isdecimal() for run in window for t in _tokens_of(run, tokens))
    enough = (
        longest >= RUN_DIGITS
        and (spoken or len(groups) >= RUN_DIGITS or longest > 5 or len(window[0].digits) != longest)
    ) or (
        len(digits) >= RUN_DIGITS
        and max(run.tokens for run in window) >= 2
        and (len(digits) >= WINDOW_DIGITS or min(run.tokens for run in window) >= 2)
    )
    long = any(len(t.digits) > 5 for run in window for t in _tokens_of(run, tokens))
    wanted = bool(kinds) and len(digits) >= RUN_DIGITS
    many = len(digits) >= PHONE_LENGTHS.start
    named = tokens[window[0].first].before.endswith("#") and len(digits) >= RUN_DIGITS
    if not (enough or long or wanted or many or named):
        return None
    if all(_listed(run, tokens) for run in window) and not wanted and len(digits) < 13:
        return None
    if len(digits) in PHONE_LENGTHS and not spoken and _few_groups(window, tokens):
        return PHONE
    return DIGITS


def _tokens_of(run: _Run, tokens: Sequence[Token]) -> Sequence[Token]:
    return tokens[run.first : run.last + 1]


def _few_groups(window: Sequence[_Run], tokens: Sequence[Token]) -> bool:
    groups = [len(t.digits) for run in window for t in _tokens_of(run, tokens)]
    return sum(groups) / len(groups) >= 2


def _dashed(window: Sequence[_Run], tokens: Sequence[Token]) -> bool:
    inner = tokens[window[0].first + 1 : window[-1].last + 1]
    return all(token.before.strip() in _DASHES for token in inner)


def _listed(run: _Run, tokens: Sequence[Token]) -> bool:
    """Years or round figures that are listed: "2019, 2020", "300, 400"."""
    return all(
        token.text[0].isdecimal()
        and (
            (len(token.digits) == 4 and token.digits[:2] in ("19", "20"))
            or (len(token.digits) in (2, 3, 4) and token.digits.endswith("00"))
            or len(token.digits) <= 2
        )
        for token in _tokens_of(run, tokens)
    ) and any(len(token.digits) > 2 for token in _tokens_of(run, tokens))


def _stretches(window: Sequence[_Run], tokens: Sequence[Token]) -> list[tuple[int, int]]:
    """Tokens to replace; what is said between two runs goes with them if it is a word or two."""
    result: list[tuple[int, int]] = []
    for run in window:
        first, last = _with_letters(tokens, run)
        if (
            result
            and first - result[-1][1] <= 3
            and tokens[first].utterance == tokens[result[-1][1]].utterance
        ):
            result[-1] = (result[-1][0], last)
        else:
            result.append((first, last))
    return result


def _with_letters(tokens: Sequence[Token], run: _Run) -> tuple[int, int]:
    """The run with the letters that are spelt directly at its sides ("A B 1 2 3 4")."""
    first, last = run.first, run.last
    while first > 0 and _spelt(tokens, first - 1, tokens[first].utterance, first - 2):
        first -= 1
    while last + 1 < len(tokens) and _spelt(tokens, last + 1, tokens[last].utterance, last + 2):
        last += 1
    return first, last


def _spelt(tokens: Sequence[Token], place: int, utterance: int, beyond: int) -> bool:
    token = tokens[place]
    if token.kind is not Kind.LETTER or token.utterance != utterance:
        return False
    if token.text not in ("a", "i"):
        return True
    return 0 <= beyond < len(tokens) and tokens[beyond].kind is Kind.LETTER


def _spans(tokens: Sequence[Token], first: int, last: int, mark: str) -> list[Find]:
    """One find for each utterance that tokens `first` to `last` are in."""
    result: list[Find] = []
    for token in tokens[first : last + 1]:
        # "+44", "(555": what opens a number goes with it.
        opening = len(token.before) - len(token.before.rstrip("+(#"))
        start = token.start - opening
        if result and result[-1].utterance == token.utterance:
            result[-1] = Find(token.utterance, result[-1].start, token.end, mark)
        else:
            result.append(Find(token.utterance, start, token.end, mark))
    return result
