"""From what a device trusts to what its channel offers, by the client of The Update Framework.

The framework checks signatures by enough keys, rotation of keys, expiry, that no version goes back, and that all
documents belong together. Names of files and versions are those of its specification.
"""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime, timezone
from pathlib import Path

from tuf.api.exceptions import (
    DownloadError,
    DownloadHTTPError,
    DownloadLengthMismatchError,
    ExpiredMetadataError,
    LengthOrHashMismatchError,
    RepositoryError,
)
from tuf.ngclient import Updater
from tuf.ngclient.fetcher import FetcherInterface

from attri.fleet.channel import MOST_BYTES, Channel
from attri.fleet.device.transport import Transport, TransportError
from attri.runtime._util.wording import first_line
from attri.runtime.errors import AttriError, FailedError, TrustError, UsageError


class _Fetcher(FetcherInterface):
    """Lets the framework read through a transport."""

    def __init__(self, transport: Transport) -> None:
        self._transport = transport

    def _fetch(self, url: str) -> Iterator[bytes]:
        try:
            yield from (chunk for _, chunk in self._transport.read(url))
        except TransportError as error:
            if error.missing:  # how the framework learns that there is no newer root
                raise DownloadHTTPError(str(error), 404) from error
            raise


def read_channel(transport: Transport, folder: Path, root: bytes, name: str) -> Channel:
    """Read and verify what a channel offers.

    Args:
        transport: where the repository is.
        folder: where the framework keeps what it has verified; is made.
        root: the metadata that was put on the device by hand.
        name: of the channel.

    Raises:
        TrustError: what is there is not signed by who is trusted, or too old, or damaged.
        FailedError: it cannot be read now.
        UsageError: the repository has no such channel.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        fetcher = _Fetcher(transport)
        updater = Updater(str(folder), "metadata/", str(folder), "targets/", fetcher=fetcher, bootstrap=root)
        updater.refresh()
        found = updater.get_targetinfo(f"channels/{name}.json")
        if found is None:
            raise UsageError(f"the repository has no channel {name}: ask who publishes, or push to it")
        if found.length > MOST_BYTES:
            raise TrustError(f"channel {name} has {found.length} bytes: no device reads that")
        kept = str(folder / f"{name}.channel.json")
        data = Path(updater.find_cached_target(found, kept) or updater.download_target(found, kept)).read_bytes()
    except ExpiredMetadataError as error:
        now = datetime.now(timezone.utc).isoformat(timespec="seconds")
        raise TrustError(
            f"the repository is out of date ({first_line(error)}; it is {now} here): who publishes has to run"
            " attri-bundle refresh, or the clock of this machine is wrong"
        ) from error
    except (RepositoryError, DownloadLengthMismatchError, LengthOrHashMismatchError) as error:
        raise TrustError(f"the repository is not to be trusted: {first_line(error)}; nothing was changed") from error
    except DownloadError as error:
        raise FailedError(f"the repository is incomplete, or is being copied: {first_line(error)}") from error
    except OSError as error:
        if isinstance(error, AttriError):
            raise
        raise FailedError(f"{folder}: {error.strerror or error}") from error
    channel = Channel.parse(data)
    if channel.name != name:
        raise TrustError(f"the repository has channel {channel.name} in the place of {name}")
    return channel
