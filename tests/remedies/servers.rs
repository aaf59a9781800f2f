//! Servers that are set up in a way that the gate cannot use: the operator changes the server, or the
//! connection string, as the gate says.

use std::io::Write;
use std::net::TcpListener;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use mongodb::Client;
use mongodb::bson::{Document, doc};

use super::apps::{fill, record_old, scenario};
use super::case::tells;
use super::support::folder::Folder;
use super::support::{Gate, Server, eventually, mongod};

/// A server that can be started with other arguments, with its data and at its address.
pub struct Own {
    process: Option<Child>,
    folder: Folder,
    port: u16,
}

/// Certificates of an authority: for this host, for a client, and two that are out of their time; and a client's
/// from another authority.
const CERTIFICATES: &str = "
    for name in ca strange; do
        openssl req -x509 -nodes -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -days 2 -subj /CN=$name \
            -keyout $name.key -out $name.crt
    done
    printf '%s\\n' '[ca]' default_ca=ours '[ours]' database=index serial=serial new_certs_dir=. unique_subject=no \
        default_md=sha256 policy=any '[any]' commonName=supplied organizationName=optional >ca.conf
    echo subjectAltName=IP:127.0.0.1 >extensions
    touch index
    echo 01 >serial
    while read -r name authority from to; do
        openssl req -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -subj /O=$name/CN=$name \
            -keyout $name.key -out request
        openssl ca -batch -config ca.conf -cert $authority.crt -keyfile $authority.key -in request -notext \
            -extfile extensions -startdate $from -enddate $to -out $name.crt
        cat $name.key $name.crt >$name.pem
    done <<END
server ca 20200101000000Z 20900101000000Z
client ca 20200101000000Z 20900101000000Z
stranger strange 20200101000000Z 20900101000000Z
expired ca 20200101000000Z 20200201000000Z
future ca 20900101000000Z 20910101000000Z
END
";

impl Own {
    pub fn new(name: &str) -> Own {
        let folder = Folder::new(name);
        std::fs::create_dir_all(folder.path().join("data")).unwrap();
        let free = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let port = free.local_addr().unwrap().port();
        Own { process: None, folder, port }
    }

    fn script(&self, script: &str) {
        let done =
            Command::new("sh").args(["-ec", script]).current_dir(self.folder.path()).output();
        let done = done.unwrap();
        assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
    }

    /// Starts it, or starts it again.
    async fn start(&mut self, options: &str) {
        self.end();
        let arguments = format!(
            "--port {} --bind_ip 127.0.0.1,localhost --dbpath data --logpath log --nounixsocket \
             --wiredTigerCacheSizeGB 0.25 {options}",
            self.port
        );
        self.run(mongod().to_path_buf(), &arguments).await;
    }

    async fn run(&mut self, program: PathBuf, arguments: &str) {
        let process = Command::new(program)
            .args(arguments.split_whitespace())
            .current_dir(self.folder.path())
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn();
        self.process = Some(process.unwrap());
        let listens = || async { std::net::TcpStream::connect(("127.0.0.1", self.port)).ok() };
        eventually("a server that listens", listens).await;
    }

    fn end(&mut self) {
        if let Some(mut process) = self.process.take() {
            let _ = process.kill();
            let _ = process.wait();
        }
    }

    fn uri(&self, options: &str) -> String {
        format!("mongodb://127.0.0.1:{}/lab?{options}", self.port)
    }

    fn file(&self, name: &str) -> String {
        self.folder.path().join(name).display().to_string()
    }

    async fn admin(&self) -> mongodb::Database {
        Client::with_uri_str(self.uri("directConnection=true")).await.unwrap().database("admin")
    }

    async fn initiate(&self) {
        let config = doc! { "_id": "rs0", "members": self.members(&[]) };
        self.admin().await.run_command(doc! { "replSetInitiate": config }).await.unwrap();
    }

    /// This member, and others that do not run.
    fn members(&self, others: &[&str]) -> Vec<Document> {
        let own = format!("127.0.0.1:{}", self.port);
        let hosts = [own.as_str()].into_iter().chain(others.iter().copied());
        hosts.zip(0..).map(|(host, id)| doc! { "_id": id, "host": host }).collect()
    }

