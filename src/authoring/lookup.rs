//! Look-ups in batch: the documents that the documents of a batch refer to.

use std::borrow::Cow;
use std::collections::hash_map::Entry;
use std::collections::{BTreeMap, HashMap, HashSet};

use mongodb::bson::raw::{CString, cstr};
use mongodb::bson::{RawArrayBuf, RawBsonRef, RawDocument, RawDocumentBuf, rawdoc};
use mongodb::error::Error;

use crate::authoring::naming::Name;
use crate::authoring::step_error::StepError;

/// No filter asks for more bytes of values than this.
const MAX_BYTES: usize = 4 * 1024 * 1024;
/// No filter asks for more values than this, unless what it finds has to come in one order.
const MAX_VALUES: usize = 10_000;

/// The field in which the server tells a document's record id.
const PLACE: &str = "$recordId";

type Wanted = dyn Fn(&RawDocument, &mut Keys) + Send + Sync;

/// Documents of a collection, found by the value of one field.
///
/// Two values are the same when type and value are: numbers by value whether int, long or double,
/// everything else by its bytes; of [`by_field`](Self::by_field), strings as the collation of `collection` says.
/// NaN, undefined, arrays, documents and regular expressions find nothing, and an array that holds the value is not
/// that value.
///
/// If a version is applied in batches, documents are looked up while up to two earlier batches are being written, and
/// are not looked up again when a transaction is retried: the edits do not reflect later changes to a found document.
#[derive(derive_more::Debug)]
#[debug("Lookup({name})")]
pub struct Lookup {
    pub(crate) name: Name,
    pub(crate) collection: Name,
    field: Name,
    fields: Vec<Name>,
    order: Order,
    /// Whether strings are compared under the default collation of the collection, and not by their bytes.
    pub(crate) collated: bool,
    wanted: Box<Wanted>,
}

/// In which order the documents come that are found for one document.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Order {
    /// That in which the server would return them.
    Natural,
    /// That of their `_id`s.
    Id,
}

impl Lookup {
    /// Looks up documents of `collection` by their `field`; `wanted` adds the values that a document being
    /// transformed needs.
    ///
    /// The field may be a path with dots. It leads through documents and through arrays of documents: a
    /// document is found by the value that any of them holds.
    pub fn new(
        name: impl Into<Cow<'static, str>>,
        collection: impl Into<Cow<'static, str>>,
        field: impl Into<Cow<'static, str>>,
        wanted: impl Fn(&RawDocument, &mut Keys) + Send + Sync + 'static,
    ) -> Self {
        let (name, collection, field) = (name.into(), collection.into(), field.into());
        let (order, wanted) = (Order::Natural, Box::new(wanted));
        Lookup { name, collection, field, fields: vec![], order, collated: false, wanted }
    }

    /// Looks up documents of `collection` whose `foreign` field has a value of the `local` field of the document being
    /// transformed: each element of an array is a value, and null finds nothing. Strings are compared under the default
    /// collation of `collection`. They come in the order of their `_id`s, until
    /// [`in_natural_order`](Self::in_natural_order) says otherwise.
    ///
    /// Both fields may be paths with dots, which lead through documents and through arrays of documents.
    pub fn by_field(
        name: impl Into<Cow<'static, str>>,
        collection: impl Into<Cow<'static, str>>,
        foreign: impl Into<Cow<'static, str>>,
        local: impl Into<Cow<'static, str>>,
    ) -> Self {
        let local = local.into();
        let wanted =
            move |document: &RawDocument, keys: &mut Keys| values_at(document, &local, keys);
        Lookup {
            order: Order::Id,
            collated: true,
            ..Lookup::new(name, collection, foreign, wanted)
        }
    }

    /// Lets what is found for a document come in natural order.
    pub fn in_natural_order(mut self) -> Self {
        self.order = Order::Natural;
        self
    }

    /// The order in which to read.
    pub(crate) fn order(&self) -> Order {
        self.order
    }

    /// The path by which documents are found.
    pub(crate) fn path(&self) -> &str {
        &self.field
    }

    /// The top-level fields that are read of a found document, besides its `_id` and the field that it is
    /// found by; all where this is not called.
    pub fn fields(
        mut self,
        fields: impl IntoIterator<Item = impl Into<Cow<'static, str>>>,
    ) -> Self {
        self.fields = fields.into_iter().map(Into::into).collect();
        self
    }

