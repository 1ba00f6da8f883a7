"""Draws mails and Slack messages in a browser, as pictures.

    draw.py [FOLDER]

The messages are the snapshots of the default templates. A mail is drawn as it is. Slack's blocks are drawn with a
page that imitates Slack's arrangement; it is no proof of what Slack shows. The browser gets no network: every picture
in a message is replaced by a placeholder.
"""

import html
import io
import json
import re
import sys
from pathlib import Path

from PIL import Image
from playwright.sync_api import sync_playwright

MAILS = "src/channels/templates/snapshots/ringback__channels__templates__tests__{}-email-message.html.snap"
CHATS = "src/channels/slack/snapshots/ringback__channels__slack__blocks__tests__{}-blocks.snap"
WIDTHS = (600, 360)
SCHEMES = ("light", "dark")
COLORS = 96

# The pictures of docs/MESSAGES.md: kind, message, width, colour scheme. `inverted` is a mail reader that ignores the
# dark style of the mail and changes light colours by itself.
SHOWN = (
    ("mail", "job.completed", 600, "light"),
    ("mail", "job.completed", 600, "dark"),
    ("mail", "job.failed", 600, "light"),
    ("mail", "job.failed", 600, "inverted"),
    ("mail", "watch.expired", 360, "light"),
    ("mail", "watch.expired", 360, "dark"),
    ("slack", "job.completed", 600, "light"),
    ("slack", "job.failed", 600, "dark"),
    ("slack", "watch.expired", 360, "light"),
)

PLACEHOLDER = """<svg xmlns="http://www.w3.org/2000/svg" width="480" height="270"><rect width="480" height="270"
fill="#8aa0b8"/><path d="M0 270 150 110l90 90 70-60 170 130z" fill="#5f7890"/><circle cx="370" cy="70" r="32"
fill="#f2e3b0"/></svg>"""

CHAT_STYLE = """
  :root { color-scheme: light dark; --page: #ffffff; --text: #1d1c1d; --muted: #616061; --link: #1264a3; }
  @media (prefers-color-scheme: dark) {
    :root { --page: #1a1d21; --text: #d1d2d3; --muted: #ababad; --link: #1d9bd1; }
  }
  body { margin: 0; padding: 12px 16px; background: var(--page); color: var(--text);
         font: 15px/1.46 Lato, "Liberation Sans", Arial, sans-serif; overflow-wrap: anywhere; }
  h3 { margin: 4px 0 8px; font-size: 18px; line-height: 1.33; }
  .section { display: flex; gap: 16px; margin: 8px 0; white-space: pre-wrap; }
  .section .texts { flex: 1; min-width: 0; }
  .section img { width: 88px; height: 88px; object-fit: cover; border-radius: 8px; }
  .fields { display: grid; grid-template-columns: 1fr 1fr; gap: 8px 16px; }
  .heading { margin-bottom: 8px; }
  .context { margin: 8px 0; color: var(--muted); font-size: 12px; }
  .attachment { margin: 8px 0; padding-left: 12px; border-left: 4px solid; border-radius: 2px; }
  a { color: var(--link); text-decoration: none; }
"""


def snapshot(path):
    """Returns what a file of insta holds, without its head."""
    return Path(path).read_text(encoding="utf-8").split("---\n", 2)[2]


def text_object(given):
    text = given["text"]
    if given["type"] == "plain_text":
        return html.escape(html.unescape(text))
    shown = re.sub(r"<!date\^[^|>]*\|([^>]*)>", r"\1", text)
    link = re.compile(r"<(https?://[^|>]*)\|([^>]*)>")
    if link.fullmatch(shown):
        return link.sub(r'<a href="\1">\2</a>', shown)
    shown = html.escape(html.unescape(shown))
    return re.sub(r"\A\*(.*)\*$", r"<b>\1</b>", shown, flags=re.MULTILINE)


def block(given):
    match given["type"]:
        case "header":
            return f"<h3>{text_object(given['text'])}</h3>"
        case "context":
            return f'<div class="context">{" &nbsp; ".join(map(text_object, given["elements"]))}</div>'
        case "section":
            heading = f'<div class="heading">{text_object(given["text"])}</div>' if "text" in given else ""
            fields = "".join(f"<div>{text_object(field)}</div>" for field in given.get("fields", []))
            picture = given.get("accessory")
            image = f'<img src="{html.escape(picture["image_url"])}" alt="">' if picture else ""
            texts = f'<div class="texts">{heading}<div class="fields">{fields}</div></div>'
            return f'<div class="section">{texts}{image}</div>'
        case other:
            raise ValueError(f"a block of the type {other}")


def chat(payload):
    parts = [block(one) for one in payload["blocks"]]
    for one in payload.get("attachments", []):
        inside = "".join(map(block, one["blocks"]))
        parts.append(f'<div class="attachment" style="border-color:{one["color"]}">{inside}</div>')
    return f'<!doctype html><meta charset="utf-8"><style>{CHAT_STYLE}</style>{"".join(parts)}'


def page_of(kind, message, scheme):
    if kind == "slack":
        return chat(json.loads(snapshot(CHATS.format(message))))
    mail = snapshot(MAILS.format(message))
    if scheme == "inverted":
        # Such a reader does not evaluate these.
        mail = re.sub(r'<meta name="(supported-)?color-schemes?"[^>]*>', "", mail)
        mail = re.sub(r":root \{[^}]*\}", "", mail).replace("prefers-color-scheme: dark", "not all")
    return mail


def picture(browser, kind, message, width, scheme):
    viewport = {"width": width, "height": 200}
    page = browser.new_page(viewport=viewport, color_scheme="dark" if scheme == "dark" else "light")
    page.route("**/*", lambda route: route.fulfill(content_type="image/svg+xml", body=PLACEHOLDER))
    page.set_content(page_of(kind, message, scheme), wait_until="load")
    wide = page.evaluate("document.documentElement.scrollWidth")
    if wide > width:
        print(f"{kind} {message}, {width} px: the content has {wide} px", file=sys.stderr)
    drawn = Image.open(io.BytesIO(page.screenshot(full_page=True)))
    page.close()
    return drawn.convert("RGB").quantize(COLORS, dither=Image.Dither.NONE)


def name(kind, message, width, scheme):
    return f"{kind}-{message.replace('.', '-')}-{width}-{scheme}.png"


def messages():
    for kind, pattern in (("mail", MAILS), ("slack", CHATS)):
        begin, end = pattern.split("/")[-1].split("{}")
        for path in sorted(Path(pattern).parent.glob(f"{begin}*{end}")):
            yield kind, path.name.removeprefix(begin).removesuffix(end)


def main(folder="docs/images", wanted=SHOWN):
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    with sync_playwright() as playwright:
        launch = lambda *flags: playwright.chromium.launch(
            executable_path="/usr/bin/chromium", args=["--no-sandbox", *flags]
        )
        # Chromium's own dark mode makes light backgrounds dark and dark texts light, as some mail readers do.
        browser, inverting = launch(), launch("--blink-settings=forceDarkModeEnabled=true")
        for one in wanted:
            path = folder / name(*one)
            picture(inverting if one[-1] == "inverted" else browser, *one).save(path, optimize=True)
            print(f"{path}: {path.stat().st_size // 1024} KiB")
        browser.close()
        inverting.close()


if __name__ == "__main__":
    if len(sys.argv) > 1:
        every = [
            (*message, width, scheme)
            for message in messages()
            for width in WIDTHS
            for scheme in (*SCHEMES, *(("inverted",) if message[0] == "mail" else ()))
        ]
        main(sys.argv[1], every)
    else:
        main()
