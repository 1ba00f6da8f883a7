//! What all resources of the API share: the server, the parts of a request, and problems.

mod answer;
mod body;
mod call;
mod concurrency_limit;
pub mod cursor;
pub mod endpoint;
mod idempotency;
pub mod object_reader;
mod problem;
mod query;
mod serve;
mod state;
mod stream;

pub use answer::{Answer, Page, PageParams, created, first_answer, json, json_text, page};
pub use body::{BATCH_MAX, BODY_MAX, Content, too_large};
pub use call::Call;
pub use concurrency_limit::ConcurrencyLimiter;
pub use idempotency::InProgressKeys;
pub use object_reader::ObjectReader;
pub use problem::{FieldErrorCode, FieldErrors, Invalid, Problem, ProblemCode, ProblemView, not_one_of};
pub use query::traceparent;
pub use serve::{is_set, serve};
pub use state::{Api, BATCHES_MAX, CONNECTIONS_MAX, WAITS_MAX};
