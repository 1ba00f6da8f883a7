//! What all resources of the API share: the server, the parts of a request, and problems.

mod body;
mod caller;
mod concurrency_limit;
pub mod cursor;
mod idempotency;
mod in_progress_keys;
pub mod object_reader;
mod problem;
mod problem_code;
mod query;
mod serve;
mod state;
mod stream;

pub use body::{BATCH_MAX, BODY_MAX, RequestBody, too_large};
pub use caller::Caller;
pub use concurrency_limit::ConcurrencyLimiter;
pub use idempotency::IdempotencyClaim;
pub use in_progress_keys::InProgressKeys;
pub use object_reader::ObjectReader;
pub use problem::{FieldErrors, Invalid, Problem, ProblemView, not_one_of};
pub use problem_code::{FieldErrorCode, ProblemCode};
pub use query::{PathId, Query, traceparent};
pub use serve::{Server, attach_route, is_set};
pub use state::{Api, BATCHES_MAX, CONNECTIONS_MAX, WAITS_MAX};
