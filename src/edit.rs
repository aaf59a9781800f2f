//! What an author's transform does to one document, and the statements that do so on the server.

use std::borrow::Cow;
use std::cmp::Ordering;
use std::fmt::{self, Write};

use mongodb::bson::raw::{BindRawBsonRef, CStr, cstr};
use mongodb::bson::spec::ElementType;
use mongodb::bson::{DateTime, RawArrayBuf, RawBsonRef, RawDocument, RawDocumentBuf, rawdoc};

use crate::upgrade::Name;

/// The size that the server allows a document (BSONObjMaxUserSize).
pub(crate) const MAX_DOCUMENT_SIZE: usize = 16 * 1024 * 1024;

/// The server adds at most this many nulls to an array that is set beyond its end.
const MAX_PADDING: usize = 1_500_000;

/// The edits of one document, collected by a transform.
///
/// A path names fields from the top of the document, joined by dots, and elements of arrays by their
/// position: `relationships.0.refcode`. No two edits may touch the same path or a part of each other's,
/// `_id` stays, and no part of a path is empty or begins with `$`. What breaks this, or what the server
/// would refuse, is found before anything is written.
#[derive(Default)]
pub struct Edits {
    changes: Vec<(String, Change)>,
    inserts: Inserts,
    counts: Counts,
    deleted: bool,
    started: Option<DateTime>,
}

/// Documents to add, each with its collection.
pub(crate) type Inserts = Vec<(Name, RawDocumentBuf)>;

/// Numbers by counter.
pub(crate) type Counts = Vec<(Name, u64)>;

enum Change {
    /// The value, under an empty name.
    Set(RawDocumentBuf),
    Unset,
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
        let value = RawDocumentBuf::from_iter([(cstr!(""), value)]);
        self.changes.push((path.into(), Change::Set(value)));
    }

    /// Removes a field as `$unset` does: an element of an array becomes null.
    pub fn unset(&mut self, path: impl Into<String>) {
        self.changes.push((path.into(), Change::Unset));
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
        self.counts.push((counter.into(), n));
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

    /// The counters that were counted, repeated where one was several times.
    pub(crate) fn counters(&self) -> impl Iterator<Item = &str> {
        self.counts.iter().map(|(counter, _)| &**counter)
    }

    /// The top-level fields that the edits touch, repeated where several do.
    pub(crate) fn fields(&self) -> impl Iterator<Item = &str> {
        self.changes.iter().map(|(path, _)| path.split('.').next().unwrap_or(path))
    }

    /// The documents to add, each found to be one that the server can take.
    pub(crate) fn inserts(&self) -> impl Iterator<Item = Result<Insert<'_>, EditError>> {
        self.inserts.iter().map(|(collection, document)| Insert::new(collection, document))
    }

    /// What was counted, repeated where it was counted several times, and the documents to add.
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
        if let Some((path, _)) = self.changes.first() {
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
        let mut tree = Tree::default();
        for (path, change) in &self.changes {
            let refuse = |reason| Err(EditError::new(path, reason));
            field_name(path)?;
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
            }
            if tree.add(path, change).is_none() {
                return refuse("another edit touches the same field");
            }
        }
        Ok(Some(Changes { list: &self.changes, tree }))
    }
}

/// The changes of a document whose paths are right.
pub(crate) struct Changes<'a> {
    list: &'a [(String, Change)],
    tree: Tree<'a>,
}

