"""Whisper with label heads on its encoder, in transformers' conventions.

The class holds transformers' own `WhisperForConditionalGeneration` and adds two things: the
encoder on as many frames as a clip has, where it was tuned for that, and label heads that read
all of its layers. Knows tensors only; waveforms and text are the processor's, records
`speechmeta.models.whisper_meta.recognition`'s.
"""

from __future__ import annotations

import copy
import os
from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn
from transformers.generation.configuration_utils import GenerationConfig
from transformers.generation.utils import GenerationMixin
from transformers.modeling_outputs import BaseModelOutput, Seq2SeqLMOutput
from transformers.modeling_utils import PreTrainedModel
from transformers.models.whisper.modeling_whisper import (
    WhisperForConditionalGeneration,
    shift_tokens_right,
)
from transformers.utils import ModelOutput, cached_file

from speechmeta.errors import ModelError
from speechmeta.models.whisper_meta.calibration import calibrated
from speechmeta.models.whisper_meta.configuration_whisper_meta import WhisperMetaConfig
from speechmeta.models.whisper_meta.heads import LabelHeads
from speechmeta.models.whisper_meta.weights import (
    check_quantization,
    fill_heads,
    read_quantized,
    save_heads,
)

DEFAULT_HEADS = "default"
"""Stands for the set of heads that a checkpoint's config chooses."""

HUB_ARGUMENTS = (
    "cache_dir", "force_download", "local_files_only", "proxies", "revision", "subfolder", "token",
)  # fmt: skip

FRAMES_PER_POSITION = 2
"""Log-mel frames (10 ms) that the encoder's second convolution joins to one position (20 ms)."""

FRAMES_PER_SECOND = 100


@dataclass
class EncoderStates(ModelOutput):
    """What `encode` returns; T positions of 20 ms, D the encoder's width.

    Attributes:
        last_hidden_state: (batch, T, D), what the decoder reads.
        hidden_states: `encoder_layers + 1` of (batch, T, D): what the first layer reads, then
            each layer's output, the last one after the final normalisation, so that it is
            `last_hidden_state`. None unless asked for.
        mask: (batch, T) bool, the positions that the decoder may look at.
        audio_mask: (batch, T) bool, the positions that hold the clip itself, without the
            silence and the padding behind it.
    """

    # transformers wants a default for every field; all but hidden_states are always filled.
    last_hidden_state: torch.Tensor = None  # type: ignore[assignment]
    hidden_states: tuple[torch.Tensor, ...] | None = None
    mask: torch.Tensor = None  # type: ignore[assignment]
    audio_mask: torch.Tensor = None  # type: ignore[assignment]


@dataclass
class WhisperMetaOutput(Seq2SeqLMOutput):
    """The decoder's output, and the label heads' logits by field, each (batch, labels)."""

    label_logits: dict[str, torch.Tensor] | None = None


class WhisperMetaPreTrainedModel(PreTrainedModel):
    config_class = WhisperMetaConfig
    base_model_prefix = "whisper"
    main_input_name = "input_features"
    input_modalities = ("audio", "text")
    supports_gradient_checkpointing = True
    _no_split_modules = ["WhisperEncoderLayer", "WhisperDecoderLayer"]  # noqa: RUF012
    # Heads lie in a file of their own, which `from_pretrained` reads afterwards.
    _keys_to_ignore_on_load_missing = [r"label_heads\."]  # noqa: RUF012
    _supports_sdpa = True

    def _init_weights(self, module: nn.Module) -> None:
        # The inner model initialises itself when it is made; heads do so in their constructor.
        return


