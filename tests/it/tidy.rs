//! Rules for the text of this project:
//!
//! - only certain files contain SQL or read the environment;
//! - files have a maximum length and start with a comment;
//! - the pages agree with the program about tests, settings, log lines, links and files.
//!
//! The tests read sources as text and need no other tool. Clippy checks what a lint can express.

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};

/// Maximum length of a source file, in lines.
const LINES_MAX: usize = 800;

/// Maximum length of README.md, in words.
const README_WORDS_MAX: usize = 1_500;

#[test]
fn only_the_store_contains_sql() {
    let phrases = ["rusqlite", "\"select ", "insert into ", "delete from ", "\"update ", "\"pragma "];
    forbid(&phrases, |file| module_of(file) == "store", "SQL belongs in src/store");
}

#[test]
fn only_the_configuration_reads_the_environment() {
    let phrases = ["env::var", "env::args", "option_env!"];
    forbid(
        &phrases,
        |file| file == Path::new("src/config/source.rs"),
        "src/config/source.rs is the one reader",
    );
}

#[test]
fn no_unfinished_code_is_committed() {
    let phrases = [concat!("todo", "!("), concat!("unimplemented", "!("), concat!("FIX", "ME")];
    forbid(&phrases, |_| false, "finish or remove it");
}

#[test]
fn every_file_starts_with_a_comment_and_is_short() {
    let mut wrong = String::new();
    for file in sources(&["src", "tests", "benches"]) {
        let text = read(&file);
        let lines = text.lines().count();
        if lines > LINES_MAX {
            let _ = writeln!(wrong, "{}: {lines} lines, more than {LINES_MAX}", file.display());
        }
        if !text.starts_with("//!") && !file.starts_with("benches") {
            let _ = writeln!(wrong, "{}: does not open with a `//!` comment", file.display());
        }
    }
    assert!(wrong.is_empty(), "\n{wrong}");
}

#[test]
fn lists_of_tests_for_both_databases_are_complete() {
    let mut wrong = String::new();
    for file in sources(&["tests"]) {
        let text = read(&file);
        let Some((tests, list)) = text.split_once("\ncrate::postgres::on_postgres_too! {") else { continue };
        let listed: BTreeSet<&str> = list.split([',', '}']).map(str::trim).collect();
        let one_only =
            |before: &str| before.rsplit("\n\n").next().is_some_and(|head| head.contains("// Once: "));
        for (at, _) in tests.match_indices("\nasync fn ").chain(tests.match_indices("\nfn ")) {
            let name = tests[at..].split_once("fn ").map_or("", |(_, rest)| rest);
            let name = name.split('(').next().unwrap_or(name);
            let is_test = tests[..at].ends_with(']')
                && tests[..at].rsplit("\n\n").next().is_some_and(|h| h.contains("test]"));
            if is_test && !listed.contains(name) && !one_only(&tests[..at]) {
                let _ = writeln!(wrong, "{}: `{name}`", file.display());
            }
        }
    }
    assert!(wrong.is_empty(), "\n{wrong}List each of them, or give the reason in a comment `// Once: `.");
}

#[test]
fn every_guarantee_names_a_test_that_exists() {
    tested_rows("docs/GUARANTEES.md", "guarantee");
}

#[test]
fn every_cell_of_the_comparison_names_a_test_that_exists() {
    let tested = tested_rows("docs/COMPARISON.md", "row");
    let page = read(Path::new("docs/COMPARISON.md"));
    let compared = rows_under(&page, &["", "ringback"]);
    assert!(compared.len() > 20, "{compared:?}");
    // A licence is not tested.
    let claimed: Vec<&str> =
        compared.iter().map(|row| row[0].as_str()).filter(|row| *row != "Licence").collect();
    assert_eq!(tested, claimed);
}

/// Returns the first cells of the table `first | Test` of a page. Fails if a row names no test, or one that is missing.
fn tested_rows(page: &str, first: &str) -> Vec<String> {
    let rows = rows_under(&read(Path::new(page)), &[first, "test"]);
    assert!(!rows.is_empty(), "{page} has no table `{first} | Test`");
    let tests = test_names();
    let mut wrong = String::new();
    for row in &rows {
        let (what, named) = (row[0].as_str(), quoted(&row[1]));
        if named.is_empty() {
            let _ = writeln!(wrong, "no `test` is named: {what}");
        }
        for path in named {
            let name = path.rsplit("::").next().unwrap_or(&path);
            if !tests.contains(name) {
                let _ = writeln!(wrong, "there is no test `{name}`: {what}");
            }
        }
    }
    assert!(wrong.is_empty(), "\n{wrong}");
    rows.into_iter().map(|row| row[0].clone()).collect()
}

