"""A model repository for NVIDIA's Triton inference server, with the ONNX file as version 1."""

from calojax.api import TrainedModel
from calojax.export import onnx
from calojax.export.metadata import as_json
from calojax.export.options import Options

NAME = "calojax"
"""Name of the model on the server."""


def files(trained: TrainedModel, options: Options) -> dict[str, bytes]:
    """``calojax/config.pbtxt``, ``calojax/1/model.onnx`` and ``calojax/model.json``."""
    content, facts = onnx.model(trained, options)

    def tensors(kind: str) -> str:
        each = [
            f'{{ name: "{name}" data_type: TYPE_FP32 dims: {shape} }}'
            for name, shape in facts[f"{kind}s"].items()
        ]
        return f"{kind} [ {', '.join(each)} ]\n"

    # The batch is fixed, so it is part of the shapes.
    config = (
        f'name: "{NAME}"\nplatform: "onnxruntime_onnx"\nmax_batch_size: 0\n'
        + tensors("input")
        + tensors("output")
    )
    return {
        f"{NAME}/config.pbtxt": config.encode(),
        f"{NAME}/1/model.onnx": content,
        f"{NAME}/model.json": as_json(facts),
    }
