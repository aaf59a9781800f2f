//! Calling the author's function, or asking another editor, and checking what it says.

use mongodb::ClientSession;
use mongodb::bson::{DateTime, RawDocument, RawDocumentBuf};

use crate::authoring::edit::{Edits, Extent, MAX_DOCUMENT_SIZE, Whole, deletion, guarded_deletion};
use crate::authoring::editor::{Answer, Editor};
use crate::authoring::lookup::Found;
use crate::authoring::step_error::StepError;
use crate::authoring::step_kind::StepKind;
use crate::authoring::table::VersionUpgrade;
use crate::authoring::transform::Transform;
use crate::engine::author::{self, about, refused};
use crate::engine::background::{Abandoned, aside};
use crate::engine::context::Context;
use crate::engine::documents::converge::{Verify, edits, verify, verify_known};
use crate::engine::documents::edited::{
    Batch, Edited, Effect, HELD_BYTES, MOST_COUNTED, Purpose, Sizes, last, place,
};
use crate::engine::documents::find::{In, SIZE, check_id};
use crate::engine::documents::look_up::{Gathered, gather};
use crate::engine::documents::unfit::OUTGROWS;
use crate::engine::editors::editor::{Asked, Origin};
use crate::engine::editors::open as editors;
use crate::server::stop::RunError;

/// A batch, and what was too much for it.
pub(crate) struct Computed {
    pub(crate) batch: Batch,
    /// The documents behind those of the batch.
    pub(crate) rest: Vec<RawDocumentBuf>,
    /// The bytes of what was found for the batch.
    pub(crate) found: usize,
}

/// How the edits of documents are computed.
#[derive(Clone, Copy)]
pub(crate) struct How {
    pub(crate) purpose: Purpose,
    pub(crate) promise: Verify,
    pub(crate) origin: Origin,
    /// Where the documents were read, and what they refer to.
    pub(crate) place: In,
}

/// Computes the edits of documents that were read together, in the session's transaction where there is one; of fewer of
/// them where that is too much to be held. An editor that is asked is asked about their outputs at once, as far as what
/// was found for them answers their look-ups too.
pub(crate) async fn compute(
    context: &Context,
    mut session: Option<&mut ClientSession>,
    upgrade: &VersionUpgrade,
    transform: &Transform,
    gathered: Gathered,
    how: How,
) -> Result<Computed, RunError> {
    let Gathered { mut documents, found, rest } = gathered;
    let asking = session.as_deref_mut();
    let answers = answers(context, asking, upgrade, transform, &documents, &found, how).await?;
    let mut later = match &answers {
        Some(answers) => documents.split_off(answers.len()),
        None => vec![],
    };
    let computing = {
        let (upgrade, transform) = (upgrade.clone(), transform.clone());
        move |abandoned: &Abandoned| {
            let computed =
                computed(&upgrade, &transform, documents, answers, &found, how, abandoned)?;
            Ok((computed, found))
        }
    };
    let (mut computed, found) = aside(computing).await?;
    computed.rest.append(&mut later);
    computed.rest.extend(rest);
    let outputs = std::mem::take(&mut computed.batch.outputs);
    let is_known = |output: &RawDocumentBuf| {
        transform.lookups.iter().all(|lookup| found.answers(lookup, output))
    };
    let (known, unknown) = match editors::is_asked(transform) {
        true => outputs.into_iter().partition(is_known),
        false => (vec![], outputs),
    };
    computed.batch.outputs = unknown;
    verify_found(context, session, upgrade, transform, known, found, how.place).await?;
    Ok(computed)
}

/// What the transform's editor says of documents; `None` if it is a function.
async fn answers(
    context: &Context,
    session: Option<&mut ClientSession>,
    upgrade: &VersionUpgrade,
    transform: &Transform,
    documents: &[RawDocumentBuf],
    found: &Found,
    how: How,
) -> Result<Option<Vec<Answer>>, RunError> {
    let How { origin, place, .. } = how;
    let (database, editors) = (context.database(), &context.editors);
    if !editors::is_asked(transform) {
        return Ok(None);
    }
    let asked =
        |session| Asked { database, session, place, upgrade, transform, documents, found, origin };
    match session {
        Some(session) => editors.answers(asked(Some(session))).await,
        None => context.retry(async || editors.answers(asked(None)).await).await,
    }
}

