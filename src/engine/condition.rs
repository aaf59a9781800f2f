//! Checks conditions against the database.

use mongodb::bson::{Bson, Document, RawDocument, RawDocumentBuf, Timestamp, doc};

use crate::authoring::condition::{Condition, Kind};
use crate::authoring::naming::Name;
use crate::authoring::table::VersionUpgrade;
use crate::engine::context::Context;
use crate::engine::documents::evaluate;
use crate::engine::documents::find::{In, query};
use crate::engine::documents::unfit::is_refusal;
use crate::process::exit::Outcome;
use crate::process::failure::Failure;
use crate::server::stop::RunError;
use crate::visible::cut;

/// How many documents a failed condition counts at most.
const COUNTED: i32 = 1000;

/// How many documents a failed condition names.
const NAMED: i64 = 10;

/// How long an `_id` may be in a message, in bytes.
const ID: usize = 80;

/// Checks a condition of `upgrade` against majority-committed data that includes everything written up to `since`.
///
/// # Errors
///
/// It does not hold: [`Outcome::ConditionFailed`], naming up to ten documents by their `_id`s.
pub(crate) async fn ask(
    context: &Context,
    upgrade: &VersionUpgrade,
    condition: &Condition,
    since: Option<Timestamp>,
) -> Result<(), RunError> {
    let Condition { description, .. } = condition;
    let _doing = context
        .activity
        .doing(format!("asking condition \"{description}\" of {}", upgrade.version));
    let asking = Asking { context, condition, since };
    let found = match &condition.kind {
        Kind::None => in_the_way(&asking).await,
        Kind::Some => none_at_all(&asking).await,
        Kind::Unique(fields) => sharing(&asking, fields).await,
    };
    if let Err(RunError::Driver(error)) = &found
        && is_refusal(error)
    {
        let whose = format!("condition \"{description}\" of {}", upgrade.version);
        evaluate::known_filter(context, &whose, &condition.collection, &condition.filter).await?;
    }
    let found = found?;
    let Some(Found { what, remedy }) = found else { return Ok(()) };
    let remedy = condition.remedy.as_deref().unwrap_or(&remedy);
    let skip = if condition.skippable { ", or set GATE_SKIP_CONDITIONS=true" } else { "" };
    Err(RunError::Failure(Failure::new(
        Outcome::ConditionFailed,
        format!(
            "condition \"{}\" of {} does not hold: {what}",
            condition.description, upgrade.version
        ),
        format!("{remedy}, then run it again{skip}"),
    )))
}

/// What keeps a condition from holding, and what to do about it.
struct Found {
    what: String,
    remedy: String,
}

/// A condition that is asked.
struct Asking<'a> {
    context: &'a Context,
    condition: &'a Condition,
    since: Option<Timestamp>,
}

impl Asking<'_> {
    /// What a pipeline makes of the documents that match the condition's filter.
    async fn aggregate(&self, stages: Vec<Document>) -> Result<Vec<RawDocumentBuf>, RunError> {
        let mut pipeline = vec![doc! { "$match": self.condition.filter.clone() }];
        pipeline.extend(stages);
        let command = doc! {
            "aggregate": &*self.condition.collection,
            "pipeline": pipeline,
            "cursor": {},
            "allowDiskUse": true,
            "readConcern": In::Plain(self.since).read_concern(),
        };
        let command = RawDocumentBuf::try_from(&command)?;
        let asking = query(&self.context.store.database, None, command);
        self.context.stop.guard(asking).await
    }
}

async fn in_the_way(asking: &Asking<'_>) -> Result<Option<Found>, RunError> {
    let name = &asking.condition.collection;
    let count = vec![doc! { "$limit": COUNTED }, doc! { "$count": "n" }];
    let counted = asking.aggregate(count).await?;
    let matching = counted.first().and_then(|count| count.get_i32("n").ok()).unwrap_or_default();
    if matching == 0 {
        return Ok(None);
    }
    let ids = vec![
        doc! { "$project": { "_id": 1 } },
        doc! { "$sort": { "_id": 1 } },
        doc! { "$limit": NAMED },
    ];
    let named = asking.aggregate(ids).await?;
    let ids: Vec<String> = named.iter().map(|document| id(document, "_id")).collect();
    let documents = match matching {
        1 => "1 document".to_owned(),
        COUNTED => format!("{COUNTED} documents or more"),
        n => format!("{n} documents"),
    };
    let (are, more) = (
        if matching == 1 { "is" } else { "are" },
        if i64::from(matching) > NAMED { ", …" } else { "" },
    );
    Ok(Some(Found {
        what: format!("{documents} in {name} {are} in the way, with _id {}{more}", ids.join(", ")),
        remedy: "correct these documents".to_owned(),
    }))
}

