//! What an author's transform does to one document, and the statements that do so on the server.

mod touched;

use std::borrow::Cow;
use std::cmp::Ordering;
use std::fmt::{self, Write};

use mongodb::bson::raw::{BindRawBsonRef, cstr};
use mongodb::bson::spec::ElementType;
use mongodb::bson::{DateTime, RawBson, RawBsonRef, RawDocument, RawDocumentBuf, rawdoc};
use thiserror::Error;

pub(crate) use touched::{CHANGED, PURPOSE, Touched, stored_id};

use crate::authoring::naming::Name;
use crate::authoring::step_error::StepError;

/// The size that the server allows a document (BSONObjMaxUserSize).
pub(crate) const MAX_DOCUMENT_SIZE: usize = 16 * 1024 * 1024;

/// The server adds at most this many nulls to an array that is set beyond its end.
const MAX_PADDING: usize = 1_500_000;

/// How deep the server lets documents be nested.
const MAX_DEPTH: usize = 200;

/// How many levels of documents and arrays the server stores.
const MAX_STORED_DEPTH: usize = 180;

const TOO_DEEP: &str = "what is set nests deeper than the server can store";

/// How many steps of its search through a document cost the server little, whatever else would cost.
const CHEAP: usize = 100_000;

/// The edits of one document, collected by a transform.
///
/// A path names fields from the top of the document, joined by dots, and elements of arrays by their
/// position: `relationships.0.refcode`. No two edits may touch the same path or a part of each other's,
/// `_id` stays, and no part of a path is empty or begins with `$`. What breaks this, or what the server
/// would refuse, is found before anything is written.
#[derive(Default)]
pub struct Edits {
    // one document may have hundreds of thousands of them: none takes memory of its own
    paths: String,
    values: Vec<u8>,
    changes: Vec<Change>,
    inserts: Inserts,
    counts: Counts,
    deleted: bool,
    started: Option<DateTime>,
}

/// Documents to add, each with its collection.
pub(crate) type Inserts = Vec<(Name, RawDocumentBuf)>;

/// Numbers by counter.
pub(crate) type Counts = Vec<(Name, u64)>;

/// Where the path and the value of a change end; they begin where those of the one before it end. What
/// has no value is unset.
#[derive(Clone, Copy, Default)]
struct Change {
    path: usize,
    value: usize,
}

/// A value by its bytes.
#[derive(Clone, Copy)]
struct Value<'a> {
    kind: u8,
    bytes: &'a [u8],
}

impl Value<'_> {
    /// Whether it is a document or an array.
    fn nests(&self) -> bool {
        [ElementType::EmbeddedDocument as u8, ElementType::Array as u8].contains(&self.kind)
    }
}

/// Whether documents and arrays are nested deeper than so many levels.
fn nests_beyond(levels: usize, bytes: &[u8]) -> bool {
    let Ok(document) = RawDocument::from_bytes(bytes) else { return false };
    document.iter_elements().flatten().any(|element| match element.value() {
        Ok(RawBsonRef::Document(inner)) => {
            levels == 0 || nests_beyond(levels - 1, inner.as_bytes())
        }
        Ok(RawBsonRef::Array(inner)) => levels == 0 || nests_beyond(levels - 1, inner.as_bytes()),
        _ => false,
    })
}

impl Edits {
    /// No edits yet, of a version that is applied by a run that began then.
    pub(crate) fn at(started: DateTime) -> Self {
        Edits { started: Some(started), ..Edits::default() }
    }

    /// When the run began that applies the version: the same for all its steps and documents, in every retry,
    /// and, where it goes through the journal, in every run that resumes it.
    ///
    /// A plan sees its own start. Use this time, and no clock, for what an upgrade dates.
    pub fn started(&self) -> DateTime {
        self.started.unwrap_or(DateTime::MIN)
    }

    /// Deletes the document, which the transform declares with
    /// [`deletes`](crate::Transform::deletes). Documents may be added together with it, but nothing else may
    /// be edited in it.
    ///
    /// It is deleted only as it was when it was read. Where the upgrade is not one transaction, documents to
    /// add are added before it is deleted.
    pub fn delete(&mut self) {
        self.deleted = true;
    }

