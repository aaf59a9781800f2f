//! Asks a program about batches of documents.

use std::sync::{Arc, Mutex, PoisonError};

use async_trait::async_trait;
use mongodb::bson::RawDocument;

use super::answered::{Answered, Comparison, of_answer, of_input};
use super::conversation::{Fault, More, Question, Running};
use super::messages;
use super::wrong::Wrong;
use crate::authoring::editor::{Answer, Run};
use crate::authoring::step_kind::StepKind;
use crate::authoring::table::VersionUpgrade;
use crate::authoring::transform::Transform;
use crate::engine::documents::edited::{HELD_BYTES, place};
use crate::engine::editors::editor::{Asked, AskedEditor};
use crate::engine::failing::{failed, failed_step};
use crate::server::stop::RunError;

/// A program that is asked what documents become. It is started when it is first asked.
pub(crate) struct ProgramEditor {
    run: Arc<Run>,
    answered: Arc<Mutex<Answered>>,
    running: Option<Running>,
    /// For what it was started.
    step: Option<(VersionUpgrade, String)>,
}

impl ProgramEditor {
    /// `answered` is what is known of the program's answers so far.
    pub(crate) fn new(run: Arc<Run>, answered: Arc<Mutex<Answered>>) -> Self {
        ProgramEditor { run, answered, running: None, step: None }
    }

    async fn ask(&mut self, asked: &Asked<'_>) -> Result<Vec<Answer>, Fault> {
        let Asked { upgrade, transform, documents, found, .. } = asked;
        let question = |position: usize| {
            let document = &documents[position];
            let lookups = transform.lookups.iter();
            let found: Vec<(&str, Vec<&RawDocument>)> =
                lookups.map(|lookup| (&*lookup.name, found.of(lookup, document))).collect();
            let parts = messages::question(document, &found);
            Question { input: of_input(parts.iter().map(|part| &**part)), parts }
        };
        // where this future is dropped, or fails, the program is dropped with it
        let mut running = match self.running.take() {
            Some(running) => running,
            None => Running::start(&self.run, upgrade, transform).await?,
        };
        let compare = |input, answer: &Answer| {
            let mut answered = self.answered.lock().unwrap_or_else(PoisonError::into_inner);
            answered.compare(input, of_answer(answer))
        };
        let (mut answers, mut held, mut again) = (Vec::new(), 0, Vec::new());
        let each = |position: usize, input: u64, message: &RawDocument| {
            let answer = messages::answer(message).map_err(Wrong::NoMessage)?;
            match compare(input, &answer) {
                Comparison::Different => return Err(Wrong::Differently),
                Comparison::First => again.push(position),
                Comparison::Same | Comparison::Unknown => {}
            }
            answers.push(answer);
            held += message.as_bytes().len();
            Ok(if held > HELD_BYTES { More::No } else { More::Yes })
        };
        let time = self.run.timeout;
        running.ask_all(documents.len(), question, time, each).await?;
        // in another order than before: a program that mixes its answers up does not do it in the same way
        if again.len() > 1 {
            again.rotate_left(1);
        }
        let each = |_: usize, input: u64, message: &RawDocument| {
            let answer = messages::answer(message).map_err(Wrong::NoMessage)?;
            match compare(input, &answer) {
                Comparison::Different => Err(Wrong::Differently),
                _ => Ok(More::Yes),
            }
        };
        let twice = running.ask_all(again.len(), |n| question(again[n]), time, each).await;
        twice.map_err(|fault| Fault {
            position: fault.position.and_then(|n| again.get(n).copied()),
            ..fault
        })?;
        self.running = Some(running);
        Ok(answers)
    }

    /// The closed gate of what a program did wrong; `place` is what it was asked about.
    fn failed(&self, place: Option<String>, wrong: &Wrong) -> RunError {
        let what = match place {
            Some(place) => format!("{place}: {}", wrong.what(&self.run)),
            None => wrong.what(&self.run),
        };
        match &self.step {
            Some((upgrade, step)) => failed_step(upgrade, step, &what, &wrong.next(&self.run)),
            None => failed(what, wrong.next(&self.run)),
        }
    }
}

#[async_trait]
impl AskedEditor for ProgramEditor {
    async fn answers(&mut self, asked: Asked<'_>) -> Result<Vec<Answer>, RunError> {
        self.step.get_or_insert_with(|| (asked.upgrade.clone(), asked.transform.name()));
        let answers = self.ask(&asked).await.map_err(|Fault { position, behind, wrong }| {
            let document = position.and_then(|position| asked.documents.get(position));
            let place = document.map(|document| match behind {
                0 => place(asked.transform, document),
                _ => {
                    format!("{}, or one of the {behind} after it", place(asked.transform, document))
                }
            });
            self.failed(place, &wrong)
        })?;
        Ok(answers.into_iter().map(|answer| keep_looked_up(asked.transform, answer)).collect())
    }

    async fn end(mut self: Box<Self>) -> Result<(), RunError> {
        match self.running.take() {
            Some(running) => running.end().await.map_err(|wrong| self.failed(None, &wrong)),
            None => Ok(()),
        }
    }
}

/// Refuses an answer that changes what a look-up of the step reads of its own collection: what is found would depend on
/// the order of the documents.
fn keep_looked_up(transform: &Transform, mut answer: Answer) -> Answer {
    let own = transform.lookups.iter().filter(|lookup| lookup.collection == transform.collection);
    for lookup in own {
        let set = answer.set.iter_elements().flatten().map(|element| element.key().as_str());
        let mut changed = set.chain(answer.unset.iter().map(String::as_str));
        let read =
            |field: &str| lookup.reads().is_none_or(|mut reads| reads.any(|own| own == field));
        if let Some(field) = changed.find(|field| read(field)) {
            answer.refuse = Some(format!(
                "the program changes `{field}`, which look-up \"{}\" reads of the same collection",
                lookup.name
            ));
            return answer;
        }
    }
    answer
}
