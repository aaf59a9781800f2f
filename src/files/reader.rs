//! What one file says, read value by value; what is wrong is noted at its place, and the rest is read on.

use std::fs::File;
use std::io::{self, Read};
use std::path::Path;
use std::time::Duration;

use mongodb::bson::Document;
use sha2::{Digest, Sha256};

use crate::authoring::naming::{collection_mistake, unknown_number};
use crate::authoring::pipeline_mistakes;
use crate::files::mistakes::{Mistakes, Source};
use crate::files::node::{Entry, Node, Span, Value};
use crate::files::values;
use crate::process::settings::{UPGRADES_DIRECTORY, parse_duration, slip_of};
use crate::version::Version;

/// How names of scripts end.
const SCRIPTS: &[&str] = &[".py", ".js", ".mjs", ".cjs", ".rb", ".sh", ".pl", ".php"];

/// A file that is read, and the mistakes of all files.
pub(crate) struct Reader<'a, 'b> {
    pub(crate) source: Source<'a>,
    pub(crate) mistakes: &'b mut Mistakes,
    /// Where the file lies, and its programs.
    pub(crate) directory: Option<&'a Path>,
    /// The digests of the programs, by their names.
    pub(crate) programs: Vec<(String, String)>,
}

impl<'a, 'b> Reader<'a, 'b> {
    pub(crate) fn new(
        source: Source<'a>,
        mistakes: &'b mut Mistakes,
        directory: Option<&'a Path>,
    ) -> Self {
        Reader { source, mistakes, directory, programs: vec![] }
    }

    pub(crate) fn wrong(
        &mut self,
        span: &Span,
        message: impl Into<String>,
        expected: impl AsRef<str>,
    ) {
        self.mistakes.at(&self.source, span, message, expected);
    }

    /// A value of the wrong kind.
    fn expected(&mut self, node: &Node, what: &str) {
        let help = match (&node.value, what) {
            (Value::Refused, _) => return,
            (Value::Bool(_) | Value::Int(_) | Value::Double(_), "a string") => "put it in quotes",
            (Value::Null, _) => "write its value here, or remove what stands before it",
            (Value::List(_), "a string") => "write one string, without [ ]",
            (Value::Map(_), "a list") => "each item of a list begins with `- `, or stands in [ ]",
            (_, "a mapping") => "a mapping has keys with values: `key: value`, or { key: value }",
            _ => "",
        };
        self.wrong(&node.span, format!("expected {what}, found {}", node.kind()), help);
    }