    /// The top-level fields that it reads, each once; `None` if it reads all.
    pub(crate) fn reads(&self) -> Option<impl Iterator<Item = &str>> {
        let own = self.field.split('.').next().unwrap_or(&self.field);
        let mut seen = vec![];
        let fields = ["_id", own].into_iter().chain(self.fields.iter().map(|field| &**field));
        let fields = fields.filter(move |field| {
            let new = !seen.contains(field);
            seen.push(*field);
            new
        });
        (!self.fields.is_empty()).then_some(fields)
    }

    /// Why the server could not look up by it.
    pub(crate) fn mistake(&self) -> Option<String> {
        let wrong =
            |path: &str| path.split('.').any(|part| part.is_empty() || part.starts_with('$'));
        if wrong(&self.field) {
            return Some(format!("no field can be called \"{}\"", self.field));
        }
        // the server takes a number for a position in an array as well
        if self.field.split('.').skip(1).any(|part| part.bytes().all(|b| b.is_ascii_digit())) {
            return Some(format!("\"{}\" names a position: name the field without it", self.field));
        }
        let field = self.fields.iter().find(|field| wrong(field) || field.contains('.'))?;
        Some(format!("its fields must be top-level ones, and \"{field}\" is not"))
    }

    /// Adds the values that a document needs.
    pub(crate) fn wanted(&self, document: &RawDocument, keys: &mut Keys) {
        (self.wanted)(document, keys);
    }

    /// The projection with which to read, empty for whole documents.
    pub(crate) fn projection(&self) -> Result<RawDocumentBuf, Error> {
        let mut projection = RawDocumentBuf::new();
        if let Some(fields) = self.reads() {
            for field in fields {
                projection.append(CString::try_from(field)?, 1);
            }
        }
        Ok(projection)
    }

    /// The start of the filters for some values.
    fn filters(&self) -> Result<Filters, Error> {
        let field = CString::try_from(&*self.field)?;
        let most = match self.order {
            Order::Natural => MAX_VALUES,
            // the server puts in order what one query finds
            Order::Id => usize::MAX,
        };
        Ok(Filters { field, most, done: vec![], values: RawArrayBuf::new(), n: 0, bytes: 0 })
    }
}

/// Filters that match at least the documents with some values, each of bounded size.
///
/// Read under the collection's own collation, so that an index can serve.
struct Filters {
    field: CString,
    /// How many values one of them may ask for.
    most: usize,
    done: Vec<RawDocumentBuf>,
    values: RawArrayBuf,
    n: usize,
    bytes: usize,
}

impl Filters {
    fn push(&mut self, key: &Key) -> Result<(), Error> {
        let bytes = key.size();
        if self.n > 0 && (self.n == self.most || self.bytes + bytes > MAX_BYTES) {
            self.close();
        }
        self.values.push(key.value()?);
        self.n += 1;
        self.bytes += bytes;
        Ok(())
    }

    fn close(&mut self) {
        if self.n > 0 {
            let values = rawdoc! { "$in": std::mem::take(&mut self.values) };
            self.done.push(RawDocumentBuf::from_iter([(&self.field, values)]));
            (self.n, self.bytes) = (0, 0);
        }
    }

    fn all(mut self) -> Vec<RawDocumentBuf> {
        self.close();
        self.done
    }
}

/// The values that a look-up is asked for.
#[derive(Default)]
pub struct Keys(Vec<Key>);

impl Keys {
    /// Adds a value; one that can find nothing is left out.
    pub fn add<'a>(&mut self, value: impl Into<RawBsonRef<'a>>) {
        self.0.extend(Key::of(value.into()));
    }
}

/// A value in its canonical form: equal for values that are the same in type and value.
#[derive(Clone, PartialEq, Eq, Hash)]
enum Key {
    /// A whole number, whether int, long or double.
    Integer(i64),
    /// Any other double but NaN, by its bits.
    Double(u64),
    /// A string.
    String(Box<str>),
    /// Any other value, as the bytes of a document that holds it under an empty name.
    Other(Box<[u8]>),
}

