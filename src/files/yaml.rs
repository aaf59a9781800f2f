//! YAML to a tree, by the events of a parser. What readers of YAML differ on, and what the same text could be written
//! without, is refused.

use std::borrow::Cow;
use std::collections::HashMap;

use saphyr_parser::{Event, Marker, Parser, ScalarStyle, ScanError, Span as MarkedSpan};

use crate::files::mistakes::{Mistakes, Source};
use crate::files::node::{Entry, Node, Span, Value};
use crate::files::scalar;
use crate::visible::is_hidden;

/// The server stores no document that nests deeper than 180 levels, and a file has a few of its own.
const DEEPEST: usize = 190;
/// More values than that in a file do not fit into the memory that a gate has.
const MOST_VALUES: usize = 250_000;

/// Reads the one document of a file, as far as its mistakes allow.
pub(crate) fn parse(source: &Source<'_>, mistakes: &mut Mistakes) -> Option<Node> {
    let text = source.text;
    if let Some(place) = unprintable(text) {
        let code = text[place.clone()].chars().next().map_or(0, u32::from);
        let message = format!("a control character, U+{code:04X}");
        let expected = format!(
            "remove it; where a string is to hold it, write \"\\u{code:04x}\" in double quotes"
        );
        mistakes.at(source, &place, message, expected);
        return None;
    }
    if let Some(place) = conflict(text) {
        let expected = "resolve it: keep one of the two sides, or both, and remove the marks";
        mistakes.at(source, &place, "a conflict of a merge is left in the file", expected);
        return None;
    }
    let first = text.lines().find(|line| !line.trim().is_empty() && !line.starts_with('#'));
    if let Some(directive) = first.filter(|line| line.starts_with('%')) {
        let start = text.find(directive).unwrap_or_default();
        let expected = "remove the line: files are read as YAML 1.2";
        let place = start..start + directive.len();
        mistakes.at(source, &place, "a directive of YAML is not allowed", expected);
        return None;
    }
    let json = source.name.ends_with(".json") || source.name.ends_with(".jsonl");
    let mut parsed = Cow::Borrowed(text);
    if json {
        is_json(source, mistakes)?;
        parsed = without_surrogates(text);
    }
    let mut builder = Builder {
        source,
        mistakes,
        json,
        places: Places::new(text),
        open: vec![],
        root: None,
        values: 0,
        scalars: vec![],
        last_end: 0,
    };
    let whole = builder.read(&parsed);
    let scalars = std::mem::take(&mut builder.scalars);
    let root = builder.root.take();
    if whole.is_none() {
        hidden(source, mistakes);
        if let Some((at, space)) =
            text.char_indices().find(|(_, c)| c.is_whitespace() && !c.is_ascii())
        {
            let message = format!("a space that is not one to YAML: U+{:04X}", u32::from(space));
            mistakes.at(source, &(at..at + space.len_utf8()), message, "write an ordinary space");
        }
        return None;
    }
    if !source.name.ends_with(".json") {
        tabs(source, &scalars, mistakes);
    }
    hidden(source, mistakes);
    let empty = |node: &Node| node.value == Value::Null;
    let root = root.filter(|root| !empty(root));
    if root.is_none() {
        mistakes.of_file(source.name, "the file is empty", "remove it, or write what it is to say");
    }
    root
}

/// A JSON file is JSON, for whatever else reads it.
fn is_json(source: &Source<'_>, mistakes: &mut Mistakes) -> Option<()> {
    let text = source.text;
    let Err(error) = serde_json::from_str::<serde::de::IgnoredAny>(text) else { return Some(()) };
    if text.trim().is_empty() {
        mistakes.of_file(source.name, "the file is empty", "remove it, or write what it is to say");
        return None;
    }
    let start: usize =
        text.split_inclusive('\n').take(error.line().saturating_sub(1)).map(str::len).sum();
    // the column counts bytes, and may point into a character
    let at = text.floor_char_boundary(start + error.column().saturating_sub(1));
    let said = error.to_string();
    let said = said.split(" at line ").next().unwrap_or_default();
    let here = text[at..].chars().next().unwrap_or(' ');
    let comma = matches!(here, '}' | ']') && text[..at].trim_end().ends_with(',');
    let said = match (here, error.classify()) {
        _ if comma => "a comma after the last item",
        ('\'', _) => "a single quote, where JSON has double quotes",
        ('/' | '#', _) => "JSON has no comments",
        (_, serde_json::error::Category::Eof) => "the file ends before the last bracket is closed",
        _ => said,
    };
    let expected = "correct it; a file whose name ends in .yaml may be written more freely";
    let span = at..at + here.len_utf8();
    mistakes.at(source, &span, format!("this is not JSON: {said}"), expected);
    None
}