    /// Sets a field as `$set` does: what is there keeps its place, what is not is appended, missing
    /// parents become documents, and an array is filled up with nulls.
    pub fn set(&mut self, path: impl Into<String>, value: impl BindRawBsonRef) {
        // its length, its type, an empty name, the value, and the end
        let value = RawDocumentBuf::from_iter([(cstr!(""), value)]);
        if let [_, _, _, _, kind, 0, bytes @ .., 0] = value.as_bytes() {
            self.values.push(*kind);
            self.values.extend(bytes);
        }
        self.push(&path.into());
    }

    /// Removes a field as `$unset` does: an element of an array becomes null.
    pub fn unset(&mut self, path: impl Into<String>) {
        self.push(&path.into());
    }

    fn push(&mut self, path: &str) {
        self.paths.push_str(path);
        self.changes.push(Change { path: self.paths.len(), value: self.values.len() });
    }

    /// The change before this one, at which its path and value begin.
    fn before(&self, index: usize) -> Change {
        match index {
            0 => Change::default(),
            _ => self.changes[index - 1],
        }
    }

    fn path(&self, index: usize) -> &str {
        &self.paths[self.before(index).path..self.changes[index].path]
    }

    /// The value that is set; `None` if the field is removed.
    fn value(&self, index: usize) -> Option<Value<'_>> {
        let (kind, bytes) =
            self.values[self.before(index).value..self.changes[index].value].split_first()?;
        Some(Value { kind: *kind, bytes })
    }

    fn paths(&self) -> impl Iterator<Item = &str> {
        (0..self.changes.len()).map(|index| self.path(index))
    }

    /// Adds a document to a collection, together with the edits of this one.
    ///
    /// The document brings an `_id` that is the same whenever it is computed from the same input, for
    /// it may be computed again: the same document that is already there is left alone. One with that
    /// `_id` and other contents ends the run. Where users may change the input meanwhile, derive the
    /// `_id` from all that is inserted.
    pub fn insert(&mut self, collection: impl Into<Cow<'static, str>>, document: RawDocumentBuf) {
        self.inserts.push((collection.into(), document));
    }

    /// Counts for the report; ignored where nothing is edited.
    pub fn count(&mut self, counter: impl Into<Cow<'static, str>>, n: u64) {
        let counter = counter.into();
        match self.counts.iter_mut().find(|(other, _)| *other == counter) {
            Some((_, count)) => *count = count.saturating_add(n),
            None => self.counts.push((counter, n)),
        }
    }

    /// Whether there is nothing to write.
    pub(crate) fn is_empty(&self) -> bool {
        self.changes.is_empty() && self.inserts.is_empty() && !self.deleted
    }

    /// Whether the server would make of the document what it is already, and nothing besides.
    pub(crate) fn leave_as_it_is(&self, document: &RawDocument) -> bool {
        let same = |changes: Changes<'_>| {
            changes.apply(document).is_ok_and(|after| after == document.as_bytes())
        };
        !self.deleted
            && self.inserts.is_empty()
            && self.changes().is_ok_and(|changes| changes.is_none_or(same))
    }

    /// What was counted, by counter.
    pub(crate) fn counts(&self) -> impl Iterator<Item = (&str, u64)> {
        self.counts.iter().map(|(counter, n)| (&**counter, *n))
    }

    /// The counters that were counted, repeated where one was several times.
    pub(crate) fn counters(&self) -> impl Iterator<Item = &str> {
        self.counts.iter().map(|(counter, _)| &**counter)
    }

    /// The top-level fields that the edits touch, repeated where several do.
    pub(crate) fn fields(&self) -> impl Iterator<Item = &str> {
        self.paths().map(|path| path.split('.').next().unwrap_or(path))
    }

    /// The documents to add, each found to be one that the server can take.
    pub(crate) fn inserts(&self) -> impl Iterator<Item = Result<Insert<'_>, EditError>> {
        self.inserts.iter().map(|(collection, document)| Insert::new(collection, document))
    }

    /// What was counted, and the documents to add.
    pub(crate) fn into_counts_and_inserts(self) -> (Counts, Inserts) {
        (self.counts, self.inserts)
    }

    /// Whether the document is to be deleted.
    ///
    /// # Errors
    ///
    /// It is to be edited as well, or to be added again.
    pub(crate) fn deletes(
        &self,
        collection: &str,
        document: &RawDocument,
    ) -> Result<bool, EditError> {
        if !self.deleted {
            return Ok(false);
        }
        if let Some(path) = self.paths().next() {
            return Err(EditError::new(path, "the document is both edited and deleted"));
        }
        for (into, added) in &self.inserts {
            if into == collection && id(added)? == id(document)? {
                let reason = "the document is both deleted and added: edit it instead";
                return Err(EditError::new("_id", reason));
            }
        }
        Ok(true)
    }

    /// The changes of the document itself, if there are any; an error where a path is none.
    pub(crate) fn changes(&self) -> Result<Option<Changes<'_>>, EditError> {
        if self.changes.is_empty() {
            return Ok(None);
        }
        for (index, path) in self.paths().enumerate() {
            let refuse = |reason| Err(EditError::new(path, reason));
            let value = self.value(index).filter(|value| value.nests());
            if value.is_some_and(|value| nests_beyond(MAX_STORED_DEPTH, value.bytes)) {
                return refuse(TOO_DEEP);
            }
            if path.contains('\0') {
                return refuse("the path holds a zero byte");
            }
            for (depth, part) in path.split('.').enumerate() {
                if depth == 0 && part == "_id" {
                    return refuse("`_id` cannot be edited");
                }
                if part.is_empty() {
                    return refuse("a part of the path is empty");
                }
                if part.starts_with('$') {
                    return refuse("a part of the path begins with `$`");
                }
                if depth == MAX_DEPTH {
                    return refuse("the path goes deeper than the server allows");
                }
            }
        }
        let mut order: Vec<usize> = (0..self.changes.len()).collect();
        order.sort_unstable_by(|a, b| path_order(self.path(*a), self.path(*b)));
        // all that is inside a path comes right behind it
        for pair in order.windows(2) {
            let rest = self.path(pair[1]).strip_prefix(self.path(pair[0]));
            if rest.is_some_and(|rest| rest.is_empty() || rest.starts_with('.')) {
                let later = self.path(pair[0].max(pair[1]));
                return Err(EditError::new(later, "another edit touches the same field"));
            }
        }
        Ok(Some(Changes { edits: self, order, wholes: Wholes::WhereCheaper }))
    }
}

