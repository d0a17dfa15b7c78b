"""attri-bundle: updates of many devices from a signed repository."""

from __future__ import annotations

import click

from attri.fleet.cli import device, publish, reports
from attri.runtime.cli.command import Group


@click.group(cls=Group)
@click.version_option(package_name="attri")
def main() -> None:
    """Bring bundles and prompts to many devices.

    On the workstation: init-repo, push, promote, revoke, refresh, rotate, status --repo, devices. On a device: update,
    which is pull, verify and activate; follow, rollback, status.
    """


for command in (*publish.COMMANDS, *device.COMMANDS, reports.devices):
    main.add_command(command)

if __name__ == "__main__":
    main()
