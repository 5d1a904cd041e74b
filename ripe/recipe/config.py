"""Settings of a training run: typed, validated, saved with every checkpoint."""

from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from ripe.settings import (
    AtLeastOne,
    AtLeastZero,
    FolderName,
    NotNegative,
    Positive,
    Range,
    Settings,
    Share,
    nearest,
    refuse,
)

# The side of the policy's cells, pixels.
CELL = 8

RewardType = Literal["inlier", "inlier_ratio", "inlier+inlier_ratio"]
PaddingMode = Literal["ignore", "punish"]
ViewKind = Literal["crop", "letterbox"]
Precision = Literal["auto", "32-true", "16-mixed", "bf16-mixed"]
Accelerator = Literal["auto", "cpu", "cuda"]
DescriptorLoss = Literal["margin", "infonce"]
InputNormalisation = Literal["instance", "imagenet"]
WandbMode = Literal["online", "offline", "disabled"]
Penalty = Annotated[float, Range(most=0)]
Margin = Annotated[float, Range(0, 2)]


@dataclass(frozen=True)
class WarpConfig(Settings, group="data.warp"):
    """How strongly the two views of a self-pair differ; `crop_view` uses the perspective and the light, too.

    Attributes:
        rotation_deg: largest rotation between the views, degrees.
        any_rotation_share: share of the self-pairs that may be rotated by any angle.
        min_scale: least magnification of the photo, view pixels per photo pixel.
        max_scale: largest magnification of the photo.
        max_scale_ratio: largest ratio of the two views' magnifications.
        perspective: how far the corners of a view move, in half sides of the view; from 0.5 on, views could fold.
        min_overlap: share of the second view that the first one shows as well, at least.
        photometric: strength of the changes of light, weather, season, age and camera; 0 is none.
    """

    rotation_deg: Annotated[float, Range(0, 180)] = 45.0
    any_rotation_share: Share = 0.05
    min_scale: Positive = 0.6
    max_scale: Positive = 2.0
    max_scale_ratio: Annotated[float, Range(least=1)] = 4.0
    perspective: Annotated[float, Range(least=0, below=0.5)] = 0.2
    min_overlap: Share = 0.12
    photometric: NotNegative = 1.0

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.min_scale > self.max_scale:
            refuse("data.warp.min_scale", self.min_scale, f"at most data.warp.max_scale, {self.max_scale}")

    def weakened(self, strength: float) -> Self:
        """Warps of `strength`, 0..1: at 0 two views differ by a shift and 10 degrees at most, at 1 as much as here."""
        return replace(
            self,
            rotation_deg=strength * self.rotation_deg,
            any_rotation_share=strength * self.any_rotation_share,
            max_scale_ratio=self.max_scale_ratio**strength,
            perspective=strength * self.perspective,
            photometric=strength * self.photometric,
        )


@dataclass(frozen=True)
class DataConfig(Settings, group="data"):
    """Which photos, and how pairs are made of them.

    Of all pairs a share shows one photo twice, warped (self-pairs); a share two scenes (negative pairs); the rest two
    photos of one scene. The published run is `sets={"megadepth": 1}`, `view="letterbox"`, `size=560`,
    `pairs_per_step=6`, `self_share=0`, `negative_share=0.5`.

    Attributes:
        sets: weights of the data sets in the mixture, by their names in `ripe data`, or own for the folders below;
            empty is own photos alone.
        dir: folder of the public sets; `DATA_DIR`, or else `data` in the current folder, if None.
        root: folder of one's own photos: each of its folders is a scene, loose photos are for self-pairs alone.
        scenes: instead of `root`: folder of folders, one for each scene.
        singles: instead of `root`: flat folder of photos for self-pairs alone.
        pairs: which photos of a scene overlap, as `ripe data mine` found; any two if None.
        hold_back: share of one's own photos that is kept out of training, to validate with.
        view: "crop" is random crops and warps; "letterbox" the whole photo, its longer side `size`, zero-padded.
        size: side of the square views, pixels.
        pairs_per_step: of all processes together.
        self_share: share of the pairs that show one photo twice.
        negative_share: share of the pairs that show two scenes.
        max_scene_size: tuples of MegaDepth that are drawn from each of its scenes.
        workers: processes that read and warp photos ahead of use; 0 does it in the training's own process.
        warp: how strongly the views of a self-pair differ.
        warp_ramp: share of the run over which they come to differ that strongly; 0 has them do so from the start.
    """

    sets: dict[str, Positive] = field(default_factory=dict)
    dir: Path | None = None
    root: Path | None = None
    scenes: Path | None = None
    singles: Path | None = None
    pairs: Path | None = None
    hold_back: Annotated[float, Range(least=0, below=1)] = 0.1
    view: ViewKind = "crop"
    size: Annotated[int, Range(least=16)] = 320
    pairs_per_step: AtLeastOne = 6
    self_share: Share = 0.6
    negative_share: Share = 0.1
    max_scene_size: AtLeastOne = 10_000
    workers: AtLeastZero = 1
    warp: WarpConfig = field(default_factory=WarpConfig)
    warp_ramp: Share = 0.33

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.size % CELL:
            refuse("data.size", self.size, f"a multiple of {CELL}, the side of the policy's cells")
        if self.self_share + self.negative_share > 1 + 1e-9:
            refuse("data.self_share + data.negative_share", self.self_share + self.negative_share, "1 or less")
        if self.root is not None and (self.scenes is not None or self.singles is not None):
            raise ValueError("data.root stands in for data.scenes and data.singles; give it or them")


