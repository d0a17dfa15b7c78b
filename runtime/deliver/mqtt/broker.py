"""The MQTT broker of a URL: address, login and TLS, and a client of it."""

from __future__ import annotations

import ssl
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import unquote, urlsplit

from attri.runtime._util.redact import has_password
from attri.runtime.errors import MissingExtra, UsageError

if TYPE_CHECKING:
    from paho.mqtt.client import Client

_PORTS = {"mqtt": 1883, "mqtts": 8883}


@dataclass(frozen=True)
class Broker:
    """Where a broker is and how to log in.

    Attributes:
        host: Name or address.
        port: TCP port.
        tls: Whether the connection is encrypted (mqtts://).
        user: User name, from the URL.
        password: From the environment or a file, never from the URL.
        ca: PEM file of the certificate authority that signed the broker's certificate; None is the system's list.
        certificate: PEM file of the client certificate, for brokers that ask for one.
        key: PEM file of its private key.
    """

    host: str
    port: int
    tls: bool = False
    user: str | None = None
    password: str | None = None
    ca: Path | None = None
    certificate: Path | None = None
    key: Path | None = None

    @property
    def address(self) -> str:
        """URL of the broker without user and password."""
        return f"{'mqtts' if self.tls else 'mqtt'}://{self.host}:{self.port}"

    @classmethod
    def parse(cls, url: str, password: str | None = None, **files: Path | None) -> Broker:
        """Read mqtt://[USER@]HOST[:PORT], or mqtts://... for TLS.

        Args:
            url: Address of the broker.
            password: Of the user in the URL.
            **files: The fields `ca`, `certificate` and `key`.

        Raises:
            UsageError: The URL is no such address, or what is given does not go together.
        """
        if has_password(url):
            raise UsageError(
                "no password in the URL of an MQTT broker: set ATTRI_MQTT_PASSWORD, or `mqtt_password_file`"
            )
        wanted = "an MQTT broker is mqtt://[USER@]HOST[:PORT], or mqtts:// for TLS"
        try:
            parts = urlsplit(url)
            port = parts.port
        except ValueError:  # its message may quote part of the user name
            raise UsageError(wanted) from None
        rest = parts.path.strip("/") or parts.query or parts.fragment
        if parts.scheme not in _PORTS or not parts.hostname or port == 0 or rest:
            raise UsageError(wanted)
        tls = parts.scheme == "mqtts"
        if not tls and any(files.values()):
            raise UsageError("certificates are for a broker at mqtts://")
        if password and not parts.username:
            raise UsageError("the broker's password needs a user: mqtt://USER@HOST")
        user = parts.username and unquote(parts.username)
        return cls(parts.hostname, port or _PORTS[parts.scheme], tls, user, password, **files)

    def tls_context(self) -> ssl.SSLContext:
        """TLS settings: the broker's certificate and host name are verified.

        Raises:
            UsageError: A certificate or key cannot be used.
        """
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        try:
            if self.certificate:
                context.load_cert_chain(self.certificate, self.key)
            if self.ca:
                context.load_verify_locations(self.ca)
            else:
                context.load_default_certs()
        except (OSError, ValueError) as error:  # ssl.SSLError is an OSError
            raise UsageError(f"the certificates for the MQTT broker cannot be used: {error}") from error
        return context

    def new_client(self, name: str = "", *, reconnects: bool = True) -> Client:
        """A client with login and TLS that is not connected yet.

        Args:
            name: Its client ID; "" lets the broker choose one.
            reconnects: Whether it connects again by itself when the connection is lost.

        Raises:
            UsageError: A certificate or key cannot be used.
            MissingExtra: paho-mqtt is not installed.
        """
        try:
            from paho.mqtt.client import Client
            from paho.mqtt.enums import CallbackAPIVersion
        except ModuleNotFoundError as error:
            raise MissingExtra("paho") from error
        client = Client(CallbackAPIVersion.VERSION2, client_id=name, reconnect_on_failure=reconnects)
        if self.user:
            client.username_pw_set(self.user, self.password)
        if self.tls:
            client.tls_set_context(self.tls_context())
        return client
