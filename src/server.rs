//! The server: how it is reached, what it can do, what the user may do, and what its errors mean.

use std::time::Duration;

use mongodb::bson::{Bson, Document, Timestamp, doc};
use mongodb::error::{Error, ErrorKind, WriteFailure};
use mongodb::options::{
    Acknowledgment, ClientOptions, DriverInfo, ReadConcern, ReadPreference, SelectionCriteria, Tls,
    WriteConcern,
};
use mongodb::{Client, Database};

use crate::diagnosis::{Scheme, no_file, unreachable, wrong_uri};
use crate::exit::Outcome;
use crate::failure::Failure;
use crate::operations;
use crate::redact;
use crate::server_errors;
use crate::stop::Halt;

/// The server's code for a missing privilege.
pub(crate) const UNAUTHORISED: i32 = 13;

/// A database, and how it is reached.
pub(crate) struct Connected {
    pub(crate) database: Database,
    /// Whether the connection string names one member, to be read from whatever it is
    /// (`directConnection=true`).
    pub(crate) direct: bool,
}

/// Connects to `database` at `uri`: reads from the primary what a majority has, and writes so that a
/// majority has it, on disk.
///
/// Nothing is sent yet; the first operation waits up to `patience` for a server.
///
/// # Errors
///
/// [`Outcome::SettingWrong`] where the driver cannot use the URI.
pub(crate) async fn connect(
    uri: &str,
    database: &str,
    patience: Duration,
    run_id: &str,
) -> Result<Connected, Failure> {
    let scheme = Scheme::of(uri);
    let wrong = |error| wrong_uri(&error, scheme);
    let mut options = ClientOptions::parse(uri).await.map_err(wrong)?;
    options.server_selection_timeout = Some(patience);
    options.connect_timeout = Some(patience.min(Duration::from_secs(10)));
    options.app_name.get_or_insert_with(|| env!("CARGO_PKG_NAME").to_owned());
    options.driver_info = Some(DriverInfo::builder().name(operations::mark(run_id)).build());
    options.read_concern = Some(ReadConcern::majority());
    options.selection_criteria = Some(SelectionCriteria::ReadPreference(ReadPreference::Primary));
    options.write_concern =
        Some(WriteConcern::builder().w(Acknowledgment::Majority).journal(true).build());
    let direct = options.direct_connection == Some(true);
    if let Some(Tls::Enabled(tls)) = &options.tls {
        let files = [&tls.ca_file_path, &tls.cert_key_file_path];
        // the driver would wait for the other end of a named pipe, and not even a signal would end that
        if let Some(file) =
            files.into_iter().flatten().find(|file| file.exists() && !file.is_file())
        {
            return Err(no_file(file));
        }
    }
    let client = Client::with_options(options).map_err(wrong)?;
    Ok(Connected { database: client.database(database), direct })
}

/// What the server says of itself.
async fn hello(database: &Database) -> Result<Document, Error> {
    database.run_command(doc! { "hello": 1 }).await
}

fn is_router(hello: &Document) -> bool {
    hello.get_str("msg").is_ok_and(|msg| msg == "isdbgrid")
}

/// Makes sure that the member of a direct connection is the primary: the driver reads from any, and one
/// that lags behind knows only what once was.
///
/// # Errors
///
/// [`Outcome::NoServer`] where it is none.
pub(crate) async fn primary(database: &Database) -> Result<(), Halt> {
    let hello = hello(database).await?;
    if is_router(&hello) || hello.get_bool("isWritablePrimary").unwrap_or(false) {
        return Ok(());
    }
    if hello.get_bool("isreplicaset").unwrap_or(false) {
        return Err(Halt::Failure(unreachable("asking for the primary", "Type: RsGhost")));
    }
    Err(Halt::Failure(Failure::new(
        Outcome::NoServer,
        "the server that the connection string names is not the primary of its set",
        "name all members in the connection string, with the option replicaSet and without \
         directConnection, or wait until it is the primary",
    )))
}

/// What kind of deployment the server belongs to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Deployment {
    /// One server without an oplog: no transactions.
    Standalone,
    /// A replica set or a sharded cluster.
    WithTransactions,
}

/// What a server can do.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Server {
    pub(crate) deployment: Deployment,
    /// Grows with the server's version.
    pub(crate) wire_version: i32,
}

impl Server {
    pub(crate) async fn ask(database: &Database) -> Result<Self, Error> {
        let hello = hello(database).await?;
        let deployment = if is_router(&hello) || hello.contains_key("setName") {
            Deployment::WithTransactions
        } else {
            Deployment::Standalone
        };
        let wire_version = hello.get_i32("maxWireVersion").unwrap_or_default();
        Ok(Server { deployment, wire_version })
    }
}

/// A privilege that a run needs: an action on a collection, or on the whole database.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Need {
    pub(crate) action: &'static str,
    pub(crate) collection: Option<String>,
}

