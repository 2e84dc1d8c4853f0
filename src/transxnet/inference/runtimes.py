"""Running exported files, without the network that they were made from."""

from __future__ import annotations

import json
from abc import ABC, abstractmethod
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from transxnet.checkpoints.archives import open_archive, read_part
from transxnet.errors import CheckpointError, ConfigError, TransXNetError
from transxnet.files import open_regular, reason, user_path
from transxnet.inference.description import FORMATS, KEY, SMALLEST, Description, Format, part_path
from transxnet.inference.description_checks import check_outputs, check_signature, read_description
from transxnet.inference.formats import library, quiet
from transxnet.inference.graph_signatures import onnx_values, openvino_values, read_openvino
from transxnet.inference.programs import check_program

Array = npt.NDArray[np.float32]

_SUFFIXES: dict[str, Format] = {".onnx": "onnx", ".xml": "openvino"}
_PT2 = ".pt2"


class Runtime(ABC):
    """An exported network, ready to run.

    Args:
        path: The file.
        threads: Processor cores to use; PyTorch's number if not given.

    Attributes:
        description: The file's metadata.
        parts: The files beside it, by their names in ``description.parts``: heads that take pooled regions.
    """

    description: Description

    def __init__(self, path: Path, threads: int | None = None) -> None:
        self.path = path
        self.threads = threads or torch.get_num_threads()
        self.parts: dict[str, Runtime] = {}

    def run(self, images: Array) -> list[Array]:
        """The outputs, as :class:`Description` names them.

        Args:
            images: (B, C, H, W), float32, normalised as ``description.preprocessing`` gives. A part
                takes pooled regions (R, C, side, side), and there may be none.

        Raises:
            ConfigError: If they have another shape or type, or images a side under 32 pixels.
            CheckpointError: If the file cannot be run on them, or gives what its description does not.
        """
        if images.ndim != 4 or images.dtype != np.float32:
            what = self.description.input
            raise ConfigError(f"{what} are (count, C, H, W) in float32, not {images.shape} in {images.dtype}")
        if self.description.part:
            return self._run_regions(images)
        if not len(images) or min(images.shape[2:]) < SMALLEST:
            raise ConfigError(f"images are at least {SMALLEST} x {SMALLEST}, and one of them, not {images.shape}")
        return self._checked(images)

    def _run_regions(self, regions: Array) -> list[Array]:
        side = self.description.part_file.side
        if regions.shape[2:] != (side, side):
            raise ConfigError(f"regions for {self.description.part} are {side} x {side}, not {regions.shape}")
        if not len(regions):  # not every runtime takes none
            return [output[:0] for output in self._checked(np.zeros((1, *regions.shape[1:]), np.float32))]
        return self._checked(regions)

    def _checked(self, images: Array) -> list[Array]:
        try:
            outputs = self._run(np.ascontiguousarray(images))
        except TransXNetError:
            raise
        except Exception as error:  # every runtime has its own
            raise CheckpointError(f"{self.path} cannot be run on {images.shape}: {reason(error)}") from error
        check_outputs(self.description, images.shape, outputs, self.path)
        return outputs

    @abstractmethod
    def _run(self, images: Array) -> list[Array]: ...


class OnnxRuntime(Runtime):
    """ONNX Runtime on the processor."""

    def __init__(self, path: Path, threads: int | None = None) -> None:
        super().__init__(path, threads)
        onnxruntime = library("onnxruntime")
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = self.threads
        options.log_severity_level = 4  # its messages come as exceptions too
        with _readable(path):
            # A fallback to another provider would print on standard output.
            self._session = onnxruntime.InferenceSession(
                str(path), options, providers=["CPUExecutionProvider"], enable_fallback=0
            )
            metadata = self._session.get_modelmeta().custom_metadata_map.get(KEY)
        self.description = read_description(metadata, path)
        values = (onnx_values(self._session.get_inputs()), onnx_values(self._session.get_outputs()))
        check_signature(self.description, path, *values)

    def _run(self, images: Array) -> list[Array]:
        return list(self._session.run(None, {self.description.input: images}))


