"""When each word was said, from what Whisper's decoder looked at while it wrote it.

Some cross-attention heads follow the audio; which ones, a checkpoint's generation config says. A
token is put where they look before it is written (Radford et al., arXiv 2212.04356; the steps are
those of openai/whisper `timing.py`, the words those of the written text).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch.nn import functional

from speechmeta.decoding.decoders import CrossAttentionDecoder
from speechmeta.decoding.inputs import Prompt
from speechmeta.decoding.record import TimedWord

SECONDS_PER_POSITION = 0.02
_MEDIAN = 7
"""Positions over which attention is smoothed."""

_RISE = 0.5
"""A token begins where its heads' attention rises to this share of its highest; before lies the
silence after the word before it, which the path gives to the next one."""

_AHEAD = 0.05
"""Seconds that the heads look ahead of what is said (`benchmarks/word_times.py`)."""

_UNSPACED = frozenset({"zh", "ja", "th", "lo", "my", "yue"})
"""Languages that put no spaces between words; there every token of whole characters is one."""


@dataclass
class WrittenRow:
    """A transcript to find the times of.

    Attributes:
        prompt: with its memory, up to and with the start token.
        task: the ids of the prompt behind the start token.
        tokens: of the text.
        pieces: the bytes of each.
        log_probs: of each, as it was written; None for a text from elsewhere, for which the
            same pass gives them.
        seconds: length of the clip's own audio.
        language: of the text.
    """

    prompt: Prompt
    task: list[int]
    tokens: list[int]
    pieces: list[bytes]
    log_probs: list[float] | None
    seconds: float
    language: str | None


def word_times(
    decoder: CrossAttentionDecoder,
    rows: Sequence[WrittenRow],
    heads: Sequence[tuple[int, int]],
    end: int,
) -> list[list[TimedWord]]:
    """The words of each row, in one pass of the decoder over their tokens and kept memories.

    Args:
        decoder: that wrote them.
        rows: with at least one token each.
        heads: (layer, head) of the cross attention that follows the audio.
        end: the end token.

    Returns:
        Words in order; within the clip, and none begins before the one before it ends.
    """
    texts = [[*row.task, *row.tokens, end] for row in rows]
    lead = len(rows[0].prompt.embeds)
    width = max(map(len, texts))
    ids = torch.tensor([text + [end] * (width - len(text)) for text in texts])
    embeds = torch.cat(
        [
            torch.stack([row.prompt.embeds for row in rows]),
            decoder.embed(ids.to(decoder.device)),
        ],
        dim=1,
    )
    total = lead + width
    positions = torch.arange(total, device=decoder.device).expand(len(rows), total)
    causal = torch.ones(total, total, dtype=torch.bool, device=decoder.device).tril()
    cache = decoder.start([row.prompt for row in rows], total)
    mask = causal.expand(len(rows), 1, total, total)
    looks, hidden = decoder.look(embeds, mask, positions, cache, heads)
    found = []
    for number, (row, text) in enumerate(zip(rows, texts, strict=True)):
        # From the start token on; what came before it is not part of the transcript.
        first, last = lead - 1, lead + len(text)
        frames = min(looks.shape[-1], max(1, round(row.seconds / SECONDS_PER_POSITION)))
        scores = looks[number, :, first:last, :frames].float()
        # The state that writes a token is that of the token before it.
        costs = _costs(scores)[len(row.task) : -1]
        log_probs = row.log_probs
        if log_probs is None:
            begin = first + len(row.task)
            log_probs = _log_probs(decoder, hidden[number, begin : last - 2], row.tokens)
        found.append(_words(row, log_probs, *_times(costs, align(costs), row.seconds)))
    return found


def _log_probs(
    decoder: CrossAttentionDecoder, hidden: torch.Tensor, tokens: list[int]
) -> list[float]:
    """Of each token, by the states (tokens, width) that write them."""
    scores = decoder.head(hidden).float().log_softmax(-1)
    chosen = torch.tensor(tokens, device=scores.device)[:, None]
    log_probs: list[float] = scores.gather(-1, chosen)[:, 0].tolist()
    return log_probs


def _costs(scores: torch.Tensor) -> np.ndarray:
    """(tokens, positions), low where the heads look, of their scores (heads, tokens, positions)."""
    weights = scores.softmax(-1)
    deviation, mean = torch.std_mean(weights, dim=-2, keepdim=True, correction=0)
    weights = (weights - mean) / deviation.clamp(min=1e-9)
    half = _MEDIAN // 2
    if weights.shape[-1] > half:
        padded = functional.pad(weights, (half, half), mode="reflect")
        weights = padded.unfold(-1, _MEDIAN, 1).median(-1).values
    costs: np.ndarray = -weights.mean(0).cpu().double().numpy()
    return costs


def align(costs: np.ndarray) -> np.ndarray:
    """The first position of each token on the cheapest monotone path through all of them.

    Dynamic time warping: a step goes to the next token, the next position, or both. What lies
    before the first token costs nothing, so that it need not begin with the audio.

    Args:
        costs: (tokens, positions).

    Returns:
        (tokens,) positions, none before the one of the token before it.
    """
    tokens, positions = costs.shape
    total = np.empty_like(costs)
    for token in range(tokens):
        # From above or across: known. From the left: the running minimum of what it cost there,
        # with the row's own sums taken out.
        if token:
            above = total[token - 1]
            entry = np.minimum(above, np.concatenate(([np.inf], above[:-1])))
        else:
            entry = np.zeros(positions)
        sums = np.cumsum(costs[token])
        own = np.concatenate(([0.0], sums[:-1]))
        total[token] = sums + np.minimum.accumulate(entry - own)
    first = np.zeros(tokens, dtype=np.int64)
    token, position = tokens - 1, positions - 1
    while True:
        first[token] = position
        ways = (
            total[token - 1, position - 1] if token and position else np.inf,
            total[token - 1, position] if token else np.inf,
            total[token, position - 1] if position else np.inf,
            0.0 if not token else np.inf,
        )
        best = ways.index(min(ways))
        if best == 3:
            return first
        token -= best < 2
        position -= best != 1


def _times(costs: np.ndarray, path: np.ndarray, seconds: float) -> tuple[list[float], list[float]]:
    """Starts and ends of all tokens but the last, which is the end of the transcript."""
    starts, ends = [], []
    for token in range(len(path) - 1):
        first, last = path[token], max(path[token] + 1, path[token + 1])
        height = -costs[token, first:last]
        begins = first + int(np.argmax(height >= _RISE * height.max()))
        starts.append(min(begins * SECONDS_PER_POSITION + _AHEAD, seconds))
        ends.append(min(last * SECONDS_PER_POSITION + _AHEAD, seconds))
    return starts, ends


def _words(
    row: WrittenRow, log_probs: list[float], starts: list[float], ends: list[float]
) -> list[TimedWord]:
    """Words of the text with the times of their tokens."""
    words = []
    before = 0.0
    for text, tokens in spans(row.pieces, row.language in _UNSPACED):
        # A mark behind a word takes no time of its own; it looks at the silence after it.
        said = [t for t in tokens if any(c.isalnum() for c in _text(row.pieces[t]))] or tokens
        start = max(before, starts[said[0]])
        end = max(start, ends[said[-1]])
        probability = float(np.exp(np.mean([log_probs[token] for token in tokens])))
        words.append(TimedWord(text, round(start, 3), round(end, 3), probability))
        before = words[-1].end
    return words


def _text(piece: bytes) -> str:
    return piece.decode(errors="ignore")


def spans(pieces: Sequence[bytes], unspaced: bool = False) -> list[tuple[str, list[int]]]:
    """Words of a text and the numbers of the tokens that write them.

    A word is what stands between spaces, so that words joined by spaces are the text; a token
    that reaches into two words counts for both. Without spaces it is the fewest tokens that end
    with a whole character.

    Args:
        pieces: the bytes of each token.
        unspaced: whether the language puts no spaces between words.
    """
    if unspaced:
        found, held, numbers = [], b"", []
        for number, piece in enumerate(pieces):
            held += piece
            numbers.append(number)
            try:
                text = held.decode()
            except UnicodeDecodeError:
                continue
            if text.strip():
                found.append((text.strip(), numbers))
            held, numbers = b"", []
        return found
    owners = [number for number, piece in enumerate(pieces) for _ in piece]
    text = b"".join(pieces).decode()
    found, place = [], 0
    for char_run in _runs(text):
        size = len(char_run.encode())
        if not char_run.isspace():
            found.append((char_run, sorted(set(owners[place : place + size]))))
        place += size
    return found


def _runs(text: str) -> list[str]:
    """The text cut where spaces begin and end."""
    runs: list[str] = []
    for char in text:
        if runs and runs[-1].isspace() == char.isspace():
            runs[-1] += char
        else:
            runs.append(char)
    return runs


__all__ = ["WrittenRow", "align", "spans", "word_times"]
