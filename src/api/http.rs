//! What all resources of the API share: the server, the parts of a request, and problems.

mod answer;
mod body;
mod call;
mod caller;
mod concurrency_limit;
pub mod cursor;
mod description;
mod idempotency;
mod in_progress_keys;
pub mod object_reader;
mod problem;
mod problem_code;
mod query;
mod serve;
mod state;
mod stream;

pub use answer::{Answer, Page, PageParams, created, first_answer, json, page, reply};
pub use body::{BATCH_MAX, BODY_MAX, too_large};
pub use call::{Call, Content};
pub use concurrency_limit::ConcurrencyLimiter;
pub use description::Description;
pub use in_progress_keys::InProgressKeys;
pub use object_reader::ObjectReader;
pub use problem::{FieldErrors, Invalid, Problem, ProblemView, not_one_of};
pub use problem_code::{FieldErrorCode, ProblemCode};
pub use query::traceparent;
pub use serve::{Server, attach_route, is_set};
pub use state::{Api, BATCHES_MAX, CONNECTIONS_MAX, Resource, WAITS_MAX};
