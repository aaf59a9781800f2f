//! Which strings are the same under a collection's default collation. The server compares: nothing here knows languages.

use std::collections::HashSet;

use mongodb::bson::raw::CString;
use mongodb::bson::{RawArray, RawArrayBuf, RawBsonRef, RawDocument, RawDocumentBuf, rawdoc};
use mongodb::{ClientSession, Database};

use crate::authoring::lookup::{Found, Lookup, texts_at};
use crate::engine::documents::find::{Flow, In, aggregate, each, query};
use crate::server::stop::RunError;

/// Whether a collection that is not empty has a default collation. Listing its options needs a privilege of its own;
/// comparing strings in it does not.
pub(crate) async fn is_collated(
    database: &Database,
    session: Option<&mut ClientSession>,
    collection: &str,
    place: In,
) -> Result<bool, RunError> {
    // Without a collation these two ways to write one letter differ. The second depends on the document, so that the
    // server compares them in the collection, and not while it plans.
    let letter = rawdoc! { "$cond": [{ "$eq": [{ "$type": "$_id" }, "missing"] }, "", "e\u{301}"] };
    let stages = RawArrayBuf::from_iter([
        rawdoc! { "$limit": 1 },
        rawdoc! { "$match": { "$expr": { "$eq": ["\u{e9}", letter] } } },
        rawdoc! { "$project": { "_id": 1 } },
    ]);
    Ok(!query(database, session, aggregate(collection, stages, place)?).await?.is_empty())
}

/// Lets `found` know which stored strings are the same as those that a look-up asks for in this filter, where the
/// collection has a collation.
pub(crate) async fn equate(
    database: &Database,
    mut session: Option<&mut ClientSession>,
    lookup: &Lookup,
    found: &mut Found,
    filter: &RawDocument,
    place: In,
) -> Result<(), RunError> {
    let mut texts = asked(lookup, filter)?;
    if texts.is_empty()
        || !is_collated(database, session.as_deref_mut(), &lookup.collection, place).await?
    {
        return Ok(());
    }
    let project = RawDocumentBuf::from_iter([(CString::try_from(lookup.path())?, 1)]);
    let stages = RawArrayBuf::from_iter([
        rawdoc! { "$match": filter.to_owned() },
        rawdoc! { "$project": project },
    ]);
    let stored = aggregate(&lookup.collection, stages, place)?;
    each(database, session.as_deref_mut(), stored, |document| {
        texts.extend(texts_at(document, lookup));
        Ok(Flow::On)
    })
    .await?;
    let values = RawArrayBuf::from_iter(texts.iter().map(|text| &**text));
    // one document of the collection, so that its collation holds
    let stages = RawArrayBuf::from_iter([
        rawdoc! { "$limit": 1 },
        rawdoc! { "$project": { "text": { "$literal": values } } },
        rawdoc! { "$unwind": "$text" },
        rawdoc! { "$group": { "_id": "$text", "same": { "$push": "$text" } } },
    ]);
    let groups = aggregate(&lookup.collection, stages, place)?;
    each(database, session, groups, |group| {
        let same: Vec<Box<str>> = strings(group.get_array("same")?).collect();
        if same.len() > 1 {
            found.equate(lookup, &same);
        }
        Ok(Flow::On)
    })
    .await?;
    Ok(())
}

/// The strings that a look-up's filter asks for.
fn asked(lookup: &Lookup, filter: &RawDocument) -> Result<HashSet<Box<str>>, RunError> {
    let Some(RawBsonRef::Document(values)) = filter.get(lookup.path())? else {
        return Ok(HashSet::new());
    };
    Ok(strings(values.get_array("$in")?).collect())
}

fn strings(values: &RawArray) -> impl Iterator<Item = Box<str>> {
    values.into_iter().filter_map(|value| value.ok()?.as_str().map(Box::from))
}
