//! Servers that cannot be used, and strings that drivers take: each real, with what is said of it.

mod apps;
mod support;

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use apps::assert_code;
use mongodb::bson::oid::ObjectId;
use support::{Gate, Run, Server, eventually, mongod};

fn gate(uri: &str) -> Gate {
    apps::scenario(uri, "0.8.0", "0.8.0=move_field")
        .set("GATE_INITIALISE", "fresh")
        .set("GATE_MONGODB_URI_SOURCE", "key uri of Secret lab")
        .set("GATE_CONNECT_TIMEOUT", "2s")
}

#[track_caller]
fn says(run: &Run, code: i32, parts: &[&str]) {
    assert_code(run, code);
    let text = format!("{} | {}", run.report["message"], run.report["next"]);
    for part in parts {
        assert!(text.contains(part), "{part:?} is missing in {run}");
    }
    assert!(text.contains("key uri of Secret lab"), "the source is missing in {run}");
}

/// A mongod of its own, which ends with this value.
struct Mongod {
    process: Child,
    folder: PathBuf,
    port: u16,
}

impl Drop for Mongod {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
        let _ = std::fs::remove_dir_all(&self.folder);
    }
}

/// Certificates of an authority of their own: for this host, for another one, and for a client.
const CERTIFICATES: &str = "
    new='-x509 -days 2 -nodes -newkey ec -pkeyopt ec_paramgen_curve:prime256v1'
    openssl req $new -subj /CN=authority -keyout ca.key -out ca.pem
    for name in server other client; do
        case $name in other) address=DNS:elsewhere.example ;; *) address=IP:127.0.0.1 ;; esac
        openssl req $new -subj /CN=$name -CA ca.pem -CAkey ca.key -keyout key -out certificate \
            -addext subjectAltName=$address -addext basicConstraints=critical,CA:FALSE
        cat key certificate >$name.pem
    done
";

impl Mongod {
    async fn start(options: &str) -> Mongod {
        let folder = std::env::temp_dir().join(format!("upgrade-gate-{}", ObjectId::new()));
        std::fs::create_dir(&folder).unwrap();
        let certificates =
            Command::new("sh").args(["-ec", CERTIFICATES]).current_dir(&folder).output().unwrap();
        assert!(certificates.status.success(), "{certificates:?}");
        let free = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let port = free.local_addr().unwrap().port();
        drop(free);
        let process = Command::new(mongod())
            .args(["--port", &port.to_string(), "--bind_ip", "127.0.0.1", "--dbpath", "."])
            .args(["--logpath", "log", "--nounixsocket", "--wiredTigerCacheSizeGB", "0.25"])
            .args(options.split_whitespace())
            .current_dir(&folder)
            .stdout(Stdio::null())
            .spawn()
            .unwrap();
        eventually("mongod to listen", || async {
            std::net::TcpStream::connect(("127.0.0.1", port)).ok()
        })
        .await;
        Mongod { process, folder, port }
    }

    fn uri(&self, options: &str) -> String {
        format!("mongodb://127.0.0.1:{}/lab?{options}", self.port)
    }

    fn file(&self, name: &str) -> String {
        Path::new(&self.folder).join(name).to_str().unwrap().to_owned()
    }
}

#[tokio::test]
async fn a_set_that_was_never_initiated_is_said_to_be_one() {
    let server = Mongod::start("--replSet rs0").await;
    for options in ["", "replicaSet=rs0", "directConnection=true"] {
        for mode in ["check", "upgrade", "wait"] {
            let gate = gate(&server.uri(options)).mode(mode).set("GATE_TIMEOUT", "3s");
            says(&gate.run().await, 20, &["never initiated", "rs.initiate()"]);
        }
    }
}

#[tokio::test]
async fn every_way_in_which_tls_fails_is_told_apart() {
    const TLS: &str = "--tlsMode requireTLS --tlsCAFile ca.pem --tlsCertificateKeyFile";
    const OPTIONAL: &str = "--tlsAllowConnectionsWithoutCertificates";
    let plain = Mongod::start("").await;
    let other = Mongod::start(&format!("{TLS} other.pem {OPTIONAL}")).await;
    let mutual = Mongod::start(&format!("{TLS} server.pem")).await;

    let asked = plain.uri(&format!("tls=true&tlsCAFile={}", plain.file("ca.pem")));
    says(&gate(&asked).run().await, 20, &["does not speak TLS", "remove tls=true"]);

    let named = other.uri(&format!("tlsCAFile={}", other.file("ca.pem")));
    says(&gate(&named).run().await, 20, &["other names", "a host that the certificate holds"]);
    says(&gate(&other.uri("")).run().await, 20, &["requires TLS", "tls=true"]);
    says(&gate(&other.uri("tls=true")).run().await, 20, &["not trusted", "tlsCAFile"]);
    assert_code(&gate(&other.uri("tls=true&tlsInsecure=true")).run().await, 0);

    let without = mutual.uri(&format!("tls=true&tlsCAFile={}", mutual.file("ca.pem")));
    for mode in ["check", "wait"] {
        let gate = gate(&without).mode(mode).set("GATE_TIMEOUT", "3s");
        says(&gate.run().await, 20, &["certificate", "tlsCertificateKeyFile"]);
    }
    let with = format!("{without}&tlsCertificateKeyFile={}", mutual.file("client.pem"));
    assert_code(&gate(&with).run().await, 0);
    let nowhere = format!("{without}&tlsCertificateKeyFile=/nowhere");
    says(&gate(&nowhere).run().await, 16, &["tlsCertificateKeyFile"]);
    let hostnames = format!("{without}&tlsAllowInvalidHostnames=true");
    says(&gate(&hostnames).run().await, 16, &["tlsAllowInvalidHostnames"]);
}

