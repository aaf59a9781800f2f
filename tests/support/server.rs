//! Real MongoDB servers of every kind that the gate meets.

use std::ops::Deref;
use std::sync::{Mutex, MutexGuard};
use std::time::Duration;

use mongodb::bson::oid::ObjectId;
use mongodb::bson::{Bson, Document, doc};
use mongodb::options::ClientOptions;
use mongodb::{Client, Database};
use tokio::sync::OnceCell;
use tokio::task::JoinSet;

use super::eventually;
use super::mongod::Mongod;

/// A standalone server or a replica set, at [`super::host`]. It ends when dropped, and at
/// the latest with this process.
pub struct Server {
    /// Empty for a server that is not ours.
    members: Vec<Mutex<Mongod>>,
    /// With [`PATH`] where the database's name belongs.
    uri: String,
}

const PATH: &str = "{database}";

impl Server {
    /// The replica set that all tests of one binary share; `TEST_MONGODB_URI` may name another.
    /// It has no client of its own, so that tests with a runtime each can use it.
    pub async fn shared() -> &'static Server {
        static SHARED: OnceCell<Server> = OnceCell::const_new();
        let start = || async {
            match std::env::var("TEST_MONGODB_URI") {
                Ok(uri) => Server { members: Vec::new(), uri: without_database(&uri) },
                Err(_) => Server::replica_set().await,
            }
        };
        SHARED.get_or_init(start).await
    }

    /// A replica set of one, with transactions. It is writable when returned, as are all of these.
    pub async fn replica_set() -> Server {
        let member = Mongod::start("", REPLICA_SET).await;
        Server::initiated(vec![member], "").await.write_to_majorities().await
    }

    /// A server without `--replSet`: no transactions.
    pub async fn standalone() -> Server {
        Server::standalone_with("").await
    }

    /// The same with more arguments.
    pub async fn standalone_with(arguments: &str) -> Server {
        let member = Mongod::start("", arguments).await;
        let uri = format!("mongodb://{}:{}/{PATH}", super::host(), member.port);
        Server { members: vec![member.into()], uri }
    }

    /// A replica set of one that asks for a password. Its own URIs are those of `root`.
    pub async fn with_auth() -> Server {
        let arguments = format!("{REPLICA_SET} --auth --keyFile key");
        let member = Mongod::start("echo secret >key; chmod 400 key", &arguments).await;
        let server = Server::initiated(vec![member], "").await;
        server.with_root().await.write_to_majorities().await
    }

    /// A standalone that asks for a password. Its own URIs are those of `root`.
    pub async fn standalone_with_auth() -> Server {
        let mut server = Server::standalone_with("--auth").await;
        server.uri.push_str("?directConnection=true");
        server.with_root().await
    }

    async fn with_root(mut self) -> Server {
        let password = ObjectId::new().to_hex();
        // As long as there is no user, a client on the same machine may make one.
        let create = doc! { "createUser": "root", "pwd": &password, "roles": ["root"] };
        let port = self.member(0).port;
        let local = format!("mongodb://{}:{port}/?directConnection=true", super::LOOPBACK);
        let client = Client::with_uri_str(local).await.unwrap();
        client.database("admin").run_command(create).await.unwrap();
        self.uri = self.uri_as("root", &password, PATH);
        self
    }

    /// A replica set of one that speaks TLS only, with a certificate from an authority of its own.
    pub async fn with_tls() -> Server {
        let arguments = format!("{REPLICA_SET} {TLS}");
        let certificates = CERTIFICATES.replace("127.0.0.1", &super::host());
        let member = Mongod::start(&certificates, &arguments).await;
        let authority = member.directory.join("ca.pem");
        let options = format!("&tls=true&tlsCAFile={}", authority.display());
        Server::initiated(vec![member], &options).await.write_to_majorities().await
    }

    /// A replica set of three that elects a new primary a second after it lost one.
    pub async fn three_members() -> Server {
        let mut members = Vec::new();
        for _ in 0..3 {
            members.push(Mongod::start("", REPLICA_SET).await);
        }
        let server = Server::initiated(members, "").await;
        server.settled().await;
        server.write_to_majorities().await
    }

    async fn initiated(members: Vec<Mongod>, options: &str) -> Server {
        let host = |member: &Mongod| format!("{}:{}", super::host(), member.port);
        let hosts: Vec<_> = members.iter().map(host).collect();
        let member = |(id, host)| doc! { "_id": id, "host": host };
        let config = doc! {
            "_id": "rs0",
            "members": (0..).zip(&hosts).map(member).collect::<Vec<_>>(),
            "settings": { "electionTimeoutMillis": 1000, "heartbeatIntervalMillis": 500 },
        };
        // As long as there is no user, a client on the same machine may do this; a certificate is the host's.
        let local = format!("{}:{}", super::LOOPBACK, members[0].port);
        let address = if options.is_empty() { &local } else { &hosts[0] };
        let direct = format!("mongodb://{address}/?directConnection=true{options}");
        let admin = Client::with_uri_str(direct).await.unwrap().database("admin");
        admin.run_command(doc! { "replSetInitiate": config }).await.unwrap();

        let uri = format!("mongodb://{}/{PATH}?replicaSet=rs0{options}", hosts.join(","));
        let server = Server { members: members.into_iter().map(Mutex::new).collect(), uri };
        server.primary().await;
        server
    }

    /// Makes a majority the default of all writes, as it is by itself from MongoDB 5.0 on.
    async fn write_to_majorities(self) -> Server {
        if super::mongod_version() >= (5, 0) {
            return self;
        }
        let set = doc! {
            "setDefaultRWConcern": 1,
            "defaultWriteConcern": { "w": "majority" },
            "writeConcern": { "w": "majority" },
        };
        self.client().await.database("admin").run_command(set).await.unwrap();
        self
    }

    /// The connection string of one of its databases. All but a standalone's have options, so that
    /// `&name=value` may be appended.
    pub fn uri(&self, database: &str) -> String {
        self.uri.replace(PATH, database)
    }

    /// The same for another user.
    pub fn uri_as(&self, user: &str, password: &str, database: &str) -> String {
        let (scheme, rest) = self.uri.split_once("://").unwrap();
        let hosts = rest.rsplit_once('@').map_or(rest, |(_, hosts)| hosts);
        let source = if self.uri.contains("authSource=") { "" } else { "&authSource=admin" };
        format!("{scheme}://{user}:{password}@{hosts}{source}").replace(PATH, database)
    }

    /// The connection string of a new user of `database`, who has these roles there.
    pub async fn uri_with_roles(&self, database: &str, roles: &[&str]) -> String {
        let (user, password) = (ObjectId::new().to_hex(), ObjectId::new().to_hex());
        let role = |role: &&str| doc! { "role": role, "db": database };
        let roles: Vec<_> = roles.iter().map(role).collect();
        let create = doc! { "createUser": &user, "pwd": &password, "roles": roles };
        self.client().await.database("admin").run_command(create).await.unwrap();
        self.uri_as(&user, &password, database)
    }

    /// A client for the test's own runtime.
    pub async fn client(&self) -> Client {
        Client::with_uri_str(self.uri("")).await.unwrap()
    }

    /// An empty database that no other test has.
    pub async fn database(&self) -> Fresh {
        let name = format!("test_{}", ObjectId::new());
        let database = self.client().await.database(&name);
        Fresh { uri: self.uri(&name), database, borrowed: self.members.is_empty() }
    }

    fn member(&self, member: usize) -> MutexGuard<'_, Mongod> {
        self.members[member].lock().unwrap()
    }

    /// The process of a member (counted from 0): None while it is killed.
    pub fn pid(&self, member: usize) -> Option<u32> {
        self.member(member).pid
    }

    /// Ends a member at once, with SIGKILL.
    pub fn kill(&self, member: usize) {
        self.member(member).signal("KILL");
    }

    /// Stops a member with SIGSTOP: its connections stay open, and silent.
    pub fn freeze(&self, member: usize) {
        self.member(member).signal("STOP");
    }

    /// Lets a frozen member go on.
    pub fn thaw(&self, member: usize) {
        self.member(member).signal("CONT");
    }

    /// Starts a killed member again, with its data, at the same address.
    pub async fn restart(&self, member: usize) {
        self.member(member).signal("start");
        let listening = eventually("mongod", || async { self.member(member).listening() }).await;
        listening.unwrap_or_else(|log| panic!("mongod did not start again: {log}"));
    }

    /// Which member is primary: waits for one, and of two that say so takes the newer.
    pub async fn primary(&self) -> usize {
        eventually("a primary", || async {
            let members = 0..self.members.len();
            let mut asked = JoinSet::new();
            for member in members.filter(|&member| self.member(member).running) {
                let admin = self.direct(member).await.database("admin");
                asked.spawn(async move { (admin.run_command(doc! { "hello": 1 }).await, member) });
            }
            let answers = asked.join_all().await.into_iter();
            let primaries = answers.filter_map(|(hello, member)| {
                let hello: Document = hello.ok()?;
                let primary = hello.get_bool("isWritablePrimary").ok()?;
                primary.then(|| (hello.get_object_id("electionId").ok(), member))
            });
            primaries.max().map(|(_, member)| member)
        })
        .await
    }

    /// Makes the primary give up its office, and returns which member that was.
    pub async fn step_down(&self) -> usize {
        let former = self.primary().await;
        let admin = self.direct(former).await.database("admin");
        let command = doc! { "replSetStepDown": 5, "secondaryCatchUpPeriodSecs": 2 };
        let ask = || async { admin.run_command(command.clone()).await.ok() };
        eventually("a secondary that has caught up", ask).await;
        former
    }

    /// Waits until every member is primary or secondary.
    pub async fn settled(&self) {
        let admin = self.client().await.database("admin");
        let ready = |member: &Bson| {
            let state = member.as_document().and_then(|member| member.get_i32("state").ok());
            matches!(state, Some(1 | 2))
        };
        eventually("all members", || async {
            let status = admin.run_command(doc! { "replSetGetStatus": 1 }).await.ok()?;
            status.get_array("members").ok()?.iter().all(ready).then_some(())
        })
        .await
    }

    /// A client of one member only, which gives up soon.
    async fn direct(&self, member: usize) -> Client {
        let mut options = ClientOptions::parse(self.uri("")).await.unwrap();
        let address = format!("{}:{}", super::host(), self.member(member).port);
        options.hosts.retain(|host| host.to_string() == address);
        options.direct_connection = Some(true);
        options.repl_set_name = None;
        options.server_selection_timeout = Some(Duration::from_secs(1));
        Client::with_options(options).unwrap()
    }
}

