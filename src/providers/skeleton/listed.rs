//! Jobs in lists: an answer whose list has the job among others, or alone.

use serde_json::Value;

use super::guess::{ID_NAMES, Member, best, folded, id_path, looks_like_id, members, step};

/// Greatest depth at which values are searched.
const DEPTH_MAX: usize = 6;

/// The job in a list of each answer.
pub(super) struct ListedJob {
    /// Path of the job, with a filter.
    pub(super) path: String,
    /// The jobs, or the whole answer where the list does not have it.
    pub(super) jobs: Vec<Value>,
}

impl ListedJob {
    /// Returns the job in lists, if no answer names it outside of them.
    pub(super) fn find(answers: &[Value], id: &str) -> Option<Self> {
        let outside: Vec<Member<'_>> = answers.iter().flat_map(members).collect();
        if id_path(&outside, id).is_some() {
            return None;
        }
        let path =
            answers.iter().find_map(|answer| lists(answer).into_iter().find_map(|list| in_list(list, id)))?;
        let job = |answer: &Value| {
            let found = lists(answer).into_iter().find_map(|(at, items)| {
                let item = items.iter().find(|item| id_name(item, id).is_some())?;
                (in_list((at, items), id)? == path).then(|| item.clone())
            });
            found.unwrap_or_else(|| answer.clone())
        };
        let jobs = answers.iter().map(job).collect();
        Some(Self { path, jobs })
    }
}

/// Returns the path of a list in an answer with its items, for each list.
fn lists(answer: &Value) -> Vec<(String, &Vec<Value>)> {
    let root = answer.as_array().map(|items| ("$".to_owned(), items));
    let inner = members(answer);
    let inner = inner.into_iter().filter_map(|member| Some((member.path, member.value.as_array()?)));
    root.into_iter().chain(inner).collect()
}

/// Returns the path of the item with this id.
fn in_list((path, items): (String, &Vec<Value>), id: &str) -> Option<String> {
    let name = items.iter().find_map(|item| id_name(item, id))?;
    Some(format!("{path}[?@{} == {{job_id}}]", step(name)?))
}

/// Returns the name of the member of an item that is this id, the most usual one of several.
fn id_name<'a>(item: &'a Value, id: &str) -> Option<&'a str> {
    let names = item.as_object()?.iter().filter(|(_, value)| is(value, id)).map(|(name, _)| name.as_str());
    let rank =
        |name: &&str| ID_NAMES.iter().position(|known| *known == folded(name)).unwrap_or(ID_NAMES.len());
    names.min_by_key(rank)
}

fn is(value: &Value, text: &str) -> bool {
    match value {
        Value::String(value) => value == text,
        Value::Number(number) => number.to_string() == text,
        Value::Null | Value::Bool(_) | Value::Array(_) | Value::Object(_) => false,
    }
}

/// Returns the id of the job that answers name.
pub(super) fn job_id(answers: &[Value]) -> Option<String> {
    let members: Vec<Member<'_>> = answers.iter().flat_map(members).collect();
    let Some(found) = best(&members, ID_NAMES, |value| value.is_string() || value.is_u64()) else {
        return only_id(answers);
    };
    Some(found.value.as_str().map_or_else(|| found.value.to_string(), str::to_owned))
}

/// Returns the id of the only job in a list of the first answer that has one.
fn only_id(answers: &[Value]) -> Option<String> {
    let of_list = |(_, items): (String, &Vec<Value>)| {
        let [item] = items.as_slice() else { return None };
        let members = item.as_object()?;
        let id =
            |known: &&str| members.iter().find(|(name, _)| folded(name) == *known).map(|(_, value)| value);
        ID_NAMES.iter().find_map(id).and_then(|value| match value {
            Value::String(text) => Some(text.clone()),
            Value::Number(number) => Some(number.to_string()),
            Value::Null | Value::Bool(_) | Value::Array(_) | Value::Object(_) => None,
        })
    };
    answers.iter().flat_map(lists).find_map(of_list)
}

/// Returns whether a member with the name of an id is this text.
pub(super) fn is_id(answers: &[Value], part: &str) -> bool {
    part.len() > 1 && has(answers, part, &|name| ID_NAMES.contains(&folded(name).as_str()))
}

/// Returns whether an answer itself, and no object within it, has this text as its id.
pub(super) fn is_top_id(answers: &[Value], part: &str) -> bool {
    answers
        .iter()
        .any(|answer| id_name(answer, part).is_some_and(|name| ID_NAMES.contains(&folded(name).as_str())))
}

/// Returns whether a member of an answer is this text or number. A status or a kind can be a part of the path as well, so a
/// text must have the form of an id.
pub(super) fn contains(answers: &[Value], part: &str) -> bool {
    let is_number = part.bytes().all(|byte| byte.is_ascii_digit());
    part.len() > 1 && (is_number || looks_like_id(part)) && has(answers, part, &|_| true)
}

fn has(answers: &[Value], part: &str, fits: &impl Fn(&str) -> bool) -> bool {
    answers.iter().any(|answer| has_within(answer, part, fits, DEPTH_MAX))
}

fn has_within(value: &Value, part: &str, fits: &impl Fn(&str) -> bool, depth: usize) -> bool {
    let Some(depth) = depth.checked_sub(1) else { return false };
    match value {
        Value::Object(members) => members
            .iter()
            .any(|(name, value)| (fits(name) && is(value, part)) || has_within(value, part, fits, depth)),
        Value::Array(items) => items.iter().any(|item| has_within(item, part, fits, depth)),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => false,
    }
}
