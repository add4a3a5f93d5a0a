"""A small encoder for few hours of training data: log-mel bands, then a U-shaped conformer.

HuBERT and WavLM learn their own filters from the waveform and their positions from a convolution
2.6 seconds wide; that pays with thousands of hours. From twenty hours this encoder learns to hear
within minutes. It takes and gives what they do (waveforms and a mask in, frames out), and its
frame counts follow from `conv_kernel` and `conv_stride` in the same way.

Sources: Gulati et al., arXiv 2005.08100 (convolution beside attention); Kim et al., Squeezeformer,
arXiv 2206.00888 (the middle at half the frame rate); Park et al., SpecAugment, arXiv 1904.08779;
Fan et al., LayerDrop, arXiv 1909.11556.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cache
from typing import Any

import torch
from huggingface_hub.dataclasses import strict
from torch import nn
from torch.nn import functional
from torchaudio.functional import melscale_fbanks
from transformers import AutoConfig, AutoModel, PreTrainedModel
from transformers import initialization as init
from transformers.configuration_utils import PreTrainedConfig
from transformers.modeling_outputs import BaseModelOutput

_SAMPLE_RATE = 16_000
_FFT, _WINDOW, _HOP = 512, 400, 160


@strict
class LogMelConformerConfig(PreTrainedConfig):
    """Configuration of `LogMelConformerModel`.

    Attributes:
        num_mel_bins: bands of the spectrogram.
        hidden_size, num_attention_heads, intermediate_size: of every layer.
        stages: layers at 25 frames a second, at 12.5, and again at 25.
        conv_depthwise_kernel_size: of the layers' convolutions, odd.
        subsampling_channels: of the two convolutions over time and frequency.
        mask_time_prob, mask_time_length: share of spectrogram frames that training hides, and
            the most in a row.
        mask_feature_count, mask_feature_length: groups of bands that training hides, and the most
            bands in a group.
        layerdrop: probability that training leaves out a layer.
        conv_kernel, conv_stride: how samples become frames; not to be changed.
    """

    model_type = "logmel_conformer"

    num_mel_bins: int = 80
    hidden_size: int = 256
    num_attention_heads: int = 4
    intermediate_size: int = 1024
    stages: list[int] = field(default_factory=lambda: [3, 8, 1])
    conv_depthwise_kernel_size: int = 11
    subsampling_channels: int = 16
    layer_norm_eps: float = 1e-5
    mask_time_prob: float = 0.0
    mask_time_length: int = 30
    mask_feature_count: int = 0
    mask_feature_length: int = 12
    layerdrop: float = 0.0
    conv_kernel: list[int] = field(default_factory=lambda: [_FFT, 3, 3])
    conv_stride: list[int] = field(default_factory=lambda: [_HOP, 2, 2])

    @property
    def num_hidden_layers(self) -> int:
        return sum(self.stages)

    @property
    def pooled_size(self) -> int:
        """Numbers in `LogMelConformerOutput.pooled`: two statistics at four depths."""
        return 8 * self.hidden_size


@dataclass
class LogMelConformerOutput(BaseModelOutput):
    """Frames, and what the whole clip sounds like.

    Attributes:
        last_hidden_state: (batch, frames, width).
        pooled: (batch, `pooled_size`), means and deviations over the real frames, at four depths.
    """

    pooled: torch.Tensor | None = None


@cache
def _filters(bins: int) -> torch.Tensor:
    filters: torch.Tensor = melscale_fbanks(
        _FFT // 2 + 1, 20.0, _SAMPLE_RATE / 2 - 400, bins, _SAMPLE_RATE
    )
    return filters


def log_mel(waves: torch.Tensor, bins: int) -> torch.Tensor:
    """(batch, samples) at 16 kHz to (batch, frames, bins), about zero mean and unit variance.

    25 ms windows every 10 ms, without padding, in float32.
    """
    window = functional.pad(
        torch.hann_window(_WINDOW, device=waves.device), ((_FFT - _WINDOW) // 2,) * 2
    )
    frames = waves.float().unfold(-1, _FFT, _HOP) * window
    power = torch.view_as_real(torch.fft.rfft(frames)).square().sum(-1)
    bands = power @ _filters(bins).to(waves.device)
    # The floor is where a recording of 40 dB signal-to-noise ratio has its noise.
    return ((bands + 1e-2).log() - 1.0) / 3.0


def _rotary(frames: int, width: int, like: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    speeds = 10_000.0 ** (-torch.arange(0, width, 2, device=like.device).float() / width)
    angles = torch.arange(frames, device=like.device).float()[:, None] * speeds
    angles = torch.cat([angles, angles], -1)
    return angles.cos().to(like.dtype), angles.sin().to(like.dtype)


def _rotate(states: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor) -> torch.Tensor:
    first, second = states.chunk(2, -1)
    return states * cos + torch.cat([-second, first], -1) * sin


class ResidualLinear(nn.Linear):
    """The last layer of a residual branch; starts small, so that depth does not drown the input."""


class ConformerAttention(nn.Module):
    """Self-attention with rotary positions."""

    def __init__(self, config: LogMelConformerConfig) -> None:
        super().__init__()
        width = config.hidden_size
        self.heads = config.num_attention_heads
        self.qkv_proj = nn.Linear(width, 3 * width)
        self.out_proj = ResidualLinear(width, width)

    def forward(
        self, hidden: torch.Tensor, bias: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor
    ) -> torch.Tensor:
        """(batch, frames, width); `bias` (batch, 1, 1, frames) is added to the scores."""
        batch, frames, width = hidden.shape
        mixed = self.qkv_proj(hidden).view(batch, frames, 3, self.heads, width // self.heads)
        query, key, value = mixed.permute(2, 0, 3, 1, 4)
        query = _rotate(query, cos, sin) * (width // self.heads) ** -0.5
        # In plain products: PyTorch's fused CPU kernel is several times slower at these sizes.
        scores = query @ _rotate(key, cos, sin).transpose(-1, -2) + bias.to(query.dtype)
        weights = scores.softmax(-1, dtype=torch.float32).to(value.dtype)
        seen: torch.Tensor = self.out_proj((weights @ value).transpose(1, 2).flatten(2))
        return seen


class ConformerConvolution(nn.Module):
    """A gate, a convolution along time for each channel, and a mix of the channels."""

    def __init__(self, config: LogMelConformerConfig) -> None:
        super().__init__()
        width, kernel = config.hidden_size, config.conv_depthwise_kernel_size
        self.in_proj = nn.Linear(width, 2 * width)
        self.depthwise = nn.Conv1d(width, width, kernel, padding=kernel // 2, groups=width)
        self.norm = nn.LayerNorm(width, config.layer_norm_eps)
        self.out_proj = ResidualLinear(width, width)

    def forward(self, hidden: torch.Tensor, real: torch.Tensor) -> torch.Tensor:
        """(batch, frames, width); `real` (batch, frames, 1) is 0 where frames are padding."""
        gated = functional.glu(self.in_proj(hidden), -1) * real.to(hidden.dtype)
        mixed = self.depthwise(gated.to(hidden.dtype).transpose(1, 2)).transpose(1, 2)
        output: torch.Tensor = self.out_proj(functional.silu(self.norm(mixed)))
        return output


class ConformerLayer(nn.Module):
    """Attention, convolution, feed-forward; each behind a norm and beside a residual."""

    def __init__(self, config: LogMelConformerConfig) -> None:
        super().__init__()
        width, eps = config.hidden_size, config.layer_norm_eps
        self.attention_norm = nn.LayerNorm(width, eps)
        self.attention = ConformerAttention(config)
        self.convolution_norm = nn.LayerNorm(width, eps)
        self.convolution = ConformerConvolution(config)
        self.feed_forward_norm = nn.LayerNorm(width, eps)
        self.up_proj = nn.Linear(width, config.intermediate_size)
        self.down_proj = ResidualLinear(config.intermediate_size, width)

    def forward(
        self, hidden: torch.Tensor, real: torch.Tensor, bias: torch.Tensor, positions: Any
    ) -> torch.Tensor:
        hidden = hidden + self.attention(self.attention_norm(hidden), bias, *positions)
        hidden = hidden + self.convolution(self.convolution_norm(hidden), real)
        wide = functional.silu(self.up_proj(self.feed_forward_norm(hidden)))
        mixed: torch.Tensor = hidden + self.down_proj(wide)
        return mixed


class ConformerStage(nn.Module):
    """Layers at one frame rate."""

    def __init__(self, config: LogMelConformerConfig, count: int) -> None:
        super().__init__()
        self.width = config.hidden_size // config.num_attention_heads
        self.layerdrop = config.layerdrop
        self.layers = nn.ModuleList(ConformerLayer(config) for _ in range(count))

    def forward(self, hidden: torch.Tensor, real: torch.Tensor) -> list[torch.Tensor]:
        """What each layer gives; `real` (batch, frames) is false where frames are padding."""
        positions = _rotary(hidden.shape[1], self.width, hidden)
        bias = torch.zeros(real.shape, dtype=hidden.dtype, device=hidden.device)
        # Not minus infinity: a row that is all padding has to stay finite.
        bias = bias.masked_fill(~real, -1e4)[:, None, None]
        states = []
        for layer in self.layers:
            if not (self.training and torch.rand(()) < self.layerdrop):
                hidden = layer(hidden, real[..., None], bias, positions)
            states.append(hidden)
        return states


class LogMelConformerModel(PreTrainedModel):
    """See the module. Batches give what clips give alone: every layer knows what is padding."""

    config_class = LogMelConformerConfig
    main_input_name = "input_values"
    _no_split_modules = ["ConformerLayer"]  # noqa: RUF012

    def __init__(self, config: LogMelConformerConfig) -> None:
        super().__init__(config)
        width, channels = config.hidden_size, config.subsampling_channels
        self.subsample_first = nn.Conv2d(1, channels, 3, 2, (0, 1))
        self.subsample_second = nn.Conv2d(channels, channels, 3, 2, (0, 1))
        bands = ((config.num_mel_bins + 1) // 2 + 1) // 2
        self.in_proj = nn.Linear(channels * bands, width)
        self.in_norm = nn.LayerNorm(width, config.layer_norm_eps)
        self.stages = nn.ModuleList(ConformerStage(config, count) for count in config.stages)
        self.halve_proj = nn.Linear(2 * width, width)
        self.double_proj = nn.Linear(width, width)
        self.out_norm = nn.LayerNorm(width, config.layer_norm_eps)
        self.post_init()

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        if isinstance(module, (nn.Linear, nn.Conv1d, nn.Conv2d)):
            inputs = module.weight[0].numel()
            depth = self.config.num_hidden_layers if isinstance(module, ResidualLinear) else 0.5
            init.normal_(module.weight, std=(2 * depth * inputs) ** -0.5)
            if module.bias is not None:
                init.zeros_(module.bias)
        elif isinstance(module, nn.LayerNorm):
            init.ones_(module.weight)
            init.zeros_(module.bias)

    @property
    def input_dtype(self) -> torch.dtype:
        """The spectrogram wants float32 waveforms, whatever the weights are."""
        return torch.float32

    def forward(
        self,
        input_values: torch.Tensor,
        attention_mask: torch.Tensor | None = None,
        masked_frames: torch.Tensor | None = None,
        **kwargs: Any,
    ) -> LogMelConformerOutput:
        """Encodes waveforms (batch, samples) float; `attention_mask` is 1 where samples are real.

        `masked_frames`, (batch, spectrogram frames) bool, are replaced by noise and nothing else
        is hidden. `output_hidden_states=True` gives the layers at 25 frames a second.
        """
        lengths = torch.full((len(input_values),), input_values.shape[1])
        lengths = lengths.to(input_values.device)
        if attention_mask is not None:
            lengths = attention_mask.long().sum(-1)
        for kernel, stride in zip(self.config.conv_kernel, self.config.conv_stride, strict=True):
            lengths = (lengths - kernel) // stride + 1
        # Not under autocast: a quiet band does not fit into bfloat16, and oneDNN's gradients of
        # strided convolutions are not to be trusted there.
        with torch.autocast(input_values.device.type, enabled=False):
            with torch.no_grad():
                bands = log_mel(input_values, self.config.num_mel_bins)
                if masked_frames is not None:
                    noise = 0.1 * torch.randn_like(bands)
                    bands = torch.where(masked_frames[..., None], noise, bands)
                elif self.training:
                    bands = self._hide(bands)
            planes = bands.to(self.subsample_first.weight.dtype)[:, None]
            planes = functional.silu(self.subsample_first(planes))
            planes = functional.silu(self.subsample_second(planes))
        hidden = self.in_norm(self.in_proj(planes.transpose(1, 2).flatten(2)))
        real = torch.arange(hidden.shape[1], device=hidden.device) < lengths[:, None]
        depths = [(hidden, real)]

        fast = self.stages[0](hidden, real)
        hidden = fast[-1]
        depths.append((hidden, real))

        odd = hidden.shape[1] % 2
        pairs = functional.pad(hidden * real[..., None].to(hidden.dtype), (0, 0, 0, odd))
        half_real = real[:, ::2]
        slow = self.stages[1](self.halve_proj(pairs.unflatten(1, (-1, 2)).flatten(2)), half_real)
        depths += [(slow[len(slow) // 2], half_real), (slow[-1], half_real)]

        slow_again = self.double_proj(slow[-1]).repeat_interleave(2, dim=1)
        late = self.stages[2](hidden + slow_again[:, : hidden.shape[1]], real)
        last = self.out_norm(late[-1])
        return LogMelConformerOutput(
            last_hidden_state=last,
            hidden_states=(*fast, *late) if kwargs.get("output_hidden_states") else None,
            pooled=torch.cat([mean_and_spread(states, mask) for states, mask in depths], -1),
        )

    def _hide(self, bands: torch.Tensor) -> torch.Tensor:
        config, device = self.config, bands.device
        batch, frames, bins = bands.shape
        hidden = torch.zeros(bands.shape, dtype=torch.bool, device=device)

        def spans(count: int, longest: int, size: int) -> torch.Tensor:
            width = torch.rand(batch, count, 1, device=device) * longest
            start = torch.rand(batch, count, 1, device=device) * (size - width).clamp(min=0)
            place = torch.arange(size, device=device)
            return ((place >= start) & (place < start + width)).any(1)

        # Spans are half as long as the longest on average.
        count = round(2 * config.mask_time_prob * frames / config.mask_time_length)
        if count:
            hidden |= spans(count, config.mask_time_length, frames)[:, :, None]
        if config.mask_feature_count:
            hidden |= spans(config.mask_feature_count, config.mask_feature_length, bins)[:, None]
        return bands.masked_fill(hidden, 0.0)


def mean_and_spread(states: torch.Tensor, real: torch.Tensor) -> torch.Tensor:
    """(batch, frames, width) to (batch, 2 * width), over the frames that are `real`, in float32."""
    states = states.float()
    weight = real[..., None].to(states.dtype)
    count = weight.sum(1).clamp(min=1)
    mean = (states * weight).sum(1) / count
    spread = ((states - mean[:, None]).square() * weight).sum(1) / count
    return torch.cat([mean, (spread + 1e-5).sqrt()], -1)


AutoConfig.register(LogMelConformerConfig.model_type, LogMelConformerConfig, exist_ok=True)
AutoModel.register(LogMelConformerConfig, LogMelConformerModel, exist_ok=True)