impl Key {
    /// The key of a value, unless it is one that equals nothing.
    fn of(value: RawBsonRef<'_>) -> Option<Self> {
        /// 2^63, the first double beyond what a long can be.
        const LIMIT: f64 = 9_223_372_036_854_775_808.0;
        match value {
            RawBsonRef::Int32(value) => Some(Key::Integer(value.into())),
            RawBsonRef::Int64(value) => Some(Key::Integer(value)),
            RawBsonRef::Double(value) if value.is_nan() => None,
            RawBsonRef::Double(value)
                if value.trunc() == value && (-LIMIT..LIMIT).contains(&value) =>
            {
                Some(Key::Integer(value as i64))
            }
            RawBsonRef::Double(value) => Some(Key::Double(value.to_bits())),
            RawBsonRef::String(value) => Some(Key::String(value.into())),
            RawBsonRef::Array(_)
            | RawBsonRef::Document(_)
            | RawBsonRef::RegularExpression(_)
            | RawBsonRef::Undefined => None,
            value => Some(Key::Other(
                RawDocumentBuf::from_iter([(cstr!(""), value)]).into_bytes().into(),
            )),
        }
    }

    /// A value with this key.
    fn value(&self) -> Result<RawBsonRef<'_>, Error> {
        Ok(match self {
            Key::Integer(value) => RawBsonRef::Int64(*value),
            Key::Double(bits) => RawBsonRef::Double(f64::from_bits(*bits)),
            Key::String(value) => RawBsonRef::String(value),
            Key::Other(bytes) => {
                RawDocument::from_bytes(bytes)?.get("")?.unwrap_or(RawBsonRef::Null)
            }
        })
    }

    /// How many bytes the value takes in a filter, about.
    fn size(&self) -> usize {
        match self {
            Key::Integer(_) | Key::Double(_) => 16,
            Key::String(value) => value.len() + 16,
            Key::Other(bytes) => bytes.len() + 8,
        }
    }
}

/// What the look-ups of a batch found.
#[derive(Default)]
pub struct Found(BTreeMap<Name, Answers>);

/// What one look-up found.
#[derive(Default)]
struct Answers {
    documents: HashMap<Key, Documents>,
    /// The documents of the values that have several, in natural order once all are there. On a sharded
    /// cluster two may have the same place.
    several: Vec<Vec<(Place, usize)>>,
    held: Held,
    /// Strings that the collection's collation takes for others that were asked for, with all of those. Empty
    /// where it has none.
    same: HashMap<Key, Vec<Key>>,
    /// The `_id`s of what was found, kept where different strings find the same document.
    met: HashSet<Box<[u8]>>,
    /// The values that have several documents: these are read again, because their order matters.
    again: Vec<Key>,
}

/// Documents, one behind the other: a batch may find hundreds of thousands.
#[derive(Default)]
struct Held(Vec<u8>);

/// The documents of one value, by where they are held.
#[derive(Clone, Copy)]
enum Documents {
    None,
    One(usize),
    Several(usize),
}

impl Held {
    /// Holds a document, and returns where.
    fn hold(&mut self, document: &RawDocument) -> usize {
        let at = self.0.len();
        self.0.extend(document.as_bytes());
        at
    }

    /// The bytes of the document there; they begin with their number.
    fn bytes(&self, at: usize) -> &[u8] {
        let rest = &self.0[at..];
        let length = rest.first_chunk().map_or(0, |length| i32::from_le_bytes(*length).max(0));
        &rest[..(length as usize).min(rest.len())]
    }

    fn document(&self, at: usize) -> Option<&RawDocument> {
        RawDocument::from_bytes(self.bytes(at)).ok()
    }
}

impl Answers {
    /// Where the documents of a value are held.
    fn places(&self, key: &Key) -> Vec<usize> {
        match self.documents.get(key) {
            None | Some(Documents::None) => vec![],
            Some(Documents::One(at)) => vec![*at],
            Some(Documents::Several(index)) => {
                self.several[*index].iter().map(|(_, at)| *at).collect()
            }
        }
    }

    /// The documents of a value; `None` if it was not asked for.
    fn of<'a>(
        &'a self,
        key: &Key,
    ) -> Option<impl DoubleEndedIterator<Item = &'a RawDocument> + use<'a>> {
        let (one, several) = match *self.documents.get(key)? {
            Documents::None => (None, &[][..]),
            Documents::One(at) => (Some(at), &[][..]),
            Documents::Several(index) => (None, &self.several[index][..]),
        };
        let places = one.into_iter().chain(several.iter().map(|(_, at)| *at));
        Some(places.filter_map(|at| self.held.document(at)))
    }
}

#[derive(Clone, PartialEq, Eq, PartialOrd, Ord)]
enum Place {
    Number(i64),
    /// In a clustered collection.
    Bytes(Vec<u8>),
}

