//! What a statement assigns, and the old values that this depends on.

use std::fmt::Write;

use mongodb::bson::spec::ElementType;
use mongodb::bson::{RawDocument, rawdoc};

use super::conditions::{Conditions, Guard, Strength};
use super::edits::Edits;
use super::element::{Element, Inside, Value, elements, nested, push_element, push_name, size_at};
use super::error::EditError;
use super::rewrite::{Place, rewrite};
use super::tree::{Node, Tree, Wholes};

/// Up to this many steps, the server's search through a document is cheap, whatever the alternative costs.
pub(super) const CHEAP: usize = 100_000;

/// How much of a document is known where its statement is made.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Extent {
    /// All of it.
    Whole,
    /// Some top-level fields.
    Fields,
}

/// What a statement assigns, and what that depends on.
#[derive(Default)]
pub(super) struct Assignments<'a> {
    pub(super) extent: Assigned,
    /// What is set as a whole: its path, what is there, and the edits of it.
    pub(super) wholes: Vec<(&'a str, Element<'a>, Tree<'a>)>,
    /// The edits that are made one by one.
    pub(super) singles: Vec<usize>,
    pub(super) guards: Vec<Guard<'a>>,
}

/// Whether a document is replaced or some of it set.
#[derive(Default, PartialEq, Eq)]
pub(super) enum Assigned {
    #[default]
    Fields,
    Document,
}

/// Where assignments are collected.
#[derive(Clone, Copy)]
pub(super) struct Level<'a> {
    pub(super) inside: Inside,
    /// The path of the document; `None` at the top.
    pub(super) parent: Option<&'a str>,
    /// Whether it is inside an array that is guarded.
    pub(super) guarded: bool,
}

impl<'a> Assignments<'a> {
    pub(super) fn of(
        document: &'a RawDocument,
        tree: Tree<'a>,
        extent: Extent,
    ) -> Result<Self, EditError> {
        let mut all = Assignments::default();
        if extent == Extent::Whole && is_costly(document, tree) && is_replaceable(document, tree) {
            all.extent = Assigned::Document;
        } else {
            let top = Level { inside: Inside::Document, parent: None, guarded: false };
            all.collect(document, tree, top)?;
        }
        Ok(all)
    }

    /// How many bytes the guarded statement has at least; `after` is what the document becomes.
    pub(super) fn size(
        &self,
        document: &RawDocument,
        after: &RawDocument,
        edits: &Edits,
    ) -> Result<usize, EditError> {
        if self.extent == Assigned::Document {
            return Ok(document.as_bytes().len() + after.as_bytes().len());
        }
        let old = self.guards.iter().filter_map(|guard| Some(guard.element.as_ref()?.value.len()));
        let single =
            |index: &usize| Some(edits.path(*index).len() + edits.value(*index)?.bytes.len());
        let mut size = old.sum::<usize>() + self.singles.iter().filter_map(single).sum::<usize>();
        for (path, ..) in &self.wholes {
            size += size_at(after, path)?;
        }
        Ok(size)
    }

    /// Collects what is assigned below a document or an array.
    pub(super) fn collect(
        &mut self,
        document: &'a RawDocument,
        tree: Tree<'a>,
        level: Level<'a>,
    ) -> Result<(), EditError> {
        let Level { inside, parent, guarded } = level;
        let mut missing = vec![true; tree.order.len()];
        let mut next = 0;
        let mut digits = String::new();
        for (position, element) in elements(document).enumerate() {
            let element = element?;
            let mut name = element.name;
            if inside == Inside::Array {
                digits.clear();
                let _ = write!(digits, "{position}");
                name = &digits;
            }
            let Some(group) = tree.find(name, &mut next) else { continue };
            if !std::mem::take(&mut missing[group.first]) {
                continue;
            }
            let path = group.path;
            let mut strength = Strength::Equal;
            match (group.node, element.container()?) {
                (Node::Branch(tree), Some((inner, _))) if is_costly(inner, tree) => {
                    self.wholes.push((path, element, tree));
                    strength = Strength::Same;
                }
                (Node::Branch(tree), Some((inner, Inside::Document))) => {
                    let level = Level { inside: Inside::Document, parent: Some(path), guarded };
                    self.collect(inner, tree, level)?;
                    continue;
                }
                (Node::Branch(tree), Some((inner, Inside::Array))) => {
                    let wholes = self.wholes.len();
                    let level = Level { inside: Inside::Array, parent: Some(path), guarded: true };
                    self.collect(inner, tree, level)?;
                    if self.wholes.len() > wholes {
                        strength = Strength::Same;
                    }
                }
                _ => self.singles.extend(group.order),
            }
            if !guarded {
                self.guards.push(Guard { path, parent, element: Some(element), strength });
            }
        }
        for group in tree.groups().filter(|group| missing[group.first]) {
            self.singles.extend(group.order);
            if !guarded {
                let (path, strength) = (group.path, Strength::Equal);
                self.guards.push(Guard { path, parent, element: None, strength });
            }
        }
        Ok(())
    }