fn computed(
    upgrade: &VersionUpgrade,
    transform: &Transform,
    documents: Vec<RawDocumentBuf>,
    answers: Option<Vec<Answer>>,
    found: &Found,
    how: How,
    abandoned: &Abandoned,
) -> Result<Computed, RunError> {
    let step = &transform.name();
    for document in &documents {
        check_id(document).map_err(|e| refused(e, upgrade, step, &place(transform, document)))?;
    }
    let (mut read, mut end, mut held) = (0, last(&documents)?, 0);
    let (mut edited, mut outputs) = (Vec::new(), Vec::new());
    let mut documents = documents.into_iter();
    let mut answers = answers.map(Vec::into_iter);
    while let Some(mut document) = documents.next() {
        abandoned.check()?;
        read += 1;
        let mut answer = answers.as_mut().and_then(Iterator::next);
        if let Some(onto) = answer.as_mut().and_then(|answer| answer.onto.take()) {
            document = onto;
        }
        let verified = answer.as_ref().is_some_and(|answer| answer.verified);
        let effect = author::call(
            upgrade,
            step,
            || place(transform, &document),
            || effect(upgrade.started(), transform, &document, found, answer, how),
        )?;
        let Some(mut effect) = effect else { continue };
        if how.promise == Verify::Output
            && let Some(output) = effect.output.take()
            && !verified
            && let Some(output) = verify_known(upgrade, transform, output, found)?
        {
            held += output.as_bytes().len();
            outputs.push(output);
        }
        let one = Edited { document, effect };
        held += one.document.as_bytes().len() + one.bytes_besides();
        edited.push(one);
        if held > HELD_BYTES && !documents.as_slice().is_empty() {
            end = edited.last().and_then(Edited::id);
            break;
        }
    }
    let batch = Batch { edited, read, last: end, sizes: Sizes::Asked, outputs };
    Ok(Computed { batch, rest: documents.collect(), found: found.bytes() })
}

/// Looks up what documents refer to, and computes and verifies their edits, all in one place.
pub(crate) async fn compute_in(
    context: &Context,
    mut session: Option<&mut ClientSession>,
    upgrade: &VersionUpgrade,
    transform: &Transform,
    documents: Vec<RawDocumentBuf>,
    how: How,
) -> Result<Computed, RunError> {
    let (database, looking_up) = (context.database(), session.as_deref_mut());
    let gathered = gather(database, looking_up, upgrade, transform, documents, how.place).await?;
    let computing = session.as_deref_mut();
    let mut computed = compute(context, computing, upgrade, transform, gathered, how).await?;
    let outputs = std::mem::take(&mut computed.batch.outputs);
    verify_all(context, session, upgrade, transform, outputs, how.place).await?;
    Ok(computed)
}

/// Verifies the outputs that need further look-ups, or are to be asked about, by giving them to the transform again.
pub(crate) async fn verify_all(
    context: &Context,
    mut session: Option<&mut ClientSession>,
    upgrade: &VersionUpgrade,
    transform: &Transform,
    mut outputs: Vec<RawDocumentBuf>,
    place: In,
) -> Result<(), RunError> {
    while !outputs.is_empty() {
        let (database, looking_up) = (context.database(), session.as_deref_mut());
        let gathered = gather(database, looking_up, upgrade, transform, outputs, place).await?;
        let Gathered { documents, found, rest } = gathered;
        let asking = session.as_deref_mut();
        verify_found(context, asking, upgrade, transform, documents, found, place).await?;
        outputs = rest;
    }
    Ok(())
}

/// Verifies outputs with what was found for them.
async fn verify_found(
    context: &Context,
    mut session: Option<&mut ClientSession>,
    upgrade: &VersionUpgrade,
    transform: &Transform,
    mut outputs: Vec<RawDocumentBuf>,
    mut found: Found,
    place: In,
) -> Result<(), RunError> {
    let (purpose, promise) = (Purpose::Preflight, Verify::Output);
    let how = How { purpose, promise, origin: Origin::Computed, place };
    while !outputs.is_empty() {
        let asking = session.as_deref_mut();
        let answers = answers(context, asking, upgrade, transform, &outputs, &found, how).await?;
        let rest = answers.as_ref().map_or(vec![], |some| outputs.split_off(some.len()));
        let (upgrade, transform) = (upgrade.clone(), transform.clone());
        let verifying = move |_: &Abandoned| {
            let mut answers = answers.map(Vec::into_iter);
            for output in &outputs {
                let answer = answers.as_mut().and_then(Iterator::next);
                verify(&upgrade, &transform, output, &found, answer)?;
            }
            Ok(found)
        };
        found = aside(verifying).await?;
        outputs = rest;
    }
    Ok(())
}