impl Found {
    /// The documents that look-up `name` found for a value, in natural order.
    ///
    /// A value that its `wanted` did not ask for is an error, as is a name that no look-up has.
    pub fn all<'a>(
        &'a self,
        name: &str,
        value: RawBsonRef<'_>,
    ) -> Result<impl DoubleEndedIterator<Item = &'a RawDocument> + use<'a>, StepError> {
        let answers = self
            .0
            .get(name)
            .ok_or_else(|| StepError::refused(format!("no look-up has the name `{name}`")))?;
        let found = match Key::of(value) {
            None => None,
            Some(key) => Some(answers.of(&key).ok_or_else(|| {
                StepError::refused(format!("look-up `{name}` was not asked for this value"))
            })?),
        };
        Ok(found.into_iter().flatten())
    }

    /// Whether all was asked for that a document needs.
    pub(crate) fn answers(&self, lookup: &Lookup, document: &RawDocument) -> bool {
        let mut keys = Keys::default();
        lookup.wanted(document, &mut keys);
        let Some(answers) = self.0.get(&lookup.name) else { return keys.0.is_empty() };
        keys.0.iter().all(|key| answers.documents.contains_key(key))
    }

    /// What a look-up found for a document.
    pub(crate) fn of(&self, lookup: &Lookup, document: &RawDocument) -> Vec<&RawDocument> {
        let mut keys = Keys::default();
        lookup.wanted(document, &mut keys);
        let Some(answers) = self.0.get(&lookup.name) else { return vec![] };
        // a document may hold one value very many times, and what is found by it may be much
        let (mut asked, mut seen) = (HashSet::new(), HashSet::new());
        let keys = keys.0.iter().filter(|key| asked.insert(*key));
        // one that was read again, for another value, is held twice
        let id = |at: usize| {
            let id = answers.held.document(at).and_then(id_of);
            id.unwrap_or_else(|| at.to_le_bytes().into())
        };
        let places = keys.flat_map(|key| answers.places(key)).filter(|at| seen.insert(id(*at)));
        let mut places: Vec<usize> = places.collect();
        if lookup.order == Order::Id {
            // they are held in the order in which they were read
            places.sort_unstable();
        }
        places.into_iter().filter_map(|at| answers.held.document(at)).collect()
    }

    /// The bytes of what was found.
    pub(crate) fn bytes(&self) -> usize {
        self.0.values().map(|answers| answers.held.0.len()).sum()
    }

    /// Remembers which values a look-up asks for, and returns filters for those that it had not asked for
    /// yet.
    pub(crate) fn ask(
        &mut self,
        lookup: &Lookup,
        keys: Keys,
    ) -> Result<Vec<RawDocumentBuf>, Error> {
        let answers = self.0.entry(lookup.name.clone()).or_default();
        let mut filters = lookup.filters()?;
        for key in keys.0 {
            if let Entry::Vacant(vacant) = answers.documents.entry(key) {
                filters.push(vacant.key())?;
                vacant.insert(Documents::None);
            }
        }
        Ok(filters.all())
    }

    /// Filters for the values that have several documents, to be read with `showRecordId`: natural order
    /// is the order of record ids. Nobody pays for them where there is no order.
    pub(crate) fn ask_again(&mut self, lookup: &Lookup) -> Result<Vec<RawDocumentBuf>, Error> {
        let mut filters = lookup.filters()?;
        let answers = self.0.get_mut(&lookup.name);
        for key in answers.map(|answers| std::mem::take(&mut answers.again)).unwrap_or_default() {
            filters.push(&key)?;
        }
        Ok(filters.all())
    }

    /// Takes a document that the server matched. It counts for each value asked for that it holds exactly
    /// at the look-up's path; met twice, it counts once.
    pub(crate) fn add(&mut self, lookup: &Lookup, document: &RawDocument) -> Result<(), StepError> {
        let mut place = None;
        for field in document {
            let (name, held) = field.map_err(|_| malformed())?;
            if name == PLACE {
                place = Some(Place::of(held)?);
            }
        }
        let mut keys = Vec::new();
        keys_at(document, &lookup.field, &mut keys)?;
        let Some(answers) = self.0.get_mut(&lookup.name) else { return Ok(()) };
        if !answers.same.is_empty() {
            if place.is_none()
                && let Some(id) = id_of(document)
                && !answers.met.insert(id)
            {
                return Ok(());
            }
            let same = |key| answers.same.get(&key).cloned().unwrap_or_else(|| vec![key]);
            keys = keys.into_iter().flat_map(same).collect();
        }
        let mut seen = HashSet::new();
        let mut held = None;
        for key in keys.iter().filter(|key| keys.len() == 1 || seen.insert(*key)) {
            let Some(found) = answers.documents.get_mut(key) else { continue };
            match (&*found, &place) {
                (Documents::None, None) => {
                    let at = *held.get_or_insert_with(|| answers.held.hold(document));
                    *found = Documents::One(at);
                }
                (Documents::One(first), None) if lookup.order == Order::Id => {
                    let first = *first;
                    let at = *held.get_or_insert_with(|| answers.held.hold(document));
                    *found = Documents::Several(answers.several.len());
                    let place = |at: usize| (Place::Number(at as i64), at);
                    answers.several.push(vec![place(first), place(at)]);
                }
                (Documents::Several(several), None) if lookup.order == Order::Id => {
                    let at = *held.get_or_insert_with(|| answers.held.hold(document));
                    answers.several[*several].push((Place::Number(at as i64), at));
                }
                (Documents::One(_), None) => {
                    *found = Documents::Several(answers.several.len());
                    answers.several.push(vec![]);
                    answers.again.push(key.clone());
                }
                (Documents::Several(several), Some(place)) => {
                    let at = match held {
                        Some(at) => at,
                        None => answers.held.hold(&without_place(document)?),
                    };
                    held = Some(at);
                    answers.several[*several].push((place.clone(), at));
                }
                // it is asked for again, or was by a value that the server takes for the same
                (Documents::Several(_), None) | (_, Some(_)) => {}
            }
        }
        Ok(())
    }

    /// Takes strings that the collection's collation takes for one another, some of which were asked for.
    pub(crate) fn equate(&mut self, lookup: &Lookup, texts: &[Box<str>]) {
        let Some(answers) = self.0.get_mut(&lookup.name) else { return };
        let keys: Vec<Key> = texts.iter().cloned().map(Key::String).collect();
        let asked: Vec<&Key> =
            keys.iter().filter(|key| answers.documents.contains_key(*key)).collect();
        for key in &keys {
            let same = answers.same.entry(key.clone()).or_insert_with(|| vec![key.clone()]);
            for other in &asked {
                if !same.contains(other) {
                    same.push((*other).clone());
                }
            }
        }
    }

    /// Puts what was read with record ids into natural order, once all of it is there.
    pub(crate) fn put_in_order(&mut self, lookup: &Lookup) {
        let Some(Answers { several, held, .. }) = self.0.get_mut(&lookup.name) else { return };
        for documents in several {
            documents.sort_unstable_by(|(place, at), (other_place, other)| {
                place.cmp(other_place).then_with(|| held.bytes(*at).cmp(held.bytes(*other)))
            });
            documents.dedup_by(|(place, at), (other_place, other)| {
                place == other_place && held.bytes(*at) == held.bytes(*other)
            });
        }
    }
}

