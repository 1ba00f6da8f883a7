//! Rules for imports: the graph of the modules, the layers within a module, and no circles between files.
//!
//! The tests read sources as text. They read every path in `use` declarations and in other code, and follow
//! it to the file that *defines* the item:
//!
//! - A re-export (`pub use`) is followed to its origin. So a parent file that only declares and re-exports its
//!   children imports nothing, and a child that uses `super::Name` imports the sibling that defines `Name`.
//! - A parent file whose own code uses a child, or an item that it re-exports, imports that child. If the child
//!   then uses an item that the parent defines, the two files form a circle.
//! - A path that starts with a child module or an imported module (`db::Row`) counts, too.
//! - The path of a visibility, `pub(in path)`, does not count, nor do `main.rs`, `lib.rs`, files called `tests.rs`
//!   and `mod tests { … }` at the end of a file.
//!
//! docs/ARCHITECTURE.md declares the graph as lines `module ← imported …`, and the layers of a module as lines
//! `module: lowest < … < highest`, where `…` stands for all files that no layer names. A file may import files
//! of its own layer and of lower layers.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::path::Path;

use crate::tidy::{code, read, sources};

/// Path of a module from the root: `store::db::tx` is `["store", "db", "tx"]`.
type Module = Vec<String>;

/// A declaration `use path as name`.
struct Use {
    is_reexport: bool,
    path: Vec<String>,
    name: String,
}

/// A source file.
#[derive(Default)]
struct Source {
    uses: Vec<Use>,
    /// Paths outside of `use` declarations.
    paths: Vec<Vec<String>>,
    /// All words outside of `use` declarations.
    words: BTreeSet<String>,
}

/// An import of one file by another.
struct Import {
    from: Module,
    /// The module as the path names it.
    named: Module,
    /// The module that defines the item.
    to: Module,
    item: String,
}

#[test]
fn modules_import_only_what_the_graph_allows() {
    let graph = graph();
    let mut wrong = BTreeSet::new();
    for Import { from, named, item, .. } in imports(&sources_of_program()) {
        let (module, imported) = (&from[0], &named[0]);
        if module != imported && graph.get(module).is_none_or(|allowed| !allowed.contains(imported)) {
            wrong.insert(format!("{}: `{module}` imports `{imported}` ({item})", file_of(&from)));
        }
    }
    let wrong: Vec<String> = wrong.into_iter().collect();
    assert!(wrong.is_empty(), "docs/ARCHITECTURE.md does not allow these imports:\n{}", wrong.join("\n"));
}

/// The graph of docs/ARCHITECTURE.md may grow; these limits may not.
#[test]
fn the_graph_keeps_the_modules_apart() {
    let graph = graph();
    let imported = |module: &str| graph.get(module).cloned().unwrap_or_default();
    for (module, most) in [
        ("domain", ""),
        ("named_file", ""),
        ("clock", "domain"),
        ("events", "domain"),
        ("providers", "domain named_file"),
        ("config", "channels domain named_file"),
        ("egress", "clock dns domain tls"),
        ("channels", "clock domain egress named_file"),
        ("telemetry", "clock config domain egress"),
        // `dns` for the addresses of the database server.
        ("store", "clock dns domain events named_file telemetry tls"),
    ] {
        let more: Vec<String> = imported(module).difference(&words(most)).cloned().collect();
        assert!(more.is_empty(), "`{module}` may import only: {most}; and not: {more:?}");
    }
    let loops = ["api", "poller", "dispatcher"];
    for (module, other) in loops.iter().flat_map(|one| loops.map(|other| (*one, other))) {
        assert!(!imported(module).contains(other), "`{module}` must not import `{other}`");
    }
}

#[test]
fn files_do_not_import_each_other_in_a_circle() {
    let mut edges: BTreeMap<Module, BTreeMap<Module, String>> = BTreeMap::new();
    for Import { from, to, item, .. } in imports(&sources_of_program()) {
        edges.entry(from).or_default().entry(to).or_insert(item);
    }
    let mut circles = String::new();
    for (from, imported) in &edges {
        let back = |(to, _): &(&Module, &String)| reachable(&edges, to).contains(from);
        let to: Vec<String> =
            imported.iter().filter(back).map(|(to, item)| format!("{} ({item})", file_of(to))).collect();
        if !to.is_empty() {
            let _ = writeln!(circles, "{} imports {}", file_of(from), to.join(", "));
        }
    }
    assert!(circles.is_empty(), "these files import each other in circles:\n{circles}");
}

