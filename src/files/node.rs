//! A file's content as a tree, each part with the place where it is written.

use std::fmt::Write;
use std::ops::Range;

/// Where something is written: bytes of its file.
pub(crate) type Span = Range<usize>;

/// A value, and where it is.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Node {
    pub(crate) span: Span,
    pub(crate) value: Value,
}

/// A value as YAML or JSON has it.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Value {
    Null,
    Bool(bool),
    Int(i64),
    Double(f64),
    Text(String),
    List(Vec<Node>),
    Map(Vec<Entry>),
    /// What was refused, and is not told again.
    Refused,
}

/// A key with its value.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Entry {
    pub(crate) key: String,
    pub(crate) at: Span,
    pub(crate) node: Node,
}

impl Node {
    /// The items of a list; of anything else the node itself, as the only one.
    pub(crate) fn items(&self) -> &[Node] {
        match &self.value {
            Value::List(items) => items,
            _ => std::slice::from_ref(self),
        }
    }

    /// What it is, in words: "a list".
    pub(crate) fn kind(&self) -> &'static str {
        match self.value {
            Value::Null | Value::Refused => "nothing",
            Value::Bool(_) => "true or false",
            Value::Int(_) | Value::Double(_) => "a number",
            Value::Text(_) => "a string",
            Value::List(_) => "a list",
            Value::Map(_) => "a mapping",
        }
    }

    /// Writes the content in a form for a digest: it is the same whatever the comments and the layout are.
    pub(crate) fn canonical(&self, out: &mut String) {
        match &self.value {
            Value::Null | Value::Refused => out.push_str("null"),
            Value::Bool(value) => out.push_str(if *value { "true" } else { "false" }),
            Value::Int(value) => {
                let _ = write!(out, "{value}");
            }
            // always with a point or an exponent, as no integer is
            Value::Double(value) => {
                let _ = write!(out, "{value:?}");
            }
            Value::Text(text) => canonical_text(text, out),
            Value::List(items) => {
                out.push('[');
                for (at, item) in items.iter().enumerate() {
                    if at > 0 {
                        out.push(',');
                    }
                    item.canonical(out);
                }
                out.push(']');
            }
            Value::Map(entries) => {
                out.push('{');
                for (at, entry) in entries.iter().enumerate() {
                    if at > 0 {
                        out.push(',');
                    }
                    canonical_text(&entry.key, out);
                    out.push(':');
                    entry.node.canonical(out);
                }
                out.push('}');
            }
        }
    }

    /// The part of it that a path names, or as much of the path as there is: `set.0.$project` of a step.
    pub(crate) fn at<'a>(&self, path: impl IntoIterator<Item = &'a str>) -> Span {
        let mut span = self.span.clone();
        let mut node = self;
        for part in path {
            let next = match &node.value {
                Value::Map(entries) => entries.iter().find(|entry| entry.key == part),
                Value::List(items) => match part.parse().ok().and_then(|at: usize| items.get(at)) {
                    Some(item) => {
                        node = item;
                        span = item.span.clone();
                        continue;
                    }
                    None => None,
                },
                _ => None,
            };
            let Some(entry) = next else { break };
            span = entry.at.clone();
            node = &entry.node;
        }
        span
    }
}

fn canonical_text(text: &str, out: &mut String) {
    out.push('"');
    for character in text.chars() {
        match character {
            '"' | '\\' => out.extend(['\\', character]),
            _ => out.push(character),
        }
    }
    out.push('"');
}
