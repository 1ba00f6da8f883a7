//! A mail, rendered from its templates: the bytes that are sent to the server.
//!
//! The results of the templates are not trusted: the subject is shortened to one line, and both bodies are
//! encoded completely. So no text can end a header, a part or the message.

use std::time::{Duration, UNIX_EPOCH};

use lettre::Address;
use lettre::message::header::{
    ContentTransferEncoding, ContentType, HeaderName, HeaderValue, MIME_VERSION_1_0,
};
use lettre::message::{Body, Mailbox as LettreMailbox, MultiPart, SinglePart};

use crate::channels::channel::Message;
use crate::channels::template_context::{TemplateContext, single_line};
use crate::channels::templates::{TemplateFile, Templates};
use crate::domain::{MailAddress, Mailbox};

/// Maximum length of a subject, in characters. Mail readers cut longer ones.
const SUBJECT_MAX: usize = 150;

/// The subject.
pub(in crate::channels) const SUBJECT: TemplateFile =
    TemplateFile::text("email/subject.txt", include_str!("../../../templates/email/subject.txt"), 4 * 1024);

/// The text part.
pub(in crate::channels) const TEXT: TemplateFile =
    TemplateFile::text("email/message.txt", include_str!("../../../templates/email/message.txt"), 64 * 1024);

/// The HTML part. Mail readers cut it after about 100 KB.
pub(in crate::channels) const HTML: TemplateFile = TemplateFile::text(
    "email/message.html",
    include_str!("../../../templates/email/message.html"),
    100 * 1024,
);

/// A composed mail.
#[derive(Debug)]
pub(super) struct ComposedMail {
    /// The headers and the parts.
    pub(super) bytes: Vec<u8>,
    /// Headers that the attempt log shows.
    pub(super) headers: Vec<(String, String)>,
}

/// Composes a mail. The error is a sentence.
pub(super) fn compose(
    templates: &Templates,
    from: &Mailbox,
    to: &MailAddress,
    message: &Message<'_>,
    context: &TemplateContext,
) -> Result<ComposedMail, String> {
    let subject = single_line(&templates.render(&SUBJECT, context)?, SUBJECT_MAX);
    let plain = templates.render(&TEXT, context)?;
    let html = templates.render(&HTML, context)?;
    let domain = from.address.domain();
    let id = format!("<{}@{domain}>", message.delivery.id);
    // Names a message that does not exist: mail readers show all mails that refer to it as one thread.
    let thread = format!("<{}@{domain}>", message.delivery.watch);

    let seconds = Duration::from_secs(u64::try_from(message.now.seconds()).unwrap_or_default());
    let address = |address: &MailAddress| {
        Address::new(address.local(), address.domain()).map_err(|error| format!("{address}: {error}"))
    };
    let parts = MultiPart::alternative()
        // `=_` cannot occur in a part: in its encoding, `=` precedes two digits or the end of a line.
        .boundary(format!("=_{}", message.delivery.id))
        .singlepart(part(ContentType::TEXT_PLAIN, plain)?)
        .singlepart(part(ContentType::TEXT_HTML, html)?);
    let mail = lettre::Message::builder()
        .date(UNIX_EPOCH + seconds)
        .from(LettreMailbox::new(from.name.clone(), address(&from.address)?))
        .to(LettreMailbox::new(None, address(to)?))
        .subject(subject.as_str())
        .message_id(Some(id.clone()))
        .in_reply_to(thread.clone())
        .references(thread)
        // RFC 3834, and a header that Exchange evaluates: no automatic replies.
        .raw_header(header("Auto-Submitted", "auto-generated"))
        .raw_header(header("X-Auto-Response-Suppress", "All"))
        .header(MIME_VERSION_1_0)
        .multipart(parts)
        .map_err(|error| error.to_string())?;
    let shown =
        [("from", from.address.as_str()), ("to", to.as_str()), ("message-id", &id), ("subject", &subject)];
    Ok(ComposedMail {
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
