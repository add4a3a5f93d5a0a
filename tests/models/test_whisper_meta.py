"""The family whisper_meta as a transformers model: round trips, parity, batches, stored weights."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from tiny import tiny_clips
from transformers import (
    AutoConfig,
    AutoModel,
    AutoModelForSpeechSeq2Seq,
    AutoProcessor,
    WhisperForConditionalGeneration,
)
from whisper_meta_tiny import SECONDS, save_whisper, tiny_heads, tiny_whisper, tiny_whisper_meta

from speechmeta.audio.loading import load_audio, resample
from speechmeta.errors import AudioError, ModelError, UsageError
from speechmeta.models.whisper_meta import (
    WhisperMetaConfig,
    WhisperMetaForConditionalGeneration,
    WhisperMetaProcessor,
)
from speechmeta.models.whisper_meta.weights import INT8_ROWS, quantized
from speechmeta.pipeline.analyzer import Analyzer
from speechmeta.schema import FIELDS

pytestmark = pytest.mark.slow


def _same(first: torch.nn.Module, second: torch.nn.Module) -> None:
    one, other = first.state_dict(), second.state_dict()
    assert one.keys() == other.keys()
    for name, tensor in one.items():
        assert torch.equal(tensor, other[name]), name


def _logits(model: Any, processor: Any, clips: list[Any]) -> torch.Tensor:
    inputs = processor(audio=clips, sampling_rate=16_000)
    start = torch.tensor([[300, 301, 302]] * len(clips))
    with torch.no_grad():
        logits: torch.Tensor = model(**inputs, decoder_input_ids=start).logits
    return logits


def test_save_and_load_gives_the_same_model_and_processor(tmp_path: Path) -> None:
    heads = {"open": tiny_heads(), "research": tiny_heads(file="heads-research.safetensors")}
    model, processor = tiny_whisper_meta(heads=heads, default_heads="open")
    model.save_pretrained(tmp_path)
    processor.save_pretrained(tmp_path)

    assert model.label_heads is not None
    assert set(load_file(tmp_path / "heads.safetensors")) == set(model.label_heads.state_dict())
    assert all(name.startswith("whisper.") for name in load_file(tmp_path / "model.safetensors"))
    again = WhisperMetaForConditionalGeneration.from_pretrained(tmp_path)
    _same(model, again)
    assert again.fields == FIELDS
    assert list(again.config.heads) == ["open"], "the set that was not loaded is not promised"
    assert again.whisper.generation_config.alignment_heads == [[1, 0], [1, 1]]
    assert again.generation_config is again.whisper.generation_config

    assert type(AutoConfig.from_pretrained(tmp_path)) is WhisperMetaConfig
    for auto in (AutoModel, AutoModelForSpeechSeq2Seq):
        found = auto.from_pretrained(tmp_path)
        assert type(found) is WhisperMetaForConditionalGeneration
        _same(model, found)
    loaded = AutoProcessor.from_pretrained(tmp_path)
    assert type(loaded) is WhisperMetaProcessor
    assert (loaded.variable_length, loaded.trailing_silence, loaded.min_seconds) == (True, 0.5, 0.5)
    clip = tiny_clips(1)[0]
    assert torch.equal(loaded.features(clip)[0], processor.features(clip)[0])


def test_a_model_can_be_saved_with_shards_and_in_half_precision(tmp_path: Path) -> None:
    model, _ = tiny_whisper_meta()
    model.to(torch.float16).save_pretrained(tmp_path, max_shard_size="40KB")
    assert (tmp_path / "model.safetensors.index.json").is_file()
    again = WhisperMetaForConditionalGeneration.from_pretrained(tmp_path)
    assert again.dtype == torch.float16
    _same(model, again)
    wide = WhisperMetaForConditionalGeneration.from_pretrained(tmp_path, dtype=torch.float32)
    assert wide.dtype == torch.float32


@pytest.mark.parametrize("multilingual", [True, False])
@pytest.mark.parametrize("mel_bins", [80, 128])
def test_a_plain_whisper_checkpoint_gives_what_transformers_gives(
    tmp_path: Path, multilingual: bool, mel_bins: int
) -> None:
    save_whisper(tmp_path, multilingual=multilingual, mel_bins=mel_bins)
    reference = WhisperForConditionalGeneration.from_pretrained(tmp_path).eval()
    model = WhisperMetaForConditionalGeneration.from_pretrained(tmp_path).eval()
    assert model.fields == ("SpeechActivity", "Transcript")
    assert model.config.whisper_config.num_mel_bins == mel_bins
    assert model.whisper.proj_out.weight is model.whisper.model.decoder.embed_tokens.weight

    _, tokenizer, extractor = tiny_whisper(multilingual=multilingual, mel_bins=mel_bins)
    processor = WhisperMetaProcessor.for_config(model.config, extractor, tokenizer)
    clips = tiny_clips(3, seconds=(0.4, SECONDS))
    inputs = processor(audio=clips, sampling_rate=16_000)
    features = extractor(clips, sampling_rate=16_000, return_tensors="pt")["input_features"]
    assert torch.equal(inputs["input_features"], features)
    with torch.no_grad():
        states = model.encode(**inputs)
        expected = reference.model.encoder(features, output_hidden_states=True)
    assert torch.equal(states.last_hidden_state, expected.last_hidden_state)
    for mine, theirs in zip(states.hidden_states, expected.hidden_states, strict=True):
        assert torch.equal(mine, theirs)
    said = {"language": "de"} if multilingual else {}
    ids = model.generate(**inputs, max_new_tokens=12, **said)
    wanted = reference.generate(features, max_new_tokens=12, **said)
    assert torch.equal(ids, wanted)
    assert ids.shape[1] > 4, "the random checkpoint says nothing, and nothing is compared"


def test_rows_of_a_batch_give_what_they_give_alone() -> None:
    heads = {"open": tiny_heads()}
    model, processor = tiny_whisper_meta(heads=heads, default_heads="open")
    clips = [*tiny_clips(4, seconds=(0.1, SECONDS - 0.6)), np.zeros(200, np.float32)]
    together = processor(audio=clips, sampling_rate=16_000)
    assert len(set(together["frames"].tolist())) > 2
    ids = model.generate(**together, max_new_tokens=8)
    with torch.no_grad():
        batch = model.encode(**together)
        labels = model.classify(batch)
        logits = model(**together, decoder_input_ids=ids).logits
        for row, clip in enumerate(clips):
            inputs = processor(audio=clip, sampling_rate=16_000)
            alone = model.encode(**inputs)
            count = alone.last_hidden_state.shape[1]
            assert int(batch.mask[row].sum()) == count == int(inputs["frames"]) // 2
            assert alone.hidden_states is not None
            assert batch.hidden_states is not None
            for one, many in zip(alone.hidden_states, batch.hidden_states, strict=True):
                torch.testing.assert_close(many[row, :count], one[0], rtol=0, atol=2e-5)
            for field, scores in model.classify(alone).items():
                torch.testing.assert_close(labels[field][row], scores[0], rtol=0, atol=2e-5)
            single = model(**inputs, decoder_input_ids=ids[row : row + 1]).logits
            torch.testing.assert_close(logits[row], single[0], rtol=0, atol=2e-4)
            own = model.generate(**inputs, max_new_tokens=8)
            assert torch.equal(ids[row, : own.shape[1]], own[0])


def test_generate_writes_nothing_where_nobody_speaks(
    bundled_model: tuple[Any, Any], bundled_analyzer: Analyzer
) -> None:
    model, processor = bundled_model
    example = load_audio(Path(__file__).parents[2] / "examples" / "call.wav")
    said = resample(example.mono(), example.sample_rate, 16_000)[8000 : 16_000 * 3]
    rng = np.random.default_rng(0)
    clips = [np.zeros(32_000, np.float32), said, rng.normal(0, 0.01, 32_000).astype(np.float32)]
    ids = model.generate(**processor(audio=clips, sampling_rate=16_000))
    texts = processor.batch_decode(ids, skip_special_tokens=True)
    expected = bundled_analyzer.generate_meta((said, 16_000)).transcript
    assert [text.strip() for text in texts] == ["", expected, ""]
    assert len(str(expected)) > 20


def test_no_speech_is_for_checkpoints_that_learnt_it() -> None:
    clips = tiny_clips(3, seconds=(0.4, 1.0))
    written = {}
    for taught in (False, True):
        # A random decoder gives no token more than a half; a head that is sure of silence decides.
        heads = {"open": tiny_heads(SpeechActivity={"prior": {"true": 1 - 1e-9, "false": 1e-9}})}
        model, processor = tiny_whisper_meta(
            heads=heads, default_heads="open", config={"no_speech_taught": taught}
        )
        inputs = processor(audio=clips, sampling_rate=16_000)
        ids = model.generate(**inputs, max_new_tokens=8)
        written[taught] = processor.batch_decode(ids, skip_special_tokens=True)
    assert all(written[False])
    assert written[True] == ["", "", ""]


def test_short_clips_get_their_silence_and_masks_say_where_the_clip_is() -> None:
    model, processor = tiny_whisper_meta()
    inputs = processor(
        audio=[np.ones(1600, np.float32), np.ones(16_000, np.float32)], sampling_rate=16_000
    )
    assert inputs["frames"].tolist() == [100, 150], "0.5 s at least, and 0.5 s behind it"
    assert inputs["audio_frames"].tolist() == [10, 100]
    assert not inputs["input_features"][0, :, 100:].any()
    states = model.encode(**inputs)
    assert states.mask.sum(-1).tolist() == [50, 75]
    assert states.audio_mask.sum(-1).tolist() == [5, 50]
    assert processor.max_seconds == SECONDS - 0.5


def test_training_through_forward_reaches_ears_words_and_heads() -> None:
    model, processor = tiny_whisper_meta(heads={"open": tiny_heads()}, default_heads="open")
    model.requires_grad_(True)
    inputs = processor(audio=tiny_clips(2), sampling_rate=16_000, text=["yes", "no, thank you"])
    output = model(**inputs)
    loss = output.loss + sum(item.square().mean() for item in output.label_logits.values())
    loss.backward()
    without = [name for name, weight in model.named_parameters() if weight.grad is None]
    assert [name for name in without if "embed_positions" not in name] == []


def test_eight_bit_weights_are_decoded_at_load(tmp_path: Path) -> None:
    model, processor = tiny_whisper_meta(heads={"open": tiny_heads()}, default_heads="open")
    model.config.quantization = dict(INT8_ROWS)
    model.save_pretrained(tmp_path)
    plain = load_file(tmp_path / "model.safetensors")
    stored = quantized(plain)
    save_file(stored, tmp_path / "model.safetensors", metadata={"format": "pt"})
    assert stored["whisper.model.encoder.conv1.weight"].dtype == torch.int8
    assert stored["whisper.model.encoder.embed_positions.weight"].dtype == torch.float32

    again = WhisperMetaForConditionalGeneration.from_pretrained(tmp_path)
    assert again.config.quantization is None, "what is saved from here on is not in 8 bits"
    assert again.whisper.generation_config.alignment_heads == [[1, 0], [1, 1]]
    assert again.whisper.proj_out.weight is again.whisper.model.decoder.embed_tokens.weight
    for name, weight in again.named_parameters():
        wanted = model.get_parameter(name)
        step = wanted.flatten(1).abs().amax(1) / 127 if wanted.ndim > 1 else torch.zeros(1)
        error = (weight - wanted).abs().flatten(1).amax(1) if wanted.ndim > 1 else weight - wanted
        assert bool((error <= step / 2 + 1e-6).all()), name
    half = WhisperMetaForConditionalGeneration.from_pretrained(tmp_path, dtype=torch.bfloat16)
    assert half.whisper.dtype == torch.bfloat16
    assert next(half.label_heads.parameters()).dtype == torch.float32
    assert half.encode(**processor(audio=tiny_clips(1), sampling_rate=16_000)) is not None

    again.save_pretrained(tmp_path / "plain")
    _same(again, WhisperMetaForConditionalGeneration.from_pretrained(tmp_path / "plain"))
    del stored["whisper.model.encoder.conv1.weight::scale"]
    save_file(stored, tmp_path / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(ModelError, match=r"no scales that fit whisper\.model\.encoder\.conv1"):
        WhisperMetaForConditionalGeneration.from_pretrained(tmp_path)


def test_constructors_read_and_write_nothing(tmp_path: Path) -> None:
    code = (
        "import sys\n"
        "from whisper_meta_tiny import tiny_whisper_meta, tiny_heads\n"
        "from speechmeta.models.whisper_meta import WhisperMetaForConditionalGeneration as M\n"
        "config = tiny_whisper_meta(heads={'open': tiny_heads()}, default_heads='open')[0].config\n"
        "seen = []\n"
        "sys.addaudithook(lambda event, args: seen.append((event, args)) if event in "
        "('open', 'socket.connect', 'subprocess.Popen') else None)\n"
        "M(config)\n"
        "print([item for item in seen if not str(item[1][0]).endswith(('.py', '.pyc'))])\n"
    )
    tests = str(Path(__file__).parents[1])
    done = subprocess.run(
        [sys.executable, "-c", f"import sys; sys.path.insert(0, {tests!r})\n{code}"],
        capture_output=True, text=True, check=True, cwd=tmp_path,
    )  # fmt: skip
    assert done.stdout.strip() == "[]"


def test_what_cannot_be_heard_is_an_error_that_says_so() -> None:
    _, processor = tiny_whisper_meta()
    for wave, message in (
        (np.zeros(0, np.float32), "no samples"),
        (np.full(100, np.nan, np.float32), "NaN"),
        (np.zeros((2, 100), np.float32), "shape"),
        (np.zeros(16_000 * SECONDS, np.float32), "3.5 s"),
    ):
        with pytest.raises(AudioError, match=message):
            processor.features(wave)
    with pytest.raises(AudioError, match="8000"):
        processor(audio=np.zeros(100, np.float32), sampling_rate=8000)
    with pytest.raises(UsageError, match="instruction"):
        processor(audio=np.zeros(100, np.float32), sampling_rate=16_000, instruction="x")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"file": "../heads.safetensors"}, "not a .safetensors beside"),
        ({"fields": {"Mood": {"labels": ["a", "b"]}}}, "not a label field"),
        ({"fields": {"Gender": {"labels": ["Female"]}}}, "1 labels"),
        ({"fields": {"Gender": {"labels": ["Female", "Male"], "temperature": 0}}}, "temperature"),
        ({"fields": {"Gender": {"labels": ["Female", "Male"], "prior": {"Male": 0}}}}, "prior"),
    ],
)
def test_a_config_with_heads_that_make_no_sense_is_refused(
    change: dict[str, Any], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        WhisperMetaConfig(heads={"open": {**tiny_heads(), **change}})
