//! The guide's commands, so that tests run what it shows, as it stands there.

use std::fs;
use std::path::{Path, PathBuf};

const ROOT: &str = env!("CARGO_MANIFEST_DIR");

/// What the guide has in place of an operator's connection string.
pub const URI: &str = "mongodb://user:password@host:27017/datalabvue";

const MARK: &str = "<!-- commands: ";

/// The front page and every page of the guide, with its path.
pub fn pages() -> Vec<(PathBuf, String)> {
    let docs = Path::new(ROOT).join("docs");
    let mut paths: Vec<_> =
        fs::read_dir(docs).unwrap().map(|entry| entry.unwrap().path()).collect();
    paths.push(Path::new(ROOT).join("README.md"));
    paths.sort();
    paths.retain(|path| path.extension().is_some_and(|md| md == "md"));
    read(paths)
}

/// The pages that it leads to, whose commands are examples.
#[allow(dead_code)] // only the guide's own tests read them
pub fn beside() -> Vec<(PathBuf, String)> {
    let names = [
        "charts/upgrade-gate/README.md",
        "benches/README.md",
        "CONTRIBUTING.md",
        "tests/README.md",
        "examples/files/kanban/README.md",
        "clients/python/README.md",
        "clients/node/README.md",
        "docs/design/protocol.md",
        "docs/design/a-document.md",
        "docs/design/alternatives.md",
    ];
    read(names.map(|name| Path::new(ROOT).join(name)).to_vec())
}

fn read(paths: Vec<PathBuf>) -> Vec<(PathBuf, String)> {
    let read = |path: PathBuf| (path.clone(), fs::read_to_string(path).unwrap());
    paths.into_iter().map(read).collect()
}

/// What stands in the block of commands that the guide calls `name`.
pub fn commands(name: &str) -> String {
    let named = pages().into_iter().flat_map(|(_, page)| blocks(&page));
    let found = named.into_iter().find(|(known, _)| known.as_deref() == Some(name));
    found.unwrap_or_else(|| panic!("the guide has no commands called {name}")).1
}

/// Every block of commands of a page, with its name if it has one.
pub fn blocks(page: &str) -> Vec<(Option<String>, String)> {
    let mut blocks = Vec::new();
    let mut name = None;
    let mut lines = page.lines();
    while let Some(line) = lines.next() {
        let text = line.trim_start();
        let indent = line.len() - text.len();
        if let Some(mark) = text.strip_prefix(MARK) {
            name = mark.strip_suffix(" -->").map(str::to_owned);
        } else if text == "```sh" {
            let inside = lines.by_ref().take_while(|line| line.trim() != "```");
            let block: String = inside
                .map(|line| format!("{}\n", line.get(indent..).unwrap_or_default()))
                .collect();
            blocks.push((name.take(), block));
        } else if !text.is_empty() {
            name = None;
        }
    }
    blocks
}

/// Where the generated part `name` begins and ends: after the comment that opens it, and before the
/// comment that ends it.
#[allow(dead_code)] // only tests of generated parts need it
pub fn part(page: &str, name: &str) -> (usize, usize) {
    let (opening, closing) = (format!("<!-- {name}: "), format!("<!-- end of {name} -->"));
    let found = page.find(&opening).and_then(|at| {
        let begin = at + page[at..].find("-->\n")? + "-->\n".len();
        Some((begin, begin + page[begin..].find(&closing)?))
    });
    found.unwrap_or_else(|| panic!("the page has no {opening}… --> or no {closing}"))
}

/// A generated part of a page.
#[allow(dead_code)] // only tests that read tables need it
pub fn generated(page: &str, name: &str) -> String {
    let page = fs::read_to_string(Path::new(ROOT).join(page)).unwrap();
    let (begin, end) = part(&page, name);
    page[begin..end].to_owned()
}
