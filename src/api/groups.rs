//! Groups of watches: the field `group` of a registration, and `GET /v1/groups/{id}`.

use axum::http::StatusCode;
use serde::Serialize;
use serde_json::value::RawValue;
use utoipa::ToSchema;

use super::destinations::{
    Address, DESTINATIONS_MAX, DestinationReader, DestinationRequests, ENTRIES_MAX, Target,
};
use super::http::{
    Answer, Api, Call, FieldErrorCode, FieldErrors, Invalid, ObjectReader, Problem, ProblemCode, json,
    not_one_of, object_reader,
};
use crate::domain::{
    DeliveryStatus, DestinationId, Group, GroupCounts, GroupRule, GroupStatus, Timestamp, WatchId,
};
use crate::store::GroupRefusal;

/// Largest number of watches of a group.
const SIZE_MAX: u32 = 100_000;

/// The bounds of `expiresIn` of a group.
const EXPIRES_IN: (&str, &str) = ("1s", "30d");

/// Maximum length of the id of a group, in characters.
const ID_MAX: usize = 128;

/// The group of a watch. Only the first registration has to give more than `id`; later ones repeat or omit it.
#[derive(ToSchema)]
#[schema(rename_all = "camelCase")]
#[expect(dead_code, reason = "part of `Registration`")]
pub struct GroupOfWatch {
    /// Id of the group, which the client chooses. It belongs to the app.
    #[schema(max_length = 128, pattern = "^[A-Za-z0-9][A-Za-z0-9._:-]{0,127}$", example = "batch-7")]
    id: String,
    /// Number of watches that belong to the group. Required in its first registration.
    #[schema(minimum = 1, maximum = 100_000)]
    size: Option<u32>,
    /// Number of watches that end until the group is completed. Default: `all`.
    when: Option<GroupWhen>,
    /// Time until the group expires, `1s` to `30d`. Default: `7d`.
    #[schema(example = "7d")]
    expires_in: Option<String>,
    /// Destinations of the event of the group. Default: none.
    #[schema(max_items = 20)]
    notify: Option<Vec<Target>>,
}

/// `all`, `first`, or a number of watches.
#[derive(Serialize, ToSchema)]
#[serde(untagged)]
pub enum GroupWhen {
    /// A word.
    Word(GroupWord),
    /// A number.
    Count(u32),
}

/// A number of watches as a word.
#[derive(Serialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum GroupWord {
    /// All watches of the group.
    All,
    /// One watch.
    First,
}

/// A group.
#[derive(Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
#[schema(as = Group)]
struct GroupView<'a> {
    id: &'a str,
    status: GroupStatus,
    /// Number of watches that belong to it.
    size: u32,
    when: GroupWhen,
    /// Number of watches that were registered.
    registered: u32,
    /// Number of watches with each status.
    counts: GroupCounts,
    /// The first 1,000 watches, in the order of their registration.
    watches: &'a [WatchId],
    destinations: Vec<GroupDestination<'a>>,
    created_at: Timestamp,
    expires_at: Timestamp,
    /// Time of the event of the group; null while it is open.
    #[schema(required)]
    ended_at: Option<Timestamp>,
}

/// A destination of a group.
#[derive(Serialize, ToSchema)]
struct GroupDestination<'a> {
    id: DestinationId,
    #[serde(flatten)]
    address: Address<'a>,
    /// Status of the delivery; null before the event.
    #[schema(required)]
    status: Option<DeliveryStatus>,
}

impl<'a> GroupView<'a> {
    fn of(group: &'a Group) -> Self {
        let destination = |(destination, status): &'a (_, _)| {
            let crate::domain::Destination { id, channel, address, .. } = destination;
            GroupDestination { id: *id, address: Address::of(*channel, address), status: *status }
        };
        Self {
            id: &group.name,
            status: group.status,
            size: group.size,
            when: match group.rule {
                GroupRule::All => GroupWhen::Word(GroupWord::All),
                GroupRule::First => GroupWhen::Word(GroupWord::First),
                GroupRule::Count(count) => GroupWhen::Count(count),
            },
            registered: group.registered,
            counts: group.counts,
            watches: &group.watches,
            destinations: group.destinations.iter().map(destination).collect(),
            created_at: group.created_at,
            expires_at: group.expires_at,
            ended_at: group.ended_at,
        }
    }
}