@cache
def _core() -> Any:
    """OpenVINO's engine, which lives as long as the process.

    On processors with AMX, each engine gives its thread a stack for signals and puts back the one before when it ends,
    which may be another engine's that has ended: the next signal then ends the process (seen of 2026.4).
    """
    return library("openvino").Core()


class OpenVinoRuntime(Runtime):
    """OpenVINO on the processor, in the precision that the file asks for."""

    def __init__(self, path: Path, threads: int | None = None) -> None:
        super().__init__(path, threads)
        core = _core()
        if path.suffix == ".xml":
            _check_there(path.with_suffix(".bin"), f"it has the weights of {path.name}")
        with _readable(path):
            model = read_openvino(core, path)
            where = ["framework", KEY] if path.suffix == ".onnx" else [KEY]
            metadata = model.get_rt_info(where).astype(str) if model.has_rt_info(where) else None
        self.description = read_description(metadata, path)
        with _readable(path):
            values = (openvino_values(model.inputs), openvino_values(model.outputs))
        check_signature(self.description, path, *values)
        wanted = "bf16" if self.description.precision == "bfloat16" else "f32"
        settings = {"INFERENCE_PRECISION_HINT": wanted, "INFERENCE_NUM_THREADS": self.threads}
        with _readable(path):
            self._compiled = core.compile_model(model, "CPU", settings)

    def _run(self, images: Array) -> list[Array]:
        # Measured of 2026.4: outputs are wrong if the last map has one position, right if it has two.
        if self.description.precision == "int8" and len(images) == 1 and max(images.shape[2:]) <= SMALLEST:
            raise ConfigError(
                f"OpenVINO gives wrong outputs in int8 for a single image of {SMALLEST} x {SMALLEST}; give it two, or "
                "run an ONNX file in ONNX Runtime"
            )
        outputs = self._compiled([images])
        return [np.array(outputs[output]) for output in self._compiled.outputs]  # copies: OpenVINO overwrites its own


class TorchRuntime(Runtime):
    """PyTorch's interpreter of exported programs."""

    def __init__(self, path: Path, threads: int | None = None) -> None:
        super().__init__(path, threads)
        with _readable(path):
            metadata = check_program(path)
        self.description = read_description(metadata, path)
        with _readable(path), quiet():
            program = torch.export.load(path)
        # The guards hold assumptions about a side of 1 that the operators do not need.
        self._module = program.module(check_guards=False)

    def _run(self, images: Array) -> list[Array]:
        with torch.inference_mode():
            return [output.numpy() for output in self._module(torch.from_numpy(images))]


class AotRuntime(Runtime):
    """A network compiled by AOTInductor: native code, which can execute anything once it is loaded."""

    def __init__(self, path: Path, threads: int | None = None) -> None:
        super().__init__(path, threads)
        with _readable(path):
            metadata = _aot_metadata(path)
        self.description = read_description(metadata, path)
        with _readable(path), quiet():
            self._module = torch._inductor.aoti_load_package(str(path))

    def _run(self, images: Array) -> list[Array]:
        with torch.inference_mode():
            return [output.numpy() for output in self._module(torch.from_numpy(images))]


_RUNTIMES: dict[Format, type[Runtime]] = {
    "onnx": OnnxRuntime,
    "openvino": OpenVinoRuntime,
    "torch": TorchRuntime,
    "aot": AotRuntime,
}


