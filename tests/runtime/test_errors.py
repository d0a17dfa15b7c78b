"""Errors cross processes whole: ProcessPoolExecutor and a distributed training pickle them."""

from __future__ import annotations

import copy
import inspect
import pickle

import pytest

from attri.runtime import errors
from attri.runtime.errors import AttriError, MissingExtra, SourceError, UsageError

ARGUMENTS: dict[type[AttriError], tuple[str]] = {MissingExtra: ("tensorrt",)}
KINDS = [kind for _, kind in inspect.getmembers(errors, inspect.isclass) if issubclass(kind, AttriError)]
EXAMPLES = [kind(*ARGUMENTS.get(kind, ("what to do",))) for kind in KINDS]
EXAMPLES += [SourceError("the password was refused", final=True)]


@pytest.mark.parametrize(
    ("kind", "builtin"),
    [
        (errors.UsageError, ValueError),
        (errors.LabelsError, ValueError),
        (errors.ImageError, OSError),
        (errors.BundleNotFoundError, FileNotFoundError),
        (errors.MissingExtra, ImportError),
    ],
)
def test_errors_are_those_that_python_has(kind: type[AttriError], builtin: type[Exception]) -> None:
    error = kind(*ARGUMENTS.get(kind, ("what to do",)))
    assert isinstance(error, builtin)
    assert str(error).startswith("what to do" if kind not in ARGUMENTS else "tensorrt is not installed")


@pytest.mark.parametrize("error", EXAMPLES, ids=repr)
@pytest.mark.parametrize("twin", [copy.copy, lambda error: pickle.loads(pickle.dumps(error))], ids=["copy", "pickle"])
def test_a_copy_is_the_same_error(error: AttriError, twin) -> None:
    found = twin(error)
    assert type(found) is type(error)
    assert str(found) == str(error)
    assert vars(found) == vars(error)
    codes = {UsageError: 2, errors.TrustError: 3, errors.RefusedError: 4}
    code = next((code for kind, code in codes.items() if isinstance(error, kind)), 1)
    assert found.exit_code == error.exit_code == code
