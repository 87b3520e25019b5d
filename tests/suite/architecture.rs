//! How the source is laid out (ARCHITECTURE.md): arrows point one way, between modules and between files.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

fn root() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
}

/// Which modules each module may use (ARCHITECTURE.md): arrows point one way. Those of `PLANNED` are not there yet.
const ARROWS: [(&str, &[&str]); 41] = [
    ("clock", &[]),
    ("boxed", &[]),
    ("lock", &[]),
    ("address", &[]),
    ("geoip", &[]),
    ("pattern", &[]),
    ("spelling", &[]),
    ("fields", &["clock", "request"]),
    ("request", &["geoip"]),
    ("chunked", &["request"]),
    ("representation", &["clock", "config", "fields", "request"]),
    ("prefix", &[]),
    ("drain", &[]),
    ("handover", &["systemd"]),
    ("expression", &["address", "clock", "geoip", "pattern", "request", "spelling"]),
    ("template", &["expression", "pattern", "request", "spelling"]),
    ("config", &["address", "clock", "expression", "geoip", "pattern", "prefix", "request", "spelling", "template"]),
    ("state_dir", &["lock", "sandbox"]),
    ("systemd", &["config"]),
    ("verdict", &[]),
    ("sandbox", &[]),
    ("observe", &["clock", "config", "request", "sandbox"]),
    ("plan", &["address", "clock", "config", "expression", "pattern", "request", "template"]),
    ("pace", &["config"]),
    ("running", &["clock", "tunnels"]),
    ("tunnels", &["prefix"]),
    (
        "origin",
        &[
            "address",
            "boxed",
            "chunked",
            "clock",
            "representation",
            "config",
            "fields",
            "pace",
            "plan",
            "prefix",
            "request",
            "running",
        ],
    ),
    ("snapshot", &["clock", "config", "observe", "origin", "plan", "request", "running"]),
    (
        "cache",
        &[
            "address",
            "boxed",
            "clock",
            "representation",
            "config",
            "expression",
            "fields",
            "lock",
            "observe",
            "origin",
            "plan",
            "prefix",
            "request",
            "running",
            "sandbox",
            "snapshot",
        ],
    ),
    ("pass", &["cache", "clock", "config", "fields", "origin", "pace", "plan", "request", "snapshot"]),
    (
        "front",
        &[
            "address",
            "boxed",
            "cache",
            "chunked",
            "clock",
            "representation",
            "config",
            "drain",
            "fields",
            "lock",
            "observe",
            "origin",
            "pace",
            "pass",
            "plan",
            "prefix",
            "request",
            "snapshot",
            "systemd",
            "template",
            "tunnels",
        ],
    ),
    ("warm", &["cache", "clock", "plan", "request", "snapshot"]),
    ("fleet", &["cache", "clock", "config", "observe", "origin", "request", "snapshot"]),
    (
        "node",
        &["cache", "clock", "config", "drain", "front", "observe", "origin", "running", "snapshot", "systemd", "warm"],
    ),
    ("chores", &["cache", "config", "node"]),
    (
        "admin",
        &[
            "cache", "clock", "config", "drain", "node", "observe", "origin", "plan", "request", "snapshot",
            "spelling", "template", "warm",
        ],
    ),
    (
        "app",
        &[
            "admin",
            "cache",
            "chores",
            "config",
            "drain",
            "front",
            "handover",
            "node",
            "observe",
            "origin",
            "snapshot",
            "state_dir",
            "systemd",
            "verdict",
        ],
    ),
    (
        "cli",
        &[
            "app", "cache", "clock", "config", "handover", "node", "plan", "request", "systemd", "observe", "verdict",
            "sandbox",
        ],
    ),
    (
        "internals",
        &[
            "address",
            "cache",
            "chunked",
            "clock",
            "representation",
            "config",
            "expression",
            "front",
            "node",
            "observe",
            "origin",
            "plan",
            "request",
            "template",
        ],
    ),
    ("lib", &[]),
    ("main", &[]),
];

/// Where what comes next goes: many nodes.
const PLANNED: [&str; 1] = ["fleet"];