/// The first need that the connection's user lacks; none where the server does not tell.
pub(crate) async fn missing_privilege(
    database: &Database,
    needs: &[Need],
) -> Result<Option<Need>, Error> {
    let status =
        database.run_command(doc! { "connectionStatus": 1, "showPrivileges": true }).await?;
    let Ok(auth) = status.get_document("authInfo") else { return Ok(None) };
    // without a user the server either asks for none, or refuses the first command
    if auth.get_array("authenticatedUsers").map_or(true, |users| users.is_empty()) {
        return Ok(None);
    }
    let Ok(privileges) = auth.get_array("authenticatedUserPrivileges") else { return Ok(None) };
    let privileges: Vec<&Document> = privileges.iter().filter_map(|p| p.as_document()).collect();
    Ok(needs
        .iter()
        .find(|need| !privileges.iter().any(|p| grants(p, database.name(), need)))
        .cloned())
}

fn grants(privilege: &Document, database: &str, need: &Need) -> bool {
    let acts = privilege.get_array("actions").is_ok_and(|actions| {
        actions
            .iter()
            .any(|a| matches!(a.as_str(), Some(a) if a == need.action || a == "anyAction"))
    });
    let Ok(resource) = privilege.get_document("resource") else { return false };
    if resource.get_bool("anyResource").unwrap_or(false) {
        return acts;
    }
    let (Ok(db), Ok(collection)) = (resource.get_str("db"), resource.get_str("collection")) else {
        return false;
    };
    let covers = match &need.collection {
        Some(name) => collection.is_empty() || collection == name,
        None => collection.is_empty(),
    };
    acts && (db.is_empty() || db == database) && covers
}

/// The closed gate for a missing privilege.
pub(crate) fn lacks(need: &Need, database: &str) -> Failure {
    let on = match &need.collection {
        Some(collection) => format!("{database}.{collection}"),
        None => format!("the database {database}"),
    };
    Failure::new(
        Outcome::NotAuthorised,
        format!("the user of the connection string may not {} on {on}", need.action),
        format!(
            "grant it the privilege {} on {on}; docs/mongodb.md has the least role",
            need.action
        ),
    )
}

/// The closed gate that an error of the driver means, with what was being done and what an error of no
/// known kind means then: [`Outcome::UpgradeFailed`] in an upgrade's own work, else [`Outcome::NoServer`].
pub(crate) fn failure(error: &Error, doing: &str, unknown: Outcome) -> Failure {
    let text = describe(error);
    let no_server = |next: &str| Failure::new(Outcome::NoServer, format!("{doing}: {text}"), next);
    match error.kind.as_ref() {
        ErrorKind::Authentication { .. } => Failure::new(
            Outcome::NotAuthorised,
            format!("{doing}: {text}"),
            "check user, password and authSource in the connection string",
        ),
        ErrorKind::ServerSelection { message, .. } => match server_errors::greeting(message) {
            Some(meaning) => {
                Failure::new(meaning.outcome, format!("{doing}: {}", meaning.cause), meaning.remedy)
            }
            None => unreachable(doing, message),
        },
        ErrorKind::InvalidArgument { .. } | ErrorKind::InvalidTlsConfig { .. } => Failure::new(
            Outcome::SettingWrong,
            format!("{doing}: {text}"),
            "correct the options in GATE_MONGODB_URI",
        ),
        ErrorKind::DnsResolve { .. }
        | ErrorKind::Io(_)
        | ErrorKind::ConnectionPoolCleared { .. }
        | ErrorKind::InvalidResponse { .. } => {
            no_server("check that the server runs and is a MongoDB, then run it again")
        }
        ErrorKind::IncompatibleServer { .. } | ErrorKind::SessionsNotSupported => Failure::new(
            Outcome::ServerUnsuitable,
            format!("{doing}: {text}"),
            "use MongoDB 4.4 or later",
        ),
        ErrorKind::Internal { .. } => Failure::bug(format!("{doing}: {text}")),
        // of an upgrade it is one of its documents
        ErrorKind::Bson(_) if unknown != Outcome::UpgradeFailed => {
            Failure::bug(format!("{doing}: {text}"))
        }
        _ => match server_errors::meaning(error, unknown) {
            Some(meaning) => Failure::new(
                meaning.outcome,
                format!("{doing}: {} ({text})", meaning.cause),
                meaning.remedy,
            ),
            _ if passing(error) => no_server("run it again once the server has a primary"),
            _ => Failure::new(
                unknown,
                format!("{doing}: {text}"),
                "correct what the server objects to, then run it again",
            ),
        },
    }
}

/// The server's code of an error, wherever the driver keeps it.
pub(crate) fn code(error: &Error) -> Option<i32> {
    match error.kind.as_ref() {
        ErrorKind::Command(command) => Some(command.code),
        ErrorKind::Write(WriteFailure::WriteError(write)) => Some(write.code),
        ErrorKind::Write(WriteFailure::WriteConcernError(concern)) => Some(concern.code),
        ErrorKind::InsertMany(many) => many
            .write_errors
            .as_ref()
            .and_then(|errors| errors.first().map(|write| write.code))
            .or(many.write_concern_error.as_ref().map(|concern| concern.code)),
        _ => None,
    }
}

