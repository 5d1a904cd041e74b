"""Presets, groups and `key=value` settings, put together by Hydra; what comes out is a checked `TrainConfig`."""

import itertools
import os
from collections.abc import Mapping, Sequence
from importlib import resources
from pathlib import Path
from typing import Any

from ripe.data.catalogue import check_trainable, trainable
from ripe.pretrained import ARCHITECTURES
from ripe.recipe.config import TrainConfig, unknown_setting
from ripe.settings import refuse

CONF = "ripe.conf"
DEFAULT_PRESET = "compact"
# With `data=` and the name of a public set, or of two: views as published, the whole photo in a square of 560 pixels.
PUBLIC = {"view": "letterbox", "size": 560, "pairs_per_step": 6, "self_share": 0.0, "negative_share": 0.5, "workers": 4}
# Weight of the first of two sets, as published.
FIRST_SHARE = 0.8
# The published names of settings, which mean the same and are understood as well.
PUBLISHED_NAMES = {
    "fp_penalty": "objective.miss_penalty",
    "kp_penalty": "objective.keypoint_penalty",
    "desc_loss_weight": "objective.descriptor_weight",
    "padding_filter_mode": "objective.padding_mode",
    "reward_type": "objective.reward_type",
    "selected_only": "objective.selected_only",
    "num_steps": "steps",
    "batch_size": "data.pairs_per_step",
    "num_grad_accs": "optimizer.accumulate",
    "lr": "optimizer.lr",
}


def presets() -> list[str]:
    """Names of the presets."""
    return sorted(path.name.removesuffix(".yaml") for path in _conf().iterdir() if path.name.endswith(".yaml"))


def groups() -> dict[str, list[str]]:
    """Names of the choices in each group, such as data: megadepth+tokyo."""
    written = {
        name: [path.name.removesuffix(".yaml") for path in (_conf() / name).iterdir() if path.name.endswith(".yaml")]
        for name in ("data", "model")
    }
    return {name: sorted({*choices, *(_public_data() if name == "data" else ())}) for name, choices in written.items()}


def _public_data() -> dict[str, dict[str, Any]]:
    """What `data=` chooses with the name of a public set, or with two of them: tokyo, megadepth+tokyo."""
    mixtures = {name: {name: 1.0} for name in trainable()}
    for first, second in itertools.permutations(trainable(), 2):
        mixtures[f"{first}+{second}"] = {first: FIRST_SHARE, second: round(1 - FIRST_SHARE, 3)}
    return {name: {"sets": sets, **PUBLIC} for name, sets in mixtures.items()}


def compose(
    preset: str = DEFAULT_PRESET, settings: Sequence[str] = (), config_dir: str | Path | None = None
) -> TrainConfig:
    """The configuration of a preset with settings applied in Hydra's syntax.

    `OUTPUT_DIR` and `DATA_DIR` are read from the environment, or from a file `.env` here or in a folder above.

    Args:
        preset: name of a YAML file of the package, or of `config_dir`.
        settings: such as `data=megadepth+tokyo` (a group) or `optimizer.lr=1e-4`.
        config_dir: folder of one's own presets.

    Raises:
        ValueError: Hydra is not installed, or a preset, group or setting does not exist or has a wrong value; the
            message names it.
        OSError: `config_dir` does not exist.
    """
    values = _compose(preset, [_spelt_our_way(setting) for setting in settings], config_dir)
    _load_env()
    if values.get("output") is None:
        # Checked first, as they become a path.
        named = TrainConfig.from_dict({key: values[key] for key in ("project_name", "name") if key in values})
        values["output"] = Path(os.environ.get("OUTPUT_DIR") or "outputs") / named.project_name / named.name
    config = TrainConfig.from_dict(values)
    check_trainable(config.data.sets)
    if config.model.name not in ARCHITECTURES:
        refuse("model.name", config.model.name, "one of " + ", ".join(ARCHITECTURES))
    return config


def _compose(preset: str, settings: list[str], config_dir: str | Path | None) -> dict[str, Any]:
    try:
        import hydra
        from hydra.core.config_store import ConfigStore
        from hydra.core.override_parser.overrides_parser import OverridesParser
        from hydra.errors import HydraException
        from omegaconf import OmegaConf
        from omegaconf.errors import OmegaConfBaseException
    except ImportError as error:
        raise ValueError("training needs Hydra: pip install 'ripe-keypoints[train]'") from error

    if config_dir is not None:
        if not Path(config_dir).is_dir():
            raise FileNotFoundError(f"{config_dir}: no such folder of presets")
        settings = [*settings, f"hydra.searchpath=[pkg://{CONF}]"]
        folder: Any = hydra.initialize_config_dir(str(Path(config_dir).resolve()), version_base=None)
    elif preset not in presets():
        raise ValueError(f"--config-name {preset}: no such preset; there are {', '.join(presets())}")
    else:
        folder = hydra.initialize_config_module(CONF, version_base=None)
    defaults = TrainConfig().to_dict()
    store = ConfigStore.instance()
    store.store(name="base", node=defaults)
    for name, node in _public_data().items():
        store.store(group="data", name=name, node=node)
    # Hydra would add these weights to those that are there.
    sets = [setting for setting in settings if setting.startswith("data.sets=")]
    try:
        with folder:
            config = hydra.compose(preset, [setting for setting in settings if setting not in sets])
            values = OmegaConf.to_container(config, resolve=True)
            chosen = OverridesParser.create().parse_overrides(sets)
    except (HydraException, OmegaConfBaseException) as error:
        raise ValueError(_explain(error, settings, defaults)) from error
    except Exception as error:  # YAML's, and what all these run into where a file is none of settings
        raise ValueError(f"--config-name {preset}: not a file of settings ({' '.join(str(error).split())})") from error
    if not isinstance(values, dict) or not isinstance(values.setdefault("data", {}), dict):
        raise ValueError(f"--config-name {preset}: not a file of settings (no mapping, or its data is none)")
    for mixture in chosen:
        values["data"]["sets"] = mixture.value()
    return {str(key): value for key, value in values.items()}


def _spelt_our_way(setting: str) -> str:
    key, separator, value = setting.partition("=")
    bare = key.lstrip("+~")
    return key.replace(bare, PUBLISHED_NAMES.get(bare, bare)) + separator + value


def _explain(error: Exception, settings: Sequence[str], defaults: Mapping[str, Any]) -> str:
    """One line on what Hydra says in many, naming the setting."""
    for setting in settings:
        key, separator, value = setting.partition("=")
        bare = key.lstrip("+~")
        if not separator:
            return f"{setting!r}: settings are written key=value, such as optimizer.lr=0.001"
        if bare in groups() and value not in groups()[bare]:
            return f"{setting}: no such choice; there are {', '.join(groups()[bare])}"
        if not bare.startswith("hydra") and not _exists(bare, defaults):
            return unknown_setting(bare)
    return " ".join(str(error).split())


def _exists(key: str, values: Any) -> bool:
    for part in key.split("."):
        if not isinstance(values, Mapping) or part not in values:
            return key.startswith("data.sets.")
        values = values[part]
    return True


def _load_env() -> None:
    try:
        from dotenv import find_dotenv, load_dotenv
    except ImportError as error:
        raise ValueError("training needs python-dotenv: pip install 'ripe-keypoints[train]'") from error
    load_dotenv(find_dotenv(usecwd=True))


def _conf() -> Any:
    return resources.files(CONF)
