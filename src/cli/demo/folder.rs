//! A folder that is gone when the demo is.

use std::fs;
use std::os::unix::fs::DirBuilderExt as _;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};

use crate::domain::random;

/// Removed with all that is in it when it is dropped. After a kill it stays, as any temporary file.
#[derive(Debug)]
pub struct Folder(PathBuf);

impl Folder {
    /// Makes one of a name that nobody can guess, readable to us alone: the database holds a secret.
    pub fn make() -> Result<Self> {
        let mut name = [0; 8];
        random(&mut name);
        let name = format!("ringback-demo-{:016x}", u64::from_be_bytes(name));
        let path = std::env::temp_dir().join(name);
        let made = fs::DirBuilder::new().mode(0o700).create(&path);
        made.with_context(|| format!("{} cannot be made; set TMPDIR", path.display()))?;
        Ok(Self(path))
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.0
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        if let Err(error) = fs::remove_dir_all(&self.0) {
            tracing::error!(%error, path = %self.0.display(), "the temporary folder could not be removed");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_folder_and_what_is_in_it_go_when_it_is_dropped() {
        let folder = Folder::make().expect("a folder");
        let path = folder.path().to_owned();
        fs::write(path.join("ringback.db"), "facts").expect("written");
        drop(folder);
        assert!(!path.exists());
    }
}
