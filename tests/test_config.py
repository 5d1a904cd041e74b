"""Settings of a training run: presets, groups, wrong keys and values, the published command."""

import json
import os
import re
import runpy
import shlex
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from types import UnionType
from typing import get_args, get_type_hints

import pytest

import ripe
import ripe.images
from ripe.cli import main
from ripe.networks.vgg import VggNet
from ripe.recipe import schedule
from ripe.recipe.config import DataConfig, ModelConfig, OptimizerConfig, TrainConfig
from ripe.settings import Settings
from ripe.tables import markdown_table
from ripe.training.extractor import initial_model
from ripe.training.loggers import FIGURES
from ripe.training.presets import PUBLISHED_NAMES, compose, groups, presets

pytest.importorskip("hydra")
SCRIPT = Path(ripe.__file__).parent / "train.py"
DOCS = Path(__file__).parents[1] / "docs" / "training.md"


@pytest.fixture(autouse=True)
def _own_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("OUTPUT_DIR", "DATA_DIR"):
        monkeypatch.delenv(name, raising=False)


@pytest.mark.parametrize("preset", presets())
def test_every_preset_composes_and_builds_its_network(preset: str) -> None:
    config = compose(preset)
    assert TrainConfig.from_dict(config.to_dict()) == config
    model = initial_model(replace(config.model, encoder=None))
    assert model.name == config.model.name


@pytest.mark.parametrize(("group", "choice"), [(g, c) for g, choices in groups().items() for c in choices])
def test_every_choice_of_every_group_composes(group: str, choice: str) -> None:
    settings = [f"{group}={choice}"]
    if group == "model":
        settings += ["model.encoder=null", "++model.input_normalisation=instance"]
    config = compose("train", settings)
    if group == "data" and choice != "own":
        assert list(config.data.sets) == choice.split("+")
        assert sum(config.data.sets.values()) == pytest.approx(1)


def test_the_weights_of_the_sets_are_those_that_are_given() -> None:
    assert compose("train", ["data=megadepth", "data.sets={tokyo: 0.3, own: 0.7}"]).data.sets == {
        "tokyo": 0.3,
        "own": 0.7,
    }


def test_the_presets_of_the_issue_are_there() -> None:
    assert {"train", "train_positive", "compact", "cpu", "overfit", "finetune"} <= set(presets())


def test_the_published_run_has_the_published_values() -> None:
    config = compose("train")
    assert (config.steps, config.data.pairs_per_step, config.optimizer.accumulate) == (80_000, 6, 4)
    assert (config.data.sets, config.data.view, config.data.size) == ({"megadepth": 1.0}, "letterbox", 560)
    assert (config.data.self_share, config.data.negative_share) == (0, 0.5)
    assert (config.precision, config.val_interval, config.log_interval) == ("bf16-mixed", 2000, 50)
    assert config.model == ModelConfig("vgg_hyper", encoder="imagenet", input_normalisation="imagenet")
    moments = [schedule.at(step, config) for step in (0, 40_000, 80_000)]
    rates = [now.learning_rate for now in moments]
    assert rates == pytest.approx([1e-3, (1e-3 + 1e-6) / 2, 1e-6])
    assert (config.optimizer.weight_decay, config.optimizer.max_grad_norm) == (1e-5, None)
    objective = config.objective
    assert (objective.miss_penalty, objective.keypoint_penalty) == (-1e-7, -7e-7)
    alphas = [schedule.at(round(share * config.steps), config).penalties for share in (0, 1 / 6, 1 / 3, 1)]
    assert alphas == pytest.approx([0, 0.5, 1, 1], abs=1e-4)
    assert [now.ratio_share for now in moments] == [0, 0.5, 1]
    assert (objective.descriptor_weight, objective.positive_margin, objective.negative_margin) == (5, 0.2, 0.2)
    assert (objective.descriptor_loss, objective.outlier_reward, objective.policy_weight) == ("margin", None, 1)
    assert (objective.baseline, objective.keypoint_share_weight, objective.entropy_weight) == (0, 0, 0)
    assert [now.epipolar_threshold for now in moments] == [1, 1, 1]
    other = compose("train", ["objective.inlier_threshold=0.5", "objective.inlier_threshold_extra=2.5"])
    assert schedule.at(0, other).epipolar_threshold == 3
    assert schedule.at(2000, other).epipolar_threshold == pytest.approx(2.5 * 0.36787944 + 0.5)


