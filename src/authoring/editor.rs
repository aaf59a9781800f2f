//! Where a transform's edits come from, and what an editor answers for one document.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use mongodb::bson::{DateTime, RawDocument, RawDocumentBuf};

use crate::authoring::edit::{Counts, Edits, Inserts};
use crate::authoring::lookup::Found;
use crate::authoring::pipeline::Pipeline;
use crate::authoring::step_error::StepError;

/// A function of the author's, called with one document after another.
pub(crate) type Function =
    dyn Fn(&RawDocument, &Found, &mut Edits) -> Result<(), StepError> + Send + Sync;

/// Where a transform's edits come from.
///
/// A function is called by the engine itself. Every other kind is a description here; the engine opens what carries it
/// out (`engine::editors`) and asks it about a whole batch of documents at a time.
#[derive(Clone)]
pub(crate) enum Editor {
    /// A function of the author's.
    Function(Arc<Function>),
    /// A pipeline that the server evaluates.
    Pipeline(Arc<Pipeline>),
    /// A program of the author's, in a process of its own.
    Program(Arc<Run>),
}

/// What is started, and how.
#[derive(Clone, Debug)]
pub(crate) struct Run {
    /// The program, and its arguments.
    pub(crate) command: Vec<String>,
    /// Its variables besides PATH, HOME and LANG, which are the gate's.
    pub(crate) env: BTreeMap<String, String>,
    /// How long it may take for one document.
    pub(crate) timeout: Duration,
}

impl Run {
    /// Why it cannot be started on any machine.
    pub(crate) fn mistake(&self) -> Option<String> {
        let Some(program) = self.command.first().filter(|program| !program.is_empty()) else {
            return Some("it names no program to start".to_owned());
        };
        if self.command.iter().any(|part| part.contains('\0')) {
            return Some(format!("the command of {program:?} holds a zero byte"));
        }
        let wrong = |name: &str| name.is_empty() || name.contains(['=', '\0']);
        if let Some(name) = self.env.keys().find(|name| wrong(name)) {
            return Some(format!("no variable can be called {name:?}"));
        }
        if let Some((name, _)) = self.env.iter().find(|(_, value)| value.contains('\0')) {
            return Some(format!("the value of its variable {name} holds a zero byte"));
        }
        self.timeout
            .is_zero()
            .then(|| "its timeout is zero: no program answers in no time".to_owned())
    }
}

/// What an editor that is asked says of one document.
///
/// It takes the way of an author's edits: it is checked, counted, verified and written like what a function asks for.
#[derive(Default)]
pub(crate) struct Answer {
    /// The document that the answer belongs to, where it is not the one that was given: the editor read it again and
    /// found it changed. It still matches the transform's filter.
    pub(crate) onto: Option<RawDocumentBuf>,
    /// What the document becomes as a whole; nothing else is said of its fields then.
    pub(crate) becomes: Option<RawDocumentBuf>,
    /// The top-level fields to set, in order. Their values are taken byte for byte.
    pub(crate) set: RawDocumentBuf,
    /// The top-level fields to remove.
    pub(crate) unset: Vec<String>,
    /// Documents to add to other collections, each with its `_id`.
    pub(crate) inserts: Inserts,
    /// What to count, by counter.
    pub(crate) counts: Counts,
    /// Whether the document is to be deleted.
    pub(crate) delete: bool,
    /// Why the document cannot be transformed: that ends the run with 14. It holds no contents of a document.
    pub(crate) refuse: Option<String>,
    /// Whether the editor itself has made sure that it would leave alone what the document becomes. Otherwise it is
    /// asked about that as well, where the transform is convergent.
    pub(crate) verified: bool,
}

impl Answer {
    /// The edits that the answer asks for.
    ///
    /// # Errors
    ///
    /// The refusal, or a field that no edit can name.
    pub(crate) fn into_edits(self, started: DateTime) -> Result<Edits, StepError> {
        if let Some(reason) = self.refuse {
            return Err(StepError::Refused(reason));
        }
        let mut edits = Edits::at(started);
        let unset = self.unset.iter().map(String::as_str);
        for field in self.set.iter_elements().flatten().map(|set| set.key().as_str()).chain(unset) {
            if field.contains('.') {
                return Err(StepError::refused(format!(
                    "it sets or removes the field `{field}`, and a name with a dot would be a path"
                )));
            }
        }
        for field in &self.set {
            let (field, value) = field?;
            edits.set(field.as_str(), value);
        }
        self.unset.into_iter().for_each(|field| edits.unset(field));
        if let Some(becomes) = self.becomes {
            edits.become_whole(becomes);
        }
        self.inserts.into_iter().for_each(|(into, document)| edits.insert(into, document));
        self.counts.into_iter().for_each(|(counter, n)| edits.count(counter, n));
        if self.delete {
            edits.delete();
        }
        Ok(edits)
    }
}

#[cfg(test)]
mod tests {
    use mongodb::bson::rawdoc;

    use super::*;

    #[test]
    fn a_name_with_a_dot_is_no_path() {
        let set = Answer { set: rawdoc! { "a.b": 1 }, ..Answer::default() };
        let unset = Answer { unset: vec!["a.b".to_owned()], ..Answer::default() };
        for answer in [set, unset] {
            assert!(answer.into_edits(DateTime::MIN).is_err());
        }
    }

    #[test]
    fn values_are_taken_byte_for_byte() {
        // a document that repeats a field, and a string that is not valid UTF-8
        let repeated = rawdoc! { "a": 1, "a": 2 };
        let set = rawdoc! { "whole": repeated, "b": 1_i64 };
        let document = rawdoc! { "_id": 1 };
        let answer = Answer { set: set.clone(), ..Answer::default() };
        let edits = answer.into_edits(DateTime::MIN).unwrap();
        let changes = edits.changes().unwrap().unwrap();
        let after = changes.apply(&document).unwrap();
        let expected = rawdoc! { "_id": 1, "b": 1_i64, "whole": rawdoc! { "a": 1, "a": 2 } };
        assert_eq!(after, expected.as_bytes());
    }
}