/// A text of JSON with its surrogates, which YAML has no escapes for, as other escapes of the same length.
fn without_surrogates(text: &str) -> Cow<'_, str> {
    let is_surrogate = |escape: &[u8]| {
        escape[0].eq_ignore_ascii_case(&b'd')
            && matches!(escape[1], b'8' | b'9' | b'a'..=b'f' | b'A'..=b'F')
    };
    let bytes = text.as_bytes();
    let mut parsed = Cow::Borrowed(text);
    let mut at = 0;
    while let Some(next) = text.get(at..).and_then(|rest| rest.find('\\')) {
        at += next;
        if bytes.get(at + 1) == Some(&b'u') && bytes.get(at + 2..at + 4).is_some_and(is_surrogate) {
            parsed.to_mut().replace_range(at + 2..at + 3, "e");
        }
        // an escape is a backslash and one character at least
        at += 2;
        while !text.is_char_boundary(at.min(text.len())) {
            at += 1;
        }
    }
    parsed
}

/// A character that YAML does not allow, and that would end the text for some readers.
fn unprintable(text: &str) -> Option<Span> {
    let wrong = |c: char| c.is_control() && !matches!(c, '\t' | '\n' | '\r' | '\u{85}');
    let (at, character) = text.char_indices().find(|(_, c)| wrong(*c))?;
    Some(at..at + character.len_utf8())
}

/// What a version control leaves where two sides changed the same lines.
fn conflict(text: &str) -> Option<Span> {
    let mut at = 0;
    for line in text.split_inclusive('\n') {
        let mark = line.trim_end();
        if ["<<<<<<< ", ">>>>>>> "].iter().any(|sign| mark.starts_with(sign)) {
            return Some(at..at + mark.len());
        }
        at += line.len();
    }
    None
}

/// Tabs between values: editors show them as any number of spaces, and YAML does not indent by them.
fn tabs(source: &Source<'_>, scalars: &[Span], mistakes: &mut Mistakes) {
    let text = source.text;
    let mut from = 0;
    let end = text.len()..text.len();
    for scalar in scalars.iter().chain([&end]) {
        let gap = text.get(from..scalar.start).unwrap_or_default();
        let mut at = from;
        for line in gap.split_inclusive('\n') {
            let code = line.split('#').next().unwrap_or_default();
            if let Some(tab) = code.find('\t') {
                let place = at + tab..at + tab + 1;
                mistakes.at(
                    source,
                    &place,
                    "a tab is not allowed",
                    "indent and separate by spaces",
                );
                return;
            }
            at += line.len();
        }
        from = from.max(scalar.end);
    }
}

/// Characters that nobody sees, wherever they are.
fn hidden(source: &Source<'_>, mistakes: &mut Mistakes) {
    // they are part of some scripts and of emoji
    let usual = |c: char| matches!(c, '\u{200c}' | '\u{200d}' | '\u{fe0f}' | '\u{ad}');
    let wrong = |c: char| is_hidden(c) && !c.is_control() && !usual(c);
    if let Some((at, character)) = source.text.char_indices().find(|(_, c)| wrong(*c)) {
        let message = format!("a character that is not shown: U+{:04X}", u32::from(character));
        let expected = "remove it, or write it as an escape in double quotes";
        mistakes.warn(source, &(at..at + character.len_utf8()), message, expected);
    }
}

