"""vismatch and image-matching-webui take our models by their own rules: stand-ins, which have what the packages do."""

import importlib
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch

import ripe
from ripe.images import as_rgb


def put_in_place(monkeypatch: pytest.MonkeyPatch, *names: str) -> None:
    """Empty modules that can be imported, each an attribute of the one that it is in."""
    for name in names:
        module = ModuleType(name)
        monkeypatch.setitem(sys.modules, name, module)
        parent, _, own = name.rpartition(".")
        if parent:
            setattr(sys.modules[parent], own, module)


@pytest.fixture(scope="module")
def images(photos: list[Path]) -> list[torch.Tensor]:
    return [as_rgb(photos[0])[:, 100:196, 100:228], as_rgb(photos[1])[:, 90:190, 90:230]]


# vismatch: https://github.com/gmberton/vismatch, base_matcher.py of 1.4.0


class StandInMatcher(torch.nn.Module):
    """What our matcher needs of vismatch's BaseMatcher, and what that checks of the seven results."""

    def __init__(self, device: str = "cpu", **kwargs: Any) -> None:
        super().__init__()
        self.device = device
        self.ransac_reproj_thresh = kwargs.get("ransac_reproj_thresh", 3)

    @torch.inference_mode()
    def forward(self, img0: torch.Tensor, img1: torch.Tensor) -> dict[str, np.ndarray]:
        names = [f"{kind}{side}" for kind in ("matched_kpts", "all_kpts", "all_desc") for side in "01"]
        names.append("matched_confidences")
        outputs = self._forward(img0.to(self.device), img1.to(self.device))
        found = {name: value.cpu().numpy() for name, value in zip(names, outputs, strict=True)}
        for name in names[:4]:
            assert found[name].shape[1:] == (2,)
        assert found["matched_kpts0"].shape == found["matched_kpts1"].shape
        assert found["matched_confidences"].shape == (len(found["matched_kpts0"]),)
        return found


@pytest.fixture
def vismatch(monkeypatch: pytest.MonkeyPatch) -> Iterator[ModuleType]:
    put_in_place(monkeypatch, "vismatch")
    sys.modules["vismatch"].BaseMatcher = StandInMatcher  # type: ignore[attr-defined]
    yield importlib.import_module("ripe.integrations.vismatch")
    del sys.modules["ripe.integrations.vismatch"]


def test_vismatch_gets_our_matches(
    vismatch: ModuleType, images: list[torch.Tensor], random_weights: Path, model: ripe.RIPE
) -> None:
    matcher = vismatch.RIPEMatcher("cpu", 100, weights=random_weights, ransac_reproj_thresh=5)
    assert matcher.ransac_reproj_thresh == 5
    found = matcher(*images)
    features = model.extract(images, max_keypoints=100)
    matches = ripe.match(*features)
    assert len(matches) > 20
    for side, points in enumerate(matches.points(*features)):
        np.testing.assert_array_equal(found[f"matched_kpts{side}"], points)
        np.testing.assert_array_equal(found[f"all_kpts{side}"], features[side].keypoints)
        np.testing.assert_array_equal(found[f"all_desc{side}"], features[side].descriptors)
    np.testing.assert_array_equal(found["matched_confidences"], matches.scores)


def test_vismatch_and_images_without_keypoints(vismatch: ModuleType) -> None:
    blank = torch.zeros(3, 40, 50)
    for options in ({}, {"method": "lightglue"}):
        found = vismatch.RIPEMatcher(**options)(blank, blank)
        assert found["all_kpts0"].shape == found["matched_kpts1"].shape == (0, 2)
        assert found["all_desc0"].shape == (0, 128)


def test_vismatch_is_told_of_a_matcher_for_other_features(vismatch: ModuleType, random_weights: Path) -> None:
    with pytest.raises(ValueError, match="was trained for the features of the model compact, not of these"):
        vismatch.RIPEMatcher(weights=random_weights, method="lightglue")


# image-matching-webui: https://github.com/Vincentqyw/image-matching-webui, hloc/utils/base_model.py of imcui 0.1.3


class StandInModel(torch.nn.Module):
    """What our models need of its BaseModel."""

    default_conf: dict[str, Any] = {}  # noqa: RUF012
    required_inputs: list[str] = []  # noqa: RUF012

    def __init__(self, conf: dict[str, Any]) -> None:
        super().__init__()
        self.conf = {**self.default_conf, **conf}
        self._init(self.conf)

    def forward(self, data: dict[str, Any]) -> dict[str, Any]:
        assert all(key in data for key in self.required_inputs)
        return self._forward(data)