/// The strings that a document is found by. A malformed document has none here: [`Found::add`] refuses it.
pub(crate) fn texts_at(document: &RawDocument, lookup: &Lookup) -> Vec<Box<str>> {
    let mut keys = Vec::new();
    let _ = keys_at(document, &lookup.field, &mut keys);
    let text = |key| match key {
        Key::String(text) => Some(text),
        _ => None,
    };
    keys.into_iter().filter_map(text).collect()
}

/// The bytes of a document's `_id`, with its type; `None` where it has none, as in a view.
fn id_of(document: &RawDocument) -> Option<Box<[u8]>> {
    let id = document.get("_id").ok()??;
    Some(RawDocumentBuf::from_iter([(cstr!(""), id)]).into_bytes().into())
}

/// The keys that a document is found by: the values at a path, which leads through documents and through
/// arrays of documents. Of several fields with one name the first counts.
fn keys_at(document: &RawDocument, path: &str, keys: &mut Vec<Key>) -> Result<(), StepError> {
    let (name, rest) = match path.split_once('.') {
        Some((name, rest)) => (name, Some(rest)),
        None => (path, None),
    };
    match (document.get(name).map_err(|_| malformed())?, rest) {
        (Some(value), None) => keys.extend(Key::of(value)),
        (Some(RawBsonRef::Document(inner)), Some(rest)) => keys_at(inner, rest, keys)?,
        (Some(RawBsonRef::Array(entries)), Some(rest)) => {
            for entry in entries {
                if let RawBsonRef::Document(inner) = entry.map_err(|_| malformed())? {
                    keys_at(inner, rest, keys)?;
                }
            }
        }
        _ => {}
    }
    Ok(())
}

