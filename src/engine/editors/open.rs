//! The editors that are open.

use std::collections::HashMap;
use std::sync::{Arc, PoisonError};

use tokio::sync::Mutex;

use crate::authoring::editor::{Answer, Editor};
use crate::authoring::step_kind::StepKind;
use crate::authoring::transform::Transform;
use crate::engine::editors::editor::{Asked, AskedEditor};
use crate::engine::editors::pipeline::Evaluated;
use crate::engine::editors::program::answered::Answered;
use crate::engine::editors::program::editor::ProgramEditor;
use crate::process::failure::Failure;
use crate::server::stop::{RunError, Stop};

/// The editors that are open.
pub(crate) struct Editors {
    open: Mutex<HashMap<Key, Open>>,
    /// What is known of the answers of programs, by step: the preflight's own one too.
    answered: std::sync::Mutex<HashMap<Key, Arc<std::sync::Mutex<Answered>>>>,
    stop: Stop,
}

/// A version and its step.
type Key = (String, String);

/// An editor that is open: asked by one at a time.
type Open = Arc<Mutex<Box<dyn AskedEditor>>>;

impl Editors {
    pub(crate) fn new(stop: Stop) -> Self {
        Editors { open: Mutex::default(), answered: std::sync::Mutex::default(), stop }
    }

    /// What carries out an editor that is asked; `None` for a function, which the engine calls.
    fn carried_out(&self, key: &Key, editor: &Editor) -> Option<Box<dyn AskedEditor>> {
        match editor {
            Editor::Function(_) => None,
            Editor::Pipeline(pipeline) => Some(Box::new(Evaluated::new(pipeline.clone()))),
            Editor::Program(run) => {
                let mut all = self.answered.lock().unwrap_or_else(PoisonError::into_inner);
                let answered = all.entry(key.clone()).or_default().clone();
                Some(Box::new(ProgramEditor::new(run.clone(), answered)))
            }
        }
    }

    /// What the editor of a transform answers, which is opened where it is not open yet; `None` if it is a function.
    pub(crate) async fn answers(&self, asked: Asked<'_>) -> Result<Option<Vec<Answer>>, RunError> {
        let Some(editor) = self.of(&asked).await else { return Ok(None) };
        let documents = asked.documents.len();
        let answers = editor.lock().await.answers(asked).await?;
        match (answers.len(), documents) {
            (0, 1..) => Err(Failure::bug("an editor answered nothing").into()),
            (more, documents) if more > documents => {
                Err(Failure::bug("an editor answered more than it was asked").into())
            }
            _ => Ok(Some(answers)),
        }
    }

    async fn of(&self, asked: &Asked<'_>) -> Option<Open> {
        let Asked { upgrade, transform, .. } = asked;
        let key = (upgrade.version.to_string(), transform.name());
        let mut open = self.open.lock().await;
        if let Some(editor) = open.get(&key) {
            return Some(editor.clone());
        }
        let editor = Arc::new(Mutex::new(self.carried_out(&key, &transform.editor)?));
        open.insert(key, editor.clone());
        Some(editor)
    }

    /// What a step ended with, after its editor was ended as well: in order where the step succeeded, and by dropping it
    /// where the step failed.
    pub(crate) async fn ended<T>(&self, ended: Result<T, RunError>) -> Result<T, RunError> {
        match ended {
            Ok(value) => self.end().await.map(|()| value),
            Err(error) => {
                self.open.lock().await.clear();
                Err(error)
            }
        }
    }

    /// Ends those that are open, after the last batch of their step.
    pub(crate) async fn end(&self) -> Result<(), RunError> {
        let open = std::mem::take(&mut *self.open.lock().await);
        let mut ended = Ok(());
        for editor in open.into_values().filter_map(Arc::into_inner) {
            ended = ended.and(self.stop.guard(editor.into_inner().end()).await);
        }
        ended
    }
}

/// Whether the editor of a transform is asked, and not called.
pub(crate) fn is_asked(transform: &Transform) -> bool {
    !matches!(transform.editor, Editor::Function(_))
}
