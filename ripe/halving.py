"""Exported files in half precision, for GPUs, phones and whatever else is fast at it; the files are smaller, too.

What the network's stages compute becomes float16. Scores, positions and descriptors stay in float32: neighbouring
scores would tie, and a float16 does not know the numbers of pixels above 2048.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from ripe.files import check_writable, replacing

if TYPE_CHECKING:
    from onnx import GraphProto, NodeProto

STAGES = ("model.net.stages.", "model.net.encoder.", "model.net.widest.")
"""How the names of the weights begin that become float16."""
CARRIED = {"Relu", "AveragePool", "MaxPool", "Add"}
"""What is computed in float16 if all that goes in is."""


def halve(source: str | Path, path: str | Path) -> None:
    """Write an exported file of a network anew with its stages in float16; whole or not at all.

    Inputs, outputs and metadata are those of the source, but for `precision`: float16.

    Args:
        source: a float32 file of `ripe.export.export`.
        path: the file to be written; replaced whole.

    Raises:
        ValueError: it is no such file, or the package onnx is not installed.
        OSError: a file cannot be read or written.
    """
    check_writable(path)
    try:
        import onnx
        from google.protobuf.message import DecodeError
    except ImportError as error:
        raise ValueError(f"float16 needs onnx: pip install 'ripe-keypoints[export]' ({error})") from error
    try:
        model = onnx.load(source)
    except DecodeError as error:
        raise ValueError(f"{source}: damaged, or no ONNX file") from error
    about = {each.key: each.value for each in model.metadata_props}
    nodes = list(_halved(model.graph))
    if "precision" in about or len(nodes) == len(model.graph.node):
        raise ValueError(f"{source}: not a float32 file of an extractor")
    del model.graph.node[:]
    model.graph.node.extend(nodes)
    onnx.helper.set_model_props(model, {**about, "precision": "float16"})
    onnx.checker.check_model(model)
    with replacing(path) as temporary:
        temporary.write_bytes(model.SerializeToString())


def _halved(graph: "GraphProto") -> Iterator["NodeProto"]:
    """The nodes, those of the stages in float16, with casts where these begin and end; weights become float16."""
    from onnx import TensorProto, helper, numpy_helper

    weights = {each.name: each for each in graph.initializer}
    stages = {node.name: node for node in _stages(graph)}
    halves = {name for node in stages.values() for name in node.output}
    others = [node for node in graph.node if node.name not in stages]
    wanted = {name for node in others for name in node.input} | {output.name for output in graph.output}
    for node in graph.node:
        if node.name not in stages:
            yield node
            continue
        for number, name in enumerate(node.input):
            if name in weights:
                half = numpy_helper.to_array(weights[name]).astype(np.float16)
                weights[name].CopyFrom(numpy_helper.from_array(half, name))
                continue
            if name not in halves:
                halves.add(name)
                yield helper.make_node("Cast", [name], [f"{name}_half"], f"{name}_to_half", to=TensorProto.FLOAT16)
            node.input[number] = f"{name}_half"
        [output] = node.output
        node.output[0] = f"{output}_half"
        yield node
        if output in wanted:
            yield helper.make_node("Cast", [f"{output}_half"], [output], f"{output}_to_float", to=TensorProto.FLOAT)


def _stages(graph: "GraphProto") -> Iterator["NodeProto"]:
    """The nodes that become float16."""
    weights = {each.name for each in graph.initializer}
    halves = set[str]()
    for node in graph.node:  # each after those whose outputs it takes
        taken = set(node.input) - weights
        convolves = node.op_type == "Conv" and node.input[1].startswith(STAGES)
        if convolves or (node.op_type in CARRIED and taken and taken <= halves):
            halves.update(node.output)
            yield node