def test_the_successors_run_differs_in_what_its_paper_changed() -> None:
    published, successor = compose("train"), compose("train_positive")
    assert (successor.data.negative_share, successor.objective.outlier_reward) == (0, -0.1)
    assert successor.objective.entropy_weight == 1e-6
    undone = replace(successor.objective, outlier_reward=None, entropy_weight=0.0)
    assert replace(successor, data=replace(successor.data, negative_share=0.5), objective=undone) == published


def test_compact_is_the_defaults() -> None:
    config = compose("compact")
    assert replace(config, output=None, data=replace(config.data, sets={})) == TrainConfig()


def test_published_names_of_settings_are_understood() -> None:
    config = compose("train", ["fp_penalty=-2e-7", "kp_penalty=-1e-6", "desc_loss_weight=3", "num_grad_accs=2"])
    assert (config.objective.miss_penalty, config.objective.keypoint_penalty) == (-2e-7, -1e-6)
    assert (config.objective.descriptor_weight, config.optimizer.accumulate) == (3, 2)
    assert set(PUBLISHED_NAMES.values()) <= set(TrainConfig().flat())


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ("stepz=3", "stepz: no such setting; did you mean steps?"),
        ("objective.miss_penaltie=1", "did you mean objective.miss_penalty?"),
        ("wandb_mod=offline", "did you mean wandb_mode?"),
        ("optimizer.learning_rate=1", "optimizer.learning_rate: no such setting"),
        ("+model.foo=1", "model.foo: no such setting"),
        ("steps=many", "steps=many: must be a whole number"),
        ("steps=1.5", "steps=1.5: must be a whole number"),
        ("tensorboard=7", "tensorboard=7: must be true or false"),
        ("objective.reward_type=gold", "objective.reward_type=gold: must be one of inlier"),
        ("optimizer.lr=-1", "optimizer.lr=-1.0: must be more than 0"),
        ("data=x", "data=x: no such choice; there are acdc"),
        ("data.sets={cambridge: 1}", "data.sets=cambridge: must be one of acdc, megadepth, tokyo, own"),
        ("data.sets={own: 1", "no viable alternative at input '{own: 1'"),
        ("model.name=large", "model.name=large: must be one of compact, robust, vgg_hyper"),
        ("data.warp=3", "data.warp=3: is a group of settings"),
        ("name=a/b", "name=a/b: must be the name of a folder"),
        ("steps", "settings are written key=value"),
        ("model.encoder=imagenet", "model.encoder: only vgg_hyper"),
        ("optimizer.max_grad_norm=-1", "optimizer.max_grad_norm=-1.0: must be more than 0"),
        ("objective.entropy_weight=-1", "objective.entropy_weight=-1.0: must be 0 or more"),
        ("objective.descriptor_weight=-0.5", "objective.descriptor_weight=-0.5: must be 0 or more"),
        ("objective.miss_penalty=1", "objective.miss_penalty=1.0: must be 0 or less"),
        ("objective.border=400", "objective.border=400: must be at most 156 where data.size=320"),
        ("data.size=32", "objective.border=16: must be at most 12 where data.size=32"),
        ("data.warp.perspective=5", "data.warp.perspective=5.0: must be 0 or more and less than 0.5"),
        ("data.warp.min_scale=3", "data.warp.min_scale=3.0: must be at most data.warp.max_scale, 2.0"),
        ("data.sets={own: -1}", "data.sets.own=-1.0: must be more than 0"),
        ("optimizer.final_lr=1", "optimizer.final_lr=1.0: must be at most optimizer.lr"),
        ("max_minutes=-3", "max_minutes=-3.0: must be 0 or more"),
        ("seed=-1", "seed=-1: must be from 0 to 18446744073709551615"),
        ("seed=18446744073709551616", "seed=18446744073709551616: must be from 0 to"),
        ("precision=float16", "precision=float16: must be one of auto, 32-true"),
    ],
)
def test_a_wrong_setting_is_one_line_that_names_it(
    setting: str, message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["train", setting]) == 1
    shown = capsys.readouterr()
    assert message in shown.err
    assert len(shown.err.splitlines()) == 1
    assert list(Path().iterdir()) == []


