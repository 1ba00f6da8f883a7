//! Jobs: what identifies one, its status, and what a poll reports about it.

use std::borrow::Cow;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::Timestamp;
use super::id::hash;

/// Number of shards. A job, its watches and its deliveries belong to one shard, and a shard has one owner.
/// The number never changes, because shards are stored.
pub const SHARDS: u16 = 1024;

/// Row number of a job in the database. In public, a job has its provider's id.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct JobNo(pub i64);

/// Provider of the jobs whose registrations say how they are polled.
pub const INLINE: &str = "inline";

/// Identity of a job. Watches with equal names share one poll.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct JobName {
    /// Id of the provider.
    pub provider: String,
    /// What separates the job from others with the same id. [`OPERATOR_ACCOUNT`]: the definition and the credential are
    /// the operator's, and all apps share the job. A new key of the operator changes nothing. For every other job, the
    /// hash of its app and of how it is polled.
    ///
    /// [`OPERATOR_ACCOUNT`]: super::OPERATOR_ACCOUNT
    pub account: String,
    /// The provider's id of the job.
    pub job_id: String,
    /// Further parameters of the URL, as canonical JSON: defaults filled in, keys sorted.
    pub params: String,
}

impl JobName {
    /// Returns the shard to which the job, its watches and its deliveries belong.
    pub fn shard(&self) -> u16 {
        let mut name = Vec::with_capacity(128);
        for part in [&self.provider, &self.account, &self.job_id, &self.params] {
            name.extend_from_slice(&(part.len() as u64).to_be_bytes());
            name.extend_from_slice(part.as_bytes());
        }
        u16::from_be_bytes(hash(&[&name])) % SHARDS
    }
}

/// Longest parameters that are part of a key as they are. An index row of PostgreSQL holds 2,704 bytes; the id of a job
/// has up to 256.
const PARAMS_KEY_MAX: usize = 1_024;

/// Returns what identifies the parameters of a job in the key of its row: the parameters, or their hash if they are
/// long. Parameters begin with `{`, so they never equal a hash.
pub fn params_key(params: &str) -> Cow<'_, str> {
    if params.len() <= PARAMS_KEY_MAX {
        return Cow::Borrowed(params);
    }
    let digits = hash::<32>(&[params.as_bytes()]).map(|byte| format!("{byte:02x}"));
    Cow::Owned(format!("sha256:{}", digits.concat()))
}

word_enum! {
    /// Status of a provider's job, as last polled.
    #[derive(Default)]
    JobStatus {
        /// Not polled yet.
        #[default]
        Unknown = "unknown",
        /// Waiting at the provider.
        Pending = "pending",
        /// Running at the provider.
        Processing = "processing",
        /// Ended successfully.
        Completed = "completed",
        /// Ended with an error.
        Failed = "failed",
        /// Ended because it was cancelled at the provider.
        Cancelled = "cancelled",
    }
}

impl JobStatus {
    /// Returns the ending that this status means; `None` while the job runs.
    pub fn ending(self) -> Option<EndingKind> {
        match self {
            Self::Unknown | Self::Pending | Self::Processing => None,
            Self::Completed => Some(EndingKind::Completed),
            Self::Failed => Some(EndingKind::Failed),
            Self::Cancelled => Some(EndingKind::Cancelled),
        }
    }
}

word_enum! {
    /// How a watch can end because of what the provider reports, or does not report.
    EndingKind {
        /// The job completed.
        Completed = "completed",
        /// The job failed.
        Failed = "failed",
        /// The job was cancelled.
        Cancelled = "cancelled",
        /// The provider does not know the job.
        NotFound = "not_found",
        /// The job did not end before the watch expired.
        Expired = "expired",
    }
}

/// One thing that a job produced.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Output {
    /// Where the provider keeps it.
    #[schema(required)]
    pub url: Option<String>,
    /// `video`, `image`, `audio`, `text`, or the provider's own word.
    #[serde(rename = "type")]
    #[schema(required)]
    pub kind: Option<String>,
    /// URL of a small picture of it.
    #[schema(required)]
    pub thumbnail: Option<String>,
    /// URL of the picture to show before it plays.
    #[schema(required)]
    pub poster_image: Option<String>,
}

/// Why a job did not complete, in the provider's words.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct JobError {
    /// Code for programs.
    #[schema(required)]
    pub code: Option<String>,
    /// Sentence for people.
    #[schema(required)]
    pub message: Option<String>,
}

