"""Transcripts from a CTC head, chosen by the decoder.

A prefix beam search over the head's posteriors gives candidates; the decoder scores them as a
token tree in one forward pass; the best joint score wins. A transcript then costs one pass.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from speechmeta.decoding.fusion import Fusion, Heard
from speechmeta.decoding.grammar import Grammar, Option
from speechmeta.decoding.options import DecodeOptions
from speechmeta.errors import DecodingError, ModelError

# Tokens of one frame below this probability, or beyond so many, never make it into a beam.
_LEAST = math.log(1e-3)
_WIDEST = 12
_MARGIN = 8.0
# What the search puts further back never wins by the decoder's word, and costs it time.
_RESCORED = 12


def prefix_beam_search(
    log_probs: np.ndarray,
    blank: int,
    beam: int,
    allowed: np.ndarray | None = None,
    fusion: Fusion | None = None,
    margin: float = _MARGIN,
) -> list[tuple[tuple[int, ...], float]]:
    """The most probable token sequences of a CTC head.

    Prefix beam search with shallow fusion (Hannun et al., arXiv 1408.2873).

    Args:
        log_probs: (frames, vocabulary), normalised.
        blank: the blank's index.
        beam: prefixes kept at each frame, and sequences returned at most.
        allowed: bool (vocabulary), the tokens that may be written; None allows all.
        fusion: what language models add; None adds nothing.
        margin: prefixes that fall so far behind the best one are given up, and tokens that do so
            before the language models have judged them are not shown to those.

    Returns:
        (tokens, score), the best first; the score is the log probability where nothing is added.
        The empty sequence is among them.
    """
    scores = np.array(log_probs, dtype=np.float64)
    blanks = scores[:, blank].tolist()
    if allowed is not None:
        scores[:, ~allowed] = -np.inf
    scores[:, blank] = -np.inf
    loudest = _loudest(scores)

    # Prefixes are nodes of a trie: 0 is the empty one. Its children are found by their token.
    parents, tokens = [-1], [-1]
    children: list[dict[int, int]] = [{}]
    fusion = fusion or Fusion()
    read = [Heard()]
    # By node: log probability that ends in a blank, in a token, and in either.
    beams: dict[int, tuple[float, float, float]] = {0: (0.0, -math.inf, 0.0)}

    def sequence_of(node: int) -> list[int]:
        sequence = []
        while node:
            sequence.append(tokens[node])
            node = parents[node]
        return sequence[::-1]

    for frame, heard in enumerate(loudest):
        row, silence = scores[frame], blanks[frame]
        stays: dict[int, float] = {}
        # The least that this frame's best prefix has; the beam goes from good prefixes to bad
        # ones, so that it is soon known.
        best = -math.inf
        for node, (_, by_token, total) in beams.items():
            again = by_token + row.item(tokens[node]) if node else -math.inf
            stays[node] = again
            likely = max(total + silence, again) + read[node].score
            best = max(best, likely)
        fresh: dict[int, float] = {}
        for node, (by_blank, _, total) in beams.items():
            prefix, last, known = read[node], tokens[node], children[node]
            least = best - margin - prefix.score
            for token, score in heard:
                if total + score < least:
                    break
                # The same token twice in a row is one, unless a blank stands between.
                said = (by_blank if token == last else total) + score
                if said < least or said == -math.inf:
                    continue
                child = known.get(token)
                if child is None:
                    gain = fusion.gain(prefix, token)
                    if said + gain < least:
                        continue
                    child = known[token] = len(tokens)
                    parents.append(node)
                    tokens.append(token)
                    children.append({})
                    read.append(fusion.extend(prefix, token, gain))
                fresh[child] = said
                if said + read[child].score > best:
                    best = said + read[child].score
                    least = best - margin - prefix.score
        ranked: list[tuple[float, int, tuple[float, float, float]]] = []
        for node, again in stays.items():
            by_blank = beams[node][2] + silence
            by_token = _add(again, fresh.pop(node, -math.inf))
            total = _add(by_blank, by_token)
            ranked.append((total + read[node].score, node, (by_blank, by_token, total)))
        for node, said in fresh.items():
            ranked.append((said + read[node].score, node, (-math.inf, said, said)))
        ranked.sort(reverse=True)
        least = ranked[0][0] - margin
        beams = {node: parts for score, node, parts in ranked[:beam] if score >= least}
    # The empty sequence is a candidate even where the beam has lost it.
    beams.setdefault(0, (sum(blanks), -math.inf, sum(blanks)))
    found = {
        tuple(sequence_of(node)): total + fusion.finish(read[node])
        for node, (_, _, total) in beams.items()
    }
    return sorted(found.items(), key=lambda item: -item[1])


def _loudest(scores: np.ndarray) -> list[list[tuple[int, float]]]:
    """For each frame its most probable tokens and their scores, the most probable first."""
    if not scores.size:
        return [[] for _ in scores]
    width = min(_WIDEST, scores.shape[1])
    tops = np.argpartition(-scores, width - 1, axis=1)[:, :width]
    values = np.take_along_axis(scores, tops, axis=1)
    order = np.argsort(-values, axis=1)
    tops = np.take_along_axis(tops, order, axis=1)
    values = np.take_along_axis(values, order, axis=1)
    counts = (values > _LEAST).sum(axis=1)
    return [
        list(zip(tokens[:count], said[:count], strict=True))
        for tokens, said, count in zip(tops.tolist(), values.tolist(), counts.tolist(), strict=True)
    ]


def _add(first: float, second: float) -> float:
    if first < second:
        first, second = second, first
    # What is this small changes nothing, and minus infinity has no difference.
    return first + math.log1p(math.exp(second - first)) if second > first - 40 else first


def candidates(
    grammar: Grammar,
    log_probs: np.ndarray,
    blank: int,
    options: DecodeOptions,
    consumed: int | None,
    room: int,
    fusion: Fusion | None = None,
) -> tuple[list[Option], list[float]]:
    """Transcripts that the CTC head proposes, as ways to write the field.

    Sequences that write the same text are one candidate; text is tokenized as the decoder
    learnt it. What the grammar does not allow is left out, so every candidate is valid.

    Args:
        grammar: the record's.
        log_probs, blank: of the head.
        options: the width of the beam.
        consumed: as for `Grammar.options`.
        room: most tokens of a candidate.
        fusion: what language models add.

    Returns:
        The options, labelled with the transcript, the best of the search first, and their scores
        in it; `_RESCORED` at most.

    Raises:
        DecodingError: the posteriors are not finite.
    """
    if not np.isfinite(log_probs).all():
        raise DecodingError("the CTC head's scores are not finite", "decode in float32")
    table = grammar.table
    allowed = np.zeros(log_probs.shape[1], dtype=bool)
    for token, piece in enumerate(table.bytes[: log_probs.shape[1]]):
        allowed[token] = piece is not None and grammar.plain(piece)
    scores: dict[str, float] = {}
    found_by_search = prefix_beam_search(log_probs, blank, options.ctc_beam, allowed, fusion)
    for tokens, score in found_by_search:
        try:
            text = " ".join(table.text_of(list(tokens)).decode().split())
        except UnicodeDecodeError:
            continue
        scores[text] = _add(scores.get(text, -math.inf), score)
    found: list[tuple[Option, float]] = []
    for text, score in sorted(scores.items(), key=lambda item: -item[1]):
        if len(found) == _RESCORED:
            break
        option = grammar.transcript_option(text, consumed)
        if option is not None and len(option.tokens) <= room:
            found.append((option, score))
    if not found:
        raise DecodingError(
            "no transcript of the CTC head fits into the decoder's context",
            "cut the audio into turns",
        )
    return [option for option, _ in found], [score for _, score in found]


def best_candidate(
    options: Sequence[Option],
    ctc_scores: Sequence[float],
    decoder_scores: Sequence[float],
    parameters: DecodeOptions,
) -> Option:
    """The candidate with the best joint score.

    Raises:
        DecodingError: a score is not finite.
    """
    if not all(map(math.isfinite, decoder_scores)):
        raise DecodingError("the model's transcript scores are not finite", "decode in float32")
    weight = parameters.ctc_weight
    joint = [
        weight * heard + (1 - weight) * said + parameters.length_bonus * len(option.tokens)
        for option, heard, said in zip(options, ctc_scores, decoder_scores, strict=True)
    ]
    return options[joint.index(max(joint))]


def log_posteriors(ctc_logits: object) -> np.ndarray:
    """(frames, vocabulary) log probabilities of a prompt's CTC logits.

    Raises:
        ModelError: the checkpoint has no CTC head.
    """
    import torch

    if not isinstance(ctc_logits, torch.Tensor):
        raise ModelError("the checkpoint has no CTC head", "decode with transcript_search='greedy'")
    result: np.ndarray = ctc_logits.float().log_softmax(-1).cpu().numpy()
    return result