def test_no_number_is_without_a_range() -> None:
    """But for the least score of a keypoint, a logit, which may be any number."""

    def free(kind: type[Settings]) -> list[str]:
        found = []
        for name, hint in get_type_hints(kind, include_extras=True).items():
            options = get_args(hint) if isinstance(hint, UnionType) else (hint,)
            found += [f"{kind.__name__}.{name}" for option in options if option in (int, float)]
            found += [
                each
                for option in options
                if isinstance(option, type) and issubclass(option, Settings)
                for each in free(option)
            ]
        return found

    assert free(TrainConfig) == ["ValidationConfig.threshold"]


def test_settings_made_in_python_are_checked_as_those_that_are_read() -> None:
    with pytest.raises(ValueError, match=r"optimizer\.max_grad_norm=-1\.0: must be more than 0"):
        OptimizerConfig(max_grad_norm=-1)
    with pytest.raises(ValueError, match=r"optimizer\.lr=fast: must be a number"):
        OptimizerConfig(lr="fast")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"objective\.border=16: must be at most 12 where data\.size=32"):
        TrainConfig(data=DataConfig(size=32))


def test_a_preset_of_ones_own(tmp_path: Path) -> None:
    folder = tmp_path / "mine"
    folder.mkdir()
    (folder / "street.yaml").write_text("defaults: [compact, _self_]\nsteps: 77\n")
    assert compose("street", ["seed=5"], folder).steps == 77
    (folder / "street.yaml").write_text("defaults: [compact, _self_]\nstepz: 77\n")
    with pytest.raises(ValueError, match="stepz: no such setting; did you mean steps"):
        compose("street", [], folder)
    with pytest.raises(ValueError, match="no such preset; there are compact"):
        compose("street")


def test_settings_have_the_types_that_the_classes_say() -> None:
    settings = ["max_minutes=3", "optimizer.lr=1e-4", "data.scenes=a/b", "objective.outlier_reward=null", "name=7"]
    config = compose("compact", settings)
    assert (config.max_minutes, config.optimizer.lr) == (3.0, 1e-4)
    assert isinstance(config.max_minutes, float)
    assert (config.data.scenes, config.objective.outlier_reward, config.name) == (Path("a/b"), None, "7")
    shares = compose("train", ["model.desc_shares=[64,64,64,64]"])
    assert initial_model(replace(shares.model, encoder=None)).descriptor_dim == 256


def test_the_folder_comes_from_the_environment_or_a_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert compose(settings=["project_name=p", "name=n"]).folder == Path("outputs/p/n")
    (tmp_path / ".env").write_text(f"OUTPUT_DIR={tmp_path}/from_file\nDATA_DIR={tmp_path}/data\n")
    with monkeypatch.context() as context:
        for name in ("OUTPUT_DIR", "DATA_DIR"):
            context.setenv(name, "")  # so that what the file sets is undone afterwards
            del os.environ[name]
        assert compose().folder == tmp_path / "from_file" / "ripe" / "run"
        assert os.environ["DATA_DIR"] == f"{tmp_path}/data"
    monkeypatch.setenv("OUTPUT_DIR", "elsewhere")
    assert compose().folder == Path("elsewhere/ripe/run")
    assert compose(settings=["output=here"]).folder == Path("here")


