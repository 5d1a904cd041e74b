"""Models on the Hugging Face Hub, by its own mixin: weights as safetensors, config.json and a model card.

    from ripe.integrations.huggingface import HubModel

    HubModel(model, license="apache-2.0").push_to_hub("name/of-the-model")
    model = HubModel.from_pretrained("name/of-the-model").model

A local folder (`save_pretrained`) is read like a repository. `HF_ENDPOINT` names another server. Needs huggingface_hub:
pip install 'ripe-keypoints[hub]'.
"""

from dataclasses import asdict
from pathlib import Path
from typing import Any

from huggingface_hub import ModelCard, ModelCardData, ModelHubMixin, hf_hub_download

from ripe.files import write_json
from ripe.model import RIPE
from ripe.pretrained import load, save_weights, weights_hash

WEIGHTS = "model.safetensors"
TAGS = ["image-matching", "keypoint-detection", "local-features"]
CARD = """---
{{ card_data }}
---

# {{ name }}: keypoints and descriptors for image matching

{{ dim }}-d descriptors; threshold {{ threshold }}; SHA-256 of the weights `{{ weights }}`.

```python
import ripe
from ripe.integrations.huggingface import HubModel

model = HubModel.from_pretrained("{{ repository }}").model
features0, features1 = model.extract(["left.jpg", "right.jpg"])
matches = ripe.match(features0, features1)
```

Keypoints are (x, y) in pixels of the image, the centre of the top-left pixel at (0, 0).
"""


class HubModel(ModelHubMixin):
    """A model with `save_pretrained`, `push_to_hub` and `from_pretrained`.

    Args:
        model: one of the library's architectures, built without options of its own.
        license: of the weights, as the Hub names it; for its card.

    Attributes:
        model: what was given, or loaded.
    """

    def __init__(self, model: RIPE, license: str = "apache-2.0") -> None:
        self.model = model
        self.license = license

    def generate_model_card(self, *args: Any, repo_id: str = "FOLDER", **kwargs: Any) -> ModelCard:
        """The card: what the model is, its licence, and how it is used."""
        data = ModelCardData(
            license=self.license, library_name="ripe-keypoints", pipeline_tag="keypoint-detection", tags=TAGS
        )
        return ModelCard.from_template(
            data,
            template_str=CARD,
            name=self.model.name,
            dim=self.model.descriptor_dim,
            threshold=self.model.detection.threshold,
            weights=weights_hash(self.model),
            repository=repo_id,
        )

    def _save_pretrained(self, save_directory: Path) -> None:
        save_weights(self.model, save_directory / WEIGHTS)
        config = {
            "architecture": self.model.name,
            "license": self.license,
            "descriptor_dim": self.model.descriptor_dim,
            "detection": asdict(self.model.detection),
            "weights_sha256": weights_hash(self.model),
        }
        write_json(save_directory / "config.json", config, indent=2)

    @classmethod
    def _from_pretrained(
        cls,
        *,
        model_id: str,
        revision: str | None,
        cache_dir: str | Path | None,
        force_download: bool,
        local_files_only: bool,
        token: str | bool | None,
        **model_kwargs: Any,
    ) -> "HubModel":
        if Path(model_id).is_dir():
            path = Path(model_id) / WEIGHTS
        else:
            fetched = hf_hub_download(
                model_id,
                WEIGHTS,
                revision=revision,
                cache_dir=cache_dir,
                force_download=force_download,
                local_files_only=local_files_only,
                token=token,
            )
            path = Path(str(fetched))
        return cls(load(path, device="cpu"), **model_kwargs)