#[tokio::test]
async fn a_named_pipe_in_the_place_of_a_certificate_is_refused_at_once() {
    let folder = support::folder::Folder::new("pipe");
    let pipe = folder.path().join("pipe");
    assert!(Command::new("mkfifo").arg(&pipe).status().unwrap().success());
    for path in [pipe.to_str().unwrap(), folder.path().to_str().unwrap()] {
        for option in ["tlsCAFile", "tlsCertificateKeyFile"] {
            let uri = format!("mongodb://127.0.0.1:1/lab?tls=true&{option}={path}");
            let run = gate(&uri).mode("check").run().await;
            says(&run, 16, &[path, "not an ordinary file", option]);
        }
    }
}

/// mongod does not start with such certificates: openssl does.
#[tokio::test]
async fn a_certificate_out_of_its_time_is_said_to_be() {
    let plain = Mongod::start("").await;
    let days = |from: &str, to: &str| {
        format!(
            "openssl req -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -subj /CN=localhost \
                 -keyout key -out request
             echo subjectAltName=IP:127.0.0.1 >extensions
             rm -f index*; touch index; echo 01 >serial
             printf '%s\\n' '[ca]' default_ca=ours '[ours]' database=index serial=serial new_certs_dir=. \
                 default_md=sha256 policy=any '[any]' commonName=supplied >ca.conf
             openssl ca -batch -config ca.conf -cert ca.pem -keyfile ca.key -in request -notext \
                 -extfile extensions -startdate {from} -enddate {to} -out certificate
             cat key certificate >timed.pem"
        )
    };
    for (from, to, parts) in [
        ("20200101000000Z", "20200201000000Z", ["has expired", "renew the certificate"]),
        ("20900101000000Z", "20900201000000Z", ["is not valid yet", "check the clocks"]),
    ] {
        let script = days(from, to);
        let made =
            Command::new("sh").args(["-ec", &script]).current_dir(&plain.folder).output().unwrap();
        assert!(made.status.success(), "{made:?}");
        let free = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let port = free.local_addr().unwrap().port();
        drop(free);
        let mut server = Command::new("openssl")
            .args(["s_server", "-quiet", "-cert", "timed.pem", "-accept", &port.to_string()])
            .current_dir(&plain.folder)
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        eventually("openssl to listen", || async {
            std::net::TcpStream::connect(("127.0.0.1", port)).ok()
        })
        .await;
        let authority = plain.file("ca.pem");
        let uri = format!("mongodb://127.0.0.1:{port}/lab?tls=true&tlsCAFile={authority}");
        let run = gate(&uri).mode("check").run().await;
        server.kill().unwrap();
        server.wait().unwrap();
        says(&run, 20, &parts);
    }
}

#[tokio::test]
async fn a_string_that_other_drivers_take_is_taken_with_warnings_that_name_what_is_ignored() {
    let server = Server::replica_set().await;
    let database = server.database().await;
    let ignored = ["socketTimeoutMS", "uuidRepresentation", "compressors", "tz_aware", "foo", "w"];
    let uri = format!(
        "{}&socketTimeoutMS=100&uuidRepresentation=standard&compressors=zstd&tz_aware=true&foo=1&w=1\
         &retryWrites=true&readConcernLevel=majority",
        database.uri
    );
    let run = gate(&uri).run().await;
    assert_code(&run, 0);
    let warnings = run.report["warnings"].as_array().unwrap();
    for (warning, name) in warnings.iter().zip(ignored) {
        let text = warning.as_str().unwrap();
        assert!(text.contains(&format!("option {name} ")), "{text}");
        assert!(text.contains("GATE_MONGODB_URI (key uri of Secret lab)"), "{text}");
    }
    assert_eq!(warnings.len(), ignored.len(), "{run}");
}

#[tokio::test]
async fn a_refused_user_is_told_of_a_plus_and_of_where_users_are_looked_up() {
    let server = Server::with_auth().await;
    let database = server.database().await;
    let uri = server.uri_as("nobody", "a+b", database.name());
    let plain = uri.split('?').next().unwrap().to_owned();
    for mode in ["check", "upgrade"] {
        let run = gate(&plain).mode(mode).run().await;
        says(&run, 17, &["literal plus", "%20", "looked up in", "authSource=admin"]);
        assert!(!run.stdout.contains("a+b") && !run.stderr.contains("a+b"), "{run}");
    }
    let other = server.uri_as("nobody", "ab", database.name());
    let run = gate(other.split('?').next().unwrap()).run().await;
    says(&run, 17, &["check user, password"]);
    assert!(!run.stdout.contains("literal plus"), "{run}");
}

#[tokio::test]
async fn a_timeout_of_zero_asks_once_and_opens_where_the_server_answers() {
    let server = Server::replica_set().await;
    let database = server.database().await;
    let once = gate(&database.uri).set("GATE_TIMEOUT", "0s").set("GATE_CONNECT_TIMEOUT", "30s");
    assert_code(&once.run().await, 0);
    for mode in ["check", "wait", "upgrade"] {
        assert_code(&once.clone().mode(mode).run().await, 0);
    }
}
