"""DeSTA2 and DeSTA2.5-Audio against what the published code computed."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from speechmeta.audio.loading import load_audio
from speechmeta.chat.model import ChatModel, ChatReply
from speechmeta.decoding.chat_loop import SamplingOptions
from speechmeta.errors import UsageError
from speechmeta.models.desta2.windows import reference_16k, speech_spans

pytestmark = pytest.mark.slow

Expected = tuple[Path, dict[str, Any], dict[str, np.ndarray]]
MODELS: dict[tuple[str, str], ChatModel] = {}


@pytest.fixture(scope="module", params=["desta2", "desta25"])
def fixture(request: pytest.FixtureRequest, shared_dir: Path) -> Expected:
    folder = shared_dir / "fixtures" / request.param
    with np.load(folder / "expected.npz") as arrays:
        return folder, json.loads((folder / "expected.json").read_text()), dict(arrays)


@pytest.fixture(params=["float32", "auto"])
def model(request: pytest.FixtureRequest, fixture: Expected) -> ChatModel:
    key = (str(fixture[0]), request.param)
    if key not in MODELS:
        MODELS[key] = ChatModel.from_pretrained(
            fixture[0], device="cpu", dtype=request.param, local_files_only=True
        )
    return MODELS[key]


def _cases(expected: dict[str, Any]) -> dict[str, Any]:
    if "cases" in expected:
        return {
            name: (case["messages"], case["text"], len(case["text"]))
            for name, case in expected["cases"].items()
        }
    return {
        name: (expected[name]["messages"], [expected[name]["text"]], 1)
        for name in ("single", "multi")
    }


def _kind(model: ChatModel) -> str:
    return "fp32" if model.model.language_model.dtype == torch.float32 else "bf16"


def test_tower_and_connector(fixture: Expected, model: ChatModel) -> None:
    folder, _, arrays = fixture
    twice = model.model.config.variant == "desta2"
    waveform = reference_16k(load_audio(folder / "clip.wav"), twice=twice)
    name = "" if twice else "one_"
    np.testing.assert_array_equal(waveform, arrays[f"{name}waveform_16k"])
    with torch.inference_mode():
        features = model.processor.features([waveform])
        heard = model.model.get_audio_features(features)
    # Fourier transforms of other processors differ in the last digits.
    np.testing.assert_allclose(features, arrays[f"{name}input_features"], atol=1e-4)
    np.testing.assert_allclose(heard.tapped[:, 0], arrays["encoder_hidden"], atol=1e-4)
    rows = arrays["speech_features"] if twice else arrays["one_speech_features"][0]
    np.testing.assert_allclose(heard.embeds[0], rows, atol=1e-4)
    mix = model.model.multi_modal_projector.layer_mix().detach()
    np.testing.assert_allclose(mix, arrays["layer_mix"], atol=1e-6)
    assert not model.model.multi_modal_projector.training


def test_vad_finds_what_silero_found(fixture: Expected) -> None:
    folder, expected, _ = fixture
    for case in expected.get("cases", {}).values():
        for (name, _), spans in zip(
            case["audios_out"], case.get("vad_timestamps", []), strict=True
        ):
            found = speech_spans(reference_16k(load_audio(folder / name), twice=False))
            assert found == [(span["start"], span["end"]) for span in spans]


def test_prompt_logits_and_answer(
    fixture: Expected, model: ChatModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, expected, arrays = fixture
    monkeypatch.chdir(folder)
    kind = _kind(model)
    logits: list[torch.Tensor] = []
    embeds: list[torch.Tensor] = []

    def spy(_: Any, __: Any, kwargs: dict[str, Any], output: Any) -> None:
        if "inputs_embeds" in kwargs:
            embeds.append(kwargs["inputs_embeds"].float())
            logits.append(output.logits[:, -1].float())

    hook = model.model.language_model.register_forward_hook(spy, with_kwargs=True)
    try:
        for name, (messages, texts, count) in _cases(expected).items():
            logits.clear()
            embeds.clear()
            steps = arrays[f"{name}_generated_ids_{kind}"].reshape(count, -1)
            limit = 16 if "cases" in expected else 24
            answer = model.chat(messages, reference_behaviour=True, max_new_tokens=limit)
            replies: list[ChatReply] = answer if isinstance(answer, list) else [answer]
            # In bfloat16, processors without instructions for it add in another order.
            close = 1e-4 if kind == "fp32" else 0.15
            np.testing.assert_allclose(
                logits[0], arrays[f"{name}_last_logits_{kind}"].reshape(count, -1), atol=close
            )
            if f"{name}_inputs_embeds_{kind}" in arrays and count == 1:
                wanted = arrays[f"{name}_inputs_embeds_{kind}"].reshape(embeds[0].shape)
                np.testing.assert_allclose(embeds[0], wanted, atol=1e-4 if kind == "fp32" else 0.02)
            for reply, ids, text in zip(replies, steps.tolist(), texts, strict=True):
                assert list(reply.token_ids) == ids[: len(reply.token_ids)]
                assert set(ids[len(reply.token_ids) :]) <= {ids[-1]}
                assert reply.text == text
    finally:
        hook.remove()


def test_prompt_text_and_position(
    fixture: Expected, model: ChatModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, expected, arrays = fixture
    monkeypatch.chdir(folder)
    mark = model.model.config.audio_token_id
    for name, (messages, _, count) in _cases(expected).items():
        if count > 1:
            continue
        options = SamplingOptions(max_new_tokens=8)
        ready: Any = model._prepare([messages], True, options)[0]
        ids = ready.prompt.ids
        if "cases" not in expected:
            assert ready.prompt.text == expected[name]["prompt_text"]
            assert ids.index(mark) == expected[name]["audio_position"]
            assert [i for i in ids if i != mark] == arrays[f"{name}_input_ids"].tolist()
        else:
            assert len(ids) == arrays[f"{name}_input_ids"].shape[1]
            if f"{name}_start_positions" in arrays:
                starts = [i for i, t in enumerate(ids) if t == mark and ids[i - 1] != mark]
                assert starts == arrays[f"{name}_start_positions"][:, 1].tolist()


def test_what_the_reference_refuses(
    fixture: Expected, model: ChatModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, expected, _ = fixture
    monkeypatch.chdir(folder)
    ask = {"role": "user", "content": "What about clip.wav?"}
    clip = {"role": "audio", "content": "clip.wav"}
    if "cases" not in expected:
        for messages in ([clip, clip, {"role": "user", "content": "x"}], [ask], [clip, ask]):
            with pytest.raises(UsageError):
                model.chat(messages, reference_behaviour=True, max_new_tokens=4)
            assert model.chat(messages, max_new_tokens=4).text is not None
    else:
        for text, audios in (
            ("<|AUDIO|><|AUDIO|>", [{"audio": "clip.wav"}]),
            ("<|AUDIO|>", [{"audio": "clip.wav"}, {"audio": "clip.wav"}]),
        ):
            with pytest.raises(UsageError, match="audios"):
                model.chat([{"role": "user", "content": text, "audios": audios}])
        empty = [
            {
                "role": "user",
                "content": "<|AUDIO|>\nDescribe this audio.",
                "audios": [{"audio": "clip.wav", "text": ""}],
            }
        ]
        assert (
            model.chat(empty, reference_behaviour=True, max_new_tokens=4)
            .audios[0]
            .windows[0]
            .transcript
            == ""
        )


def test_default_is_the_reference_where_that_has_no_flaw(
    fixture: Expected, model: ChatModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, expected, _ = fixture
    if "cases" not in expected:
        pytest.skip("DeSTA2's prompt always differs: the audio position and the second BOS")
    monkeypatch.chdir(folder)
    for name in ("one", "two"):
        case = expected["cases"][name]
        assert model.chat(case["messages"], max_new_tokens=16).text == case["text"][0]