/// The changes of a document whose paths are right.
pub(crate) struct Changes<'a> {
    edits: &'a Edits,
    /// Their positions, in the order in which the server carries them out.
    order: Vec<usize>,
    wholes: Wholes,
}

/// Which documents and arrays are set as a whole.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Wholes {
    WhereCheaper,
    /// Also where it is dearer, to see that it comes to the same.
    #[cfg(test)]
    Everywhere,
}

/// How much of a document is known where its statement is made.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Extent {
    /// All of it.
    Whole,
    /// Some top-level fields.
    Fields,
}

impl Changes<'_> {
    fn tree(&self) -> Tree<'_> {
        Tree { edits: self.edits, order: &self.order, start: 0, wholes: self.wholes }
    }

    /// Exactly what the server makes of `document`, byte for byte.
    pub(crate) fn apply(&self, document: &RawDocument) -> Result<Vec<u8>, EditError> {
        let added = self.edits.values.len() + self.edits.paths.len();
        let mut out = Vec::with_capacity(document.as_bytes().len() + added + 256);
        rewrite(&mut out, document, self.tree(), Inside::Document, None)?;
        Ok(out)
    }

    /// An entry of the `update` command's `updates` that edits the document of this `_id`.
    pub(crate) fn statement(
        &self,
        document: &RawDocument,
        extent: Extent,
    ) -> Result<RawDocumentBuf, EditError> {
        let id = id(document)?;
        let q = match id {
            // What can be no operator is named by itself: the server finds it on a shorter way.
            RawBsonRef::ObjectId(_)
            | RawBsonRef::String(_)
            | RawBsonRef::Int32(_)
            | RawBsonRef::Int64(_)
            | RawBsonRef::Double(_)
            | RawBsonRef::DateTime(_)
            | RawBsonRef::Binary(_) => rawdoc! { "_id": id },
            _ => rawdoc! { "_id": { "$eq": id } },
        };
        let assignments = Assignments::of(document, self.tree(), extent)?;
        embedded(|out| {
            push_element(out, ElementType::EmbeddedDocument, "q", q.as_bytes());
            assignments.push_to(out, document, self.tree())
        })
    }

    /// The same, for a document in which each field that the edits touch has the value it has here.
    ///
    /// A field is named down to where its path ends, is missing, or meets an array, which is then
    /// compared as a whole; as is what is set as a whole. Values are the same when they have the same type
    /// and compare as equal without any collation; inside arrays and documents the server takes 1 for 1.0
    /// and a string for a symbol, where they have the same size or are not set as a whole. Where a collection
    /// has a collation, an `_id` with a string is found without an index.
    ///
    /// `None` if it would be larger than a statement may be; `after` is what the document becomes.
    pub(crate) fn guarded_statement(
        &self,
        document: &RawDocument,
        extent: Extent,
        after: &RawDocument,
    ) -> Result<Option<RawDocumentBuf>, EditError> {
        let q = rawdoc! { "_id": { "$eq": id(document)? } };
        let assignments = Assignments::of(document, self.tree(), extent)?;
        // before it takes the memory
        let size = assignments.size(document, after, self.edits)?;
        if size > MAX_DOCUMENT_SIZE {
            return Ok(None);
        }
        let statement = embedded_in(size + size / 8, |out| {
            assignments.push_query_to(out, &q, document)?;
            assignments.push_to(out, document, self.tree())
        })?;
        Ok((statement.as_bytes().len() <= MAX_DOCUMENT_SIZE).then_some(statement))
    }

    /// The top-level fields that the edits touch, before and after.
    pub(crate) fn touched(
        &self,
        document: &RawDocument,
        after: &RawDocument,
    ) -> Result<Touched, EditError> {
        Touched::new(document, after, self.edits.fields())
    }
}

