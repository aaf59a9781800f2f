//! Seeds as their author writes them: documents that must be there.

use std::borrow::Cow;
use std::collections::HashSet;
use std::sync::Arc;

use mongodb::bson::{DateTime, Document, RawBsonRef, RawDocument, RawDocumentBuf};

use crate::authoring::collections::Collections;
use crate::authoring::edit::{MAX_DOCUMENT_SIZE, is_too_deep};
use crate::authoring::naming::{Name, no_number, unknown_number};
use crate::authoring::step_error::StepError;
use crate::authoring::step_kind::StepKind;
use crate::process::action::{ActionType, UpgradeAction};
use crate::server::privileges::{Need, on};

/// The documents of a seed, as they are sent.
pub(crate) type Documents = Arc<[RawDocumentBuf]>;

#[derive(Clone)]
enum Source {
    /// Known before any run, and held once for all of them; or what is wrong with them.
    Fixed(Result<Documents, String>),
    Computed(Arc<dyn Fn(DateTime) -> Result<Vec<Document>, StepError> + Send + Sync>),
}

/// Documents of one collection that must be there, by `_id`. One that is there is left as it is.
///
/// Works on standalone servers as well, and reports how many documents it inserted.
///
/// ```
/// # use upgrade_gate::{Seed, Upgrade, bson::doc};
/// Upgrade::new("1.2.0", "add the roles").step(
///     Seed::new("roles", [doc! { "_id": "reader" }, doc! { "_id": "admin", "all": true }])
///         .report("Add {n} role(s)"),
/// );
/// ```
#[derive(Clone, derive_more::Debug)]
#[debug("Seed({collection})")]
pub struct Seed {
    pub(crate) name: Option<Name>,
    pub(crate) collection: Name,
    pub(crate) description: Option<Name>,
    pub(crate) exact: bool,
    source: Source,
}

impl Seed {
    /// These documents, each with its `_id`.
    pub fn new(
        collection: impl Into<Cow<'static, str>>,
        documents: impl IntoIterator<Item = Document>,
    ) -> Self {
        let collection = collection.into();
        let documents = encoded(&collection, documents);
        Seed::of(collection, Source::Fixed(documents))
    }

    /// Documents that are computed from the start of the run that applies the version; see
    /// [`Edits::started`](crate::Edits::started).
    ///
    /// `documents` must depend on nothing else that may change from call to call: it is called for plans,
    /// retries and runs alike.
    pub fn computed(
        collection: impl Into<Cow<'static, str>>,
        documents: impl Fn(DateTime) -> Result<Vec<Document>, StepError> + Send + Sync + 'static,
    ) -> Self {
        Seed::of(collection.into(), Source::Computed(Arc::new(documents)))
    }

    fn of(collection: Name, source: Source) -> Self {
        Seed { name: None, collection, description: None, exact: false, source }
    }

    /// Names the step, where a version has two seeds of one collection.
    pub fn named(mut self, name: impl Into<Cow<'static, str>>) -> Self {
        self.name = Some(name.into());
        self
    }

    /// A document that is there with other contents ends the run with 14, before the first write. The
    /// contents are the same when all fields have the same order, types and values.
    pub fn exact(mut self) -> Self {
        self.exact = true;
        self
    }

    /// Describes what it did in the report; `{n}` becomes the number of inserted documents.
    pub fn report(mut self, description: impl Into<Cow<'static, str>>) -> Self {
        self.description = Some(description.into());
        self
    }

    /// Whether one of the documents has this field, as far as that is known before any run.
    pub(crate) fn holds(&self, field: &str) -> bool {
        match &self.source {
            Source::Fixed(Ok(documents)) => {
                documents.iter().any(|document| matches!(document.get(field), Ok(Some(_))))
            }
            _ => false,
        }
    }

    /// The line of a plan or a report, with `{n}`.
    pub(crate) fn describe(&self) -> Cow<'_, str> {
        match &self.description {
            Some(description) => Cow::Borrowed(description),
            None => Cow::Owned(format!("Insert {{n}} document(s) into {}", self.collection)),
        }
    }

    /// The documents, each found to be one that the server can take.
    pub(crate) fn documents(&self, started: DateTime) -> Result<Documents, StepError> {
        match &self.source {
            Source::Fixed(documents) => documents.clone(),
            Source::Computed(documents) => encoded(&self.collection, documents(started)?),
        }
        .map_err(StepError::Refused)
    }
}

impl StepKind for Seed {
    fn name(&self) -> String {
        match &self.name {
            Some(name) => name.clone().into_owned(),
            None => format!("seed {}", self.collection),
        }
    }

    fn kind(&self) -> &'static str {
        "seed"
    }

    fn reads(&self) -> Vec<&str> {
        vec![&self.collection]
    }

    fn writes(&self) -> Vec<&str> {
        vec![&self.collection]
    }

    fn own_mistake(&self) -> Option<String> {
        if let Some(report) = &self.description
            && let Some(number) = unknown_number(report, &["n"])
        {
            return Some(no_number(report, number));
        }
        match &self.source {
            Source::Fixed(documents) => documents.as_ref().err().cloned(),
            Source::Computed(_) => None,
        }
    }

    fn privileges(&self) -> Vec<Need> {
        on(&["find", "insert"], &self.collection)
    }

    fn declare_collections<'a>(&'a self, collections: &mut Collections<'a, '_>) {
        collections.adds(&self.collection);
    }

    fn unestimated_actions(&self) -> Vec<UpgradeAction> {
        vec![UpgradeAction::inexact(ActionType::Insert, &*self.collection, self.describe())]
    }
}