    /// Appends `u`, what the statement does.
    pub(super) fn push_to(
        &self,
        out: &mut Vec<u8>,
        document: &RawDocument,
        tree: Tree<'_>,
    ) -> Result<(), EditError> {
        if self.extent == Assigned::Document {
            push_name(out, ElementType::EmbeddedDocument as u8, "u");
            return rewrite(out, document, tree, Inside::Document, None);
        }
        let edits = tree.edits;
        let unsets = || self.singles.iter().filter(|index| edits.value(**index).is_none());
        nested(out, ElementType::EmbeddedDocument, "u", |out| {
            if !self.wholes.is_empty() || unsets().count() < self.singles.len() {
                nested(out, ElementType::EmbeddedDocument, "$set", |out| {
                    self.push_sets_to(out, edits)
                })?;
            }
            if unsets().next().is_some() {
                nested(out, ElementType::EmbeddedDocument, "$unset", |out| {
                    unsets().for_each(|index| {
                        push_element(out, ElementType::Boolean, edits.path(*index), &[1]);
                    });
                    Ok(())
                })?;
            }
            Ok(())
        })
    }

    pub(super) fn push_sets_to(&self, out: &mut Vec<u8>, edits: &Edits) -> Result<(), EditError> {
        for index in &self.singles {
            if let Some(value) = edits.value(*index) {
                value.push_to(out, edits.path(*index));
            }
        }
        for (path, element, tree) in &self.wholes {
            if let Some((inner, inside)) = element.container()? {
                push_name(out, element.kind as u8, path);
                rewrite(out, inner, *tree, inside, Some(&Place { within: None, name: path }))?;
            }
        }
        Ok(())
    }

    /// Appends `q`, which also says that everything is as it was, and its collation.
    pub(super) fn push_query_to(
        &self,
        out: &mut Vec<u8>,
        q: &RawDocument,
        document: &RawDocument,
    ) -> Result<(), EditError> {
        nested(out, ElementType::EmbeddedDocument, "q", |out| {
            out.extend(&q.as_bytes()[4..q.as_bytes().len() - 1]);
            nested(out, ElementType::EmbeddedDocument, "$expr", |out| {
                nested(out, ElementType::Array, "$and", |out| {
                    self.push_guards_to(out, document);
                    Ok(())
                })
            })
        })?;
        let simple = rawdoc! { "locale": "simple" };
        push_element(out, ElementType::EmbeddedDocument, "collation", simple.as_bytes());
        Ok(())
    }

    /// Appends the conditions under which everything is as it was.
    pub(super) fn push_guards_to(&self, out: &mut Vec<u8>, document: &RawDocument) {
        let mut conditions = Conditions { out, count: 0 };
        self.guards.iter().for_each(|guard| conditions.guard(guard));
        if self.extent == Assigned::Document {
            let (kind, bytes) = (ElementType::EmbeddedDocument as u8, document.as_bytes());
            conditions.equal("$$ROOT", Value { kind, bytes });
            let size = rawdoc! { "$bsonSize": "$$ROOT" };
            conditions.push(rawdoc! { "$eq": [size, bytes.len() as i64] }.as_bytes());
        }
    }
}

/// Whether setting a document or an array as a whole is faster for the server than finding each edited element, which
/// it does by scanning from the first one.
pub(super) fn is_costly(document: &RawDocument, tree: Tree<'_>) -> bool {
    if tree.wholes != Wholes::WhereCheaper {
        return true;
    }
    let bytes = document.as_bytes().len().max(CHEAP);
    // an element has at least three bytes
    if tree.order.len().saturating_mul(document.as_bytes().len() / 3) <= bytes {
        return false;
    }
    let elements = document.iter_elements().count();
    tree.groups().count().saturating_mul(elements) > bytes
}

/// Whether the server would store a replacement of this document unchanged: it moves `_id` to the front, fills empty
/// timestamps with the time, and reads names with a dollar as operators.
pub(super) fn is_replaceable(document: &RawDocument, tree: Tree<'_>) -> bool {
    let is_timestamp = |kind: u8| kind == ElementType::Timestamp as u8;
    let mut kinds = tree.order.iter().filter_map(|index| Some(tree.edits.value(*index)?.kind));
    let mut elements = elements(document);
    matches!(elements.next(), Some(Ok(Element { name: "_id", .. })))
        && !kinds.any(is_timestamp)
        && elements.all(|element| {
            element.is_ok_and(|element| {
                !is_timestamp(element.kind as u8) && !element.name.starts_with('$')
            })
        })
}