fn effect(
    started: DateTime,
    transform: &Transform,
    document: &RawDocument,
    found: &Found,
    answer: Option<Answer>,
    how: How,
) -> Result<Option<Effect>, StepError> {
    let edits = edits(started, transform, document, found, answer)
        .map_err(|error| about(error, transform, document, found))?;
    let declared = |name: &str| transform.counters.iter().any(|counter| counter.name == name);
    if let Some(name) = edits.counters().find(|name| !declared(name)) {
        return Err(StepError::refused(undeclared(transform, name)));
    }
    if let Some(name) = edits.counts().find(|(_, n)| *n > MOST_COUNTED).map(|(name, _)| name) {
        return Err(StepError::refused(format!(
            "it counts \"{name}\" by more than {MOST_COUNTED} for one document"
        )));
    }
    match edits.is_empty() {
        true => Ok(None),
        false => checked(transform, document, edits, how.purpose, how.promise),
    }
}

fn undeclared(transform: &Transform, name: &str) -> String {
    let names: Vec<&str> = transform.counters.iter().map(|counter| &*counter.name).collect();
    let declared = match names.as_slice() {
        [] => "declares none".to_owned(),
        names => format!("declares {}", names.join(", ")),
    };
    let with = match &transform.editor {
        Editor::Program(_) => "report",
        Editor::Function(_) | Editor::Pipeline(_) => "action()",
    };
    format!(
        "it counts \"{name}\", a counter that the step does not declare with {with} (it {declared})"
    )
}

/// What the author's edits do to the document, or `None` if they leave it as it is.
///
/// # Errors
///
/// The edits break a rule that can be checked without the server: they touch a field or a collection that the
/// transform does not name, delete although it does not say so, or make the document larger than 16 MiB.
fn checked(
    transform: &Transform,
    document: &RawDocument,
    edits: Edits,
    purpose: Purpose,
    promise: Verify,
) -> Result<Option<Effect>, StepError> {
    let mut inserted = 0;
    for insert in edits.inserts() {
        let insert = insert?;
        if !transform.inserts_into.contains(insert.collection) {
            return Err(StepError::refused(format!(
                "it inserts into {}, which the transform does not name with inserts_into",
                insert.collection
            )));
        }
        inserted += insert.document.as_bytes().len();
    }
    if !transform.fields.is_empty()
        && let Some(field) =
            edits.fields().find(|field| !transform.fields.iter().any(|own| own == field))
    {
        return Err(StepError::refused(format!(
            "it edits {field}, which the transform does not name among its fields"
        )));
    }
    let read = document.as_bytes().len();
    // where only some fields were read, the size of the whole document may be among them
    let before = document.get_i32(SIZE).map_or(read, |size| size.max(0) as usize);
    let (mut after, mut output) = (before, None);
    let deletes = edits.deletes(&transform.collection, document)?;
    let deletion = match (deletes, purpose) {
        (false, _) => None,
        (true, _) if !transform.deletes => {
            let reason = "it deletes the document, which the transform does not say with deletes()";
            return Err(StepError::refused(reason));
        }
        (true, Purpose::Preflight) => None,
        (true, Purpose::Write) => Some(deletion(document)?),
        (true, Purpose::Guarded) => Some(guarded_deletion(document, &transform.fields)?),
    };
    let changes = edits.changes()?;
    let whole = edits.becomes().map(|becomes| Whole::new(document, becomes)).transpose()?;
    let extent = if transform.fields.is_empty() { Extent::Whole } else { Extent::Fields };
    let mut large = None;
    let statement = match &changes {
        None if let Some((whole, becomes)) = whole.as_ref().zip(edits.becomes()) => {
            if becomes == document && inserted == 0 {
                return Ok(None);
            }
            after = becomes.as_bytes().len();
            if after > MAX_DOCUMENT_SIZE {
                return Err(StepError::refused(OUTGROWS));
            }
            if promise != Verify::Nothing {
                output = Some(becomes.to_owned());
            }
            match purpose {
                Purpose::Preflight => None,
                Purpose::Write => Some(whole.statement()?),
                Purpose::Guarded => {
                    let statement = whole.guarded_statement()?;
                    if statement.is_none() {
                        large = Some(whole.touched()?);
                    }
                    statement
                }
            }
        }
        Some(changes) => {
            let bytes = changes.apply(document)?;
            if bytes == document.as_bytes() && inserted == 0 {
                return Ok(None);
            }
            after = (before + bytes.len()).saturating_sub(read);
            if after > MAX_DOCUMENT_SIZE {
                return Err(StepError::refused(OUTGROWS));
            }
            let becomes = RawDocumentBuf::from_bytes(bytes)?;
            let statement = match purpose {
                Purpose::Preflight => None,
                Purpose::Write => Some(changes.statement(document, extent)?),
                Purpose::Guarded => {
                    let statement = changes.guarded_statement(document, extent, &becomes)?;
                    if statement.is_none() {
                        large = Some(changes.touched(document, &becomes)?);
                    }
                    statement
                }
            };
            if promise != Verify::Nothing {
                output = Some(becomes);
            }
            statement
        }
        None => {
            // what only adds others is its own output
            if promise == Verify::Output && !deletes {
                output = Some(document.to_owned());
            }
            None
        }
    };
    let changes = changes.is_some() || whole.is_some();
    let (counts, inserts) = edits.into_counts_and_inserts();
    let bytes = before.max(after) + inserted;
    Ok(Some(Effect {
        changes,
        deletes,
        counts,
        inserts,
        statement,
        large,
        deletion,
        bytes,
        output,
    }))
}

