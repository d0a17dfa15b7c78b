"""Errors cross processes whole: ProcessPoolExecutor and a distributed training pickle them."""

from __future__ import annotations

import copy
import inspect
import pickle

import pytest

from attri.runtime import errors
from attri.runtime.errors import AttriError, MissingExtra, SourceError, UsageError

ARGUMENTS = {MissingExtra: ("tensorrt",)}
KINDS = [kind for _, kind in inspect.getmembers(errors, inspect.isclass) if issubclass(kind, AttriError)]
EXAMPLES = [kind(*ARGUMENTS.get(kind, ("what to do",))) for kind in KINDS]
EXAMPLES += [SourceError("the password was refused", final=True)]


@pytest.mark.parametrize("error", EXAMPLES, ids=repr)
@pytest.mark.parametrize("twin", [copy.copy, lambda error: pickle.loads(pickle.dumps(error))], ids=["copy", "pickle"])
def test_a_copy_is_the_same_error(error: AttriError, twin) -> None:
    found = twin(error)
    assert type(found) is type(error)
    assert str(found) == str(error)
    assert vars(found) == vars(error)
    assert found.exit_code == error.exit_code == (2 if isinstance(error, UsageError) else 1)
