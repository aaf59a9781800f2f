//! The directory of upgrades: which of its files are read, and in which order.

use std::fs::{self, File};
use std::io::Read;
use std::path::{Path, PathBuf};

use crate::files::mistakes::{Mistakes, Source};
use crate::version::Version;

/// What says what the application is.
pub(crate) const GATE_FILE: &str = "gate.yaml";
/// What npm has in every project.
const NPM: [&str; 3] = ["package.json", "package-lock.json", "npm-shrinkwrap.json"];
/// More bytes than that in one file, or in all of them, do not fit into the memory that a gate has.
const MOST_OF_A_FILE: u64 = 4 * 1024 * 1024;
const MOST_OF_ALL: u64 = 16 * 1024 * 1024;

/// The files of a directory, with their contents.
#[derive(Debug, Default)]
pub(crate) struct Directory {
    /// Where it is; `None` in memory.
    pub(crate) path: Option<PathBuf>,
    pub(crate) gate: Option<String>,
    /// By name.
    pub(crate) upgrades: Vec<(UpgradeName, String)>,
}

/// The name of a file that is an upgrade.
#[derive(Clone, Debug)]
pub(crate) struct UpgradeName {
    pub(crate) file: String,
    /// Without the ending.
    pub(crate) stem: String,
    /// What its beginning may mean: of `1.1.0-rc.1-x` both 1.1.0 and 1.1.0-rc.1.
    versions: Vec<Version>,
}

impl UpgradeName {
    pub(super) fn parse(file: &str, stem: &str) -> Option<Self> {
        let dashes = stem.match_indices('-').map(|(at, _)| at);
        let named = dashes.filter(|at| at + 1 < stem.len());
        let versions: Vec<Version> =
            named.filter_map(|at| Version::parse_code(&stem[..at]).ok()).collect();
        let name = UpgradeName { file: file.to_owned(), stem: stem.to_owned(), versions };
        Some(name).filter(|name| !name.versions.is_empty())
    }

    /// Whether the name begins with this version.
    pub(crate) fn is_of(&self, version: &Version) -> bool {
        self.versions.contains(version)
    }

    /// The version that the name begins with.
    pub(crate) fn version(&self) -> String {
        self.versions.last().map(Version::to_string).unwrap_or_default()
    }
}

/// Reads all files, and notes those that are none of these.
pub(crate) fn read(path: &Path, mistakes: &mut Mistakes) -> Directory {
    let shown = path.display().to_string();
    let unreadable = |error: &std::io::Error| format!("the directory cannot be read: {error}");
    let expected = "mount or copy the directory of upgrades there, or name it with GATE_UPGRADES";
    let entries = match fs::read_dir(path) {
        Ok(entries) => entries,
        Err(error) => {
            mistakes.of_file(&shown, unreadable(&error), expected);
            return Directory::default();
        }
    };
    let mut names = vec![];
    for entry in entries {
        match entry {
            Ok(entry) => names.push(entry.file_name()),
            Err(error) => {
                mistakes.of_file(&shown, unreadable(&error), expected);
                return Directory::default();
            }
        }
    }
    names.sort();
    let mut directory = Directory { path: Some(path.to_owned()), ..Directory::default() };
    let mut left = MOST_OF_ALL;
    let mut any = false;
    for name in names {
        let file = path.join(&name);
        let name = name.to_string_lossy();
        let (stem, ending) = name.rsplit_once('.').unwrap_or((&name, ""));
        let is_kind = ["yaml", "yml", "json"].iter().any(|kind| ending.eq_ignore_ascii_case(kind));
        if !is_kind && !name.starts_with('.') && is_meant(&name, ending) && file.is_file() {
            let expected =
                "an upgrade's name ends in .yaml, .yml or .json; rename it, or keep it elsewhere";
            mistakes.warn_of_file(&name, "this file is not read", expected);
        }
        if name.starts_with('.') || !is_kind || NPM.contains(&&*name) || file.is_dir() {
            continue;
        }
        any = true;
        if stem.eq_ignore_ascii_case("gate") && name != GATE_FILE {
            let message = "this is not read: the file is to be called gate.yaml";
            let expected = match path.join(GATE_FILE).exists() {
                true => "remove it: there is a gate.yaml",
                false => "rename it to gate.yaml",
            };
            mistakes.of_file(&name, message, expected);
        } else if name == GATE_FILE {
            directory.gate = contents(&file, &name, &mut left, mistakes);
        } else if ending.chars().any(char::is_uppercase) {
            let expected = format!("rename it to {stem}.{}", ending.to_ascii_lowercase());
            mistakes.of_file(&name, "its ending is in capital letters", &expected);
        } else if let Some(upgrade) = UpgradeName::parse(&name, stem) {
            if let Some(text) = contents(&file, &name, &mut left, mistakes) {
                directory.upgrades.push((upgrade, text));
            }
        } else {
            let expected = "an upgrade's name begins with its version and a dash, as in \
                            1.1.0-card-positions.yaml; keep other files elsewhere";
            let end = stem.find(|c: char| !c.is_ascii_alphanumeric() && c != '.');
            let (version, rest) = stem.split_at(end.unwrap_or(stem.len()));
            let rest = rest.trim_matches(|c: char| !c.is_alphanumeric());
            let rest = if rest.is_empty() { "what-it-does" } else { rest };
            match Version::parse_code(version) {
                Ok(_) => {
                    let expected = format!("rename it, as to {version}-{rest}.{ending}");
                    let message = "no dash and description follow the version in its name";
                    mistakes.of_file(&name, message, &expected);
                }
                Err(_) => mistakes.of_file(&name, "this is not the name of an upgrade", expected),
            }
        }
    }
    if !any {
        let inside = fs::read_dir(path).into_iter().flatten().flatten();
        let mut inside: Vec<_> = inside.filter(|it| it.path().join(GATE_FILE).is_file()).collect();
        inside.sort_by_key(fs::DirEntry::path);
        let expected = match inside.first() {
            Some(inside) => format!("did you mean {}?", inside.path().display()),
            None => {
                "write a gate.yaml, or name the directory that has it with GATE_UPGRADES".to_owned()
            }
        };
        mistakes.of_file(&shown, "the directory has no file of upgrades", &expected);
    } else if directory.gate.is_none() && !path.join(GATE_FILE).exists() {
        let expected = "write one: `app: kanban`, and `version: 1.4.0`";
        mistakes.of_file(&shown, "there is no gate.yaml", expected);
    }
    directory
}

