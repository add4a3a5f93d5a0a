"""Writes twilio_call.jsonl: what Twilio sends of a call with both tracks.

    python tests/server/record_twilio_call.py

The messages are laid out as Twilio documents them
(https://www.twilio.com/docs/voice/media-streams/websocket-messages); the sound is the beginning
of examples/call.wav: the customer is heard on the inbound track, the agent on the outbound one.
"""

from __future__ import annotations

import base64
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE))
sys.path.insert(0, str(HERE.parent))

STREAM = "MZ18ad3ab5a668481ce02b83e7395059f0"
CALL = "CA2b5f2c4e9d3a47b08f1e6c7d8a9b0c1d"
ACCOUNT = "AC3f1e2d4c5b6a79880716253443526170"
SECONDS = 7.2
FRAME = 160
"""Samples of a message: 20 ms."""


def messages() -> Iterator[dict[str, Any]]:
    from live_client import mulaw

    from speechmeta.audio.loading import load_audio

    agent, customer = load_audio(HERE.parents[1] / "examples" / "call.wav").waveform
    yield {"event": "connected", "protocol": "Call", "version": "1.0.0"}
    number = 1
    media = {"encoding": "audio/x-mulaw", "sampleRate": 8000, "channels": 1}
    yield {
        "event": "start",
        "sequenceNumber": str(number),
        "start": {
            "accountSid": ACCOUNT,
            "streamSid": STREAM,
            "callSid": CALL,
            "tracks": ["inbound", "outbound"],
            "mediaFormat": media,
            "customParameters": {
                "events": "here",
                "options": json.dumps({"roles": "customer,agent"}),
            },
        },
        "streamSid": STREAM,
    }
    chunks = {"inbound": 0, "outbound": 0}
    tracks = {"inbound": customer, "outbound": agent}
    for first in range(0, round(SECONDS * 8000), FRAME):
        for track, samples in tracks.items():
            number += 1
            chunks[track] += 1
            sound = mulaw(samples[None, first : first + FRAME])
            yield {
                "event": "media",
                "sequenceNumber": str(number),
                "media": {
                    "track": track,
                    "chunk": str(chunks[track]),
                    "timestamp": str(first // 8 + 5),
                    "payload": base64.b64encode(sound).decode("ascii"),
                },
                "streamSid": STREAM,
            }
        number += 1
        if first == 100 * FRAME:
            dtmf = {"track": "inbound_track", "digit": "1"}
            yield {
                "event": "dtmf",
                "streamSid": STREAM,
                "sequenceNumber": str(number),
                "dtmf": dtmf,
            }
        elif first == 200 * FRAME:
            mark = {"name": "greeting"}
            yield {
                "event": "mark",
                "streamSid": STREAM,
                "sequenceNumber": str(number),
                "mark": mark,
            }
        else:
            number -= 1
    yield {
        "event": "stop",
        "sequenceNumber": str(number + 1),
        "stop": {"accountSid": ACCOUNT, "callSid": CALL},
        "streamSid": STREAM,
    }


if __name__ == "__main__":
    lines = [json.dumps(message) for message in messages()]
    (HERE / "twilio_call.jsonl").write_text("\n".join(lines) + "\n")
