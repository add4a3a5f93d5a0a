"""DeSTA checkpoints of other shapes, broken ones, and what is saved and loaded again."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from desta_tiny import Shape, make_checkpoint
from huggingface_hub.errors import LocalEntryNotFoundError
from safetensors.torch import load_file, save_file
from transformers import LlamaConfig, WhisperConfig

from speechmeta.chat.model import ChatModel
from speechmeta.errors import ModelError, SpeechMetaError, UsageError
from speechmeta.models.desta2 import DestaConfig
from speechmeta.models.desta2.loading import load_desta, quantization_config
from speechmeta.models.desta2.modeling_desta2 import DestaConnector, DestaForConditionalGeneration
from speechmeta.models.desta2.processing_desta2 import ChatTurn
from speechmeta.models.desta2.published import load_published, save_published
from speechmeta.models.desta2.windows import speech_spans, split_windows

pytestmark = pytest.mark.slow

SHAPES = [
    Shape("desta2", 1, adds_bos=False, prompt_size=3),
    Shape("desta2", 2, d_model=32, heads=4, tied=True),
    Shape("desta2", 3, whisper="whisper-small", encoder_layers=12, llm_layers=1),
    Shape("desta2", 4, encoder_layers=3),
    Shape("desta25", 5, qformer_layers=4, prompt_size=7, adds_bos=False),
    Shape("desta25", 6, d_model=16, heads=2, mel_bins=128, llm_width=48),
    Shape("desta25", 7, encoder_layers=6),
]


def _by_hand(connector: DestaConnector, tapped: torch.Tensor) -> torch.Tensor:
    """The connector's definition, one window, one head at a time."""
    weights: dict[str, torch.Tensor] = {
        name: tensor.double() for name, tensor in connector.state_dict().items()
    }
    first: Any = connector.qformer.layer[0]
    heads: int = first.attention.heads

    def linear(x: torch.Tensor, name: str) -> torch.Tensor:
        return x @ weights[f"{name}.weight"].T + weights[f"{name}.bias"]

    def norm(x: torch.Tensor, name: str, eps: float) -> torch.Tensor:
        x = (x - x.mean(-1, keepdim=True)) / (x.var(-1, keepdim=True, correction=0) + eps).sqrt()
        return x * weights[f"{name}.weight"] + weights[f"{name}.bias"]

    def attend(x: torch.Tensor, source: torch.Tensor, name: str) -> torch.Tensor:
        q, k, v = (
            linear(y, f"{name}.self.{part}")
            for y, part in ((x, "query"), (source, "key"), (source, "value"))
        )
        mixed = [
            ((a @ b.T) / a.shape[-1] ** 0.5).softmax(-1) @ c
            for a, b, c in zip(q.chunk(heads, 1), k.chunk(heads, 1), v.chunk(heads, 1), strict=True)
        ]
        joined = linear(torch.cat(mixed, 1), f"{name}.output.dense")
        return norm(joined + x, f"{name}.output.LayerNorm", 1e-12)

    seen = []
    for index, states in enumerate(tapped.double()):
        x = weights[f"layer_prompts.{index}"][0]
        for layer in range(len(connector.qformer.layer)):
            name = f"qformer.layer.{layer}"
            x = attend(x, x, f"{name}.attention")
            x = attend(x, states, f"{name}.crossattention")
            inner = linear(x, f"{name}.intermediate.dense")
            inner = 0.5 * inner * (1 + torch.erf(inner / 2**0.5))
            x = norm(linear(inner, f"{name}.output.dense") + x, f"{name}.output.LayerNorm", 1e-12)
        seen.append(x)
    shares = weights["layer_weights"].softmax(-1)
    mixed_rows = sum(shares[:, i : i + 1] * x for i, x in enumerate(seen))
    assert isinstance(mixed_rows, torch.Tensor)
    return linear(norm(mixed_rows, "proj.0", 1e-5), "proj.1")