def test_the_published_command_runs_as_a_script(tmp_path: Path) -> None:
    """From another folder, without the package being installed; it leaves nothing behind."""
    words = "--config-name train project_name=train name=reproduce wandb_mode=offline data=megadepth+tokyo --show"
    environment = {key: value for key, value in os.environ.items() if key not in ("PYTHONPATH", "OUTPUT_DIR")}
    result = subprocess.run(
        [sys.executable, str(SCRIPT), *words.split()], capture_output=True, text=True, check=True, env=environment
    )
    shown = json.loads(result.stdout)
    assert shown["data"]["sets"] == {"megadepth": 0.8, "tokyo": 0.2}
    assert shown["output"] == "outputs/train/reproduce"
    assert list(tmp_path.iterdir()) == []


def test_the_script_does_not_import_from_its_own_folder(monkeypatch: pytest.MonkeyPatch) -> None:
    here = str(SCRIPT.parent)
    monkeypatch.setattr(sys, "path", [here, *sys.path])
    runpy.run_path(str(SCRIPT), run_name="script")["_find_the_package"]()
    assert here not in sys.path
    assert sys.path[0] == str(SCRIPT.parents[1])


def test_no_module_of_ours_hides_one_of_the_standard_library() -> None:
    assert not {path.stem for path in SCRIPT.parent.iterdir()} & set(sys.stdlib_module_names)


def test_what_is_missing_is_said_in_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "hydra", None)
    with pytest.raises(ValueError, match=r"needs Hydra: pip install 'ripe-keypoints\[train\]'"):
        compose()


def test_the_learning_rate_warms_up_holds_and_decays() -> None:
    config = TrainConfig(steps=100, optimizer=OptimizerConfig(lr=1.0, warmup_steps=10, decay_share=0.5))
    rates = [schedule.at(step, config).learning_rate for step in range(101)]
    assert rates[0] == pytest.approx(0.1)
    assert rates[10:50] == [1.0] * 40
    assert rates[75] == pytest.approx(0.5)
    assert rates[100] == 0


def test_the_input_of_the_published_run_is_normalised_inside_the_network() -> None:
    network = initial_model(ModelConfig("vgg_hyper", input_normalisation="imagenet")).net
    assert isinstance(network, VggNet)
    images = ripe.images.as_rgb(Path(ripe.__file__).parent / "assets" / "motorcycle_left.jpg")[None]
    normalised = network._normalised(images)
    for channel, (mean, std) in enumerate(((0.485, 0.229), (0.456, 0.224), (0.406, 0.225))):
        assert normalised[0, channel] == pytest.approx((images[0, channel] - mean) / std, abs=1e-5)


def test_the_documentation_has_every_setting_and_every_logged_number() -> None:
    settings = TrainConfig().described()
    assert all(setting.meaning for setting in settings)
    rows = [(f"`{name}`", f"`{default}`", meaning) for name, default, meaning in settings]
    table = markdown_table(["setting", "default", "meaning"], rows)
    assert table in DOCS.read_text(), f"replace the table by\n{table}"
    assert all(f"| `{name}` | {meaning} |" in DOCS.read_text() for name, meaning in FIGURES.items())


@pytest.mark.parametrize("target", sorted(set(re.findall(r"\]\(([^)#:]+)\)", DOCS.read_text()))))
def test_every_file_that_the_documentation_links_exists(target: str) -> None:
    assert (DOCS.parent / target).is_file()


COMMANDS = re.findall(
    r"^(?:\$ )?((?:srun )?(?:python ripe/train.py|ripe train) .*)", DOCS.read_text(), flags=re.MULTILINE
)


@pytest.mark.parametrize("line", COMMANDS)
def test_every_documented_command_line_composes(line: str) -> None:
    assert len(COMMANDS) > 8
    words = shlex.split(line, comments=True)
    words = words[words.index("train" if words[0] in ("ripe", "srun") else "ripe/train.py") + 1 :]
    preset = words[words.index("--config-name") + 1]
    assert compose(preset, [word for word in words if "=" in word]).name != "run"
