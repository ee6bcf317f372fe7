"""What all networks share: loading, input checks, feature pooling, head and loss."""

import itertools
from typing import Any, ClassVar

import torch
from safetensors import SafetensorError
from torch import nn
from transformers import PreTrainedModel
from transformers import initialization as init

from .base_config import CTVideoConfig
from .intact import check_cached_weights
from .loss import classification_loss
from .outputs import CTVideoClassifierOutput, CTVideoModelOutput
from .recompute import OnceCounted, rest_frozen_parts
from .slices import SliceStages

__all__ = [
    "CTVideoBackbone",
    "CTVideoClassifier",
    "CTVideoClassifierOutput",
    "CTVideoConfig",
    "CTVideoModelOutput",
    "CTVideoPreTrainedModel",
    "align_weights",
]

_ALIGNMENT = 64  # bytes; what torch's own allocator gives on a CPU


def align_weights(model: nn.Module) -> None:
    """Move weights on a CPU to aligned memory.

    CPU kernels sum in another order where memory is not aligned, as in a mapped file, so the same
    weights would give logits that differ in the last bit.
    """
    for tensor in itertools.chain(model.parameters(), model.buffers()):
        if tensor.device.type == "cpu" and tensor.data_ptr() % _ALIGNMENT:
            tensor.data = tensor.data.clone()


class CTVideoPreTrainedModel(PreTrainedModel):
    """Loading, saving, initialisation and input checks of all backbones."""

    config_class = CTVideoConfig
    base_model_prefix = "backbone"
    main_input_name = "pixel_values"
    input_modalities = ("video",)
    supports_gradient_checkpointing = True
    _no_split_modules = ["ResBlock"]  # noqa: RUF012 - transformers reads a class attribute

    @classmethod
    def from_pretrained(cls, *args: Any, **kwargs: Any):
        """Load as transformers does; a damaged download is an error, see ``intact``.

        See :func:`align_weights`.
        """
        name = args[0] if args else kwargs.get("pretrained_model_name_or_path")
        try:
            loaded = super().from_pretrained(*args, **kwargs)
        except SafetensorError:
            check_cached_weights(name, **kwargs)
            raise
        check_cached_weights(name, **kwargs)
        model = loaded[0] if isinstance(loaded, tuple) else loaded
        align_weights(model)
        return loaded

    def get_input_embeddings(self) -> None:
        """None: a clip has no vocabulary. transformers' own raises, and FSDP calls it."""
        return None

    def post_init(self) -> None:
        """As in transformers; of ``_no_split_modules`` only the classes that are there stay.

        FSDP refuses a name that no module has, and one family may be built of several blocks.
        """
        super().post_init()
        self._no_split_modules &= {type(module).__name__ for module in self.modules()}

    def train(self, mode: bool = True):
        """Train or eval mode as in torch; frozen parts stay in eval mode, see ``recompute``."""
        super().train(mode)
        if mode and not all(parameter.requires_grad for parameter in self.parameters()):
            rest_frozen_parts(self)
            self.training = True
        return self

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        """Initialise as pytorchvideo does: He for convolutions, last norm of a block at zero.

        Only calls that skip tensors already loaded: it also runs after ``from_pretrained`` for
        what a checkpoint lacked.
        """
        if isinstance(module, nn.Conv2d | nn.Conv3d):
            init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
            if module.bias is not None:
                init.zeros_(module.bias)
        elif isinstance(module, nn.modules.batchnorm._NormBase | nn.GroupNorm | nn.LayerNorm):
            _init_norm(module)
        elif isinstance(module, nn.Linear):
            init.normal_(module.weight, mean=0.0, std=self.config.head_init_std)
            if module.bias is not None:
                init.zeros_(module.bias)

    def check_pixel_values(self, pixel_values: torch.Tensor) -> torch.Tensor:
        """Refuse what the network cannot take; return it in the weights' dtype.

        Raises
        ------
        ValueError
            Naming the expected axes and the smallest frames, rows and columns.
        """
        axes = "(batch, frames, channels, rows, columns)"
        if not isinstance(pixel_values, torch.Tensor):
            raise ValueError(
                f"pixel_values is a {type(pixel_values).__name__}; a float tensor {axes} is needed."
            )
        shape, channels = tuple(pixel_values.shape), self.config.num_channels
        if len(shape) != 5:
            raise ValueError(f"pixel_values has shape {shape}; {axes} is needed.")
        if not pixel_values.is_floating_point():
            raise ValueError(
                f"pixel_values is {pixel_values.dtype}; floats are needed, as CTVideoProcessor "
                "makes them from Hounsfield units."
            )
        if shape[2] != channels:
            swapped = " It looks like (batch, channels, frames, ...)." * (shape[1] == channels)
            raise ValueError(
                f"pixel_values has shape {shape}: {shape[2]} channels where this model takes "
                f"{channels}; the axes are {axes}.{swapped}"
            )
        clip, least = (shape[1], *shape[3:]), self.config.smallest_clip
        if any(size < low for size, low in zip(clip, least, strict=True)):
            text = (
                f"pixel_values has {clip[0]} frames of {clip[1]}x{clip[2]} pixels; this model "
                f"takes at least {least[0]} frames of {least[1]}x{least[2]}. "
            )
            raise ValueError((text + self.config.other_clips).strip())
        self.config.check_clip(*clip)
        return pixel_values.to(self.dtype)