def load_exported(path: str | Path, runtime: Format | None = None, *, threads: int | None = None) -> Runtime:
    """Load a file that :func:`transxnet.export` wrote.

    Args:
        path: The file.
        runtime: The runtime, if not that of the file's own format. ONNX files run
            in OpenVINO too. Files that end in .pt2 are programs, which can execute anything once they
            are loaded: they run only if "torch" or "aot" is asked for.
        threads: Processor cores to use; PyTorch's number if not given.

    Raises:
        CheckpointError: If the file, or one beside it, is missing, damaged, not ours or of another version,
            or is not what its description gives.
        ConfigError: If the runtime does not run such files, or must be asked for.
        MissingExtraError: If the runtime is not installed.
    """
    path = user_path(path)
    kind = format_of(path)
    if runtime is not None and runtime not in FORMATS:
        raise ConfigError(f"there is no runtime {runtime!r}; there are {', '.join(FORMATS)}")
    if path.suffix == _PT2 and runtime is None:
        what = "compiled code" if kind == "aot" else "a program of PyTorch's"
        raise ConfigError(
            f"{path} is {what}: if you trust where it comes from, ask for it with the runtime {kind} (--runtime {kind})"
        )
    if runtime not in (None, kind) and (kind, runtime) != ("onnx", "openvino"):
        raise ConfigError(f"{path} is a file for {kind}, which {runtime} does not run")
    loaded = _RUNTIMES[runtime or kind](path, threads)
    description = loaded.description
    if description.format != kind:
        raise CheckpointError(f"{path} is a file for {kind}, but its description gives {description.format}")
    if description.part:
        whole = f"{path.stem.removesuffix(f'.{description.part}')}{path.suffix}"
        raise CheckpointError(f"{path} holds a part of a detector; give the file that it belongs to, {whole}")
    for part in description.parts:
        loaded.parts[part] = _load_part(loaded, part, runtime or kind)
    return loaded


def _load_part(whole: Runtime, part: str, kind: Format) -> Runtime:
    path = part_path(whole.path, part)
    _check_there(path, f"it has a part of {whole.path.name}; keep its files together")
    loaded = _RUNTIMES[kind](path, whole.threads)
    if loaded.description != whole.description.of_part(part):
        raise CheckpointError(f"{path} is of another export than {whole.path.name}; export the network again")
    return loaded


def is_exported(path: str) -> bool:
    """Whether a name is an exported file's."""
    return Path(path).suffix in (*_SUFFIXES, _PT2)


def format_of(path: Path) -> Format:
    """The format of an exported file, by its ending and content.

    Raises:
        CheckpointError: If it is missing, empty, damaged or none.
    """
    try:
        open_regular(path).close()
    except FileNotFoundError as error:
        raise CheckpointError(f"{path} does not exist") from error
    except OSError as error:
        raise CheckpointError(f"{path} cannot be read: {reason(error)}") from error
    if path.suffix in _SUFFIXES:
        return _SUFFIXES[path.suffix]
    if path.suffix != _PT2:
        raise CheckpointError(f"{path} is no exported network: their names end in .onnx, .xml or .pt2")
    with _readable(path), open_archive(path) as archive:
        return "aot" if any("/aotinductor/" in name for name in archive.namelist()) else "torch"


def _check_there(path: Path, use: str) -> None:
    """Raise CheckpointError if a file beside another is missing."""
    try:
        open_regular(path).close()
    except FileNotFoundError as error:
        raise CheckpointError(f"{path} is missing: {use}") from error
    except OSError as error:
        raise CheckpointError(f"{path} cannot be read: {reason(error)}") from error


def _aot_metadata(path: Path) -> str | None:
    """A package's description, read without running it."""
    with open_archive(path) as archive:
        for name in archive.namelist():
            if name.endswith("_metadata.json"):
                metadata: str | None = json.loads(read_part(archive, name)).get(KEY)
                return metadata
    return None


@contextmanager
def _readable(path: Path) -> Iterator[None]:
    """A reader's own complaint as one line."""
    try:
        yield
    except TransXNetError:
        raise
    except Exception as error:
        raise CheckpointError(
            f"{path} ({path.stat().st_size:,} bytes) is truncated or not an exported network; export or copy it again "
            f"[{reason(error)}]"
        ) from error
