//! Results: follow-up requests for what a completed job has produced.
//!
//! Some providers say in one place that a job has completed, and elsewhere what it has produced, or that it has failed
//! after all, or why it has failed. A definition lists results. After an answer to a poll that says that the job has
//! ended, those for its outcome are requested in the order of the file, and each replaces the fields that it finds:
//!
//! - The address is a template of the definition, or a URL in the answer to the poll. The provider chooses such a URL, so
//!   it must be https with a listed host, and its addresses must be public, as those of a URL of a client.
//! - The credential is sent only if the result says so, and only to hosts of `send_to`.
//! - A result for which the answer to the poll has no URL or no value is not requested: there is nothing to read.
//! - A result can begin with the answer to the result before it, instead of that to the poll: the file of a list, whose name
//!   only the list has. It is requested after that answer, with the same rules about its address and the credential.
//!
//! When the requests are made, and what their failures mean for the job, is the subject of the poller.

use std::collections::BTreeMap;

use url::{Host, Url};

use super::auth::{Credential, Supply};
use super::definition::{Definition, Meaning, ResultForm};
use super::extract::Lost;
use super::field::Outcome;
use super::host_pattern::HostPattern;
use super::interpretation::{Answer, Interpretation, JobReport, NextResult};
use super::request::{CredentialUse, MAX_URL, Request, Sources, shown};
use crate::domain::{JobError, JobStatus, Observation, Timestamp};

impl Meaning {
    /// Returns what a job is after the answer to the first of its results, or why that result could not be read.
    pub(super) fn interpret_result(
        &self,
        job: (&str, &str),
        before: &JobReport,
        answer: Answer<'_>,
    ) -> Interpretation {
        let Some((next, rest)) = before.results.split_first() else {
            return Interpretation::Ok(Box::new(before.clone()));
        };
        let Some(form) = self.results.get(next.index) else {
            return Interpretation::error("the definition has no such result".to_owned());
        };
        let is_completed = before.observation.status == JobStatus::Completed;
        let known = Some(before.outcome).filter(|_| !is_completed);
        let mut found = match form.meaning.read(job, known, answer) {
            Interpretation::Ok(found) => *found,
            other @ (Interpretation::NotYet | Interpretation::Failed { .. }) => return other,
        };
        // The details of a failure do not undo it.
        if !is_completed {
            found.observation.status = before.observation.status;
        }
        let has = (found.observation.output.is_some(), found.observation.outputs.is_some());
        let lost = Lost::merged(found.lost, has, before.lost);
        // A result without a rule says nothing else than the poll.
        let decides = is_completed && found.outcome != Outcome::Completed;
        let outcome = if decides { found.outcome } else { before.outcome };
        let observation = merged(&before.observation, found.observation);
        let mut results = chained(found.results, &next.values);
        results.extend_from_slice(rest);
        if observation.status != before.observation.status {
            results.clear();
        }
        let mut report = JobReport {
            observation,
            unknown_status: before.unknown_status,
            request_id: before.request_id.clone().or(found.request_id),
            outputs_expire: found.outputs_expire.or(before.outputs_expire),
            results,
            outcome,
            lost,
        };
        report.drop_expiry_of_nothing();
        if report.results.is_empty() {
            report.note_lost();
        }
        Interpretation::Ok(Box::new(report))
    }
}

/// Returns the results that begin with an answer, with the values of the answers before it.
fn chained(mut found: Vec<NextResult>, before: &BTreeMap<String, String>) -> Vec<NextResult> {
    for next in &mut found {
        for (name, value) in before {
            next.values.entry(name.clone()).or_insert_with(|| value.clone());
        }
    }
    found
}

/// Returns the fields of the result, and those of the poll that the result does not have.
fn merged(before: &Observation, found: Observation) -> Observation {
    let before = before.clone();
    // A code of the result is not combined with a message of the poll, and a failure is not explained by a partial success.
    let kept = before.error.filter(|_| found.status == before.status);
    let error = match (found.error, kept) {
        // Both are about the same failure.
        (Some(found), Some(kept)) if before.status != JobStatus::Completed => {
            Some(JobError { code: found.code.or(kept.code), message: found.message.or(kept.message) })
        }
        // The code says that a success is partial.
        (Some(found), Some(kept)) if kept.code.as_deref() == Outcome::Partial.code() => {
            Some(JobError { code: kept.code, message: found.message.or(kept.message) })
        }
        (found, kept) => found.or(kept),
    };
    Observation {
        status: found.status,
        raw_status: found.raw_status.or(before.raw_status),
        progress: found.progress.or(before.progress),
        output: found.output.or(before.output),
        outputs: found.outputs.or(before.outputs),
        error,
        created_at: found.created_at.or(before.created_at),
        completed_at: found.completed_at.or(before.completed_at),
        outputs_expire_at: found.outputs_expire_at.or(before.outputs_expire_at),
    }
}