/// From the parser's places, which count characters, to bytes.
struct Places {
    /// Where each character begins; `None` if each has one byte.
    bytes: Option<Vec<u32>>,
    end: usize,
}

impl Places {
    fn new(text: &str) -> Self {
        let bytes = (!text.is_ascii())
            .then(|| text.char_indices().map(|(at, _)| at as u32).collect::<Vec<_>>());
        Places { bytes, end: text.len() }
    }

    fn byte(&self, marker: Marker) -> usize {
        let index = marker.index();
        match &self.bytes {
            None => index.min(self.end),
            Some(bytes) => bytes.get(index).map_or(self.end, |at| *at as usize),
        }
    }

    fn span(&self, span: MarkedSpan) -> Span {
        let start = self.byte(span.start);
        start..self.byte(span.end).max(start)
    }
}

/// A collection that is not complete yet.
enum Open {
    List { start: usize, items: Vec<Node> },
    Map { start: usize, entries: Vec<Entry>, key: Option<Key>, seen: HashMap<String, Span> },
}

/// A key that waits for its value.
enum Key {
    Text(String, Span),
    /// What is under it is read, and dropped.
    Wrong,
}

struct Builder<'a, 'b> {
    source: &'a Source<'a>,
    mistakes: &'b mut Mistakes,
    /// Whether strings are those of JSON.
    json: bool,
    places: Places,
    open: Vec<Open>,
    root: Option<Node>,
    values: usize,
    /// Where texts and numbers are.
    scalars: Vec<Span>,
    last_end: usize,
}

impl Builder<'_, '_> {
    /// Reads all events. `None` if what follows a mistake cannot be made sense of.
    fn read(&mut self, parsed: &str) -> Option<()> {
        let mut documents = 0;
        for event in Parser::new_from_str(parsed) {
            let (event, marked) = match event {
                Ok(event) => event,
                Err(error) => {
                    self.not_yaml(&error);
                    return None;
                }
            };
            let span = self.places.span(marked);
            match event {
                Event::DocumentStart(_) => {
                    documents += 1;
                    if documents > 1 {
                        let expected = "move it to a file of its own: each file is one upgrade";
                        self.wrong(&span, "a second document in the file", expected);
                        return None;
                    }
                }
                Event::Nothing | Event::StreamStart | Event::StreamEnd | Event::DocumentEnd => {}
                Event::Alias(_) => {
                    self.wrong(&span, "an alias is not allowed", "write out what it stands for");
                    self.complete(Node { span, value: Value::Refused })?;
                }
                Event::Scalar(text, style, anchor, tag) => {
                    self.check_extras(&span, anchor, tag.is_some());
                    self.scalar(text, style, span)?;
                }
                Event::SequenceStart(anchor, tag) => {
                    self.check_extras(&span, anchor, tag.is_some());
                    self.begin(&span, Open::List { start: span.start, items: vec![] })?;
                }
                Event::MappingStart(anchor, tag) => {
                    self.check_extras(&span, anchor, tag.is_some());
                    let (entries, seen) = (vec![], HashMap::new());
                    let map = Open::Map { start: span.start, entries, key: None, seen };
                    self.begin(&span, map)?;
                }
                Event::SequenceEnd | Event::MappingEnd => {
                    // of a collection in brackets the end is theirs
                    let end = span.end.max(self.last_end);
                    let node = match self.open.pop()? {
                        Open::List { start, items } => {
                            Node { span: start..end, value: Value::List(items) }
                        }
                        Open::Map { start, entries, .. } => {
                            Node { span: start..end, value: Value::Map(entries) }
                        }
                    };
                    self.complete(node)?;
                }
            }
        }
        Some(())
    }

    fn wrong(&mut self, span: &Span, message: impl Into<String>, expected: impl AsRef<str>) {
        self.mistakes.at(self.source, span, message, expected);
    }