#[test]
fn the_settings_page_lists_every_setting_of_the_program() {
    let page = read(Path::new("docs/CONFIGURATION.md"));
    let table = settings();
    let missing: Vec<&str> = table.lines().filter(|line| !page.lines().any(|l| l == *line)).collect();
    assert!(
        page.contains(&table),
        "docs/CONFIGURATION.md differs from `ringback::config::table()` in:\n{}\n\nThe whole table is:\n\n{table}",
        missing.join("\n")
    );
    for key in table.lines().filter_map(|line| line.split('`').nth(1)) {
        let rows = page.lines().filter(|line| line.starts_with(&format!("| `{key}` | `RINGBACK_"))).count();
        assert_eq!(rows, 1, "docs/CONFIGURATION.md has one row for {key}");
    }
}

#[test]
fn the_page_on_egress_lists_every_range_of_the_guard() {
    let page = read(Path::new("docs/EGRESS.md"));
    let mut table = "| Range | Verdict | Kind | Source |\n|---|---|---|---|\n".to_owned();
    for range in ringback::egress::RANGES {
        let _ =
            writeln!(table, "| `{}` | {} | {} | {} |", range.net, range.verdict, range.reason, range.source);
    }
    assert!(page.contains(&format!("\n\n{table}\n")), "docs/EGRESS.md differs from the table:\n\n{table}");
}

#[test]
fn the_readme_is_short_and_links_every_page() {
    let readme = read(Path::new("README.md"));
    let words = readme.split_whitespace().count();
    assert!(words <= README_WORDS_MAX, "README.md has {words} words, more than {README_WORDS_MAX}");
    let linked: BTreeSet<PathBuf> = links(&readme).into_iter().map(PathBuf::from).collect();
    let missing: Vec<_> = pages().into_iter().filter(|page| !linked.contains(page)).collect();
    let optional = ["README.md", "CHANGELOG.md"].map(PathBuf::from);
    // The index of the job APIs links the page of each.
    let is_optional = |page: &PathBuf| optional.contains(page) || page.starts_with("docs/providers");
    let missing: Vec<_> = missing.iter().filter(|page| !is_optional(page)).collect();
    assert!(missing.is_empty(), "README.md does not link {missing:?}");
}

#[test]
fn every_link_to_a_heading_leads_to_one() {
    let mut wrong = String::new();
    for page in pages() {
        for target in link_targets(&read(&page)).into_iter().filter(|target| !target.contains(':')) {
            let Some((file, anchor)) = target.split_once('#') else { continue };
            let folder = page.parent().unwrap_or(Path::new(""));
            let linked = if file.is_empty() { page.clone() } else { folder.join(file) };
            if !anchors(&read(&linked)).contains(anchor) {
                let _ = writeln!(wrong, "{}: {target}", page.display());
            }
        }
    }
    assert!(wrong.is_empty(), "there is no such heading:\n{wrong}");
}

#[test]
fn every_component_on_the_architecture_page_exists() {
    let page = read(Path::new("docs/ARCHITECTURE.md"));
    let named = quoted(&page).into_iter().filter(|name| {
        name.contains('/') && name.chars().all(|c| c.is_ascii_lowercase() || c == '_' || c == '/')
    });
    let source = |name: &str| root().join("src").join(name);
    let missing: Vec<String> =
        named.filter(|name| !source(name).is_dir() && !source(&format!("{name}.rs")).exists()).collect();
    assert!(missing.is_empty(), "there is no such file below src: {missing:?}");
}

#[test]
fn every_test_that_contributors_are_shown_exists() {
    let page = read(Path::new("CONTRIBUTING.md"));
    let tests = test_names();
    let named = page.lines().filter_map(|line| line.split_once("cargo test ")?.1.split_whitespace().next());
    let missing: Vec<&str> =
        named.filter(|name| name.contains('_') && !tests.iter().any(|test| test.contains(name))).collect();
    assert!(missing.is_empty(), "there is no such test: {missing:?}");
}

