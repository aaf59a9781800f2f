//! The convergent steps of applied versions, run once more over what old code has written since.
//!
//! A batch commits together with the entry that counts it. On a standalone the entry comes first, so that there is
//! one whenever a document was changed.

use mongodb::bson::{Bson, Timestamp};
use tokio::time::Instant;

use crate::authoring::step::Step;
use crate::authoring::table::VersionUpgrade;
use crate::authoring::transform::Transform;
use crate::engine::documents::edited::{Batch, Purpose};
use crate::engine::documents::reader::Reader;
use crate::engine::failing::{at, in_step};
use crate::engine::preflight::scan::scan;
use crate::engine::steps::transform::{batch_in_transaction, edit_guarded};
use crate::engine::steps::work_of;
use crate::engine::work::{Work, base};
use crate::process::checkpoint::Point;
use crate::process::exit::Outcome;
use crate::process::progress::Progress;
use crate::record::document::Record;
use crate::record::journal::Done;
use crate::record::swept::Swept;
use crate::server::stop::RunError;

/// A step that is run once more.
#[derive(Clone, Copy)]
pub(crate) struct SweptStep<'a> {
    pub(crate) upgrade: &'a VersionUpgrade,
    pub(crate) step: &'a Step,
    pub(crate) transform: &'a Transform,
}

/// A step that is not.
pub(crate) struct LeftOut<'a> {
    pub(crate) upgrade: &'a VersionUpgrade,
    pub(crate) step: &'a Step,
    pub(crate) reason: String,
}

/// What of a table is run once more, and what is not.
#[derive(Default)]
pub(crate) struct Selection<'a> {
    pub(crate) steps: Vec<SweptStep<'a>>,
    pub(crate) left_out: Vec<LeftOut<'a>>,
}

/// Selects the steps of all these versions, in order, that may be run once more.
pub(crate) fn select<'a>(versions: impl IntoIterator<Item = &'a VersionUpgrade>) -> Selection<'a> {
    let all: Vec<(&VersionUpgrade, &Step)> = versions
        .into_iter()
        .flat_map(|upgrade| upgrade.steps().map(move |step| (upgrade, step)))
        .collect();
    let mut selection = Selection::default();
    for (position, &(upgrade, step)) in all.iter().enumerate() {
        let later = &all[position + 1..];
        let sweepable = work_of(step).sweepable().map_err(str::to_owned);
        match sweepable.and_then(|it| unchanged_later(step, it, later).map(|()| it)) {
            Ok(transform) => selection.steps.push(SweptStep { upgrade, step, transform }),
            Err(reason) => selection.left_out.push(LeftOut { upgrade, step, reason }),
        }
    }
    selection
}

/// Nothing after the step changes what it works on: what a later one made of these documents may look like the old
/// shape to it, and what it looks up or adds may have another shape by now.
fn unchanged_later(
    step: &Step,
    transform: &Transform,
    later: &[(&VersionUpgrade, &Step)],
) -> Result<(), String> {
    let others: Vec<&str> =
        step.collections().into_iter().filter(|name| *name != transform.collection).collect();
    for (upgrade, other) in later {
        let changed = match other.touches(&transform.collection) {
            true => Some(&*transform.collection),
            false => others.iter().copied().find(|name| other.writes().contains(name)),
        };
        if let Some(collection) = changed {
            return Err(format!(
                "the later step \"{}\" of {} changes {collection}",
                other.name(),
                upgrade.version
            ));
        }
    }
    Ok(())
}

/// What a sweep has done, step by step.
#[derive(Clone)]
pub(crate) struct Totals<'a> {
    pub(crate) selected: &'a [SweptStep<'a>],
    /// Since the sweep last began, which is what its entry counts.
    pub(crate) done: Vec<Done>,
    /// Before that: something else moved the record, and an entry of its own counts this.
    before: Vec<Done>,
    began: Instant,
}

impl<'a> Totals<'a> {
    pub(crate) fn new(selected: &'a [SweptStep<'a>]) -> Self {
        let none = vec![Done::default(); selected.len()];
        Totals { selected, done: none.clone(), before: none, began: Instant::now() }
    }

    /// Begins again, with another entry.
    pub(crate) fn begin(&mut self) {
        for (before, done) in self.before.iter_mut().zip(&mut self.done) {
            before.add(&std::mem::take(done));
        }
    }

    /// What the whole run has done, step by step.
    pub(crate) fn all(&self) -> impl Iterator<Item = (&SweptStep<'a>, Done)> {
        let done = self.before.iter().zip(&self.done).map(|(before, done)| {
            let mut all = before.clone();
            all.add(done);
            all
        });
        self.selected.iter().zip(done)
    }

    /// How many documents were changed.
    pub(crate) fn documents(&self) -> u64 {
        self.done.iter().map(|done| done.documents).sum()
    }

    fn with(&self, index: usize, more: &Done) -> Self {
        let mut totals = self.clone();
        totals.done[index].add(more);
        totals
    }

    /// What the entry of the history says of it.
    fn entry(&self) -> Swept {
        let changed = self.selected.iter().zip(&self.done).filter(|(_, done)| done.documents > 0);
        Swept {
            documents: self.documents(),
            actions: changed.flat_map(|(it, done)| work_of(it.step).actions(done)).collect(),
            duration_ms: self.began.elapsed().as_millis() as i64,
        }
    }
}

