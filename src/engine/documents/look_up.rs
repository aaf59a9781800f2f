//! What a batch of documents refers to.

use mongodb::bson::raw::cstr;
use mongodb::bson::{RawDocumentBuf, rawdoc};
use mongodb::error::Error;
use mongodb::{ClientSession, Database};

use crate::authoring::lookup::{Found, Keys, Lookup, Order};
use crate::authoring::step_kind::StepKind;
use crate::authoring::table::VersionUpgrade;
use crate::authoring::transform::Transform;
use crate::engine::author::{self, refused};
use crate::engine::background::{Abandoned, aside};
use crate::engine::documents::collation;
use crate::engine::documents::edited::place;
use crate::engine::documents::find::{Flow, In, LOOK_UP_BATCH, each};
use crate::engine::failing::failed_step;
use crate::server::stop::RunError;

/// How many bytes of documents may be found for a batch.
const FOUND_BYTES: usize = 8 * 1024 * 1024;

/// How many may be found for one document: they are held at once, and where a program is asked twice.
const MOST_FOUND: usize = 20 * 1024 * 1024;

const TOO_MUCH_FOUND: &str =
    "what its look-ups find is more than the 20 MiB that are held for one document";

const TOO_MANY_VALUES: &str =
    "it refers to more values than the server can look up at once, as an order by `_id` needs";

/// Documents, and what they refer to.
pub(crate) struct Gathered {
    pub(crate) documents: Vec<RawDocumentBuf>,
    pub(crate) found: Found,
    /// Those behind them, with which it would be too much.
    pub(crate) rest: Vec<RawDocumentBuf>,
}

/// Looks up what documents refer to; of fewer of them where that is too much to be held.
pub(crate) async fn gather(
    database: &Database,
    mut session: Option<&mut ClientSession>,
    upgrade: &VersionUpgrade,
    transform: &Transform,
    mut documents: Vec<RawDocumentBuf>,
    place: In,
) -> Result<Gathered, RunError> {
    let mut rest = Vec::new();
    loop {
        let most = if documents.len() > 1 { FOUND_BYTES } else { MOST_FOUND };
        let own = transform.clone();
        let version = upgrade.clone();
        let asking = move |_: &Abandoned| {
            let mut found = Found::default();
            let filters = look_ups(&version, &own, &documents, &mut found)?;
            Ok((documents, found, filters))
        };
        let (asked, mut found, filters) = aside(asking).await?;
        documents = asked;
        // what several queries find comes in no common order
        let is_in_parts = filters.windows(2).any(|pair| {
            let lookup = transform.lookups.get(pair[0].0);
            pair[0].0 == pair[1].0 && lookup.is_some_and(|lookup| lookup.order() == Order::Id)
        });
        let mut flow = if is_in_parts { Flow::Enough } else { Flow::On };
        for (position, filter) in filters {
            if flow == Flow::Enough {
                break;
            }
            let Some(lookup) = transform.lookups.get(position) else { continue };
            if lookup.collated {
                let session = session.as_deref_mut();
                collation::equate(database, session, lookup, &mut found, &filter, place).await?;
            }
            let find = look_up(lookup, filter, place)?;
            let session = session.as_deref_mut();
            flow = take(database, session, upgrade, transform, &mut found, (lookup, find), most)
                .await?;
        }
        if flow == Flow::On {
            let session = session.as_deref_mut();
            flow = take_in_order(database, session, upgrade, transform, &mut found, place, most)
                .await?;
        }
        if flow == Flow::On {
            return Ok(Gathered { documents, found, rest });
        }
        if let [document] = &documents[..] {
            let (what, next) = match is_in_parts {
                true => (
                    TOO_MANY_VALUES,
                    "let the look-up find them in natural order, deploy that, then run it again",
                ),
                false => (
                    TOO_MUCH_FOUND,
                    "name with fields what the step needs of them, deploy that, then run it again",
                ),
            };
            let what = format!("{}: {what}", self::place(transform, document));
            return Err(failed_step(upgrade, &transform.name(), &what, next));
        }
        let mut later = documents.split_off(documents.len() / 2);
        later.append(&mut rest);
        rest = later;
    }
}

/// The filters for what the documents refer to, as far as `found` has not asked for it: each with the
/// position of its look-up.
fn look_ups(
    upgrade: &VersionUpgrade,
    transform: &Transform,
    documents: &[RawDocumentBuf],
    found: &mut Found,
) -> Result<Vec<(usize, RawDocumentBuf)>, RunError> {
    let step = transform.name();
    let mut filters = Vec::new();
    for (position, lookup) in transform.lookups.iter().enumerate() {
        let mut keys = Keys::default();
        for document in documents {
            author::call(
                upgrade,
                &step,
                || self::place(transform, document),
                || {
                    lookup.wanted(document, &mut keys);
                    Ok(())
                },
            )?;
        }
        for filter in found.ask(lookup, keys)? {
            filters.push((position, filter));
        }
    }
    Ok(filters)
}

fn look_up(lookup: &Lookup, filter: RawDocumentBuf, place: In) -> Result<RawDocumentBuf, Error> {
    let mut find = rawdoc! {
        "find": &*lookup.collection,
        "filter": filter,
        "projection": lookup.projection()?,
        "batchSize": LOOK_UP_BATCH,
    };
    if lookup.order() == Order::Id {
        find.append(cstr!("sort"), rawdoc! { "_id": 1 });
        find.append(cstr!("allowDiskUse"), true);
    }
    if let Some(concern) = place.read_concern() {
        find.append(cstr!("readConcern"), RawDocumentBuf::try_from(&concern)?);
    }
    Ok(find)
}

/// Takes what a query for a look-up finds, until that is more than `most` bytes.
async fn take(
    database: &Database,
    session: Option<&mut ClientSession>,
    upgrade: &VersionUpgrade,
    transform: &Transform,
    found: &mut Found,
    (lookup, find): (&Lookup, RawDocumentBuf),
    most: usize,
) -> Result<Flow, RunError> {
    let place =
        || format!("a document of {} that look-up \"{}\" found", lookup.collection, lookup.name);
    each(database, session, find, |document| {
        found
            .add(lookup, document)
            .map_err(|error| refused(error, upgrade, &transform.name(), &place()))?;
        Ok(if found.bytes() > most { Flow::Enough } else { Flow::On })
    })
    .await
}

/// Reads what was found several times for one value again, in its order.
async fn take_in_order(
    database: &Database,
    mut session: Option<&mut ClientSession>,
    upgrade: &VersionUpgrade,
    transform: &Transform,
    found: &mut Found,
    place: In,
    most: usize,
) -> Result<Flow, RunError> {
    for lookup in &transform.lookups {
        for filter in found.ask_again(lookup)? {
            let mut find = look_up(lookup, filter, place)?;
            find.append(cstr!("showRecordId"), true);
            let session = session.as_deref_mut();
            let flow =
                take(database, session, upgrade, transform, found, (lookup, find), most).await?;
            if flow == Flow::Enough {
                return Ok(flow);
            }
        }
        found.put_in_order(lookup);
    }
    Ok(Flow::On)
}
