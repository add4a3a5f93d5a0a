"""How much of what is private is found, and how much of the rest is touched.

    python benchmarks/redaction.py [--half first|second] [--show]

Makes 400 conversations of one to four utterances by pattern and seed: half of them hold a secret
(numbers read out in many ways, addresses, dates of birth, codes), half of them only what is
counted, priced, timed and dated. They are split in two halves; the finder was written looking at
the first alone. Prints a table and, last, one JSON line.

A secret counts as found when none of its words is left; a sentence without one as touched when a
single character differs.
"""

from __future__ import annotations

import argparse
import json
import random
from collections import defaultdict
from dataclasses import dataclass

from speechmeta.pipeline.redaction import Utterance, find_private

SEED = 20_261
SENTENCES = 400

WORDS = "zero one two three four five six seven eight nine".split()
TENS = "_ _ twenty thirty forty fifty sixty seventy eighty ninety".split()
TEENS = "ten eleven twelve thirteen fourteen fifteen sixteen seventeen eighteen nineteen".split()
HOMOPHONES = {"2": ["to", "too"], "4": ["for"], "8": ["ate"], "1": ["won"]}
FILLERS = ["uh", "um", "okay", "then", "and then", "dash", "and", "let me see", "sorry", "no wait"]
NAMES = "john smith|mary jones|peter parker|anna lee|tom o'neil|grace hopper|li wei".split("|")
PROVIDERS = "gmail dot com|hotmail dot co dot uk|example dot org|yahoo dot com".split("|")
MONTHS = "January March April May July August October December".split()


@dataclass(frozen=True)
class Case:
    """A conversation: (speaker, text, words of the text that are secret)."""

    kind: str
    parts: tuple[tuple[str, str, str], ...]


def digits(draw: random.Random, count: int) -> str:
    return "".join(draw.choice("0123456789") for _ in range(count))


def say(draw: random.Random, number: str, style: str) -> str:
    """A number as somebody says it, or as a recogniser writes it."""
    if style == "words":
        return " ".join("oh" if c == "0" and draw.random() < 0.5 else WORDS[int(c)] for c in number)
    if style == "homophones":
        words = [WORDS[int(c)] for c in number]
        inner = [i for i in range(1, len(number) - 1) if number[i] in HOMOPHONES]
        if inner:
            place = draw.choice(inner)
            words[place] = draw.choice(HOMOPHONES[number[place]])
        return " ".join(words)
    if style == "pairs":
        return " ".join(_pair(number[i : i + 2]) for i in range(0, len(number), 2))
    if style == "doubles":
        result, i = [], 0
        while i < len(number):
            run = 1
            while i + run < len(number) and number[i + run] == number[i] and run < 3:
                run += 1
            word = WORDS[int(number[i])]
            result.append({1: word, 2: f"double {word}", 3: f"triple {word}"}[run])
            i += run
        return " ".join(result)
    if style == "plurals":
        return f"two {WORDS[int(number[0])]}s three {WORDS[int(number[1])]}s " + say(
            draw, number[2:], "words"
        )
    if style == "figures":
        return number
    separator = draw.choice([" ", "-", "\u2013", ", ", ". ", " - ", "\u200b "])
    if style == "single":
        return separator.join(number)
    size = draw.choice([3, 4])
    return separator.join(number[i : i + size] for i in range(0, len(number), size))


def _pair(pair: str) -> str:
    if len(pair) == 1:
        return WORDS[int(pair)]
    if pair[0] == "0":
        return f"oh {WORDS[int(pair[1])]}"
    if pair[0] == "1":
        return TEENS[int(pair[1])]
    return TENS[int(pair[0])] + (f" {WORDS[int(pair[1])]}" if pair[1] != "0" else "")


def long_number(draw: random.Random) -> Case:
    style = draw.choice("words homophones pairs doubles plurals groups single figures".split())
    number = digits(draw, draw.choice([7, 9, 10, 11, 16, 16]))
    before = draw.choice(["it's", "the number is", "my card number is", "call me on", "so that's"])
    after = draw.choice(["", " thanks", ", okay?", " please"])
    said = say(draw, number, style)
    return Case(f"number, {style}", (("c", f"{before} {said}{after}", said),))


def over_fillers(draw: random.Random) -> Case:
    groups = [say(draw, digits(draw, draw.choice([2, 3, 3])), "words") for _ in range(3)]
    said = groups[0]
    for group in groups[1:]:
        said += f" {draw.choice(FILLERS)} {group}"
    return Case("number, fillers", (("c", f"yes it is {said}", " ".join(groups)),))