const REPLICA_SET: &str = "--replSet rs0 --oplogSize 16";
const TLS: &str = "--tlsMode requireTLS --tlsCertificateKeyFile server.pem --tlsCAFile ca.pem \
    --tlsAllowConnectionsWithoutCertificates";
const CERTIFICATES: &str = "
    new='-x509 -days 2 -nodes -newkey ec -pkeyopt ec_paramgen_curve:prime256v1'
    openssl req $new -subj /CN=tests -keyout ca.key -out ca.pem
    openssl req $new -subj /CN=localhost -CA ca.pem -CAkey ca.key -keyout key -out certificate \
        -addext subjectAltName=IP:127.0.0.1 -addext basicConstraints=critical,CA:FALSE
    cat key certificate >server.pem
";

/// A user's own connection string, with [`PATH`] in place of its database.
fn without_database(uri: &str) -> String {
    let (address, options) = uri.split_once('?').unwrap_or((uri, ""));
    let (scheme, rest) = address.split_once("://").expect("TEST_MONGODB_URI is mongodb://…");
    let (hosts, database) = rest.split_once('/').unwrap_or((rest, ""));
    // Without this option, users are looked up in the database of the path.
    let source = if database.is_empty() { "admin" } else { database };
    let given = !hosts.contains('@') || options.contains("authSource=");
    let source = if given { String::new() } else { format!("&authSource={source}") };
    format!("{scheme}://{hosts}/{PATH}?appName=tests&{options}{source}")
}

/// A database of one test's own, empty at first. It is used as the [`Database`] it holds.
pub struct Fresh {
    /// The connection string, with this database in its path.
    pub uri: String,
    database: Database,
    borrowed: bool,
}

impl Deref for Fresh {
    type Target = Database;

    fn deref(&self) -> &Database {
        &self.database
    }
}

impl Drop for Fresh {
    /// Leaves nothing on a server that is not ours.
    fn drop(&mut self) {
        if self.borrowed {
            let uri = self.uri.clone();
            let drop_database = async move || {
                let client = Client::with_uri_str(uri).await.unwrap();
                client.default_database().unwrap().drop().await.unwrap();
            };
            // The test's own runtime is busy with this.
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
            let _ = std::thread::spawn(|| runtime.unwrap().block_on(drop_database())).join();
        }
    }
}