#[test]
fn every_documented_log_line_is_in_the_code() {
    let page = read(Path::new("docs/OPERATIONS.md"));
    let rows = rows_under(&page, &["line", "level", "what to do"]);
    assert!(!rows.is_empty(), "docs/OPERATIONS.md has no table `Line | Level | What to do`");
    let code: String = sources(&["src"]).iter().map(|file| read(file)).collect();
    // A string literal may continue on the next line of the code.
    let code = code.split("\\\n").map(str::trim_start).collect::<String>();
    let lines = rows.iter().flat_map(|row| quoted(&row[0]));
    let wrong: Vec<String> =
        lines.filter(|line| !line.split('…').all(|part| code.contains(part.trim()))).collect();
    assert!(wrong.is_empty(), "the code does not log: {wrong:#?}");
}

#[test]
fn every_file_that_a_page_names_exists() {
    let mut wrong = String::new();
    for page in pages() {
        let text = read(&page);
        let folder = page.parent().unwrap_or(Path::new(""));
        let linked = links(&text).into_iter().map(|link| folder.join(link));
        let named = quoted(&text).into_iter().filter(|name| is_path(name)).map(PathBuf::from);
        for path in linked.chain(named) {
            if !root().join(&path).exists() {
                let _ = writeln!(wrong, "{}: there is no {}", page.display(), path.display());
            }
        }
    }
    assert!(wrong.is_empty(), "\n{wrong}");
}

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// Reads a file of the repository.
pub fn read(file: &Path) -> String {
    fs::read_to_string(root().join(file)).unwrap_or_else(|error| panic!("{}: {error}", file.display()))
}

/// Returns every `*.rs` file below these folders, as sorted paths from the root.
pub fn sources(folders: &[&str]) -> Vec<PathBuf> {
    files(folders, "rs")
}

/// Returns all Markdown pages.
fn pages() -> Vec<PathBuf> {
    let mut pages = files(&["docs", "templates"], "md");
    let tops = ["README.md", "CONTRIBUTING.md", "SECURITY.md", "CHANGELOG.md"];
    pages.extend(tops.map(PathBuf::from).into_iter().filter(|page| root().join(page).exists()));
    pages
}

fn files(folders: &[&str], extension: &str) -> Vec<PathBuf> {
    let mut waiting: Vec<PathBuf> = folders.iter().map(PathBuf::from).collect();
    let mut found = Vec::new();
    while let Some(folder) = waiting.pop() {
        let Ok(entries) = fs::read_dir(root().join(&folder)) else { continue };
        for entry in entries {
            let entry = entry.expect("a folder that can be read");
            let path = folder.join(entry.file_name());
            if entry.path().is_dir() {
                waiting.push(path);
            } else if path.extension().is_some_and(|found| found == extension) {
                found.push(path);
            }
        }
    }
    found.sort();
    found
}

/// Returns the module of a file: `store` for `src/store/jobs.rs` and `src/store.rs`.
fn module_of(file: &Path) -> String {
    let mut parts = file.iter().skip(1).map(|part| part.to_string_lossy());
    parts.next().map_or_else(String::new, |part| part.trim_end_matches(".rs").to_owned())
}

/// Returns lines of code with their numbers, without comments and without the tests at the end of a file.
pub fn code(text: &str) -> impl Iterator<Item = (usize, &str)> {
    let lines = text.lines().enumerate().map(|(index, line)| (index + 1, line));
    lines
        .take_while(|(_, line)| !line.starts_with("mod tests {"))
        .filter(|(_, line)| !line.trim_start().starts_with("//"))
}

/// Fails if a line of code in `src` contains one of `phrases`, except in `allowed` files.
fn forbid(phrases: &[&str], allowed: impl Fn(&Path) -> bool, advice: &str) {
    let mut wrong = String::new();
    for file in sources(&["src"]).into_iter().filter(|file| !allowed(file)) {
        for (number, line) in code(&read(&file)) {
            let low = line.to_lowercase();
            if let Some(phrase) = phrases.iter().find(|phrase| low.contains(&phrase.to_lowercase())) {
                let _ = writeln!(wrong, "{}:{number}: `{}`", file.display(), phrase.trim());
            }
        }
    }
    assert!(wrong.is_empty(), "\n{wrong}{advice}.");
}