/// Files that do no I/O and read no clock.
const PURE: [&str; 61] = [
    "origin/hedge.rs",
    "tunnels.rs",
    "origin/announce.rs",
    "origin/srv.rs",
    "address.rs",
    "geoip.rs",
    "pattern.rs",
    "spelling.rs",
    "template.rs",
    "expression/mod.rs",
    "expression/parse.rs",
    "expression/check.rs",
    "expression/evaluate.rs",
    "expression/names.rs",
    "plan/facts.rs",
    "chunked.rs",
    "fields.rs",
    "cache/head.rs",
    "representation/range.rs",
    "cache/part.rs",
    "cache/coding.rs",
    "cache/explain.rs",
    "cache/reason.rs",
    "representation/negotiate.rs",
    "plan/mod.rs",
    "plan/key.rs",
    "cache/policy.rs",
    "cache/freshness.rs",
    "representation/respond.rs",
    "cache/control.rs",
    "cache/vary/mod.rs",
    "cache/vary/axis.rs",
    "cache/vary/normalise.rs",
    "cache/vary/presented.rs",
    "cache/tags.rs",
    "cache/status.rs",
    "cache/purge/record.rs",
    "cache/purge/table.rs",
    "origin/balance/candidates.rs",
    "origin/balance/hash.rs",
    "origin/balance/least_conn.rs",
    "origin/balance/mod.rs",
    "origin/balance/p2c.rs",
    "origin/levels.rs",
    "origin/balance/rendezvous.rs",
    "origin/balance/round_robin.rs",
    "origin/outliers.rs",
    "origin/record.rs",
    "request/mod.rs",
    "request/fields.rs",
    "request/target.rs",
    "front/h2/abuse_budget.rs",
    "front/h2/frames.rs",
    "front/h2/head.rs",
    "front/h2/hpack.rs",
    "front/h2/machine.rs",
    "front/h2/opened.rs",
    "front/h2/output.rs",
    "front/h2/streams.rs",
    "front/h2/uploads.rs",
    "front/h2/wire.rs",
];

pub fn sources(directory: &Path, into: &mut Vec<PathBuf>) {
    for entry in std::fs::read_dir(directory).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            sources(&path, into);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            into.push(path);
        }
    }
}

/// A file's code without its tests and comments.
fn code(path: &Path) -> String {
    let text = std::fs::read_to_string(path).unwrap();
    let code = text.split("#[cfg(test)]\nmod ").next().unwrap();
    code.lines().filter(|line| !line.trim_start().starts_with("//")).flat_map(|line| [line, "\n"]).collect()
}

#[test]
fn the_arrows_between_modules_point_one_way() {
    let src = root().join("src");
    let mut files = Vec::new();
    sources(&src, &mut files);
    for (name, _) in ARROWS {
        let is_there = src.join(name).is_dir() || src.join(format!("{name}.rs")).is_file();
        assert_ne!(is_there, PLANNED.contains(&name), "{name} is there and planned, or neither");
    }
    for file in files {
        let relative = file.strip_prefix(&src).unwrap();
        let module = relative.iter().next().unwrap().to_str().unwrap().trim_end_matches(".rs");
        let allowed = ARROWS.iter().find(|(name, _)| *name == module);
        let (_, allowed) = allowed.unwrap_or_else(|| panic!("{module} is not in the list of modules"));
        for used in code(&file).split("crate::").skip(1) {
            let used: String = used.chars().take_while(|c| c.is_ascii_lowercase() || *c == '_').collect();
            let fine = used == module || allowed.contains(&used.as_str());
            assert!(fine, "{} uses {used}, which {module} may not", relative.display());
        }
    }
}

#[test]
fn decisions_touch_no_socket_no_clock_and_no_global() {
    for file in PURE {
        let code = code(&root().join("src").join(file));
        for word in
            ["tokio", "Instant::now", "Timestamp::now", "SystemTime", "static mut", "std::fs", "pingora", "fastrand"]
        {
            assert!(!code.contains(word), "{file} has {word}");
        }
    }
}

