"""The patched functions of a module, found by importing it as a program would."""

from __future__ import annotations

import contextlib
import importlib
import sys
from collections.abc import Generator, Iterator, Mapping
from pathlib import Path
from types import ModuleType

from tanuki_async._errors import UsageError
from tanuki_async._function import ATTRIBUTE, PatchedFunction

__all__ = ["functions_of", "importable", "with_hash"]


def functions_of(module_name: str) -> dict[str, PatchedFunction]:
    """Import a module and return its patched functions by qualified name, those in its classes too.

    UsageError where it cannot be imported.
    """
    with importable(str(Path.cwd())):
        try:
            module = importlib.import_module(module_name)
        except ImportError as error:
            raise UsageError(
                f"{module_name!r} cannot be imported ({error}); give a module as in an import, such as 'package.module'"
            ) from error
        except Exception as error:  # a user's module may do anything at its import
            raise UsageError(f"{module_name!r} failed while it was imported: {error!r}") from error
        return {found.spec.qualname: found for found in _patched(module, module_name)}


def with_hash(module_name: str, function_hash: str) -> PatchedFunction | None:
    """Return the function of a module that has this hash now."""
    return next((each for each in functions_of(module_name).values() if each.spec.hash == function_hash), None)


def _patched(module: ModuleType, module_name: str) -> Iterator[PatchedFunction]:
    spaces: list[Mapping[str, object]] = [vars(module)]
    seen: set[int] = set()
    while spaces:
        for each in list(spaces.pop().values()):
            inner = getattr(each, "__func__", each)  # class methods and static methods wrap theirs
            found = getattr(inner, ATTRIBUTE, None)
            if isinstance(found, PatchedFunction):
                yield found
            elif isinstance(each, type) and each.__module__ == module_name and id(each) not in seen:
                seen.add(id(each))
                spaces.append(vars(each))


@contextlib.contextmanager
def importable(directory: str) -> Generator[None]:
    """Let modules of a directory be imported."""
    sys.path.insert(0, directory)
    try:
        yield
    finally:
        sys.path.remove(directory)