    /// A text that is not empty, in one line.
    pub(crate) fn line<'n>(&mut self, node: &'n Node) -> Option<&'n str> {
        let Value::Text(text) = &node.value else {
            self.expected(node, "a string");
            return None;
        };
        let line = text.trim();
        if line.is_empty() {
            self.wrong(
                &node.span,
                "this string is empty",
                "write what it is to say, or remove the key",
            );
            return None;
        }
        if line.contains(['\n', '\r']) {
            self.wrong(&node.span, "expected one line, found several", "say it in one line");
            return None;
        }
        Some(line)
    }

    /// A text of a report, with the numbers that it may hold.
    pub(crate) fn report<'n>(&mut self, node: &'n Node, counts: &[&str]) -> Option<&'n str> {
        let line = self.line(node)?;
        if let Some(inner) = unknown_number(line, counts) {
            let known: Vec<String> = counts.iter().map(|name| format!("{{{name}}}")).collect();
            let expected = format!("it has {}", known.join(", "));
            let message = format!("a report of this step has no number called {{{inner}}}");
            self.wrong(&node.span, message, expected);
            return None;
        }
        Some(line)
    }

    /// The name of a collection.
    pub(crate) fn collection(&mut self, node: &Node) -> Option<String> {
        let name = self.line(node)?;
        match collection_mistake(name) {
            Some(mistake) => {
                self.wrong(
                    &node.span,
                    mistake,
                    "the name of one of the application's collections is expected",
                );
                None
            }
            None => Some(name.to_owned()),
        }
    }

    /// The path of a field.
    pub(crate) fn path(&mut self, node: &Node) -> Option<String> {
        let path = self.line(node)?;
        let wrong = |part: &str| part.is_empty() || part.starts_with('$');
        if path.split('.').any(wrong) {
            self.wrong(
                &node.span,
                format!("no field has the path `{path}`"),
                "a field's name without a $, with dots for a path: `owner.id`",
            );
            return None;
        }
        Some(path.to_owned())
    }

    /// A version that can be recorded.
    pub(crate) fn version(&mut self, node: &Node) -> Option<Version> {
        const EXPECTED: &str = "a version has three numbers: 1.4.0, or 1.4.0-rc.1 before it";
        match &node.value {
            Value::Text(text) => match Version::parse_code(text) {
                Ok(version) => Some(version),
                Err(error) => {
                    self.wrong(&node.span, error.to_string(), EXPECTED);
                    None
                }
            },
            Value::Refused => None,
            _ => {
                self.wrong(
                    &node.span,
                    format!("expected a version, found {}", node.kind()),
                    EXPECTED,
                );
                None
            }
        }
    }

    /// A time like `30d`, as settings have it.
    pub(crate) fn duration(&mut self, node: &Node, expected: &str) -> Option<Duration> {
        let duration = match &node.value {
            Value::Text(text) => parse_duration(text),
            Value::Refused => return None,
            _ => None,
        };
        if duration.is_none() {
            let message = match &node.value {
                Value::Text(text) => format!("{text} is not a duration"),
                _ => format!("expected a duration, found {}", node.kind()),
            };
            self.wrong(&node.span, message, expected);
        }
        duration
    }

    pub(crate) fn truth(&mut self, node: &Node) -> Option<bool> {
        match node.value {
            Value::Bool(value) => Some(value),
            _ => {
                self.expected(node, "true or false");
                None
            }
        }
    }

    pub(crate) fn list<'n>(&mut self, node: &'n Node) -> Option<&'n [Node]> {
        match &node.value {
            Value::List(items) => Some(items),
            _ => {
                self.expected(node, "a list");
                None
            }
        }
    }

    /// A list of texts, at least one, or one alone.
    pub(crate) fn lines(&mut self, node: &Node) -> Option<Vec<String>> {
        if let Value::Text(_) = node.value {
            return Some(vec![self.line(node)?.to_owned()]);
        }
        let items = self.list(node)?;
        if items.is_empty() {
            self.wrong(
                &node.span,
                "this list is empty",
                "at least one string is expected, or leave the key out",
            );
            return None;
        }
        let lines: Vec<Option<String>> =
            items.iter().map(|item| self.line(item).map(str::to_owned)).collect();
        lines.into_iter().collect()
    }

    pub(crate) fn document(&mut self, node: &Node) -> Option<Document> {
        match &node.value {
            Value::Map(_) => values::document((&self.source, self.mistakes), node),
            _ => {
                self.expected(node, "a mapping");
                None
            }
        }
    }

    pub(crate) fn documents(&mut self, node: &Node) -> Option<Vec<Document>> {
        let items = self.list(node)?;
        let documents: Vec<Option<Document>> =
            items.iter().map(|item| self.document(item)).collect();
        documents.into_iter().collect()
    }

    /// Notes what is wrong with a filter or a pipeline, each where it is; `None` if something is.
    pub(crate) fn of_server(
        &mut self,
        node: &Node,
        mistakes: Vec<pipeline_mistakes::Mistake>,
    ) -> Option<()> {
        let right = mistakes.is_empty();
        for mistake in mistakes {
            let place = node.at(mistake.path.iter().map(String::as_str));
            self.wrong(&place, mistake.reason, "");
        }
        right.then_some(())
    }

    /// The words of a command, of which those that name files of the directory are found wherever the gate runs; what
    /// these files hold is part of what the upgrade is.
    pub(crate) fn program(&mut self, node: &Node, words: Vec<String>) -> Option<Vec<String>> {
        let Some(directory) = self.directory else { return Some(words) };
        let mut found = vec![];
        for word in words {
            let inside = Path::new(&word).strip_prefix(UPGRADES_DIRECTORY);
            let file = directory.join(inside.unwrap_or(Path::new(&word)));
            let is_script = SCRIPTS.iter().any(|ending| word.ends_with(ending));
            if file.is_file() && file.starts_with(directory) {
                match digest(&file) {
                    Ok(digest) => self.programs.push((word.clone(), digest)),
                    Err(error) => {
                        let expected = "make it readable for the user that the gate runs as";
                        self.wrong(&node.span, format!("{word} cannot be read: {error}"), expected);
                        return None;
                    }
                }
            } else if is_script && Path::new(&word).is_relative() {
                let expected = match word.contains(char::is_whitespace) {
                    true => {
                        "write the program and each of its arguments as an item of its own, as no shell reads them: \
                             `program: [ python3, pin.py ]`"
                    }
                    false => "the name of a file of the directory, or a whole path",
                };
                self.wrong(&node.span, format!("{word} is not in the directory"), expected);
                return None;
            }
            // one named by its place in the image too: what was digested is what runs
            match file.to_str() {
                Some(path) if file.is_file() && file.starts_with(directory) => {
                    found.push(path.to_owned());
                }
                _ => found.push(word),
            }
        }
        Some(found)
    }

    pub(crate) fn fields<'n>(&mut self, node: &'n Node) -> Option<Fields<'n>> {
        match &node.value {
            Value::Map(entries) => Some(Fields { entries, known: vec![] }),
            _ => {
                self.expected(node, "a mapping");
                None
            }
        }
    }
}