    async fn reconfigure(&self, others: &[&str]) {
        let admin = self.admin().await;
        let config = admin.run_command(doc! { "replSetGetConfig": 1 }).await.unwrap();
        let mut config = config.get_document("config").unwrap().clone();
        config.insert("version", config.get_i32("version").unwrap() + 1);
        config.insert("members", self.members(others));
        let set = doc! { "replSetReconfig": config, "force": true };
        admin.run_command(set).await.unwrap();
        let writable = others.is_empty();
        let as_it_is_to_be = || async {
            let hello = admin.run_command(doc! { "hello": 1 }).await.ok()?;
            (hello.get_bool("isWritablePrimary").ok()? == writable).then_some(())
        };
        eventually("the member to notice", as_it_is_to_be).await;
    }

    fn gate(&self, options: &str, upgrade: &str) -> Gate {
        let gate = scenario(&self.uri(options), "0.8.0", &format!("0.8.0={upgrade}"));
        gate.set("GATE_INITIALISE", "fresh").set("GATE_CONNECT_TIMEOUT", "1500ms")
    }
}

impl Drop for Own {
    fn drop(&mut self) {
        self.end();
    }
}

async fn told(gate: Gate, code: i32, remedy: &str) {
    let run = gate.run().await;
    assert_eq!(run.code, Some(code), "{remedy}: {run}");
    assert!(tells(run.report["next"].as_str().unwrap(), remedy), "{remedy}: {run}");
}

async fn opens(gate: Gate) {
    let run = gate.set("GATE_CONNECT_TIMEOUT", "30s").run().await;
    assert_eq!(run.code, Some(0), "{run}");
}

/// Which remedies are followed here.
pub const FOLLOWED: &[&str] = &[
    NO_JOURNAL,
    STANDALONE,
    GHOST,
    OTHER_SET,
    NOTHING,
    NO_MEMBER,
    NO_PRIMARY,
    NO_MONGODB,
    NO_NAME,
    NO_TLS,
    TLS,
    AUTHORITY,
    HOST,
    EXPIRED,
    FUTURE,
    REFUSED,
    CLIENT,
    ALERT,
    NODE_TLS,
    CA_FILE,
    ONE_FILE,
    PASSPHRASE,
    HOST_CHECK,
    SOURCE,
    LOGIN,
    AUTH_SOURCE,
    NO_AUTH_SOURCE,
    PLUS,
    NOTHING_GRANTED,
    PRIVILEGE,
];

const NO_JOURNAL: &str =
    "start the server without --nojournal (storage.journal.enabled: true), then run it again";
const STANDALONE: &str = "make the server a replica set of one member (start it with --replSet, then run rs.initiate() \
                          once), then run it again";
const GHOST: &str = "run rs.initiate() once on the server that the connection string names, or add it to its set; then \
                     run it again";
const OTHER_SET: &str = "correct the option replicaSet in the connection string (rs.conf()._id is the set's name), or \
                         remove it where the server is a standalone";
const NOTHING: &str =
    "check host and port in the connection string, the network, and that the server runs";
const NO_MEMBER: &str =
    "check hosts and ports in the connection string, the network, and that the servers run";
const NO_PRIMARY: &str = "check its members, of which a majority must run, and the option replicaSet in the connection \
                          string";
const NO_MONGODB: &str =
    "check host and port in the connection string: what answers is not a MongoDB";
const NO_NAME: &str =
    "check host and port in the connection string, and that the cluster's DNS knows the name";
const NO_TLS: &str = "remove tls=true and the other TLS options from the connection string (with mongodb+srv:// add \
                      tls=false), or have the server use TLS";
const TLS: &str = "if the server requires TLS, set the option tls=true in the connection string; else see its log";
const AUTHORITY: &str = "name the file of its authority with the option tlsCAFile (and tls=true) in the connection \
                         string; without it, only public authorities are trusted";
const HOST: &str = "write a host that the certificate holds into the connection string, or issue a certificate for \
                    this host (tlsAllowInvalidCertificates=true switches all checks off)";
const EXPIRED: &str = "renew the certificate of the server that the connection string names, and check the clocks (tls)";
const FUTURE: &str =
    "check the clocks of this host and of the server that the connection string names (tls)";
const REFUSED: &str =
    "check the server's certificate and the options tls and tlsCAFile in the connection string";
const CLIENT: &str = "name a file with a certificate that the server trusts, and its key, with the option \
                      tlsCertificateKeyFile in the connection string; the server's log says why it closed the \
                      connection";
const ALERT: &str = "check that the server allows TLS 1.2 or 1.3, and the option tlsCertificateKeyFile in the \
                     connection string; the server's log says why it refused";
const NODE_TLS: &str = "write the TLS options of the MongoDB specification instead: tls, tlsCAFile, tlsCertificateKeyFile";
const CA_FILE: &str = "name the file of the authority with tlsCAFile";
const ONE_FILE: &str =
    "write certificate and key to one file and name it with tlsCertificateKeyFile";