impl Changes<'_> {
    /// Exactly what the server makes of `document`, byte for byte.
    pub(crate) fn apply(&self, document: &RawDocument) -> Result<Vec<u8>, EditError> {
        let mut out = Vec::with_capacity(document.as_bytes().len() + 256);
        rewrite(&mut out, document, &self.tree, Inside::Document, None)?;
        Ok(out)
    }

    /// An entry of the `update` command's `updates` that edits the document of this `_id`.
    pub(crate) fn statement(&self, document: &RawDocument) -> Result<RawDocumentBuf, EditError> {
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
        self.update(rawdoc! { "q": q })
    }

    /// The same, for a document in which each field that the edits touch has the value it has here.
    ///
    /// A field is named down to where its path ends, is missing, or meets an array, which is then
    /// compared as a whole. Values are the same when they have the same type and compare as equal
    /// without any collation; inside arrays and documents the server takes 1 for 1.0 and a string for
    /// a symbol. Where a collection has a collation, an `_id` with a string is found without an index.
    pub(crate) fn guarded_statement(
        &self,
        document: &RawDocument,
    ) -> Result<RawDocumentBuf, EditError> {
        let mut guards = self
            .list
            .iter()
            .map(|(path, _)| Guard::of(document, path))
            .collect::<Result<Vec<_>, _>>()?;
        guards.sort_unstable_by_key(|guard| guard.path);
        guards.dedup_by_key(|guard| guard.path);
        let mut all = RawArrayBuf::new();
        guards.iter().for_each(|guard| guard.push_to(&mut all));

        let q = rawdoc! { "_id": { "$eq": id(document)? }, "$expr": { "$and": all } };
        self.update(rawdoc! { "q": q, "collation": { "locale": "simple" } })
    }

    /// Completes a statement with what it does.
    fn update(&self, mut statement: RawDocumentBuf) -> Result<RawDocumentBuf, EditError> {
        let (mut set, mut unset) = (RawDocumentBuf::new(), RawDocumentBuf::new());
        for (path, change) in self.list {
            match change {
                Change::Set(value) => {
                    let value = value.get("").ok().flatten().ok_or_else(EditError::malformed)?;
                    set.append(field_name(path)?, value);
                }
                Change::Unset => unset.append(field_name(path)?, true),
            }
        }
        let mut u = RawDocumentBuf::new();
        for (operator, fields) in [(cstr!("$set"), set), (cstr!("$unset"), unset)] {
            if !fields.is_empty() {
                u.append(operator, fields);
            }
        }
        statement.append(cstr!("u"), u);
        if statement.as_bytes().len() > MAX_DOCUMENT_SIZE {
            return Err(EditError::new("", "the update needs more than 16 MiB"));
        }
        Ok(statement)
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
    let condition = if fields.is_empty() {
        let stored = RawArrayBuf::from_iter([rawdoc! { "$literal": document.to_owned() }]);
        let mut both = RawArrayBuf::new();
        both.push("$$ROOT");
        both.push(stored);
        // not `$eq`, which MongoDB 5.0 refuses for a whole document
        rawdoc! { "$in": both }
    } else {
        let mut all = RawArrayBuf::new();
        for field in fields {
            Guard::of(document, field)?.push_to(&mut all);
        }
        rawdoc! { "$and": all }
    };
    let q = rawdoc! { "_id": { "$eq": id(document)? }, "$expr": condition };
    let statement = rawdoc! { "q": q, "collation": { "locale": "simple" }, "limit": 1 };
    if statement.as_bytes().len() > MAX_DOCUMENT_SIZE {
        let reason = "its deletion needs more than 16 MiB: name the `fields` that decide it";
        return Err(EditError::new("", reason));
    }
    Ok(statement)
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
        Ok(Insert { collection, document })
    }
}

/// An edit that cannot be made. Says where and why, and nothing of what the document holds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct EditError {
    /// The field's path; empty for the document as a whole.
    pub(crate) path: String,
    pub(crate) reason: &'static str,
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

impl fmt::Display for EditError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.path.as_str() {
            "" => f.write_str(self.reason),
            path => write!(f, "field `{path}`: {}", self.reason),
        }
    }
}

/// Edits by the next part of their path, in the order in which the server carries them out.
#[derive(Default)]
struct Tree<'a>(Vec<(&'a str, Node<'a>)>);

