"""Updates of many devices: a signed repository of bundles on the workstation, and what a device does with it.

The Update Framework (TUF, package `tuf`) answers whom to trust. What is ours is about models: a release shares the
files that did not change with the one before, it has to fit the device, to agree with the PyTorch model and to be no
worse on the device's own images, and what ran before comes back.
"""