@dataclass(frozen=True)
class ModelConfig(Settings, group="model"):
    """Which network is trained, and from what.

    Attributes:
        name: compact, robust, or vgg_hyper for the published network.
        start: weights to go on from, a file or a name that `ripe.load` knows; random ones if None.
        encoder: of vgg_hyper: "imagenet" or a file starts its encoder from VGG-19-BN's weights; random if None.
        input_normalisation: of vgg_hyper: "instance" brings every channel of an image to mean 0 and variance 1;
            "imagenet" uses the mean and the variance of ImageNet's photos, as the published run did.
        descriptor_dim: of vgg_hyper: length of a descriptor; None leaves the samples of the maps as they are.
        desc_shares: of vgg_hyper: lengths of the four parts of a descriptor, each from a map of its own.
        interpolation: of vgg_hyper: "hypercolumn" samples all maps, "interpolate_sparse2D" the coarsest one.
    """

    name: str = "compact"
    start: str | None = None
    encoder: str | None = None
    input_normalisation: InputNormalisation = "instance"
    descriptor_dim: AtLeastOne | None = 256
    desc_shares: tuple[AtLeastOne, ...] | None = None
    interpolation: Literal["hypercolumn", "interpolate_sparse2D"] = "hypercolumn"

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.start is not None and self.encoder is not None:
            raise ValueError("model.start has an encoder already; give it or model.encoder")
        if self.name != "vgg_hyper":
            unused = [
                f.name for f in fields(self) if f.name not in ("name", "start") and getattr(self, f.name) != f.default
            ]
            if unused:
                raise ValueError(f"model.{unused[0]}: only vgg_hyper has this setting, model.name is {self.name}")

    def options(self) -> dict[str, Any]:
        """What `ripe.pretrained.build` is given beside the name."""
        if self.name != "vgg_hyper":
            return {}
        return {
            "descriptor_dim": self.descriptor_dim,
            "desc_shares": None if self.desc_shares is None else list(self.desc_shares),
            "interpolation": self.interpolation,
            "normalise_input": "imagenet" if self.input_normalisation == "imagenet" else True,
        }


