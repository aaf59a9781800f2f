//! What depends on the server's version and on its feature compatibility version: whether a rename or a
//! drop can name its collection by UUID.

use mongodb::Database;
use mongodb::bson::{Uuid, doc};
use mongodb::error::Error;

use crate::process::exit::Outcome;
use crate::process::failure::Failure;
use crate::server::answer;

/// The wire version of MongoDB 6.0, whose `drop` and `renameCollection` take a `collectionUUID`.
const WIRE_VERSION_6_0: i32 = 17;

/// Whether a command can name its collection by UUID.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum NamingByUuid {
    /// It can.
    Known,
    /// Not by a server of this version.
    VersionTooLow,
    /// Not before the feature compatibility version is raised.
    CompatibilityTooLow,
}

impl NamingByUuid {
    /// Asks with a query for a UUID that no collection has, which needs the privilege `find` on
    /// `collection` and nothing else.
    pub(crate) async fn ask(
        database: &Database,
        collection: &str,
        wire_version: i32,
    ) -> Result<Self, Error> {
        if wire_version < WIRE_VERSION_6_0 {
            return Ok(NamingByUuid::VersionTooLow);
        }
        let query = doc! {
            "find": collection,
            "limit": 1,
            "singleBatch": true,
            "collectionUUID": Uuid::new(),
        };
        match database.run_command(query).await {
            Err(error) if answer::code(&error) == Some(UUID_MISMATCH) => Ok(NamingByUuid::Known),
            Err(error) if is_refusal(&error) => Ok(NamingByUuid::CompatibilityTooLow),
            Err(error) => Err(error),
            // a server that does not compare here has a version that does where it matters
            Ok(_) => Ok(NamingByUuid::Known),
        }
    }

    /// The closed gate for an upgrade that needs it.
    pub(crate) fn lacking(self, what: &str) -> Option<Failure> {
        let (needs, next) = match self {
            NamingByUuid::Known => return None,
            NamingByUuid::VersionTooLow => (
                "MongoDB 6.0 or later",
                "update the server to MongoDB 6.0 or later and set its feature compatibility version \
                 to 6.0 or later, then run it again",
            ),
            NamingByUuid::CompatibilityTooLow => (
                "the feature compatibility version 6.0, and this server's is lower",
                "once all members of the server run MongoDB 6.0 or later, raise it with \
                 db.adminCommand({ setFeatureCompatibilityVersion: \"6.0\" }), then run it again",
            ),
        };
        let message = format!("{what} needs {needs}");
        Some(Failure::new(Outcome::ServerUnsuitable, message, next))
    }
}

/// The server's code for a collection that has another UUID than the command says.
const UUID_MISMATCH: i32 = 361;

/// Whether the server refuses to compare UUIDs at its feature compatibility version.
pub(crate) fn is_refusal(error: &Error) -> bool {
    // an invalid option
    answer::code(error) == Some(72)
}
