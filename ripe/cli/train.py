"""`ripe train`: learn to find and describe keypoints from a folder of photos."""

import argparse
import logging

EXAMPLES = """examples:
  ripe train data.scenes=photos/by_scene output=outputs/mine
  ripe train data.singles=photos data.self_share=1 data.negative_share=0 max_minutes=60
  ripe train --resume output=outputs/mine data.scenes=photos/by_scene

Stop it with Ctrl-C or SIGTERM: it finishes the step at hand, writes a checkpoint and ends; --resume goes on.
Every setting is a field of ripe.training.config.TrainConfig, written group.key=value.
"""


def add_parser(subparsers: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Add `ripe train` to the command line."""
    parser = subparsers.add_parser(
        "train",
        help="train a network on a folder of photos",
        description="Train a network on photos: scene folders, or any flat folder.",
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("settings", nargs="*", metavar="KEY=VALUE", help="settings that differ from the defaults")
    parser.add_argument("--resume", action="store_true", help="go on from the checkpoint in the output folder")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Train; prints a line of figures now and then, and where the weights are at the end."""
    from ripe.training.config import TrainConfig
    from ripe.training.loop import train

    logging.basicConfig(level=logging.WARNING, format="%(levelname)s %(message)s")
    config = TrainConfig().override(args.settings)
    weights = train(config, resume=args.resume, report=_print_figures)
    print(f"weights: {weights}")
    return 0


def _print_figures(step: int, figures: dict[str, float]) -> None:
    shown = ("loss/total", "loss/descriptor", "keypoints", "matches", "inlier_ratio/self", "inlier_ratio/real")
    parts = [f"{name.removeprefix('loss/')} {figures[name]:.3g}" for name in shown if name in figures]
    print(f"step {step}  " + "  ".join(parts), flush=True)