    /// Refuses anchors and tags.
    fn check_extras(&mut self, span: &Span, anchor: usize, tagged: bool) {
        let before = self.source.text.get(..span.start).unwrap_or_default();
        let sign = |sign: char| match before.rfind(sign) {
            Some(at) => {
                let end = before[at..].find(char::is_whitespace).map_or(span.start, |end| at + end);
                at..end
            }
            None => span.clone(),
        };
        if anchor > 0 {
            self.wrong(&sign('&'), "an anchor is not allowed", "remove it, and write the value out wherever it is needed; a string that begins with & is put in quotes");
        }
        if tagged {
            let expected = "remove it: types are written as MongoDB Extended JSON, as in { $date: \
                            \"2026-11-28T00:00:00Z\" }";
            self.wrong(&sign('!'), "a tag is not allowed", expected);
        }
    }

    fn scalar(&mut self, text: Cow<'_, str>, style: ScalarStyle, span: Span) -> Option<()> {
        self.last_end = span.end;
        self.scalars.push(span.clone());
        let is_key = matches!(self.open.last(), Some(Open::Map { key: None, .. }));
        if style != ScalarStyle::Plain {
            let mut value = Value::Text(text.into_owned());
            if self.json {
                let written = self.source.text.get(span.clone()).unwrap_or_default();
                match serde_json::from_str(written) {
                    Ok(text) => value = Value::Text(text),
                    Err(_) => {
                        let expected = "characters beyond U+FFFF have two escapes, or none: write the character";
                        self.wrong(&span, "an escape in this string is half a character", expected);
                        value = Value::Refused;
                    }
                }
            }
            return self.complete(Node { span, value });
        }
        let value = match scalar::plain(&text) {
            // a word is a word as a key
            Err(_)
                if is_key
                    && !text.starts_with(|c: char| c.is_ascii_digit() || "+-.".contains(c)) =>
            {
                Value::Text(text.into_owned())
            }
            Ok(value) => {
                if let Value::Text(_) = value {
                    self.check_comment(&span);
                    self.check_literal(&text, &span);
                }
                value
            }
            Err((message, expected)) => {
                if !is_key {
                    self.wrong(&span, message, expected);
                }
                Value::Refused
            }
        };
        self.complete(Node { span, value })
    }

    /// A text that a comment seems to cut short: `Fix #{n}`.
    fn check_comment(&mut self, span: &Span) {
        let rest = self.source.text.get(span.end..).unwrap_or_default();
        let rest = rest.split(['\n', '\r']).next().unwrap_or_default();
        let spaces = rest.len() - rest.trim_start_matches([' ', '\t']).len();
        let Some(comment) = rest[spaces..].strip_prefix('#') else { return };
        let set_apart = spaces > 1 && (comment.is_empty() || comment.starts_with([' ', '\t']));
        if spaces > 0 && !set_apart {
            let place = span.end + spaces..span.end + rest.trim_end().len();
            self.mistakes.warn(
                self.source,
                &place,
                "this is a comment: the string ends before it",
                "put the whole string in quotes, or two spaces before the comment and one after its #",
            );
        }
    }

    /// A string that is a value of another type in a shell or in another language.
    fn check_literal(&mut self, text: &str, span: &Span) {
        let call = text.trim_start_matches("new ").split_once('(').map(|(name, _)| name);
        let (message, expected) = match (text, call) {
            (_, Some("ISODate" | "Date" | "datetime")) => (
                format!("{text} is a string"),
                "a date is written { $date: \"2026-11-28T00:00:00Z\" }",
            ),
            (_, Some("ObjectId" | "ObjectID")) => {
                let expected = "an ObjectId is written { $oid: \"64a1f0c2e4b0a1b2c3d4e5f6\" }";
                (format!("{text} is a string"), expected)
            }
            (
                _,
                Some(
                    "NumberLong" | "NumberInt" | "NumberDecimal" | "Decimal128" | "Long" | "UUID"
                    | "BinData",
                ),
            ) => {
                let expected = "types are written as MongoDB Extended JSON: { $numberLong: \"5\" }, { $uuid: … }";
                (format!("{text} is a string"), expected)
            }
            ("None" | "nil", _) => (
                format!("{text} is a string"),
                "nothing is written null; a string is put in quotes",
            ),
            ("NaN" | "Infinity" | "-Infinity", _) => {
                (format!("{text} is a string"), "the numbers are written .nan, .inf and -.inf")
            }
            _ if text.starts_with("${") && text.ends_with('}') => {
                let expected =
                    "write the value: files are read as they are, and nothing is filled in";
                (format!("{text} is a string"), expected)
            }
            _ if text.starts_with("/^") || (text.starts_with('/') && text.ends_with("$/")) => {
                (format!("{text} is a string"), "a pattern is written { $regex: \"^a\" }")
            }
            _ => return,
        };
        self.mistakes.warn(self.source, span, message, expected);
    }

