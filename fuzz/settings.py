"""Settings of training from YAML and `key=value`, and the options of all commands."""

import contextlib
import io
import os

from harness import Provider, pick, plain, run, scratch, watched

with watched():
    import yaml

    from ripe.cli import COMMANDS, _parser
    from ripe.cli.options import extraction_settings, match_filter
    from ripe.recipe.config import TrainConfig
    from ripe.training.presets import compose, groups, presets

FOLDER = scratch()
os.chdir(FOLDER)
KNOWN = TrainConfig().flat()
WORDS = (*KNOWN, *TrainConfig().to_dict(), "base", "data", "model", "defaults", "_self_", "megadepth", "${seed}", "???")
OPTIONS = (
    *("--max-keypoints", "--threshold", "--scales", "--resize", "--masks", "--max-megapixels", "--method", "--ratio"),
    *("--min-similarity", "--min-score", "--intrinsics", "--draw", "--view", "--geometry", "--inlier-threshold"),
    *("--pairs", "--device", "--precision", "--json", "-o", "--", "-h", "--debug", "--seed", "--limit", "--camera"),
)
VALUES = ("0", "-1", "1", "nan", "inf", "1e999", "9" * 5000, "1,0.5", "1,2,3,4", ",", "none", "auto", "a.jpg", "x.y")


def from_values(provider: Provider) -> None:
    """Nested values, as a checkpoint has them."""
    values = plain(provider, WORDS)
    if provider.ConsumeBool():
        values = {pick(provider, WORDS).split(".")[0]: values}
    try:
        config = TrainConfig.from_dict(values)
    except ValueError:
        return
    assert TrainConfig.from_dict(config.to_dict()) == config


def from_hydra(provider: Provider) -> None:
    """A preset of one's own, and settings of the command line."""
    text = yaml.safe_dump(plain(provider, WORDS), allow_unicode=True) if provider.ConsumeBool() else None
    content = provider.ConsumeBytes(80) if text is None else text.encode(errors="replace")
    (FOLDER / "own.yaml").write_bytes(content)
    settings = []
    for _ in range(provider.ConsumeIntInRange(0, 3)):
        key = pick(provider, WORDS) if provider.ConsumeBool() else provider.ConsumeUnicode(8)
        said = str(plain(provider, WORDS, 1)) if provider.ConsumeBool() else provider.ConsumeUnicode(12)
        settings.append(f"{pick(provider, ('', '', '+', '~', '++'))}{key}{pick(provider, ('=', '=', '', '@'))}{said}")
    own = provider.ConsumeBool()
    preset = "own" if own else pick(provider, presets())
    with contextlib.suppress(ValueError, OSError):
        compose(preset, settings, FOLDER if own else None)


def from_words(provider: Provider) -> None:
    """The words of a command line."""
    command = pick(provider, sorted(COMMANDS))
    words = [command]
    for _ in range(provider.ConsumeIntInRange(0, 6)):
        chosen = pick(provider, OPTIONS) if provider.ConsumeBool() else pick(provider, VALUES)
        words.append(chosen if provider.ConsumeIntInRange(0, 3) else provider.ConsumeUnicodeNoSurrogates(6))
    with contextlib.redirect_stderr(io.StringIO()), contextlib.redirect_stdout(io.StringIO()):
        try:
            arguments = _parser(command).parse_args(words)
        except SystemExit as end:
            if end.code not in (0, 2):  # help, and wrong usage
                raise AssertionError(f"exit status {end.code}") from end
            return
    with contextlib.suppress(ValueError, OSError):
        if vars(arguments).keys() >= {"max_keypoints", "threshold", "resize", "scales"}:
            extraction_settings(arguments)
    with contextlib.suppress(ValueError, OSError):
        if hasattr(arguments, "min_score"):
            match_filter(arguments)


def target(provider: Provider) -> None:
    """One of the three; Hydra's are slow, so that they come less often."""
    kind = provider.ConsumeIntInRange(0, 15)
    if kind == 0:
        from_hydra(provider)
    elif kind < 8:
        from_words(provider)
    else:
        from_values(provider)


if __name__ == "__main__":
    groups()
    run(target)
