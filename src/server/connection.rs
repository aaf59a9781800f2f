//! The connection: how the server is reached, and what kind it is.

use std::time::Duration;

use mongodb::bson::{Document, Timestamp, doc};
use mongodb::error::Error;
use mongodb::options::{
    Acknowledgment, ClientOptions, DriverInfo, ReadConcern, ReadPreference, SelectionCriteria, Tls,
    WriteConcern,
};
use mongodb::{Client, Database};

use crate::process::exit::Outcome;
use crate::process::failure::Failure;
use crate::server::diagnosis::{Scheme, no_file, unreachable, wrong_uri};
use crate::server::operations;
use crate::server::stop::RunError;

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
pub(crate) async fn primary(database: &Database) -> Result<(), RunError> {
    let hello = hello(database).await?;
    if is_router(&hello) || hello.get_bool("isWritablePrimary").unwrap_or(false) {
        return Ok(());
    }
    if hello.get_bool("isreplicaset").unwrap_or(false) {
        return Err(RunError::Failure(unreachable("asking for the primary", "Type: RsGhost")));
    }
    Err(RunError::Failure(Failure::new(
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

/// The time of the last operation on the servers that hold a collection, by their own clock; `None` on a
/// standalone. It is asked for with a query, because that reaches every shard.
pub(crate) async fn operation_time(
    database: &Database,
    collection: &str,
) -> Result<Option<Timestamp>, Error> {
    let count =
        doc! { "count": collection, "query": {}, "limit": 1, "readConcern": { "level": "local" } };
    Ok(database.run_command(count).await?.get_timestamp("operationTime").ok())
}
