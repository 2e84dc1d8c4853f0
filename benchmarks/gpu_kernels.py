"""Registers and spills of the package's Triton kernels, compiled for GPUs that need not be there.

    python benchmarks/gpu_kernels.py                          # for sm_80 and sm_90, of a training step of Tiny
    python benchmarks/gpu_kernels.py --architectures 90 --limit 4

Each kernel is compiled as a pass launches it. A kernel that spills registers to memory is marked, and the exit code is
1 then.
"""

from __future__ import annotations

import argparse
import os
import re
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

os.environ.pop("TRITON_INTERPRET", None)  # before Triton is imported

import torch
import triton
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

import transxnet
from transxnet import kernels

sys.path.insert(0, str(Path(__file__).parent))
from gpu_fakes import CudaAutocast, attend_plainly, attention_by, convertible, put_on
from gpu_launches import Launch, run

TYPES = {torch.float32: "fp32", torch.bfloat16: "bf16", torch.float16: "fp16", torch.float64: "fp64"}
OPTIONS = ("num_warps", "num_stages", "maxnreg", "num_ctas")


class Launches(TorchDispatchMode):
    """Collects the launches of the package's operators, once for each way in which a kernel is compiled."""

    def __init__(self) -> None:
        super().__init__()
        self.found: dict[str, tuple[Launch, dict[str, Any]]] = {}

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func.namespace == "transxnet":
            run(func._schema.name.partition("::")[2], args, self._keep)
        return func(*args, **(kwargs or {}))

    def _keep(self, launch: Launch) -> None:
        described = source_of(launch)
        self.found.setdefault(f"{launch.name} {described}", (launch, described))


def source_of(launch: Launch) -> dict[str, Any]:
    """Types, constants and divisible arguments of a launch, as Triton specialises a kernel."""
    function = launch.kernel
    given = dict(zip(function.arg_names, launch.args, strict=False)) | {
        name: value for name, value in launch.options.items() if name not in OPTIONS
    }
    signature, constants, aligned = {}, {}, []
    for index, name in enumerate(function.arg_names):
        value = given.get(name, function.params[index].default)
        if function.params[index].is_constexpr or value is None or (type(value) is int and value == 1):
            signature[name], constants[name] = "constexpr", value
        elif isinstance(value, Tensor):
            signature[name] = f"*{TYPES.get(value.dtype, 'i32')}"
            if value.storage_offset() * value.element_size() % 16 == 0:
                aligned.append(index)
        elif isinstance(value, float):
            signature[name] = "fp32"
        else:
            signature[name] = "i32" if abs(value) < 2**31 else "i64"
            if value % 16 == 0:
                aligned.append(index)
    options = {name: value for name, value in launch.options.items() if name in OPTIONS}
    return {"signature": signature, "constants": constants, "aligned": aligned, "options": options}


def compiled(launch: Launch, described: dict[str, Any], architecture: int) -> dict[str, int]:
    """Registers, and bytes of stack, shared and local memory of a compiled kernel."""
    names = launch.kernel.arg_names
    source = ASTSource(
        fn=launch.kernel,
        signature=described["signature"],
        constexprs={(names.index(name),): value for name, value in described["constants"].items()},
        attrs={(index,): [["tt.divisibility", 16]] for index in described["aligned"]},
    )
    target = GPUTarget("cuda", architecture, 32)
    binary = triton.compile(source, target=target, options=described["options"]).asm["cubin"]
    tool = Path(triton.__file__).parent / "backends" / "nvidia" / "bin" / "cuobjdump"
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(binary)
        file.flush()
        text = subprocess.run([tool, "-res-usage", file.name], capture_output=True, text=True, check=True).stdout
    found = re.search(r"REG:(\d+) STACK:(\d+) SHARED:(\d+) LOCAL:(\d+)", text)
    assert found is not None, text
    return dict(zip(("registers", "stack", "shared", "local"), map(int, found.groups()), strict=True))


def launches(name: str, batch: int, side: int) -> list[tuple[Launch, dict[str, Any]]]:
    """All that a training step under bfloat16 autocast launches."""
    model: nn.Module = transxnet.create_model(name, drop_path_rate=0.1).train().to(memory_format=torch.channels_last)
    with FakeTensorMode(allow_non_fake_inputs=True), convertible(), kernels.use("triton"):
        put_on(model, "cpu")
        x = torch.empty(batch, 3, side, side).contiguous(memory_format=torch.channels_last)
        with attention_by(attend_plainly), Launches() as found:
            with CudaAutocast():
                outputs = model(x)
            outputs.float().square().mean().backward()
    return list(found.found.values())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--architectures", nargs="+", type=int, default=[80, 90])
    parser.add_argument("--model", default="transxnet_tiny")
    parser.add_argument("--batch", type=int, default=128)
    parser.add_argument("--size", type=int, default=224)
    parser.add_argument("--limit", type=int, help="how many kernels to compile")
    options = parser.parse_args()
    spilled = False
    print(f"{options.model}, a training step, triton {triton.__version__}\n")
    print("| kernel | sm | registers | stack | local | shared |\n|---|---:|---:|---:|---:|---:|")
    for launch, described in launches(options.model, options.batch, options.size)[: options.limit]:
        shown = [f"{key}={value}" for key, value in described["constants"].items() if key.isupper()]
        for architecture in options.architectures:
            used = compiled(launch, described, architecture)
            bad = bool(used["stack"] or used["local"])
            spilled |= bad
            cells = [used[key] for key in ("registers", "stack", "local", "shared")]
            name = f"{launch.name} {' '.join(shown)}{' SPILLS' if bad else ''}"
            print(f"| {name} | {architecture} | {' | '.join(map(str, cells))} |", flush=True)
    sys.exit(spilled)


if __name__ == "__main__":
    main()
