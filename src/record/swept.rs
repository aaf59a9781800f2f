//! What mode `sweep` makes of the record: one entry, which grows with every commit of its run.

use mongodb::bson::doc;

use crate::process::action::UpgradeAction;
use crate::record::document::Record;
use crate::record::history::{Action, Entry, Writer, action_document, capped};

/// What a sweep has done so far.
#[derive(Clone, Debug, Default)]
pub(crate) struct Swept {
    pub(crate) documents: u64,
    pub(crate) actions: Vec<UpgradeAction>,
    pub(crate) duration_ms: i64,
}

impl Record {
    /// The record whose newest entry says what the sweep of this run has done so far. Version and floor stay.
    pub(crate) fn swept(&self, writer: &Writer, swept: &Swept) -> Self {
        let details = doc! {
            // as it is stored: Python may have written it
            "version": &self.text,
            "documents": swept.documents as i64,
            "actions": swept.actions.iter().map(action_document).collect::<Vec<_>>(),
            "duration_ms": swept.duration_ms,
        };
        let floor = self.floor();
        let entry = Entry::new(&self.version, Action::Sweep, floor.as_ref(), writer, details);
        Record { history: capped(self.before_sweep(writer), &entry), ..self.clone() }
    }

    /// The record without the entry of this run's sweep, if it has one.
    pub(crate) fn without_sweep(&self, writer: &Writer) -> Option<Self> {
        let history = self.before_sweep(writer);
        let has = history.len() < self.history.len();
        has.then(|| Record { history: history.to_vec().into(), ..self.clone() })
    }

    /// Whether the newest entry is that of this run's sweep.
    pub(crate) fn notes_sweep(&self, writer: &Writer) -> bool {
        self.history.last().is_some_and(|entry| entry.is_sweep_of(&writer.run_id))
    }

    /// How many documents the entries of a run's sweep count.
    pub(crate) fn swept_by(&self, run_id: &str) -> u64 {
        let own = self.history.iter().filter(|entry| entry.is_sweep_of(run_id));
        let documents = own.map(|entry| entry.document.get_i64("documents").unwrap_or_default());
        documents.sum::<i64>().max(0) as u64
    }

    fn before_sweep(&self, writer: &Writer) -> &[Entry] {
        let own = usize::from(self.notes_sweep(writer));
        &self.history[..self.history.len() - own]
    }
}

impl Entry {
    fn is_sweep_of(&self, run_id: &str) -> bool {
        self.action == Action::Sweep && self.run_id() == Some(run_id)
    }
}