impl Work<'_> {
    /// How many documents a step would change; each is computed and verified. `settled` says which collections no
    /// earlier step of the sweep changes.
    pub(crate) async fn preflight_sweep(
        &self,
        it: SweptStep<'_>,
        since: Option<Timestamp>,
        settled: impl Fn(&str) -> bool,
    ) -> Result<u64, RunError> {
        let SweptStep { upgrade, step, transform } = it;
        let context = self.context;
        let _doing = context.activity.doing(format!("{}: preflight", at(upgrade, &step.name())));
        let scanned = scan(context, upgrade, transform, None, since, settled).await;
        let scanned = context.editors.ended(scanned).await;
        Ok(scanned.map_err(|error| in_step(error, upgrade, step))?.done.documents)
    }

    /// Runs one step over all documents that match its filter now, about `expected` of them.
    pub(crate) async fn sweep_step(
        &mut self,
        totals: &mut Totals<'_>,
        index: usize,
        expected: u64,
    ) -> Result<(), RunError> {
        let SweptStep { upgrade, step, .. } = totals.selected[index];
        let swept = Box::pin(self.passes(totals, index, expected)).await;
        let swept = self.context.editors.ended(swept).await;
        swept.map_err(|error| in_step(error, upgrade, step))
    }

    async fn passes(
        &mut self,
        totals: &mut Totals<'_>,
        index: usize,
        expected: u64,
    ) -> Result<(), RunError> {
        let SweptStep { upgrade, step, transform } = totals.selected[index];
        let context = self.context;
        let _doing = context.activity.doing(format!("{}: sweep", at(upgrade, &step.name())));
        let purpose = if self.session.is_some() { Purpose::Write } else { Purpose::Guarded };
        let mut reader = Reader::new(context, upgrade, transform, purpose, None);
        reader.refresh().await?;
        let mut progress =
            Progress::new(&upgrade.version, "sweep", &transform.collection, expected);
        let mut after = None;
        let (mut before_pass, mut before) = (0, 0);
        loop {
            reader.seek(after.clone());
            let batch = reader.next().await?;
            after = match (batch.edited.is_empty(), &self.session) {
                (true, _) => batch.last,
                (false, Some(_)) => self.sweep_in_transaction(totals, index, &batch).await?,
                (false, None) => {
                    drop(batch);
                    self.sweep_guarded(totals, index, after.as_ref(), &mut reader).await?
                }
            };
            let documents = totals.done[index].documents;
            progress.advance(documents.saturating_sub(before));
            context.activity.moved();
            if after.is_none() {
                if !transform.inserts_into_itself() || documents == before_pass {
                    progress.finish();
                    return Ok(());
                }
                // what it added to its own collection may be behind it
                reader.refresh().await?;
                before_pass = documents;
            }
            before = documents;
        }
    }

    /// One batch, or as much of it as gets through, in one transaction with the entry that counts it.
    async fn sweep_in_transaction(
        &mut self,
        totals: &mut Totals<'_>,
        index: usize,
        batch: &Batch,
    ) -> Result<Option<Bson>, RunError> {
        let SweptStep { upgrade, transform, .. } = totals.selected[index];
        let (writer, so_far) = (&self.context.writer, &*totals);
        let record = |stored: &Record, done: &Done, _: Option<&Bson>| match done.documents {
            // something else has changed them
            0 => stored.clone(),
            _ => stored.swept(writer, &so_far.with(index, done).entry()),
        };
        let (done, last) = batch_in_transaction(self, upgrade, transform, batch, record).await?;
        totals.done[index].add(&done);
        Ok(last)
    }

    /// One batch on a standalone: each edit onto what it was computed from, then the count.
    async fn sweep_guarded(
        &mut self,
        totals: &mut Totals<'_>,
        index: usize,
        after: Option<&Bson>,
        reader: &mut Reader<'_>,
    ) -> Result<Option<Bson>, RunError> {
        let SweptStep { upgrade, transform, .. } = totals.selected[index];
        let context = self.context;
        let stored = base(self.stored.as_ref(), None)?;
        if !stored.notes_sweep(&context.writer) {
            self.compare_and_set(stored.swept(&context.writer, &totals.entry())).await?;
            context.reached(Point::SweepNoted).await;
        }
        let mut done = Done::default();
        let ended = edit_guarded(context, upgrade, transform, after, reader, &mut done).await;
        context.reached(Point::Edited).await;
        totals.done[index].add(&done);
        let noted = match done.documents {
            0 => Ok(()),
            _ => {
                let stored = base(self.stored.as_ref(), None)?;
                self.compare_and_set(stored.swept(&context.writer, &totals.entry())).await
            }
        };
        let last = ended?;
        noted?;
        context.reached(Point::Committed).await;
        Ok(last)
    }

    /// Takes back an entry that counts nothing: something else had changed the documents, or the server refused
    /// every edit. Where it is not known what was written, the entry stays.
    pub(crate) async fn end_sweep(
        &mut self,
        totals: &Totals<'_>,
        ended: &Result<(), RunError>,
    ) -> Result<(), RunError> {
        let known = match ended {
            Ok(()) => true,
            Err(RunError::Failure(failure)) => failure.outcome == Outcome::UpgradeFailed,
            Err(_) => false,
        };
        let stored = self.stored.as_ref().filter(|_| known && totals.documents() == 0);
        match stored.and_then(|record| record.without_sweep(&self.context.writer)) {
            Some(to) => self.compare_and_set(to).await,
            None => Ok(()),
        }
    }
}