@dataclass(frozen=True)
class ObjectiveConfig(Settings, group="objective"):
    """The loss and its schedules.

    Penalties (`miss_penalty`, `outlier_reward`, `keypoint_penalty`) grow from 0 to their value over the first
    `penalty_ramp` of the run: early on hardly a match is right, and penalties at full strength would teach the policy
    to select nothing at all. Over the same time the share of cells that are to give a keypoint falls from
    `keypoint_share_start` to `keypoint_share_end`; `keypoint_share_weight` holds it there.

    Attributes:
        reward_type: what an inlier earns: 1 ("inlier"), the pair's share of inliers ("inlier_ratio"), or a blend that
            moves from the one to the other over the run ("inlier+inlier_ratio").
        padding_mode: "ignore" leaves cells on padding out of everything; "punish" keeps them; inliers there earn -1.
        selected_only: the reward grid has the selected cells alone.
        miss_penalty: reward of every pair of cells that is no match, 0 or less; published as fp_penalty.
        outlier_reward: reward of a match of a positive pair that is no inlier; `miss_penalty` if None.
        keypoint_penalty: 0 or less; makes every keypoint dearer; published as kp_penalty.
        baseline: weight of what an average keypoint earned, as a price on every keypoint.
        keypoint_share_start: share of the cells that are to give a keypoint, at the start of the run.
        keypoint_share_end: the same after the ramp.
        keypoint_share_weight: weight of the squared distance from that share; 0 lets the number of keypoints be.
        penalty_ramp: share of the run over which the penalties reach their full value (alpha goes from 0 to 1).
        entropy_weight: weight of a bonus on the policy's entropy.
        policy_weight: weight of the policy's loss.
        repeatability_weight: weight of the loss by which both views of a self-pair put keypoints on the same point.
        repeatability_spread: how near counts as the same point, pixels.
        localisation_weight: weight of the distance, in pixels, between the same keypoints of a self-pair's views.
        descriptor_loss: of positive pairs: "margin" is the published one, "infonce" a softmax over all descriptors.
        descriptor_weight: weight of the descriptors' loss; published as desc_loss_weight.
        positive_margin: of the margin loss, in positive pairs.
        negative_margin: of the margin loss, in negative pairs.
        temperature: of InfoNCE.
        exclusion_radius: descriptors within this many pixels of the target are no wrong answers for InfoNCE.
        teacher: a trained extractor to learn from besides, the name of a model or a weights file; None is none.
        teacher_descriptor_weight: weight of the distance to the teacher's descriptors.
        teacher_score_weight: weight of the divergence from where the teacher would put keypoints.
        inlier_threshold: largest epipolar error of an inlier, pixels.
        inlier_threshold_extra: added to it at the start of the run, falling exponentially.
        inlier_threshold_decay: how fast, per step: the threshold is inlier_threshold + extra * exp(-decay * step).
        warp_threshold_start: largest error of an inlier of a self-pair, pixels, at the start of the run.
        warp_threshold_end: the same at its end.
        min_motion: inliers of two photos that move by less than this median, in pixels, earn nothing.
        min_keypoints: pairs with fewer selected keypoints in a view are not matched.
        border: keypoints nearer to the border than this many pixels are not selected.
        ransac_iterations: at most, for each pair.
    """

    reward_type: RewardType = "inlier"
    padding_mode: PaddingMode = "ignore"
    selected_only: bool = False
    miss_penalty: Penalty = 0.0
    outlier_reward: Penalty | None = -0.1
    keypoint_penalty: Penalty = 0.0
    baseline: NotNegative = 1.0
    keypoint_share_start: Share = 0.8
    keypoint_share_end: Share = 0.3
    keypoint_share_weight: NotNegative = 10.0
    penalty_ramp: Share = 0.33
    entropy_weight: NotNegative = 0.005
    policy_weight: NotNegative = 1000.0
    repeatability_weight: NotNegative = 1.5
    repeatability_spread: Positive = 0.5
    localisation_weight: NotNegative = 2.0
    descriptor_loss: DescriptorLoss = "infonce"
    descriptor_weight: NotNegative = 1.0
    positive_margin: Margin = 0.3
    negative_margin: Margin = 0.3
    temperature: Positive = 0.05
    exclusion_radius: NotNegative = 5.0
    teacher: str | None = None
    teacher_descriptor_weight: NotNegative = 10.0
    teacher_score_weight: NotNegative = 2.0
    inlier_threshold: Positive = 1.5
    inlier_threshold_extra: NotNegative = 0.0
    inlier_threshold_decay: NotNegative = 0.0005
    warp_threshold_start: Positive = 2.0
    warp_threshold_end: Positive = 1.2
    min_motion: NotNegative = 8.0
    min_keypoints: AtLeastOne = 16
    border: AtLeastZero = 16
    ransac_iterations: AtLeastOne = 1000


