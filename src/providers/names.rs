//! The values by which a registration names a job: its id, and the parameters.

use std::collections::BTreeMap;

/// No parameters.
static NO_PARAMS: BTreeMap<String, String> = BTreeMap::new();

/// The id of a job, and its parameters.
#[derive(Clone, Copy, Debug)]
pub(super) struct Names<'a> {
    pub(super) job_id: &'a str,
    /// The parameters of the registration.
    pub(super) params: &'a BTreeMap<String, String>,
    /// Those that are parts of a URL that is the id of the job.
    pub(super) groups: Option<&'a BTreeMap<String, String>>,
}

impl<'a> Names<'a> {
    /// Returns the names of a job without parameters.
    pub(super) fn of_job(job_id: &'a str) -> Self {
        Self { job_id, params: &NO_PARAMS, groups: None }
    }

    /// Returns the id of the job, or a parameter.
    pub(super) fn get(self, name: &str) -> Option<&'a str> {
        if name == "job_id" {
            return Some(self.job_id);
        }
        let group = self.groups.and_then(|groups| groups.get(name));
        group.or_else(|| self.params.get(name)).map(String::as_str)
    }
}