/// Returns the names of all tests.
pub fn test_names() -> BTreeSet<String> {
    let mut names = BTreeSet::new();
    for file in sources(&["src", "tests"]) {
        let mut marked = false;
        for line in read(&file).lines().map(str::trim) {
            if line == "#[test]" || line.starts_with("#[tokio::test") {
                marked = true;
            } else if let Some((_, rest)) = line.split_once("fn ")
                && std::mem::take(&mut marked)
            {
                names.insert(rest.chars().take_while(|c| c.is_alphanumeric() || *c == '_').collect());
            } else if let Some((name, rest)) = line.split_once(": \"")
                && rest.contains("\" => ")
                && file.ends_with("tests/it/faults.rs")
            {
                // A scenario of the fault suite: `name: "fault" => …`.
                names.insert(name.to_owned());
            }
        }
    }
    names
}

/// Returns the rows of every table that starts with these columns.
pub fn rows_under(page: &str, columns: &[&str]) -> Vec<Vec<String>> {
    let cells = |line: &str| -> Vec<String> {
        line.trim().trim_matches('|').split('|').map(|cell| cell.trim().to_owned()).collect()
    };
    let mut rows = Vec::new();
    let mut inside = false;
    for line in page.lines() {
        if !line.trim_start().starts_with('|') {
            inside = false;
            continue;
        }
        let row = cells(line);
        if row.iter().map(|cell| cell.to_lowercase()).take(columns.len()).eq(columns.iter().copied()) {
            inside = true;
        } else if inside
            && row.len() >= columns.len()
            && !row[0].starts_with("--")
            && !row[0].starts_with(':')
        {
            rows.push(row);
        }
    }
    rows
}

/// Returns the texts between backticks, outside of fenced blocks.
fn quoted(text: &str) -> Vec<String> {
    let mut fenced = false;
    let mut found = Vec::new();
    for line in text.lines() {
        if line.trim_start().starts_with("```") {
            fenced = !fenced;
        } else if !fenced {
            found.extend(line.split('`').skip(1).step_by(2).map(str::to_owned));
        }
    }
    found
}

/// Returns the targets of all links.
fn link_targets(text: &str) -> Vec<&str> {
    text.split("](").skip(1).filter_map(|rest| rest.split(')').next()).collect()
}

/// Returns the files that relative links lead to.
fn links(text: &str) -> Vec<String> {
    let targets = link_targets(text).into_iter().map(|target| target.split('#').next().unwrap_or(target));
    let outside = |target: &str| target.contains(':') || target.is_empty() || target.contains(' ');
    targets.filter(|target| !outside(target)).map(str::to_owned).collect()
}

/// Returns the anchors of all headings, as GitHub derives them.
fn anchors(text: &str) -> BTreeSet<String> {
    let headings = text.lines().filter(|line| line.starts_with('#'));
    let anchor = |heading: &str| -> String {
        let kept = heading.trim_start_matches('#').trim().to_lowercase();
        let kept = kept.chars().filter(|c| c.is_alphanumeric() || [' ', '-', '_'].contains(c));
        kept.map(|c| if c == ' ' { '-' } else { c }).collect()
    };
    headings.map(anchor).collect()
}

/// Reports whether a text is the path of a file of this project.
fn is_path(text: &str) -> bool {
    let folders = ["src/", "docs/", "tests/", "benches/", "migrations/", ".ci/"];
    folders.iter().any(|folder| text.starts_with(folder)) && !text.contains(['*', ' ', '…', '{', '<', ':'])
}

/// Returns the table of settings of docs/CONFIGURATION.md.
fn settings() -> String {
    let mut table = "| Key | Variable | Default | |\n|---|---|---|---|\n".to_owned();
    for setting in ringback::config::table() {
        let default = match setting.default {
            Some("") => "empty".to_owned(),
            Some(default) => format!("`{default}`"),
            None if setting.key.starts_with("providers.NAME.") && !setting.secret => "as defined".to_owned(),
            None => "none".to_owned(),
        };
        let doc = setting.doc.replace('|', "\\|");
        let _ = writeln!(table, "| `{}` | `{}` | {default} | {doc} |", setting.key, setting.variable());
    }
    table
}
