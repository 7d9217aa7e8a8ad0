"""What an Avalanche strategy and its plugins hold between two experiences, as a checkpoint holds it: no pickle.

Their attributes are walked. Numbers, strings, tensors, arrays, containers of them, copies of the network, data sets
made of the stream's examples (kept as row numbers), and objects of Avalanche's own training classes can be saved;
anything else, such as a loader that stands open, is refused by its path. Loading changes the objects that the
constructor made, in place, and makes new ones of Avalanche's training classes only.
"""

from __future__ import annotations

import copy
import inspect
import itertools
import logging
import sys
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from clbench.errors import IncompatibleError
from clbench.interop.avalanche.benchmarks import ROW, concatenated, rows_of
from clbench.interop.avalanche.lib import avalanche, quiet
from clbench.registry.typed import is_routine
from clbench.strategy import State

FRESH = frozenset(
    (
        *(
            "model",
            "optimizer",
            "optimized_param_id",
            "plugins",
            "experience",
            "evaluator",
            "clock",
            "dataloader",
        ),
        *("adapted_dataset", "mbatch", "mb_output", "loss", "device", "_eval_streams", "_experiences"),
    )
)
"""Attributes of a strategy that the engine saves, that its plugins share, or that an experience begins by setting."""
LEFTOVERS = frozenset(("mb_buffer_x", "mb_buffer_y", "mb_buffer_tid", "mb_buffer_out", "batch_logits", "res"))
"""Attributes that hold a past batch, which the next one replaces."""
TRAINING = "avalanche.training."


class _RefusedError(Exception):
    """A value that cannot be saved; the message is its path and kind."""


