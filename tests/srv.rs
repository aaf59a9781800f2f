//! `mongodb+srv` connection strings, answered by a real name server: each answer that cannot be used is told
//! apart, and a good one leads to a real MongoDB.
//!
//! A name server is asked on port 53 alone, and `/etc/resolv.conf` names it. So each test runs once more, in
//! user, mount and network namespaces of its own, for which no root is needed.

mod apps;
mod support;

use std::net::UdpSocket;
use std::process::Command;
use std::thread;

use apps::assert_code;
use support::folder::Folder;
use support::{Gate, Run, Server};

/// Set in the process that has the namespaces.
const INSIDE: &str = "GATE_TEST_NAMESPACE";

/// What makes them a place with a loopback interface, and name servers that are these tests' own.
const PREPARE: &str = r#"
    export PATH="$PATH:/usr/sbin:/sbin"
    ip link set lo up
    mount --bind resolv.conf /etc/resolv.conf
    mount --bind hosts /etc/hosts
    exec "$@"
"#;

/// Whether this process has the namespaces; else runs `test` in a process that has.
fn is_inside(test: &str) -> bool {
    if std::env::var_os(INSIDE).is_some() {
        return true;
    }
    let folder = Folder::new(test);
    folder.write("resolv.conf", "nameserver 127.0.0.1\n");
    folder.write("hosts", "127.0.0.1 localhost db.lab.example\n");
    let ran = Command::new("unshare")
        .args(["--user", "--map-root-user", "--mount", "--net", "sh", "-ec", PREPARE, "sh"])
        .arg(std::env::current_exe().unwrap())
        .args([test, "--exact", "--nocapture"])
        .current_dir(folder.path())
        .env(INSIDE, "1")
        .env("MONGOD", support::mongod())
        .output()
        .expect("unshare (util-linux) runs");
    let said = String::from_utf8_lossy(&ran.stdout) + String::from_utf8_lossy(&ran.stderr);
    assert!(
        ran.status.success() && said.contains("1 passed"),
        "{test} in namespaces of its own (unshare must be allowed to make them; ip is of iproute2): {said}"
    );
    false
}

/// What a name server says to a question.
enum Answer {
    /// The contents of records of the kind that was asked for.
    Records(Vec<Vec<u8>>),
    /// An error by its code.
    Error(u8),
    Silence,
}

const SERVER_FAILURE: u8 = 2;
const NO_SUCH_NAME: u8 = 3;
const REFUSED: u8 = 5;
const TXT: u16 = 16;
const SRV: u16 = 33;

/// Answers by `zone`, which is asked for a name and a kind of record, as long as the process lives.
fn name_server(zone: impl Fn(&str, u16) -> Answer + Send + 'static) {
    let socket = UdpSocket::bind("127.0.0.1:53").unwrap();
    thread::spawn(move || {
        let mut packet = [0; 512];
        while let Ok((_, client)) = socket.recv_from(&mut packet) {
            // a header of 12 bytes, then the question: labels, each after its length, kind and class
            let (mut at, mut labels) = (12, Vec::new());
            while packet[at] > 0 {
                let end = at + 1 + usize::from(packet[at]);
                labels.push(String::from_utf8_lossy(&packet[at + 1..end]).to_lowercase());
                at = end;
            }
            let kind = u16::from_be_bytes([packet[at + 1], packet[at + 2]]);
            let (code, records) = match zone(&labels.join("."), kind) {
                Answer::Records(records) => (0, records),
                Answer::Error(code) => (code, Vec::new()),
                Answer::Silence => continue,
            };
            let mut answer = packet[..2].to_vec();
            // an authoritative answer, to one question
            answer.extend([0x85, 0x80 | code, 0, 1, 0, records.len() as u8, 0, 0, 0, 0]);
            answer.extend(&packet[12..at + 5]);
            for record in records {
                // of the question's name (which stands at 12), kind and class, for 60 seconds
                answer.extend([0xC0, 12]);
                answer.extend(&packet[at + 1..at + 5]);
                answer.extend([0, 0, 0, 60]);
                answer.extend((record.len() as u16).to_be_bytes());
                answer.extend(record);
            }
            socket.send_to(&answer, client).unwrap();
        }
    });
}

fn srv(port: u16, host: &str) -> Vec<u8> {
    let mut record = vec![0, 0, 0, 0];
    record.extend(port.to_be_bytes());
    for label in host.split('.') {
        record.extend(text(label));
    }
    record.push(0);
    record
}