/// Show a group
///
/// Its watches are shown as long as they are stored.
#[utoipa::path(
    get, path = "/v1/groups/{id}", operation_id = "showGroup", tag = "Watches", security(("key" = ["read"])),
    params(("id" = String, Path)),
    responses((status = 200, description = "The group.", body = GroupView))
)]
pub async fn show(call: Call) -> Answer {
    let name = call.only_id(|text| check_id(text).ok())?;
    let group = call.api.store.group(call.app(), name).await?.ok_or_else(Problem::not_found)?;
    Ok(json(StatusCode::OK, &GroupView::of(&group)))
}

/// The group of a registration. The names of its destinations are not resolved yet.
pub(super) struct GroupFields {
    pub(super) name: String,
    pub(super) size: Option<u32>,
    pub(super) rule: Option<GroupRule>,
    pub(super) expires_in: Option<std::time::Duration>,
    pub(super) notify: Option<DestinationRequests>,
}

/// Reads the group of a registration, which stands at `at`.
pub(super) fn read(api: &Api, raw: &RawValue, at: &str, errors: &mut FieldErrors) -> Option<GroupFields> {
    let mut fields = ObjectReader::read(raw, at, errors)?;
    let name = fields.required_text("id");
    let name = name.and_then(|text| fields.keep("id", check_id(&text)));
    let size = fields.integer("size", 1..=SIZE_MAX);
    let rule = rule(&mut fields);
    if let (Some(size), Some(rule)) = (size, rule)
        && rule.needed(size) > size
    {
        fields.error("when", FieldErrorCode::OutOfRange, format!("must not be greater than size, {size}"));
    }
    let expires_in = fields.duration("expiresIn", EXPIRES_IN);
    let notify = fields.list("notify", ENTRIES_MAX);
    let notify = notify.map(|list| {
        let mut reader = DestinationReader::new(&api.channels);
        if list.len() > DESTINATIONS_MAX {
            let detail = format!("must not have more than {DESTINATIONS_MAX} destinations");
            fields.error("notify", FieldErrorCode::TooMany, detail);
        } else {
            let at = fields.at("notify");
            reader.list(list, &at, fields.errors);
        }
        reader.requests
    });
    fields.done();
    Some(GroupFields { name: name?, size, rule, expires_in, notify })
}

/// Checks the id of a group.
pub(super) fn check_id(text: &str) -> Result<String, Invalid> {
    let is_plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | ':' | '-');
    let is_valid = text.len() <= ID_MAX
        && text.starts_with(|c: char| c.is_ascii_alphanumeric())
        && text.chars().all(is_plain);
    let detail = || {
        format!(
            "must have 1 to {ID_MAX} letters, digits, `.`, `_`, `:` or `-`, and begin with a letter or a digit"
        )
    };
    if is_valid { Ok(text.to_owned()) } else { Err((FieldErrorCode::InvalidFormat, detail())) }
}

fn rule(fields: &mut ObjectReader<'_, '_>) -> Option<GroupRule> {
    let raw = fields.take("when")?;
    let word = object_reader::text(raw);
    let parsed = match word.as_deref() {
        Some("all") => Ok(GroupRule::All),
        Some("first") => Ok(GroupRule::First),
        Some(other) => Err(not_one_of(other, ["all", "first"])),
        None => {
            let count = raw.get().parse::<u32>().ok().filter(|count| (1..=SIZE_MAX).contains(count));
            let wrong = || {
                let detail = format!("must be `all`, `first` or a whole number from 1 to {SIZE_MAX}");
                (FieldErrorCode::InvalidType, detail)
            };
            count.map(GroupRule::Count).ok_or_else(wrong)
        }
    };
    fields.keep("when", parsed)
}

/// The problem of a watch that is not registered in its group.
pub(super) fn refused(refusal: &GroupRefusal) -> Problem {
    let (pointer, detail) = match refusal {
        GroupRefusal::SizeMissing => {
            let detail =
                "is required: the app has no group with this id yet, and the first registration defines it";
            return Problem::field("/group/size", FieldErrorCode::Required, detail);
        }
        GroupRefusal::Differs(field) => (
            format!("/group/{field}"),
            "differs from the first registration of the group; repeat that value or omit the field"
                .to_owned(),
        ),
        GroupRefusal::Full(size) => (
            "/group/id".to_owned(),
            format!("the group has {size} watches already, which is its size; use another id"),
        ),
        GroupRefusal::Expired => ("/group/id".to_owned(), "the group has expired; use another id".to_owned()),
    };
    let mut problem = Problem::field(&pointer, FieldErrorCode::GroupMismatch, detail);
    problem.code = ProblemCode::GroupMismatch;
    problem
}
