"""Settings of a training run: typed, validated, saved with every checkpoint."""

from dataclasses import asdict, dataclass, field, fields, is_dataclass, replace
from pathlib import Path
from typing import Any, Literal, Self, get_args, get_type_hints

from ripe.objective.rewards import PaddingMode, RewardType

Precision = Literal["float32", "bfloat16"]
DescriptorLoss = Literal["margin", "infonce"]


@dataclass(frozen=True)
class WarpConfig:
    """How strongly the two views of a self-pair differ."""

    rotation_deg: float = 45.0
    any_rotation_share: float = 0.05
    min_scale: float = 0.6
    max_scale: float = 2.0
    max_scale_ratio: float = 2.0
    perspective: float = 0.2
    min_overlap: float = 0.3
    photometric: float = 1.0


@dataclass(frozen=True)
class DataConfig:
    """Which photos, and how pairs are made of them.

    `scenes` is a folder of folders, one per scene; `singles` a flat folder of photos used for self-pairs alone. Of
    every step's pairs a share shows one photo twice, warped; a share two scenes (negative pairs); the rest two photos
    of one scene.
    """

    scenes: Path | None = None
    singles: Path | None = None
    size: int = 256
    pairs_per_step: int = 8
    self_share: float = 0.6
    negative_share: float = 0.1
    workers: int = 1
    warp: WarpConfig = field(default_factory=WarpConfig)


@dataclass(frozen=True)
class ObjectiveConfig:
    """The loss and its schedules.

    Penalties (`miss_penalty`, `outlier_reward`, `keypoint_price`) grow from 0 to their value over the first
    `penalty_ramp` of the run: early on hardly a match is right, and penalties at full strength would teach the policy
    to select nothing at all. Over the same time the share of cells that are to give a keypoint falls from
    `keypoint_share_start` to `keypoint_share_end`; `keypoint_share_weight` holds it there. `baseline` weighs what an
    average keypoint earned, as a price on every keypoint.
    """

    reward_type: RewardType = "inlier"
    padding_mode: PaddingMode = "ignore"
    selected_only: bool = False
    miss_penalty: float = 0.0
    outlier_reward: float | None = -0.1
    keypoint_price: float = 0.0
    baseline: float = 1.0
    keypoint_share_start: float = 0.8
    keypoint_share_end: float = 0.3
    keypoint_share_weight: float = 10.0
    penalty_ramp: float = 0.33
    entropy_weight: float = 0.005
    policy_weight: float = 1000.0
    repeatability_weight: float = 1.0
    repeatability_spread: float = 1.0
    descriptor_loss: DescriptorLoss = "infonce"
    descriptor_weight: float = 1.0
    positive_margin: float = 0.3
    negative_margin: float = 0.3
    temperature: float = 0.07
    exclusion_radius: float = 5.0
    inlier_threshold: float = 1.5
    warp_threshold_start: float = 3.0
    warp_threshold_end: float = 1.5
    min_motion: float = 8.0
    min_keypoints: int = 16
    border: int = 16
    ransac_iterations: int = 1000


@dataclass(frozen=True)
class OptimizerConfig:
    """AdamW with a linear warm-up, a plateau and a linear decay to zero over the last part of the run."""

    lr: float = 1.5e-3
    weight_decay: float = 1e-4
    warmup_steps: int = 100
    decay_share: float = 0.4
    max_grad_norm: float = 5.0
    ema_decay: float = 0.998


@dataclass(frozen=True)
class TrainConfig:
    """A whole run."""

    output: Path = Path("outputs/train")
    steps: int = 3000
    max_minutes: float | None = None
    seed: int = 0
    model: str = "compact"
    device: str = "cpu"
    precision: Precision = "bfloat16"
    checkpoint_interval: int = 100
    log_interval: int = 10
    data: DataConfig = field(default_factory=DataConfig)
    objective: ObjectiveConfig = field(default_factory=ObjectiveConfig)
    optimizer: OptimizerConfig = field(default_factory=OptimizerConfig)

    def override(self, assignments: list[str]) -> Self:
        """The configuration with `group.key=value` assignments applied, each checked for name and type.

        Raises:
            ValueError: a key does not exist or a value has the wrong type; the message names the key.
        """
        config = self
        for assignment in assignments:
            key, separator, text = assignment.partition("=")
            if not separator:
                raise ValueError(f"{assignment!r}: settings are written key=value, such as optimizer.lr=0.001")
            config = _assign(config, key, key.split("."), text)
        return config

    def to_dict(self) -> dict[str, Any]:
        """Nested plain dictionary, paths as text."""
        return _plain(asdict(self))


def _assign(config: Any, key: str, path: list[str], text: str) -> Any:
    hints = get_type_hints(type(config))
    if path[0] not in hints:
        known = ", ".join(f.name for f in fields(config))
        raise ValueError(f"{key}: no such setting; there are: {known}")
    value = getattr(config, path[0])
    if is_dataclass(value) != (len(path) > 1):
        raise ValueError(f"{key}: {'name a setting inside this group' if is_dataclass(value) else 'not a group'}")
    new = _assign(value, key, path[1:], text) if len(path) > 1 else _parse(key, text, hints[path[0]])
    return replace(config, **{path[0]: new})


def _parse(key: str, text: str, hint: Any) -> Any:
    options = get_args(hint)
    if type(None) in options:
        if text.lower() in ("none", "null"):
            return None
        hint = next(option for option in options if option is not type(None))
    elif options:
        if text not in options:
            raise ValueError(f"{key}={text}: one of {', '.join(map(str, options))}")
        return text
    if hint is bool:
        if text.lower() not in ("true", "false"):
            raise ValueError(f"{key}={text}: true or false")
        return text.lower() == "true"
    try:
        return hint(text)
    except ValueError as error:
        raise ValueError(f"{key}={text}: expected {hint.__name__}") from error


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    return str(value) if isinstance(value, Path) else value
