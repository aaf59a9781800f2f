//! The rooms of the source: what a file uses lies in its own room or below, and no two files use each other.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

const SOURCE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/src");

/// The files of the library by module, as in `engine::apply`; tests and programs are left out.
fn modules(folder: &Path, of: &[String], found: &mut BTreeMap<String, PathBuf>) {
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        let stem = path.file_stem().unwrap().to_str().unwrap().to_owned();
        let module = [of, std::slice::from_ref(&stem)].concat();
        match path.extension() {
            None if stem != "bin" => modules(&path, &module, found),
            Some(_) if stem == "mod" => {
                found.insert(of.join("::"), path);
            }
            Some(_) if !["lib", "tests", "pages"].contains(&stem.as_str()) => {
                found.insert(module.join("::"), path);
            }
            _ => {}
        }
    }
}

/// The code of a file without its comments and its tests.
fn code(text: &str) -> String {
    let end = text.find("#[cfg(test)]\nmod tests").unwrap_or(text.len());
    let lines = text[..end].lines().filter(|line| !line.trim_start().starts_with("//"));
    lines.flat_map(|line| [line, "\n"]).collect()
}

/// The paths in `code` that begin at the crate or at the parent of `module`, with all that braces hold.
fn paths(code: &str, module: &str) -> Vec<String> {
    let parent = module.rsplit_once("::").map_or("", |(parent, _)| parent);
    let mut paths = Vec::new();
    for (start, base) in [("crate::", ""), ("super::", parent)] {
        for (at, _) in code.match_indices(start) {
            let rest = &code[at + start.len()..];
            let end = rest.find(|c: char| !c.is_alphanumeric() && !"_:".contains(c));
            let path = rest[..end.unwrap_or(rest.len())].trim_end_matches("::");
            let path = [base, path].into_iter().filter(|part| !part.is_empty());
            let path = path.collect::<Vec<_>>().join("::");
            match rest[end.unwrap_or(rest.len())..].strip_prefix('{') {
                Some(inner) => {
                    let inner = inner.split("};").next().unwrap().split(',');
                    let names = inner.map(|name| name.trim().trim_matches(['{', '}']));
                    let whole = |name: &str| [&path, name].map(|part| part.to_owned());
                    paths.extend(names.filter(|name| !name.is_empty()).map(|name| {
                        let [path, name] = whole(name);
                        if path.is_empty() { name } else { format!("{path}::{name}") }
                    }));
                }
                None => paths.push(path),
            }
        }
    }
    paths
}

/// What each file uses of the others.
fn arrows() -> BTreeMap<String, BTreeSet<String>> {
    let mut found = BTreeMap::new();
    modules(Path::new(SOURCE), &[], &mut found);
    let uses = |module: &String, path: &PathBuf| {
        let code = code(&fs::read_to_string(path).unwrap());
        let used = paths(&code, module).into_iter().filter_map(|path| {
            let parts: Vec<&str> = path.split("::").collect();
            let prefixes = (1..=parts.len()).rev().map(|length| parts[..length].join("::"));
            prefixes.into_iter().find(|prefix| found.contains_key(prefix))
        });
        used.filter(|used| used != module).collect()
    };
    found.iter().map(|(module, path)| (module.clone(), uses(module, path))).collect()
}

/// The rooms from the highest to the lowest, as the map in `lib.rs` lists them.
fn rooms() -> Vec<String> {
    let map = fs::read_to_string(format!("{SOURCE}/lib.rs")).unwrap();
    let listed = map.lines().filter_map(|line| line.strip_prefix("//! - "));
    let named = listed.flat_map(|line| {
        let names = line.split('`').skip(1).step_by(2);
        names.map(str::to_owned).collect::<Vec<_>>()
    });
    named.collect()
}

fn room(module: &str) -> &str {
    module.split("::").next().unwrap()
}

/// The arrows that lead from a room into one above it.
fn upwards(rooms: &[String], arrows: &BTreeMap<String, BTreeSet<String>>) -> Vec<String> {
    let place = |module: &str| {
        let found = rooms.iter().position(|listed| listed == room(module));
        found.unwrap_or_else(|| panic!("the map in lib.rs does not list {module}"))
    };
    let all = arrows.iter().flat_map(|(from, to)| to.iter().map(move |to| (from, to)));
    let wrong = all.filter(|(from, to)| place(from) > place(to));
    wrong.map(|(from, to)| format!("{from} uses {to}")).collect()
}

/// Files that use each other, directly or through others.
fn circles(arrows: &BTreeMap<String, BTreeSet<String>>) -> Vec<String> {
    let reached = |from: &String| {
        let (mut seen, mut next) = (BTreeSet::new(), vec![from.clone()]);
        while let Some(module) = next.pop() {
            for used in arrows.get(&module).into_iter().flatten() {
                if seen.insert(used.clone()) {
                    next.push(used.clone());
                }
            }
        }
        seen
    };
    arrows.keys().filter(|module| reached(module).contains(*module)).cloned().collect()
}

#[test]
fn a_room_knows_only_those_below_it() {
    let arrows = arrows();
    assert!(arrows["engine::documents::compute"].contains("authoring::transform"), "{arrows:#?}");
    assert_eq!(upwards(&rooms(), &arrows), [""; 0]);
    let wrong = BTreeMap::from([(
        "record::store".to_owned(),
        BTreeSet::from(["engine::apply".to_owned()]),
    )]);
    assert_eq!(upwards(&rooms(), &wrong), ["record::store uses engine::apply"]);
}

#[test]
fn no_two_files_use_each_other() {
    assert_eq!(circles(&arrows()), [""; 0]);
    let to = |module: &str| BTreeSet::from([module.to_owned()]);
    let circle = [("a", "b"), ("b", "c"), ("c", "a"), ("d", "a")];
    let circle = circle.map(|(from, used)| (from.to_owned(), to(used)));
    assert_eq!(circles(&BTreeMap::from(circle)), ["a", "b", "c"]);
}

/// A room's first file is its map, and nothing else; what users of the library see of it aside.
#[test]
fn a_room_opens_with_its_map() {
    let mut found = BTreeMap::new();
    modules(Path::new(SOURCE), &[], &mut found);
    for (module, path) in found.iter().filter(|(_, path)| path.ends_with("mod.rs")) {
        if module.contains("::") {
            continue;
        }
        let text = fs::read_to_string(path).unwrap();
        let inside = found.keys().filter_map(|other| {
            other.strip_prefix(&format!("{module}::")).filter(|rest| !rest.contains("::"))
        });
        for file in inside {
            assert!(
                text.contains(&format!("`{file}`")),
                "the map of {module} does not name {file}"
            );
        }
        let code = code(&text);
        let other = code.lines().find(|line| {
            let line = line.trim_start_matches("pub(crate) ").trim_start_matches("pub ");
            let names = ["mod ", "use ", "#["];
            !line.is_empty() && !names.iter().any(|start| line.starts_with(start))
        });
        assert_eq!(other, None, "{}", path.display());
    }
}