def _init_norm(norm: nn.Module) -> None:
    if norm.weight is not None:
        scale = 0.0 if getattr(norm, "block_final_bn", False) else 1.0
        init.constant_(norm.weight, scale)
    if norm.bias is not None:
        init.zeros_(norm.bias)
    if getattr(norm, "running_mean", None) is not None:
        init.zeros_(norm.running_mean)
        init.ones_(norm.running_var)
        init.zeros_(norm.num_batches_tracked)


class CTVideoBackbone(SliceStages, CTVideoPreTrainedModel):
    """A video network without classifier; subclasses set ``blocks`` and ``head_pool``.

    ``blocks`` is a ModuleList of stem and stages on (batch, channel, frame, row, column);
    ``head_pool`` maps the last stage to ``pooled_grid``.
    """

    blocks: nn.ModuleList
    head_pool: nn.Module

    def __init__(self, config: CTVideoConfig) -> None:
        super().__init__(config)
        self.gradient_checkpointing = False

    def parameter_stages(self) -> dict[str, int]:
        """The stage of every parameter, by name.

        0 is the stem with what stands before ``blocks``, n the n-th stage; parameters after
        ``blocks``, such as a last norm, are a stage of their own.
        """
        names = [name for name, _ in self.named_parameters()]
        inside = [index for index, name in enumerate(names) if name.startswith("blocks.")]
        stages = {}
        for index, name in enumerate(names):
            if name.startswith("blocks."):
                stages[name] = int(name.split(".")[1])
            else:
                stages[name] = 0 if index < inside[0] else len(self.blocks)
        return stages

    def freeze_stages(self, count: int) -> None:
        """Let the first ``count`` stages, the stem among them, keep what they have learned.

        Their batch norms keep their statistics and their dropout is off, in train mode too. Stages
        from ``count`` on learn; 0 lets all learn.

        Raises
        ------
        ValueError
            For a count that is negative or beyond the number of stages.
        """
        stages = self.parameter_stages()
        most = max(stages.values()) + 1
        if not 0 <= count <= most:
            raise ValueError(
                f"{count} stages cannot be frozen; {type(self).__name__} has {most}, the stem "
                "among them."
            )
        for name, parameter in self.named_parameters():
            parameter.requires_grad_(stages[name] >= count)
        self.train(self.training)

    def run_block(self, block: nn.Module, *inputs: torch.Tensor) -> Any:
        """Call a block, keeping only its inputs for the backward pass where that is wanted."""
        if not (self.gradient_checkpointing and self.training):
            return block(*inputs)
        recompute = self._gradient_checkpointing_func
        # Reentrant recomputation of inputs that need no gradient would lose the block's own.
        if recompute.keywords.get("use_reentrant") and not any(x.requires_grad for x in inputs):
            return block(*inputs)
        return recompute(OnceCounted(block), *inputs)

    def forward_features(
        self, video: torch.Tensor, keep_states: bool = True
    ) -> tuple[torch.Tensor, torch.Tensor, tuple[torch.Tensor, ...]]:
        """Run the network up to the head's pooling.

        Parameters
        ----------
        video : torch.Tensor
            (batch, channel, frame, row, column).
        keep_states : bool
            Whether hidden_states are wanted. Kept for nothing they would raise the peak memory of
            a prediction above that of the original network.

        Returns
        -------
        last_hidden_state, pooled_grid : torch.Tensor
        hidden_states : tuple of torch.Tensor
            See :class:`CTVideoModelOutput`; empty unless ``keep_states``.
        """
        states: list[torch.Tensor] = []
        for block in self.blocks:
            video = self.run_block(block, video)
            if keep_states:
                states.append(video)
        return video, self.head_pool(video), tuple(states)

    def pool_last(self, last: torch.Tensor) -> torch.Tensor:
        """``pooled_grid`` as a function of ``last_hidden_state``."""
        return self.head_pool(last)

    def explain(
        self, pixel_values: torch.Tensor
    ) -> tuple[CTVideoModelOutput, torch.Tensor, torch.Tensor]:
        """Features of clips, and the end of the network once more to differentiate.

        Returns
        -------
        features : CTVideoModelOutput
            Without gradients.
        grid : torch.Tensor
            (batch, feature, t, h, w): features on the last grid that the head looks at.
        pooled : torch.Tensor
            ``pooled_grid``, differentiable by ``grid``.
        """
        with torch.no_grad():
            parts = self.to_explain(pixel_values)
        return self.explain_from(*parts)

    def to_explain(self, pixel_values: torch.Tensor) -> tuple[torch.Tensor, ...]:
        """What :meth:`explain_from` takes: tensors alone, so that this part can be recorded."""
        features = self(pixel_values, return_dict=True)
        return features.last_hidden_state, features.pooled_grid

    def explain_from(
        self, last: torch.Tensor, pooled_grid: torch.Tensor
    ) -> tuple[CTVideoModelOutput, torch.Tensor, torch.Tensor]:
        """As :meth:`explain`, from what :meth:`to_explain` gave."""
        features = CTVideoModelOutput(
            last_hidden_state=last,
            pooler_output=pooled_grid.mean((2, 3, 4)),
            pooled_grid=pooled_grid,
        )
        with torch.enable_grad():
            grid = last.detach().requires_grad_()
            return features, grid, self.pool_last(grid)

    def forward(
        self,
        pixel_values: torch.Tensor,
        output_hidden_states: bool | None = None,
        return_dict: bool | None = None,
        clip_starts: torch.Tensor | None = None,
        clip_lengths: torch.Tensor | None = None,
    ) -> CTVideoModelOutput | tuple:
        """Features of clips.

        Parameters
        ----------
        pixel_values : torch.Tensor
            Float, (batch, frames, channels, rows, columns), from ``CTVideoProcessor``.
        output_hidden_states, return_dict : bool, optional
            As everywhere in transformers; the configuration decides where None.
        clip_starts, clip_lengths : torch.Tensor, optional
            Accepted so that the processor's whole output can be passed on; not used.

        Returns
        -------
        CTVideoModelOutput
            Or a tuple of its fields with ``return_dict=False``.
        """
        if output_hidden_states is None:
            output_hidden_states = self.config.output_hidden_states
        video = self.check_pixel_values(pixel_values).transpose(1, 2)
        last, grid, states = self.forward_features(video, bool(output_hidden_states))
        output = CTVideoModelOutput(
            last_hidden_state=last,
            pooler_output=grid.mean((2, 3, 4)),
            pooled_grid=grid,
            hidden_states=states if output_hidden_states else None,
        )
        as_dict = self.config.return_dict if return_dict is None else return_dict
        return output if as_dict else output.to_tuple()