/// Adds the values at a path as keys: each element of an array is one, and null is none.
fn values_at(document: &RawDocument, path: &str, keys: &mut Keys) {
    let (name, rest) = match path.split_once('.') {
        Some((name, rest)) => (name, Some(rest)),
        None => (path, None),
    };
    let Ok(Some(value)) = document.get(name) else { return };
    let each = |value: RawBsonRef<'_>, keys: &mut Keys| match (value, rest) {
        (RawBsonRef::Null, None) => {}
        (value, None) => keys.add(value),
        (RawBsonRef::Document(inner), Some(rest)) => values_at(inner, rest, keys),
        (_, Some(_)) => {}
    };
    match value {
        RawBsonRef::Array(values) => {
            values.into_iter().flatten().for_each(|value| each(value, keys));
        }
        value => each(value, keys),
    }
}

/// A document as it is stored, from what `showRecordId` made of it.
fn without_place(document: &RawDocument) -> Result<RawDocumentBuf, StepError> {
    let mut stored = RawDocumentBuf::new();
    for field in document {
        let (name, value) = field.map_err(|_| malformed())?;
        if name != PLACE {
            stored.append(name, value);
        }
    }
    Ok(stored)
}

fn malformed() -> StepError {
    StepError::refused("a looked-up document is not valid BSON")
}

impl Place {
    fn of(value: RawBsonRef<'_>) -> Result<Self, StepError> {
        match value {
            RawBsonRef::Int64(number) => Ok(Place::Number(number)),
            RawBsonRef::Binary(binary) => Ok(Place::Bytes(binary.bytes.to_vec())),
            _ => Err(StepError::refused("the server did not tell a document's place")),
        }
    }
}

#[cfg(test)]
mod tests {
    use mongodb::bson::oid::ObjectId;
    use mongodb::bson::spec::BinarySubtype;
    use mongodb::bson::{Binary, DateTime, RawBson, Regex, Timestamp, rawbson};

    use super::*;

    fn key(value: &RawBson) -> Option<Key> {
        Key::of(value.as_raw_bson_ref())
    }

    fn lookup() -> Lookup {
        let wanted = |document: &RawDocument, keys: &mut Keys| {
            if let Ok(Some(value)) = document.get("item_id") {
                keys.add(value);
            }
        };
        Lookup::new("refcode", "items", "item_id", wanted)
    }

    #[test]
    fn values_are_the_same_in_type_and_value_and_numbers_in_value() {
        let binary = |subtype| Binary { subtype, bytes: b"a".to_vec() };
        let classes = [
            vec![rawbson!(0), rawbson!(0_i64), rawbson!(0.0), rawbson!(-0.0)],
            vec![rawbson!(7), rawbson!(7_i64), rawbson!(7.0)],
            vec![rawbson!(9_007_199_254_740_992_i64), rawbson!(9_007_199_254_740_992.0)],
            vec![rawbson!(9_007_199_254_740_993_i64)],
            vec![rawbson!(i64::MIN), rawbson!(-9_223_372_036_854_775_808.0)],
            vec![rawbson!(i64::MAX)],
            vec![rawbson!(9_223_372_036_854_775_808.0)],
            vec![rawbson!(0.5)],
            vec![rawbson!(f64::INFINITY)],
            vec![RawBson::Decimal128("7".parse().unwrap())],
            vec![RawBson::Decimal128("7.0".parse().unwrap())],
            vec![rawbson!("a")],
            vec![rawbson!("A")],
            vec![rawbson!("")],
            vec![RawBson::Symbol("a".to_owned())],
            vec![RawBson::JavaScriptCode("a".to_owned())],
            vec![rawbson!(false)],
            vec![rawbson!(true)],
            vec![rawbson!(null)],
            vec![binary(BinarySubtype::Generic).into()],
            vec![binary(BinarySubtype::BinaryOld).into()],
            vec![DateTime::from_millis(7).into()],
            vec![Timestamp { time: 0, increment: 7 }.into()],
            vec![ObjectId::from_bytes([7; 12]).into()],
        ];
        let values: Vec<_> = (0..)
            .zip(&classes)
            .flat_map(|(class, values)| values.iter().map(move |value| (class, value)))
            .collect();
        for (class, value) in &values {
            for (other_class, other) in &values {
                assert_eq!(key(value) == key(other), class == other_class, "{value:?} {other:?}");
            }
            assert!(Key::of(key(value).unwrap().value().unwrap()) == key(value), "{value:?}");
        }
    }