const PASSPHRASE: &str = "write the key to the file of tlsCertificateKeyFile without a password, and keep that file \
                          secret";
const HOST_CHECK: &str = "connect by a name that the server's certificate holds, or set \
                          tlsAllowInvalidCertificates=true, which switches off every check";
const SOURCE: &str = "remove authSource";
const LOGIN: &str = "check user, password and authSource in the connection string";
const AUTH_SOURCE: &str = "; authSource={database} says where the user was made";
const NO_AUTH_SOURCE: &str = "; without authSource the user is looked up in {database}: one that was made in admin needs \
                              authSource=admin";
const PLUS: &str =
    "; the password holds a +, which is a literal plus: where a space is meant, write %20";
const NOTHING_GRANTED: &str =
    "put a user into the connection string that has the least role of docs/mongodb.md";
const PRIVILEGE: &str = "grant it the privilege {} on {on}; docs/mongodb.md has the least role";

/// One server, from a journal that is switched off to a set that has lost its majority.
#[tokio::test]
async fn a_server_is_set_up_as_the_gate_says() {
    let mut server = Own::new("set-up");
    server.start("--nojournal").await;
    let database = Client::with_uri_str(server.uri("")).await.unwrap().default_database().unwrap();
    record_old(&database).await;
    fill(&database, "auxiliary", [doc! { "_id": 0 }]).await;
    let gate = |server: &Own, options| {
        server.gate(options, "singleton").unset("GATE_INITIALISE").unset("GATE_FROM_VERSION")
    };

    told(gate(&server, ""), 18, NO_JOURNAL).await;
    server.start("").await;
    told(gate(&server, ""), 18, STANDALONE).await;
    told(gate(&server, "replicaSet=rs0"), 20, OTHER_SET).await;
    server.end();
    told(gate(&server, ""), 20, NOTHING).await;
    told(gate(&server, "replicaSet=rs0"), 20, NO_MEMBER).await;
    let elsewhere = server.uri("").replace("127.0.0.1", "nowhere.invalid");
    told(gate(&server, "").uri(&elsewhere), 20, NO_NAME).await;
    let impostor = Impostor::at(server.port);
    told(gate(&server, ""), 20, NO_MONGODB).await;
    drop(impostor);
    server.start("--replSet rs0").await;
    told(gate(&server, ""), 20, GHOST).await;
    server.initiate().await;
    opens(gate(&server, "")).await;
    opens(gate(&server, "replicaSet=rs0")).await;
    server.reconfigure(&["127.0.0.1:1", "127.0.0.1:2"]).await;
    told(gate(&server, "replicaSet=rs0"), 20, NO_PRIMARY).await;
    server.reconfigure(&[]).await;
    opens(gate(&server, "replicaSet=rs0")).await;
}

