//! The answer on the standard input.

use std::io::Read as _;

use crate::cli::output::Failure;

/// Largest answer that is read from the standard input, in bytes.
pub(super) const ANSWER_MAX: u64 = 16 * 1024 * 1024;

/// Reads an answer from the standard input.
pub(super) fn read_stdin() -> Result<Vec<u8>, Failure> {
    let mut body = Vec::new();
    std::io::stdin()
        .take(ANSWER_MAX)
        .read_to_end(&mut body)
        .map_err(|error| Failure::Failed(format!("the standard input cannot be read: {error}")))?;
    Ok(body)
}