#[test]
fn pingoras_types_stay_where_they_belong() {
    let src = root().join("src");
    let mut files = Vec::new();
    sources(&src, &mut files);
    let places = ["origin/"];
    for file in files {
        let relative = file.strip_prefix(&src).unwrap().to_str().unwrap().to_owned();
        let names_pingora = code(&file).lines().any(|line| line.contains("pingora_"));
        assert!(!names_pingora || places.iter().any(|place| relative.starts_with(place)), "{relative}");
    }
}

/// A module's path, from the crate's root.
type ModulePath = Vec<String>;

/// The files of the crate by the modules that they hold.
struct Tree(BTreeMap<ModulePath, PathBuf>);

impl Tree {
    fn read() -> Self {
        let src = root().join("src");
        let mut files = Vec::new();
        sources(&src, &mut files);
        let module = |file: &Path| {
            let relative = file.strip_prefix(&src).unwrap().with_extension("");
            let mut path: ModulePath = relative.iter().map(|part| part.to_str().unwrap().to_owned()).collect();
            if path.last().is_some_and(|last| last == "mod" || last == "lib") {
                path.pop();
            }
            path
        };
        Tree(
            files.into_iter().filter(|file| !file.ends_with("src/main.rs")).map(|file| (module(&file), file)).collect(),
        )
    }

    /// The file that holds what a path means in a module: the item's own, where a module only hands it on.
    fn file_of(&self, module: &ModulePath, path: &[String]) -> Option<PathBuf> {
        let mut at: ModulePath = match path.first()?.as_str() {
            "crate" => Vec::new(),
            "self" | "super" => module.clone(),
            child if self.0.contains_key(&[&module[..], &[child.to_owned()]].concat()) => module.clone(),
            _ => return None,
        };
        let mut rest = path;
        while let Some((first, behind)) = rest.split_first() {
            match first.as_str() {
                "crate" | "self" => {}
                "super" => drop(at.pop()?),
                name => {
                    at.push(name.to_owned());
                    if !self.0.contains_key(&at) {
                        at.pop();
                        break;
                    }
                }
            }
            rest = behind;
        }
        if let Some(item) = rest.first() {
            let text = code(&self.0[&at]);
            let handed_on = uses(&text).into_iter().find(|path| path.len() > 1 && path.last() == Some(item));
            if let Some(path) = handed_on
                && let Some(file) = self.file_of(&at, &path)
            {
                return Some(file);
            }
        }
        Some(self.0[&at].clone())
    }

    /// What each file takes from which others.
    fn arrows(&self) -> BTreeMap<PathBuf, BTreeSet<PathBuf>> {
        let of = |(module, file): (&ModulePath, &PathBuf)| {
            let text = code(file);
            let paths = uses(&text).into_iter().filter(|path| is_used(path, &text)).chain(paths_in(&text));
            let others = paths.filter_map(|path| self.file_of(module, &path)).filter(|other| other != file);
            (file.clone(), others.collect())
        };
        self.0.iter().map(of).collect()
    }
}

/// Whether a name is used where it is imported, or only handed on.
fn is_used(path: &[String], text: &str) -> bool {
    let Some(name) = path.last() else { return false };
    let starts = ["pub use ", "pub(crate) use ", "pub(super) use "];
    let hands_on = |part: &&str| starts.iter().any(|start| part.trim_start().starts_with(start));
    let declarations = text.split(';').filter(hands_on);
    let handed_on: usize = declarations.map(|declaration| count(name, declaration)).sum();
    handed_on == 0 || count(name, text) > handed_on
}

/// How often a name stands in a text.
fn count(name: &str, text: &str) -> usize {
    text.split(|c: char| !c.is_alphanumeric() && c != '_').filter(|word| *word == name).count()
}

/// The paths of a text's `use` declarations, one for each name.
fn uses(text: &str) -> Vec<Vec<String>> {
    let mut found = Vec::new();
    for line in text.split('\n').scan(0, |at, line| {
        let begin = *at;
        *at += line.len() + 1;
        Some((begin, line))
    }) {
        let (begin, line) = line;
        let declares = line.trim_start().trim_start_matches("pub ").trim_start_matches("pub(super) ");
        if let Some(tree) = declares.trim_start_matches("pub(crate) ").strip_prefix("use ") {
            let from = begin + line.len() - tree.len();
            let tree = text[from..].split(';').next().unwrap();
            expand(tree, &[], &mut found);
        }
    }
    found
}