/// One parsed poll: the job as the provider describes it, in Ringback's words. The default is the observation of a
/// job that was never polled.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Observation {
    /// Status that the provider's definition assigns to the provider's word.
    pub status: JobStatus,
    /// The provider's word; `None` before the first poll.
    pub raw_status: Option<String>,
    /// Progress in percent, 0 to 100.
    pub progress: Option<u8>,
    /// URL or text of the first thing that the job produced.
    pub output: Option<String>,
    /// Everything that the job produced.
    pub outputs: Option<Vec<Output>>,
    /// Why the job did not complete.
    pub error: Option<JobError>,
    /// Time of submission, by the provider's clock.
    pub created_at: Option<Timestamp>,
    /// Time of the end, by the provider's clock.
    pub completed_at: Option<Timestamp>,
    /// Time from which the outputs cannot be read any more.
    pub outputs_expire_at: Option<Timestamp>,
}

/// Bytes of the name of an output's field, and of its null.
const OUTPUT_FIELD: usize = 16;

/// Largest plausible difference between two clocks of one provider.
const CLOCK_SKEW: Duration = Duration::from_secs(60);

impl Observation {
    /// Returns the texts that the provider wrote.
    pub fn texts_mut(&mut self) -> impl Iterator<Item = &mut String> {
        let Self { raw_status, output, outputs, error, .. } = self;
        let outputs = outputs
            .iter_mut()
            .flatten()
            .flat_map(|Output { url, kind, thumbnail, poster_image }| [url, kind, thumbnail, poster_image]);
        let error = error.iter_mut().flat_map(|JobError { code, message }| [code, message]);
        [raw_status, output].into_iter().chain(outputs).chain(error).flatten()
    }

    /// Returns the size of its texts, in bytes: about that of an event about the job.
    pub fn text_size(&self) -> usize {
        fn size(text: Option<&String>) -> usize {
            text.map_or(0, String::len)
        }
        let Self { raw_status, output, outputs, error, .. } = self;
        let of_output = |Output { url, kind, thumbnail, poster_image }: &Output| {
            [url, kind, thumbnail, poster_image]
                .map(|text| size(text.as_ref()) + OUTPUT_FIELD)
                .iter()
                .sum::<usize>()
        };
        let outputs: usize = outputs.iter().flatten().map(of_output).sum();
        let error = error
            .as_ref()
            .map_or(0, |JobError { code, message }| size(code.as_ref()) + size(message.as_ref()));
        size(raw_status.as_ref()) + size(output.as_ref()) + outputs + error
    }

    /// Discards the times that the provider cannot mean: those outside of the plausible range, and an end before the
    /// submission. Providers write zero values for unknown times, and times in another unit than documented. A
    /// wrong time would be shown to users and counted as a detection delay of decades.
    pub fn discard_implausible_times(&mut self, now: Timestamp) {
        self.created_at = self.created_at.filter(|at| at.is_plausible(now));
        self.completed_at = self.completed_at.filter(|at| {
            at.is_plausible(now) && self.created_at.is_none_or(|created| created.since(*at) <= CLOCK_SKEW)
        });
    }
}

/// What the poller remembers about the polls of a job. It is kept in memory only.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct PollStats {
    /// Start of the last poll.
    pub last_polled_at: Option<Timestamp>,
    /// Time of the next poll, as the schedule and the provider's limits permit it now.
    pub next_poll_at: Option<Timestamp>,
    /// Number of polls since the process started.
    pub polls: u32,
    /// Error of the last poll; `None` if it succeeded.
    pub last_error: Option<String>,
}

#[cfg(test)]
mod tests {
    use super::*;

    // Public report: influxdata/influxdb#13511.
    #[test]
    fn implausible_times_of_a_provider_are_null() {
        let at = |text| Timestamp::parse(text);
        let now = at("2026-02-18T15:00:00Z").expect("a time");
        let (past, early, late) =
            (at("1970-01-01T00:00:00Z"), at("2026-02-18T14:00:00Z"), at("2026-02-18T14:05:00Z"));
        let barely = at("2026-02-18T13:59:30Z");
        for (given, kept) in [
            ((early, late), (early, late)),
            ((early, early), (early, early)),
            ((early, barely), (early, barely)),
            ((late, early), (late, None)),
            ((past, late), (None, late)),
            ((early, past), (early, None)),
            ((None, at("9998-12-31T23:59:59Z")), (None, None)),
            ((at("2999-01-01T00:00:00Z"), early), (None, early)),
        ] {
            let mut seen =
                Observation { created_at: given.0, completed_at: given.1, ..Observation::default() };
            seen.discard_implausible_times(now);
            assert_eq!((seen.created_at, seen.completed_at), kept, "{given:?}");
        }
    }

    #[test]
    fn the_shard_of_a_job_never_changes() {
        let name = JobName {
            provider: "muvi".into(),
            account: "default".into(),
            job_id: "job_abc123def456".into(),
            params: "{}".into(),
        };
        assert_eq!(name.shard(), 889);
    }
}