enum Node<'a> {
    Leaf(&'a Change),
    Branch(Tree<'a>),
}

impl<'a> Tree<'a> {
    /// None where another edit touches the same field.
    fn add(&mut self, path: &'a str, change: &'a Change) -> Option<()> {
        let (name, rest) = match path.split_once('.') {
            Some((name, rest)) => (name, Some(rest)),
            None => (path, None),
        };
        match (self.find(name), rest) {
            (Err(index), None) => self.0.insert(index, (name, Node::Leaf(change))),
            (Err(index), Some(rest)) => {
                let mut tree = Tree::default();
                tree.add(rest, change)?;
                self.0.insert(index, (name, Node::Branch(tree)));
            }
            (Ok(index), Some(rest)) => match &mut self.0[index].1 {
                Node::Branch(tree) => tree.add(rest, change)?,
                Node::Leaf(_) => return None,
            },
            (Ok(_), None) => return None,
        }
        Some(())
    }

    /// The index of a name, or the one where it belongs.
    fn find(&self, name: &str) -> Result<usize, usize> {
        self.0.binary_search_by(|(other, _)| server_order(other, name))
    }
}

impl Node<'_> {
    /// Whether anything is set, so that what is missing on the way is created.
    fn sets(&self) -> bool {
        match self {
            Node::Leaf(change) => matches!(change, Change::Set(_)),
            Node::Branch(tree) => tree.0.iter().any(|(_, node)| node.sets()),
        }
    }
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
    tree: &Tree<'_>,
    inside: Inside,
    within: Option<&Place<'_>>,
) -> Result<(), EditError> {
    let start = out.len();
    out.extend([0; 4]);
    let mut missing = vec![true; tree.0.len()];
    let mut length = 0;
    let mut digits = String::new();
    for element in elements(document) {
        let mut element = element?;
        if inside == Inside::Array {
            digits.clear();
            let _ = write!(digits, "{length}");
            element.name = &digits;
        }
        length += 1;
        match tree.find(element.name) {
            // Of several fields with one name the server edits the first.
            Ok(index) if missing[index] => {
                missing[index] = false;
                let place = Place { within, name: element.name };
                edit(out, &element, &tree.0[index].1, inside, &place)?;
            }
            _ => element.push_to(out),
        }
    }

    for ((name, node), missing) in tree.0.iter().zip(missing) {
        let place = Place { within, name };
        if missing && inside == Inside::Array {
            let Some(position) = position(node, &place)? else { continue };
            if position.saturating_sub(length) > MAX_PADDING {
                return Err(EditError::at(&place, "is too far beyond the end of the array"));
            }
            for index in length..position {
                Element::null(&index.to_string()).push_to(out);
            }
            length = position + 1;
        }
        if missing {
            create(out, node, &place)?;
        }
    }

    out.push(0);
    let size = i32::try_from(out.len() - start)
        .map_err(|_| EditError::new("", "it would exceed the size of any document"))?;
    out[start..start + 4].copy_from_slice(&size.to_le_bytes());
    Ok(())
}

/// Writes an element that is there.
fn edit(
    out: &mut Vec<u8>,
    element: &Element<'_>,
    node: &Node<'_>,
    inside: Inside,
    place: &Place<'_>,
) -> Result<(), EditError> {
    let tree = match node {
        Node::Leaf(Change::Set(value)) => return push_value(out, element.name, value),
        Node::Leaf(Change::Unset) => {
            if inside == Inside::Array {
                Element::null(element.name).push_to(out);
            }
            return Ok(());
        }
        Node::Branch(tree) => tree,
    };
    let inside = match element.kind {
        ElementType::EmbeddedDocument => Inside::Document,
        ElementType::Array => Inside::Array,
        _ if node.sets() => return Err(EditError::at(place, "is neither a document nor an array")),
        _ => {
            element.push_to(out);
            return Ok(());
        }
    };
    let inner = RawDocument::from_bytes(element.value).map_err(|_| EditError::malformed())?;
    push_name(out, element.kind, element.name);
    rewrite(out, inner, tree, inside, Some(place))
}

