"""Memory traffic of compiled passes on a CUDA device, by TorchInductor's own count: nothing is compiled or run.

Graphs are traced with tensors without values, then lowered and scheduled for a described H100. The package's operators
are counted by :mod:`gpu_launches`, other operators that Inductor does not generate by their inputs and outputs.
"""

from __future__ import annotations

from collections import defaultdict
from typing import Any

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.fx import GraphModule, Node
from torch.utils._pytree import tree_map

from gpu_eager import rows_of
from gpu_fakes import CudaAutocast, attend_plainly, attention_by, described_gpu

Rows = dict[str, list[int]]


def attention_kernel(q: Tensor, k: Tensor, v: Tensor, bias: Tensor | None, scale: float | None) -> Tensor:
    """PyTorch's kernel for attention with a bias."""
    attention = torch.ops.aten._scaled_dot_product_efficient_attention
    bias = None if bias is None else bias.expand(q.shape[0], -1, -1, -1)
    return attention(q, k, v, bias, False, 0.0, False, scale=scale)[0]  # type: ignore[no-any-return]


def count_inference(model: nn.Module, x: Tensor, mode: FakeTensorMode) -> Rows:
    """A pass of a network without gradients, both on a CUDA device without values."""
    from torch._inductor.decomposition import select_decomp_table
    from torch.fx.experimental.proxy_tensor import make_fx

    state = {**dict(model.named_parameters()), **dict(model.named_buffers())}

    def run(x: Tensor, *values: Tensor) -> Any:
        return torch.func.functional_call(model, dict(zip(state, values, strict=True)), (x,))

    rows: Rows = defaultdict(lambda: [0, 0])
    inputs = [x, *state.values()]
    with torch.no_grad(), attention_by(attention_kernel):
        graph = make_fx(run, decomposition_table=select_decomp_table())(*inputs)
    graph.graph.eliminate_dead_code()
    graph.recompile()
    _count(graph, inputs, mode, rows, backward=False, inference=True)
    return rows


def count_training(model: nn.Module, x: Tensor, mode: FakeTensorMode) -> Rows:
    """Forward and backward under bfloat16 autocast. Both are on a CPU without values, see :class:`CudaAutocast`; the
    graphs are moved to the CUDA device.
    """
    from torch._functorch.aot_autograd import aot_function
    from torch._functorch.partitioners import min_cut_rematerialization_partition
    from torch._inductor.decomposition import select_decomp_table

    state = {**dict(model.named_parameters()), **dict(model.named_buffers())}
    graphs: list[tuple[GraphModule, Any]] = []

    def keep(graph: GraphModule, inputs: Any) -> Any:
        graphs.append((graph, inputs))
        return graph.forward

    def run(x: Tensor, *values: Tensor) -> Tensor:
        with CudaAutocast(), attention_by(attend_plainly):
            return loss_of(torch.func.functional_call(model, dict(zip(state, values, strict=True)), (x,)))

    table = select_decomp_table()
    compiled = aot_function(run, keep, keep, min_cut_rematerialization_partition, decompositions=table)
    compiled(x, *state.values()).backward()
    rows: Rows = defaultdict(lambda: [0, 0])
    for index, (graph, inputs) in enumerate(graphs):
        _move(graph)
        _count(graph, tree_map(_moved, list(inputs)), mode, rows, backward=index == 1, inference=False)
    return rows


def _move(graph: GraphModule) -> None:
    for node in graph.graph.nodes:
        if "device" in node.kwargs:
            node.kwargs = {**node.kwargs, "device": torch.device("cuda:0")}
        if "val" in node.meta:
            node.meta["val"] = tree_map(_moved, node.meta["val"])


def _moved(x: Any) -> Any:
    return torch.empty_strided(x.shape, x.stride(), dtype=x.dtype, device="cuda") if isinstance(x, Tensor) else x


def _count(
    graph: GraphModule, inputs: Any, mode: FakeTensorMode, rows: Rows, *, backward: bool, inference: bool
) -> None:
    from torch._inductor import config as inductor_config
    from torch._inductor.debug import DebugContext
    from torch._inductor.graph import GraphLowering
    from torch._inductor.scheduler import ExternKernelSchedulerNode
    from torch._inductor.virtualized import V

    # Drop path's random numbers are drawn by PyTorch then, which needs no more of Inductor.
    with described_gpu(), torch.no_grad(), inductor_config.patch(fallback_random=True):
        lowered = GraphLowering(
            graph, example_inputs=inputs, is_inference=inference, is_backward=backward, shape_env=mode.shape_env
        )
        with DebugContext(), V.set_graph_handler(lowered), V.set_fake_mode(mode), V.set_extern_kernel_nodes([]):
            lowered.run(*inputs)
            lowered.init_wrapper_code()
            lowered._update_scheduler()
            _, counts, _ = lowered.count_bytes()
        for node, words in counts:
            label = _label(node) if isinstance(node, ExternKernelSchedulerNode) else _kind(node)
            if label is not None:
                rows[label][0] += 4 * words
                rows[label][1] += 1
    for node in graph.graph.nodes:
        if _is_ours(node.target):
            args = tree_map(lambda one: one.meta["val"] if isinstance(one, Node) else one, tuple(node.args))
            for label, (size, launches) in rows_of(node.target._schema.name.partition("::")[2], args).items():
                rows[label][0] += size
                rows[label][1] += launches


def _is_ours(operator: Any) -> bool:
    return getattr(operator, "namespace", None) == "transxnet"


def _label(node: Any) -> str | None:
    """An operator that Inductor calls; None for the package's own."""
    if _is_ours(getattr(node.node, "op_overload", None)):
        return None
    name = str(getattr(node.node, "python_kernel_name", None) or type(node.node).__name__)
    depthwise = False
    if "convolution" in name:
        sizes = [tuple(map(int, one.get_size())) for one in node.node.inputs]
        depthwise = any(len(size) == 4 and size[1] == 1 and size[2] > 1 for size in sizes)
    return f"{name.removeprefix('extern_kernels.')}{', depthwise' if depthwise else ''}"


def _kind(node: Any) -> str:
    return "generated reduction" if node.is_reduction() else "generated pointwise"


def loss_of(outputs: Any) -> Tensor:
    """A loss of a network's outputs: the cross-entropy's gradients need labels, which have no values here."""
    outputs = outputs if isinstance(outputs, list | tuple) else [outputs]
    return torch.stack([output.float().square().mean() for output in outputs]).sum()