def over_turns(draw: random.Random) -> Case:
    style = draw.choice(["words", "single", "figures"])
    groups = [say(draw, digits(draw, 3), style) for _ in range(3)]
    parts = []
    for group in groups:
        parts.append(("c", group, group))
        parts.append(("a", draw.choice(["okay", "mhm", "yes", "go on"]), ""))
    if draw.random() < 0.5:
        parts[1] = ("a", f"{groups[0]}, okay", groups[0])
    return Case(f"number, turns, {style}", tuple(parts[:-1]))


def correction(draw: random.Random) -> Case:
    one, two = say(draw, digits(draw, 4), "words"), say(draw, digits(draw, 1), "words")
    three = say(draw, digits(draw, 3), "words")
    said = f"{one} no sorry {two} {three}"
    return Case("number, correction", (("c", said, f"{one} {two} {three}"),))


def code(draw: random.Random) -> Case:
    number = digits(draw, draw.choice([3, 4]))
    said = say(draw, number, draw.choice(["words", "figures", "single"]))
    word = draw.choice(["CVV", "security code", "PIN", "passcode", "verification code"])
    if draw.random() < 0.4:
        return Case("code, asked", (("a", f"what is the {word}?", ""), ("c", said, said)))
    return Case("code", (("c", f"the {word} is {said}", said),))


def address(draw: random.Random) -> Case:
    name = draw.choice(NAMES)
    if draw.random() < 0.3:
        name = " ".join(name.split()[0]) + " dot " + name.split()[1]
    said = f"{name} at {draw.choice(PROVIDERS)}"
    if draw.random() < 0.3:
        said = name.replace(" ", ".").replace("'", "") + "@gmail.com"
    return Case("e-mail", (("c", f"my email is {said}", said),))


def birth(draw: random.Random) -> Case:
    day, month = draw.randint(2, 28), draw.choice(MONTHS)
    year = draw.randint(1940, 2005)
    spoken = f"{_pair(str(year)[:2])} {_pair(str(year)[2:])}"
    said = draw.choice(
        [
            f"{month} {day}th {spoken}",
            f"{day}/0{draw.randint(1, 9)}/{year}",
            f"{day} {month} {year}",
        ]
    )
    if draw.random() < 0.5:
        return Case("birth", (("a", "and your date of birth?", ""), ("c", f"it's {said}", said)))
    return Case("birth", (("c", f"I was born on {said}", said),))


def place(draw: random.Random) -> Case:
    said = draw.choice(["SW1A 1AA", "EC1A 1BB", "M1 1AE", "K1A 0B1", "s w one a one a a"])
    if " " in said and said.islower():
        return Case("postcode", (("c", f"the postcode is {said}", said),))
    return Case("postcode", (("c", f"I live in {said}", said),))


def account(draw: random.Random) -> Case:
    kind = draw.choice(["sort", "ssn", "iban", "account"])
    if kind == "sort":
        number = digits(draw, 6)
        said = draw.choice(
            ["-".join((number[:2], number[2:4], number[4:])), say(draw, number, "words")]
        )
        return Case(kind, (("c", f"sort code {said}", said),))
    if kind == "ssn":
        number = digits(draw, 9)
        said = draw.choice(
            ["-".join((number[:3], number[3:5], number[5:])), say(draw, number, "words")]
        )
        return Case(kind, (("c", f"my social security number is {said}", said),))
    if kind == "iban":
        said = draw.choice(["GB29 NWBK 6016 1331 9268 19", "DE89370400440532013000"])
        return Case(kind, (("c", f"transfer it to {said} please", said),))
    said = say(draw, digits(draw, 8), draw.choice(["words", "groups", "doubles"]))
    return Case(kind, (("c", f"account number {said}", said),))


PRIVATE = [
    long_number, long_number, over_fillers, over_turns, correction, code, address, birth, place,
    account,
]  # fmt: skip