/// Whether a file of another kind was probably meant as an upgrade: an editor or a tool gave it its ending.
fn is_meant(name: &str, ending: &str) -> bool {
    const ENDINGS: [&str; 11] =
        ["txt", "toml", "json5", "jsonc", "xml", "j2", "jinja", "tpl", "tmpl", "yaml ", "yml "];
    // a name without an ending ends in a part of its version
    let (stem, ending) = match ending.contains('-') {
        true => (name, ""),
        false => (name.strip_suffix(ending).unwrap_or(name).trim_end_matches('.'), ending),
    };
    let kind = ending.is_empty() || ENDINGS.iter().any(|it| ending.eq_ignore_ascii_case(it));
    kind && (UpgradeName::parse(name, stem).is_some() || stem.eq_ignore_ascii_case(GATE_FILE))
}

/// What a file says. Only a file is opened: a pipe would keep the run waiting.
pub(super) fn contents(
    path: &Path,
    name: &str,
    left: &mut u64,
    mistakes: &mut Mistakes,
) -> Option<String> {
    let mut bytes = Vec::new();
    let read = fs::metadata(path).and_then(|about| match about.is_file() {
        true => File::open(path)?.take(MOST_OF_A_FILE + 1).read_to_end(&mut bytes).map(|_| true),
        false => Ok(false),
    });
    match read {
        Ok(true) => {}
        Ok(false) => {
            mistakes.of_file(name, "this is not a file", "a file is expected");
            return None;
        }
        Err(error) => {
            let expected = match fs::read_link(path) {
                Ok(to) if error.kind() == std::io::ErrorKind::NotFound => {
                    &format!("it is a link, and nothing is at {}: correct the link", to.display())
                }
                _ => "make it readable for the user that the gate runs as",
            };
            mistakes.of_file(name, format!("the file cannot be read: {error}"), expected);
            return None;
        }
    }
    let split = "split it into several upgrades, or let the application write the data";
    if bytes.len() as u64 > MOST_OF_A_FILE {
        mistakes.of_file(name, "the file is larger than 4 MiB", split);
        return None;
    }
    let Some(rest) = left.checked_sub(bytes.len() as u64) else {
        mistakes.of_file(name, "with this file, all files together are larger than 16 MiB", split);
        return None;
    };
    *left = rest;
    let zeros = bytes.iter().filter(|byte| **byte == 0).count();
    if bytes.starts_with(&[0xff, 0xfe])
        || bytes.starts_with(&[0xfe, 0xff])
        || zeros > bytes.len() / 4
    {
        mistakes.of_file(name, "the file is UTF-16", "save it as UTF-8");
        return None;
    }
    match String::from_utf8(bytes) {
        Ok(text) => Some(match text.strip_prefix('\u{feff}') {
            Some(rest) => rest.to_owned(),
            None => text,
        }),
        Err(error) => {
            let (before, rest) = error.as_bytes().split_at(error.utf8_error().valid_up_to());
            let text = String::from_utf8_lossy(error.as_bytes());
            let source = Source { name, text: &text };
            let place = before.len()..before.len() + '\u{fffd}'.len_utf8();
            let byte = rest.first().copied().unwrap_or_default();
            let message = format!("this is not UTF-8: byte 0x{byte:02X}");
            mistakes.at(&source, &place, message, "save the file as UTF-8");
            None
        }
    }
}