/// `a::{b, c::d}` as `a::b` and `a::c::d`.
fn expand(tree: &str, before: &[String], found: &mut Vec<Vec<String>>) {
    let tree = tree.trim();
    let Some((head, group)) = tree.split_once('{') else {
        let path = tree.split(" as ").next().unwrap();
        let names = path.split("::").map(|name| name.trim().to_owned()).filter(|name| name != "self");
        let first = if before.is_empty() && path.starts_with("self") { vec!["self".to_owned()] } else { Vec::new() };
        return found.push(before.iter().cloned().chain(first).chain(names).collect());
    };
    let names = head.split("::").map(|name| name.trim().to_owned()).filter(|name| !name.is_empty());
    let before: Vec<String> = before.iter().cloned().chain(names).collect();
    let group = group.rsplit_once('}').unwrap().0;
    let mut depth = 0;
    for part in group.split(|c| {
        depth += i32::from(c == '{') - i32::from(c == '}');
        c == ',' && depth == 0
    }) {
        if !part.trim().is_empty() {
            expand(part, &before, found);
        }
    }
}

/// Paths that are written out where they are used.
fn paths_in(text: &str) -> Vec<Vec<String>> {
    let is_name = |c: char| c.is_alphanumeric() || c == '_' || c == ':';
    let words = text.split(|c| !is_name(c)).filter(|word| word.starts_with("crate::") || word.starts_with("super::"));
    words.map(|word| word.split("::").filter(|name| !name.is_empty()).map(str::to_owned).collect()).collect()
}

/// Files that each lead to all others of them.
fn rings(arrows: &BTreeMap<PathBuf, BTreeSet<PathBuf>>) -> Vec<BTreeSet<PathBuf>> {
    let reach = |from: &PathBuf| {
        let (mut seen, mut next) = (BTreeSet::new(), vec![from.clone()]);
        while let Some(file) = next.pop() {
            next.extend(arrows[&file].iter().filter(|other| seen.insert((*other).clone())).cloned());
        }
        seen
    };
    let reached: BTreeMap<&PathBuf, BTreeSet<PathBuf>> = arrows.keys().map(|file| (file, reach(file))).collect();
    let ring = |file: &PathBuf| reached[file].iter().filter(|other| reached[other].contains(file)).cloned().collect();
    let mut rings: Vec<BTreeSet<PathBuf>> =
        arrows.keys().map(ring).filter(|ring: &BTreeSet<_>| !ring.is_empty()).collect();
    rings.sort();
    rings.dedup();
    rings
}

#[test]
fn no_files_import_each_other() {
    let arrows = Tree::read().arrows();
    let src = root().join("src");
    let name = |file: &PathBuf| file.strip_prefix(&src).unwrap().display().to_string();
    let mut found = String::new();
    for ring in rings(&arrows) {
        for file in &ring {
            let others = arrows[file].intersection(&ring).map(name).collect::<Vec<_>>().join(", ");
            found.push_str(&format!("  {} uses {others}\n", name(file)));
        }
        found.push('\n');
    }
    assert!(found.is_empty(), "files that import each other:\n{found}");
}

#[test]
fn rings_are_found() {
    let file = |name: &str| PathBuf::from(name);
    let arrows = [("a", vec!["b"]), ("b", vec!["c"]), ("c", vec!["b", "d"]), ("d", vec![])];
    let arrows = arrows.into_iter().map(|(from, to)| (file(from), to.into_iter().map(file).collect())).collect();
    assert_eq!(rings(&arrows), [BTreeSet::from([file("b"), file("c")])]);
    let expected =
        ["crate::a::B", "crate::a::c", "crate::a::c::D"].map(|path| path.split("::").map(str::to_owned).collect());
    assert_eq!(uses("pub use crate::a::{\n    B, c::{self, D},\n};\n"), expected as [Vec<String>; 3]);
    // Enough of the tree is read that a ring in it would be seen.
    let arrows = Tree::read().arrows();
    let count: usize = arrows.values().map(BTreeSet::len).sum();
    assert!(count > 2 * arrows.len(), "{count} arrows between {} files", arrows.len());
}
