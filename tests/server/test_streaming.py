"""What a stream of events holds is given back, however it ends."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from contextlib import AsyncExitStack
from typing import Any

import pytest
from starlette.requests import ClientDisconnect

from speechmeta.server.streaming import CallStream


@pytest.mark.parametrize("sent", [0, 1, 2, 9])
def test_a_client_that_leaves(sent: int) -> None:
    """Before the head, before the first event, between events, never."""
    ended: list[str] = []

    async def events() -> AsyncGenerator[bytes]:
        try:
            yield b"data: 1\n\n"
            yield b"data: 2\n\n"
        finally:
            ended.append("events")

    async def answered() -> None:
        held = AsyncExitStack()
        held.callback(ended.append, "held")
        count = 0

        async def send(message: Any) -> None:
            nonlocal count
            count += 1
            if count > sent:
                raise OSError("gone")

        async def receive() -> Any:
            await asyncio.Event().wait()

        stream = CallStream(events(), held)
        await stream({"type": "http", "asgi": {"spec_version": "2.4"}}, receive, send)

    if sent == 9:
        asyncio.run(answered())
    else:
        with pytest.raises(ClientDisconnect):
            asyncio.run(answered())
    # What never began has no end.
    assert ended == (["held"] if sent == 0 else ["events", "held"])