/// The documents as they are sent, one taken after the other: large ones are not to be held twice.
fn encoded(
    collection: &str,
    documents: impl IntoIterator<Item = Document>,
) -> Result<Documents, String> {
    let mut ids = HashSet::new();
    let mut encoded = Vec::new();
    for (position, document) in documents.into_iter().enumerate() {
        let wrong = |what: &str| format!("document {position} to seed into {collection} {what}");
        let document =
            RawDocumentBuf::try_from(&document).map_err(|_| wrong("cannot be written as BSON"))?;
        if document.as_bytes().len() > MAX_DOCUMENT_SIZE {
            return Err(wrong("exceeds 16 MiB"));
        }
        if is_too_deep(&document) {
            return Err(wrong("nests deeper than the server can store"));
        }
        match document.get("_id") {
            Ok(Some(
                RawBsonRef::Array(_) | RawBsonRef::RegularExpression(_) | RawBsonRef::Undefined,
            )) => return Err(wrong("has an _id of a wrong type")),
            Ok(Some(RawBsonRef::Document(id))) if has_operators(id) => {
                return Err(wrong(
                    "has an _id with a name that begins with $, which no server takes",
                ));
            }
            Ok(Some(id)) if !ids.insert(identity(id)) => {
                return Err(wrong("has the _id of another one"));
            }
            Ok(Some(_)) => {}
            _ => return Err(wrong("has no _id")),
        }
        encoded.push(document);
    }
    Ok(encoded.into())
}

/// Whether a name in a document begins with `$`; one that cannot be read is told elsewhere.
fn has_operators(document: &RawDocument) -> bool {
    let mut names = document.into_iter().filter_map(|field| field.ok().map(|(name, _)| name));
    names.any(|name| name.as_str().starts_with('$'))
}

/// Bytes that are the same for values that the server takes for one `_id`, collations aside.
fn identity(id: RawBsonRef<'_>) -> Vec<u8> {
    let number = |value: f64| {
        RawDocumentBuf::from_iter([(mongodb::bson::cstr!("number"), value)]).into_bytes()
    };
    match id {
        RawBsonRef::Int32(value) => number(value.into()),
        // beyond 2^53 two of them may be taken for one, which only refuses more
        RawBsonRef::Int64(value) => number(value as f64),
        RawBsonRef::Double(value) => number(value + 0.0),
        other => RawDocumentBuf::from_iter([(mongodb::bson::cstr!("_id"), other)]).into_bytes(),
    }
}

/// The `_id` of a document, as text.
pub(crate) fn id_text(document: &RawDocument) -> String {
    let id = document.get("_id").ok().flatten();
    let id = id.and_then(|id| mongodb::bson::Bson::try_from(id).ok());
    id.and_then(|id| serde_json::to_string(&id).ok()).unwrap_or_else(|| "unreadable".to_owned())
}

#[cfg(test)]
mod tests {
    use mongodb::bson::{Bson, Regex, cstr, doc};

    use super::*;

    /// A document with so many levels.
    fn nested(levels: usize) -> Document {
        (1..levels).fold(doc! { "_id": 1 }, |inner, _| doc! { "_id": 1, "a": inner })
    }

    #[test]
    fn documents_that_the_server_could_not_take_are_a_mistake_and_contents_are_not_told() {
        let regex = Regex { pattern: cstr!("a").into(), options: cstr!("").into() };
        for (documents, what) in [
            (vec![doc! { "secret": 1 }], "document 0 to seed into roles has no _id"),
            (vec![doc! { "_id": [1] }], "wrong type"),
            (vec![doc! { "_id": Bson::RegularExpression(regex) }], "wrong type"),
            (vec![doc! { "_id": 1 }, doc! { "_id": 1.0 }], "document 1 to seed into roles has the"),
            (vec![doc! { "_id": "a" }, doc! { "_id": "a", "secret": 1 }], "_id of another"),
            (vec![doc! { "_id": "a", "b\0c": 1 }], "BSON"),
            (vec![doc! { "_id": { "$a": 1 } }], "begins with $"),
            (vec![doc! { "_id": 1, "a": "x".repeat(MAX_DOCUMENT_SIZE) }], "16 MiB"),
            (vec![nested(182)], "nests deeper"),
        ] {
            let mistake = Seed::new("roles", documents).own_mistake().unwrap();
            assert!(mistake.contains(what) && !mistake.contains("secret"), "{mistake}");
        }
        assert_eq!(Seed::new("roles", [nested(180)]).own_mistake(), None);
        let fine = [doc! { "_id": 1 }, doc! { "_id": "1" }, doc! { "_id": { "a": 1 } }];
        assert_eq!(Seed::new("roles", fine).own_mistake(), None);
    }

    #[test]
    fn what_is_computed_is_asked_for_by_runs_alone() {
        let seed = Seed::computed("roles", |_| Err(StepError::refused("APP_ADMIN is not set")));
        assert_eq!(seed.own_mistake(), None);
        assert!(seed.documents(DateTime::now()).is_err());
    }
}