impl Definition {
    /// Returns the meaning of the answer to the first result of `before`: the job with what the result contains, or why
    /// it cannot be read. Never panics, whatever the bytes.
    pub fn interpret_result(&self, job_id: &str, before: &JobReport, answer: Answer<'_>) -> Interpretation {
        self.interpret_result_of((job_id, "{}"), before, answer)
    }

    /// Does the same for a job with parameters, a result of [`Self::params`].
    pub fn interpret_result_of(
        &self,
        job: (&str, &str),
        before: &JobReport,
        answer: Answer<'_>,
    ) -> Interpretation {
        self.read_limited(Interpretation::error, || self.meaning.interpret_result(job, before, answer))
    }

    /// Returns whether a result is requested with the credential, so that its answer says something about the provider.
    pub fn sends_credential(&self, result: &NextResult) -> bool {
        self.meaning.results.get(result.index).is_some_and(|form| form.uses_credential)
    }

    /// Returns whether the answer to a result is JSON.
    pub fn is_json(&self, result: &NextResult) -> bool {
        self.meaning.results.get(result.index).is_some_and(|form| form.meaning.body.is_json())
    }

    /// Returns the request for a result. The error is a sentence, also if the request must not be sent to its URL.
    pub fn result_request(
        &self,
        next: &NextResult,
        job: (&str, &str),
        base_url: Option<&Url>,
        credential: Option<Credential<'_>>,
    ) -> Result<Request, String> {
        self.supplied_result(next, job, base_url, credential.map(Supply::Real))
    }

    fn supplied_result(
        &self,
        next: &NextResult,
        (job_id, params): (&str, &str),
        base_url: Option<&Url>,
        supply: Option<Supply<'_>>,
    ) -> Result<Request, String> {
        let form = self.meaning.results.get(next.index).ok_or("the definition has no such result")?;
        let named = next.url.as_deref().map(|url| named_url(url, &form.hosts, base_url)).transpose()?;
        let sources = Sources {
            job_id,
            params,
            values: &next.values,
            named,
            base_url: base_url.filter(|base| form.is_rebased || is_of(next, base)),
            credential: if form.uses_credential { CredentialUse::Sent(supply) } else { CredentialUse::Kept },
            max_body: form.meaning.max_body,
        };
        self.build(&form.request, &sources)
    }

    /// Returns the requests for the results as texts, with the outcomes that each follows and with the credential masked.
    /// Values that only an answer has are shown as their names.
    pub fn shown_results(
        &self,
        job_id: &str,
        params: &str,
        base_url: Option<&Url>,
        now: Timestamp,
    ) -> Result<Vec<(String, String)>, String> {
        let of_form = |(index, form): (usize, &ResultForm)| {
            let host = form.hosts.first().map(HostPattern::example);
            let values = form.values.iter().map(|name| (name.clone(), format!("{{{name}}}")));
            let url = host.map(|host| format!("https://{host}/"));
            let next = NextResult { index, url, values: values.collect() };
            let supply = Some(Supply::Shown(now));
            let shown = shown(&self.supplied_result(&next, (job_id, params), base_url, supply)?);
            let names = next.values.values();
            let encoded = |name: &String| super::template::percent_encode(name);
            let shown = names.fold(shown, |shown, name| shown.replace(&encoded(name), name));
            let is_first = self.meaning.followers.iter().any(|follower| follower.index == index);
            let answer = if is_first { "to the poll" } else { "before" };
            let shown = match &next.url {
                Some(url) => shown.replacen(url, &format!("(the URL in the answer {answer})"), 1),
                None => shown,
            };
            let when: Vec<&str> = form.when.iter().map(|outcome| outcome.word()).collect();
            Ok((when.join(" or "), shown))
        };
        self.meaning.results.iter().enumerate().map(of_form).collect()
    }
}

/// Returns whether the answer before names a URL of the operator's address.
fn is_of(next: &NextResult, base: &Url) -> bool {
    let named = next.url.as_ref().and_then(|url| Url::parse(url).ok());
    named.is_some_and(|url| url.origin() == base.origin())
}

/// Parses a URL that an answer names. The error is a sentence.
fn named_url(text: &str, hosts: &[HostPattern], base_url: Option<&Url>) -> Result<Url, String> {
    let wrong = |why: &str| format!("the URL of the result {why}");
    if text.len() > MAX_URL {
        return Err(wrong(&format!("is longer than {MAX_URL} characters")));
    }
    let mut url = Url::parse(text).map_err(|_| wrong("is not an absolute URL"))?;
    url.set_fragment(None);
    if !url.username().is_empty() || url.password().is_some() {
        return Err(wrong("contains a user name"));
    }
    if base_url.is_some_and(|base| base.origin() == url.origin()) {
        return Ok(url);
    }
    let host = url.host_str().unwrap_or_default();
    if url.scheme() != "https" || !matches!(url.host(), Some(Host::Domain(_))) {
        return Err(wrong("is not an https URL with a host name"));
    }
    if !hosts.iter().any(|pattern| pattern.contains(&url)) {
        return Err(wrong(&format!("has the host {host}, which the definition does not list in `hosts`")));
    }
    Ok(url)
}