@dataclass(frozen=True)
class MatcherConfig(Settings, group="matcher"):
    """A matcher that is trained, and what it learns from; `ripe.objective.assignment` says how.

    Attributes:
        extractor: whose keypoints it learns to match: the name of a model, or a weights file. It stays as it is.
        start: weights file of a matcher to start from; None starts with what finds mutual nearest neighbours.
        width: numbers of a keypoint inside the network.
        layers: of attention within and between the images.
        heads: of each attention.
        keypoints: of a view, the best ones.
        max_error: of a right match, pixels of the views, where a homography joins them.
        min_error: from the nearest keypoint on, from which a keypoint of a self-pair has no partner, pixels.
        epipolar_error: of a right match, pixels, where an epipolar geometry is fitted to the matches.
        far: from the epipolar line on, from which a match is wrong, pixels.
        min_motion: inliers whose median displacement is less (pixels) teach nothing.
    """

    extractor: str = "compact"
    start: str | None = None
    width: AtLeastOne = 128
    layers: AtLeastOne = 4
    heads: AtLeastOne = 2
    keypoints: AtLeastOne = 512
    max_error: Positive = 3.0
    min_error: Positive = 5.0
    epipolar_error: Positive = 1.5
    far: Positive = 8.0
    min_motion: NotNegative = 8.0

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.width % (2 * self.heads):
            refuse("matcher.width", self.width, f"a multiple of {2 * self.heads} for {self.heads} heads")
        if self.min_error < self.max_error:
            refuse("matcher.min_error", self.min_error, "matcher.max_error or more")


@dataclass(frozen=True)
class OptimizerConfig(Settings, group="optimizer"):
    """AdamW with a linear warm-up, a plateau and a linear decay over the last part of the run.

    Attributes:
        lr: learning rate of the plateau.
        final_lr: learning rate at the end of the run.
        weight_decay: of AdamW.
        warmup_steps: the learning rate rises over the first so many steps.
        decay_share: share of the run, at its end, over which the learning rate falls; 1 is the published schedule.
        accumulate: how many steps' gradients make one update of the weights.
        max_grad_norm: longer gradients are shortened to this norm; None lets them be.
        ema_decay: of the moving average of the weights, which is what a run saves; 0 saves the weights themselves.
    """

    lr: Positive = 1.5e-3
    final_lr: NotNegative = 0.0
    weight_decay: NotNegative = 1e-4
    warmup_steps: AtLeastZero = 100
    decay_share: Share = 0.4
    accumulate: AtLeastOne = 1
    max_grad_norm: Positive | None = 5.0
    ema_decay: Annotated[float, Range(least=0, below=1)] = 0.998

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.final_lr > self.lr:
            refuse("optimizer.final_lr", self.final_lr, f"at most optimizer.lr, {self.lr}")


@dataclass(frozen=True)
class WatchConfig(Settings, group="watch"):
    """When a run is ended; scores are in percent, inlier ratios in 0..1.

    Attributes:
        patience: so many validations in a row may go by without a rise; 0 never ends a run for that. Scores rise once
            more when the learning rate falls at the end of a run, so little patience costs accuracy.
        min_rise: a validation counts as a rise if it exceeds the last one that counted by this much.
        collapse_fall: a validation below the best one by this share of it has fallen, ...
        collapse_rise: ... and the two part ways if the inlier ratio of some kind of training pairs has meanwhile risen
            by this much.
        collapse_patience: a run ends when they have parted in so many validations in a row; 0 never.
    """

    patience: AtLeastZero = 10
    min_rise: NotNegative = 0.2
    collapse_fall: Annotated[float, Range(above=0, below=1)] = 0.3
    collapse_rise: NotNegative = 0.1
    collapse_patience: AtLeastZero = 2


@dataclass(frozen=True)
class ValidationConfig(Settings, group="validation"):
    """What a run is validated with: annotated pairs if there are, else held-back photos of one's own, else IMW2020-val.

    Attributes:
        pairs: folder of annotated pairs, as `ripe eval pairs` reads them.
        max_pairs: of annotated pairs or of IMW2020-val, spread evenly; the benchmark's own number if None.
        threshold: least score of a keypoint of vgg_hyper; the benchmark's own if None.
        max_keypoints: of a photo; the benchmark's own number if None.
    """

    pairs: Path | None = None
    max_pairs: AtLeastOne | None = None
    threshold: float | None = None
    max_keypoints: AtLeastOne | None = None


