"""A GPU for machines without one: its tensors keep their values on the CPU.

Inside `with PretendGPU() as gpu`, a tensor moved to or made on `gpu.device` becomes an `OnGPU`.
Mixing it with a CPU tensor in one operation raises RuntimeError, as CUDA does, and `gpu.waits`
lists the places in ppad where the program waited for a result or a copy. The device is named
`meta`, which autograd and modules know on every machine. It cannot test half precision, pinned
memory, streams, several GPUs or the kernels themselves.
"""

import contextlib
import traceback
from unittest.mock import patch

import torch
from torch.utils._python_dispatch import TorchDispatchMode

aten = torch.ops.aten
META = torch.device("meta")
BETWEEN = {
    aten.copy_.default,
    aten._to_copy.default,
    aten.to.device,
    aten.to.dtype_layout,
    aten.to.other,
}  # copies between devices
INDEXED = {
    aten.index.Tensor,
    aten.index_put_.default,
    aten.index_put.default,
    aten._index_put_impl_.default,
}
ANSWERS = {
    aten._local_scalar_dense.default,
    aten.equal.default,
    aten.nonzero.default,
    aten.masked_select.default,
}


class OnGPU(torch.Tensor):
    """A GPU tensor; the CPU tensor `.here` has its values."""

    @staticmethod
    def __new__(cls, here):
        made = torch.Tensor._make_wrapper_subclass(
            cls,
            here.shape,
            strides=here.stride(),
            storage_offset=here.storage_offset(),
            dtype=here.dtype,
            device=META,
        )
        made.here = here
        return made

    def new_tensor(self, data, dtype=None):
        return OnGPU(torch.tensor(data, dtype=dtype or self.dtype))

    def tolist(self):
        return self.cpu().tolist()

    def numpy(self, **_):
        raise TypeError("can't convert a GPU tensor to numpy: use .cpu() first")

    @classmethod
    def __torch_dispatch__(cls, func, types, args=(), kwargs=None):
        return _run(func, args, kwargs or {}, lambda what: None)


class PretendGPU(TorchDispatchMode):
    """See the top of the file."""

    def __init__(self):
        super().__init__()
        self.device = META
        self.waits = []
        tensor = torch.tensor
        as_tensor = torch.as_tensor
        save = torch.save
        autocast = torch.autocast

        class Generator(torch.Generator):
            def __new__(cls, device="cpu"):
                return super().__new__(cls, "cpu" if _there(device) else device)

        def made(make):
            def from_values(data, *, device=None, **how):
                if isinstance(data, torch.Tensor) or not _there(device):
                    return make(data, device=device, **how)
                return OnGPU(make(data, **how))

            return from_values

        def saved(what, *where):
            return save(_home(what), *where)

        def half(kind, *how, **more):
            return contextlib.nullcontext() if _there(kind) else autocast(kind, *how, **more)

        self.patches = patch.multiple(
            torch,
            tensor=made(tensor),
            as_tensor=made(as_tensor),
            save=saved,
            autocast=half,
            Generator=Generator,
        )

    def __enter__(self):
        self.patches.start()
        return super().__enter__()

    def __exit__(self, *error):
        self.patches.stop()
        return super().__exit__(*error)

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        return _run(func, args, kwargs or {}, self._note)

    def _note(self, what):
        places = [
            f"{frame.filename}:{frame.lineno}"
            for frame in traceback.extract_stack()
            if "/ppad/" in frame.filename
        ]
        self.waits.append((str(what), places[-1] if places else ""))


def _run(func, args, kwargs, note):
    flat = list(_leaves((args, kwargs)))
    there = [one for one in flat if isinstance(one, OnGPU)]
    here = [one for one in flat if isinstance(one, torch.Tensor) and not isinstance(one, OnGPU)]
    devices = [one for one in flat if isinstance(one, torch.device)]
    target = args[0] if args else None
    indexed_by_cpu = func in INDEXED and isinstance(
        target, OnGPU
    )  # CUDA takes indices from the CPU
    if there and any(one.dim() for one in here) and func not in BETWEEN and not indexed_by_cpu:
        raise RuntimeError(f"{func}: tensors on the GPU and on the CPU in one operation")
    masked = func in INDEXED and any(one.dtype == torch.bool for one in there)
    if there and (func in ANSWERS or masked or indexed_by_cpu and here):
        note(func)
    if func in BETWEEN and isinstance(target, torch.Tensor):
        stays = (
            _there(devices[0])
            if devices
            else isinstance(args[1] if func is aten.to.other else target, OnGPU)
        )
        if there and stays != isinstance(args[1] if func is aten.copy_.default else target, OnGPU):
            note(func)
        if stays and not there and not kwargs.get("non_blocking"):
            note(func)
    else:
        stays = _there(devices[0]) if devices else bool(there)
    out = func(*_changed(args, _here), **_changed(kwargs, _here))
    if not stays or func is aten._local_scalar_dense.default:
        return out
    changed = [
        result.alias_info
        for result in func._schema.returns
        if result.alias_info and result.alias_info.is_write
    ]
    return target if changed else _changed(out, _on_gpu)  # in place: return the same tensor


def _leaves(tree):
    """Yield what a tree of dicts, lists and tuples holds; torch's own helpers take twice as long
    as most operations here."""
    if isinstance(tree, (dict, list, tuple)):
        for part in tree.values() if isinstance(tree, dict) else tree:
            yield from _leaves(part)
    else:
        yield tree


def _changed(tree, change):
    """The tree with every leaf changed."""
    if isinstance(tree, dict):
        return {key: _changed(part, change) for key, part in tree.items()}
    if isinstance(tree, (list, tuple)):
        return type(tree)(_changed(part, change) for part in tree)
    return change(tree)


def _here(leaf):
    if isinstance(leaf, torch.device):
        return torch.device("cpu")
    return leaf.here if isinstance(leaf, OnGPU) else leaf


def _on_gpu(leaf):
    return OnGPU(leaf) if isinstance(leaf, torch.Tensor) else leaf


def _there(device):
    return device is not None and torch.device(device).type == "meta"


def _home(state):
    if isinstance(state, dict):
        return type(state)((key, _home(value)) for key, value in state.items())
    if isinstance(state, (list, tuple)):
        return type(state)(_home(value) for value in state)
    return state.here.detach().clone() if isinstance(state, OnGPU) else state
