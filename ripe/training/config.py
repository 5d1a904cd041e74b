"""Settings of a training run: typed, validated, saved with every checkpoint."""

import math
from dataclasses import asdict, dataclass, field, fields, is_dataclass, replace
from pathlib import Path
from typing import Any, Literal, Self, get_args, get_type_hints

from ripe.objective.rewards import PaddingMode, RewardType

# The data sets that training knows by name; "own" is the photos of `DataConfig.root`, or `scenes` and `singles`.
SET_NAMES = ("megadepth", "tokyo", "acdc", "own")

ViewKind = Literal["crop", "letterbox"]
Precision = Literal["float32", "bfloat16"]
DescriptorLoss = Literal["margin", "infonce"]


@dataclass(frozen=True)
class WarpConfig:
    """How strongly the two views of a self-pair differ; `crop_view` uses the perspective and the light, too.

    Attributes:
        rotation_deg: largest rotation between the views, degrees.
        any_rotation_share: share of the self-pairs that may be rotated by any angle.
        min_scale: least magnification of the photo, view pixels per photo pixel.
        max_scale: largest magnification of the photo.
        max_scale_ratio: largest ratio of the two views' magnifications.
        perspective: how far the corners of a view move, in half sides of the view.
        min_overlap: share of the second view that the first one shows as well, at least.
        photometric: strength of the changes of exposure, colour, blur, noise and compression; 0 is none.
    """

    rotation_deg: float = 45.0
    any_rotation_share: float = 0.05
    min_scale: float = 0.6
    max_scale: float = 2.0
    max_scale_ratio: float = 2.0
    perspective: float = 0.2
    min_overlap: float = 0.3
    photometric: float = 1.0

    def __post_init__(self) -> None:
        for name in ("any_rotation_share", "min_overlap"):
            _check_share(f"data.warp.{name}", getattr(self, name))
        for name in ("rotation_deg", "perspective", "photometric"):
            _check(f"data.warp.{name}", getattr(self, name), getattr(self, name) >= 0, "0 or more")
        _check(
            "data.warp.min_scale", self.min_scale, 0 < self.min_scale <= self.max_scale, "above 0, at most max_scale"
        )
        _check("data.warp.max_scale_ratio", self.max_scale_ratio, self.max_scale_ratio >= 1, "1 or more")


@dataclass(frozen=True)
class DataConfig:
    """Which photos, and how pairs are made of them.

    Of all pairs a share shows one photo twice, warped (self-pairs); a share two scenes (negative pairs); the rest two
    photos of one scene. The published run is `sets={"megadepth": 1}`, `view="letterbox"`, `size=560`,
    `pairs_per_step=6`, `self_share=0`, `negative_share=0.5`.

    Attributes:
        sets: weights of the data sets in the mixture, by name: megadepth, tokyo, acdc, or own for the folders below;
            empty is own photos alone.
        dir: folder of the public sets; `DATA_DIR`, or else `data` in the current folder, if None.
        root: folder of one's own photos: each of its folders is a scene, loose photos are for self-pairs alone.
        scenes: instead of `root`: folder of folders, one for each scene.
        singles: instead of `root`: flat folder of photos for self-pairs alone.
        hold_back: share of one's own photos that is kept out of training, to validate with.
        view: "crop" is random crops and warps; "letterbox" the whole photo, its longer side `size`, zero-padded.
        size: side of the square views, pixels.
        pairs_per_step: of all processes together.
        self_share: share of the pairs that show one photo twice.
        negative_share: share of the pairs that show two scenes.
        max_scene_size: tuples of MegaDepth that are drawn from each of its scenes.
        workers: processes that read and warp photos ahead of use; 0 does it in the training's own process.
        warp: how strongly the views of a self-pair differ.
    """

    sets: dict[str, float] = field(default_factory=dict)
    dir: Path | None = None
    root: Path | None = None
    scenes: Path | None = None
    singles: Path | None = None
    hold_back: float = 0.1
    view: ViewKind = "crop"
    size: int = 256
    pairs_per_step: int = 8
    self_share: float = 0.6
    negative_share: float = 0.1
    max_scene_size: int = 10_000
    workers: int = 1
    warp: WarpConfig = field(default_factory=WarpConfig)

    def __post_init__(self) -> None:
        self._check_sources()
        _check("data.view", self.view, self.view in get_args(ViewKind), " or ".join(get_args(ViewKind)))
        for name, least in (("size", 16), ("pairs_per_step", 1), ("max_scene_size", 1), ("workers", 0)):
            _check(f"data.{name}", getattr(self, name), getattr(self, name) >= least, f"{least} or more")
        _check("data.size", self.size, self.size % 8 == 0, "a multiple of 8, the side of the policy's cells")
        for name in ("self_share", "negative_share"):
            _check_share(f"data.{name}", getattr(self, name))
        total = self.self_share + self.negative_share
        _check("data.self_share + data.negative_share", total, total <= 1 + 1e-9, "1 or less")
        _check("data.hold_back", self.hold_back, 0 <= self.hold_back < 1, "0 or more, and less than 1")

    def _check_sources(self) -> None:
        for name, weight in self.sets.items():
            _check("data.sets", name, name in SET_NAMES, "one of " + ", ".join(SET_NAMES))
            _check(f"data.sets.{name}", weight, 0 < weight < math.inf, "a weight above 0")
        if self.root is not None and (self.scenes is not None or self.singles is not None):
            raise ValueError("data.root stands in for data.scenes and data.singles; give it or them")


def _check(key: str, value: object, good: bool, wanted: str) -> None:
    if not good:
        raise ValueError(f"{key}={value}: must be {wanted}")


def _check_share(key: str, value: float) -> None:
    _check(key, value, 0 <= value <= 1, "a share, 0 to 1")


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