class Graph:
    """The state of a strategy as a tree.

    Args:
        theirs: the Avalanche strategy.
        scenario: the benchmark that it is trained on, of `to_avalanche`.
    """

    def __init__(self, theirs: Any, scenario: Any) -> None:
        self.theirs, self.scenario = theirs, scenario

    def save(self) -> State:
        """Return the tree, or `{"refused": why}`."""
        theirs = self.theirs
        own = {k: v for k, v in vars(theirs).items() if k not in FRESH | LEFTOVERS}
        try:
            return {
                "strategy": {key: self._pack(value, f"strategy.{key}") for key, value in own.items()},
                "plugins": [
                    {k: self._pack(v, f"{type(plugin).__name__}.{k}") for k, v in vars(plugin).items()}
                    for plugin in self._plugins()
                ],
                "frozen": [name for name, p in theirs.model.named_parameters() if not p.requires_grad],
                "begun": theirs.optimized_param_id is not None,
            }
        except _RefusedError as refusal:
            return {"refused": f"it holds what a checkpoint cannot: {refusal}"}

    def load(self, state: State, who: str) -> None:
        """Take a tree back.

        Raises:
            IncompatibleError: it could not be saved, and why.
        """
        if "refused" in state:
            raise IncompatibleError(
                f"{who} cannot be continued from a checkpoint: {state['refused']}. Delete the run's folder to begin it "
                "again."
            )
        theirs = self.theirs
        frozen = set(state["frozen"])
        for name, parameter in theirs.model.named_parameters():
            parameter.requires_grad_(name not in frozen)
        self._take(theirs, state["strategy"])
        for plugin, saved in zip(self._plugins(), state["plugins"], strict=True):
            self._take(plugin, saved)
        # Else Avalanche would take the coming experience for its first one and reset the optimizer.
        theirs.optimized_param_id = dict(theirs.model.named_parameters()) if state["begun"] else None

    def _plugins(self) -> list[Any]:
        return [plugin for plugin in self.theirs.plugins if type(plugin).__module__.startswith(TRAINING)]

    # --- one value ---

    def _pack(self, value: Any, path: str) -> Any:
        if value is None or isinstance(value, bool | int | float | str | Tensor):
            return value
        if isinstance(value, np.generic):
            return value.item()
        if isinstance(value, np.ndarray):
            return {"array": torch.from_numpy(value.copy())}
        if isinstance(value, dict):
            if wrong := [key for key in value if not isinstance(key, str | int)]:
                raise _RefusedError(f"{path} has a key of type {type(wrong[0]).__name__}")
            return {"dict": [[k, self._pack(v, f"{path}[{k!r}]")] for k, v in value.items()]}
        if isinstance(value, list | tuple | set | frozenset):
            kind = next(k for k in (list, tuple, set, frozenset) if isinstance(value, k)).__name__
            return {kind: [self._pack(v, f"{path}[{i}]") for i, v in enumerate(value)]}
        if isinstance(value, nn.Module):
            return self._pack_module(value, path)
        if isinstance(value, avalanche().benchmarks.utils.AvalancheDataset):
            return self._pack_data(value, path)
        if is_routine(value) or inspect.isclass(value) or isinstance(value, logging.Logger):
            return {"same": type(value).__name__}
        if isinstance(value, torch.device):
            return {"device": value.type}
        if type(value).__module__.startswith(TRAINING):
            inside = {k: self._pack(v, f"{path}.{k}") for k, v in vars(value).items()}
            return {"object": [type(value).__module__, type(value).__qualname__], "inside": inside}
        raise _RefusedError(f"{path} is a {type(value).__name__}")

    def _unpack(self, saved: Any, current: Any) -> Any:
        if not isinstance(saved, dict):
            # Buffers' weights lie on the CPU whatever the device; all else is where the constructor would put it.
            device = current.device if isinstance(current, Tensor) else self.theirs.device
            return saved.to(device) if isinstance(saved, Tensor) and device == self.theirs.device else saved
        kind, content = next(iter(saved.items()))
        match kind:
            case "array":
                return content.numpy()
            case "same":
                return current
            case "device":
                return torch.device("cpu") if content == "cpu" else self.theirs.device
            case "dict":  # in place: a default's factory and sharers keep it
                made = current if isinstance(current, dict) else {}
                values = {key: self._unpack(value, made.get(key)) for key, value in content}
                made.clear()
                made.update(values)
                return made
            case "list":
                kept = current if isinstance(current, list) else []
                old = itertools.chain(kept, itertools.repeat(None))
                kept[:] = [self._unpack(value, before) for value, before in zip(content, old, strict=False)]
                return kept
            case "object":
                return self._unpack_object(content, current, saved["inside"])
            case "module":
                return self._unpack_module(content, current, saved)
            case "data":
                return self._unpack_data(content, saved)
        make: Callable[..., Any] = {"tuple": tuple, "set": set, "frozenset": frozenset}[kind]
        return make(self._unpack(value, None) for value in content)

    def _take(self, owner: Any, attributes: dict[str, Any]) -> None:
        for name, saved in attributes.items():
            setattr(owner, name, self._unpack(saved, getattr(owner, name, None)))

    def _unpack_object(self, content: list[str], current: Any, inside: Mapping[str, Any]) -> Any:
        module, name = content
        if not module.startswith(TRAINING) or module not in sys.modules or "." in name:
            raise IncompatibleError(
                f"A checkpoint asks for {module}.{name}, which is none of Avalanche's training classes."
            )
        cls = getattr(sys.modules[module], name)
        made = current if type(current) is cls else cls.__new__(cls)
        for key, value in inside.items():
            # Buffers of several groups show their union as `buffer`, which cannot be set; vars() held none of it.
            vars(made)[key] = self._unpack(value, vars(made).get(key))
        return made

    # --- copies of the network ---

    def _pack_module(self, module: nn.Module, path: str) -> Any:
        weights = module.state_dict()
        if not weights:
            return {"same": type(module).__name__}
        own = self.theirs.model.state_dict()
        shapes, ours = ({k: v.shape for k, v in state.items()} for state in (weights, own))
        if type(module) is not type(self.theirs.model) or shapes != ours:
            raise _RefusedError(f"{path} is a {type(module).__name__} other than the network")
        frozen = [name for name, p in module.named_parameters() if not p.requires_grad]
        return {"module": weights, "frozen": frozen, "training": [m.training for m in module.modules()]}

    def _unpack_module(self, content: State, current: Any, saved: State) -> Any:
        module = current if isinstance(current, nn.Module) else copy.deepcopy(self.theirs.model)
        module.load_state_dict(content)
        for name, parameter in module.named_parameters():
            parameter.requires_grad_(name not in saved["frozen"])
            parameter.grad = None
        for part, training in zip(module.modules(), saved["training"], strict=True):
            part.training = training
        return module

    # --- data sets of the stream's examples ---

    def _pack_data(self, data: Any, path: str) -> Any:
        if not len(data):
            return {"data": torch.zeros(0, dtype=torch.int64), "group": "train", "extra": {}}
        rows = rows_of(data)
        if rows is None:
            raise _RefusedError(f"{path} holds examples that are not the stream's")
        known = ("targets", "targets_task_labels", ROW)
        extra = {name: list(a.data) for name, a in data._data_attributes.items() if name not in known}
        if wrong := [
            name for name, column in extra.items() if not all(isinstance(v, Tensor) for v in column)
        ]:
            raise _RefusedError(f"{path} has an attribute {wrong[0]} that is no tensor")
        return {
            "data": torch.tensor(rows),
            "group": data._flat_data._transform_groups.current_group,
            "extra": {name: torch.stack(column) for name, column in extra.items()},
        }

    def _unpack_data(self, content: Tensor, saved: State) -> Any:
        utils = avalanche().benchmarks.utils
        with quiet():
            if not len(content):
                return utils.concat_datasets([])
            data = concatenated(self.scenario).subset(content.tolist()).with_transforms(saved["group"])
            if not saved["extra"]:
                return data
            columns = [
                utils.TensorDataAttribute(
                    utils.FlatData([list(column)], discard_elements_not_in_indices=True),
                    name=name,
                    use_in_getitem=True,
                )
                for name, column in saved["extra"].items()
            ]
            return utils.make_avalanche_dataset(data, data_attributes=columns)
