//! Lists the files that are part of the program: the built-in provider definitions (`src/providers/definitions/*.toml`) and the
//! migrations of each database (`migrations/*/*.sql`).
//!
//! A new provider or a new migration is therefore one new file. Each list is a constant expression of type
//! `&[(&str, &str)]`: names and texts, sorted by name. The script does not check the files: tests parse all
//! definitions, run their examples, and check the numbers of the migrations.

#![expect(clippy::disallowed_methods, reason = "Cargo passes the output folder in the environment")]

use std::path::PathBuf;
use std::{env, fs, io};

fn main() -> io::Result<()> {
    println!("cargo:rerun-if-changed=build.rs");
    list("src/providers/definitions", "toml", "providers.rs")?;
    list("migrations/sqlite", "sql", "migrations_sqlite.rs")?;
    list("migrations/postgres", "sql", "migrations_postgres.rs")
}

/// Writes the list of the files of a folder. The folder is relative to the package, which is the working directory of
/// the script. The compiler adds the path of the package.
fn list(folder: &str, extension: &str, output: &str) -> io::Result<()> {
    println!("cargo:rerun-if-changed={folder}");
    let mut names = Vec::new();
    for entry in fs::read_dir(folder)? {
        let path = entry?.path();
        if path.extension().is_some_and(|found| found == extension) {
            names.extend(path.file_name().map(|name| name.to_string_lossy().into_owned()));
        }
    }
    names.sort();
    let line = |name: &String| {
        let path = format!("/{folder}/{name}");
        format!("    ({name:?}, include_str!(concat!(env!(\"CARGO_MANIFEST_DIR\"), {path:?}))),\n")
    };
    let list = format!("&[\n{}]\n", names.iter().map(line).collect::<String>());
    let out = env::var_os("OUT_DIR").ok_or_else(|| io::Error::other("cargo sets OUT_DIR"))?;
    fs::write(PathBuf::from(out).join(output), list)
}