class CTVideoClassifier(CTVideoPreTrainedModel):
    """A backbone with dropout and one linear layer; subclasses name ``backbone_class``."""

    backbone_class: ClassVar[type[CTVideoBackbone]]

    def __init__(self, config: CTVideoConfig) -> None:
        super().__init__(config)
        self.backbone = self.backbone_class(config)
        self.dropout = nn.Dropout(config.dropout)
        self.classifier = nn.Linear(config.feature_size, config.num_labels)
        self.post_init()

    def freeze_stages(self, count: int) -> None:
        """Freeze the backbone's first ``count`` stages, see its method of this name."""
        self.backbone.freeze_stages(count)

    def classify(self, grid: torch.Tensor) -> torch.Tensor:
        """Logits (batch, num_labels) of a pooled grid: classify each position, then average."""
        logits = self.classifier(self.dropout(grid).permute(0, 2, 3, 4, 1))
        return logits.permute(0, 4, 1, 2, 3).mean((2, 3, 4))

    def forward(
        self,
        pixel_values: torch.Tensor,
        labels: torch.Tensor | None = None,
        output_hidden_states: bool | None = None,
        return_dict: bool | None = None,
        clip_starts: torch.Tensor | None = None,
        clip_lengths: torch.Tensor | None = None,
    ) -> CTVideoClassifierOutput | tuple:
        """Classify clips.

        Parameters
        ----------
        pixel_values : torch.Tensor
            Float, (batch, frames, channels, rows, columns), from ``CTVideoProcessor``.
        labels : torch.Tensor, optional
            See :func:`classification_loss`.
        output_hidden_states, return_dict : bool, optional
            As everywhere in transformers.
        clip_starts, clip_lengths : torch.Tensor, optional
            Accepted so that the processor's whole output can be passed on; not used.
        """
        features = self.backbone(
            pixel_values, output_hidden_states=output_hidden_states, return_dict=True
        )
        logits = self.classify(features.pooled_grid)
        output = CTVideoClassifierOutput(
            loss=None if labels is None else classification_loss(logits, labels, self.config),
            logits=logits,
            pooler_output=features.pooler_output,
            hidden_states=features.hidden_states,
        )
        as_dict = self.config.return_dict if return_dict is None else return_dict
        return output if as_dict else output.to_tuple()
