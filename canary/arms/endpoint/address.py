"""Where a served model is reached, and under which name."""

from dataclasses import dataclass
from urllib.parse import urlsplit

from canary.errors import ArmError


@dataclass(frozen=True, slots=True, kw_only=True)
class Address:
    """Where an endpoint listens. `path` is what stands before ``/completions``."""

    tls: bool
    host: str
    port: int
    path: str

    def __str__(self) -> str:
        """Return ``host:port``, as an observation's device shows it."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{host}:{self.port}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Endpoint:
    """A served model behind an OpenAI-compatible API.

    `url` ends where the API begins, as in ``http://10.0.0.5:8000/v1``; `model` is the
    name that the server knows. `api_key_env` names the environment variable that holds
    the key; the process that sends reads it, and nobody stores or shows it.
    """

    url: str
    model: str
    api_key_env: str | None = None

    def address(self) -> Address:
        """Return where to connect.

        Raises:
            ArmError: The URL is none of http or https, or holds more than a place.
        """
        if "@" in self.url or "?" in self.url or "#" in self.url:
            raise ArmError(
                "an endpoint's url holds a user, a key or more after its path; end it "
                "with the path, put the key in an environment variable and name that "
                "in api_key_env"
            )
        try:
            parts = urlsplit(self.url)
            port = parts.port
        except ValueError as error:
            raise ArmError(f"endpoint url {self.url!r}: {error}; correct it") from error
        odd = not self.url.isascii() or not self.url.isprintable() or " " in self.url
        if parts.scheme not in {"http", "https"} or not parts.hostname or odd:
            raise ArmError(
                f"endpoint url {self.url!r} can't be reached by HTTP; write it as "
                "http://host:8000/v1"
            )
        tls = parts.scheme == "https"
        return Address(
            tls=tls,
            host=parts.hostname,
            port=port or (443 if tls else 80),
            path=parts.path.rstrip("/"),
        )
