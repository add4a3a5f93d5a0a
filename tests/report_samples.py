"""Constructed call reports and waveform outlines for the tests of writers and batch runs."""

from __future__ import annotations

import math
from typing import Any

from speechmeta.schema import (
    AudioInfo,
    CallReport,
    Conversation,
    Coverage,
    Interruption,
    LabelEstimate,
    ModelInfo,
    Monologue,
    Peaks,
    SpeakerMeta,
    SpeakerSummary,
    Turn,
    Word,
)

NASTY = 'He said "stop" <script>alert(1)</script> & left; 50 % \\ tab\there, line\nbreak --> é 你好'
"""Text that every format must carry or escape."""


def meta(text: str, gender: str, age: str, accent: str, emotion: str) -> SpeakerMeta:
    return SpeakerMeta.model_validate(
        {
            "SpeechActivity": True,
            "Transcript": text,
            "Gender": gender,
            "Age": age,
            "Accent": accent,
            "Emotion": emotion,
        }
    )


def turn(
    start: float, end: float, channel: int, speaker: str, said: SpeakerMeta, **more: Any
) -> Turn:
    confidence = more.pop(
        "confidence", {"Gender": 0.97, "Age": 0.61, "Accent": 0.83, "Emotion": 0.72}
    )
    return Turn(
        start=start,
        end=end,
        channel=channel,
        speaker=speaker,
        meta=said,
        confidence=confidence,
        **more,
    )


def shares(*values: float) -> dict[str, float]:
    names = ("Neutral", "Happy", "Sad", "Anger", "Frustrated")
    return dict(zip(names, values, strict=True))


CUT = "transcript_truncated"
END = "it will be there tomorrow before noon"
LONG = "i have been waiting for three weeks now and nobody has called me back not even once"


def sample_report(path: str | None = "calls/sample call.wav") -> CallReport:
    """A stereo call of 40 seconds with every kind of turn in it."""

    def agent(text: str, emotion: str) -> SpeakerMeta:
        return meta(text, "Female", "Young", "America", emotion)

    def customer(text: str, emotion: str) -> SpeakerMeta:
        return meta(text, "Male", "Senior", "Celtic", emotion)

    silent = SpeakerMeta.model_validate(
        {
            "SpeechActivity": False,
            "Transcript": "",
            "Gender": None,
            "Age": None,
            "Accent": None,
            "Emotion": None,
        }
    )
    unsure = SpeakerMeta.model_validate(
        {
            "SpeechActivity": True,
            "Transcript": "",
            "Gender": "Female",
            "Age": None,
            "Accent": None,
            "Emotion": None,
        }
    )
    words = [
        Word(word=text, start=8.0 + 0.4 * i, end=8.3 + 0.4 * i, probability=0.9)
        for i, text in enumerate(LONG.split())
    ]
    return CallReport(
        audio=AudioInfo(path=path, duration=40.0, sample_rate=8000, channels=2, codec="pcm_mulaw"),
        model=ModelInfo(name="bundled", architecture="SpeechLLM", device="cpu", dtype="float32"),
        turns=[
            turn(
                0.5,
                4.25,
                0,
                "agent",
                agent("good morning how can i help you", "Happy"),
                loudness_db=-21.5,
            ),
            turn(4.5, 7.5, 1, "customer", customer("yes hello it is about my order", "Neutral")),
            turn(
                8.0,
                15.1,
                1,
                "customer",
                customer(" ".join(word.word for word in words), "Frustrated"),
                words=words,
                overlapped=True,
            ),
            turn(
                14.2,
                19.0,
                0,
                "agent",
                agent("i am very sorry to hear that let me look", "Sad"),
                overlapped=True,
            ),
            turn(19.5, 20.5, 0, "agent", unsure, confidence={"Gender": 0.8, "Emotion": 0.3}),
            turn(21.0, 28.0, 1, "customer", customer(NASTY, "Anger"), flags=[CUT]),
            turn(28.5, 30.0, 1, "customer", silent, confidence={"SpeechActivity": 0.99}),
            turn(31.0, 38.9996, 0, "agent", agent(END, "Neutral")),
        ],
        speakers=[
            SpeakerSummary(
                speaker="agent",
                channel=0,
                talk_seconds=17.55,
                turns=4,
                words_per_minute=92.3,
                talk_share=0.4855,
                interruptions=1,
                longest_monologue_seconds=8.0,
                emotion_by_quarter=[
                    {"Happy": 0.9, "Neutral": 0.1},
                    {"Sad": 1.0},
                    {},
                    {"Neutral": 1.0},
                ],
                Gender=LabelEstimate(value="Female", confidence=0.96),
                Age=LabelEstimate(value="Young", confidence=0.71),
                Accent=LabelEstimate(value="America", confidence=0.88),
                Emotion=shares(0.46, 0.21, 0.27, 0.04, 0.02),
            ),
            SpeakerSummary(
                speaker="customer",
                channel=1,
                talk_seconds=18.6,
                turns=4,
                words_per_minute=118.1,
                Gender=LabelEstimate(value="Male", confidence=0.99),
                Age=LabelEstimate(value=None, confidence=0.44),
                Accent=LabelEstimate(value="Celtic", confidence=0.58),
                Emotion=shares(0.17, 0.02, 0.08, 0.4, 0.33),
            ),
        ],
        conversation=Conversation(
            talk_seconds=35.25,
            silence_seconds=4.75,
            overlap_seconds=0.9,
            interruptions=[Interruption(at=14.2, by="agent", of="customer", overlap_seconds=0.9)],
            longest_monologue=Monologue(speaker="customer", start=4.5, end=15.1),
            response_latency_seconds=0.62,
            words_per_minute=104.8,
            loudness_db=-22.4,
            emotion_by_quarter=[
                {"Happy": 0.5, "Neutral": 0.4, "Frustrated": 0.1},
                {"Frustrated": 0.6, "Sad": 0.4},
                {"Anger": 0.9, "Neutral": 0.1},
                {"Neutral": 1.0},
            ],
        ),
        coverage=Coverage(speech_seconds=36.15, non_speech_seconds=43.85, skipped_seconds=0.0),
        warnings=["audio/sample rate is 8 kHz: the model was trained on 16 kHz"],
    )


def empty_report() -> CallReport:
    """A call in which nobody speaks."""
    return CallReport(
        audio=AudioInfo(path=None, duration=3.0, sample_rate=16000, channels=1),
        model=ModelInfo(name="bundled", architecture="SpeechLLM", device="cpu", dtype="float32"),
        turns=[],
        coverage=Coverage(speech_seconds=0.0, non_speech_seconds=3.0, skipped_seconds=0.0),
    )


def sample_peaks(report: CallReport, bins: int = 800) -> Peaks:
    """An outline that is loud where the report has turns and quiet elsewhere."""
    channels = []
    for channel in range(report.audio.channels):
        row = []
        for i in range(bins):
            at = (i + 0.5) * report.audio.duration / bins
            inside = any(t.start <= at < t.end for t in report.turns if t.channel == channel)
            wave = abs(math.sin(i * 0.37) * 0.6 + math.sin(i * 1.31) * 0.4)
            row.append(round(25 + 70 * wave) if inside else round(4 * wave))
        channels.append(tuple(row))
    return Peaks(report.audio.duration, tuple(channels))