/// An entry of the `delete` command's `deletes` for the document of this `_id`.
pub(crate) fn deletion(document: &RawDocument) -> Result<RawDocumentBuf, EditError> {
    Ok(rawdoc! { "q": { "_id": { "$eq": id(document)? } }, "limit": 1 })
}

/// The same, for a document of which all that was read is as it is here: these top-level fields, or
/// without any the whole document.
pub(crate) fn guarded_deletion(
    document: &RawDocument,
    fields: &[Name],
) -> Result<RawDocumentBuf, EditError> {
    let mut all = Assignments::default();
    if fields.is_empty() {
        all.extent = Assigned::Document;
    }
    for field in fields {
        let mut elements = elements(document).filter_map(Result::ok);
        let element = elements.find(|element| *element.name == **field);
        let strength = Strength::Equal;
        all.guards.push(Guard { path: field, parent: None, element, strength });
    }
    let q = rawdoc! { "_id": { "$eq": id(document)? } };
    let mut out = Vec::new();
    enclose(&mut out, |out| {
        all.push_query_to(out, &q, document)?;
        push_element(out, ElementType::Int32, "limit", &1_i32.to_le_bytes());
        Ok(())
    })?;
    if out.len() > MAX_DOCUMENT_SIZE {
        let reason = "its deletion needs more than 16 MiB: name the `fields` that decide it";
        return Err(EditError::new("", reason));
    }
    RawDocumentBuf::from_bytes(out).map_err(|_| EditError::malformed())
}

/// A document to add.
pub(crate) struct Insert<'a> {
    pub(crate) collection: &'a Name,
    pub(crate) document: &'a RawDocument,
}

impl<'a> Insert<'a> {
    fn new(collection: &'a Name, document: &'a RawDocument) -> Result<Self, EditError> {
        if matches!(
            id(document)?,
            RawBsonRef::Array(_) | RawBsonRef::RegularExpression(_) | RawBsonRef::Undefined
        ) {
            return Err(EditError::new("_id", "an inserted document has an `_id` of a wrong type"));
        }
        if document.as_bytes().len() > MAX_DOCUMENT_SIZE {
            return Err(EditError::new("", "an inserted document exceeds 16 MiB"));
        }
        if nests_beyond(MAX_STORED_DEPTH, document.as_bytes()) {
            return Err(EditError::new("", TOO_DEEP));
        }
        Ok(Insert { collection, document })
    }
}