/// A text after its length, as TXT records and names have them.
fn text(text: &str) -> Vec<u8> {
    [&[text.len() as u8], text.as_bytes()].concat()
}

fn gate(name: &str, options: &str) -> Gate {
    apps::scenario(&format!("mongodb+srv://{name}/lab?{options}"), "0.8.0", "0.8.0=move_field")
        .set("GATE_INITIALISE", "fresh")
        .set("GATE_MONGODB_URI_SOURCE", "key uri of Secret lab")
        .set("GATE_CONNECT_TIMEOUT", "2s")
}

#[track_caller]
fn says(run: &Run, code: i32, parts: &[&str]) {
    assert_code(run, code);
    let text = format!("{} | {}", run.report["message"], run.report["next"]);
    for part in parts.iter().chain(&["key uri of Secret lab"]) {
        assert!(text.contains(part), "{part:?} is missing in {run}");
    }
    for part in ["no answer within", "percent-encoded", "DNS resolution", "Query {"] {
        assert!(!text.contains(part), "{part:?} is in {run}");
    }
}

#[tokio::test]
async fn every_answer_of_the_dns_that_cannot_be_used_is_told_apart() {
    if !is_inside("every_answer_of_the_dns_that_cannot_be_used_is_told_apart") {
        return;
    }
    name_server(|name, kind| {
        let texts = |texts: &[&str]| Answer::Records(texts.iter().map(|it| text(it)).collect());
        match (name.trim_start_matches("_mongodb._tcp.").trim_end_matches(".lab.example"), kind) {
            ("nowhere", _) => Answer::Error(NO_SUCH_NAME),
            ("empty", SRV) => Answer::Records(Vec::new()),
            ("failing", SRV) | ("half", TXT) => Answer::Error(SERVER_FAILURE),
            ("refusing", SRV) => Answer::Error(REFUSED),
            ("foreign", SRV) => Answer::Records(vec![srv(1, "db.elsewhere.example")]),
            ("balanced", SRV) => {
                Answer::Records(vec![srv(1, "a.lab.example"), srv(2, "b.lab.example")])
            }
            (_, SRV) => Answer::Records(vec![srv(1, "db.lab.example")]),
            ("option", TXT) => texts(&["ssl=false"]),
            ("two", TXT) => texts(&["authSource=admin", "replicaSet=rs0"]),
            ("words", TXT) => texts(&["checked by somebody"]),
            ("maybe", TXT) => texts(&["loadBalanced=maybe"]),
            ("both", TXT) => texts(&["loadBalanced=true&replicaSet=rs0"]),
            ("balanced", TXT) => texts(&["loadBalanced=true"]),
            ("set", TXT) => texts(&["replicaSet=rs0"]),
            _ => Answer::Error(NO_SUCH_NAME),
        }
    });
    let no_records = "the DNS has no SRV records of";
    let text = "the TXT record of";
    let apart = "does not fit together";
    for (name, options, parts) in [
        ("nowhere", "", &[no_records, "check the name", "_mongodb._tcp.NAME"] as &[&str]),
        ("empty", "", &[no_records, "check the name"]),
        ("failing", "", &["with an error: Server Failure", "/etc/resolv.conf"]),
        ("half", "", &["with an error: Server Failure", "/etc/resolv.conf"]),
        ("refusing", "", &["with an error: Query Refused", "/etc/resolv.conf"]),
        ("foreign", "", &["another domain", "db.elsewhere.example", "of the same domain"]),
        ("option", "", &[text, "option 'ssl'", "authSource, replicaSet and loadBalanced only"]),
        ("two", "", &[text, "more than one record", "keep one TXT record"]),
        ("words", "", &[text, "'checked by somebody'", "keep one TXT record"]),
        ("maybe", "", &[text, "loadbalanced=maybe", "keep one TXT record"]),
        ("both", "", &[apart, "replicaSet with loadBalanced", "TXT and SRV records"]),
        ("balanced", "", &[apart, "multiple seeds", "TXT and SRV records"]),
        ("set", "srvMaxHosts=1", &[apart, "srvMaxHosts and replicaSet", "srvMaxHosts in the"]),
    ] {
        let name = format!("{name}.lab.example");
        for mode in ["check", "wait"] {
            // asked once, in as much time as a busy machine may take
            let once = gate(&name, options).mode(mode).set("GATE_TIMEOUT", "0s");
            let run = once.set("GATE_CONNECT_TIMEOUT", "5s").run().await;
            says(&run, 20, parts);
            says(&run, 20, &[&format!("the mongodb+srv name {name}")]);
        }
    }
    for name in ["a..example".to_owned(), format!("{}.example", "a".repeat(64)), "a.b".repeat(99)] {
        says(&gate(&name, "").run().await, 16, &[&name, "is not one that the DNS can have"]);
    }
    std::fs::write("/etc/resolv.conf", "").unwrap();
    let run = gate("good.lab.example", "").run().await;
    says(&run, 20, &["no name server is configured", "/etc/resolv.conf", "dnsPolicy"]);
}

