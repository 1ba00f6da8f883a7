//! Temporary folder of the demo.

use std::fs;
use std::os::unix::fs::DirBuilderExt as _;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};

use crate::domain::random;

/// Folder that is removed with its content when it is dropped. After a kill it stays.
#[derive(Debug)]
pub struct Folder(PathBuf);

impl Folder {
    /// Creates a folder with a random name that only this user can read, because the database holds a secret.
    pub fn make() -> Result<Self> {
        let mut name = [0; 8];
        random(&mut name);
        let name = format!("ringback-demo-{:016x}", u64::from_be_bytes(name));
        let path = std::env::temp_dir().join(name);
        let made = fs::DirBuilder::new().mode(0o700).create(&path);
        made.with_context(|| format!("{} cannot be created; set TMPDIR to another folder", path.display()))?;
        Ok(Self(path))
    }

    /// Returns the path.
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
    fn the_folder_is_removed_when_it_is_dropped() {
        let folder = Folder::make().expect("a folder");
        let path = folder.path().to_owned();
        fs::write(path.join("ringback.db"), "data").expect("written");
        drop(folder);
        assert!(!path.exists());
    }
}
