//! `ringback completions SHELL`: completion scripts.

use std::io::Write as _;

use anyhow::Context as _;
use clap_complete::Shell;

use super::output::Failure;

/// Print the completion script of a shell
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Example:
  ringback completions bash > ~/.local/share/bash-completion/completions/ringback
  ringback completions zsh > ~/.zfunc/_ringback
  ringback completions fish > ~/.config/fish/completions/ringback.fish")]
pub struct Completions {
    /// Name of the shell
    shell: Shell,
}

impl Completions {
    /// Runs the command for `program`, whose commands are completed.
    pub fn run(self, program: &mut clap::Command) -> Result<(), Failure> {
        // Into memory first: the generator panics if its output cannot be written.
        let mut script = Vec::new();
        clap_complete::generate(self.shell, program, "ringback", &mut script);
        Ok(std::io::stdout().write_all(&script).context("stdout cannot be written")?)
    }
}