/// An edit that cannot be made. Says where and why, and nothing of what the document holds.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[error("{}{reason}", prefix(.path))]
pub(crate) struct EditError {
    /// The field's path; empty for the document as a whole.
    pub(crate) path: String,
    pub(crate) reason: &'static str,
}

fn prefix(path: &str) -> String {
    if path.is_empty() { String::new() } else { format!("field `{path}`: ") }
}

impl EditError {
    fn new(path: impl Into<String>, reason: &'static str) -> Self {
        EditError { path: path.into(), reason }
    }

    fn at(place: &Place<'_>, reason: &'static str) -> Self {
        EditError::new(place.to_string(), reason)
    }

    fn malformed() -> Self {
        EditError::new("", "the document is not valid BSON")
    }
}

/// The edits below one place, in the order in which the server carries them out.
#[derive(Clone, Copy)]
struct Tree<'a> {
    edits: &'a Edits,
    order: &'a [usize],
    /// Where in their paths the part behind that place begins.
    start: usize,
    wholes: Wholes,
}

/// What is edited of one field or element.
#[derive(Clone, Copy)]
enum Node<'a> {
    Set(Value<'a>),
    Unset,
    Branch(Tree<'a>),
}

/// The edits of one name.
struct Group<'a> {
    name: &'a str,
    /// The whole path down to the name.
    path: &'a str,
    node: Node<'a>,
    /// The edits, and where in the tree they begin.
    order: &'a [usize],
    first: usize,
}

impl<'a> Tree<'a> {
    /// The next part of the path of an edit.
    fn part(self, index: usize) -> &'a str {
        let rest = &self.edits.path(index)[self.start..];
        rest.split_once('.').map_or(rest, |(part, _)| part)
    }

    /// The edits from the one at `first` on that have its name.
    fn group(self, first: usize) -> Option<Group<'a>> {
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
    fn groups(self) -> impl Iterator<Item = Group<'a>> {
        let mut first = 0;
        std::iter::from_fn(move || {
            let group = self.group(first)?;
            first += group.order.len();
            Some(group)
        })
    }

    /// The edits of a name; searched first at `next`, which a search in the order of the edits moves on.
    fn find(self, name: &str, next: &mut usize) -> Option<Group<'a>> {
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
    fn sets(self) -> bool {
        self.order.iter().any(|index| self.edits.value(*index).is_some())
    }
}

impl Node<'_> {
    fn sets(self) -> bool {
        match self {
            Node::Set(_) => true,
            Node::Unset => false,
            Node::Branch(tree) => tree.sets(),
        }
    }
}