/// Writes an element that is missing, where anything is set in it.
fn create(out: &mut Vec<u8>, node: &Node<'_>, place: &Place<'_>) -> Result<(), EditError> {
    match node {
        Node::Leaf(Change::Set(value)) => push_value(out, place.name, value)?,
        Node::Branch(tree) if node.sets() => {
            push_name(out, ElementType::EmbeddedDocument, place.name);
            rewrite(out, &RawDocumentBuf::new(), tree, Inside::Document, Some(place))?;
        }
        Node::Leaf(Change::Unset) | Node::Branch(_) => {}
    }
    Ok(())
}

/// The position beyond the end of an array at which something is set; none where nothing is.
fn position(node: &Node<'_>, place: &Place<'_>) -> Result<Option<usize>, EditError> {
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
        push_name(out, self.kind, self.name);
        out.extend(self.value);
    }
}

fn push_name(out: &mut Vec<u8>, kind: ElementType, name: &str) {
    out.push(kind as u8);
    out.extend(name.as_bytes());
    out.push(0);
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

fn push_value(out: &mut Vec<u8>, name: &str, value: &RawDocument) -> Result<(), EditError> {
    for element in elements(value) {
        Element { name, ..element? }.push_to(out);
    }
    Ok(())
}

fn field_name(path: &str) -> Result<&CStr, EditError> {
    path.try_into().map_err(|_| EditError::new(path, "the path holds a zero byte"))
}

fn id(document: &RawDocument) -> Result<RawBsonRef<'_>, EditError> {
    document
        .get("_id")
        .map_err(|_| EditError::malformed())?
        .ok_or_else(|| EditError::new("_id", "is missing"))
}

/// The old value that decides what an edit of a path does.
struct Guard<'a> {
    path: &'a str,
    parent: Option<&'a str>,
    value: Option<RawBsonRef<'a>>,
}

impl<'a> Guard<'a> {
    fn of(document: &'a RawDocument, path: &'a str) -> Result<Self, EditError> {
        let (mut document, mut parent) = (document, None);
        let dots = path.match_indices('.').map(|(dot, _)| dot);
        for end in dots.chain([path.len()]) {
            let name = &path[parent.map_or(0, |parent: &str| parent.len() + 1)..end];
            let value = document.get(name).map_err(|_| EditError::malformed())?;
            match value {
                Some(RawBsonRef::Document(inner)) if end < path.len() => {
                    (document, parent) = (inner, Some(&path[..end]));
                }
                value => return Ok(Guard { path: &path[..end], parent, value }),
            }
        }
        Err(EditError::new(path, "a part of the path is empty"))
    }

    fn push_to(&self, all: &mut RawArrayBuf) {
        let field = |path: &str| format!("${path}");
        let has_type = |path: &str, name: &str| rawdoc! { "$eq": [{ "$type": field(path) }, name] };

        all.push(has_type(self.path, self.value.map_or("missing", type_name)));
        match self.value {
            // What `$type` alone decides.
            None | Some(RawBsonRef::Null | RawBsonRef::Undefined) => {}
            Some(value) => {
                let literal = RawDocumentBuf::from_iter([(cstr!("$literal"), value)]);
                all.push(rawdoc! { "$eq": [field(self.path), literal] });
            }
        }
        // A path reads as missing below a scalar, and as an array below an array.
        if let (Some(parent), None | Some(RawBsonRef::Array(_))) = (self.parent, self.value) {
            all.push(has_type(parent, "object"));
        }
    }
}

/// The name by which the server's `$type` knows a value's type.
fn type_name(value: RawBsonRef<'_>) -> &'static str {
    match value.element_type() {
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

#[cfg(test)]
mod tests;
