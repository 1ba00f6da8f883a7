"""Checks that the mails of a running ringback arrive at a real SMTP server with the expected content.

    mail.py target/release/ringback FOLDER

aiosmtpd requires STARTTLS and a login; Python's email package parses the accepted mails. FOLDER holds `ca.pem`,
`cert.pem` and `key.pem`, the certificate for localhost.
"""

import logging
import re
import socket
import ssl
import sys
from email import message_from_bytes, policy
from html.parser import HTMLParser

from aiosmtpd.controller import Controller
from aiosmtpd.smtp import AuthResult, LoginPassword

from service import CASES, URL, Ringback, wait

LOGIN = LoginPassword(b"robot@example.com", "p:w/d#é".encode())


class Office:
    """Accepts every mail."""

    def __init__(self):
        self.mails = []

    async def handle_RCPT(self, server, session, envelope, address, options):
        if address.startswith("unknown"):
            return "550 5.1.1 no such user"
        envelope.rcpt_tos.append(address)
        return "250 OK"

    async def handle_DATA(self, server, session, envelope):
        assert session.ssl is not None and session.authenticated, "no TLS, or no login"
        assert envelope.mail_from == "robot@example.com"
        (to,) = envelope.rcpt_tos
        self.mails.append((to, envelope.content))
        return "250 OK"


def authenticate(server, session, envelope, mechanism, given):
    return AuthResult(success=given == LOGIN, handled=False)


class Page(HTMLParser):
    """Collects tags, the targets of links, and the text, as a browser reads them."""

    def __init__(self, text):
        super().__init__(convert_charrefs=True)
        self.tags, self.links, self.text, self.attributes = set(), [], "", set()
        self.feed(text)
        self.close()

    def handle_starttag(self, tag, attributes):
        self.tags.add(tag)
        self.attributes |= {name for name, _ in attributes}
        self.links += [value for name, value in attributes if name in ("href", "src")]

    def handle_data(self, data):
        self.text += data


def check(mail, ending, text, ids):
    headers = sorted(name.lower() for name in mail.keys())
    assert headers == sorted([
        "auto-submitted", "content-type", "date", "from", "in-reply-to", "message-id", "mime-version", "references",
        "subject", "to", "x-auto-response-suppress",
    ]), headers
    assert not mail.defects, mail.defects
    job = f"job_{ending}_{text}"
    assert job in mail["subject"] and len(mail["subject"]) <= 150 and mail["subject"].isprintable()
    delivery, watch = ids
    assert mail["message-id"] == f"<{delivery}@example.com>", mail["message-id"]
    assert mail["references"] == mail["in-reply-to"] == f"<{watch}@example.com>"
    assert mail["auto-submitted"] == "auto-generated" and mail["from"] == "Ringback <robot@example.com>"
    assert mail.get_content_type() == "multipart/alternative"
    plain, html = mail.iter_parts()
    assert (plain.get_content_type(), html.get_content_type()) == ("text/plain", "text/html")
    words, source = plain.get_content(), html.get_content()
    page = Page(source)
    assert job in words and job in page.text
    assert len(source.encode()) <= 100 * 1024
    assert "script" not in page.tags and not any(name.startswith("on") for name in page.attributes)
    assert all(link.startswith(URL) for link in page.links), page.links
    odd = re.search(r"[\u202a-\u202e\u2066-\u2069\x00-\x08\x0b\x0c\x0e-\x1f]", words + source)
    assert not odd, repr((words + source)[max(0, odd.start() - 40):odd.end()])
    assert not re.search(r"^(Bcc|MAIL)", words, re.MULTILINE)
    if ending == "completed" and text == "ordinary":
        assert URL + "0.mp4" in words and URL + "0.mp4" in page.links
    if ending == "failed" and text == "ordinary":
        assert "    Try another prompt." in words and "Try another prompt." in page.text


def main(binary, folder):
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(f"{folder}/cert.pem", f"{folder}/key.pem")
    logging.getLogger("mail.log").setLevel(logging.ERROR)  # its own deprecations are not ours
    office = Office()
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    controller = Controller(
        office, hostname="127.0.0.1", port=port, tls_context=context, require_starttls=True, auth_required=True,
        authenticator=authenticate,
    )
    controller.start()
    settings = {
        "RINGBACK_SMTP__URL": f"smtp://robot%40example.com:p%3Aw%2Fd%23%C3%A9@localhost:{port}?tls=required",
        "RINGBACK_SMTP__FROM": "Ringback <robot@example.com>",
        "SSL_CERT_FILE": f"{folder}/ca.pem",
    }
    with Ringback(binary, settings) as ringback:
        watches = {}
        for ending, text in CASES:
            to = f"{ending}.{text}@example.com"
            watches[to] = ringback.watch(ending, text, email=[to, "unknown@example.com"])
        wait(120, "every mail", lambda: len(office.mails) >= len(CASES))
        wait(10, "every delivery to be recorded", lambda: not ringback.call("/v1/deliveries?status=pending")["data"])
        assert len(office.mails) == len(CASES)
        for to, content in office.mails:
            ending, text = to.removesuffix("@example.com").split(".")
            deliveries = ringback.call(f"/v1/deliveries?watchId={watches[to]}")["data"]
            by_status = {one["status"]: one for one in deliveries}
            assert set(by_status) == {"succeeded", "failed"} and by_status["failed"]["reason"] == "gone"
            ids = by_status["succeeded"]["id"], watches[to]
            check(message_from_bytes(content, policy=policy.default), ending, text, ids)
        assert "p:w" not in ringback.said() and "p%3A" not in ringback.said(), "the password is in the log"
    controller.stop()
    print(f"  {len(office.mails)} mails came by STARTTLS and a login, and are well-formed to Python's email")


if __name__ == "__main__":
    main(*sys.argv[1:])