#[cfg(test)]
mod tests {
    use mongodb::bson::{Bson, rawdoc};

    use super::*;
    use crate::authoring::table::Upgrades;
    use crate::authoring::upgrade::Upgrade;
    use crate::engine::documents::edited::TRANSACTION_BYTES;
    use crate::process::action::ActionType;
    use crate::version::Version;

    /// What a transform makes of `{ _id, n }` for each number.
    fn computed(n: i32, transform: &Transform) -> Batch {
        let code = Version::parse_code("0.8.0").unwrap();
        let step = Transform::new("things", |_, _, _| Ok(()));
        let upgrades = Upgrades::new([Upgrade::new("0.8.0", "an upgrade").step(step)], &code);
        let documents = (0..n).map(|n| rawdoc! { "_id": n, "n": n }).collect();
        let upgrade = &upgrades.unwrap();
        let upgrade = &upgrade.versions()[0];
        let (purpose, promise) = (Purpose::Write, Verify::Nothing);
        let how = How { purpose, promise, origin: Origin::Stored, place: In::Transaction };
        let abandoned = Abandoned::default();
        super::computed(upgrade, transform, documents, None, &Found::default(), how, &abandoned)
            .unwrap()
            .batch
    }

    #[test]
    fn what_is_only_counted_is_no_edit() {
        let transform = Transform::new("things", |document, _, edits| {
            edits.count("seen", 1);
            if document.get_i32("n").is_ok_and(|n| n == 2) {
                edits.set("n", 0);
            }
            Ok(())
        })
        .action(ActionType::Update, "seen", "See {n}");
        let batch = computed(4, &transform);
        assert_eq!((batch.read, batch.last.clone()), (4, Some(Bson::Int32(3))));
        assert_eq!(batch.done().documents, 1);
        assert_eq!(batch.done().counts.get("seen"), Some(&1));
    }

    #[test]
    fn a_part_of_a_batch_ends_at_its_last_edit() {
        let transform = Transform::new("things", |document, _, edits| {
            match document.get_i32("n") {
                Ok(9) => {}
                _ => edits.set("n", -1),
            }
            Ok(())
        });
        let batch = computed(10, &transform);
        let part = |tried| {
            let (part, last) = batch.part(tried);
            (part.len(), last)
        };
        assert_eq!(part(0), (9, Some(Bson::Int32(9))), "all, and the document behind them");
        assert_eq!(part(1), (4, Some(Bson::Int32(3))));
        assert_eq!(part(3), (1, Some(Bson::Int32(0))));
        assert_eq!(part(64), (1, Some(Bson::Int32(0))));
        assert_eq!(computed(0, &transform).part(1).1, None);

        let transform = Transform::new("things", |_, _, edits| {
            edits.set("load", "x".repeat(TRANSACTION_BYTES / 3));
            Ok(())
        });
        let mut batch = computed(4, &transform);
        batch.cut();
        assert_eq!((batch.edited.len(), batch.last), (2, Some(Bson::Int32(1))));
    }
}
