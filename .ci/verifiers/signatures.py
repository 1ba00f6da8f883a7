"""Checks with official libraries that they accept every form of signature of a running ringback.

    signatures.py target/release/ringback signatures.mjs

Ringback sends a test to a receiver of each library. The receiver answers 401 if its library refuses the signature, and
every library must refuse it with another secret. Ed25519 signatures, which no library of Standard Webhooks verifies, are
verified with `cryptography`, by the public key and by the published key set.
"""

import base64
import json
import subprocess
import sys
import urllib.request

import standardwebhooks
import stripe
import svix
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from joserfc.jwk import KeySet

from service import KEY, Ringback, serve

SECRET = "whsec_" + base64.b64encode(b"a secret of an app, 32 bytes long").decode()
OWN = "It's a Secret to Everybody"
OTHER = "whsec_" + base64.b64encode(b"another secret, which is not used").decode()

keys = {}


def ed25519(key):
    def verify(_secret, body, headers):
        signed = f"{headers['webhook-id']}.{headers['webhook-timestamp']}.".encode() + body
        for one in headers["webhook-signature"].split(" "):
            version, signature = one.split(",")
            if version == "v1a":
                return keys[key].verify(base64.b64decode(signature), signed)
        raise AssertionError("no v1a signature")

    return verify


def stripe_header(secret, body, headers):
    stripe.WebhookSignature.verify_header(body.decode(), headers["stripe-signature"], secret, 300)


VERIFY = {
    "/standardwebhooks": lambda secret, body, headers: standardwebhooks.Webhook(secret).verify(body, headers),
    "/svix": lambda secret, body, headers: svix.Webhook(secret).verify(body, headers),
    "/stripe": stripe_header,
    "/whpk": ed25519("whpk"),
    "/jwks": ed25519("jwks"),
}
failures = []


def receive(path, headers, body):
    headers = {name.lower(): value for name, value in headers.items()}
    verify, secret = VERIFY[path], OWN if path == "/stripe-own" else SECRET
    try:
        verify(secret, body, headers)
    except Exception as error:
        failures.append(f"{path}: {error!r}")
        return 401, b""
    # With other bytes, and with another secret, the library must refuse it.
    for wrong in [(secret, body + b" ", headers), (OTHER, body, headers)]:
        if wrong[0] == OTHER and verify in (VERIFY["/whpk"], VERIFY["/jwks"]):
            continue
        try:
            verify(*wrong)
        except (standardwebhooks.WebhookVerificationError, svix.WebhookVerificationError,
                stripe.SignatureVerificationError, InvalidSignature):
            continue
        failures.append(f"{path}: accepts what is not signed")
        return 401, b""
    return 204, b""


def key_of(ringback):
    shown = ringback.call("/v1/signing-secret")
    app = ringback.call("/v1/apps")["data"][0]["id"]
    with urllib.request.urlopen(f"{ringback.url}/v1/apps/{app}/jwks.json", timeout=10) as answer:
        (jwk,) = KeySet.import_key_set(json.load(answer)).keys
    assert jwk.thumbprint() == jwk.kid, jwk
    keys["whpk"] = Ed25519PublicKey.from_public_bytes(base64.b64decode(shown["publicKey"].removeprefix("whpk_")))
    keys["jwks"] = jwk.public_key


def main(binary, receiver):
    node = subprocess.Popen(["node", receiver, OWN, SECRET], stdout=subprocess.PIPE, text=True)
    try:
        by_node = f"http://127.0.0.1:{int(node.stdout.readline())}"
        by_python = serve(receive)
        with Ringback(binary, {"RINGBACK_SIGNING_SECRET": SECRET}) as ringback:
            key_of(ringback)
            for url, options in [
                (by_python + "/standardwebhooks", {}),
                (by_python + "/standardwebhooks", {"keys": ["hmac", "ed25519"]}),
                (by_python + "/svix", {"keys": ["hmac", "ed25519"]}),
                (by_python + "/whpk", {"keys": ["hmac", "ed25519"]}),
                (by_python + "/jwks", {"keys": ["ed25519"]}),
                (by_python + "/stripe", {"signature": "stripe"}),
                (by_node + "/stripe", {"signature": "stripe"}),
                (by_node + "/github", {"signature": "github", "secret": OWN}),
            ]:
                result = ringback.call("/v1/test", {"destination": {"url": url} | options})
                assert result["ok"], f"{url} {options}: {result} {failures}"
                print(f"  {url.split('/', 3)[3]} {json.dumps(options)}: {result['statusCode']}")
            # The receivers of the libraries refuse another form, and another secret.
            for url, options in [(by_node + "/github", {"signature": "github"}), (by_node + "/stripe", {})]:
                result = ringback.call("/v1/test", {"destination": {"url": url} | options})
                assert not result["ok"] and result["statusCode"] in (400, 401), f"{url} {options}: {result}"
            assert not failures, failures
            for secret in (KEY, SECRET, OWN):
                assert secret not in ringback.said(), f"{secret} is in the log"
    finally:
        node.terminate()
        node.wait(10)


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2])
