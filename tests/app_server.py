"""Serves the app for a test, in a process of its own: Gradio leaves sockets and loops open.

    python tests/app_server.py (fake | bundled) [CHAT_CHECKPOINT]

Writes the address to stdout and serves until stdin ends.
"""

from __future__ import annotations

import sys

from speechmeta.app import build_app, launch
from speechmeta.chat.model import ChatModel
from speechmeta.pipeline.analyzer import Analyzer


def main() -> None:
    from fakes import FakeEngine

    def analyzer() -> Analyzer:
        if sys.argv[1] == "fake":
            return Analyzer.from_engine(FakeEngine())
        return Analyzer(device="cpu", dtype="float32", local_files_only=True)

    def chat() -> ChatModel:
        return ChatModel.from_pretrained(sys.argv[2], device="cpu", local_files_only=True)

    page = build_app(analyzer, chat if len(sys.argv) > 2 else None, max_new_tokens=12)
    print(launch(page, block=False), flush=True)
    sys.stdin.read()
    page.close()


if __name__ == "__main__":
    main()
