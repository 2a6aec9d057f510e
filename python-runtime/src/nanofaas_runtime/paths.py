"""The handler's folder on `sys.path`: removed while the runtime imports, restored for the function.

`python3 -m` puts the current folder first, so a `json.py` beside the handler would replace the
`json` of the standard library. This module imports only modules that Python loads at its start.
`__main__` calls it before its other imports, and `function` before it imports the handler.
"""

from __future__ import annotations

import os
import sys

TYPE_CHECKING = False
if TYPE_CHECKING:
    from types import ModuleType
    from typing import Any

_folder = ""
_hidden: list[tuple[int, str]] = []  # Index and entry in `sys.path`.
# The path, the finders and the modules before the handler was loaded.
_standard = list(sys.path)
_finders: list[Any] = sys.meta_path
_modules: dict[str, ModuleType] = {}


def hide_folder() -> None:
    """Removes every spelling of the current folder from `sys.path`."""
    global _folder, _standard
    try:
        _folder = os.getcwd()
    except OSError:
        return  # The folder was deleted; the import of the handler reports that.
    real = os.path.realpath(_folder)
    for at, entry in enumerate(sys.path):
        if entry in ("", _folder) or os.path.realpath(entry) == real:
            _hidden.append((at, entry))
    _standard = [entry for entry in sys.path if all(entry != each for _, each in _hidden)]
    sys.path[:] = _standard


def show_folder() -> None:
    """Puts the folder back into `sys.path`. If it was not there (`python3 -P`), it comes first."""
    global _finders, _modules
    _finders, _modules = list(sys.meta_path), dict(sys.modules)
    for at, entry in _hidden:
        sys.path.insert(at, entry)
    here = os.getcwd()
    if not _hidden and here not in sys.path:
        sys.path.insert(0, here)
    _hidden.clear()


def folder_file(*parts: str) -> str:
    """Returns the path of a file in the handler's folder."""
    return os.path.join(_folder, *parts)


class Standard:
    """`with Standard():` imports as if the handler had not been loaded: with the earlier path,
    finders and modules. The handler's modules with names of the standard library are left out."""

    def __enter__(self) -> None:
        self._path, self._finders = sys.path, sys.meta_path
        sys.path, sys.meta_path = list(_standard), list(_finders)
        modules = sys.modules
        foreign = {name for name in modules.keys() & sys.stdlib_module_names
                   if name not in _modules and not _is_standard(modules[name])}
        self._hidden = {name: module for name, module in list(modules.items())
                        if name.partition(".")[0] in foreign
                        or module is not _modules.get(name, module)}
        for name in self._hidden:
            del modules[name]
        for name, module in _modules.items():
            modules.setdefault(name, module)

    def __exit__(self, *_: object) -> None:
        sys.path, sys.meta_path = self._path, self._finders
        sys.modules.update(self._hidden)


def _is_standard(module: object) -> bool:
    spec = getattr(module, "__spec__", None)
    origin = getattr(spec, "origin", None)
    if not isinstance(origin, str):
        return False
    folder = os.path.dirname(origin)
    return origin in ("built-in", "frozen") or folder in _standard or (
        os.path.dirname(folder) in _standard)