/// What the server says of an error; it may hold a document's contents.
pub(crate) fn message(error: &Error) -> Option<&str> {
    match error.kind.as_ref() {
        ErrorKind::Command(command) => Some(&command.message),
        ErrorKind::Write(WriteFailure::WriteError(write)) => Some(&write.message),
        ErrorKind::Write(WriteFailure::WriteConcernError(concern)) => Some(&concern.message),
        _ => None,
    }
}

/// Whether a document could not be inserted because there is one with its `_id`, and not for the sake of
/// another unique index.
pub(crate) fn is_taken(error: &Error) -> bool {
    code(error) == Some(11000)
        && message(error).is_none_or(|message| message.contains("index: _id_"))
}

/// Whether others kept a transaction from a document: another one that has changed it, or the server,
/// for it took too long.
pub(crate) fn held_by_others(error: &Error) -> bool {
    matches!(code(error), Some(112 | 251))
}

/// Whether the operation may succeed when it is simply tried again: network, failover, write concern,
/// a server that is starting, stopping or busy.
pub(crate) fn passing(error: &Error) -> bool {
    let labelled = ["RetryableWriteError", "RetryableError", "TransientTransactionError"]
        .iter()
        .any(|label| error.contains_label(label));
    let network =
        matches!(error.kind.as_ref(), ErrorKind::Io(_) | ErrorKind::ConnectionPoolCleared { .. });
    labelled || network || code(error).is_some_and(server_errors::passes)
}

/// Whether an error of a write says that it took no effect: the server refused it, and did not merely
/// fail to confirm it.
pub(crate) fn refuses(error: &Error) -> bool {
    let refused = matches!(
        error.kind.as_ref(),
        ErrorKind::Command(_) | ErrorKind::Write(WriteFailure::WriteError(_))
    );
    refused && !passing(error)
}

/// Whether a transaction was too large or too long for the server.
pub(crate) fn too_large(error: &Error) -> bool {
    matches!(code(error), Some(146 | 257 | 290 | 388 | 10334))
}

/// The time of the last operation on the servers that hold a collection, by their own clock; none on a
/// standalone. It is asked for with a query, for that reaches every shard.
pub(crate) async fn operation_time(
    database: &Database,
    collection: &str,
) -> Result<Option<Timestamp>, Error> {
    let count =
        doc! { "count": collection, "query": {}, "limit": 1, "readConcern": { "level": "local" } };
    Ok(database.run_command(count).await?.get_timestamp("operationTime").ok())
}

/// An error in words that hold no document's contents and no secret.
pub(crate) fn describe(error: &Error) -> String {
    let server = |code: i32, name: &str, message: &str| match safe_detail(code, message) {
        Some(detail) => format!("server error {code} {name}: {detail}"),
        None => format!("server error {code} {name}").trim_end().to_owned(),
    };
    match error.kind.as_ref() {
        ErrorKind::Command(command) => server(command.code, &command.code_name, &command.message),
        ErrorKind::Write(WriteFailure::WriteError(write)) => {
            server(write.code, write.code_name.as_deref().unwrap_or_default(), &write.message)
        }
        ErrorKind::Write(WriteFailure::WriteConcernError(concern)) => {
            server(concern.code, &concern.code_name, &concern.message)
        }
        ErrorKind::InsertMany(many) => match many.write_errors.as_ref().and_then(|e| e.first()) {
            Some(write) => {
                server(write.code, write.code_name.as_deref().unwrap_or_default(), &write.message)
            }
            None => "the server did not confirm an insert".to_owned(),
        },
        ErrorKind::Write(_) | ErrorKind::BulkWrite(_) => "a write failed".to_owned(),
        ErrorKind::Bson(_) => "a document cannot be encoded or decoded".to_owned(),
        other => other.to_string(),
    }
}

/// What may be told of a server's message: many repeat the document or the command.
pub(crate) fn safe_detail(code: i32, message: &str) -> Option<String> {
    redact::detail(code, message, None)
}

/// The errors of the single writes in the answer to a write command.
pub(crate) fn write_errors(answer: &Document) -> impl Iterator<Item = &Document> {
    answer
        .get_array("writeErrors")
        .map(|errors| errors.as_slice())
        .unwrap_or_default()
        .iter()
        .filter_map(Bson::as_document)
}

/// An unconfirmed write is one that may be lost: the driver's error for it can be tried again.
pub(crate) fn fail_on_write_concern(answer: &Document) -> Result<(), Error> {
    match answer.get_document("writeConcernError") {
        Ok(_) => {
            Err(std::io::Error::other("the server did not confirm a write to a majority").into())
        }
        Err(_) => Ok(()),
    }
}
