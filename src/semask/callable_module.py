"""Modules that can be called, for names that are both a module and a function of the public API.

Python binds a submodule to its package when it is first imported, so `semask.build` would be the function before and
the module after. See docs/decisions/0002.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from types import ModuleType
from typing import Any


def make_callable(module_name: str, function: Callable[..., Any]) -> None:
    """Let calling the module call `function`."""

    class CallableModule(ModuleType):
        __call__ = staticmethod(function)

    sys.modules[module_name].__class__ = CallableModule