/// The order of paths by their parts; a path comes right before those inside it.
fn path_order(a: &str, b: &str) -> Ordering {
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
fn server_order(a: &str, b: &str) -> Ordering {
    let number = |name: &str| name == "0" || matches!(name.as_bytes().first(), Some(b'1'..=b'9'));
    match number(a) && number(b) {
        true => a.len().cmp(&b.len()).then_with(|| a.cmp(b)),
        false => a.cmp(b),
    }
}

/// What holds the elements that are being rewritten.
#[derive(Clone, Copy, PartialEq)]
enum Inside {
    Document,
    Array,
}

/// The place of what is edited: its name, in what.
struct Place<'a> {
    within: Option<&'a Place<'a>>,
    name: &'a str,
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
fn rewrite(
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
fn edit(
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
fn create(out: &mut Vec<u8>, node: Node<'_>, place: &Place<'_>) -> Result<(), EditError> {
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
fn position(node: Node<'_>, place: &Place<'_>) -> Result<Option<usize>, EditError> {
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

/// One element of a document, by its bytes.
#[derive(Clone, Copy)]
struct Element<'a> {
    name: &'a str,
    kind: ElementType,
    value: &'a [u8],
}

impl<'a> Element<'a> {
    fn null(name: &'a str) -> Self {
        Element { name, kind: ElementType::Null, value: &[] }
    }

    fn push_to(&self, out: &mut Vec<u8>) {
        push_element(out, self.kind, self.name, self.value);
    }

    /// What holds further elements.
    fn container(&self) -> Result<Option<(&'a RawDocument, Inside)>, EditError> {
        let inside = match self.kind {
            ElementType::EmbeddedDocument => Inside::Document,
            ElementType::Array => Inside::Array,
            _ => return Ok(None),
        };
        let inner = RawDocument::from_bytes(self.value).map_err(|_| EditError::malformed())?;
        Ok(Some((inner, inside)))
    }
}

impl Value<'_> {
    /// Whether it is a number that compares as equal to others of its type: a zero, or a decimal with its digits.
    fn equals_others(self) -> bool {
        let is_zero =
            |bytes: &[u8]| bytes == 0.0_f64.to_le_bytes() || bytes == (-0.0_f64).to_le_bytes();
        self.kind == ElementType::Decimal128 as u8
            || self.kind == ElementType::Double as u8 && is_zero(self.bytes)
    }

    /// The expression that stands for it.
    fn literal(self) -> RawDocumentBuf {
        let mut out = Vec::new();
        let filled = enclose(&mut out, |out| {
            self.push_to(out, "$literal");
            Ok(())
        });
        filled.ok().and_then(|()| RawDocumentBuf::from_bytes(out).ok()).unwrap_or_default()
    }

    fn push_to(self, out: &mut Vec<u8>, name: &str) {
        push_name(out, self.kind, name);
        out.extend(self.bytes);
    }
}

fn push_element(out: &mut Vec<u8>, kind: ElementType, name: &str, value: &[u8]) {
    push_name(out, kind as u8, name);
    out.extend(value);
}

fn push_text(out: &mut Vec<u8>, name: &str, text: &str) {
    let text = RawDocumentBuf::from_iter([(cstr!(""), text)]);
    push_element(out, ElementType::String, name, &text.as_bytes()[6..text.as_bytes().len() - 1]);
}

fn push_name(out: &mut Vec<u8>, kind: u8, name: &str) {
    out.push(kind);
    out.extend(name.as_bytes());
    out.push(0);
}

/// Appends a document or an array whose elements `fill` appends.
fn enclose(
    out: &mut Vec<u8>,
    fill: impl FnOnce(&mut Vec<u8>) -> Result<(), EditError>,
) -> Result<(), EditError> {
    let start = out.len();
    out.extend([0; 4]);
    fill(out)?;
    out.push(0);
    let size = i32::try_from(out.len() - start)
        .map_err(|_| EditError::new("", "it would exceed the size of any document"))?;
    out[start..start + 4].copy_from_slice(&size.to_le_bytes());
    Ok(())
}

/// The same as an element.
fn nested(
    out: &mut Vec<u8>,
    kind: ElementType,
    name: &str,
    fill: impl FnOnce(&mut Vec<u8>) -> Result<(), EditError>,
) -> Result<(), EditError> {
    push_name(out, kind as u8, name);
    enclose(out, fill)
}

/// A statement, by what fills it.
fn embedded(
    fill: impl FnOnce(&mut Vec<u8>) -> Result<(), EditError>,
) -> Result<RawDocumentBuf, EditError> {
    let statement = embedded_in(0, fill)?;
    match statement.as_bytes().len() > MAX_DOCUMENT_SIZE {
        true => Err(EditError::new("", "the update needs more than 16 MiB")),
        false => Ok(statement),
    }
}

/// A document of about so many bytes, by what fills it.
fn embedded_in(
    capacity: usize,
    fill: impl FnOnce(&mut Vec<u8>) -> Result<(), EditError>,
) -> Result<RawDocumentBuf, EditError> {
    let mut out = Vec::with_capacity(capacity);
    enclose(&mut out, fill)?;
    RawDocumentBuf::from_bytes(out).map_err(|_| EditError::malformed())
}

/// The elements of a document or array, whatever their values hold.
fn elements(document: &RawDocument) -> impl Iterator<Item = Result<Element<'_>, EditError>> {
    let mut end = 4;
    document.iter_elements().map(move |element| {
        let element = element.map_err(|_| EditError::malformed())?;
        let start = end + 1 + element.key().len() + 1;
        end = start + element.size();
        let value = document.as_bytes().get(start..end).ok_or_else(EditError::malformed)?;
        Ok(Element { name: element.key().as_str(), kind: element.element_type(), value })
    })
}

fn id(document: &RawDocument) -> Result<RawBsonRef<'_>, EditError> {
    document
        .get("_id")
        .map_err(|_| EditError::malformed())?
        .ok_or_else(|| EditError::new("_id", "is missing"))
}

/// The bytes of the value at a path.
fn size_at(document: &RawDocument, path: &str) -> Result<usize, EditError> {
    let (name, rest) = match path.split_once('.') {
        Some((name, rest)) => (name, Some(rest)),
        None => (path, None),
    };
    for element in elements(document) {
        let element = element?;
        if element.name == name {
            return match (rest, element.container()?) {
                (Some(rest), Some((inner, _))) => size_at(inner, rest),
                (Some(_), None) => Ok(0),
                (None, _) => Ok(element.value.len()),
            };
        }
    }
    Ok(0)
}

/// What a statement assigns, and what that depends on.
#[derive(Default)]
struct Assignments<'a> {
    extent: Assigned,
    /// What is set as a whole: its path, what is there, and the edits of it.
    wholes: Vec<(&'a str, Element<'a>, Tree<'a>)>,
    /// The edits that are made one by one.
    singles: Vec<usize>,
    guards: Vec<Guard<'a>>,
}

/// Whether a document is replaced or some of it set.
#[derive(Default, PartialEq, Eq)]
enum Assigned {
    #[default]
    Fields,
    Document,
}

/// A field of which the old value decides what edits do.
struct Guard<'a> {
    path: &'a str,
    /// The path of the document that holds it; `None` at the top.
    parent: Option<&'a str>,
    /// What is there.
    element: Option<Element<'a>>,
    strength: Strength,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Strength {
    /// The value is equal.
    Equal,
    /// It has as many bytes too.
    Same,
}

/// Where assignments are collected.
#[derive(Clone, Copy)]
struct Level<'a> {
    inside: Inside,
    /// The path of the document; `None` at the top.
    parent: Option<&'a str>,
    /// Whether it is inside an array that is guarded.
    guarded: bool,
}