@pytest.mark.parametrize("shape", SHAPES, ids=lambda s: f"{s.variant}-{s.seed}")
def test_other_shapes_compute_what_is_computed_by_hand(
    tmp_path: Path, shape: Shape, shared_dir: Path
) -> None:
    folder = make_checkpoint(tmp_path, shape)
    model, processor = load_desta(folder, "cpu", "float32", local_files_only=True)
    rng = np.random.default_rng(shape.seed)
    noise = (0.1 * rng.standard_normal(48_000)).astype(np.float32)
    with torch.inference_mode():
        heard = model.get_audio_features(processor.features([noise, noise[:1000]]))
        encoder = model.audio_tower.get_encoder()
        states = encoder(processor.features([noise]), output_hidden_states=True)
        layer_inputs: list[torch.Tensor] = []
        hooks = [
            layer.register_forward_pre_hook(lambda _, args: layer_inputs.append(args[0]))
            for layer in encoder.layers
        ]
        outputs: list[torch.Tensor] = []
        hooks.append(
            encoder.layers[-1].register_forward_hook(
                lambda _, __, out: outputs.append(out[0] if isinstance(out, tuple) else out)
            )
        )
        encoder(processor.features([noise]))
        for hook in hooks:
            hook.remove()
        every = [*layer_inputs, outputs[0]]
        if shape.variant == "desta2":
            every[-1] = states.last_hidden_state
        for index, tapped in zip(model.config.tapped_states, heard.tapped[:, :1], strict=True):
            torch.testing.assert_close(tapped, every[index], atol=1e-5, rtol=1e-5)
        expected = _by_hand(model.multi_modal_projector, heard.tapped[:, 0])
        torch.testing.assert_close(heard.embeds[0].double(), expected, atol=1e-4, rtol=1e-4)
    chat = ChatModel(model, processor)
    clip = str(shared_dir / "fixtures" / shape.variant / "clip.wav")
    talk = [{"role": "audio", "content": clip}, {"role": "user", "content": "Why?"}]
    for reference in (True, False):
        reply = chat.chat(talk, reference_behaviour=reference, max_new_tokens=6)
        assert reply.usage.prompt_tokens > shape.prompt_size


@pytest.mark.parametrize("adds_bos", [True, False])
def test_desta2_reference_prompt_counts_as_published(tmp_path: Path, adds_bos: bool) -> None:
    folder = make_checkpoint(tmp_path, Shape("desta2", adds_bos=adds_bos, prompt_size=3))
    model, processor = load_desta(folder, "cpu", "float32", local_files_only=True)
    turns = [ChatTurn("audio", (0,)), ChatTurn("user", ("Why?",))]
    prompt = processor.reference_prompt(turns, [" a train"], ["a.wav"])
    mark = model.config.audio_token_id
    before = processor.tokenizer.decode(prompt.ids[: prompt.ids.index(mark)])
    bos = "<|begin_of_text|>"
    assert before.startswith(bos * 2 if adds_bos else bos)
    # With a second BOS in front, the rows end up one token too early.
    assert before.endswith("<|end_header_id|>" if adds_bos else "\n\n")
    right = processor.prompt(turns, [[" a train"]])
    assert processor.tokenizer.decode(right.ids[: right.ids.index(mark)]).endswith("\n\n")
    assert processor.tokenizer.decode(right.ids).count(bos) == 1


def test_broken_connectors_are_named(tmp_path: Path) -> None:
    folder = make_checkpoint(tmp_path)
    file = folder / "model.safetensors"
    weights = load_file(file)
    key = "perception.connector.qformer.layer.1.attention.self.key.weight"
    cases: list[tuple[dict[str, torch.Tensor], str]] = [
        ({k: v for k, v in weights.items() if k != key}, f"lacks {key}"),
        ({**weights, "llm.extra": torch.zeros(1)}, "unexpected llm.extra"),
        ({**weights, key: torch.zeros(2, 2)}, key),
    ]
    for broken, message in cases:
        save_file(broken, file)
        with pytest.raises(ModelError, match=message.replace(".", r"\.")):
            load_desta(folder, "cpu", local_files_only=True)
    file.write_bytes(b"garbage")
    with pytest.raises(ModelError, match=r"model\.safetensors"):
        load_desta(folder, "cpu", local_files_only=True)
    file.unlink()
    with pytest.raises(ModelError, match="none of"):
        load_desta(folder, "cpu", local_files_only=True)