@dataclass(frozen=True)
class TrainConfig(Settings):
    """A whole run; the defaults are the preset `compact`.

    Attributes:
        project_name: names the run, for W&B and for its folder.
        name: names the run within its project.
        output: folder of the run; OUTPUT_DIR/project_name/name on the command line if None.
        resume: "auto" goes on from the newest whole checkpoint of the folder, or starts if there is none; "never"
            starts, and refuses a folder that holds a run; or the path of a checkpoint, in a folder without later ones.
        steps: length of the run, in batches of `data.pairs_per_step` pairs.
        max_minutes: the run ends after this many minutes, at a checkpoint, if it has not ended before; it has as
            many again whenever it is resumed.
        seed: of the initial weights, the pairs and the policy's samples; 0 to 2^64 - 1.
        overfit_pairs: only so many different pairs are shown, over and over; None is no limit.
        accelerator: cpu, cuda, or auto for a GPU if there is one.
        devices: processes on this machine, one a GPU; torchrun and Slurm have their own say.
        num_nodes: machines; torchrun and Slurm have their own say.
        precision: of the network's arithmetic: 32-true, 16-mixed, bf16-mixed, or auto: bf16-mixed where GPU or
            processor have instructions for it, otherwise 32-true.
        sync_batchnorm: batch normalisation over the batches of all processes, as if they were one.
        max_bad_steps: so many updates in a row with a loss or gradient that is not finite end the run.
        checkpoint_interval: steps from checkpoint to checkpoint.
        keep_checkpoints: how many of the newest checkpoints stay; the best one stays besides.
        log_interval: steps from one logged line to the next.
        val_interval: steps from validation to validation; 0 is none.
        wandb_mode: of Weights & Biases: online, offline or disabled.
        tensorboard: write event files for TensorBoard into the run's folder.
        learns: what is trained: an "extractor", or a "matcher" of an extractor's keypoints.
        model: which network, if it is an extractor.
        matcher: which, if it is a matcher.
        data: which photos.
        objective: the loss of an extractor.
        optimizer: how the weights move.
        validation: what the run is validated with.
        watch: when the validation ends the run.
    """

    project_name: Annotated[str, FolderName()] = "ripe"
    name: Annotated[str, FolderName()] = "run"
    output: Path | None = None
    resume: str = "never"
    steps: AtLeastOne = 3000
    max_minutes: NotNegative | None = None
    seed: Annotated[int, Range(0, 2**64 - 1)] = 0
    overfit_pairs: AtLeastOne | None = None
    accelerator: Accelerator = "auto"
    devices: AtLeastOne = 1
    num_nodes: AtLeastOne = 1
    precision: Precision = "auto"
    sync_batchnorm: bool = True
    max_bad_steps: AtLeastOne = 10
    checkpoint_interval: AtLeastOne = 100
    keep_checkpoints: AtLeastOne = 3
    log_interval: AtLeastOne = 10
    val_interval: AtLeastZero = 500
    wandb_mode: WandbMode = "disabled"
    tensorboard: bool = False
    learns: Literal["extractor", "matcher"] = "extractor"
    model: ModelConfig = field(default_factory=ModelConfig)
    matcher: MatcherConfig = field(default_factory=MatcherConfig)
    data: DataConfig = field(default_factory=DataConfig)
    objective: ObjectiveConfig = field(default_factory=ObjectiveConfig)
    optimizer: OptimizerConfig = field(default_factory=OptimizerConfig)
    validation: ValidationConfig = field(default_factory=ValidationConfig)
    watch: WatchConfig = field(default_factory=WatchConfig)

    def __post_init__(self) -> None:
        super().__post_init__()
        widest = (self.data.size - CELL) // 2
        if self.objective.border > widest:
            wanted = f"at most {widest} where data.size={self.data.size}, or no keypoint can be selected"
            refuse("objective.border", self.objective.border, wanted)

    @property
    def folder(self) -> Path:
        """The folder of the run."""
        return Path("outputs") / self.project_name / self.name if self.output is None else self.output

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Self:
        """The configuration that nested plain values stand for; what is not given has its default.

        Raises:
            ValueError: a key does not exist, or a value has the wrong type or is out of range; the message names the
                key.
        """
        try:
            return cls.read(values)
        except KeyError as error:
            raise ValueError(unknown_setting(error.args[0])) from None


def unknown_setting(key: str) -> str:
    """The message on a setting that does not exist, with the name that was meant if one is near."""
    near = nearest(key, list(TrainConfig().flat()))
    return f"{key}: no such setting; " + (f"did you mean {near}?" if near else "ripe train --options lists them")