impl<'a> Assignments<'a> {
    fn of(document: &'a RawDocument, tree: Tree<'a>, extent: Extent) -> Result<Self, EditError> {
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
    fn size(
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
    fn collect(
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
    fn push_to(
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

    fn push_sets_to(&self, out: &mut Vec<u8>, edits: &Edits) -> Result<(), EditError> {
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
    fn push_query_to(
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
    fn push_guards_to(&self, out: &mut Vec<u8>, document: &RawDocument) {
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

/// Whether the server takes longer to find each edited element of a document or an array, which it does one by
/// one from the first, than to take it as a whole.
fn is_costly(document: &RawDocument, tree: Tree<'_>) -> bool {
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

/// Whether the server takes a document that replaces this one as it is: it moves `_id` to the front, puts the
/// time into empty timestamps, and sees operators in names with a dollar.
fn is_replaceable(document: &RawDocument, tree: Tree<'_>) -> bool {
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

/// Conditions in an array, each under its position.
struct Conditions<'a> {
    out: &'a mut Vec<u8>,
    count: usize,
}

impl Conditions<'_> {
    /// That a field is as it was.
    fn guard(&mut self, guard: &Guard<'_>) {
        let field = format!("${}", guard.path);
        let kind = guard.element.as_ref().map(|element| element.kind);
        self.kind(&field, kind.map_or("missing", type_name));
        match &guard.element {
            // What `$type` alone decides.
            None | Some(Element { kind: ElementType::Null | ElementType::Undefined, .. }) => {}
            Some(element) => {
                let value = Value { kind: element.kind as u8, bytes: element.value };
                match guard.strength {
                    Strength::Equal => self.equal(&field, value),
                    Strength::Same => self.same(&field, value),
                }
                if value.equals_others() {
                    let kind = type_name(element.kind);
                    self.text(&field, kind, value.literal().into());
                }
            }
        }
        // A path reads as missing below a scalar, and as an array below an array.
        if let (Some(parent), None | Some(ElementType::Array)) = (guard.parent, kind) {
            self.kind(&format!("${parent}"), "object");
        }
    }

    fn kind(&mut self, field: &str, name: &str) {
        self.push(rawdoc! { "$eq": [{ "$type": field }, name] }.as_bytes());
    }

    /// That a value is equal.
    fn equal(&mut self, field: &str, value: Value<'_>) {
        let position = self.position();
        // what is written here is far smaller than any document may become
        let _ = nested(self.out, ElementType::EmbeddedDocument, &position, |out| {
            // `$eq` cannot compare a whole document before MongoDB 6.0
            nested(out, ElementType::Array, "$in", |out| {
                push_text(out, "0", field);
                nested(out, ElementType::Array, "1", |out| {
                    nested(out, ElementType::EmbeddedDocument, "0", |out| {
                        value.push_to(out, "$literal");
                        Ok(())
                    })
                })
            })
        });
    }

    /// That a number reads the same, if it has this type: other numbers compare as equal.
    fn text(&mut self, field: &str, kind: &str, old: RawBson) {
        let old = rawdoc! { "$toString": old };
        // a value that is not a number may not be convertible to text
        let same = rawdoc! { "$cond": [
            { "$eq": [{ "$type": field }, kind] },
            { "$eq": [{ "$toString": field }, old] },
            false,
        ] };
        self.push(same.as_bytes());
    }

    /// That it is equal and has as many bytes, so that no number in it has another type: by the server's own
    /// measure, which is not everywhere that of its documents.
    fn same(&mut self, field: &str, value: Value<'_>) {
        let position = self.position();
        let size = |value: &str| rawdoc! { "$bsonSize": { "v": value } };
        let both = rawdoc! { "$and": [
            { "$eq": [field, "$$old"] },
            { "$eq": [size(field), size("$$old")] },
        ] };
        let _ = nested(self.out, ElementType::EmbeddedDocument, &position, |out| {
            nested(out, ElementType::EmbeddedDocument, "$let", |out| {
                nested(out, ElementType::EmbeddedDocument, "vars", |out| {
                    nested(out, ElementType::EmbeddedDocument, "old", |out| {
                        value.push_to(out, "$literal");
                        Ok(())
                    })
                })?;
                push_element(out, ElementType::EmbeddedDocument, "in", both.as_bytes());
                Ok(())
            })
        });
    }

    fn push(&mut self, condition: &[u8]) {
        let position = self.position();
        push_element(self.out, ElementType::EmbeddedDocument, &position, condition);
    }

    fn position(&mut self) -> String {
        self.count += 1;
        (self.count - 1).to_string()
    }
}

/// The name by which the server's `$type` knows a value's type.
fn type_name(kind: ElementType) -> &'static str {
    match kind {
        ElementType::Double => "double",
        ElementType::String => "string",
        ElementType::EmbeddedDocument => "object",
        ElementType::Array => "array",
        ElementType::Binary => "binData",
        ElementType::Undefined => "undefined",
        ElementType::ObjectId => "objectId",
        ElementType::Boolean => "bool",
        ElementType::DateTime => "date",
        ElementType::Null => "null",
        ElementType::RegularExpression => "regex",
        ElementType::DbPointer => "dbPointer",
        ElementType::JavaScriptCode => "javascript",
        ElementType::Symbol => "symbol",
        ElementType::JavaScriptCodeWithScope => "javascriptWithScope",
        ElementType::Int32 => "int",
        ElementType::Timestamp => "timestamp",
        ElementType::Int64 => "long",
        ElementType::Decimal128 => "decimal",
        ElementType::MinKey => "minKey",
        ElementType::MaxKey => "maxKey",
    }
}

impl From<EditError> for StepError {
    fn from(error: EditError) -> Self {
        StepError::refused(error.to_string())
    }
}

#[cfg(test)]
mod tests;
