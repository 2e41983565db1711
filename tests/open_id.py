"""A small OpenID provider, for tests: it says who somebody is without asking, and writes down what it was asked."""

from __future__ import annotations

import base64
import hashlib
import json
import secrets
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qs, urlencode, urlsplit

from joserfc import jwt
from joserfc.jwk import RSAKey

ID, SECRET = "fxscope-of-the-tests", "a-secret-of-the-client"


class Provider:
    """Discovery, sign-in, tokens and keys of the authorization code flow with PKCE.

    Attributes:
        codes: what was given out and not yet exchanged, with what was asked for it.
        given: every code and token that it ever gave out.
        key: what its tokens are signed with; `published` is what readers of its keys are told.
    """

    def __init__(self, port: int) -> None:
        self.address = f"http://127.0.0.1:{port}"
        self.codes: dict[str, dict[str, str]] = {}
        self.given: list[str] = []
        self.name = "Ada *Lovelace*"
        self.key = self.published = RSAKey.generate_key(2048, {"kid": "one", "use": "sig", "alg": "RS256"})

    def discovery(self) -> dict[str, object]:
        return {
            "issuer": self.address,
            "authorization_endpoint": f"{self.address}/authorize",
            "token_endpoint": f"{self.address}/token",
            "jwks_uri": f"{self.address}/keys",
            "response_types_supported": ["code"],
            "subject_types_supported": ["public"],
            "id_token_signing_alg_values_supported": ["RS256"],
            "code_challenge_methods_supported": ["S256"],
        }

    def authorize(self, asked: dict[str, str]) -> str:
        """Where the browser goes on, with a code that is good once."""
        assert asked["client_id"] == ID
        assert asked["code_challenge_method"] == "S256"
        code = secrets.token_urlsafe(24)
        self.codes[code] = asked
        self.given.append(code)
        return f"{asked['redirect_uri']}?{urlencode({'code': code, 'state': asked['state']})}"

    def token(self, asked: dict[str, str], credentials: str) -> dict[str, object]:
        """What a code is exchanged for by the server that knows the client's secret and what the code was asked with."""
        assert base64.b64decode(credentials.removeprefix("Basic ")).decode() == f"{ID}:{SECRET}"
        promised = self.codes.pop(asked["code"])
        proof = base64.urlsafe_b64encode(hashlib.sha256(asked["code_verifier"].encode()).digest()).rstrip(b"=").decode()
        assert proof == promised["code_challenge"]
        now = int(time.time())
        claims = {"iss": self.address, "aud": ID, "sub": "42", "iat": now, "exp": now + 600, "nonce": promised["nonce"], "name": self.name}
        signed = jwt.encode({"alg": "RS256", "kid": "one"}, claims, self.key)
        access = secrets.token_urlsafe(24)
        self.given += [signed, access]
        return {"access_token": access, "token_type": "Bearer", "expires_in": 600, "id_token": signed}


@contextmanager
def provider() -> Iterator[Provider]:
    """A provider on a port of its own."""

    class Answers(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            path, asked = urlsplit(self.path).path, _plain(urlsplit(self.path).query)
            if path == "/authorize":
                self.send_response(302)
                self.send_header("Location", found.authorize(asked))
                self.send_header("Content-Length", "0")
                self.end_headers()
            elif path == "/keys":
                self._say({"keys": [found.published.as_dict(private=False)]})
            else:
                self._say(found.discovery())

        def do_POST(self) -> None:
            asked = _plain(self.rfile.read(int(self.headers["Content-Length"])).decode())
            self._say(found.token(asked, self.headers["Authorization"]))

        def _say(self, content: dict[str, object]) -> None:
            body = json.dumps(content).encode()
            self.send_response(200)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, format: str, *args: object) -> None:
            """Says nothing: a test's own output is read."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Answers)
    found = Provider(server.server_port)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield found
    finally:
        server.shutdown()
        server.server_close()


def _plain(query: str) -> dict[str, str]:
    return {name: values[0] for name, values in parse_qs(query).items()}