ORDINARY = [
    "I'd like a table for {n} at {clock}",
    "it costs {money}, or {n} for {money}",
    "there are {n} of us and {n} children",
    "we are open from {clock} to {clock}",
    "I have called {n} times in the last {n} weeks",
    "press one for sales, two for support, three for billing",
    "since {year} we have had {n} offices",
    "the flight leaves at {h}:{m} on the {d}th",
    "plans with 300, 400 and 500 megabits",
    "it was in March {year}, or maybe April {year}",
    "we had {thousands} visitors in {year}",
    "that is {n} percent off, {n} days only",
    "give me {n} to {n} minutes",
    "he is {age} and she is {age}",
    "on the {d}th of May I ordered {n} pairs of size {n} shoes",
    "turn left at {n} and then go {n} miles",
    "version {n}.{n} is out",
    "at least {age} or {age} degrees",
    "I paid {money} and got {money} back",
    "let me check that for you, one moment please",
    "can you book it for {n} people for {n} nights",
    "it takes {n} or {n} business days",
    "I will be at home at {clock}",
    "the score was {n} to {n}",
    "I waited for {n} hours and {age} minutes",
    "there are two offices too, for one or two people",
    "I would like to go to two places and for one to be outdoors",
    "in the year {year} or so",
    "you get {n} for the price of {n}",
    "half past {n}, or a quarter to {n}",
]


def ordinary(draw: random.Random) -> Case:
    text = draw.choice(ORDINARY)
    spoken = draw.random() < 0.5
    while "{" in text:
        name = text[text.index("{") + 1 : text.index("}")]
        text = text.replace("{" + name + "}", _fill(draw, name, spoken), 1)
    return Case("ordinary", (("c", text, ""),))


def _fill(draw: random.Random, name: str, spoken: bool) -> str:
    number = draw.randint(2, 9)
    if name == "n":
        return WORDS[number] if spoken else str(number)
    if name == "clock":
        half = draw.random() < 0.5
        if spoken:
            return f"{WORDS[number]} thirty" if half else WORDS[number]
        return f"{number}:30" if half else f"{number} pm"
    if name == "money":
        return f"{_pair(str(number * 10))} dollars" if spoken else f"${number * 10}.99"
    if name == "year":
        return f"{draw.randint(1990, 2025)}"
    if name == "thousands":
        return f"{WORDS[number]} thousand" if spoken else f"{number},{digits(draw, 3)}"
    if name == "age":
        age = str(draw.randint(20, 60))
        return _pair(age) if spoken else age
    if name == "d":
        return str(draw.randint(4, 20))
    if name == "h":
        return str(draw.randint(6, 12))
    return str(draw.randint(10, 59))


def cases(seed: int = SEED, count: int = SENTENCES) -> list[Case]:
    """Half of them with a secret, in turns, so that both halves of the list hold as many."""
    draw = random.Random(seed)
    return [draw.choice(PRIVATE)(draw) if i % 2 else ordinary(draw) for i in range(count)]


def left_of(case: Case) -> str:
    """The secret words that are left, and what was touched of a case without any."""
    utterances = [
        Utterance(text, speaker, 3.0 * index, 3.0 * index + 2.5)
        for index, (speaker, text, _) in enumerate(case.parts)
    ]
    left = []
    for (_, text, secret), found in zip(case.parts, find_private(utterances), strict=True):
        if case.kind == "ordinary":
            left += [text[item.start : item.end] for item in found]
            continue
        # Every word of the secret, where it stands in the text, has to be inside a find.
        place = max(0, text.find(secret))
        for word in secret.split():
            start = text.find(word, place)
            if start < 0:
                start = text.find(word)
            place = start + len(word)
            core = [i for i in range(start, place) if text[i].isalnum()]
            if not all(any(f.start <= i < f.end for f in found) for i in core):
                left.append(word)
    return " ".join(left)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--half", choices=("first", "second"), default="first")
    parser.add_argument("--show", action="store_true", help="print what was missed or touched")
    args = parser.parse_args()
    drawn = cases()
    middle = len(drawn) // 2
    part = drawn[:middle] if args.half == "first" else drawn[middle:]
    counts: dict[str, list[int]] = defaultdict(lambda: [0, 0])
    for case in part:
        left = left_of(case)
        counts[case.kind][0] += 1
        counts[case.kind][1] += bool(left)
        if left and args.show:
            print(case.kind, [text for _, text, _ in case.parts], "->", left)
    print(f"{'kind':28} {'cases':>5} {'wrong':>5}")
    for kind, (total, wrong) in sorted(counts.items()):
        print(f"{kind:28} {total:5} {wrong:5}")
    total, touched = counts.pop("ordinary")
    secrets = sum(value[0] for value in counts.values())
    missed = sum(value[1] for value in counts.values())
    result = {
        "half": args.half,
        "secrets": secrets,
        "recall": round(1 - missed / secrets, 4),
        "ordinary": total,
        "touched": round(touched / total, 4),
    }
    print(json.dumps(result))


if __name__ == "__main__":
    main()
