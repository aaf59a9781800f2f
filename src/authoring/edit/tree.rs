//! Edits by the place in the document that they concern.

use std::cmp::Ordering;

use super::edits::Edits;
use super::element::Value;

/// Which documents and arrays are set as a whole.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Wholes {
    WhereCheaper,
    /// Even where that costs more, so that tests can compare the results.
    #[cfg(test)]
    Everywhere,
}

/// The edits below one place, in the order in which the server carries them out.
#[derive(Clone, Copy)]
pub(super) struct Tree<'a> {
    pub(super) edits: &'a Edits,
    pub(super) order: &'a [usize],
    /// Where in their paths the part behind that place begins.
    pub(super) start: usize,
    pub(super) wholes: Wholes,
}

/// What is edited of one field or element.
#[derive(Clone, Copy)]
pub(super) enum Node<'a> {
    Set(Value<'a>),
    Unset,
    Branch(Tree<'a>),
}

/// The edits of one name.
pub(super) struct Group<'a> {
    pub(super) name: &'a str,
    /// The whole path down to the name.
    pub(super) path: &'a str,
    pub(super) node: Node<'a>,
    /// The edits, and where in the tree they begin.
    pub(super) order: &'a [usize],
    pub(super) first: usize,
}

impl<'a> Tree<'a> {
    /// The next part of the path of an edit.
    pub(super) fn part(self, index: usize) -> &'a str {
        let rest = &self.edits.path(index)[self.start..];
        rest.split_once('.').map_or(rest, |(part, _)| part)
    }

    /// The edits from the one at `first` on that have its name.
    pub(super) fn group(self, first: usize) -> Option<Group<'a>> {
        let index = *self.order.get(first)?;
        let name = self.part(index);
        let whole = self.edits.path(index);
        let path = &whole[..self.start + name.len()];
        let (node, count) = if path.len() == whole.len() {
            (self.edits.value(index).map_or(Node::Unset, Node::Set), 1)
        } else {
            let rest = &self.order[first..];
            // most often few have one name
            let count = match rest.get(1).is_some_and(|next| self.part(*next) == name) {
                true => rest.partition_point(|index| self.part(*index) == name),
                false => 1,
            };
            let start = path.len() + 1;
            (Node::Branch(Tree { order: &rest[..count], start, ..self }), count)
        };
        Some(Group { name, path, node, order: &self.order[first..first + count], first })
    }

    /// The edits by name.
    pub(super) fn groups(self) -> impl Iterator<Item = Group<'a>> {
        let mut first = 0;
        std::iter::from_fn(move || {
            let group = self.group(first)?;
            first += group.order.len();
            Some(group)
        })
    }

    /// The edits of a name. Looks at `next` first, which advances while names are searched in the order of the edits.
    pub(super) fn find(self, name: &str, next: &mut usize) -> Option<Group<'a>> {
        let is_next = self.order.get(*next).is_some_and(|index| self.part(*index) == name);
        if !is_next {
            let first = self
                .order
                .partition_point(|index| server_order(self.part(*index), name) == Ordering::Less);
            if self.order.get(first).is_none_or(|index| self.part(*index) != name) {
                return None;
            }
            *next = first;
        }
        let group = self.group(*next)?;
        *next += group.order.len();
        Some(group)
    }

    /// Whether anything is set, so that what is missing on the way is created.
    pub(super) fn sets(self) -> bool {
        self.order.iter().any(|index| self.edits.value(*index).is_some())
    }
}

impl Node<'_> {
    pub(super) fn sets(self) -> bool {
        match self {
            Node::Set(_) => true,
            Node::Unset => false,
            Node::Branch(tree) => tree.sets(),
        }
    }
}

/// The order of paths by their parts; a path comes right before those inside it.
pub(super) fn path_order(a: &str, b: &str) -> Ordering {
    let same = a.bytes().zip(b.bytes()).take_while(|(a, b)| a == b).count();
    let start =
        a.as_bytes()[..same].iter().rposition(|byte| *byte == b'.').map_or(0, |dot| dot + 1);
    let part = |path: &'_ str| path[start..].find('.').map_or(path.len(), |dot| start + dot);
    server_order(&a[start..part(a)], &b[start..part(b)]).then_with(|| a.len().cmp(&b.len()))
}

/// The order in which the server carries out the edits of one document: by name, numbers by value.
///
/// Names that begin with a digit other than a leading zero count as numbers, as in the server's
/// `cmpPathsAndArrayIndexes` (MongoDB 5.0 and later).
pub(super) fn server_order(a: &str, b: &str) -> Ordering {
    let number = |name: &str| name == "0" || matches!(name.as_bytes().first(), Some(b'1'..=b'9'));
    match number(a) && number(b) {
        true => a.len().cmp(&b.len()).then_with(|| a.cmp(b)),
        false => a.cmp(b),
    }
}
