"""Networks on a device: forms of Tiny for inference beside other networks, and training steps."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Callable
from typing import Any

import timm
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import transxnet
from gpu_operators import LAST, Run, error_of, first
from gpu_rows import Values
from literal import Literal
from transxnet import kernels

PEERS = ("pvt_v2_b1", "swin_tiny_patch4_window7_224", "convnext_tiny")
Form = Callable[[Any, Tensor], Callable[[Tensor], Any]]


def graphed(network: nn.Module, images: Tensor) -> Callable[[Tensor], Any]:
    """A network's pass recorded as a CUDA graph, which reads and writes the same memory each time."""
    stream = torch.cuda.Stream()
    with torch.cuda.stream(stream):
        for _ in range(3):
            network(images)
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        outputs = network(images)

    def replay(_: Tensor) -> Any:
        graph.replay()
        return outputs

    return replay


FORMS: dict[str, Form] = {
    "eager": lambda network, _: network,
    "CUDA graph": graphed,
    "compiled": lambda network, _: torch.compile(network, dynamic=False),
}


class Inference:
    """Forms of Tiny, or of its backbone, for inference.

    Args:
        run: Sizes and device.
        dense: Measure the backbone at 800 x 1280.
    """

    def __init__(self, run: Run, *, dense: bool) -> None:
        self.run, self.dense = run, dense
        self.section = "backbone" if dense else "inference"
        self.batch, size = (run.batch, run.size) if not dense or run.dry else (2, (800, 1280))
        self.model = run.network(dense=dense)
        x = torch.randn(self.batch, 3, *size, device=run.device)
        with torch.inference_mode(), kernels.use("reference"):
            self.expected = first(self.model(x[:2]))
        self.half = x.to(torch.bfloat16)
        self.last = self.half.contiguous(memory_format=LAST)

    def measure(self, name: str, form: str, limit: float) -> None:
        """A row of a network in a form: ``literal``, ``fuse`` or another network's name."""
        row = f"{name}, {form}"
        images = self.half if name == "literal" else self.last
        self.run.rows.measure(self.section, row, lambda: self._speed(name, FORMS[form], images), limit)

    def _speed(self, name: str, form: Form, images: Tensor) -> Values:
        if not self.run.dry:
            torch.cuda.reset_peak_memory_stats()
        with torch.inference_mode(), kernels.use("reference" if name == "literal" else "auto"):
            network = form(self._network(name), images)
            outputs = first(network(images))
            compared = name in ("literal", "fuse")
            values: Values = {"deviation": error_of(outputs[:2], self.expected)} if compared else {}
            ms = self.run.ms(lambda: network(images))
        memory = {} if self.run.dry else {"GiB": torch.cuda.max_memory_allocated() / 2**30}
        return values | {"ms": ms, "images/s": 1000 * self.batch / ms} | memory

    def _network(self, name: str) -> nn.Module:
        if name == "literal":
            return Literal(copy.deepcopy(self.model)).to(torch.bfloat16)  # type: ignore[arg-type]
        if name == "fuse":
            return transxnet.fuse(self.model).to(torch.bfloat16).to(memory_format=LAST)
        settings = {"features_only": True} if self.dense else {}
        model = timm.create_model(name, **settings).eval()
        return model.to(self.run.device, torch.bfloat16).to(memory_format=LAST)


def inference(run: Run, *, dense: bool) -> None:
    rows = Inference(run, dense=dense)
    rows.measure("literal", "eager", 40)
    rows.measure("fuse", "eager", 40)
    if run.dry:
        return
    rows.measure("fuse", "CUDA graph", 20)
    for peer in PEERS[2:] if dense else PEERS:
        rows.measure(peer, "eager", 20)
        rows.measure(peer, "CUDA graph", 20)


class Step:
    """A training step under bfloat16 autocast.

    Args:
        run: Sizes and device.
        policy: Who computes the operators.
        form: ``eager``, ``CUDA graph`` or ``compiled``.
    """

    def __init__(self, run: Run, policy: Any, form: str) -> None:
        self.run, self.policy = run, policy
        self.model: Any = run.network(drop_path_rate=0.1).train().to(memory_format=LAST)
        self.optimizer = torch.optim.AdamW(self.model.parameters(), lr=1e-6, fused=True)
        self.images = torch.randn(run.batch, 3, *run.size, device=run.device).contiguous(memory_format=LAST)
        self.labels = torch.randint(1000, (run.batch,), device=run.device)
        if form == "compiled":
            self.model.compile(dynamic=False)
        if form == "CUDA graph":  # of the forward and of the backward pass
            with kernels.use(policy), torch.autocast(run.device, torch.bfloat16, cache_enabled=False):
                self.model = torch.cuda.make_graphed_callables(self.model, (self.images,))

    def __call__(self) -> None:
        with kernels.use(self.policy):
            with self.run.autocast():
                loss = F.cross_entropy(self.model(self.images).float(), self.labels)
            loss.backward()
        self.optimizer.step()
        self.optimizer.zero_grad()


def training(run: Run, forms: tuple[str, ...] = ("eager", "CUDA graph"), limit: float = 50) -> None:
    def speed(policy: Any, form: str) -> Values:
        if not run.dry:
            torch.cuda.reset_peak_memory_stats()
        ms = run.ms(Step(run, policy, form))
        memory = {} if run.dry else {"GiB": torch.cuda.max_memory_allocated() / 2**30}
        return {"ms": ms, "images/s": 1000 * run.batch / ms} | memory

    for form in forms[:1] if run.dry else forms:
        for policy in ("auto", "reference"):
            name = f"{'PyTorch' if policy == 'reference' else 'our'} operators, {form}"
            run.rows.measure("training", name, lambda p=policy, f=form: speed(p, f), limit)


def compiled(run: Run) -> None:
    if run.dry:
        return
    Inference(run, dense=False).measure("fuse", "compiled", 120)
    Inference(run, dense=True).measure("fuse", "compiled", 120)
    training(run, ("compiled",), 160)
    rows = Inference(run, dense=False)
    for peer in PEERS:
        rows.measure(peer, "compiled", 60)


def waits(run: Run) -> None:
    """Host synchronisations, as PyTorch warns of them."""

    def counted(call: Callable[[], Any]) -> Values:
        call()
        if run.dry:
            return {"synchronisations": "not counted on a CPU"}
        torch.cuda.synchronize()
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            torch.cuda.set_sync_debug_mode("warn")
            try:
                call()
            finally:
                torch.cuda.set_sync_debug_mode("default")
        return {"synchronisations": sum("synchroniz" in str(one.message).lower() for one in caught)}

    model = transxnet.fuse(run.network()).to(memory_format=LAST)
    x = torch.randn(2, 3, *run.size, device=run.device).contiguous(memory_format=LAST)

    def infer() -> None:
        with torch.inference_mode(), kernels.use("auto"):
            model(x)

    run.rows.measure("waits", "inference, fuse", lambda: counted(infer))
    run.rows.measure("waits", "training step", lambda: counted(Step(run, "auto", "eager")), 40)
