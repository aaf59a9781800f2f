//! What the server makes of a document, byte for byte.

use std::fmt::{self, Write};

use mongodb::bson::spec::ElementType;
use mongodb::bson::{RawDocument, RawDocumentBuf};

use super::element::{Element, Inside, elements, enclose, push_name};
use super::error::EditError;
use super::tree::{Node, Tree};

/// The server adds at most this many nulls to an array that is set beyond its end.
pub(super) const MAX_PADDING: usize = 1_500_000;

/// The place of what is edited: its name, in what.
pub(super) struct Place<'a> {
    pub(super) within: Option<&'a Place<'a>>,
    pub(super) name: &'a str,
}

impl fmt::Display for Place<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.within {
            Some(within) => write!(f, "{within}.{}", self.name),
            None => f.write_str(self.name),
        }
    }
}

/// Appends the bytes of a document or an array after the edits; `within` is its place, the top has none.
pub(super) fn rewrite(
    out: &mut Vec<u8>,
    document: &RawDocument,
    tree: Tree<'_>,
    inside: Inside,
    within: Option<&Place<'_>>,
) -> Result<(), EditError> {
    enclose(out, |out| {
        let mut missing = vec![true; tree.order.len()];
        let (mut length, mut next) = (0, 0);
        let mut digits = String::new();
        for element in elements(document) {
            let mut element = element?;
            if inside == Inside::Array {
                digits.clear();
                let _ = write!(digits, "{length}");
                element.name = &digits;
            }
            length += 1;
            match tree.find(element.name, &mut next) {
                // Of several fields with one name the server edits the first.
                Some(group) if missing[group.first] => {
                    missing[group.first] = false;
                    let place = Place { within, name: element.name };
                    edit(out, &element, group.node, inside, &place)?;
                }
                _ => element.push_to(out),
            }
        }

        for group in tree.groups().filter(|group| missing[group.first]) {
            let place = Place { within, name: group.name };
            if inside == Inside::Array {
                let Some(position) = position(group.node, &place)? else { continue };
                if position.saturating_sub(length) > MAX_PADDING {
                    return Err(EditError::at(&place, "is too far beyond the end of the array"));
                }
                for index in length..position {
                    Element::null(&index.to_string()).push_to(out);
                }
                length = position + 1;
            }
            create(out, group.node, &place)?;
        }
        Ok(())
    })
}

/// Writes an element that is there.
pub(super) fn edit(
    out: &mut Vec<u8>,
    element: &Element<'_>,
    node: Node<'_>,
    inside: Inside,
    place: &Place<'_>,
) -> Result<(), EditError> {
    let tree = match node {
        Node::Set(value) => {
            value.push_to(out, element.name);
            return Ok(());
        }
        Node::Unset => {
            if inside == Inside::Array {
                Element::null(element.name).push_to(out);
            }
            return Ok(());
        }
        Node::Branch(tree) => tree,
    };
    match element.container()? {
        Some((inner, inside)) => {
            push_name(out, element.kind as u8, element.name);
            rewrite(out, inner, tree, inside, Some(place))
        }
        None if tree.sets() => Err(EditError::at(place, "is neither a document nor an array")),
        None => {
            element.push_to(out);
            Ok(())
        }
    }
}

/// Writes an element that is missing, where anything is set in it.
pub(super) fn create(
    out: &mut Vec<u8>,
    node: Node<'_>,
    place: &Place<'_>,
) -> Result<(), EditError> {
    match node {
        Node::Set(value) => value.push_to(out, place.name),
        Node::Branch(tree) if tree.sets() => {
            push_name(out, ElementType::EmbeddedDocument as u8, place.name);
            rewrite(out, &RawDocumentBuf::new(), tree, Inside::Document, Some(place))?;
        }
        Node::Unset | Node::Branch(_) => {}
    }
    Ok(())
}

/// The position beyond the end of an array at which something is set; `None` if nothing is.
pub(super) fn position(node: Node<'_>, place: &Place<'_>) -> Result<Option<usize>, EditError> {
    let name = place.name;
    // The server reads `00` as position 0, and one update of `0` and `00` makes MongoDB 6.0 crash.
    let digits = name.bytes().all(|byte| byte.is_ascii_digit());
    if digits && name.len() > 1 && name.starts_with('0') {
        return Err(EditError::at(place, "a position in an array has no leading zeros"));
    }
    if !node.sets() {
        return Ok(None);
    }
    match name.parse() {
        Ok(position) if digits => Ok(Some(position)),
        _ => Err(EditError::at(place, "an array has positions, not names")),
    }
}