    #[test]
    fn nan_undefined_arrays_documents_and_patterns_find_nothing() {
        let regex = Regex { pattern: cstr!("a").into(), options: cstr!("").into() };
        let (mut keys, mut found) = (Keys::default(), Found::default());
        let nothing =
            [rawbson!(f64::NAN), RawBson::Undefined, rawbson!([1]), rawbson!({}), regex.into()];
        for value in &nothing {
            assert!(key(value).is_none(), "{value:?}");
            keys.add(value);
        }
        assert!(found.ask(&lookup(), keys).unwrap().is_empty());
        for value in &nothing {
            assert_eq!(found.all("refcode", value.into()).unwrap().count(), 0, "{value:?}");
        }
    }

    fn found_by(field: &'static str, documents: &[RawDocumentBuf], value: &str) -> Vec<i32> {
        let wanted = |document: &RawDocument, keys: &mut Keys| {
            for value in document.get_array("wanted").unwrap() {
                keys.add(value.unwrap());
            }
        };
        let lookup = Lookup::new("it", "items", field, wanted).fields(["n"]);
        let (mut keys, mut found) = (Keys::default(), Found::default());
        lookup.wanted(&rawdoc! { "wanted": ["a", "b"] }, &mut keys);
        found.ask(&lookup, keys).unwrap();
        for document in documents {
            found.add(&lookup, document).unwrap();
        }
        if !found.ask_again(&lookup).unwrap().is_empty() {
            for (place, document) in documents.iter().enumerate() {
                let mut read = document.clone();
                read.append(cstr!("$recordId"), place as i64);
                found.add(&lookup, &read).unwrap();
            }
            found.put_in_order(&lookup);
        }
        let found = found.all("it", value.into()).unwrap();
        found.map(|document| document.get_i32("n").unwrap()).collect()
    }

    #[test]
    fn a_path_leads_through_documents_and_arrays_of_documents() {
        let documents = [
            rawdoc! { "n": 0, "o": { "name": "a" } },
            rawdoc! { "n": 1, "o": [{ "name": "b" }, { "name": "a" }, { "name": "a" }, 7, { "name": "c" }] },
            rawdoc! { "n": 2, "o": { "name": ["a"] } },
            rawdoc! { "n": 3, "o": [[{ "name": "a" }]] },
            rawdoc! { "n": 4, "o.name": "a", "name": "a", "o": "a" },
            rawdoc! { "n": 5 },
        ];
        assert_eq!(found_by("o.name", &documents, "a"), [0, 1]);
        assert_eq!(found_by("o.name", &documents, "b"), [1]);
        assert_eq!(found_by("o.name", &documents[2..], "a"), [0; 0]);
    }

