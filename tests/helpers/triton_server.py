"""A server that answers by Triton's protocol."""

from __future__ import annotations

import importlib
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import grpc
import numpy as np
from tritonclient.grpc import model_config_pb2, service_pb2, service_pb2_grpc


class StandIn(service_pb2_grpc.GRPCInferenceServiceServicer):  # type: ignore[misc]
    """Answers by Triton's protocol for one folder, with batches as its configuration allows."""

    def __init__(self, folder: Path, config: Any) -> None:
        self.config = config
        self.session = importlib.import_module("onnxruntime").InferenceSession(folder / "1" / "model.onnx")

    def ModelConfig(self, request: Any, context: Any) -> Any:  # noqa: N802 (the protocol's name)
        assert request.name == self.config.name
        return service_pb2.ModelConfigResponse(
            config=model_config_pb2.ModelConfig.FromString(self.config.SerializeToString())
        )

    def ModelInfer(self, request: Any, context: Any) -> Any:  # noqa: N802
        (given,), (declared_input,), (declared_output,) = request.inputs, self.config.input, self.config.output
        assert (request.model_name, given.name, given.datatype) == (self.config.name, declared_input.name, "FP32")
        assert given.shape[0] <= self.config.max_batch_size
        values = np.frombuffer(request.raw_input_contents[0], np.float32).reshape(given.shape)
        (scores,) = self.session.run([declared_output.name], {given.name: values})
        output = {"name": declared_output.name, "datatype": "FP32", "shape": scores.shape}
        return service_pb2.ModelInferResponse(outputs=[output], raw_output_contents=[scores.tobytes()])


@contextmanager
def serving(folder: Path, config: Any) -> Iterator[str]:
    """The address of a server of a model's folder with this configuration."""
    with ThreadPoolExecutor(1) as threads:
        server = grpc.server(threads)
        service_pb2_grpc.add_GRPCInferenceServiceServicer_to_server(StandIn(folder, config), server)
        port = server.add_insecure_port("127.0.0.1:0")
        server.start()
        yield f"127.0.0.1:{port}"
        server.stop(None).wait()