    fn begin(&mut self, span: &Span, open: Open) -> Option<()> {
        self.last_end = self.last_end.max(span.end);
        if self.open.len() >= DEEPEST {
            self.too_deep(span);
            return None;
        }
        self.open.push(open);
        Some(())
    }

    fn too_deep(&mut self, span: &Span) {
        let message = format!("this nests deeper than {DEEPEST} levels");
        self.wrong(span, message, "the server stores no document that nests deeper than 180");
    }

    /// Puts a complete value where it belongs.
    fn complete(&mut self, node: Node) -> Option<()> {
        self.last_end = self.last_end.max(node.span.end);
        self.values += 1;
        if self.values > MOST_VALUES {
            let message = format!("the file has more than {MOST_VALUES} values");
            let expected = "split it into several upgrades, or let the application write the data";
            self.wrong(&node.span, message, expected);
            return None;
        }
        match self.open.last_mut() {
            None => self.root = Some(node),
            Some(Open::List { items, .. }) => items.push(node),
            Some(Open::Map { entries, key, seen, .. }) => match key.take() {
                Some(Key::Text(key, at)) => entries.push(Entry { key, at, node }),
                Some(Key::Wrong) => {}
                None => {
                    let Node { span, value } = node;
                    let (message, expected) = match value {
                        Value::Text(text) if text == "<<" => {
                            ("a merge key is not allowed".to_owned(), "write its keys out")
                        }
                        Value::Text(text) => match seen.get(&text) {
                            Some(first) => {
                                let line = line_of(self.source.text, first.start);
                                let message =
                                    format!("`{text}` is there twice: line {line} has it too");
                                *key = Some(Key::Wrong);
                                self.wrong(&span, message, "remove one of them");
                                return Some(());
                            }
                            None => {
                                seen.insert(text.clone(), span.clone());
                                *key = Some(Key::Text(text, span));
                                return Some(());
                            }
                        },
                        _ if self.source.text[span.start..].starts_with('{') => {
                            let template = "write the value: files are read as they are, and nothing is filled in";
                            ("a template is not allowed".to_owned(), template)
                        }
                        _ => (
                            "expected a key, found another kind of value".to_owned(),
                            "a key is a string: put it in quotes",
                        ),
                    };
                    *key = Some(Key::Wrong);
                    self.wrong(&span, message, expected);
                }
            },
        }
        Some(())
    }

    /// What is said of a text that is not YAML.
    fn explained(&self, info: &str, start: usize, line: &str) -> (Span, String, &'static str) {
        let text = self.source.text;
        let here = start..start;
        if line.contains("{{") || line.contains("{%") {
            let expected = "write the value: files are read as they are, and nothing is filled in";
            return (here, "a template is not allowed".to_owned(), expected);
        }
        let tab = match text[..start].ends_with('\t') {
            true => Some(start - 1),
            false if info.contains("found a tab") => text[start..].find('\t').map(|at| start + at),
            false => None,
        };
        if let Some(tab) = tab {
            let expected = "indent and separate by spaces";
            return (tab..tab + 1, "a tab is not allowed".to_owned(), expected);
        }
        let line_start = text[..start].rfind(['\n', '\r']).map_or(0, |at| at + 1);
        if info.contains("did not find expected key")
            && text[line_start..start].trim_end().ends_with(['}', ']'])
        {
            let expected = "a string that begins with { or [ is put in quotes";
            return (here, "something follows the closing bracket".to_owned(), expected);
        }
        if info.contains("simple key expect") {
            // it is told of what follows the line
            let before = text[..start].trim_end();
            let from = before.rfind(['\n', '\r']).map_or(0, |at| at + 1);
            let from = from + before[from..].len() - before[from..].trim_start().len();
            let expected = "a key is followed by a colon and a space: `key: value`";
            return (from..before.len(), "expected a key with its value".to_owned(), expected);
        }
        if let Some((_, message, expected)) = NOT_YAML.iter().find(|(part, ..)| info.contains(part))
        {
            return (here, (*message).to_owned(), expected);
        }
        let expected = "a string that holds `: ` or ` #`, or begins with one of {}[],&*!|>'\"%@`, is \
                        put in quotes";
        (here, format!("this is not YAML: {info}"), expected)
    }