    #[test]
    fn no_field_is_projected_twice_or_within_another_and_the_id_stays() {
        let projected = |field: &'static str, fields: &[&'static str]| {
            let lookup = Lookup::new("it", "items", field, |_, _| {}).fields(fields.to_vec());
            let projection = lookup.projection().unwrap();
            projection.iter().map(|f| f.unwrap().0.to_string()).collect::<Vec<_>>()
        };
        assert_eq!(projected("name", &["_id", "name", "size"]), ["_id", "name", "size"]);
        assert_eq!(projected("_id", &["size", "size"]), ["_id", "size"]);
        assert_eq!(projected("o.name", &["size"]), ["_id", "o", "size"]);
        assert_eq!(projected("o.name", &["o"]), ["_id", "o"]);
        assert_eq!(projected("o.name", &[]), [""; 0]);
    }

    #[test]
    fn what_no_field_can_be_called_is_a_mistake() {
        let mistake = |field: &'static str, fields: &[&'static str]| {
            Lookup::new("it", "items", field, |_, _| {}).fields(fields.to_vec()).mistake()
        };
        for field in ["", "a.", ".a", "a..b", "$a", "a.$b", "a.0", "a.12.b"] {
            assert!(mistake(field, &[]).is_some(), "{field}");
        }
        assert!(mistake("a", &["b.c"]).unwrap().contains("b.c"));
        assert_eq!(mistake("a.b0.0c", &["_id", "a"]), None);
        assert_eq!(mistake("0", &[]), None);
    }

    fn in_filter(query: &RawDocument) -> usize {
        let values = query.get_document("item_id").unwrap().get_array("$in").unwrap();
        values.into_iter().count()
    }

    #[test]
    fn filters_ask_once_for_each_value_and_stay_small() {
        let mut keys = Keys::default();
        for n in 0..25_000 {
            keys.add(n);
            keys.add(f64::from(n));
        }
        for n in 0..9 {
            keys.add(format!("{n}{}", "x".repeat(MAX_BYTES / 4)).as_str());
        }
        let mut asked = 0;
        for query in Found::default().ask(&lookup(), keys).unwrap() {
            let size = query.as_bytes().len();
            let n = in_filter(&query);
            assert!(n <= MAX_VALUES && size < MAX_BYTES + 100, "{n} {size}");
            asked += n;
        }
        assert_eq!(asked, 25_009);
    }

    #[test]
    fn found_documents_come_in_natural_order_and_only_for_exactly_their_value() {
        let lookup = lookup();
        let (mut keys, mut found) = (Keys::default(), Found::default());
        lookup.wanted(&rawdoc! { "item_id": "a" }, &mut keys);
        lookup.wanted(&rawdoc! { "item_id": 7 }, &mut keys);
        let asked = found.ask(&lookup, keys).unwrap();
        assert_eq!((asked.len(), in_filter(&asked[0])), (1, 2));
        // what was asked for is not asked for again
        let mut keys = Keys::default();
        lookup.wanted(&rawdoc! { "item_id": "a" }, &mut keys);
        lookup.wanted(&rawdoc! { "item_id": "new" }, &mut keys);
        let asked = found.ask(&lookup, keys).unwrap();
        assert_eq!((asked.len(), in_filter(&asked[0])), (1, 1));
        let read = |(document, place): (RawDocumentBuf, i64)| {
            let mut read = document;
            read.append(cstr!("$recordId"), place);
            read
        };
        for document in [
            rawdoc! { "item_id": "a", "n": 3 },
            rawdoc! { "item_id": "a", "n": 1 },
            rawdoc! { "item_id": "A", "n": 9 },
            rawdoc! { "item_id": ["a"], "n": 9 },
            rawdoc! { "n": 9 },
            rawdoc! { "item_id": "a", "n": 2 },
            rawdoc! { "item_id": 7.0, "n": 7 },
        ] {
            found.add(&lookup, &document).unwrap();
        }
        // only what has an order is asked for again, and once
        let asked = found.ask_again(&lookup).unwrap();
        assert_eq!(asked, [rawdoc! { "item_id": { "$in": ["a"] } }]);
        assert_eq!(found.ask_again(&lookup).unwrap(), [] as [RawDocumentBuf; 0]);
        for document in [
            (rawdoc! { "item_id": "a", "n": 3 }, 30),
            (rawdoc! { "item_id": "a", "n": 1 }, 4),
            (rawdoc! { "item_id": "A", "n": 9 }, 5),
            (rawdoc! { "item_id": "a", "n": 2 }, 20),
            (rawdoc! { "item_id": "a", "n": 1 }, 4),
            (rawdoc! { "item_id": 7.0, "n": 8 }, 8),
        ] {
            found.add(&lookup, &read(document)).unwrap();
        }
        found.put_in_order(&lookup);
        let numbers = |value: RawBsonRef<'_>| -> Vec<i32> {
            let found = found.all("refcode", value).unwrap();
            found.map(|document| document.get_i32("n").unwrap()).collect()
        };
        assert_eq!(numbers("a".into()), [1, 2, 3]);
        assert_eq!(numbers(7_i64.into()), [7]);
        assert_eq!(numbers(f64::NAN.into()), [0; 0]);
        assert!(found.all("refcode", "b".into()).is_err(), "a value that was not asked for");
        assert!(found.all("recode", "a".into()).is_err(), "a name that no look-up has");
        let document = found.all("refcode", "a".into()).unwrap().next().unwrap();
        assert_eq!(document, &*rawdoc! { "item_id": "a", "n": 1 }, "as it is stored");
        let odd = rawdoc! { "item_id": "a", "$recordId": "?" };
        assert!(found.add(&lookup, &odd).is_err(), "no place");
    }
}