/// The SHA-256 of a file, in hexadecimal digits.
fn digest(file: &Path) -> io::Result<String> {
    let mut file = File::open(file)?;
    let mut digest = Sha256::new();
    let mut bytes = [0; 8192];
    loop {
        match file.read(&mut bytes)? {
            0 => break,
            n => digest.update(&bytes[..n]),
        }
    }
    Ok(hexadecimal(&digest.finalize()))
}

/// Bytes as a digest is written.
pub(crate) fn hexadecimal(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// The keys of a mapping, each asked for by name; what nobody asked for is a mistake.
pub(crate) struct Fields<'n> {
    entries: &'n [Entry],
    known: Vec<&'static str>,
}

impl<'n> Fields<'n> {
    pub(crate) fn optional(&mut self, key: &'static str) -> Option<&'n Node> {
        self.entry(key).map(|entry| &entry.node)
    }

    pub(crate) fn entry(&mut self, key: &'static str) -> Option<&'n Entry> {
        self.known.push(key);
        self.entries.iter().find(|entry| entry.key == key)
    }

    /// A key that must be there; `of` is what lacks it, and where that is.
    pub(crate) fn required(
        &mut self,
        reader: &mut Reader<'_, '_>,
        key: &'static str,
        of: (&Span, &str),
        expected: &str,
    ) -> Option<&'n Node> {
        let found = self.optional(key);
        if found.is_none() {
            // a slip is told where it is
            let slip = self.entries.iter().any(|entry| {
                slip_of(&entry.key, [key]).is_some() && !self.known.contains(&entry.key.as_str())
            });
            if !slip {
                reader.wrong(of.0, format!("{} lacks `{key}`", of.1), expected);
            }
        }
        found
    }

    /// All keys, in the order in which they are written.
    pub(crate) fn keys(&self) -> impl Iterator<Item = &'n Entry> + use<'n> {
        self.entries.iter()
    }

    /// From here on, only this key counts as known.
    pub(crate) fn knows_only(&mut self, key: &'static str) {
        self.known = vec![key];
    }

    /// Notes the keys that were not asked for.
    pub(crate) fn finish(self, reader: &mut Reader<'_, '_>) {
        for entry in self.entries {
            if self.known.contains(&entry.key.as_str()) {
                continue;
            }
            let taken = |key: &&&str| !self.entries.iter().any(|entry| entry.key == ***key);
            let free = self.known.iter().filter(taken).copied();
            let message = format!("unknown key `{}`", entry.key);
            let free: Vec<&str> = free.collect();
            let slip = slip_of(&entry.key, free.iter().copied()).or(meant(&entry.key, &free));
            let expected = match slip {
                Some(key) => format!("did you mean `{key}`?"),
                None => format!("known keys are {}", quoted(&self.known)),
            };
            reader.wrong(&entry.at, message, expected);
        }
    }
}

/// The key that says what is called so elsewhere.
fn meant<'k>(key: &str, free: &[&'k str]) -> Option<&'k str> {
    const SAME: [&[&str]; 7] = [
        &["where", "match", "filter", "query", "find", "selector"],
        &["set", "pipeline", "update", "stages"],
        &["to", "into", "target"],
        &["description", "title", "summary", "comment"],
        &["steps", "up", "upgrade", "changes", "operations"],
        &["collection", "coll", "in"],
        &["partial", "partialFilterExpression"],
    ];
    let same = SAME.iter().find(|same| same.contains(&key))?;
    free.iter().copied().find(|known| same.contains(known))
}

/// Keys as a message lists them.
pub(crate) fn quoted(keys: &[&str]) -> String {
    let quoted: Vec<String> = keys.iter().map(|key| format!("`{key}`")).collect();
    quoted.join(", ")
}
