//! A mail, from its templates: the bytes that go over the wire.
//!
//! What the templates make is trusted in nothing that has to do with mail: the subject is brought to one
//! short line, both bodies are encoded whole, so that no text of anybody's can end a header, a part or
//! the message.

use std::time::{Duration, UNIX_EPOCH};

use lettre::Address;
use lettre::message::header::{
    ContentTransferEncoding, ContentType, HeaderName, HeaderValue, MIME_VERSION_1_0,
};
use lettre::message::{Body, Mailbox as Sender, MultiPart, SinglePart};

use crate::channels::Message;
use crate::channels::template_context::{TemplateContext, line};
use crate::channels::templates::{Kind, Templates};
use crate::domain::{MailAddress, Mailbox};

/// Longer subjects are cut by whoever shows them.
const SUBJECT_MAX: usize = 150;

/// A mail that is ready.
#[derive(Debug)]
pub(super) struct Mail {
    /// From the first header to the end of the last part.
    pub(super) bytes: Vec<u8>,
    /// What the record of the attempt shows.
    pub(super) headers: Vec<(String, String)>,
}

/// Makes the mail. The error is a sentence.
pub(super) fn compose(
    templates: &Templates,
    from: &Mailbox,
    to: &MailAddress,
    message: &Message<'_>,
    news: &TemplateContext,
) -> Result<Mail, String> {
    let subject = line(&templates.render(Kind::Subject, news)?, SUBJECT_MAX);
    let plain = templates.render(Kind::Text, news)?;
    let html = templates.render(Kind::Html, news)?;
    let domain = from.address.domain();
    let id = format!("<{}@{domain}>", message.delivery_id);
    // A message that was never sent: mail readers put those that name it into one thread.
    let thread = format!("<{}@{domain}>", message.watch_id);

    let seconds = Duration::from_secs(u64::try_from(message.now.seconds()).unwrap_or_default());
    let address = |address: &MailAddress| {
        Address::new(address.local(), address.domain()).map_err(|error| format!("{address}: {error}"))
    };
    let parts = MultiPart::alternative()
        // `=_` cannot come up in a part: in its encoding, `=` is followed by two digits or ends the line.
        .boundary(format!("=_{}", message.delivery_id))
        .singlepart(part(ContentType::TEXT_PLAIN, plain)?)
        .singlepart(part(ContentType::TEXT_HTML, html)?);
    let mail = lettre::Message::builder()
        .date(UNIX_EPOCH + seconds)
        .from(Sender::new(from.name.clone(), address(&from.address)?))
        .to(Sender::new(None, address(to)?))
        .subject(subject.as_str())
        .message_id(Some(id.clone()))
        .in_reply_to(thread.clone())
        .references(thread)
        // RFC 3834, and what Exchange goes by: no "out of office" in answer.
        .raw_header(header("Auto-Submitted", "auto-generated"))
        .raw_header(header("X-Auto-Response-Suppress", "All"))
        .header(MIME_VERSION_1_0)
        .multipart(parts)
        .map_err(|error| error.to_string())?;
    let shown =
        [("from", from.address.as_str()), ("to", to.as_str()), ("message-id", &id), ("subject", &subject)];
    Ok(Mail {
        bytes: mail.formatted(),
        headers: shown.map(|(name, value)| (name.to_owned(), value.to_owned())).into(),
    })
}

fn part(kind: ContentType, text: String) -> Result<SinglePart, String> {
    let body = Body::new_with_encoding(text, ContentTransferEncoding::QuotedPrintable);
    let body = body.map_err(|_| "a part of the mail cannot be encoded")?;
    Ok(SinglePart::builder().header(kind).body(body))
}

fn header(name: &'static str, value: &str) -> HeaderValue {
    HeaderValue::new(HeaderName::new_from_ascii_str(name), value.to_owned())
}
