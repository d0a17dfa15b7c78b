"""attri-bundle: the commands of the publisher and of a device."""