def test_pickled_code_is_not_run(tmp_path: Path) -> None:
    class Evil:
        def __reduce__(self) -> Any:
            return (Path.touch, (tmp_path / "touched",))

    folder = make_checkpoint(tmp_path, Shape("desta2"))
    torch.save({"layer_weights": Evil()}, folder / "qformer_connector.pth")
    with pytest.raises(ModelError, match=r"qformer_connector\.pth"):
        load_desta(folder, "cpu", local_files_only=True)
    assert not (tmp_path / "touched").exists()


@pytest.mark.parametrize(
    ("variant", "changes", "message"),
    [
        ("desta25", {"use_lora": True}, "LoRA"),
        ("desta25", {"connector_mode": "other"}, "other"),
        ("desta25", {"target_layer_ids": [0, 1, 2, 9]}, "do not fit"),
        ("desta25", {"prompt_size": 9}, "layer_prompts"),
        ("desta25", {"llm_model_id": "no/such"}, "no/such"),
        ("desta25", {"encoder_model_id": None}, "encoder_model_id"),
        ("desta2", {"whisper_model_id": "meta-llama/tiny"}, "not Whisper"),
        ("desta2", {"prompt_size": "x"}, "does not fit"),
    ],
)
def test_a_config_that_does_not_fit_is_named(
    tmp_path: Path, variant: str, changes: dict[str, Any], message: str
) -> None:
    folder = make_checkpoint(tmp_path, Shape(variant), **changes)
    with pytest.raises(ModelError, match=message):
        load_desta(folder, "cpu", local_files_only=True)


def test_unknown_whisper_is_refused(tmp_path: Path) -> None:
    folder = make_checkpoint(tmp_path, Shape("desta2", whisper="whisper-odd"))
    with pytest.raises(ModelError, match="which layers"):
        load_desta(folder, "cpu", local_files_only=True)


@pytest.mark.parametrize(
    ("offline", "why"), [(True, "fetching is switched off"), (False, "the hub is out of reach")]
)
def test_a_checkpoint_that_cannot_be_fetched_names_the_reason(
    offline: bool, why: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def unreachable(*_: object, **__: object) -> str:
        raise LocalEntryNotFoundError("Got: ConnectError: Name or service not known")

    monkeypatch.setattr("huggingface_hub.snapshot_download", unreachable)
    with pytest.raises(ModelError, match=why) as caught:
        load_desta("some/checkpoint", "cpu", local_files_only=offline)
    assert "Got:" not in caught.value.message
    assert "hf download some/checkpoint" in caught.value.hint


def test_what_is_not_a_checkpoint_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="neither a folder"):
        load_desta("no/such-checkpoint", "cpu", local_files_only=True)
    with pytest.raises(ModelError, match=r"config\.json"):
        load_desta(tmp_path, "cpu", local_files_only=True)
    (tmp_path / "config.json").write_text('{"model_type": "llama"}')
    with pytest.raises(ModelError, match="llama"):
        load_desta(tmp_path, "cpu", local_files_only=True)