#[tokio::test]
async fn a_name_server_that_does_not_answer_is_to_blame() {
    if !is_inside("a_name_server_that_does_not_answer_is_to_blame") {
        return;
    }
    let gate = |mode| gate("db.lab.example", "").mode(mode).set("GATE_TIMEOUT", "2s");
    let blamed = ["no name server answers", "db.lab.example", "/etc/resolv.conf", "port 53"];
    // nothing listens there
    let (check, wait) = (gate("check").spawn(), gate("wait").spawn());
    let (check, wait) = (check.wait().await, wait.wait().await);
    says(&check, 20, &blamed);
    says(&wait, 20, &blamed);
    name_server(|_, _| Answer::Silence);
    let long = |mode| gate(mode).set("GATE_CONNECT_TIMEOUT", "10s").set("GATE_TIMEOUT", "10s");
    let (check, upgrade) = (gate("check").spawn(), long("upgrade").spawn());
    let (check, upgrade) = (check.wait().await, upgrade.wait().await);
    says(&check, 20, &blamed);
    says(&upgrade, 20, &blamed);
    assert!(upgrade.stderr.contains("looking up the mongodb+srv name db.lab.example"), "{upgrade}");

    let mut stopped = long("wait").spawn();
    stopped.logged("started").await;
    stopped.signal("TERM");
    assert_code(&stopped.wait().await, 22);
}

#[tokio::test]
async fn a_name_that_the_dns_knows_leads_to_the_database() {
    if !is_inside("a_name_that_the_dns_knows_leads_to_the_database") {
        return;
    }
    let (locked, tls) = (Server::with_auth().await, Server::with_tls().await);
    let port = |server: &Server| {
        let uri = server.uri("lab");
        let (_, port) = uri.split_once("127.0.0.1:").unwrap();
        port.split('/').next().unwrap().parse().unwrap()
    };
    let ports = [port(&locked), port(&tls)];
    name_server(move |name, kind| match (name, kind) {
        ("_mongodb._tcp.tls.lab.example", SRV) => {
            Answer::Records(vec![srv(ports[1], "db.lab.example")])
        }
        (_, SRV) => Answer::Records(vec![srv(ports[0], "db.lab.example")]),
        ("locked.lab.example", TXT) => {
            Answer::Records(vec![[text("authSource=admin"), text("&replicaSet=rs0")].concat()])
        }
        ("other.lab.example", TXT) => Answer::Records(vec![text("replicaSet=other")]),
        _ => Answer::Error(NO_SUCH_NAME),
    });
    let uri = locked.uri("lab");
    let (user, _) = uri.trim_start_matches("mongodb://").split_once('@').unwrap();
    let plain = "tls=false";
    let open = gate(&format!("{user}@locked.lab.example"), plain);
    for timeout in ["10s", "0s"] {
        assert_code(&open.clone().set("GATE_TIMEOUT", timeout).run().await, 0);
    }
    let record = apps::record(&locked.client().await.database("lab")).await;
    assert_eq!(record.get_str("version").unwrap(), "0.8.0");

    let wrong = gate("root:wrong@locked.lab.example", plain).run().await;
    says(&wrong, 17, &["a TXT record of locked.lab.example says", "or else in lab"]);
    let unnamed = gate(&format!("{user}@unnamed.lab.example"), plain).run().await;
    says(&unnamed, 17, &["authSource=admin"]);
    let other = gate(&format!("{user}@other.lab.example"), plain).run().await;
    says(&other, 20, &["member of the set", "a TXT record of other.lab.example names the set"]);
    let tls_expected = gate("locked.lab.example", "").run().await;
    says(&tls_expected, 20, &["does not speak TLS", "add tls=false"]);

    // TLS is what such a string asks for
    let uri = tls.uri("lab");
    let (_, file) = uri.split_once("tlsCAFile=").unwrap();
    let named = gate("tls.lab.example", &format!("tlsCAFile={file}")).run().await;
    says(&named, 20, &["other names", "db.lab.example"]);
    assert_code(&gate("tls.lab.example", "tlsInsecure=true").run().await, 0);
}