class WhisperMetaForConditionalGeneration(WhisperMetaPreTrainedModel, GenerationMixin):
    """The whole model.

    Attributes:
        whisper: transformers' model.
        label_heads: the heads that are loaded, or None.
        heads_name: the name of their set in `config.heads`, or None.
    """

    def __init__(self, config: WhisperMetaConfig) -> None:
        super().__init__(config)
        self.whisper = WhisperForConditionalGeneration(config.whisper_config)
        self.heads_name = config.default_heads
        self.label_heads = make_heads(config, config.default_heads)
        self.post_init()
        self.set_generation_config(self.whisper.generation_config)

    @property
    def fields(self) -> tuple[str, ...]:
        """The fields that the model gives, in the schema's order."""
        fields: tuple[str, ...] = self.config.fields_with(self.heads_name)
        return fields

    @classmethod
    def from_pretrained(
        cls,
        pretrained_model_name_or_path: str | os.PathLike[str],
        *args: Any,
        heads: str | None = DEFAULT_HEADS,
        config: WhisperMetaConfig | None = None,
        **kwargs: Any,
    ) -> Any:
        """As transformers' method; safetensors only, and no code of the checkpoint is run.

        Args:
            pretrained_model_name_or_path: a folder or a hub id, of this family or of a plain
                Whisper.
            heads: which set of label heads to load; by default the checkpoint's own choice, None
                for none.
            config: the checkpoint's, where it is loaded already.

        Raises:
            ModelError: heads or quantised weights are missing, damaged or do not fit.
            ValueError: there is no such set of heads.
        """
        name = pretrained_model_name_or_path
        hub = {key: kwargs[key] for key in HUB_ARGUMENTS if key in kwargs}
        if config is None:
            config = WhisperMetaConfig.from_pretrained(name, trust_remote_code=False, **hub)
        config = copy.deepcopy(config)
        wanted = config.default_heads if heads == DEFAULT_HEADS else heads
        if wanted is not None and wanted not in (config.heads or {}):
            raise ValueError(f"there are no heads {wanted!r} in {name}")
        # Made after the rest is loaded: their weights lie in another file.
        config.default_heads = None
        kwargs = {**kwargs, "use_safetensors": True, "config": config}
        kwargs.pop("trust_remote_code", None)
        with_info = kwargs.get("output_loading_info", False)
        if config.quantization is None:
            loaded = super().from_pretrained(name, *args, trust_remote_code=False, **kwargs)
        else:
            loaded = cls._from_quantized(name, hub, args, kwargs)
        model = loaded[0] if with_info else loaded
        model.set_generation_config(model.generation_config)
        if wanted is not None:
            model.set_heads(wanted, _file_of(name, (config.heads or {})[wanted]["file"], hub))
        return loaded

    @classmethod
    def _from_quantized(
        cls, name: Any, hub: dict[str, Any], args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> Any:
        config = kwargs["config"]
        check_quantization(config.quantization, name)
        config.quantization = None
        dtype = kwargs.get("dtype")
        folder = _file_of(name, "model.safetensors", hub).parent
        state = read_quantized(
            folder, "whisper.", dtype if isinstance(dtype, torch.dtype) else None
        )
        rest = {key: value for key, value in kwargs.items() if key not in hub}
        loaded = super().from_pretrained(
            None, *args, state_dict=state, trust_remote_code=False, **rest
        )
        model = loaded[0] if kwargs.get("output_loading_info", False) else loaded
        model.generation_config = GenerationConfig.from_pretrained(name, **hub)
        model.config.name_or_path = model.name_or_path = str(name)
        return loaded

    def set_generation_config(self, config: GenerationConfig) -> None:
        """Makes a generation config the model's and the inner model's."""
        self.generation_config = self.whisper.generation_config = config

    def set_heads(self, name: str | None, path: Path | None = None) -> None:
        """Puts a set of label heads on the encoder, with the weights of a file or random ones.

        Raises:
            ModelError: the file does not fit.
        """
        heads = make_heads(self.config, name)
        if heads is not None:
            if path is not None:
                fill_heads(heads, path)
            heads = heads.to(self.device).train(self.training)
        self.label_heads, self.heads_name, self.config.default_heads = heads, name, name

    def save_pretrained(
        self, save_directory: str | os.PathLike[str], *args: Any, **kwargs: Any
    ) -> Any:
        """As transformers' method; the heads that are loaded go into a file of their own."""
        folder = Path(save_directory)
        known = self.config.heads
        name = self.heads_name
        if known is not None:
            self.config.heads = None if name is None else {name: known[name]}
        try:
            state = kwargs.pop("state_dict", None) or self.state_dict()
            state = {
                key: value for key, value in state.items() if not key.startswith("label_heads.")
            }
            result = super().save_pretrained(save_directory, *args, state_dict=state, **kwargs)
        finally:
            self.config.heads = known
        if name is not None and known is not None and self.label_heads is not None:
            save_heads(self.label_heads, folder / known[name]["file"])
        return result

    def get_encoder(self, *args: Any, **kwargs: Any) -> nn.Module:
        encoder: nn.Module = self.whisper.model.encoder
        return encoder

    def get_decoder(self, *args: Any, **kwargs: Any) -> nn.Module:
        decoder: nn.Module = self.whisper.model.decoder
        return decoder

    def get_input_embeddings(self) -> nn.Module:
        embeddings: nn.Module = self.whisper.get_input_embeddings()
        return embeddings

    def set_input_embeddings(self, value: nn.Module) -> None:
        self.whisper.set_input_embeddings(value)

    def get_output_embeddings(self) -> nn.Module:
        embeddings: nn.Module = self.whisper.get_output_embeddings()
        return embeddings

    def encode(
        self,
        input_features: torch.Tensor,
        frames: torch.Tensor | None = None,
        audio_frames: torch.Tensor | None = None,
        output_hidden_states: bool = True,
        layers: Iterable[Callable[[torch.Tensor, torch.Tensor | None], torch.Tensor]] | None = None,
    ) -> EncoderStates:
        """Runs the encoder, over as many frames as there are where the checkpoint can.

        Args:
            input_features: (batch, mel bins, F) log-mel, 0.0 behind each row's frames: that is
                what the convolution sees behind a clip by itself, so rows equal singles.
            frames: (batch,) long, even: the frames of each row; None for F.
            audio_frames: (batch,) long: those that hold the clip itself; None for `frames`.
            layers: to call in place of the encoder's own, which they have to equal.

        Raises:
            ValueError: F does not fit the checkpoint.
        """
        encoder = self.whisper.model.encoder
        width = input_features.shape[-1]
        longest = FRAMES_PER_POSITION * self.config.whisper_config.max_source_positions
        if self.config.variable_length:
            if not 0 < width <= longest or width % FRAMES_PER_POSITION:
                raise ValueError(f"{width} frames; an even number up to {longest} is wanted")
        elif width != longest:
            raise ValueError(f"{width} frames; this checkpoint takes exactly {longest}")
        device = input_features.device
        positions = width // FRAMES_PER_POSITION
        places = torch.arange(positions, device=device)
        if frames is None or not self.config.variable_length:
            mask = torch.ones(len(input_features), positions, dtype=torch.bool, device=device)
        else:
            mask = places < (frames.to(device) // FRAMES_PER_POSITION)[:, None]
        audio_mask = mask
        if audio_frames is not None:
            heard = (audio_frames.to(device) + 1) // FRAMES_PER_POSITION
            audio_mask = mask & (places < heard.clamp(min=1)[:, None])
        # An additive mask, broadcast over heads and queries; none where nothing is padded.
        dtype = encoder.conv1.weight.dtype
        bias = None if bool(mask.all()) else key_bias(mask, dtype)
        functional = nn.functional
        hidden = functional.gelu(encoder.conv1(input_features.to(dtype)))
        hidden = functional.gelu(encoder.conv2(hidden)).permute(0, 2, 1)
        hidden = hidden + encoder.embed_positions.weight[:positions]
        hidden = functional.dropout(hidden, p=encoder.dropout, training=self.training)
        kept = [hidden]
        for layer in encoder.layers if layers is None else layers:
            hidden = layer(hidden, bias)
            if output_hidden_states:
                kept.append(hidden)
        hidden = encoder.layer_norm(hidden)
        kept[-1] = hidden
        return EncoderStates(
            last_hidden_state=hidden,
            hidden_states=tuple(kept) if output_hidden_states else None,
            mask=mask,
            audio_mask=audio_mask,
        )

    def classify(
        self, states: EncoderStates, fields: Collection[str] | None = None
    ) -> dict[str, torch.Tensor]:
        """The label heads' logits by field, each (batch, labels), float32; none without heads.

        Args:
            fields: whose heads run; None for all.

        Raises:
            ValueError: the states were made without their hidden states.
        """
        if self.label_heads is None:
            return {}
        if states.hidden_states is None:
            raise ValueError("heads read all layers: encode with output_hidden_states=True")
        # They turn to float32 layer by layer; all layers at once would be a copy of every state.
        found = self.label_heads(states.hidden_states, states.audio_mask, fields)
        return {field: logits.float() for field, logits in found.items()}

    def forward(
        self,
        input_features: torch.Tensor,
        frames: torch.Tensor | None = None,
        audio_frames: torch.Tensor | None = None,
        decoder_input_ids: torch.Tensor | None = None,
        labels: torch.Tensor | None = None,
        **kwargs: Any,
    ) -> WhisperMetaOutput:
        """Logits of the decoder over whole token sequences, and of the heads.

        Args:
            input_features, frames, audio_frames: see `encode`.
            decoder_input_ids: (batch, tokens); made from `labels` where it is not given.
            labels: (batch, tokens) ids, -100 where no loss is wanted.
        """
        config = self.config.whisper_config
        states = self.encode(input_features, frames, audio_frames, self.label_heads is not None)
        if decoder_input_ids is None:
            if labels is None:
                raise ValueError("either decoder_input_ids or labels are needed")
            decoder_input_ids = shift_tokens_right(
                labels, config.pad_token_id, config.decoder_start_token_id
            )
        logits = self.decode_tokens(decoder_input_ids, states)
        loss = None
        if labels is not None:
            loss = nn.functional.cross_entropy(
                logits.reshape(-1, logits.shape[-1]), labels.reshape(-1).to(logits.device)
            )
        return WhisperMetaOutput(
            loss=loss,
            logits=logits,
            encoder_last_hidden_state=states.last_hidden_state,
            label_logits=self.classify(states) or None,
        )

    def decode_tokens(self, input_ids: torch.Tensor, states: EncoderStates) -> torch.Tensor:
        """Logits (batch, tokens, vocabulary) of whole token sequences (batch, tokens).

        transformers' decoder has no mask over the encoder's positions; rows of different length
        in one batch need one, so its layers are run here.
        """
        decoder = self.whisper.model.decoder
        count = input_ids.shape[1]
        hidden = decoder.embed_tokens(input_ids) + decoder.embed_positions.weight[:count]
        hidden = nn.functional.dropout(hidden, p=decoder.dropout, training=self.training)
        causal = torch.ones(count, count, dtype=torch.bool, device=hidden.device).tril()
        own = key_bias(causal, hidden.dtype)[:, 0, 0][None, None]
        across = None if bool(states.mask.all()) else key_bias(states.mask, hidden.dtype)
        for layer in decoder.layers:
            hidden = layer(
                hidden,
                own,
                states.last_hidden_state,
                encoder_attention_mask=across,
                use_cache=False,
            )
        logits: torch.Tensor = self.whisper.proj_out(decoder.layer_norm(hidden))
        return logits

    @torch.no_grad()
    def generate(
        self,
        input_features: torch.Tensor,
        frames: torch.Tensor | None = None,
        audio_frames: torch.Tensor | None = None,
        **kwargs: Any,
    ) -> torch.Tensor:
        """The transcripts' token ids (batch, tokens), by transformers' own `generate`.

        Where the checkpoint was taught what is no speech, a clip in which nobody speaks gets the
        end token alone, as it gets no words from `Analyzer`.

        Args:
            input_features, frames, audio_frames: see `encode`.
            kwargs: as of `WhisperForConditionalGeneration.generate`. The checkpoint's language is
                the default one.
        """
        if self.config.language and getattr(self.generation_config, "is_multilingual", False):
            kwargs.setdefault("language", self.config.language)
            kwargs.setdefault("task", "transcribe")
        if not self.config.variable_length:
            ids: torch.Tensor = self.whisper.generate(input_features, **kwargs)
            return ids
        if frames is None:
            frames = torch.full((len(input_features),), input_features.shape[-1])
        heard = frames if audio_frames is None else audio_frames
        end = torch.tensor([self.config.whisper_config.eos_token_id], device=self.device)
        # Its decoder knows no mask over the encoder's positions: rows of one length go together.
        rows: dict[int, torch.Tensor] = {}
        for length in sorted(set(frames.tolist())):
            chosen = (frames == length).nonzero()[:, 0]
            part = input_features[chosen.to(input_features.device), :, :length]
            states = self.encode(
                part,
                audio_frames=heard[chosen.to(heard.device)],
                output_hidden_states=self.label_heads is not None,
            )
            silent = self._nobody_speaks(states, heard[chosen.to(heard.device)])
            rows.update((row, end) for row in chosen[silent].tolist())
            if bool(silent.all()):
                continue
            spoken = states.last_hidden_state[(~silent).to(states.last_hidden_state.device)]
            outputs = BaseModelOutput(last_hidden_state=spoken)
            ids = self.whisper.generate(encoder_outputs=outputs, **kwargs)
            rows.update(zip(chosen[~silent].tolist(), ids, strict=True))
        return nn.utils.rnn.pad_sequence(
            [rows[row] for row in range(len(input_features))],
            batch_first=True,
            padding_value=self.config.whisper_config.pad_token_id,
        )

    def _nobody_speaks(self, states: EncoderStates, audio_frames: torch.Tensor) -> torch.Tensor:
        """Which rows hold no speech (rows,) bool: where the decoder's probability of no speech is
        above the head's of speech (1/2 without a head), as the recognizer decides it."""
        count = len(states.last_hidden_state)
        if not self.config.no_speech_taught:
            return torch.zeros(count, dtype=torch.bool)
        limits = torch.full((count,), 0.5, dtype=torch.float64)
        logits = self.classify(states).get("SpeechActivity")
        if logits is not None:
            head = (self.config.heads or {})[self.heads_name or ""]["fields"]["SpeechActivity"]
            labels = self.config.head_labels(self.heads_name)["SpeechActivity"]
            for row, scores in enumerate(logits.cpu().double().tolist()):
                seconds = float(audio_frames[row]) / FRAMES_PER_SECOND
                limits[row] = calibrated(labels, scores, head, seconds)["True"]
        start = self.config.whisper_config.decoder_start_token_id
        first = torch.full((count, 1), start, device=self.device)
        # Whisper's vocabulary has the token for no speech right before the one for no times.
        token = self.generation_config.no_timestamps_token_id - 1
        table = self.decode_tokens(first, states)[:, 0].float().softmax(-1)
        decoder = table[:, token].cpu().double()
        return (decoder > limits) | (limits < 0.5)


def key_bias(mask: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    """An additive attention mask (rows, 1, 1, keys) from a boolean one (rows, keys)."""
    bias = torch.zeros(mask.shape, dtype=dtype, device=mask.device)
    return bias.masked_fill(~mask, torch.finfo(dtype).min)[:, None, None]


def make_heads(config: WhisperMetaConfig, name: str | None) -> LabelHeads | None:
    """Label heads with random weights for a set of the config; None for None."""
    if name is None:
        return None
    whisper = config.whisper_config
    # In float32 whatever the model's own: they are small, and their answer is a probability.
    return LabelHeads(config.head_labels(name), whisper.encoder_layers + 1, whisper.d_model).float()


def _file_of(name: Any, file: str, hub: dict[str, Any]) -> Path:
    """A file of a checkpoint on this machine.

    Raises:
        ModelError: it is not there.
    """
    try:
        found = cached_file(name, file, **hub)
    except OSError as error:
        found, reason = None, next(iter(str(error).splitlines()), "")
    else:
        reason = ""
    if found is None:
        raise ModelError(f"{name} lacks {file}: {reason}".rstrip(": "), "fetch the file")
    return Path(found)


__all__ = [
    "EncoderStates",
    "WhisperMetaForConditionalGeneration",
    "WhisperMetaOutput",
    "WhisperMetaPreTrainedModel",
    "key_bias",
    "make_heads",
]
