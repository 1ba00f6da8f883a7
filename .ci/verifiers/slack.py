"""Checks with Slack's own library that the messages of a running ringback are valid.

    slack.py target/release/ringback

Every ending, with ordinary, huge, hostile and empty texts, to a channel (blocks; a hook of Slack's own
gets the same without `channel`) and to a hook elsewhere (attachments). Each block, text and attachment is
read by slack_sdk, which checks the limits, and must come out of it as it went in.
"""

import json
import sys

from slack_sdk.models.attachments import Attachment, AttachmentField, BlockAttachment
from slack_sdk.models.basic_objects import JsonObject
from slack_sdk.models.blocks import Block

from service import CASES, Ringback, serve, wait

TOKEN = "xoxb-1-2-ci"
posted = {}
elsewhere = {}


def handle(path, headers, body):
    payload = json.loads(body)
    if path == "/api/chat.postMessage":
        assert headers["authorization"] == f"Bearer {TOKEN}"
        posted.setdefault(payload.pop("channel"), []).append(payload)
        return 200, b'{"ok": true, "channel": "C1", "ts": "1.2"}'
    elsewhere.setdefault(path, []).append(payload)
    return 200, b"ok"


def validate(thing):
    """Returns every object of the library within `thing`."""
    if isinstance(thing, JsonObject):
        thing.validate_json()
        for value in vars(thing).values():
            validate(value)
    elif isinstance(thing, (list, tuple)):
        for one in thing:
            validate(one)


def blocks(given):
    parsed = Block.parse_all(given)
    validate(parsed)
    for block, original in zip(parsed, given, strict=True):
        assert block.to_dict() == original, f"{original} is read as {block.to_dict()}"
    return parsed


def texts(thing):
    if isinstance(thing, dict):
        if isinstance(thing.get("text"), str):
            yield thing.get("type"), thing["text"]
        for value in thing.values():
            yield from texts(value)
    elif isinstance(thing, list):
        for one in thing:
            yield from texts(one)


def check_blocks(payload):
    for one in payload.get("attachments", []):
        assert set(one) == {"color", "fallback", "blocks"}, one
        validate(BlockAttachment(blocks=blocks(one["blocks"]), color=one["color"], fallback=one["fallback"]))
    assert len(blocks(payload["blocks"])) <= 50 and 0 < len(payload["text"]) <= 4_000
    found = list(texts(payload["blocks"])) + list(texts(payload.get("attachments", [])))
    assert sum(len(text) for _, text in found) < 12_000, "msg_blocks_too_long"
    for kind, text in found:
        marks = text.count("<"), text.count(">")
        ours = text.startswith(("<!date^", "<https://cdn.example.com/"))
        assert marks == ((1, 1) if ours else (0, 0)), text
        assert kind == "plain_text" or ours or text.startswith("*"), text
    assert "<" not in payload["text"]


def check_attachments(payload):
    assert set(payload) == {"text", "attachments"}
    (one,) = payload["attachments"]
    fields = [AttachmentField(**field) for field in one["fields"]]
    attachment = Attachment(
        text=one["text"], fallback=one["fallback"], fields=fields, color=one["color"], footer=one["footer"],
        title=one.get("title"), title_link=one.get("title_link"), thumb_url=one.get("thumb_url"),
    )
    validate(attachment)
    known = {"text", "fallback", "fields", "color", "footer", "title", "title_link", "thumb_url"}
    assert set(one) <= known, one
    for text in [payload["text"], one["text"], one["footer"]] + [field["value"] for field in one["fields"]]:
        assert not any(mark in text for mark in ("<!", "<@", "@channel", "<https", "](")), text
        assert len(text) <= 16_000


def main(binary):
    url = serve(handle)
    settings = {"RINGBACK_SLACK__BOT_TOKEN": TOKEN, "RINGBACK_SLACK__API_URL": f"{url}/api"}
    with Ringback(binary, settings) as ringback:
        channels, paths = {}, {}
        for ending, text in CASES:
            channel, path = f"#{ending}-{text}", f"/hooks/{ending}-{text}"
            channels[channel], paths[path] = (ending, text), (ending, text)
            ringback.watch(ending, text, notify=[{"type": "slack", "channel": channel}], slack=url + path)
        # `not found` is delivered after a minute, when the provider has reported it three times.
        wait(120, "every message", lambda: len(posted) == len(elsewhere) == len(CASES))
        for channel, case in channels.items():
            (payload,) = posted[channel]
            check_blocks(payload)
            assert f"job_{case[0]}_{case[1]}" in payload["blocks"][0]["text"]["text"]
        for path in paths:
            (payload,) = elsewhere[path]
            check_attachments(payload)
        wait(10, "every delivery to be recorded as succeeded", lambda: not ringback.call(
            "/v1/deliveries?status=pending")["data"])
        assert not ringback.call("/v1/deliveries?status=failed")["data"]
        for secret in (TOKEN, "/hooks/"):
            assert secret not in ringback.said(), f"{secret} is in the log"
    print(f"  {len(posted)} messages of blocks and {len(elsewhere)} of attachments are valid to slack_sdk")


if __name__ == "__main__":
    main(sys.argv[1])