@pytest.mark.parametrize("variant", ["desta2", "desta25"])
def test_saved_is_loaded(tmp_path: Path, variant: str) -> None:
    folder = make_checkpoint(tmp_path / "a", Shape(variant))
    chat = ChatModel.from_pretrained(folder, device="cpu", local_files_only=True)
    assert chat.model.language_model.dtype == torch.bfloat16
    assert {p.dtype for p in chat.model.audio_tower.parameters()} == {torch.float32}
    chat.save_pretrained(tmp_path / "b")
    again = ChatModel.from_pretrained(tmp_path / "b", device="cpu", local_files_only=True)
    assert {p.dtype for p in again.model.multi_modal_projector.parameters()} == {torch.float32}
    assert again.model.language_model.dtype == torch.bfloat16
    noise = 0.1 * np.random.default_rng(0).standard_normal(16_000)
    talk = [{"role": "audio", "content": (noise, 16_000)}, {"role": "user", "content": "Why?"}]
    first, second = (c.chat(talk, max_new_tokens=12) for c in (chat, again))
    assert first.token_ids == second.token_ids

    save_published(chat.model, folder / "copy")
    (folder / "copy" / "openai").symlink_to(folder / "openai")
    (folder / "copy" / "meta-llama").symlink_to(folder / "meta-llama")
    copy, _ = load_published(folder / "copy", "auto", True, {})
    for name, tensor in copy.multi_modal_projector.state_dict().items():
        assert torch.equal(tensor, chat.model.multi_modal_projector.state_dict()[name])
    assert copy.config.tapped_states == chat.model.config.tapped_states


def test_a_quantization_that_cannot_run_says_why(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UsageError, match="int3"):
        quantization_config("int3", "cpu")
    assert quantization_config(None, "cpu") is None
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    for name, library in (("int8", "bitsandbytes"), ("torchao-int4", "torchao")):
        with pytest.raises(ModelError, match=f"pip install {library}"):
            quantization_config(name, "cpu")
    monkeypatch.setattr("importlib.util.find_spec", lambda name: object())
    with pytest.raises(ModelError, match="CUDA"):
        quantization_config("torchao-int4", "cpu")


@pytest.mark.parametrize(
    ("name", "library", "share"),
    [
        ("int8", "bitsandbytes", 0.85),
        ("int4", "bitsandbytes", 0.7),
        ("torchao-int8", "torchao", 1.01),
    ],
)
# The libraries warn about what they themselves use.
@pytest.mark.filterwarnings("ignore")
def test_quantised_decoders_answer(tmp_path: Path, name: str, library: str, share: float) -> None:
    pytest.importorskip(library)
    folder = make_checkpoint(tmp_path, Shape(llm_width=128))
    plain = ChatModel.from_pretrained(folder, device="cpu", local_files_only=True)
    chat = ChatModel.from_pretrained(folder, device="cpu", quantization=name, local_files_only=True)
    # transformers does not see through torchao's tensors; there the size says nothing.
    sizes = [c.model.language_model.get_memory_footprint() for c in (chat, plain)]
    assert sizes[0] < share * sizes[1]
    assert {p.dtype for p in chat.model.multi_modal_projector.parameters()} == {torch.float32}
    assert {p.dtype for p in chat.model.audio_tower.parameters()} == {torch.float32}
    noise = 0.1 * np.random.default_rng(0).standard_normal(16_000)
    talk = [{"role": "audio", "content": (noise, 16_000)}, {"role": "user", "content": "Why?"}]
    logits = []
    for c in (chat, plain):
        c.model.language_model.register_forward_hook(
            lambda _, __, out: logits.append(out.logits[0, -1].float())
        )
        assert c.chat(talk, max_new_tokens=1).token_ids
    similarity = torch.nn.functional.cosine_similarity(logits[0], logits[1], dim=0)
    assert similarity > 0.7


