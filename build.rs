//! Lists the built-in provider definitions: every `src/providers/*.toml`.
//!
//! A new provider is therefore one new file. The script does not check definitions: a test parses all of them and runs
//! their examples.

#![expect(clippy::disallowed_methods, reason = "Cargo passes the output folder in the environment")]

use std::path::PathBuf;
use std::{env, fs, io};

fn main() -> io::Result<()> {
    let folder = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("src/providers");
    println!("cargo:rerun-if-changed={}", folder.display());
    println!("cargo:rerun-if-changed=build.rs");
    let mut files = Vec::new();
    for entry in fs::read_dir(&folder)? {
        let path = entry?.path();
        if path.extension().is_some_and(|extension| extension == "toml") {
            files.push(path);
        }
    }
    files.sort();
    let line = |path: &PathBuf| {
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        format!("    ({name:?}, include_str!({:?})),\n", path.to_string_lossy())
    };
    let list = format!("&[\n{}]\n", files.iter().map(line).collect::<String>());
    let out = env::var_os("OUT_DIR").ok_or_else(|| io::Error::other("cargo sets OUT_DIR"))?;
    fs::write(PathBuf::from(out).join("providers.rs"), list)
}
