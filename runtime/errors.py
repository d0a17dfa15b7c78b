"""Everything that attri raises on purpose.

    AttriError              a person can mend it: one line that says what to do
    ├── UsageError          the request itself is wrong                 exit 2; 1 where the cause may pass by itself
    │   └── LabelsError     a labels file that cannot be used
    └── FailedError         it broke while running                      exit 1
        ├── ImageError      a picture that cannot be read
        ├── BundleError     a bundle that is missing, damaged or too new
        ├── EngineError     ONNX Runtime or TensorRT cannot do what was asked
        ├── SourceError     a camera, stream or video that gives no frames
        ├── ParityError     the exported model does not agree with the PyTorch one
        ├── SinkError       a result could not be delivered: disk full, nobody there
        └── MissingExtra    an optional package is not installed

Anything else that escapes is a bug and keeps its traceback.
"""

from __future__ import annotations

from attri.runtime._util.extras import MODULES
from attri.runtime._util.transient import may_pass


class AttriError(Exception):
    """Root of the tree; the message is one line for a person, `exit_code` is what a command returns."""

    @property
    def exit_code(self) -> int:
        return 1


class UsageError(AttriError):
    """A request that is wrong.

    Raised from an error of the system that can pass (a full disk, a mount that is missing), it is as one that failed
    while running: a service manager starts the command again, which it does not after exit code 2.
    """

    @property
    def exit_code(self) -> int:
        return 1 if may_pass(self.__cause__) else 2


class LabelsError(UsageError):
    pass


class FailedError(AttriError):
    pass


class ImageError(FailedError):
    pass


class BundleError(FailedError):
    pass


class EngineError(FailedError):
    pass


class SourceError(FailedError):
    """Args: final: trying again cannot mend it (a password that was refused, a library that is missing)."""

    def __init__(self, message: str, *, final: bool = False) -> None:
        super().__init__(message)
        self.final = final


class ParityError(FailedError):
    pass


class SinkError(FailedError):
    pass


class MissingExtra(FailedError):
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