@pytest.mark.parametrize(
    ("linear_bytes", "audio_bytes", "limit"),
    # int8; nf4 with a float32 scale for every 64 weights; int8 with Whisper in 16 bits;
    # nothing quantised.
    [(1.0, 4, 15.8e9), (0.5 + 4 / 64, 4, 12.8e9), (1.0, 2, 12.7e9), (2.0, 4, 22.8e9)],
)
def test_published_size_fits_on_16_gb(linear_bytes: float, audio_bytes: int, limit: float) -> None:
    """The figures of docs/chat.md: weights only, counted on the meta device."""
    config = DestaConfig(
        audio_config=WhisperConfig(
            vocab_size=51866,
            num_mel_bins=128,
            d_model=1280,
            encoder_layers=32,
            decoder_layers=32,
            encoder_attention_heads=20,
            decoder_attention_heads=20,
            encoder_ffn_dim=5120,
            decoder_ffn_dim=5120,
        ),
        text_config=LlamaConfig(
            vocab_size=128256,
            hidden_size=4096,
            intermediate_size=14336,
            num_hidden_layers=32,
            num_attention_heads=32,
            num_key_value_heads=8,
        ),
    )
    with torch.device("meta"):
        model = DestaForConditionalGeneration(config)
    total = 0.0
    for name, parameter in model.named_parameters():
        inner = ".layers." in name and parameter.ndim == 2
        # The decoder's embeddings, norms and head are not quantised.
        size = {
            "audio_tower": audio_bytes,
            "multi_modal_projector": 4,
            "language_model": linear_bytes if inner else 2,
        }[name.partition(".")[0]]
        total += parameter.numel() * size
    assert limit - 0.1e9 < total < limit


@pytest.mark.parametrize("variant", ["desta2", "desta25"])
def test_whisper_in_16_bits(tmp_path: Path, variant: str) -> None:
    folder = make_checkpoint(tmp_path, Shape(variant))
    plain, half = (
        ChatModel.from_pretrained(
            folder, device="cpu", dtype="float32", local_files_only=True, audio_dtype=dtype
        )
        for dtype in ("float32", "bfloat16")
    )
    tower = half.model.audio_tower
    assert {p.dtype for p in tower.parameters()} == {torch.bfloat16}
    assert {p.dtype for p in half.model.multi_modal_projector.parameters()} == {torch.float32}
    noise = (0.1 * np.random.default_rng(0).standard_normal(16_000)).astype(np.float32)
    rows = []
    with torch.inference_mode():
        for chat in (plain, half):
            heard = chat.model.get_audio_features(chat.processor.features([noise]))
            assert heard.embeds.dtype == torch.float32
            assert chat.model.transcribe(heard.last_hidden_state).shape[0] == 1
            rows.append(heard.embeds.flatten())
    assert torch.nn.functional.cosine_similarity(rows[0], rows[1], dim=0) > 0.99
    talk = [{"role": "audio", "content": (noise, 16_000)}, {"role": "user", "content": "Why?"}]
    assert half.chat(talk, max_new_tokens=2).token_ids
    with pytest.raises(UsageError, match="float8"):
        load_desta(folder, "cpu", local_files_only=True, audio_dtype="float8")


def test_an_unknown_device_or_type_is_an_error(tmp_path: Path) -> None:
    folder = make_checkpoint(tmp_path)
    with pytest.raises(UsageError, match="toaster"):
        load_desta(folder, "toaster")
    with pytest.raises(UsageError, match="float8"):
        load_desta(folder, "cpu", "float8")
    if not torch.cuda.is_available():
        with pytest.raises(SpeechMetaError, match="cuda"):
            load_desta(folder, "cuda", local_files_only=True)
    model, _ = load_desta(folder, "cpu", local_files_only=True, device_map={"": "cpu"})
    assert model.language_model.device.type == "cpu"


def test_windows_lie_at_pauses(shared_dir: Path) -> None:
    from speechmeta.audio.loading import load_audio

    clip = load_audio(shared_dir / "fixtures" / "desta2" / "clip.wav").mono()
    pause = np.zeros(16_000, np.float32)
    long = np.concatenate([part for _ in range(20) for part in (clip, pause)])
    spans = speech_spans(long)
    windows = split_windows(long)
    assert [w.start for w in windows] == [0, *(w.end for w in windows[:-1])]
    assert windows[-1].end == len(long)
    assert all(w.end - w.start <= 480_000 for w in windows)
    for window in windows[:-1]:
        assert not window.in_speech
        assert not any(a < window.end < b for a, b in spans)
    assert len(split_windows(clip)) == 1
    silence = split_windows(np.zeros(1_000_000, np.float32))
    assert [w.speech for w in silence] == [False] * 3
