"""What differs between the versions of transformers that pyproject.toml allows, and how little of it is imported."""

from __future__ import annotations

import gc
import importlib
import importlib.util
import inspect
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from types import ModuleType
from typing import Any

MODELING = "transformers.models.qwen2_5_omni.modeling_qwen2_5_omni"
_COMPILER = "torch._dynamo"
_COMPILER_PART = f"{_COMPILER}._trace_wrapped_higher_order_op"


def import_transformers() -> None:
    """Import of transformers what a decoder needs, in about half the time of a plain import.

    For a program that neither compiles models nor spreads one over several processes, and owns its Python process. With
    its models transformers imports torch's compiler, only to mark functions for it; torch's distributed tensors and
    with them sympy; and it reads the source of all its models, to know their names. All three are left out here:

    - Marks for the compiler are made by a stand-in that leaves the function as it is. It goes when the import is done,
      so whoever asks for the compiler later gets the real one.
    - torch.distributed says meanwhile that it is not there, as in builds of torch without it.
    - The list of all models is made when somebody asks for a name of it.

    Nothing is done if transformers was imported before. What a model computes stays the same. Garbage is not collected
    meanwhile, and what was imported is never looked through for it again: nothing of that is garbage.
    """
    if "transformers" in sys.modules:
        return
    collecting = gc.isenabled()
    gc.disable()
    try:
        _import_narrowly()
    finally:
        gc.freeze()
        if collecting:
            gc.enable()


def _import_narrowly() -> None:
    import torch.distributed

    importlib.import_module("transformers")
    there = torch.distributed.is_available
    torch.distributed.is_available = lambda: False
    try:
        with _compiler_stand_in():
            _defer("transformers.models")
            importlib.import_module(MODELING)
    except Exception:  # a version that asks more of what is left out: it is imported whole, where it is needed
        for name in [name for name in sys.modules if name.partition(".")[0] == "transformers"]:
            del sys.modules[name]
    finally:
        torch.distributed.is_available = there


@contextmanager
def _compiler_stand_in() -> Iterator[None]:
    """Inside, torch._dynamo is a module whose every function is a decorator that changes nothing."""
    if _COMPILER in sys.modules:
        yield
        return
    import torch

    stand_in, part = _Marks(_COMPILER), ModuleType(_COMPILER_PART)
    stand_in.__path__ = []  # a package
    part.TransformGetItemToIndex = _transform_get_item_to_index  # type: ignore[attr-defined]
    sys.modules[_COMPILER], sys.modules[_COMPILER_PART] = stand_in, part
    torch._dynamo = stand_in
    try:
        yield
    finally:
        del sys.modules[_COMPILER], sys.modules[_COMPILER_PART], torch._dynamo


class _Marks(ModuleType):
    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        return _unchanged


def _unchanged(function: Any = None, *_: Any, **__: Any) -> Any:
    return _unchanged if function is None else function


def _transform_get_item_to_index() -> Any:
    """torch's context manager of that name: transformers imports it by name, for masks that are made through vmap."""
    return importlib.import_module(_COMPILER_PART).TransformGetItemToIndex()


class _Deferred(ModuleType):
    """A package whose modules can be imported, and whose own code runs when a name of it is asked for."""

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__") or self.__spec__ is None or self.__spec__.loader is None:
            raise AttributeError(name)
        if importlib.util.find_spec(f"{self.__name__}.{name}"):
            return importlib.import_module(f"{self.__name__}.{name}")
        self.__spec__.loader.exec_module(self)  # puts another module into sys.modules
        return getattr(sys.modules[self.__name__], name)


def _defer(package: str) -> None:
    spec = importlib.util.find_spec(package)
    if spec is None or package in sys.modules:
        return
    module = importlib.util.module_from_spec(spec)
    module.__class__ = _Deferred
    sys.modules[package] = module


@cache
def _calls_it_cache(forward: Any) -> bool:
    return "cache" in inspect.signature(forward).parameters


def caching(module: Any, keys_and_values: Any) -> dict[str, Any]:
    """Arguments by which a decoder, or a layer of one, reads a cache and adds to it.

    transformers 5.24 renamed `past_key_values` to `cache`, and warns about the old name until 5.40.
    """
    name = "cache" if _calls_it_cache(type(module).forward) else "past_key_values"
    return {name: keys_and_values, "use_cache": True}


def vision_window_order(visual: Any, grid: Any) -> Any:
    """(n,) int64: which token stands at each place inside Qwen2.5-Omni's vision tower. `grid`: (N, 3) patches."""
    if hasattr(visual, "get_window_index"):
        return visual.get_window_index(grid)[0]
    from transformers.models.qwen2_5_omni import modeling_qwen2_5_omni as modeling

    sizes = {name: getattr(visual, name) for name in ("spatial_merge_size", "window_size", "patch_size")}
    return modeling.get_vision_window_index(grid, **sizes, kwargs={})[0]
