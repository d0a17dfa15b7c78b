"""The exceptions of attri. Anything else that escapes is a bug and keeps its traceback.

AttriError                          a person can mend it: one line that says what to do
├── UsageError                      the request itself is wrong             exit 2; 1 where the cause is transient
│   └── LabelsError                 a labels file that cannot be used
└── FailedError                     it broke while running                  exit 1
    ├── ImageError                  an image that cannot be read
    ├── BundleError                 a bundle that is damaged or too new
    │   └── BundleNotFoundError     no bundle is there
    ├── EngineError                 ONNX Runtime or TensorRT cannot do what was asked
    ├── SourceError                 a camera, stream or video that gives no frames
    ├── ParityError                 the exported model does not agree with the PyTorch one
    ├── SinkError                   a result could not be delivered: disk full, nobody there
    ├── TrustError                  an update that is not to be trusted             exit 3
    ├── RefusedError                an update that does not fit, agree or suffice   exit 4
    └── MissingExtra                an optional package is not installed

Where Python has an exception of the same meaning, the class is one of it too: UsageError is a ValueError, ImageError an
OSError as with Pillow, BundleNotFoundError a FileNotFoundError, MissingExtra an ImportError.

A message names a parameter in backquotes, `engine_dir`; the commands print the name of their option in its place.
"""

from __future__ import annotations

from attri.runtime._util.extras import MODULES
from attri.runtime._util.transient import may_pass


class AttriError(Exception):
    """Base class of attri's exceptions. The message is one line that says what happened and what to do."""

    @property
    def exit_code(self) -> int:
        """Exit code of a command that ends with this error."""
        return 1


class UsageError(AttriError, ValueError):
    """The request itself is wrong.

    Raised from a transient error of the system (a full disk, a missing mount), it has the exit code of a failure: a
    service manager starts the command again, which it does not after exit code 2.
    """

    @property
    def exit_code(self) -> int:
        """2, or 1 where the cause is transient."""
        return 1 if may_pass(self.__cause__) else 2


class LabelsError(UsageError):
    """A labels file, or a set of labels, cannot be used."""


class FailedError(AttriError):
    """Something failed while running."""


class ImageError(FailedError, OSError):
    """An image cannot be read: its file is missing, damaged or of no known format, or an array is no image."""


class BundleError(FailedError):
    """A bundle is missing, damaged, or of another schema."""


class BundleNotFoundError(BundleError, FileNotFoundError):
    """There is no bundle at the path."""


class EngineError(FailedError):
    """ONNX Runtime or TensorRT cannot do what was asked."""


class SourceError(FailedError):
    """A camera, stream or video gives no frames.

    Args:
        message: what happened and what to do.
        final: trying again cannot mend it (a password that was refused, a library that is missing).
    """

    def __init__(self, message: str, *, final: bool = False) -> None:
        super().__init__(message)
        self.final = final


class ParityError(FailedError):
    """An exported model or an engine does not agree with the PyTorch model."""


class SinkError(FailedError):
    """A result cannot be delivered: the disk is full, or nobody is there."""


class TrustError(FailedError):
    """An update is not signed by whom this device trusts, or is out of date, or is not what was signed."""

    @property
    def exit_code(self) -> int:
        """3: trying again changes nothing until the repository is put right."""
        return 3


class RefusedError(FailedError):
    """An update is trusted, but does not fit this device, does not agree with its model, or is worse than what runs."""

    @property
    def exit_code(self) -> int:
        """4: trying again changes nothing until another release is pushed."""
        return 4


class MissingExtra(FailedError, ImportError):
    """Optional packages are not installed.

    Args:
        modules: what cannot be imported, by names of `attri.runtime._util.extras`. The extra of the first brings all.
    """

    def __init__(self, *modules: str) -> None:
        super().__init__(*modules)  # unpickling calls the class with these again
        self.modules = modules

    @property
    def extra(self) -> str:
        """The extra of attri that installs them."""
        return MODULES[self.modules[0]].extra

    def __str__(self) -> str:
        packages = ", ".join(MODULES[module].package for module in self.modules)
        verb = "is" if len(self.modules) == 1 else "are"
        return f"{packages} {verb} not installed: pip install 'attri[{self.extra}]'"
