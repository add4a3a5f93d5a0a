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
            by their sound alone are not shown to the language models.

    Returns:
        (tokens, score), the best first; the score is the log probability where nothing is added.
        The empty sequence is among them.
    """
    scores = np.array(log_probs, dtype=np.float64)
    blanks = scores[:, blank].copy()
    if allowed is not None:
        scores[:, ~allowed] = -np.inf
    scores[:, blank] = -np.inf
    width = min(_WIDEST, scores.shape[1])
    tops = np.argpartition(-scores, width - 1, axis=1)[:, :width] if len(scores) else scores[:0]

    # Prefixes are nodes of a trie: 0 is the empty one.
    parents, tokens = [-1], [-1]
    children: dict[tuple[int, int], int] = {}
    beams: dict[int, tuple[float, float]] = {0: (0.0, -math.inf)}
    fusion = fusion or Fusion()
    read = [Heard()]

    def sequence_of(node: int) -> list[int]:
        sequence = []
        while node:
            sequence.append(tokens[node])
            node = parents[node]
        return sequence[::-1]

    silence = 0.0
    best = 0.0
    for frame, top in enumerate(tops):
        row = scores[frame]
        hopeless = best + max(float(blanks[frame]), float(row.max())) - margin
        silence += float(blanks[frame])
        heard = [(int(token), float(row[token])) for token in top if row[token] > _LEAST]
        fresh: dict[int, tuple[float, float]] = {}
        for node, (by_blank, by_token) in beams.items():
            total = _add(by_blank, by_token)
            old_blank, old_token = fresh.get(node, (-math.inf, -math.inf))
            again = by_token + float(row[tokens[node]]) if node else -math.inf
            fresh[node] = (_add(old_blank, total + float(blanks[frame])), _add(old_token, again))
            least = hopeless - read[node].score
            for token, score in heard:
                # The same token twice in a row is one, unless a blank stands between.
                before = by_blank if node and token == tokens[node] else total
                if before == -math.inf or before + score < least:
                    continue
                child = children.get((node, token))
                if child is None:
                    child = children[node, token] = len(tokens)
                    parents.append(node)
                    tokens.append(token)
                    read.append(fusion.extend(read[node], token))
                old_blank, old_token = fresh.get(child, (-math.inf, -math.inf))
                fresh[child] = (old_blank, _add(old_token, before + score))
        ranked = [(_add(*pair) + read[node].score, node) for node, pair in fresh.items()]
        ranked.sort(reverse=True)
        best = ranked[0][0]
        beams = {node: fresh[node] for score, node in ranked[:beam] if score >= best - margin}
    # The empty sequence is a candidate even where the beam has lost it.
    beams.setdefault(0, (silence, -math.inf))
    found = {
        tuple(sequence_of(node)): _add(*pair) + fusion.finish(read[node])
        for node, pair in beams.items()
    }
    return sorted(found.items(), key=lambda item: -item[1])


def _add(first: float, second: float) -> float:
    if first < second:
        first, second = second, first
    return first if second == -math.inf else first + math.log1p(math.exp(second - first))


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
        The options, labelled with the transcript, and their scores in the search.

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
    for text, score in scores.items():
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
