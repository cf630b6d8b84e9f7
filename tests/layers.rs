//! Imports point down: no module uses one above it in ARCHITECTURE.md's list of layers, and no files use each other in a circle.

#![allow(clippy::unwrap_used)]

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

/// Modules of the crate from the bottom up; those of one line may not use each other either.
const LAYERS: &[&[&str]] = &[
    &["elements", "fork", "settings", "user_cache"],
    &["error"],
    &["clock", "files", "roofline", "structure", "threads"],
    &["neighbors", "ops"],
    &["cpu", "model"],
    &["batch", "cuda", "xyz"],
    &["engine"],
    &["potential", "train"],
    &["profile"],
    &["calibration"],
    &["cli"],
];

/// A module's path within the crate, such as `engine::adjoint`.
type Module = String;

/// A source file: what it uses, as written, and what it hands on under its own path.
#[derive(Default)]
struct File {
    uses: Vec<Vec<String>>,
    exports: Vec<(String, Vec<String>)>,
}

fn source_files(folder: &Path, out: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            source_files(&path, out);
        } else if path.extension().is_some_and(|e| e == "rs") {
            out.push(path);
        }
    }
}

/// `src/engine/adjoint/mod.rs` is `engine::adjoint`.
fn module_of(path: &Path) -> Module {
    let parts: Vec<&str> =
        path.with_extension("").iter().map(|p| p.to_str().unwrap().to_string().leak() as &str).collect();
    let parts = parts.strip_suffix(&["mod"]).unwrap_or(&parts);
    if ["lib", "main"].contains(parts.last().unwrap()) { String::new() } else { parts.join("::") }
}

/// The paths of a tree such as `a::{b, c::d as e}`, with the name that each has here.
fn expand(tree: &str, before: &[String], out: &mut Vec<(Vec<String>, String)>) {
    let tree = tree.trim();
    if let Some(open) = tree.find('{') {
        let mut path = before.to_vec();
        path.extend(tree[..open].split("::").map(|p| p.trim().to_string()).filter(|p| !p.is_empty()));
        let (mut depth, mut start, inner) = (0, 0, &tree[open + 1..tree.rfind('}').unwrap()]);
        for (k, c) in inner.char_indices().chain([(inner.len(), ',')]) {
            match c {
                '{' => depth += 1,
                '}' => depth -= 1,
                ',' if depth == 0 => {
                    if !inner[start..k].trim().is_empty() {
                        expand(&inner[start..k], &path, out);
                    }
                    start = (k + 1).min(inner.len());
                }
                _ => {}
            }
        }
        return;
    }
    let (path, name) = tree.split_once(" as ").unwrap_or((tree, ""));
    let mut whole = before.to_vec();
    whole.extend(path.split("::").map(|p| p.trim().to_string()).filter(|p| !p.is_empty() && p != "self"));
    if path.trim_start().starts_with("self::") {
        whole.insert(0, "self".into());
    }
    let name = if name.is_empty() { whole.last().cloned().unwrap_or_default() } else { name.trim().to_string() };
    out.push((whole, name));
}

fn parse(text: &str) -> File {
    // Tests may use what they like; comments use nothing.
    let end = text.find("\n#[cfg(test)]\nmod ").unwrap_or(text.len());
    let code: String =
        text[..end].lines().filter(|line| !line.trim_start().starts_with("//")).collect::<Vec<_>>().join("\n");
    let mut file = File::default();
    let mut rest = String::new();
    for statement in code.split_inclusive(';') {
        let found = statement.rfind("use ").filter(|&at| {
            let line = statement[..at].rsplit('\n').next().unwrap_or_default().trim();
            statement.ends_with(';') && (line.is_empty() || line.starts_with("pub"))
        });
        let Some(at) = found else {
            rest.push_str(statement);
            continue;
        };
        let is_public = statement[..at].rsplit('\n').next().unwrap_or_default().trim().starts_with("pub");
        let mut paths = Vec::new();
        expand(statement[at + 4..].trim_end_matches(';'), &[], &mut paths);
        for (path, name) in paths {
            if is_public {
                file.exports.push((name, path));
            } else {
                file.uses.push(path);
            }
        }
        rest.push_str(&statement[..at]);
    }
    let is_word = |c: char| c.is_alphanumeric() || c == '_' || c == ':';
    for word in rest.split(|c: char| !is_word(c)) {
        let path: Vec<String> = word.split("::").map(str::to_string).collect();
        if path.len() > 1 && ["crate", "super", "self", "mlff"].contains(&path[0].as_str()) {
            file.uses.push(path);
        }
    }
    file
}

/// The modules of this crate, and the file that a path used in one of them leads to.
struct Crate(BTreeMap<Module, File>);

impl Crate {
    fn read() -> Self {
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
        let mut paths = Vec::new();
        source_files(&root, &mut paths);
        let is_part = |path: &PathBuf| !path.to_str().unwrap().contains("test") && !path.ends_with("main.rs");
        let read =
            |path: PathBuf| (module_of(path.strip_prefix(&root).unwrap()), parse(&fs::read_to_string(&path).unwrap()));
        Crate(paths.into_iter().filter(is_part).map(read).collect())
    }