    /// What the parser could not read.
    fn not_yaml(&mut self, error: &ScanError) {
        let start = self.places.byte(*error.marker());
        let span = start..start;
        let text = self.source.text;
        let line_start = text[..start].rfind('\n').map_or(0, |at| at + 1);
        let line = text[line_start..].lines().next().unwrap_or_default();
        let indent = &line[..line.len() - line.trim_start().len()];
        let info = error.info();
        if let Some(tab) = indent.find('\t') {
            let place = line_start + tab..line_start + tab + 1;
            self.wrong(&place, "a tab is not allowed", "indent and separate by spaces");
        } else if info.contains("unknown anchor") {
            let at = text[..start].rfind('*').unwrap_or(start);
            self.wrong(
                &(at..start.max(at + 1)),
                "an alias is not allowed",
                "write out what it stands for; a string that begins with * is put in quotes",
            );
        } else if info.contains("recursion limit") {
            self.too_deep(&span);
        } else {
            let (span, message, expected) = self.explained(info, start, line);
            self.wrong(&span, message, expected);
        }
    }
}

/// What is said of a text that looks as one of these, by part of what the parser says.
const NOT_YAML: &[(&str, &str, &str)] = &[
    (
        "mapping values are not allowed",
        "a colon where none is expected",
        "a string that holds `: ` is put in quotes; or the line is indented too far",
    ),
    ("did not find expected key", "this line is not indented as those it belongs to", INDENT),
    ("did not find expected '-' indicator", "this line is not an item of the list", INDENT),
    ("block sequence entries are not allowed", "an item of a list where none is expected", INDENT),
    ("only valid inside a block", "an item of a list where none is expected", INDENT),
    (
        "misplaced bracket",
        "a bracket that closes nothing",
        "remove it, or put the string in quotes",
    ),
    (
        "did not find expected node content",
        "a value is missing here, or a bracket before it is not closed",
        "close each [ and {",
    ),
    (
        "did not find expected ',' or",
        "a comma or a closing bracket is missing before this",
        "a string that holds one of {}[], is put in quotes",
    ),
    ("indentation in quoted scalar", "a quote is not closed", "end the string with the same quote"),
    ("unexpected end of stream", "a quote is not closed", "end the string with the same quote"),
    (
        "invalid Unicode character escape",
        "an escape in this string is half a character",
        "write the character itself, or its escape with \\U and eight digits",
    ),
    (
        "unknown escape character",
        "in double quotes a backslash begins an escape, and there is none like this",
        "write the backslash twice, or use single quotes",
    ),
    (
        "invalid trailing content",
        "something follows the closing quote",
        "a quote inside of single quotes is written twice, as in 'don\'\'t'",
    ),
    (
        "while scanning a block scalar",
        "nothing may follow > or | in its line",
        "a string that begins with it is put in quotes",
    ),
    (
        "mapping keys are not allowed",
        "a question mark where none is expected",
        "a string that begins with `? ` is put in quotes",
    ),
    ("unexpected character", "a string cannot begin like this", "put it in quotes"),
];

const INDENT: &str = "items of a list, and keys of a mapping, all begin in the same column";

/// The line of a place, counted from 1.
fn line_of(text: &str, at: usize) -> usize {
    text[..at].matches('\n').count() + 1
}
