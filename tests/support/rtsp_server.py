"""A real RTSP server on loopback, run by the system's Python, which has GStreamer: rtsp_server.py PORT [USER:PASSWORD].

Prints its port (0 asks for a free one). /cam is a moving ball, 64 x 48; /still stands still. All
clients share these, so that a slow one holds the others up; of /own each has its own.
"""

from __future__ import annotations

import sys

import gi

gi.require_version("Gst", "1.0")
gi.require_version("GstRtspServer", "1.0")
from gi.repository import GLib, Gst, GstRtspServer  # noqa: E402  # versions are chosen before

_LAUNCH = (
    "( videotestsrc is-live=true pattern={} ! video/x-raw,width=64,height=48,framerate={}/1 ! "
    "x264enc tune=zerolatency key-int-max=10 speed-preset=ultrafast ! rtph264pay name=pay0 config-interval=1 )"
)


def main(port: str, account: str = "") -> None:
    Gst.init(None)
    server = GstRtspServer.RTSPServer.new()
    server.set_address("127.0.0.1")
    server.set_service(port)
    for path, pattern, shared in (("/cam", "ball", True), ("/still", "red", True), ("/own", "ball", False)):
        factory = GstRtspServer.RTSPMediaFactory.new()
        factory.set_launch(_LAUNCH.format(pattern, 30))
        factory.set_shared(shared)
        if account:
            protect(server, factory, account)
        server.get_mount_points().add_factory(path, factory)
    server.attach(None)
    print(server.get_bound_port(), flush=True)
    GLib.MainLoop().run()


def protect(server: GstRtspServer.RTSPServer, factory: GstRtspServer.RTSPMediaFactory, account: str) -> None:
    user, _, password = account.partition(":")
    token = GstRtspServer.RTSPToken()
    token.set_string("media.factory.role", "user")
    auth = GstRtspServer.RTSPAuth.new()
    auth.add_basic(GstRtspServer.RTSPAuth.make_basic(user, password), token)
    server.set_auth(auth)
    permissions = GstRtspServer.RTSPPermissions()
    permissions.add_permission_for_role("user", "media.factory.access", True)
    permissions.add_permission_for_role("user", "media.factory.construct", True)
    factory.set_permissions(permissions)


if __name__ == "__main__":
    main(*sys.argv[1:])