    fn target(&self, from: &str, path: &[String], depth: usize) -> Option<Module> {
        let mut at: Vec<&str> = from.split("::").filter(|p| !p.is_empty()).collect();
        let mut rest = path;
        match path.first()?.as_str() {
            "crate" | "mlff" => at.clear(),
            "super" => {
                at.pop();
            }
            "self" => {}
            child if self.0.contains_key(&join(&at, child)) => at.push(child),
            _ => return None,
        }
        rest = &rest[1..];
        while let Some(next) = rest.first() {
            if next == "super" {
                at.pop();
            } else if self.0.contains_key(&join(&at, next)) {
                at.push(next);
            } else {
                break;
            }
            rest = &rest[1..];
        }
        let module = at.join("::");
        let file = self.0.get(&module)?;
        if let Some((_, path)) = rest.first().and_then(|name| file.exports.iter().find(|(n, _)| n == name))
            && depth < 8
        {
            return self.target(&module, path, depth + 1).or(Some(module));
        }
        Some(module)
    }

    /// Files that each file uses; of those that it is a part of, it may use what it likes.
    fn edges(&self) -> BTreeMap<&str, BTreeSet<Module>> {
        let of = |(module, file): (&'static str, &File)| {
            let targets = file.uses.iter().filter_map(|path| self.target(module, path, 0));
            (module, targets.filter(|to| !is_within(module, to)).collect())
        };
        self.0.iter().map(|(m, f)| of((m.clone().leak(), f))).collect()
    }
}

/// Whether a module is another one or a part of it.
fn is_within(module: &str, other: &str) -> bool {
    module == other || other.is_empty() || module.starts_with(&format!("{other}::"))
}

fn join(at: &[&str], next: &str) -> Module {
    at.iter().copied().chain([next]).collect::<Vec<_>>().join("::")
}

/// What is against an order of layers.
fn against(layers: &[&[&str]], edges: &BTreeMap<&str, BTreeSet<Module>>) -> Vec<String> {
    let top = |module: &str| module.split("::").next().unwrap().to_string();
    let layer_of = |module: &str| layers.iter().position(|layer| layer.contains(&top(module).as_str()));
    let mut wrong = Vec::new();
    for (from, targets) in edges {
        // The root names all modules, and tests share `testing`.
        if from.is_empty() || *from == "testing" {
            continue;
        }
        if layer_of(from).is_none() {
            wrong.push(format!("{from} stands in no layer"));
        }
        for to in targets.iter().filter(|to| top(to) != top(from)) {
            if layer_of(from) <= layer_of(to) {
                wrong.push(format!("{from} uses {to}"));
            }
        }
    }
    wrong
}

#[test]
fn imports_point_down() {
    let found = Crate::read();
    let edges = found.edges();
    let wrong = against(LAYERS, &edges);
    assert!(wrong.is_empty(), "against the layers:\n{}", wrong.join("\n"));
    // That arrows are seen at all: one by a list, one through a name that is handed on, one by a path in the text.
    for (from, to) in [
        ("engine::adjoint::painn::stages", "cpu::message"),
        ("calibration::measure", "ops::choice"),
        ("cuda::cache", "user_cache"),
    ] {
        assert!(edges[from].contains(to), "{from} does not use {to}?");
    }
    let reversed: Vec<&[&str]> = LAYERS.iter().rev().copied().collect();
    assert!(against(&reversed, &edges).len() > 200);
}

#[test]
fn no_files_use_each_other_in_a_circle() {
    let found = Crate::read();
    let edges = found.edges();
    // What can be reached from each file; a circle is what reaches itself.
    let reach = |from: &str| {
        let (mut seen, mut open) = (BTreeSet::new(), vec![from.to_string()]);
        while let Some(module) = open.pop() {
            for to in edges.get(module.as_str()).into_iter().flatten() {
                if seen.insert(to.clone()) {
                    open.push(to.clone());
                }
            }
        }
        seen
    };
    let reached: BTreeMap<&str, BTreeSet<Module>> = edges.keys().map(|&from| (from, reach(from))).collect();
    let mut circles: BTreeSet<Vec<&str>> = BTreeSet::new();
    for (&from, targets) in &reached {
        let is_tied = |to: &&str| targets.contains(*to) && reached[*to].contains(from);
        let circle: Vec<&str> = reached.keys().copied().filter(is_tied).collect();
        if !circle.is_empty() {
            circles.insert(circle);
        }
    }
    let arrows = |circle: &Vec<&str>| {
        let inner = |from: &&str| {
            let to: Vec<_> = edges[*from].iter().filter(|to| circle.contains(&to.as_str())).cloned().collect();
            format!("  {from} uses {}", to.join(", "))
        };
        circle.iter().map(inner).collect::<Vec<_>>().join("\n")
    };
    let text: Vec<String> = circles.iter().map(arrows).collect();
    assert!(text.is_empty(), "{} circles:\n{}", text.len(), text.join("\n\n"));
}