/// One server, and every way in which its TLS and the connection string's do not fit.
#[tokio::test]
async fn tls_is_set_up_as_the_gate_says() {
    const REQUIRED: &str =
        "--tlsMode requireTLS --tlsCAFile ca.crt --tlsCertificateKeyFile server.pem";
    let mut server = Own::new("tls");
    server.script(CERTIFICATES);
    let (ca, client) = (server.file("ca.crt"), server.file("client.pem"));
    let tls = format!("tls=true&tlsCAFile={ca}");
    let gate = |server: &Own, options: &str| server.gate(options, "move_field");

    server.start("").await;
    told(gate(&server, &tls), 20, NO_TLS).await;
    opens(gate(&server, "")).await;

    server.start(&format!("{REQUIRED} --tlsAllowConnectionsWithoutCertificates")).await;
    told(gate(&server, ""), 20, TLS).await;
    told(gate(&server, "tls=true"), 20, AUTHORITY).await;
    told(gate(&server, "sslValidate=true"), 16, NODE_TLS).await;
    told(gate(&server, "tls=true&sslCA=ca.crt"), 16, CA_FILE).await;
    told(gate(&server, &format!("{tls}&tlsAllowInvalidHostnames=true")), 16, HOST_CHECK).await;
    let localhost = server.uri(&tls).replace("127.0.0.1", "localhost");
    told(gate(&server, "").uri(&localhost), 20, HOST).await;
    opens(gate(&server, "").uri(&format!("{localhost}&tlsAllowInvalidCertificates=true"))).await;
    opens(gate(&server, &tls)).await;

    server.start(REQUIRED).await;
    told(gate(&server, &tls), 20, CLIENT).await;
    let key_file = |name: &str| format!("{tls}&tlsCertificateKeyFile={}", server.file(name));
    told(gate(&server, &key_file("stranger.pem")), 20, CLIENT).await;
    told(gate(&server, &format!("{tls}&tlsCertificateFile={client}")), 16, ONE_FILE).await;
    let password = format!("{}&tlsCertificateKeyFilePassword=x", key_file("client.pem"));
    told(gate(&server, &password), 16, PASSPHRASE).await;
    opens(gate(&server, &key_file("client.pem"))).await;

    let by_certificate = format!("{}&authMechanism=MONGODB-X509", key_file("client.pem"));
    let user = doc! { "createUser": "O=client,CN=client", "roles": [{ "role": "readWrite", "db": "lab" }] };
    let admin = Client::with_uri_str(server.uri(&key_file("client.pem"))).await.unwrap();
    admin.database("$external").run_command(user).await.unwrap();
    told(gate(&server, &format!("{by_certificate}&authSource=admin")), 16, SOURCE).await;
    opens(gate(&server, &by_certificate)).await;

    // servers with certificates that mongod does not start with
    for (name, more, remedy) in [
        ("expired", "", EXPIRED),
        ("future", "", FUTURE),
        ("ca", "", REFUSED),
        ("server", "-tls1_1 -cipher DEFAULT:@SECLEVEL=0", ALERT),
    ] {
        server.end();
        let arguments = format!(
            "s_server -quiet -cert {name}.crt -key {name}.key {more} -accept {}",
            server.port
        );
        server.run("openssl".into(), &arguments).await;
        told(gate(&server, &tls), 20, remedy).await;
        server.start(&format!("{REQUIRED} --tlsAllowConnectionsWithoutCertificates")).await;
        opens(gate(&server, &tls)).await;
    }
}

/// Users who cannot log in, or may not do what is needed.
#[tokio::test]
async fn users_are_corrected_as_the_gate_says() {
    let server = Server::with_auth().await;
    let database = server.database().await;
    record_old(&database).await;
    fill(&database, "things", [doc! { "_id": 1, "a": 1 }]).await;
    let gate = |uri: &str| scenario(uri, "0.8.0", "0.8.0=move_field").unset("GATE_FROM_VERSION");
    let admin = server.client().await.database("admin");
    let role = |name: &str| doc! { "role": name, "db": database.name() };
    let create = doc! { "createUser": "reader", "pwd": "a word", "roles": [role("read")] };
    admin.run_command(create).await.unwrap();
    let uri = |user: &str, password: &str| server.uri_as(user, password, database.name());

    let wrong = uri("reader", "word");
    told(gate(&wrong), 17, LOGIN).await;
    told(gate(&wrong.replace("authSource=admin", "authSource=lab")), 17, AUTH_SOURCE).await;
    let right = uri("reader", "a%20word");
    told(gate(&right.replace("&authSource=admin", "")), 17, NO_AUTH_SOURCE).await;
    told(gate(&uri("reader", "a+word")), 17, PLUS).await;
    told(gate(&right.replace("reader:a%20word@", "")).mode("check"), 17, NOTHING_GRANTED).await;
    let run = gate(&right).mode("check").run().await;
    assert_eq!(run.code, Some(10), "{run}");
    told(gate(&right), 17, PRIVILEGE).await;
    let grant = doc! { "grantRolesToUser": "reader", "roles": [role("readWrite")] };
    admin.run_command(grant).await.unwrap();
    opens(gate(&right)).await;
}

/// What answers, and is not a MongoDB.
struct Impostor {
    ends: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Impostor {
    fn at(port: u16) -> Impostor {
        let ends = Arc::new(AtomicBool::new(false));
        let (listener, over) = (TcpListener::bind(("127.0.0.1", port)).unwrap(), ends.clone());
        listener.set_nonblocking(true).unwrap();
        let thread = std::thread::spawn(move || {
            while !over.load(Ordering::Relaxed) {
                match listener.accept() {
                    Ok((mut stream, _)) => {
                        let _ = stream
                            .write_all(b"HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\n\r\n");
                    }
                    Err(_) => std::thread::sleep(Duration::from_millis(10)),
                }
            }
        });
        Impostor { ends, thread: Some(thread) }
    }
}

impl Drop for Impostor {
    fn drop(&mut self) {
        self.ends.store(true, Ordering::Relaxed);
        let _ = self.thread.take().map(JoinHandle::join);
    }
}