/// Returns all modules that `from` imports directly or indirectly.
fn reachable(edges: &BTreeMap<Module, BTreeMap<Module, String>>, from: &Module) -> BTreeSet<Module> {
    let (mut found, mut waiting) = (BTreeSet::new(), vec![from]);
    while let Some(module) = waiting.pop() {
        for to in edges.get(module).into_iter().flat_map(BTreeMap::keys) {
            if found.insert(to.clone()) {
                waiting.push(to);
            }
        }
    }
    found
}

#[test]
fn files_of_a_module_keep_to_their_layers() {
    let page = read(Path::new("docs/ARCHITECTURE.md"));
    let sources = sources_of_program();
    let mut wrong = BTreeSet::new();
    let mut modules = 0;
    for (module, layers) in page.lines().filter_map(|line| line.split_once(": ")) {
        let layers: Vec<BTreeSet<String>> = layers.split(" < ").map(words).collect();
        if layers.len() < 2 || module.contains(' ') {
            continue;
        }
        modules += 1;
        let rest = layers.iter().position(|layer| layer.contains("…"));
        let layer_of = |file: &Module| {
            let name = file.get(1).filter(|_| file[0] == module)?;
            layers.iter().position(|layer| layer.contains(name)).or(rest)
        };
        for name in layers.iter().flatten().filter(|name| *name != "…") {
            let named = vec![module.to_owned(), name.clone()];
            assert!(
                sources.contains_key(&named),
                "the layers of `{module}` name `{name}`, which does not exist"
            );
        }
        for Import { from, to, item, .. } in imports(&sources) {
            if let (Some(layer), Some(imported)) = (layer_of(&from), layer_of(&to))
                && imported > layer
            {
                wrong.insert(format!("{} imports {} ({item}), a higher layer", file_of(&from), file_of(&to)));
            }
        }
    }
    assert!(modules > 0, "docs/ARCHITECTURE.md has no lines `module: lowest < … < highest`");
    let wrong: Vec<String> = wrong.into_iter().collect();
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

/// Reads the graph of docs/ARCHITECTURE.md: the lines `module ← imported …`.
fn graph() -> BTreeMap<String, BTreeSet<String>> {
    let page = read(Path::new("docs/ARCHITECTURE.md"));
    let lines = page.lines().filter_map(|line| line.split_once('←'));
    let graph: BTreeMap<_, _> =
        lines.map(|(module, imported)| (module.trim().to_owned(), words(imported))).collect();
    assert!(!graph.is_empty(), "docs/ARCHITECTURE.md has no lines `module ← imported`");
    graph
}

fn words(text: &str) -> BTreeSet<String> {
    text.split_whitespace().map(str::to_owned).collect()
}

/// Returns `src/store/db.rs` for `["store", "db"]`.
fn file_of(module: &Module) -> String {
    format!("src/{}.rs", module.join("/"))
}

/// Reads all files of the program that count.
fn sources_of_program() -> BTreeMap<Module, Source> {
    let mut found = BTreeMap::new();
    for file in sources(&["src"]) {
        let module: Module =
            file.with_extension("").iter().skip(1).map(|part| part.to_string_lossy().into_owned()).collect();
        if module.last().is_none_or(|name| !["main", "lib", "tests"].contains(&name.as_str())) {
            let text: String = code(&read(&file)).flat_map(|(_, line)| [line, "\n"]).collect();
            found.insert(module, parse(&text));
        }
    }
    found
}

/// Returns every import of one file by another.
fn imports(sources: &BTreeMap<Module, Source>) -> Vec<Import> {
    let mut imports = Vec::new();
    for (module, source) in sources {
        // Modules that a path can start with: the children, and the modules that are imported by name.
        let mut aliases: BTreeMap<&str, Module> = sources
            .keys()
            .filter_map(|child| Some((child.split_last().filter(|(_, parent)| parent == module)?.0, child)))
            .map(|(name, child)| (name.as_str(), child.clone()))
            .collect();
        let mut paths: Vec<Vec<String>> = source.paths.clone();
        for import in &source.uses {
            let Some(path) = absolute(sources, module, &import.path) else { continue };
            if sources.contains_key(&path) {
                aliases.insert(&import.name, path.clone());
            }
            let is_own_child = path.starts_with(module);
            if !(import.is_reexport && is_own_child) || source.words.contains(&import.name) {
                paths.push(import.path.clone());
            }
        }
        for path in paths {
            let path = match aliases.get(path[0].as_str()) {
                Some(alias) => Some([alias.as_slice(), &path[1..]].concat()),
                None => absolute(sources, module, &path),
            };
            let Some(path) = path.filter(|path| !path.is_empty()) else { continue };
            let named = longest_module(sources, &path).to_vec();
            let to = origin(sources, &path, 0);
            if !named.is_empty() && !to.is_empty() && (to != *module || named[0] != module[0]) {
                imports.push(Import { from: module.clone(), named, to, item: path.join("::") });
            }
        }
    }
    imports
}

/// Returns a path from the root; `None` for a path into another crate.
fn absolute(sources: &BTreeMap<Module, Source>, module: &Module, path: &[String]) -> Option<Vec<String>> {
    let ups = path.iter().take_while(|part| *part == "super").count();
    let (base, rest): (&[String], &[String]) = match path.first()?.as_str() {
        "crate" => (&[], &path[1..]),
        "self" => (module, &path[1..]),
        "super" => (&module[..module.len().checked_sub(ups)?], &path[ups..]),
        child if sources.contains_key(&[module.as_slice(), &[child.to_owned()]].concat()) => (module, path),
        _ => return None,
    };
    Some([base, rest].concat())
}

/// Returns the part of a path that is a module.
fn longest_module<'p>(sources: &BTreeMap<Module, Source>, path: &'p [String]) -> &'p [String] {
    let end = (1..=path.len()).take_while(|end| sources.contains_key(&path[..*end])).last();
    &path[..end.unwrap_or(0)]
}