async fn none_at_all(asking: &Asking<'_>) -> Result<Option<Found>, RunError> {
    let Condition { collection: name, filter, .. } = asking.condition;
    let one = vec![doc! { "$limit": 1 }, doc! { "$project": { "_id": 1 } }];
    if !asking.aggregate(one).await?.is_empty() {
        return Ok(None);
    }
    let what = match filter.is_empty() {
        true => format!("{name} holds no document"),
        false => format!("no document in {name} is as it asks"),
    };
    Ok(Some(Found { what, remedy: format!("add such a document to {name}") }))
}

async fn sharing(asking: &Asking<'_>, fields: &[Name]) -> Result<Option<Found>, RunError> {
    let name = &asking.condition.collection;
    let found = asking.aggregate(shared(fields)).await?;
    let pair = |pair: &RawDocumentBuf| format!("{} and {}", id(pair, "first"), id(pair, "last"));
    let pairs: Vec<String> = found.iter().map(pair).collect();
    if pairs.is_empty() {
        return Ok(None);
    }
    let more = if pairs.len() as i64 == NAMED / 2 { ", and perhaps others" } else { "" };
    let fields = fields.join(", ");
    Ok(Some(Found {
        what: format!("in {name}, documents share {fields}: _id {}{more}", pairs.join("; ")),
        remedy: format!("give each of them {fields} of its own, or remove one of each pair"),
    }))
}

/// Pairs of documents that share all of these fields, as a unique index would judge: each element of an
/// array is a key, an empty array is one of its own, and what is missing is null. The collection's
/// collation is that of the aggregation.
fn shared(fields: &[Name]) -> Vec<Document> {
    let mut tops = doc! {};
    let mut arrays: Vec<&str> = Vec::new();
    for field in fields {
        let top = field.split('.').next().unwrap_or(field);
        tops.insert(top, format!("${top}"));
        for (dot, _) in field.match_indices('.') {
            if !arrays.contains(&&field[..dot]) {
                arrays.push(&field[..dot]);
            }
        }
    }
    arrays.sort_by_key(|path| path.matches('.').count());
    let mut pipeline = vec![doc! { "$project": { "v": tops } }];
    for path in arrays {
        let unwind = doc! { "path": format!("$v.{path}"), "preserveNullAndEmptyArrays": true };
        pipeline.push(doc! { "$unwind": unwind });
    }
    let mut keys = Vec::new();
    for (position, field) in fields.iter().enumerate() {
        let (key, value) = (format!("k{position}"), format!("$v.{field}"));
        // within an array of arrays the index sees no fields
        let nested: Vec<Bson> = field
            .match_indices('.')
            .map(|(dot, _)| doc! { "$isArray": [format!("$v.{}", &field[..dot])] }.into())
            .collect();
        let empty = doc! { "$literal": [Bson::MinKey] };
        let elements = doc! { "$cond": [{ "$eq": [&value, []] }, empty, &value] };
        let one =
            doc! { "$cond": [{ "$isArray": [&value] }, elements, [{ "$ifNull": [&value, null] }]] };
        let all = doc! { "$cond": [{ "$or": nested }, [null], one] };
        pipeline.push(doc! { "$set": { &key: all } });
        pipeline.push(doc! { "$unwind": format!("${key}") });
        keys.push(format!("${key}"));
    }
    pipeline.extend([
        // a document may have a key several times
        doc! { "$group": { "_id": { "k": keys, "d": "$_id" } } },
        doc! { "$group": {
            "_id": "$_id.k",
            "n": { "$sum": 1 },
            "first": { "$min": "$_id.d" },
            "last": { "$max": "$_id.d" },
        } },
        doc! { "$match": { "n": { "$gt": 1 } } },
        doc! { "$sort": { "first": 1 } },
        doc! { "$limit": NAMED / 2 },
        doc! { "$project": { "_id": 0, "first": 1, "last": 1 } },
    ]);
    pipeline
}

/// An `_id` as text, cut where it is long.
fn id(document: &RawDocument, field: &str) -> String {
    let id = document.get(field).ok().flatten().and_then(|id| Bson::try_from(id).ok());
    let text = id.and_then(|id| serde_json::to_string(&id).ok());
    let mut text = text.unwrap_or_else(|| "unreadable".to_owned());
    cut(&mut text, ID);
    text
}
