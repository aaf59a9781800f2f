//! Why a step refused.

use derive_more::From;
use mongodb::error::Error as DriverError;

/// Why a step refused: a reason in the author's words, or the driver's own error.
///
/// A reason is printed; it must not hold a document's contents.
#[derive(Debug, From)]
#[non_exhaustive]
pub enum StepError {
    /// The step cannot be carried out on this data.
    Refused(String),
    /// The driver's own error, unchanged, so that the engine knows what may be tried again.
    #[from]
    Driver(DriverError),
    /// A document that does not hold what the step reads from it: the error of `document.get_i32("n")?`
    /// and its like, unchanged, so that the engine can say which document it was.
    #[from]
    Bson(mongodb::bson::error::Error),
}

impl StepError {
    /// A refusal with its reason.
    pub fn refused(reason: impl Into<String>) -> Self {
        StepError::Refused(reason.into())
    }
}