/// Returns the module that defines the item of a path from the root.
fn origin(sources: &BTreeMap<Module, Source>, path: &[String], depth: usize) -> Module {
    let module = longest_module(sources, path).to_vec();
    let item = path.get(module.len());
    let reexport =
        item.and_then(|item| sources.get(&module)?.uses.iter().find(|import| import.name == *item));
    match reexport.and_then(|import| absolute(sources, &module, &import.path)) {
        Some(next) if depth < 8 => {
            let origin = origin(sources, &[&next, &path[module.len() + 1..]].concat(), depth + 1);
            if origin.is_empty() { module } else { origin }
        }
        _ => module,
    }
}

/// Parses the declarations and paths of a file.
fn parse(text: &str) -> Source {
    let tokens = tokens(text);
    let mut source = Source::default();
    let mut at = 0;
    while at < tokens.len() {
        let before = at.checked_sub(1).map_or(";", |before| tokens[before]);
        if tokens[at] == "use" && [";", "}", "{", "]", ")", "pub"].contains(&before) {
            at += 1;
            parse_use(&tokens, &mut at, &[], ["pub", ")"].contains(&before), &mut source.uses);
        } else if is_word(tokens[at]) && before != "::" && before != "." {
            let is_visibility = at >= 3 && tokens[at - 3..at] == ["pub", "(", "in"];
            let mut path = vec![tokens[at].to_owned()];
            while tokens.get(at + 1) == Some(&"::") && tokens.get(at + 2).is_some_and(|next| is_word(next)) {
                path.push(tokens[at + 2].to_owned());
                at += 2;
            }
            source.words.insert(path[0].clone());
            // `pub(in path)` is a visibility.
            if path.len() > 1 && !is_visibility {
                source.paths.push(path);
            }
            at += 1;
        } else {
            at += 1;
        }
    }
    source
}

/// Parses a tree such as `a::{self, b as c, d::*}`.
fn parse_use(tokens: &[&str], at: &mut usize, prefix: &[String], is_reexport: bool, uses: &mut Vec<Use>) {
    let mut path = prefix.to_vec();
    while let Some(token) = tokens.get(*at) {
        *at += 1;
        match *token {
            "{" => {
                while tokens.get(*at).is_some_and(|next| *next != "}") {
                    parse_use(tokens, at, &path, is_reexport, uses);
                    *at += usize::from(tokens.get(*at) == Some(&","));
                }
                *at += 1;
                return;
            }
            "self" if !prefix.is_empty() && path.len() == prefix.len() => {}
            word => path.push(word.to_owned()),
        }
        if tokens.get(*at) != Some(&"::") {
            break;
        }
        *at += 1;
    }
    let mut name = path.last().cloned().unwrap_or_default();
    if tokens.get(*at) == Some(&"as") {
        name = tokens.get(*at + 1).map_or(name, |alias| (*alias).to_owned());
        *at += 2;
    }
    uses.push(Use { is_reexport, path, name });
}

/// Splits code into words, `::` and single characters.
fn tokens(text: &str) -> Vec<&str> {
    let mut tokens = Vec::new();
    let mut rest = text.trim_start();
    while let Some(first) = rest.chars().next() {
        let length = if is_word(rest.get(..first.len_utf8()).unwrap_or_default()) {
            rest.find(|c: char| !c.is_alphanumeric() && c != '_').unwrap_or(rest.len())
        } else if rest.starts_with("::") {
            2
        } else {
            first.len_utf8()
        };
        tokens.push(&rest[..length]);
        rest = rest[length..].trim_start();
    }
    tokens
}

fn is_word(token: &str) -> bool {
    token.chars().next().is_some_and(|c| c.is_alphanumeric() || c == '_')
}