class WebUI:
    """Finds models as the webui does, by what stands in its `confs` and, by `dynamic_load`, in its folders."""

    def __init__(self, confs: dict[str, dict[str, Any]]) -> None:
        self.confs = confs

    def make(self, folder: str, entry: str, **settings: Any) -> Any:
        conf = {**self.confs[folder][entry]["model"], **settings}
        path = f"imcui.hloc.{folder}.{conf['name']}"
        classes = [cls for cls in vars(importlib.import_module(path)).values() if isinstance(cls, type)]
        [found] = [cls for cls in classes if cls.__module__ == path and issubclass(cls, StandInModel)]
        return found(conf).eval()


@pytest.fixture
def webui(monkeypatch: pytest.MonkeyPatch) -> Iterator[WebUI]:
    parts = ("extractors", "matchers", "configs", "utils", "utils.base_model")
    put_in_place(monkeypatch, "imcui", "imcui.hloc", *(f"imcui.hloc.{part}" for part in parts))
    confs: dict[str, dict[str, Any]] = {"extractors": {"ripe": None}, "matchers": {"NN-mutual": None}}
    sys.modules["imcui.hloc.configs"].confs_dict = confs  # type: ignore[attr-defined]
    sys.modules["imcui.hloc.utils.base_model"].BaseModel = StandInModel  # type: ignore[attr-defined]
    importlib.import_module("ripe.integrations.imcui")
    yield WebUI(confs)
    del sys.modules["ripe.integrations.imcui"]
    for folder in ("extractors", "matchers"):
        del sys.modules[f"imcui.hloc.{folder}.ripe_keypoints"]


def test_the_webui_extracts_by_its_sliders(
    webui: WebUI, images: list[torch.Tensor], random_weights: Path, model: ripe.RIPE
) -> None:
    """They are moved after the model was made, too; the threshold is a probability."""
    assert webui.confs["extractors"]["ripe"] is None  # its own is left alone
    extractor = webui.make("extractors", "ripe-compact", weights=str(random_weights), max_keypoints=60)
    [everything] = model.extract(images[0], max_keypoints=60)
    found = extractor({"image": images[0][None]})
    assert torch.equal(found["keypoints"][0], everything.keypoints)
    assert torch.equal(found["descriptors"][0], everything.descriptors.T)
    middle = everything.scores.median()
    extractor.conf["keypoint_threshold"] = middle.sigmoid().item()
    kept = extractor({"image": images[0][None]})["scores"][0]
    assert abs(len(kept) - (everything.scores > middle).sum()) <= 1  # the score in the middle may be rounded up
    extractor.conf["keypoint_threshold"] = 1
    assert extractor({"image": images[0][None]})["keypoints"][0].shape == (0, 2)
    extractor.conf["keypoint_threshold"] = 1.5
    with pytest.raises(ValueError, match=r"keypoint_threshold is 1.5; it must be in 0\.\.1, a probability"):
        extractor({"image": images[0][None]})


def test_the_webui_matches_by_its_sliders(
    webui: WebUI, images: list[torch.Tensor], matcher_weights: Path, model: ripe.RIPE
) -> None:
    settings = {"weights": str(matcher_weights), "match_threshold": 0.001, "max_keypoints": 2000}
    matcher = webui.make("matchers", "ripe-compact-lightglue", **settings)
    pair = model.extract(images, max_keypoints=50)
    data = {}
    for side, (image, features) in enumerate(zip(images, pair, strict=True)):
        data |= {f"image{side}": image[None], f"keypoints{side}": features.keypoints[None]}
        data |= {f"descriptors{side}": features.descriptors.T[None]}
    counts = []
    for least in (0.001, 0.02):
        matcher.conf["match_threshold"] = least
        expected = ripe.match(*pair, method="lightglue", matcher=matcher_weights, min_score=least)
        wanted = torch.full((50,), -1)
        wanted[expected.indices[:, 0]] = expected.indices[:, 1]
        assert matcher(data)["matches0"][0].tolist() == wanted.tolist()
        counts.append(len(expected))
    assert counts[0] > counts[1]
    with pytest.raises(ValueError, match="unknown settings min_score; there are name, weights, match_threshold"):
        webui.make("matchers", "ripe-compact-lightglue", min_score=0.5)


@pytest.mark.parametrize(("name", "package"), [("vismatch", "vismatch"), ("imcui", "imcui")])
def test_without_the_package_the_message_says_how_it_is_installed(
    name: str, package: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(ImportError, match=f"is needed: pip install {package}"):
        importlib.import_module(f"ripe.integrations.{name}")
